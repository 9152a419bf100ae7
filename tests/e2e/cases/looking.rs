//! Looking at running processes: `keyferry top` as text and on a terminal, and the page in a browser, each beside load.

use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use keyferry_cluster::{Cluster as Distributed, Description, Model};

use crate::client::Curl;
use crate::harness::{A4, Cluster, Decide, Options, keyferry};

/// Longest time until something is seen that has to come.
const SEEN: Duration = Duration::from_secs(60);

/// Repeats a look until it shows what is awaited.
fn await_look(what: &str, look: impl Fn() -> String, is_met: impl Fn(&str) -> bool) -> String {
    let deadline = Instant::now() + SEEN;
    loop {
        let seen = look();
        if is_met(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: {seen}");
    }
}

/// `keyferry top --once`, of the process of this configuration.
fn top_once(config: &Path) -> String {
    let output = Command::new(keyferry()).args(["top", "--once", "--config"]).arg(config).output();
    let Output { status, stdout, stderr } = output.expect("keyferry starts");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// The word behind a name in the heading.
fn figure<'a>(text: &'a str, name: &str) -> &'a str {
    let rest = text.split(&format!(" {name} ")).nth(1);
    rest.and_then(|rest| rest.split_whitespace().next()).unwrap_or_else(|| panic!("{name}: {text}"))
}

/// The rows of the table below this title, its heads before them.
fn rows<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let lines = text.lines().skip_while(|line| !line.starts_with(&format!(" {title} ─")));
    lines.skip(1).take_while(|line| !line.contains('─')).collect()
}

