//! TIME-WAIT without connections: what is left of one that both sides closed (RFC 9293 section 3.6.1).
//!
//! In: flows as they end, packets that belong to none alive. Out: what to do with such a packet. Owned by a
//! worker's TCP; fixed memory, half a hundred bytes an entry, the oldest makes room for the newest.

use std::net::{IpAddr, Ipv6Addr};

use keyferry_time::Time;

use crate::config::TIME_WAIT;
use crate::flow::{Flow, FlowTable};
use crate::packet::{Header, Mark, SynOptions};
use crate::sequence::Seq;
use crate::slab::no_hint;

/// A tick of the table's clock, so coarse that 32 bits last for years.
const TICK_NS: u64 = 16_000_000;

/// One flow, as few bytes as tell it from others.
#[derive(Clone, Copy)]
struct Entry {
    peer: [u8; 16],
    ports: [u16; 2],
    hash: u32,
    local: u32,
    seq: Seq,
    ack: Seq,
    recent: u32,
    until: u32,
    stamped: bool,
    live: bool,
}

const _: () = assert!(size_of::<Entry>() < 64);

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Enough of one of our addresses to tell it from the others.
fn digest(address: IpAddr) -> u32 {
    let bits = u128::from(Ipv6Addr::from(octets(address)));
    (bits ^ (bits >> 32) ^ (bits >> 64) ^ (bits >> 96)) as u32
}

impl Entry {
    fn is(&self, flow: &Flow) -> bool {
        self.live
            && self.ports == [flow.peer.port(), flow.local.port()]
            && self.peer == octets(flow.peer.ip())
            && self.local == digest(flow.local.ip())
    }

    fn mark(&self) -> Mark {
        Mark { seq: self.seq, ack: self.ack, recent: self.stamped.then_some(self.recent) }
    }

    fn is_due(&self, now: Time) -> bool {
        (self.until.wrapping_sub((now.0 / TICK_NS) as u32) as i32) <= 0
    }

    /// Whether a SYN may begin a new connection though this one's segments may still be under way (RFC 6191 section 2).
    fn gives_way(&self, header: &Header, packet: &[u8]) -> bool {
        let later = header.seq > self.ack;
        match SynOptions::parse(header, packet).timestamps {
            Some(_) if !self.stamped => true,
            Some(said) => match said.value.wrapping_sub(self.recent) as i32 {
                0 => later,
                ahead => ahead > 0,
            },
            None => later,
        }
    }
}

/// What to do with a packet of a flow in TIME-WAIT.
pub(crate) enum Verdict {
    /// The flow is not in TIME-WAIT, or no longer.
    Unknown,
    /// Nothing.
    Ignore,
    /// Acknowledge: the peer missed our last acknowledgement.
    Acknowledge(Mark),
}

pub(crate) struct TimeWait {
    table: FlowTable,
    /// A ring, oldest first.
    entries: Box<[Option<Entry>]>,
    oldest: usize,
    len: usize,
    live: u64,
}

impl TimeWait {
    pub(crate) fn new(flows: u32) -> TimeWait {
        let flows = flows.max(1);
        TimeWait {
            table: FlowTable::new(flows, no_hint),
            entries: vec![None; flows as usize].into(),
            oldest: 0,
            len: 0,
            live: 0,
        }
    }

    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    pub(crate) fn insert(&mut self, now: Time, flow: &Flow, hash: u32, mark: Mark) {
        self.expire(now);
        if self.len == self.entries.len() {
            self.drop_oldest();
        }
        let at = (self.oldest + self.len) % self.entries.len();
        self.entries[at] = Some(Entry {
            peer: octets(flow.peer.ip()),
            ports: [flow.peer.port(), flow.local.port()],
            hash,
            local: digest(flow.local.ip()),
            seq: mark.seq,
            ack: mark.ack,
            recent: mark.recent.unwrap_or_default(),
            until: ((now + TIME_WAIT).0 / TICK_NS) as u32,
            stamped: mark.recent.is_some(),
            live: true,
        });
        self.table.insert(hash, at as u32);
        self.len += 1;
        self.live += 1;
    }

    fn find(&self, hash: u32, flow: &Flow) -> Option<(u32, Entry)> {
        let same = |at: u32| self.entries[at as usize].is_some_and(|entry| entry.is(flow));
        let at = self.table.find(hash, same)?;
        self.entries[at as usize].map(|entry| (at, entry))
    }

    pub(crate) fn ingest(&mut self, now: Time, header: &Header, hash: u32, packet: &[u8]) -> Verdict {
        if self.live == 0 {
            return Verdict::Unknown;
        }
        self.expire(now);
        let Some((_, entry)) = self.find(hash, &header.flow) else {
            return Verdict::Unknown;
        };
        if header.is_open_request() && entry.gives_way(header, packet) {
            self.forget(hash, &header.flow);
            return Verdict::Unknown;
        }
        // An old RST must not end TIME-WAIT (RFC 1337). A bare acknowledgement needs no answer, and answering it
        // could go on for ever.
        if header.rst || (!header.syn && !header.fin && header.payload == 0) {
            return Verdict::Ignore;
        }
        Verdict::Acknowledge(entry.mark())
    }

    /// Ends a flow's TIME-WAIT: it begins anew.
    pub(crate) fn forget(&mut self, hash: u32, flow: &Flow) {
        let Some((at, _)) = self.find(hash, flow) else { return };
        if let Some(entry) = self.entries[at as usize].as_mut() {
            entry.live = false;
            self.live -= 1;
            self.table.remove(hash, at);
        }
    }

    pub(crate) fn expire(&mut self, now: Time) {
        while self.len > 0 && self.entries[self.oldest].is_none_or(|entry| !entry.live || entry.is_due(now)) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(entry) = self.entries[self.oldest].take()
            && entry.live
        {
            self.table.remove(entry.hash, self.oldest as u32);
            self.live -= 1;
        }
        self.oldest = (self.oldest + 1) % self.entries.len();
        self.len -= 1;
    }
}
