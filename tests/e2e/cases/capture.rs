//! Packets of running nodes, captured while other people's clients are served, and read by tshark.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use keyferry_cluster::{Description, Model, SERVICE4};

use super::distributor;
use crate::client::{Curl, assert_is_pattern, output_of};
use crate::harness::{A4, Cluster, Options, keyferry};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(what_curl_says, what_is_asked_for, nobody_reads);

/// Longest time until a process notices that an operator is gone.
const NOTICED: Duration = Duration::from_secs(30);

/// A capture that has begun.
struct Capture {
    child: Child,
    says: BufReader<ChildStderr>,
}

impl Capture {
    /// Waits until packets that come from here on are captured.
    fn begin(command: &mut Command) -> Capture {
        let (child, says, line) = Capture::try_begin(command);
        assert!(line.contains("capturing from"), "{line}");
        Capture { child, says }
    }

    /// With the first line of what it says.
    fn try_begin(command: &mut Command) -> (Child, BufReader<ChildStderr>, String) {
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the executable starts");
        let mut says = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut line = String::new();
        says.read_line(&mut line).expect("it says text");
        (child, says, line)
    }

    /// Ends it as Ctrl-C does; answers its last words.
    fn interrupt(self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
        self.end()
    }

    /// Waits for an end of its own.
    fn end(mut self) -> String {
        let mut words = String::new();
        self.says.read_to_string(&mut words).expect("it says text");
        let status = self.child.wait().expect("it is ours");
        assert!(status.success(), "{status}: {words}");
        words
    }
}

/// What a capture that is refused says, and its exit status.
fn refused(command: &mut Command) -> (String, ExitStatus) {
    let output = command.stdin(Stdio::null()).output().expect("the executable starts");
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status)
}

/// A capture as soon as the process has noticed that the one before is over.
fn begin_again(mut command: impl FnMut() -> Command) -> Capture {
    let begun = Instant::now();
    loop {
        let (mut child, says, line) = Capture::try_begin(&mut command());
        if line.contains("capturing from") {
            return Capture { child, says };
        }
        child.wait().expect("it is ours");
        assert!(line.contains("another capture is under way") && begun.elapsed() < NOTICED, "{line}");
    }
}

