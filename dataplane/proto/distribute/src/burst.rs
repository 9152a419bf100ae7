//! The common packet, and bursts of it: a segment in the midst of a connection that is known.
//!
//! In: packets of a burst. Out: the node of each that is such a segment; everything else is for
//! [`route`](Distributor::route), which would say the same of these. Read all packets of a burst, look for all of them,
//! then go through them: a table of a million flows is in no cache, and so the burst waits for memory twice (tags, an
//! entry) and not twice a packet. `ahead` is told of the memory the next step reads. Nothing changes before the third
//! step, and what the first packet changes the next one finds changed, as its place is looked at again.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use keyferry_time::Time;

use crate::NodeId;
use crate::distributor::Distributor;
use crate::flow::{FlowKey, tick};
use crate::peers::notice::Stage;
use crate::ways::Place;

const TCP: u8 = 6;
const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
/// Bytes of a TCP header without options, of which a packet has to have that many.
const TCP_BYTES: usize = 20;

/// A segment in the midst of some connection, and the look for it.
#[derive(Clone, Copy)]
pub struct Midst {
    key: FlowKey,
    acknowledges: u32,
    hash: u64,
    place: Option<Place>,
}

/// Whom such a segment is from and for, and where its TCP header is.
struct Brief<'a> {
    client: [u8; 16],
    service: ServiceIp<'a>,
    tcp: &'a [u8; TCP_BYTES],
}

/// Destination, as it is in the packet.
#[derive(Clone, Copy)]
enum ServiceIp<'a> {
    V4(&'a [u8; 4]),
    V6(&'a [u8; 16]),
}

impl ServiceIp<'_> {
    fn is(self, port: u16, address: &SocketAddr) -> bool {
        match (self, address) {
            (ServiceIp::V4(ip), SocketAddr::V4(it)) => it.port() == port && it.ip().octets() == *ip,
            (ServiceIp::V6(ip), SocketAddr::V6(it)) => it.port() == port && it.ip().octets() == *ip,
            _ => false,
        }
    }
}

impl Brief<'_> {
    /// Reads a packet that is whole, without options or extensions of IP, with an ACK and without SYN, FIN or RST.
    /// Whether its client can be one is not asked: one that cannot is in no table.
    fn parse(packet: &[u8]) -> Option<Brief<'_>> {
        let brief = match packet.first()? {
            0x45 => {
                let (ip, _) = packet.split_first_chunk::<20>()?;
                let end = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
                // No more fragments, and no offset (RFC 791 3.1).
                let is_whole = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff == 0;
                if !is_whole || ip[9] != TCP {
                    return None;
                }
                let client = Ipv4Addr::new(ip[12], ip[13], ip[14], ip[15]).to_ipv6_mapped().octets();
                Brief { client, service: ServiceIp::V4(ip.last_chunk()?), tcp: tcp(packet.get(20..end)?)? }
            }
            0x60..=0x6f => {
                let (ip, rest) = packet.split_first_chunk::<40>()?;
                if ip[6] != TCP {
                    return None;
                }
                let rest = rest.get(..usize::from(u16::from_be_bytes([ip[4], ip[5]])))?;
                let client = Ipv6Addr::from(*ip[8..].first_chunk::<16>()?).octets();
                Brief { client, service: ServiceIp::V6(ip.last_chunk()?), tcp: tcp(rest)? }
            }
            _ => return None,
        };
        (brief.tcp[13] & (SYN | FIN | RST | ACK) == ACK).then_some(brief)
    }
}

/// The header of a TCP segment that has one.
fn tcp(segment: &[u8]) -> Option<&[u8; TCP_BYTES]> {
    let header = segment.first_chunk::<TCP_BYTES>()?;
    let bytes = usize::from(header[12] >> 4) * 4;
    (bytes >= TCP_BYTES && bytes <= segment.len()).then_some(header)
}

impl Distributor {
    /// Reads a packet, if it is a segment in the midst of a connection to a service.
    #[inline]
    pub fn read(&self, packet: &[u8], ahead: impl Fn(*const u8)) -> Option<Midst> {
        let Brief { client, service, tcp } = Brief::parse(packet)?;
        let to_port = u16::from_be_bytes([tcp[2], tcp[3]]);
        let service = self.services.iter().position(|(address, _)| service.is(to_port, address))? as u16;
        let key = FlowKey { client, port: u16::from_be_bytes([tcp[0], tcp[1]]), service };
        let hash = self.hash(&key);
        self.flows.tags(hash).into_iter().for_each(ahead);
        let acknowledges = u32::from_be_bytes([tcp[8], tcp[9], tcp[10], tcp[11]]);
        Some(Midst { key, acknowledges, hash, place: None })
    }

    /// Looks where its connection is.
    #[inline]
    pub fn spot(&self, midst: &mut Midst, ahead: impl Fn(*const u8)) {
        let (place, memory) = self.flows.spot(midst.hash);
        midst.place = Some(place);
        ahead(memory);
    }

    /// The node of its connection, if it was spotted, is still there and the node too, and the segment brings it no
    /// further, which others would have to hear.
    #[inline]
    pub fn route_midst(&mut self, now: Time, midst: &Midst) -> Option<NodeId> {
        let known = self.flows.at(midst.place?, &midst.key)?;
        let node = known.node();
        let may_prove = known.stage == Stage::Answered && known.seen != tick(now);
        let knows_clients = || self.services[usize::from(midst.key.service)].1.model.knows_clients();
        if self.lives[node.index()] != known.life
            || known.stage < Stage::Closing
            || may_prove && knows_clients()
        {
            return None;
        }
        known.hear_ack(now, midst.acknowledges);
        self.counters.forwarded += 1;
        Some(node)
    }
}
