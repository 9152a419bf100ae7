//! The load generator against servers of others: nginx, and OpenSSL's s_server. `tools/test` installs them.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use keyferry_load::args::Args;
use keyferry_load::report::Report;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Longest wait for a server to listen, or for its log.
const SERVER_WAIT_MAX: Duration = Duration::from_secs(20);
/// Body of `/file`.
const BODY: &[u8] = b"the same bytes, each time\n";

struct Server {
    process: Child,
    address: SocketAddr,
    directory: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a server can listen. The address is that of this process alone and a port is given once, so nobody takes it in
/// between.
fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    let [_, b, c, d] = std::process::id().to_be_bytes();
    let next = || SocketAddr::from(([127, 64 | b, c, d], NEXT.fetch_add(1, Ordering::Relaxed)));
    // Somebody may listen on a port of all addresses.
    std::iter::repeat_with(next).find(|address| TcpListener::bind(address).is_ok()).unwrap()
}

/// A directory with a certificate, its key, and a file to serve.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["load.test".to_owned()]).unwrap();
    fs::write(directory.path().join("cert.pem"), key.cert.pem()).unwrap();
    fs::write(directory.path().join("key.pem"), key.signing_key.serialize_pem()).unwrap();
    fs::write(directory.path().join("file"), BODY).unwrap();
    directory
}

impl Server {
    fn start(directory: TempDir, address: SocketAddr, command: &mut Command) -> Server {
        command
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("{:?} does not start: {error}; tools/test installs it", command.get_program())
        });
        let server = Server { process, address, directory };
        let deadline = Instant::now() + SERVER_WAIT_MAX;
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    /// nginx with one process; `options` in its server block.
    fn nginx(options: &str) -> Server {
        let (directory, address) = (directory(), free_address());
        let at = directory.path().display();
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log;
             events {{ worker_connections 1024; }}
             http {{
                 log_format of_test '$ssl_session_reused $remote_addr'; access_log {at}/access.log of_test;
                 client_body_temp_path {at}/t1; proxy_temp_path {at}/t2; fastcgi_temp_path {at}/t3;
                 uwsgi_temp_path {at}/t4; scgi_temp_path {at}/t5; keepalive_requests 100000;
                 server {{
                     listen {address} ssl; ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem;
                     ssl_protocols TLSv1.2 TLSv1.3; root {at}; {options}
                 }}
             }}"
        );
        let file = directory.path().join("nginx.conf");
        fs::write(&file, text).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-e").arg(directory.path().join("error.log")).arg("-c").arg(file);
        Server::start(directory, address, &mut command)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn url(&self) -> String {
        format!("https://load.test:{}/file", self.address.port())
    }

    fn resolve(&self) -> String {
        format!("load.test:{}", self.address.ip())
    }

    fn load(&self, options: &[&str]) -> Report {
        let args = ["keyferry-load", &self.url(), "--resolve", &self.resolve(), "--insecure"];
        let args = Args::parse_from(args.iter().chain(options));
        keyferry_load::run(&args, &Arc::default()).unwrap()
    }

    /// The executable, with a command before the arguments of a run.
    fn execute(&self, command: &[&str], options: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_keyferry-load"))
            .args(command)
            .args([&self.url(), "--resolve", &self.resolve(), "--insecure"])
            .args(options)
            .output()
            .unwrap()
    }

    /// The lines of nginx's log, once there are so many: each is written a moment after its reply.
    fn log(&self, lines: usize) -> Vec<String> {
        let deadline = Instant::now() + SERVER_WAIT_MAX;
        loop {
            let text = fs::read_to_string(self.path("access.log")).unwrap_or_default();
            if text.lines().count() >= lines || Instant::now() > deadline {
                return text.lines().map(str::to_owned).collect();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }
}

/// A server that stops for a second keeps as many requests waiting as have their moments in it. Those that were sent
/// are few; only latency from the intended moment tells of the others.
#[test]
fn a_server_stopped_for_a_second_shows_in_corrected_latency_alone() {
    let server = Server::nginx("");
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(1500));
            server.signal(Signal::STOP);
            std::thread::sleep(Duration::from_secs(1));
            server.signal(Signal::CONT);
        });
        server.load(&["--rate", "200", "-d", "4", "-c", "3"])
    });
    assert_eq!((report.requests, report.failures(), report.unsent), (800, 0, 0), "{report}");
    // A quarter of all requests has its moment while the server stands still.
    assert!(report.latency_us.p90 > 300_000.0, "{report}");
    assert!(report.latency_us.p99 > 800_000.0, "{report}");
    // Three of eight hundred were under way.
    assert!(report.latency_raw_us.p95 < 200_000.0, "{report}");
    assert!(report.latency_raw_us.max > 800_000.0, "{report}");
}

