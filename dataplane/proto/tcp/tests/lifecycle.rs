//! Connections end, in every state and by every cause, and leave nothing behind; limits hold.

mod common;

use std::net::Ipv4Addr;
use std::time::Duration;

use common::*;
use keyferry_tcp::{CloseReason, DropReason, FIN_WAIT, TIME_WAIT};
use proptest::prelude::*;
use smoltcp::socket::tcp::State;

const MS: Duration = Duration::from_millis(1);

fn drops(world: &World, reason: DropReason) -> u64 {
    world.tcp.counters().drops[reason.index()]
}

/// What happens to a connection, each after some time.
#[derive(Clone, Copy, Debug)]
enum Act {
    ServerSends(u16),
    ServerCloses,
    ServerAborts,
    ClientSends(u16),
    ClientCloses,
    ClientResets,
    ClientVanishes,
    ServerStopsReading,
    Connect,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0u16..9_000).prop_map(Act::ServerSends),
        2 => Just(Act::ServerCloses),
        1 => Just(Act::ServerAborts),
        3 => (0u16..9_000).prop_map(Act::ClientSends),
        2 => Just(Act::ClientCloses),
        1 => Just(Act::ClientResets),
        1 => Just(Act::ClientVanishes),
        1 => Just(Act::ServerStopsReading),
        2 => Just(Act::Connect),
    ]
}

fn play(seed: u64, faults: Faults, acts: &[(Act, u32)]) {
    let mut config = config();
    config.connections = 4;
    config.half_open = 3;
    config.idle_timeout = Duration::from_secs(30);
    config.send_bytes = 3_000;
    let mut world = World::new(config, faults, seed);
    let mut handles = vec![world.client.connect(SERVER_V4)];
    for (act, after_us) in acts {
        world.pass(Duration::from_micros(u64::from(*after_us)));
        let ids: Vec<_> = world.ids().into_iter().filter(|id| !world.sides[&key(*id)].1.closing).collect();
        let id = ids.get(world.rng.below(ids.len() as u64) as usize).copied();
        let handle = handles[world.rng.below(handles.len() as u64) as usize];
        match (act, id) {
            (Act::ServerSends(bytes), Some(id)) => {
                world.send(id, pattern(usize::from(*bytes), 3));
            }
            (Act::ServerCloses, Some(id)) => world.close(id),
            (Act::ServerAborts, Some(id)) => world.abort(id),
            (Act::ClientSends(bytes), _) => {
                let _ = world.client.socket(handle).send_slice(&pattern(usize::from(*bytes), 4));
            }
            (Act::ClientCloses, _) => world.client.socket(handle).close(),
            (Act::ClientResets, _) => world.client.socket(handle).abort(),
            (Act::ClientVanishes, _) => world.cut = true,
            (Act::ServerStopsReading, _) => world.greedy = false,
            (Act::Connect, _) => handles.push(world.client.connect(SERVER_V4)),
            (_, None) => {}
        }
    }
    // Whatever is still open is idle from now on.
    world.pass(Duration::from_secs(400));
    world.assert_empty();
    world.tcp.timers(world.now, &mut world.port);
    assert_eq!(world.tcp.counters().time_wait, 0);
}

fn key(id: keyferry_tcp::ConnId) -> (usize, u32) {
    (id.index(), id.generation())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nothing_is_left(
        seed: u64,
        loss in 0u64..30,
        repeat in 0u64..20,
        jitter_us in 0u64..3_000,
        acts in prop::collection::vec((act(), 0u32..400_000), 1..30),
    ) {
        play(seed, Faults { loss, repeat, jitter_us }, &acts);
    }

    #[test]
    fn no_packet_makes_it_panic(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..120), 0u8..4), 1..40),
    ) {
        let mut raw = Raw::open(config()).0;
        for (mut bytes, shape) in packets {
            // From noise to a segment with noise for header fields and options only.
            if shape > 0 && bytes.len() >= 40 {
                let fixed = packet(raw.port, ACK, raw.seq, raw.ack, &bytes[40..]);
                let upto = [0, 20, 32, 36][usize::from(shape)];
                bytes[..upto].copy_from_slice(&fixed[..upto]);
                if shape > 1 {
                    bytes[32] |= 0x50;
                }
            }
            let mut packet = bytes;
            raw.world.tcp.ingest(raw.world.now, &mut packet, true, &mut raw.world.port);
            raw.wait(MS);
        }
    }
}

