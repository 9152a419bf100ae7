//! The highest rate that meets a goal: trials go in, a verdict comes out. Rates are doubled until one fails, the gap is
//! then halved, and what is left is repeated until it holds. A trial that fails while the generator or the machine was
//! not up to it proves nothing, and is said to. Pure: a trial is a function of the caller.

use std::fmt;

use serde::Serialize;

use crate::report::Report;

/// Processor share of the busiest thread from which on the generator itself may be what is slow.
pub const CPU_SHARE_MAX: f64 = 0.9;
/// Share of the machine's time that a hypervisor may take.
pub const STEAL_SHARE_MAX: f64 = 0.05;
/// How late the generator may be at p99, as a share of the tightest latency of the goal, and where the goal has none.
pub const LAG_SHARE_MAX: f64 = 0.2;
/// See [`LAG_SHARE_MAX`].
pub const LAG_US_MAX: f64 = 1_000.0;
/// Lowest rate tried.
pub const RATE_MIN: f64 = 1.0;
/// Times a doubtful failure is tried again.
const RETRIES: usize = 1;
/// Times the rate gives way when it does not hold.
const STEPS_BACK_MAX: usize = 4;

/// Where to look.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// First rate tried.
    pub from: f64,
    /// Highest rate tried.
    pub to: f64,
    /// How far above the result the lowest rate that failed may be, as a share.
    pub precision: f64,
    /// Times the result has to hold.
    pub repeats: usize,
}

/// Why a failure proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// The busiest thread of the generator had this share of a core.
    GeneratorBusy(f64),
    /// The generator sent requests this late at p99, in microseconds.
    GeneratorLate(f64),
    /// A hypervisor took this share of the machine's time.
    Stolen(f64),
}

impl Doubt {
    /// What speaks against a run; `bound_us`: the tightest latency of the goal.
    pub fn of(report: &Report, bound_us: Option<f64>) -> Option<Doubt> {
        let g = &report.generator;
        let lag_max = bound_us.map_or(LAG_US_MAX, |bound| bound * LAG_SHARE_MAX);
        if g.steal_share > STEAL_SHARE_MAX {
            Some(Doubt::Stolen(g.steal_share))
        } else if g.cpu_share > CPU_SHARE_MAX {
            Some(Doubt::GeneratorBusy(g.cpu_share))
        } else if g.lag_us.p99 > lag_max {
            Some(Doubt::GeneratorLate(g.lag_us.p99))
        } else {
            None
        }
    }
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Doubt::GeneratorBusy(share) => write!(
                f,
                "generator saturated: its busiest thread used {:.0} % of a core; give it more --threads, or another machine",
                share * 100.0
            ),
            Doubt::GeneratorLate(us) => write!(
                f,
                "generator saturated: it sent requests {us:.0} us late (p99) although connections were free; give it \
                 cores of its own (--cores), or another machine"
            ),
            Doubt::Stolen(share) => write!(
                f,
                "processor time stolen: a hypervisor took {:.1} % of this machine's time",
                share * 100.0
            ),
        }
    }
}

/// One run at one rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Intended rate.
    pub rate: f64,
    /// Replies a second.
    pub achieved: f64,
    /// Corrected p99, in microseconds.
    pub p99_us: f64,
    /// Clauses of the goal that failed.
    pub failures: Vec<String>,
    /// Why a failure proves nothing.
    pub doubt: Option<Doubt>,
}

