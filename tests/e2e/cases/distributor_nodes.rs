//! Distributors whose files list other nodes while they run: nodes are added, removed and added again under load, by one
//! distributor and by two, and no client notices.

use std::fs;

use keyferry_cluster::{Cluster, Description, Model, SERVICE4};
use serde_json::{Value, json};

use super::distributor::{SOON, curl, drain, load, peers, resets, serve, spread};
use crate::harness::keyferry;

/// A cluster whose distributors list the first two nodes of three.
fn started(distributors: &[&str]) -> Cluster {
    let size = Description { nodes: 3, distributors: distributors.len(), ..Description::default() };
    let description = Description { model: Model::Rr, ..size };
    let mut cluster = Cluster::start(&keyferry(), &description);
    for distributor in distributors {
        cluster.take(distributor).stop();
        cluster.list_nodes(distributor, &["n1", "n2"]);
        cluster.start_one(distributor);
    }
    for distributor in distributors {
        fares(&cluster, distributor, "n1", "up", "file");
        fares(&cluster, distributor, "n2", "up", "file");
        assert_eq!(row(&cluster, distributor, "n3"), Value::Null);
    }
    cluster
}

/// What a distributor says of a node; null: it has none of that name.
fn row(cluster: &Cluster, distributor: &str, node: &str) -> Value {
    let answer: Value = serde_json::from_str(&peers(cluster, distributor)).expect("JSON");
    let rows = answer["nodes"].as_array().expect("a list").iter();
    rows.filter(|it| it["node"] == node).next_back().cloned().unwrap_or_default()
}

/// Waits until a node is in this state, listed so.
fn fares(cluster: &Cluster, distributor: &str, node: &str, state: &str, listed: &str) {
    cluster.wait_until(&format!("{node} is {state} at {distributor}"), |cluster| {
        let row = row(cluster, distributor, node);
        row["state"] == state && row["listed"] == listed
    });
}

fn forgotten(cluster: &Cluster, distributor: &str, node: &str) {
    cluster.wait_until(&format!("{node} is forgotten by {distributor}"), |cluster| {
        row(cluster, distributor, node).is_null()
    });
}

fn reload(cluster: &Cluster, distributor: &str) -> Value {
    let socket = cluster.config(distributor).with_extension("ctl");
    let mut line = keyferry_control::admin::Line::connect(&socket).expect("the distributor answers");
    serde_json::from_str(&line.ask("reload").expect("the distributor answers")).expect("one JSON document")
}

/// The file lists these nodes from here on, and that is in effect: so the answer says, key by key.
fn list(cluster: &Cluster, distributor: &str, nodes: &[&str], changes: &[&str]) {
    cluster.list_nodes(distributor, nodes);
    let answer = reload(cluster, distributor);
    let changes: Vec<_> = changes.iter().map(|key| json!({"table": "[[node]]", "key": key})).collect();
    assert_eq!((&answer["outcome"], &answer["applied"]), (&json!("applied"), &json!(changes)), "{answer}");
}

/// Some clients come that were not there before.
fn come(cluster: &Cluster) {
    for client in &cluster.client_addresses() {
        curl(cluster, client, SERVICE4, "/?bytes=10").expect("a reply");
    }
}

/// Handshakes that a node has ended, when all that have come to it so far have ended and are counted: its counters are some
/// milliseconds old, more on a busy machine, and a client may have been given to it just before.
fn handshakes(cluster: &Cluster, node: &str) -> u64 {
    let process = cluster.process(node);
    process.wait_counted();
    let under_way = ["half_open", "handshakes_open"];
    let status = process.wait_for("no handshake is under way", SOON, |status| {
        under_way.iter().all(|counter| status.total(counter) == 0)
    });
    status.total("handshakes_full") + status.total("handshakes_resumed")
}

