//! Every step of the lease, with real processes: a node dies, freezes, loses its link, forges or repeats at exactly
//! that message. What the client gets, what each node counts, and whether both go on.
//!
//! A sends 1 grant, 2 go (or revoke); B sends 1 claim, 2 return, and writes records in between.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::client::assert_is_pattern;
use crate::harness::{A4, Cluster, Decide, NAME, Options, Status, fabric};

/// `[lease] claim_timeout_ms` and `silence_timeout_ms`: long for a loaded machine, short for a test.
const CLAIM_MS: u32 = 1000;
const SILENCE_MS: u32 = 2000;
/// Both on a machine that is emulated, as one with RDMA devices is here.
const EMULATED_MS: u32 = 10_000;
/// Longest time until counters are as they have to be: both time-outs, one after the other, and some.
const SETTLED_MAX: Duration = Duration::from_secs(30);
/// One record, whose bell is the return; several, each but the last with a doorbell.
const SHORT: usize = 1_000;
const LONG: usize = 100_000;

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The whole reply, sealed by B.
    Lent,
    /// The whole reply, by A itself.
    Here,
    /// 502: it may have run at B and is not safe to run again.
    BadGateway,
    /// RST: the key was out.
    Reset,
    /// The client refuses a record that was forged after it was sealed.
    Refused,
    /// A is gone.
    Silence,
}

/// One fault.
#[derive(Clone, Copy)]
struct Case {
    /// The node that has it.
    node: &'static str,
    script: &'static str,
    post: bool,
    bytes: usize,
    /// Every end that may be seen; more than one where two nodes race.
    ends: &'static [End],
    /// Who refuses a message, and as what.
    violation: Option<(&'static str, &'static str)>,
}

const fn b(script: &'static str, ends: &'static [End]) -> Case {
    Case { node: "b", script, post: false, bytes: SHORT, ends, violation: None }
}

const fn a(script: &'static str, ends: &'static [End]) -> Case {
    Case { node: "a", ..b(script, ends) }
}

impl Case {
    const fn post(self) -> Case {
        Case { post: true, ..self }
    }

    const fn long(self) -> Case {
        Case { bytes: LONG, ..self }
    }

    const fn refused_by(self, node: &'static str, counter: &'static str) -> Case {
        Case { violation: Some((node, counter)), ..self }
    }
}

#[test]
fn the_helper_dies() {
    run(&[
        b("1 receive 1 kill", &[End::Here]),
        b("1 receive 1 kill", &[End::BadGateway]).post(),
        b("1 send 1 kill", &[End::Here]),
        b("1 send 1 kill", &[End::BadGateway]).post(),
        b("1 receive 2 kill", &[End::Reset]),
        b("1 write 1 kill", &[End::Reset]),
        b("1 write 3 kill-after", &[End::Reset]).long(),
        b("1 send 2 kill", &[End::Reset]).long(),
        b("1 send 2 kill-after", &[End::Lent]).long(),
    ]);
}

#[test]
fn the_helper_freezes() {
    run(&[
        b("1 receive 1 stop", &[End::Here]),
        b("1 send 1 stop", &[End::BadGateway]).post(),
        b("1 receive 2 stop", &[End::Reset]),
        b("1 write 3 stop", &[End::Reset]).long(),
        b("1 send 2 stop", &[End::Reset]),
    ]);
}

#[test]
fn the_link_of_the_helper_is_dead() {
    run(&[
        b("1 load 2 dead", &[End::Here]),
        b("1 receive 1 dead", &[End::BadGateway]).post(),
        b("1 send 1 dead", &[End::Here]),
        b("1 receive 2 dead", &[End::Reset]),
        b("1 write 3 dead", &[End::Reset]).long(),
        b("1 send 2 dead", &[End::Reset]),
    ]);
}

#[test]
fn the_helper_forges_and_repeats() {
    run(&[
        b("1 send 1 forge", &[End::Here]).refused_by("a", "violations_forged"),
        b("1 send 1 forge", &[End::BadGateway]).post().refused_by("a", "violations_forged"),
        // A may have answered the first of two claims before it sees the second.
        b("1 send 1 replay", &[End::Here, End::Reset]).refused_by("a", "violations_forged"),
        b("1 receive 2 forge", &[End::Reset]).refused_by("b", "violations_forged"),
        b("1 write 1 forge", &[End::Refused]),
        b("1 write 1 forge-header", &[End::Reset]).refused_by("a", "violations_lease"),
        b("1 write 3 forge-header", &[End::Reset]).long().refused_by("a", "violations_lease"),
        b("1 send 2 forge", &[End::Reset]).refused_by("a", "violations_forged"),
        b("1 send 2 replay", &[End::Lent]).refused_by("a", "violations_forged"),
    ]);
}

