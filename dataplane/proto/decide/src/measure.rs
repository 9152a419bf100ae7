//! What a node measures to decide by: its requests' service time, and what lending to each peer has really taken.
//!
//! In: durations, as they are known. Out: running averages in us. Owned by a worker.

use std::time::Duration;

/// Weight of the newest of many service times in their average: 1 / 2^this. Small: one long request among short ones
/// must not make the next ones look long.
const SERVICE_SHIFT: u32 = 6;

/// Running average of the time a request takes of the application.
#[derive(Clone, Copy, Debug, Default)]
pub struct Service {
    mean_ns: u64,
    /// Times seen, up to as many as the average is over.
    seen: u64,
}

impl Service {
    /// A request took this long. The first ones are averaged evenly, so that few are enough for a first figure.
    pub fn served(&mut self, service_ns: u64) {
        self.seen = (self.seen + 1).min(1 << SERVICE_SHIFT);
        self.mean_ns = self.mean_ns - self.mean_ns / self.seen + service_ns / self.seen;
    }

    /// The average, in ns; 0 until something was measured.
    pub fn mean_ns(&self) -> u64 {
        self.mean_ns
    }

    /// The average, in us.
    pub fn mean_us(&self) -> u32 {
        u32::try_from(self.mean_ns / 1_000).unwrap_or(u32::MAX)
    }
}

/// Weight of the newest lent request in a peer's lateness: 1 / 2^this. Service times are in it, which differ.
const LATE_SHIFT: u32 = 5;

/// Weight of the newest exchange in the cost: 1 / 2^this. More, so that few moves are made that cost too much.
const COST_SHIFT: u32 = 3;

/// What is forgotten with each word of the peer: 1 / 2^this. A peer that is lent nothing because of what was measured
/// has to be tried again some time; at a word each 200 us half is forgotten in about two seconds.
const FADE_SHIFT: u32 = 14;

/// No request is taken to be later than this, nor to cost more.
const NS_MAX: u64 = 1_000_000_000;

/// What lending to one peer has taken, against what its load words promise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lent {
    late_ns: u64,
    cost_ns: u64,
}

impl Lent {
    /// A reply is ready at the peer, so long after its request was granted; `expected_us` was thought then. Up to here,
    /// because the rest is the client's time in a long reply.
    pub fn ready(&mut self, expected_us: u32, took: Duration) {
        let expected = u64::from(expected_us) * 1_000;
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // A request of a heavy tail says little about the next one.
        let late = took.min(expected.saturating_mul(4)).min(NS_MAX) as i64 - expected.min(NS_MAX) as i64;
        let mean = self.late_ns as i64;
        self.late_ns = (mean + (late - mean) / (1 << LATE_SHIFT)).max(0) as u64;
    }

    /// From a claim to its return there was only the exchange and the sealing: half of what a move adds, since the
    /// grant and the claim travel too.
    pub fn exchanged(&mut self, took: Duration) {
        let cost = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).min(NS_MAX / 2) * 2;
        self.cost_ns = self.cost_ns - (self.cost_ns >> COST_SHIFT) + (cost >> COST_SHIFT);
    }

    /// A word of the peer came.
    pub fn fade(&mut self) {
        self.late_ns -= self.late_ns.div_ceil(1 << FADE_SHIFT);
        self.cost_ns -= self.cost_ns.div_ceil(1 << FADE_SHIFT);
    }

    /// How much later replies are ready than the peer's words promise.
    pub fn late_us(&self) -> u32 {
        (self.late_ns / 1_000) as u32
    }

    /// What a move costs.
    pub fn cost_us(&self) -> u32 {
        (self.cost_ns / 1_000) as u32
    }
}
