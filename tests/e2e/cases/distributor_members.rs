//! Distributors that find nodes and each other in etcd: nodes and distributors come and go under load, etcd stops and starts, and
//! no client notices.

use std::time::Duration;

use keyferry_cluster::etcd::TTL_S;
use keyferry_cluster::{Cluster, Description, Members, Model, SERVICE4};

use super::distributor::{CONNECTIONS, curl, drain, fares, load, peers, resets, serve, spread};
use crate::harness::keyferry;

fn started(nodes: usize, model: Model) -> Cluster {
    let description = Description { nodes, model, members: Members::Etcd, ..Description::default() };
    Cluster::start(&keyferry(), &description)
}

/// Waits until the distributor knows so many others, and has so many nodes that take connections.
fn knows(cluster: &Cluster, members: u64, up: u64) {
    cluster.wait_until(&format!("{members} members, {up} nodes up"), |cluster| {
        let status = cluster.status("d1");
        [status.total("members"), status.total("nodes_up")] == [members, up]
    });
}

/// Waits until everybody who runs follows etcd, or nobody does.
fn etcd_is(cluster: &Cluster, followed: bool) {
    cluster.wait_until(&format!("etcd is followed: {followed}"), |cluster| {
        let running = cluster.names().into_iter().filter(|name| cluster.is_running(name));
        running.map(|name| cluster.status(&name).total("etcd_connected")).all(|it| it == u64::from(followed))
    });
}

#[test]
fn nodes_come_and_go_under_load_and_no_request_fails() {
    let mut cluster = started(2, Model::Rr);
    knows(&cluster, 2, 2);
    assert_eq!(cluster.etcd().members(), ["d1", "n1", "n2"]);
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &["n1", "n2"], 50);
        let added = cluster.add_node();
        fares(cluster, &added, "up");
        serve(cluster, &["n1", "n2"], 50);
        assert_eq!(resets(cluster, "n1") + resets(cluster, "n2"), 0, "what is open is untouched");
        // Some of these end in a reset, as curl ends.
        spread(cluster, &added);
        serve(cluster, &["n1", "n2"], 50);
        knows(cluster, 3, 3);

        let before = resets(cluster, "n1") + resets(cluster, &added);
        // Its connections go to others by the time it ends.
        drain(cluster, "n2");
        knows(cluster, 2, 2);
        cluster.wait_until("n2 is forgotten", |cluster| !peers(cluster, "d1").contains("n2"));
        cluster.remove("n2");
        serve(cluster, &["n1", &added], 50);

        // In the room that it has left.
        let last = cluster.add_node();
        fares(cluster, &last, "up");
        serve(cluster, &["n1", &added], 50);
        let after = resets(cluster, "n1") + resets(cluster, &added);
        assert_eq!(after, before, "what is open is untouched");
        spread(cluster, &last);
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    assert!(!peers(&cluster, "d1").contains("gone"), "{}", peers(&cluster, "d1"));
    cluster.stop();
}

#[test]
fn etcd_comes_and_goes_under_load_and_links_tell_who_is_dead() {
    let mut cluster = started(3, Model::Rr);
    knows(&cluster, 3, 3);
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &["n1", "n2", "n3"], 20);
        cluster.etcd_mut().kill();
        etcd_is(cluster, false);
        // Longer than registrations last, and than who is gone is waited for.
        std::thread::sleep(Duration::from_secs(3 * TTL_S));
        serve(cluster, &["n1", "n2", "n3"], 20);
        cluster.etcd_mut().run();
        etcd_is(cluster, true);

        // It has lost everything: everybody registers anew, and nobody is let go meanwhile.
        cluster.etcd_mut().kill();
        cluster.etcd().lose_data();
        cluster.etcd_mut().run();
        etcd_is(cluster, true);
        cluster.wait_until("all are listed", |cluster| cluster.etcd().members().len() == 4);
        std::thread::sleep(Duration::from_secs(3 * TTL_S));
        serve(cluster, &["n1", "n2", "n3"], 20);
        knows(cluster, 3, 3);
        assert_eq!(cluster.status("d1").total("links_lost"), 0, "links do not hang on etcd");
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    assert_eq!(cluster.status("d1").total("resets"), 0);

    let report = load(&mut cluster, |cluster| {
        serve(cluster, &["n1", "n2", "n3"], 20);
        // The load before may have ended with some; so do clients that ask once.
        let others = |cluster: &Cluster| resets(cluster, "n1") + resets(cluster, "n3");
        let before = others(cluster);
        cluster.etcd_mut().kill();
        etcd_is(cluster, false);
        cluster.kill("n2");
        fares(cluster, "n2", "down");
        serve(cluster, &["n1", "n3"], 100);
        assert_eq!(others(cluster), before, "connections of live nodes are untouched");

        cluster.etcd_mut().run();
        etcd_is(cluster, true);
        let added = cluster.add_node();
        fares(cluster, &added, "up");
        spread(cluster, &added);
        serve(cluster, &["n1", "n3"], 20);
        let before = others(cluster);
        // Its registration has ended, and nobody answers where it was.
        cluster.wait_until("n2 is forgotten", |cluster| !peers(cluster, "d1").contains("n2"));
        serve(cluster, &["n1", "n3"], 20);
        assert_eq!(others(cluster), before, "connections of live nodes are untouched");
    });
    // Each connection of the dead node had one request under way at most.
    assert!(report.failures() <= CONNECTIONS, "{report}");
    assert_eq!(report.mismatches, 0, "{report}");
    cluster.stop();
}

