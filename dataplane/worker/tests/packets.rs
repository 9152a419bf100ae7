//! Floods of packets: whatever comes, established connections are answered, memory stays where it was, every packet is
//! counted, and nothing is left when it is over.

mod common;

use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use common::client::Habit;
use common::frame::{self, ACK, FIN, RST, SYN, Segment};
use common::node::{ADDRESS, GATEWAY, Options};
use common::{Rng, World};
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::pool::PoolSizes;
use keyferry_worker::syns::{SYNS_A_TURN, SYNS_WAITING_MAX};

/// Honest clients, which ask as fast as they are answered: once a step or two.
const HONEST: usize = 32;
const STEPS: usize = 300;
/// Answers each of them gets at least in [`STEPS`].
const AT_LEAST: u64 = 60;
/// Heap the workers may take during a flood beyond what they give back: queues that grew to their size.
const HEAP_BYTES: i64 = 64 * 1024;

/// Runs a flood beside honest clients.
fn flood(options: Options, seed: u64, mut each: impl FnMut(&mut World, usize)) -> World {
    let mut world = World::new(options, seed);
    let honest = world.establish(HONEST, Habit::Asks);
    world.steps(20);
    world.heap_bytes = 0;
    world.expect_progress(&honest, STEPS, AT_LEAST, &mut each);
    assert!(world.heap_bytes < HEAP_BYTES, "{} bytes of heap", world.heap_bytes);
    assert_eq!(world.total("connections_closed"), 0, "no established connection is harmed");
    // Who comes during the flood is served as well.
    let late = world.join(Habit::Asks);
    let mut step = STEPS;
    while world.clients[late].answered < 5 {
        each(&mut world, step);
        world.step();
        step += 1;
        assert!(step < 2 * STEPS, "a newcomer waits: {:?} {:#?}", world.clients[late], world.counted());
    }
    world
}

fn anyone(rng: &mut Rng) -> (Ipv4Addr, u16) {
    // Behind the gateway.
    (Ipv4Addr::from_bits(0xc612_0000 | 0x1_0000 | rng.below(1 << 16) as u32), 1 + rng.below(65_535) as u16)
}

#[test]
fn syns_of_spoofed_sources() {
    let mut world = flood(Options::default(), 1, |world, _| {
        for _ in 0..100 {
            let (from, sequence) = (anyone(&mut world.rng), world.rng.next() as u32);
            world.inject(&Segment::new(from, SYN, sequence, 0).frame());
        }
    });
    assert!(world.total("drop_tcp_half_open_evicted") > 20_000);
    assert!(world.total("half_open") <= 256);
    world.assert_all_gone();
}

#[test]
fn syns_of_one_source() {
    let mut world = flood(Options::default(), 2, |world, step| {
        for port in 0..100 {
            let from = (Ipv4Addr::new(198, 19, 0, 1), (step * 100 + port) as u16 | 1);
            world.inject(&Segment::new(from, SYN, 7, 0).frame());
        }
    });
    assert!(world.total("half_open") <= 256);
    world.assert_all_gone();
}

/// Their answers wait for neighbours that do not exist.
#[test]
fn syns_of_spoofed_neighbours() {
    let mut world = flood(Options::default(), 3, |world, _| {
        for _ in 0..100 {
            let from = Ipv4Addr::from_bits(0x0a10_0000 | world.rng.below(1 << 20) as u32);
            world.inject(&Segment::new((from, 5), SYN, 7, 0).frame());
        }
    });
    assert!(world.total("parked") <= keyferry_link::PARKED_MAX as u64);
    assert!(world.total("drop_parked_full") > 0);
    world.assert_all_gone();
}

#[test]
fn segments_of_no_connection() {
    let mut world = flood(Options::default(), 4, |world, _| {
        for _ in 0..100 {
            let from = anyone(&mut world.rng);
            let flags = [RST, FIN | ACK, ACK, RST | ACK, FIN, 0, SYN | FIN, SYN | ACK, 0xff]
                [world.rng.below(9) as usize];
            let (sequence, acknowledged) = (world.rng.next() as u32, world.rng.next() as u32);
            let to_port = if world.rng.below(2) == 0 { 443 } else { 80 };
            let segment = Segment { to_port, ..Segment::new(from, flags, sequence, acknowledged) };
            world.inject(&segment.frame());
        }
    });
    assert!(world.total("drop_tcp_stray") > 10_000);
    world.assert_all_gone();
}

#[test]
fn syns_to_closed_ports() {
    let mut world = flood(Options::default(), 5, |world, _| {
        for _ in 0..100 {
            let from = anyone(&mut world.rng);
            world.inject(&Segment { to_port: 80, ..Segment::new(from, SYN, 7, 0) }.frame());
        }
    });
    assert!(world.total("drop_tcp_port_closed") > 20_000);
    world.assert_all_gone();
}

