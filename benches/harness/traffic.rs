//! Frames of the clients behind the generator, and what a distributor finds around it: nodes that answer ARP.
//!
//! In: a flow's number. Out: its frame, with every checksum right, and the number of a frame that came back. Pure.

use std::net::Ipv4Addr;

/// The generator's MAC address.
pub const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
/// Where frames go whose forwarder has no address of its own.
pub const NOBODY_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
/// The distributor's address.
pub const DISTRIBUTOR: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
/// The generator's address, on the same network.
const GENERATOR: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 3);
/// What clients come to.
pub const SERVICE: (Ipv4Addr, u16) = (Ipv4Addr::new(10, 200, 1, 1), 443);
/// Nodes behind the distributor.
pub const NODES: u8 = 8;

/// The first client's address.
const CLIENTS: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 0);
/// Connections of a client: as ephemeral ports go.
const PORTS_BITS: u32 = 15;
const FIRST_PORT: u32 = 1024;

/// Bytes of Ethernet, IPv4 and TCP without options.
pub const HEADER_BYTES: usize = 14 + 20 + 20;
/// Bytes of an ARP frame.
pub const ARP_BYTES: usize = 14 + 28;

const SYN: u8 = 2;
const ACK: u8 = 16;
const PSH: u8 = 8;

/// A node's address.
pub fn node_address(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, 0, 10 + node)
}

/// A node's MAC address.
fn node_mac(node: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, node]
}

/// Which node a frame has been sent to, if to one.
pub fn node_of(frame: &[u8]) -> Option<u8> {
    let [2, 0, 0, 0, 1, node] = *frame.first_chunk::<6>()? else { return None };
    (node < NODES).then_some(node)
}

/// Which flow a frame belongs to, if to one of ours.
pub fn flow_of(frame: &[u8]) -> Option<u32> {
    let header = frame.first_chunk::<HEADER_BYTES>()?;
    if header[12..14] != [8, 0] {
        return None;
    }
    let client = u32::from_be_bytes([header[26], header[27], header[28], header[29]]);
    let port = u32::from(u16::from_be_bytes([header[34], header[35]]));
    Some(client.checked_sub(CLIENTS.to_bits())? << PORTS_BITS | port.checked_sub(FIRST_PORT)?)
}

/// A frame of any flow, but for what is the flow's own.
pub struct Template {
    bytes: Vec<u8>,
    /// Sums of what checksums cover, the flow's own left out.
    ip_sum: u32,
    tcp_sum: u32,
}

impl Template {
    /// The SYN.
    pub fn syn(to: [u8; 6]) -> Template {
        Template::new(to, SYN, HEADER_BYTES)
    }

    /// The segment that ends the handshake.
    pub fn ack(to: [u8; 6]) -> Template {
        Template::new(to, ACK, HEADER_BYTES)
    }

    /// A segment with data, in a frame of so many bytes from the Ethernet header on.
    pub fn data(to: [u8; 6], frame_bytes: usize) -> Template {
        Template::new(to, ACK | PSH, frame_bytes)
    }

    fn new(to: [u8; 6], flags: u8, frame_bytes: usize) -> Template {
        let mut bytes = Vec::with_capacity(frame_bytes);
        bytes.extend(to);
        bytes.extend(CLIENT_MAC);
        bytes.extend([8, 0, 0x45, 0]);
        bytes.extend(((frame_bytes - 14) as u16).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0]);
        bytes.extend(SERVICE.0.octets());
        bytes.extend([0, 0]);
        bytes.extend(SERVICE.1.to_be_bytes());
        bytes.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        bytes.resize(frame_bytes, b'x');
        let ip_sum = sum(&bytes[14..34]);
        let pseudo_header = sum(&SERVICE.0.octets()) + 6 + (frame_bytes - 34) as u32;
        let tcp_sum = sum(&bytes[34..]) + pseudo_header;
        Template { bytes, ip_sum: fold(ip_sum).into(), tcp_sum: fold(tcp_sum).into() }
    }

    /// Bytes of the frame.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Writes a flow's frame. `is_filled`: the frame held one of this template before, so that its payload is there.
    pub fn write(&self, flow: u32, is_filled: bool, frame: &mut [u8]) {
        if is_filled {
            frame[..HEADER_BYTES].copy_from_slice(&self.bytes[..HEADER_BYTES]);
        } else {
            frame.copy_from_slice(&self.bytes);
        }
        let client = CLIENTS.to_bits() + (flow >> PORTS_BITS);
        let port = FIRST_PORT + (flow & ((1 << PORTS_BITS) - 1));
        let client_sum = (client >> 16) + (client & 0xffff);
        frame[26..30].copy_from_slice(&client.to_be_bytes());
        frame[34..36].copy_from_slice(&(port as u16).to_be_bytes());
        frame[24..26].copy_from_slice(&(!fold(self.ip_sum + client_sum)).to_be_bytes());
        frame[50..52].copy_from_slice(&(!fold(self.tcp_sum + client_sum + port)).to_be_bytes());
    }
}

/// Adds 16-bit words (RFC 1071); a frame is far too short to overflow.
fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    bytes.chunks(2).map(word).sum()
}

fn fold(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    ((once & 0xffff) + (once >> 16)) as u16
}

/// Asks who has the distributor's address (RFC 826).
pub fn arp_request() -> [u8; ARP_BYTES] {
    arp([0xff; 6], 1, (CLIENT_MAC, GENERATOR), ([0; 6], DISTRIBUTOR))
}

/// The answer of a node that was asked for its MAC address.
pub fn arp_reply(frame: &[u8]) -> Option<[u8; ARP_BYTES]> {
    let (sender, target) = arp_ends(frame, 1)?;
    let node = (0..NODES).find(|node| node_address(*node) == target.1)?;
    Some(arp(sender.0, 2, (node_mac(node), target.1), sender))
}

/// The MAC address in the distributor's own answer.
pub fn distributor_mac(frame: &[u8]) -> Option<[u8; 6]> {
    let (sender, _) = arp_ends(frame, 2)?;
    (sender.1 == DISTRIBUTOR).then_some(sender.0)
}

type Station = ([u8; 6], Ipv4Addr);

fn arp_ends(frame: &[u8], operation: u8) -> Option<(Station, Station)> {
    let frame = frame.first_chunk::<ARP_BYTES>()?;
    let station = |at: usize| {
        let (mac, rest) = frame[at..].split_first_chunk::<6>()?;
        Some((*mac, Ipv4Addr::from(*rest.first_chunk::<4>()?)))
    };
    (frame[12..14] == [8, 6] && frame[21] == operation).then_some(())?;
    Some((station(22)?, station(32)?))
}

fn arp(to: [u8; 6], operation: u8, sender: Station, target: Station) -> [u8; ARP_BYTES] {
    let mut frame = [0; ARP_BYTES];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&sender.0);
    frame[12..22].copy_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, operation]);
    for (at, (mac, address)) in [(22, sender), (32, target)] {
        frame[at..at + 6].copy_from_slice(&mac);
        frame[at + 6..at + 10].copy_from_slice(&address.octets());
    }
    frame
}