#[test]
fn the_lender_dies_and_freezes() {
    run(&[
        a("1 send 1 kill", &[End::Silence]),
        a("1 send 2 kill", &[End::Silence]),
        a("1 send 2 kill-after", &[End::Silence]),
        a("1 receive 3 kill", &[End::Silence]).long(),
        a("1 send 1 stop", &[End::Lent, End::Here]),
        a("1 send 2 stop", &[End::Lent, End::Reset]),
    ]);
}

#[test]
fn the_link_of_the_lender_is_dead_or_late() {
    run(&[
        a("1 send 1 dead", &[End::Here]),
        a("1 receive 1 dead", &[End::Here]),
        a("1 send 2 dead", &[End::Reset]),
        a("1 receive 2 dead", &[End::Reset]),
        a("1 receive 1 late 300", &[End::Lent]),
        a("1 receive 2 late 300", &[End::Lent]),
        // The claim comes after its time: A has revoked the lease meanwhile, and the link lives on.
        a("1 receive 1 late 1800", &[End::Here]),
    ]);
}

#[test]
fn the_lender_forges_and_repeats() {
    run(&[
        a("1 send 1 forge", &[End::Here]).refused_by("b", "violations_forged"),
        // B may have answered the first of two before it sees the second.
        a("1 send 1 replay", &[End::Here, End::Reset]).refused_by("b", "violations_forged"),
        a("1 send 2 forge", &[End::Reset]).refused_by("b", "violations_forged"),
        a("1 send 2 replay", &[End::Reset, End::Lent]).refused_by("b", "violations_forged"),
        a("1 receive 1 late 1800, 1 send 2 forge", &[End::Here]).refused_by("b", "violations_forged"),
    ]);
}

/// An adapter repeats what is not acknowledged, then gives the queue pair up: its node fences the link's pairs, ends the
/// link and says why, so the other learns of it too. What was posted into the cut counts as posted.
#[test]
#[ignore = "needs RDMA devices: tools/vm/test"]
fn the_wire_is_cut() {
    run(&[
        b("1 load 2 cut", &[End::Here]),
        b("1 receive 1 cut", &[End::Here]),
        b("1 receive 1 cut", &[End::BadGateway]).post(),
        b("1 send 1 cut", &[End::Here]),
        b("1 receive 2 cut", &[End::Reset]),
        b("1 write 3 cut", &[End::Reset]).long(),
        b("1 send 2 cut", &[End::Reset]),
        a("1 send 1 cut", &[End::Here]),
        a("1 send 2 cut", &[End::Reset]),
        // The claim is here; the go is posted into the cut, unless the pair is found to have failed just before.
        a("1 receive 1 cut", &[End::Reset, End::Here]),
    ]);
}

/// A node that comes back is another incarnation: what was sealed for the one before opens nowhere.
#[test]
fn messages_of_a_former_life_are_refused() {
    let mut cluster = cluster();
    cluster.arm("a", "2 send 1 old");
    assert_eq!(ask(&cluster, false, SHORT), Seen::Whole(200));
    cluster.kill_b();
    cluster.start_b();
    cluster.wait_linked(1);
    let before = Before::of(&cluster);
    let seen = ask(&cluster, false, SHORT);
    let case = a("2 send 1 old", &[End::Here]).refused_by("b", "violations_forged");
    before.expect(&cluster, &case, seen, [true; 2]);
    expect_lent(&cluster);

    cluster.arm("b", "2 send 1 old");
    expect_lent(&cluster);
    cluster.take_a().kill();
    cluster.start_a();
    cluster.wait_linked(1);
    let before = Before::of(&cluster);
    let seen = ask(&cluster, false, SHORT);
    let case = b("2 send 1 old", &[End::Here]).refused_by("a", "violations_forged");
    before.expect(&cluster, &case, seen, [true; 2]);
    expect_lent(&cluster);
    cluster.finish();
}

fn cluster() -> Cluster {
    let (claim_ms, silence_ms) = match fabric::devices() {
        Some(_) => (EMULATED_MS, EMULATED_MS),
        None => (CLAIM_MS, SILENCE_MS),
    };
    // Sessions that nodes give each other would be messages too.
    let options = Options::new(1)
        .resumption("off")
        .decide(Decide::Always)
        .faulty()
        .silence_timeout_ms(silence_ms)
        .line("lease", format!("claim_timeout_ms = {claim_ms}"));
    Cluster::start(&options)
}

