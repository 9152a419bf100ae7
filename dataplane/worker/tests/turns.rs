//! What a worker says of its own time, and the application's: in a clock that stands still meanwhile.

mod common;

use common::World;
use common::client::Habit;
use common::frame;
use common::node::{GATEWAY, Options};
use keyferry_time::Time;

const TURN_NS: u64 = 700_000;

/// Time counts as busy from a turn that had something to do to the next one.
#[test]
fn a_turn_with_something_to_do_is_busy_until_the_next() {
    let mut world = World::new(Options::default(), 1);
    world.steps(5);
    let counts = |world: &World| ["turns", "turns_idle", "busy_ns"].map(|name| world.total(name));
    let turn = |world: &mut World| {
        world.now_ns += TURN_NS;
        world.node.net.advance(world.now_ns);
        world.node.workers[0].turn(Time(world.now_ns));
    };
    let [turns, idle, busy] = counts(&world);
    turn(&mut world);
    assert_eq!(counts(&world), [turns + 1, idle + 1, busy]);
    world.inject(&frame::arp_request(GATEWAY));
    turn(&mut world);
    assert_eq!(counts(&world), [turns + 2, idle + 1, busy]);
    turn(&mut world);
    assert_eq!(counts(&world), [turns + 3, idle + 2, busy + TURN_NS]);
}

#[test]
fn what_the_application_works_adds_up() {
    let mut world = World::new(Options::default(), 2);
    let client = world.establish(1, Habit::Told)[0];
    for (answered, us, sum_ns) in [(1, 5_000, 5_000_000), (2, 20_000, 25_000_000)] {
        let get = format!("GET /?bytes=10&cost_us={us} HTTP/1.1\r\nHost: flood.test\r\n\r\n");
        world.clients[client].tell(get.as_bytes());
        world.until(100, "an answer", |world| world.clients[client].answered == answered);
        // Nobody else has made the client wait.
        assert_eq!(["app_busy_ns", "replies_ns"].map(|name| world.total(name)), [sum_ns; 2]);
    }
    world.assert_all_gone();
}
