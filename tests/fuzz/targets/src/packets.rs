//! Packets: frames of any content, and series of segments, through software RSS, link and TCP, beside an application
//! that reads, writes and closes.
//!
//! Input: steps; each a byte that picks what happens, then its numbers.

use std::time::Duration;

use smoltcp::wire::{Icmpv6Packet, Ipv4Packet, Ipv6Packet};

use crate::input::Input;
use crate::net::{MAC, Net, PEERS, Peer, SERVER_V4, SERVER_V6, Tcpish};
use crate::{Seed, Target};

/// Steps of one series at most.
const STEPS_MAX: usize = 64;
/// Longest frame.
const FRAME_BYTES_MAX: usize = 1600;

pub(crate) static TARGET: Target = Target { name: "packets", heap_bytes_max: 1 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut net = Net::new();
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        step(&mut net, &mut input);
    }
    net.wind_up();
}

fn step(net: &mut Net, input: &mut Input<'_>) {
    match input.below(12) {
        0 => {
            let len = usize::from(input.u16()) % FRAME_BYTES_MAX;
            net.frame(&mut input.take(len).to_vec());
        }
        1 => {
            let mut frame = template(input.u8());
            for _ in 0..input.below(8) {
                let at = usize::from(input.u8()) % frame.len();
                frame[at] ^= input.u8();
            }
            let cut = input.u8();
            if cut & 1 != 0 {
                mend(&mut frame);
            }
            if cut & 2 != 0 {
                frame.truncate(usize::from(input.u8()));
            }
            net.frame(&mut frame);
        }
        2..=4 => {
            let peer = Peer(input.below(PEERS));
            let flags = input.u8();
            let (seq, ack) = (input.u16() as i16, input.u16() as i16);
            let (window, payload) = (input.u16(), usize::from(input.u16()) % 1400);
            let options = if flags & 0x80 != 0 { input.piece() } else { &[] };
            let seq = i32::from(seq) as u32;
            let flags = flags & 0x3f;
            net.segment(peer, &Tcpish { flags, seq, ack: ack.into(), window, options, payload });
        }
        5 => net.open(Peer(input.below(PEERS)), &[]),
        6 => net.open(Peer(input.below(PEERS)), &[2, 4, input.u8() % 6, 0xb4, 1, 3, 3, 7]),
        7 => net.wait(Duration::from_millis(u64::from(input.u16()))),
        8 => net.read(input.u8(), usize::from(input.u16())),
        9 => net.write(input.u8(), 1 + usize::from(input.u16()) % 4000),
        10 => net.end(input.u8(), false),
        _ => net.end(input.u8(), true),
    }
}

/// A frame that would be taken as it is.
fn template(choice: u8) -> Vec<u8> {
    let peer = Peer(usize::from(choice / 8) % PEERS);
    let mut frame = MAC.to_vec();
    frame.extend(peer.mac());
    match choice % 8 {
        0 => arp(frame, peer, 1),
        1 => arp(frame, peer, 2),
        2 => icmp(frame, 135, &solicited(peer)),
        3 => icmp(frame, 136, &advertised(peer)),
        4 => echo4(frame),
        5 => icmp(frame, 128, b"\x12\x34\x00\x01ping"),
        6 => {
            // A priority tag, and an ARP request behind it.
            frame.extend([0x81, 0, 0xe0, 0]);
            arp(frame, peer, 1)
        }
        _ => {
            // TCP from a host without connection, behind options that IPv4 allows and a padding.
            frame.extend([
                8, 0, 0x46, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0, 203, 0, 113, 5, 192, 0, 2, 1, 1, 1, 1, 0,
            ]);
            frame.extend([0x30, 0x39, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 16, 0, 0, 0, 0, 0]);
            frame.extend([0; 6]);
            frame
        }
    }
}

fn arp(mut frame: Vec<u8>, peer: Peer, operation: u8) -> Vec<u8> {
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(peer.mac());
    frame.extend([192, 0, 2, 9 + peer.0 as u8]);
    frame.extend([0; 6]);
    frame.extend(SERVER_V4.octets());
    frame.extend([0; 18]);
    frame
}

fn solicited(peer: Peer) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(SERVER_V6.octets());
    body.extend([1, 1]);
    body.extend(peer.mac());
    body
}

