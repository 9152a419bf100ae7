//! A link against frames built with smoltcp's formats: what it answers, asks, keeps and drops.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use keyferry_link::{
    Config, DropReason, Ingress, Link, NextHop, PARKED_MAX, PARKED_PER_NEIGHBOR_MAX, Route,
    TRANSMIT_BYTES_MAX,
};
use keyferry_time::Time;
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, Icmpv4Packet, Icmpv4Repr, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags, NdiscRepr,
};

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];
const OWN_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const NOW: Time = Time(1_000_000_000);

fn config() -> Config {
    Config {
        mac: OWN,
        addresses: vec!["192.0.2.10/24".parse().unwrap(), "2001:db8::10/64".parse().unwrap()],
        routes: vec![Route { to: "0.0.0.0/0".parse().unwrap(), via: ROUTER_V4.into() }],
        vlan: None,
        mtu: 1500,
    }
}

fn link() -> Link<u32> {
    Link::new(config())
}

fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: usize) -> Vec<u8> {
    let mut frame = [&dst[..], &src, &ethertype.to_be_bytes()].concat();
    frame.resize(14 + payload, 0);
    frame
}

fn arp(operation: ArpOperation, mac: [u8; 6], source: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let to = if operation == ArpOperation::Request { [0xff; 6] } else { OWN };
    // Padded to the smallest frame, as it comes off a wire.
    let mut frame = ethernet(to, mac, 0x0806, 46);
    let repr = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress(OWN),
        target_protocol_addr: target,
    };
    repr.emit(&mut ArpPacket::new_unchecked(&mut frame[14..]));
    frame
}

fn parse_arp(frame: &[u8]) -> ArpRepr {
    ArpRepr::parse(&ArpPacket::new_checked(&frame[14..]).unwrap()).unwrap()
}

fn ipv4(from: Ipv4Addr, to: Ipv4Addr, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(OWN, ROUTER, 0x0800, 20 + payload.len());
    let repr = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: protocol,
        payload_len: payload.len(),
        hop_limit: 9,
    };
    let mut packet = Ipv4Packet::new_unchecked(&mut frame[14..]);
    repr.emit(&mut packet, &ChecksumCapabilities::default());
    packet.payload_mut().copy_from_slice(payload);
    frame
}

fn echo_v4(from: Ipv4Addr) -> Vec<u8> {
    let repr = Icmpv4Repr::EchoRequest { ident: 3, seq_no: 4, data: b"are you there" };
    let mut message = vec![0; repr.buffer_len()];
    repr.emit(&mut Icmpv4Packet::new_unchecked(&mut message[..]), &ChecksumCapabilities::default());
    ipv4(from, OWN_V4, IpProtocol::Icmp, &message)
}

fn ipv6(from: Ipv6Addr, to: Ipv6Addr, mac: [u8; 6], hops: u8, message: &Icmpv6Repr<'_>) -> Vec<u8> {
    let len = message.buffer_len();
    let mut frame = ethernet(mac, PEER, 0x86dd, 40 + len);
    let repr = Ipv6Repr {
        src_addr: from,
        dst_addr: to,
        next_header: IpProtocol::Icmpv6,
        payload_len: len,
        hop_limit: hops,
    };
    let mut packet = Ipv6Packet::new_unchecked(&mut frame[14..]);
    repr.emit(&mut packet);
    let mut body = Icmpv6Packet::new_unchecked(packet.payload_mut());
    message.emit(&from, &to, &mut body, &ChecksumCapabilities::default());
    frame
}

/// A router's report about a packet of ours to a host far away, with what it returns of it.
fn too_big_v4(quoted_from: Ipv4Addr, mtu: u16, quoted: usize) -> Vec<u8> {
    let packet = &ipv4(quoted_from, FAR_V4, IpProtocol::Tcp, &[7; 60])[14..];
    let mut message = [&[3, 4, 0, 0, 0, 0][..], &mtu.to_be_bytes(), &packet[..quoted]].concat();
    Icmpv4Packet::new_unchecked(&mut message[..]).fill_checksum();
    ipv4(ROUTER_V4, OWN_V4, IpProtocol::Icmp, &message)
}

