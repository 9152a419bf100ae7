//! BBR: a model of the path, its bottleneck's rate and its round trip without queues, measured by itself; a window of two
//! rounds' worth and a pace at the bottleneck's rate (draft-cardwell-iccrg-bbr-congestion-control-00).
//!
//! In: delivery rates and round trips. Out: a window and a rate. Pure; part of a connection.

use std::time::Duration;

use keyferry_time::Time;

use super::Ack;

/// Gains in 1/256: the least that doubles the rate each round, 2/ln 2; its inverse; the window's.
const UNIT: u64 = 256;
const HIGH_GAIN: u64 = 739;
const DRAIN_GAIN: u64 = 88;
const WINDOW_GAIN: u64 = 2 * UNIT;
/// One phase probes for more, the next drains what that left in the queue.
const CYCLE: [u64; 8] = [320, 192, UNIT, UNIT, UNIT, UNIT, UNIT, UNIT];
/// Rounds a rate is remembered.
const RATE_ROUNDS: u64 = 10;
/// How long a round trip counts as the least, and how long the path is emptied to measure it anew.
const MIN_RTT_WINDOW: Duration = Duration::from_secs(10);
const PROBE_RTT: Duration = Duration::from_millis(200);
/// The pipe is full when the rate has not grown by a quarter in three rounds.
const FULL_ROUNDS: u8 = 3;
const MIN_SEGMENTS: u32 = 4;
/// Share of the rate not used, in percent, so that a queue drains.
const MARGIN_PERCENT: u64 = 1;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Startup,
    Drain,
    Cruise,
    /// The path is emptied until then; `NEVER` until it is empty.
    ProbeRtt(Time),
}

/// The largest value of the last rounds: the best, and the best of those after it (Nichols' windowed filter).
#[derive(Clone, Copy, Debug, Default)]
struct Largest([(u64, u64); 3]);

impl Largest {
    fn value(&self) -> u64 {
        self.0[0].1
    }

    fn add(&mut self, round: u64, value: u64) {
        let new = (round, value);
        let best = &mut self.0;
        if value >= best[0].1 || round - best[2].0 > RATE_ROUNDS {
            *best = [new; 3];
            return;
        }
        if value >= best[1].1 {
            (best[1], best[2]) = (new, new);
        } else if value >= best[2].1 {
            best[2] = new;
        }
        if round - best[0].0 > RATE_ROUNDS {
            *best = [best[1], best[2], new];
            if round - best[0].0 > RATE_ROUNDS {
                *best = [best[1], best[2], new];
            }
        } else if best[1] == best[0] && round - best[1].0 > RATE_ROUNDS / 4 {
            (best[1], best[2]) = (new, new);
        } else if best[2] == best[1] && round - best[2].0 > RATE_ROUNDS / 2 {
            best[2] = new;
        }
    }
}

pub(crate) struct Bbr {
    mode: Mode,
    window: u32,
    rate: u64,
    largest: Largest,
    min_rtt_ns: u64,
    min_rtt_at: Time,
    round: u64,
    round_end: u64,
    cycle: usize,
    cycle_at: Time,
    full_rate: u64,
    full_rounds: u8,
    /// The window before a recovery or before the path was emptied.
    prior: u32,
    /// A recovery's first round: no more is sent than is delivered. It begins with the next acknowledgement.
    conserves: bool,
    round_anew: bool,
    recovering: bool,
}

