//! What a packet is to a distributor: read without any state of a connection.
//!
//! In: an IP packet, as it came. Out: whose it is, or why it is nobody's. Pure.

use std::net::{IpAddr, SocketAddr};

use crate::peers::datagram;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6ExtHeader, Ipv6FragmentHeader, Ipv6Packet, TcpPacket};

/// Extension headers of an IPv6 packet that are looked through.
const EXTENSIONS_MAX: usize = 4;
/// Bytes of a quoted packet that name its ports (RFC 792: the first 64 bits of its data).
const PORTS_BYTES: usize = 4;

/// A connection, by its two ends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    /// The client's end.
    pub client: SocketAddr,
    /// The end clients see: the service's address.
    pub service: SocketAddr,
}

/// What fragments of one datagram have in common (RFC 791, RFC 8200 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentId {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// The sender's number for it.
    pub ident: u32,
}

/// A TCP segment's header, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Its connection.
    pub flow: Flow,
    /// SYN.
    pub syn: bool,
    /// ACK.
    pub ack: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number; means something if `ack` is set.
    pub acknowledges: u32,
    /// Sequence numbers it takes: payload, SYN and FIN.
    pub length: u32,
    /// Set if fragments with the rest of it follow.
    pub fragment: Option<FragmentId>,
}

impl Segment {
    /// Whether this opens a connection.
    pub fn is_open_request(&self) -> bool {
        self.syn && !self.ack && !self.rst && !self.fin
    }
}

/// A packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packet {
    /// TCP: a segment, or its first fragment.
    Segment(Segment),
    /// Another fragment than the first.
    Fragment(FragmentId),
    /// An ICMP error about a packet that was sent to the client.
    Error(Flow),
    /// UDP that another distributor may have sent: its payload, of so many bytes from there on in the packet.
    Datagram {
        /// Where it begins.
        at: usize,
        /// Its bytes.
        len: usize,
    },
    /// Nothing for a node: echo, neighbours, another protocol.
    Other,
}

/// Not a packet, or none that can be told apart from an attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl Packet {
    /// Reads a packet's headers. Checksums are the receiver's to check.
    ///
    /// # Errors
    /// [`Malformed`] for lengths that do not fit, a first fragment without a whole TCP header (RFC 1858), addresses and
    /// ports that cannot be a client's.
    pub fn parse(packet: &[u8]) -> Result<Packet, Malformed> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => parse_v4(packet),
            Some(6) => parse_v6(packet),
            _ => Err(Malformed),
        }
    }
}

fn parse_v4(packet: &[u8]) -> Result<Packet, Malformed> {
    let ip = Ipv4Packet::new_checked(packet).map_err(|_| Malformed)?;
    if ip.header_len() < 20 {
        return Err(Malformed);
    }
    let (source, destination) = (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()));
    let id = FragmentId { source, destination, ident: u32::from(ip.ident()) };
    match ip.next_header() {
        IpProtocol::Tcp if ip.frag_offset() != 0 => Ok(Packet::Fragment(id)),
        IpProtocol::Tcp => segment(ip.payload(), source, destination, ip.more_frags().then_some(id)),
        // Only a whole one is looked into: what it quotes must be where it says.
        IpProtocol::Icmp if !ip.more_frags() && ip.frag_offset() == 0 => {
            // Destination unreachable, time exceeded, parameter problem (RFC 792).
            error(ip.payload(), &[3, 11, 12], |quoted| {
                let inner = (quoted.len() >= 20).then(|| Ipv4Packet::new_unchecked(quoted))?;
                let header = usize::from(inner.header_len());
                let is_first_of_tcp = inner.next_header() == IpProtocol::Tcp && inner.frag_offset() == 0;
                (inner.version() == 4 && header >= 20 && is_first_of_tcp).then_some(())?;
                Some((inner.src_addr().into(), inner.dst_addr().into(), quoted.get(header..)?))
            })
        }
        IpProtocol::Udp if !ip.more_frags() && ip.frag_offset() == 0 => {
            Ok(told(&packet[..usize::from(ip.total_len())], usize::from(ip.header_len())))
        }
        _ => Ok(Packet::Other),
    }
}

/// UDP behind an IP header of so many bytes.
fn told(packet: &[u8], header: usize) -> Packet {
    datagram::payload(packet, header).map_or(Packet::Other, |(at, len)| Packet::Datagram { at, len })
}

