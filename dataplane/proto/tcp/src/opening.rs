//! Handshakes: a SYN answered without a connection, and a connection made when the third segment comes.
//!
//! In: packets of no connection. Out: SYN-ACKs, new connections with everything they would know had they taken part from
//! the start. Part of a worker's TCP.

use keyferry_time::Time;

use crate::connection::Connection;
use crate::counters::DropReason;
use crate::half_open::{Due, HalfOpen};
use crate::packet::{Header, SynOptions};
use crate::seam::{Egress, Segment, Tcp};
use crate::sequence;

impl<S: Segment> Tcp<S> {
    /// Answers a SYN and remembers it. At the limit what is answered says itself what was agreed (see `cookies`), and only
    /// such handshakes are forgotten, so that an honest peer completes its own whenever it began.
    pub(crate) fn offer(
        &mut self,
        now: Time,
        header: &Header,
        hash: u32,
        packet: &[u8],
        out: &mut impl Egress<S>,
    ) -> Result<(), DropReason> {
        let options = SynOptions::parse(header, packet);
        if self.free.is_empty() {
            return Err(DropReason::ConnectionsFull);
        }
        // RFC 3168 section 6.1.1: a SYN asks with both flags.
        let ecn = self.shared.tuning.ecn && header.ece && header.cwr;
        let flow = header.flow;
        let cookie = self.half_open.is_full();
        let ours = if cookie {
            self.cookies.make(now, &flow, header.seq, options.mss, self.shared.secret)
        } else {
            sequence::initial(self.shared.secret, &flow, now)
        };
        let entry =
            HalfOpen { flow, hash, since: now, ours, theirs: header.seq, options, ecn, cookie, again: 0 };
        let counters = &mut self.shared.counters;
        if self.half_open.insert(now, entry) {
            counters.drop(DropReason::HalfOpenEvicted);
        }
        counters.accepted += 1;
        counters.handshake_packets += 1;
        counters.half_open = self.half_open.len() as u64;
        self.send_bare(&entry.syn_ack(now, &self.shared), out);
        Ok(())
    }

    /// A packet of a handshake under way (RFC 9293 section 3.10.7.4, RFC 5961 sections 3 and 4).
    pub(crate) fn handshake(
        &mut self,
        now: Time,
        at: u32,
        header: &Header,
        packet: &[u8],
        out: &mut impl Egress<S>,
    ) -> Result<(), DropReason> {
        let Some(entry) = self.half_open.entry(at) else { return Err(DropReason::Stray) };
        if header.rst {
            if header.seq != entry.next() {
                return Err(DropReason::Unacceptable);
            }
            self.forget_half_open(at);
            self.shared.counters.handshake_packets += 1;
            self.shared.counters.drop(DropReason::HalfOpenReset);
            return Ok(());
        }
        if header.is_open_request() && header.seq == entry.theirs {
            self.shared.counters.handshake_packets += 1;
            self.shared.counters.syn_acks_again += 1;
            self.send_bare(&entry.syn_ack(now, &self.shared), out);
            return Ok(());
        }
        let window = u32::from(self.shared.syn_window());
        if header.syn || !header.ack || !header.is_acceptable(entry.next(), window) {
            // A peer that began anew answers this with the reset that ends the old handshake.
            self.send_bare(&self.acknowledgement(now, &entry.flow, entry.mark()), out);
            return Err(DropReason::Unacceptable);
        }
        if header.acknowledges != entry.ours + 1 {
            // Its SYN came twice, and the table was full the first time.
            if let Some(first) = self.cookies.open(now, header, entry.hash, packet, &self.shared) {
                self.forget_half_open(at);
                return self.take_cookie(now, &first, header, packet, out);
            }
            self.refuse(header, out);
            return Err(DropReason::Stray);
        }
        // The handshake stays: its SYN-ACK sent again asks the peer for this segment once more.
        let index = self.place()?;
        self.forget_half_open(at);
        self.complete(now, index, &entry);
        self.shared.counters.flow_packets += 1;
        self.feed(now, index, header, packet, out);
        Ok(())
    }

    fn forget_half_open(&mut self, at: u32) {
        self.half_open.remove(at);
        self.shared.counters.half_open = self.half_open.len() as u64;
    }

    /// A place for a new connection: there is none while the caller leaves many unnoticed.
    fn place(&mut self) -> Result<u32, DropReason> {
        if self.unnoticed >= self.shared.tuning.accept_queue {
            return Err(DropReason::ConnectionsFull);
        }
        self.free.pop().ok_or(DropReason::ConnectionsFull)
    }

    /// A third segment whose handshake is forgotten, but says itself what was agreed.
    pub(crate) fn take_cookie(
        &mut self,
        now: Time,
        entry: &HalfOpen,
        header: &Header,
        packet: &[u8],
        out: &mut impl Egress<S>,
    ) -> Result<(), DropReason> {
        let index = self.place()?;
        self.complete(now, index, entry);
        self.shared.counters.cookies += 1;
        self.shared.counters.flow_packets += 1;
        self.feed(now, index, header, packet, out);
        Ok(())
    }

    /// Makes the connection.
    fn complete(&mut self, now: Time, index: u32, entry: &HalfOpen) {
        let connection = Connection::accept(entry, now, &self.shared);
        self.shared.counters.opened += 1;
        self.unnoticed += 1;
        self.flows.insert(entry.hash, index);
        self.slots.grow_to(index as usize);
        self.slots[index as usize].connection = Some(connection);
        self.ready.push_back(index);
    }

    /// Sends SYN-ACKs again and forgets handshakes whose time is over.
    pub(crate) fn half_open_timers(&mut self, now: Time, out: &mut impl Egress<S>) {
        let mut due = std::mem::take(&mut self.due);
        self.half_open.expire(now, &mut due);
        for at in due.drain(..) {
            match self.half_open.fire(now, at) {
                Some(Due::Again(entry)) => {
                    self.shared.counters.syn_acks_again += 1;
                    self.send_bare(&entry.syn_ack(now, &self.shared), out);
                }
                Some(Due::Over) => {
                    self.shared.counters.half_open = self.half_open.len() as u64;
                    self.shared.counters.drop(DropReason::HalfOpenTimeout);
                }
                None => {}
            }
        }
        self.due = due;
    }
}
