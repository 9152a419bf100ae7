//! IPv6 neighbour discovery (RFC 4861): solicitations and advertisements, no routers, no duplicate detection.
//!
//! In: checked ICMPv6 messages. Out: advertisements of our addresses, solicitations of our own, and what
//! neighbours tell about themselves. Part of a worker's link.

use std::net::{IpAddr, Ipv6Addr};

use keyferry_time::Time;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr, NdiscNeighborFlags,
    NdiscRepr, RawHardwareAddress,
};

use crate::ip::Place;
use crate::neighbors::Word;
use crate::{DropReason, Ingress, Link, NextHop, Outgoing, ethernet};

const IPV6_BYTES: usize = 40;
/// Bytes of a solicitation or advertisement with its link-layer address option, IPv6 header included.
pub(crate) const PACKET_BYTES: usize = IPV6_BYTES + 24 + 8;
/// Every message must have this hop limit: then no router forwarded it (RFC 4861 section 3.1).
const HOPS: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Whom an advertisement is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Solicitor {
    /// It asked from this address.
    Address(Ipv6Addr),
    /// It asked from the unspecified address, to see whether its own is taken: everyone is told.
    Unspecified,
    /// Nobody asked.
    Nobody,
}

/// The link-local address that follows from a MAC address (RFC 4291 appendix A).
pub(crate) fn link_local(mac: [u8; 6]) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&[a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    Ipv6Addr::from(octets)
}

/// The group a solicitation for `address` is sent to (RFC 4291 section 2.7.1).
fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., d, e, f] = address.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(d), u16::from_be_bytes([e, f]))
}

/// The MAC address of a group (RFC 2464 section 7).
fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., c, d, e, f] = group.octets();
    [0x33, 0x33, c, d, e, f]
}

fn mac_of(option: Option<RawHardwareAddress>) -> Option<[u8; 6]> {
    option.and_then(|raw| raw.as_bytes().try_into().ok())
}

/// The message in `frame`, once its hop limit shows it came from this link.
fn parse(frame: &[u8], place: Place<Ipv6Addr>) -> Result<NdiscRepr<'_>, DropReason> {
    let ip = Ipv6Packet::new_unchecked(&frame[place.at..place.at + place.len]);
    if ip.hop_limit() != HOPS {
        return Err(DropReason::Martian);
    }
    let message = Icmpv6Packet::new_checked(&frame[place.at + place.header..place.at + place.len])
        .map_err(|_| DropReason::Malformed)?;
    NdiscRepr::parse(&message).map_err(|_| DropReason::Malformed)
}

impl<P> Link<P> {
    pub(crate) fn ingest_solicit(
        &mut self,
        now: Time,
        frame: &mut [u8],
        place: Place<Ipv6Addr>,
    ) -> Result<Ingress, DropReason> {
        let NdiscRepr::NeighborSolicit { target_addr: target, lladdr } = parse(frame, place)? else {
            return Err(DropReason::Malformed);
        };
        if !self.is_own(IpAddr::V6(target)) {
            return Err(DropReason::OtherAddress);
        }
        if place.source.is_unspecified() {
            // Another host claims our address (RFC 4862 section 5.4.3); its frame is too short for the answer.
            self.queue(Outgoing::Advertise { target, to: Solicitor::Unspecified });
            return Ok(Ingress::Consumed);
        }
        if let Some(mac) = mac_of(lladdr) {
            self.learn(now, IpAddr::V6(place.source), mac, Word::Asked);
        }
        let mac = self.way_back(now, IpAddr::V6(place.source))?;
        let room = frame.len() >= place.at + PACKET_BYTES;
        if !room {
            self.queue(Outgoing::Advertise { target, to: Solicitor::Address(place.source) });
            return Ok(Ingress::Consumed);
        }
        ethernet::write_stations(frame, mac, self.mac);
        let len = place.at + PACKET_BYTES;
        self.emit_advert(&mut frame[place.at..len], target, place.source, true);
        Ok(Ingress::Reply { len })
    }

