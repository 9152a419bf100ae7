//! Sessions that live at a peer: they come in time, too late, never, or are none; and clients that do not wait for them.

mod common;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use common::World;
use common::client::{self, Habit};
use common::hoard::Hoard;
use common::node::Options;
use common::peer::{Peer, Said};
use keyferry_decide::NodeId;
use keyferry_lease::Message;
use keyferry_lease::message::SessionName;
use keyferry_worker::mailbox::{Drain, Mail};
use keyferry_worker::pool::PoolSizes;

const HONEST: usize = 8;
/// Steps of a millisecond, a few more than a handshake waits.
const WAIT_STEPS: usize = 25;

/// Clients that ask all the time, and a peer at which about half of the sessions live.
fn world() -> (World, Vec<usize>, Peer) {
    let mut world = World::new(Options { others: &["peer"], ..Options::default() }, 1);
    let peer = Peer::connect(&mut world);
    let honest = world.establish(HONEST, Habit::Asks);
    (world, honest, peer)
}

/// What the peer keeps.
type Kept = HashMap<SessionName, (bool, Vec<u8>)>;

/// Reads what the worker says; sessions are kept, those asked for are told.
fn read(peer: &mut Peer, kept: &mut Kept) -> Vec<(u32, SessionName)> {
    let mut asked = Vec::new();
    for said in peer.hear() {
        match said {
            Said::Put(name, once, value) => drop(kept.insert(name, (once, value))),
            Said::Take(token, name) => asked.push((token, name)),
        }
    }
    asked
}

/// Clients come one after the other, until a session of the peer's was asked for so often; `answer` deals with each.
fn come_back(
    world: &mut World,
    peer: &mut Peer,
    mut answer: impl FnMut(&mut World, &mut Peer, &mut Kept, u32, SessionName),
) {
    let mut kept = Kept::new();
    let mut takes = 0;
    while takes < 10 {
        let client = world.join(Habit::Idles);
        for _ in 0..2 * WAIT_STEPS {
            world.step();
            for (token, name) in read(peer, &mut kept) {
                takes += 1;
                answer(world, peer, &mut kept, token, name);
            }
        }
        assert!(world.clients[client].answered > 0 || world.clients[client].reset, "{:#?}", world.counted());
        assert!(world.clients.len() < 200, "{:#?}", world.counted());
    }
}

/// Nobody else noticed, and nothing is left.
fn assert_over(mut world: World, honest: &[usize], peer: &Peer) {
    assert!(!peer.is_over());
    world.expect_progress(honest, 50, 10, |_, _| ());
    world.assert_all_gone();
    let takes = ["takes_found", "takes_missed", "takes_late", "takes_dropped"].map(|name| world.total(name));
    assert_eq!(world.total("takes"), takes.iter().sum());
    assert_eq!([world.total("handshakes_waiting"), world.total("closed_tls")], [0, 0]);
}

#[test]
fn sessions_come_back() {
    let (mut world, honest, mut peer) = world();
    come_back(&mut world, &mut peer, |_, peer, kept, token, name| {
        let (once, value) = kept.remove(&name).expect("what was put is asked for");
        assert!(once, "TLS 1.3");
        peer.say(&Message::Taken { token, found: Some((once, &value)) });
    });
    assert_eq!([world.total("takes_found"), world.total("takes")], [10, 10]);
    assert!(world.total("handshakes_resumed") >= 10 && world.total("sessions_put") > 0);
    assert_over(world, &honest, &peer);
}

#[test]
fn sessions_that_are_not_there() {
    let (mut world, honest, mut peer) = world();
    come_back(&mut world, &mut peer, |_, peer, _, token, _| peer.say(&Message::Taken { token, found: None }));
    assert_eq!([world.total("takes_missed"), world.total("takes")], [10, 10]);
    assert_over(world, &honest, &peer);
}

#[test]
fn a_peer_that_does_not_answer() {
    let (mut world, honest, mut peer) = world();
    come_back(&mut world, &mut peer, |_, _, _, _, _| ());
    assert_eq!([world.total("takes_late"), world.total("takes")], [10, 10]);
    assert_over(world, &honest, &peer);
}

