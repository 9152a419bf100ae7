//! What a worker tells of requests, in virtual time: each once, with its stages, and what cannot be told is counted.

mod common;

use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use keyferry_worker::access::{Access, ENTRIES_MAX, Entry, Rules, Share};

use common::World;
use common::client::Habit;
use common::node::Options;

fn all() -> Rules {
    Rules { sampled: Share::of(1.0), ..Rules::default() }
}

/// A world whose one worker tells of requests, at most so many at a time.
fn world(rules: Rules, entries: usize) -> (World, Arc<ArrayQueue<Entry>>) {
    let mut world = World::new(Options::default(), 7);
    let queue = Arc::new(ArrayQueue::new(entries));
    let access = || Access::new(Arc::clone(&queue), rules, Options::default().connections, 1);
    let workers = std::mem::take(&mut world.node.workers);
    world.node.workers = workers.into_iter().map(|worker| worker.log_to(access())).collect();
    (world, queue)
}

fn entries(queue: &ArrayQueue<Entry>) -> Vec<Entry> {
    std::iter::from_fn(|| queue.pop()).collect()
}

#[test]
fn each_request_is_told_of_once() {
    let (mut world, queue) = world(all(), ENTRIES_MAX);
    let clients = world.establish(5, Habit::Asks);
    world.steps(200);
    let told = entries(&queue);
    let requests = world.total("requests");
    assert!(
        requests > 50 && told.len() as u64 + clients.len() as u64 >= requests,
        "{} of {requests}",
        told.len()
    );
    assert_eq!((told.len() as u64, world.total("log_dropped")), (world.total("log_entries"), 0));
    for entry in &told {
        assert_eq!((entry.method.as_slice(), entry.path.first()), (&b"GET"[..], Some(&b'/')), "{entry:?}");
        assert!(!entry.path.contains(&b'?'), "no query is told: {entry:?}");
        assert_eq!((entry.status, entry.is_whole, entry.is_slow), (Some(200), true, false), "{entry:?}");
        assert!(entry.bytes > 1024 && entry.suite.is_some() && entry.service.is_some(), "{entry:?}");
    }
    assert!(told.iter().any(|entry| entry.is_acknowledged), "{told:?}");
}

#[test]
fn nothing_is_told_where_nothing_is_wanted() {
    let (mut world, queue) = world(Rules::default(), ENTRIES_MAX);
    world.establish(5, Habit::Asks);
    world.steps(100);
    assert!(world.total("requests") > 0 && queue.is_empty());
}

#[test]
fn a_late_request_is_slow_while_it_is_received() {
    let (mut world, queue) =
        world(Rules { slow_over: Some(Duration::from_secs(5)), ..Rules::default() }, ENTRIES_MAX);
    let client = world.establish(1, Habit::Told)[0];
    world.clients[client].tell(b"GET /half HTTP/1.1\r\nHost: flo");
    world.until(20_000, "it is refused", |world| world.total("refused_late") == 1);
    world.steps(100);
    let [entry] = &entries(&queue)[..] else { panic!("one is slow") };
    assert_eq!((entry.status, entry.is_slow, entry.is_sampled), (Some(408), true, false));
    let receive = entry.stages.receive;
    assert!(receive >= Duration::from_secs(9) && receive <= entry.stages.total(), "{entry:?}");
    assert!(entry.stages.application < Duration::from_secs(1), "{entry:?}");
}

#[test]
fn a_client_that_takes_nothing_is_slow_after_the_application() {
    let (mut world, queue) =
        world(Rules { slow_over: Some(Duration::from_secs(5)), ..Rules::default() }, ENTRIES_MAX);
    world.join(Habit::Deaf(4_000));
    world.until(100_000, "it is given up", |world| world.total("connections_closed") == 1);
    world.steps(10);
    let [entry] = &entries(&queue)[..] else { panic!("one is slow") };
    assert!(entry.is_whole && !entry.is_acknowledged, "{entry:?}");
    assert!(entry.stages.transmit > Duration::from_secs(5), "{entry:?}");
    assert!(entry.stages.application < Duration::from_secs(1), "{entry:?}");
}

#[test]
fn what_is_not_read_in_time_is_dropped_and_counted() {
    let (mut world, queue) = world(all(), 4);
    world.establish(5, Habit::Asks);
    world.steps(200);
    assert_eq!((queue.len() as u64, world.total("log_entries")), (4, 4));
    assert!(world.total("log_dropped") > 50, "{:?}", world.counted());
    assert!(world.total("requests") > 50, "clients are served all the same");
}

#[test]
fn a_request_that_comes_in_pieces_is_drawn_once() {
    let (mut world, queue) = world(Rules { sampled: Share::of(0.25), ..Rules::default() }, ENTRIES_MAX);
    world.establish(20, Habit::Pieces);
    world.until(20_000, "requests", |world| world.total("requests") >= 1_000);
    let told = queue.len() as u64;
    assert!((200..=300).contains(&told), "{told} of a thousand");
    assert!(entries(&queue).iter().any(|entry| entry.stages.receive > Duration::ZERO));
}
