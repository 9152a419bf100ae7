//! Change without loss: another configuration, and other certificates, while clients are served.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use keyferry_cluster::certificates::Another;
use keyferry_load::report::Report;
use serde_json::{Value, json};

use crate::client::{Curl, Tls, output_of};
use crate::harness::{A4, Cluster, Decide, NAME, Options, Status};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(certificates_rotated_under_load, limits_while_clients_are_connected);

/// Longest time until what was changed is seen; a change of files is looked at within a minute in any case.
const NOTICED: Duration = Duration::from_secs(25);
/// Between looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Rotations under load in one round, and at which of them what is served is asked for.
const ROUND: usize = 50;
const ASKED_EACH: usize = 10;
/// Rounds at most, and two at least, until one leaves nothing behind. Pools, the session table and the allocator take memory until
/// each has been as full as it gets, which is later on a slow machine; what rotations leave behind is there after every round.
const ROUNDS_MAX: usize = 8;
/// What resident memory grows by in a round that leaves nothing behind, at most: if each rotation left its three certificates behind
/// it would be more.
const GROWN_KIB_MAX: u64 = 1024;
/// Days that certificates are valid here, unless a test is about that.
const DAYS: i64 = 90;

/// Puts text into a file as tools do: beside it, then in its place.
fn place(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).expect("the test's directory is writable");
    fs::rename(new, file).expect("the test's directory is writable");
}

/// Puts a pair in the place of the one nodes use by default.
fn install(cluster: &Cluster, pair: &Another) {
    let (chain, key) = cluster.default_pair();
    place(key, &pair.key);
    place(chain, &pair.chain);
}

/// The serial number openssl is shown by node A.
fn served(cluster: &Cluster) -> String {
    shown(cluster, &["-verify_return_error"])
}

/// The same of one that openssl need not believe.
fn served_unchecked(cluster: &Cluster) -> String {
    shown(cluster, &[])
}

