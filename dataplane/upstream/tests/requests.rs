//! Requests as origins get them: whose they are, over which connection, how often, and at which server.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Condvar, Mutex, mpsc};
use std::time::Duration;

use common::*;
use keyferry_upstream::{Forwarded, Health, Options};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Answers everything, and writes down what it saw.
fn listening() -> (Origin, Log) {
    let (seen, log) = log();
    let origin = Origin::tcp(move |mut conn| {
        while let Some(request) = conn.request() {
            let _ = seen.lock().expect("one at a time").send(request);
            conn.say(OK);
        }
    });
    (origin, log)
}

#[test]
fn a_request_is_told_whose_it_is() {
    let (origin, log) = listening();
    let mut proxy = Proxy::start(patient(&[&origin]));
    let sent = request(
        b"POST /a/b?c=d HTTP/1.1\r\nHost: Example.net:8443\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\n\
          TE: trailers\r\nUpgrade: h2c\r\nProxy: http://evil\r\nProxy-Authorization: x\r\nForwarded: for=evil\r\nX_Forwarded_For: evil\r\n\
          X-Forwarded-Proto: http\r\nX-Real-IP: evil\r\nCookie: a=b\r\nX-Twice: 1\r\nX-Twice: 2\r\nExpect: 100-continue\r\n\
          Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    assert_eq!(proxy.ask(from(sent, 50_000)).body(), b"ok");
    let seen = log.next();
    assert_eq!((seen.line.as_str(), &seen.body[..]), ("POST /a/b?c=d HTTP/1.1", &b"abcde"[..]));
    let mut fields: Vec<_> = seen.fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "content-length: 5",
            "cookie: a=b",
            "forwarded: for=192.0.2.7;proto=https;host=\"Example.net:8443\"",
            "host: Example.net:8443",
            "x-forwarded-for: 192.0.2.7",
            "x-forwarded-host: Example.net:8443",
            "x-forwarded-proto: https",
            "x-twice: 1",
            "x-twice: 2"
        ]
    );
}

#[test]
fn what_a_trusted_client_says_is_added_to() {
    let (origin, log) = listening();
    let trusted = Forwarded { legacy: true, standard: true, trusted: true };
    let mut proxy = Proxy::start(Options { forwarded: trusted, via: true, ..patient(&[&origin]) });
    let sent = request(
        b"GET http://other.net/x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 203.0.113.8\r\n\
          Forwarded: for=203.0.113.9\r\nX-Forwarded-Proto: http\r\nVia: 1.1 edge\r\n\r\n",
    );
    proxy.ask(from(sent, 50_000));
    let seen = log.next();
    assert_eq!((seen.line.as_str(), seen.field("host")), ("GET /x HTTP/1.1", Some("other.net")));
    assert_eq!(seen.field("x-forwarded-for"), Some("203.0.113.9, 203.0.113.8, 192.0.2.7"));
    assert_eq!(
        seen.field("forwarded"),
        Some("for=203.0.113.9, for=192.0.2.7;proto=https;host=\"other.net\"")
    );
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    let vias: Vec<_> =
        seen.fields.iter().filter(|(name, _)| name == "via").map(|(_, via)| via.as_str()).collect();
    assert_eq!(vias, ["1.1 edge", "1.1 keyferry"]);
}

#[test]
fn nobody_is_named_where_that_is_asked_for() {
    let (origin, log) = listening();
    let none = Forwarded { legacy: false, standard: false, trusted: false };
    let mut proxy = Proxy::start(Options { forwarded: none, ..patient(&[&origin]) });
    proxy.ask(from(request(b"PUT /<x>?{y} HTTP/1.0\r\nForwarded: for=evil\r\n\r\n"), 50_000));
    let seen = log.next();
    // A client of HTTP/1.0 need not name a host; a method with a body says that there is none; characters that no URI has
    // are encoded.
    assert!(seen.line.starts_with("PUT /%3Cx%3E?") && seen.line.ends_with(" HTTP/1.1"), "{}", seen.line);
    let names: BTreeSet<_> = seen.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["content-length", "host"]));
    assert_eq!(
        (seen.field("content-length"), seen.field("host")),
        (Some("0"), Some(origin.address.to_string().as_str()))
    );
}

