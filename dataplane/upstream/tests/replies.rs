//! Replies of origins as clients get them: whole, or seen to be broken.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use common::*;
use keyferry_upstream::Options;

/// Says `reply` to each request, and ends the connection behind it if `ends`.
fn says(reply: impl Into<Vec<u8>>, ends: bool) -> Origin {
    let reply = reply.into();
    Origin::tcp(move |mut conn| {
        while conn.request().is_some() {
            conn.say(&reply);
            if ends {
                return;
            }
        }
    })
}

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_reply_comes_as_the_origin_made_it() {
    let origin = says(
        "HTTP/1.1 404 Nothing Here\r\nServer: o/1\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: a/b\r\n\
         Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nConnection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Authenticate: Basic\r\nTrailer: X\r\nContent-Length: 5\r\n\r\nhello",
        false,
    );
    let mut proxy = Proxy::start(patient(&[&origin]));
    let came = proxy.ask(get("/"));
    let lines: Vec<_> = came.head().lines().collect();
    assert_eq!(
        lines,
        [
            "HTTP/1.1 404 Not Found",
            "Content-Length: 5",
            "server: o/1",
            "date: Sun, 06 Nov 1994 08:49:37 GMT",
            "content-type: a/b",
            "set-cookie: a=1",
            "set-cookie: b=2",
            ""
        ]
    );
    assert_eq!(came.body(), b"hello");
    assert_eq!(came.ended, Ended::Whole { keep_alive: true });
    assert_eq!([proxy.count("requests"), proxy.count("replies")], [1, 1]);
}

#[test]
fn a_reply_without_a_date_gets_one_and_says_its_way() {
    let origin = says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false);
    let mut proxy = Proxy::start(Options { via: true, ..patient(&[&origin]) });
    let came = proxy.ask(get("/"));
    assert!(came.field("date").is_some() && came.field("server").is_none(), "{}", came.head());
    assert_eq!(came.field("via"), Some("1.1 keyferry"));
}

/// Each framing, cut at every byte: never a whole reply, but where the end of the connection is the end of the body.
#[test]
fn a_reply_cut_anywhere_is_seen_to_be_cut() {
    let framings = [
        "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7\r\n, world\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 12\r\n\r\nhello, world",
    ];
    for whole in framings {
        let cut = Arc::new(Mutex::new(0));
        let at = Arc::clone(&cut);
        let origin = Origin::tcp(move |mut conn| {
            while conn.request().is_some() {
                let at = *at.lock().expect("the test lives");
                conn.say(&whole.as_bytes()[..at]);
                if at < whole.len() {
                    return;
                }
            }
        });
        // Failures are what it is about.
        let mut proxy = Proxy::start(Options { failures: 0, ..patient(&[&origin]) });
        let head = whole.find("\r\n\r\n").expect("a head") + 4;
        for at in 0..=whole.len() {
            *cut.lock().expect("the origin lives") = at;
            let came = proxy.ask(get("/"));
            // Of a short reply nothing is said before its body begins.
            let begins = if whole.contains("chunked") { head } else { head + 1 };
            if at < begins {
                assert_eq!((came.status(), at), (502, at));
                assert_eq!(came.body(), b"502 Bad Gateway\n");
            } else if at < whole.len() {
                assert!(matches!(came.ended, Ended::Failed { .. }), "{whole:?} cut at {at}: {came:?}");
            } else {
                assert_eq!(came.body(), b"hello, world");
            }
        }
        assert_eq!(proxy.count("replies"), 1);
        assert_eq!(proxy.count("failed_broken") + proxy.count("failed_cut"), whole.len() as u64);
    }
}

#[test]
fn the_end_of_a_connection_ends_a_body_only_in_order() {
    let origin = says("HTTP/1.0 200 OK\r\nContent-Type: a/b\r\n\r\nall of it", true);
    let mut proxy = Proxy::start(patient(&[&origin]));
    let came = proxy.ask(get("/"));
    assert_eq!((came.status(), came.body()), (200, b"all of it".to_vec()));
    assert_eq!(came.field("transfer-encoding"), Some("chunked"));
    let resets = Origin::tcp(|mut conn| {
        let _ = conn.request();
        conn.say("HTTP/1.0 200 OK\r\n\r\npart of it");
        conn.stream.reset();
    });
    let mut proxy = Proxy::start(patient(&[&resets]));
    let came = proxy.ask(get("/"));
    assert!(matches!(came.ended, Ended::Failed { .. }) || came.status() == 502, "{came:?}");
}

