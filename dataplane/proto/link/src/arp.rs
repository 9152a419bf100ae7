//! ARP for IPv4 over Ethernet (RFC 826).
//!
//! In: ARP packets. Out: answers to requests for our addresses, written into the request; requests and
//! announcements of our own; what neighbours tell about themselves. Part of a worker's link.

use std::net::{IpAddr, Ipv4Addr};

use keyferry_time::Time;
use smoltcp::wire::{ArpOperation, ArpPacket, ArpRepr, EthernetAddress};

use crate::neighbors::Word;
use crate::{DropReason, Ingress, Link, ethernet};

/// Bytes of an ARP packet for IPv4 over Ethernet.
const PACKET_BYTES: usize = 28;

impl<P> Link<P> {
    pub(crate) fn ingest_arp(
        &mut self,
        now: Time,
        frame: &mut [u8],
        at: usize,
    ) -> Result<Ingress, DropReason> {
        let packet = ArpPacket::new_checked(&frame[at..]).map_err(|_| DropReason::Malformed)?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(sender_mac),
            source_protocol_addr: sender,
            target_protocol_addr: target,
            ..
        } = ArpRepr::parse(&packet).map_err(|_| DropReason::Malformed)?
        else {
            return Err(DropReason::Malformed);
        };
        let for_us = self.is_configured(IpAddr::V4(target));
        match operation {
            ArpOperation::Request if for_us => {
                // A probe (RFC 5227 section 2.1.1) has no sender address yet; it is answered, not learnt.
                self.learn(now, IpAddr::V4(sender), sender_mac, Word::Asked);
                if sender_mac[0] & 1 != 0 {
                    return Err(DropReason::Martian);
                }
                ethernet::write_stations(frame, sender_mac, self.mac);
                let reply = self.arp(ArpOperation::Reply, target, sender_mac, sender);
                emit(&reply, &mut frame[at..]);
                Ok(Ingress::Reply { len: at + PACKET_BYTES })
            }
            ArpOperation::Reply => {
                let word = if for_us { Word::Answered } else { Word::Announced };
                self.learn(now, IpAddr::V4(sender), sender_mac, word);
                Ok(Ingress::Consumed)
            }
            // RFC 826 merges what any packet says about a neighbour already known; announcements are requests.
            ArpOperation::Request => {
                self.learn(now, IpAddr::V4(sender), sender_mac, Word::Announced);
                Ok(Ingress::Consumed)
            }
            ArpOperation::Unknown(_) => Err(DropReason::Malformed),
        }
    }

    pub(crate) fn write_arp_request(
        &self,
        buffer: &mut [u8],
        hop: Ipv4Addr,
        to: Option<[u8; 6]>,
    ) -> Option<usize> {
        let IpAddr::V4(source) = self.source_for(IpAddr::V4(hop))? else {
            return None;
        };
        self.write_arp(buffer, source, hop, to.unwrap_or(ethernet::BROADCAST))
    }

    /// An announcement is a request for one's own address (RFC 5227 section 2.3).
    pub(crate) fn write_arp_announcement(&self, buffer: &mut [u8], own: Ipv4Addr) -> Option<usize> {
        self.write_arp(buffer, own, own, ethernet::BROADCAST)
    }

    fn write_arp(&self, buffer: &mut [u8], source: Ipv4Addr, target: Ipv4Addr, to: [u8; 6]) -> Option<usize> {
        let at = self.header_bytes();
        let buffer = buffer.get_mut(..at + PACKET_BYTES)?;
        ethernet::write(buffer, to, self.mac, self.vlan, ethernet::ARP);
        emit(&self.arp(ArpOperation::Request, source, [0; 6], target), &mut buffer[at..]);
        Some(buffer.len())
    }

    fn arp(
        &self,
        operation: ArpOperation,
        source: Ipv4Addr,
        target_mac: [u8; 6],
        target: Ipv4Addr,
    ) -> ArpRepr {
        ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(self.mac),
            source_protocol_addr: source,
            target_hardware_addr: EthernetAddress(target_mac),
            target_protocol_addr: target,
        }
    }
}

fn emit(repr: &ArpRepr, to: &mut [u8]) {
    repr.emit(&mut ArpPacket::new_unchecked(to));
}
