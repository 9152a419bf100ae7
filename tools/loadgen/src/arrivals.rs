//! When requests are meant to be sent: an arrival process and a seed go in, intended moments come out, in order.
//! Pure: it knows neither sockets nor clocks, so any client can be driven by it. Owned by one load thread.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use keyferry_app::synthetic::splitmix64;

/// Most lines of a trace, 8 bytes each in memory.
pub const TRACE_LINES_MAX: usize = 100_000_000;
/// Shape of the Pareto gaps: below 2, so that bursts are seen at many time scales.
pub const PARETO_SHAPE: f64 = 1.5;
/// The longest Pareto gap, in shortest ones. Without a bound gaps had no variance, and a run of minutes would miss the
/// rate that was asked for by a third.
pub const PARETO_SPAN: f64 = 1000.0;

/// The law of the gaps between requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Law {
    /// Equal gaps.
    Constant,
    /// Exponential gaps: many independent clients.
    Poisson,
    /// Pareto gaps of shape 1.5, up to a thousand times the shortest: bursts.
    Pareto,
}

/// Where the moments come from.
#[derive(Clone, Debug)]
pub enum Process {
    /// A law and its rate, all threads together.
    Law {
        /// The law.
        law: Law,
        /// Requests a second.
        per_s: f64,
    },
    /// Moments in ascending order, in nanoseconds from the start.
    Trace(Arc<[u64]>),
}

impl Process {
    /// Requests a second that are meant to be sent, all threads together, on average.
    pub fn per_s(&self) -> f64 {
        match self {
            Process::Law { per_s, .. } => *per_s,
            Process::Trace(moments) => {
                let last_s = moments.last().map_or(0.0, |&last| last as f64 / 1e9);
                moments.len() as f64 / last_s.max(1e-9)
            }
        }
    }
}

/// One thread's intended moments, as offsets from the start of the run.
#[derive(Clone, Debug)]
pub struct Arrivals {
    process: Process,
    threads: u64,
    index: u64,
    /// Moments taken so far.
    taken: u64,
    seed: u64,
    next_ns: Option<u64>,
    end_ns: u64,
}

impl Arrivals {
    /// The part of thread `index` of `threads`, up to (not including) `end`.
    pub fn new(process: Process, seed: u64, index: usize, threads: usize, end: Option<Duration>) -> Arrivals {
        let end_ns = end.map_or(u64::MAX, |end| u64::try_from(end.as_nanos()).unwrap_or(u64::MAX));
        let index = index as u64;
        let seed = splitmix64(seed ^ splitmix64(index));
        let mut arrivals =
            Arrivals { process, threads: threads as u64, index, taken: 0, seed, next_ns: None, end_ns };
        arrivals.next_ns = arrivals.moment(0).filter(|&next| next < end_ns);
        arrivals
    }

    /// The next moment; `None` after the last.
    pub fn peek(&self) -> Option<Duration> {
        self.next_ns.map(Duration::from_nanos)
    }

    /// Takes the next moment.
    pub fn take(&mut self) -> Option<Duration> {
        let now_ns = self.next_ns?;
        self.taken += 1;
        self.next_ns = self.moment(now_ns).filter(|&next| next < self.end_ns);
        Some(Duration::from_nanos(now_ns))
    }

    /// The moment with number `taken`, the one before it being `last_ns`.
    fn moment(&mut self, last_ns: u64) -> Option<u64> {
        match &self.process {
            // Threads interleave, so that the whole is evenly spaced; computed from the number, so that rounding
            // does not add up over a long run.
            Process::Law { law: Law::Constant, per_s } => {
                Some(((self.taken * self.threads + self.index) as f64 * 1e9 / per_s) as u64)
            }
            Process::Law { law, per_s } => {
                let mean_ns = 1e9 * self.threads as f64 / per_s;
                // In (0, 1], so that neither the logarithm nor the power is infinite.
                let uniform = ((splitmix64(self.seed.wrapping_add(self.taken)) >> 11) + 1) as f64
                    / (1_u64 << 53) as f64;
                let gap_ns = match law {
                    Law::Pareto => mean_ns * bounded_pareto(uniform),
                    _ => -mean_ns * uniform.ln(),
                };
                Some(last_ns.saturating_add(gap_ns as u64))
            }
            Process::Trace(moments) => {
                let at = usize::try_from(self.taken * self.threads + self.index).ok()?;
                moments.get(at).copied()
            }
        }
    }
}

/// A gap of mean 1 for a uniform number in (0, 1], by the inverse of its distribution.
fn bounded_pareto(uniform: f64) -> f64 {
    let above = PARETO_SPAN.powf(-PARETO_SHAPE);
    let mean =
        PARETO_SHAPE / (PARETO_SHAPE - 1.0) * (1.0 - PARETO_SPAN.powf(1.0 - PARETO_SHAPE)) / (1.0 - above);
    (above + uniform * (1.0 - above)).powf(-1.0 / PARETO_SHAPE) / mean
}

