//! A distributor in front of nodes: what clients get, where they are sent, and what happens when nodes come and go.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use keyferry_cluster::certificates::NAME;
use keyferry_cluster::{Cluster, Description, Model, SERVICE4, SERVICE6};
use keyferry_load::args::Args;
use keyferry_load::report::Report;

use crate::harness::keyferry;

/// Longest time until counters show what clients have seen, or a distributor what became of a node.
pub(super) const SOON: Duration = Duration::from_secs(10);
/// Requests a second of the load, which leaves a shared machine room.
const RATE: f64 = 200.0;
/// Connections of it.
pub(super) const CONNECTIONS: u64 = 24;

fn started(nodes: usize, model: Model) -> Cluster {
    Cluster::start(&keyferry(), &Description { nodes, model, ..Description::default() })
}

/// Bytes of a reply by curl, from a client address, to the service.
pub(super) fn curl(cluster: &Cluster, from: &str, service: &str, path: &str) -> Result<Vec<u8>, String> {
    let resolve = format!("{NAME}:443:{service}");
    let ca: PathBuf = cluster.ca().to_owned();
    let mut curl = cluster.client("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "20", "--interface", from, "--resolve"]);
    let output = curl.arg(resolve).arg("--cacert").arg(ca).arg(format!("https://{NAME}{path}")).output();
    let output = output.expect("curl starts (package curl)");
    match output.status.success() {
        true => Ok(output.stdout),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[test]
fn curl_gets_whole_replies_by_either_family() {
    let mut cluster = started(2, Model::Rr);
    let clients = cluster.client_addresses();
    for (from, service) in
        [(clients[0].as_str(), SERVICE4), (clients[3].as_str(), SERVICE4), ("eth0", SERVICE6)]
    {
        for bytes in [0, 100_000] {
            let body = curl(&cluster, from, service, &format!("/?bytes={bytes}&seed=3")).expect("a reply");
            let mut expected = vec![0; bytes];
            keyferry_app::synthetic::fill(3, 0, &mut expected);
            assert!(body == expected, "{bytes} bytes from {from}");
        }
    }
    let replies = ["n1", "n2"].map(|node| {
        cluster
            .process(node)
            .wait_for("half of the requests", SOON, |status| status.total("replies_local") == 3)
    });
    assert_eq!(replies.map(|status| status.total("handshakes_full")), [3, 3], "connections in turn");
    cluster.stop();
}

/// Stops a load when it is dropped.
struct Stopped<'a>(&'a AtomicBool);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a load of keep-alive connections from all addresses saw while `during` happened to the cluster.
pub(super) fn load(cluster: &mut Cluster, during: impl FnOnce(&mut Cluster)) -> Report {
    let args = Args::parse_from([
        "keyferry-load".to_owned(),
        format!("https://{NAME}/"),
        format!("--resolve={NAME}:{SERVICE4}"),
        format!("--ca={}", cluster.ca().display()),
        "--synthetic".to_owned(),
        "--duration=600".to_owned(),
        format!("--rate={RATE}"),
        format!("--connections={CONNECTIONS}"),
        format!("--source={}", cluster.client_addresses().join(",")),
        "--skew-of=requests".to_owned(),
        "--timeout=20".to_owned(),
    ]);
    let stop = Arc::new(AtomicBool::new(false));
    let (clients, stopping) = (cluster.clients().clone(), Arc::clone(&stop));
    std::thread::scope(|scope| {
        let load = scope.spawn(move || clients.enter(|| keyferry_load::run(&args, &stopping)));
        // It ends with what it is there for, also where that fails.
        let stopped = Stopped(&stop);
        during(cluster);
        drop(stopped);
        load.join().expect("the load ends").expect("the load starts")
    })
}

/// Waits until each of these nodes has replied to so many more requests.
pub(super) fn serve(cluster: &Cluster, nodes: &[&str], more: u64) {
    let replies = |node: &str| {
        let status = cluster.status(node);
        status.total("replies_local") + status.total("replies_lent")
    };
    let before: Vec<u64> = nodes.iter().map(|node| replies(node)).collect();
    cluster.wait_until("every node replies", |_| {
        nodes.iter().zip(&before).all(|(node, before)| replies(node) >= before + more)
    });
}

/// Waits until the distributor has a node in this state.
pub(super) fn fares(cluster: &Cluster, node: &str, state: &str) {
    let expected = format!("\"node\":{node:?},\"state\":{state:?}");
    cluster.wait_until(&format!("{node} is {state}"), |cluster| peers(cluster, "d1").contains(&expected));
}

/// What a distributor answers of its nodes.
pub(super) fn peers(cluster: &Cluster, distributor: &str) -> String {
    let socket = cluster.config(distributor).with_extension("ctl");
    let mut line = keyferry_control::admin::Line::connect(&socket).expect("the distributor answers");
    line.ask("peers").expect("the distributor answers")
}

/// Connections at a node that the distributor gave it and that were reset, by either end.
pub(super) fn resets(cluster: &Cluster, node: &str) -> u64 {
    cluster.status(node).total("closed_reset")
}

#[test]
fn a_killed_node_takes_its_own_connections_along_and_no_others() {
    let mut cluster = started(3, Model::Session);
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &["n1", "n2", "n3"], 20);
        cluster.kill("n2");
        fares(cluster, "n2", "down");
        serve(cluster, &["n1", "n3"], 200);
        cluster.start_one("n2");
        fares(cluster, "n2", "up");
        serve(cluster, &["n1", "n3"], 20);
        assert_eq!(
            resets(cluster, "n1") + resets(cluster, "n3"),
            0,
            "connections of live nodes are untouched"
        );
    });
    // Each connection of the dead node had one request under way at most; each is opened anew once.
    assert!(report.failures() <= CONNECTIONS, "{report}");
    assert_eq!(report.mismatches, 0, "{report}");
    assert!(cluster.status("d1").total("resets") > 0, "clients are told at once");
    cluster.stop();
}