#[test]
fn nodes_are_added_and_removed_under_load_and_no_request_fails() {
    let mut cluster = started(&["d1"]);
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &["n1", "n2"], 50);
        list(cluster, "d1", &["n1", "n2", "n3"], &["n3: added"]);
        fares(cluster, "d1", "n3", "up", "file");
        serve(cluster, &["n1", "n2"], 20);
        assert_eq!(resets(cluster, "n1") + resets(cluster, "n2"), 0, "what is open is untouched");
        spread(cluster, "n3");

        // What it has goes on there, what is new goes elsewhere.
        list(cluster, "d1", &["n1", "n3"], &["n2: removed"]);
        fares(cluster, "d1", "n2", "draining", "gone");
        // The distributor's worker, too, goes by it from its next turn on.
        cluster.process("d1").wait_counted();
        let before = handshakes(cluster, "n2");
        come(cluster);
        serve(cluster, &["n1", "n2"], 50);
        assert_eq!(handshakes(cluster, "n2"), before, "no new clients");

        // It is written again before it is forgotten: all is as it was.
        list(cluster, "d1", &["n1", "n2", "n3"], &["n2: added"]);
        fares(cluster, "d1", "n2", "up", "file");
        cluster.wait_until("n2 gets a new client", |cluster| {
            come(cluster);
            handshakes(cluster, "n2") > before
        });
        serve(cluster, &["n1", "n2"], 20);

        // It is forgotten with its last connection, or its end, and comes again in a place of its own.
        list(cluster, "d1", &["n1", "n3"], &["n2: removed"]);
        drain(cluster, "n2");
        forgotten(cluster, "d1", "n2");
        cluster.start_one("n2");
        list(cluster, "d1", &["n1", "n2", "n3"], &["n2: added"]);
        fares(cluster, "d1", "n2", "up", "file");
        spread(cluster, "n2");
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    // Its process goes on, and has nothing any more.
    list(&cluster, "d1", &["n1", "n2"], &["n3: removed"]);
    forgotten(&cluster, "d1", "n3");
    assert_eq!(cluster.status("d1").total("resets"), 0, "nobody has lost anything");
    cluster.stop();
}

#[test]
fn a_wrong_node_refuses_the_whole_file() {
    let mut cluster = started(&["d1"]);
    cluster.list_nodes("d1", &["n1", "n3"]);
    let file = cluster.config("d1");
    let text = fs::read_to_string(&file).expect("the distributor has a file");
    fs::write(&file, format!("{text}\n[[node]]\nname = \"n4\"\naddress = \"192.0.2.4\"\n"))
        .expect("the cluster's directory is writable");
    let answer = reload(&cluster, "d1");
    assert_eq!((&answer["outcome"], &answer["applied"]), (&json!("refused"), &Value::Null), "{answer}");
    let what = answer["problems"][0]["what"].as_str().expect("it is named");
    assert!(what.contains("192.0.2.4 is on no network of [nic] addresses"), "{answer}");
    assert_eq!(
        (&row(&cluster, "d1", "n2")["listed"], &row(&cluster, "d1", "n3")),
        (&json!("file"), &Value::Null)
    );
    list(&cluster, "d1", &["n1", "n3"], &["n2: removed", "n3: added"]);
    fares(&cluster, "d1", "n3", "up", "file");
    spread(&cluster, "n3");
    cluster.stop();
}

#[test]
fn two_distributors_are_told_one_after_the_other_and_no_connection_notices() {
    let (both, all) = (["d1", "d2"], ["n1", "n2", "n3"]);
    let mut cluster = started(&both);
    // It starts when both know it: what either gives it, the other one can go on with.
    cluster.take("n3").stop();
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &["n1", "n2"], 40);
        for distributor in both {
            list(cluster, distributor, &all, &["n3: added"]);
            serve(cluster, &["n1", "n2"], 20);
        }
        cluster.start_one("n3");
        for distributor in both {
            fares(cluster, distributor, "n3", "up", "file");
        }
        let report = load(cluster, |cluster| {
            serve(cluster, &all, 40);
            for distributor in both {
                list(cluster, distributor, &["n1", "n3"], &["n2: removed"]);
                serve(cluster, &all, 20);
            }
            // What either has goes on by the other, also at the node that is to be forgotten.
            for distributor in both {
                cluster.route_by(&[distributor]);
                serve(cluster, &all, 20);
            }
            cluster.route_by(&both);
            serve(cluster, &all, 20);
            assert_eq!(all.map(|node| resets(cluster, node)), [0; 3], "connections are untouched");
        });
        assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    for distributor in both {
        forgotten(&cluster, distributor, "n2");
        assert_eq!(cluster.status(distributor).total("resets"), 0, "nobody has lost anything");
    }
    cluster.stop();
}
