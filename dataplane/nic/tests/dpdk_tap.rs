//! Checksum offloads on `net_tap`, which has them in software, with a packet socket of the kernel's at the other end. Needs
//! root.

#![cfg(feature = "dpdk")]

mod common;

use common::raw::{Raw, inside_namespace, run};
use common::{eal, port, receive, send};
use keyferry_nic::dpdk::Port;
use keyferry_nic::{Checksum, Nic, Packet, TxOffload};

/// Adds 16-bit words, the plain way: the tests have their own arithmetic.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
}

fn fold(mut sum: u32) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

const L4: [usize; 2] = [34, 54];

/// A TCP frame with the pseudo-header sum in its checksum field.
fn tcp(ipv6: bool, payload: &[u8]) -> Vec<u8> {
    let bytes = 20 + payload.len() as u16;
    let mut frame = vec![2; 12];
    if ipv6 {
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(bytes.to_be_bytes());
        frame.extend([6, 64]);
        frame.extend((0..32).map(|it| it * 5));
    } else {
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend((20 + bytes).to_be_bytes());
        frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 9]);
    }
    frame.extend([
        0x30, 0x39, 1, 0xbb, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame.extend(payload);
    let l4 = L4[usize::from(ipv6)];
    let pseudo = pseudo(&frame, ipv6);
    frame[l4 + 16..l4 + 18].copy_from_slice(&pseudo.to_be_bytes());
    frame
}

fn pseudo(frame: &[u8], ipv6: bool) -> u16 {
    let l4 = L4[usize::from(ipv6)];
    let addresses = if ipv6 { &frame[22..54] } else { &frame[26..34] };
    fold(sum(addresses) + 6 + (frame.len() - l4) as u32)
}

fn offload(ipv6: bool) -> TxOffload {
    let l3_len = if ipv6 { 40 } else { 20 };
    TxOffload { checksum: true, tso_segment_bytes: 0, l2_len: 14, l3_len, l4_len: 20, ipv6 }
}

/// Panics unless the checksums of a received frame are right.
fn check(frame: &[u8], ipv6: bool) {
    let l4 = L4[usize::from(ipv6)];
    if !ipv6 {
        assert_eq!(fold(sum(&frame[14..34])), 0xffff, "IPv4 header");
    }
    assert_eq!(fold(sum(&frame[l4..]) + u32::from(pseudo(frame, ipv6))), 0xffff, "TCP");
}

#[test]
fn checksums_are_made_and_checked() {
    if !inside_namespace("checksums_are_made_and_checked") {
        return;
    }
    let (_port, mut queues) =
        Port::open(eal(), &port("net_tap0,iface=kft0")).unwrap_or_else(|error| panic!("{error}"));
    run("ip link set kft0 up");
    let queue = &mut queues[0];
    let caps = queue.caps();
    assert!(caps.tx_checksum && caps.rx_checksum);
    // It reports segmentation, which does not work.
    assert_eq!((caps.tso_bytes_max, queue.alloc_large().is_none()), (0, true));
    // Nor do the sums of packets in pieces.
    assert_eq!(caps.pieces_max, 0);
    let idle = queue.in_use();
    let mut peer = Raw::bind("kft0");
    let ours = |it: &[u8]| it.len() > 54 && it[..6] == [2; 6];

    for ipv6 in [false, true] {
        for bytes in [1, 2, 777, 1400] {
            let frame = tcp(ipv6, &vec![0xc3; bytes]);
            send(queue, &frame, offload(ipv6));
            let got = peer.receive(ours);
            check(&got, ipv6);
            assert_eq!(got.len(), frame.len());
            // And back, right and wrong.
            peer.send(&got);
            let back = receive(queue, 1, |it| ours(it.bytes()));
            assert_eq!((back[0].bytes(), back[0].rx().checksum), (&got[..], Checksum::Good));
            let mut wrong = got;
            *wrong.last_mut().expect("a payload") ^= 1;
            peer.send(&wrong);
            let back = receive(queue, 1, |it| ours(it.bytes()));
            assert_eq!((back[0].bytes(), back[0].rx().checksum), (&wrong[..], Checksum::Bad));
        }
    }
    assert_eq!(queue.in_use(), idle, "only the receive ring holds packets");
}
