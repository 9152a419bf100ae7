//! Reply slots of clients that acknowledge nothing: they are others' after a while, and every byte arrives all the same.

mod common;

use common::World;
use common::client::Habit;
use common::helper::Helper;
use common::node::Options;
use common::peer::SLOTS;
use keyferry_decide::Policy;
use keyferry_worker::pool::PoolSizes;
use keyferry_worker::slots::PATIENCE;

const HONEST: usize = 4;
/// Steps of a millisecond that records stay in slots.
const PATIENT: usize = PATIENCE.as_millis() as usize;
/// Longest time to hear what was not acknowledged again: time-outs double.
const AGAIN: usize = 20_000;

/// Clients that ask all the time, whose requests are lent.
fn world(pools: PoolSizes) -> (World, Helper, Vec<usize>) {
    let mut world = World::new(Options { policy: Policy::Always, pools, ..Options::default() }, 1);
    let mut helper = Helper::connect(&mut world);
    let honest = world.join_many(HONEST, Habit::Asks);
    steps(&mut world, &mut helper, 50);
    assert!(world.total("replies_lent") > 4 * HONEST as u64, "{:#?}", world.counted());
    (world, helper, honest)
}

fn pools() -> PoolSizes {
    Options::default().pools
}

fn steps(world: &mut World, helper: &mut Helper, count: usize) {
    for _ in 0..count {
        world.step();
        helper.serve();
    }
}

/// Others' requests go on, and go on to be lent.
fn expect_lent(world: &mut World, helper: &mut Helper, honest: &[usize]) {
    let lent = world.total("replies_lent");
    world.expect_progress(honest, 100, 10, |_, _| helper.serve());
    assert!(world.total("replies_lent") >= lent + 10 * honest.len() as u64, "{:#?}", world.counted());
}

/// The honest ones fall silent, then whoever is broken writes over every slot: what is still to be sent is elsewhere.
fn scribble(world: &mut World, helper: &mut Helper, honest: &[usize]) {
    honest.iter().for_each(|index| world.clients[*index].listen());
    steps(world, helper, 50);
    helper.scribble();
    steps(world, helper, 2);
}

fn expect_answers(world: &mut World, helper: &mut Helper, deaf: &[usize]) {
    deaf.iter().for_each(|index| world.clients[*index].listen());
    for _ in 0..AGAIN {
        if deaf.iter().all(|index| world.clients[*index].answered == 1) {
            return;
        }
        steps(world, helper, 1);
    }
    panic!("{:?}\n{:#?}", world.answered(deaf), world.counted());
}

#[test]
fn what_is_not_acknowledged_leaves_its_slot_after_the_patience_and_arrives_from_elsewhere() {
    let (mut world, mut helper, honest) = world(pools());
    let count = SLOTS / 2;
    let deaf = world.join_many(count, Habit::Deaf(1024));
    steps(&mut world, &mut helper, PATIENT / 2);
    assert!(world.total("slots_out") >= count as u64, "{:#?}", world.counted());
    assert_eq!(world.total("slots_copied_out"), 0, "they are given time");
    steps(&mut world, &mut helper, PATIENT);
    assert_eq!(world.total("slots_copied_late"), count as u64, "{:#?}", world.counted());
    assert_eq!(world.total("slots_copied_out"), count as u64, "of nobody else");
    assert!(world.total("slots_out") <= HONEST as u64, "{:#?}", world.counted());
    assert!(world.total("records_out") >= count as u64, "{:#?}", world.counted());
    expect_lent(&mut world, &mut helper, &honest);
    scribble(&mut world, &mut helper, &honest);
    expect_answers(&mut world, &mut helper, &deaf);
    assert_eq!(world.total("slots_copied_out"), count as u64, "once each");
    world.assert_all_gone();
}

