//! Bytes arrive exactly, both ways, whatever the network does to packets.

mod common;

use std::ops::ControlFlow;
use std::time::Duration;

use common::*;
use keyferry_tcp::{CloseReason, ConnId, RxChecksum, SEGMENTS_MAX, Stretch};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Case {
    seed: u64,
    faults: Faults,
    ipv6: bool,
    offload: bool,
    stretch: Stretch,
    receive_bytes: usize,
    send_bytes: usize,
    room: usize,
    request: usize,
    reply: usize,
    server_closes: bool,
}

fn case() -> impl Strategy<Value = Case> {
    let network = (0u64..10, 0u64..10, 0u64..3_000);
    let stretch = prop_oneof![
        Just(Stretch::SEGMENT),
        (1u32..80_000).prop_map(Stretch::of_port),
        (2u16..40).prop_map(Stretch::of_egress),
    ];
    let ways = (any::<bool>(), any::<bool>(), stretch);
    let buffers = (600usize..20_000, 600usize..100_000, 1usize..40);
    let bytes = (0usize..40_000, 0usize..120_000, any::<bool>());
    (any::<u64>(), network, ways, buffers, bytes).prop_map(|(seed, network, ways, buffers, bytes)| Case {
        seed,
        faults: Faults { loss: network.0, repeat: network.1, jitter_us: network.2 },
        ipv6: ways.0,
        offload: ways.1,
        stretch: ways.2,
        receive_bytes: buffers.0,
        send_bytes: buffers.1,
        room: buffers.2,
        request: bytes.0,
        reply: bytes.1,
        server_closes: bytes.2,
    })
}

/// Runs a transfer to its orderly end; returns the digest of the server's packets and how many were segmented.
fn transfer(case: &Case) -> (u64, usize) {
    transfer_with(case, |_| ())
}

/// As [`transfer`], `each` acting on the server at every instant.
fn transfer_with(case: &Case, mut each: impl FnMut(&mut World)) -> (u64, usize) {
    let mut config = config();
    // Losses alone must not end a handshake here.
    config.half_open_timeout = Duration::from_secs(600);
    config.receive_bytes = case.receive_bytes;
    config.send_bytes = case.send_bytes;
    config.tx_checksum_offload = case.offload;
    config.stretch = case.stretch;
    let mut world = World::new(config, case.faults, case.seed);
    world.port.room = case.room;
    let handle = world.client.connect(if case.ipv6 { SERVER_V6 } else { SERVER_V4 });
    let (request, reply) = (pattern(case.request, 1), pattern(case.reply, 2));
    let (mut asked, mut answered, mut got) = (0, 0, vec![]);
    let finished = world.run(Duration::from_secs(3_600), |world| {
        each(world);
        if asked < request.len() {
            asked += world.client.socket(handle).send_slice(&request[asked..]).unwrap_or(0);
        }
        got.extend(world.client.read(handle));
        let Some(id) = world.ids().first().copied() else {
            return world.sides.values().any(|(_, side)| side.closed.is_some());
        };
        while answered < reply.len() && !world.side(id).closing {
            let bytes = (1 + world.rng.below(20_000) as usize).min(reply.len() - answered);
            if !world.send(id, reply[answered..answered + bytes].to_vec()) {
                break;
            }
            answered += bytes;
        }
        let heard = world.side(id).received.len() == request.len();
        if answered == reply.len() && heard && (case.server_closes || world.side(id).eof) {
            world.close(id);
        }
        if asked == request.len()
            && got.len() == reply.len()
            && !(case.server_closes && answered < reply.len())
        {
            let open = world.client.socket(handle).may_recv();
            if !case.server_closes || !open {
                world.client.socket(handle).close();
            }
        }
        false
    });
    assert!(finished, "unfinished: {} of {} up, {} of {} down", asked, request.len(), got.len(), reply.len());
    let (_, side) = world.sides.values().next().unwrap();
    let at = |a: &[u8], b: &[u8]| a.iter().zip(b).position(|(a, b)| a != b);
    let (heard, reason) = (&side.received, side.closed);
    assert!(*heard == request, "{} heard, differs at {:?}, {reason:?}", heard.len(), at(heard, &request));
    assert!(got == reply, "{} got, differs at {:?}, {reason:?}", got.len(), at(&got, &reply));
    assert!(side.released > 0 || reply.is_empty());
    world.pass(Duration::from_secs(30));
    world.assert_empty();
    (world.trace, world.port.segmented)
}

