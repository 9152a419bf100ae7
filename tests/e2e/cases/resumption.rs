//! Clients that come back: by session ID, by stateful PSK, by ticket; and those that must not.

use crate::client::{SClient, output_of};
use crate::harness::{A4, Cluster, NAME, Options, Status};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(by_session_id, by_psk, by_ticket, switched_off);

/// `-reconnect` drops the connection and comes back five times.
const RECONNECTS: usize = 5;

fn by_session_id(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).resumption("table"));
    assert_eq!(reconnects(&cluster, &["-tls1_2", "-no_ticket"]), RECONNECTS);
    cluster.expect_counts("one full handshake, five resumed", |a, _| {
        (a.total("handshakes_full"), a.total("handshakes_resumed")) == (1, 5)
    });
    cluster.finish();
}

/// A stateful PSK is taken from the table, so the same one a second time leads to a full handshake.
fn by_psk(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).resumption("table"));
    let (first, second, third) = come_back_twice(&cluster, "-tls1_3");
    assert!(!first && second && !third, "{first} {second} {third}");
    cluster.finish();
}

fn by_ticket(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).resumption("tickets"));
    for version in ["-tls1_2", "-tls1_3"] {
        let (first, second, third) = come_back_twice(&cluster, version);
        assert!(!first && second && third, "{version}: {first} {second} {third}");
    }
    assert_eq!(reconnects(&cluster, &["-tls1_2"]), RECONNECTS);
    cluster.finish();
}

fn switched_off(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).resumption("off"));
    assert_eq!(reconnects(&cluster, &["-tls1_2"]), 0);
    cluster.expect_counts("six full handshakes", |a, _| {
        (a.total("handshakes_full"), a.total("handshakes_resumed")) == (6, 0)
    });
    cluster.finish();
}

fn reconnects(cluster: &Cluster, options: &[&str]) -> usize {
    let mut command = cluster.client("openssl");
    command
        .args(["s_client", "-connect", &format!("{A4}:443"), "-servername", NAME, "-reconnect"])
        .args(options);
    output_of(command.stdin(std::process::Stdio::null())).matches("\nReused, ").count()
}

/// Connects, and twice more with the first connection's session; whether each was resumed.
fn come_back_twice(cluster: &Cluster, version: &str) -> (bool, bool, bool) {
    let session = cluster.directory().join("session");
    let session = session.to_str().expect("the test's paths are text");
    let resumed = |options: &[&str]| {
        let handshakes =
            |status: &Status| (status.total("handshakes_full"), status.total("handshakes_resumed"));
        let before = handshakes(&cluster.a().status());
        let mut client = SClient::connect(cluster, &[&[version], options].concat());
        // In TLS 1.3 the session comes after the handshake: a reply is proof that it has come.
        client.get("", 1, 100);
        client.finish();
        cluster.expect_counts("a handshake", |a, _| handshakes(a) != before);
        handshakes(&cluster.a().status()).1 > before.1
    };
    let first = resumed(&["-sess_out", session]);
    (first, resumed(&["-sess_in", session]), resumed(&["-sess_in", session]))
}