fn shown(cluster: &Cluster, options: &[&str]) -> String {
    let mut client = cluster.client("openssl");
    client.args(["s_client", "-connect", &format!("{A4}:443"), "-servername", NAME]).args(options);
    client.arg("-CAfile").arg(cluster.ca()).stdin(Stdio::null()).stderr(Stdio::null());
    let shown = output_of(&mut client);
    let begin = shown.find("-----BEGIN CERTIFICATE-----").expect("s_client shows the certificate");
    let file = cluster.directory().join("served.pem");
    fs::write(&file, &shown[begin..]).expect("the test's directory is writable");
    let serial = output_of(Command::new("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(file));
    serial.trim().strip_prefix("serial=").expect("openssl's way to say it").to_lowercase()
}

fn wait_served(cluster: &Cluster, serial: &str) {
    let deadline = Instant::now() + NOTICED;
    while served(cluster) != serial {
        assert!(Instant::now() < deadline, "{serial} is not served:\n{}", cluster.a().log());
        std::thread::sleep(PAUSE);
    }
}

/// `keyferry ctl reload --json`, which ends with this exit code.
pub(super) fn reload(cluster: &Cluster, code: i32) -> Value {
    let output: Output = cluster.ctl("a", &["reload", "--json"]).output().expect("keyferry starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said}");
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("one JSON document: {said}"))
}

pub(super) fn keys(changes: &Value) -> Vec<String> {
    let changes = changes.as_array().expect("a list of changes");
    let text = |change: &Value, of: &str| change[of].as_str().expect("text").to_owned();
    changes.iter().map(|change| format!("{} {}", text(change, "table"), text(change, "key"))).collect()
}

pub(super) fn assert_none_failed(report: &Report) {
    let errors = &report.errors;
    let failed = [errors.connect, errors.tls, errors.reset, errors.closed, errors.http, errors.status];
    assert_eq!((failed, errors.timeout, report.mismatches), ([0; 6], 0, 0), "{report}");
}

/// Puts another certificate there, and says so; where it `is_asked_for`, that is what openssl is shown.
fn rotate(cluster: &Cluster, is_asked_for: bool) {
    let pair = cluster.another_certificate(DAYS);
    install(cluster, &pair);
    let answer: Value = serde_json::from_str(&cluster.a().ask("reload")).expect("one JSON document");
    assert_eq!(answer["outcome"], "applied", "{answer}");
    let key = answer["applied"][0]["key"].as_str().expect("it is named");
    assert!(key.ends_with(&pair.serial), "{answer}");
    if is_asked_for {
        assert_eq!(served(cluster), pair.serial);
    }
}

/// Load with connections that stay and others that come all the time, resumed and not; a hundred certificates, one after the
/// other; what openssl is shown is the one that was put there last.
fn certificates_rotated_under_load(workers: usize) {
    let options = Options::new(workers)
        .decide(Decide::Always)
        .line("tls", "watch = false")
        .line("tls", "sessions = 256")
        .small_pages();
    let cluster = Cluster::start(&options);
    let load = |more: &[&str]| {
        let fixed = ["-c", "8", "-d", "300", "--bytes-mix", "10,20000", "--timeout", "20"];
        cluster.loader(&[&fixed[..], more].concat())
    };
    let loads = [
        load(&["--think", "0.002"]),
        load(&["--requests-per-connection", "5", "--resume", "0.5", "--think", "0.002"]),
    ];
    let stops: Vec<_> = loads.iter().map(|load| load.stop()).collect();
    let loads = loads.map(|load| std::thread::spawn(move || load.run()));
    cluster.a().wait_for("load", NOTICED, |status| status.total("requests") > 1_000);

    let mut resident = Vec::new();
    loop {
        for rotation in 0..ROUND {
            rotate(&cluster, rotation % ASKED_EACH == 0);
        }
        // Whoever began with an old one has ended.
        cluster.a().wait_for("old keys gone", NOTICED, |status| status.total("certificates_retired") == 0);
        resident.push(cluster.a().resident_kib());
        if matches!(resident[..], [.., before, now] if now <= before + GROWN_KIB_MAX) {
            break;
        }
        assert!(
            resident.len() < ROUNDS_MAX,
            "each {ROUND} rotations leave memory behind, in KiB: {resident:?}"
        );
    }
    let status = cluster.a().status();
    assert_eq!(status.total("reloads_applied"), (resident.len() * ROUND) as u64, "{status}");
    assert!(status.total("handshakes_resumed") > 0 && status.total("replies_lent") > 0, "{status}");
    stops.iter().for_each(|stop| stop.store(true, Ordering::Relaxed));
    for load in loads {
        assert_none_failed(&load.join().expect("the load ends in order"));
    }
    // curl believes the last one as well.
    assert_eq!(Curl::new(&cluster).get("/?bytes=10&seed=1").run()[0].status, 200);
    cluster.finish();
}

/// What cannot be used changes nothing, by whatever way it comes, and is named; what can be comes with SIGHUP too.
#[test]
fn broken_files_are_refused_and_sighup_says_so() {
    let cluster = Cluster::start(&Options::new(1).line("tls", "watch = false"));
    let first = served(&cluster);
    let (chain, key) = cluster.default_pair();
    let [good, other] = [0, 1].map(|_| cluster.another_certificate(DAYS));
    let half = &good.chain[..good.chain.len() / 2];
    for (chain_text, key_text, why) in [
        (good.chain.as_str(), other.key.as_str(), "the private key belongs to another certificate"),
        (half, good.key.as_str(), "holds no certificate"),
        (good.chain.as_str(), "", "holds no private key"),
    ] {
        place(chain, chain_text);
        place(key, key_text);
        let answer = reload(&cluster, 1);
        assert_eq!((&answer["outcome"], &answer["applied"]), (&json!("refused"), &Value::Null), "{answer}");
        let problem = &answer["problems"][0];
        assert!(problem["what"].as_str().is_some_and(|what| what.contains(why)), "{answer}");
        assert!(
            problem["place"].as_str().is_some_and(|place| place.starts_with("[[certificate]] ")),
            "{answer}"
        );
        assert_eq!(served(&cluster), first);
    }
    // Two reasons at once, by SIGHUP.
    cluster.edit_config("a", |text| text.replace("[limits]\n", "[limits]\nheader = 1\n"));
    cluster.a().hang_up();
    cluster.a().wait_logged("reload (SIGHUP) refused", 3);
    let log = cluster.a().log();
    assert!(log.contains("holds no private key") && log.contains("did you mean headers?"), "{log}");
    assert_eq!(served(&cluster), first);

    install(&cluster, &good);
    cluster.edit_config("a", |text| text.replace("[limits]\nheader = 1\n", "[limits]\nheaders = 50\n"));
    cluster.a().hang_up();
    cluster.a().wait_logged("reload (SIGHUP): taken over: ", 1);
    assert_eq!(served(&cluster), good.serial);
    let status = cluster.a().status();
    let counts = ["reloads_applied", "reloads_refused"].map(|name| status.total(name));
    assert_eq!(counts, [1, 4], "{status}");
    let answer = reload(&cluster, 0);
    assert_eq!(answer["outcome"], "unchanged", "{answer}");
    assert_eq!(cluster.a().status().total("reloads_unchanged"), 1);
    cluster.finish();
}

/// Kubernetes swaps a link to the folder of both files; certbot puts a link in the place of a link. Nobody tells the node.
#[test]
fn files_are_watched() {
    let mut cluster = Cluster::start(&Options::new(1));
    let secret = cluster.directory().join("secret");
    fs::create_dir(&secret).expect("the test's directory is writable");
    let publish = |version: usize, chain: &str, key: &str| {
        let folder = secret.join(format!("..{version}"));
        fs::create_dir(&folder).expect("the test's directory is writable");
        fs::write(folder.join("tls.crt"), chain).expect("the test's directory is writable");
        fs::write(folder.join("tls.key"), key).expect("the test's directory is writable");
        symlink(format!("..{version}"), secret.join("..data_tmp")).expect("the test's directory is writable");
        fs::rename(secret.join("..data_tmp"), secret.join("..data"))
            .expect("the test's directory is writable");
        if version > 1 {
            fs::remove_dir_all(secret.join(format!("..{}", version - 1))).expect("it was there");
        }
    };
    let pairs = [0, 1, 2].map(|_| cluster.another_certificate(DAYS));
    publish(1, &pairs[0].chain, &pairs[0].key);
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), secret.join(file)).expect("the test's directory is writable");
    }
    let (chain, key) = cluster.default_pair();
    let (chain, key) = (format!("{chain:?}"), format!("{key:?}"));
    cluster.take_a().stop();
    cluster.edit_config("a", |text| {
        let at = |name: &str| format!("{:?}", secret.join(name));
        text.replace(&chain, &at("tls.crt")).replace(&key, &at("tls.key"))
    });
    cluster.start_a();
    assert_eq!(served(&cluster), pairs[0].serial);
    let mut idle = cluster.clients().enter(|| Tls::connect(cluster.ca()));

    publish(2, &pairs[1].chain, &pairs[1].key);
    wait_served(&cluster, &pairs[1].serial);
    // A pair that does not fit: said, and the one before stays.
    publish(3, &pairs[2].chain, &pairs[1].key);
    cluster.a().wait_logged("certificate not taken over, the one before stays", 1);
    assert_eq!(served(&cluster), pairs[1].serial);
    publish(4, &pairs[2].chain, &pairs[2].key);
    wait_served(&cluster, &pairs[2].serial);
    let status = cluster.a().status();
    let counts = ["certificate_changes_taken", "certificate_changes_refused"].map(|name| status.total(name));
    assert_eq!(counts, [2, 1], "{status}");
    idle.send(b"GET /?bytes=10&seed=1 HTTP/1.1\r\nHost: kf.test\r\n\r\n");
    assert!(idle.head().contains("200 OK"), "a client of the first certificate is served on");
    idle.read(10);
    drop(idle);
    cluster.wait_linked(1);
    cluster.finish();
}

