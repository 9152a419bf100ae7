//! Sessions of the cluster: a client that met one node comes back to another, and is known.

use std::time::{Duration, Instant};

use crate::client::SClient;
use crate::harness::{A4, B4, Cluster, Options, Status};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(
    tls12_at_either_node,
    tls13_once,
    nobody_to_ask,
    drained_to_the_peer,
    tickets_at_either_node,
    not_shared
);

/// Clients of each kind.
const CLIENTS: usize = 8;
/// Clients that come until sessions live at both nodes, at most: where one lives is drawn.
const CLIENTS_MAX: usize = 40;

/// Longest time until a node notices that the other is gone.
const LOST_MAX: Duration = Duration::from_secs(20);
/// Longest time until counters show what a client has seen.
const COUNTED_MAX: Duration = Duration::from_secs(5);

/// Whether one connection to this node is resumed.
fn is_resumed(node: &str, cluster: &Cluster, options: &[&str]) -> bool {
    let handshakes = |status: &Status| (status.total("handshakes_full"), status.total("handshakes_resumed"));
    let status = || if node == A4 { cluster.a().status() } else { cluster.b().status() };
    let before = handshakes(&status());
    let mut client = SClient::connect_to(node, cluster, options);
    // In TLS 1.3 the session comes after the handshake: a reply is proof that it has come.
    client.get("", 1, 100);
    client.finish();
    cluster.expect_counts("a handshake", |a, b| handshakes(if node == A4 { a } else { b }) != before);
    handshakes(&status()).1 > before.1
}

/// A first connection, which is not resumed; its session is where it lives when this returns. Until then a client that
/// comes back has a full handshake, as the home does not have it yet.
fn make_session(node: &str, cluster: &Cluster, options: &[&str]) {
    assert!(!is_resumed(node, cluster, options));
    cluster.expect_counts("sessions are where they live", |a, b| {
        let sum = |name| a.total(name) + b.total(name);
        sum("sessions_put") == sum("sessions_kept")
    });
}

fn session(cluster: &Cluster, client: usize) -> String {
    let file = cluster.directory().join(format!("session-{client}"));
    file.to_str().expect("the test's paths are text").to_owned()
}

fn table(workers: usize) -> Options {
    Options::new(workers).resumption("table")
}

/// A session ID is good at any node, for as long as it lives.
fn tls12_at_either_node(workers: usize) {
    let cluster = Cluster::start(&table(workers));
    let options = ["-tls1_2", "-no_ticket"];
    let found = |status: Status| status.total("takes_found") > 0;
    for client in 0..CLIENTS_MAX {
        if client >= CLIENTS && found(cluster.a().status()) && found(cluster.b().status()) {
            break;
        }
        let session = session(&cluster, client);
        make_session(A4, &cluster, &[&options[..], &["-sess_out", &session]].concat());
        for node in [B4, A4, B4] {
            assert!(is_resumed(node, &cluster, &[&options[..], &["-sess_in", &session]].concat()), "{node}");
        }
    }
    cluster.expect_counts("what one node took the other gave", |a, b| {
        let counts = |taker: &Status, giver: &Status| {
            let found = taker.total("takes_found");
            found > 0 && found == giver.total("sessions_given") && taker.total("takes") == found
        };
        counts(a, b) && counts(b, a) && a.total("sessions_put") == b.total("sessions_kept")
    });
    cluster.finish();
}

/// A PSK goes on at one node, once, wherever it is offered again.
fn tls13_once(workers: usize) {
    let cluster = Cluster::start(&table(workers));
    for client in 0..CLIENTS_MAX {
        if client >= CLIENTS && cluster.b().status().total("takes_found") > 0 {
            break;
        }
        let session = session(&cluster, client);
        make_session(A4, &cluster, &["-tls1_3", "-sess_out", &session]);
        let order = if client % 2 == 0 { [B4, A4, B4] } else { [B4, B4, A4] };
        let resumed = order.map(|node| is_resumed(node, &cluster, &["-tls1_3", "-sess_in", &session]));
        assert_eq!(resumed, [true, false, false], "{order:?}");
    }
    cluster.expect_counts("each was given once, and not again", |a, b| {
        let sum = |name| a.total(name) + b.total(name);
        let given = a.total("sessions_given") + b.total("sessions_given");
        b.total("takes_found") > 0 && sum("takes_found") == given && sum("takes_missed") > 0
    });
    cluster.finish();
}

/// Both nodes know so many ticket keys, the same.
fn know_keys(cluster: &Cluster, keys: u64) {
    cluster.expect_counts("ticket keys have gone round", |a, b| {
        [a.total("ticket_keys"), b.total("ticket_keys")] == [keys, keys]
    });
}

/// Tickets are sealed with keys that both nodes have, and get again when they come back.
fn tickets_at_either_node(workers: usize) {
    let mut cluster = Cluster::start(&Options::new(workers).resumption("tickets"));
    know_keys(&cluster, 2);
    let sessions = [("-tls1_2", A4), ("-tls1_2", B4), ("-tls1_3", A4), ("-tls1_3", B4)];
    let comes_back = |cluster: &Cluster, node: &str| {
        for (number, (version, _)) in sessions.iter().enumerate() {
            let session = session(cluster, number);
            assert!(is_resumed(node, cluster, &[*version, "-sess_in", &session]), "{version} at {node}");
        }
    };
    for (number, (version, node)) in sessions.iter().enumerate() {
        assert!(!is_resumed(node, &cluster, &[*version, "-sess_out", &session(&cluster, number)]));
    }
    comes_back(&cluster, A4);
    comes_back(&cluster, B4);
    // The one that makes the next key, then the other: each starts with a key of its own, and learns those before.
    cluster.take_a().stop();
    cluster.start_a();
    know_keys(&cluster, 3);
    comes_back(&cluster, A4);
    cluster.kill_b();
    cluster.start_b();
    know_keys(&cluster, 4);
    comes_back(&cluster, B4);
    cluster.expect_counts("all were opened there, and clients got others", |_, b| {
        b.total("tickets_opened") >= sessions.len() as u64 && b.total("tickets_sealed") > 0
    });
    assert_eq!(cluster.b().status().total("tickets_refused"), 0);
    cluster.finish();
}

