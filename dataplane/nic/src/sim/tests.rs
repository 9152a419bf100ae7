//! Simulated ports do what they report: deliver in time and order, check and fill in checksums, segment, spread flows,
//! and stay within their pools.

use arrayvec::ArrayVec;
use proptest::prelude::*;

use super::{Arrivals, Net, PortOptions, Queue, Wire};
use crate::headers::{self, Content, Ip};
use crate::{BURST, Buffer, Checksum, Nic, PIECES_MAX, Packet as _, TxOffload, checksum, rss};

const LATENCY_NS: u64 = 5_000;

/// A TCP frame without checksums, and where its headers are.
fn tcp(ipv6: bool, ports: [u16; 2], flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    let bytes = 20 + payload.len() as u16;
    if ipv6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(bytes.to_be_bytes());
        frame.extend([6, 64]);
        frame.extend((0..32).map(|it| it * 7));
    } else {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + bytes).to_be_bytes());
        frame.extend([0x12, 0x34, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 9]);
    }
    frame.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    frame.extend([0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 2, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    frame.extend(payload);
    frame
}

fn located(frame: &[u8]) -> Ip {
    let Content::Ip(ip) = headers::parse(frame) else { panic!("not an IP packet") };
    ip
}

/// What a builder without offloads does.
fn finished(mut frame: Vec<u8>) -> Vec<u8> {
    let ip = located(&frame);
    if !ip.ipv6 {
        checksum::fill_ipv4(&mut frame[ip.l3..ip.l4]);
    }
    checksum::fill_tcp(&ip, &mut frame);
    frame
}

/// What a builder with offloads does: the pseudo-header sum in the field.
fn prepared(mut frame: Vec<u8>) -> Vec<u8> {
    let ip = located(&frame);
    let pseudo = checksum::pseudo_header(&ip, &frame, ip.end - ip.l4);
    frame[ip.l4 + 16..ip.l4 + 18].copy_from_slice(&pseudo.to_be_bytes());
    frame
}

fn offload(frame: &[u8], tso_segment_bytes: u16) -> TxOffload {
    let ip = located(frame);
    TxOffload {
        checksum: true,
        tso_segment_bytes,
        l2_len: ip.l3 as u8,
        l3_len: (ip.l4 - ip.l3) as u16,
        l4_len: 20,
        ipv6: ip.ipv6,
    }
}

fn queue(net: &mut Net, options: PortOptions) -> Queue {
    net.port(options).remove(0)
}

fn pair(a: PortOptions, b: PortOptions) -> (Net, Queue, Queue) {
    let mut net = Net::new();
    let (a, b) = (queue(&mut net, a), queue(&mut net, b));
    net.connect(a.port(), b.port(), LATENCY_NS);
    (net, a, b)
}

fn send(queue: &mut Queue, frame: &[u8], tx: TxOffload) {
    let packet = if frame.len() > 1514 { queue.alloc_large() } else { queue.alloc() };
    let mut packet = packet.expect("the pool is not empty");
    packet.set_len(frame.len());
    packet.bytes_mut().copy_from_slice(frame);
    packet.set_tx(tx);
    let mut burst = ArrayVec::from_iter([packet]);
    assert_eq!(queue.tx_burst(&mut burst), 1);
}

/// Sends a frame whose bytes from `headers` on lie in buffers, so many of them.
fn send_pieces(
    queue: &mut Queue,
    frame: &[u8],
    headers: usize,
    tx: TxOffload,
    pieces: &[(&Buffer, std::ops::Range<usize>)],
) {
    let mut packet = queue.alloc().expect("the pool is not empty");
    packet.set_len(headers);
    packet.bytes_mut().copy_from_slice(&frame[..headers]);
    assert!(queue.attach(&mut packet, pieces));
    packet.set_tx(tx);
    let mut burst = ArrayVec::from_iter([packet]);
    assert_eq!(queue.tx_burst(&mut burst), 1);
}

/// A buffer with these bytes at an offset of its own.
fn buffer(queue: &mut Queue, at: usize, bytes: &[u8]) -> Buffer {
    let mut buffer = queue.buffers(1, at + bytes.len() + 3).remove(0);
    buffer.bytes_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    buffer
}

fn receive(queue: &mut Queue) -> Vec<super::Packet> {
    let mut all = Vec::new();
    loop {
        let mut burst = ArrayVec::new();
        if queue.rx_burst(&mut burst) == 0 {
            return all;
        }
        all.extend(burst);
    }
}

const PLAIN: PortOptions = PortOptions {
    mac: [2, 0, 0, 0, 0, 2],
    mtu: 1500,
    queues: 1,
    packets: 256,
    descriptors: 64,
    rx_checksum: false,
    tx_checksum: false,
    tso: false,
    scatter: false,
    rss: false,
};

const CLEVER: PortOptions =
    PortOptions { rx_checksum: true, tx_checksum: true, tso: true, scatter: true, rss: true, ..PLAIN };

#[test]
fn frames_arrive_when_they_are_due_and_in_order() {
    let (mut net, mut a, mut b) = pair(PLAIN, PLAIN);
    let first = finished(tcp(false, [1, 2], 0x10, b"first"));
    let second = finished(tcp(true, [1, 2], 0x10, b"second"));
    net.advance(1_000);
    send(&mut a, &first, TxOffload::default());
    send(&mut a, &second, TxOffload::default());
    assert_eq!(a.in_use(), 2);
    net.advance(1_000 + LATENCY_NS - 1);
    assert_eq!((net.next_arrival_ns(), net.in_flight(), a.in_use()), (Some(1_000 + LATENCY_NS), 2, 0));
    assert!(receive(&mut b).is_empty());
    net.advance(1_000 + LATENCY_NS);
    let got = receive(&mut b);
    assert_eq!(got.iter().map(|it| it.bytes()).collect::<Vec<_>>(), [&first[..], &second[..]]);
    assert_eq!((b.in_use(), b.stats().rx_packets, a.stats().tx_packets), (2, 2, 2));
    drop(got);
    assert_eq!((b.in_use(), net.in_flight()), (0, 0));
}

#[test]
fn a_port_reports_no_more_than_it_does() {
    let (mut net, mut a, mut b) = pair(PLAIN, PLAIN);
    assert_eq!((a.caps().tso_bytes_max, a.caps().rx_checksum, a.alloc_large().is_none()), (0, false, true));
    send(&mut a, &finished(tcp(false, [1, 2], 0x10, b"x")), TxOffload::default());
    net.advance(0);
    net.advance(LATENCY_NS);
    let got = receive(&mut b);
    assert_eq!((got[0].rx().checksum, got[0].rx().hash), (Checksum::Unknown, None));
}

#[test]
#[should_panic(expected = "fills in no checksums")]
fn asking_for_an_offload_that_is_not_there_is_a_mistake() {
    let (_net, mut a, _b) = pair(PLAIN, PLAIN);
    let frame = tcp(false, [1, 2], 0x10, b"x");
    send(&mut a, &frame, offload(&frame, 0));
}

#[test]
fn a_wrong_pseudo_header_shows_at_the_receiver() {
    let (mut net, mut a, mut b) = pair(CLEVER, CLEVER);
    let mut frame = prepared(tcp(false, [1, 2], 0x10, b"x"));
    frame[34 + 17] ^= 1;
    send(&mut a, &frame, offload(&frame, 0));
    net.advance(0);
    net.advance(LATENCY_NS);
    assert_eq!(receive(&mut b)[0].rx().checksum, Checksum::Bad);
}

#[test]
fn what_a_port_cannot_send_is_dropped_and_counted() {
    let (mut net, mut a, mut b) = pair(CLEVER, CLEVER);
    let frame = prepared(tcp(false, [1, 2], 0x10, b"x"));
    for wrong in [
        TxOffload { l2_len: 200, ..offload(&frame, 0) },
        TxOffload { l4_len: 60, ..offload(&frame, 0) },
        TxOffload { ipv6: true, ..offload(&frame, 0) },
    ] {
        send(&mut a, &frame, wrong);
    }
    send(&mut a, &vec![0; 1600], TxOffload::default());
    net.advance(LATENCY_NS);
    net.advance(2 * LATENCY_NS);
    assert_eq!((a.stats().tx_errors, receive(&mut b).len(), a.in_use()), (4, 0, 0));
}

#[test]
fn a_buffer_is_its_owners_again_when_the_last_packet_is_gone() {
    let (mut net, mut a, mut b) = pair(CLEVER, CLEVER);
    let frame = prepared(tcp(false, [1, 2], 0x10, b"sent and sent again"));
    let mut record = buffer(&mut a, 0, &frame[54..]);
    let piece = 0..frame.len() - 54;
    send_pieces(&mut a, &frame, 54, offload(&frame, 0), &[(&record, piece.clone())]);
    // Again while the first is in the ring, and once more in a packet that is never sent.
    send_pieces(&mut a, &frame, 54, offload(&frame, 0), &[(&record, piece.clone())]);
    let mut waits = a.alloc().expect("the pool is not empty");
    assert!(a.attach(&mut waits, &[(&record, piece)]));
    assert!(record.is_shared());
    drop(waits);
    assert!(record.is_shared(), "the ring has it");
    net.advance(LATENCY_NS);
    assert!(!record.is_shared());
    record.bytes_mut().fill(0);
    net.advance(2 * LATENCY_NS);
    let got = receive(&mut b);
    assert_eq!(got.iter().map(|it| it.bytes()).collect::<Vec<_>>(), [&finished(frame)[..]; 2]);
}

#[test]
#[should_panic(expected = "no packet refers to a buffer that is written")]
fn a_buffer_in_the_ring_is_not_written() {
    let (_net, mut a, _b) = pair(CLEVER, CLEVER);
    let frame = prepared(tcp(false, [1, 2], 0x10, b"x"));
    let mut record = buffer(&mut a, 0, b"x");
    send_pieces(&mut a, &frame, 54, offload(&frame, 0), &[(&record, 0..1)]);
    record.bytes_mut()[0] = b'y';
}

#[test]
fn a_packet_takes_all_pieces_or_none() {
    let (_net, mut a, mut plain) = pair(CLEVER, PLAIN);
    let records: Vec<Buffer> = a.buffers(PIECES_MAX + 1, 10);
    let pieces: Vec<_> = records.iter().map(|record| (record, 2..7)).collect();
    let mut packet = a.alloc().expect("the pool is not empty");
    assert!(!a.attach(&mut packet, &pieces));
    assert!(records.iter().all(|record| !record.is_shared()));
    assert!(a.attach(&mut packet, &pieces[1..]));
    assert!(!a.attach(&mut packet, &pieces[..1]), "it goes on already");
    assert_eq!(records.iter().map(Buffer::is_shared).collect::<Vec<_>>(), [false, true, true, true]);
    let mut packet = plain.alloc().expect("the pool is not empty");
    assert!(!plain.attach(&mut packet, &pieces[..1]), "a port that takes none");
}

#[test]
fn a_packet_is_copied_with_its_pieces() {
    let (_net, mut a, _b) = pair(CLEVER, CLEVER);
    let frame = tcp(false, [1, 2], 0x10, b"in two pieces");
    let record = buffer(&mut a, 3, &frame[54..]);
    let mut packet = a.alloc().expect("the pool is not empty");
    packet.set_len(54);
    packet.bytes_mut().copy_from_slice(&frame[..54]);
    assert!(a.attach(&mut packet, &[(&record, 3..5), (&record, 5..frame.len() - 51)]));
    for room in [0, 10, 54, 55, 57, frame.len(), 100] {
        let mut out = vec![0xee; room];
        assert_eq!(packet.copy_to(&mut out), frame.len());
        let kept = room.min(frame.len());
        assert!(out[..kept] == frame[..kept] && out[kept..].iter().all(|byte| *byte == 0xee), "{room}");
    }
}

#[test]
fn pools_and_rings_are_bounded() {
    let small = PortOptions { packets: 4, descriptors: 8, ..PLAIN };
    let (mut net, mut a, mut b) = pair(PLAIN, small);
    let frame = finished(tcp(false, [1, 2], 0x10, b"x"));
    for _ in 0..6 {
        send(&mut a, &frame, TxOffload::default());
    }
    net.advance(LATENCY_NS);
    assert_eq!((b.stats().rx_no_buffer, b.in_use(), b.alloc().is_none()), (2, 4, true));
    assert_eq!(receive(&mut b).len(), 4);

    // A full transmit ring takes a part and leaves the rest in order.
    let mut burst: ArrayVec<_, BURST> = (0..4).filter_map(|_| b.alloc()).collect();
    for (number, packet) in burst.iter_mut().enumerate() {
        packet.set_len(60 + number);
    }
    let (mut net, mut tiny, _b) = pair(PortOptions { descriptors: 3, ..PLAIN }, PLAIN);
    assert_eq!(tiny.tx_burst(&mut burst), 3);
    assert_eq!(burst.iter().map(|it| it.bytes().len()).collect::<Vec<_>>(), [63]);
    net.advance(0);
    assert_eq!(tiny.tx_burst(&mut burst), 1);

    // So does a full receive ring, by dropping.
    let (mut net, mut a, b) = pair(PLAIN, PortOptions { descriptors: 2, ..PLAIN });
    for _ in 0..5 {
        send(&mut a, &frame, TxOffload::default());
    }
    net.advance(LATENCY_NS);
    net.advance(LATENCY_NS);
    assert_eq!((b.stats().rx_missed, b.in_use()), (3, 2));
}

/// Loses, doubles, damages and delays by the frame's number.
struct Faulty(u64);

impl Wire for Faulty {
    fn carry(&mut self, sent_ns: u64, frame: &mut [u8], arrivals: &mut Arrivals<'_>) {
        self.0 += 1;
        match self.0 {
            1 => {}
            2 => (0..2).for_each(|_| arrivals.at(sent_ns + 10, frame)),
            3 => {
                frame[40] ^= 0x80;
                arrivals.at(sent_ns + 30, frame);
            }
            _ => arrivals.at(sent_ns + 20, frame),
        }
    }
}

#[test]
fn faults_enter_by_the_wire() {
    let mut net = Net::new();
    let (mut a, mut b) = (queue(&mut net, CLEVER), queue(&mut net, CLEVER));
    net.connect_with(a.port(), b.port(), Box::new(Faulty(0)), Box::new(super::Latency { ns: 1 }));
    for text in [b"1", b"2", b"3", b"4"] {
        send(&mut a, &finished(tcp(false, [1, 2], 0x10, text)), TxOffload::default());
    }
    net.advance(30);
    let got = receive(&mut b);
    let seen: Vec<_> = got.iter().map(|it| (it.bytes()[54], it.rx().checksum)).collect();
    let good = Checksum::Good;
    assert_eq!(seen, [(b'2', good), (b'2', good), (b'4', good), (b'3', Checksum::Bad)]);
}

#[test]
fn too_many_frames_under_way_are_lost_and_counted() {
    let mut net = Net::with_frames(2);
    let (mut a, b) = (queue(&mut net, PLAIN), queue(&mut net, PLAIN));
    net.connect(a.port(), b.port(), LATENCY_NS);
    for _ in 0..3 {
        send(&mut a, &tcp(false, [1, 2], 0x10, b""), TxOffload::default());
    }
    net.advance(0);
    assert_eq!((net.in_flight(), net.overflowed()), (2, 1));
}

#[test]
fn a_port_without_a_link_counts_what_it_loses() {
    let mut net = Net::new();
    let mut a = queue(&mut net, PLAIN);
    send(&mut a, &tcp(false, [1, 2], 0x10, b""), TxOffload::default());
    net.advance(1);
    assert_eq!((a.stats().tx_errors, a.in_use()), (1, 0));
}

#[test]
fn rss_brings_every_flow_to_its_owner_and_its_lack_does_not() {
    for rss_on in [true, false] {
        let mut net = Net::new();
        let mut a = queue(&mut net, PLAIN);
        let mut workers = net.port(PortOptions { queues: 4, rss: rss_on, ..CLEVER });
        net.connect(a.port(), workers[0].port(), 1);
        let mut misplaced = 0;
        for port in 1..=60 {
            send(&mut a, &finished(tcp(false, [50_000 + port * 3, 443], 2, b"")), TxOffload::default());
        }
        net.advance(1);
        for (number, worker) in (0..).zip(&mut workers) {
            for packet in receive(worker) {
                let rss::Class::Flow(hash) = rss::classify(packet.bytes()) else { panic!("no flow") };
                assert_eq!(packet.rx().hash, rss_on.then_some(hash));
                misplaced += usize::from(rss::owner(hash, 4) != number);
            }
        }
        assert_eq!(misplaced == 0, rss_on, "{misplaced} of 60 packets at the wrong worker");
        assert_eq!(workers[0].caps().rss, rss_on);
    }
}

proptest! {
    #[test]
    fn filled_in_checksums_are_right(
        ipv6: bool,
        ports: [u16; 2],
        payload in prop::collection::vec(any::<u8>(), 0..1400),
    ) {
        let (mut net, mut a, mut b) = pair(CLEVER, CLEVER);
        let frame = tcp(ipv6, ports, 0x10, &payload);
        send(&mut a, &prepared(frame.clone()), offload(&frame, 0));
        net.advance(LATENCY_NS);
        let got = receive(&mut b);
        prop_assert_eq!(got[0].rx().checksum, Checksum::Good);
        prop_assert_eq!(got[0].bytes(), &finished(frame)[..]);
    }

    #[test]
    fn damage_is_seen(ipv6: bool, payload in prop::collection::vec(any::<u8>(), 1..500), at: u16, bit in 0..8_u8) {
        let (mut net, mut a, mut b) = pair(PLAIN, CLEVER);
        let mut frame = finished(tcp(ipv6, [1, 2], 0x10, &payload));
        // Only what the checksums cover, and not what makes it another kind of packet.
        let from = located(&frame).l4 + 13;
        let at = from + usize::from(at) % (frame.len() - from);
        frame[at] ^= 1 << bit;
        send(&mut a, &frame, TxOffload::default());
        net.advance(LATENCY_NS);
        prop_assert_eq!(receive(&mut b)[0].rx().checksum, Checksum::Bad);
    }

    #[test]
    fn segments_join_to_what_was_sent(
        ipv6: bool,
        payload in prop::collection::vec(any::<u8>(), 0..crate::TSO_BYTES_MAX as usize),
        segment_bytes in 300..1441_u16,
    ) {
        let (mut net, mut a, mut b) = pair(CLEVER, CLEVER);
        // CWR, FIN, PSH and ACK.
        let frame = tcp(ipv6, [1, 2], 0x80 | 0x19, &payload);
        send(&mut a, &prepared(frame.clone()), offload(&frame, segment_bytes));
        net.advance(LATENCY_NS);
        let got = receive(&mut b);
        prop_assert_eq!(got.len(), payload.len().div_ceil(usize::from(segment_bytes)).max(1));
        let mut joined = Vec::new();
        for (number, packet) in got.iter().enumerate() {
            prop_assert_eq!(packet.rx().checksum, Checksum::Good);
            let segment = packet.bytes();
            let ip = located(segment);
            prop_assert_eq!(ip.end, segment.len());
            let sequence = u32::from_be_bytes([4, 5, 6, 7].map(|at| segment[ip.l4 + at]));
            prop_assert_eq!(sequence, 0xffff_fff0_u32.wrapping_add(joined.len() as u32));
            let last = number + 1 == got.len();
            let flags = 0x10 | if number == 0 { 0x80 } else { 0 } | if last { 0x09 } else { 0 };
            prop_assert_eq!(segment[ip.l4 + 13], flags);
            if !ipv6 {
                let id = u16::from_be_bytes([segment[18], segment[19]]);
                prop_assert_eq!(id, 0x1234 + number as u16);
            }
            joined.extend_from_slice(&segment[ip.l4 + 20..]);
        }
        prop_assert_eq!(joined, payload);
    }

    /// However a payload is laid out, a port sends the same: whole, summed, or cut.
    #[test]
    fn pieces_are_sent_as_the_whole_is(
        ipv6: bool,
        payload in prop::collection::vec(any::<u8>(), 1..crate::TSO_BYTES_MAX as usize),
        cuts in prop::array::uniform2(any::<prop::sample::Index>()),
        at in 0..50_usize,
        segment_bytes in 300..1441_u16,
    ) {
        let mut cuts = cuts.map(|cut| cut.index(payload.len() + 1));
        cuts.sort_unstable();
        let ranges = [0..cuts[0], cuts[0]..cuts[1], cuts[1]..payload.len()];
        let frame = prepared(tcp(ipv6, [1, 2], 0x80 | 0x19, &payload));
        let headers = frame.len() - payload.len();
        let tx = offload(&frame, segment_bytes);
        let mut sent = [true, false].map(|in_pieces| {
            let (mut net, mut a, mut b) = pair(CLEVER, CLEVER);
            if in_pieces {
                let buffers = ranges.clone().map(|range| buffer(&mut a, at, &payload[range]));
                let pieces = [0, 1, 2].map(|it| (&buffers[it], at..at + ranges[it].len()));
                send_pieces(&mut a, &frame, headers, tx, &pieces);
            } else {
                send(&mut a, &frame, tx);
            }
            net.advance(LATENCY_NS);
            net.advance(LATENCY_NS);
            receive(&mut b).iter().map(|it| (it.rx().checksum, it.bytes().to_vec())).collect::<Vec<_>>()
        });
        let whole = std::mem::take(&mut sent[1]);
        prop_assert!(!whole.is_empty() && whole.iter().all(|(checksum, _)| *checksum == Checksum::Good));
        prop_assert_eq!(&sent[0], &whole);
    }

    /// A port that checks agrees with a builder that sums, whatever the bytes are.
    #[test]
    fn any_frame_is_delivered(bytes in prop::collection::vec(any::<u8>(), 1..300)) {
        let (mut net, mut a, mut b) = pair(CLEVER, CLEVER);
        send(&mut a, &bytes, TxOffload::default());
        net.advance(LATENCY_NS);
        let got = receive(&mut b);
        prop_assert_eq!(got[0].bytes(), &bytes[..]);
    }
}
