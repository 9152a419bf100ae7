//! TIME-WAIT without connections: what is left of a connection that both sides closed (RFC 9293 section 3.6.1).
//!
//! In: flows as they end, packets that belong to none alive. Out: what to do with such a packet. Owned by a
//! worker's TCP; fixed memory, the oldest makes room for the newest.

use keyferry_time::Time;

use crate::config::TIME_WAIT;
use crate::flow::{Flow, FlowTable};
use crate::packet::{Header, Mark};

#[derive(Clone, Copy)]
struct Entry {
    flow: Flow,
    hash: u32,
    mark: Mark,
    until: Time,
    live: bool,
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
            table: FlowTable::new(flows),
            entries: vec![None; flows as usize].into(),
            oldest: 0,
            len: 0,
            live: 0,
        }
    }

    pub(crate) fn live(&self) -> u64 {
        self.live
    }

    pub(crate) fn insert(&mut self, now: Time, flow: Flow, hash: u32, mark: Mark) {
        self.expire(now);
        if self.len == self.entries.len() {
            self.drop_oldest();
        }
        let at = (self.oldest + self.len) % self.entries.len();
        self.entries[at] = Some(Entry { flow, hash, mark, until: now + TIME_WAIT, live: true });
        self.table.insert(hash, at as u32);
        self.len += 1;
        self.live += 1;
    }

    pub(crate) fn ingest(&mut self, now: Time, header: &Header, hash: u32, _packet: &[u8]) -> Verdict {
        if self.live == 0 {
            return Verdict::Unknown;
        }
        self.expire(now);
        let same = |at: u32| self.entries[at as usize].is_some_and(|entry| entry.flow == header.flow);
        let Some(at) = self.table.find(hash, same) else {
            return Verdict::Unknown;
        };
        let Some(entry) = self.entries[at as usize] else {
            return Verdict::Unknown;
        };
        // A new connection may begin where the old one ended (RFC 9293 section 3.6.1, RFC 1122 section 4.2.2.13).
        if header.is_open_request() && header.seq > entry.mark.ack {
            self.forget(hash, &header.flow);
            return Verdict::Unknown;
        }
        // An old RST must not end TIME-WAIT (RFC 1337). A bare acknowledgement needs no answer, and answering it
        // could go on for ever.
        if header.rst || (!header.syn && !header.fin && header.payload == 0) {
            return Verdict::Ignore;
        }
        Verdict::Acknowledge(entry.mark)
    }

    /// Ends a flow's TIME-WAIT: it begins anew.
    pub(crate) fn forget(&mut self, hash: u32, flow: &Flow) {
        let same = |at: u32| self.entries[at as usize].is_some_and(|entry| entry.flow == *flow);
        let Some(at) = self.table.find(hash, same) else { return };
        if let Some(entry) = self.entries[at as usize].as_mut() {
            entry.live = false;
            self.live -= 1;
            self.table.remove(hash, at);
        }
    }

    pub(crate) fn expire(&mut self, now: Time) {
        while self.len > 0
            && self.entries[self.oldest].is_none_or(|entry| !entry.live || entry.until.is_due(now))
        {
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