#[test]
fn a_frozen_node_is_gone_until_it_goes_on() {
    let description = Description { nodes: 3, model: Model::Session, ..Description::default() };
    let timeout = "[cluster]\nheartbeat_timeout_ms = 1500";
    let mut cluster = Cluster::start(&keyferry(), &description.with_distributor(timeout));
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &["n1", "n2", "n3"], 20);
        cluster.process("n2").freeze();
        fares(cluster, "n2", "down");
        serve(cluster, &["n1", "n3"], 200);
        cluster.process("n2").resume();
        fares(cluster, "n2", "up");
        serve(cluster, &["n1", "n3"], 20);
        assert_eq!(
            resets(cluster, "n1") + resets(cluster, "n3"),
            0,
            "connections of live nodes are untouched"
        );
    });
    assert!(report.failures() <= CONNECTIONS, "{report}");
    assert_eq!(report.mismatches, 0, "{report}");
    cluster.stop();
}

#[test]
fn all_nodes_are_restarted_one_by_one_and_no_request_fails() {
    let mut cluster = started(3, Model::Rr);
    let report = load(&mut cluster, |cluster| {
        for node in ["n1", "n2", "n3"] {
            serve(cluster, &[node], 20);
            drain(cluster, node);
            cluster.start_one(node);
            fares(cluster, node, "up");
            spread(cluster, node);
        }
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    cluster.stop();
}

#[test]
fn distributors_come_and_go_and_no_connection_notices() {
    let nodes = ["n1", "n2", "n3"];
    let description =
        Description { nodes: 3, distributors: 2, model: Model::Session, ..Description::default() };
    let mut cluster = Cluster::start(&keyferry(), &description);
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &nodes, 40);
        let forwarded = ["d1", "d2"].map(|it| cluster.status(it).total("forwarded"));
        assert!(forwarded.iter().all(|packets| *packets > 0), "clients come by both: {forwarded:?}");
        // What one of them had goes on by the other one.
        cluster.kill("d1");
        cluster.route_by(&["d2"]);
        serve(cluster, &nodes, 40);
        // One that is ready knows the connections there are: they may come by it alone.
        cluster.start_one("d1");
        cluster.route_by(&["d1"]);
        cluster.kill("d2");
        serve(cluster, &nodes, 40);
        cluster.start_one("d2");
        cluster.route_by(&["d1", "d2"]);
        serve(cluster, &nodes, 40);
        let resets = nodes.map(|node| resets(cluster, node));
        assert_eq!(resets, [0; 3], "connections are untouched");
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    let learnt = ["d1", "d2"].map(|it| cluster.status(it).total("flows_learnt"));
    assert!(learnt.iter().all(|flows| *flows > 0), "each knows what the other has: {learnt:?}");
    cluster.stop();
}

/// Ends a node as its operator does who has time.
pub(super) fn drain(cluster: &mut Cluster, node: &str) {
    let mut ctl = Command::new(keyferry());
    ctl.args(["ctl", "drain", "--deadline", "20s", "--config"]).arg(cluster.config(node));
    let before = Instant::now();
    let output = ctl.output().expect("keyferry starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(before.elapsed() < Duration::from_secs(25), "a drain ends");
    let log = cluster.take(node).wait_ended();
    assert!(log.contains("drained"), "{log}");
}

/// Some new clients come, until the node has replied to one.
pub(super) fn spread(cluster: &Cluster, node: &str) {
    let clients = cluster.client_addresses();
    cluster.wait_until(&format!("{node} gets a new client"), |cluster| {
        for client in &clients {
            curl(cluster, client, SERVICE4, "/?bytes=10").expect("a reply");
        }
        cluster.status(node).total("replies_local") > 0
    });
}
