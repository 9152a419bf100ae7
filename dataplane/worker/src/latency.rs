//! How long replies take: from the turn in which a request was whole to the end of the one that sealed the last of its
//! reply, here or at a helper. In: the two times. Out: counts by time, published behind the worker's other counters.
//!
//! The clock is read once a turn, so a turn ends when the next one begins: times that end wait until then. Plain numbers
//! with one writer, the worker.

use std::sync::OnceLock;

use arrayvec::ArrayVec;
use keyferry_time::Time;

/// The exponent of two of the first bound, in ns: 1.024 us.
const FIRST: u32 = 10;
/// Of the last: 8.6 s.
const LAST: u32 = 33;
/// Bounds: two for each power of two.
const BOUNDS: usize = 2 * (LAST - FIRST) as usize + 1;
/// Ends of one turn that wait for the next; those of more count as if the turn had taken no time.
const WAITING_MAX: usize = 256;

/// What is in each bucket but the last took less than this, in ns, and not less than the bound before.
pub const BOUNDS_NS: [u64; BOUNDS] = bounds();

/// The counter of all times together, in ns.
pub const SUM: &str = "replies_ns";

const fn bounds() -> [u64; BOUNDS] {
    let mut bounds = [0; BOUNDS];
    let mut place = 0;
    while place < BOUNDS {
        let power = 1 << (FIRST + place as u32 / 2);
        bounds[place] = power + (place as u64 % 2) * (power / 2);
        place += 1;
    }
    bounds
}

/// The bucket of a time.
fn bucket(ns: u64) -> usize {
    let ns = ns.max(1);
    let exponent = ns.ilog2();
    if exponent < FIRST {
        return 0;
    }
    let half = (ns >> (exponent - 1)) & 1;
    // Between a power and one and a half of it, or above that.
    let place = 2 * (exponent - FIRST) as usize + half as usize + 1;
    place.min(BOUNDS)
}

/// Names of the buckets, in order; behind them stands [`SUM`].
pub fn names() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let bounded = BOUNDS_NS.iter().map(|bound| format!("replies_under_{bound}_ns"));
        let all = bounded.chain([format!("replies_over_{}_ns", BOUNDS_NS[BOUNDS - 1])]);
        // Leaked once a process: they are as static as the bounds they come from.
        all.map(|name| &*name.leak()).collect()
    })
}

/// Counts of one worker.
#[derive(Clone, Debug)]
pub struct Latency {
    counts: [u64; BOUNDS + 1],
    sum_ns: u64,
    /// When requests were whole whose replies ended in this turn.
    waiting: ArrayVec<Time, WAITING_MAX>,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { counts: [0; BOUNDS + 1], sum_ns: 0, waiting: ArrayVec::new() }
    }
}

impl Latency {
    /// A reply has ended in the turn of `now` whose request was whole at `asked`.
    pub fn ended(&mut self, asked: Time, now: Time) {
        if self.waiting.try_push(asked).is_err() {
            self.count(now.ns_since(asked));
        }
    }

    /// The next turn begins, and so the last one has ended.
    pub fn turned(&mut self, now: Time) {
        while let Some(asked) = self.waiting.pop() {
            self.count(now.ns_since(asked));
        }
    }

    fn count(&mut self, ns: u64) {
        self.counts[bucket(ns)] += 1;
        self.sum_ns = self.sum_ns.wrapping_add(ns);
    }

    /// Appends the values that stand for [`names`] and [`SUM`].
    pub fn append(&self, out: &mut Vec<u64>) {
        out.extend(self.counts);
        out.push(self.sum_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_is_below_its_bound_and_not_below_the_one_before() {
        let near = BOUNDS_NS.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
        for ns in near.chain([0, 1, 2, 1_000_000, u64::MAX]) {
            let place = bucket(ns);
            assert!(BOUNDS_NS.get(place).is_none_or(|bound| ns < *bound), "{ns} in {place}");
            assert!(place == 0 || BOUNDS_NS[place - 1] <= ns, "{ns} in {place}");
        }
        assert_eq!((BOUNDS_NS[0], BOUNDS_NS[1], BOUNDS_NS[BOUNDS - 1]), (1_024, 1_536, 1 << LAST));
    }

    #[test]
    fn a_reply_ends_with_its_turn() {
        let mut latency = Latency::default();
        let values = |latency: &Latency| {
            let mut out = Vec::new();
            latency.append(&mut out);
            out
        };
        assert_eq!(values(&latency).len(), names().len() + 1);
        latency.ended(Time::from_us(10), Time::from_us(10));
        latency.ended(Time::from_us(4), Time::from_us(10));
        assert_eq!(values(&latency).iter().sum::<u64>(), 0, "the turn is not over");
        latency.turned(Time::from_us(12));
        latency.turned(Time::from_us(90));
        let (sum, counts) = (values(&latency), latency.counts);
        assert_eq!((counts[bucket(2_000)], counts[bucket(8_000)]), (1, 1));
        assert_eq!(sum.last(), Some(&10_000));
        // However many end in a turn, each is counted.
        (0..2 * WAITING_MAX).for_each(|_| latency.ended(Time::from_us(0), Time::from_us(50)));
        latency.turned(Time::from_us(60));
        assert_eq!(latency.counts.iter().sum::<u64>(), 2 + 2 * WAITING_MAX as u64);
    }
}