/// A file of the test, and the arguments to capture into it.
fn into<'a>(file: &'a Path, arguments: &[&'a str]) -> Vec<&'a str> {
    let file = file.to_str().expect("the test's paths are text");
    [&["-w", file][..], arguments].concat()
}

/// Fields of the packets that tshark finds in a file, a line a packet.
fn tshark(file: &Path, shown: &str, fields: &[&str]) -> Vec<String> {
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(file).args(["-Y", shown, "-T", "fields"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    output_of(&mut tshark).lines().map(str::to_owned).collect()
}

/// SYNs of clients come, answers go, each once; with keys requests and replies can be read, without them not.
fn what_curl_says(workers: usize) {
    const CONNECTIONS: usize = 3;
    let keys = std::env::temp_dir().join(format!("kf-capture-keys-{}-{workers}", std::process::id()));
    let _gone = Gone(&keys);
    let cluster = Cluster::start(&Options::new(workers).line("tls", format!("key_log = {keys:?}")));
    for (version, with_keys) in [("1.2", true), ("1.3", true), ("1.3", false)] {
        let file = cluster.directory().join(format!("{version}-{with_keys}.pcapng"));
        let mut arguments = into(&file, &["tcp", "port", "443"]);
        arguments.extend(with_keys.then_some("--keys"));
        let capture = Capture::begin(&mut cluster.capture("a", &arguments));
        for _ in 0..CONNECTIONS {
            let curl = Curl::new(&cluster).option("--tls-max").option(version);
            let replies = curl.get("/?bytes=20000&seed=3").get("/?bytes=5&seed=4").run();
            assert_is_pattern(&replies[0].body, 3, 20_000, "while it is captured");
        }
        let words = capture.interrupt();
        assert!(words.contains("packets captured, 0 dropped"), "{words}");
        assert_eq!(fs::metadata(&file).expect("it is there").mode() & 0o777, 0o600, "a secret");
        for (shown, way, port) in [
            ("tcp.flags.ack == 0 && frame.packet_flags_direction == 1", "received", "tcp.srcport"),
            ("tcp.flags.ack == 1 && frame.packet_flags_direction == 2", "sent", "tcp.dstport"),
        ] {
            let syns =
                tshark(&file, &format!("tcp.flags.syn == 1 && {shown}"), &[port, "frame.interface_name"]);
            assert!(syns.iter().all(|line| line.ends_with(way)), "{syns:?}");
            // A busy machine may be asked, and answer, again.
            let clients: BTreeSet<_> = syns.iter().filter_map(|line| line.split('\t').next()).collect();
            assert_eq!(clients.len(), CONNECTIONS, "{way}: {syns:?}");
        }
        let requests = tshark(&file, "http.request", &["http.request.uri"]);
        let replies = tshark(&file, "http.response", &["http.response.code", "http.content_length"]);
        let times = if with_keys { CONNECTIONS } else { 0 };
        assert_eq!(requests, ["/?bytes=20000&seed=3", "/?bytes=5&seed=4"].repeat(times), "TLS {version}");
        assert_eq!(replies, ["200\t20000", "200\t5"].repeat(times), "TLS {version}");
        assert!(!tshark(&file, "tls.handshake.type == 1", &["frame.number"]).is_empty());
    }
    assert!(cluster.a().log().contains("and the secrets that open them"), "{}", cluster.a().log());
    cluster.finish();
}

/// Filters, numbers, standard output; what is refused and why; one at a time.
fn what_is_asked_for(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers));
    let file = cluster.directory().join("icmp.pcapng");
    let capture = Capture::begin(
        &mut cluster.capture("a", &into(&file, &["-c", "6", "icmp", "and", "host", "10.77.1.1"])),
    );
    let (says, status) = refused(&mut cluster.capture("a", &into(&cluster.directory().join("other"), &[])));
    assert!(says.contains("another capture is under way") && status.code() == Some(1), "{says}");
    Curl::new(&cluster).get("/").run();
    output_of(cluster.client("ping").args(["-c", "3", "-W", "20", A4]));
    assert!(capture.end().contains("6 packets captured, 0 dropped"));
    let seen = tshark(&file, "frame", &["icmp.type", "frame.packet_flags_direction"]);
    let of = |kind: &str| seen.iter().filter(|line| line.starts_with(kind)).count();
    assert_eq!((seen.len(), of("8\t"), of("0\t")), (6, 3, 3), "{seen:?}");

    // Into a pipe, until its count is reached.
    let mut command = cluster.capture("a", &["-w", "-", "-c", "5", "--snap", "80", "tcp"]);
    let mut capture = Capture::begin(command.stdout(Stdio::piped()));
    let packets = capture.child.stdout.take().expect("it is piped");
    let mut tshark = Command::new("tshark");
    tshark.args(["-r", "-", "-T", "fields", "-e", "frame.cap_len"]).stdin(packets);
    let reader = std::thread::spawn(move || output_of(&mut tshark));
    Curl::new(&cluster).get("/?bytes=20000&seed=1").run();
    assert!(capture.end().contains("5 packets captured"));
    let lengths = reader.join().expect("tshark reads it");
    let lengths: Vec<u32> = lengths.lines().map(|line| line.parse().expect("a length")).collect();
    assert!(lengths.len() == 5 && lengths.iter().all(|length| *length <= 80), "{lengths:?}");

    // Until its time is over, and of nothing.
    let none = cluster.directory().join("none.pcapng");
    let arguments = into(&none, &["--seconds", "1", "port", "1"]);
    assert!(Capture::begin(&mut cluster.capture("a", &arguments)).end().contains("0 packets captured"));
    assert!(self::tshark(&none, "frame", &["frame.number"]).is_empty());

    let strange = workers.to_string();
    let refusals: [(&[&str], i32, &str); 6] = [
        (&["hots", A4], 2, "no word \"hots\" here: did you mean host?"),
        (&["tcp", "and", "udp", "or", "arp"], 2, "parentheses"),
        (&["--snap", "1"], 2, "--snap 1: write 64 to"),
        (&["--worker", &strange], 1, "there is no worker"),
        (&["--keys"], 1, "started with [tls] key_log"),
        (&["-c", "0"], 2, "at least 1"),
    ];
    for (arguments, code, why) in refusals {
        let (says, status) = refused(&mut cluster.capture("a", &into(&file, arguments)));
        assert!(says.contains(why) && status.code() == Some(code), "{arguments:?}: {status}: {says}");
    }
    let exposed = cluster.directory().join("exposed.pcapng");
    fs::write(&exposed, "").expect("the test's directory is writable");
    let (says, _) = refused(&mut cluster.capture("a", &into(&exposed, &[])));
    assert!(says.contains("others can use") && says.contains("chmod 600"), "{says}");
    assert_eq!(self::tshark(&file, "frame", &["frame.number"]).len(), 6, "what is refused replaces nothing");

    // An operator who is gone without a word.
    let mut killed = Capture::begin(&mut cluster.capture("a", &into(&file, &[])));
    killed.child.kill().expect("it runs");
    killed.child.wait().expect("it is ours");
    begin_again(|| cluster.capture("a", &into(&file, &["--worker", "0"]))).interrupt();
    cluster.finish();
}

/// Who does not read what is captured misses packets, which are counted, and no client notices.
fn nobody_reads(workers: usize) {
    const BYTES: usize = 48 << 20;
    let cluster = Cluster::start(&Options::new(workers));
    let mut operator = UnixStream::connect(cluster.admin_socket("a")).expect("A listens");
    let request = r#"{"filter":"","snap":17408,"count":null,"seconds":null,"worker":null,"keys":false}"#;
    operator.write_all(format!("capture {request}\n").as_bytes()).expect("A reads");
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        operator.read_exact(&mut byte).expect("A answers");
        line.extend(byte);
    }
    assert!(line.starts_with(br#"{"node":"a""#), "{}", String::from_utf8_lossy(&line));
    let replies = Curl::new(&cluster).get(&format!("/?bytes={BYTES}&seed=7")).run();
    assert_is_pattern(&replies[0].body, 7, BYTES, "while nobody reads");
    cluster.a().wait_for("packets are missed", NOTICED, |status| status.total("capture_missed") > 0);
    assert!(cluster.a().status().total("captured") > 0);
    drop(operator);
    let file = cluster.directory().join("after.pcapng");
    let capture = begin_again(|| cluster.capture("a", &into(&file, &["tcp"])));
    Curl::new(&cluster).get("/").run();
    assert!(capture.interrupt().contains("packets captured, 0 dropped"));
    assert!(!tshark(&file, "tls", &["frame.number"]).is_empty());
    cluster.finish();
}

/// A distributor shows what it is sent, and the same once more as it goes on to a node.
#[test]
fn both_sides_of_a_distributor() {
    let description = Description { nodes: 2, model: Model::Rr, ..Description::default() };
    let mut cluster = keyferry_cluster::Cluster::start(&keyferry(), &description);
    let file: PathBuf = cluster.directory().join("d1.pcapng");
    let mut command = Command::new(keyferry());
    command.args(["capture", "tcp", "dst", "port", "443", "-w"]).arg(&file);
    let capture = Capture::begin(command.arg("--config").arg(cluster.config("d1")));
    let from = cluster.client_addresses().remove(0);
    distributor::curl(&cluster, &from, SERVICE4, "/?bytes=1000&seed=1").expect("a reply");
    assert!(capture.interrupt().contains("packets captured, 0 dropped"));
    let to = |direction: u8| -> BTreeSet<String> {
        let shown = format!("tcp.flags.syn == 1 && frame.packet_flags_direction == {direction}");
        tshark(&file, &shown, &["eth.dst"]).into_iter().collect()
    };
    let (received, sent) = (to(1), to(2));
    assert!(received.len() == 1 && sent.len() == 1 && received != sent, "{received:?} {sent:?}");
    cluster.stop();
}

/// Secrets do not stay behind a test.
struct Gone<'a>(&'a Path);

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}
