//! Requests that are not served, each for its own reason: the client is told by the right status, and its reason counts, alone.

mod common;

use common::World;
use common::client::Habit;
use common::node::Options;
use common::peer::Peer;
use keyferry_decide::Policy;
use keyferry_worker::counters::SUMS;
use keyferry_worker::pool::PoolSizes;

/// Steps of a millisecond until a request that is not whole is late.
const LATE: usize = 11_000;

/// What a worker says in place of an application, by reason.
fn reasons() -> &'static [&'static str] {
    SUMS.iter().find(|(total, _)| *total == "replies_own").expect("it is a sum").1
}

/// This reason has counted so often, and no other.
fn assert_reason(world: &World, reason: &str, times: u64) {
    for other in reasons() {
        let expected = if *other == reason { times } else { 0 };
        assert_eq!(world.total(other), expected, "{other} beside {reason}");
    }
    assert_eq!(world.total("replies_own"), times, "{reason}");
}

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: flood.test\r\n{fields}\r\n")
}

fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: flood.test\r\n{fields}\r\n")
}

/// A client that says so, and what it is answered; its connection ends in order.
fn status_of(world: &mut World, said: &str) -> u16 {
    let client = world.establish(1, Habit::Told)[0];
    world.clients[client].tell(said.as_bytes());
    world.until(1_000, "the end", |world| world.clients[client].closed);
    let client = &world.clients[client];
    assert!(!client.reset, "{said}");
    client.refused.expect("a refusal")
}