/// Each case on the same cluster.
fn run(cases: &[Case]) {
    let mut cluster = cluster();
    for case in cases {
        if fabric::devices().is_some() && case.script.contains("late") {
            println!(
                "{} of {}: not on an emulated machine, whose time-outs are longer",
                case.script, case.node
            );
            continue;
        }
        println!("{} of {}, post: {}, {} bytes", case.script, case.node, case.post, case.bytes);
        cluster.wait_linked(1);
        cluster.arm(case.node, case.script);
        let before = Before::of(&cluster);
        let seen = ask_through(&mut cluster, case);
        let dies = case.script.contains("kill");
        before.expect(&cluster, case, seen, [case.node != "a" || !dies, case.node != "b" || !dies]);
        if case.script.contains("cut") {
            fabric::devices().expect("this test is of RDMA devices").wire("join");
        }
        match case.node {
            "a" if dies => cluster.start_a(),
            "b" if dies => cluster.start_b(),
            _ => {}
        }
        expect_lent(&cluster);
    }
    cluster.finish();
}

/// What a client sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// A whole reply, of this status.
    Whole(u16),
    /// The connection was reset.
    Reset,
    /// A record did not open.
    BadRecord,
    /// Nothing more came.
    Nothing,
}

/// As [`ask`]; lets a node go on that stops meanwhile, and sees a node out that dies.
fn ask_through(cluster: &mut Cluster, case: &Case) -> Seen {
    let asking = Asking::start(cluster, case.post, case.bytes);
    match (case.node, case.script) {
        ("a", script) if script.contains("kill") => {
            cluster.take_a().wait_killed();
            asking.give_up()
        }
        ("a", script) if script.contains("stop") => {
            cluster.a().wait_stopped();
            cluster.a().resume();
            asking.finish()
        }
        (_, script) => {
            let seen = asking.finish();
            if script.contains("kill") {
                cluster.take_b().wait_killed();
            } else if script.contains("stop") {
                cluster.b().wait_stopped();
                cluster.b().resume();
            }
            seen
        }
    }
}

/// One request on a connection of its own.
fn ask(cluster: &Cluster, post: bool, bytes: usize) -> Seen {
    Asking::start(cluster, post, bytes).finish()
}

/// A request under way, with curl.
struct Asking {
    curl: Child,
    body: PathBuf,
    bytes: usize,
}

impl Asking {
    const SEED: u64 = 7;

    fn start(cluster: &Cluster, post: bool, bytes: usize) -> Asking {
        /// Above both time-outs.
        const SECONDS_MAX: &str = "25";
        let body = cluster.directory().join("reply");
        let _ = fs::remove_file(&body);
        let mut curl = cluster.client("curl");
        curl.args(["--silent", "--show-error", "--max-time", SECONDS_MAX, "--write-out", "%{response_code}"]);
        curl.arg("--cacert").arg(cluster.ca());
        curl.args(["--resolve", &format!("{NAME}:443:{A4}"), "--output"]).arg(&body);
        if post {
            curl.args(["--data", "to be done once"]);
        }
        curl.arg(format!("https://{NAME}/?bytes={bytes}&seed={}", Asking::SEED));
        let curl = curl.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("curl starts");
        Asking { curl, body, bytes }
    }

    /// What the client sees in the end.
    fn finish(self) -> Seen {
        let output = self.curl.wait_with_output().expect("curl is our child");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(0) => {
                let status = String::from_utf8_lossy(&output.stdout).parse().expect("curl prints the status");
                if status == 200 {
                    let body = fs::read(&self.body).expect("curl wrote it");
                    assert_is_pattern(&body, Asking::SEED, self.bytes, "a reply taken for whole");
                }
                Seen::Whole(status)
            }
            Some(28) => Seen::Nothing,
            Some(56) if text.contains("reset") => Seen::Reset,
            Some(56) if text.contains("bad record mac") => Seen::BadRecord,
            other => panic!("curl ended with {other:?}: {text}"),
        }
    }

    /// For a client whose node is gone: what it has seen a while later, if it still waits.
    fn give_up(mut self) -> Seen {
        const A_WHILE: Duration = Duration::from_secs(1);
        std::thread::sleep(A_WHILE);
        if self.curl.try_wait().expect("curl is our child").is_some() {
            return self.finish();
        }
        self.curl.kill().expect("curl is our child");
        self.curl.wait().expect("and ends");
        Seen::Nothing
    }
}

/// After a fault both nodes find each other again, and requests are lent.
fn expect_lent(cluster: &Cluster) {
    cluster.wait_linked(1);
    let before = Before::of(cluster);
    let seen = ask(cluster, false, LONG);
    before.expect(cluster, &b("", &[End::Lent]), seen, [true; 2]);
}

/// Counters before a request.
struct Before {
    a: Status,
    b: Status,
}

impl Before {
    fn of(cluster: &Cluster) -> Before {
        Before { a: cluster.a().status(), b: cluster.b().status() }
    }