impl Trial {
    fn is_met(&self) -> bool {
        self.failures.is_empty()
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}/s: p99 {:.3} ms, ", self.rate, self.p99_us / 1e3)?;
        match (self.is_met(), &self.doubt) {
            (true, _) => f.write_str("goal met"),
            (false, None) => f.write_str(&self.failures.join("; ")),
            (false, Some(doubt)) => write!(f, "{} ({doubt})", self.failures.join("; ")),
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// This rate meets the goal, each time; little more does not.
    Highest {
        /// The rate.
        rate: f64,
    },
    /// Every rate up to the highest that was to be tried meets the goal.
    AboveAll {
        /// That rate.
        rate: f64,
    },
    /// Not even the lowest rate meets the goal.
    None,
    /// The failures prove nothing.
    CannotMeasure {
        /// Why.
        reason: String,
        /// The highest rate that did meet the goal.
        met: Option<f64>,
    },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Highest { rate } => write!(f, "highest rate that meets the goal: {rate:.1}/s"),
            Verdict::AboveAll { rate } => {
                write!(f, "the goal is met up to {rate:.1}/s; raise --to to find its end")
            }
            Verdict::None => write!(f, "no rate meets the goal, not even {RATE_MIN}/s"),
            Verdict::CannotMeasure { reason, met } => {
                write!(f, "cannot measure reliably: {reason}")?;
                met.map_or(Ok(()), |met| write!(f, " (the goal was met at {met:.1}/s)"))
            }
        }
    }
}

/// What stops a search early: a verdict, or an error of the trials.
enum Stop<E> {
    Verdict(Verdict),
    Error(E),
}

/// Looks for the highest rate at which `measure` meets its goal.
///
/// # Errors
/// Those of `measure`.
pub fn search<E>(span: Span, mut measure: impl FnMut(f64) -> Result<Trial, E>) -> Result<Verdict, E> {
    match find(span, &mut measure) {
        Ok(verdict) | Err(Stop::Verdict(verdict)) => Ok(verdict),
        Err(Stop::Error(error)) => Err(error),
    }
}

fn find<E>(span: Span, measure: &mut impl FnMut(f64) -> Result<Trial, E>) -> Result<Verdict, Stop<E>> {
    let (mut low, mut high) = (None, None);
    let mut rate = span.from.min(span.to);
    // Doubling and halving both end: at the highest rate to be tried, and at the lowest there is.
    while low.is_none() || high.is_none() {
        if holds(rate, low, measure)? {
            if rate >= span.to {
                return Ok(Verdict::AboveAll { rate });
            }
            low = Some(rate);
            rate = (rate * 2.0).min(span.to);
        } else {
            if rate <= RATE_MIN {
                return Ok(Verdict::None);
            }
            high = Some(rate);
            rate = (rate / 2.0).max(RATE_MIN);
        }
    }
    let (mut low, mut high) = (low.unwrap_or(RATE_MIN), high.unwrap_or(span.to));
    while high / low > 1.0 + span.precision {
        let middle = (low * high).sqrt();
        if holds(middle, Some(low), measure)? { low = middle } else { high = middle }
    }
    confirm(span, low, measure)
}

/// Whether the goal is met at `rate`; a doubtful failure is tried again, and ends the search when it stays.
fn holds<E>(
    rate: f64,
    met: Option<f64>,
    measure: &mut impl FnMut(f64) -> Result<Trial, E>,
) -> Result<bool, Stop<E>> {
    for attempt in 0..=RETRIES {
        let trial = measure(rate).map_err(Stop::Error)?;
        match trial.doubt {
            _ if trial.is_met() => return Ok(true),
            None => return Ok(false),
            Some(doubt) if attempt == RETRIES => {
                return Err(Stop::Verdict(Verdict::CannotMeasure { reason: doubt.to_string(), met }));
            }
            Some(_) => {}
        }
    }
    Ok(false)
}

