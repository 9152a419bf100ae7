//! Routes and upstreams change while clients are served.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use keyferry_cluster::process::PAUSE;
use serde_json::json;

use super::reload::{assert_none_failed, keys, reload};
use super::upstream::{LONG, Origin};
use super::websockets;
use crate::client::{Curl, Reply, Tls};
use crate::harness::{Cluster, NAME, NAME_OTHER, Netns, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(swapped_under_load, bodies_are_whole_whoever_answers, running_while_it_is_removed);

/// Swaps under load.
const SWAPS: usize = 20;

/// Bytes of a reply where no route fits: the synthetic application's.
const SYNTHETIC: usize = 1024;

fn upstream(name: &str, origin: &Origin) -> String {
    format!("[[upstream]]\nname = \"{name}\"\nservers = [\"unix:{}\"]\n", origin.socket.display())
}

fn route(path: &str, app: &str) -> String {
    format!("[[route]]\npath_prefix = \"{path}\"\napp = \"{app}\"\n")
}

/// nginx with a file that says who it is, and one that is the same everywhere.
fn origin(folder: &Path, name: &str) -> Origin {
    let root = folder.join("www");
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("name"), name).expect("a file");
    fs::write(root.join("same"), vec![b'x'; 20_000]).expect("a file");
    Origin::nginx(folder)
}

/// Nodes whose default is the synthetic application, on a thread, with these tables besides.
fn options(workers: usize, tables: &str) -> Options {
    Options { kind: Some("synthetic"), ..Options::new(workers).apps(1).upstream(tables) }
}

fn get(cluster: &Cluster, target: &str) -> Vec<u8> {
    let mut fetched = Curl::new(cluster).get(target).run();
    assert_eq!(fetched[0].status, 200, "{target}");
    fetched.remove(0).body
}

/// One upstream is swapped for another, again and again: who asks behind the answer of a reload is answered by the new one, and nobody
/// by none.
fn swapped_under_load(workers: usize) {
    let folders = [0, 1].map(|_| tempfile::tempdir().expect("the temporary directory is writable"));
    let origins = [("one", &folders[0]), ("two", &folders[1])].map(|(name, it)| origin(it.path(), name));
    let cluster = Cluster::start(&Options::new(workers).apps(1).upstream(&upstream("app", &origins[0])));
    let load = |more: &[&str]| {
        let fixed = ["-c", "8", "-d", "300", "--timeout", "20", "--think", "0.002"];
        cluster.loader_of("/same", &[&fixed[..], more].concat())
    };
    let loads = [load(&[]), load(&["--requests-per-connection", "5"])];
    let stops: Vec<_> = loads.iter().map(|load| load.stop()).collect();
    let loads = loads.map(|load| std::thread::spawn(move || load.run()));
    cluster.a().wait_for("load", LONG, |status| status.total("requests") > 500);
    for swap in 1..=SWAPS {
        let [before, now] = [&origins[(swap + 1) % 2], &origins[swap % 2]];
        cluster.edit_config("a", |text| text.replace(&upstream("app", before), &upstream("app", now)));
        let answer = reload(&cluster, 0);
        assert_eq!(keys(&answer["applied"]), ["[[upstream]] app: changed"], "{answer}");
        assert_eq!(get(&cluster, "/name"), ["one", "two"][swap % 2].as_bytes(), "swap {swap}");
    }
    stops.iter().for_each(|stop| stop.store(true, Ordering::Relaxed));
    for load in loads {
        assert_none_failed(&load.join().expect("the load ends in order"));
    }
    let status = cluster.a().status();
    for why in ["connect", "connect_late", "broken", "cut", "queue_full", "queue_late", "no_server"] {
        assert_eq!(status.total(&format!("upstream_failed_{why}")), 0, "{status}");
    }
    cluster.finish();
}

/// Bytes of a body that an upstream has as they come, and others at once.
const BODY: usize = 50_000;

