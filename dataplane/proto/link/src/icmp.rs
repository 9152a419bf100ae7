//! ICMP and ICMPv6 messages for us: echo is answered in place, neighbour discovery and reports of packets too big are handed
//! on.
//!
//! In: a frame with an ICMP message. Out: the echo reply written into it, or where the packet is that a router returns.
//! Bounded in rate, because anyone may ask, and report. Part of a worker's link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use keyferry_time::Time;
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, Ipv4Packet, Ipv6Packet};

use crate::ip::Place;
use crate::{DropReason, Ingress, Link, NextHop, ethernet};

/// ICMP answers in a second, at most, by each worker, and as many reports looked into: a router that is not heard says it
/// again of the next packet.
pub(crate) const ANSWERS_PER_SECOND: u32 = 1_000;
/// The same at once.
pub(crate) const ANSWERS_AT_ONCE: u32 = 64;
/// Code of an unreachable destination: a packet that may not be fragmented is too big (RFC 792).
const FRAGMENTATION_NEEDED: u8 = 4;
/// Bytes of an ICMP header, what it says included.
const HEADER_BYTES: usize = 8;
/// TTL and hop limit of an answer (RFC 1700's default).
const HOPS: u8 = 64;

/// A token bucket.
pub(crate) struct Budget {
    tokens: u32,
    filled: Time,
}

impl Budget {
    const REFILL: Duration = Duration::from_nanos(1_000_000_000 / ANSWERS_PER_SECOND as u64);

    pub(crate) fn new() -> Budget {
        Budget { tokens: ANSWERS_AT_ONCE, filled: Time::ZERO }
    }

    pub(crate) fn take(&mut self, now: Time) -> Result<(), DropReason> {
        let refill_ns = Budget::REFILL.as_nanos() as u64;
        let tokens = now.ns_since(self.filled) / refill_ns;
        if tokens >= u64::from(ANSWERS_AT_ONCE - self.tokens) {
            (self.tokens, self.filled) = (ANSWERS_AT_ONCE, now);
        } else {
            self.tokens += tokens as u32;
            self.filled += Duration::from_nanos(tokens * refill_ns);
        }
        self.tokens = self.tokens.checked_sub(1).ok_or(DropReason::IcmpRate)?;
        Ok(())
    }
}

impl<P> Link<P> {
    pub(crate) fn ingest_icmpv4(
        &mut self,
        now: Time,
        frame: &mut [u8],
        place: Place<Ipv4Addr>,
    ) -> Result<Ingress, DropReason> {
        let end = place.at + place.len;
        let body = &frame[place.at + place.header..end];
        let message = Icmpv4Packet::new_checked(body).map_err(|_| DropReason::Malformed)?;
        match (message.msg_type(), message.msg_code()) {
            (Icmpv4Message::EchoRequest, 0) => self.budget.take(now)?,
            (Icmpv4Message::DstUnreachable, FRAGMENTATION_NEEDED) => {
                self.reports.take(now)?;
                if !message.verify_checksum() {
                    return Err(DropReason::Checksum);
                }
                // RFC 1191 section 4: the lower half of what was unused before.
                let mtu = body.get(6..8).map_or(0, |mtu| u32::from(u16::from_be_bytes([mtu[0], mtu[1]])));
                return too_big(body, place, mtu);
            }
            _ => return Err(DropReason::Icmp),
        }
        if !message.verify_checksum() {
            return Err(DropReason::Checksum);
        }
        let mac = self.way_back(now, IpAddr::V4(place.source))?;
        ethernet::write_stations(frame, mac, self.mac);
        let mut ip = Ipv4Packet::new_unchecked(&mut frame[place.at..end]);
        ip.set_src_addr(place.destination);
        ip.set_dst_addr(place.source);
        ip.set_hop_limit(HOPS);
        ip.fill_checksum();
        let mut message = Icmpv4Packet::new_unchecked(ip.payload_mut());
        message.set_msg_type(Icmpv4Message::EchoReply);
        message.fill_checksum();
        Ok(Ingress::Reply { len: end })
    }

