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
const SOON: Duration = Duration::from_secs(10);
/// Requests a second of the load, which leaves a shared machine room.
const RATE: f64 = 200.0;
/// Connections of it.
const CONNECTIONS: u64 = 24;

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

/// Ends the load, also where a test fails that would wait for it.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
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
        let done = Ends(&stop);
        during(cluster);
        drop(done);
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
fn fares(cluster: &Cluster, node: &str, state: &str) {
    let expected = format!("\"node\":{node:?},\"state\":{state:?}");
    cluster.wait_until(&format!("{node} is {state}"), |cluster| {
        let mut line = keyferry_control::admin::Line::connect(&cluster.config("d1").with_extension("ctl"))
            .expect("the distributor answers");
        line.ask("peers").expect("the distributor answers").contains(&expected)
    });
}

/// Connections at a node that the distributor gave it and that were reset, by either end.
fn resets(cluster: &Cluster, node: &str) -> u64 {
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
            let mut ctl = Command::new(keyferry());
            ctl.args(["ctl", "drain", "--deadline", "20s", "--config"]).arg(cluster.config(node));
            let before = Instant::now();
            let output = ctl.output().expect("keyferry starts");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(before.elapsed() < Duration::from_secs(25), "a drain ends");
            let log = cluster.take(node).wait_ended();
            assert!(log.contains("drained"), "{log}");
            cluster.start_one(node);
            fares(cluster, node, "up");
            spread(cluster, node);
        }
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    cluster.stop();
}

/// Some new clients come, until the node has replied to one.
fn spread(cluster: &Cluster, node: &str) {
    let clients = cluster.client_addresses();
    cluster.wait_until(&format!("{node} gets a new client"), |cluster| {
        for client in &clients {
            curl(cluster, client, SERVICE4, "/?bytes=10").expect("a reply");
        }
        cluster.status(node).total("replies_local") > 0
    });
}
