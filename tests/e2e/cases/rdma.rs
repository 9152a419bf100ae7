//! Two nodes that lend over RDMA devices: what shared memory is put through by other tests, with the kernel's verbs
//! between the nodes. `tools/vm/test` runs them, on an emulated machine, so time-outs are long.

use std::sync::atomic::Ordering;
use std::time::Duration;

use keyferry_load::report::Report;

use crate::harness::{Cluster, Decide, Options, fabric};

/// Longest time until A lends, or notices that it cannot.
const LENDS: Duration = Duration::from_secs(60);
/// Sizes of bodies: none, part of a record, several records.
const BYTES: &str = "0,1,100,1024,4000,20000";

fn cluster() -> Cluster {
    // Sessions that nodes give each other are of other tests.
    Cluster::start(&Options::new(1).resumption("off").decide(Decide::Always))
}

/// Every reply is sealed by B with A's key and written into A's memory by the adapter; the load generator knows each
/// byte of each body.
#[test]
#[ignore = "needs RDMA devices: tools/vm/test"]
fn ten_thousand_leased_replies() {
    const REPLIES: u64 = 10_000;
    let cluster = cluster();
    let requests = REPLIES.to_string();
    let report = cluster.load(&["-c", "16", "-n", &requests, "--bytes-mix", BYTES, "--timeout", "60"]);
    assert_eq!((report.mismatches, broken(&report), others(&report)), (0, 0, 0), "{report}");
    assert_eq!(report.requests, REPLIES, "{report}");
    cluster.expect_replies(0, REPLIES);
    cluster.finish();
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test"]
fn the_helper_is_killed_under_load() {
    under_load(Cluster::kill_b, Cluster::start_b);
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test"]
fn the_wire_is_pulled_under_load() {
    let devices = fabric::devices().expect("tools/vm/test names them");
    under_load(|_| devices.wire("unplug"), |_| devices.wire("plug"));
}

/// Replies come from B more slowly than A's clients ask: what has no slot to be written to runs at A, no lease is broken
/// for it, and when the wire is fast again so is lending.
#[test]
#[ignore = "needs RDMA devices: tools/vm/test"]
fn a_wire_slower_than_the_application() {
    const SLOWLY: u64 = 10;
    const MORE: u64 = 100;
    let devices = fabric::devices().expect("tools/vm/test names them");
    let options = Options::new(1).resumption("off").decide(Decide::Always);
    let cluster = Cluster::start(&options.line("fabric", "slots = 6").line("lease", "credits = 2"));
    let load = cluster.loader(&["-c", "8", "-d", "300", "--bytes-mix", "20000", "--timeout", "60"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());

    let more = |counter: &str, count: u64| {
        let from = cluster.a().status().total(counter);
        cluster.a().wait_for(counter, LENDS, |status| status.total(counter) >= from + count);
    };
    more("replies_lent", MORE);
    devices.wire("slow");
    more("replies_local", MORE);
    more("replies_lent", SLOWLY);
    devices.wire("hasten");
    more("replies_lent", MORE);
    stop.store(true, Ordering::Relaxed);

    let report = load.join().expect("the load ends in order");
    assert_eq!((report.mismatches, broken(&report), others(&report)), (0, 0, 0), "{report}");
    let status = cluster.a().status();
    assert_eq!(["peers_lost", "leases_broken"].map(|counter| status.total(counter)), [0, 0], "{status}");
    cluster.finish();
}

/// B becomes unreachable under load and comes back. Whatever a client has, it has whole or is told.
fn under_load(part: impl FnOnce(&mut Cluster), join: impl FnOnce(&mut Cluster)) {
    const REPLIES: u64 = 100;
    const CONNECTIONS: u64 = 8;
    let mut cluster = cluster();
    let connections = CONNECTIONS.to_string();
    let load = cluster.loader(&["-c", &connections, "-d", "300", "--bytes-mix", BYTES, "--timeout", "60"]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());

    let more = |cluster: &Cluster, counter: &str| {
        let from = cluster.a().status().total(counter);
        cluster.a().wait_for(counter, LENDS, |status| status.total(counter) >= from + REPLIES);
    };
    more(&cluster, "replies_lent");
    part(&mut cluster);
    cluster.a().wait_for("alone", LENDS, |status| status.total("peers_ready") == 0);
    more(&cluster, "replies_local");
    join(&mut cluster);
    more(&cluster, "replies_lent");
    stop.store(true, Ordering::Relaxed);

    let report = load.join().expect("the load ends in order");
    // Where a key was out, the connection ends in RST; nothing else may be seen.
    assert_eq!((report.mismatches, others(&report)), (0, 0), "{report}");
    assert!(broken(&report) <= CONNECTIONS, "{report}");
    cluster.finish();
}

/// Connections that ended early, as they have to where a key is out.
fn broken(report: &Report) -> u64 {
    report.errors.reset + report.errors.closed
}

/// What never may happen.
fn others(report: &Report) -> u64 {
    let errors = &report.errors;
    errors.connect + errors.tls + errors.http + errors.status + errors.timeout
}