/// Repeats a rate, and gives way a little when it does not hold.
fn confirm<E>(
    span: Span,
    mut rate: f64,
    measure: &mut impl FnMut(f64) -> Result<Trial, E>,
) -> Result<Verdict, Stop<E>> {
    let mut seen = String::new();
    for _ in 0..=STEPS_BACK_MAX {
        let mut met = 0;
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for _ in 0..span.repeats {
            let trial = measure(rate).map_err(Stop::Error)?;
            if let (false, Some(doubt)) = (trial.is_met(), trial.doubt) {
                return Ok(Verdict::CannotMeasure { reason: doubt.to_string(), met: None });
            }
            met += usize::from(trial.is_met());
            (least, most) = (least.min(trial.p99_us), most.max(trial.p99_us));
        }
        if met == span.repeats {
            return Ok(Verdict::Highest { rate });
        }
        seen = format!(
            "too noisy: of {} repeats at {rate:.1}/s {met} met the goal, with p99 from {:.3} to {:.3} ms",
            span.repeats,
            least / 1e3,
            most / 1e3
        );
        rate /= 1.0 + span.precision;
    }
    Ok(Verdict::CannotMeasure { reason: seen, met: None })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const SPAN: Span = Span { from: 100.0, to: 1e6, precision: 0.05, repeats: 3 };

    fn trial(rate: f64, is_met: bool, doubt: Option<Doubt>) -> Result<Trial, Infallible> {
        let failures = if is_met { vec![] } else { vec!["p99<1ms failed".to_owned()] };
        Ok(Trial { rate, achieved: rate, p99_us: rate, failures, doubt })
    }

    proptest! {
        #[test]
        fn a_sharp_limit_is_found(limit in 2.0_f64..900_000.0) {
            let mut trials = 0;
            let verdict = search(SPAN, |rate| {
                trials += 1;
                trial(rate, rate <= limit, None)
            });
            let Ok(Verdict::Highest { rate }) = verdict else { panic!("{verdict:?}") };
            prop_assert!(rate <= limit && rate * 1.06 >= limit, "{rate} {limit}");
            prop_assert!(trials < 40);
        }

        #[test]
        fn any_answers_end_the_search(answers in prop::collection::vec((any::<bool>(), any::<bool>()), 1..200)) {
            let mut at = 0;
            let verdict = search(SPAN, |rate| {
                let (is_met, is_doubtful) = answers[at % answers.len()];
                at += 1;
                trial(rate, is_met, is_doubtful.then_some(Doubt::Stolen(0.5)))
            });
            prop_assert!(verdict.is_ok() && at < 100);
        }
    }

    #[test]
    fn ends_of_the_span_are_told() {
        let verdict = |limit: f64| search(SPAN, |rate| trial(rate, rate <= limit, None)).unwrap();
        assert_eq!(verdict(0.0), Verdict::None);
        assert_eq!(verdict(1e9), Verdict::AboveAll { rate: 1e6 });
    }

    #[test]
    fn a_failure_of_the_generator_is_no_limit_of_the_server() {
        let verdict = search(SPAN, |rate| {
            let doubt = (rate > 1000.0).then_some(Doubt::GeneratorBusy(0.99));
            trial(rate, rate <= 1000.0, doubt)
        });
        let Ok(Verdict::CannotMeasure { reason, met }) = verdict else { panic!("{verdict:?}") };
        assert!(reason.contains("generator saturated") && reason.contains("99 %"), "{reason}");
        assert_eq!(met, Some(800.0));
    }

    #[test]
    fn doubt_that_passes_is_forgotten() {
        let mut is_first = true;
        let verdict = search(SPAN, |rate| {
            let doubt = (rate > 1000.0 && std::mem::take(&mut is_first)).then_some(Doubt::Stolen(0.2));
            trial(rate, rate <= 1000.0, doubt)
        });
        assert!(matches!(verdict, Ok(Verdict::Highest { .. })), "{verdict:?}");
    }

    #[test]
    fn results_that_do_not_repeat_are_noise() {
        let mut count = 0;
        // Meets the goal at first, and every other time when it is repeated.
        let verdict = search(SPAN, |rate| {
            count += 1;
            trial(rate, rate < 150.0 && (count < 7 || count % 2 == 0), None)
        });
        let Ok(Verdict::CannotMeasure { reason, .. }) = verdict else { panic!("{verdict:?}") };
        assert!(reason.contains("too noisy"), "{reason}");
    }
}
