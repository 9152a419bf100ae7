//! An operator at work: `keyferry ctl`, and the end of a node in order while clients are served.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use keyferry_load::report::Report;
use serde_json::Value;

use crate::client::{Curl, Tls, assert_is_pattern};
use crate::harness::{A4, B4, Cluster, Decide, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(drain_under_load, drain_while_curl_goes_on, deadline_reached, answers);

/// Longest time until counters show what is to be seen.
const NOTICED: Duration = Duration::from_secs(20);
/// Between looks.
const PAUSE: Duration = Duration::from_millis(20);

fn run(mut command: Command) -> Output {
    command.output().expect("keyferry starts")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(command: Command) -> Value {
    serde_json::from_str(&stdout(&run(command))).expect("one JSON document")
}

/// What it says when it fails.
fn complaint(command: Command) -> String {
    let output = run(command);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// No request failed: all that a client may meet is that nobody listens any more.
fn assert_none_failed(report: &Report) {
    let errors = &report.errors;
    let failed = [errors.tls, errors.reset, errors.closed, errors.http, errors.status, errors.timeout];
    assert_eq!((failed, report.mismatches), ([0; 6], 0), "{report}");
}

/// The load generator with keep-alive connections that come again; B goes on.
fn drain_under_load(workers: usize) {
    let mut cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let load =
        cluster.loader(&["-c", "32", "-d", "100", "--bytes-mix", "10,20000,300000", "--timeout", "15"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());
    cluster.a().wait_for("load", NOTICED, |status| status.total("requests") > 1_000);
    let ctl = cluster.ctl("a", &["drain", "--deadline", "20s"]);
    let node = cluster.take_a();
    let begun = Instant::now();
    let said = stdout(&run(ctl));
    stop.store(true, Ordering::Relaxed);
    assert!(begun.elapsed() < Duration::from_secs(10), "nothing is left long before the deadline: {said}");
    let log = node.wait_ended();
    assert!(said.contains("draining: ") && said.contains("drained: 0 connections"), "{said}");
    assert!(said.lines().last().is_some_and(|line| line.contains(", 0 reset")), "{said}");
    assert!(log.contains("drained"), "{log}");
    let report = load.join().expect("the load ends in order");
    assert_none_failed(&report);
    assert!(report.errors.connect > 0, "who came late was refused: {report}");
    cluster.start_a();
    cluster.wait_linked(workers);
    let fetched = Curl::new(&cluster).get("/?bytes=1000&seed=1").run().remove(0);
    assert_is_pattern(&fetched.body, 1, 1000, "after the restart");
    cluster.finish();
}

/// curl, again and again, with both nodes' addresses: every transfer succeeds, first at A and then at B.
fn drain_while_curl_goes_on(workers: usize) {
    let mut cluster = Cluster::start(&Options::new(workers));
    let fetch = |cluster: &Cluster| {
        let both = format!("{A4},{B4}");
        let mut curl = Curl::new(cluster).to(&both).option("--connect-timeout").option("10");
        for _ in 0..20 {
            curl = curl.get("/?bytes=5000&seed=3&cost_us=2000");
        }
        for fetched in curl.run() {
            assert_eq!(fetched.status, 200);
            assert_is_pattern(&fetched.body, 3, 5000, "while A ends");
        }
    };
    fetch(&cluster);
    let ctl = cluster.ctl("a", &["drain", "--deadline", "20s"]);
    // A connection that stays open and idle keeps the drain going for a while.
    let mut idle = cluster.clients().enter(|| Tls::connect(cluster.ca()));
    cluster
        .a()
        .wait_for("it", NOTICED, |status| status.total("flows") > 0 && status.total("handshakes_open") == 0);
    let node = cluster.take_a();
    let ctl = std::thread::spawn(move || stdout(&run(ctl)));
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        fetch(&cluster);
    }
    idle.send(b"GET /?bytes=100&seed=1 HTTP/1.1\r\nHost: kf.test\r\n\r\n");
    let head = idle.head();
    assert!(head.contains("200 OK") && head.contains("\r\nConnection: close\r\n"), "{head}");
    assert_is_pattern(&idle.read(100), 1, 100, "the last reply");
    idle.expect_close();
    ctl.join().expect("ctl ends in order");
    node.wait_ended();
    assert!(cluster.b().status().total("requests") > 20, "B served");
    cluster.start_a();
    cluster.wait_linked(workers);
    cluster.finish();
}

/// An idle client is closed in order at half the time, one amid a request is reset at the end; two operators see it.
fn deadline_reached(workers: usize) {
    let mut cluster = Cluster::start(&Options::new(workers));
    let (mut idle, mut amid) = cluster.clients().enter(|| {
        let (idle, mut amid) = (Tls::connect(cluster.ca()), Tls::connect(cluster.ca()));
        amid.send(b"GET / HTTP/1.1\r\nHost: ");
        (idle, amid)
    });
    cluster.a().wait_for("both", NOTICED, |status| {
        (status.total("flows"), status.total("handshakes_open")) == (2, 0)
    });
    let operators = [
        cluster.ctl("a", &["drain", "--deadline", "1m"]),
        cluster.ctl("a", &["drain", "--deadline", "4s", "--json"]),
    ];
    let begun = Instant::now();
    let operators = operators.map(|ctl| {
        let operator = std::thread::spawn(move || stdout(&run(ctl)));
        std::thread::sleep(5 * PAUSE);
        operator
    });
    let status = json(cluster.ctl("a", &["status", "--json"]));
    assert_eq!(status["phase"], "draining", "{status}");
    idle.expect_close();
    let half = begun.elapsed();
    assert!((1900..3500).contains(&half.as_millis()), "idle for {half:?}");
    amid.read_broken();
    let whole = begun.elapsed();
    assert!((3900..6000).contains(&whole.as_millis()), "amid a request for {whole:?}");
    let [text, lines] = operators.map(|operator| operator.join().expect("ctl ends in order"));
    assert!(text.lines().last().is_some_and(|line| line.contains("1 closed, 1 reset")), "{text}");
    let last: Value = serde_json::from_str(lines.lines().last().expect("lines")).expect("JSON");
    assert_eq!((&last["phase"], &last["reset"]), (&"drained".into(), &1.into()), "{lines}");
    let log = cluster.take_a().wait_ended();
    assert!(log.contains("drained closed=1 reset=1"), "{log}");
    cluster.start_a();
    cluster.wait_linked(workers);
    cluster.finish();
}

/// SIGTERM does the same within its own time.
#[test]
fn sigterm() {
    let options = Options::new(1).line("admin", "drain_timeout_ms = 2000");
    let mut cluster = Cluster::start(&options);
    let mut idle = cluster.clients().enter(|| Tls::connect(cluster.ca()));
    cluster
        .a()
        .wait_for("it", NOTICED, |status| status.total("flows") == 1 && status.total("handshakes_open") == 0);
    let node = cluster.take_a();
    let begun = Instant::now();
    node.terminate();
    idle.expect_close();
    assert!((900..1900).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    node.wait_ended();
    cluster.start_a();
    cluster.wait_linked(1);
    cluster.finish();
}

/// Prometheus' own way: over HTTP, on the node's host alone.
#[test]
fn metrics() {
    let mut cluster = Cluster::start(&Options::new(2).decide(Decide::Always));
    cluster.take_a().stop();
    cluster.edit_config("a", |text| text.replace("[admin]\n", "[admin]\nmetrics = \"127.0.0.1:9464\"\n"));
    cluster.start_a();
    cluster.wait_linked(2);
    Curl::new(&cluster).get("/").get("/?lend=0").run();
    cluster.a().wait_for("them", NOTICED, |status| {
        (status.total("replies_local"), status.total("replies_lent")) == (1, 1)
    });
    let scrape = |cluster: &Cluster| {
        let mut curl = cluster.beside_a("curl");
        curl.args(["--silent", "--show-error", "--fail", "http://127.0.0.1:9464/metrics"]);
        stdout(&run(curl))
    };
    let text = scrape(&cluster);
    let sum = |prefix: &str| {
        let values = text.lines().filter(|line| line.starts_with(prefix));
        values
            .map(|line| {
                line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
            })
            .sum()
    };
    let counted: [f64; 5] = [
        sum("keyferry_requests_total{"),
        sum("keyferry_replies_lent_total{"),
        sum("keyferry_decisions_total{"),
        sum("keyferry_links_up "),
        sum("keyferry_info{"),
    ];
    assert_eq!(counted, [2.0, 1.0, 2.0, 1.0, 1.0], "{text}");
    assert!(text.contains(r#"keyferry_info{node="a",model="bf",version=""#), "{text}");
    promtool(&text);

    // Nobody else can ask.
    let mut elsewhere = cluster.client("curl");
    elsewhere.args(["--silent", "--max-time", "2", &format!("http://{A4}:9464/metrics")]);
    assert!(!run(elsewhere).status.success());
    // It answers under load as well.
    let load = cluster.loader(&["-c", "32", "-d", "100", "--bytes-mix", "1000"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());
    cluster.a().wait_for("load", NOTICED, |status| status.total("requests") > 1_000);
    let begun = Instant::now();
    assert!(scrape(&cluster).contains("keyferry_flows{"));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    stop.store(true, Ordering::Relaxed);
    load.join().expect("the load ends in order");
    cluster.finish();
}

/// Prometheus' own opinion, where its tool is installed; a unit test is as strict.
fn promtool(text: &str) {
    let promtool = Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).spawn();
    let Ok(mut promtool) = promtool else { return };
    promtool.stdin.take().expect("piped").write_all(text.as_bytes()).expect("promtool reads");
    assert!(promtool.wait().expect("promtool ends").success());
}

/// What each command answers, as text and as JSON, and what it says when it cannot.
fn answers(workers: usize) {
    let mut cluster = Cluster::start(&Options::new(workers));
    Curl::new(&cluster).get("/").run();
    cluster.a().wait_for("it", NOTICED, |status| status.total("requests") == 1);
    let status = json(cluster.ctl("a", &["status", "--json"]));
    assert_eq!(
        (&status["node"], &status["phase"], &status["model"]),
        (&"a".into(), &"serving".into(), &"bf".into())
    );
    let text = stdout(&run(cluster.ctl("a", &["status"])));
    assert!(text.contains("worker 0") && text.contains("\n  requests "), "{text}");

    let peers = json(cluster.ctl("a", &["peers", "--json"]));
    let b = &peers["peers"][0];
    assert_eq!(
        (&b["name"], &b["link"], &b["queue_pairs"]),
        (&"b".into(), &"up".into(), &workers.into()),
        "{peers}"
    );
    assert!(b["heard_ms"].as_u64().is_some_and(|ago| ago < 20_000) && b["problem"].is_null(), "{peers}");
    let text = stdout(&run(cluster.ctl("a", &["peers"])));
    assert!(text.contains("b.sock") && text.contains(" up "), "{text}");

    let sessions = json(cluster.ctl("a", &["sessions", "--json"]));
    assert_eq!(
        (&sessions["resumption"], &sessions["handshakes_full"]),
        (&"table".into(), &1.into()),
        "{sessions}"
    );
    let total = |name: &str| {
        ["a", "b"]
            .iter()
            .map(|node| json(cluster.ctl(node, &["sessions", "--json"]))[name].as_u64().unwrap_or(0))
            .sum()
    };
    let kept: u64 = total("kept");
    assert!(kept > 0 && sessions["capacity"].as_u64() == Some(65_536), "{sessions}");
    stdout(&run(cluster.ctl("a", &["sessions"])));

    cluster.take_b().stop();
    let deadline = Instant::now() + NOTICED;
    loop {
        let peers = json(cluster.ctl("a", &["peers", "--json"]));
        if peers["peers"][0]["link"] == "down" && !peers["peers"][0]["problem"].is_null() {
            break;
        }
        assert!(Instant::now() < deadline, "{peers}");
        std::thread::sleep(PAUSE);
    }
    let said = complaint(cluster.ctl("b", &["peers"]));
    assert!(
        said.contains("b.ctl") && said.contains("it is not running: start it with `keyferry node"),
        "{said}"
    );
    let said = complaint(cluster.ctl("b", &["drain"]));
    assert!(said.contains("it is not running"), "{said}");
    cluster.start_b();
    cluster.wait_linked(workers);
    cluster.finish();
}
