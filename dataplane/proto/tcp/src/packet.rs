//! Headers of IP packets with TCP, read: what decides where a packet goes, and what its options say.
//!
//! In: an IP packet. Out: its flow, its fields, its options. Pure. `draft` writes.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket};

use crate::DropReason;
use crate::draft::flag;
use crate::flow::{End, Flow};
use crate::sequence::Seq;

/// Blocks one SACK option has room for (RFC 2018 section 3).
pub(crate) const SACK_BLOCKS_MAX: usize = 4;

/// Congestion experienced (RFC 3168 section 5).
const ECN_CE: u8 = 3;

/// Kinds of options (RFC 9293 section 3.2, RFC 7323, RFC 2018).
pub(crate) mod kind {
    pub(crate) const END: u8 = 0;
    pub(crate) const NOP: u8 = 1;
    pub(crate) const MSS: u8 = 2;
    pub(crate) const WINDOW_SCALE: u8 = 3;
    pub(crate) const SACK_PERMITTED: u8 = 4;
    pub(crate) const SACK: u8 = 5;
    pub(crate) const TIMESTAMPS: u8 = 8;
}

/// What decides where a received packet goes.
pub(crate) struct Header {
    pub(crate) flow: Flow,
    pub(crate) syn: bool,
    pub(crate) ack: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    /// ECN-Echo (RFC 3168 section 6.1).
    pub(crate) ece: bool,
    /// Congestion window reduced.
    pub(crate) cwr: bool,
    /// A router marked the packet: congestion experienced.
    pub(crate) ce: bool,
    pub(crate) seq: Seq,
    /// Means something if `ack` is set.
    pub(crate) acknowledges: Seq,
    /// As it stands in the header, not scaled.
    pub(crate) window: u16,
    /// Where the TCP header begins in the packet.
    pub(crate) tcp_at: usize,
    /// Where the payload begins.
    pub(crate) payload_at: usize,
    /// Bytes of payload.
    pub(crate) payload: usize,
}

impl Header {
    /// Reads a packet's headers, checking lengths and, if asked, checksums.
    pub(crate) fn parse(packet: &[u8], verify: bool) -> Result<Header, DropReason> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => {
                let ip = Ipv4Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
                if ip.header_len() < 20
                    || ip.next_header() != IpProtocol::Tcp
                    || ip.more_frags()
                    || ip.frag_offset() != 0
                {
                    return Err(DropReason::Malformed);
                }
                if verify && !ip.verify_checksum() {
                    return Err(DropReason::Checksum);
                }
                let ends = (IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()));
                let at = usize::from(ip.header_len());
                Header::parse_tcp(ip.payload(), at, ends, ip.ecn() == ECN_CE, verify)
            }
            Some(6) => {
                let ip = Ipv6Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
                if ip.next_header() != IpProtocol::Tcp {
                    return Err(DropReason::Malformed);
                }
                let ends = (IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr()));
                let ce = ip.traffic_class() & 3 == ECN_CE;
                Header::parse_tcp(ip.payload(), ip.header_len(), ends, ce, verify)
            }
            _ => Err(DropReason::Malformed),
        }
    }

    fn parse_tcp(
        segment: &[u8],
        tcp_at: usize,
        (source, local): (IpAddr, IpAddr),
        ce: bool,
        verify: bool,
    ) -> Result<Header, DropReason> {
        let tcp = TcpPacket::new_checked(segment).map_err(|_| DropReason::Malformed)?;
        let (from, to) = (tcp.src_port(), tcp.dst_port());
        if from == 0 || to == 0 || source.is_unspecified() || source.is_multicast() {
            return Err(DropReason::Malformed);
        }
        if verify && !tcp.verify_checksum(&IpAddress::from(source), &IpAddress::from(local)) {
            return Err(DropReason::Checksum);
        }
        let header_len = usize::from(tcp.header_len());
        Ok(Header {
            flow: Flow { peer: End::new(source, from), local: End::new(local, to) },
            syn: tcp.syn(),
            ack: tcp.ack(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            ece: tcp.ece(),
            cwr: tcp.cwr(),
            ce,
            seq: Seq(tcp.seq_number().0 as u32),
            acknowledges: Seq(tcp.ack_number().0 as u32),
            window: tcp.window_len(),
            tcp_at,
            payload_at: tcp_at + header_len,
            payload: segment.len() - header_len,
        })
    }

    /// Whether this opens a connection.
    pub(crate) fn is_open_request(&self) -> bool {
        self.syn && !self.ack && !self.rst && !self.fin
    }

    /// Sequence numbers the segment takes.
    pub(crate) fn len(&self) -> u32 {
        self.payload as u32 + u32::from(self.syn) + u32::from(self.fin)
    }

    /// Whether any of the segment lies in a window of `window` bytes from `next` on (RFC 9293 section 3.10.7.4).
    pub(crate) fn is_acceptable(&self, next: Seq, window: u32) -> bool {
        let starts_inside = self.seq.since(next) < window;
        match (self.len(), window) {
            (0, 0) => self.seq == next,
            (0, _) => starts_inside,
            (_, 0) => false,
            (len, _) => starts_inside || (self.seq <= next && self.seq + len > next),
        }
    }

    /// The header's options, of the packet it was read from.
    fn options<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        &packet[self.tcp_at + 20..self.payload_at]
    }
}