/// Bounds and time-outs of clients that are connected already; what cannot change is named, and does not.
fn limits_while_clients_are_connected(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers));
    let mut client = cluster.clients().enter(|| Tls::connect(cluster.ca()));
    let mut get = |fields: usize| {
        let fields: String = (0..fields).map(|field| format!("X-{field}: 1\r\n")).collect();
        client.send(format!("GET /?bytes=0 HTTP/1.1\r\nHost: kf.test\r\n{fields}\r\n").as_bytes());
        client.head()
    };
    assert!(get(30).contains("200 OK"));
    cluster.edit_config("a", |text| {
        text.replace("[limits]\n", "[limits]\nheaders = 20\nidle_timeout_ms = 2000\nconnections = 9999\n")
            .replace("[tcp]\n", "[tcp]\npacing = false\n")
    });
    let answer = reload(&cluster, 3);
    assert_eq!(answer["outcome"], "partly", "{answer}");
    assert_eq!(keys(&answer["applied"]), ["[limits] idle_timeout_ms", "[limits] headers"], "{answer}");
    assert_eq!(keys(&answer["needs_restart"]), ["[tcp] pacing", "[limits] connections"], "{answer}");
    assert!(get(10).contains("200 OK"), "the connection lives on");
    assert!(get(30).contains(" 431 "), "with the bounds of now");
    let mut idle = cluster.clients().enter(|| Tls::connect(cluster.ca()));
    idle.read_broken();
    // What waits for a restart still does; the text says what to do.
    let output = cluster.ctl("a", &["reload"]).output().expect("keyferry starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("applied: none") && text.contains("connections  [limits]"), "{text}");
    assert!(text.contains("drain and start again"), "{text}");
    assert_eq!(cluster.a().status().total("reloads_partly"), 2);
    cluster.finish();
}

