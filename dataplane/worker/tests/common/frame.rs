//! Frames as a hostile or honest peer writes them.

use std::net::Ipv4Addr;

use super::node::{ADDRESS, MAC, PORT};

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const PSH: u8 = 8;
pub const ACK: u8 = 16;

pub const ETHERNET: usize = 14;
pub const IP: usize = 20;
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The fields of a segment that matter here.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    pub from: (Ipv4Addr, u16),
    pub to_port: u16,
    pub flags: u8,
    pub sequence: u32,
    pub acknowledged: u32,
    pub window: u16,
    pub payload: &'a [u8],
}

impl Segment<'_> {
    pub fn new(from: (Ipv4Addr, u16), flags: u8, sequence: u32, acknowledged: u32) -> Self {
        Segment { from, to_port: PORT, flags, sequence, acknowledged, window: 0xffff, payload: &[] }
    }

    /// An Ethernet frame with good checksums.
    pub fn frame(&self) -> Vec<u8> {
        let options: &[u8] = if self.flags & SYN != 0 { &[2, 4, 5, 0xb4] } else { &[] };
        let header = 20 + options.len();
        let mut tcp = Vec::with_capacity(header + self.payload.len());
        tcp.extend(self.from.1.to_be_bytes());
        tcp.extend(self.to_port.to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        tcp.extend([((header / 4) << 4) as u8, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(options);
        tcp.extend(self.payload);
        let pseudo = sum(&self.from.0.octets()) + sum(&ADDRESS.octets()) + 6 + tcp.len() as u32;
        let checksum = checksum(&tcp, pseudo);
        tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
        ip(self.from.0, 6, 0, &tcp)
    }
}

/// An IPv4 packet in an Ethernet frame; `fragment` is the field with the flags and offset.
pub fn ip(from: Ipv4Addr, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ETHERNET + IP + payload.len());
    frame.extend(MAC);
    frame.extend(PEER_MAC);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(((IP + payload.len()) as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(fragment.to_be_bytes());
    frame.extend([64, protocol, 0, 0]);
    frame.extend(from.octets());
    frame.extend(ADDRESS.octets());
    let checksum = checksum(&frame[ETHERNET..], 0);
    frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The gateway's report that a packet of the node to this client was too big, and how large one may be.
pub fn too_big(to: (Ipv4Addr, u16), sequence: u32, mtu: u16) -> Vec<u8> {
    let mut message = vec![3, 4, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    message.extend([0x45, 0, 5, 0xdc, 0, 0, 0x40, 0, 63, 6, 0, 0]);
    message.extend(ADDRESS.octets());
    message.extend(to.0.octets());
    message.extend([PORT.to_be_bytes(), to.1.to_be_bytes()].concat());
    message.extend(sequence.to_be_bytes());
    let checksum = checksum(&message, 0);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    ip(super::node::GATEWAY, 1, 0, &message)
}

pub fn arp_request(sender: Ipv4Addr) -> Vec<u8> {
    arp(1, sender, PEER_MAC)
}

pub fn arp(operation: u8, sender: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    let mut frame = if operation == 1 { Vec::from([0xff; 6]) } else { Vec::from(MAC) };
    frame.extend(mac);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(if operation == 1 { [0; 6] } else { MAC });
    frame.extend(ADDRESS.octets());
    frame
}

/// The answer to the node's ARP request for `owner`.
pub fn arp_answer(frame: &[u8], owner: Ipv4Addr) -> Option<Vec<u8>> {
    let asks = frame.get(12..14)? == [8, 6] && frame.get(20..22)? == [0, 1];
    (asks && frame.get(38..42)? == owner.octets()).then(|| arp(2, owner, PEER_MAC))
}

/// Whom an IPv4 frame with TCP is for.
pub fn destination(frame: &[u8]) -> Option<(Ipv4Addr, u16)> {
    if frame.get(12..14)? != [8, 0] {
        return None;
    }
    let to: [u8; 4] = frame.get(30..34)?.try_into().ok()?;
    Some((to.into(), u16::from_be_bytes([*frame.get(36)?, *frame.get(37)?])))
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).fold(0, u32::wrapping_add)
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = sum(bytes) + start;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
