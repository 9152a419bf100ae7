//! Packets in: to the connection they belong to, to a handshake, or to none.
//!
//! In: IP packets for our addresses. Out: events, and answers such as RST through the [`Egress`]. Part of a
//! worker's TCP.
//!
//! Of a burst all packets may be read first, then all looked for, then all taken in: the state of a million connections is
//! in no cache, and so a burst waits for memory a few times and not a dozen times a packet. `ahead` is told of the memory
//! that the next step reads. Nothing changes before the third step, which looks again.

use keyferry_time::Time;

use crate::arrive::{Verdict, reset, send};
use crate::config::RxChecksum;
use crate::counters::DropReason;
use crate::draft::{Draft, flag};
use crate::flow::Flow;
use crate::packet::{self, Header, Mark, Timestamps};
use crate::seam::{Egress, Segment, Tcp};
use crate::time_wait;

/// A packet whose headers were read.
pub struct Arrived {
    header: Header,
    hash: u32,
}

impl<S: Segment> Tcp<S> {
    /// Takes an IP packet with TCP. `checksum_good`: the port vouches for its IP and TCP checksums.
    pub fn ingest(&mut self, now: Time, packet: &mut [u8], checksum_good: bool, out: &mut impl Egress<S>) {
        if let Some(arrived) = self.read(packet, checksum_good, |_| ()) {
            self.take(now, packet, &arrived, out);
        }
    }

    /// Reads an IP packet with TCP; one that is none is counted, and `None`.
    pub fn read(&mut self, packet: &[u8], checksum_good: bool, ahead: impl Fn(*const u8)) -> Option<Arrived> {
        self.shared.counters.packets_in += 1;
        let verify = self.shared.config.rx_checksum == RxChecksum::Verify || !checksum_good;
        match Header::parse(packet, verify) {
            Ok(header) => {
                let hash = self.shared.secret.hash(&header.flow);
                self.flows.ahead(hash, ahead);
                Some(Arrived { header, hash })
            }
            Err(reason) => {
                self.shared.counters.drop(reason);
                None
            }
        }
    }

    /// Looks which connection a packet may be for: its place, for side tables.
    pub fn spot(&self, arrived: &Arrived, ahead: impl Fn(*const u8)) -> Option<usize> {
        let index = self.flows.find(arrived.hash, |_| true)?;
        self.slots.ahead(index as usize, &ahead);
        for list in [&self.dirty, &self.ready, &self.releasing] {
            list.ahead(index, &ahead);
        }
        self.wheel.ahead(index, &ahead);
        Some(index as usize)
    }

    /// Takes in a packet that was read.
    pub fn take(&mut self, now: Time, packet: &[u8], arrived: &Arrived, out: &mut impl Egress<S>) {
        self.shared.now = now;
        if let Err(reason) = self.sort(now, packet, arrived, out) {
            self.shared.counters.drop(reason);
        }
    }

    fn sort(
        &mut self,
        now: Time,
        packet: &[u8],
        Arrived { header, hash }: &Arrived,
        out: &mut impl Egress<S>,
    ) -> Result<(), DropReason> {
        let hash = *hash;
        if let Some(index) = self.find(hash, &header.flow) {
            return match self.feed(now, index, header, packet, out) {
                true => {
                    self.shared.counters.flow_packets += 1;
                    Ok(())
                }
                false => Err(DropReason::Unacceptable),
            };
        }
        if !self.shared.config.addresses.contains(&header.flow.local.ip()) {
            return Err(DropReason::OtherAddress);
        }
        if let Some(at) = self.half_open.find(hash, &header.flow) {
            return self.handshake(now, at, header, packet, out);
        }
        match self.time_wait.ingest(now, header, hash, packet) {
            time_wait::Verdict::Ignore => return Err(DropReason::TimeWait),
            time_wait::Verdict::Acknowledge(mark) => {
                self.shared.counters.time_wait_packets += 1;
                self.send_bare(&self.acknowledgement(now, &header.flow, mark), out);
                return Ok(());
            }
            time_wait::Verdict::Unknown => {}
        }
        let listening = self.shared.config.ports.contains(&header.flow.local.port());
        if !header.is_open_request() {
            if listening && let Some(entry) = self.cookies.open(now, header, hash, packet, &self.shared) {
                return self.take_cookie(now, &entry, header, packet, out);
            }
            // It may have overtaken a third segment, which alone can be told from nothing: a reset would end what is about to
            // begin.
            if listening && header.len() > 0 && self.cookies.are_out(now) {
                return Err(DropReason::Stray);
            }
            self.refuse(header, out);
            return Err(DropReason::Stray);
        }
        if !listening {
            self.refuse(header, out);
            return Err(DropReason::PortClosed);
        }
        self.offer(now, header, hash, packet, out)
    }

