//! An IP packet on its way out: headers that are still to be written, and a payload that lies where its segments are.
//!
//! In: a draft, a range of the stream. Out: the packet in one piece of memory, copied and summed in one pass, or its
//! headers alone beside the pieces of segments that follow them. Lives as long as one call of the [`Egress`].
//!
//! [`Egress`]: crate::Egress

use std::net::IpAddr;
use std::ops::Range;

use crate::draft::{Checksums, Draft, flag};
use crate::seam::Segment;
use crate::sending::Pieces;
use crate::sum::Sum;

/// What the last of several segments says.
const AT_THE_END: u8 = flag::FIN | flag::PSH;

/// One IP packet to be sent.
pub struct Outbound<'a, S> {
    draft: &'a Draft,
    pieces: Pieces<'a, S>,
    /// The port fills checksums in.
    offload: bool,
    /// As [`tso_segment_bytes`](Outbound::tso_segment_bytes).
    tso_segment_bytes: u16,
}

impl<'a, S: Segment> Outbound<'a, S> {
    pub(crate) fn new(
        draft: &'a Draft,
        pieces: Pieces<'a, S>,
        offload: bool,
        tso_segment_bytes: u16,
    ) -> Outbound<'a, S> {
        Outbound { draft, pieces, offload, tso_segment_bytes }
    }

    /// Bytes of the packet.
    pub fn len(&self) -> usize {
        self.header_bytes() + self.payload_bytes()
    }

    /// It never is: it has headers.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Bytes of its headers.
    pub fn header_bytes(&self) -> usize {
        self.draft.header_bytes()
    }

    /// Bytes of its payload.
    pub fn payload_bytes(&self) -> usize {
        self.draft.payload
    }

    /// Where it goes.
    pub fn to(&self) -> IpAddr {
        self.draft.to()
    }

    /// The payload of each segment it is to be cut into, by the port or by [`each_segment`](Outbound::each_segment); 0: it is
    /// one.
    pub fn tso_segment_bytes(&self) -> u16 {
        self.tso_segment_bytes
    }

    /// Cuts it as a port would: `each` gets every segment, first to last, as a packet of its own.
    pub fn each_segment(&self, mut each: impl FnMut(&Outbound<'_, S>)) {
        if self.tso_segment_bytes == 0 {
            return each(self);
        }
        let (mut draft, mut pieces) = (self.draft.clone(), self.pieces.clone());
        let (mut flags, mut left) = (self.draft.flags, self.draft.payload);
        while left > 0 {
            draft.payload = left.min(self.tso_segment_bytes.into());
            left -= draft.payload;
            draft.flags = if left > 0 { flags & !AT_THE_END } else { flags };
            each(&Outbound::new(&draft, pieces.split_off(draft.payload), self.offload, 0));
            draft.seq += draft.payload as u32;
            // A reduced window is told of once (RFC 3168 section 6.1.2).
            flags &= !flag::CWR;
        }
    }

    /// Where its payload lies: segments, and which bytes of each, none of them empty.
    pub fn pieces(&self) -> impl Iterator<Item = (&'a S, Range<usize>)> + use<'a, S> {
        self.pieces.clone()
    }

    /// Writes it whole into exactly [`len`](Outbound::len) bytes: the one copy of its payload there is.
    pub fn write(&self, packet: &mut [u8]) {
        let (headers, mut to) = packet.split_at_mut(self.header_bytes());
        let mut sum = Sum::default();
        for (segment, range) in self.pieces() {
            let (place, behind) = to.split_at_mut(range.len());
            match segment.bytes() {
                Some(bytes) if !self.offload => sum.add_copied(&bytes[range], place),
                _ => {
                    segment.copy_to(range.start, place);
                    if !self.offload {
                        sum.add(place);
                    }
                }
            }
            to = behind;
        }
        self.draft.write_headers(headers, self.checksums(sum));
    }

    /// Writes its headers into exactly [`header_bytes`](Outbound::header_bytes) bytes, for a port that is given the payload
    /// where it lies; where the port does not fill checksums in the payload is read for its sum.
    ///
    /// # Panics
    /// If that has to be and the bytes of a segment cannot be read in one piece: a mistake of the caller.
    pub fn write_headers(&self, headers: &mut [u8]) {
        let mut sum = Sum::default();
        if !self.offload {
            for (segment, range) in self.pieces() {
                sum.add(&segment.bytes().expect("a payload that a port reads is in memory")[range]);
            }
        }
        self.draft.write_headers(headers, self.checksums(sum));
    }

    fn checksums(&self, sum: Sum) -> Checksums {
        if self.offload {
            Checksums::Port { segmented: self.tso_segment_bytes > 0 }
        } else {
            Checksums::Here(sum)
        }
    }
}

#[cfg(test)]
mod tests {
    use smoltcp::wire::{Ipv4Packet, TcpPacket};

    use super::*;
    use crate::flow::Flow;
    use crate::sending::Sending;
    use crate::sequence::Seq;

    /// Across the ends of segments of the queue, one of them empty, and the ends of numbers.
    #[test]
    fn only_the_last_ends_the_stream_and_only_the_first_tells_of_a_window() {
        let first = Seq(u32::MAX - 700);
        let mut sending = Sending::default();
        let (mut at, mut stream) = (first, Vec::new());
        for (number, len) in [300, 0, 900, 1_300].into_iter().enumerate() {
            sending.push(vec![number as u8; len], at);
            stream.extend(vec![number as u8; len]);
            at += len as u32;
        }
        let end = |text: &str| text.parse().expect("an address");
        let flow = Flow { local: end("192.0.2.1:443"), peer: end("192.0.2.2:5000") };
        let mut draft = Draft::new(&flow, AT_THE_END | flag::CWR, first + 100, Some(Seq(7)));
        draft.payload = 2_250;
        let whole = Outbound::new(&draft, sending.pieces(draft.seq, draft.payload), false, 1_000);
        let mut got = Vec::new();
        whole.each_segment(|one| {
            let mut packet = vec![0; one.len()];
            one.write(&mut packet);
            let mut headers = vec![0; one.header_bytes()];
            one.write_headers(&mut headers);
            assert_eq!(headers, packet[..headers.len()], "alone they have the same sum of the payload");
            let ip = Ipv4Packet::new_checked(&packet).expect("a packet");
            let tcp = TcpPacket::new_checked(ip.payload()).expect("a segment");
            assert!(ip.verify_checksum());
            assert!(tcp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
            assert_eq!(tcp.seq_number().0 as u32, (first + 100 + got.len() as u32).0);
            let (from, left) = (got.is_empty(), got.len() + tcp.payload().len() < 2_250);
            assert_eq!((tcp.cwr(), tcp.psh(), tcp.fin(), tcp.ack()), (from, !left, !left, true));
            got.extend_from_slice(tcp.payload());
        });
        assert_eq!(got, stream[100..2_350]);
    }
}
