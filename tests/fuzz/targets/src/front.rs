//! A distributor as fuzzers have it: a few services and nodes, packets made for them, and what has to hold of whatever
//! becomes of a packet.
//!
//! In: numbers of an input. Out: distributors, IP packets. Tables of places are made once a process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use keyferry_distribute::{
    Config, Distributor, FLOWS_PORT, Model, Node, NodeId, Packet, Places, Plan, RESET_BYTES_MAX, Reset,
    Service, Share, State, Verdict,
};
use smoltcp::wire::{IpAddress, Ipv4Packet, Ipv6Packet, TcpPacket};

use crate::input::Input;

/// Nodes there is room for.
pub(crate) const NODES: u16 = 4;
/// The node that leaves, and whose place another one takes.
pub(crate) const GUEST: NodeId = NodeId(NODES - 1);
/// What its place's next holder is called.
pub(crate) const NEXT_GUEST: &str = "node-4";
/// Longest packet that is made up of nothing but the input's bytes.
const RAW_BYTES_MAX: usize = 300;

const V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// Clients of each family; the last ones cannot be any.
const CLIENTS_V4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(198, 51, 100, 1),
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv4Addr::new(198, 51, 100, 3),
    Ipv4Addr::new(203, 0, 113, 4),
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::new(224, 0, 0, 1),
];
const CLIENTS_V6: [Ipv6Addr; 6] = [
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
    Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2),
    Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 3),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 4),
    Ipv6Addr::LOCALHOST,
    Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xc633, 0x6401),
];

/// What clients come to, for a distributor with nodes 0 to 3. The last one is served by fewer of them.
pub(crate) fn services() -> [(SocketAddr, Model, &'static [u16]); 3] {
    [
        ((V4, 443).into(), Model::Session, &[0, 1, 2, 3]),
        ((V6, 443).into(), Model::BackEndForwarding, &[0, 1, 2, 3]),
        ((V4, 80).into(), Model::RoundRobin, &[0, 1]),
    ]
}

/// Tables for the nodes that are there at first, without the guest, and with the one that comes after it.
///
/// One takes two milliseconds; made on a thread of its own, as by a distributor's control thread, so they are nobody's
/// heap who measures.
static PLACES: LazyLock<[Arc<Places>; 3]> = LazyLock::new(|| {
    let plan = |revision: u64| {
        let share = |id: u16| {
            let name = if revision == 2 && NodeId(id) == GUEST { NEXT_GUEST.into() } else { name(id) };
            let serves = |service: &usize| services()[*service].2.contains(&id);
            Share {
                id: NodeId(id),
                name,
                weight: 1,
                services: (0..services().len()).filter(serves).collect(),
            }
        };
        let there = |id: &u16| revision != 1 || NodeId(*id) != GUEST;
        let nodes = (0..NODES).filter(there).map(share).collect();
        Arc::new(Plan { revision, services: services().len(), nodes }.make())
    };
    std::thread::spawn(move || [0, 1, 2].map(plan)).join().expect("tables of a few nodes can be made")
});

/// Tables of places after so many nodes have left or come.
pub(crate) fn places(revision: usize) -> Arc<Places> {
    Arc::clone(&PLACES[revision])
}

pub(crate) fn name(id: u16) -> String {
    format!("node-{id}")
}

/// A distributor whose nodes are all up, with tables for `flows` connections and half as many clients.
pub(crate) fn distributor(seed: u64, flows: usize) -> Distributor {
    let config = Config {
        flows,
        clients: flows.div_ceil(2),
        idle_time: Duration::from_secs(300),
        client_time: Duration::from_secs(600),
        seed,
        places_seed: 9,
    };
    let services = services().map(|(address, model, nodes)| Service {
        address,
        model,
        nodes: nodes.iter().copied().map(NodeId).collect(),
    });
    // Down at first, so that no table of places is made here.
    let nodes = (0..NODES).map(|id| Node { name: name(id), weight: 1, state: State::Down }).collect();
    let mut it = Distributor::new(config, services.into(), nodes);
    for id in (0..NODES).map(NodeId) {
        it.set_state(id, State::Up);
    }
    it.set_places(places(0));
    it
}

/// A client's packet: whole or not, sound or not.
///
/// Input: a byte for its shape, a byte for the client, one for the service, flags, an acknowledgement number, bytes of
/// payload; then what is changed and cut.
pub(crate) fn packet(input: &mut Input<'_>) -> Vec<u8> {
    let shape = input.u8();
    if shape == 0xff {
        let len = usize::from(input.u16()) % RAW_BYTES_MAX;
        return input.take(len).to_vec();
    }
    let (client, service, flags) = (input.u8(), input.below(4), input.u8());
    let (acknowledges, payload) = (input.u32(), input.below(32));
    // The last one is none: a port that nobody serves.
    let to = services().get(service).map_or((V4, 8443).into(), |it| it.0);
    let from = ends(client, to.is_ipv6());
    let tcp = tcp(from.port(), to.port(), flags, acknowledges, payload);
    let mut packet = match shape & 7 {
        0..=2 => ip(from.ip(), to.ip(), 6, None, &tcp),
        3 => ip(from.ip(), to.ip(), 6, Some((0, true)), &tcp),
        4 => ip(from.ip(), to.ip(), 6, Some((3, false)), &tcp),
        5 => icmp_error(from, to, &tcp),
        6 => udp(from.ip(), to.ip(), &tcp),
        _ => options(from.ip(), to.ip(), &tcp),
    };
    if shape & 8 != 0 {
        for _ in 0..input.below(4) {
            let at = usize::from(input.u8()) % packet.len();
            packet[at] ^= input.u8();
        }
    }
    if shape & 16 != 0 {
        packet.truncate(usize::from(input.u8()));
    }
    packet
}

/// A client: an address by its number, and one of a few ports.
pub(crate) fn ends(client: u8, is_v6: bool) -> SocketAddr {
    let (address, port) = (usize::from(client & 15), 1024 + u16::from(client >> 4));
    let ip: IpAddr = match is_v6 {
        false => CLIENTS_V4[address % CLIENTS_V4.len()].into(),
        true => CLIENTS_V6[address % CLIENTS_V6.len()].into(),
    };
    (ip, port).into()
}

fn tcp(from: u16, to: u16, flags: u8, acknowledges: u32, payload: usize) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(20 + payload);
    tcp.extend(from.to_be_bytes());
    tcp.extend(to.to_be_bytes());
    tcp.extend([0, 0, 0, 9]);
    tcp.extend(acknowledges.to_be_bytes());
    tcp.extend([0x50, flags & 0x3f, 1, 0, 0, 0, 0, 0]);
    tcp.resize(20 + payload, b'x');
    tcp
}