#[test]
fn a_peer_that_answers_too_late_and_twice() {
    let (mut world, honest, mut peer) = world();
    let mut last = None;
    come_back(&mut world, &mut peer, |_, peer, kept, token, name| {
        let (once, value) = kept.remove(&name).expect("what was put is asked for");
        if let Some((token, value)) = last.replace((token, value.clone())) {
            let late: Vec<u8> = value;
            peer.say(&Message::Taken { token, found: Some((true, &late)) });
        }
        if token % 2 == 0 {
            peer.say(&Message::Taken { token, found: Some((once, &value)) });
            peer.say(&Message::Taken { token, found: Some((once, &value)) });
        }
    });
    assert_eq!(world.total("takes_late") + world.total("takes_found"), 10);
    assert_over(world, &honest, &peer);
}

#[test]
fn a_peer_that_answers_with_anything() {
    let (mut world, honest, mut peer) = world();
    come_back(&mut world, &mut peer, |world, peer, _, token, _| {
        let junk: Vec<u8> = (0..1 + world.rng.below(1024)).map(|_| world.rng.next() as u8).collect();
        peer.say(&Message::Taken { token, found: Some((true, &junk)) });
        peer.say(&Message::Taken { token: world.rng.next() as u32, found: Some((true, &junk)) });
    });
    assert_eq!(world.total("handshakes_failed"), 0, "what is no session is none");
    assert_over(world, &honest, &peer);
}

#[test]
fn clients_that_go_while_they_wait() {
    let (mut world, honest, mut peer) = world();
    come_back(&mut world, &mut peer, |world, peer, kept, token, name| {
        let (once, value) = kept.remove(&name).expect("what was put is asked for");
        world.clients.last_mut().expect("it has just come").leave();
        world.steps(2);
        peer.say(&Message::Taken { token, found: Some((once, &value)) });
    });
    assert_eq!([world.total("takes_dropped"), world.total("takes")], [10, 10]);
    assert_over(world, &honest, &peer);
}

/// Far more clients at once than may wait, and a peer that does not answer: those beyond go on in full at once, the others
/// when they have waited.
#[test]
fn more_clients_than_may_wait() {
    const WAITING_MAX: u64 = 256;
    let options = Options { others: &["peer"], connections: 2048, handshakes: 1024, ..Options::default() };
    let mut world = World::new(options, 1);
    let mut peer = Peer::connect(&mut world);
    let hoard = Arc::new(Hoard::default());
    world.config = client::config_with(&hoard);
    let step = |world: &mut World, peer: &mut Peer| {
        world.step();
        let heard: usize = std::iter::repeat_with(|| peer.hear().len()).take_while(|heard| *heard > 0).sum();
        // What it has room for.
        peer.say(&Message::Credit);
        heard
    };
    let mut clients = Vec::new();
    while clients.len() < 400 {
        clients.extend(world.join_many(8, Habit::Idles));
        step(&mut world, &mut peer);
    }
    (0..20).for_each(|_| _ = step(&mut world, &mut peer));
    assert!(world.total("sessions_put") > 2 * WAITING_MAX / 2, "{:#?}", world.counted());
    hoard.open();
    let (mut most, first) = (0, world.clients.len());
    // About half of them have a session that lives there: names are random.
    while world.total("takes_skipped") == 0 && world.clients.len() < first + 1000 {
        world.join_many(40, Habit::Idles);
        step(&mut world, &mut peer);
        most = most.max(world.total("handshakes_waiting"));
    }
    assert_eq!(most, WAITING_MAX, "{:#?}", world.counted());
    assert!(world.total("takes_skipped") > 0, "{:#?}", world.counted());
    (0..WAIT_STEPS).for_each(|_| _ = step(&mut world, &mut peer));
    assert!(world.clients[first..].iter().all(|client| client.answered > 0), "{:#?}", world.counted());
    assert_over(world, &[], &peer);
}

