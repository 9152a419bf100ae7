//! Each way in which an origin can fail a request: what the client is told, and that it is counted as that and nothing
//! else.

mod common;

use std::fmt;
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::*;
use keyferry_http::{Limits, Progress, Reader, Request};
use keyferry_upstream::{Address, Health, Options};
use tracing::field::Field;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const SHORT: Duration = Duration::from_millis(50);
/// Of crate `http`.
const URI_BYTES_MAX: usize = 65_534;

/// The counters of failures that are not zero, without `upstream_failed_`.
fn failures(proxy: &Proxy) -> Vec<(&'static str, u64)> {
    let names =
        keyferry_upstream::tally::NAMES.iter().filter_map(|name| name.strip_prefix("upstream_failed_"));
    let counted = names.map(|name| (name, proxy.count(&format!("failed_{name}"))));
    counted.filter(|(_, count)| *count > 0).collect()
}

/// One request to an upstream with these options fails for one reason, with this status.
fn fails(options: Options, reason: &'static str, status: u16) {
    let mut proxy = Proxy::start(options);
    let came = proxy.ask(get("/"));
    assert_eq!((came.status(), failures(&proxy)), (status, vec![(reason, 1)]));
}

/// An origin that says this to its first request, and then ends the connection.
fn saying(text: impl Into<Vec<u8>>) -> Origin {
    let text = text.into();
    Origin::tcp(move |mut conn| {
        if conn.request().is_some() {
            conn.say(&text);
            conn.stream.shut();
        }
    })
}

/// An origin that says this to its first request, and then nothing until the other side hangs up.
fn stuck_after(text: &'static str) -> Origin {
    Origin::tcp(move |mut conn| {
        if conn.request().is_some() {
            conn.say(text);
            let _ = conn.request();
        }
    })
}

/// What the crate logs, on any thread.
#[derive(Clone, Default)]
struct Logged(Arc<Mutex<Vec<String>>>);

impl Subscriber for Logged {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("keyferry_upstream")
    }

    fn event(&self, event: &Event<'_>) {
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            if field.name() == "message" {
                self.0.lock().expect("nobody panics with it").push(format!("{value:?}"));
            }
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[test]
fn the_log_says_why_a_server_is_left_out() {
    let logged = Logged::default();
    tracing::subscriber::set_global_default(logged.clone()).expect("no other test listens");
    let closed = ClosedPort::new();
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(13 * 1024));
    let (ends, babbles, talks, waits) =
        (saying(""), saying("SSH-2.0-x\r\n\r\n"), saying(long), stuck_after(""));
    for (options, why) in [
        (of(vec![closed.address()]), "it cannot be connected to"),
        (patient(&[&ends]), "it ended the connection before its reply"),
        (patient(&[&babbles]), "its reply is none of HTTP"),
        (patient(&[&talks]), "the head of its reply is too large"),
        (Options { reply_timeout: SHORT, ..patient(&[&waits]) }, "its reply does not come in time"),
    ] {
        Proxy::start(Options { failures: 1, ..options }).ask(get("/"));
        let lines = logged.0.lock().expect("nobody panics with it");
        assert!(lines.contains(&format!("left out for {LONG:?}: {why}")), "{why}: {lines:?}");
    }
}

#[test]
fn a_server_that_takes_no_connection() {
    let closed = ClosedPort::new();
    fails(of(vec![closed.address()]), "connect", 502);

    let full = ClosedPort::new();
    let Address::Tcp(address) = full.address() else { unreachable!("it is of IP") };
    let _listener = full.listen_for(0);
    // Connections nobody accepts: those beyond the queue are not answered.
    let connect = || TcpStream::connect_timeout(&address, SHORT).ok();
    let _waiting: Vec<_> = std::iter::from_fn(connect).collect();
    fails(Options { connect_timeout: SHORT, ..of(vec![Address::Tcp(address)]) }, "connect_late", 504);
}

#[test]
fn a_server_that_gives_no_reply() {
    fails(patient(&[&saying("")]), "broken", 502);
    fails(patient(&[&saying("HTTP/1.1 200 OK\r\nContent-")]), "broken", 502);
    fails(patient(&[&saying("SSH-2.0-x\r\n\r\n")]), "garbled", 502);
    fails(patient(&[&saying("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")]), "garbled", 502);
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(13 * 1024));
    fails(patient(&[&saying(long)]), "head_too_large", 502);
    fails(Options { reply_timeout: SHORT, ..patient(&[&stuck_after("")]) }, "reply_late", 504);
}

/// Where `[limits] target_bytes` lets it in.
#[test]
fn a_target_that_is_too_long_for_a_uri() {
    let origin = saying("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let limits = Limits { head_bytes: 1 << 20, target_bytes: 1 << 20, ..Limits::default() };
    let mut proxy = Proxy::start(patient(&[&origin]));
    for (longest, status) in [(true, 200), (false, 400)] {
        let target = "x".repeat(URI_BYTES_MAX - usize::from(longest));
        let head = format!("GET /{target} HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut request = Box::new(Request::default());
        let fed = Reader::new().feed(head.as_bytes(), &mut request, &limits);
        assert_eq!(fed, Ok((head.len(), Progress::Complete)));
        assert_eq!(proxy.ask(request).status(), status);
    }
    assert_eq!(failures(&proxy), [("target", 1)]);
}

#[test]
fn a_body_without_its_end() {
    let half = "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\nhalf of it";
    let cut = saying(half);
    let mut proxy = Proxy::start(patient(&[&cut]));
    assert!(matches!(proxy.ask(get("/")).ended, Ended::Failed { .. }));
    assert_eq!(failures(&proxy), [("cut", 1)]);

    let stalled = stuck_after(half);
    let mut proxy = Proxy::start(Options { body_timeout: SHORT, ..patient(&[&stalled]) });
    assert!(matches!(proxy.ask(get("/")).ended, Ended::Failed { .. }));
    assert_eq!(failures(&proxy), [("stalled", 1)]);
}

#[test]
fn no_connection_is_free() {
    for (options, reason) in [
        (Options { queue: 0, ..of(Vec::new()) }, "queue_full"),
        (Options { queue_timeout: SHORT, ..of(Vec::new()) }, "queue_late"),
    ] {
        let origin = stuck_after("");
        let servers = vec![origin.address.clone()];
        let mut proxy = Proxy::start(Options { connections: 1, servers, ..options });
        let first = proxy.submit(get("/"));
        proxy.until("it has the connection", |tally| tally.value("upstream_connections") == 1);
        let came = proxy.ask(get("/"));
        assert_eq!((came.status(), failures(&proxy)), (503, vec![(reason, 1)]));
        proxy.cancel(first);
    }
}

#[test]
fn no_server_is_well() {
    let closed = ClosedPort::new();
    let health = Health {
        path: "/".to_owned(),
        host: None,
        interval: Duration::from_millis(1),
        timeout: LONG,
        rise: 1,
        fall: 1,
    };
    let mut proxy = Proxy::start(Options { health: Some(health), ..of(vec![closed.address()]) });
    proxy.until("taken out", |tally| tally.value("upstream_fell") == 1);
    let came = proxy.ask(get("/"));
    assert_eq!((came.status(), failures(&proxy)), (503, vec![("no_server", 1)]));
    assert_eq!(proxy.count("rose"), 0);
    assert!(proxy.count("checks_failed") > 0);
}