const CASES: u32 = 300;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order(case in case()) {
        transfer(&case);
    }

    #[test]
    fn the_same_seed_gives_the_same_packets(case in case()) {
        prop_assert_eq!(transfer(&case), transfer(&case));
    }

    /// Some at a time, at every instant, whether sent or not: what is lost is sent again from the new memory.
    #[test]
    fn what_is_put_in_a_segments_place_is_sent_as_it_would_have_been(case in case(), most in 1usize..5) {
        let mut replaced = 0;
        let replacing = transfer_with(&case, |world| {
            for id in world.ids() {
                let mut left = most;
                world.tcp.replace(id, |segment| {
                    let mut old = std::mem::replace(segment, segment.clone());
                    // Whoever had its memory fills it again.
                    old.fill(0xee);
                    (replaced, left) = (replaced + 1, left - 1);
                    if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                });
            }
        });
        prop_assert!(replaced > 0 || case.reply == 0);
        prop_assert_eq!(replacing, transfer(&case));
    }
}

/// A connection with four segments, of which two are acknowledged and collected, and whose client was cut off then.
fn half_acknowledged() -> (World, ConnId) {
    let mut world = World::new(config(), Faults::default(), 1);
    let handle = world.client.connect(SERVER_V4);
    world.run(Duration::from_secs(1), |world| !world.ids().is_empty());
    let id = world.id();
    assert!(world.send(id, vec![1; 100]) && world.send(id, vec![2; 100]));
    world.run(Duration::from_secs(1), |world| world.side(id).released == 2);
    world.cut = true;
    assert!(world.send(id, vec![3; 100]) && world.send(id, vec![4; 100]));
    world.pass(Duration::from_millis(10));
    assert!(world.client.read(handle).len() >= 200);
    (world, id)
}

#[test]
fn what_is_acknowledged_is_replaced_no_more() {
    let (mut world, id) = half_acknowledged();
    let seen = |world: &mut World| {
        let mut seen = vec![];
        world.tcp.replace(id, |segment| {
            seen.push(segment[0]);
            ControlFlow::Continue(())
        });
        seen
    };
    assert_eq!(seen(&mut world), [3, 4]);
    world.close(id);
    assert_eq!(seen(&mut world), [3, 4], "closed, and not acknowledged");
    world.tcp.abort(id);
    assert_eq!(seen(&mut world), [0; 0], "nothing of it is sent any more");
}

#[test]
#[should_panic(expected = "in whose place another one was put")]
fn what_takes_a_segments_place_has_its_length() {
    let (mut world, id) = half_acknowledged();
    world.tcp.replace(id, |segment| {
        segment.push(0);
        ControlFlow::Continue(())
    });
}

fn clean() -> Case {
    Case {
        seed: 3,
        faults: Faults::default(),
        ipv6: false,
        offload: true,
        stretch: Stretch::of_port(32_000),
        receive_bytes: 16_384,
        send_bytes: 65_536,
        room: 32,
        request: 1_000,
        reply: 500_000,
        server_closes: true,
    }
}

#[test]
fn segmentation_is_used_for_both_families() {
    assert!(transfer(&clean()).1 > 10);
    assert!(transfer(&Case { ipv6: true, ..clean() }).1 > 10);
}

#[test]
fn a_full_queue_refuses_and_says_when_it_would_not() {
    let mut config = config();
    config.send_bytes = 1_000;
    let mut world = World::new(config, Faults::default(), 1);
    let handle = world.client.connect(SERVER_V4);
    world.run(Duration::from_secs(1), |world| !world.ids().is_empty());
    let id = world.id();
    let mut taken = 0;
    while world.send(id, vec![7; 2_000]) {
        taken += 1;
    }
    assert_eq!(taken, SEGMENTS_MAX);
    assert_eq!(world.tcp.unsent(id), SEGMENTS_MAX * 2_000 - 1_000);
    let mut got = 0;
    assert!(world.run(Duration::from_secs(60), |world| {
        got += world.client.read(handle).len();
        got == SEGMENTS_MAX * 2_000 && world.side(id).released == SEGMENTS_MAX
    }));
    assert_eq!(world.side(id).writable, 1);
    assert!(world.send(id, vec![8; 10]));
}

