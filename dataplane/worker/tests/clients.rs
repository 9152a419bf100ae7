//! Floods of clients: slow, silent, many, or greedy with buffers. Established connections are answered, buffers come
//! back, and nothing is left when it is over.

mod common;

use common::client::Habit;
use common::node::{Options, PORT};
use common::{Rng, World};
use keyferry_worker::pool::PoolSizes;

const HONEST: usize = 12;
const STEPS: usize = 1_500;
/// Answers each honest client gets at least in [`STEPS`]: an eighth of what it gets otherwise.
const AT_LEAST: u64 = 100;

/// Pools that few greedy clients can empty.
fn small() -> Options {
    let pools = PoolSizes {
        records: 32,
        gathers: 32,
        requests: 32,
        chunks: 256,
        head_bytes: 1024,
        body_bytes: 128 * 1024,
    };
    Options { pools, handshakes: 256, ..Options::default() }
}

/// Honest clients are established; then a crowd joins, a few a step, while each honest one is answered.
fn crowd(options: Options, seed: u64, count: usize, habit: impl Fn(&mut Rng) -> Habit) -> World {
    let mut world = World::new(options, seed);
    let honest = world.establish(HONEST, Habit::Asks);
    world.expect_progress(&honest, STEPS, AT_LEAST, |world, step| {
        for _ in 0..4 {
            if world.clients.len() < HONEST + count {
                let habit = habit(&mut world.rng);
                world.join(habit);
            }
        }
        if step % 100 == 0 {
            world.assert_reconciled();
        }
    });
    let harmed: Vec<_> = honest.iter().filter(|index| world.clients[**index].reset).collect();
    assert!(harmed.is_empty(), "no established connection is harmed: {harmed:?}");
    world
}

#[test]
fn silent_connections() {
    let options = Options { connections: 256, ..Options::default() };
    let mut world = crowd(options, 1, 2_000, |_| Habit::Silent);
    assert!(world.total("closed_silent") > 1_000, "{:#?}", world.counted());
    assert_eq!(world.total("handshakes_open"), 0, "silence costs no handshake");
    // There is a place for a newcomer.
    let late = world.join(Habit::Asks);
    world.until(500, "a newcomer", |world| world.clients[late].answered > 0);
    world.assert_all_gone();
}

#[test]
fn halves_of_hellos() {
    let mut world = crowd(small(), 2, 1_000, |rng| Habit::HalfHello(1 + rng.below(200) as usize));
    assert!(world.total("closed_slow") > 100, "{:#?}", world.counted());
    let late = world.join(Habit::Asks);
    world.until(1_000, "a newcomer", |world| world.clients[late].answered > 0);
    world.assert_all_gone();
}

/// Whole hellos, and never the end of a handshake.
#[test]
fn halves_of_handshakes() {
    let options = Options { handshakes: 32, ..Options::default() };
    let mut world = World::new(options, 3);
    let honest = world.establish(HONEST, Habit::Asks);
    let mut joined = Vec::new();
    world.expect_progress(&honest, STEPS, AT_LEAST, |world, _| {
        if joined.len() < 400 {
            joined.push(world.join(Habit::Asks));
        }
        // They vanish as soon as their hello is out.
        for index in &joined {
            if world.clients[*index].has_said_hello() {
                world.clients[*index].vanish();
            }
        }
        assert!(world.snapshot().handshakes_open <= 33);
    });
    assert!(world.total("closed_handshake") > 100, "{:#?}", world.counted());
    let late = world.join(Habit::Asks);
    world.until(500, "a newcomer", |world| world.clients[late].answered > 0);
    world.assert_all_gone();
}

/// Handshakes beyond a turn's budget wait; those who ask on established connections do not.
#[test]
fn many_handshakes_at_once() {
    let mut world = World::new(Options { handshakes: 512, ..Options::default() }, 4);
    let honest = world.establish(HONEST, Habit::Asks);
    let crowd = world.join_many(200, Habit::Asks);
    let turns = world.snapshot().turns;
    world.expect_progress(&honest, 100, 20, |_, _| {});
    assert!(world.snapshot().turns > turns + 200 / 8, "handshakes are spread over turns");
    let served = |world: &World| crowd.iter().all(|index| world.clients[*index].answered > 0);
    world.until(500, "everybody", served);
    world.assert_all_gone();
}

