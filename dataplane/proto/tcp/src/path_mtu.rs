//! The largest packet a path takes: from what the port takes downwards, where larger ones vanish (RFC 8899 section 4.2,
//! RFC 4821 section 7.7) or a router says so (RFC 1191, RFC 8201).
//!
//! In: time-outs, packets too big. Out: segment sizes. Part of a connection.

use crate::connection::Connection;
use crate::draft::{TCP_HEADER_BYTES, ip_header_bytes};
use crate::seam::Segment;
use crate::sending::Sending;

/// Time-outs in a row after which a path that takes only small packets is suspected.
const TIMEOUTS_MIN: u8 = 2;

/// Packets nearly every path takes (RFC 8899 section 5.1.2, BASE_PLPMTU).
const BASE_MTU: u16 = 1_200;

/// Least packet a path is believed to need (RFC 8200 section 5; for IPv4 RFC 1191 section 3 allows 68, but what asks for so
/// little asks for a packet for each few bytes).
const IPV6_MTU_MIN: u16 = 1_280;
const IPV4_MTU_MIN: u16 = 552;

impl<S: Segment> Connection<S> {
    /// A time-out: where several follow each other, large packets may vanish on the way.
    pub(crate) fn black_hole(&mut self, sending: &Sending<S>) {
        let large = sending.flight.first().is_some_and(|first| first.len >= u32::from(self.mss));
        if sending.doublings > TIMEOUTS_MIN && large && self.path_mtu > BASE_MTU {
            self.path_mtu = BASE_MTU;
            self.size_segments();
        }
    }

    /// A router says that it cannot pass packets of more than `mtu` bytes on.
    pub(crate) fn too_big(&mut self, mtu: u16) {
        let least = if self.flow.peer.is_ipv4() { IPV4_MTU_MIN } else { IPV6_MTU_MIN };
        let mtu = mtu.max(least);
        if mtu < self.path_mtu {
            self.path_mtu = mtu;
            self.size_segments();
            if let Some(sending) = &mut self.sending {
                // What was larger is lost, and not for want of capacity.
                let most = u32::from(mtu) - (ip_header_bytes(self.flow.peer.ip()) + TCP_HEADER_BYTES) as u32;
                sending.flight.judge(|piece| Some(piece.len > most));
            }
        }
    }
}