#[test]
fn a_node_once() {
    let mut cluster = Cluster::start(&Options::new(2).decide(Decide::Always));
    let load = cluster.loader(&["-c", "32", "-d", "600", "--bytes-mix", "1000", "--timeout", "60"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());
    let (a, b) = (cluster.config("a"), cluster.config("b"));
    let moves = |text: &str, what: &str| !matches!(figure(text, what), "-" | "0/s");
    let is_busy = |text: &str| {
        moves(text, "requests")
            && moves(text, "lent")
            && figure(text, "p99") != "-"
            && figure(text, "connections") == "32"
    };
    let text = await_look("A lends", || top_once(&a), is_busy);
    assert!(text.starts_with(" a  node · model bf · serving · up "), "{text}");
    assert_eq!(rows(&text, "cores").len(), 3, "heads and two workers: {text}");
    let peers = rows(&text, "peers");
    assert!(peers[1].trim_start().starts_with("b ") && peers[1].contains(" up "), "{text}");
    assert!(rows(&text, "certificates").len() >= 4, "three of clients and one of links: {text}");
    await_look("B borrows", || top_once(&b), |text| moves(text, "borrowed"));
    stop.store(true, Ordering::Relaxed);
    load.join().expect("the load ends in order");
    await_look("it is over", || top_once(&a), |text| figure(text, "requests") == "0/s");

    // The counts of replies by time are those of replies.
    cluster.wait_at_rest();
    let status = cluster.a().status();
    let by_time: u64 = keyferry_worker::latency::names().iter().map(|name| status.total(name)).sum();
    assert_eq!(by_time, status.total("replies_local") + status.total("replies_lent"), "{status}");

    // Nobody is there: what to do about it.
    cluster.take_b().stop();
    let output = Command::new(keyferry()).args(["top", "--once", "--config"]).arg(&b).output();
    let output = output.expect("keyferry starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("b.ctl") && said.contains("it is not running: start it with"), "{said}");
    cluster.start_b();
    cluster.wait_linked(2);
    cluster.finish();
}

#[test]
fn a_distributor_once() {
    let description = Description { nodes: 2, model: Model::Rr, ..Description::default() };
    let mut cluster = Distributed::start(&keyferry(), &description);
    let config = cluster.config("d1");
    let is_up = |text: &str| {
        let nodes = rows(text, "nodes and distributors");
        nodes.len() == 3 && nodes[1..].iter().all(|node| node.contains(" up "))
    };
    let text = await_look("both nodes", || top_once(&config), is_up);
    assert!(text.starts_with(" d1  distributor · serving · up "), "{text}");
    assert!(!text.contains("latency") && !text.contains("requests/s"), "{text}");
    assert!(rows(&text, "nodes and distributors")[1].trim_start().starts_with("n1 "), "{text}");
    cluster.kill("n2");
    let is_down = |text: &str| rows(text, "nodes and distributors")[2].contains(" down ");
    await_look("one is down", || top_once(&config), is_down);
    cluster.stop();
}

/// A terminal with `keyferry top` in it, and what it shows.
struct Terminal {
    script: Child,
    keys: ChildStdin,
    written: Receiver<Vec<u8>>,
    screen: vt100::Parser,
    /// Where its process's id is.
    pid: PathBuf,
}

impl Terminal {
    const LINES: NonZeroU16 = NonZeroU16::new(40).expect("not zero");
    const COLUMNS: NonZeroU16 = NonZeroU16::new(120).expect("not zero");

    /// Of the process of this configuration.
    fn top(config: &Path) -> Terminal {
        let (lines, columns, pid) = (Terminal::LINES, Terminal::COLUMNS, config.with_extension("pid"));
        let (keyferry, file, config) = (keyferry(), pid.display(), config.display());
        let top = format!("echo $$ >{file}; exec {} top --config {config}", keyferry.display());
        let inside = format!("stty rows {lines} cols {columns}; sh -c '{top}'; echo left=$?");
        let mut script = Command::new("script");
        script.args(["--quiet", "--flush", "--command", &inside, "/dev/null"]).env("SHELL", "/bin/sh");
        script.env("TERM", "xterm-256color").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().expect("script starts (package bsdutils)");
        let (keys, mut out) = (script.stdin.take().expect("piped"), script.stdout.take().expect("piped"));
        let (write, written) = channel();
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(read @ 1..) = out.read(&mut bytes) {
                if write.send(bytes[..read].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { script, keys, written, screen: vt100::Parser::new(lines, columns, 0), pid }
    }

    /// What is on the screen, its lines and gaps made one space.
    fn text(&self) -> String {
        self.screen.screen().contents().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Waits until the screen is as awaited.
    fn wait(&mut self, what: &str, is_met: impl Fn(&Terminal) -> bool) -> String {
        let deadline = Instant::now() + SEEN;
        while !is_met(self) {
            match self.written.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => self.screen.process(&bytes),
                Err(RecvTimeoutError::Timeout) => panic!("{what}: {}", self.text()),
                Err(RecvTimeoutError::Disconnected) => panic!("{what}; it has ended: {}", self.text()),
            }
        }
        self.text()
    }

    fn wait_for(&mut self, text: &str) -> String {
        self.wait(text, |terminal| terminal.text().contains(text))
    }

    fn press(&mut self, key: &str) {
        self.keys.write_all(key.as_bytes()).expect("the terminal takes keys");
    }

    /// A signal to the process in it.
    fn signal(&self, name: &str) {
        let pid = std::fs::read_to_string(&self.pid).expect("written before it started");
        let kill = Command::new("kill").args([name, pid.trim()]).status();
        assert!(kill.expect("kill starts (package procps)").success());
    }

    /// Its end in order: the terminal is as it was before.
    fn wait_left(mut self) {
        let has_left = |it: &Terminal| !it.screen.screen().alternate_screen() && it.text().contains("left=");
        let text = self.wait("it has ended", has_left);
        assert_eq!(text, "left=0", "what was before is back, and nothing is left of it");
        assert!(!self.screen.screen().hide_cursor(), "the cursor is back");
        drop(self.keys);
        self.script.wait().expect("it ends");
    }
}

#[test]
fn a_terminal() {
    let mut cluster = Cluster::start(&Options::new(1));
    let config = cluster.config("b");
    let mut terminal = Terminal::top(&config);
    let text = terminal.wait_for("requests 0/s");
    assert!(terminal.screen.screen().alternate_screen() && terminal.screen.screen().hide_cursor(), "{text}");
    assert!(text.contains("live") && text.contains("certificates"), "{text}");
    // Keys are heard.
    terminal.press(" ");
    terminal.wait_for(" held ");
    terminal.press(" ");
    terminal.wait_for(" live ");
    terminal.press("\x1b[C");
    terminal.wait_for("core▼");
    // Its process goes, and comes back: what to do is said, and then it is looked at again.
    cluster.take_b().stop();
    let text = terminal.wait_for("it is not running: start it with");
    assert!(text.contains("; trying again") && text.contains("no answer"), "{text}");
    cluster.start_b();
    terminal.wait_for("requests 0/s");
    terminal.press("q");
    terminal.wait_left();

    // A signal ends it in order as well.
    let mut terminal = Terminal::top(&config);
    terminal.wait_for("requests 0/s");
    terminal.signal("-TERM");
    terminal.wait_left();
    cluster.wait_linked(1);
    cluster.finish();
}

/// Whether this line of Chromium's log is a message of the page; Chromium's own pages write some too.
fn is_complaint(line: &str) -> bool {
    line.contains("CONSOLE") && !line.contains("source: chrome://")
}

/// What Chromium makes of the page at this address after some looks, and nothing it complains of.
fn browse(cluster: &Cluster, address: &str) -> String {
    let profile = format!("--user-data-dir={}", cluster.directory().join("profile").display());
    let mut chromium = cluster.beside_a("chromium");
    // Time passes as fast as the page waits: eight looks take as long as their answers do.
    let flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"];
    chromium.args(flags).args([&profile, "--virtual-time-budget=8000", "--dump-dom", address]);
    let output = chromium.output().expect("chromium is there; tools/test installs it");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !log.lines().any(is_complaint), "{log}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The article of this id; nothing before it is drawn.
fn article<'a>(dom: &'a str, id: &str) -> &'a str {
    let rest = dom.split(&format!("<article id=\"{id}\">")).nth(1);
    rest.and_then(|rest| rest.split("</article>").next()).unwrap_or("")
}

/// Its figures as they are now.
fn values<'a>(dom: &'a str, id: &str) -> Vec<&'a str> {
    let values = article(dom, id).split("class=\"value\">").skip(1);
    let behind_its_name = |value: &'a str| value.rsplit_once("</small>").map_or(value, |(_, value)| value);
    values.map(|value| behind_its_name(value).split('<').next().unwrap_or("")).collect()
}

/// Whether all of them are known, and something happens.
fn are_some(values: &[&str]) -> bool {
    !values.is_empty() && !values.iter().any(|value| matches!(*value, "-" | "0"))
}

/// The heights of its first curve.
fn curve(dom: &str, id: &str) -> Vec<f64> {
    let points = article(dom, id).split("<polyline points=\"").nth(1).and_then(|rest| rest.split('"').next());
    let heights = points.unwrap_or("").split_whitespace().filter_map(|point| point.split_once(','));
    heights.map(|(_, y)| y.parse().expect("a number")).collect()
}

#[test]
fn the_page() {
    let mut cluster = Cluster::start(&Options::new(2).decide(Decide::Always));
    cluster.take_a().stop();
    cluster.edit_config("a", |text| text.replace("[admin]\n", "[admin]\nmetrics = \"127.0.0.1:9464\"\n"));
    cluster.start_a();
    cluster.wait_linked(2);
    Curl::new(&cluster).get("/").run();
    let look = || browse(&cluster, "http://127.0.0.1:9464/");

    // At rest.
    let dom = await_look("a few looks", look, |dom| curve(dom, "requests").len() > 2);
    assert!(dom.contains(">live</p>") && dom.contains("node · model bf · serving"), "{dom}");
    assert_eq!((values(&dom, "requests"), values(&dom, "latency")), (vec!["0"], vec!["-", "-"]));
    assert!(article(&dom, "peers").contains(">up</td>"), "{dom}");
    assert!(article(&dom, "certificates").contains(".pem"), "{dom}");

    // Under load.
    let load = cluster.loader(&["-c", "32", "-d", "600", "--bytes-mix", "1000", "--timeout", "60"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());
    let is_seen = |dom: &str| {
        let heights = curve(dom, "requests");
        are_some(&values(dom, "requests"))
            && are_some(&values(dom, "latency"))
            && heights.iter().any(|y| *y != heights[0])
            && values(dom, "connections") == ["32"]
    };
    await_look("load", look, is_seen);
    let lent =
        await_look("leases", look, |dom| values(dom, "moves").first().is_some_and(|lent| are_some(&[lent])));
    assert_eq!(article(&lent, "cores").matches("<tr>").count(), 3, "heads and two workers: {lent}");
    stop.store(true, Ordering::Relaxed);
    load.join().expect("the load ends in order");
    await_look("the end of it", look, |dom| values(dom, "requests") == ["0"]);

    // It is this host's alone, and asked for as such.
    let ask = |mut command: Command, arguments: &[&str]| {
        command.args([
            "--silent",
            "--max-time",
            "20",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
        ]);
        let output = command.args(arguments).output().expect("curl starts (package curl)");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let here = |arguments: &[&str]| ask(cluster.beside_a("curl"), arguments);
    assert_eq!(here(&["http://localhost:9464/state.json", "--ipv4"]), "200");
    let rebound = ["http://rebound.test:9464/state.json", "--resolve", "rebound.test:9464:127.0.0.1"];
    assert_eq!(here(&rebound), "421");
    assert_eq!(here(&["--data", "drain", "http://127.0.0.1:9464/"]), "405");
    let elsewhere = format!("http://{A4}:9464/");
    assert_eq!(ask(cluster.client("curl"), &["--connect-timeout", "2", &elsewhere]), "000");
    cluster.finish();
}
