//! The Internet checksum (RFC 1071) of IPv4 headers and TCP segments, for ports that leave a part of it to software.
//!
//! In: headers and frames of any content. Out: sums filled in, or a verdict. Pure; any thread.

use crate::Checksum;
#[cfg(feature = "dpdk")]
use crate::headers::Content;
use crate::headers::{self, Ip};

/// Adds 16-bit words as they lie in memory; an odd last byte is followed by a zero. The one's complement sum does not
/// depend on the byte order, nor on the width it is taken in (RFC 1071 section 2), so the loop needs no swaps.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let wide = words.iter().fold(0, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    wide + u64::from(u32::from_ne_bytes(last))
}

/// Folds a sum to 16 bits, in the order of the wire.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::from_be(sum as u16)
}

/// Fills in the checksum of an IPv4 header.
pub(crate) fn fill_ipv4(header: &mut [u8]) {
    let Some(field) = header.get_mut(10..12) else { return };
    field.fill(0);
    let checksum = !fold(sum(header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether the IP header of `frame` is right; an IPv6 header has no checksum, and is.
#[cfg(feature = "dpdk")]
pub(crate) fn ip_header(frame: &[u8]) -> Checksum {
    match headers::parse(frame) {
        Content::Ip(ip) => header(&ip, frame),
        Content::Arp | Content::Other => Checksum::Unknown,
    }
}

fn header(ip: &Ip, frame: &[u8]) -> Checksum {
    if ip.ipv6 || fold(sum(&frame[ip.l3..ip.l4])) == 0xffff { Checksum::Good } else { Checksum::Bad }
}

/// Sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) of a TCP segment of `bytes`.
pub(crate) fn pseudo_header(ip: &Ip, frame: &[u8], bytes: usize) -> u16 {
    let [high, low] = (bytes as u16).to_be_bytes();
    fold(sum(ip.addresses(frame)) + sum(&[0, headers::TCP, high, low]))
}

/// Fills in the checksum of the TCP segment at `ip.l4..ip.end`, whatever its field holds.
pub(crate) fn fill_tcp(ip: &Ip, frame: &mut [u8]) {
    let pseudo = pseudo_header(ip, frame, ip.end - ip.l4);
    let segment = &mut frame[ip.l4..ip.end];
    segment[16..18].fill(0);
    let checksum = !fold(sum(segment) + sum(&pseudo.to_be_bytes()));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
}

/// Finishes the checksum of a TCP segment whose field holds the pseudo-header sum, as ports do.
pub(crate) fn finish(segment: &mut [u8]) {
    let checksum = !fold(sum(segment));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
}

/// Checks the IP header and, if the packet carries TCP, its checksum; anything else is not checked.
pub(crate) fn verify(ip: &Ip, frame: &[u8]) -> Checksum {
    if ip.tcp_header_bytes(frame).is_none() {
        return Checksum::Unknown;
    }
    let segment = &frame[ip.l4..ip.end];
    let pseudo = pseudo_header(ip, frame, segment.len());
    match header(ip, frame) {
        Checksum::Good if fold(sum(segment) + sum(&pseudo.to_be_bytes())) == 0xffff => Checksum::Good,
        _ => Checksum::Bad,
    }
}