#[test]
fn a_port_not_listened_on_answers_reset() {
    let mut world = World::new(config(), Faults::default(), 1);
    let (from, to) = (Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 1));
    world.inject(packet_from(from, 5, to, 444, SYN, 7, 0, &[]));
    assert_eq!(fields(&world.port.packets[0]), (RST | ACK, 0, 8));
    assert_eq!(drops(&world, DropReason::PortClosed), 1);
    world.inject(packet_from(from, 5, Ipv4Addr::new(192, 0, 2, 2), PORT, SYN, 7, 0, &[]));
    assert_eq!(drops(&world, DropReason::OtherAddress), 1);
    assert_eq!((world.port.packets.len(), world.tcp.connections()), (1, 0));
}

#[test]
fn a_stray_segment_answers_reset_and_a_stray_reset_nothing() {
    let mut world = World::new(config(), Faults::default(), 1);
    world.inject(packet(5, ACK, 70, 80, b"lost"));
    assert_eq!(fields(&world.port.packets[0]).0, RST);
    assert_eq!(fields(&world.port.packets[0]).1, 80);
    world.inject(packet(5, RST, 70, 0, &[]));
    assert_eq!(world.port.packets.len(), 1);
}

#[test]
fn a_flood_of_syns_is_bounded_and_an_honest_handshake_still_works() {
    let config = config();
    let (half_open, connections) = (config.half_open as usize, config.connections as usize);
    let mut world = World::new(config, Faults::default(), 1);
    for port in 1..=1_000 {
        world.inject(syn(port, 5));
        assert!(world.tcp.connections() <= half_open);
    }
    world.port.packets.clear();
    assert_eq!(drops(&world, DropReason::HalfOpenEvicted), 1_000 - half_open as u64);
    let handles: Vec<_> = (0..connections - half_open).map(|_| world.client.connect(SERVER_V4)).collect();
    world.pass(50 * MS);
    for handle in handles {
        assert_eq!(world.client.state(handle), State::Established);
    }
    assert_eq!(world.ids().len(), connections - half_open);
    world.pass(Duration::from_secs(6));
    assert_eq!(world.tcp.counters().half_open, 0);
    assert_eq!(world.tcp.connections(), connections - half_open);
}

#[test]
fn at_the_limit_of_connections_a_syn_is_dropped() {
    let mut config = config();
    config.connections = 2;
    let mut world = World::new(config, Faults::default(), 1);
    world.client.connect(SERVER_V4);
    world.client.connect(SERVER_V6);
    world.pass(50 * MS);
    world.inject(syn(7, 7));
    assert_eq!(drops(&world, DropReason::ConnectionsFull), 1);
    assert!(world.port.packets.is_empty());
}

#[test]
fn a_reset_in_syn_received_frees_the_connection() {
    let mut raw = Raw::half_open(config());
    assert_eq!(raw.world.tcp.counters().half_open, 1);
    raw.say(RST, &[]);
    assert_eq!(drops(&raw.world, DropReason::HalfOpenReset), 1);
    raw.world.assert_empty();
}

#[test]
fn a_handshake_not_completed_in_time_is_forgotten() {
    let mut raw = Raw::half_open(config());
    let syn_acks = raw.wait(Duration::from_millis(4_900));
    assert!(!syn_acks.is_empty() && syn_acks.iter().all(|packet| fields(packet).0 == SYN | ACK));
    raw.wait(200 * MS);
    assert_eq!(drops(&raw.world, DropReason::HalfOpenTimeout), 1);
    raw.world.assert_empty();
}