fn too_big_v6(mtu: u32) -> Vec<u8> {
    let header = Ipv6Repr {
        src_addr: OWN_V6,
        dst_addr: PEER_V6,
        next_header: IpProtocol::Tcp,
        payload_len: 20,
        hop_limit: 9,
    };
    ipv6(PEER_V6, OWN_V6, OWN, 9, &Icmpv6Repr::PktTooBig { mtu, header, data: &[7; 20] })
}

/// The message of a frame, its checksum checked, with its addresses.
fn parse_ipv6(frame: &[u8]) -> (Ipv6Addr, Ipv6Addr, Icmpv6Repr<'_>) {
    let packet = Ipv6Packet::new_checked(&frame[14..]).unwrap();
    let (from, to) = (packet.src_addr(), packet.dst_addr());
    let message = Icmpv6Packet::new_checked(packet.payload()).unwrap();
    (from, to, Icmpv6Repr::parse(&from, &to, &message, &ChecksumCapabilities::default()).unwrap())
}

fn solicit(from: Ipv6Addr, with_mac: bool) -> Vec<u8> {
    let lladdr = with_mac.then(|| EthernetAddress(PEER).into());
    let message = Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: OWN_V6, lladdr });
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x10);
    ipv6(from, group, [0x33, 0x33, 0xff, 0, 0, 0x10], 255, &message)
}

fn advert(flags: NdiscNeighborFlags, mac: Option<[u8; 6]>) -> Vec<u8> {
    let lladdr = mac.map(|mac| EthernetAddress(mac).into());
    let message = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { flags, target_addr: PEER_V6, lladdr });
    ipv6(PEER_V6, OWN_V6, OWN, 255, &message)
}

fn transmit(link: &mut Link<u32>, now: Time) -> Vec<Vec<u8>> {
    let mut buffer = [0; TRANSMIT_BYTES_MAX];
    std::iter::from_fn(|| link.poll_transmit(now, &mut buffer).map(|len| buffer[..len].to_vec())).collect()
}

/// Handles timers and sends until `end`.
fn wait(link: &mut Link<u32>, from: Time, end: Time) -> Vec<(Time, Vec<u8>)> {
    let mut all = vec![];
    let mut now = from;
    loop {
        link.timers(now);
        all.extend(transmit(link, now).into_iter().map(|frame| (now, frame)));
        match link.poll_at() {
            Some(at) if at.is_due(end) => now = now.max(at),
            _ => return all,
        }
    }
}

fn answer(link: &mut Link<u32>, now: Time, mac: [u8; 6], address: Ipv4Addr) {
    assert_eq!(link.ingest(now, &mut arp(ArpOperation::Reply, mac, address, OWN_V4)), Ingress::Consumed);
}

#[test]
fn an_arp_request_is_answered_in_place_and_makes_its_sender_known() {
    let mut link = link();
    let mut frame = arp(ArpOperation::Request, PEER, PEER_V4, OWN_V4);
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::Reply { len: 42 });
    assert_eq!((&frame[..6], &frame[6..12]), (&PEER[..], &OWN[..]));
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr,
        source_protocol_addr,
        target_hardware_addr,
        target_protocol_addr,
    } = parse_arp(&frame)
    else {
        panic!("not ARP")
    };
    assert_eq!((operation, source_hardware_addr), (ArpOperation::Reply, EthernetAddress(OWN)));
    assert_eq!((source_protocol_addr, target_protocol_addr), (OWN_V4, PEER_V4));
    assert_eq!(target_hardware_addr, EthernetAddress(PEER));
    assert_eq!(link.next_hop(NOW, PEER_V4.into()), NextHop::Known(PEER));
    // A request for another is not answered, nor does it make anyone known.
    let mut frame = arp(ArpOperation::Request, ROUTER, ROUTER_V4, PEER_V4);
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::Consumed);
    assert_eq!(link.next_hop(NOW, ROUTER_V4.into()), NextHop::Unresolved);
}

