//! A peer node with the right keys that breaks the rules: its queue pair ends, under the name of the rule, and nothing
//! else is harmed.

mod common;

use std::net::SocketAddr;

use common::World;
use common::client::Habit;
use common::node::Options;
use common::peer::Peer;
use keyferry_lease::message::{Declined, KEY_BYTES_MAX};
use keyferry_lease::{LeaseId, Message, SlotList};

const HONEST: usize = 8;
const LEASE: LeaseId = LeaseId { index: 3, generation: 1 };
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: flood.test\r\n\r\n";
/// Messages of a flood in one step: fewer than the worker posts receives.
const A_STEP: usize = 32;
/// Heap a flood of messages may take: the bound of what may wait for the peer, and what grew to its size.
const HEAP_BYTES: i64 = 1 << 20;

/// Clients that ask all the time, and one peer.
fn world() -> (World, Vec<usize>, Peer) {
    let mut world = World::new(Options::default(), 1);
    let honest = world.establish(HONEST, Habit::Asks);
    world.steps(20);
    let peer = Peer::connect(&mut world);
    world.heap_bytes = 0;
    (world, honest, peer)
}

/// The queue pair is over for this reason alone; clients are served, another peer may come, and nothing is left.
fn assert_ended(mut world: World, honest: &[usize], peer: &Peer, violation: &str) {
    world.until(50, "the queue pair is over", |world| world.total("peers_ready") == 0);
    world.step();
    assert!(peer.is_over());
    assert_eq!(
        [world.total(violation), world.total("peer_violations"), world.total("peers_lost")],
        [1, 1, 1]
    );
    let other = Peer::connect(&mut world);
    world.expect_progress(honest, 50, 10, |_, _| ());
    assert!(!other.is_over());
    world.assert_all_gone();
}

fn breaks(violation: &str, act: impl FnOnce(&mut Peer)) {
    let (mut world, honest, mut peer) = world();
    act(&mut peer);
    world.steps(2);
    assert_ended(world, &honest, &peer, violation);
}

#[test]
fn what_was_never_sealed() {
    breaks("violations_forged", |peer| peer.send(&[0; 40]));
    breaks("violations_forged", |peer| peer.send(&[]));
}

#[test]
fn a_message_that_is_none() {
    breaks("violations_malformed", |peer| {
        peer.say(&Message::Go { lease: LEASE, key: &[0; KEY_BYTES_MAX + 1], slots: SlotList::new() });
    });
}

#[test]
fn receives_given_back_that_were_never_used() {
    breaks("violations_credit", |peer| {
        (0..100).for_each(|_| peer.channel.gave_back());
        peer.say(&Message::Credit);
    });
}

#[test]
fn a_key_that_is_none() {
    breaks("violations_lease", |peer| {
        peer.say(&Message::Go { lease: LEASE, key: &[0; KEY_BYTES_MAX], slots: SlotList::new() });
    });
}

#[test]
fn a_lease_that_was_never_granted() {
    breaks("violations_lease", |peer| peer.say(&Message::Claim { lease: LEASE, records: 1 }));
    breaks("violations_lease", |peer| {
        peer.say(&Message::Decline { lease: LEASE, why: Declined::Busy });
    });
}

/// A message may cross the one that ended its lease.
#[test]
fn what_comes_late_is_dropped() {
    let (mut world, honest, mut peer) = world();
    let slots: SlotList = [0, 1].into_iter().collect();
    peer.say(&Message::Slots { lease: LEASE, slots });
    peer.say(&Message::Revoke { lease: LEASE });
    peer.say(&Message::Alive { lease: LEASE });
    world.expect_progress(&honest, 50, 10, |_, _| ());
    assert_eq!([world.total("peer_violations"), world.total("peers_ready")], [0, 1]);
    world.assert_all_gone();
}

/// A request of a client that does not exist.
fn grant(lease: LeaseId) -> Message<'static> {
    let end = SocketAddr::from(([192, 0, 2, 7], 50_000));
    Message::Grant { lease, client: end, local: end, head: REQUEST, body: b"" }
}

#[test]
fn a_lease_granted_twice() {
    breaks("violations_lease", |peer| {
        peer.say(&grant(LEASE));
        peer.say(&grant(LEASE));
    });
}

#[test]
fn a_flood_whose_answers_nobody_takes() {
    let (mut world, honest, mut peer) = world();
    let before = world.total("peer_violations");
    world.expect_progress(&honest, 300, 60, |_, _| {
        for _ in 0..A_STEP {
            peer.say(&Message::Revoke { lease: LEASE });
        }
    });
    assert_eq!(before, 0);
    assert!(world.heap_bytes < HEAP_BYTES, "{} bytes of heap", world.heap_bytes);
    assert_ended(world, &honest, &peer, "violations_flood");
}

/// More requests than leases are declined, and those taken end with the queue pair.
#[test]
fn a_flood_of_grants() {
    let (mut world, honest, mut peer) = world();
    let mut granted = 0;
    world.expect_progress(&honest, 40, 8, |_, _| {
        for _ in 0..A_STEP {
            let lease = LeaseId { index: granted, generation: 1 };
            peer.say(&grant(lease));
            granted += 1;
        }
    });
    assert_eq!(world.total("leases_taken"), u64::from(granted));
    assert!(world.total("leases_declined") > 0 && world.total("leases_serving") > 0);
    peer.send(&[0; 40]);
    assert_ended(world, &honest, &peer, "violations_forged");
}