fn advertised(peer: Peer) -> Vec<u8> {
    let mut body = vec![0x60, 0, 0, 0];
    body.extend(source6(peer));
    body.extend([2, 1]);
    body.extend(peer.mac());
    body
}

fn source6(peer: Peer) -> [u8; 16] {
    let mut octets = SERVER_V6.octets();
    octets[15] = 9 + peer.0 as u8;
    octets
}

fn icmp(mut frame: Vec<u8>, kind: u8, body: &[u8]) -> Vec<u8> {
    let source = source6(Peer(usize::from(frame[11]) % PEERS));
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, (4 + body.len()) as u8, 58, 255]);
    frame.extend(source);
    frame.extend(SERVER_V6.octets());
    frame.extend([kind, 0, 0, 0]);
    frame.extend(body);
    mend(&mut frame);
    frame
}

fn echo4(mut frame: Vec<u8>) -> Vec<u8> {
    frame.extend([8, 0, 0x45, 0, 0, 32, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 9, 192, 0, 2, 1]);
    // Echo request "ping", with the checksum it has.
    frame.extend([8, 0, 0x85, 0x2b, 0x12, 0x34, 0, 1, b'p', b'i', b'n', b'g']);
    frame.extend([0; 14]);
    mend(&mut frame);
    frame
}

/// Makes the checksums of IPv4 and ICMPv6 right, as far as headers are where they were.
fn mend(frame: &mut [u8]) {
    match frame.get(12..14) {
        Some([8, 0]) if frame.len() >= 14 + 60 || frame.get(14) == Some(&0x45) => {
            let header = usize::from(frame[14] & 15) * 4;
            if header >= 20 && frame.len() >= 14 + header {
                Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
            }
        }
        Some([0x86, 0xdd]) if frame.len() >= 14 + 40 + 8 => {
            let ip = Ipv6Packet::new_unchecked(&frame[14..]);
            let (from, to) = (ip.src_addr(), ip.dst_addr());
            Icmpv6Packet::new_unchecked(&mut frame[54..]).fill_checksum(&from, &to);
        }
        _ => {}
    }
}

fn seeds() -> Vec<Seed> {
    let segment = |peer: u8, flags: u8, seq: u16, ack: u16, payload: u16| {
        let mut step = vec![2, peer, flags];
        for number in [seq, ack, 4096, payload] {
            step.extend(number.to_le_bytes());
        }
        step
    };
    let exchange = |peer: u8| {
        let steps = [
            vec![1, 1 + 8 * peer, 0, 0, 1, 3 + 8 * peer, 0, 0],
            vec![5, peer],
            segment(peer, 0x18, 1, 0, 700),
            vec![8, 0, 0xff, 0xff],
            vec![9, 0, 0, 3],
            segment(peer, 0x10, 701, 0, 0),
            segment(peer, 0x11, 701, 0, 0),
            vec![10, 0],
            segment(peer, 0x10, 702, 0, 0),
            vec![7, 0, 8],
        ];
        steps.concat()
    };
    let mut seeds: Vec<Seed> =
        (0..PEERS as u8).map(|peer| (format!("exchange-{peer}"), exchange(peer))).collect();
    for choice in 0..8u8 {
        seeds.push((format!("frame-{choice}"), vec![1, choice, 0, 0, 1, choice + 8, 0, 1]));
        let frame = template(choice);
        let mut raw = vec![0];
        raw.extend((frame.len() as u16).to_le_bytes());
        raw.extend(frame);
        seeds.push((format!("raw-{choice}"), raw));
    }
    let reordered = [
        vec![6, 0, 5],
        segment(0, 0x18, 101, 0, 100),
        segment(0, 0x18, 1, 0, 100),
        segment(0, 0x18, 51, 0, 100),
        vec![8, 0, 0xff, 0xff],
        segment(0, 0x14, 201, 0, 0),
    ];
    seeds.push(("reordered".into(), reordered.concat()));
    seeds.push(("flood".into(), (0..6).flat_map(|peer| segment(peer, 2, 0, 0, 0)).collect()));
    seeds.push(("aborted".into(), [vec![5, 1, 9, 0, 0, 9, 11, 0], segment(1, 0x10, 1, 0, 0)].concat()));
    seeds
}