    pub(crate) fn find(&self, hash: u32, flow: &Flow) -> Option<u32> {
        let same = |index: u32| {
            self.slots[index as usize].connection.as_ref().is_some_and(|connection| connection.flow == *flow)
        };
        self.flows.find(hash, same)
    }

    /// Gives a packet to its connection and takes note of what changed. Answers whether the segment was acceptable.
    pub(crate) fn feed(
        &mut self,
        now: Time,
        index: u32,
        header: &Header,
        packet: &[u8],
        out: &mut impl Egress<S>,
    ) -> bool {
        let mut verdict = self.arrive(now, index, header, packet, out);
        if verdict == Verdict::NoMemory && self.evict(index) {
            verdict = self.arrive(now, index, header, packet, out);
        }
        if let Verdict::Ended(reason) = verdict {
            self.die(index, reason);
        } else {
            self.dirty.push_back(index);
        }
        verdict != Verdict::Unacceptable
    }

    fn arrive(
        &mut self,
        now: Time,
        index: u32,
        header: &Header,
        packet: &[u8],
        out: &mut impl Egress<S>,
    ) -> Verdict {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return Verdict::Unacceptable;
        };
        let verdict = connection.arrive(now, header, packet, &mut self.shared, out);
        if connection.pending != Default::default() {
            self.ready.push_back(index);
        }
        if connection.done() > 0 {
            self.releasing.push_back(index);
        }
        if connection.receive.is_all_out_of_order() {
            self.holes.push_back(index);
        } else if !self.holes.is_empty() {
            self.holes.remove(index);
        }
        verdict
    }

    /// Takes memory from the connection that has held bytes out of order for longest, and no others: its peer sends them
    /// again (RFC 2018 section 8). Each comes to the end of the line again with its next such bytes, so all have their
    /// turn. Answers whether there was one.
    fn evict(&mut self, but: u32) -> bool {
        let Some(index) = self.holes.front().filter(|index| *index != but) else { return false };
        self.holes.remove(index);
        if let Some(connection) = self.slots[index as usize].connection.as_mut() {
            connection.receive.renege(&mut self.shared.buffers);
            self.shared.counters.reneged += 1;
        }
        true
    }

    /// Answers a packet of no connection with RST (RFC 9293 section 3.10.7.1), but not another RST.
    pub(crate) fn refuse(&mut self, header: &Header, out: &mut impl Egress<S>) {
        if !header.rst {
            self.send_bare(&reset(&header.flow, header), out);
        }
    }

    /// Sends a segment of a flow without a connection, if there is room.
    pub(crate) fn send_bare(&mut self, draft: &Draft, out: &mut impl Egress<S>) {
        if out.room() {
            send(draft, &mut self.shared, out);
        } else {
            self.shared.counters.drop(DropReason::NoRoom);
        }
    }

    /// An acknowledgement of a flow without a connection.
    pub(crate) fn acknowledgement(&self, now: Time, flow: &Flow, mark: Mark) -> Draft {
        let value = self.shared.stamp(self.shared.secret.stamp(flow), now);
        let timestamps = mark.recent.map(|echo| Timestamps { value, echo });
        Draft::new(flow, flag::ACK, mark.seq, Some(mark.ack)).with_timestamps(timestamps)
    }

    /// A router says that a packet of ours was too big for it, and how large one may be, or 0 (RFC 1191 section 4, RFC 8201
    /// section 4): `quoted` is what it returns of the packet. A report of what is not under way is not believed
    /// (RFC 5927 section 4.1).
    pub fn too_big(&mut self, now: Time, quoted: &[u8], mtu: u32) {
        self.shared.now = now;
        match self.find_too_big(now, quoted, mtu) {
            Some(index) => {
                self.shared.counters.path_mtu_told += 1;
                self.dirty.push_back(index);
            }
            None => self.shared.counters.path_mtu_ignored += 1,
        }
    }

    /// The connection that a report is news to.
    fn find_too_big(&mut self, now: Time, quoted: &[u8], mtu: u32) -> Option<u32> {
        let quoted = packet::quoted(quoted)?;
        let index = self.find(self.shared.secret.hash(&quoted.flow), &quoted.flow)?;
        let connection = self.slots[index as usize].connection.as_mut()?;
        let is_under_way = connection.una <= quoted.seq && quoted.seq < connection.nxt;
        (is_under_way && connection.too_big(now, quoted.len, mtu)).then_some(index)
    }
}
