//! Members from etcd: nodes that come, leave and die, and an etcd that stops, dies and forgets, which nobody notices.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::client::Curl;
use crate::harness::{A4, B4, C4, Cluster, Decide, Node, Options, Status, TTL_S};

/// Longest time until the cluster is as it is to be: a registration that ends included.
const SOON: Duration = Duration::from_secs(40);

fn started() -> Cluster {
    Cluster::start(&Options::new(1).decide(Decide::Always).members_in_etcd())
}

/// Everybody knows so many others, and is linked to them.
fn wait_members(cluster: &Cluster, others: u64) {
    for node in cluster.nodes() {
        let is_met =
            |status: &Status| [status.total("members"), status.total("peers_ready")] == [others, others];
        node.wait_for("as many members, and links to them", SOON, is_met);
    }
}

/// Waits until each node follows etcd, or none does.
fn wait_connected(cluster: &Cluster, is_connected: bool) {
    for node in cluster.nodes() {
        node.wait_for("etcd seen or not", SOON, |status| {
            status.total("etcd_connected") == u64::from(is_connected)
        });
    }
}

/// Each node answers by itself.
fn assert_serving(cluster: &Cluster, addresses: &[&str]) {
    for address in addresses {
        let reply = Curl::new(cluster).to(address).get("/?bytes=3000").run().remove(0);
        assert_eq!(reply.status, 200);
    }
}

#[test]
fn nodes_come_and_go() {
    let mut cluster = started();
    cluster.start_c();
    wait_members(&cluster, 2);
    assert_eq!(cluster.etcd().members(), ["a", "b", "c"]);
    assert_serving(&cluster, &[A4, B4, C4]);

    // It leaves: nobody waits for its registration to end.
    let from = Instant::now();
    cluster.take_c().stop();
    wait_members(&cluster, 1);
    assert!(from.elapsed() < SOON && cluster.etcd().members() == ["a", "b"]);

    // It dies: its links end at once, its registration later.
    cluster.start_c();
    wait_members(&cluster, 2);
    cluster.take_c().kill();
    assert_serving(&cluster, &[A4, B4]);
    wait_members(&cluster, 1);

    // It dies and is back before its registration has ended.
    cluster.start_c();
    wait_members(&cluster, 2);
    cluster.take_c().kill();
    cluster.start_c();
    wait_members(&cluster, 2);
    std::thread::sleep(Duration::from_secs(2 * TTL_S));
    wait_members(&cluster, 2);
    assert_serving(&cluster, &[A4, B4, C4]);
    cluster.finish();
}

/// What etcd does meanwhile.
fn etcd_fails(cluster: &mut Cluster) {
    let registrations = |node: &Node| node.status().total("etcd_registrations");
    // Longer than registrations last.
    cluster.etcd().freeze();
    wait_connected(cluster, false);
    std::thread::sleep(Duration::from_secs(2 * TTL_S));
    cluster.etcd().resume();
    wait_connected(cluster, true);

    cluster.etcd_mut().kill();
    wait_connected(cluster, false);
    std::thread::sleep(Duration::from_secs(2 * TTL_S));
    cluster.etcd_mut().run();
    wait_connected(cluster, true);

    // What changed before they read again can no longer be had.
    cluster.etcd().compact();

    let before: Vec<u64> = cluster.nodes().map(registrations).collect();
    cluster.etcd_mut().kill();
    cluster.etcd().lose_data();
    cluster.etcd_mut().run();
    for (node, before) in cluster.nodes().zip(before) {
        node.wait_for("registered anew", SOON, |status| status.total("etcd_registrations") > before);
    }
    // Whoever was to go would have gone by then.
    std::thread::sleep(Duration::from_secs(2 * TTL_S));
    assert_eq!(cluster.etcd().members(), ["a", "b", "c"]);
}

#[test]
fn etcd_comes_and_goes_under_load() {
    let mut cluster = started();
    cluster.start_c();
    wait_members(&cluster, 2);
    let load = cluster.loader(&["-c", "8", "-d", "300", "--bytes-mix", "10,20000", "--timeout", "15"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());
    etcd_fails(&mut cluster);
    wait_members(&cluster, 2);
    for node in cluster.nodes() {
        let status = node.status();
        assert_eq!([status.total("peers_lost"), status.total("links_lost")], [0, 0], "{status}");
    }
    stop.store(true, Ordering::Relaxed);
    let report = load.join().expect("the load ends in order");
    let errors = &report.errors;
    let all = [errors.connect, errors.tls, errors.reset, errors.closed, errors.http, errors.status];
    assert_eq!((all, errors.timeout, report.mismatches), ([0; 6], 0, 0), "{report}");
    assert!(cluster.a().status().total("replies_lent") > 100);

    // Followed as before.
    cluster.take_c().stop();
    wait_members(&cluster, 1);
    cluster.finish();
}

/// Nodes serve without etcd, each by itself until it is there; over TLS.
#[test]
fn nodes_start_before_etcd() {
    let options = Options::new(1).decide(Decide::Always).secure_etcd();
    let mut cluster = Cluster::start(&options);
    cluster.take_a().stop();
    cluster.take_b().stop();
    cluster.etcd_mut().kill();
    cluster.start_b();
    cluster.start_a();
    assert_serving(&cluster, &[A4, B4]);
    assert!(cluster.a().log().contains("the members known last stay"), "{}", cluster.a().log());
    cluster.etcd_mut().run();
    wait_members(&cluster, 1);
    cluster.finish();
}
