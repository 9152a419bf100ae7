//! WebSockets to an origin: asked for, switched to, bytes both ways, and their end from either side.

mod common;

use std::time::Duration;

use common::*;
use keyferry_http::Request;
use keyferry_upstream::Options;

const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// What the client hears of it.
const HEAD: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

fn upgrade(protocol: &str) -> Box<Request> {
    let fields =
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    request(format!("GET /chat HTTP/1.1\r\nHost: x\r\nUpgrade: {protocol}\r\n{fields}\r\n\r\n").as_bytes())
}

/// Switches, and sends everything back until its client has no more to say.
fn echo() -> (Origin, Log) {
    let (seen, log) = log();
    let origin = Origin::tcp(move |mut conn| {
        let request = conn.request().expect("a request");
        let _ = seen.lock().expect("one at a time").send(request);
        conn.say(SWITCHED);
        while let Some(byte) = conn.bytes(1) {
            conn.say(byte);
        }
    });
    (origin, log)
}

#[test]
fn bytes_go_both_ways_until_the_client_ends() {
    let (origin, log) = echo();
    let mut proxy = Proxy::start(patient(&[&origin]));
    let id = proxy.submit(upgrade("websocket"));
    assert_eq!(String::from_utf8(proxy.wait_for(id, HEAD.len())).expect("a head of text"), HEAD);
    let seen = log.next();
    let fields =
        ["connection", "upgrade", "sec-websocket-version", "content-length"].map(|name| seen.field(name));
    assert_eq!(fields, [Some("upgrade"), Some("websocket"), Some("13"), None]);
    let said: Vec<u8> = (0..50_000u32).map(|at| at as u8).collect();
    for piece in said.chunks(9_000) {
        proxy.feed(id, piece, false);
    }
    assert_eq!(proxy.wait_for(id, HEAD.len() + said.len())[HEAD.len()..], said);
    proxy.feed(id, &[], true);
    let came = proxy.wait(id);
    assert_eq!((came.bytes.len(), came.ended), (HEAD.len() + said.len(), Ended::Whole { keep_alive: false }));
    assert_eq!((proxy.count("upgrades"), proxy.count("upgrades_idle")), (1, 0));
}

#[test]
fn the_origin_ends_it_in_order_or_not() {
    for in_order in [true, false] {
        let origin = Origin::tcp(move |mut conn| {
            conn.request().expect("a request");
            conn.say(SWITCHED);
            assert_eq!(conn.bytes(5).as_deref(), Some(b"hello".as_slice()));
            if in_order {
                conn.say("bye");
            } else {
                conn.stream.reset();
            }
        });
        let mut proxy = Proxy::start(patient(&[&origin]));
        let id = proxy.submit(upgrade("websocket"));
        proxy.wait_for(id, HEAD.len());
        proxy.feed(id, b"hello", false);
        let came = proxy.wait(id);
        if in_order {
            assert_eq!(
                (&came.bytes[HEAD.len()..], came.ended),
                (&b"bye"[..], Ended::Whole { keep_alive: false })
            );
        } else {
            assert_eq!(came.ended, Ended::Failed { started: true });
        }
    }
}

/// What the origin reads nothing of is bounded, and given up with the client.
#[test]
fn what_is_not_read_does_not_pile_up() {
    let origin = Origin::tcp(move |mut conn| {
        conn.request().expect("a request");
        conn.say(SWITCHED);
        std::thread::sleep(Duration::from_secs(5));
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    let id = proxy.submit(upgrade("websocket"));
    proxy.wait_for(id, HEAD.len());
    let (mut fed, mut looks) = (0, 0);
    while looks < 1_000 {
        looks += 1;
        if proxy.may_feed() {
            proxy.feed(id, &[b'x'; 16_000], false);
            (fed, looks) = (fed + 1, 0);
            assert!(fed < 2_000, "everything is taken and nothing read");
        }
        proxy.look(true);
    }
    proxy.cancel(id);
}

#[test]
fn silence_ends_it() {
    let (origin, _log) = echo();
    let short = Duration::from_millis(200);
    let mut proxy = Proxy::start(Options { upgraded_timeout: short, ..patient(&[&origin]) });
    let id = proxy.submit(upgrade("websocket"));
    let came = proxy.wait(id);
    assert_eq!((came.bytes.len(), came.ended), (HEAD.len(), Ended::Whole { keep_alive: false }));
    assert_eq!(proxy.count("upgrades_idle"), 1);
}

/// Denied, of another protocol, or not what was asked for.
#[test]
fn other_answers_are_replies_or_none() {
    let origin = Origin::tcp(move |mut conn| {
        while let Some(request) = conn.request() {
            match request.field("upgrade") {
                Some(_) if conn.number == 0 => {
                    conn.say("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
                }
                Some(_) => return conn.say("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"),
                None => {
                    conn.say("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
                    return;
                }
            }
        }
    });
    let mut proxy = Proxy::start(patient(&[&origin]));
    let denied = proxy.ask(upgrade("websocket"));
    assert_eq!((denied.status(), denied.ended), (403, Ended::Whole { keep_alive: true }));
    // Nobody asks an origin for any other protocol.
    assert_eq!(proxy.ask(upgrade("h2c")).body(), b"ok");
    assert_eq!(proxy.ask(upgrade("websocket, h2c")).body(), b"ok");
    assert_eq!(proxy.ask(upgrade("websocket")).status(), 502);
    assert_eq!((proxy.count("failed_garbled"), proxy.count("upgrades")), (1, 0));
}
