//! The DPDK driver on a veth pair, with a packet socket of the kernel's at the other end. Needs root.

#![cfg(feature = "dpdk")]

mod common;

use std::collections::BTreeSet;

use common::raw::{Raw, inside_namespace, run};
use common::{eal, frame, packet_in_pieces, port, receive, send, send_packet};
use keyferry_nic::dpdk::{OpenError, Port, PortOptions};
use keyferry_nic::{Checksum, Nic, Packet, TxOffload};

#[test]
fn frames_cross_a_veth_pair() {
    if !inside_namespace("frames_cross_a_veth_pair") {
        return;
    }
    run("ip link add kfn0 type veth peer name kfn1");
    run("ip link set kfn0 address 02:00:00:00:00:77");
    run("ip link set kfn0 up");
    run("ip link set kfn1 up");
    let (opened, mut queues) =
        Port::open(eal(), &port("net_af_packet0,iface=kfn0")).unwrap_or_else(|error| panic!("{error}"));
    let queue = &mut queues[0];
    let mut peer = Raw::bind("kfn1");
    assert_eq!(queue.caps().mac, [2, 0, 0, 0, 0, 0x77]);
    assert_eq!((queue.caps().mtu, queue.caps().rss), (1500, true));
    assert!(opened.link().up);

    for number in 0..300 {
        let text = vec![number as u8; usize::from(number) * 4];
        let sent = frame(number, &text);
        send(queue, &sent, TxOffload::default());
        assert_eq!(peer.receive(|it| it[12..14] == [0x88, 0xb5]), sent);
        peer.send(&sent);
        let got = receive(queue, 1, |it| it.bytes()[12..14] == [0x88, 0xb5]);
        assert_eq!(got[0].bytes(), sent);
        assert_eq!(got[0].rx().checksum, Checksum::Unknown, "this driver checks nothing");
    }
    // Frames in pieces, which the driver copies: the buffers are free at once.
    assert!(queue.caps().pieces_max >= 2);
    for bytes in [10, 700, 1400] {
        let sent = frame(2, &vec![0x3c; bytes]);
        let (packet, buffers) = packet_in_pieces(queue, &sent, 20);
        assert!(buffers.iter().all(|it| it.is_shared()));
        send_packet(queue, packet, TxOffload::default());
        assert_eq!(peer.receive(|it| it[12..16] == [0x88, 0xb5, 0, 2]), sent);
        assert!(!buffers.iter().any(|it| it.is_shared()));
    }
    // The largest frame of the MTU, in both directions.
    let largest = frame(1, &[0xa5; 1498]);
    assert_eq!(largest.len(), 1514);
    send(queue, &largest, TxOffload::default());
    assert_eq!(peer.receive(|it| it.len() == 1514), largest);
    peer.send(&largest);
    assert_eq!(receive(queue, 1, |it| it.bytes().len() == 1514)[0].bytes(), largest);
    assert_eq!(queue.in_use(), 0);
}

#[test]
fn several_queues_share_a_veth_pair() {
    if !inside_namespace("several_queues_share_a_veth_pair") {
        return;
    }
    run("ip link add kfn0 type veth peer name kfn1");
    run("ip link set kfn0 up");
    run("ip link set kfn1 up");
    let options = PortOptions { queues: 2, ..port("net_af_packet0,iface=kfn0") };
    match Port::open(eal(), &options) {
        Err(error @ OpenError::Queues { max: 1, .. }) => {
            assert!(error.to_string().contains("qpairs=N"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    let options = PortOptions { device: "net_af_packet1,iface=kfn0,qpairs=2".into(), ..options };
    let (_port, mut queues) = Port::open(eal(), &options).unwrap_or_else(|error| panic!("{error}"));
    assert!(!queues[0].caps().rss, "the kernel spreads flows its own way");
    let mut peer = Raw::bind("kfn1");
    for (number, queue) in (0..).zip(&mut queues) {
        let sent = frame(number, b"out");
        send(queue, &sent, TxOffload::default());
        assert_eq!(peer.receive(|it| it[12..14] == [0x88, 0xb5]), sent);
    }
    // Whichever queue a frame reaches, it reaches one.
    let numbers: BTreeSet<u16> = (0..64).collect();
    for number in &numbers {
        peer.send(&frame(*number, b"in"));
    }
    let mut seen = BTreeSet::new();
    let start = std::time::Instant::now();
    while seen != numbers {
        for queue in &mut queues {
            let mut burst = arrayvec::ArrayVec::new();
            queue.rx_burst(&mut burst);
            for packet in &burst {
                let bytes = packet.bytes();
                if bytes[12..14] == [0x88, 0xb5] {
                    assert!(seen.insert(u16::from_be_bytes([bytes[14], bytes[15]])), "a frame came twice");
                }
            }
        }
        assert!(start.elapsed() < common::PATIENCE, "frames are missing: {seen:?}");
    }
}