/// Whether an IP packet asks for a connection, by its protocol and flags alone: for whoever lets such ones wait, or drops
/// them, before anything is looked for. What is malformed does not.
#[inline]
pub fn is_open_request(packet: &[u8]) -> bool {
    let Some(fixed) = packet.first_chunk::<20>() else { return false };
    let (at, protocol) = match fixed[0] >> 4 {
        4 => (usize::from(fixed[0] & 0x0f) * 4, fixed[9]),
        6 => (40, fixed[6]),
        _ => return false,
    };
    IpProtocol::from(protocol) == IpProtocol::Tcp
        && packet
            .get(at + 13)
            .is_some_and(|flags| flags & (flag::FIN | flag::SYN | flag::RST | flag::ACK) == flag::SYN)
}

/// Calls `each` with the kind and the content of each option. One that contradicts itself ends the list
/// (RFC 9293 section 3.1, MUST-7); what stands before it counts.
fn each_option(mut options: &[u8], mut each: impl FnMut(u8, &[u8])) {
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (kind::END, _) => return,
            (kind::NOP, _) => rest,
            (kind, [len, ..]) if usize::from(*len) >= 2 && usize::from(*len) <= options.len() => {
                let (option, behind) = options.split_at(usize::from(*len));
                each(kind, &option[2..]);
                behind
            }
            _ => return,
        };
    }
}

fn word(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |word| u32::from_be_bytes(*word))
}

/// Timestamps option (RFC 7323 section 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Timestamps {
    /// The sender's clock.
    pub(crate) value: u32,
    /// What it heard last of ours.
    pub(crate) echo: u32,
}

/// What a SYN says besides its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SynOptions {
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack: bool,
    pub(crate) timestamps: Option<Timestamps>,
}

impl SynOptions {
    /// Reads them from the packet `header` was read from.
    pub(crate) fn parse(header: &Header, packet: &[u8]) -> SynOptions {
        let mut said = SynOptions {
            window: header.window,
            mss: None,
            window_scale: None,
            sack: false,
            timestamps: None,
        };
        each_option(header.options(packet), |kind, content| match (kind, content) {
            (kind::MSS, [high, low]) => said.mss = Some(u16::from_be_bytes([*high, *low])),
            // RFC 7323 section 2.3: a larger shift counts as 14.
            (kind::WINDOW_SCALE, [shift]) => said.window_scale = Some((*shift).min(WINDOW_SCALE_MAX)),
            (kind::SACK_PERMITTED, []) => said.sack = true,
            (kind::TIMESTAMPS, [_, _, _, _, _, _, _, _]) => {
                said.timestamps = Some(Timestamps { value: word(content), echo: word(&content[4..]) });
            }
            _ => {}
        });
        said
    }
}

/// Largest shift of a window (RFC 7323 section 2.3).
pub(crate) const WINDOW_SCALE_MAX: u8 = 14;

/// What a segment of a connection says besides its header.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) timestamps: Option<Timestamps>,
    /// SACK blocks in the order they stand there (RFC 2018 section 3).
    pub(crate) sack: ArrayVec<(Seq, Seq), SACK_BLOCKS_MAX>,
}

impl Options {
    /// Reads them from the packet `header` was read from.
    pub(crate) fn parse(header: &Header, packet: &[u8]) -> Options {
        let mut said = Options::default();
        let options = header.options(packet);
        if options.is_empty() {
            return said;
        }
        each_option(options, |kind, content| match kind {
            kind::TIMESTAMPS if content.len() == 8 => {
                said.timestamps = Some(Timestamps { value: word(content), echo: word(&content[4..]) });
            }
            kind::SACK => {
                for block in content.chunks_exact(8) {
                    // No option has room for more than four, and a second option adds none.
                    let _ = said.sack.try_push((Seq(word(block)), Seq(word(&block[4..]))));
                }
            }
            _ => {}
        });
        said
    }
}

/// A packet of ours that is quoted in an error message.
pub(crate) struct Quoted {
    pub(crate) flow: Flow,
    pub(crate) seq: Seq,
    /// Bytes of the whole packet.
    pub(crate) len: u16,
}

/// Reads a quoted packet: its headers, and of TCP's as little as eight bytes (RFC 792).
pub(crate) fn quoted(packet: &[u8]) -> Option<Quoted> {
    let (from, to, at, len): (IpAddr, IpAddr, usize, u16) = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let ip = Ipv4Packet::new_unchecked(packet);
            let ours = ip.next_header() == IpProtocol::Tcp && ip.header_len() >= 20 && ip.frag_offset() == 0;
            let ends = (IpAddr::from(ip.src_addr()), IpAddr::from(ip.dst_addr()));
            ours.then(|| (ends.0, ends.1, usize::from(ip.header_len()), ip.total_len()))?
        }
        6 if packet.len() >= 40 => {
            let ip = Ipv6Packet::new_unchecked(packet);
            let ends = (IpAddr::from(ip.src_addr()), IpAddr::from(ip.dst_addr()));
            let len = ip.payload_len().saturating_add(40);
            (ip.next_header() == IpProtocol::Tcp).then_some((ends.0, ends.1, 40, len))?
        }
        _ => return None,
    };
    let tcp = packet.get(at..at + 8)?;
    let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    let flow = Flow { local: End::new(from, port(0)), peer: End::new(to, port(2)) };
    Some(Quoted { flow, seq: Seq(word(&tcp[4..])), len })
}

/// How far a connection has come: all TIME-WAIT needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// The highest sequence number sent, and one more (SND.NXT).
    pub(crate) seq: Seq,
    /// What was acknowledged last (RCV.NXT).
    pub(crate) ack: Seq,
    /// The peer's last timestamp, where both use them.
    pub(crate) recent: Option<u32>,
}