#[test]
fn a_second_distributor_comes_and_goes_under_load_and_no_request_fails() {
    let nodes = ["n1", "n2", "n3"];
    let mut cluster = started(3, Model::Session);
    knows(&cluster, 3, 3);
    let report = load(&mut cluster, |cluster| {
        serve(cluster, &nodes, 20);
        let added = cluster.add_distributor();
        assert_eq!(cluster.etcd().members(), ["d1", "d2", "n1", "n2", "n3"]);
        // It was ready: so it has been told of all that is open, and clients may come by it alone.
        let told = companion(cluster, &added, "d1");
        assert_eq!((&told["state"], &told["address"]), (&"up".into(), &"10.81.0.1".into()), "{told}");
        assert!(told["flows_copied"].as_u64() >= Some(CONNECTIONS), "{told}");
        assert_eq!(cluster.status(&added).total("forwarded"), 0, "nobody has been sent there");
        cluster.route_by(&[&added]);
        serve(cluster, &nodes, 20);
        cluster
            .wait_until("both know each other", |cluster| companion(cluster, "d1", &added)["state"] == "up");

        // The first one ends and comes back, all the while clients are served.
        cluster.take("d1").stop();
        cluster.wait_until("d1 is forgotten", |cluster| companion(cluster, &added, "d1").is_null());
        serve(cluster, &nodes, 20);
        cluster.start_one("d1");
        cluster.route_by(&["d1", &added]);
        serve(cluster, &nodes, 20);

        cluster.route_by(&["d1"]);
        cluster.kill(&added);
        cluster.wait_until("it is known to be gone", |cluster| {
            companion(cluster, "d1", &added)["state"] != "up"
        });
        serve(cluster, &nodes, 20);
        let resets = nodes.map(|node| resets(cluster, node));
        assert_eq!(resets, [0; 3], "connections are untouched");
    });
    assert_eq!((report.failures(), report.mismatches), (0, 0), "{report}");
    cluster.stop();
}

/// What a distributor says of another one; null: it knows of none of that name.
fn companion(cluster: &Cluster, distributor: &str, other: &str) -> serde_json::Value {
    let answer: serde_json::Value = serde_json::from_str(&peers(cluster, distributor)).expect("JSON");
    let others = answer["distributors"].as_array().expect("a list").iter();
    others.filter(|it| it["distributor"] == other).next_back().cloned().unwrap_or_default()
}

/// Nodes let in whoever is a member as a distributor, though no file of theirs names one.
#[test]
fn a_distributor_comes_late_and_comes_back() {
    let mut cluster = started(2, Model::Rr);
    let clients = cluster.client_addresses();
    let ask = |cluster: &Cluster| curl(cluster, &clients[0], SERVICE4, "/?bytes=1000").expect("a reply");
    assert_eq!(ask(&cluster).len(), 1000);
    cluster.take("d1").stop();
    cluster.wait_until("it is no member", |cluster| cluster.etcd().members() == ["n1", "n2"]);
    cluster.start_one("d1");
    knows(&cluster, 2, 2);
    ask(&cluster);
    // Without a word, and back before its registration has ended.
    cluster.kill("d1");
    cluster.start_one("d1");
    knows(&cluster, 2, 2);
    ask(&cluster);
    cluster.stop();
}

/// Whoever may write to etcd may list nodes that are of no use: they are counted, and nobody else minds.
#[test]
fn a_member_that_cannot_be_a_node_is_refused() {
    let mut cluster = started(2, Model::Rr);
    knows(&cluster, 2, 2);
    let value = r#"{"name":"x","role":"node","addresses":["192.0.2.7:7411"],"incarnation":1,"port_addresses":["192.0.2.7"]}"#;
    let refused = |cluster: &Cluster| cluster.status("d1").total("nodes_refused");
    assert_eq!(refused(&cluster), 0);
    cluster.etcd().put("x", value);
    cluster.wait_until("x is refused", |cluster| refused(cluster) == 1);
    knows(&cluster, 3, 2);
    assert_eq!(cluster.status("d1").total("nodes"), 2);
    let clients = cluster.client_addresses();
    assert_eq!(curl(&cluster, &clients[0], SERVICE4, "/?bytes=1000").expect("a reply").len(), 1000);
    cluster.etcd().delete("x");
    cluster.wait_until("x is forgotten", |cluster| refused(cluster) == 0);
    knows(&cluster, 2, 2);
    cluster.stop();
}