#[test]
fn a_fin_or_data_with_the_handshakes_last_acknowledgement_is_not_lost() {
    let mut raw = Raw::half_open(config());
    raw.say(ACK | FIN, b"all I have");
    let id = raw.world.id();
    let side = raw.world.side(id);
    assert_eq!((side.received.as_slice(), side.eof), (&b"all I have"[..], true));
}

#[test]
fn what_comes_behind_a_fin_is_not_of_the_stream() {
    for greedy in [true, false] {
        let (mut raw, id) = Raw::open(config());
        raw.world.greedy = greedy;
        raw.say(ACK | FIN, b"the end");
        raw.say(ACK, b"and more");
        assert_eq!(raw.world.tcp.readable(id), if greedy { 0 } else { 7 });
        raw.world.read(id);
        raw.say(ACK, b"and again");
        raw.world.read(id);
        let side = raw.world.side(id);
        assert_eq!((side.received.as_slice(), side.eof), (&b"the end"[..], true));
        raw.world.close(id);
        let fin = raw.take();
        raw.hear(&fin);
        raw.say(ACK, &[]);
        raw.world.assert_empty();
    }
}

#[test]
fn an_idle_connection_is_reset_and_one_with_a_request_in_the_application_is_not() {
    for exempt in [false, true] {
        let (mut raw, id) = Raw::open(config());
        if exempt {
            raw.world.tcp.set_idle_timeout(id, None);
        }
        raw.wait(Duration::from_secs(299));
        assert_eq!(raw.world.side(id).closed, None);
        let packets = raw.wait(Duration::from_secs(2));
        if exempt {
            assert!(packets.is_empty());
            // It is over when data of ours goes unacknowledged.
            assert!(raw.world.send(id, vec![1]));
            raw.wait(Duration::from_secs(310));
        } else {
            assert_eq!(packets.len(), 1);
            assert_eq!(fields(&packets[0]).0, RST | ACK);
        }
        assert_eq!(raw.world.side(id).closed, Some(CloseReason::IdleTimeout));
        raw.world.assert_empty();
    }
}

#[test]
fn a_shorter_idle_timeout_takes_effect_at_once() {
    let (mut raw, id) = Raw::open(config());
    raw.wait(Duration::from_secs(100));
    raw.world.tcp.set_idle_timeout(id, Some(Duration::from_secs(5)));
    raw.wait(Duration::from_millis(4_900));
    assert_eq!(raw.world.side(id).closed, None);
    raw.wait(200 * MS);
    assert_eq!(raw.world.side(id).closed, Some(CloseReason::IdleTimeout));
}

#[test]
fn a_peer_that_never_closes_its_half_is_given_up() {
    let (mut raw, id) = Raw::open(config());
    raw.world.close(id);
    let fin = raw.take();
    assert_eq!(fields(&fin[0]).0, FIN | ACK);
    raw.hear(&fin);
    raw.say(ACK, &[]);
    // It may talk on without being heard, but not for ever.
    raw.say(ACK, b"more");
    raw.wait(FIN_WAIT - 100 * MS);
    assert_eq!(raw.world.side(id).closed, None);
    let packets = raw.wait(200 * MS);
    assert_eq!(fields(packets.last().unwrap()).0, RST | ACK);
    assert_eq!(raw.world.side(id).closed, Some(CloseReason::FinWaitTimeout));
    raw.world.assert_empty();
}

#[test]
fn a_reset_of_the_peer_ends_the_connection_and_releases_its_segments() {
    let (mut raw, id) = Raw::open(config());
    while raw.world.send(id, vec![0; 5_000]) {}
    raw.say(RST, &[]);
    assert_eq!(raw.world.side(id).closed, Some(CloseReason::Reset));
    raw.world.assert_empty();
}