#[test]
fn an_address_outside_our_networks_or_our_own_is_not_learnt() {
    let mut link = link();
    for liar in [FAR_V4, OWN_V4] {
        link.ingest(NOW, &mut arp(ArpOperation::Request, PEER, liar, OWN_V4));
    }
    assert_eq!(link.next_hop(NOW, FAR_V4.into()), NextHop::Unresolved);
    assert_eq!(transmit(&mut link, NOW).len(), 1, "the gateway is asked for");
}

#[test]
fn parked_packets_leave_in_order_when_the_gateway_answers() {
    let mut link = link();
    assert_eq!(link.next_hop(NOW, FAR_V4.into()), NextHop::Unresolved);
    link.park(NOW, FAR_V4.into(), 1).unwrap();
    link.park(NOW, ROUTER_V4.into(), 2).unwrap();
    assert_eq!(link.poll_at(), Some(Time::ZERO));
    let frames = transmit(&mut link, NOW);
    assert_eq!(frames.len(), 1, "one request for both");
    assert_eq!(frames[0][..6], [0xff; 6]);
    let ArpRepr::EthernetIpv4 { target_protocol_addr, source_protocol_addr, .. } = parse_arp(&frames[0])
    else {
        panic!("not ARP")
    };
    assert_eq!((source_protocol_addr, target_protocol_addr), (OWN_V4, ROUTER_V4));
    assert_eq!(link.unparked(), None);
    answer(&mut link, NOW, ROUTER, ROUTER_V4);
    assert_eq!(link.unparked(), Some((1, ROUTER)));
    assert_eq!(link.unparked(), Some((2, ROUTER)));
    assert_eq!(link.unparked(), None);
    assert_eq!(link.next_hop(NOW, FAR_V4.into()), NextHop::Known(ROUTER));
}

#[test]
fn a_silent_neighbor_is_asked_three_times_and_its_packets_are_dropped() {
    let mut link = link();
    link.next_hop(NOW, PEER_V4.into());
    link.park(NOW, PEER_V4.into(), 1).unwrap();
    let frames = wait(&mut link, NOW, NOW + Duration::from_secs(10));
    assert_eq!(frames.len(), 3);
    assert!(frames[2].0 >= NOW + Duration::from_secs(2));
    assert_eq!((link.parked(), link.counters().parked_expired, link.counters().neighbors_lost), (0, 1, 1));
    assert_eq!(link.poll_at(), None);
    answer(&mut link, NOW + Duration::from_secs(11), PEER, PEER_V4);
    assert_eq!(link.unparked(), None);
}

#[test]
fn parking_is_bounded_by_neighbor_and_altogether() {
    let mut link = link();
    for packet in 0..PARKED_PER_NEIGHBOR_MAX as u32 {
        link.park(NOW, PEER_V4.into(), packet).unwrap();
    }
    assert_eq!(link.park(NOW, PEER_V4.into(), 77), Err(77));
    for host in 20..200 {
        let _ = link.park(NOW, Ipv4Addr::new(192, 0, 2, host).into(), 0);
        let _ = link.park(NOW, Ipv4Addr::new(192, 0, 2, host).into(), 0);
    }
    assert_eq!(link.parked(), PARKED_MAX);
    // Without any question asked they expire by themselves.
    wait(&mut link, NOW, NOW + Duration::from_secs(4));
    assert_eq!(link.parked(), 0);
    let mut nowhere = config();
    nowhere.routes.clear();
    let mut link = Link::new(nowhere);
    assert_eq!(link.next_hop(NOW, FAR_V4.into()), NextHop::NoRoute);
    assert_eq!(link.park(NOW, FAR_V4.into(), 5), Err(5));
}

