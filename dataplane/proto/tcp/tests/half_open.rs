//! Handshakes under attack: what they cost, what they answer, and that what comes of them is a whole connection.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use common::*;
use keyferry_tcp::{DropReason, Event, Tcp};
use keyferry_time::Time;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

fn drops(world: &World, reason: DropReason) -> u64 {
    world.tcp.counters().drops[reason.index()]
}

/// Every packet is counted, and once.
fn assert_reconciled(world: &World) {
    let counters = world.tcp.counters();
    let dropped: u64 = DropReason::ALL
        .iter()
        .filter(|reason| reason.is_of_packets())
        .map(|reason| counters.drops[reason.index()])
        .sum();
    let taken = counters.handshake_packets + counters.flow_packets + counters.time_wait_packets;
    assert_eq!(counters.packets_in, taken + dropped, "{counters:?}");
}

/// A SYN with options for a peer of any address.
fn syn_of(from: Ipv4Addr, port: u16, seq: u32, options: &[u8]) -> Vec<u8> {
    let IpAddr::V4(server) = SERVER_V4 else { unreachable!("an IPv4 address") };
    let mut syn = packet_from(from, port, server, PORT, SYN, seq, 0, options);
    syn[32] = (((20 + options.len()) / 4) << 4) as u8;
    refill(&mut syn);
    syn
}

struct Void;

impl keyferry_tcp::Egress<Vec<u8>> for Void {
    fn room(&mut self) -> bool {
        true
    }

    fn packet(&mut self, outbound: &keyferry_tcp::Outbound<'_, Vec<u8>>) {
        outbound.write(&mut [0; MTU][..outbound.len()]);
    }
}

#[test]
fn a_flood_of_syns_allocates_nothing() {
    let mut tcp = Tcp::<Vec<u8>>::new(config());
    let mut now = Time::from_us(1);
    let mut flood = |tcp: &mut Tcp<Vec<u8>>, from: u16| {
        for port in from..from + 10_000 {
            now += Duration::from_micros(100);
            tcp.ingest(now, &mut syn(port, 5), false, &mut Void);
            tcp.timers(now, &mut Void);
        }
    };
    flood(&mut tcp, 1);
    let packets = allocation_counter::measure(|| {
        for port in 20_000..30_000 {
            drop(syn(port, 5));
        }
    });
    let all = allocation_counter::measure(|| flood(&mut tcp, 20_000));
    assert_eq!(all.count_total, packets.count_total, "TCP itself allocated");
    assert_eq!((tcp.connections(), tcp.counters().half_open), (0, 8));
}

#[test]
fn a_syn_sent_again_gets_the_same_answer_and_another_a_challenge() {
    let mut world = World::new(config(), Faults::default(), 1);
    world.inject(syn(7, 100));
    let first = fields(&world.port.packets[0]);
    world.now += 3 * MS;
    world.inject(syn(7, 100));
    assert_eq!(fields(&world.port.packets[1]), first);
    // RFC 5961 section 4: a peer that began anew resets the old handshake by our sequence numbers.
    world.inject(syn(7, 500_000));
    let (flags, seq, ack) = fields(&world.port.packets[2]);
    assert_eq!((flags, seq, ack), (ACK, first.1.wrapping_add(1), 101));
    world.inject(packet(7, RST, ack, 0, &[]));
    assert_eq!(drops(&world, DropReason::HalfOpenReset), 1);
    world.inject(syn(7, 500_000));
    assert_eq!(fields(&world.port.packets[3]).0, SYN | ACK);
    assert_reconciled(&world);
}

#[test]
fn a_blind_reset_or_acknowledgement_does_not_end_a_handshake() {
    let mut raw = Raw::half_open(config());
    for away in [1u32, 4_000, 1 << 20, 1 << 31] {
        let seq = raw.seq.wrapping_add(away);
        assert!(raw.give(packet(raw.port, RST, seq, 0, &[])).is_empty());
        let answer = raw.give(packet(raw.port, ACK, raw.seq, raw.ack.wrapping_add(away), &[]));
        assert_eq!((fields(&answer[0]).0, fields(&answer[0]).1), (RST, raw.ack.wrapping_add(away)));
    }
    assert_eq!(raw.world.tcp.counters().half_open, 1);
    raw.say(ACK, b"hello");
    let id = raw.world.id();
    assert_eq!(raw.world.side(id).received, b"hello");
    assert_reconciled(&raw.world);
}