#[test]
fn abort_sends_one_reset_and_releases_everything() {
    let (mut raw, id) = Raw::open(config());
    while raw.world.send(id, vec![0; 5_000]) {}
    raw.world.abort(id);
    raw.world.port.room = 0;
    assert!(raw.take().is_empty());
    assert_eq!(raw.world.side(id).closed, None, "the reset is not out yet");
    raw.world.port.room = 32;
    let packets = raw.take();
    assert_eq!(packets.iter().map(|packet| fields(packet).0).collect::<Vec<_>>(), [RST | ACK]);
    assert_eq!(raw.world.side(id).closed, Some(CloseReason::Aborted));
    raw.world.assert_empty();
}

/// Closes from our side and lets the peer close too: the connection is then in TIME-WAIT.
fn time_wait() -> Raw {
    let (mut raw, id) = Raw::open(config());
    raw.world.close(id);
    let fin = raw.take();
    raw.hear(&fin);
    let answers = raw.say(FIN | ACK, &[]);
    assert_eq!(fields(&answers[0]), (ACK, raw.ack, raw.seq));
    assert_eq!(raw.world.side(id).closed, Some(CloseReason::Finished));
    assert_eq!(raw.world.tcp.counters().time_wait, 1);
    raw.world.assert_empty();
    raw
}

#[test]
fn time_wait_acknowledges_a_fin_again_and_ignores_resets() {
    let mut raw = time_wait();
    raw.seq -= 1;
    let answers = raw.say(FIN | ACK, &[]);
    assert_eq!(fields(&answers[0]), (ACK, raw.ack, raw.seq));
    assert!(raw.say(RST, &[]).is_empty());
    assert!(raw.say(ACK, &[]).is_empty());
    raw.wait(TIME_WAIT);
    assert_eq!(raw.world.tcp.counters().time_wait, 0);
    assert_eq!(fields(&raw.say(FIN | ACK, &[])[0]).0, RST);
}

#[test]
fn a_new_connection_may_begin_where_one_in_time_wait_ended() {
    let mut raw = time_wait();
    raw.seq += 10;
    raw.syn();
    raw.say(ACK, b"again");
    let id = raw.world.id();
    assert_eq!(raw.world.side(id).received, b"again");
    assert_eq!(raw.world.tcp.counters().time_wait, 0);
    // An old SYN is none.
    let mut raw = time_wait();
    raw.seq -= 10;
    let answers = raw.say(SYN, &[]);
    assert_eq!(fields(&answers[0]).0, ACK);
    assert_eq!(raw.world.tcp.counters().time_wait, 1);
}

#[test]
fn time_wait_is_bounded_and_the_oldest_goes() {
    let mut config = config();
    config.connections = 3;
    let mut world = World::new(config, Faults::default(), 1);
    for _ in 0..10 {
        let handle = world.client.connect(SERVER_V4);
        world.pass(20 * MS);
        let id = world.id();
        world.close(id);
        world.pass(20 * MS);
        world.client.socket(handle).close();
        world.pass(20 * MS);
    }
    world.assert_empty();
    assert_eq!(world.tcp.counters().time_wait, 3);
    world.pass(TIME_WAIT);
    world.tcp.timers(world.now, &mut world.port);
    assert_eq!(world.tcp.counters().time_wait, 0);
}

#[test]
fn a_name_is_never_used_for_two_connections() {
    let mut world = World::new(config(), Faults::default(), 1);
    let mut names = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let handle = world.client.connect(SERVER_V4);
        world.pass(20 * MS);
        let id = world.id();
        assert!(names.insert(key(id)));
        world.client.socket(handle).abort();
        world.pass(20 * MS);
        assert_eq!(world.side(id).closed, Some(CloseReason::Reset));
        // The dead name reaches nobody, though its index may have been used again.
        world.tcp.abort(id);
        world.tcp.close(id);
        assert_eq!((world.tcp.readable(id), world.tcp.unsent(id)), (0, 0));
    }
    assert!(names.iter().map(|(index, _)| index).max().unwrap() < &16);
}