/// Sends large segments, each when there is room for it or each when TCP is hungry. Answers how long that took, the most that was
/// queued at a time, and how often the caller was told to go on.
fn send_records(when_hungry: bool) -> (Duration, usize, usize) {
    const RECORDS: usize = 200;
    const RECORD_BYTES: usize = 16_000;
    let mut config = config();
    config.send_bytes = 64 << 20;
    let mut world = World::new(config, Faults::default(), 1);
    let handle = world.client.connect(SERVER_V4);
    world.run(Duration::from_secs(1), |world| !world.ids().is_empty());
    let (id, began) = (world.id(), world.now);
    let (mut sent, mut got, mut most, mut told) = (0, 0, 0, 0);
    assert!(world.run(Duration::from_secs(60), |world| {
        if sent == 0 || world.side(id).writable > told {
            told = world.side(id).writable;
            while sent < RECORDS
                && (!when_hungry || world.tcp.is_hungry(id))
                && world.send(id, vec![7; RECORD_BYTES])
            {
                sent += 1;
            }
            // What is made now goes out now, as a worker's does.
            world.emit();
            most = most.max(world.tcp.unacknowledged(id));
        }
        got += world.client.read(handle).len();
        got == RECORDS * RECORD_BYTES
    }));
    (world.now - began, most, told)
}

/// A caller that makes what it sends when it can be sent has little queued, and yet keeps the path full.
#[test]
fn who_sends_when_it_is_hungry_is_as_fast_as_who_sends_ahead() {
    let (ahead, just_in_time) = (send_records(false), send_records(true));
    assert!(just_in_time.2 > 10 && just_in_time.1 < 40_000, "{just_in_time:?}");
    // The first record is larger than the first window: a round trip and no more.
    assert!(just_in_time.0 < ahead.0 + Duration::from_millis(1), "{just_in_time:?} in place of {ahead:?}");
}

#[test]
fn a_segment_of_no_bytes_is_released_and_changes_nothing() {
    let mut world = World::new(config(), Faults::default(), 1);
    let handle = world.client.connect(SERVER_V4);
    world.run(Duration::from_secs(1), |world| !world.ids().is_empty());
    let id = world.id();
    assert!(world.send(id, vec![]) && world.send(id, b"abc".to_vec()) && world.send(id, vec![]));
    world.pass(Duration::from_millis(50));
    assert_eq!(world.client.read(handle), b"abc");
    assert_eq!(world.side(id).released, 3);
}

#[test]
fn bytes_left_unread_close_the_window_and_reading_opens_it() {
    let mut world = World::new(config(), Faults::default(), 1);
    world.greedy = false;
    let handle = world.client.connect(SERVER_V4);
    let sent = pattern(12_000, 5);
    world.client.socket(handle);
    world.run(Duration::from_secs(1), |world| !world.ids().is_empty());
    assert_eq!(world.client.socket(handle).send_slice(&sent), Ok(12_000));
    world.pass(Duration::from_secs(5));
    let id = world.id();
    assert_eq!(world.tcp.readable(id), 4_096);
    assert!(world.run(Duration::from_secs(60), |world| {
        world.read(id);
        world.side(id).received.len() == sent.len()
    }));
    assert_eq!(world.side(id).received, sent);
}