#[test]
fn a_neighbor_in_use_is_asked_by_unicast_and_serves_meanwhile() {
    let mut link = link();
    link.next_hop(NOW, PEER_V4.into());
    transmit(&mut link, NOW);
    answer(&mut link, NOW, PEER, PEER_V4);
    assert_eq!(link.next_hop(NOW, PEER_V4.into()), NextHop::Known(PEER));
    let later = NOW + Duration::from_millis(30_500);
    let frames = wait(&mut link, NOW, later);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].1[..6], PEER);
    assert_eq!(link.next_hop(later, PEER_V4.into()), NextHop::Known(PEER));
    answer(&mut link, later, PEER, PEER_V4);
    // Unused since, it is left alone.
    assert!(wait(&mut link, later, later + Duration::from_secs(60)).is_empty());
    // It still serves, and is asked again at that moment.
    let later = later + Duration::from_secs(60);
    assert_eq!(link.next_hop(later, PEER_V4.into()), NextHop::Known(PEER));
    let frames = wait(&mut link, later, later + Duration::from_secs(20));
    let unicast = frames.iter().filter(|(_, frame)| frame[..6] == PEER).count();
    assert_eq!((unicast, frames.len()), (3, 6), "three times it, three times everyone");
    assert_eq!(link.next_hop(later, PEER_V4.into()), NextHop::Unresolved);
}

#[test]
fn an_unused_neighbor_is_forgotten() {
    let mut link = link();
    link.ingest(NOW, &mut arp(ArpOperation::Request, PEER, PEER_V4, OWN_V4));
    assert!(wait(&mut link, NOW, NOW + Duration::from_secs(601)).is_empty());
    assert_eq!(link.next_hop(NOW + Duration::from_secs(602), PEER_V4.into()), NextHop::Unresolved);
}

#[test]
fn a_neighbor_that_moved_is_followed_and_an_unasked_word_of_a_stranger_is_not_taken() {
    let mut link = link();
    link.ingest(NOW, &mut arp(ArpOperation::Request, PEER, PEER_V4, OWN_V4));
    // Gratuitous, to everyone.
    link.ingest(NOW, &mut arp(ArpOperation::Request, ROUTER, PEER_V4, PEER_V4));
    assert_eq!(link.next_hop(NOW, PEER_V4.into()), NextHop::Known(ROUTER));
    answer(&mut link, NOW, PEER, ROUTER_V4);
    assert_eq!(link.next_hop(NOW, ROUTER_V4.into()), NextHop::Unresolved);
}

#[test]
fn echo_is_answered_along_the_routes() {
    let mut link = link();
    // It came from the router's MAC address, but a neighbour asked: the answer goes to the neighbour.
    let mut frame = echo_v4(PEER_V4);
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::Drop(DropReason::Unresolved));
    answer(&mut link, NOW, PEER, PEER_V4);
    let mut frame = echo_v4(PEER_V4);
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::Reply { len: frame.len() });
    assert_eq!((&frame[..6], &frame[6..12]), (&PEER[..], &OWN[..]));
    let packet = Ipv4Packet::new_checked(&frame[14..]).unwrap();
    assert!(packet.verify_checksum());
    assert_eq!((packet.src_addr(), packet.dst_addr(), packet.hop_limit()), (OWN_V4, PEER_V4, 64));
    let message = Icmpv4Packet::new_checked(packet.payload()).unwrap();
    let message = Icmpv4Repr::parse(&message, &ChecksumCapabilities::default()).unwrap();
    assert_eq!(message, Icmpv4Repr::EchoReply { ident: 3, seq_no: 4, data: b"are you there" });
}

#[test]
fn echo_over_ipv6_is_answered() {
    let mut link = link();
    assert!(matches!(link.ingest(NOW, &mut solicit(PEER_V6, true)), Ingress::Reply { .. }));
    let message = Icmpv6Repr::EchoRequest { ident: 1, seq_no: 2, data: b"hello" };
    let mut frame = ipv6(PEER_V6, OWN_V6, OWN, 7, &message);
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::Reply { len: frame.len() });
    let (from, to, message) = parse_ipv6(&frame);
    assert_eq!((from, to), (OWN_V6, PEER_V6));
    assert_eq!(message, Icmpv6Repr::EchoReply { ident: 1, seq_no: 2, data: b"hello" });
}