/// No buffer is left when a session comes: the handshake waits for one, and goes on with its session.
#[test]
fn sessions_that_come_when_there_is_no_buffer() {
    let pools = PoolSizes { records: 3, ..Options::default().pools };
    let mut world = World::new(Options { others: &["peer"], pools, ..Options::default() }, 1);
    let mut peer = Peer::connect(&mut world);
    let mut kept = Kept::new();
    let mut resumed = 0;
    while resumed < 10 {
        let client = world.join(Habit::Idles);
        let mut asked = Vec::new();
        world.until(10, "a handshake", |world| {
            asked.extend(read(&mut peer, &mut kept));
            !asked.is_empty() || world.clients[client].answered > 0
        });
        let Some((token, name)) = asked.pop() else { continue };
        let deaf = world.join_anew(Habit::SlowReader { window: 1000, deaf: true });
        world.until(WAIT_STEPS / 2, "no buffer", |world| world.total("records_out") == 3);
        let (once, value) = kept.remove(&name).expect("what was put is asked for");
        peer.say(&Message::Taken { token, found: Some((once, &value)) });
        world.steps(WAIT_STEPS);
        assert_eq!([world.total("handshakes_waiting"), world.total("takes_found")], [0, resumed + 1]);
        assert!(world.clients[client].answered == 0 && !world.clients[client].reset, "it waits");
        world.clients[deaf].leave();
        world.until(10, "an answer", |world| world.clients[client].answered > 0);
        resumed += 1;
    }
    assert!(world.total("handshakes_resumed") >= 10, "{:#?}", world.counted());
    assert_over(world, &[], &peer);
}

/// The node sessions live at is gone: they are not asked for, nobody waits, and new ones stay here.
#[test]
fn a_peer_that_is_gone() {
    let (mut world, honest, mut peer) = world();
    // Ids are random, so clients come until the newest sessions they are given live there.
    let mut before = world.total("sessions_put");
    while world.total("sessions_put") == before {
        before = world.total("sessions_put");
        world.join(Habit::Idles);
        world.steps(2 * WAIT_STEPS);
        assert!(world.clients.len() < 200, "{:#?}", world.counted());
    }
    peer.send(&[0; 40]);
    world.until(50, "the queue pair is over", |world| world.total("peers_ready") == 0);
    let (put, taken) = (world.total("sessions_put"), world.total("takes"));
    // All at once, so that they offer what was there before.
    world.join_many(8, Habit::Idles);
    for _ in 0..WAIT_STEPS {
        world.step();
        assert_eq!(world.total("handshakes_waiting"), 0);
    }
    assert_eq!([world.total("takes"), world.total("sessions_put")], [taken, put]);
    // It is back: what would live there goes there.
    let mut other = Peer::connect(&mut world);
    let mut kept = Kept::new();
    for _ in 0..WAIT_STEPS {
        world.step();
        read(&mut other, &mut kept);
    }
    assert!(world.total("sessions_moved") > 0 && !kept.is_empty(), "{:#?}", world.counted());
    assert_over(world, &honest, &other);
}

/// Sessions of clients that have come and gone, all of them here: nobody else can be told.
fn hoard(others: &'static [&'static str]) -> (World, Vec<usize>) {
    let mut world = World::new(Options { others, ..Options::default() }, 1);
    let honest = world.establish(HONEST, Habit::Asks);
    for _ in 0..40 {
        world.join_anew(Habit::Idles);
        world.steps(5);
    }
    assert_eq!(world.total("sessions_put"), 0);
    (world, honest)
}

fn tell(world: &World, mail: Mail) {
    assert!(world.node.mailboxes[0].push(mail).is_ok(), "a letter box has room");
}

fn members(names: &[&str]) -> Mail {
    Mail::Members(names.iter().map(|name| NodeId::of(name)).collect())
}

/// Those the peer has got so far, each once.
fn moved(world: &mut World, peer: &mut Peer, kept: &mut Kept, steps: usize) {
    for _ in 0..steps {
        world.step();
        loop {
            let heard = peer.hear();
            let is_all = heard.is_empty();
            for said in heard {
                let Said::Put(name, once, value) = said else { continue };
                assert!(kept.insert(name, (once, value)).is_none(), "a session is moved once");
            }
            if is_all {
                break;
            }
        }
        // What it has room for.
        peer.say(&Message::Credit);
    }
}

