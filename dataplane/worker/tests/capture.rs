//! An operator captures while clients are served, in virtual time: each packet is seen once, what finds no buffer is counted,
//! and nobody is served worse.

mod common;

use std::sync::Arc;

use keyferry_app::Clock as _;
use keyferry_filter::Filter;
use keyferry_time::Time;
use keyferry_worker::capture::{Copies, Direction, SNAP_BYTES_MAX, Tap};
use keyferry_worker::mailbox::Mail;

use common::World;
use common::client::Habit;
use common::node::Options;

/// Has every worker copy what a filter wants.
fn capture(world: &World, filter: &str, snap_bytes: usize) -> Vec<Arc<Copies>> {
    let filter: Filter = filter.parse().expect("a filter");
    let each = world.node.mailboxes.iter().map(|mailbox| {
        let copies = Copies::new(snap_bytes);
        let time = world.node.time.clone();
        let tap = Box::new(Tap::new(filter.clone(), Arc::clone(&copies), move || time.now()));
        assert!(mailbox.push(Mail::Capture(Some(tap))).is_ok(), "a mailbox has room");
        copies
    });
    each.collect()
}

fn end(world: &mut World, all: &[Arc<Copies>]) {
    for mailbox in &world.node.mailboxes {
        assert!(mailbox.push(Mail::Capture(None)).is_ok(), "a mailbox has room");
    }
    assert!(all.iter().all(|copies| !copies.is_over()));
    world.step();
    assert!(all.iter().all(Copies::is_over), "what the workers had of it is gone");
}

/// Counts copies by direction, and gives them back.
fn take(copies: &Copies, counts: &mut [u64; 2], last: &mut Time) {
    while let Some(copy) = copies.take() {
        assert!(copy.at >= *last && copy.bytes().len() == copy.whole_bytes, "whole, and in order");
        *last = copy.at;
        counts[copy.direction as usize] += 1;
        copies.give_back(copy);
    }
}

#[test]
fn each_packet_is_seen_once() {
    for workers in [1, 2] {
        let mut world = World::new(Options { workers, ..Options::default() }, u64::from(workers));
        let clients = world.establish(20, Habit::Asks);
        let port = |world: &World| ["rx_packets", "tx_packets"].map(|name| world.total(name));
        let before = port(&world);
        let all = capture(&world, "", SNAP_BYTES_MAX);
        let mut counts = [0; 2];
        let mut last = vec![Time::ZERO; all.len()];
        world.expect_progress(&clients, 200, 10, |_, _| {
            all.iter().zip(&mut last).for_each(|(copies, last)| take(copies, &mut counts, last));
        });
        all.iter().zip(&mut last).for_each(|(copies, last)| take(copies, &mut counts, last));
        let after = port(&world);
        assert_eq!(counts, [after[0] - before[0], after[1] - before[1]], "{workers} workers");
        assert!(counts.iter().all(|count| *count > 500), "{counts:?}");
        assert_eq!([world.total("captured"), world.total("capture_missed")], [counts[0] + counts[1], 0]);
        assert!(all.iter().all(|copies| copies.is_on()));
        end(&mut world, &all);
        let captured = world.total("captured");
        world.expect_progress(&clients, 20, 1, |_, _| {});
        assert_eq!(world.total("captured"), captured, "it is over");
        world.assert_reconciled();
    }
}

#[test]
fn who_does_not_read_costs_copies_and_no_client() {
    let mut world = World::new(Options::default(), 3);
    let clients = world.establish(20, Habit::Asks);
    let all = capture(&world, "tcp port 443", SNAP_BYTES_MAX);
    world.expect_progress(&clients, 200, 10, |_, _| {});
    let missed: u64 = Direction::ALL.into_iter().map(|direction| all[0].missed(direction)).sum();
    assert_eq!(world.total("capture_missed"), missed);
    assert!(missed > 0 && world.total("captured") > 0, "{missed}");
    let mut kept = 0;
    while let Some(copy) = all[0].take() {
        kept += 1;
        all[0].give_back(copy);
    }
    assert_eq!(world.total("captured"), kept, "what was copied is there");
    world.expect_progress(&clients, 20, 1, |_, _| {});
    assert!(all[0].take().is_some(), "buffers that came back are used");
    end(&mut world, &all);
    world.assert_all_gone();
}

#[test]
fn a_filter_leaves_out_what_it_does_not_want() {
    let mut world = World::new(Options::default(), 4);
    let clients = world.establish(4, Habit::Asks);
    let all = capture(&world, "not tcp", 64);
    world.expect_progress(&clients, 20, 1, |_, _| {});
    assert_eq!(world.total("captured"), 0);
    world.inject(&common::frame::arp_request(common::node::GATEWAY));
    world.step();
    let ways: Vec<_> = std::iter::from_fn(|| all[0].take()).map(|copy| copy.direction).collect();
    assert_eq!(ways, Direction::ALL, "a question, and the answer");
    end(&mut world, &all);
}