/// Sends bodies until it is told to stop: how many an application has sent back, and how many an origin has counted.
fn post(clients: &Netns, ca: &Path, stop: &AtomicBool) -> [u64; 2] {
    clients.enter(|| {
        let (mut tls, mut counts) = (Tls::connect(ca), [0, 0]);
        let head = format!("POST /sum HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {BODY}\r\n\r\n");
        while !stop.load(Ordering::Relaxed) {
            tls.send(head.as_bytes());
            tls.send(&[b'z'; BODY]);
            let reply = Reply::read(&mut tls, false);
            let is_summed = reply.body.starts_with(format!("{BODY} ").as_bytes());
            let is_greeting = reply.body.len() == "Hello, sum!\n".len() + BODY;
            assert!(reply.status == 200 && (is_summed || is_greeting), "{reply:?}");
            counts[usize::from(is_summed)] += 1;
        }
        counts
    })
}

/// A route leads to an upstream, which takes bodies as they come, and then to an application that has them whole, again and again:
/// none of them is given half a body.
fn bodies_are_whole_whoever_answers(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let http = Origin::python(&folder.path().join("o.sock"));
    let options = Options::new(workers).embedded().apps(1).upstream(&upstream("http", &http));
    let cluster = Cluster::start(&options);
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (netns, ca, stop) = (cluster.clients().clone(), cluster.ca().to_owned(), Arc::clone(&stop));
            std::thread::spawn(move || post(&netns, &ca, &stop))
        })
        .collect();
    let route = route("/sum", "http");
    let mut answered = 0;
    for _ in 0..SWAPS {
        cluster.edit_config("a", |text| match text.contains(&route) {
            true => text.replace(&route, ""),
            false => format!("{text}{route}"),
        });
        assert_eq!(reload(&cluster, 0)["outcome"], "applied");
        // Each has its time.
        let more = answered + 20;
        let status = cluster.a().wait_for("replies", LONG, |status| status.total("replies_local") >= more);
        answered = status.total("replies_local");
    }
    stop.store(true, Ordering::Relaxed);
    let counts = clients.into_iter().map(|client| client.join().expect("every reply is right"));
    let [greeted, summed] = counts.fold([0, 0], |sum, it| [sum[0] + it[0], sum[1] + it[1]]);
    assert!(greeted > 100 && summed > 100, "{greeted} and {summed}");
    cluster.finish();
}

