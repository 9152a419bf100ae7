//! Ethernet II headers, with or without an IEEE 802.1Q tag.
//!
//! In: a frame. Out: its header's fields, or a header written. Pure.

use crate::DropReason;

pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;

const UNTAGGED_BYTES: usize = 14;
pub(crate) const HEADER_BYTES_MAX: usize = UNTAGGED_BYTES + 4;

pub(crate) const BROADCAST: [u8; 6] = [0xff; 6];

pub(crate) struct Header {
    pub(crate) destination: [u8; 6],
    pub(crate) vlan: Option<u16>,
    pub(crate) ethertype: u16,
    /// Bytes of the header.
    pub(crate) len: usize,
}

impl Header {
    pub(crate) fn parse(frame: &[u8]) -> Result<Header, DropReason> {
        let (destination, rest) = frame.split_first_chunk::<6>().ok_or(DropReason::Malformed)?;
        let (_source, rest) = rest.split_first_chunk::<6>().ok_or(DropReason::Malformed)?;
        let (outer, rest) = rest.split_first_chunk::<2>().ok_or(DropReason::Malformed)?;
        let outer = u16::from_be_bytes(*outer);
        if outer != VLAN {
            return Ok(Header {
                destination: *destination,
                vlan: None,
                ethertype: outer,
                len: UNTAGGED_BYTES,
            });
        }
        let (tag, _) = rest.split_first_chunk::<4>().ok_or(DropReason::Malformed)?;
        Ok(Header {
            destination: *destination,
            vlan: Some(u16::from_be_bytes([tag[0], tag[1]]) & 0x0fff),
            ethertype: u16::from_be_bytes([tag[2], tag[3]]),
            len: HEADER_BYTES_MAX,
        })
    }
}

pub(crate) const fn header_bytes(vlan: Option<u16>) -> usize {
    if vlan.is_some() { HEADER_BYTES_MAX } else { UNTAGGED_BYTES }
}

/// Writes a whole header.
pub(crate) fn write(frame: &mut [u8], dst: [u8; 6], src: [u8; 6], vlan: Option<u16>, ethertype: u16) {
    write_stations(frame, dst, src);
    match vlan {
        None => frame[12..14].copy_from_slice(&ethertype.to_be_bytes()),
        Some(vlan) => {
            frame[12..14].copy_from_slice(&VLAN.to_be_bytes());
            frame[14..16].copy_from_slice(&vlan.to_be_bytes());
            frame[16..18].copy_from_slice(&ethertype.to_be_bytes());
        }
    }
}

/// Readdresses a received frame, leaving its tag and type: for answers written into it.
pub(crate) fn write_stations(frame: &mut [u8], dst: [u8; 6], src: [u8; 6]) {
    readdress(frame, stations(dst, src));
}

/// Both addresses of a frame, the destination's first, as it begins with them.
pub type Stations = [u8; 12];

/// Readdresses a received frame that goes on as it is, its tag and type included.
///
/// # Panics
/// If `frame` is shorter than its header.
#[inline]
pub fn readdress(frame: &mut [u8], stations: Stations) {
    *frame.first_chunk_mut().expect("a frame has a header") = stations;
}

pub(crate) fn stations(dst: [u8; 6], src: [u8; 6]) -> Stations {
    let mut both = [0; 12];
    both[..6].copy_from_slice(&dst);
    both[6..].copy_from_slice(&src);
    both
}