#[test]
fn bare_acknowledgements_carry_the_highest_sequence_number_sent() {
    for offload in [false, true] {
        let mut config = config();
        config.tx_checksum_offload = offload;
        let (mut raw, id) = Raw::open(config);
        assert!(raw.world.send(id, vec![7; 2_000]));
        let first = raw.take();
        let sent: u32 = first.iter().map(|packet| payload(packet).len() as u32).sum();
        // Everything is lost; after the time-out one segment of it is sent again.
        let again = raw.wait(Duration::from_millis(1_100));
        assert_eq!(fields(&again[0]).1, raw.ack);
        let answers = raw.say(ACK, b"from the peer");
        let answers = [answers, raw.wait(20 * MS)].concat();
        let bare = answers.iter().find(|packet| payload(packet).is_empty()).unwrap();
        assert_eq!(fields(bare), (ACK, raw.ack + sent, raw.seq));
        let mut checked = bare.clone();
        refill(&mut checked);
        assert_eq!(*bare, checked, "its checksum is right");
    }
}

#[test]
fn an_acknowledgement_keeps_to_a_window_that_was_taken_back() {
    let (mut raw, id) = Raw::open(config());
    assert!(raw.world.send(id, vec![7; 2_000]));
    let sent = raw.take();
    assert_eq!(sent.iter().map(|packet| payload(packet).len()).sum::<usize>(), 2_000);
    // The peer had memory for the first segment only, says so, and goes on sending.
    raw.hear(&sent[..1]);
    let mut full = packet(raw.port, ACK, raw.seq, raw.ack, b"one");
    full[34..36].copy_from_slice(&[0, 0]);
    refill(&mut full);
    raw.seq += 3;
    let answers = [raw.give(full), raw.wait(20 * MS)].concat();
    let bare = answers.iter().find(|packet| payload(packet).is_empty()).unwrap();
    assert_eq!(fields(bare), (ACK, raw.ack, raw.seq), "a number the peer takes");
    // With memory again it hears the highest number, and is sent the rest.
    let answers = [raw.say(ACK, b"two"), raw.wait(20 * MS)].concat();
    let bare = answers.iter().find(|packet| payload(packet).is_empty()).unwrap();
    assert_eq!(fields(bare), (ACK, fields(&sent[0]).1 + 2_000, raw.seq));
    for _ in 0..4 {
        let packets = raw.wait(Duration::from_secs(1));
        raw.hear(&packets);
        let packets = raw.say(ACK, &[]);
        raw.hear(&packets);
    }
    assert_eq!(raw.ack, fields(&sent[0]).1 + 2_000);
}

#[test]
fn an_old_zero_window_at_the_time_out_does_not_stall_for_ever() {
    let (mut raw, id) = Raw::open(config());
    assert!(raw.world.send(id, vec![7; 1_000]));
    assert_eq!(payload(&raw.take()[0]).len(), 1_000);
    let mut old = packet(raw.port, ACK, raw.seq, raw.ack, &[]);
    old[34..36].copy_from_slice(&[0, 0]);
    refill(&mut old);
    raw.give(old);
    let probes = raw.wait(Duration::from_secs(4));
    assert!(!probes.is_empty() && probes.len() <= 4, "{} probes", probes.len());
    // Any acknowledgement tells the window again.
    let data = raw.say(ACK, &[]);
    assert_eq!((fields(&data[0]).1, payload(&data[0]).len()), (raw.ack, 1_000));
    raw.hear(&data);
    raw.say(ACK, &[]);
    // The last probe may be under way already.
    assert!(raw.wait(Duration::from_secs(30)).len() <= 1, "nothing to probe for any more");
}

#[test]
fn a_peer_without_window_that_acknowledges_our_end_is_left_alone_and_given_up() {
    let (mut raw, id) = Raw::open(config());
    assert!(raw.world.send(id, vec![7; 1_000]));
    raw.world.close(id);
    let sent = raw.take();
    assert_eq!(sent.iter().map(|packet| payload(packet).len()).sum::<usize>(), 1_000);
    // First a part, so that what is left would have to be probed for, then all of it and the FIN; never a window.
    for acknowledged in [500, 1_001] {
        let mut ack = packet(raw.port, ACK, raw.seq, raw.ack + acknowledged, &[]);
        ack[34..36].copy_from_slice(&[0, 0]);
        refill(&mut ack);
        raw.give(ack);
    }
    let packets = raw.wait(Duration::from_secs(60));
    assert!(packets.len() <= 4, "{} packets", packets.len());
    raw.world.assert_empty();
}

