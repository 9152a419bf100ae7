//! What filters look at of a frame: what it carries, between whom.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Protocol numbers (IANA).
pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP6: u8 = 58;

/// VLAN tags in front of a packet, at most.
const TAGS_MAX: usize = 2;

/// IPv6 extension headers in front of a transport header that are followed, at most.
const EXTENSIONS_MAX: usize = 8;

/// What is behind a frame's Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Network {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// ARP.
    Arp,
}

/// What filters look at of a frame; what it does not have, or is cut off, is `None`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frame {
    /// What the Ethernet header says that it carries.
    pub network: Option<Network>,
    /// Source and destination; of ARP who asks and who is asked for.
    pub ends: Option<(IpAddr, IpAddr)>,
    /// The transport protocol's number.
    pub transport: Option<u8>,
    /// Source and destination port of TCP or UDP; fragments behind the first have none.
    pub ports: Option<(u16, u16)>,
}

impl Frame {
    /// Reads a frame, from its Ethernet header on.
    pub fn read(bytes: &[u8]) -> Frame {
        let mut at = 12;
        for _ in 0..=TAGS_MAX {
            let Some(kind) = u16_at(bytes, at) else { break };
            at += 2;
            match kind {
                0x8100 | 0x88a8 => at += 2,
                0x0800 => return ip(&bytes[at..]),
                0x86dd => return ip6(&bytes[at..]),
                0x0806 => return arp(&bytes[at..]),
                _ => break,
            }
        }
        Frame::default()
    }
}

/// IPv4 (RFC 791 3.1).
fn ip(packet: &[u8]) -> Frame {
    let frame = Frame { network: Some(Network::Ip), ..Frame::default() };
    let Some(header) = packet.first_chunk::<20>() else { return frame };
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_bytes < 20 {
        return frame;
    }
    let address = |at: usize| v4(header, at).map(IpAddr::V4);
    let is_first = u16::from_be_bytes([header[6], header[7]]) & 0x1fff == 0;
    let payload = packet.get(header_bytes..).filter(|_| is_first);
    Frame {
        ends: address(12).zip(address(16)),
        transport: Some(header[9]),
        ports: payload.and_then(|payload| ports(header[9], payload)),
        ..frame
    }
}

/// IPv6 (RFC 8200 3), and its extension headers (4).
fn ip6(packet: &[u8]) -> Frame {
    let mut frame = Frame { network: Some(Network::Ip6), ..Frame::default() };
    let Some(header) = packet.first_chunk::<40>() else { return frame };
    if header[0] >> 4 != 6 {
        return frame;
    }
    let address =
        |at: usize| header[at..].first_chunk::<16>().map(|bytes| IpAddr::V6(Ipv6Addr::from(*bytes)));
    frame.ends = address(8).zip(address(24));
    let (mut next, mut at, mut is_first) = (header[6], 40, true);
    for _ in 0..EXTENSIONS_MAX {
        let Some(extension) = packet.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { break };
        match next {
            // Hop-by-hop options, routing, destination options.
            0 | 43 | 60 => at += (usize::from(extension[1]) + 1) * 8,
            // Fragment.
            44 => {
                is_first &= u16::from_be_bytes([extension[2], extension[3]]) & !7 == 0;
                at += 8;
            }
            _ => break,
        }
        next = extension[0];
        // What a later fragment goes on with is not a header.
        if !is_first {
            break;
        }
    }
    frame.transport = Some(next);
    frame.ports = packet.get(at..).filter(|_| is_first).and_then(|payload| ports(next, payload));
    frame
}

/// ARP for IPv4 over Ethernet (RFC 826).
fn arp(packet: &[u8]) -> Frame {
    let is_ours = packet.first_chunk() == Some(&[0, 1, 8, 0, 6, 4]);
    let address = |at: usize| v4(packet, at).map(IpAddr::V4);
    let ends = if is_ours { address(14).zip(address(24)) } else { None };
    Frame { network: Some(Network::Arp), ends, ..Frame::default() }
}

fn ports(transport: u8, payload: &[u8]) -> Option<(u16, u16)> {
    if !matches!(transport, TCP | UDP) {
        return None;
    }
    u16_at(payload, 0).zip(u16_at(payload, 2))
}

fn v4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().map(|bytes| Ipv4Addr::from(*bytes))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}