#[test]
fn replies_without_a_body_have_none() {
    let origin = Origin::tcp(|mut conn| {
        while let Some(seen) = conn.request() {
            let target = seen.line.split(' ').nth(1).expect("a target").to_owned();
            conn.say(match target.as_str() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: \"a\"\r\n\r\n",
                "/early" => {
                    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                }
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
            });
        }
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    let none = proxy.ask(get("/204"));
    assert_eq!((none.status(), none.field("content-length")), (204, None));
    let same = proxy.ask(get("/304"));
    assert_eq!((same.status(), same.field("etag")), (304, Some("\"a\"")));
    let head = proxy.ask(request(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"));
    assert_eq!((head.status(), head.field("content-length")), (200, Some("99")));
    assert!(head.bytes.ends_with(b"\r\n\r\n") && matches!(head.ended, Ended::Whole { .. }));
    assert_eq!(proxy.ask(get("/early")).body(), b"ok");
    // All over one connection: nothing was left in it.
    assert_eq!((origin.count(), proxy.count("reused")), (1, 3));
}

#[test]
fn what_is_no_reply_is_a_bad_gateway() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "x".repeat(13_000));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(200));
    for (reply, counter) in [
        ("garbage\r\n\r\n", "failed_garbled"),
        ("SSH-2.0-OpenSSH_9.6\r\n\r\n", "failed_garbled"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "failed_garbled"),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "failed_garbled"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nhello", "failed_garbled"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "failed_garbled"),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "failed_garbled"),
        ("HTTP/1.1 700 What\r\nContent-Length: 0\r\n\r\n", "failed_garbled"),
        ("HTTP/1.1 200 OK\r\nA b: c\r\nContent-Length: 0\r\n\r\n", "failed_garbled"),
        (long.as_str(), "failed_head_too_large"),
        (many.as_str(), "failed_head_too_large"),
    ] {
        let origin = says(reply, true);
        let mut proxy = Proxy::start(patient(&[&origin]));
        let came = proxy.ask(get("/"));
        assert_eq!((came.status(), came.body()), (502, b"502 Bad Gateway\n".to_vec()), "{reply}");
        assert_eq!(proxy.count(counter), 1, "{reply}: {:?}", proxy.tally);
    }
}