#[test]
fn no_room_delays_packets_and_loses_none_and_is_fair() {
    let mut config = config();
    config.send_bytes = 60_000;
    let mut world = World::new(config, Faults::default(), 1);
    let handles: Vec<_> = (0..4).map(|_| world.client.connect(SERVER_V4)).collect();
    world.pass(20 * MS);
    world.port.room = 1;
    for id in world.ids() {
        assert!(world.send(id, pattern(1_000, 0)));
    }
    let mut served = std::collections::BTreeSet::new();
    for _ in 0..4 {
        world.tcp.emit(world.now, &mut world.port);
        let packet = world.port.packets.pop_front().unwrap();
        served.insert([packet[22], packet[23]]);
    }
    assert_eq!(served.len(), 4, "each connection had its turn");
    world.pass(Duration::from_secs(5));
    for handle in handles {
        assert_eq!(world.client.read(handle), pattern(1_000, 0));
    }
}

/// A packet, or a handshake, that is dropped for this reason, and what came of it.
fn provoked(reason: DropReason) -> World {
    let mut world = World::new(config(), Faults::default(), 1);
    let (from, to) = (Ipv4Addr::new(192, 0, 2, 9), Ipv4Addr::new(192, 0, 2, 1));
    match reason {
        DropReason::Malformed => {
            let mut packet = syn(5, 7);
            // A header of four words, of which it has five at least.
            packet[32] = 0x40;
            world.inject(packet);
        }
        DropReason::Checksum => {
            let mut packet = syn(5, 7);
            packet[36] ^= 1;
            world.inject(packet);
        }
        DropReason::OtherAddress => {
            world.inject(packet_from(from, 5, Ipv4Addr::new(192, 0, 2, 2), PORT, SYN, 7, 0, &[]));
        }
        DropReason::ConnectionsFull => {
            let mut config = config();
            config.connections = 1;
            let (mut raw, _) = Raw::open(config);
            raw.give(syn(5, 7));
            world = raw.world;
        }
        DropReason::PortClosed => world.inject(packet_from(from, 5, to, 444, SYN, 7, 0, &[])),
        DropReason::Stray => world.inject(packet(5, ACK, 70, 80, b"lost")),
        DropReason::HalfOpenEvicted => {
            for port in 0..=config().half_open as u16 {
                world.inject(syn(1 + port, 7));
            }
        }
        DropReason::HalfOpenTimeout => {
            let mut raw = Raw::half_open(config());
            raw.wait(config().half_open_timeout + 100 * MS);
            world = raw.world;
        }
        DropReason::HalfOpenReset => {
            let mut raw = Raw::half_open(config());
            raw.say(RST, &[]);
            world = raw.world;
        }
        DropReason::Unacceptable => {
            let (mut raw, _) = Raw::open(config());
            raw.give(packet(raw.port, ACK, raw.seq.wrapping_add(1 << 20), raw.ack, b"beyond the window"));
            world = raw.world;
        }
        DropReason::TimeWait => {
            let mut raw = time_wait();
            raw.say(RST, &[]);
            world = raw.world;
        }
        DropReason::NoRoom => {
            world.port.room = 0;
            world.inject(packet(5, ACK, 70, 80, b"lost"));
        }
    }
    world
}

#[test]
fn each_reason_to_drop_counts_what_it_is_named_for_and_nothing_else() {
    for reason in DropReason::ALL {
        let world = provoked(reason);
        for other in DropReason::ALL {
            // The reset that found no room was the answer to a stray segment.
            let is_answered = reason == DropReason::NoRoom && other == DropReason::Stray;
            let wanted = u64::from(other == reason || is_answered);
            assert_eq!(drops(&world, other), wanted, "{reason:?}: {other:?}");
        }
    }
}
