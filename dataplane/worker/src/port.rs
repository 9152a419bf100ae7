//! The worker's queue of the port: packets in and out, framed, routed, and handed to the worker that owns them.
//!
//! TCP writes IP packets straight into packet buffers, or headers alone where the port sends records from where they lie; here
//! they get their Ethernet header by our own routes (never the MAC a request came from: behind the distributor that is
//! the distributor's), checksums are left to the port where it can, and a partial transmit burst keeps its rest for the
//! next turn.

use std::net::IpAddr;
use std::ops::Range;

use arrayvec::ArrayVec;
use keyferry_link::{DropReason, Link, NextHop, TRANSMIT_BYTES_MAX};
use keyferry_nic::{BURST, Buffer, Caps, Nic, PIECES_MAX, Packet, TxOffload};
use keyferry_tcp::{Egress, Outbound, Stretch};
use keyferry_time::Time;

use crate::capture::Tap;
use crate::counters::Counters;
use crate::segment::Placed;

/// A payload of fewer bytes is copied: that costs less than another descriptor and the count of who refers to a record (of `bench
/// port` the figures `copied_1024_ns` and `attached_1024_ns`).
const ATTACHED_BYTES_MIN: usize = 1024;

/// Segments that are cut at once for a port which does not cut by itself: more than a record of the largest size has.
const CUT_MAX: u16 = 16;

