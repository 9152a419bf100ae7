//! Handshakes: a SYN answered without a socket, and a socket made when the third segment comes.
//!
//! In: packets of no connection. Out: SYN-ACKs, new connections with everything their sockets would know had they
//! taken part from the start. Part of a worker's TCP.

use keyferry_time::Time;
use smoltcp::phy::{Device, TxToken};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;
use smoltcp::wire::TcpPacket;

use crate::connection::Connection;
use crate::counters::{Counters, DropReason};
use crate::half_open::{Due, HalfOpen};
use crate::ingress::{instant, interface};
use crate::packet::{Bare, Header, SynOptions};
use crate::seam::{Egress, Segment, Tcp};
use crate::sequence;
use crate::wire::Wire;

/// Headers with every option.
const BARE_BYTES_MAX: usize = 40 + 60;

impl<S: Segment> Tcp<S> {
    /// Answers a SYN and remembers it. At the limit the oldest handshake makes room: under a flood of SYNs an honest
    /// one then has as long as the flood takes to fill the limit, where refusing the newest would give it next to no
    /// chance.
    pub(crate) fn offer(
        &mut self,
        now: Time,
        header: &Header,
        hash: u32,
        packet: &[u8],
        out: &mut impl Egress,
    ) -> Result<(), DropReason> {
        let options = SynOptions::parse(packet)?;
        if self.free.is_empty() {
            return Err(DropReason::ConnectionsFull);
        }
        let ours = sequence::initial(self.secret, &header.flow, now);
        let (entry, evicted) = self.half_open.insert(now, header.flow, hash, ours, header.seq, options);
        if evicted {
            self.counters.drop(DropReason::HalfOpenEvicted);
        }
        self.counters.accepted += 1;
        self.counters.handshake_packets += 1;
        self.counters.half_open = self.half_open.len() as u64;
        self.send_bare(&entry.syn_ack(&self.config), out);
        Ok(())
    }

    /// A packet of a handshake under way (RFC 9293 section 3.10.7.4, RFC 5961 sections 3 and 4).
    pub(crate) fn handshake(
        &mut self,
        now: Time,
        at: u32,
        header: &Header,
        packet: &[u8],
        out: &mut impl Egress,
    ) -> Result<(), DropReason> {
        let Some(entry) = self.half_open.entry(at) else { return Err(DropReason::Stray) };
        if header.rst {
            if header.seq != entry.next() {
                return Err(DropReason::Unacceptable);
            }
            self.forget_half_open(at);
            self.counters.handshake_packets += 1;
            self.counters.drop(DropReason::HalfOpenReset);
            return Ok(());
        }
        if header.is_open_request() && header.seq == entry.theirs {
            self.counters.handshake_packets += 1;
            self.counters.syn_acks_again += 1;
            self.send_bare(&entry.syn_ack(&self.config), out);
            return Ok(());
        }
        let window = self.config.receive_bytes.min(usize::from(u16::MAX));
        if header.syn || !header.ack || !header.is_acceptable(entry.next(), window) {
            // A peer that began anew answers this with the reset that ends the old handshake.
            self.send_bare(&Bare::acknowledgement(&entry.flow, entry.mark()), out);
            return Err(DropReason::Unacceptable);
        }
        if header.acknowledges != entry.ours + 1 {
            self.refuse(now, packet, out);
            return Err(DropReason::Stray);
        }
        // The handshake stays: its SYN-ACK sent again asks the peer for this segment once more.
        let index = self.free.pop().ok_or(DropReason::ConnectionsFull)?;
        self.forget_half_open(at);
        self.complete(index, &entry);
        self.counters.flow_packets += 1;
        self.feed(now, index, header, packet, out);
        Ok(())
    }

    fn forget_half_open(&mut self, at: u32) {
        self.half_open.remove(at);
        self.counters.half_open = self.half_open.len() as u64;
    }

    /// Makes the connection's socket and lets it repeat the handshake up to where it stands.
    fn complete(&mut self, index: u32, entry: &HalfOpen) {
        self.interface = interface(&self.caps, sequence::seed_for(entry.ours));
        let mut connection = Connection::listen(entry, &self.config);
        let mut packet = [0; BARE_BYTES_MAX];
        let syn = entry.syn();
        syn.emit(&mut packet[..syn.len()], &self.caps.checksum);
        // Its clock is the SYN's, so that the socket measures the round trip as it was.
        let then = instant(entry.since);
        let mut said = Said { bytes: [0; BARE_BYTES_MAX], len: 0 };
        if let Some(sockets) = connection.sockets.as_mut() {
            let mut wire = Wire {
                packet: Some(&packet[..syn.len()]),
                out: &mut said,
                caps: &self.caps,
                counters: &mut Counters::default(),
                mark: &mut connection.mark,
                offer: None,
            };
            self.interface.poll_ingress_single(then, &mut wire, sockets);
            self.interface.poll_egress(then, &mut wire, sockets);
        }
        let state = connection.socket().map(|socket| socket.state());
        assert_eq!(state, Some(State::SynReceived), "a SYN that was found good is taken");
        let tcp = TcpPacket::new_unchecked(&said.bytes[if entry.flow.local.is_ipv4() { 20 } else { 40 }..]);
        assert_eq!(tcp.seq_number(), entry.ours, "the socket draws the number that was promised");
        debug_assert!(self.promised(entry, &said), "the socket offers what was promised");
        self.flows.insert(entry.hash, index);
        self.slots[index as usize].connection = Some(Box::new(connection));
    }

    /// Whether the SYN-ACK sent offered what the socket offers.
    fn promised(&self, entry: &HalfOpen, said: &Said) -> bool {
        let mut packet = [0; BARE_BYTES_MAX];
        let syn_ack = entry.syn_ack(&self.config);
        syn_ack.emit(&mut packet[..syn_ack.len()], &self.caps.checksum);
        SynOptions::parse(&packet[..syn_ack.len()]) == SynOptions::parse(&said.bytes[..said.len])
    }

    /// Sends SYN-ACKs again and forgets handshakes whose time is over.
    pub(crate) fn half_open_timers(&mut self, now: Time, out: &mut impl Egress) {
        let mut due = std::mem::take(&mut self.due);
        self.half_open.expire(now, &mut due);
        for at in due.drain(..) {
            match self.half_open.fire(now, at) {
                Some(Due::Again(entry)) => {
                    self.counters.syn_acks_again += 1;
                    self.send_bare(&entry.syn_ack(&self.config), out);
                }
                Some(Due::Over) => {
                    self.counters.half_open = self.half_open.len() as u64;
                    self.counters.drop(DropReason::HalfOpenTimeout);
                }
                None => {}
            }
        }
        self.due = due;
    }

    /// Sends a segment of a flow without a socket, if there is room.
    pub(crate) fn send_bare(&mut self, bare: &Bare, out: &mut impl Egress) {
        let (caps, counters) = (&self.caps, &mut self.counters);
        let mut wire = Wire { packet: None, out, caps, counters, mark: &mut None, offer: None };
        match wire.transmit(Instant::ZERO) {
            Some(tx) => tx.consume(bare.len(), |packet| bare.emit(packet, &self.caps.checksum)),
            None => self.counters.drop(DropReason::NoRoom),
        }
    }
}

/// Keeps the one packet a socket sends.
struct Said {
    bytes: [u8; BARE_BYTES_MAX],
    len: usize,
}

impl Egress for Said {
    fn room(&mut self) -> bool {
        self.len == 0
    }

    fn packet<R>(&mut self, len: usize, _: u16, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.len = len;
        fill(&mut self.bytes[..len])
    }
}