#[test]
fn a_syn_ack_is_sent_again_ever_more_slowly() {
    let mut raw = Raw::half_open(config());
    let begun = raw.world.now;
    let mut times = Vec::new();
    while raw.world.now.ns_since(begun) < 4_900_000_000 {
        let sent = raw.wait(100 * MS);
        times.extend(sent.iter().map(|_| raw.world.now.ns_since(begun) / 1_000_000));
    }
    assert_eq!(times.len(), 2, "{times:?}");
    assert!((1_000..=1_100).contains(&times[0]) && (3_000..=3_100).contains(&times[1]), "{times:?}");
}

#[test]
fn without_room_for_a_connection_the_handshake_waits_for_one() {
    let mut config = config();
    config.connections = 1;
    let mut world = World::new(config, Faults::default(), 1);
    world.inject(syn(7, 100));
    world.inject(syn(8, 200));
    let acks: Vec<u32> = world.port.packets.iter().map(|packet| fields(packet).1.wrapping_add(1)).collect();
    world.inject(packet(7, ACK, 101, acks[0], &[]));
    world.inject(packet(8, ACK, 201, acks[1], &[]));
    assert_eq!((world.tcp.connections(), drops(&world, DropReason::ConnectionsFull)), (1, 1));
    world.events();
    let id = world.id();
    world.abort(id);
    world.tcp.timers(world.now, &mut world.port);
    world.events();
    world.inject(packet(8, ACK, 201, acks[1], b"still here"));
    world.events();
    assert_eq!(world.tcp.connections(), 1);
    assert_reconciled(&world);
}

#[test]
fn sequence_numbers_of_one_flow_move_on_with_the_clock() {
    let mut config = config();
    config.half_open_timeout = Duration::from_secs(1);
    let mut world = World::new(config, Faults::default(), 1);
    let mut last = None;
    for _ in 0..5 {
        world.inject(syn(7, 100));
        let sent = fields(world.port.packets.back().expect("a SYN-ACK")).1;
        if let Some(last) = last {
            // RFC 6528: one every 4 us.
            assert_eq!(sent.wrapping_sub(last), 500_000);
        }
        last = Some(sent);
        world.inject(packet(7, RST, 101, 0, &[]));
        world.now += Duration::from_secs(2);
    }
}

/// A SYN as Linux sends it: segment size, SACK, timestamps, scale.
fn linux_syn(port: u16, seq: u32, stamp: u32) -> Vec<u8> {
    let [a, b, c, d] = stamp.to_be_bytes();
    let options = [2, 4, 5, 0xb4, 4, 2, 8, 10, a, b, c, d, 0, 0, 0, 0, 1, 3, 3, 7];
    syn_of(Ipv4Addr::new(192, 0, 2, 9), port, seq, &options)
}

/// The third segment that answers a SYN-ACK, echoing its timestamp.
fn third(port: u16, syn_ack: &[u8], stamp: u32, payload: &[u8]) -> Vec<u8> {
    let (_, theirs, ack) = fields(syn_ack);
    let at = syn_ack.windows(2).position(|pair| pair == [8, 10]).expect("it has a timestamp");
    let mut options = vec![1, 1, 8, 10];
    options.extend(stamp.to_be_bytes());
    options.extend(&syn_ack[at + 2..at + 6]);
    let IpAddr::V4(server) = SERVER_V4 else { unreachable!("an IPv4 address") };
    let body = [options.as_slice(), payload].concat();
    let from = Ipv4Addr::new(192, 0, 2, 9);
    let mut segment = packet_from(from, port, server, PORT, ACK, ack, theirs.wrapping_add(1), &body);
    segment[32] = 0x80;
    refill(&mut segment);
    segment
}

/// RFC 4987 section 3.6: whose handshake a flood pushed out completes it all the same, with all that was agreed.
#[test]
fn a_handshake_that_was_pushed_out_is_completed_by_its_cookie() {
    let mut world = World::new(config(), Faults::default(), 1);
    for port in 1..=config().half_open as u16 {
        world.inject(syn(port, 5));
    }
    world.port.packets.clear();
    world.inject(linux_syn(700, 100, 50));
    let syn_ack = world.port.packets.pop_front().expect("an answer");
    for port in 1_000..1_100 {
        world.inject(syn(port, 5));
        world.port.packets.clear();
    }
    world.now += Duration::from_secs(30);
    world.inject(third(700, &syn_ack, 60, b"hello"));
    world.events();
    let id = world.id();
    assert_eq!(world.side(id).received, b"hello");
    assert_eq!(world.tcp.counters().cookies, 1);
    // Segments are as large as was agreed.
    assert!(world.send(id, pattern(4_000, 1)));
    world.tcp.emit(world.now, &mut world.port);
    let data = world.port.packets.back().expect("data").clone();
    assert_eq!(data[32] >> 4, 8, "it has timestamps");
    assert_eq!(payload(&data).len(), 4_000 - 2 * 1_448);
    assert_reconciled(&world);
}