    /// Waits until what lives of A and B counts one request, ended as the client saw, and holds nothing of it.
    fn expect(&self, cluster: &Cluster, case: &Case, seen: Seen, alive: [bool; 2]) {
        let [a_lives, b_lives] = alive;
        // Counters of before are in order too: a node that was stopped may have the end of its lease before it.
        for node in [a_lives.then(|| cluster.a()), b_lives.then(|| cluster.b())].into_iter().flatten() {
            node.wait_counted();
        }
        let deadline = Instant::now() + SETTLED_MAX;
        loop {
            let a = a_lives.then(|| Delta { before: &self.a, after: cluster.a().status() });
            let b = b_lives.then(|| Delta { before: &self.b, after: cluster.b().status() });
            let Err(wrong) = check(case, seen, a.as_ref(), b.as_ref()) else { return };
            assert!(
                Instant::now() < deadline,
                "{} of {}: the client saw {seen:?}; {wrong}\nA: {}\nB: {}",
                case.script,
                case.node,
                a.map_or_else(String::new, |a| a.after.to_string()),
                b.map_or_else(String::new, |b| b.after.to_string()),
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// What a node has counted since.
struct Delta<'a> {
    before: &'a Status,
    after: Status,
}

impl Delta<'_> {
    fn of(&self, counter: &str) -> u64 {
        self.after.total(counter).wrapping_sub(self.before.total(counter))
    }

    fn sum(&self, counters: &[&str]) -> u64 {
        counters.iter().map(|counter| self.of(counter)).sum()
    }
}

fn check(case: &Case, seen: Seen, a: Option<&Delta<'_>>, b: Option<&Delta<'_>>) -> Result<(), String> {
    let want = |is_met: bool, what: &str| if is_met { Ok(()) } else { Err(format!("not so: {what}")) };
    let end = match a {
        None => End::Silence,
        Some(a) => of_lender(a)?,
    };
    // What B sealed and something forged on the way is a reply lent, as far as A can know.
    let end = if end == End::Lent && case.ends == [End::Refused] { End::Refused } else { end };
    want(case.ends.contains(&end), &format!("one of {:?}, but {end:?}", case.ends))?;
    let fits = match end {
        End::Lent | End::Here => Seen::Whole(200),
        End::BadGateway => Seen::Whole(502),
        End::Reset => Seen::Reset,
        End::Refused => Seen::BadRecord,
        End::Silence => Seen::Nothing,
    };
    want(seen == fits, &format!("the client sees {fits:?} where A counts {end:?}"))?;
    if let Some(b) = b {
        of_helper(b)?;
        if end == End::Lent {
            want(b.of("leases_served") == 1, "what A got from B, B has served")?;
        }
    }
    for (node, delta) in [("a", a), ("b", b)] {
        let Some(delta) = delta else { continue };
        want(delta.after.is_at_rest() && delta.after.total("leases_serving") == 0, "all gauges are zero")?;
        let violation = case.violation.filter(|(by, _)| *by == node);
        let expected = u64::from(violation.is_some());
        want(delta.of("peer_violations") == expected, &format!("{expected} violations counted by {node}"))?;
        if let Some((_, counter)) = violation {
            want(delta.of(counter) == 1, &format!("one of {counter} at {node}"))?;
        }
    }
    Ok(())
}

/// A's own books: the request ended in one way, and its lease in one.
fn of_lender(a: &Delta<'_>) -> Result<End, String> {
    let ends = ["replies_lent", "replies_local", "requests_answered", "requests_dropped"];
    let counts = ends.map(|end| a.of(end));
    let leases = ["replies_lent", "leases_refused", "leases_failed", "leases_broken", "leases_dropped"];
    if a.of("requests") != 1 || counts.iter().sum::<u64>() != 1 {
        return Err(format!("one request, ended once: {counts:?} of {}", a.of("requests")));
    }
    if a.of("leases_granted") != a.sum(&leases) {
        return Err(format!("leases granted have ended: {:?}", leases.map(|end| a.of(end))));
    }
    match counts {
        [1, ..] => Ok(End::Lent),
        [_, 1, ..] => Ok(End::Here),
        [_, _, 1, _] => Ok(End::BadGateway),
        _ if a.of("leases_broken") == 1 && a.of("closed_lease") == 1 => Ok(End::Reset),
        _ => Err("a connection that ends by its lease is counted so".to_owned()),
    }
}

/// B's own books: each lease taken has ended in one way.
fn of_helper(b: &Delta<'_>) -> Result<(), String> {
    let ends = ["leases_served", "leases_declined", "leases_revoked", "leases_spoiled", "leases_lost"];
    if b.of("leases_taken") == b.sum(&ends) {
        return Ok(());
    }
    Err(format!("leases taken have ended: {:?} of {}", ends.map(|end| b.of(end)), b.of("leases_taken")))
}
