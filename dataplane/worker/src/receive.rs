//! Packets in: from the port and from other workers, to the worker that owns their flow, through the link layer into
//! TCP.

use arrayvec::ArrayVec;
use keyferry_link::Ingress;
use keyferry_nic::handover::Handover;
use keyferry_nic::rss::{self, Class};
use keyferry_nic::{BURST, Checksum, Nic, Packet};
use keyferry_tcp::{Segment, Tcp};

use crate::port::Port;

/// Where a packet came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Port,
    Worker,
}

/// The receive side of a worker.
pub struct Receive<P> {
    handover: Handover<P>,
    packets: ArrayVec<P, BURST>,
}

impl<P: Packet> Receive<P> {
    /// With the rings between the node's workers.
    pub fn new(handover: Handover<P>) -> Receive<P> {
        Receive { handover, packets: ArrayVec::new() }
    }

    /// Takes in one burst from other workers and one from the port. Returns how many packets there were.
    ///
    /// Other workers' first: a neighbour's ARP reached them before it sent what the port has for us now.
    pub fn burst<N: Nic<Packet = P>, S: Segment>(&mut self, port: &mut Port<N>, tcp: &mut Tcp<S>) -> usize {
        let mut packets = std::mem::take(&mut self.packets);
        let taken_over = self.handover.receive(&mut packets);
        port.counters.rx_handover += taken_over as u64;
        for packet in packets.drain(..) {
            ingest(packet, From::Worker, port, tcp);
        }
        let received = port.nic.rx_burst(&mut packets);
        port.counters.rx_packets += received as u64;
        for packet in packets.drain(..) {
            if let Some(packet) = self.keep(packet, port) {
                ingest(packet, From::Port, port, tcp);
            }
        }
        self.packets = packets;
        received + taken_over
    }

    /// Hands a packet to the worker that owns its flow; ours stays. A port that spreads flows itself has done so.
    fn keep<N: Nic<Packet = P>>(&mut self, packet: P, port: &mut Port<N>) -> Option<P> {
        if self.handover.workers() == 1 {
            return Some(packet);
        }
        match rss::classify(packet.bytes()) {
            Class::Flow(hash) if !port.caps.rss => {
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
            Class::Flow(_) | Class::Other => Some(packet),
        }
    }
}

fn ingest<N: Nic, S: Segment>(mut packet: N::Packet, from: From, port: &mut Port<N>, tcp: &mut Tcp<S>) {
    let checksum = packet.rx().checksum;
    if checksum == Checksum::Bad {
        port.counters.drop_checksum += 1;
        return;
    }
    match port.link.ingest(port.now, packet.bytes_mut()) {
        Ingress::Ip { at, len } => {
            let ip = &mut packet.bytes_mut()[at..at + len];
            tcp.ingest(port.now, ip, checksum == Checksum::Good, port);
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
