//! How long an end may be silent that owes something, by the RFCs' timers and what has arrived of its packets.
//!
//! In: what the relay sees an end send, and what it hands to it. Out: when it has to have spoken. It knows nothing of what
//! an end thinks, only what RFC 6298 makes of the round trips the relay saw: a time-out of at least a second (section
//! 2.4), doubled each time nothing was heard (section 5.5), for closed windows too (RFC 9293 section 3.8.6.1), and an
//! acknowledgement within 500 ms (section 3.8.6.3).

use std::collections::VecDeque;
use std::time::Duration;

use keyferry_time::Time;

use super::segment::Seen;

/// Least time-out, and the one before there is a round trip (RFC 6298 sections 2.1 and 2.4).
const TIMEOUT_MIN_NS: u64 = 1_000_000_000;
/// The longest one (section 2.5).
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// Silence that a timer ended, and not an answer of the peer.
const QUIET: Duration = Duration::from_millis(150);
/// Longest delay of an acknowledgement.
const ACK_MAX: Duration = Duration::from_millis(500);

/// What the relay knows of one end.
#[derive(Default)]
pub struct Patience {
    first: Option<u32>,
    /// Ends of what it has sent, what of it is acknowledged and what it may send, as it has heard; from its SYN on.
    pub sent: u64,
    pub heard: u64,
    edge: u64,
    shift: u8,
    /// When it last sent what takes numbers, or a probe; and when it last heard what moves it on.
    spoke: Time,
    news: Time,
    /// Linux puts the probe of a window off with each segment that comes (tcp_ack_probe).
    postpones: bool,
    /// When it last owed nothing.
    rested: Time,
    doublings: u32,
    /// Ends of what it has sent, and when it did first.
    timing: VecDeque<(u64, Time)>,
    smoothed_ns: u64,
    variance_ns: u64,
    worst_ns: u64,
    /// The number it expects, as it has said, and by when it owes an acknowledgement.
    expects: u32,
    answer: Option<Time>,
}

impl Patience {
    /// Of Linux's end.
    pub fn of_linux() -> Patience {
        Patience { postpones: true, ..Patience::default() }
    }

    /// It sent a segment.
    pub fn speaks(&mut self, now: Time, seen: &Seen) {
        if seen.acks {
            self.expects = seen.ack;
            self.answer = None;
        }
        let first = *self.first.get_or_insert(seen.seq);
        let at = extend(self.heard, first, seen.seq);
        let end = at + u64::from(seen.numbers());
        if end == at && at >= self.heard {
            return;
        }
        let quiet = now.ns_since(self.spoke.max(self.news)) > QUIET.as_nanos() as u64;
        if quiet && self.sent > 0 {
            self.doublings += 1;
        }
        self.spoke = now;
        if end > self.sent {
            self.timing.push_back((end, now));
            self.sent = end;
        }
    }

    /// It was handed a segment whose window is shifted by `shift` bits.
    pub fn hears(&mut self, now: Time, seen: &Seen, shift: u8) {
        let in_order = seen.seq.wrapping_sub(self.expects) as i32 <= 0
            && (seen.seq.wrapping_add(seen.len).wrapping_sub(self.expects)) as i32 > 0;
        if in_order && self.answer.is_none() {
            self.answer = Some(now + ACK_MAX);
        }
        let Some(first) = self.first.filter(|_| seen.acks) else { return };
        self.shift = shift;
        let ack = extend(self.heard, first, seen.ack);
        let edge = ack + (u64::from(seen.window) << if seen.syn { 0 } else { shift });
        if ack < self.heard || ack > self.sent {
            return;
        }
        if ack > self.heard || edge != self.edge {
            (self.news, self.doublings) = (now, 0);
        } else if self.postpones && ack == self.sent {
            self.news = now;
        }
        (self.heard, self.edge) = (ack, edge);
        let covered = self.timing.partition_point(|(end, _)| *end <= ack);
        let oldest = self.timing.drain(..covered).next();
        if let Some((_, since)) = oldest {
            self.sample(now.ns_since(since));
        }
    }

    /// RFC 6298 sections 2.2 and 2.3 for each acknowledgement, but that what was sent again counts from the first time: it is
    /// to be the largest time-out that an end may have.
    fn sample(&mut self, ns: u64) {
        if self.smoothed_ns == 0 {
            (self.smoothed_ns, self.variance_ns) = (ns, ns / 2);
        } else {
            self.variance_ns = (3 * self.variance_ns + self.smoothed_ns.abs_diff(ns)) / 4;
            self.smoothed_ns = (7 * self.smoothed_ns + ns) / 8;
        }
        self.worst_ns = self.worst_ns.max(self.smoothed_ns + 4 * self.variance_ns);
    }

    /// By when it has to have sent something, if it wants to have sent all before `wanted` or wants to hear of it.
    pub fn due(&mut self, now: Time, wanted: u64) -> Option<Time> {
        if self.first.is_none() || self.heard >= wanted.max(self.sent) {
            self.rested = now;
            return None;
        }
        let timeout = Duration::from_nanos(self.worst_ns.max(TIMEOUT_MIN_NS));
        let timeout = timeout.saturating_mul(1 << self.doublings.min(6)).min(TIMEOUT_MAX);
        Some(self.spoke.max(self.news).max(self.rested) + timeout)
    }

    /// By when it has to have acknowledged something.
    pub fn answer_due(&self) -> Option<Time> {
        self.answer
    }
}

impl std::fmt::Display for Patience {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            f,
            "sent {} heard {} edge {} spoke {:.3} news {:.3} doublings {} worst time-out {} ms",
            self.sent,
            self.heard,
            self.edge,
            self.spoke.0 as f64 / 1e9,
            self.news.0 as f64 / 1e9,
            self.doublings,
            self.worst_ns.max(TIMEOUT_MIN_NS) / 1_000_000
        )
    }
}

/// A number as a place in the stream, which is near `near`.
fn extend(near: u64, first: u32, number: u32) -> u64 {
    let offset = number.wrapping_sub(first).wrapping_sub(near as u32) as i32;
    near.saturating_add_signed(i64::from(offset))
}