#[test]
fn icmp_is_limited_in_rate_and_checked() {
    let mut link = link();
    link.ingest(NOW, &mut arp(ArpOperation::Request, PEER, PEER_V4, OWN_V4));
    let answered = |link: &mut Link<u32>, now| {
        let all =
            (0..2_000).filter(|_| matches!(link.ingest(now, &mut echo_v4(PEER_V4)), Ingress::Reply { .. }));
        all.count()
    };
    assert_eq!(answered(&mut link, NOW), 64);
    assert_eq!(answered(&mut link, NOW + Duration::from_millis(10)), 10);
    assert_eq!(answered(&mut link, NOW + Duration::from_secs(9)), 64);
    let mut frame = echo_v4(PEER_V4);
    *frame.last_mut().unwrap() ^= 1;
    let later = NOW + Duration::from_secs(20);
    assert_eq!(link.ingest(later, &mut frame), Ingress::Drop(DropReason::Checksum));
}

#[test]
fn routers_reports_are_handed_on_with_the_packet_they_return() {
    let mut link = link();
    for quoted in [28, 60, 80] {
        let mut frame = too_big_v4(OWN_V4, 1006, quoted);
        let found = link.ingest(NOW, &mut frame);
        assert_eq!(found, Ingress::TooBig { at: 14 + 20 + 8, len: quoted, mtu: 1006 });
        assert_eq!(&frame[42 + 12..42 + 20], [OWN_V4.octets(), FAR_V4.octets()].concat());
    }
    let mut frame = too_big_v6(1280);
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::TooBig { at: 14 + 40 + 8, len: 60, mtu: 1280 });
    // A code is not looked at (RFC 4443 section 3.2).
    frame[14 + 40 + 1] = 1;
    let checksum = u16::from_be_bytes([frame[56], frame[57]]);
    frame[56..58].copy_from_slice(&(checksum - 1).to_be_bytes());
    assert!(matches!(link.ingest(NOW, &mut frame), Ingress::TooBig { mtu: 1280, .. }));
}

#[test]
fn reports_about_others_or_broken_ones_are_dropped() {
    let mut link = link();
    assert_eq!(link.ingest(NOW, &mut too_big_v4(FAR_V4, 1006, 28)), Ingress::Drop(DropReason::Icmp));
    assert_eq!(link.ingest(NOW, &mut too_big_v4(OWN_V4, 1006, 12)), Ingress::Drop(DropReason::Malformed));
    let mut broken = too_big_v4(OWN_V4, 1006, 28);
    broken[40] ^= 1;
    assert_eq!(link.ingest(NOW, &mut broken), Ingress::Drop(DropReason::Checksum));
    // Another thing unreachable.
    let mut host = too_big_v4(OWN_V4, 0, 28);
    host[35] = 1;
    assert_eq!(link.ingest(NOW, &mut host), Ingress::Drop(DropReason::Icmp));
    let mut broken = too_big_v6(1280);
    broken[60] ^= 1;
    assert_eq!(link.ingest(NOW, &mut broken), Ingress::Drop(DropReason::Checksum));
}

/// Anyone may write reports: so many are looked into, and questions take nothing of that.
#[test]
fn reports_are_bounded_in_rate_and_apart_from_questions() {
    let mut link = link();
    answer(&mut link, NOW, PEER, PEER_V4);
    for _ in 0..200 {
        link.ingest(NOW, &mut echo_v4(PEER_V4));
    }
    let taken = (0..200)
        .filter(|_| matches!(link.ingest(NOW, &mut too_big_v4(OWN_V4, 1006, 28)), Ingress::TooBig { .. }))
        .count();
    assert_eq!(taken, 64);
    assert_eq!(link.ingest(NOW, &mut too_big_v6(1280)), Ingress::Drop(DropReason::IcmpRate));
    let later = NOW + Duration::from_millis(100);
    assert!(matches!(link.ingest(later, &mut too_big_v6(1280)), Ingress::TooBig { .. }));
}