/// A peer that is written into the file gets a link, and is lent to; one that is taken out is let go.
#[test]
fn peers_come_and_go() {
    let mut cluster = Cluster::start(&Options::new(1).decide(Decide::Always));
    cluster.take_a().stop();
    let mut peer = String::new();
    cluster.edit_config("a", |text| {
        let (before, after) = text.split_once("[[peer]]").expect("it has a peer");
        peer = after.to_owned();
        // A distributor that never comes: so there are links from the start.
        before.replace("[cluster]\n", "[cluster]\ndistributors = [\"d1\"]\n")
    });
    cluster.start_a();
    let get =
        |cluster: &Cluster| assert_eq!(Curl::new(cluster).get("/?bytes=2000&seed=1").run()[0].status, 200);
    get(&cluster);
    let linked = |status: &Status, links: u64| {
        status.total("peers_ready") == links && status.total("links_up") == links
    };
    cluster.edit_config("a", |text| format!("{text}[[peer]]{peer}"));
    let answer = reload(&cluster, 0);
    assert_eq!(keys(&answer["applied"]), ["[[peer]] b: added"], "{answer}");
    cluster.a().wait_for("a link", NOTICED, |status| linked(status, 1));
    get(&cluster);
    cluster.a().wait_for("lent", NOTICED, |status| status.total("replies_lent") == 1);
    assert_eq!(cluster.a().status().total("replies_local"), 1, "the one from before");

    cluster.edit_config("a", |text| text.replace(&format!("[[peer]]{peer}"), ""));
    let answer = reload(&cluster, 0);
    assert_eq!(keys(&answer["applied"]), ["[[peer]] b: removed"], "{answer}");
    cluster.a().wait_for("no link", NOTICED, |status| linked(status, 0));
    get(&cluster);
    cluster.a().wait_for("answered here", NOTICED, |status| status.total("replies_local") == 2);

    // Another model lends nothing, though the peer is back.
    cluster.edit_config("a", |text| {
        format!("{text}[[peer]]{peer}").replacen("[node]\n", "[node]\nmodel = \"rr\"\n", 1)
    });
    let answer = reload(&cluster, 0);
    assert_eq!(keys(&answer["applied"]), ["[node] model", "[[peer]] b: added"], "{answer}");
    cluster.a().wait_for("a link", NOTICED, |status| linked(status, 1));
    get(&cluster);
    cluster.a().wait_for("answered here", NOTICED, |status| status.total("replies_local") == 3);
    cluster.finish();
}

