//! One upstream in the place of another: no request is lost, and nothing is left of the one that was there.

mod common;

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use keyferry_upstream::{Health, Options};

/// An origin that answers with `name`; `/long` stands still in the midst of its body until the test says so. It tells of each
/// connection that has ended.
struct Held {
    origin: Origin,
    go_on: mpsc::Sender<()>,
    ended: mpsc::Receiver<usize>,
}

impl Held {
    fn start(name: &'static str) -> Held {
        let (go_on, may_go_on) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let (may_go_on, end) = (Arc::new(Mutex::new(may_go_on)), Mutex::new(end));
        let origin = Origin::tcp(move |mut conn| {
            while let Some(request) = conn.request() {
                if request.line.contains("/long") {
                    conn.say("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
                    may_go_on.lock().expect("one at a time").recv_timeout(LONG).expect("the test says so");
                    conn.say("half");
                } else {
                    conn.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{name}", name.len()));
                }
            }
            let _ = end.lock().expect("one at a time").send(conn.number);
        });
        Held { origin, go_on, ended }
    }

    fn end_of_a_connection(&self) -> usize {
        self.ended.recv_timeout(LONG).expect("a connection ends")
    }
}

#[test]
fn who_is_under_way_goes_on_and_who_comes_finds_the_other() {
    let (old, new) = (Held::start("old"), Held::start("new"));
    let mut proxy = Proxy::start(patient(&[&old.origin]));
    let long = proxy.submit(get("/long"));
    proxy.wait_for(long, 4);
    assert_eq!(proxy.ask(get("/")).body(), b"old");
    proxy.change_to(patient(&[&new.origin]));
    assert_eq!(old.end_of_a_connection(), 1, "it was kept, and is not any more");
    assert_eq!(proxy.ask(get("/")).body(), b"new");
    old.go_on.send(()).expect("it waits");
    assert_eq!(proxy.wait(long).body(), b"halfhalf");
    assert_eq!(old.end_of_a_connection(), 0, "nobody can use it");
    assert_eq!((old.origin.count(), new.origin.count()), (2, 1));
    // Counted as before.
    assert_eq!((proxy.count("requests"), proxy.count("replies")), (3, 3));
}

#[test]
fn who_waits_for_a_connection_gets_one() {
    let (old, new) = (Held::start("old"), Held::start("new"));
    let mut proxy = Proxy::start(Options { connections: 1, ..patient(&[&old.origin]) });
    let long = proxy.submit(get("/long"));
    proxy.wait_for(long, 4);
    let waiting: Vec<_> = (0..3).map(|_| proxy.submit(get("/"))).collect();
    proxy.until("they wait", |tally| tally.value("upstream_queued") == 3);
    proxy.change_to(patient(&[&new.origin]));
    old.go_on.send(()).expect("it waits");
    assert_eq!(proxy.wait(long).body(), b"halfhalf");
    for id in waiting {
        assert_eq!(proxy.wait(id).body(), b"old");
    }
    for _ in 0..old.origin.count() {
        old.end_of_a_connection();
    }
}

#[test]
fn who_is_gone_is_not_asked_how_it_is() {
    let (old, new) = (Held::start("old"), Held::start("new"));
    let health = Health {
        path: "/health".to_owned(),
        host: None,
        interval: Duration::from_millis(5),
        timeout: LONG,
        rise: 1,
        fall: 1,
    };
    let of = |held: &Held| Options { health: Some(health.clone()), ..patient(&[&held.origin]) };
    let mut proxy = Proxy::start(of(&old));
    // Each check has a connection of its own.
    for _ in 0..3 {
        old.end_of_a_connection();
    }
    proxy.change_to(of(&new));
    // One may be on its way, and is not counted yet.
    let asked_max = old.origin.count() + 1;
    for _ in 0..10 {
        new.end_of_a_connection();
    }
    assert!(old.origin.count() <= asked_max, "{} checks, {asked_max} at most", old.origin.count());
}
