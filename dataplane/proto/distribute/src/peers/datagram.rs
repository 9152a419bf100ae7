//! UDP between distributors. In: two ends and a payload. Out: an IP packet. Pure.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, UdpPacket, UdpRepr};

use super::Ends;
use super::channel::DATAGRAM_BYTES_MAX;

/// The port distributors hear each other on.
pub const FLOWS_PORT: u16 = 7412;
/// Bytes of the longest packet.
pub const PACKET_BYTES_MAX: usize = 40 + 8 + DATAGRAM_BYTES_MAX;
/// They share a network, so nothing that came through a router is theirs; it is no check, the seal is.
const HOP_LIMIT: u8 = 1;

/// Writes a packet; answers its bytes.
pub(crate) fn write(ends: Ends, payload: &[u8], out: &mut [u8; PACKET_BYTES_MAX]) -> usize {
    let (from, to) = (IpAddress::from(ends.own), IpAddress::from(ends.peer));
    let udp = UdpRepr { src_port: FLOWS_PORT, dst_port: FLOWS_PORT };
    let ip = IpRepr::new(from, to, IpProtocol::Udp, udp.header_len() + payload.len(), HOP_LIMIT);
    let (at, bytes) = (ip.header_len(), ip.buffer_len());
    let sums = ChecksumCapabilities::default();
    ip.emit(&mut out[..at], &sums);
    let mut packet = UdpPacket::new_unchecked(&mut out[at..bytes]);
    udp.emit(&mut packet, &from, &to, payload.len(), |room| room.copy_from_slice(payload), &sums);
    bytes
}

/// Where the payload of a packet for [`FLOWS_PORT`] begins behind its UDP header at `at`, and its bytes; `None`: it is for
/// another port, or no whole datagram. The UDP checksum says less than the seal.
pub(crate) fn payload(packet: &[u8], at: usize) -> Option<(usize, usize)> {
    let udp = UdpPacket::new_checked(packet.get(at..)?).ok()?;
    (udp.dst_port() == FLOWS_PORT).then(|| (at + 8, udp.payload().len()))
}

/// Both ends are of one family.
pub(crate) fn is_one_family(ends: Ends) -> bool {
    matches!((ends.own, ends.peer), (IpAddr::V4(_), IpAddr::V4(_)) | (IpAddr::V6(_), IpAddr::V6(_)))
}

#[cfg(test)]
mod tests {
    use super::super::super::packet::Packet;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (own, peer) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            let ends = Ends { own: own.parse().unwrap(), peer: peer.parse().unwrap() };
            assert!(is_one_family(ends));
            for len in [0, 1, DATAGRAM_BYTES_MAX] {
                let mut out = [0; PACKET_BYTES_MAX];
                let bytes = write(ends, &vec![7; len], &mut out);
                let Ok(Packet::Datagram { at, len: read }) = Packet::parse(&out[..bytes]) else {
                    panic!("{:?}", Packet::parse(&out[..bytes]))
                };
                assert_eq!((read, at + read), (len, bytes));
                assert!(out[at..bytes].iter().all(|byte| *byte == 7));
            }
        }
    }
}