#[test]
fn what_is_wrong_with_a_request_is_said_and_counted() {
    let long = "x".repeat(5_000);
    let refusals = [
        ("refused_syntax", 400, "GET / HTTP/1.1\nHost: flood.test\n\n".to_owned()),
        ("refused_version", 505, "GET / HTTP/3.7\r\nHost: flood.test\r\n\r\n".to_owned()),
        ("refused_head_too_large", 431, get(&format!("A: {long}\r\nB: {long}\r\n"))),
        ("refused_target_too_long", 414, format!("GET /{long} HTTP/1.1\r\nHost: flood.test\r\n\r\n")),
        ("refused_host", 400, get("Host: flood.test\r\n")),
        ("refused_content_length", 400, post("Content-Length: 3\r\nContent-Length: 3\r\n")),
        ("refused_both_lengths", 400, post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")),
        ("refused_transfer_encoding", 501, post("Transfer-Encoding: gzip, chunked\r\n")),
        ("refused_framing", 400, post("Transfer-Encoding: chunked, gzip\r\n")),
        ("refused_chunk", 400, post("Transfer-Encoding: chunked\r\n") + "three\r\n"),
        ("refused_body_too_large", 413, post("Content-Length: 2000000\r\n")),
        ("refused_method", 501, "CONNECT flood.test:443 HTTP/1.1\r\nHost: flood.test\r\n\r\n".to_owned()),
        ("refused_expectation", 417, post("Content-Length: 3\r\nExpect: the best\r\n")),
    ];
    for (reason, status, said) in refusals {
        let mut world = World::new(Options::default(), 1);
        assert_eq!(status_of(&mut world, &said), status, "{reason}");
        assert_reason(&world, reason, 1);
        assert_eq!([world.total("closed_refused"), world.total("requests")], [1, 0], "{reason}");
        world.assert_all_gone();
    }
}

#[test]
fn who_does_not_come_to_an_end_is_late() {
    let mut world = World::new(Options::default(), 2);
    let client = world.establish(1, Habit::Told)[0];
    world.clients[client].tell(b"GET / HTTP/1.1\r\nHost: flo");
    world.until(LATE, "a refusal", |world| world.clients[client].refused == Some(408));
    assert_reason(&world, "refused_late", 1);
    assert_eq!(world.total("closed_timeout"), 1);
    world.assert_all_gone();
}

#[test]
fn an_application_that_has_all_it_may_have_takes_no_more() {
    let mut world = World::new(Options { jobs: 1, ..Options::default() }, 3);
    let first = world.establish(1, Habit::Told)[0];
    world.clients[first].tell(b"GET /?bytes=10&cost_us=2000000 HTTP/1.1\r\nHost: flood.test\r\n\r\n");
    world.until(100, "it has one", |world| world.total("requests_in_app") == 1);
    assert_eq!(status_of(&mut world, &get("")), 503);
    assert_reason(&world, "refused_busy", 1);
    world.until(3_000, "the first answer", |world| world.clients[first].answered == 1);
    world.assert_all_gone();
}

/// A helper takes a request and is not heard of again: what may run twice runs here, what may not is not answered for.
#[test]
fn what_is_lost_at_a_helper_runs_here_only_if_it_may() {
    for (is_safe, said) in [(true, get("")), (false, post("Content-Length: 0\r\n"))] {
        let mut world = World::new(Options { policy: Policy::Always, ..Options::default() }, 4);
        let mut peer = Peer::connect(&mut world);
        let client = world.establish(1, Habit::Told)[0];
        world.clients[client].tell(said.as_bytes());
        world.until(100, "a grant", |world| world.total("leases_granted") == 1);
        // What nobody sealed ends the queue pair.
        peer.send(&[0; 40]);
        world.until(100, "an answer", |world| {
            world.clients[client].answered == 1 || world.clients[client].refused == Some(502)
        });
        assert_eq!(world.clients[client].answered == 1, is_safe);
        assert_reason(&world, "refused_lost", u64::from(!is_safe));
        assert_eq!([world.total("leases_failed"), world.total("peers_lost")], [1, 1]);
        assert_eq!(world.total("closed_refused"), 0, "nothing is wrong with it");
        world.assert_all_gone();
    }
}

/// Before the first byte of its reply a client is told that the application failed; after it only the end of its connection
/// can say so.
#[test]
fn an_application_that_fails_is_told_of_or_the_connection_reset() {
    let said = "GET /sink?fail=1 HTTP/1.1\r\nHost: flood.test\r\n\r\n";
    let mut world = World::new(Options::default(), 5);
    assert_eq!(status_of(&mut world, said), 500);
    assert_reason(&world, "refused_failed", 1);
    assert_eq!([world.total("closed_app"), world.total("requests_answered")], [1, 1]);

    world.node.gate.shut();
    let client = world.establish(1, Habit::Told)[0];
    world.clients[client].tell(said.as_bytes());
    world.until(1_000, "a reply", |world| world.clients[client].rest().starts_with(b"HTTP/1.1 200"));
    world.node.gate.open();
    world.until(100, "a reset", |world| world.clients[client].reset);
    assert_reason(&world, "refused_failed", 1);
    assert_eq!([world.total("closed_app"), world.total("requests_dropped")], [2, 1]);
    world.assert_all_gone();
}

/// No buffer is left to say it in: a reset says at least that there is no answer.
#[test]
fn who_cannot_be_told_is_reset() {
    const RECORDS: usize = 3;
    let pools = PoolSizes { records: RECORDS, ..Options::default().pools };
    let mut world = World::new(Options { pools, ..Options::default() }, 6);
    let client = world.establish(1, Habit::Told)[0];
    world.join(Habit::SlowReader { window: 1000, deaf: true });
    world.until(1_000, "no buffer", |world| world.total("records_out") == RECORDS as u64);
    world.clients[client].tell(get("Host: flood.test\r\n").as_bytes());
    world.until(100, "a reset", |world| world.clients[client].reset);
    assert_reason(&world, "", 0);
    assert_eq!([world.total("closed_unanswered"), world.total("closed_refused")], [1, 1]);
    world.assert_all_gone();
}

/// A client that goes without a word to TLS is told apart from those that say goodbye.
#[test]
fn how_clients_go_is_counted() {
    let mut world = World::new(Options::default(), 7);
    let clients = world.establish(3, Habit::Told);
    assert_eq!(world.total("connections_opened"), 3);
    world.clients[clients[0]].leave();
    world.clients[clients[1]].notify();
    world.until(100, "two are gone", |world| {
        world.total("closed_reset") == 1 && world.clients[clients[1]].closed
    });
    assert_eq!([world.total("ended_by_close_notify"), world.total("ended_truncated")], [1, 0]);
    assert_eq!(world.total("alerts_received_close_notify"), 1);
    assert_eq!(world.total("alerts_sent_close_notify"), 1, "to who said so");
    world.assert_all_gone();
    assert_eq!(world.total("connections_closed"), 3);
}
