//! Where the headers of a frame are, as far as a port looks at them: Ethernet, VLAN tags, IP, and whether TCP follows.
//!
//! In: a frame from a peer, of any content. Out: offsets that lie inside it, or nothing. Pure; any thread.

/// VLAN tags stepped over; more is not what a port parses either.
const VLAN_TAGS_MAX: usize = 2;
/// IPv6 extension headers stepped over, so that a crafted chain costs little.
const EXTENSIONS_MAX: usize = 8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

/// Bytes of an Ethernet header without tags.
const ETHERNET_BYTES: usize = 14;
/// Bytes of an IPv6 header (RFC 8200 section 3).
const IPV6_BYTES: usize = 40;
/// Bytes of a TCP header without options (RFC 9293 section 3.1).
const TCP_BYTES: usize = 20;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// ARP.
    Arp,
    /// An IP packet that is no fragment.
    Ip(Ip),
    /// A fragment, something broken, or another protocol.
    Other,
}

/// An IP packet inside a frame. All offsets lie inside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of what follows the IP header and its extension headers.
    pub l4: usize,
    /// End of the IP packet; Ethernet padding follows.
    pub end: usize,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
    /// The protocol at `l4`.
    pub protocol: u8,
}

/// IP protocol number of ICMP.
pub(crate) const ICMP: u8 = 1;
/// IP protocol number of TCP.
pub(crate) const TCP: u8 = 6;
/// IP protocol number of ICMPv6.
pub(crate) const ICMPV6: u8 = 58;

impl Ip {
    /// Source and destination address, one after the other as in both headers.
    pub fn addresses<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        if self.ipv6 { &frame[self.l3 + 8..self.l3 + 40] } else { &frame[self.l3 + 12..self.l3 + 20] }
    }

    /// Bytes of the TCP header, if the packet carries a whole one.
    pub fn tcp_header_bytes(&self, frame: &[u8]) -> Option<usize> {
        if self.protocol != TCP || self.end < self.l4 + TCP_BYTES {
            return None;
        }
        let bytes = usize::from(frame[self.l4 + 12] >> 4) * 4;
        (bytes >= TCP_BYTES && self.l4 + bytes <= self.end).then_some(bytes)
    }
}

/// Reads a big-endian `u16`, if there.
fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Finds the headers of `frame`.
pub(crate) fn parse(frame: &[u8]) -> Content {
    headers(frame).unwrap_or(Content::Other)
}

fn headers(frame: &[u8]) -> Option<Content> {
    let mut l3 = ETHERNET_BYTES;
    let mut ethertype = u16_at(frame, l3 - 2)?;
    for _ in 0..VLAN_TAGS_MAX {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        l3 += 4;
        ethertype = u16_at(frame, l3 - 2)?;
    }
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, l3),
        ETHERTYPE_IPV6 => ipv6(frame, l3),
        ETHERTYPE_ARP => Some(Content::Arp),
        _ => None,
    }
}

fn ipv4(frame: &[u8], l3: usize) -> Option<Content> {
    let header = frame.get(l3..l3 + 20)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    // More fragments, or an offset (RFC 791 section 3.1).
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    if header[0] >> 4 != 4 || header_bytes < 20 || total < header_bytes || fragment {
        return None;
    }
    let end = l3 + total;
    (end <= frame.len()).then_some(Content::Ip(Ip {
        l3,
        l4: l3 + header_bytes,
        end,
        ipv6: false,
        protocol: header[9],
    }))
}

fn ipv6(frame: &[u8], l3: usize) -> Option<Content> {
    let header = frame.get(l3..l3 + IPV6_BYTES)?;
    let end = l3 + IPV6_BYTES + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || end > frame.len() {
        return None;
    }
    let mut protocol = header[6];
    let mut l4 = l3 + IPV6_BYTES;
    // Hop-by-hop options, routing and destination options (RFC 8200 section 4); a fragment header ends the walk
    // as a protocol that is neither TCP nor ICMPv6.
    for _ in 0..EXTENSIONS_MAX {
        if !matches!(protocol, 0 | 43 | 60) {
            break;
        }
        let extension = frame[..end].get(l4..l4 + 8)?;
        protocol = extension[0];
        l4 += (usize::from(extension[1]) + 1) * 8;
    }
    (l4 <= end).then_some(Content::Ip(Ip { l3, l4, end, ipv6: true, protocol }))
}

/// Source and destination address, and ports, of a packet of TCP that an ICMP error returns, of which there may be no more
/// than eight bytes behind its IP header (RFC 792). It is one of ours, and ours have no extension headers.
pub(crate) fn returned(packet: &[u8], ipv6: bool) -> Option<(&[u8], &[u8])> {
    let (protocol, addresses, l4) = match ipv6 {
        false => (*packet.get(9)?, packet.get(12..20)?, usize::from(packet[0] & 0x0f) * 4),
        true => (*packet.get(6)?, packet.get(8..40)?, IPV6_BYTES),
    };
    let version = if ipv6 { 6 } else { 4 };
    let ports = packet.get(l4..l4 + 4)?;
    (packet[0] >> 4 == version && l4 >= 20 && protocol == TCP).then_some((addresses, ports))
}
