//! Clients that have shaken hands, told to control for distributors: each once, and nobody waits for it.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::World;
use common::client::Habit;
use common::node::Options;
use crossbeam_queue::ArrayQueue;
use keyferry_worker::announce::{Announced, Announcements};

const LIFETIME: Duration = Duration::from_secs(60);

#[test]
fn clients_are_told_of_while_control_reads() {
    let mut world = World::new(Options::default(), 1);
    let queue = Arc::new(ArrayQueue::new(3));
    let workers = std::mem::take(&mut world.node.workers);
    let announcements = || Announcements::new(Arc::clone(&queue), LIFETIME);
    world.node.workers = workers.into_iter().map(|worker| worker.announce_to(announcements())).collect();
    let clients = world.establish(5, Habit::Asks);
    assert_eq!((queue.len(), world.total("sessions_unannounced")), (3, 2), "control is late");
    while let Some(told) = queue.pop() {
        let is_one = |index: &usize| world.clients[*index].from.0 == told.client;
        assert!(clients.iter().any(is_one) && told.lifetime == LIFETIME, "{told:?}");
    }
    let late = world.establish(1, Habit::Asks)[0];
    let told = Announced { client: world.clients[late].from.0.into(), lifetime: LIFETIME };
    assert_eq!((queue.pop(), world.total("sessions_unannounced")), (Some(told), 2));
    world.expect_progress(&clients, 50, 10, |_, _| ());
    world.assert_all_gone();
}