/// A reply, a body and a WebSocket that are under way while their routes and upstreams are removed, end whole; who asks then is
/// answered as if there had been none.
fn running_while_it_is_removed(workers: usize) {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let http = Origin::python(&folder.path().join("o.sock"));
    let chat = websockets::origin(&folder.path().join("c.sock"));
    let routes = [route("/pause", "http"), route("/wait", "http"), route("/chat", "chat")].concat();
    let tables = [upstream("http", &http), upstream("chat", &chat), routes].concat();
    let cluster = Cluster::start(&options(workers, &tables));
    let [mut reply, mut upload, mut socket] = cluster.clients().enter(|| {
        let mut reply = Tls::connect(cluster.ca());
        reply.send(format!("GET /pause HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes());
        assert!(reply.head().starts_with("HTTP/1.1 200 "));
        reply.read(50_000);
        let mut upload = Tls::connect(cluster.ca());
        upload.send(
            format!("POST /wait HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 200000\r\n\r\n").as_bytes(),
        );
        upload.send(&[b'y'; 50_000]);
        let mut socket = websockets::connect(cluster.ca());
        assert!(socket.head().starts_with("HTTP/1.1 101 "));
        [reply, upload, socket]
    });
    cluster.expect_counts("all are under way", |a, _| {
        a.total("upstream_requests") == 3 && a.total("uploads") == 1 && a.total("upgrades") == 1
    });

    cluster.edit_config("a", |text| text.replace(&tables, ""));
    let answer = reload(&cluster, 0);
    let removed =
        ["[[route]] /pause", "[[route]] /wait", "[[route]] /chat", "[[upstream]] http", "[[upstream]] chat"];
    assert_eq!(keys(&answer["applied"]), removed.map(|key| format!("{key}: removed")), "{answer}");
    assert_eq!(get(&cluster, "/pause").len(), SYNTHETIC);
    cluster.clients().enter(|| {
        let mut refused = websockets::connect(cluster.ca());
        assert_eq!(Reply::read(&mut refused, false).status, 501);
    });

    fs::write(folder.path().join("o.sock.go"), "").expect("the folder is writable");
    assert_eq!(reply.read(150_000), [b'x'; 150_000]);
    upload.send(&[b'y'; 150_000]);
    let summed = Reply::read(&mut upload, false);
    assert!(summed.status == 200 && summed.body.starts_with(b"200000 "), "{summed:?}");
    // A message of two bytes, masked by zeros; then one that says "bye", and what a client says to a close.
    socket.send(&[0x82, 0x82, 0, 0, 0, 0, 7, 9]);
    assert_eq!(socket.read(4), [0x82, 0x02, 7, 9]);
    socket.send(b"\x81\x83\0\0\0\0bye");
    assert_eq!(socket.read(15), b"\x88\x0d\x0f\xa0as you wish");
    socket.send(b"\x88\x82\0\0\0\0\x0f\xa0");
    assert!(socket.rest().is_empty(), "it ends in order");
    // The connections of the others are as good as any.
    reply.send(format!("GET /pause HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes());
    assert_eq!(Reply::read(&mut reply, false).body.len(), SYNTHETIC);

    cluster.edit_config("a", |text| format!("{text}{tables}"));
    assert_eq!(reload(&cluster, 0)["outcome"], "applied");
    assert_eq!(get(&cluster, "/pause").len(), 200_000, "they may come back");
    drop((reply, upload));
    cluster.finish();
}

/// Routes by host and path, at once and no longer than they are there.
#[test]
fn routes_come_and_go() {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let origin = origin(folder.path(), "one");
    let cluster = Cluster::start(&options(1, &upstream("app", &origin)));
    let ask = || {
        let other = format!("https://{NAME_OTHER}/name");
        let fetched = Curl::new(&cluster).url(&other).get("/same").get("/name").run();
        fetched.into_iter().map(|it| (it.status, it.body.len())).collect::<Vec<_>>()
    };
    assert_eq!(ask(), [(200, SYNTHETIC); 3]);
    let routes = format!("[[route]]\nhost = \"{NAME_OTHER}\"\napp = \"app\"\n{}", route("/same", "app"));
    cluster.edit_config("a", |text| format!("{text}{routes}"));
    let answer = reload(&cluster, 0);
    let added = [format!("[[route]] {NAME_OTHER}/: added"), "[[route]] /same: added".to_owned()];
    assert_eq!(keys(&answer["applied"]), added, "{answer}");
    assert_eq!(ask(), [(200, 3), (200, 20_000), (200, SYNTHETIC)]);
    cluster.edit_config("a", |text| text.replace(&routes, ""));
    reload(&cluster, 0);
    assert_eq!(ask(), [(200, SYNTHETIC); 3]);
    // The default as well.
    cluster.edit_config("a", |text| text.replace("kind = \"synthetic\"", "kind = \"upstream\""));
    let answer = reload(&cluster, 0);
    assert_eq!(keys(&answer["applied"]), ["[app] kind"], "{answer}");
    assert_eq!(ask(), [(200, 3), (200, 20_000), (200, 3)]);
    cluster.finish();
}

/// What is wrong with one upstream keeps all else from being taken over as well.
#[test]
fn a_wrong_upstream_refuses_all() {
    let folder = tempfile::tempdir().expect("the temporary directory is writable");
    let origin = origin(folder.path(), "one");
    let tables = upstream("app", &origin) + &route("/name", "app");
    let cluster = Cluster::start(&options(1, &tables));
    let wrong = "[[upstream]]\nname = \"wrong\"\nservers = [\"nonsense\"]\n";
    cluster.edit_config("a", |text| {
        let text = text.replace(&route("/name", "app"), &route("/same", "app"));
        format!("{text}{wrong}").replace("[limits]\n", "[limits]\nheaders = 20\n")
    });
    let answer = reload(&cluster, 1);
    assert_eq!(
        (&answer["outcome"], &answer["problems"][0]["place"]),
        (&json!("refused"), &json!("[[upstream]] servers"))
    );
    assert_eq!((get(&cluster, "/name").len(), get(&cluster, "/same").len()), (3, SYNTHETIC), "as before");
    cluster.edit_config("a", |text| text.replace("\"nonsense\"", "\"192.0.2.1:80\""));
    let answer = reload(&cluster, 0);
    assert_eq!(answer["applied"].as_array().map(Vec::len), Some(4), "{answer}");
    assert_eq!((get(&cluster, "/name").len(), get(&cluster, "/same").len()), (SYNTHETIC, 20_000));
    cluster.finish();
}

/// An upstream that is as it was keeps its connection to its server, whatever becomes of the others, and counts on.
#[test]
fn who_is_as_before_keeps_its_connections() {
    let folders = [0, 1].map(|_| tempfile::tempdir().expect("the temporary directory is writable"));
    let origins = [("one", &folders[0]), ("two", &folders[1])].map(|(name, it)| origin(it.path(), name));
    let kept = upstream("kept", &origins[0]) + "idle_timeout_ms = 600000\n";
    let other = upstream("other", &origins[1]);
    let tables = [kept.clone(), other.clone(), route("/name", "kept"), route("/same", "other")];
    let cluster = Cluster::start(&options(1, &tables.concat()));
    let mut asked = 0;
    let mut ask = |cluster: &Cluster| {
        assert_eq!((get(cluster, "/name"), get(cluster, "/same").len()), (b"one".to_vec(), 20_000));
        asked += 1;
        let count = 2 * asked;
        cluster.expect_counts("all are counted", |a, _| a.total("upstream_replies") == count);
    };
    ask(&cluster);
    let edits: [&dyn Fn(String) -> String; 3] = [
        &|text| text.replace(&other, &format!("{other}via = true\n")),
        // In another order.
        &|text| text.replace(&kept, "").replace(&format!("{other}via = true\n"), &format!("{other}{kept}")),
        &|text| format!("{text}{}", route("/n", "synthetic")),
    ];
    for edit in edits {
        cluster.edit_config("a", edit);
        assert_eq!(reload(&cluster, 0)["outcome"], "applied");
        ask(&cluster);
    }
    let log = folders[0].path().join("log");
    let deadline = Instant::now() + LONG;
    let lines = loop {
        let text = fs::read_to_string(&log).expect("nginx has a log");
        if text.lines().count() == 4 {
            break text;
        }
        assert!(Instant::now() < deadline, "{text}");
        std::thread::sleep(PAUSE);
    };
    let mut connections: Vec<_> = lines.lines().map(|line| line.split(' ').next()).collect();
    connections.dedup();
    assert_eq!(connections.len(), 1, "{lines}");
    cluster.finish();
}

/// An application of the executable's own, and routes beside it, inside workers.
#[test]
fn inside_workers_beside_an_application_of_its_own() {
    let cluster = Cluster::start(&Options::new(2).embedded());
    assert_eq!(get(&cluster, "/made"), b"Hello, made!\n");
    let made = route("/made", "synthetic");
    cluster.edit_config("a", |text| format!("{text}{made}"));
    // `ctl` reads no more of the file than where the node answers.
    let answer = reload(&cluster, 0);
    assert_eq!(keys(&answer["applied"]), ["[[route]] /made: added"], "{answer}");
    assert_eq!((get(&cluster, "/made").len(), get(&cluster, "/Ada")), (SYNTHETIC, b"Hello, Ada!\n".to_vec()));
    // What needs threads waits for them, and says so.
    let needs = "[[upstream]]\nname = \"app\"\nservers = [\"192.0.2.1:80\"]\n[[route]]\nhost = \"x.test\"\napp = \"app\"\n";
    cluster.edit_config("a", |text| {
        format!("{}{needs}", text.replace(&made, "").replace("apps = []", "apps = [0]"))
    });
    let answer = reload(&cluster, 3);
    let waits =
        ["[cores] apps", "[[route]] /made: removed", "[[route]] x.test/: added", "[[upstream]] app: added"];
    assert_eq!(keys(&answer["needs_restart"]), waits, "{answer}");
    assert_eq!(get(&cluster, "/made").len(), SYNTHETIC, "as it was");
    cluster.finish();
}
