//! Two results side by side, and whether they differ by more than the noise within each. Two reports go in, a table
//! comes out. Pure.
//!
//! Noise is taken from the seconds of each run: the difference of two means counts when it exceeds
//! [`DEVIATIONS`] times its standard error. Neighbouring seconds resemble each other, so a difference that barely
//! counts deserves another run.

use std::fmt;

use crate::report::{Interval, Report};

/// Standard errors a difference has to exceed; for few seconds, normal theory's 2 is too few.
pub const DEVIATIONS: f64 = 3.0;
/// Seconds a run needs for its noise to be known.
pub const SECONDS_MIN: usize = 5;

/// What is known of a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// More than noise.
    Differs,
    /// No more than noise.
    Noise,
    /// A run is too short to tell.
    TooShort,
}

/// One figure of two runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    name: &'static str,
    /// Over the whole of each run.
    figures: [f64; 2],
    /// What the seconds say of it; `None` where they do not hold it.
    pub finding: Option<Finding>,
}

/// All figures of two runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison(pub Vec<Row>);

type Figure = fn(&Report) -> f64;
type OfSecond = fn(&Interval) -> f64;

const FIGURES: [(&str, Figure, Option<OfSecond>); 8] = [
    ("requests/s", |r| r.requests_per_s, Some(|i| i.requests as f64)),
    ("p50 us", |r| r.latency_us.p50, Some(|i| i.p50_us)),
    ("p99 us", |r| r.latency_us.p99, Some(|i| i.p99_us)),
    ("p99.9 us", |r| r.latency_us.p999, Some(|i| i.p999_us)),
    ("raw p99 us", |r| r.latency_raw_us.p99, Some(|i| i.raw_p99_us)),
    ("max us", |r| r.latency_us.max, None),
    ("errors %", |r| r.error_share() * 100.0, None),
    ("resumed %", |r| r.handshakes.resumed_share * 100.0, None),
];

impl Comparison {
    /// Compares two runs.
    pub fn new(a: &Report, b: &Report) -> Comparison {
        let row = |(name, figure, of_second): (&'static str, Figure, Option<OfSecond>)| Row {
            name,
            figures: [figure(a), figure(b)],
            finding: of_second.map(|of_second| {
                let series =
                    |report: &Report| -> Vec<f64> { report.intervals.iter().map(of_second).collect() };
                judge(&series(a), &series(b))
            }),
        };
        Comparison(FIGURES.map(row).into())
    }
}

/// Whether the means of two series differ by more than their noise.
fn judge(a: &[f64], b: &[f64]) -> Finding {
    if a.len().min(b.len()) < SECONDS_MIN {
        return Finding::TooShort;
    }
    let ((mean_a, error_a), (mean_b, error_b)) = (mean_and_error(a), mean_and_error(b));
    // Identical series have no error, and no difference either.
    if (mean_a - mean_b).abs() > DEVIATIONS * error_a.hypot(error_b) {
        Finding::Differs
    } else {
        Finding::Noise
    }
}

/// The mean of a series and its standard error.
fn mean_and_error(series: &[f64]) -> (f64, f64) {
    let count = series.len() as f64;
    let mean = series.iter().sum::<f64>() / count;
    let variance = series.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, (variance / count).sqrt())
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<12}{:>14}{:>14}{:>9}  difference", "", "A", "B", "B/A")?;
        for Row { name, figures: [a, b], finding } in &self.0 {
            let ratio = if *a == 0.0 { "-".to_owned() } else { format!("{:.3}", b / a) };
            let finding = match finding {
                Some(Finding::Differs) => "exceeds the noise",
                Some(Finding::Noise) => "within the noise",
                Some(Finding::TooShort) => "unknown: a run is shorter than five measured seconds",
                None => "",
            };
            writeln!(f, "{name:<12}{a:>14.2}{b:>14.2}{ratio:>9}  {finding}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::report::tests::report;
    use crate::tally::Tally;

    #[test]
    fn noise_is_told_from_difference() {
        let noisy = |mean: f64| (0..20).map(|n| mean + f64::from(n % 5)).collect::<Vec<_>>();
        assert_eq!(judge(&noisy(100.0), &noisy(100.4)), Finding::Noise);
        assert_eq!(judge(&noisy(100.0), &noisy(110.0)), Finding::Differs);
        assert_eq!(judge(&noisy(100.0)[..4], &noisy(110.0)), Finding::TooShort);
        assert_eq!(judge(&[3.0; 9], &[3.0; 9]), Finding::Noise);
    }

    #[test]
    fn two_reports_make_a_table() {
        let run = |us| {
            let mut tally = Tally::new();
            (0..100).for_each(|_| tally.reply(Duration::from_micros(us), Duration::from_micros(us)));
            let mut report = report(&tally);
            let second = report.intervals[0];
            report.intervals = (0..9).map(|n| Interval { second: n, ..second }).collect();
            report
        };
        let comparison = Comparison::new(&run(100), &run(200));
        let finding = |name| comparison.0.iter().find(|row| row.name == name).unwrap().finding;
        assert_eq!(finding("requests/s"), Some(Finding::Noise));
        assert_eq!(finding("p99 us"), Some(Finding::Differs));
        let text = comparison.to_string();
        assert!(text.contains("p99 us") && text.contains("2.000  exceeds the noise"), "{text}");
    }
}
