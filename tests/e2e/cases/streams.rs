//! Request bodies that stream to an origin while their clients send them: nginx and Python behind a node, curl and rustls in
//! front of it.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use keyferry_cluster::process::PAUSE;
use tempfile::TempDir;

use super::upstream::{LONG, Origin, options};
use crate::client::{Curl, Reply, Tls, pattern};
use crate::harness::{A4, Cluster, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(
    a_large_file,
    slow_client,
    stalled_client,
    slow_origin,
    early_reply,
    origin_dies,
    client_leaves
);

const LARGE_BYTES: usize = 64 << 20;
/// What a node may need in memory for one such upload.
const MEMORY_BYTES_MAX: u64 = 24 << 20;
/// What may be on its way where nobody reads: less than a tenth of it.
const UNREAD_BYTES_MAX: u64 = 6 << 20;

/// A node in front of an origin of Python's, which go with the folder; `limits`: keys of that table.
struct Served {
    origin: Origin,
    cluster: Cluster,
    folder: TempDir,
}

impl Served {
    fn start(workers: usize, limits: &str) -> Served {
        let folder = tempfile::tempdir().expect("the temporary directory is writable");
        let origin = Origin::python(&folder.path().join("o.sock"));
        let cluster = Cluster::start(&options(workers, &origin.socket, "").line("limits", limits));
        Served { origin, cluster, folder }
    }

    /// Lets the origin read what it has let wait.
    fn go_on(&self) {
        fs::write(self.folder.path().join("o.sock.go"), "").expect("the folder is writable");
    }
}

/// The head of a request whose body has so many bytes.
fn post(target: &str, bytes: usize) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {bytes}\r\n\r\n")
}

fn large_file(cluster: &Cluster) -> (PathBuf, Vec<u8>) {
    let (file, body) = (cluster.directory().join("large"), pattern(7, LARGE_BYTES));
    fs::write(&file, &body).expect("the test's directory is writable");
    (file, body)
}

/// What the origin makes of a body.
fn sum(body: &[u8]) -> String {
    let digest = openssl::sha::sha256(body);
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {hex}", body.len())
}

/// A figure of a node's memory, in bytes.
fn memory(cluster: &Cluster, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", cluster.a().pid())).expect("A runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a figure of the kernel's");
    line.trim_matches(|it: char| !it.is_ascii_digit()).parse::<u64>().expect("a number") * 1024
}

/// Bytes of bodies the origin's application thread has been given.
fn uploaded(cluster: &Cluster) -> u64 {
    cluster.a().status().total("upload_bytes")
}

/// By its length and in chunks; nginx has what curl sent, and the node never had all of it.
fn a_large_file(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let www = folder.path().join("www");
    fs::create_dir(&www).expect("a directory");
    let origin = Origin::nginx(folder.path());
    let cluster = Cluster::start(&options(workers, &origin.socket, ""));
    let (file, body) = large_file(&cluster);
    let before = memory(&cluster, "VmRSS:");
    for (name, framing) in [("one", "Expect:"), ("two", "Transfer-Encoding: chunked")] {
        let put = Curl::new(&cluster)
            .option("--upload-file")
            .option(&file.display().to_string())
            .option("--header")
            .option(framing)
            .get(&format!("/put/{name}"))
            .run();
        assert_eq!(put[0].status, 201, "{framing}");
        assert!(fs::read(www.join("put").join(name)).expect("nginx has stored it") == body, "{framing}");
    }
    let most = memory(&cluster, "VmHWM:") - before;
    assert!(most < MEMORY_BYTES_MAX, "{most} bytes more");
    cluster.expect_counts("both streamed, here", |a, b| {
        a.total("uploads") == 2
            && a.total("upload_bytes") <= 2 * LARGE_BYTES as u64
            && b.total("requests") == 0
    });
    cluster.finish();
}

/// It takes far longer than the time-out, but never stands still.
fn slow_client(workers: usize) {
    let served = Served::start(workers, "body_timeout_ms = 3000\nbody_rate = 1000");
    let (ca, body) = (served.cluster.ca().to_owned(), pattern(3, 40_000));
    served.cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        tls.send(post("/sum", body.len()).as_bytes());
        for piece in body.chunks(2_000) {
            tls.send(piece);
            std::thread::sleep(Duration::from_millis(250));
        }
        let reply = Reply::read(&mut tls, false);
        assert_eq!((reply.status, &*String::from_utf8_lossy(&reply.body)), (200, sum(&body).as_str()));
        // Its connection goes on.
        tls.send(format!("GET /fields HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes());
        assert_eq!(Reply::read(&mut tls, false).status, 200);
    });
    served.cluster.expect_counts("it streamed", |a, _| a.total("uploads") == 1);
    served.cluster.finish();
}

/// Before the origin was behind, and after.
fn stalled_client(workers: usize) {
    let served = Served::start(workers, "body_timeout_ms = 3000");
    let cluster = &served.cluster;
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        tls.send(post("/sum", LARGE_BYTES).as_bytes());
        tls.send(&pattern(3, 100_000));
        let reply = Reply::read(&mut tls, false);
        assert!(reply.status == 408 && reply.closes(), "{reply:?}");
        assert!(tls.rest().is_empty());
    });
    cluster.expect_counts("it was late", |a, _| a.total("uploads_late") == 1);
    let (begun, sender) = (uploaded(cluster), cluster.clients().clone());
    let thread = std::thread::spawn(move || {
        sender.enter(|| {
            let mut tls = Tls::connect(&ca);
            tls.send(post("/wait", LARGE_BYTES).as_bytes());
            // All but the end, which is never sent.
            tls.send(&pattern(3, LARGE_BYTES / 4));
            let reply = Reply::read(&mut tls, false);
            assert!(reply.status == 408 && reply.closes(), "{reply:?}");
        });
    });
    blocked(cluster, begun);
    let late = cluster.a().status().total("uploads_late");
    assert_eq!(late, 1, "who is kept from sending is not late");
    served.go_on();
    thread.join().expect("the client was told");
    cluster.expect_counts("it was late as well", |a, _| a.total("uploads_late") == 2);
    served.cluster.finish();
}

