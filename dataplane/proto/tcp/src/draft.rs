//! A segment about to be sent, and how it is written.
//!
//! In: the fields of a segment, its payload as a function. Out: an IP packet with checksums as the port wants them.
//! Pure.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, checksum};

use crate::flow::Flow;
use crate::packet::{Timestamps, kind};
use crate::sequence::Seq;

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

/// A segment without its payload.
pub(crate) struct Draft {
    from: SocketAddr,
    to: SocketAddr,
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

    /// Bytes of the IP packet.
    pub(crate) fn len(&self) -> usize {
        ip_header_bytes(self.to.ip()) + TCP_HEADER_BYTES + self.options.len() + self.payload
    }

    /// Writes the packet into exactly [`len`](Draft::len) bytes. `offload`: the port fills in checksums; `segmented`:
    /// and cuts it into segments. `payload` writes its bytes.
    pub(crate) fn write<R>(
        &self,
        packet: &mut [u8],
        offload: bool,
        segmented: bool,
        payload: impl FnOnce(&mut [u8]) -> R,
    ) -> R {
        let at = ip_header_bytes(self.to.ip());
        let header = TCP_HEADER_BYTES + self.options.len();
        let tcp = &mut packet[at..];
        tcp[0..2].copy_from_slice(&self.from.port().to_be_bytes());
        tcp[2..4].copy_from_slice(&self.to.port().to_be_bytes());
        tcp[4..8].copy_from_slice(&self.seq.0.to_be_bytes());
        tcp[8..12].copy_from_slice(&self.ack.0.to_be_bytes());
        tcp[12] = ((header / 4) as u8) << 4;
        tcp[13] = self.flags;
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        // Checksum and urgent pointer.
        tcp[16..20].fill(0);
        tcp[TCP_HEADER_BYTES..header].copy_from_slice(&self.options);
        let result = payload(&mut tcp[header..]);
        self.write_ip(packet, offload);
        self.write_checksum(&mut packet[at..], offload, segmented);
        result
    }

    fn write_ip(&self, packet: &mut [u8], offload: bool) {
        let ecn = if self.ect { 2 } else { 0 };
        let len = packet.len();
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                // Version, header length; do not fragment (RFC 1191 section 3), so there is nothing to identify.
                packet[..12].copy_from_slice(&[0x45, ecn, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, 6, 0, 0]);
                packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                packet[12..16].copy_from_slice(&from.octets());
                packet[16..20].copy_from_slice(&to.octets());
                if !offload {
                    Ipv4Packet::new_unchecked(packet).fill_checksum();
                }
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut ip = Ipv6Packet::new_unchecked(packet);
                ip.set_version(6);
                ip.set_traffic_class(ecn);
                ip.set_flow_label(0);
                ip.set_payload_len((len - 40) as u16);
                ip.set_next_header(IpProtocol::Tcp);
                ip.set_hop_limit(HOP_LIMIT);
                ip.set_src_addr(from);
                ip.set_dst_addr(to);
            }
            _ => unreachable!("both ends of a flow are of one family"),
        }
    }

    /// DPDK's convention for a port that fills checksums in: the field has the pseudo-header's sum, and with
    /// segmentation that leaves the length out, because each segment has its own (`rte_ipv4_phdr_cksum`).
    fn write_checksum(&self, segment: &mut [u8], offload: bool, segmented: bool) {
        let (from, to) = (IpAddress::from(self.from.ip()), IpAddress::from(self.to.ip()));
        let len = if segmented { 0 } else { segment.len() as u32 };
        let mut tcp = TcpPacket::new_unchecked(segment);
        if offload {
            tcp.set_checksum(checksum::pseudo_header(&from, &to, IpProtocol::Tcp, len));
        } else {
            tcp.fill_checksum(&from, &to);
        }
    }
}