/// What was answered before the table was full has no cookie: its peer would be refused, so it stays.
#[test]
fn a_handshake_that_began_before_a_flood_is_completed() {
    let mut world = World::new(config(), Faults::default(), 1);
    world.inject(linux_syn(700, 100, 50));
    let syn_ack = world.port.packets.pop_front().expect("an answer");
    for port in 1_000..1_100 {
        world.inject(syn(port, 5));
        world.port.packets.clear();
    }
    world.inject(third(700, &syn_ack, 60, b"hello"));
    world.events();
    let id = world.id();
    assert_eq!(world.side(id).received, b"hello");
    assert_eq!(world.tcp.counters().cookies, 0);
    assert_reconciled(&world);
}

/// The network may reorder a third segment and what follows it: only its number tells whose cookie it returns.
#[test]
fn what_overtakes_a_cookie_is_not_reset() {
    let mut world = World::new(config(), Faults::default(), 1);
    for port in 1..=config().half_open as u16 {
        world.inject(syn(port, 5));
    }
    world.port.packets.clear();
    world.inject(linux_syn(700, 100, 50));
    let syn_ack = world.port.packets.pop_front().expect("an answer");
    for port in 1_000..1_100 {
        world.inject(syn(port, 5));
    }
    world.port.packets.clear();
    let mut later = third(700, &syn_ack, 60, b"world");
    later[27] += 6;
    refill(&mut later);
    world.inject(later.clone());
    assert_eq!(world.port.packets.len(), 0, "no reset");
    world.inject(third(700, &syn_ack, 60, b"hello "));
    world.inject(later);
    world.events();
    let id = world.id();
    assert_eq!(world.side(id).received, b"hello world");
    assert_reconciled(&world);
}

/// A SYN that comes twice may find the table full once only; its peer answers the first answer.
#[test]
fn a_cookie_counts_beside_a_handshake_of_the_same_flow() {
    let mut world = World::new(config(), Faults::default(), 1);
    for port in 1..=config().half_open as u16 {
        world.inject(syn(port, 5));
    }
    world.port.packets.clear();
    world.inject(linux_syn(700, 100, 50));
    let syn_ack = world.port.packets.pop_front().expect("an answer");
    world.inject(packet(1, RST, 6, 0, &[]));
    world.inject(linux_syn(700, 100, 50));
    let second = world.port.packets.pop_front().expect("an answer");
    assert_ne!(fields(&second).1, fields(&syn_ack).1);
    world.inject(third(700, &syn_ack, 60, b"hello"));
    world.events();
    let id = world.id();
    assert_eq!(world.side(id).received, b"hello");
    assert_reconciled(&world);
}

#[test]
fn a_cookie_counts_for_two_minutes_and_for_its_flow_alone() {
    for (port, wait_s, bend, taken) in [(700, 1, 0, 1), (701, 1, 0, 0), (700, 1, 1, 0), (700, 200, 0, 0)] {
        let mut world = World::new(config(), Faults::default(), 1);
        for port in 1..=config().half_open as u16 {
            world.inject(syn(port, 5));
        }
        world.port.packets.clear();
        world.inject(linux_syn(700, 100, 50));
        let mut syn_ack = world.port.packets.pop_front().expect("an answer");
        for port in 1_000..1_100 {
            world.inject(syn(port, 5));
        }
        world.port.packets.clear();
        world.now += Duration::from_secs(wait_s);
        // Still under pressure.
        for port in 1_100..1_120 {
            world.inject(syn(port, 5));
        }
        syn_ack[27] ^= bend;
        world.inject(third(port, &syn_ack, 60, b""));
        assert_eq!(world.tcp.counters().cookies, taken, "port {port}, {wait_s} s, bent {bend}");
    }
}

/// Third segments alone do not make connections: without pressure no number of ours is taken for a cookie.
#[test]
fn without_pressure_there_are_no_cookies() {
    let mut world = World::new(config(), Faults::default(), 1);
    world.inject(linux_syn(700, 100, 50));
    let syn_ack = world.port.packets.pop_front().expect("an answer");
    world.inject(packet(700, RST, 101, 0, &[]));
    world.inject(third(700, &syn_ack, 60, b""));
    assert_eq!((world.tcp.connections(), drops(&world, DropReason::Stray)), (0, 1));
}