#[test]
fn the_share_of_resumptions_is_as_wanted_and_as_the_server_counts_it() {
    for (options, client) in [
        ("ssl_session_cache shared:a:1m;", &["--tls", "1.3"] as &[&str]),
        ("ssl_session_cache none; ssl_session_tickets on;", &["--tls", "1.2"]),
        ("ssl_session_cache shared:a:1m; ssl_session_tickets off;", &["--tls", "1.2", "--session-ids"]),
    ] {
        let server = Server::nginx(options);
        let shape = ["-n", "500", "-c", "5", "--requests-per-connection", "1", "--resume", "60%"];
        let report = server.load(&[&shape, client].concat());
        let resumed = server.log(500).iter().filter(|line| line.starts_with("r ")).count() as u64;
        assert_eq!(report.handshakes.resumed, resumed, "{client:?} {report}");
        assert_eq!(report.handshakes.full, 500 - resumed, "{client:?} {report}");
        assert!((295..=305).contains(&resumed), "{client:?} {report}");
    }
}

#[test]
fn what_the_server_refuses_to_resume_counts_as_full() {
    let server = Server::nginx("ssl_session_cache none; ssl_session_tickets off;");
    let report = server.load(&["-n", "50", "--requests-per-connection", "1", "--tls", "1.2"]);
    assert_eq!((report.handshakes.full, report.handshakes.resumed), (50, 0), "{report}");
    assert!(report.handshakes.wanted_share > 0.99);
}

#[test]
fn key_updates_and_pipelining_are_understood() {
    let server = Server::nginx("");
    let shape = ["-n", "400", "-c", "2", "--pipeline", "4", "--key-update-every", "3"];
    for suite in ["TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384", "TLS13_CHACHA20_POLY1305_SHA256"] {
        let report = server.load(&[&shape[..], &["--suites", suite, "--groups", "secp384r1"]].concat());
        assert_eq!((report.requests, report.failures()), (400, 0), "{suite} {report}");
    }
    for suite in [
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    ] {
        let report = server.load(&[&shape[..], &["--suites", suite, "--tls", "1.2"]].concat());
        assert_eq!((report.requests, report.failures()), (400, 0), "{suite} {report}");
    }
}

#[test]
fn a_trace_is_replayed() {
    let server = Server::nginx("");
    let moments: Vec<_> = (0..100).map(|n| format!("{:.3}\n", f64::from(n * n) * 1e-4)).collect();
    fs::write(server.path("trace"), moments.concat()).unwrap();
    let trace = server.path("trace");
    let report = server.load(&["--trace", trace.to_str().unwrap()]);
    assert_eq!((report.requests, report.failures(), report.unsent), (100, 0, 0), "{report}");
    // The last moment is at 0.98 s: nothing was sent before its time.
    assert!(report.seconds > 0.98, "{report}");
}

#[test]
fn source_addresses_are_clients() {
    let server = Server::nginx("");
    let count = |skew: &str, before: usize| {
        let shape = ["-n", "400", "-c", "8", "--requests-per-connection", "1", "--skew", skew];
        let report = server.load(&[&shape[..], &["--source", "127.0.1.1-127.0.1.4"]].concat());
        assert_eq!((report.requests, report.failures()), (400, 0), "{report}");
        let mut counts = BTreeMap::new();
        for line in server.log(before + 400).into_iter().skip(before) {
            *counts.entry(line.split(' ').next_back().unwrap().to_owned()).or_insert(0) += 1;
        }
        counts.into_values().collect::<Vec<i32>>()
    };
    assert_eq!(count("even", 0), [100; 4]);
    let zipf = count("zipf:2", 400);
    // The first of four has 1 / (1 + 1/4 + 1/9 + 1/16) of all: 70 %.
    assert!(zipf.len() == 4 && (240..320).contains(&zipf[0]) && zipf[0] > 2 * zipf[1], "{zipf:?}");
}

/// Over connections that stay: each client has two, and a share of the requests that does not come from that.
#[test]
fn requests_are_spread_over_clients_by_their_shares() {
    let server = Server::nginx("");
    let shape = ["--rate", "400", "-d", "2", "-c", "8", "--skew", "hot:1:0.7", "--skew-of", "requests"];
    let report = server.load(&[&shape[..], &["--source", "127.0.1.1-127.0.1.4"]].concat());
    assert_eq!((report.requests, report.failures(), report.unsent), (800, 0, 0), "{report}");
    assert_eq!(report.connections, 8, "{report}");
    let mut counts = BTreeMap::new();
    for line in server.log(800) {
        *counts.entry(line.split(' ').next_back().unwrap().to_owned()).or_insert(0) += 1;
    }
    let counts: Vec<i32> = counts.into_values().collect();
    assert!(counts.len() == 4 && (520..600).contains(&counts[0]), "{counts:?}");
    assert!(counts[1..].iter().all(|count| (50..120).contains(count)), "{counts:?}");
}