    pub(crate) fn ingest_advert(
        &mut self,
        now: Time,
        frame: &mut [u8],
        place: Place<Ipv6Addr>,
    ) -> Result<Ingress, DropReason> {
        let NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr } = parse(frame, place)? else {
            return Err(DropReason::Malformed);
        };
        let target = IpAddr::V6(target);
        let solicited = flags.contains(NdiscNeighborFlags::SOLICITED) && !place.destination.is_multicast();
        let replace = flags.contains(NdiscNeighborFlags::OVERRIDE);
        // Without the option it confirms what is known (RFC 4861 section 7.2.5).
        let Some(mac) = mac_of(lladdr).or_else(|| self.neighbors.peek(target)) else {
            return Ok(Ingress::Consumed);
        };
        match (solicited, replace) {
            (true, true) => self.learn(now, target, mac, Word::Answered),
            (true, false) => self.learn(now, target, mac, Word::AnsweredWeakly),
            (false, true) => self.learn(now, target, mac, Word::Announced),
            (false, false) => {}
        }
        Ok(Ingress::Consumed)
    }

    pub(crate) fn write_solicit(
        &self,
        buffer: &mut [u8],
        hop: Ipv6Addr,
        to: Option<[u8; 6]>,
    ) -> Option<usize> {
        let IpAddr::V6(source) = self.source_for(IpAddr::V6(hop))? else {
            return None;
        };
        let (destination, mac) = match to {
            Some(mac) => (hop, mac),
            None => (solicited_node(hop), group_mac(solicited_node(hop))),
        };
        let at = self.header_bytes();
        let buffer = buffer.get_mut(..at + PACKET_BYTES)?;
        ethernet::write(buffer, mac, self.mac, self.vlan, ethernet::IPV6);
        let own = RawHardwareAddress::from(EthernetAddress(self.mac));
        let message = NdiscRepr::NeighborSolicit { target_addr: hop, lladdr: Some(own) };
        emit(&mut buffer[at..], source, destination, message);
        Some(buffer.len())
    }

    pub(crate) fn write_advert(
        &mut self,
        now: Time,
        buffer: &mut [u8],
        target: Ipv6Addr,
        to: Solicitor,
    ) -> Option<usize> {
        let (destination, mac, solicited) = match to {
            Solicitor::Address(address) => match self.next_hop(now, IpAddr::V6(address)) {
                NextHop::Known(mac) => (address, mac, true),
                NextHop::Unresolved | NextHop::NoRoute => return None,
            },
            Solicitor::Unspecified | Solicitor::Nobody => (ALL_NODES, group_mac(ALL_NODES), false),
        };
        let at = self.header_bytes();
        let buffer = buffer.get_mut(..at + PACKET_BYTES)?;
        ethernet::write(buffer, mac, self.mac, self.vlan, ethernet::IPV6);
        self.emit_advert(&mut buffer[at..], target, destination, solicited);
        Some(buffer.len())
    }

    fn emit_advert(&self, packet: &mut [u8], target: Ipv6Addr, destination: Ipv6Addr, solicited: bool) {
        let mut flags = NdiscNeighborFlags::OVERRIDE;
        flags.set(NdiscNeighborFlags::SOLICITED, solicited);
        let own = RawHardwareAddress::from(EthernetAddress(self.mac));
        let message = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr: Some(own) };
        emit(packet, target, destination, message);
    }
}

fn emit(packet: &mut [u8], source: Ipv6Addr, destination: Ipv6Addr, message: NdiscRepr<'_>) {
    let message = Icmpv6Repr::Ndisc(message);
    let ip = Ipv6Repr {
        src_addr: source,
        dst_addr: destination,
        next_header: IpProtocol::Icmpv6,
        payload_len: PACKET_BYTES - IPV6_BYTES,
        hop_limit: HOPS,
    };
    let mut packet = Ipv6Packet::new_unchecked(packet);
    ip.emit(&mut packet);
    let mut body = Icmpv6Packet::new_unchecked(packet.payload_mut());
    message.emit(&source, &destination, &mut body, &ChecksumCapabilities::default());
}