/// Two connections hold bytes out of order, and there is memory for two buffers: a third one's bytes in order take the
/// place of those that have waited for longest, which their peer sends again.
#[test]
fn bytes_out_of_order_give_way_to_bytes_in_order() {
    let mut config = config();
    (config.receive_bytes, config.mtu) = (4_096, MTU as u16);
    let tuning = keyferry_tcp::Tuning {
        receive_bytes_max: 4_096,
        receive_budget_bytes: Some(2 * 4_097),
        ..Default::default()
    };
    let mut world = World::new(config.clone(), Faults::default(), 1);
    world.tcp = keyferry_tcp::Tcp::tuned(config, tuning);
    world.greedy = false;
    let mut acks = vec![];
    for port in 1..=3 {
        world.inject(syn(port, 100));
        acks.push(fields(world.port.packets.back().expect("a SYN-ACK")).1.wrapping_add(1));
        world.inject(packet(port, ACK, 101, acks[usize::from(port) - 1], &[]));
    }
    world.events();
    let ids = world.ids();
    world.inject(packet(1, ACK, 1_101, acks[0], &pattern(1_000, 1)[..]));
    world.inject(packet(2, ACK, 1_101, acks[1], &pattern(1_000, 1)[..]));
    world.inject(packet(3, ACK, 101, acks[2], b"in order"));
    world.events();
    assert_eq!((world.tcp.readable(ids[2]), world.tcp.counters().reneged), (8, 1));
    // The first one had to let go, the second had not.
    world.read(ids[2]);
    world.inject(packet(1, ACK, 101, acks[0], &[7; 1_000]));
    world.inject(packet(2, ACK, 101, acks[1], &[7; 1_000]));
    assert_eq!((world.tcp.readable(ids[0]), world.tcp.readable(ids[1])), (1_000, 2_000));
}

#[test]
fn consuming_in_part_keeps_the_rest_and_lends_it_writable() {
    let mut world = World::new(config(), Faults::default(), 1);
    world.greedy = false;
    let handle = world.client.connect(SERVER_V4);
    world.run(Duration::from_secs(1), |world| !world.ids().is_empty());
    world.client.socket(handle).send_slice(b"hello").unwrap();
    world.pass(Duration::from_millis(50));
    let id = world.id();
    let first = world.tcp.receive(id, |bytes| {
        bytes[2] = b'L';
        (2, bytes.to_vec())
    });
    assert_eq!(first.as_deref(), Some(&b"heLlo"[..]));
    assert_eq!(world.tcp.receive(id, |bytes| (0, bytes.to_vec())).as_deref(), Some(&b"Llo"[..]));
    assert_eq!(world.tcp.readable(id), 3);
}

#[test]
fn a_trusted_port_spares_the_check_and_an_untrusted_packet_gets_it() {
    for (rx_checksum, vouched, dropped) in
        [(RxChecksum::Trust, true, 0), (RxChecksum::Trust, false, 1), (RxChecksum::Verify, true, 1)]
    {
        let mut config = config();
        config.rx_checksum = rx_checksum;
        let mut world = World::new(config, Faults::default(), 1);
        let mut packet = syn(9_999, 1);
        packet[36] ^= 0xff;
        world.tcp.ingest(world.now, &mut packet, vouched, &mut world.port);
        assert_eq!(world.tcp.counters().drops[keyferry_tcp::DropReason::Checksum.index()], dropped);
    }
}

#[test]
fn orderly_ends_are_called_finished() {
    for server_closes in [true, false] {
        let mut world = World::new(config(), Faults::default(), 1);
        let handle = world.client.connect(SERVER_V4);
        world.run(Duration::from_secs(1), |world| !world.ids().is_empty());
        let id = world.id();
        if server_closes {
            world.close(id);
            world.pass(Duration::from_millis(20));
            world.client.socket(handle).close();
        } else {
            world.client.socket(handle).close();
            world.pass(Duration::from_millis(20));
            assert!(world.side(id).eof);
            world.close(id);
        }
        world.pass(Duration::from_millis(20));
        assert_eq!(world.side(id).closed, Some(CloseReason::Finished));
        world.assert_empty();
        assert_eq!(world.tcp.counters().time_wait, u64::from(server_closes));
    }
}

/// Part of a packet that the port had cut was sent again as the probe of the tail, which once left a piece without bytes
/// behind that was sent for ever.
#[test]
fn a_tail_that_the_port_has_cut_is_sent_again_and_no_more() {
    transfer(&Case {
        seed: 11_869_740_974_843_834_532,
        faults: Faults { loss: 6, repeat: 2, jitter_us: 186 },
        stretch: Stretch::of_port(4_380),
        receive_bytes: 3_560,
        send_bytes: 600,
        room: 1,
        request: 33_001,
        reply: 30_661,
        server_closes: false,
        ..clean()
    });
}