#[test]
fn slow_heads() {
    let mut world = crowd(small(), 5, 200, |_| Habit::SlowHead);
    assert!(world.total("closed_slow") > 50, "{:#?}", world.counted());
    assert!(world.clients.iter().any(|client| client.refused == Some(408)), "they are told");
    world.assert_all_gone();
}

#[test]
fn slow_bodies() {
    let mut world = crowd(small(), 6, 200, |_| Habit::SlowBody);
    assert!(world.total("closed_slow") > 50, "{:#?}", world.counted());
    world.assert_all_gone();
}

/// Bodies of a megabyte that stop short of their last kilobyte: what they hold together is bounded.
#[test]
fn large_bodies() {
    let options = small();
    let bound = options.pools.body_bytes as u64 + 32 * 16_384;
    let mut world = World::new(options, 7);
    let honest = world.establish(HONEST, Habit::Asks);
    world.expect_progress(&honest, STEPS, AT_LEAST, |world, step| {
        if step < 40 {
            world.join(Habit::LargeBody(100_000));
        }
        assert!(world.snapshot().body_bytes <= bound);
    });
    assert!(world.total("closed_slow") > 5, "{:#?}", world.counted());
    world.assert_all_gone();
}

/// Replies of a megabyte into a closed window, a window of one byte, and to clients that acknowledge nothing.
#[test]
fn slow_readers() {
    let mut world = crowd(small(), 8, 150, |rng| {
        let window = [0, 1, 100, 0xffff][rng.below(4) as usize];
        Habit::SlowReader { window, deaf: window == 0xffff }
    });
    assert!(world.total("closed_slow") > 20, "{:#?}", world.counted());
    world.assert_all_gone();
}

#[test]
fn tiny_records_and_segments() {
    let mut world = World::new(Options::default(), 9);
    let honest = world.establish(HONEST, Habit::Asks);
    let mut tiny = world.join_many(50, Habit::TinyRecords);
    tiny.extend(world.join_many(4, Habit::TinySegments));
    world.expect_progress(&honest, STEPS, AT_LEAST / 2, |_, _| {});
    assert!(tiny.iter().all(|index| world.clients[*index].answered > 0), "they are served as well");
    world.assert_all_gone();
}

#[test]
fn many_idle_connections() {
    let options = Options { connections: 4_096, half_open: 1024, ..Options::default() };
    let rings = (options.receive_bytes + options.send_bytes) as i64;
    let mut world = World::new(options, 10);
    let honest = world.establish(HONEST, Habit::Asks);
    world.heap_bytes = 0;
    let idle = world.establish(2_000, Habit::Idles);
    let each = world.heap_bytes / idle.len() as i64 - rings;
    // Until the last ones have acknowledged their handshakes TCP keeps the records.
    world.steps(100);
    assert!(each < 8_192, "an idle connection takes {each} bytes besides its rings");
    let totals = world.totals();
    for gauge in ["gathers_out", "records_out", "chunks_out", "holding", "handshakes_open"] {
        assert!(totals[gauge] <= HONEST as u64, "{gauge} of idle connections: {totals:#?}");
    }
    world.heap_bytes = 0;
    world.expect_progress(&honest, STEPS, AT_LEAST, |_, _| {});
    assert!(world.heap_bytes <= 4_096, "{} bytes of heap", world.heap_bytes);
    world.assert_all_gone();
}

#[test]
fn more_clients_than_connections() {
    let options = Options { connections: 64, ..Options::default() };
    let mut world = World::new(options, 11);
    let honest = world.establish(48, Habit::Asks);
    world.join_many(200, Habit::Asks);
    world.expect_progress(&honest, STEPS, AT_LEAST, |world, _| {
        assert!(world.snapshot().flows <= 64);
    });
    assert!(world.total("drop_tcp_connections_full") > 0, "{:#?}", world.counted());
    world.assert_all_gone();
}