#[test]
fn a_solicitation_is_answered_in_place_or_else_by_a_frame_of_our_own() {
    let mut link = link();
    let mut frame = solicit(PEER_V6, true);
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::Reply { len: 86 });
    assert_eq!(frame[..6], PEER);
    let check = |frame: &[u8], destination: Ipv6Addr, solicited: bool| {
        let (from, to, message) = parse_ipv6(frame);
        assert_eq!((from, to, frame[14 + 7]), (OWN_V6, destination, 255));
        let mut flags = NdiscNeighborFlags::OVERRIDE;
        flags.set(NdiscNeighborFlags::SOLICITED, solicited);
        let lladdr = Some(EthernetAddress(OWN).into());
        let expected = NdiscRepr::NeighborAdvert { flags, target_addr: OWN_V6, lladdr };
        assert_eq!(message, Icmpv6Repr::Ndisc(expected));
    };
    check(&frame, PEER_V6, true);
    assert_eq!(link.next_hop(NOW, PEER_V6.into()), NextHop::Known(PEER));
    transmit(&mut link, NOW);

    // Without the option the frame is too short.
    assert_eq!(link.ingest(NOW, &mut solicit(PEER_V6, false)), Ingress::Consumed);
    let frames = transmit(&mut link, NOW);
    assert_eq!((frames.len(), &frames[0][..6]), (1, &PEER[..]));
    check(&frames[0], PEER_V6, true);

    // Somebody wants our address: everyone is told whose it is.
    assert_eq!(link.ingest(NOW, &mut solicit(Ipv6Addr::UNSPECIFIED, false)), Ingress::Consumed);
    let frames = transmit(&mut link, NOW);
    assert_eq!(frames[0][..6], [0x33, 0x33, 0, 0, 0, 1]);
    check(&frames[0], Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), false);
}

#[test]
fn an_ipv6_neighbor_is_asked_through_its_group_and_believed_once_it_answers() {
    let mut link = link();
    assert_eq!(link.next_hop(NOW, PEER_V6.into()), NextHop::Unresolved);
    link.park(NOW, PEER_V6.into(), 6).unwrap();
    let frames = transmit(&mut link, NOW);
    assert_eq!(frames[0][..6], [0x33, 0x33, 0xff, 0, 0, 9]);
    let (from, to, message) = parse_ipv6(&frames[0]);
    assert_eq!((from, to), (OWN_V6, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 9)));
    let lladdr = Some(EthernetAddress(OWN).into());
    assert_eq!(message, Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr: PEER_V6, lladdr }));
    // A router's forwarding would have lowered the hop limit: that one is not from this link.
    let mut far = advert(NdiscNeighborFlags::SOLICITED, Some(PEER));
    far[14 + 7] = 254;
    assert_eq!(link.ingest(NOW, &mut far), Ingress::Drop(DropReason::Martian));
    let both = NdiscNeighborFlags::SOLICITED | NdiscNeighborFlags::OVERRIDE;
    assert_eq!(link.ingest(NOW, &mut advert(both, Some(PEER))), Ingress::Consumed);
    assert_eq!(link.unparked(), Some((6, PEER)));
    // Without the override flag a known MAC address is not replaced.
    link.ingest(NOW, &mut advert(NdiscNeighborFlags::SOLICITED, Some(ROUTER)));
    assert_eq!(link.next_hop(NOW, PEER_V6.into()), NextHop::Known(PEER));
    link.ingest(NOW, &mut advert(NdiscNeighborFlags::OVERRIDE, Some(ROUTER)));
    assert_eq!(link.next_hop(NOW, PEER_V6.into()), NextHop::Known(ROUTER));
}

