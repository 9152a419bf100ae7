//! A segment about to be sent, and how its headers are written.
//!
//! In: the fields of a segment, the sum of its payload. Out: the headers of an IP packet, with checksums as the port wants
//! them. Pure.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use smoltcp::wire::{IpProtocol, Ipv6Packet};

use crate::flow::{End, Flow};
use crate::packet::{Timestamps, kind};
use crate::sequence::Seq;
use crate::sum::Sum;

/// Flags of a segment (RFC 9293 section 3.1, RFC 3168 section 6.1).
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
    pub(crate) const ECE: u8 = 64;
    pub(crate) const CWR: u8 = 128;
}

/// Bytes of a TCP header without options.
pub(crate) const TCP_HEADER_BYTES: usize = 20;

/// Bytes of the timestamps option as it is written, with the two that align it (RFC 7323 appendix A).
pub(crate) const TIMESTAMPS_BYTES: usize = 12;

/// Bytes of options at most (RFC 9293 section 3.1).
const OPTIONS_BYTES_MAX: usize = 40;

const HOP_LIMIT: u8 = 64;

/// Bytes of the IP header of packets to `peer`.
pub(crate) fn ip_header_bytes(peer: IpAddr) -> usize {
    if peer.is_ipv4() { 20 } else { 40 }
}

/// Who makes the checksums of a packet.
#[derive(Clone, Copy)]
pub(crate) enum Checksums {
    /// The writer; this is the sum of the payload.
    Here(Sum),
    /// The port, which may also cut the packet into segments.
    Port {
        /// It is to.
        segmented: bool,
    },
}

/// A segment without its payload.
#[derive(Clone)]
pub(crate) struct Draft {
    from: End,
    to: End,
    pub(crate) seq: Seq,
    pub(crate) ack: Seq,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// The network may mark it instead of dropping it: ECT(0) of RFC 3168 section 5.
    pub(crate) ect: bool,
    pub(crate) payload: usize,
    options: ArrayVec<u8, OPTIONS_BYTES_MAX>,
}

impl Draft {
    /// A segment of a flow without options and payload. Acknowledges if there is something to.
    pub(crate) fn new(flow: &Flow, flags: u8, seq: Seq, acknowledges: Option<Seq>) -> Draft {
        Draft {
            from: flow.local,
            to: flow.peer,
            seq,
            ack: acknowledges.unwrap_or_default(),
            flags: flags | if acknowledges.is_some() { flag::ACK } else { 0 },
            window: 0,
            ect: false,
            payload: 0,
            options: ArrayVec::new(),
        }
    }

    /// Adds one option; options are aligned by the caller's padding.
    fn option(&mut self, bytes: &[u8]) {
        let fits = self.options.try_extend_from_slice(bytes);
        assert!(fits.is_ok(), "options we write fit a header");
    }

    /// The same with the largest segment we take (RFC 9293 section 3.7.1).
    pub(crate) fn with_mss(mut self, mss: u16) -> Draft {
        let [high, low] = mss.to_be_bytes();
        self.option(&[kind::MSS, 4, high, low]);
        self
    }

    /// The same with our window scale (RFC 7323 section 2.2).
    pub(crate) fn with_window_scale(mut self, shift: Option<u8>) -> Draft {
        if let Some(shift) = shift {
            self.option(&[kind::NOP, kind::WINDOW_SCALE, 3, shift]);
        }
        self
    }

    /// The same with selective acknowledgements permitted (RFC 2018 section 2).
    pub(crate) fn with_sack_permitted(mut self, permitted: bool) -> Draft {
        if permitted {
            self.option(&[kind::NOP, kind::NOP, kind::SACK_PERMITTED, 2]);
        }
        self
    }

    /// The same with timestamps (RFC 7323 section 3.2).
    pub(crate) fn with_timestamps(mut self, timestamps: Option<Timestamps>) -> Draft {
        if let Some(Timestamps { value, echo }) = timestamps {
            self.option(&[kind::NOP, kind::NOP, kind::TIMESTAMPS, 10]);
            self.option(&value.to_be_bytes());
            self.option(&echo.to_be_bytes());
        }
        self
    }