/// `payload` in IP; `fragment`: its offset in units of 8 bytes, and whether more follow.
fn ip(from: IpAddr, to: IpAddr, protocol: u8, fragment: Option<(u16, bool)>, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(48 + payload.len());
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let flags = fragment.map_or(0x4000, |(offset, more)| offset | u16::from(more) << 13);
            packet.extend([0x45, 0]);
            packet.extend((20 + payload.len() as u16).to_be_bytes());
            packet.extend([0, 7]);
            packet.extend(flags.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(from.octets());
            packet.extend(to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let extension = if fragment.is_some() { 8 } else { 0 };
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((extension + payload.len() as u16).to_be_bytes());
            packet.extend([if fragment.is_some() { 44 } else { protocol }, 64]);
            packet.extend(from.octets());
            packet.extend(to.octets());
            if let Some((offset, more)) = fragment {
                packet.extend([protocol, 0]);
                packet.extend((offset << 3 | u16::from(more)).to_be_bytes());
                packet.extend([0, 0, 0, 7]);
            }
        }
        _ => unreachable!("ends of one family"),
    }
    packet.extend_from_slice(payload);
    packet
}

/// What a router says of a segment that a node sent: unreachable.
fn icmp_error(client: SocketAddr, service: SocketAddr, tcp: &[u8]) -> Vec<u8> {
    let (kind, protocol) = if client.is_ipv6() { (1, 58) } else { (3, 1) };
    let mut message = vec![kind, 1, 0, 0, 0, 0, 0, 0];
    let mut quoted = tcp.to_vec();
    quoted[..2].copy_from_slice(&service.port().to_be_bytes());
    quoted[2..4].copy_from_slice(&client.port().to_be_bytes());
    message.extend(ip(service.ip(), client.ip(), 6, None, &quoted));
    ip(client.ip(), service.ip(), protocol, None, &message)
}