#[test]
fn a_vlan_is_required_checked_and_written() {
    let mut link = Link::<u32>::new(Config { vlan: Some(42), ..config() });
    assert_eq!(link.header_bytes(), 18);
    let tagged = |vlan: u16, frame: Vec<u8>| {
        [&frame[..12], &0x8100u16.to_be_bytes(), &(0xa000 | vlan).to_be_bytes(), &frame[12..]].concat()
    };
    let request = arp(ArpOperation::Request, PEER, PEER_V4, OWN_V4);
    assert_eq!(link.ingest(NOW, &mut request.clone()), Ingress::Drop(DropReason::OtherVlan));
    assert_eq!(link.ingest(NOW, &mut tagged(43, request.clone())), Ingress::Drop(DropReason::OtherVlan));
    let mut frame = tagged(42, request.clone());
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::Reply { len: 46 });
    assert_eq!(frame[12..18], [0x81, 0, 0xa0, 42, 8, 6]);
    let mut frame = tagged(42, ipv4(FAR_V4, OWN_V4, IpProtocol::Tcp, &[0; 20]));
    assert_eq!(link.ingest(NOW, &mut frame), Ingress::Ip { at: 18, len: 40 });
    let mut header = [0; 18];
    link.write_header(&mut header, PEER, true);
    assert_eq!(header, [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 42, 0x86, 0xdd]);
    link.announce();
    assert!(transmit(&mut link, NOW).iter().all(|frame| frame[12..16] == [0x81, 0, 0, 42]));
    // A priority tag leaves a frame in no VLAN.
    let mut link = self::link();
    assert_eq!(link.ingest(NOW, &mut tagged(0, request)), Ingress::Reply { len: 46 });
}

#[test]
fn announcements_tell_each_address_to_everyone() {
    let mut link = link();
    link.announce();
    let frames = transmit(&mut link, NOW);
    assert_eq!(frames.len(), 2);
    let ArpRepr::EthernetIpv4 { operation, source_protocol_addr, target_protocol_addr, .. } =
        parse_arp(&frames[0])
    else {
        panic!("not ARP")
    };
    assert_eq!((operation, source_protocol_addr), (ArpOperation::Request, target_protocol_addr));
    let (from, _, message) = parse_ipv6(&frames[1]);
    assert_eq!(from, OWN_V6);
    assert!(matches!(message, Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert { target_addr: OWN_V6, .. })));
}

/// A service's address is a distributor's: what it hands on is taken, and who asks for it gets no answer here.
#[test]
fn packets_for_a_service_are_taken_in_silence() {
    let service = Ipv4Addr::new(203, 0, 113, 1);
    let in_network = Ipv4Addr::new(192, 0, 2, 77);
    let mut link = link().with_services(vec![service.into(), in_network.into()]);
    for address in [service, in_network] {
        let mut frame = ipv4(FAR_V4, address, IpProtocol::Tcp, &[7; 20]);
        assert_eq!(link.ingest(NOW, &mut frame), Ingress::Ip { at: 14, len: 40 });
        let mut frame = arp(ArpOperation::Request, PEER, PEER_V4, address);
        assert!(!matches!(link.ingest(NOW, &mut frame), Ingress::Reply { .. }));
        let mut frame = ipv4(address, OWN_V4, IpProtocol::Tcp, &[7; 20]);
        assert_eq!(link.ingest(NOW, &mut frame), Ingress::Drop(DropReason::Martian));
    }
    link.announce();
    assert_eq!(transmit(&mut link, NOW).len(), 2, "its own two addresses alone");
}

/// For whoever hands packets on: nothing is looked at behind Ethernet.
#[test]
fn any_ip_packet_for_this_station_is_found() {
    let link = link();
    let frame = ipv4(FAR_V4, FAR_V4, IpProtocol::Udp, &[7; 20]);
    assert_eq!(link.ip_at(&frame), Some(14));
    let other = |at: usize, byte: u8| {
        let mut frame = frame.clone();
        frame[at] = byte;
        link.ip_at(&frame)
    };
    assert_eq!([other(5, 9), other(0, 3), other(13, 6), link.ip_at(&frame[..13])], [None; 4]);
    assert_eq!(link.ip_at(&ethernet(OWN, PEER, 0x86dd, 40)), Some(14));
    let tagged = Link::<u32>::new(Config { vlan: Some(5), ..config() });
    let mut frame = ethernet(OWN, PEER, 0x8100, 44);
    frame[14..18].copy_from_slice(&[0, 5, 8, 0]);
    assert_eq!((tagged.ip_at(&frame), link.ip_at(&frame)), (Some(18), None));
}

