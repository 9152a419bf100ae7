//! Where requests run and why, in virtual time: each decision counts under its reason, alone.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::World;
use common::client::Habit;
use common::node::Options;
use common::peer::Peer;
use keyferry_decide::{LoadWord, Policy};
use keyferry_worker::mailbox::{Drain, Mail};

const GET: &str = "GET /?bytes=10 HTTP/1.1\r\nHost: flood.test\r\n\r\n";
/// What a request has taken of the application so far.
const SERVICE_US: u32 = 5_000;
const MOVE_COST_US: u32 = 100;
const ESTIMATE: Policy = Policy::Estimate { move_cost_us: MOVE_COST_US };
/// A peer with nothing to do.
const FREE: LoadWord = LoadWord {
    sequence: 0,
    waiting_us: 0,
    service_us: SERVICE_US,
    capacity: 1,
    credits: 8,
    draining: false,
    outstanding: 0,
    taken: 0,
};

fn world(policy: Policy) -> World {
    World::new(Options { policy, ..Options::default() }, 1)
}

/// What was decided so far.
fn decided(world: &World) -> BTreeMap<&'static str, u64> {
    let is_one =
        |name: &str| name != "moved_gain_us" && (name.starts_with("kept_") || name.starts_with("moved_"));
    world.counted().into_iter().filter(|(name, _)| is_one(name)).collect()
}

/// A client that says so: what is decided of it.
fn decision(world: &mut World, said: &str) -> &'static str {
    let client = world.establish(1, Habit::Told)[0];
    decision_of(world, client, said)
}

fn decision_of(world: &mut World, client: usize, said: &str) -> &'static str {
    let before = decided(world);
    world.clients[client].tell(said.as_bytes());
    world.until(20, "a decision", |world| decided(world) != before);
    let after = decided(world);
    let mut new = after.into_iter().filter(|(name, count)| before.get(name).copied().unwrap_or(0) != *count);
    let (name, count) = new.next().expect("it was decided");
    assert_eq!(
        (count, new.next()),
        (before.get(name).copied().unwrap_or(0) + 1, None),
        "one decision: {name}"
    );
    name
}

/// The application has one request more than it works on for as long as this takes, and has measured what requests cost.
fn keep_busy(world: &mut World) {
    let client = world.establish(1, Habit::Told)[0];
    let get = |us: u32| format!("GET /?bytes=10&cost_us={us} HTTP/1.1\r\nHost: flood.test\r\n\r\n");
    world.clients[client].tell(get(SERVICE_US).as_bytes());
    world.until(100, "an answer", |world| world.clients[client].answered == 1);
    world.clients[client].tell(get(60_000_000).as_bytes());
    world.until(100, "it is busy", |world| world.total("requests_in_app") == 1);
}

/// A peer whose load is this, if it says anything.
fn peer(world: &mut World, load: Option<LoadWord>) -> Peer {
    let mut peer = Peer::connect(world);
    if let Some(load) = load {
        peer.tell_load(&LoadWord { sequence: 1, ..load });
        world.step();
    }
    peer
}

#[test]
fn a_busy_node_weighs_what_its_peer_says() {
    let full = LoadWord { credits: 0, ..FREE };
    let draining = LoadWord { draining: true, ..FREE };
    let crowded = LoadWord { outstanding: 9, waiting_us: 9 * SERVICE_US, ..FREE };
    let threshold = |us| Policy::Threshold { us };
    let cases = [
        (ESTIMATE, None, "kept_stale"),
        (ESTIMATE, Some(full), "kept_no_peer"),
        (ESTIMATE, Some(draining), "kept_no_peer"),
        (ESTIMATE, Some(crowded), "kept_balanced"),
        (ESTIMATE, Some(FREE), "moved_sooner"),
        (threshold(1_000), None, "kept_stale"),
        (threshold(1_000), Some(full), "kept_no_peer"),
        (threshold(1_000), Some(crowded), "kept_balanced"),
        (threshold(1_000), Some(FREE), "moved_lighter"),
        (threshold(2 * SERVICE_US), Some(FREE), "kept_light"),
    ];
    for (policy, load, expected) in cases {
        let mut world = world(policy);
        keep_busy(&mut world);
        // Who asks is there already: what a peer says is old after a while.
        let client = world.establish(1, Habit::Told)[0];
        let _peer = peer(&mut world, load);
        assert_eq!(decision_of(&mut world, client, GET), expected, "{policy:?} {load:?}");
        assert_eq!(world.total("leases_granted"), u64::from(expected.starts_with("moved")));
        let gained = if expected == "moved_sooner" { SERVICE_US - MOVE_COST_US } else { 0 };
        assert_eq!(world.total("moved_gain_us"), u64::from(gained), "{expected}");
        world.assert_all_gone();
    }
}

#[test]
fn a_node_with_a_free_slot_keeps_all() {
    let mut world = world(ESTIMATE);
    let client = world.establish(1, Habit::Told)[0];
    let _peer = peer(&mut world, Some(FREE));
    assert_eq!(decision_of(&mut world, client, GET), "kept_idle");
    world.assert_all_gone();
}

#[test]
fn what_cannot_be_lent_stays() {
    let mut world = world(Policy::Always);
    let _peer = peer(&mut world, None);
    let large =
        format!("POST / HTTP/1.1\r\nHost: flood.test\r\nContent-Length: 9000\r\n\r\n{}", "x".repeat(9_000));
    let fields = "Connection: Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13";
    let upgrade = format!("GET /sink HTTP/1.1\r\nHost: flood.test\r\n{fields}\r\n\r\n");
    let cases = [
        ("kept_not_lendable", "GET /?bytes=10 HTTP/1.0\r\n\r\n"),
        ("kept_not_lendable", large.as_str()),
        ("kept_not_lendable", "POST /sink HTTP/1.1\r\nHost: flood.test\r\nContent-Length: 300000\r\n\r\n"),
        ("kept_not_lendable", upgrade.as_str()),
        ("kept_pinned", "GET /?bytes=10&lend=0 HTTP/1.1\r\nHost: flood.test\r\n\r\n"),
        ("moved_forced", GET),
    ];
    for (expected, said) in cases {
        assert_eq!(decision(&mut world, said), expected, "{said}");
    }
    assert_eq!(world.total("leases_granted"), 1);
    world.assert_all_gone();
}

#[test]
fn where_nobody_is_lent_to_all_stays() {
    let mut never = world(Policy::Never);
    let _idle = peer(&mut never, Some(FREE));
    assert_eq!(decision(&mut never, GET), "kept_off");

    let mut world = world(Policy::Always);
    assert_eq!(decision(&mut world, GET), "kept_off", "there has never been a peer");
    let mut gone = peer(&mut world, None);
    gone.send(&[0; 40]);
    world.until(10, "it is gone", |world| world.total("peers_ready") == 0);
    assert_eq!(decision(&mut world, GET), "kept_no_peer");

    let _idle = peer(&mut world, Some(FREE));
    let client = world.establish(1, Habit::Told)[0];
    let drain = Drain { idle: Duration::from_secs(1), deadline: Duration::from_secs(2) };
    assert!(world.node.mailboxes[0].push(Mail::Drain(drain)).is_ok(), "a mailbox has room");
    world.step();
    assert_eq!(decision_of(&mut world, client, GET), "kept_draining");
    world.until(10, "three answers", |world| world.total("replies_local") == 3);
    assert_eq!(world.total("leases_granted"), 0);
}
