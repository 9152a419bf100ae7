//! Bodies that stream to an origin: framed as they came, no faster than it reads, and sent once.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use common::*;
use keyferry_upstream::Options;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PIECE: [u8; 16_000] = [b'x'; 16_000];

/// A body by its length.
const BY_LENGTH: &str = "POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 160000";
const CHUNKED: &str = "POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked";

#[test]
fn a_body_is_framed_as_it_came() {
    let (seen, log) = log();
    let origin = Origin::tcp(move |mut conn| {
        while let Some(mut request) = conn.head() {
            request.body = match request.field("content-length") {
                Some(length) => conn.bytes(length.parse().expect("a length")).expect("a body"),
                None => conn.chunks().expect("a body in chunks"),
            };
            let _ = seen.lock().expect("one at a time").send(request);
            conn.say(OK);
        }
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    for (head, pieces) in [
        (BY_LENGTH, 10),
        (CHUNKED, 10),
        (CHUNKED, 0),
        ("GET /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked", 1),
        ("DELETE /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked", 0),
    ] {
        let id = proxy.submit(streaming(head));
        // An end of its own where there is nothing else.
        for number in 1..=pieces {
            proxy.feed(id, &PIECE, number == pieces);
        }
        if pieces == 0 {
            proxy.feed(id, &[], true);
        }
        assert_eq!(proxy.wait(id).body(), b"ok", "{head}");
        let seen = log.next();
        assert_eq!(seen.body.len(), pieces * PIECE.len(), "{head}");
        let framing = (seen.field("content-length"), seen.field("transfer-encoding"));
        let expected = if head == BY_LENGTH { (Some("160000"), None) } else { (None, Some("chunked")) };
        assert_eq!(framing, expected, "{head}");
    }
    assert_eq!((origin.count(), proxy.count("replies")), (1, 5), "the connection is kept");
}

#[test]
fn a_body_goes_no_faster_than_it_is_read() {
    let go_on = Arc::new(AtomicBool::new(false));
    let may_read = Arc::clone(&go_on);
    let origin = Origin::tcp(move |mut conn| {
        conn.head().expect("a request");
        while !may_read.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(conn.chunks().expect("a body").len(), 2_000 * PIECE.len());
        conn.say(OK);
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    let id = proxy.submit(streaming(CHUNKED));
    // What sockets hold is the kernel's to say; it is not all there is.
    let (mut fed, mut taken_at) = (0, Instant::now());
    while taken_at.elapsed() < Duration::from_millis(500) {
        if proxy.may_feed() {
            proxy.feed(id, &PIECE, false);
            (fed, taken_at) = (fed + 1, Instant::now());
            assert!(fed < 2_000, "everything is taken and nothing read");
        }
        proxy.look(true);
    }
    go_on.store(true, Ordering::SeqCst);
    (fed..2_000).for_each(|_| proxy.feed(id, &PIECE, false));
    proxy.feed(id, &[], true);
    assert_eq!(proxy.wait(id).body(), b"ok");
}

/// Its connection is of no use to others; the client is told that its own is not either.
#[test]
fn an_early_reply_is_passed_on() {
    let origin = Origin::tcp(move |mut conn| {
        while conn.head().is_some() {
            if conn.number == 0 {
                conn.bytes(PIECE.len()).expect("some of the body");
                conn.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!");
                // Nothing else comes.
                assert_eq!(conn.bytes(1_000_000), None);
                return;
            }
            conn.say(OK);
        }
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    let id = proxy.submit(streaming(BY_LENGTH));
    proxy.feed(id, &PIECE, false);
    let came = proxy.wait(id);
    assert_eq!((came.status(), came.ended), (413, Ended::Whole { keep_alive: false }));
    assert_eq!(came.field("connection"), Some("close"));
    assert_eq!(proxy.ask(get("/")).body(), b"ok");
    assert_eq!(origin.count(), 2);
}

#[test]
fn an_origin_that_dies_amid_a_body_is_not_asked_again() {
    for method in ["POST", "PUT"] {
        let origin = Origin::tcp(move |mut conn| {
            // The first request is answered, so that the second finds a connection that was kept.
            conn.request().expect("a request");
            conn.say(OK);
            conn.head().expect("a request");
            conn.bytes(PIECE.len()).expect("some of the body");
        });
        let mut proxy = Proxy::start(patient(&[&origin]));
        proxy.ask(get("/"));
        let id = proxy.submit(streaming(&BY_LENGTH.replace("POST", method)));
        proxy.feed(id, &PIECE, false);
        let came = proxy.wait(id);
        assert_eq!((came.status(), came.ended), (502, Ended::Whole { keep_alive: false }), "{method}");
        assert_eq!((proxy.count("failed_broken"), proxy.count("repeated"), origin.count()), (1, 0, 1));
    }
}

#[test]
fn who_leaves_amid_a_body_ends_it_at_the_origin() {
    let (told, tells) = mpsc::channel();
    let origin = Origin::tcp(move |mut conn| {
        conn.head().expect("a request");
        let _ = told.send(conn.bytes(PIECE.len()).is_some());
        let _ = told.send(conn.bytes(160_000).is_none());
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    let id = proxy.submit(streaming(BY_LENGTH));
    proxy.feed(id, &PIECE, false);
    let wait = |proxy: &mut Proxy, what: &str| {
        let deadline = Instant::now() + LONG;
        loop {
            match tells.try_recv() {
                Ok(as_expected) => return assert!(as_expected, "{what}"),
                Err(_) => assert!(Instant::now() < deadline, "{what} does not come"),
            }
            proxy.look(true);
        }
    };
    wait(&mut proxy, "the first piece");
    proxy.cancel(id);
    wait(&mut proxy, "the connection's end");
}

#[test]
fn an_origin_that_does_not_read_or_not_answer_is_late() {
    let origin = Origin::tcp(move |mut conn| {
        let request = conn.head().expect("a request");
        if request.line.starts_with("PUT") {
            conn.bytes(160_000).expect("a body");
        }
        // Until the other side has enough.
        std::thread::sleep(Duration::from_secs(5));
    });
    let short = Duration::from_millis(300);
    let options = Options { body_timeout: short, reply_timeout: short, failures: 0, ..patient(&[&origin]) };
    let mut proxy = Proxy::start(options);
    let id = proxy.submit(streaming(&BY_LENGTH.replace("POST", "PUT")));
    (0..10).for_each(|number| proxy.feed(id, &PIECE, number == 9));
    assert_eq!(proxy.wait(id).status(), 504);
    assert_eq!(proxy.count("failed_reply_late"), 1);
    let id = proxy.submit(streaming(CHUNKED));
    let deadline = Instant::now() + LONG;
    while proxy.count("failed_body_late") == 0 {
        assert!(Instant::now() < deadline, "it takes all there is");
        if proxy.may_feed() {
            proxy.feed(id, &PIECE, false);
        }
        proxy.look(true);
    }
    assert_eq!(proxy.wait(id).status(), 504);
}
