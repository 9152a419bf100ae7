//! Packets in: from the port and from other workers, to the worker that owns their flow, through the link layer into
//! TCP. SYNs wait behind all else (`syns`).

use arrayvec::ArrayVec;
use keyferry_link::Ingress;
use keyferry_nic::handover::Handover;
use keyferry_nic::rss::{self, Class};
use keyferry_nic::{BURST, Checksum, Nic, Packet, prefetch};
use keyferry_tcp::{Arrived, Tcp};

use crate::port::Port;
use crate::segment::Placed;
use crate::syns::{Place, Syns};

/// Where a packet came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Port,
    Worker,
}

/// A packet for TCP that was read, and the place of its connection, if it was found.
struct Read<P> {
    packet: P,
    at: usize,
    len: usize,
    arrived: Arrived,
    place: Option<usize>,
}

/// What to do about a connection that a packet of the burst may be for: once its place is known, and once more when the
/// memory asked for then should have come.
pub trait Ahead {
    /// Asks for the memory at its place.
    fn spotted(&self, place: usize);
    /// Asks for what that memory leads to.
    fn near(&self, place: usize);
}

/// Who has nothing besides TCP's own state.
impl Ahead for () {
    fn spotted(&self, _: usize) {}
    fn near(&self, _: usize) {}
}

/// The receive side of a worker.
pub struct Receive<P> {
    handover: Handover<P>,
    reads: ArrayVec<Read<P>, BURST>,
    syns: Syns<P>,
}

impl<P: Packet> Receive<P> {
    /// With the rings between the node's workers.
    pub fn new(handover: Handover<P>) -> Receive<P> {
        Receive { handover, reads: ArrayVec::new(), syns: Syns::new() }
    }

    /// Takes in one burst from other workers and one from the port. Returns how many packets there were.
    ///
    /// Other workers' first: a neighbour's ARP reached them before it sent what the port has for us now.
    pub fn burst<N: Nic<Packet = P>, S: Placed>(
        &mut self,
        port: &mut Port<N>,
        tcp: &mut Tcp<S>,
        ahead: &impl Ahead,
    ) -> usize {
        let mut packets = ArrayVec::<P, BURST>::new();
        let taken_over = self.handover.receive(&mut packets);
        port.counters.rx_handover += taken_over as u64;
        for packet in packets.drain(..) {
            self.read(packet, From::Worker, port, tcp);
        }
        self.take(port, tcp, ahead);
        let received = port.receive(&mut packets);
        for packet in packets.drain(..) {
            if self.is_surplus(&packet, port) {
                port.counters.drop_syns += 1;
            } else if let Some(packet) = self.keep(packet, port) {
                self.read(packet, From::Port, port, tcp);
            }
        }
        self.take(port, tcp, ahead);
        received + taken_over
    }

    /// Packets taken in this turn that are no SYNs.
    pub fn others(&self) -> usize {
        self.syns.others()
    }

    /// Whether SYNs wait for the next turn.
    pub fn has_left_over(&self) -> bool {
        !self.syns.is_empty()
    }

    /// Whether a packet is a SYN behind a full line, and this worker's to drop: one look, since a flood brings more of them than
    /// of anything else. What else may be wrong with it is not asked.
    fn is_surplus<N: Nic<Packet = P>>(&self, packet: &P, port: &Port<N>) -> bool {
        let is_ours = port.caps.rss || self.handover.workers() == 1;
        let frame = packet.bytes();
        self.syns.is_full()
            && is_ours
            && port.link.ip_at(frame).is_some_and(|at| keyferry_tcp::is_open_request(&frame[at..]))
    }