/// Reads a trace: one moment a line, in seconds from the start of the run; empty lines and `#` comments are skipped.
///
/// # Errors
/// A file that is unreadable, empty, too long, not numbers, or not in ascending order; the line is named.
pub fn read_trace(file: &Path) -> anyhow::Result<Arc<[u64]>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse_trace(&text, TRACE_LINES_MAX).with_context(|| format!("trace {}", file.display()))
}

fn parse_trace(text: &str, lines_max: usize) -> anyhow::Result<Arc<[u64]>> {
    let mut moments: Vec<u64> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let number = number + 1;
        let seconds: f64 =
            line.parse().with_context(|| format!("line {number}: {line:?} is not a number of seconds"))?;
        ensure!((0.0..1e9).contains(&seconds), "line {number}: {seconds} is not within 0 and 1e9 seconds");
        let moment = (seconds * 1e9).round() as u64;
        ensure!(
            moments.last().is_none_or(|&last| last <= moment),
            "line {number}: earlier than the line before; sort the file (sort -g)"
        );
        ensure!(moments.len() < lines_max, "more than {lines_max} lines; split the file");
        moments.push(moment);
    }
    ensure!(!moments.is_empty(), "holds no moments; write one a line, in seconds");
    Ok(moments.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(process: &Process, seed: u64, threads: usize, end: Duration) -> Vec<Duration> {
        let mut moments = Vec::new();
        for index in 0..threads {
            let mut part = Arrivals::new(process.clone(), seed, index, threads, Some(end));
            let mut last = Duration::ZERO;
            while let Some(moment) = part.take() {
                assert!(moment >= last && moment < end);
                last = moment;
                moments.push(moment);
            }
        }
        moments.sort_unstable();
        moments
    }

    proptest! {
        #[test]
        fn rates_are_what_was_asked_for(seed: u64, threads in 1_usize..5, per_s in 1_000_f64..5_000.0) {
            let end = Duration::from_secs(20);
            for law in [Law::Constant, Law::Poisson, Law::Pareto] {
                let process = Process::Law { law, per_s };
                let moments = all(&process, seed, threads, end);
                let ratio = moments.len() as f64 / (per_s * 20.0);
                // 20,000 gaps or more: five standard deviations are 3.6 % where that of a gap is its mean, and
                // 11 % where it is three times that.
                let margin = match law { Law::Constant => 0.001, Law::Poisson => 0.04, Law::Pareto => 0.12 };
                prop_assert!((ratio - 1.0).abs() < margin, "{law:?} {ratio}");
                prop_assert_eq!(all(&process, seed, threads, end), moments);
            }
        }

        #[test]
        fn a_trace_is_followed_by_threads_together(
            mut moments in prop::collection::vec(0_u64..1_000_000, 1..100),
            threads in 1_usize..5,
        ) {
            moments.sort_unstable();
            let process = Process::Trace(moments.clone().into());
            let seen = all(&process, 0, threads, Duration::from_secs(1));
            prop_assert_eq!(seen, moments.into_iter().map(Duration::from_nanos).collect::<Vec<_>>());
        }
    }

    #[test]
    fn constant_threads_interleave_evenly() {
        let process = Process::Law { law: Law::Constant, per_s: 1000.0 };
        let moments = all(&process, 7, 3, Duration::from_millis(9));
        let expected: Vec<_> = (0..9).map(Duration::from_millis).collect();
        assert_eq!(moments, expected);
    }

    #[test]
    fn exponential_gaps_have_the_deviation_of_their_mean() {
        let process = Process::Law { law: Law::Poisson, per_s: 1000.0 };
        let moments = all(&process, 3, 1, Duration::from_secs(50));
        let gaps: Vec<f64> = moments.windows(2).map(|w| (w[1] - w[0]).as_secs_f64() * 1e3).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((0.9..1.1).contains(&variance), "{variance}");
    }

    #[test]
    fn traces_name_the_line_at_fault() {
        assert_eq!(
            *parse_trace("# start\n0\n0.5 # half\n\n1e0\n", 3).unwrap(),
            [0, 500_000_000, 1_000_000_000]
        );
        for (text, fault) in [
            ("1\n0.5\n", "line 2: earlier"),
            ("x\n", "line 1: \"x\""),
            ("-1\n", "line 1: -1"),
            ("1e9\n", "line 1: 1000000000 is not within"),
            ("#\n", "no moments"),
            ("1\n2\n3\n4\n", "more than 3 lines"),
        ] {
            let error = parse_trace(text, 3).unwrap_err();
            assert!(error.to_string().contains(fault), "{error}");
        }
    }
}
