//! The worker's queue of the port: packets in and out, framed, routed, and handed to the worker that owns them.
//!
//! TCP writes IP packets straight into packet buffers; here they get their Ethernet header by our own routes (never
//! the MAC a request came from: behind the distributor that is the distributor's), checksums are left to the port
//! where it can, and a partial transmit burst keeps its rest for the next turn.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use keyferry_link::{DropReason, Link, NextHop, TRANSMIT_BYTES_MAX};
use keyferry_nic::{BURST, Caps, Nic, Packet, TxOffload};
use keyferry_tcp::Egress;
use keyferry_time::Time;

use crate::counters::Counters;

/// The port side of a worker.
pub struct Port<N: Nic> {
    /// The queue.
    pub nic: N,
    /// What the port can do.
    pub caps: Caps,
    /// Ethernet, ARP, neighbour discovery, routes.
    pub link: Link<N::Packet>,
    /// This turn's time.
    pub now: Time,
    /// What this worker counts about packets; merged into the worker's counters.
    pub counters: Counters,
    /// Received frames the link layer dropped, by reason.
    pub link_drops: [u64; DropReason::ALL.len()],
    tx: ArrayVec<N::Packet, BURST>,
    /// Taken from the pool ahead of need, so that `room` can promise a packet.
    spare: Option<N::Packet>,
    large_spare: Option<N::Packet>,
}

/// Destination and version of an IP packet we built.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from),
        6 => packet.get(24..40).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from),
        _ => None,
    }
}

impl<N: Nic> Port<N> {
    /// A port side with nothing under way.
    pub fn new(nic: N, link: Link<N::Packet>) -> Port<N> {
        let caps = nic.caps();
        Port {
            nic,
            caps,
            link,
            now: Time::ZERO,
            counters: Counters::default(),
            link_drops: [0; DropReason::ALL.len()],
            tx: ArrayVec::new(),
            spare: None,
            large_spare: None,
        }
    }

    /// Packet buffers held here.
    pub fn held(&self) -> usize {
        self.tx.len() + usize::from(self.spare.is_some()) + usize::from(self.large_spare.is_some())
    }

    /// Fills in what is counted here, by the link layer and by the port.
    pub fn count(&self, all: &mut Counters) {
        let (own, link, nic) = (&self.counters, self.link.counters(), self.nic.stats());
        all.rx_packets = own.rx_packets;
        all.rx_handover = own.rx_handover;
        all.rx_link = own.rx_link;
        all.tx_packets = own.tx_packets;
        all.handed_over = own.handed_over;
        all.solicits = link.solicits;
        all.neighbors_lost = link.neighbors_lost;
        all.drop_handover = own.drop_handover;
        all.drop_handover_copy = own.drop_handover_copy;
        all.drop_link = own.drop_link;
        all.drop_checksum = own.drop_checksum;
        all.drop_missed = nic.rx_missed;
        all.drop_missed_no_buffer = nic.rx_no_buffer;
        all.drop_no_buffer = own.drop_no_buffer;
        all.drop_outgoing_full = link.outgoing_full;
        all.drop_no_route = own.drop_no_route;
        all.drop_parked_full = link.parked_refused;
        all.drop_parked_late = link.parked_expired;
        all.drop_tx_full = own.drop_tx_full;
        all.drop_tx_error = nic.tx_errors;
        all.parked = self.link.parked() as u64;
        all.packets_in_use = (self.nic.in_use().saturating_sub(self.held())) as u64;
    }

    /// Queues a frame that is ready; drops and counts it if the port does not keep up.
    #[inline]
    pub fn transmit(&mut self, frame: N::Packet) {
        if self.tx.is_full() {
            self.flush();
        }
        if self.tx.try_push(frame).is_err() {
            self.counters.drop_tx_full += 1;
        }
    }

    /// Hands queued frames to the port; what it does not take stays.
    pub fn flush(&mut self) -> usize {
        if self.tx.is_empty() {
            return 0;
        }
        let sent = self.nic.tx_burst(&mut self.tx);
        self.counters.tx_packets += sent as u64;
        sent
    }

