//! The front door of IP: which received packets are for us, and for which layer.
//!
//! In: a frame and where its IP header starts. Out: TCP for one of our addresses, ICMP handed on, everything
//! else dropped by reason. Checksums of IP and TCP are left to the port or to TCP. Part of a worker's link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keyferry_time::Time;
use smoltcp::wire::{IpProtocol, Ipv4Packet, Ipv6Packet};

use crate::{DropReason, Ingress, Link};

/// What ICMP needs to know of the IPv4 packet it came in.
#[derive(Clone, Copy)]
pub(crate) struct Place<A> {
    /// Offset of the IP header in the frame.
    pub(crate) at: usize,
    /// Bytes of the IP header.
    pub(crate) header: usize,
    /// Bytes of the IP packet.
    pub(crate) len: usize,
    pub(crate) source: A,
    pub(crate) destination: A,
}

impl<P> Link<P> {
    pub(crate) fn ingest_ipv4(
        &mut self,
        now: Time,
        frame: &mut [u8],
        at: usize,
        group: bool,
    ) -> Result<Ingress, DropReason> {
        let packet = Ipv4Packet::new_checked(&frame[at..]).map_err(|_| DropReason::Malformed)?;
        if packet.version() != 4 || packet.header_len() < 20 {
            return Err(DropReason::Malformed);
        }
        let place = Place {
            at,
            header: usize::from(packet.header_len()),
            len: usize::from(packet.total_len()),
            source: packet.src_addr(),
            destination: packet.dst_addr(),
        };
        if !self.is_served(IpAddr::V4(place.destination)) {
            return Err(DropReason::OtherAddress);
        }
        // Neither may a group be talked to over TCP, nor is it answered (RFC 1122 sections 3.2.2, 4.2.3.10).
        if group || self.is_martian_v4(place.source) {
            return Err(DropReason::Martian);
        }
        if packet.more_frags() || packet.frag_offset() != 0 {
            return Err(DropReason::Fragment);
        }
        match packet.next_header() {
            IpProtocol::Tcp => Ok(Ingress::Ip { at, len: place.len }),
            IpProtocol::Icmp => self.ingest_icmpv4(now, frame, place),
            _ => Err(DropReason::Protocol),
        }
    }

    pub(crate) fn ingest_ipv6(
        &mut self,
        now: Time,
        frame: &mut [u8],
        at: usize,
        group: bool,
    ) -> Result<Ingress, DropReason> {
        let packet = Ipv6Packet::new_checked(&frame[at..]).map_err(|_| DropReason::Malformed)?;
        if packet.version() != 6 {
            return Err(DropReason::Malformed);
        }
        let place = Place {
            at,
            header: packet.header_len(),
            len: packet.total_len(),
            source: packet.src_addr(),
            destination: packet.dst_addr(),
        };
        let protocol = packet.next_header();
        let destination = IpAddr::V6(place.destination);
        let unicast = !place.destination.is_multicast();
        if unicast && !self.is_own(destination) && !self.is_served(destination) {
            return Err(DropReason::OtherAddress);
        }
        if place.source.is_multicast() || place.source.is_loopback() || self.is_own(IpAddr::V6(place.source))
        {
            return Err(DropReason::Martian);
        }
        match protocol {
            IpProtocol::Tcp if !self.is_served(destination) => Err(DropReason::OtherAddress),
            IpProtocol::Tcp if group || place.source == Ipv6Addr::UNSPECIFIED => Err(DropReason::Martian),
            IpProtocol::Tcp => Ok(Ingress::Ip { at, len: place.len }),
            IpProtocol::Icmpv6 => self.ingest_icmpv6(now, frame, place),
            IpProtocol::Ipv6Frag => Err(DropReason::Fragment),
            _ => Err(DropReason::Protocol),
        }
    }

    fn is_martian_v4(&self, source: Ipv4Addr) -> bool {
        source.is_multicast()
            || source.is_broadcast()
            || source.is_loopback()
            || source.octets()[0] == 0
            || self.is_served(IpAddr::V4(source))
            || self.addresses.iter().any(|own| own.is_broadcast(source))
    }
}