/// A datagram as distributors send them, of no content they know.
fn udp(from: IpAddr, to: IpAddr, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(8 + payload.len());
    datagram.extend(FLOWS_PORT.to_be_bytes());
    datagram.extend(FLOWS_PORT.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend_from_slice(payload);
    ip(from, to, 17, None, &datagram)
}

/// A segment behind options of IPv4, or an extension header of IPv6.
fn options(from: IpAddr, to: IpAddr, tcp: &[u8]) -> Vec<u8> {
    if from.is_ipv6() {
        let mut rest = vec![6, 0, 1, 4, 0, 0, 0, 0];
        rest.extend_from_slice(tcp);
        return ip(from, to, 0, None, &rest);
    }
    let mut packet = ip(from, to, 6, None, tcp);
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

/// Holds a verdict against the packet; `may_be_told`: whether the node can be another distributor's word.
pub(crate) fn check(it: &Distributor, packet: &[u8], verdict: Verdict, may_be_told: bool) {
    match verdict {
        Verdict::Forward(node) => check_node(it, packet, node, may_be_told),
        Verdict::Reset(reset) => {
            let Ok(Packet::Segment(segment)) = Packet::parse(packet) else {
                panic!("a reset without a segment")
            };
            assert!(!segment.rst, "a reset is answered with none (RFC 9293 3.5.2)");
            assert_eq!(check_reset(&reset), (segment.flow.service, segment.flow.client), "it goes back");
        }
        Verdict::Datagram { at, len } => {
            assert!(at >= 28 && at + len <= packet.len(), "what is told lies behind the headers");
        }
        Verdict::Hold(_) | Verdict::Drop(_) | Verdict::Other => {}
    }
}

fn check_node(it: &Distributor, packet: &[u8], node: NodeId, may_be_told: bool) {
    assert!(node.index() < it.room(), "a node that there is");
    let service = match Packet::parse(packet) {
        Ok(Packet::Segment(segment)) => segment.flow.service,
        Ok(Packet::Error(flow)) => flow.service,
        Ok(Packet::Fragment(id)) => {
            let known = services().into_iter().any(|(service, ..)| service.ip() == id.destination);
            return assert!(known, "a fragment for nobody follows none");
        }
        other => panic!("{other:?} was forwarded"),
    };
    assert!(services().iter().any(|it| it.0 == service), "it is for a service");
    if !may_be_told {
        let serves = services().iter().any(|it| it.0 == service && it.2.contains(&node.0));
        assert!(serves, "the node serves it");
    }
}

/// Writes a reset and reads it again: from whom it is and for whom.
pub(crate) fn check_reset(reset: &Reset) -> (SocketAddr, SocketAddr) {
    let mut bytes = [0; RESET_BYTES_MAX];
    let len = reset.write(&mut bytes);
    let bytes = &bytes[..len];
    let (from, to, payload): (IpAddr, IpAddr, &[u8]) = match bytes[0] >> 4 {
        4 => {
            let ip = Ipv4Packet::new_checked(bytes).expect("a packet");
            assert!(ip.verify_checksum() && usize::from(ip.total_len()) == len, "sound, and whole");
            (ip.src_addr().into(), ip.dst_addr().into(), &bytes[20..])
        }
        _ => {
            let ip = Ipv6Packet::new_checked(bytes).expect("a packet");
            assert_eq!(ip.total_len(), len, "whole");
            (ip.src_addr().into(), ip.dst_addr().into(), &bytes[40..])
        }
    };
    let tcp = TcpPacket::new_checked(payload).expect("a segment");
    assert!(tcp.verify_checksum(&IpAddress::from(from), &IpAddress::from(to)), "its checksum is right");
    assert!(tcp.rst() && !tcp.syn() && !tcp.fin(), "a reset");
    ((from, tcp.src_port()).into(), (to, tcp.dst_port()).into())
}

/// A packet of seeds: see [`packet`].
pub(crate) fn sent(shape: u8, client: u8, service: u8, flags: u8) -> Vec<u8> {
    vec![shape, client, service, flags, 5, 0, 0, 0, 3]
}