/// Large heads that fit, in a reply whose every field is kept.
#[test]
fn a_large_head_is_passed_on() {
    let fields: String = (0..60).map(|at| format!("x-{at}: {}\r\n", "v".repeat(150))).collect();
    let origin = says(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"), false);
    let mut proxy = Proxy::start(patient(&[&origin]));
    let came = proxy.ask(get("/"));
    assert_eq!(came.body(), b"ok");
    assert!((0..60).all(|at| came.field(&format!("x-{at}")).is_some_and(|value| value.len() == 150)));
}

#[test]
fn large_bodies_come_whole_in_either_framing() {
    let bytes = body(3_000_000);
    let sized =
        [format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", bytes.len()).as_bytes(), &bytes].concat();
    let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for piece in bytes.chunks(70_001) {
        chunked.extend(format!("{:x};ext=1\r\n", piece.len()).bytes());
        chunked.extend(piece);
        chunked.extend(b"\r\n");
    }
    chunked.extend(b"0\r\nX-Trailer: 1\r\n\r\n");
    for reply in [sized, chunked] {
        let origin = says(reply, false);
        let mut proxy = Proxy::start(patient(&[&origin]));
        for _ in 0..2 {
            assert!(proxy.ask(get("/")).body() == bytes);
        }
        assert_eq!(origin.count(), 1);
    }
}

/// An HTTP/1.0 client of a reply without a length: the end of its connection is the end of the body.
#[test]
fn an_old_client_gets_no_chunks() {
    let origin = says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false);
    let mut proxy = Proxy::start(patient(&[&origin]));
    let came = proxy.ask(request(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    assert_eq!(came.ended, Ended::Whole { keep_alive: false });
    assert_eq!(came.body(), b"ok");
    assert_eq!((came.field("connection"), came.field("transfer-encoding")), (Some("close"), None));
}

/// No more is read of an origin than a client takes and the sockets hold.
#[test]
fn a_client_that_does_not_read_holds_its_origin_back() {
    const BYTES: usize = 64 << 20;
    let (sender, said) = mpsc::channel();
    let sender = Mutex::new(sender);
    let origin = Origin::tcp(move |mut conn| {
        while conn.request().is_some() {
            conn.say(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n"));
            for _ in 0..BYTES / 65_536 {
                conn.say([7; 65_536]);
                let _ = sender.lock().expect("one at a time").send(65_536usize);
            }
        }
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    let id = proxy.submit(get("/"));
    // Until the origin has stood still for a while: how long does not matter to the outcome, only that far less than all was
    // said.
    let mut bytes = said.recv_timeout(LONG).expect("it begins");
    while let Ok(more) = said.recv_timeout(Duration::from_millis(500)) {
        bytes += more;
        proxy.look(false);
    }
    assert!(bytes < BYTES / 2, "{bytes} bytes were taken of an origin whose client reads nothing");
    proxy.look(false);
    assert!(proxy.so_far(id) <= 2 * keyferry_app::CHUNK_BYTES);
    proxy.more(id);
    let came = proxy.wait(id);
    assert_eq!(came.body().len(), BYTES);
}

#[test]
fn an_origin_that_stands_still_is_given_up() {
    let goes_on = Arc::new(AtomicBool::new(false));
    let origin = Origin::tcp(move |mut conn| {
        while let Some(seen) = conn.request() {
            if seen.line.contains("/body") {
                conn.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            }
            // Nothing more, until the other side hangs up.
            let _ = conn.request();
            goes_on.store(true, Ordering::SeqCst);
        }
    });
    let short = Duration::from_millis(50);
    let mut proxy = Proxy::start(Options { reply_timeout: short, failures: 0, ..patient(&[&origin]) });
    let came = proxy.ask(get("/head"));
    assert_eq!((came.status(), proxy.count("failed_reply_late")), (504, 1));
    let mut proxy = Proxy::start(Options { body_timeout: short, ..patient(&[&origin]) });
    let came = proxy.ask(get("/body"));
    assert!(matches!(came.ended, Ended::Failed { started: true }), "{came:?}");
    assert!(came.bytes.ends_with(b"hello"));
    assert_eq!(proxy.count("failed_stalled"), 1);
}

/// A client that goes away takes its connection to the origin with it, whenever that is.
#[test]
fn a_cancelled_request_leaves_nothing() {
    let (sender, ended) = mpsc::channel();
    let sender = Mutex::new(sender);
    let origin = Origin::tcp(move |mut conn| {
        while let Some(seen) = conn.request() {
            if seen.line.contains("/body") {
                conn.say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            } else if seen.line.contains("/whole") {
                conn.say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
            }
        }
        let _ = sender.lock().expect("one at a time").send(());
    });
    let mut proxy = Proxy::start(Options { connections: 1, ..patient(&[&origin]) });
    for target in ["/head", "/body"] {
        let id = proxy.submit(get(target));
        proxy.until("sent", |tally| tally.value("upstream_connections") > 0);
        if target == "/body" {
            while proxy.so_far(id) == 0 {
                proxy.look(true);
            }
        }
        proxy.cancel(id);
        ended.recv_timeout(LONG).expect("the connection has ended");
        // The only place is free again.
        assert_eq!(proxy.ask(get("/whole")).body(), b"ok");
        assert_eq!(proxy.count("failed_cut"), 0);
        // And is given back for the next round.
        drop(proxy);
        proxy = Proxy::start(Options { connections: 1, ..patient(&[&origin]) });
        ended.recv_timeout(LONG).expect("with the proxy its connections");
    }
}
