//! A goal for a run, as in `p99<2ms,errors<0.1%`: parsed once, then held against a report. Each clause that failed
//! is told with both figures.

use std::str::FromStr;

use crate::report::Report;

/// What a clause is about.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    /// A corrected latency in microseconds, by its place in [`LATENCIES`].
    Latency(usize),
    /// Failed, wrong and unsent requests as a share of all.
    Errors,
    /// Right replies a second.
    Rate,
}

type Quantile = fn(&Report) -> f64;

/// Latency measures a clause may name.
const LATENCIES: [(&str, Quantile); 8] = [
    ("p50", |report| report.latency_us.p50),
    ("p90", |report| report.latency_us.p90),
    ("p95", |report| report.latency_us.p95),
    ("p99", |report| report.latency_us.p99),
    ("p99.9", |report| report.latency_us.p999),
    ("p99.99", |report| report.latency_us.p9999),
    ("mean", |report| report.latency_us.mean),
    ("max", |report| report.latency_us.max),
];

#[derive(Clone, Debug, PartialEq)]
struct Clause {
    measure: Measure,
    is_below: bool,
    bound: f64,
    text: String,
}

/// Clauses that must all hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo(Vec<Clause>);

impl Slo {
    /// The clauses `report` does not meet, each with its bound and what was found; empty: the goal is met. A run
    /// without any reply meets no latency goal.
    pub fn failures(&self, report: &Report) -> Vec<String> {
        self.0.iter().filter_map(|clause| clause.failure(report)).collect()
    }
}

impl Slo {
    /// Also that hardly any request may fail, unless a clause says how many: latency is that of replies only.
    pub fn with_errors(mut self) -> Slo {
        if !self.0.iter().any(|clause| clause.measure == Measure::Errors) {
            let (text, bound) = ("errors<0.1%".to_owned(), 0.001);
            self.0.push(Clause { measure: Measure::Errors, is_below: true, bound, text });
        }
        self
    }

    /// The tightest latency of its clauses, in microseconds.
    pub fn tightest_us(&self) -> Option<f64> {
        let latencies = self.0.iter().filter(|clause| matches!(clause.measure, Measure::Latency(_)));
        latencies.map(|clause| clause.bound).min_by(f64::total_cmp)
    }
}

impl Clause {
    fn failure(&self, report: &Report) -> Option<String> {
        let (found, shown) = match self.measure {
            Measure::Latency(_) if report.requests == 0 => {
                return Some(format!("{} failed: no reply to measure", self.text));
            }
            Measure::Latency(at) => {
                let us = LATENCIES[at].1(report);
                (us, format!("{:.3} ms", us / 1e3))
            }
            Measure::Errors => {
                let share = report.error_share();
                (share, format!("{:.4} %", share * 100.0))
            }
            Measure::Rate => (report.requests_per_s, format!("{:.1}/s", report.requests_per_s)),
        };
        let holds = if self.is_below { found < self.bound } else { found > self.bound };
        (!holds).then(|| format!("{} failed: it was {shown}", self.text))
    }
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Slo, String> {
        text.split(',').map(|clause| clause.trim().parse()).collect::<Result<_, _>>().map(Slo)
    }
}

impl FromStr for Clause {
    type Err = String;

    fn from_str(text: &str) -> Result<Clause, String> {
        let (at, sign) = text
            .char_indices()
            .find(|(_, c)| matches!(c, '<' | '>'))
            .ok_or_else(|| format!("{text:?} has neither < nor >; write it as in p99<2ms"))?;
        let (name, bound) = (text[..at].trim(), text[at + 1..].trim());
        let (measure, bound) = if let Some(at) = LATENCIES.iter().position(|(known, _)| *known == name) {
            (Measure::Latency(at), microseconds(bound)?)
        } else if name == "errors" {
            (Measure::Errors, share(bound)?)
        } else if name == "rate" {
            (Measure::Rate, number(bound)?)
        } else {
            return Err(format!(
                "{name:?} is not one of mean, p50, p90, p95, p99, p99.9, p99.99, max, errors, rate"
            ));
        };
        Ok(Clause { measure, is_below: sign == '<', bound, text: text.to_owned() })
    }
}

fn microseconds(text: &str) -> Result<f64, String> {
    // The longest unit first: "us" and "ms" end in "s".
    for (unit, us) in [("us", 1.0), ("ms", 1e3), ("s", 1e6)] {
        if let Some(value) = text.strip_suffix(unit) {
            return Ok(number(value)? * us);
        }
    }
    Err(format!("{text:?} has no unit; add us, ms or s"))
}

fn share(text: &str) -> Result<f64, String> {
    match text.strip_suffix('%') {
        Some(percent) => Ok(number(percent)? / 100.0),
        None => number(text),
    }
}

fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
        _ => Err(format!("{text:?} is not a number from 0 up")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::report::tests::report as sum_up;
    use crate::tally::{ErrorKind, Tally};

    fn report() -> Report {
        let mut tally = Tally::new();
        for _ in 0..99 {
            tally.reply(Duration::from_millis(3), Duration::from_millis(1));
        }
        tally.error(ErrorKind::Reset, &"gone");
        sum_up(&tally)
    }

    #[test]
    fn clauses_are_held_against_corrected_latency_errors_and_rate() {
        let failures = |text: &str| text.parse::<Slo>().unwrap().failures(&report());
        assert!(failures("p99<4ms, errors<2%,rate>98").is_empty());
        assert_eq!(failures("p99<2ms")[0], "p99<2ms failed: it was 3.000 ms");
        assert_eq!(failures("errors<0.01,p50<1s"), ["errors<0.01 failed: it was 1.0000 %"]);
        assert_eq!(failures("rate>99").len(), 1);
        let goal: Slo = "p99<1s,p50<10ms".parse().unwrap();
        assert_eq!(goal.tightest_us(), Some(10_000.0));
        assert_eq!(goal.with_errors().failures(&report()), ["errors<0.1% failed: it was 1.0000 %"]);
        assert!("errors<2%".parse::<Slo>().unwrap().with_errors().failures(&report()).is_empty());
        let nothing = sum_up(&Tally::new());
        assert_eq!("p99<1s".parse::<Slo>().unwrap().failures(&nothing).len(), 1);
    }

    #[test]
    fn units_and_names_are_checked() {
        for text in ["", "p99", "p99<2", "p98<2ms", "errors<x%", "p99<-1ms", "p99<NaNms", "p99<2ms,"] {
            assert!(text.parse::<Slo>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in "\\PC{0,40}") {
            let _ = text.parse::<Slo>();
        }

        #[test]
        fn units_agree(us in 1_u32..1_000_000) {
            let value = f64::from(us);
            prop_assert_eq!(microseconds(&format!("{us}us")).unwrap(), value);
            for (unit, us) in [("ms", 1e3), ("s", 1e6)] {
                let read = microseconds(&format!("{}{unit}", value / us)).unwrap();
                prop_assert!((read - value).abs() < 1e-6 * value);
            }
        }
    }
}
