//! Resets in a node's place: what clients of a node that is gone are told (RFC 9293 3.5.2).
//!
//! In: a segment that has no receiver any more, or how far a client had come. Out: an IP packet. Pure.

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
};

use crate::packet::{Flow, Segment};

/// Bytes of the longest.
pub const RESET_BYTES_MAX: usize = 40 + 20;
const HOP_LIMIT: u8 = 64;

/// A reset for a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reset {
    flow: Flow,
    sequence: u32,
    acknowledges: Option<u32>,
}

impl Reset {
    /// The answer to a segment; `None` to a reset, which has none.
    pub fn answer(segment: &Segment) -> Option<Reset> {
        let flow = segment.flow;
        match (segment.rst, segment.ack) {
            (true, _) => None,
            (false, true) => Some(Reset { flow, sequence: segment.acknowledges, acknowledges: None }),
            (false, false) => {
                let end = segment.sequence.wrapping_add(segment.length);
                Some(Reset { flow, sequence: 0, acknowledges: Some(end) })
            }
        }
    }

    /// One that is not asked for: to a client which has acknowledged all before `acknowledged`. If it has got more
    /// meanwhile it asks back (RFC 5961 3.2), and the answer to that fits.
    pub(crate) fn unasked(flow: Flow, acknowledged: u32) -> Reset {
        Reset { flow, sequence: acknowledged, acknowledges: None }
    }

    /// Writes it as an IP packet; answers its bytes.
    pub fn write(&self, out: &mut [u8; RESET_BYTES_MAX]) -> usize {
        let tcp = TcpRepr {
            src_port: self.flow.service.port(),
            dst_port: self.flow.client.port(),
            control: TcpControl::Rst,
            seq_number: TcpSeqNumber(self.sequence as i32),
            ack_number: self.acknowledges.map(|number| TcpSeqNumber(number as i32)),
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let (from, to) = (IpAddress::from(self.flow.service.ip()), IpAddress::from(self.flow.client.ip()));
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, tcp.buffer_len(), HOP_LIMIT);
        let at = ip.header_len();
        let bytes = at + tcp.buffer_len();
        let sums = ChecksumCapabilities::default();
        match ip {
            IpRepr::Ipv4(ip) => ip.emit(&mut Ipv4Packet::new_unchecked(&mut out[..bytes]), &sums),
            IpRepr::Ipv6(ip) => ip.emit(&mut Ipv6Packet::new_unchecked(&mut out[..bytes])),
        }
        tcp.emit(&mut TcpPacket::new_unchecked(&mut out[at..bytes]), &from, &to, &sums);
        bytes
    }
}
