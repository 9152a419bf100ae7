//! CUBIC's window (RFC 9438): after a loss it grows towards where the loss was, fast at first, then carefully, then
//! beyond, by time and not by round trips.
//!
//! In: acknowledgements, losses, the time. Out: a window. Pure; part of a connection.

use keyferry_time::Time;

use super::Ack;
use super::hystart::{CONSERVATIVE_DIVISOR, Growth, HyStart};
use super::reno::UNKNOWN;

/// C of RFC 9438 section 4.1, in segments a cubic second.
const C: f64 = 0.4;
/// What is left of the window after a loss (beta_cubic).
const BETA: f64 = 0.7;
/// Segments a round trip that make the window grow as Reno's would with this beta (section 4.3).
const ALPHA: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);
/// Bytes one acknowledgement may grow a window by in slow start, in segments, where it acknowledges very many
/// (RFC 9406 section 4.2 sets none for a sender that paces).
const BURST_SEGMENTS: u32 = 64;

/// Since the last loss.
#[derive(Clone, Copy, Debug)]
struct Epoch {
    began: Time,
    /// Seconds until the window is where the loss was.
    k: f64,
    /// Windows in segments: where the curve is flat, and what Reno would have.
    origin: f64,
    estimate: f64,
}

pub(crate) struct Cubic {
    pub(super) window: u32,
    pub(super) threshold: u32,
    /// The window before the last loss, in segments; 0 before the first.
    max: f32,
    /// The window just before the last reduction.
    prior: f32,
    epoch: Option<Epoch>,
    /// Part of a byte that growth is ahead of the window.
    fraction: f64,
    hystart: HyStart,
    max_before: f32,
}

impl Cubic {
    pub(super) fn new(window: u32) -> Cubic {
        Cubic {
            window,
            threshold: UNKNOWN,
            max: 0.0,
            prior: 0.0,
            epoch: None,
            fraction: 0.0,
            hystart: HyStart::default(),
            max_before: 0.0,
        }
    }

    pub(super) fn acknowledged(&mut self, ack: &Ack) {
        if self.window < self.threshold {
            self.slow_start(ack);
        } else if ack.limited && !ack.recovering {
            self.avoid(ack);
        }
    }

    fn slow_start(&mut self, ack: &Ack) {
        let growth = self.hystart.acknowledged(ack.total_delivered, self.window, ack.rtt_ns);
        if growth == Growth::Over && self.threshold == UNKNOWN {
            self.threshold = self.window;
            return;
        }
        if !ack.limited {
            return;
        }
        let step = ack.delivered.min(BURST_SEGMENTS * ack.mss);
        let step = match growth {
            Growth::Conservative if self.threshold == UNKNOWN => step / CONSERVATIVE_DIVISOR,
            _ => step,
        };
        self.window = self.window.saturating_add(step).min(self.threshold);
    }

    /// Congestion avoidance (sections 4.2 to 4.5).
    fn avoid(&mut self, ack: &Ack) {
        let mss = f64::from(ack.mss);
        let window = f64::from(self.window) / mss;
        let (max, prior) = (f64::from(self.max), f64::from(self.prior));
        let epoch = self.epoch.get_or_insert_with(|| Epoch {
            began: ack.now,
            k: if window < max { ((max - window) / C).cbrt() } else { 0.0 },
            origin: max.max(window),
            estimate: window,
        });
        let curve = |seconds: f64| C * (seconds - epoch.k).powi(3) + epoch.origin;
        let seconds = ack.now.ns_since(epoch.began) as f64 / 1e9;
        let acked = f64::from(ack.delivered) / mss;
        let alpha = if epoch.estimate >= prior { 1.0 } else { ALPHA };
        epoch.estimate += alpha * acked / window;
        let grown = if curve(seconds) < epoch.estimate {
            window.max(epoch.estimate)
        } else {
            let target = curve(seconds + ack.smoothed_ns as f64 / 1e9).clamp(window, 1.5 * window);
            window + (target - window) / window * acked
        };
        let bytes = grown * mss + self.fraction;
        self.window = bytes.min(f64::from(u32::MAX / 2)) as u32;
        self.fraction = bytes.fract();
    }

