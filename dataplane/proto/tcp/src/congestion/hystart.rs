//! When slow start has gone far enough: round trips grow before a queue overflows (HyStart++, RFC 9406).
//!
//! In: round trips of acknowledgements. Out: whether the window still doubles. Pure; part of CUBIC.

/// Samples of a round that show its round trip (RFC 9406 section 4.3, N_RTT_SAMPLE).
const SAMPLES_MIN: u8 = 8;
/// Bounds of the growth that counts (MIN_RTT_THRESH and MAX_RTT_THRESH).
const GROWTH_MIN_NS: u32 = 4_000_000;
const GROWTH_MAX_NS: u32 = 16_000_000;
/// Rounds of conservative growth before slow start ends (CSS_ROUNDS).
const CONSERVATIVE_ROUNDS: u8 = 5;
/// How much slower the window then grows (CSS_GROWTH_DIVISOR).
pub(super) const CONSERVATIVE_DIVISOR: u32 = 4;

/// How slow start is to go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Growth {
    Full,
    Conservative,
    Over,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HyStart {
    /// Bytes delivered at which the round ends.
    round_end: u64,
    last_min_ns: u32,
    min_ns: u32,
    samples: u8,
    /// The round trip at which conservative growth began, 0 outside of it.
    baseline_ns: u32,
    rounds: u8,
}

impl HyStart {
    /// Takes note of an acknowledgement: `delivered` bytes by now, `window` more a round.
    pub(super) fn acknowledged(&mut self, delivered: u64, window: u32, rtt_ns: Option<u64>) -> Growth {
        let mut over = false;
        if delivered >= self.round_end {
            self.round_end = delivered + u64::from(window);
            (self.last_min_ns, self.min_ns, self.samples) = (self.min_ns, 0, 0);
            if self.baseline_ns > 0 {
                self.rounds += 1;
                over = self.rounds >= CONSERVATIVE_ROUNDS;
            }
        }
        if let Some(ns) = rtt_ns {
            self.samples = self.samples.saturating_add(1);
            // More than four seconds are as long as four.
            let ns = u32::try_from(ns).unwrap_or(u32::MAX);
            self.min_ns = if self.min_ns == 0 { ns } else { self.min_ns.min(ns) };
        }
        if over {
            return Growth::Over;
        }
        if self.samples < SAMPLES_MIN || self.last_min_ns == 0 {
            return self.growth();
        }
        let growth = (self.last_min_ns / 8).clamp(GROWTH_MIN_NS, GROWTH_MAX_NS);
        if self.baseline_ns == 0 && self.min_ns >= self.last_min_ns.saturating_add(growth) {
            (self.baseline_ns, self.rounds) = (self.min_ns, 0);
        } else if self.min_ns < self.baseline_ns {
            // It was no queue of ours.
            self.baseline_ns = 0;
        }
        self.growth()
    }

    fn growth(&self) -> Growth {
        if self.baseline_ns > 0 { Growth::Conservative } else { Growth::Full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Rounds of ten acknowledgements each; answers what the last one said.
    fn round(hystart: &mut HyStart, delivered: &mut u64, rtt_ms: u64) -> Growth {
        let mut growth = Growth::Full;
        for _ in 0..10 {
            growth = hystart.acknowledged(*delivered, 10, Some(rtt_ms * MS));
            *delivered += 1;
        }
        growth
    }

    #[test]
    fn a_growing_round_trip_slows_growth_and_then_ends_it() {
        let (mut hystart, mut delivered) = (HyStart::default(), 0);
        assert_eq!(round(&mut hystart, &mut delivered, 40), Growth::Full);
        assert_eq!(round(&mut hystart, &mut delivered, 44), Growth::Full);
        assert_eq!(round(&mut hystart, &mut delivered, 50), Growth::Conservative);
        for _ in 0..4 {
            assert_eq!(round(&mut hystart, &mut delivered, 60), Growth::Conservative);
        }
        assert_eq!(hystart.acknowledged(delivered, 10, Some(60 * MS)), Growth::Over);
    }

    #[test]
    fn a_round_trip_that_falls_again_was_no_queue() {
        let (mut hystart, mut delivered) = (HyStart::default(), 0);
        round(&mut hystart, &mut delivered, 40);
        assert_eq!(round(&mut hystart, &mut delivered, 50), Growth::Conservative);
        assert_eq!(round(&mut hystart, &mut delivered, 45), Growth::Full);
    }
}
