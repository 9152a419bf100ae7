//! The common packet, and bursts of it: a segment in the midst of a connection that is known.
//!
//! In: packets of a burst. Out: the node of each that is such a segment; everything else is for
//! [`route`](Distributor::route), which would say the same of these. Read all packets of a burst, look for all of them,
//! then go through them: a table of a million flows is in no cache, and so the burst waits for memory twice (tags, an
//! entry) and not twice a packet. `ahead` is told of the memory the next step reads. Nothing changes before the third
//! step, and what the first packet changes the next one finds changed, as its place is looked at again.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU64;

use keyferry_time::Time;

use crate::NodeId;
use crate::distributor::Distributor;
use crate::distributor::shed::has_session;
use crate::flow::FlowKey;
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
#[derive(Clone, Copy)]
pub struct Midst {
    key: FlowKey,
    acknowledges: u32,
    /// Its highest bit is always set, which no table looks at: so that none is as large as one.
    hash: NonZeroU64,
}

const SOME: NonZeroU64 = NonZeroU64::new(1 << 63).expect("it is one");
const _: () = assert!(size_of::<Option<Midst>>() == 32);

/// Where the table seems to have its connection.
#[derive(Clone, Copy, Default)]
pub struct Spot(Place);

/// Whether a segment with this header, `at` so many bytes of a packet of `bytes`, is whole, and has an ACK but no SYN, FIN
/// or RST.
fn is_midst(tcp: &[u8; TCP_BYTES], at: usize, bytes: usize) -> bool {
    let header = usize::from(tcp[12] >> 4) * 4;
    header >= TCP_BYTES && at + header <= bytes && tcp[13] & (SYN | FIN | RST | ACK) == ACK
}

fn port(high_and_low: [u8; 2]) -> u16 {
    u16::from_be_bytes(high_and_low)
}

impl Distributor {
    /// Reads a packet, if it is a segment in the midst of a connection to a service: whole, without options or extensions
    /// of IP. Whether its client can be one is not asked: one that cannot is in no table.
    #[inline]
    pub fn read(&self, packet: &[u8], ahead: impl Fn(*const u8)) -> Option<Midst> {
        match packet.first()? {
            0x45 => {
                let head = packet.first_chunk::<{ IPV4_BYTES + TCP_BYTES }>()?;
                let (ip, tcp) = (head.first_chunk::<IPV4_BYTES>()?, head.last_chunk::<TCP_BYTES>()?);
                let bytes = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                // No more fragments, and no offset (RFC 791 3.1).
                let is_fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
                if ip[9] != TCP || is_fragment || bytes > packet.len() || !is_midst(tcp, IPV4_BYTES, bytes) {
                    return None;
                }
                let client = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]).to_ipv6_mapped().octets();
                let service = self.doors.v4([ip[16], ip[17], ip[18], ip[19]], port([tcp[2], tcp[3]]))?;
                Some(self.midst(client, service, tcp, ahead))
            }
            0x60..=0x6f => {
                let head = packet.first_chunk::<{ IPV6_BYTES + TCP_BYTES }>()?;
                let (ip, tcp) = (head.first_chunk::<IPV6_BYTES>()?, head.last_chunk::<TCP_BYTES>()?);
                let bytes = IPV6_BYTES + usize::from(u16::from_be_bytes([ip[4], ip[5]]));
                if ip[6] != TCP || bytes > packet.len() || !is_midst(tcp, IPV6_BYTES, bytes) {
                    return None;
                }
                let client = Ipv6Addr::from(*ip[8..].first_chunk::<16>()?).octets();
                let service = self.doors.v6(*ip.last_chunk()?, port([tcp[2], tcp[3]]))?;
                Some(self.midst(client, service, tcp, ahead))
            }
            _ => None,
        }
    }

    /// A segment of a client to a service. Inlined where it is called: of a client of IPv4 most bytes are known there.
    #[inline(always)]
    fn midst(
        &self,
        client: [u8; 16],
        service: u16,
        tcp: &[u8; TCP_BYTES],
        ahead: impl Fn(*const u8),
    ) -> Midst {
        let key = FlowKey { client, port: port([tcp[0], tcp[1]]), service };
        let hash = SOME | self.hash(&key);
        ahead(self.flows.tags(hash.get()));
        let acknowledges = u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]);
        Midst { key, acknowledges, hash }
    }

    /// Looks where its connection is.
    #[inline]
    pub fn spot(&self, midst: &Midst, ahead: impl Fn(*const u8)) -> Spot {
        let (place, memory) = self.flows.spot(midst.hash.get());
        ahead(memory);
        Spot(place)
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
