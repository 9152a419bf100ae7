//! This worker's load: what waits for the application, and what its requests cost.

use keyferry_decide::{LoadWord, Service, word_interval};
use keyferry_time::Time;

/// Load of one worker.
pub struct Load {
    service: Service,
    slots: u32,
    sequence: u32,
    next: Time,
}

impl Load {
    /// Nothing measured yet.
    pub fn new(slots: u32) -> Load {
        Load { service: Service::default(), slots: slots.max(1), sequence: 0, next: Time::ZERO }
    }

    /// The application works on so many requests at a time from now on.
    pub fn set_slots(&mut self, slots: u32) {
        self.slots = slots.max(1);
    }

    /// A request took the application this long.
    pub fn served(&mut self, service_ns: u64) {
        self.service.served(service_ns);
    }

    /// Work waiting for one slot of the application, in us, with this many requests in the application.
    fn waiting_us(&self, outstanding: usize) -> u32 {
        let waiting =
            self.service.mean_ns().saturating_mul(outstanding as u64) / u64::from(self.slots) / 1_000;
        u32::try_from(waiting).unwrap_or(u32::MAX)
    }

    /// Whether words are to be exchanged now.
    pub fn is_due(&self, now: Time) -> bool {
        self.next.is_due(now)
    }

    /// The load as it is, with this many requests in the application.
    pub fn own(&self, outstanding: usize) -> LoadWord {
        LoadWord {
            sequence: self.sequence,
            waiting_us: self.waiting_us(outstanding),
            service_us: self.service.mean_us(),
            capacity: self.slots,
            outstanding: u32::try_from(outstanding).unwrap_or(u32::MAX),
            ..LoadWord::default()
        }
    }

    /// The next load word for so many peers, but for what differs from one to the other.
    pub fn word(
        &mut self,
        now: Time,
        peers: usize,
        outstanding: usize,
        credits: u32,
        draining: bool,
    ) -> LoadWord {
        self.next = now + word_interval(peers);
        self.sequence = self.sequence.wrapping_add(1).max(1);
        LoadWord { credits, draining, ..self.own(outstanding) }
    }
}