    /// The same with as many of these SACK blocks as fit (RFC 2018 section 3).
    pub(crate) fn with_sack(mut self, blocks: &[(Seq, Seq)]) -> Draft {
        let room = (OPTIONS_BYTES_MAX - self.options.len()).saturating_sub(4) / 8;
        let blocks = &blocks[..blocks.len().min(room)];
        if !blocks.is_empty() {
            self.option(&[kind::NOP, kind::NOP, kind::SACK, 2 + 8 * blocks.len() as u8]);
            for (start, end) in blocks {
                self.option(&start.0.to_be_bytes());
                self.option(&end.0.to_be_bytes());
            }
        }
        self
    }

    /// Where it goes.
    pub(crate) fn to(&self) -> IpAddr {
        self.to.ip()
    }

    /// Bytes of the headers.
    pub(crate) fn header_bytes(&self) -> usize {
        ip_header_bytes(self.to.ip()) + TCP_HEADER_BYTES + self.options.len()
    }

    /// Writes the headers into exactly [`header_bytes`](Draft::header_bytes) bytes.
    pub(crate) fn write_headers(&self, headers: &mut [u8], checksums: Checksums) {
        let at = ip_header_bytes(self.to.ip());
        let (ip, tcp) = headers.split_at_mut(at);
        let header = tcp.len();
        tcp[0..2].copy_from_slice(&self.from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        tcp[12] = ((header / 4) as u8) << 4;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[16..18].copy_from_slice(&self.checksum(checksums).to_be_bytes());
        // Urgent pointer.
        tcp[18..20].fill(0);
        tcp[TCP_HEADER_BYTES..].copy_from_slice(&self.options);
        self.write_ip(ip, header + self.payload, matches!(checksums, Checksums::Port { .. }));
    }

    /// Writes the IP header of a segment of `len` bytes.
    fn write_ip(&self, packet: &mut [u8], len: usize, offload: bool) {
        let ecn = if self.ect { 2 } else { 0 };
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                // Version, header length; do not fragment (RFC 1191 section 3), so there is nothing to identify.
                packet[..12].copy_from_slice(&[0x45, ecn, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, 6, 0, 0]);
                packet[2..4].copy_from_slice(&((20 + len) as u16).to_be_bytes());
                packet[12..16].copy_from_slice(&from.octets());
                packet[16..20].copy_from_slice(&to.octets());
                if !offload {
                    // What is in it that is not 0 (RFC 791 section 3.1).
                    let mut sum = Sum::default();
                    sum.add_words(0x4500_0000 | u32::from(ecn) << 16 | (20 + len) as u32);
                    sum.add_words(0x4000);
                    sum.add_words(u32::from(HOP_LIMIT) << 24 | 6 << 16);
                    sum.add_words(from.to_bits());
                    sum.add_words(to.to_bits());
                    packet[10..12].copy_from_slice(&(!sum.folded()).to_be_bytes());
                }
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = Ipv6Packet::new_unchecked(packet);
                ip.set_version(6);
                ip.set_traffic_class(ecn);
                ip.set_flow_label(0);
                ip.set_payload_len(len as u16);
                ip.set_next_header(IpProtocol::Tcp);
                ip.set_hop_limit(HOP_LIMIT);
                ip.set_src_addr(from);
                ip.set_dst_addr(to);
            }
            _ => unreachable!("both ends of a flow are of one family"),
        }
    }

    /// What the checksum field of the TCP header holds. DPDK's convention for a port that fills it in: the
    /// field has the pseudo-header's sum, and with segmentation that leaves the length out, because each segment has its
    /// own (`rte_ipv4_phdr_cksum`).
    fn checksum(&self, checksums: Checksums) -> u16 {
        let (from, to) = (self.from.ip(), self.to.ip());
        match checksums {
            Checksums::Here(mut sum) => {
                let header = TCP_HEADER_BYTES + self.options.len();
                sum.add_pseudo_header(from, to, header + self.payload);
                let ports = u32::from(self.from.port()) << 16 | u32::from(self.to.port());
                let rest = ((header / 4) as u32) << 28 | u32::from(self.flags) << 16 | u32::from(self.window);
                for words in [ports, self.seq.0, self.ack.0, rest] {
                    sum.add_words(words);
                }
                // Options are aligned.
                let (options, _) = self.options.as_chunks::<4>();
                options.iter().for_each(|words| sum.add_words(u32::from_be_bytes(*words)));
                !sum.folded()
            }
            Checksums::Port { segmented } => {
                let mut sum = Sum::default();
                let header = TCP_HEADER_BYTES + self.options.len();
                sum.add_pseudo_header(from, to, if segmented { 0 } else { header + self.payload });
                sum.folded()
            }
        }
    }
}
