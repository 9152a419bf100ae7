//! The end of a worker in order, in virtual time: who is answered, who is closed when, and who is reset.

mod common;

use std::time::Duration;

use keyferry_worker::counters::SUMS;
use keyferry_worker::mailbox::{Drain, Mail};

use common::client::Habit;
use common::node::Options;
use common::{STEP_NS, World};

fn steps(time: Duration) -> usize {
    (time.as_nanos() as u64 / STEP_NS) as usize
}

fn drain(world: &World, idle: Duration, deadline: Duration) {
    for mailbox in &world.node.mailboxes {
        assert!(mailbox.push(Mail::Drain(Drain { idle, deadline })).is_ok(), "a mailbox has room");
    }
}

fn drained(world: &World) -> bool {
    world.total("drained") == world.node.workers.len() as u64
}

fn assert_sums(world: &World) {
    let totals = world.totals();
    for (total, parts) in SUMS {
        assert_eq!(totals[total], parts.iter().map(|part| totals[part]).sum::<u64>(), "{total}");
    }
}

/// Those who ask hear that their reply was the last one; those who do not are closed at half the time, in order; those who
/// neither ask nor go are reset at the end of it.
#[test]
fn everybody_ends_in_time_and_by_their_own_doing() {
    for workers in [1, 2] {
        let (idle, deadline) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut world = World::new(Options { workers, ..Options::default() }, u64::from(workers));
        let ask = world.establish(40, Habit::Asks);
        let idle_ones = world.establish(10, Habit::Idles);
        let slow = world.join_many(3, Habit::SlowHead);
        let silent = world.join_many(3, Habit::Silent);
        world.steps(100);
        drain(&world, idle, deadline);
        world.steps(steps(idle) / 2);
        let ended =
            |world: &World, index: &usize| world.clients[*index].closed && !world.clients[*index].reset;
        assert!(ask.iter().all(|index| ended(&world, index)), "{:#?}", world.counted());
        assert_eq!(world.total("closed_draining"), ask.len() as u64);
        for index in idle_ones.iter().chain(&slow).chain(&silent) {
            assert!(!world.clients[*index].closed && !world.clients[*index].reset);
        }
        // Nobody new.
        let late = world.join(Habit::Asks);
        world.steps(10);
        assert!(world.clients[late].reset, "a SYN is answered with RST");
        world.steps(steps(idle) / 2);
        assert!(idle_ones.iter().chain(&silent).all(|index| ended(&world, index)), "{:#?}", world.counted());
        assert_eq!(world.total("closed_deadline"), 0);
        assert!(!drained(&world), "some are amid a request");
        world.steps(steps(deadline - idle) + 50);
        assert!(slow.iter().all(|index| world.clients[*index].reset));
        assert_eq!(world.total("closed_deadline"), slow.len() as u64);
        assert!(drained(&world), "{:#?}", world.counted());
        assert_eq!(world.total("requests_dropped"), 0);
        assert_sums(&world);
        world.assert_all_gone();
    }
}

/// Whenever the drain begins and idle ones are closed: who has begun to ask is answered.
#[test]
fn what_a_client_has_begun_to_ask_is_answered() {
    for seed in 0..20 {
        let mut world = World::new(Options::default(), seed);
        let clients = world.establish(30, Habit::Pieces);
        world.steps(seed as usize);
        // Shorter than a request in pieces takes.
        drain(&world, Duration::from_millis(seed % 4), Duration::from_secs(60));
        world.until(5_000, "the end", drained);
        assert!(clients.iter().all(|index| !world.clients[*index].reset), "seed {seed}");
        assert!(clients.iter().all(|index| !world.clients[*index].is_waiting()), "seed {seed}");
        assert_eq!(world.total("requests_dropped"), 0, "seed {seed}");
        assert_eq!(world.total("closed_deadline"), 0, "seed {seed}");
        assert_sums(&world);
    }
}

/// Said again it ends sooner, never later; a worker without connections is done at once.
#[test]
fn a_second_word_hastens_it() {
    let mut world = World::new(Options::default(), 1);
    let idle = world.establish(5, Habit::Idles);
    drain(&world, Duration::from_secs(30), Duration::from_secs(60));
    world.steps(100);
    drain(&world, Duration::ZERO, Duration::from_secs(1));
    drain(&world, Duration::from_secs(300), Duration::from_secs(600));
    world.steps(100);
    assert!(idle.iter().all(|index| world.clients[*index].closed), "{:#?}", world.counted());
    assert!(drained(&world));

    let mut empty = World::new(Options::default(), 1);
    drain(&empty, Duration::from_secs(30), Duration::from_secs(60));
    empty.steps(20);
    assert!(drained(&empty));
}