    /// Takes as many SYNs as this turn has time for. Returns whether there were any.
    pub fn take_syns<N: Nic<Packet = P>, S: Placed>(&mut self, port: &mut Port<N>, tcp: &mut Tcp<S>) -> bool {
        let mut left = self.syns.end_turn();
        let busy = left > 0 && !self.syns.is_empty();
        while left > 0
            && let Some((packet, Place { at, len })) = self.syns.pop()
        {
            left -= 1;
            let good = packet.rx().checksum == Checksum::Good;
            if let Some(arrived) = tcp.read(&packet.bytes()[at..at + len], good, prefetch) {
                self.reads.push(Read { packet, at, len, arrived, place: None });
            }
            if self.reads.is_full() {
                self.take(port, tcp, &());
            }
        }
        self.take(port, tcp, &());
        busy
    }

    /// Hands a packet to the worker that owns its flow; ours stays. A port that spreads flows itself has done so.
    fn keep<N: Nic<Packet = P>>(&mut self, packet: P, port: &mut Port<N>) -> Option<P> {
        if self.handover.workers() == 1 {
            return Some(packet);
        }
        match rss::classify(packet.bytes()) {
            Class::Flow(_) if port.caps.rss => Some(packet),
            // No port knows whose a report is.
            Class::Flow(hash) | Class::Report(hash) => {
                let owner = rss::owner(hash, self.handover.workers());
                if owner == self.handover.worker() {
                    return Some(packet);
                }
                let taken = self.handover.send(owner, packet);
                port.counters.handed_over += u64::from(taken);
                port.counters.drop_handover += u64::from(!taken);
                None
            }
            Class::Shared => {
                let others = usize::from(self.handover.workers()) - 1;
                let taken = self.handover.share(&mut port.nic, &packet);
                port.counters.drop_handover_copy += (others - taken) as u64;
                Some(packet)
            }
            Class::Other => Some(packet),
        }
    }

    /// Reads a packet: what is the link layer's is done with, what is TCP's waits for the others of its burst.
    fn read<N: Nic<Packet = P>, S: Placed>(
        &mut self,
        mut packet: P,
        from: From,
        port: &mut Port<N>,
        tcp: &mut Tcp<S>,
    ) {
        let checksum = packet.rx().checksum;
        if checksum == Checksum::Bad {
            port.counters.drop_checksum += 1;
            return;
        }
        match port.link.ingest(port.now, packet.bytes_mut()) {
            Ingress::Ip { at, len } => {
                let ip = &packet.bytes()[at..at + len];
                if keyferry_tcp::is_open_request(ip) {
                    port.counters.drop_syns += u64::from(!self.syns.push(packet, Place { at, len }));
                    return;
                }
                self.syns.note_other();
                if let Some(arrived) = tcp.read(ip, checksum == Checksum::Good, prefetch) {
                    self.reads.push(Read { packet, at, len, arrived, place: None });
                }
            }
            Ingress::TooBig { at, len, mtu } => {
                port.counters.rx_link += 1;
                tcp.too_big(port.now, &packet.bytes()[at..at + len], mtu);
            }
            // Each worker learns from ARP and neighbour discovery; the one the port chose answers.
            Ingress::Reply { len } if from == From::Port => {
                port.counters.rx_link += 1;
                packet.set_len(len);
                port.transmit(packet);
            }
            Ingress::Reply { .. } | Ingress::Consumed => port.counters.rx_link += 1,
            Ingress::Drop(reason) => {
                port.counters.drop_link += 1;
                port.link_drops[reason.index()] += 1;
            }
        }
    }

    /// Takes in the packets that were read. Their connections are far apart in memory: all are looked for before the first
    /// one is waited for.
    fn take<N: Nic<Packet = P>, S: Placed>(
        &mut self,
        port: &mut Port<N>,
        tcp: &mut Tcp<S>,
        ahead: &impl Ahead,
    ) {
        for read in &mut self.reads {
            read.place = tcp.spot(&read.arrived, prefetch);
            read.place.into_iter().for_each(|place| ahead.spotted(place));
        }
        self.reads.iter().filter_map(|read| read.place).for_each(|place| ahead.near(place));
        for Read { packet, at, len, arrived, .. } in &self.reads {
            tcp.take(port.now, &packet.bytes()[*at..at + len], arrived, port);
        }
        self.reads.clear();
    }
}
