//! Connections that go on in another protocol: bytes both ways, as fast as they are taken, until either side ends.

mod common;

use std::time::Duration;

use common::World;
use common::client::Habit;
use common::node::Options;
use keyferry_app::FEEDS_PER_JOB;
use keyferry_worker::mailbox::{Drain, Mail};

const GET: &[u8] = b"GET /?bytes=10 HTTP/1.1\r\nHost: flood.test\r\n\r\n";

fn upgrade(target: &str) -> Vec<u8> {
    let fields = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13";
    format!("GET {target} HTTP/1.1\r\nHost: flood.test\r\n{fields}\r\n\r\n").into_bytes()
}

/// Nothing of it looks like the end of a head.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at % 251) as u8).collect()
}

/// A client whose connection has gone on, and which said so much at once.
fn switched(world: &mut World, target: &str, said: &[u8]) -> usize {
    let client = world.establish(1, Habit::Told)[0];
    world.clients[client].tell(&[&upgrade(target)[..], said].concat());
    world.until(1_000, "another protocol", |world| world.clients[client].refused == Some(101));
    client
}

#[test]
fn bytes_go_both_ways_until_the_client_ends() {
    let mut world = World::new(Options::default(), 1);
    let said = bytes(100_000);
    // Some of it comes in one record with the request.
    let client = switched(&mut world, "/sink", &said[..3_000]);
    world.clients[client].tell(&said[3_000..]);
    world.until(2_000, "an echo", |world| world.clients[client].rest() == said);
    assert_eq!((world.total("upgrades"), world.total("upgraded_bytes")), (1, 100_000));
    // Silence is the application's to judge.
    world.steps(40_000);
    world.clients[client].tell(b"more");
    world.until(1_000, "an echo", |world| world.clients[client].rest().ends_with(b"more"));
    world.clients[client].notify();
    world.until(1_000, "the end", |world| world.clients[client].closed);
    assert!(!world.clients[client].reset);
    assert_eq!((world.total("requests_in_app"), world.total("replies_local")), (0, 1));
    world.assert_all_gone();
}

#[test]
fn the_application_ends_it_too() {
    let mut world = World::new(Options::default(), 2);
    let said = bytes(50_000);
    let client = switched(&mut world, "/sink?end=20000", &said);
    world.until(2_000, "the end", |world| world.clients[client].closed);
    assert_eq!((world.clients[client].rest(), world.clients[client].reset), (&said[..20_000], false));
    assert_eq!((world.total("requests_in_app"), world.total("uploads_unread")), (0, 0));
    world.assert_all_gone();
}

#[test]
fn who_leaves_ends_it_at_the_application() {
    let mut world = World::new(Options::default(), 3);
    let client = switched(&mut world, "/sink", b"hello");
    world.clients[client].leave();
    world.until(500, "the end of the job", |world| world.total("requests_in_app") == 0);
    world.assert_all_gone();
}

#[test]
fn what_is_not_taken_does_not_pile_up() {
    let mut world = World::new(Options::default(), 4);
    let client = switched(&mut world, "/sink", &[]);
    world.node.gate.shut();
    let said = bytes(200_000);
    world.clients[client].tell(&said);
    for _ in 0..2_000 {
        world.step();
        assert!(world.total("chunks_out") <= 2 + FEEDS_PER_JOB as u64);
    }
    assert!(!world.clients[client].has_said_all(), "the window is shut");
    world.node.gate.open();
    world.until(5_000, "an echo", |world| world.clients[client].rest() == said);
    world.clients[client].notify();
    world.until(1_000, "the end", |world| world.clients[client].closed);
    world.assert_all_gone();
}

/// A request that is denied is one like others: its connection goes on.
#[test]
fn what_follows_a_denied_upgrade_is_a_request() {
    let mut world = World::new(Options::default(), 5);
    let client = world.establish(1, Habit::Told)[0];
    world.clients[client].tell(&[&upgrade("/sink?deny=1")[..], GET].concat());
    world.until(1_000, "both answers", |world| world.clients[client].answered == 1);
    assert_eq!((world.clients[client].refused, world.total("upgrades")), (Some(403), 0));
    world.assert_all_gone();
}

#[test]
fn an_application_without_another_protocol_refuses() {
    let mut world = World::new(Options::default(), 6);
    let client = world.establish(1, Habit::Told)[0];
    world.clients[client].tell(&upgrade("/"));
    world.until(1_000, "a refusal", |world| world.clients[client].refused == Some(501));
    world.until(1_000, "the end", |world| world.clients[client].closed);
    assert_eq!(world.total("refused_upgrade"), 1);
    world.assert_all_gone();
}

#[test]
fn a_drain_ends_it_at_its_deadline() {
    let mut world = World::new(Options::default(), 7);
    let client = switched(&mut world, "/sink", b"hello");
    let drain = Drain { idle: Duration::from_millis(100), deadline: Duration::from_millis(500) };
    assert!(world.node.mailboxes[0].push(Mail::Drain(drain)).is_ok());
    world.steps(300);
    assert!(!world.clients[client].reset && !world.clients[client].closed, "it is not idle");
    world.until(1_000, "the deadline", |world| world.clients[client].reset);
    assert_eq!((world.total("closed_deadline"), world.total("requests_in_app")), (1, 0));
}