/// Of the very connections that are to live on; their numbers are not known to the sender (RFC 5961).
#[test]
fn blind_segments_into_established_connections() {
    let mut world = flood(Options::default(), 6, |world, _| {
        for _ in 0..50 {
            let victim = world.rng.below(HONEST as u64) as usize;
            let from = world.clients[victim].from;
            let flags = [RST, ACK, FIN | ACK, SYN][world.rng.below(4) as usize];
            // Anywhere but in the window.
            let sequence = 0x8000_0000u32.wrapping_add(world.rng.next() as u32 & 0x3fff_ffff);
            let known = world.clients[victim].sequence();
            let segment = Segment {
                payload: &[7; 32],
                ..Segment::new(from, flags, known.wrapping_add(sequence), world.rng.next() as u32)
            };
            world.inject(&segment.frame());
        }
    });
    assert!(world.total("drop_tcp_unacceptable") > 10_000);
    world.assert_all_gone();
}

#[test]
fn fragments_and_bad_checksums() {
    let mut world = flood(Options::default(), 7, |world, _| {
        for number in 0..60 {
            let from = anyone(&mut world.rng).0;
            let frame = match number % 3 {
                0 => frame::ip(from, 6, 0x2000, &[7; 64]),
                1 => frame::ip(from, 6, 100, &[7; 64]),
                _ => {
                    let mut bad = Segment::new((from, 5), SYN, 7, 0).frame();
                    bad[50] ^= 1;
                    bad
                }
            };
            world.inject(&frame);
        }
    });
    assert!(world.total("drop_link_fragment") > 10_000);
    assert!(world.total("drop_checksum") > 5_000);
    world.assert_all_gone();
}

#[test]
fn frames_of_garbage_and_giants() {
    let mut world = flood(Options::default(), 8, |world, _| {
        for number in 0..60 {
            let len = [0, 1, 13, 14, 33, 34, 60, 1514, 1518, 1600, 4000, 9000][number % 12];
            let mut frame: Vec<u8> = (0..len).map(|_| world.rng.next() as u8).collect();
            if number % 2 == 0 && len >= 14 {
                frame[..6].copy_from_slice(&common::node::MAC);
                frame[12..14].copy_from_slice(&[[8, 0], [8, 6], [0x86, 0xdd], [0x81, 0]][number / 2 % 4]);
            }
            if len > 0 {
                world.inject(&frame);
            }
        }
    });
    assert!(world.total("drop_missed") > 0, "giants do not fit a buffer");
    assert!(world.total("drop_link") > 5_000);
    world.assert_all_gone();
}

/// The gateway, to which all traffic goes, must not be pushed out of the neighbour cache by those who only ask.
#[test]
fn arp_of_everybody() {
    let mut world = flood(Options::default(), 9, |world, _| {
        for _ in 0..100 {
            let sender = Ipv4Addr::from_bits(0x0a10_0000 | world.rng.below(1 << 20) as u32);
            let operation = 1 + world.rng.below(2) as u8;
            let mac = [2, 7, 0, world.rng.next() as u8, world.rng.next() as u8, 0];
            world.inject(&frame::arp(operation, sender, mac));
        }
    });
    assert!(world.total("rx_link") > 20_000);
    assert_eq!(world.total("parked"), 0, "the gateway is known throughout");
    assert!(world.total("solicits") <= 3, "and not asked for again and again");
    world.assert_all_gone();
}

#[test]
fn echo_requests() {
    let mut world = flood(Options::default(), 10, |world, _| {
        for _ in 0..100 {
            // Type 8, code 0, and the checksum of what follows.
            world.inject(&frame::ip(GATEWAY, 1, 0, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]));
        }
    });
    assert!(world.total("drop_link_icmp_rate") > 20_000);
    world.assert_all_gone();
}

/// Far more than the port's ring holds: the port drops, honest clients send again.
#[test]
fn more_than_the_port_takes() {
    let mut world = World::new(Options::default(), 11);
    let honest = world.establish(8, Habit::Asks);
    world.expect_progress(&honest, 600, 10, |world, _| {
        let burst = 300 + world.rng.below(600);
        for _ in 0..burst {
            world.inject(&Segment::new((ADDRESS, 9), SYN, 7, 0).frame());
        }
    });
    assert!(world.total("drop_missed") > 1_000);
    world.assert_all_gone();
}

/// Two workers on a port that does not know whose packet is whose; the rings between them overflow.
#[test]
fn packets_for_the_other_worker() {
    let options = Options { workers: 2, handover: 16, ..Options::default() };
    let mut world = World::new(options, 12);
    let honest = world.establish(HONEST, Habit::Asks);
    world.expect_progress(&honest, STEPS, AT_LEAST / 3, |world, _| {
        for _ in 0..100 {
            let from = anyone(&mut world.rng);
            world.inject(&Segment::new(from, SYN, 7, 0).frame());
        }
        world.inject(&frame::arp_request(GATEWAY));
    });
    let totals = world.totals();
    assert!(totals["handed_over"] > 1_000 && totals["drop_handover"] > 0, "{totals:#?}");
    world.assert_all_gone();
}