#[test]
fn connections_nobody_asks_for_are_bounded() {
    let tuning = keyferry_tcp::Tuning { accept_queue: 2, ..Default::default() };
    let mut tcp = Tcp::<Vec<u8>>::tuned(config(), tuning);
    let mut out = Port { packets: Default::default(), room: 100, offload: false, segmented: 0, mtu: MTU };
    let now = Time::from_us(1);
    let mut open = |tcp: &mut Tcp<Vec<u8>>, port: u16| {
        tcp.ingest(now, &mut syn(port, 5), false, &mut out);
        let (_, seq, _) = fields(out.packets.back().expect("a SYN-ACK"));
        tcp.ingest(now, &mut packet(port, ACK, 6, seq.wrapping_add(1), &[]), false, &mut out);
    };
    (1..=3).for_each(|port| open(&mut tcp, port));
    assert_eq!((tcp.connections(), tcp.counters().half_open), (2, 1));
    assert!(matches!(tcp.poll_event(), Some(Event::Opened(_))));
    open(&mut tcp, 4);
    assert_eq!(tcp.connections(), 3, "one was noticed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a SYN offers, the socket made later has drawn the number and offers what the SYN-ACK promised (the
    /// code asserts both), and the connection works.
    #[test]
    fn every_handshake_becomes_the_connection_it_promised(
        seed: u64,
        seq: u32,
        port in 1u16..,
        at_us in 0u64..1 << 40,
        receive_bytes in 1_000usize..2_000_000,
        scale in prop::option::of(0u8..16),
        mss in prop::option::of(0u16..),
        sack: bool,
        offload: bool,
    ) {
        let mut config = config();
        (config.seed, config.receive_bytes) = (seed, receive_bytes);
        config.tx_checksum_offload = offload;
        let mut options = Vec::new();
        options.extend(mss.into_iter().flat_map(|mss| [2, 4, (mss >> 8) as u8, mss as u8]));
        options.extend(scale.into_iter().flat_map(|scale| [1, 3, 3, scale]));
        options.extend(sack.then_some([1, 1, 4, 2]).into_iter().flatten());
        let mut world = World::new(config, Faults::default(), 1);
        world.port.offload = offload;
        world.now = Time::from_us(at_us);
        let from = Ipv4Addr::new(192, 0, 2, 9);
        world.inject(syn_of(from, port, seq, &options));
        let (flags, theirs, ack) = fields(&world.port.packets[0]);
        prop_assert_eq!((flags, ack), (SYN | ACK, seq.wrapping_add(1)));
        let IpAddr::V4(server) = SERVER_V4 else { unreachable!("an IPv4 address") };
        world.now += MS;
        let mut third =
            packet_from(from, port, server, PORT, ACK, ack, theirs.wrapping_add(1), b"first words");
        world.tcp.ingest(world.now, &mut third, false, &mut world.port);
        let opened = world.tcp.poll_event();
        let Some(Event::Opened(id)) = opened else { panic!("opened, not {opened:?}") };
        prop_assert_eq!(world.tcp.readable(id), 11);
    }

    /// Packets of one flow in any order: each is counted once, and handshakes stay within their limit.
    #[test]
    fn every_packet_is_counted(
        steps in prop::collection::vec((0u16..4, any::<u8>(), 0u32..4, 0usize..50, 0u64..2_000), 1..80),
    ) {
        let mut world = World::new(config(), Faults::default(), 1);
        let mut next = [(1_000u32, 0u32); 4];
        for (peer, flags, skew, len, wait_ms) in steps {
            let (seq, ack) = next[usize::from(peer)];
            // Mostly what fits, sometimes what does not.
            let seq = seq.wrapping_add([0, 0, 1, 100_000][skew as usize]);
            world.inject(packet(40_000 + peer, flags & 0x17, seq, ack, &vec![7; len]));
            for sent in world.port.packets.drain(..) {
                let (said, theirs, acknowledged) = fields(&sent);
                let to = usize::from(u16::from_be_bytes([sent[22], sent[23]]).wrapping_sub(40_000));
                if said & RST == 0 && said & ACK != 0 && to < 4 {
                    next[to] = (acknowledged, theirs.wrapping_add(u32::from(said & SYN != 0)));
                }
            }
            world.events();
            world.now += Duration::from_millis(wait_ms);
            world.tcp.timers(world.now, &mut world.port);
            world.events();
            prop_assert!(world.tcp.counters().half_open <= 8);
            assert_reconciled(&world);
        }
    }
}