/// A node joins: it gets its share, and gives it to whoever asks; when it is a member no more it gets none.
#[test]
fn sessions_move_to_a_node_that_joins() {
    let (mut world, honest) = hoard(&["peer"]);
    tell(&world, members(&["node"]));
    let (mut peer, mut kept) = (Peer::connect(&mut world), Kept::new());
    moved(&mut world, &mut peer, &mut kept, 20);
    assert!(kept.is_empty(), "it is no member yet");
    tell(&world, members(&["peer", "node"]));
    moved(&mut world, &mut peer, &mut kept, 50);
    // Of each client two.
    let (all, share) = (2 * (HONEST + 40), kept.len());
    assert!((all / 4..all * 3 / 4).contains(&share), "{share} of {all}");
    assert_eq!([world.total("sessions_moved"), world.total("sessions_moving")], [share as u64, 0]);
    let put = world.total("sessions_put");
    tell(&world, members(&["node"]));
    world.establish(4, Habit::Idles);
    moved(&mut world, &mut peer, &mut kept, 20);
    assert_eq!(world.total("sessions_put"), put);
    assert_over(world, &honest, &peer);
}

/// A node that drains gives away all it has, and what comes to it late.
#[test]
fn a_node_that_drains_keeps_nothing() {
    let (mut world, _) = hoard(&["peer"]);
    let (mut peer, mut kept) = (Peer::connect(&mut world), Kept::new());
    moved(&mut world, &mut peer, &mut kept, 50);
    let wanted = Drain { idle: Duration::from_secs(5), deadline: Duration::from_secs(10) };
    tell(&world, Mail::Drain(wanted));
    moved(&mut world, &mut peer, &mut kept, 50);
    assert_eq!(kept.len(), 2 * (HONEST + 40));
    assert_eq!([world.total("draining"), world.total("sessions_moving")], [1, 0]);
    peer.say(&Message::Put { name: [7; 32], lives_s: 5, once: true, value: b"late" });
    moved(&mut world, &mut peer, &mut kept, 20);
    assert!(kept.contains_key(&[7; 32]));
    for (token, name) in kept.keys().enumerate() {
        peer.say(&Message::Take { token: token as u32, name: *name });
        world.step();
    }
    assert_eq!(world.total("sessions_given"), 0, "none is at two nodes");
}

/// A node that has no room to hear of sessions holds nobody up, and gets them when it has.
#[test]
fn a_node_that_joins_and_does_not_listen() {
    let (mut world, honest) = hoard(&["peer"]);
    tell(&world, members(&["node"]));
    let mut peer = Peer::connect_with(&mut world, 16);
    tell(&world, members(&["peer"]));
    world.heap_bytes = 0;
    world.expect_progress(&honest, 200, 40, |_, _| ());
    assert_eq!(world.total("sessions_moving"), 1, "{:#?}", world.counted());
    assert!(world.heap_bytes < 1 << 20, "{} bytes of heap", world.heap_bytes);
    let mut kept = Kept::new();
    moved(&mut world, &mut peer, &mut kept, 100);
    assert_eq!(world.total("sessions_moving"), 0);
    assert_eq!(kept.len() as u64, world.total("sessions_moved"));
    assert!(kept.len() >= 2 * (HONEST + 40), "{}", kept.len());
    assert_over(world, &honest, &peer);
}

/// A peer may put and ask as fast as it likes: the table is bounded, and what it has no room to hear is not said.
#[test]
fn a_peer_that_puts_and_asks_without_end() {
    let (mut world, honest, mut peer) = world();
    world.heap_bytes = 0;
    world.expect_progress(&honest, 200, 40, |world, step| {
        for at in 0..16u32 {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&world.rng.next().to_be_bytes());
            peer.say(&Message::Put { name, lives_s: 1 + at, once: at % 2 == 0, value: &[7; 1024] });
            peer.say(&Message::Take { token: step as u32, name });
        }
    });
    assert!(world.heap_bytes < 2 << 20, "{} bytes of heap", world.heap_bytes);
    assert_eq!(world.total("sessions_kept"), 200 * 16);
    assert_over(world, &honest, &peer);
}