/// Another authority of links, in the order an operator does it: both are believed, then nodes get new certificates, then the
/// old authority goes. A node that was left behind loses its link, and no request.
#[test]
fn links_change_their_authority() {
    let cluster = Cluster::start(&Options::new(1).line("tls", "watch = false"));
    cluster.certify("other", &["a", "b"]);
    let path = |folder: &str, file: &str| cluster.directory().join(folder).join(file);
    let read = |folder: &str| fs::read_to_string(path(folder, "ca.pem")).expect("an authority");
    let old = read("cluster");
    place(&path("cluster", "ca.pem"), &(old + &read("other")));
    for node in [cluster.a(), cluster.b()] {
        let answer: Value = serde_json::from_str(&node.ask("reload")).expect("one JSON document");
        assert_eq!(keys(&answer["applied"]), ["[cluster] ca"], "{answer}");
    }
    for file in ["a.key", "a.pem"] {
        let new = fs::read_to_string(path("other", file)).expect("it was issued");
        fs::write(path("cluster", file), new).expect("the test's directory is writable");
    }
    let answer = reload(&cluster, 0);
    assert_eq!(keys(&answer["applied"]), ["[cluster] certificate"], "{answer}");
    assert_eq!(cluster.a().status().total("links_lost"), 0, "links live on");
    // B was forgotten: A no longer believes it.
    place(&path("cluster", "ca.pem"), &read("other"));
    reload(&cluster, 0);
    cluster.a().wait_for("it is let go", NOTICED, |status| status.total("links_up") == 0);
    cluster.a().wait_logged("the link is down: its certificate is not signed by the cluster's CA", 1);
    assert_eq!(Curl::new(&cluster).get("/?bytes=10&seed=1").run()[0].status, 200);
    for file in ["b.key", "b.pem"] {
        let new = fs::read_to_string(path("other", file)).expect("it was issued");
        fs::write(path("cluster", file), new).expect("the test's directory is writable");
    }
    let answer: Value = serde_json::from_str(&cluster.b().ask("reload")).expect("one JSON document");
    assert_eq!(keys(&answer["applied"]), ["[cluster] ca", "[cluster] certificate"], "{answer}");
    cluster.wait_linked(1);
    cluster.finish();
}

/// A certificate that ends soon, or has ended, is said and exported.
#[test]
fn ends_of_certificates_are_told() {
    let mut cluster = Cluster::start(&Options::new(1));
    let [ending, ended] = [10, -1].map(|days| cluster.another_certificate(days));
    cluster.take_a().stop();
    install(&cluster, &ending);
    cluster.edit_config("a", |text| text.replace("[admin]\n", "[admin]\nmetrics = \"127.0.0.1:9465\"\n"));
    cluster.start_a();
    let scrape = |cluster: &Cluster, serial: &str| {
        let mut curl = cluster.beside_a("curl");
        curl.args(["--silent", "--show-error", "--fail", "http://127.0.0.1:9465/metrics"]);
        let text = output_of(&mut curl);
        let is_it =
            |line: &&str| line.starts_with("keyferry_certificate_expiry_seconds{") && line.contains(serial);
        let line = text.lines().find(is_it).unwrap_or_else(|| panic!("{serial}: {text}"));
        line.rsplit(' ').next().and_then(|value| value.parse::<i64>().ok()).expect("a number of seconds")
    };
    cluster.a().wait_logged(&format!("serial {}) expires in ", ending.serial), 1);
    let soon = scrape(&cluster, &ending.serial);
    // Nobody would believe it, so it does not come by itself; an operator may want it.
    install(&cluster, &ended);
    cluster.a().wait_logged("the one before stays: ", 1);
    assert_eq!(served_unchecked(&cluster), ending.serial);
    let answer = reload(&cluster, 0);
    assert!(
        answer["warnings"][0].as_str().is_some_and(|what| what.contains("expired 24 hours ago")),
        "{answer}"
    );
    assert_eq!(served_unchecked(&cluster), ended.serial);
    cluster.a().wait_logged(&format!("serial {}) expired on ", ended.serial), 1);
    let gone = scrape(&cluster, &ended.serial);
    assert!((10 * 86_400..12 * 86_400).contains(&(soon - gone)), "{soon} and {gone}");
    install(&cluster, &cluster.another_certificate(DAYS));
    cluster.a().wait_for("taken over", NOTICED, |status| status.total("certificate_changes_taken") == 1);
    cluster.wait_linked(1);
    cluster.finish();
}