    pub(super) fn congested(&mut self, _: Time, mss: u32) {
        let segments = (f64::from(self.window) / f64::from(mss)) as f32;
        self.max_before = self.max;
        // Fast convergence (section 4.7): a flow that loses before it is where it was makes room for others.
        self.max = if segments < self.max { segments * (1.0 + BETA as f32) / 2.0 } else { segments };
        self.prior = segments;
        self.threshold = ((f64::from(self.window) * BETA) as u32).max(2 * mss);
        self.window = self.threshold;
        self.epoch = None;
        self.fraction = 0.0;
    }

    pub(super) fn timed_out(&mut self, now: Time, mss: u32) {
        self.congested(now, mss);
        self.window = mss;
    }

    /// Section 4.9: a loss that was none.
    pub(super) fn undo(&mut self, window: u32, threshold: u32) {
        self.window = self.window.max(window);
        self.threshold = threshold;
        self.max = self.max_before;
        self.epoch = None;
    }

    /// After a pause: the curve goes on as if there had been none (section 5.8).
    pub(super) fn restart(&mut self, window: u32) {
        if window < self.window {
            self.threshold = self.threshold.max(self.window / 4 * 3);
            self.window = window;
        }
        self.epoch = None;
        self.hystart = HyStart::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MSS: u32 = 1_000;

    fn ack(now: Time, delivered: u32) -> Ack {
        Ack {
            now,
            delivered,
            total_delivered: 0,
            pipe: 0,
            prior_pipe: 0,
            lost: 0,
            rtt_ns: None,
            smoothed_ns: 100_000_000,
            limited: true,
            recovering: false,
            rate: None,
            mss: MSS,
        }
    }

    /// One round trip of 100 ms in which all of the window is acknowledged.
    fn round(cubic: &mut Cubic, now: &mut Time) {
        let mut left = cubic.window;
        while left > 0 {
            let step = left.min(2 * MSS);
            cubic.acknowledged(&ack(*now, step));
            left -= step;
        }
        *now += Duration::from_millis(100);
    }

    #[test]
    fn the_window_is_back_where_the_loss_was_after_k_seconds() {
        let (mut cubic, mut now) = (Cubic::new(1_000 * MSS), Time::from_us(1));
        cubic.congested(now, MSS);
        assert_eq!(cubic.window, 700 * MSS);
        // K = cbrt(1000 * 0.3 / 0.4) = 9.08 s.
        for _ in 0..80 {
            round(&mut cubic, &mut now);
        }
        assert!((950 * MSS..1_000 * MSS).contains(&cubic.window), "{}", cubic.window);
        for _ in 0..20 {
            round(&mut cubic, &mut now);
        }
        assert!((995 * MSS..1_010 * MSS).contains(&cubic.window), "flat there: {}", cubic.window);
        for _ in 0..60 {
            round(&mut cubic, &mut now);
        }
        assert!(cubic.window > 1_050 * MSS, "and then it probes: {}", cubic.window);
    }

    #[test]
    fn a_small_window_grows_as_renos() {
        let (mut cubic, mut now) = (Cubic::new(20 * MSS), Time::from_us(1));
        cubic.congested(now, MSS);
        for _ in 0..20 {
            round(&mut cubic, &mut now);
        }
        // 14 and 0.53 each round until 20 (section 4.3), then 1.
        assert!((22 * MSS..32 * MSS).contains(&cubic.window), "{}", cubic.window);
    }

    #[test]
    fn a_second_loss_below_the_first_gives_way() {
        let mut cubic = Cubic::new(100 * MSS);
        cubic.congested(Time::ZERO, MSS);
        cubic.congested(Time::ZERO, MSS);
        assert!((cubic.max - 59.5).abs() < 0.01, "{}", cubic.max);
        cubic.timed_out(Time::ZERO, MSS);
        assert_eq!(cubic.window, MSS);
    }

    #[test]
    fn slow_start_doubles_and_a_loss_that_was_none_is_undone() {
        let (mut cubic, mut now) = (Cubic::new(10 * MSS), Time::from_us(1));
        round(&mut cubic, &mut now);
        assert_eq!(cubic.window, 20 * MSS);
        cubic.congested(now, MSS);
        cubic.undo(20 * MSS, UNKNOWN);
        assert_eq!((cubic.window, cubic.threshold), (20 * MSS, UNKNOWN));
    }

    #[test]
    fn a_window_that_is_not_used_does_not_grow() {
        let mut cubic = Cubic::new(10 * MSS);
        cubic.acknowledged(&Ack { limited: false, ..ack(Time::ZERO, 10 * MSS) });
        assert_eq!(cubic.window, 10 * MSS);
    }
}