/// A node that ends gives its sessions to its peer, and gets its share when it is back.
fn drained_to_the_peer(workers: usize) {
    let mut cluster = Cluster::start(&table(workers));
    let options = |client: usize| match client % 2 {
        0 => &["-tls1_2", "-no_ticket"][..],
        _ => &["-tls1_3"],
    };
    for client in 0..CLIENTS {
        let session = session(&cluster, client);
        make_session(A4, &cluster, &[options(client), &["-sess_out", &session]].concat());
    }
    let before = cluster.b().status().total("sessions_kept");
    cluster.take_a().stop();
    let lost = cluster.b().wait_for("A is gone", LOST_MAX, |b| b.total("peers_ready") == 0);
    assert!(lost.total("sessions_kept") > before, "some lived at A");
    for client in 0..CLIENTS {
        let session = session(&cluster, client);
        let mut comes =
            SClient::connect_to(B4, &cluster, &[options(client), &["-sess_in", &session]].concat());
        comes.get("", 1, 100);
        comes.finish();
    }
    cluster.b().wait_for("all are known", COUNTED_MAX, |b| {
        b.total("handshakes_resumed") == CLIENTS as u64 && b.total("handshakes_full") == 0
    });
    cluster.start_a();
    cluster.wait_linked(workers);
    cluster.b().wait_for("A's share is back", LOST_MAX, |b| {
        b.total("sessions_moved") > 0 && b.total("sessions_moving") == 0
    });
    // TLS 1.2 may go on again, wherever it lives now.
    for client in (0..CLIENTS).step_by(2) {
        for node in [A4, B4] {
            let session = session(&cluster, client);
            assert!(is_resumed(node, &cluster, &[options(client), &["-sess_in", &session]].concat()));
        }
    }
    cluster.finish();
}

/// Where sessions and ticket keys are not shared, a client is known at the node it met and at no other.
fn not_shared(workers: usize) {
    for resumption in ["table", "tickets"] {
        let options = Options::new(workers).resumption(resumption).line("tls", "sessions_shared = false");
        let cluster = Cluster::start(&options);
        for client in 0..CLIENTS {
            let session = session(&cluster, client);
            let version: &[&str] = match (client % 2, resumption) {
                (0, _) => &["-tls1_3"],
                (_, "table") => &["-tls1_2", "-no_ticket"],
                (..) => &["-tls1_2"],
            };
            let (met, other) = if client < CLIENTS / 2 { (A4, B4) } else { (B4, A4) };
            assert!(!is_resumed(met, &cluster, &[version, &["-sess_out", &session]].concat()));
            let offers = [version, &["-sess_in", &session]].concat();
            assert!(!is_resumed(other, &cluster, &offers), "{resumption} {version:?} at the other node");
            assert!(is_resumed(met, &cluster, &offers), "{resumption} {version:?} at the node it met");
        }
        for node in [cluster.a(), cluster.b()] {
            let status = node.status();
            for name in ["sessions_put", "sessions_kept", "takes", "takes_skipped", "ticket_keys_taken"] {
                assert_eq!(status.total(name), 0, "{name}: {status}");
            }
        }
        cluster.finish();
    }
}

/// Keys are replaced while clients come and go between nodes: a ticket is good at either all the while.
#[test]
fn tickets_across_rotations() {
    const LIFETIME: Duration = Duration::from_secs(8);
    let options = Options::new(1).resumption("tickets");
    let options = options.line("tls", format!("session_lifetime_s = {}", LIFETIME.as_secs()));
    let cluster = Cluster::start(&options);
    know_keys(&cluster, 2);
    // B takes what A makes: the first and two more.
    while cluster.b().status().total("ticket_keys_taken") < 3 {
        for (number, (from, to)) in [(A4, B4), (B4, A4)].into_iter().enumerate() {
            let (session, made) = (session(&cluster, number), Instant::now());
            assert!(!is_resumed(from, &cluster, &["-tls1_3", "-sess_out", &session]));
            let is_resumed = is_resumed(to, &cluster, &["-tls1_3", "-sess_in", &session]);
            // On a machine that stood still meanwhile the ticket is too old.
            assert!(is_resumed || made.elapsed() + Duration::from_secs(1) > LIFETIME);
        }
    }
    cluster.finish();
}

/// Without the other node sessions stay where they are made.
fn nobody_to_ask(workers: usize) {
    let mut cluster = Cluster::start(&table(workers));
    cluster.kill_b();
    cluster.a().wait_for("B is gone", LOST_MAX, |a| a.total("peers_ready") == 0);
    for at in 0..CLIENTS {
        let session = session(&cluster, at);
        for options in [["-sess_out", &session], ["-sess_in", &session]] {
            SClient::connect(&cluster, &[&["-tls1_2", "-no_ticket"][..], &options].concat()).finish();
        }
    }
    let clients = CLIENTS as u64;
    cluster.a().wait_for("each was known when it came back", COUNTED_MAX, |a| {
        let names = ["handshakes_full", "handshakes_resumed", "takes", "takes_skipped"];
        names.map(|name| a.total(name)) == [clients, clients, 0, 0]
    });
    cluster.start_b();
    cluster.finish();
}