#[test]
fn bodies_are_checked_by_their_hash() {
    let (directory, address) = (directory(), free_address());
    let mut command = Command::new("openssl");
    command.args([
        "s_server",
        "-WWW",
        "-cert",
        "cert.pem",
        "-key",
        "key.pem",
        "-accept",
        &address.to_string(),
    ]);
    let server = Server::start(directory, address, &mut command);
    let sum = Command::new("sha256sum").arg(server.path("file")).output().unwrap();
    let right = String::from_utf8(sum.stdout).unwrap()[..64].to_owned();
    // s_server ends each reply by closing the connection (HTTP/1.0).
    for version in ["1.2", "1.3"] {
        let report = server.load(&["-n", "10", "-c", "1", "--tls", version, "--expect-sha256", &right]);
        assert_eq!((report.requests, report.mismatches, report.connections), (10, 0, 10), "{report}");
    }
    let wrong = right.chars().rev().collect::<String>();
    let report = server.load(&["-n", "3", "-c", "1", "--expect-sha256", &wrong]);
    assert_eq!((report.requests, report.mismatches), (0, 3), "{report}");
    assert!(report.first_mismatch.unwrap().contains(&right));
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn results_are_written_in_every_form() {
    let server = Server::nginx("");
    let [json, hdr, html] = ["a.json", "a.hdr", "a.html"].map(|name| server.path(name));
    let outputs =
        ["--json", json.to_str().unwrap(), "--hdr", hdr.to_str().unwrap(), "--html", html.to_str().unwrap()];
    let shape = ["--rate", "300", "-d", "3", "--warm-up", "1", "--slo", "p50<10s,errors<1%"];
    let done = server.execute(&[], &[&shape[..], &outputs].concat());
    assert!(done.status.success(), "{done:?}");

    let report: Report = serde_json::from_str(&text(&json)).unwrap();
    assert_eq!((report.requests, report.warm_up_requests, report.intervals.len()), (600, 300, 2), "{report}");
    let log = text(&hdr);
    let mut counted = 0;
    let mut decoder = hdrhistogram::serialization::Deserializer::new();
    for entry in IntervalLogIterator::new(log.as_bytes()) {
        if let LogEntry::Interval(entry) = entry.unwrap()
            && entry.tag().unwrap().as_str() == "corrected"
        {
            use base64::Engine;
            let bytes = base64::engine::general_purpose::STANDARD.decode(entry.encoded_histogram()).unwrap();
            let histogram: hdrhistogram::Histogram<u64> = decoder.deserialize(&mut &bytes[..]).unwrap();
            counted += histogram.len();
        }
    }
    assert_eq!(counted, 600);
    assert!(text(&html).contains("<svg") && text(&html).contains("--rate 300"));

    let compared = Command::new(env!("CARGO_BIN_EXE_keyferry-load"))
        .arg("compare")
        .args([&json, &json])
        .output()
        .unwrap();
    let table = String::from_utf8(compared.stdout).unwrap();
    assert!(compared.status.success() && table.contains("requests/s") && table.contains("1.000"), "{table}");
}

#[test]
fn a_goal_that_is_missed_is_told_with_both_figures() {
    let server = Server::nginx("");
    let done = server.execute(&[], &["-n", "20", "--slo", "p50<1us,errors<1%"]);
    assert_eq!(done.status.code(), Some(3), "{done:?}");
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(told.contains("p50<1us failed: it was ") && !told.contains("errors"), "{told}");
}

#[test]
fn the_highest_rate_is_searched() {
    let server = Server::nginx("");
    let options = ["-d", "1", "-c", "4", "--slo", "p50<5s", "--from", "50", "--to", "200", "--repeats", "1"];
    let done = server.execute(&["search"], &options);
    assert!(done.status.success(), "{done:?}");
    let verdict = String::from_utf8(done.stdout).unwrap();
    assert_eq!(verdict, "the goal is met up to 200.0/s; raise --to to find its end\n");

    let options = ["-d", "0.5", "-c", "4", "--slo", "p50<1us", "--from", "4"];
    let done = server.execute(&["search"], &options);
    let told = String::from_utf8(done.stdout).unwrap();
    assert!(matches!(done.status.code(), Some(3 | 4)), "{told}");
    assert!(told.contains("no rate meets the goal") || told.contains("cannot measure reliably"), "{told}");
}

#[test]
fn nobody_listening_is_told_with_what_to_do() {
    let address = free_address();
    let url = format!("https://{address}/");
    let done = Command::new(env!("CARGO_BIN_EXE_keyferry-load"))
        .args([&url, "--insecure", "--rate", "100", "-d", "1", "--timeout", "20"])
        .output()
        .unwrap();
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let told = String::from_utf8(done.stdout).unwrap();
    assert!(told.contains(&format!("is a server listening on {address}?")), "{told}");
}
