//! WebSockets through a node: other people's client and server, and ends of either side.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::upstream::{LONG, Origin, options};
use crate::client::{Reply, Tls, output_of};
use crate::harness::{A4, Cluster, Decide, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(texts_and_large_messages, silence, drained, refused_elsewhere);

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/client/python_websocket.py");

/// Debian's, which has the package: another one may come first in the path.
const PYTHON: &str = "/usr/bin/python3";

pub(super) fn origin(socket: &Path) -> Origin {
    let mut python = Command::new(PYTHON);
    python.arg(SCRIPT).arg("serve").arg(socket);
    Origin::start(python, socket)
}

/// Its connection goes on as a WebSocket.
pub(super) fn connect(ca: &Path) -> Tls {
    let mut tls = Tls::connect(ca);
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    tls.send(format!("GET /chat HTTP/1.1\r\nHost: {NAME}\r\n{fields}\r\n\r\n").as_bytes());
    tls
}

fn texts_and_large_messages(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let origin = origin(&folder.path().join("o.sock"));
    let cluster = Cluster::start(&options(workers, &origin.socket, ""));
    let mut client = cluster.client(PYTHON);
    client.arg(SCRIPT).arg("ask").args([A4, NAME]).arg(cluster.ca());
    assert_eq!(output_of(&mut client), "ok\n");
    cluster.expect_counts("both were switched, here, and are over", |a, b| {
        a.total("upgrades") == 2
            && a.total("upstream_upgrades") == 2
            && a.total("upgraded_bytes") > 16 << 20
            && a.total("requests_in_app") == 0
            && b.total("requests") == 0
    });
    cluster.finish();
}

/// Who says nothing for too long is said goodbye to; who is well may take its time.
fn silence(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let origin = origin(&folder.path().join("o.sock"));
    let cluster = Cluster::start(&options(workers, &origin.socket, "upgraded_timeout_ms = 1500"));
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = connect(&ca);
        let head = tls.head();
        assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert!(tls.rest().is_empty());
    });
    cluster.expect_counts("it was silent", |a, _| a.total("upstream_upgrades_idle") == 1);
    cluster.finish();
}

/// A drain ends them at its deadline, not before.
fn drained(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let origin = origin(&folder.path().join("o.sock"));
    let mut cluster = Cluster::start(&options(workers, &origin.socket, ""));
    let mut tls = cluster.clients().enter(|| {
        let mut tls = connect(cluster.ca());
        assert!(tls.head().starts_with("HTTP/1.1 101 "));
        tls
    });
    let mut ctl = cluster.ctl("a", &["drain", "--deadline", "4s"]);
    let begun = Instant::now();
    let operator = std::thread::spawn(move || output_of(&mut ctl));
    cluster.a().wait_for("the drain", LONG, |status| status.total("draining") > 0);
    // A message of two bytes, masked by zeros; it comes back without a mask.
    tls.send(&[0x82, 0x82, 0, 0, 0, 0, 7, 9]);
    assert_eq!(tls.read(4), [0x82, 0x02, 7, 9]);
    tls.read_broken();
    assert!(begun.elapsed() > Duration::from_secs(3), "after {:?}", begun.elapsed());
    let said = operator.join().expect("ctl ends in order");
    assert!(said.lines().last().is_some_and(|line| line.contains("1 reset")), "{said}");
    cluster.take_a().wait_ended();
    cluster.start_a();
    cluster.wait_linked(workers);
    cluster.finish();
}

/// Applications that come with a node have none.
fn refused_elsewhere(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = connect(&ca);
        let reply = Reply::read(&mut tls, false);
        assert!(reply.status == 501 && reply.closes(), "{reply:?}");
        assert!(tls.rest().is_empty());
    });
    cluster.expect_counts("it is counted", |a, _| a.total("refused_upgrade") == 1);
    cluster.finish();
}
