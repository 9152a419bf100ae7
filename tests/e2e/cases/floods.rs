//! Floods against real nodes: SYNs from nobody, slow heads, many idle connections; meanwhile curl is served.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::client::{Curl, Tls, assert_is_pattern};
use crate::harness::{A4, Cluster, Options, Status};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(syns, slow_heads, idle_connections);

/// Fetches during a flood, each over a connection of its own with several requests.
const FETCHES: usize = 10;
const NOTICED: Duration = Duration::from_secs(20);

fn fetch(cluster: &Cluster) {
    for number in 0..FETCHES {
        let mut curl = Curl::new(cluster);
        for _ in 0..4 {
            curl = curl.get(&format!("/?bytes=20000&seed={number}"));
        }
        for fetched in curl.run() {
            assert_is_pattern(&fetched.body, number as u64, 20_000, "during the flood");
        }
    }
}

/// Half-open connections of a worker: as many SYNs as the flood has in half a second or more, so that curl's own is still
/// there when its answer comes, also on a machine that is busy with the flood.
const HALF_OPEN: usize = 16_384;

fn syns(workers: usize) {
    let options = Options::new(workers)
        .line("limits", "handshake_timeout_ms = 3000")
        .line("limits", format!("half_open = {HALF_OPEN}"));
    let cluster = Cluster::start(&options);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/client/syn_flood.py");
    let mut command = cluster.client("python3");
    command.arg(script).args([A4, "10.77.1", "60000"]).stdout(Stdio::null());
    let mut flood = command.spawn().expect("python3 starts");
    cluster.a().wait_for("the flood", NOTICED, |status| status.total("rx_handshakes") > 500);
    fetch(&cluster);
    let status = cluster.a().status();
    assert!(status.total("half_open") <= (HALF_OPEN * workers) as u64, "{status}");
    let evicts = |status: &Status| status.total("drop_tcp_half_open_evicted") > 0;
    cluster.a().wait_for("more than there is room for", NOTICED, evicts);
    flood.kill().expect("the flood is our child");
    flood.wait().expect("the flood is our child");
    cluster.a().wait_for("the end of it", NOTICED, |status| status.total("half_open") == 0);
    cluster.finish();
}

/// More slow heads than there are buffers: the slowest are told and let go.
fn slow_heads(workers: usize) {
    let options = Options::new(workers).line("limits", "requests_in_app = 16").line("lease", "leases = 4");
    let cluster = Cluster::start(&options);
    let slow: Vec<Tls> = cluster.clients().enter(|| {
        (0..150 * workers)
            .map(|_| {
                let mut tls = Tls::connect(cluster.ca());
                tls.send(b"GET / HTTP/1.1\r\nHost: ");
                tls
            })
            .collect()
    });
    fetch(&cluster);
    cluster.a().wait_for("slow clients let go", NOTICED, |status| status.total("closed_slow") > 0);
    fetch(&cluster);
    drop(slow);
    cluster.finish();
}

fn idle_connections(workers: usize) {
    const IDLE: usize = 1_000;
    let cluster = Cluster::start(&Options::new(workers));
    fetch(&cluster);
    let before = cluster.a().resident_kib();
    let idle: Vec<Tls> = cluster.clients().enter(|| (0..IDLE).map(|_| Tls::connect(cluster.ca())).collect());
    // A client is done before its last flight is taken.
    let status = cluster.a().wait_for("idle connections", NOTICED, |status| {
        status.total("flows") >= IDLE as u64 && status.total("handshakes_open") == 0
    });
    assert_eq!(status.total("gathers_out"), 0, "{status}");
    let each_kib = (cluster.a().resident_kib() - before) / IDLE as u64;
    assert!(each_kib < 120, "an idle connection takes {each_kib} KiB, both rings included");
    fetch(&cluster);
    drop(idle);
    cluster.finish();
}