impl Bbr {
    pub(super) fn new(window: u32) -> Bbr {
        Bbr {
            mode: Mode::Startup,
            window,
            rate: 0,
            largest: Largest::default(),
            min_rtt_ns: 0,
            min_rtt_at: Time::ZERO,
            round: 0,
            round_end: 0,
            cycle: 0,
            cycle_at: Time::ZERO,
            full_rate: 0,
            full_rounds: 0,
            prior: 0,
            conserves: false,
            round_anew: false,
            recovering: false,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// What a loss holds back stays queued while what follows it is sent, so a window reduced for it does not count; and a
    /// path is kept full while the same segment is lost twice: half as much again.
    pub(super) fn window_to_queue(&self) -> u32 {
        let window = if self.recovering { self.window.max(self.prior) } else { self.window };
        window.saturating_add(window / 2)
    }

    pub(super) fn rate(&self) -> Option<u64> {
        (self.rate > 0).then_some(self.rate)
    }

    fn is_full(&self) -> bool {
        self.full_rounds >= FULL_ROUNDS
    }

    fn gains(&self) -> (u64, u64) {
        match self.mode {
            Mode::Startup => (HIGH_GAIN, HIGH_GAIN),
            Mode::Drain => (DRAIN_GAIN, HIGH_GAIN),
            Mode::Cruise => (CYCLE[self.cycle], WINDOW_GAIN),
            Mode::ProbeRtt(_) => (UNIT, UNIT),
        }
    }

    /// Bytes of `gain` times what the path holds, and three bursts, so that what waits for a burst to be whole is not
    /// missing on the path (section 4.2.3.2, BBRInflight); `None` before it was measured.
    fn inflight(&self, gain: u64, mss: u32) -> Option<u64> {
        if self.min_rtt_ns == 0 || self.largest.value() == 0 {
            return None;
        }
        let bytes = u128::from(self.largest.value()) * u128::from(self.min_rtt_ns) / 1_000_000_000;
        Some((bytes * u128::from(gain) / u128::from(UNIT)) as u64 + 3 * u64::from(self.burst(mss)))
    }

    pub(super) fn acknowledged(&mut self, ack: &Ack) {
        let conserved = self.conserves;
        let round_began = self.count_round(ack);
        if let Some(rate) = ack.rate
            && (!rate.app_limited || rate.bytes_per_second >= self.largest.value())
        {
            self.largest.add(self.round, rate.bytes_per_second);
        }
        self.move_on(ack, round_began, conserved);
        self.measure_rtt(ack, round_began);
        self.pace(ack);
        self.size(ack);
    }

    fn count_round(&mut self, ack: &Ack) -> bool {
        if std::mem::take(&mut self.round_anew) {
            self.round_end = ack.total_delivered;
        }
        let began = ack.rate.is_some_and(|rate| rate.prior_delivered >= self.round_end);
        if began {
            self.round_end = ack.total_delivered;
            self.round += 1;
            self.conserves = false;
        }
        began
    }

    /// From one mode to the next, and through the cycle of gains.
    fn move_on(&mut self, ack: &Ack, round_began: bool, conserved: bool) {
        // A round in which the caller, or a recovery, kept more from being sent says nothing of the path.
        let kept = conserved || ack.rate.is_some_and(|rate| rate.app_limited);
        if round_began && !self.is_full() && !kept {
            if self.largest.value() >= self.full_rate + self.full_rate / 4 {
                (self.full_rate, self.full_rounds) = (self.largest.value(), 0);
            } else {
                self.full_rounds += 1;
            }
        }
        if self.mode == Mode::Startup && self.is_full() {
            self.mode = Mode::Drain;
        }
        let one_round = self.inflight(UNIT, ack.mss).unwrap_or(u64::MAX);
        if self.mode == Mode::Drain && u64::from(ack.pipe) <= one_round {
            self.cruise(ack.now);
        }
        if self.mode == Mode::Cruise {
            let gain = CYCLE[self.cycle];
            let full_phase = ack.now.ns_since(self.cycle_at) > self.min_rtt_ns;
            let next = if gain > UNIT {
                let target = self.inflight(gain, ack.mss).unwrap_or(u64::MAX);
                full_phase && (ack.lost > 0 || u64::from(ack.prior_pipe) >= target)
            } else if gain < UNIT {
                full_phase || u64::from(ack.prior_pipe) <= one_round
            } else {
                full_phase
            };
            if next {
                self.cycle = (self.cycle + 1) % CYCLE.len();
                self.cycle_at = ack.now;
            }
        }
    }

    /// Into the cycle, at a phase that differs from one connection to the next by where its clock stands; never the one
    /// that drains, for nothing has been filled.
    fn cruise(&mut self, now: Time) {
        self.mode = Mode::Cruise;
        let phase = (now.0 / 1_000) as usize % (CYCLE.len() - 1);
        self.cycle = if phase == 0 { 0 } else { phase + 1 };
        self.cycle_at = now;
    }

    fn measure_rtt(&mut self, ack: &Ack, round_began: bool) {
        let expired = ack.now > self.min_rtt_at + MIN_RTT_WINDOW && self.min_rtt_ns > 0;
        if let Some(ns) = ack.rtt_ns
            && (ns <= self.min_rtt_ns || self.min_rtt_ns == 0 || expired)
        {
            (self.min_rtt_ns, self.min_rtt_at) = (ns, ack.now);
        }
        if expired && !matches!(self.mode, Mode::ProbeRtt(_)) {
            self.keep_prior();
            self.mode = Mode::ProbeRtt(Time::NEVER);
        }
        let Mode::ProbeRtt(until) = self.mode else { return };
        if until == Time::NEVER {
            if ack.pipe <= MIN_SEGMENTS * ack.mss {
                self.mode = Mode::ProbeRtt(ack.now + PROBE_RTT);
            }
        } else if until.is_due(ack.now) && round_began {
            self.min_rtt_at = ack.now;
            self.window = self.window.max(self.prior);
            if self.is_full() {
                self.cruise(ack.now);
            } else {
                self.mode = Mode::Startup;
            }
        }
    }

    fn pace(&mut self, ack: &Ack) {
        let (gain, _) = self.gains();
        let measured = match self.largest.value() {
            // Nothing measured: as if the window went out in one round trip.
            0 if ack.smoothed_ns > 0 => u64::from(self.window) * 1_000_000_000 / ack.smoothed_ns,
            rate => rate,
        };
        let rate = measured.saturating_mul(gain) / UNIT / 100 * (100 - MARGIN_PERCENT);
        if self.is_full() || rate > self.rate {
            self.rate = rate;
        }
    }

    fn size(&mut self, ack: &Ack) {
        let floor = MIN_SEGMENTS * ack.mss;
        if ack.recovering && ack.lost > 0 {
            self.window = self.window.saturating_sub(ack.lost).max(ack.mss);
        }
        if ack.recovering && self.conserves {
            self.window = self.window.max(ack.pipe + ack.delivered);
        } else {
            let (_, gain) = self.gains();
            match self.inflight(gain, ack.mss) {
                Some(bytes) => {
                    let target = u32::try_from(bytes).unwrap_or(u32::MAX);
                    let grown = self.window.saturating_add(ack.delivered);
                    if self.is_full() {
                        self.window = grown.min(target);
                    } else if self.window < target || ack.total_delivered < u64::from(10 * ack.mss) {
                        self.window = grown;
                    }
                }
                None => self.window = self.window.saturating_add(ack.delivered),
            }
            self.window = self.window.max(floor);
        }
        if matches!(self.mode, Mode::ProbeRtt(_)) {
            self.window = self.window.min(floor);
        }
    }

    /// Bytes that leave at once.
    fn burst(&self, mss: u32) -> u32 {
        let millisecond = (self.rate / 1_000).min(65_536) as u32;
        millisecond.max(2 * mss)
    }

    fn keep_prior(&mut self) {
        self.prior = if self.recovering || matches!(self.mode, Mode::ProbeRtt(_)) {
            self.prior.max(self.window)
        } else {
            self.window
        };
    }

    pub(super) fn recovery_began(&mut self, pipe: u32, mss: u32) {
        self.keep_prior();
        self.recovering = true;
        self.window = pipe + mss;
        (self.conserves, self.round_anew) = (true, true);
    }

    pub(super) fn timed_out(&mut self, mss: u32) {
        self.keep_prior();
        self.recovering = true;
        self.window = mss;
        self.full_rate = 0;
        self.conserves = false;
    }

    pub(super) fn recovered(&mut self) {
        self.recovering = false;
        self.conserves = false;
        self.window = self.window.max(self.prior);
    }

    pub(super) fn undo(&mut self) {
        (self.full_rate, self.full_rounds) = (0, 0);
        self.recovered();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Rate;
    use super::*;

    const MSS: u32 = 1_000;

    /// A path of 1 MB a second and 100 ms, driven ten acknowledgements a round for so many rounds.
    fn drive(bbr: &mut Bbr, now: &mut Time, delivered: &mut u64, rounds: usize, app_limited: bool) {
        for _ in 0..rounds {
            let prior = *delivered;
            for _ in 0..10 {
                *now += Duration::from_millis(10);
                // What was sent in a round, but no more than the path carries.
                let bytes = bbr.window().min(100_000) / 10;
                *delivered += u64::from(bytes);
                bbr.acknowledged(&Ack {
                    now: *now,
                    delivered: bytes,
                    total_delivered: *delivered,
                    pipe: bbr.window().min(90_000),
                    prior_pipe: bbr.window().min(140_000),
                    lost: 0,
                    rtt_ns: Some(100_000_000),
                    smoothed_ns: 100_000_000,
                    limited: true,
                    recovering: false,
                    rate: Some(Rate {
                        bytes_per_second: u64::from(bytes) * 100,
                        prior_delivered: prior,
                        app_limited,
                    }),
                    mss: MSS,
                });
            }
        }
    }

    #[test]
    fn it_finds_the_rate_of_the_path_and_keeps_to_it() {
        let (mut bbr, mut now, mut delivered) = (Bbr::new(10 * MSS), Time::from_us(1), 0);
        drive(&mut bbr, &mut now, &mut delivered, 20, false);
        assert_eq!(bbr.mode, Mode::Cruise);
        assert_eq!(bbr.largest.value(), 1_000_000);
        let (mut least, mut most) = (u64::MAX, 0);
        for _ in 0..16 {
            drive(&mut bbr, &mut now, &mut delivered, 1, false);
            (least, most) = (least.min(bbr.rate), most.max(bbr.rate));
        }
        assert!(
            (730_000..760_000).contains(&least) && (1_220_000..1_250_000).contains(&most),
            "{least} {most}"
        );
        assert!((200_000..212_000).contains(&bbr.window()), "{}", bbr.window());
    }

    #[test]
    fn it_empties_the_path_now_and_then() {
        let (mut bbr, mut now, mut delivered) = (Bbr::new(10 * MSS), Time::from_us(1), 0);
        drive(&mut bbr, &mut now, &mut delivered, 20, false);
        bbr.min_rtt_ns = 99_000_000;
        let mut least = u32::MAX;
        for _ in 0..110 {
            drive(&mut bbr, &mut now, &mut delivered, 1, false);
            least = least.min(bbr.window());
        }
        assert_eq!(least, 4 * MSS);
    }

    #[test]
    fn a_caller_with_little_to_say_does_not_end_startup() {
        let (mut bbr, mut now, mut delivered) = (Bbr::new(10 * MSS), Time::from_us(1), 0);
        drive(&mut bbr, &mut now, &mut delivered, 20, true);
        assert_eq!(bbr.mode, Mode::Startup);
    }

    /// An acknowledgement of a thousand bytes in a recovery; `prior`: what was delivered when they were sent.
    fn recovering(bbr: &mut Bbr, now: Time, delivered: &mut u64, prior: u64) {
        *delivered += 1_000;
        bbr.acknowledged(&Ack {
            now,
            delivered: 1_000,
            total_delivered: *delivered,
            pipe: 50_000,
            prior_pipe: 51_000,
            lost: 0,
            rtt_ns: Some(100_000_000),
            smoothed_ns: 100_000_000,
            limited: true,
            recovering: true,
            rate: Some(Rate { bytes_per_second: 1_000_000, prior_delivered: prior, app_limited: false }),
            mss: MSS,
        });
    }

    #[test]
    fn a_recovery_sends_what_is_delivered_for_one_round() {
        let (mut bbr, mut now, mut delivered) = (Bbr::new(10 * MSS), Time::from_us(1), 0);
        drive(&mut bbr, &mut now, &mut delivered, 20, false);
        bbr.recovery_began(50_000, MSS);
        let began = delivered;
        for _ in 0..50 {
            recovering(&mut bbr, now, &mut delivered, began - 1);
            assert_eq!(bbr.window(), 51_000);
        }
        // The first of what was sent since.
        for prior in 0..10 {
            recovering(&mut bbr, now, &mut delivered, began + 1_000 * (prior + 1));
        }
        assert_eq!(bbr.window(), 61_000);
    }

    #[test]
    fn rounds_in_which_a_recovery_held_back_do_not_end_startup() {
        let (mut bbr, mut now, mut delivered) = (Bbr::new(10 * MSS), Time::from_us(1), 0);
        drive(&mut bbr, &mut now, &mut delivered, 5, false);
        let full = bbr.full_rounds;
        for _ in 0..10 {
            bbr.recovery_began(50_000, MSS);
            let prior = delivered;
            recovering(&mut bbr, now, &mut delivered, prior);
            let prior = delivered;
            recovering(&mut bbr, now, &mut delivered, prior);
            assert!(!bbr.conserves);
        }
        assert_eq!((bbr.mode, bbr.full_rounds), (Mode::Startup, full));
    }

    #[test]
    fn a_recovery_leaves_the_window_as_it_was() {
        let (mut bbr, mut now, mut delivered) = (Bbr::new(10 * MSS), Time::from_us(1), 0);
        drive(&mut bbr, &mut now, &mut delivered, 20, false);
        let before = bbr.window();
        bbr.recovery_began(50_000, MSS);
        assert_eq!(bbr.window(), 51_000);
        bbr.recovered();
        assert_eq!(bbr.window(), before);
        bbr.timed_out(MSS);
        assert_eq!(bbr.window(), MSS);
        bbr.recovered();
        assert_eq!(bbr.window(), before);
    }
}
