//! The common packet, and bursts of it: a segment in the midst of a connection that is known.
//!
//! In: packets of a burst. Out: the node of each that is such a segment; everything else is for
//! [`route`](Distributor::route), which would say the same of these. Read all packets of a burst, look for all of them,
//! then go through them, and have the memory that the next step reads prefetched: a table of a million flows is in no cache,
//! and so the burst waits for memory twice (tags, an entry) and not twice a packet. Nothing changes before the third step,
//! and what the first packet changes the next one finds changed, as its place is looked at again.

use keyferry_time::Time;

use crate::NodeId;
use crate::distributor::Distributor;
use crate::distributor::shed::has_session;
use crate::flow::{FlowKey, mapped};
use crate::peers::notice::Stage;
use crate::ways::Place;

const TCP: u8 = 6;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// Bytes of the headers of IPv4 and IPv6 without options or extensions, and of TCP.
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;

/// A segment in the midst of some connection.
#[derive(Clone, Copy, Default)]
pub struct Midst {
    key: FlowKey,
    acknowledges: u32,
    hash: u64,
}

const _: () = assert!(size_of::<Midst>() == 32);

/// Where the table seems to have its connection.
#[derive(Clone, Copy, Default)]
pub struct Spot(Place);

/// A field of a header, most of them read as one number.
#[inline(always)]
fn field<const BYTES: usize>(header: &[u8], at: usize) -> [u8; BYTES] {
    *header[at..].first_chunk().expect("headers are this long")
}

fn number(high_and_low: [u8; 2]) -> u16 {
    u16::from_be_bytes(high_and_low)
}

/// Whether a segment with this header, `at` so many bytes of a packet of `bytes`, is whole, and has an ACK but no SYN, FIN
/// or RST.
#[inline(always)]
fn is_midst(tcp: &[u8; TCP_BYTES], at: usize, bytes: usize) -> bool {
    let length_and_flags = number(field(tcp, 12));
    let header = usize::from(length_and_flags >> 12) * 4;
    let flags = length_and_flags as u8 & (SYN | FIN | RST | ACK);
    header >= TCP_BYTES && at + header <= bytes && flags == ACK
}

/// Of the bytes with an IPv4 packet's flags, its offset, its time to live and its protocol those that say whether it is a
/// whole packet of TCP: no more fragments, and no offset (RFC 791 3.1).
const WHOLE_MASK: u32 = u32::from_le_bytes([0x3f, 0xff, 0, 0xff]);
const WHOLE: u32 = u32::from_le_bytes([0, 0, 0, TCP]);

impl Distributor {
    /// Reads a packet, if it is a segment in the midst of a connection to a service: whole, without options or extensions
    /// of IP. Whether its client can be one is not asked: one that cannot is in no table.
    #[inline]
    pub fn read(&self, packet: &[u8]) -> Option<Midst> {
        match packet.first()? {
            0x45 => {
                let head = packet.first_chunk::<{ IPV4_BYTES + TCP_BYTES }>()?;
                let (ip, tcp) = (head.first_chunk::<IPV4_BYTES>()?, head.last_chunk::<TCP_BYTES>()?);
                let bytes = usize::from(number(field(ip, 2)));
                let is_whole = u32::from_le_bytes(field(ip, 6)) & WHOLE_MASK == WHOLE;
                if !is_whole || bytes > packet.len() || !is_midst(tcp, IPV4_BYTES, bytes) {
                    return None;
                }
                let service = self.doors.v4(field(ip, 16), number(field(tcp, 2)))?;
                Some(self.midst(mapped(field(ip, 12)), service, tcp))
            }
            0x60..=0x6f => {
                let head = packet.first_chunk::<{ IPV6_BYTES + TCP_BYTES }>()?;
                let (ip, tcp) = (head.first_chunk::<IPV6_BYTES>()?, head.last_chunk::<TCP_BYTES>()?);
                let bytes = IPV6_BYTES + usize::from(number(field(ip, 4)));
                if ip[6] != TCP || bytes > packet.len() || !is_midst(tcp, IPV6_BYTES, bytes) {
                    return None;
                }
                let service = self.doors.v6(field(ip, 24), number(field(tcp, 2)))?;
                Some(self.midst(field(ip, 8), service, tcp))
            }
            _ => None,
        }
    }

    /// A segment of a client to a service. Inlined where it is called: of a client of IPv4 most bytes are known there.
    #[inline(always)]
    fn midst(&self, client: [u8; 16], service: u16, tcp: &[u8; TCP_BYTES]) -> Midst {
        let key = FlowKey { client, port: number(field(tcp, 0)), service };
        let hash = self.hash(&key);
        let acknowledges = u32::from_be_bytes(field(tcp, 8));
        Midst { key, acknowledges, hash }
    }

    /// The memory that [`spot`](Distributor::spot) reads.
    #[inline]
    pub fn tags(&self, midst: &Midst) -> *const u8 {
        self.flows.tags(midst.hash)
    }

    /// Looks where its connection is.
    #[inline]
    pub fn spot(&self, midst: &Midst) -> Spot {
        Spot(self.flows.spot(midst.hash))
    }

    /// The memory that [`route_midst`](Distributor::route_midst) reads.
    #[inline]
    pub fn entry(&self, spot: Spot) -> *const u8 {
        self.flows.entry(spot.0)
    }

    /// The node of its connection, if that is still where it was spotted and the node there too, and the segment brings it
    /// no further, which others would have to hear.
    #[inline]
    pub fn route_midst(&mut self, now: Time, midst: &Midst, spot: Spot) -> Option<NodeId> {
        let known = self.flows.at(spot.0, &midst.key)?;
        let node = known.node();
        if self.lives[node.index()] != known.life || known.stage < Stage::Closing {
            return None;
        }
        if known.is_first_in_period(now) && known.is_over(now, self.config.times()) {
            return None;
        }
        if known.is_to_prove(now)
            && self.services[usize::from(midst.key.service)].1.model.knows_clients()
            && has_session(&self.clients, &self.spread, now, &midst.key)
        {
            return None;
        }
        known.hear_ack(now, midst.acknowledges);
        self.counters.forwarded += 1;
        Some(node)
    }
}