#[test]
fn a_client_nobody_knows_is_unknown() {
    let (origin, log) = listening();
    let mut proxy = Proxy::start(patient(&[&origin]));
    proxy.ask(get("/"));
    let seen = log.next();
    assert_eq!(seen.field("x-forwarded-for"), Some("unknown"));
    assert_eq!(seen.field("forwarded"), Some("for=unknown;proto=https;host=\"x\""));
}

#[test]
fn requests_share_connections_also_over_unix_sockets() {
    let folder = tempfile::tempdir().expect("a folder");
    let origin = Origin::unix(&folder.path().join("o.sock"), |mut conn| {
        while let Some(seen) = conn.request() {
            assert_eq!(seen.field("host"), Some("x"));
            conn.say(OK);
        }
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    for _ in 0..100 {
        assert_eq!(proxy.ask(get("/")).body(), b"ok");
    }
    assert_eq!((origin.count(), proxy.count("reused"), proxy.count("replies")), (1, 99, 100));
}

/// Connections are bounded, and what waits for one gets one in its turn; more than may wait is refused.
#[test]
fn a_full_upstream_queues_and_then_refuses() {
    let held = Arc::new((Mutex::new(true), Condvar::new()));
    let gate = Arc::clone(&held);
    let origin = Origin::tcp(move |mut conn| {
        while conn.request().is_some() {
            let shut = gate.0.lock().expect("the test lives");
            drop(gate.1.wait_while(shut, |shut| *shut).expect("the test lives"));
            conn.say(OK);
        }
    });
    let mut proxy = Proxy::start(Options { connections: 2, queue: 3, ..patient(&[&origin]) });
    let ids: Vec<_> = (0..6).map(|_| proxy.submit(get("/"))).collect();
    proxy.until("one is refused", |tally| tally.value("upstream_failed_queue_full") == 1);
    assert_eq!(proxy.count("queued"), 3);
    *held.0.lock().expect("the origin lives") = false;
    held.1.notify_all();
    let mut statuses: Vec<_> = ids.into_iter().map(|id| proxy.wait(id).status()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 503]);
    assert_eq!(origin.count(), 2);
    // Who waits is not waited for for ever.
    *held.0.lock().expect("the origin lives") = true;
    let short = Duration::from_millis(50);
    let mut proxy = Proxy::start(Options { connections: 1, queue_timeout: short, ..patient(&[&origin]) });
    let first = proxy.submit(get("/"));
    let second = proxy.ask(get("/"));
    assert_eq!((second.status(), proxy.count("failed_queue_late")), (503, 1));
    *held.0.lock().expect("the origin lives") = false;
    held.1.notify_all();
    assert_eq!(proxy.wait(first).status(), 200);
}

/// Ends each kept connection when the next request comes over it, without a byte of a reply.
fn forgetful(log: Option<Arc<Mutex<std::sync::mpsc::Sender<Seen>>>>) -> Origin {
    Origin::tcp(move |mut conn| {
        let mut first = true;
        while let Some(seen) = conn.request() {
            // The answer to HEAD has no body.
            let reply = if seen.line.starts_with("HEAD") { &OK[..OK.len() - 2] } else { OK };
            if let Some(log) = &log {
                let _ = log.lock().expect("one at a time").send(seen);
            }
            if !std::mem::take(&mut first) {
                return;
            }
            conn.say(reply);
        }
    })
}

#[test]
fn what_may_be_sent_twice_is_where_a_kept_connection_ends() {
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
        let origin = forgetful(None);
        let mut proxy = Proxy::start(patient(&[&origin]));
        let head = format!("{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
        for _ in 0..2 {
            assert_eq!(proxy.ask(request(head.as_bytes())).status(), 200, "{method}");
        }
        assert_eq!((origin.count(), proxy.count("repeated")), (2, 1), "{method}");
    }
    for method in ["POST", "PATCH", "PURGE"] {
        let (sender, log) = log();
        let origin = forgetful(Some(sender));
        let mut proxy = Proxy::start(patient(&[&origin]));
        let head = format!("{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(proxy.ask(request(head.as_bytes())).status(), 200);
        assert_eq!(proxy.ask(request(head.as_bytes())).status(), 502, "{method}");
        assert_eq!((origin.count(), proxy.count("repeated"), proxy.count("failed_broken")), (1, 0, 1));
        // Seen twice in all: each once.
        assert_eq!([log.next().body, log.next().body], [b"abc", b"abc"]);
    }
}

/// One that fails also over a new connection is not sent a third time.
#[test]
fn nothing_is_sent_three_times() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&seen);
    let origin = Origin::tcp(move |mut conn| {
        while conn.request().is_some() {
            if count.fetch_add(1, Ordering::SeqCst) > 0 {
                return;
            }
            conn.say(OK);
        }
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    assert_eq!(proxy.ask(get("/")).status(), 200);
    assert_eq!(proxy.ask(get("/")).status(), 502);
    assert_eq!((seen.load(Ordering::SeqCst), proxy.count("repeated")), (3, 1));
}

/// A connection that ended while it was kept is not used, whatever the method.
#[test]
fn an_ended_connection_is_not_used() {
    let origin = Origin::tcp(|mut conn| {
        if conn.request().is_some() {
            conn.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    for _ in 0..20 {
        assert_eq!(proxy.ask(request(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")).status(), 200);
    }
    assert_eq!((origin.count(), proxy.count("reused")), (20, 0));
}

/// A connection that nobody uses ends, and the next request has another.
#[test]
fn kept_connections_end() {
    let (ended, is_ended) = mpsc::channel();
    let ended = Mutex::new(ended);
    let origin = Origin::tcp(move |mut conn| {
        while conn.request().is_some() {
            conn.say(OK);
        }
        let _ = ended.lock().expect("one at a time").send(());
    });
    let idle_timeout = Duration::from_millis(20);
    let mut proxy = Proxy::start(Options { idle_timeout, ..patient(&[&origin]) });
    for number in 1..=2 {
        assert_eq!(proxy.ask(get("/")).status(), 200);
        is_ended.recv_timeout(LONG).expect("the connection ends");
        assert_eq!(origin.count(), number);
    }
}

#[test]
fn a_server_that_refuses_is_passed_over_and_left_out() {
    let (origin, _log) = listening();
    let closed = ClosedPort::new();
    let options = Options { failures: 2, ..of(vec![closed.address(), origin.address.clone()]) };
    let mut proxy = Proxy::start(options);
    for _ in 0..20 {
        assert_eq!(proxy.ask(request(b"POST / HTTP/1.1\r\nHost: x\r\n\r\n")).status(), 200);
    }
    // Two failures in a row, then it was not tried again.
    assert_eq!((proxy.count("elsewhere"), proxy.count("left_out")), (2, 1));
}

#[test]
fn a_server_that_is_back_is_used_again() {
    let closed = ClosedPort::new();
    let options = Options { failures: 1, out: Duration::from_millis(1), ..of(vec![closed.address()]) };
    let mut proxy = Proxy::start(options);
    let came = proxy.ask(get("/"));
    assert_eq!((came.status(), proxy.count("failed_connect")), (502, 1));
    let origin = Origin::on(closed.listen(), |mut conn| {
        while conn.request().is_some() {
            conn.say(OK);
        }
    });
    assert_eq!(proxy.ask(get("/")).status(), 200);
    assert_eq!(origin.count(), 1);
}

#[test]
fn servers_share_the_work() {
    let together = Arc::new(Barrier::new(4));
    let origin = || {
        let together = Arc::clone(&together);
        Origin::tcp(move |mut conn| {
            while conn.request().is_some() {
                // No reply before every server has two requests.
                together.wait();
                conn.say(OK);
            }
        })
    };
    let (one, other) = (origin(), origin());
    let mut proxy = Proxy::start(patient(&[&one, &other]));
    let ids: Vec<_> = (0..4).map(|_| proxy.submit(get("/"))).collect();
    for id in ids {
        assert_eq!(proxy.wait(id).status(), 200);
    }
    assert_eq!([one.count(), other.count()], [2, 2]);
}

/// Health checks take a server out and bring it back; with none left a request is refused at once.
#[test]
fn checks_take_out_and_bring_back() {
    let is_well = Arc::new(AtomicBool::new(false));
    let health = Arc::clone(&is_well);
    let origin = Origin::tcp(move |mut conn| {
        while let Some(seen) = conn.request() {
            let is_check = seen.line == "GET /health HTTP/1.1" && seen.field("host") == Some("h.net");
            conn.say(match (is_check, health.load(Ordering::SeqCst)) {
                (true, false) => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
                _ => OK,
            });
        }
    });
    let health = Health {
        path: "/health".to_owned(),
        host: Some("h.net".to_owned()),
        interval: Duration::from_millis(1),
        timeout: LONG,
        rise: 2,
        fall: 2,
    };
    let mut proxy = Proxy::start(Options { health: Some(health), ..patient(&[&origin]) });
    proxy.until("taken out", |tally| tally.value("upstream_fell") == 1);
    let came = proxy.ask(get("/"));
    assert_eq!((came.status(), proxy.count("failed_no_server")), (503, 1));
    is_well.store(true, Ordering::SeqCst);
    proxy.until("brought back", |tally| tally.value("upstream_rose") == 1);
    assert_eq!(proxy.ask(get("/")).status(), 200);
    assert!(proxy.count("checks_failed") >= 2);
}

/// Each client's connection is announced once, and carries that client's requests alone.
#[test]
fn connections_are_a_clients_own_where_they_say_whose_they_are() {
    let (seen, log) = log();
    let origin = Origin::tcp(move |mut conn| {
        let Some(header) = conn.bytes(28) else { return };
        assert_eq!(header[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c");
        assert_eq!(header[16..20], [192, 0, 2, 7]);
        let port = u16::from_be_bytes([header[24], header[25]]);
        while let Some(mut request) = conn.request() {
            request.body = port.to_be_bytes().to_vec();
            let _ = seen.lock().expect("one at a time").send(request);
            conn.say(OK);
        }
    });
    let mut proxy = Proxy::start(Options { proxy_protocol: true, connections: 2, ..patient(&[&origin]) });
    for (port, connections) in [(50_000, 1), (50_001, 2), (50_000, 2), (50_001, 2), (50_002, 3), (50_002, 3)]
    {
        assert_eq!(proxy.ask(from(get("/"), port)).status(), 200);
        assert_eq!(log.next().body, port.to_be_bytes());
        assert_eq!(origin.count(), connections, "port {port}");
    }
}

#[test]
fn many_requests_at_a_time_keep_few_connections() {
    let (origin, _log) = listening();
    let mut proxy = Proxy::start(Options { connections: 8, idle: 4, ..patient(&[&origin]) });
    for _ in 0..20 {
        let ids: Vec<_> = (0..32).map(|at| proxy.submit(get(&format!("/{at}")))).collect();
        for id in ids {
            assert_eq!(proxy.wait(id).body(), b"ok");
        }
    }
    assert_eq!(proxy.count("replies"), 640);
    // No more than eight at a time, of which four are kept when nobody waits; the next four requests go over them, so that
    // however often that is, no more than every other request opens one.
    assert!(origin.count() <= 8 + 640 / 2, "{} connections", origin.count());
}