    pub(crate) fn ingest_icmpv6(
        &mut self,
        now: Time,
        frame: &mut [u8],
        place: Place<Ipv6Addr>,
    ) -> Result<Ingress, DropReason> {
        let end = place.at + place.len;
        let body = &frame[place.at + place.header..end];
        let message = Icmpv6Packet::new_checked(body).map_err(|_| DropReason::Malformed)?;
        let kind = message.msg_type();
        // The code of a packet too big is for nobody to look at (RFC 4443 section 3.2).
        if message.msg_code() != 0 && kind != Icmpv6Message::PktTooBig {
            return Err(DropReason::Icmp);
        }
        match kind {
            Icmpv6Message::PktTooBig => self.reports.take(now)?,
            Icmpv6Message::EchoRequest | Icmpv6Message::NeighborSolicit => self.budget.take(now)?,
            Icmpv6Message::NeighborAdvert => {}
            _ => return Err(DropReason::Icmp),
        }
        if !message.verify_checksum(&place.source, &place.destination) {
            return Err(DropReason::Checksum);
        }
        match kind {
            Icmpv6Message::PktTooBig => {
                let mtu =
                    body.get(4..8).map_or(0, |mtu| u32::from_be_bytes([mtu[0], mtu[1], mtu[2], mtu[3]]));
                too_big(body, place, mtu)
            }
            Icmpv6Message::NeighborSolicit => self.ingest_solicit(now, frame, place),
            Icmpv6Message::NeighborAdvert => self.ingest_advert(now, frame, place),
            _ => self.answer_echo(now, frame, place),
        }
    }

    fn answer_echo(
        &mut self,
        now: Time,
        frame: &mut [u8],
        place: Place<Ipv6Addr>,
    ) -> Result<Ingress, DropReason> {
        // Echo to a group may be answered (RFC 4443 section 4.2); not answering cannot be used to amplify.
        if place.destination.is_multicast() {
            return Err(DropReason::Icmp);
        }
        if place.source.is_unspecified() {
            return Err(DropReason::Martian);
        }
        let mac = self.way_back(now, IpAddr::V6(place.source))?;
        ethernet::write_stations(frame, mac, self.mac);
        let end = place.at + place.len;
        let mut ip = Ipv6Packet::new_unchecked(&mut frame[place.at..end]);
        ip.set_src_addr(place.destination);
        ip.set_dst_addr(place.source);
        ip.set_hop_limit(HOPS);
        let mut message = Icmpv6Packet::new_unchecked(ip.payload_mut());
        message.set_msg_type(Icmpv6Message::EchoReply);
        message.fill_checksum(&place.destination, &place.source);
        Ok(Ingress::Reply { len: end })
    }

    /// The MAC address an answer to `source` goes to, by the routes.
    pub(crate) fn way_back(&mut self, now: Time, source: IpAddr) -> Result<[u8; 6], DropReason> {
        match self.next_hop(now, source) {
            NextHop::Known(mac) => Ok(mac),
            NextHop::Unresolved | NextHop::NoRoute => Err(DropReason::Unresolved),
        }
    }
}

/// Where the packet is that the report in `body` is about. One whose packet was not sent from the address it came to is about
/// nothing of ours.
fn too_big<A: PartialEq + From<[u8; N]>, const N: usize>(
    body: &[u8],
    place: Place<A>,
    mtu: u32,
) -> Result<Ingress, DropReason> {
    let quoted = body.get(HEADER_BYTES..).ok_or(DropReason::Malformed)?;
    // Where the source stands (RFC 791 section 3.1, RFC 8200 section 3).
    let source = if N == 4 { 12 } else { 8 };
    let source =
        quoted.get(source..).and_then(|rest| rest.first_chunk::<N>()).ok_or(DropReason::Malformed)?;
    if A::from(*source) != place.destination {
        return Err(DropReason::Icmp);
    }
    Ok(Ingress::TooBig { at: place.at + place.header + HEADER_BYTES, len: quoted.len(), mtu })
}
