//! A cluster flooded with packets from a million addresses, or with requests: what is established goes on, tables stay what
//! they are, new clients get in.

use std::time::Duration;

use keyferry_cluster::flood::{self, Asking, Flood, Kind, Requests, Seen, Sending, Watch};
use keyferry_cluster::{Cluster, Description, Model, SERVICE4, Status};

use super::distributor::{curl, load, serve};
use crate::harness::keyferry;

/// Longest time until a flood has filled what there is, on a machine that does other things as well.
const FILLED: Duration = Duration::from_secs(60);
/// Longest time until what is on its way has come.
const SOON: Duration = Duration::from_secs(10);
/// Packets a second: more than fill each table within a second, and no more than a machine bears that is shared.
const RATE: f64 = 20_000.0;
/// Sources of the flood.
const SOURCES: u32 = 1_000_000;
/// Connections that ask as fast as they can, and for how long at most.
const ASKING: usize = 32;
const ASKING_MAX: Duration = Duration::from_secs(600);
/// Replies of each node meanwhile.
const REQUESTS: u64 = 1000;
/// Entries of the distributor's tables, as configured.
const ENTRIES: u64 = 4096;
/// Half-open connections of a node.
const HALF_OPEN: u64 = 2048;
/// What a process may grow by while it is flooded, in KiB: its tables are there before.
const GROWTH_KIB: u64 = 16 << 10;

fn started() -> Cluster {
    let description = Description { nodes: 2, model: Model::Session, ..Description::default() };
    let description = flood::with_way_out(description)
        .with_distributor(&format!("[distributor]\nflows = {ENTRIES}\nclients = {ENTRIES}"))
        .with_node(&format!("[limits]\nhalf_open = {HALF_OPEN}"));
    Cluster::start(&keyferry(), &description)
}

/// What happens to a cluster under a load of connections that are kept, while it is flooded with packets.
fn flooded(kind: Kind, while_flooded: impl FnOnce(&mut Cluster)) {
    let flood = Flood { kind, sources: SOURCES, service: flood::service(), rate: RATE };
    let stop = |sending: Sending| {
        let sent = sending.stop().expect("the flood is sent");
        assert!(sent.count > ENTRIES, "{sent:?}");
    };
    endured(|cluster| flood.start(cluster.clients(), 0), stop, while_flooded);
}

/// The same with any flood: it begins, something happens, it ends.
fn endured<F>(
    start: impl FnOnce(&Cluster) -> F,
    stop: impl FnOnce(F),
    while_flooded: impl FnOnce(&mut Cluster),
) {
    let mut cluster = started();
    assert!(flood::loses_strays(cluster.clients()));
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &["n1", "n2"], 20);
        let before = resident_kib(cluster);
        let watch = Watch::start(cluster, flood::METRICS);
        let flood = start(cluster);
        while_flooded(cluster);
        serve(cluster, &["n1", "n2"], 100);
        for (from, client) in (0..).zip(cluster.client_addresses()) {
            let body = curl(cluster, &client, SERVICE4, &format!("/?bytes=20000&seed={from}"));
            let mut expected = vec![0; 20_000];
            keyferry_app::synthetic::fill(from, 0, &mut expected);
            assert!(body.expect("a new connection is served") == expected, "from {client}");
        }
        stop(flood);
        let Seen { failures, answers, .. } = watch.stop();
        assert!(
            failures == 0 && answers > 0,
            "{failures} of {answers} questions; links that were down count"
        );
        for (name, (now, before)) in cluster.names().iter().zip(resident_kib(cluster).iter().zip(before)) {
            assert!(*now < before + GROWTH_KIB, "{name} has grown from {before} to {now} KiB");
        }
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    for name in cluster.names() {
        assert_eq!(cluster.status(&name).total("links_lost"), 0, "{name}");
    }
    assert_eq!(cluster.status("d1").total("clients_lost"), 0, "who has a session is remembered");
    cluster.process("d1").wait_for("each packet is counted once", SOON, is_reconciled);
    cluster.stop();
}

fn resident_kib(cluster: &Cluster) -> Vec<u64> {
    cluster.names().iter().map(|name| cluster.process(name).resident_kib()).collect()
}

/// A distributor's packets are those it handed on, answered, took for itself or dropped.
fn is_reconciled(status: &Status) -> bool {
    let named = ["malformed", "no_service", "no_node", "stray", "fragment", "behind", "link", "checksum"];
    let dropped: u64 = named.iter().map(|reason| status.total(&format!("drop_{reason}"))).sum();
    let taken: u64 = ["forwarded", "resets", "rx_link"].iter().map(|name| status.total(name)).sum();
    status.total("rx_packets") == taken + dropped
}

/// Waits until both tables of the distributor hold what they were made for; they never hold more than they say.
fn fill(cluster: &Cluster) {
    let is_full = |status: &Status| {
        for table in ["flows", "clients"] {
            let (used, places) = (status.total(table), status.total(&format!("{table}_max")));
            assert!(used <= places && places <= 4 * ENTRIES, "{table}: {used} of {places}");
        }
        status.total("flows") >= ENTRIES && status.total("clients") >= ENTRIES
    };
    cluster.process("d1").wait_for("tables are full", FILLED, is_full);
}

#[test]
fn syns() {
    flooded(Kind::Syns, |cluster| {
        fill(cluster);
        for node in ["n1", "n2"] {
            let is_full = |status: &Status| {
                assert!(status.total("half_open") <= HALF_OPEN, "{status}");
                status.total("drop_tcp_half_open_evicted") > 0
            };
            cluster.process(node).wait_for("half-open connections give way", FILLED, is_full);
        }
        assert_eq!(cluster.status("d1").total("flows_lost"), 0, "open ones do not give way to SYNs");
    });
}

/// Connections that look open to whoever sees one direction: those of clients with a session stay.
#[test]
fn a_million_clients_that_seem_to_be_there() {
    flooded(Kind::Opens, |cluster| {
        fill(cluster);
        let is_pressed = |status: &Status| status.total("flows_lost") > ENTRIES;
        cluster.process("d1").wait_for("what seems open gives way", FILLED, is_pressed);
    });
}

#[test]
fn packets_of_nothing() {
    flooded(Kind::Garbage, |cluster| {
        for (counter, of) in [("unknown", "acknowledgements"), ("drop_stray", "resets")] {
            let came = |status: &Status| status.total(counter) > 1000;
            cluster.process("d1").wait_for(of, FILLED, came);
        }
    });
}

/// Clients that ask as fast as they can take no answer from others.
#[test]
fn requests() {
    let flood = Requests { connections: ASKING, time_max: ASKING_MAX };
    let start = |cluster: &Cluster| flood.start(cluster, 1).expect("the flood's values are the generator's");
    let stop = |asking: Asking| {
        let sent = asking.stop().expect("the flood is answered");
        assert_eq!(sent.failed, 0, "{sent:?}");
    };
    endured(start, stop, |cluster| {
        serve(cluster, &["n1", "n2"], REQUESTS);
        assert_eq!(cluster.status("d1").total("flows_lost"), 0, "these are connections as others are");
    });
}