/// What TCP may hand to a [`Port`] in one packet.
pub fn stretch(caps: &Caps) -> Stretch {
    if caps.tso_bytes_max > 0 { Stretch::of_port(caps.tso_bytes_max) } else { Stretch::of_egress(CUT_MAX) }
}

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
    /// Payloads are copied for now, whatever the port can do.
    pub copies: bool,
    tx: ArrayVec<N::Packet, BURST>,
    /// Only while an operator captures.
    tap: Option<Box<Tap>>,
    /// Taken from the pool ahead of need, so that `room` can promise packets.
    spare: ArrayVec<N::Packet, { CUT_MAX as usize }>,
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
            copies: false,
            tx: ArrayVec::new(),
            tap: None,
            spare: ArrayVec::new(),
            large_spare: None,
        }
    }

    /// Packet buffers held here.
    pub fn held(&self) -> usize {
        self.tx.len() + self.spare.len() + usize::from(self.large_spare.is_some())
    }

    /// Fills in what is counted here, by the link layer and by the port.
    pub fn count(&self, all: &mut Counters) {
        let (own, link, nic) = (&self.counters, self.link.counters(), self.nic.stats());
        all.rx_packets = own.rx_packets;
        all.rx_handover = own.rx_handover;
        all.rx_link = own.rx_link;
        all.tx_packets = own.tx_packets;
        all.tx_attached = own.tx_attached;
        all.captured = own.captured;
        all.capture_missed = own.capture_missed;
        all.handed_over = own.handed_over;
        all.solicits = link.solicits;
        all.neighbors_lost = link.neighbors_lost;
        all.drop_handover = own.drop_handover;
        all.drop_handover_copy = own.drop_handover_copy;
        all.drop_syns = own.drop_syns;
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

    /// Shows packets to an operator from here on, or to nobody any more.
    pub fn capture(&mut self, tap: Option<Box<Tap>>) {
        self.tap = tap;
        self.tap.iter().for_each(|tap| tap.begin());
    }

    /// Takes a burst from the port.
    #[inline]
    pub fn receive(&mut self, packets: &mut ArrayVec<N::Packet, BURST>) -> usize {
        let received = self.nic.rx_burst(packets);
        self.counters.rx_packets += received as u64;
        if let Some(tap) = &mut self.tap {
            tap.received(self.now, packets, &mut self.counters);
        }
        received
    }

    /// Queues a frame that is ready; drops and counts it if the port does not keep up.
    #[inline]
    pub fn transmit(&mut self, frame: N::Packet) {
        if let Err(full) = self.tx.try_push(frame) {
            self.transmit_full(full.element());
        }
    }

    #[cold]
    fn transmit_full(&mut self, frame: N::Packet) {
        self.flush();
        if self.tx.try_push(frame).is_err() {
            self.counters.drop_tx_full += 1;
        }
    }

    /// Hands queued frames to the port; what it does not take stays.
    pub fn flush(&mut self) -> usize {
        if self.tx.is_empty() {
            return 0;
        }
        if let Some(tap) = &mut self.tap {
            tap.sent(&self.tx, &mut self.counters);
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
    pub fn route_by(&mut self, packet: N::Packet, to: IpAddr) {
        let hop = self.link.next_hop(self.now, to);
        self.send_by(packet, hop, to);
    }

    /// Frames a packet and sends it by a hop that was looked up in this moment.
    fn send_by(&mut self, mut packet: N::Packet, hop: NextHop, to: IpAddr) {
        match hop {
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

impl<N: Nic> Port<N> {
    /// Makes buffers for records, at start: of memory the port can read, if records are ever sent from where they lie.
    pub fn buffers(&mut self, count: usize, bytes: usize) -> Vec<Buffer> {
        if self.attaches() {
            self.nic.buffers(count, bytes)
        } else {
            std::iter::repeat_with(|| Buffer::heap(bytes)).take(count).collect()
        }
    }

    fn attaches(&self) -> bool {
        self.caps.pieces_max > 0
    }

    /// A packet with headers of its own and a payload that stays where it is; `None`: it has to be copied.
    fn attached(&mut self, outbound: &Outbound<'_, impl Placed>) -> Option<N::Packet> {
        if self.copies || outbound.payload_bytes() < ATTACHED_BYTES_MIN || !self.attaches() {
            return None;
        }
        let mut pieces = ArrayVec::<(&Buffer, Range<usize>), PIECES_MAX>::new();
        for (segment, range) in outbound.pieces() {
            pieces.try_push((segment.buffer()?, range)).ok()?;
        }
        let l2 = self.link.header_bytes();
        let packet = self.spare.last_mut()?;
        packet.set_len(l2 + outbound.header_bytes());
        if !self.nic.attach(packet, &pieces) {
            return None;
        }
        outbound.write_headers(&mut packet.bytes_mut()[l2..]);
        self.counters.tx_attached += 1;
        self.spare.pop()
    }

    /// A packet that is copied whole.
    fn copied(&mut self, outbound: &Outbound<'_, impl Placed>) -> N::Packet {
        let l2 = self.link.header_bytes();
        let len = l2 + outbound.len();
        let fits = self.spare.last().is_some_and(|packet| packet.capacity() >= len);
        let packet = if fits { self.spare.pop() } else { self.large_spare.take() };
        let mut packet = packet.expect("room() was asked first");
        packet.set_len(len);
        outbound.write(&mut packet.bytes_mut()[l2..]);
        packet
    }

    /// Sends what is one packet for the port.
    fn send(&mut self, outbound: &Outbound<'_, impl Placed>, hop: NextHop) {
        let mut packet = match self.attached(outbound) {
            Some(packet) => packet,
            None => self.copied(outbound),
        };
        self.offload(&mut packet, outbound.tso_segment_bytes());
        self.send_by(packet, hop, outbound.to());
    }
}

impl<N: Nic, S: Placed> Egress<S> for Port<N> {
    fn room(&mut self) -> bool {
        let cuts = self.caps.tso_bytes_max > 0;
        let packets = if cuts { 1 } else { usize::from(CUT_MAX) };
        if self.tx.remaining_capacity() < packets {
            self.flush();
        }
        while self.spare.len() < packets
            && let Some(packet) = self.nic.alloc()
        {
            self.spare.push(packet);
        }
        if cuts && self.large_spare.is_none() {
            self.large_spare = self.nic.alloc_large();
            if self.large_spare.is_none() {
                return false;
            }
        }
        self.tx.remaining_capacity() >= packets && self.spare.len() >= packets
    }

    fn packet(&mut self, outbound: &Outbound<'_, S>) {
        let hop = self.link.next_hop(self.now, outbound.to());
        if self.caps.tso_bytes_max > 0 {
            self.send(outbound, hop);
        } else {
            outbound.each_segment(|segment| self.send(segment, hop));
        }
    }
}
