//! This worker's load: what waits for the application, and what its requests cost.

use std::time::Duration;

use keyferry_decide::LoadWord;
use keyferry_time::Time;

/// How often load words are exchanged.
const INTERVAL: Duration = Duration::from_micros(200);

/// Weight of the newest service time in the running average: 1 / 2^this.
const AVERAGE_SHIFT: u32 = 4;

/// Load of one worker.
pub struct Load {
    /// Running average of the service time, in ns.
    service_ns: u64,
    slots: u32,
    sequence: u32,
    next: Time,
}

impl Load {
    /// Nothing measured yet.
    pub fn new(slots: u32) -> Load {
        Load { service_ns: 0, slots: slots.max(1), sequence: 0, next: Time::ZERO }
    }

    /// A request took the application this long.
    pub fn served(&mut self, service_ns: u64) {
        let old = self.service_ns - (self.service_ns >> AVERAGE_SHIFT);
        self.service_ns = old + (service_ns >> AVERAGE_SHIFT);
    }

    /// Work waiting for one slot of the application, in us, with this many requests in the application.
    pub fn waiting_us(&self, outstanding: usize) -> u32 {
        let waiting = self.service_ns.saturating_mul(outstanding as u64) / u64::from(self.slots) / 1_000;
        u32::try_from(waiting).unwrap_or(u32::MAX)
    }

    /// Whether words are to be exchanged now.
    pub fn is_due(&self, now: Time) -> bool {
        self.next.is_due(now)
    }

    /// The next load word.
    pub fn word(&mut self, now: Time, outstanding: usize, credits: u32, draining: bool) -> LoadWord {
        self.next = now + INTERVAL;
        self.sequence = self.sequence.wrapping_add(1).max(1);
        LoadWord {
            sequence: self.sequence,
            waiting_us: self.waiting_us(outstanding),
            service_us: u32::try_from(self.service_ns / 1_000).unwrap_or(u32::MAX),
            capacity: self.slots,
            credits,
            draining,
        }
    }
}