#[test]
fn only_tcp_for_us_comes_out_trimmed_to_its_length() {
    let mut link = link();
    let mut drop = |frame: Vec<u8>| {
        let mut frame = frame;
        match link.ingest(NOW, &mut frame) {
            Ingress::Drop(reason) => reason,
            other => panic!("{other:?}"),
        }
    };
    let tcp = ipv4(FAR_V4, OWN_V4, IpProtocol::Tcp, &[0; 20]);
    let with = |at: usize, byte: u8| {
        let mut frame = tcp.clone();
        frame[at] = byte;
        frame
    };
    assert_eq!(drop(with(0, 4)), DropReason::OtherMac);
    assert_eq!(drop(with(0, 3)), DropReason::Martian);
    assert_eq!(drop(with(12, 9)), DropReason::EtherType);
    assert_eq!(drop(with(14, 0x44)), DropReason::Malformed);
    assert_eq!(drop(with(14, 0x65)), DropReason::Malformed);
    assert_eq!(drop(with(17, 200)), DropReason::Malformed);
    assert_eq!(drop(with(20, 0x20)), DropReason::Fragment);
    assert_eq!(drop(with(21, 1)), DropReason::Fragment);
    assert_eq!(drop(with(23, 17)), DropReason::Protocol);
    assert_eq!(drop(with(26, 224)), DropReason::Martian);
    assert_eq!(drop(with(33, 11)), DropReason::OtherAddress);
    assert_eq!(drop(ipv4(OWN_V4, OWN_V4, IpProtocol::Tcp, &[])), DropReason::Martian);
    assert_eq!(drop(tcp[..13].to_vec()), DropReason::Malformed);
    assert_eq!(drop(tcp[..20].to_vec()), DropReason::Malformed);
    let mut padded = [&tcp[..], &[0; 6]].concat();
    assert_eq!(link.ingest(NOW, &mut padded), Ingress::Ip { at: 14, len: 40 });
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let frames = vec![
        arp(ArpOperation::Request, PEER, PEER_V4, OWN_V4),
        arp(ArpOperation::Reply, PEER, PEER_V4, OWN_V4),
        echo_v4(PEER_V4),
        ipv4(FAR_V4, OWN_V4, IpProtocol::Tcp, &[0; 30]),
        solicit(PEER_V6, true),
        solicit(PEER_V6, false),
        advert(NdiscNeighborFlags::SOLICITED, Some(PEER)),
        vec![0; 80],
    ];
    let changes = prop::collection::vec((0usize..90, any::<u8>()), 0..6);
    (prop::sample::select(frames), changes, 0usize..100).prop_map(|(mut frame, changes, len)| {
        for (at, byte) in changes {
            if let Some(place) = frame.get_mut(at) {
                *place = byte;
            }
        }
        // Sums made right again, so that what is behind them is reached.
        if let Some(mut packet) = frame.get_mut(14..).and_then(|ip| Ipv6Packet::new_checked(ip).ok()) {
            let (from, to) = (packet.src_addr(), packet.dst_addr());
            if let Ok(mut message) = Icmpv6Packet::new_checked(packet.payload_mut()) {
                message.fill_checksum(&from, &to);
            }
        }
        if len < 60 {
            frame.truncate(frame.len() * len / 50);
        }
        frame
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_makes_it_panic_and_answers_fit(frames in prop::collection::vec(any_frame(), 1..30)) {
        let mut link = link();
        let mut now = NOW;
        for mut frame in frames {
            match link.ingest(now, &mut frame) {
                Ingress::Ip { at, len } | Ingress::TooBig { at, len, .. } => {
                    prop_assert!(at + len <= frame.len());
                }
                Ingress::Reply { len } => {
                    prop_assert!(len <= frame.len());
                    prop_assert_eq!(&frame[6..12], &OWN[..]);
                }
                Ingress::Consumed => {}
                Ingress::Drop(reason) => prop_assert_eq!(DropReason::ALL[reason.index()], reason),
            }
            let address = IpAddr::V4(Ipv4Addr::new(192, 0, 2, frame.first().copied().unwrap_or(0)));
            link.next_hop(now, address);
            now += Duration::from_millis(300);
            link.timers(now);
            prop_assert!(transmit(&mut link, now).iter().all(|frame| frame[6..12] == OWN));
        }
    }
}