    /// Sends what the link layer has to say, and packets whose next hop answered.
    pub fn link_turn(&mut self) {
        self.link.timers(self.now);
        while let Some((mut packet, mac)) = self.link.unparked() {
            let ipv6 = packet.bytes().get(self.link.header_bytes()).is_some_and(|byte| byte >> 4 == 6);
            self.link.write_header(packet.bytes_mut(), mac, ipv6);
            self.transmit(packet);
        }
        // Solicitations are few and small: written here first, so that a turn without any takes no packet buffer.
        let mut frame = [0; TRANSMIT_BYTES_MAX];
        while let Some(len) = self.link.poll_transmit(self.now, &mut frame) {
            let Some(mut packet) = self.nic.alloc() else {
                self.counters.drop_no_buffer += 1;
                break;
            };
            packet.set_len(len);
            packet.bytes_mut().copy_from_slice(&frame[..len]);
            self.transmit(packet);
        }
    }

    /// Frames and routes an IP packet that was built behind the header space, its checksums included.
    pub fn route(&mut self, packet: N::Packet) {
        let l2 = self.link.header_bytes();
        match destination(&packet.bytes()[l2..]) {
            Some(to) => self.route_by(packet, to),
            None => self.counters.drop_no_route += 1,
        }
    }

    /// Frames a packet and sends it to `to`, or to the gateway on the way there, whatever its own destination is.
    pub fn route_by(&mut self, mut packet: N::Packet, to: IpAddr) {
        match self.link.next_hop(self.now, to) {
            NextHop::Known(mac) => {
                let ipv6 = packet.bytes().get(self.link.header_bytes()).is_some_and(|byte| byte >> 4 == 6);
                self.link.write_header(packet.bytes_mut(), mac, ipv6);
                self.transmit(packet);
            }
            NextHop::Unresolved => {
                // Refused when too many wait; the link layer counts it, and whoever waits for the packet asks again.
                drop(self.link.park(self.now, to, packet));
            }
            NextHop::NoRoute => self.counters.drop_no_route += 1,
        }
    }

    fn offload(&mut self, packet: &mut N::Packet, tso_segment_bytes: u16) {
        if !self.caps.tx_checksum && tso_segment_bytes == 0 {
            return;
        }
        let l2 = self.link.header_bytes();
        let ip = &packet.bytes()[l2..];
        let ipv6 = ip[0] >> 4 == 6;
        let l3 = if ipv6 { 40 } else { usize::from(ip[0] & 0x0f) * 4 };
        let l4 = usize::from(ip[l3 + 12] >> 4) * 4;
        packet.set_tx(TxOffload {
            checksum: true,
            tso_segment_bytes,
            l2_len: l2 as u8,
            l3_len: l3 as u16,
            l4_len: l4 as u8,
            ipv6,
        });
    }
}

impl<N: Nic> Egress for Port<N> {
    fn room(&mut self) -> bool {
        if self.tx.is_full() {
            self.flush();
        }
        if self.spare.is_none() {
            self.spare = self.nic.alloc();
        }
        if self.caps.tso_bytes_max > 0 && self.large_spare.is_none() {
            self.large_spare = self.nic.alloc_large();
            if self.large_spare.is_none() {
                return false;
            }
        }
        !self.tx.is_full() && self.spare.is_some()
    }

    fn packet<R>(&mut self, len: usize, tso_segment_bytes: u16, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let l2 = self.link.header_bytes();
        let fits = |packet: &N::Packet| packet.capacity() >= l2 + len;
        let mut packet = match self.spare.take() {
            Some(packet) if fits(&packet) => packet,
            small => {
                self.spare = small;
                self.large_spare.take().expect("room() was asked first")
            }
        };
        packet.set_len(l2 + len);
        let out = fill(&mut packet.bytes_mut()[l2..]);
        self.offload(&mut packet, tso_segment_bytes);
        self.route(packet);
        out
    }
}
