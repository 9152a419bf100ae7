//! Round-trip time and the retransmission time-out (RFC 6298).
//!
//! In: samples. Out: smoothed time, time-out. Pure; part of a connection.

use std::time::Duration;

/// Least variance term of a time-out: a peer may delay its acknowledgement by as much. RFC 6298 section 2.4 asks for a
/// second; what a time-out costs when it comes too early is undone, see `recovery`.
pub(crate) const RTO_MIN: Duration = Duration::from_millis(200);

/// Time-out before there is a sample (RFC 6298 section 2.1).
pub(crate) const RTO_INITIAL: Duration = Duration::from_secs(1);

/// Longest time-out (RFC 6298 section 2.5).
pub(crate) const RTO_MAX: Duration = Duration::from_secs(60);

/// Least samples are kept for so long: a path may change.
const MIN_WINDOW_NS: u64 = 300_000_000_000;

/// What is known of a path's round trip, in nanoseconds; 0 before the first sample.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rtt {
    smoothed_ns: u64,
    variance_ns: u64,
    min_ns: u64,
    min_at_ns: u64,
}

impl Rtt {
    /// Takes a sample (RFC 6298 sections 2.2 and 2.3).
    pub(crate) fn sample(&mut self, now_ns: u64, ns: u64) {
        // A sample of nothing at all would count as none.
        let ns = ns.max(1);
        if self.smoothed_ns == 0 {
            (self.smoothed_ns, self.variance_ns) = (ns, ns / 2);
        } else {
            self.variance_ns = (3 * self.variance_ns + self.smoothed_ns.abs_diff(ns)) / 4;
            self.smoothed_ns = (7 * self.smoothed_ns + ns) / 8;
        }
        if self.min_ns == 0 || ns <= self.min_ns || now_ns.saturating_sub(self.min_at_ns) > MIN_WINDOW_NS {
            (self.min_ns, self.min_at_ns) = (ns, now_ns);
        }
    }

    /// Whether there was a sample.
    pub(crate) fn is_known(&self) -> bool {
        self.smoothed_ns > 0
    }

    /// The smoothed round trip.
    pub(crate) fn smoothed_ns(&self) -> u64 {
        self.smoothed_ns
    }

    /// The least round trip of the last minutes.
    pub(crate) fn min_ns(&self) -> u64 {
        self.min_ns
    }

    /// The time-out, doubled so many times (RFC 6298 sections 2.3 and 5.5).
    pub(crate) fn timeout(&self, doublings: u8) -> Duration {
        let base = if self.is_known() {
            Duration::from_nanos(self.smoothed_ns) + RTO_MIN.max(Duration::from_nanos(4 * self.variance_ns))
        } else {
            RTO_INITIAL
        };
        base.saturating_mul(1 << u32::from(doublings.min(16))).min(RTO_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn the_time_out_follows_the_samples() {
        let mut rtt = Rtt::default();
        assert_eq!(rtt.timeout(0), RTO_INITIAL);
        rtt.sample(0, 100 * MS);
        assert_eq!(rtt.timeout(0), Duration::from_millis(300));
        assert_eq!(rtt.timeout(2), Duration::from_millis(1_200));
        assert_eq!(rtt.timeout(16), RTO_MAX);
        rtt.sample(0, 500 * MS);
        // Variance 3/4 * 50 + 1/4 * 400, mean 7/8 * 100 + 1/8 * 500.
        assert_eq!(rtt.timeout(0), Duration::from_micros(150_000 + 4 * 137_500));
        assert_eq!(rtt.min_ns(), 100 * MS);
        for _ in 0..100 {
            rtt.sample(0, 500 * MS);
        }
        assert!(rtt.timeout(0) < Duration::from_millis(701), "a steady path: {:?}", rtt.timeout(0));
    }

    #[test]
    fn an_old_minimum_is_forgotten() {
        let mut rtt = Rtt::default();
        rtt.sample(0, 10 * MS);
        rtt.sample(MIN_WINDOW_NS, 20 * MS);
        assert_eq!(rtt.min_ns(), 10 * MS);
        rtt.sample(MIN_WINDOW_NS + 1, 20 * MS);
        assert_eq!(rtt.min_ns(), 20 * MS);
    }
}