/// One turn of the only worker, with so many SYNs in the port's queue before `last`.
fn turn_behind_syns(world: &mut World, syns: usize, last: &[u8]) {
    for _ in 0..syns {
        let (from, sequence) = (anyone(&mut world.rng), world.rng.next() as u32);
        world.inject(&Segment::new(from, SYN, sequence, 0).frame());
    }
    world.inject(last);
    world.node.net.advance(world.now_ns);
    world.node.workers[0].turn(Time(world.now_ns));
}

/// Behind as many SYNs as the port's queue holds, turn after turn, the first ones of which find an empty line.
#[test]
fn who_is_connected_does_not_wait_behind_syns() {
    const QUEUE: usize = 512;
    const TURNS: u64 = 100;
    let mut world = World::new(Options::default(), 13);
    let honest = world.establish(HONEST, Habit::Asks);
    world.steps(5);
    // Of a connection, and not acceptable: nothing follows from it.
    let from = world.clients[honest[0]].from;
    let known = Segment::new(from, ACK, world.clients[honest[0]].sequence().wrapping_add(1 << 30), 0).frame();
    let before = world.total("drop_tcp_unacceptable");
    for turn in 1..=TURNS {
        // What clients ask meanwhile waits with it.
        turn_behind_syns(&mut world, QUEUE - 1 - HONEST, &known);
        assert_eq!(world.total("drop_tcp_unacceptable") - before, turn, "it was taken in its turn");
    }
    assert_eq!(world.total("drop_missed"), 0, "the queue was empty before each");
    assert!(world.total("drop_syns") > 20_000, "{:#?}", world.counted());
    let taken = world.total("rx_handshakes");
    assert!(taken > TURNS * SYNS_A_TURN as u64, "SYNs are taken all the same: {:#?}", world.counted());
    world.expect_progress(&honest, 100, 20, |_, _| ());
    world.assert_all_gone();
}

/// Whatever order they come in: replies are out before a SYN is answered.
#[test]
fn who_is_connected_is_answered_before_syns() {
    let mut world = World::new(Options::default(), 16);
    world.establish(HONEST, Habit::Asks);
    // Until requests are on their way, and all that was asked before is answered.
    world.steps(5);
    let known = frame::arp_request(GATEWAY);
    turn_behind_syns(&mut world, SYNS_A_TURN, &known);
    world.node.net.advance(world.now_ns);
    let (mut replies, mut opened) = (0, 0);
    loop {
        let mut packets = ArrayVec::<_, BURST>::new();
        if world.node.wire.rx_burst(&mut packets) == 0 {
            break;
        }
        for packet in &packets {
            let flags = packet.bytes().get(frame::ETHERNET + frame::IP + 13).copied().unwrap_or(0);
            opened += usize::from(packet.bytes().len() < 100 && flags == SYN | ACK);
            if packet.bytes().len() > 1_000 {
                assert_eq!(opened, 0, "a reply waited for SYNs");
                replies += 1;
            }
        }
    }
    assert!(replies > 0 && opened == SYNS_A_TURN, "{replies} replies, {opened} SYNs answered");
}

/// As many as the line holds, and as the port's queue has at once, are a crowd and no flood.
#[test]
fn a_crowd_that_comes_at_once_is_taken_whole() {
    let options = Options::default();
    // Each asks as soon as it may: who has no buffer to answer from is not what this is about.
    let pools = PoolSizes { records: 1024, gathers: 512, requests: 512, chunks: 512, ..options.pools };
    let mut world =
        World::new(Options { handshakes: 1024, half_open: 1024, jobs: 512, pools, ..options }, 14);
    let crowd = world.join_many(SYNS_WAITING_MAX, Habit::Asks);
    world.until(2_000, "everybody's first answer", |world| {
        crowd.iter().all(|index| world.clients[*index].answered > 0)
    });
    assert_eq!((world.total("drop_syns"), world.total("drop_missed")), (0, 0));
    world.assert_all_gone();
}

/// The port takes them for nobody's: each goes on to the worker of the connection whose packet it returns.
#[test]
fn routers_reports_reach_the_worker_of_the_connection() {
    let mut world = World::new(Options { workers: 2, ..Options::default() }, 15);
    let honest = world.establish(HONEST, Habit::Asks);
    let flows: Vec<_> = world.node.workers.iter().map(|worker| worker.snapshot().flows).collect();
    assert!(flows.iter().all(|flows| *flows > 0), "{flows:?}");
    for index in &honest {
        let from = world.clients[*index].from;
        // Of what is not under way.
        world.inject(&frame::too_big(from, 0, 1_000));
    }
    world.steps(3);
    let ignored: Vec<_> =
        world.node.workers.iter().map(|worker| worker.snapshot().path_mtu_ignored).collect();
    assert_eq!(ignored, flows);
    world.assert_all_gone();
}
