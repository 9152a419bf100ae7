//! ICMP and ICMPv6 messages for us: echo is answered in place, neighbour discovery handed on.
//!
//! In: a frame with an ICMP message. Out: the echo reply written into it. Bounded in rate, because anyone may
//! ask. Part of a worker's link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use keyferry_time::Time;
use smoltcp::wire::{Icmpv4Message, Icmpv4Packet, Icmpv6Message, Icmpv6Packet, Ipv4Packet, Ipv6Packet};

use crate::ip::Place;
use crate::{DropReason, Ingress, Link, NextHop, ethernet};

/// ICMP answers in a second, at most, by each worker.
pub(crate) const ANSWERS_PER_SECOND: u32 = 1_000;
/// ICMP answers at once, at most.
pub(crate) const ANSWERS_AT_ONCE: u32 = 64;
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
        if message.msg_type() != Icmpv4Message::EchoRequest || message.msg_code() != 0 {
            return Err(DropReason::Icmp);
        }
        self.budget.take(now)?;
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
        if message.msg_code() != 0 {
            return Err(DropReason::Icmp);
        }
        match kind {
            Icmpv6Message::EchoRequest | Icmpv6Message::NeighborSolicit => self.budget.take(now)?,
            Icmpv6Message::NeighborAdvert => {}
            _ => return Err(DropReason::Icmp),
        }
        if !message.verify_checksum(&place.source, &place.destination) {
            return Err(DropReason::Checksum);
        }
        match kind {
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