fn parse_v6(packet: &[u8]) -> Result<Packet, Malformed> {
    let ip = Ipv6Packet::new_checked(packet).map_err(|_| Malformed)?;
    let (source, destination) = (IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr()));
    let (mut next, mut rest) = (ip.next_header(), ip.payload());
    let mut fragment = None;
    for _ in 0..=EXTENSIONS_MAX {
        match next {
            IpProtocol::Tcp => return segment(rest, source, destination, fragment),
            IpProtocol::Icmpv6 if fragment.is_none() => {
                // Destination unreachable, packet too big, time exceeded, parameter problem (RFC 4443 3).
                return error(rest, &[1, 2, 3, 4], |quoted| {
                    let inner = (quoted.len() >= 40).then(|| Ipv6Packet::new_unchecked(quoted))?;
                    (inner.version() == 6 && inner.next_header() == IpProtocol::Tcp).then_some(())?;
                    Some((inner.src_addr().into(), inner.dst_addr().into(), quoted.get(40..)?))
                });
            }
            // Distributors put nothing between the two headers.
            IpProtocol::Udp if ip.next_header() == IpProtocol::Udp => {
                return Ok(told(&packet[..ip.total_len()], 40));
            }
            IpProtocol::HopByHop | IpProtocol::Ipv6Opts => {
                let header = Ipv6ExtHeader::new_checked(rest).map_err(|_| Malformed)?;
                let bytes = (usize::from(header.header_len()) + 1) * 8;
                next = header.next_header();
                rest = rest.get(bytes..).ok_or(Malformed)?;
            }
            IpProtocol::Ipv6Frag if fragment.is_none() => {
                let header = Ipv6ExtHeader::new_checked(rest).map_err(|_| Malformed)?;
                let body = Ipv6FragmentHeader::new_checked(header.payload()).map_err(|_| Malformed)?;
                let id = FragmentId { source, destination, ident: body.ident() };
                next = header.next_header();
                // The protocol of other fragments than the first is as the first one has it (RFC 8200 4.5).
                if body.frag_offset() != 0 {
                    return Ok(if next == IpProtocol::Tcp { Packet::Fragment(id) } else { Packet::Other });
                }
                fragment = body.more_frags().then_some(id);
                rest = rest.get(8..).ok_or(Malformed)?;
            }
            _ => return Ok(Packet::Other),
        }
    }
    Err(Malformed)
}

/// Whether it can be a client's end. An address of IPv4 as IPv6 maps it, which tables have those of IPv4 as, belongs on no wire
/// (RFC 4291 2.5.5.2).
pub(crate) fn is_of_a_client(address: IpAddr, port: u16) -> bool {
    let is_mapped = matches!(address, IpAddr::V6(it) if it.to_ipv4_mapped().is_some());
    port != 0 && !address.is_unspecified() && !address.is_multicast() && !address.is_loopback() && !is_mapped
}

fn segment(
    bytes: &[u8],
    source: IpAddr,
    destination: IpAddr,
    fragment: Option<FragmentId>,
) -> Result<Packet, Malformed> {
    let tcp = TcpPacket::new_checked(bytes).map_err(|_| Malformed)?;
    if !is_of_a_client(source, tcp.src_port()) || tcp.dst_port() == 0 {
        return Err(Malformed);
    }
    let flow = Flow {
        client: SocketAddr::new(source, tcp.src_port()),
        service: SocketAddr::new(destination, tcp.dst_port()),
    };
    // A packet is shorter than 64 KiB.
    let length = tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
    Ok(Packet::Segment(Segment {
        flow,
        syn: tcp.syn(),
        ack: tcp.ack(),
        fin: tcp.fin(),
        rst: tcp.rst(),
        sequence: tcp.seq_number().0 as u32,
        acknowledges: tcp.ack_number().0 as u32,
        length,
        fragment,
    }))
}

/// An ICMP message of one of `kinds`, with the packet it quotes, of which the ports are enough.
fn error<'a>(
    message: &'a [u8],
    kinds: &[u8],
    quoted: impl FnOnce(&'a [u8]) -> Option<(IpAddr, IpAddr, &'a [u8])>,
) -> Result<Packet, Malformed> {
    let Some((header, quote)) = message.split_at_checked(8) else { return Err(Malformed) };
    if !kinds.contains(&header[0]) {
        return Ok(Packet::Other);
    }
    let Some((from, to, behind)) = quoted(quote) else { return Ok(Packet::Other) };
    let Some([from_high, from_low, to_high, to_low]) = behind.first_chunk::<PORTS_BYTES>().copied() else {
        return Err(Malformed);
    };
    let (from_port, to_port) =
        (u16::from_be_bytes([from_high, from_low]), u16::from_be_bytes([to_high, to_low]));
    if !is_of_a_client(to, to_port) || from_port == 0 {
        return Err(Malformed);
    }
    // It was sent by a node, in the service's name.
    Ok(Packet::Error(Flow {
        client: SocketAddr::new(to, to_port),
        service: SocketAddr::new(from, from_port),
    }))
}
