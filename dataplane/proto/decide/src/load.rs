//! The load word: what a node tells the others about its load, by a one-sided WRITE of one cache line.
//!
//! RDMA promises no atomicity beyond 8 bytes, so the sequence number stands at both ends of the line and a sum in
//! the middle: a torn word differs and is skipped; the next one comes soon. Fresh is when *we* last saw the
//! sequence change, by our own clock: nodes' clocks are never compared.

use std::time::Duration;

use keyferry_time::Time;

/// Bytes of a load word on the wire: one cache line.
pub const LOAD_BYTES: usize = 64;

/// Time between two words with few peers, and with many.
const INTERVAL_MIN: Duration = Duration::from_micros(200);
const INTERVAL_MAX: Duration = Duration::from_millis(1);

/// What each peer adds to it: a worker writes 40,000 words a second, however many peers it has, up to those that the
/// longest interval goes on for.
const INTERVAL_A_PEER: Duration = Duration::from_micros(25);

/// How often a worker of so many peers writes its word to each of them. Words a millisecond old cost 2 % of latency at most
/// (docs/CLUSTER_SIM.md), and with 64 peers they take a fifth of the wire.
pub fn word_interval(peers: usize) -> Duration {
    let peers = u32::try_from(peers).unwrap_or(u32::MAX);
    INTERVAL_A_PEER.saturating_mul(peers).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// One worker's load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadWord {
    /// Counts the words written; 0 is never written.
    pub sequence: u32,
    /// Work waiting for one slot of the application, in us.
    pub waiting_us: u32,
    /// Running average of a request's service time, in us.
    pub service_us: u32,
    /// Slots of the application: requests it works on at a time.
    pub capacity: u32,
    /// Requests it would still take.
    pub credits: u32,
    /// It takes nothing new.
    pub draining: bool,
    /// Requests the application has, those in line among them.
    pub outstanding: u32,
    /// Grants taken from the reader since the queue pair came up; it counts round. What the reader has granted beyond
    /// them is not in `outstanding` yet.
    pub taken: u32,
}

impl LoadWord {
    /// How long one more request would wait for a slot, behind `ahead` more than the word tells. As many as there are slots
    /// end in a service time, at even distances.
    pub fn wait_us(&self, ahead: u32) -> u32 {
        let slots = self.capacity.max(1);
        let in_line = self.outstanding.saturating_add(ahead).saturating_add(1).saturating_sub(slots);
        let wait_us = u64::from(in_line) * u64::from(self.service_us) / u64::from(slots);
        u32::try_from(wait_us).unwrap_or(u32::MAX)
    }

    fn fields(&self) -> [u32; 8] {
        [
            self.sequence,
            self.waiting_us,
            self.service_us,
            self.capacity,
            self.credits,
            u32::from(self.draining),
            self.outstanding,
            self.taken,
        ]
    }

    /// The word's wire form.
    pub fn encode(&self) -> [u8; LOAD_BYTES] {
        let mut out = [0; LOAD_BYTES];
        let mut sum = 0u32;
        for (field, bytes) in self.fields().into_iter().zip(out.chunks_exact_mut(4)) {
            bytes.copy_from_slice(&field.to_le_bytes());
            sum = sum.rotate_left(5) ^ field;
        }
        out[56..60].copy_from_slice(&sum.to_le_bytes());
        out[60..].copy_from_slice(&self.sequence.to_le_bytes());
        out
    }

    /// Reads a word; `None` if it is torn, or none was written yet.
    pub fn decode(bytes: &[u8; LOAD_BYTES]) -> Option<LoadWord> {
        let field = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let word = LoadWord {
            sequence: field(0),
            waiting_us: field(4),
            service_us: field(8),
            capacity: field(12),
            credits: field(16),
            draining: field(20) != 0,
            outstanding: field(24),
            taken: field(28),
        };
        let sum = word.fields().into_iter().fold(0u32, |sum, field| sum.rotate_left(5) ^ field);
        (word.sequence != 0 && field(60) == word.sequence && field(56) == sum).then_some(word)
    }
}

/// Watches one peer's load word.
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    last: LoadWord,
    changed_at: Time,
    lifetime: Duration,
}

impl Freshness {
    /// Words count as fresh for `lifetime` after they were seen to change.
    pub fn new(lifetime: Duration) -> Freshness {
        Freshness { last: LoadWord::default(), changed_at: Time::ZERO, lifetime }
    }

    /// Takes in what was read; true if it is a new word.
    pub fn see(&mut self, bytes: &[u8; LOAD_BYTES], now: Time) -> bool {
        match LoadWord::decode(bytes) {
            Some(word) if word.sequence != self.last.sequence => {
                self.last = word;
                self.changed_at = now;
                true
            }
            _ => false,
        }
    }

    /// The last good word.
    pub fn word(&self) -> LoadWord {
        self.last
    }

    /// Whether it is fresh.
    pub fn is_fresh(&self, now: Time) -> bool {
        self.last.sequence != 0 && now - self.changed_at <= self.lifetime
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_wire_and_torn_ones_do_not() {
        let old = LoadWord {
            sequence: 1,
            waiting_us: 7,
            service_us: 8,
            capacity: 2,
            credits: 5,
            draining: true,
            outstanding: 3,
            taken: 1,
        };
        let new = LoadWord {
            sequence: 2,
            waiting_us: 900,
            service_us: 9,
            capacity: 2,
            credits: 6,
            draining: false,
            outstanding: 4,
            taken: 9,
        };
        assert_eq!(LoadWord::decode(&old.encode()), Some(old));
        for cut in (8..LOAD_BYTES).step_by(8) {
            let mut torn = old.encode();
            torn[..cut].copy_from_slice(&new.encode()[..cut]);
            assert_eq!(LoadWord::decode(&torn), None, "torn at {cut}");
        }
        assert_eq!(LoadWord::decode(&[0; LOAD_BYTES]), None);
    }

    #[test]
    fn words_of_one_worker_are_bounded_until_they_would_be_old() {
        let us = |peers| word_interval(peers).as_micros();
        assert_eq!(
            [0, 1, 8, 9, 20, 40, 64, usize::MAX].map(us),
            [200, 200, 200, 225, 500, 1_000, 1_000, 1_000]
        );
    }

    #[test]
    fn fresh_means_seen_to_change() {
        let mut seen = Freshness::new(Duration::from_millis(10));
        let word = |sequence| LoadWord { sequence, ..LoadWord::default() }.encode();
        assert!(!seen.is_fresh(Time::ZERO));
        assert!(seen.see(&word(1), Time::from_us(0)));
        assert!(!seen.see(&word(1), Time::from_us(9_000)), "the same word again");
        assert!(seen.is_fresh(Time::from_us(10_000)));
        assert!(!seen.is_fresh(Time::from_us(10_001)));
        assert!(seen.see(&word(2), Time::from_us(20_000)));
        assert!(seen.is_fresh(Time::from_us(20_001)));
    }
}
