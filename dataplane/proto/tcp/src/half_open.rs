//! Connections whose handshake is not complete: what is known of each between its SYN and the segment that completes
//! it (RFC 9293 section 3.10.7.4, SYN-RECEIVED).
//!
//! In: flows and what their SYNs said. Out: entries by flow, by age, by timer. Fixed memory made at start, a hundred
//! bytes an entry, so a flood of SYNs costs that much and no more: connections are made when the third segment proves that
//! somebody is there. Owned by a worker's TCP.

use std::time::Duration;

use keyferry_time::{Time, Wheel};

use crate::config::{Config, SYN_ACK_RETRY, TICK};
use crate::connection::Shared;
use crate::cookies;
use crate::draft::{Draft, flag};
use crate::flow::{Flow, FlowTable};
use crate::list::List;
use crate::packet::{Mark, SynOptions, Timestamps};
use crate::seam::Segment;
use crate::sequence::Seq;
use crate::slab::no_hint;

/// Doublings of the time between two SYN-ACKs, at most.
const DOUBLINGS_MAX: u32 = 6;

/// A handshake under way.
#[derive(Clone, Copy)]
pub(crate) struct HalfOpen {
    pub(crate) flow: Flow,
    pub(crate) hash: u32,
    /// When its SYN came.
    pub(crate) since: Time,
    /// Our initial sequence number.
    pub(crate) ours: Seq,
    /// The peer's.
    pub(crate) theirs: Seq,
    pub(crate) options: SynOptions,
    /// Both ends take explicit congestion notification (RFC 3168 section 6.1.1).
    pub(crate) ecn: bool,
    /// Our number says all of this, should the entry have to go: see `cookies`.
    pub(crate) cookie: bool,
    /// SYN-ACKs sent again.
    pub(crate) again: u32,
}

impl HalfOpen {
    /// What the SYN-ACK says.
    pub(crate) fn syn_ack<S: Segment>(&self, now: Time, shared: &Shared<S>) -> Draft {
        let clock = shared.stamp(shared.secret.stamp(&self.flow), now);
        let stamp = if self.cookie { cookies::stamp(clock, self.options, self.ecn) } else { clock };
        let mut draft = Draft::new(&self.flow, flag::SYN, self.ours, Some(self.next()))
            .with_mss(shared.mss(&self.flow))
            .with_window_scale(self.options.window_scale.map(|_| shared.shift))
            .with_sack_permitted(self.options.sack)
            .with_timestamps(
                self.options.timestamps.map(|said| Timestamps { value: stamp, echo: said.value }),
            );
        draft.window = shared.syn_window();
        if self.ecn {
            draft.flags |= flag::ECE;
        }
        draft
    }

    /// The next sequence number expected of the peer.
    pub(crate) fn next(&self) -> Seq {
        self.theirs + 1
    }

    /// Whether the SYN-ACK was sent once only, so that its answer tells the round trip (RFC 6298 section 3).
    pub(crate) fn is_first_try(&self) -> bool {
        self.again == 0
    }

    /// What an acknowledgement outside of the handshake says.
    pub(crate) fn mark(&self) -> Mark {
        Mark { seq: self.ours + 1, ack: self.next(), recent: self.options.timestamps.map(|said| said.value) }
    }
}

/// What a timer that is due asks for.
pub(crate) enum Due {
    /// Send the SYN-ACK again.
    Again(HalfOpen),
    /// Its time is over; it is gone.
    Over,
}

pub(crate) struct HalfOpens {
    table: FlowTable,
    entries: Box<[Option<HalfOpen>]>,
    free: Vec<u32>,
    /// Those whose number says all of them, oldest first: they may go, the others would be refused when they come back.
    cookies: List,
    wheel: Wheel,
    timeout: Duration,
}

impl HalfOpens {
    pub(crate) fn new(config: &Config) -> HalfOpens {
        let count = config.half_open.max(1);
        HalfOpens {
            table: FlowTable::new(count, no_hint),
            entries: vec![None; count as usize].into(),
            free: (0..count).rev().collect(),
            cookies: List::new(count, no_hint),
            wheel: Wheel::new(count, TICK),
            timeout: config.half_open_timeout,
        }
    }

    /// How long handshakes that begin from now on may take.
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    pub(crate) fn find(&self, hash: u32, flow: &Flow) -> Option<u32> {
        self.table.find(hash, |at| self.entries[at as usize].is_some_and(|entry| entry.flow == *flow))
    }

    pub(crate) fn entry(&self, at: u32) -> Option<HalfOpen> {
        self.entries[at as usize]
    }

    /// Whether the next handshake takes the place of another.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Adds a handshake. Answers whether one was forgotten: the oldest whose peer remembers it, or without such a one the
    /// new one itself.
    pub(crate) fn insert(&mut self, now: Time, entry: HalfOpen) -> bool {
        let forgets = self.free.is_empty();
        if forgets && let Some(oldest) = self.cookies.front() {
            self.remove(oldest);
        }
        let Some(at) = self.free.pop() else { return true };
        self.entries[at as usize] = Some(entry);
        self.table.insert(entry.hash, at);
        if entry.cookie {
            self.cookies.push_back(at);
        }
        self.wheel.set(at, now + SYN_ACK_RETRY.min(self.timeout));
        forgets
    }

    pub(crate) fn remove(&mut self, at: u32) {
        if let Some(entry) = self.entries[at as usize].take() {
            self.table.remove(entry.hash, at);
            self.cookies.remove(at);
            self.wheel.cancel(at);
            self.free.push(at);
        }
    }

    pub(crate) fn expire(&mut self, now: Time, due: &mut Vec<u32>) {
        self.wheel.expire(now, |at| due.push(at));
    }

    /// What is to be done about an entry whose timer fired.
    pub(crate) fn fire(&mut self, now: Time, at: u32) -> Option<Due> {
        let entry = self.entries[at as usize].as_mut()?;
        let end = entry.since + self.timeout;
        if end.is_due(now) {
            self.remove(at);
            return Some(Due::Over);
        }
        entry.again += 1;
        let next = now + SYN_ACK_RETRY * (1 << entry.again.min(DOUBLINGS_MAX));
        self.wheel.set(at, next.min(end));
        Some(Due::Again(*entry))
    }

    pub(crate) fn next_deadline(&self) -> Option<Time> {
        self.wheel.next()
    }
}