#[test]
fn where_slots_are_short_nobody_waits_for_the_patience() {
    let (mut world, mut helper, honest) = world(pools());
    let count = 2 * SLOTS;
    let deaf = world.join_many(count, Habit::Deaf(1024));
    steps(&mut world, &mut helper, PATIENT / 2);
    assert_eq!(world.total("slots_copied_late"), 0);
    assert!(world.total("slots_copied_short") >= (count - SLOTS) as u64, "{:#?}", world.counted());
    assert_eq!(world.total("slots_copied_out"), world.total("slots_copied_short"));
    expect_lent(&mut world, &mut helper, &honest);
    scribble(&mut world, &mut helper, &honest);
    expect_answers(&mut world, &mut helper, &deaf);
    world.assert_all_gone();
}

/// A reply that neither its slots nor TCP hold: what TCP has is copied out and makes room for more, the rest waits in slots.
#[test]
fn a_long_reply_holds_what_one_made_here_would_and_its_slots() {
    let (mut world, mut helper, honest) = world(pools());
    let deaf = world.join(Habit::Deaf(1_000_000));
    steps(&mut world, &mut helper, 5 * PATIENT);
    assert_eq!(helper.serving_long(), 1, "the lease is under way");
    let copies = world.total("slots_copied_out");
    assert!(copies > 0 && copies <= keyferry_tcp::SEGMENTS_MAX as u64, "{:#?}", world.counted());
    assert!(world.total("slots_out") <= 16 + HONEST as u64, "{:#?}", world.counted());
    expect_lent(&mut world, &mut helper, &honest);
    assert_eq!(world.total("slots_copied_out"), copies, "no more than TCP takes");
    expect_answers(&mut world, &mut helper, &[deaf]);
    world.assert_all_gone();
}

/// A reply that is longer than what TCP takes at once, and whose lease has ended: all of it leaves its slots.
#[test]
fn what_tcp_has_no_room_for_leaves_its_slots_when_the_lease_has_ended() {
    let (mut world, mut helper, honest) = world(pools());
    let deaf = world.join(Habit::Deaf(200_000));
    steps(&mut world, &mut helper, 4 * PATIENT);
    assert_eq!(helper.serving_long(), 0, "credits are enough for the whole reply");
    assert_eq!(world.total("slots_copied_out"), 13, "{:#?}", world.counted());
    assert!(world.total("slots_out") <= HONEST as u64, "{:#?}", world.counted());
    scribble(&mut world, &mut helper, &honest);
    expect_answers(&mut world, &mut helper, &[deaf]);
    world.assert_all_gone();
}

/// The queue pair ends: what was copied out is the worker's own, and arrives; what hangs on the lease is reset.
#[test]
fn the_queue_pair_ends_meanwhile() {
    let (mut world, mut helper, honest) = world(pools());
    let deaf = world.join_many(8, Habit::Deaf(1024));
    let long = world.join(Habit::Deaf(1_000_000));
    steps(&mut world, &mut helper, 3 * PATIENT);
    assert!(world.total("slots_copied_out") > 8 && helper.serving_long() == 1, "{:#?}", world.counted());
    scribble(&mut world, &mut helper, &honest);
    helper.breaks();
    steps(&mut world, &mut helper, 2);
    assert_eq!(world.total("peers_ready"), 0);
    assert!(world.clients[long].reset, "its key was out");
    let mut other = Helper::connect(&mut world);
    honest.iter().for_each(|index| world.clients[*index].wake());
    expect_lent(&mut world, &mut other, &honest);
    expect_answers(&mut world, &mut other, &deaf);
    world.assert_all_gone();
}

/// Buffers that replies made here may need are not used up: the rest stays in slots.
#[test]
fn few_record_buffers() {
    const RECORDS: usize = 12;
    let (mut world, mut helper, honest) = world(PoolSizes { records: RECORDS, ..pools() });
    let deaf = world.join_many(SLOTS / 2, Habit::Deaf(1024));
    steps(&mut world, &mut helper, 2 * PATIENT);
    assert_eq!(world.total("slots_copied_out"), RECORDS as u64 / 2, "{:#?}", world.counted());
    assert!(world.total("slots_out") >= (SLOTS / 2 - RECORDS / 2) as u64, "{:#?}", world.counted());
    expect_lent(&mut world, &mut helper, &honest);
    assert_eq!(world.total("closed_slow"), 0);
    expect_answers(&mut world, &mut helper, &deaf);
    world.assert_all_gone();
}
