//! What the executable does: each command makes scenarios, has them run, and tells what came out.

pub mod check;
pub mod decide;
pub mod paper;
pub mod scale;
pub mod size;
pub mod today;

use crate::replicate::Mean;
use crate::tally::Outcome;

/// The highest share of a node's slots, or of its cores where the application is on them, less the lowest.
pub fn spread(outcome: &Outcome) -> f64 {
    let busy = if outcome.app.iter().any(|share| *share > 0.0) { &outcome.app } else { &outcome.cores };
    let most = busy.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = busy.iter().copied().fold(f64::INFINITY, f64::min);
    most - least
}

/// Mean and p99, in ms.
fn latencies(outcomes: &[Outcome]) -> (Mean, Mean) {
    (
        Mean::over(outcomes, |outcome| outcome.mean_ns / 1e6),
        Mean::over(outcomes, |outcome| outcome.p99_ns / 1e6),
    )
}