/// A client that went without a word comes back from the same port.
#[test]
fn the_same_addresses_and_ports_again() {
    let mut world = World::new(Options::default(), 12);
    let honest = world.establish(HONEST, Habit::Asks);
    for round in 0..10 {
        let gone = world.establish(8, Habit::Asks);
        for index in gone {
            let (address, port) = world.clients[index].from;
            world.clients[index].vanish();
            let again = world.join_at(address, port, Habit::Asks);
            let what = format!("client {again} of round {round} at port {port} of {PORT}");
            world.until(2_000, &what, |world| world.clients[again].answered > 0);
        }
    }
    world.expect_progress(&honest, 100, 20, |_, _| {});
    world.assert_all_gone();
}

/// Each kind of buffer far too few, one at a time: everybody has a turn, and all come back.
#[test]
fn each_pool_exhausted() {
    let ample = Options::default().pools;
    let pools = [
        PoolSizes { records: 6, ..ample },
        PoolSizes { gathers: 2, ..ample },
        PoolSizes { requests: 2, ..ample },
    ];
    for (seed, pools) in (20..).zip(pools) {
        let mut world = World::new(Options { pools, ..Options::default() }, seed);
        let clients = world.establish(HONEST, Habit::Asks);
        world.join_many(8, Habit::SlowHead);
        world.expect_progress(&clients, STEPS, AT_LEAST / 4, |_, _| {});
        world.assert_all_gone();
    }
}

/// Every gathering buffer holds part of a record: who has one needs no second one to go on.
#[test]
fn each_gathering_buffer_in_use() {
    const GATHERS: usize = 4;
    let pools = PoolSizes { gathers: GATHERS, ..Options::default().pools };
    let mut world = World::new(Options { pools, ..Options::default() }, 23);
    let clients = world.establish(GATHERS, Habit::Pieces);
    let (starved, mut most) = (world.total("starved"), 0);
    world.expect_progress(&clients, STEPS, AT_LEAST, |world, _| most = most.max(world.total("gathers_out")));
    assert_eq!(most, GATHERS as u64, "all were in use at once");
    assert_eq!(world.total("starved"), starved, "{:#?}", world.counted());
    world.assert_all_gone();
}

/// A record that arrived in pieces waits for a request to be read into, and goes on when there is one.
#[test]
fn records_in_pieces_wait_for_a_request() {
    let pools = PoolSizes { requests: 1, ..Options::default().pools };
    let mut world = World::new(Options { pools, ..Options::default() }, 24);
    let clients = world.establish(4, Habit::Pieces);
    world.expect_progress(&clients, STEPS, AT_LEAST, |_, _| {});
    assert_eq!(world.total("closed_slow"), 0, "{:#?}", world.counted());
    world.assert_all_gone();
}

/// Too few packet buffers, and transmit rings of a few places.
#[test]
fn packets_and_rings_exhausted() {
    for (seed, options) in [
        (30, Options { packets: 48, ..Options::default() }),
        (31, Options { descriptors: 8, ..Options::default() }),
    ] {
        let mut world = World::new(options, seed);
        let clients = world.establish(8, Habit::Asks);
        world.join_many(8, Habit::SlowReader { window: 8_000, deaf: false });
        world.expect_progress(&clients, 2 * STEPS, 20, |_, _| {});
        world.assert_all_gone();
    }
}

#[test]
fn who_says_nothing_rests_and_is_answered_when_it_speaks_again() {
    let mut world = World::new(Options::default(), 12);
    let clients = world.establish(HONEST, Habit::Idles);
    world.until(100, "answers", |world| clients.iter().all(|index| world.clients[*index].answered == 1));
    assert_eq!((world.total("awake"), world.total("rested")), (HONEST as u64, 0));
    // Half of them speak again before they rest, and so are awake for longer.
    world.steps(1_500);
    clients[..HONEST / 2].iter().for_each(|index| world.clients[*index].wake());
    world.steps(10);
    clients.iter().for_each(|index| world.clients[*index].habit = Habit::Idles);
    world.steps(900);
    assert_eq!(world.total("awake"), HONEST as u64 / 2);
    world.steps(1_500);
    assert_eq!((world.total("awake"), world.total("rested")), (0, HONEST as u64));
    clients.iter().for_each(|index| world.clients[*index].wake());
    world.expect_progress(&clients, 100, 10, |_, _| ());
    assert_eq!(world.total("awake"), HONEST as u64);
    // Who is gone is not looked after.
    world.assert_all_gone();
    assert_eq!(world.total("awake"), 0);
}
