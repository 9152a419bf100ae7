//! What a port's hardware does to a packet on its way out: checksums and segmentation.
//!
//! In: a packet and what was asked for. Out: finished frames, one by one. Like hardware it believes the lengths it is
//! given and, without segmentation, the pseudo-header sum in the checksum field, so that a builder's mistakes show
//! as wrong sums at the receiver.

use crate::headers::{Ip, TCP};
use crate::{TxOffload, checksum};

const TCP_FIN_PSH: u8 = 0x01 | 0x08;
const TCP_CWR: u8 = 0x80;

/// The request does not fit the packet: it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refused;

/// Calls `out` with each finished frame of `frame`; `segment` is storage for one.
pub(super) fn apply(
    tx: TxOffload,
    frame: &mut [u8],
    segment: &mut Vec<u8>,
    mut out: impl FnMut(&mut [u8]),
) -> Result<(), Refused> {
    if !tx.checksum && tx.tso_segment_bytes == 0 {
        out(frame);
        return Ok(());
    }
    let ip = located(tx, frame)?;
    if tx.tso_segment_bytes > 0 {
        return segmented(tx, &ip, frame, segment, out);
    }
    if !ip.ipv6 {
        checksum::fill_ipv4(&mut frame[ip.l3..ip.l4]);
    }
    checksum::finish(&mut frame[ip.l4..ip.end]);
    out(frame);
    Ok(())
}

/// The headers where the request says they are.
fn located(tx: TxOffload, frame: &[u8]) -> Result<Ip, Refused> {
    let l3 = usize::from(tx.l2_len);
    let l4 = l3 + usize::from(tx.l3_len);
    let version = if tx.ipv6 { 6 } else { 4 };
    let ip_min = if tx.ipv6 { 40 } else { 20 };
    let ip = Ip { l3, l4, end: frame.len(), ipv6: tx.ipv6, protocol: TCP };
    let fits = usize::from(tx.l3_len) >= ip_min && ip.tcp_header_bytes(frame) == Some(usize::from(tx.l4_len));
    if fits && frame[l3] >> 4 == version { Ok(ip) } else { Err(Refused) }
}

fn segmented(
    tx: TxOffload,
    ip: &Ip,
    frame: &[u8],
    segment: &mut Vec<u8>,
    mut out: impl FnMut(&mut [u8]),
) -> Result<(), Refused> {
    let (headers, payload) = frame.split_at(ip.l4 + usize::from(tx.l4_len));
    let size = usize::from(tx.tso_segment_bytes);
    if payload.len() > crate::TSO_BYTES_MAX as usize {
        return Err(Refused);
    }
    let count = payload.len().div_ceil(size).max(1);
    for number in 0..count {
        let offset = number * size;
        let end = payload.len().min(offset + size);
        segment.clear();
        segment.extend_from_slice(headers);
        segment.extend_from_slice(&payload[offset..end]);
        let at = Ip { end: segment.len(), ..*ip };
        retitle(&at, segment, number as u16, offset as u32, number + 1 == count);
        out(segment);
    }
    Ok(())
}

/// Gives segment `number` headers of its own.
fn retitle(ip: &Ip, segment: &mut [u8], number: u16, offset: u32, last: bool) {
    if ip.ipv6 {
        // Extension headers count as payload (RFC 8200 section 3).
        let bytes = (ip.end - ip.l3 - 40) as u16;
        segment[ip.l3 + 4..ip.l3 + 6].copy_from_slice(&bytes.to_be_bytes());
    } else {
        let total = (ip.end - ip.l3) as u16;
        let header = &mut segment[ip.l3..ip.l4];
        header[2..4].copy_from_slice(&total.to_be_bytes());
        let id = u16::from_be_bytes([header[4], header[5]]).wrapping_add(number);
        header[4..6].copy_from_slice(&id.to_be_bytes());
        checksum::fill_ipv4(header);
    }
    let tcp = &mut segment[ip.l4..];
    let sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]).wrapping_add(offset);
    tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
    // The end of the data is in the last segment, the news of a smaller window in the first (RFC 3168 6.1.2).
    if !last {
        tcp[13] &= !TCP_FIN_PSH;
    }
    if number > 0 {
        tcp[13] &= !TCP_CWR;
    }
    checksum::fill_tcp(ip, segment);
}