/// Waits until an upload, which began when `begun` bytes had been given, stands still because nobody reads it: for longer than
/// any client may.
fn blocked(cluster: &Cluster, begun: u64) -> u64 {
    const STILL: Duration = Duration::from_millis(4_500);
    let deadline = Instant::now() + LONG;
    let (mut seen, mut since) = (uploaded(cluster), Instant::now());
    while seen == begun || since.elapsed() < STILL {
        assert!(Instant::now() < deadline, "it never stands still: {seen} bytes");
        std::thread::sleep(PAUSE);
        let now = uploaded(cluster);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    seen
}

/// Back-pressure from the origin's socket to the client's: what is on its way is bounded, and all of it arrives.
fn slow_origin(workers: usize) {
    let served = Served::start(workers, "");
    let cluster = &served.cluster;
    let (file, body) = large_file(cluster);
    let before = memory(cluster, "VmRSS:");
    let answer = cluster.directory().join("answer");
    let mut curl = cluster.client("curl");
    curl.args(["--silent", "--resolve", &format!("{NAME}:443:{A4}"), "--cacert"]).arg(cluster.ca());
    curl.args(["--request", "POST", "--header", "Expect:", "--upload-file"]).arg(&file);
    curl.arg("--output").arg(&answer).arg(format!("https://{NAME}/wait")).stdin(Stdio::null());
    let mut curl = curl.spawn().expect("curl starts");
    let unread = blocked(cluster, 0);
    assert!(unread < UNREAD_BYTES_MAX, "{unread} bytes are on their way");
    served.go_on();
    let status = curl.wait().expect("curl ends");
    assert!(status.success(), "{status}");
    assert_eq!(fs::read_to_string(&answer).expect("an answer"), sum(&body));
    let most = memory(cluster, "VmHWM:") - before;
    assert!(most < MEMORY_BYTES_MAX, "{most} bytes more");
    served.cluster.finish();
}

/// Who is refused amid its upload hears so, and has to connect anew.
fn early_reply(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    fs::create_dir(folder.path().join("www")).expect("a directory");
    let (nginx, python) = (Origin::nginx(folder.path()), Origin::python(&folder.path().join("o.sock")));
    let tables = format!(
        "[[upstream]]\nname = \"nginx\"\nservers = [\"unix:{}\"]\n\
        [[upstream]]\nname = \"python\"\nservers = [\"unix:{}\"]\n\
        [[route]]\npath_prefix = \"/early\"\napp = \"python\"\n\
        [[route]]\npath_prefix = \"/none\"\napp = \"nginx\"\n",
        nginx.socket.display(),
        python.socket.display()
    );
    let options = Options::new(workers).apps(1).upstream(&tables).line("app", "upstream = \"nginx\"");
    let cluster = Cluster::start(&options);
    let (file, _) = large_file(&cluster);
    for (target, name) in [("/none", "nginx"), ("/early", "python")] {
        let fetched = Curl::new(&cluster)
            .option("--data-binary")
            .option(&format!("@{}", file.display()))
            .option("--include")
            .get(target)
            .run();
        let reply = String::from_utf8_lossy(&fetched[0].body).to_ascii_lowercase();
        assert_eq!(fetched[0].status, 413, "{name}: {reply}");
        assert!(reply.contains("connection: close\r\n"), "{name}: {reply}");
        assert_eq!(Curl::new(&cluster).get(target).run()[0].status, 404, "{name} goes on");
    }
    cluster.expect_counts("neither was read to its end", |a, _| a.total("uploads_unread") == 2);
    cluster.finish();
}

fn origin_dies(workers: usize) {
    let Served { origin, cluster, folder: _folder } = Served::start(workers, "");
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        tls.send(post("/sum", LARGE_BYTES).as_bytes());
        tls.send(&pattern(3, 1 << 20));
        cluster.expect_counts("it streams", |a, _| a.total("upload_bytes") == 1 << 20);
        drop(origin);
        let reply = Reply::read(&mut tls, false);
        assert!(reply.status == 502 && reply.closes(), "{reply:?}");
        assert!(tls.rest().is_empty());
    });
    cluster.expect_counts("it is counted once", |a, _| {
        a.total("upstream_failed_broken") == 1 && a.total("upstream_repeated") == 0
    });
    cluster.finish();
}

fn client_leaves(workers: usize) {
    let served = Served::start(workers, "");
    let cluster = &served.cluster;
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        let head = format!("POST /sum HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\n");
        tls.send(head.as_bytes());
        tls.send(&[b"10000\r\n".as_slice(), &pattern(3, 65_536), b"\r\n"].concat());
        cluster.expect_counts("it streams", |a, _| a.total("upload_bytes") == 65_536);
        tls.half_close();
        tls.expect_close();
    });
    cluster.expect_counts("the request went along", |a, _| {
        a.total("uploads_cut") == 1 && a.total("requests_dropped") == 1 && a.total("requests_in_app") == 0
    });
    served.cluster.finish();
}
