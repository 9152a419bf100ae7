//! Runs of one scenario with several seeds, and how sure what they say is.
//!
//! In: scenarios. Out: outcomes, means with confidence intervals of 90 and 95 % (Student's t over replications), ratios of two
//! scenarios seed by seed. Threads run whole scenarios; which thread runs which changes nothing.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::ProgressBar;

use crate::scenario::Scenario;
use crate::tally::Outcome;
use crate::world::World;

/// Quantiles of Student's t at 0.95 by degrees of freedom, from 1 on (ISO 2602, table 2).
const STUDENT_95: [f64; 30] = [
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753,
    1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701, 1.699, 1.697,
];

/// The same at 0.975.
const STUDENT_975: [f64; 30] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
];

/// A mean over replications, with half the width of its confidence intervals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Of 90 %.
    pub half_90: f64,
    /// Of 95 %.
    pub half_95: f64,
}

impl Mean {
    /// Of some values; of one alone nothing is sure.
    pub fn of(values: &[f64]) -> Mean {
        let count = values.len() as f64;
        let value = values.iter().sum::<f64>() / count;
        let variance = values.iter().map(|it| (it - value).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        let half = |table: &[f64; 30]| match values.len() {
            0 | 1 => 0.0,
            len => table[(len - 2).min(table.len() - 1)] * (variance / count).sqrt(),
        };
        Mean { value, half_90: half(&STUDENT_95), half_95: half(&STUDENT_975) }
    }

    /// Of a figure of outcomes.
    pub fn over(outcomes: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> Mean {
        Mean::of(&outcomes.iter().map(figure).collect::<Vec<_>>())
    }

    /// Of the ratio of a figure, seed by seed: the geometric mean, with its intervals as if they were even around it.
    pub fn ratio(ones: &[Outcome], others: &[Outcome], figure: impl Fn(&Outcome) -> f64) -> Mean {
        let logs: Vec<f64> =
            ones.iter().zip(others).map(|(one, other)| (figure(one) / figure(other)).ln()).collect();
        let Mean { value, half_90, half_95 } = Mean::of(&logs);
        let width = |half: f64| ((value + half).exp() - (value - half).exp()) / 2.0;
        Mean { value: value.exp(), half_90: width(half_90), half_95: width(half_95) }
    }

    /// Whether the interval of 95 % has this value.
    pub fn has(&self, value: f64) -> bool {
        (self.value - value).abs() <= self.half_95
    }
}

impl fmt::Display for Mean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} ± {:.digits$}", self.value, self.half_90)
    }
}

/// How many seeds a comparison gets: more where its intervals are wide.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// As many at least.
    pub least: usize,
    /// No more than these, however wide the intervals are: they are told as they are.
    pub most: usize,
    /// Half the width of the 90 % interval of a ratio that needs no further seed.
    pub narrow: f64,
}

/// Runs each scenario with so many seeds: its own and those after it. Outcomes are by scenario, then by seed.
pub fn all(scenarios: &[Scenario], seeds: usize, progress: &ProgressBar) -> Vec<Vec<Outcome>> {
    let jobs: Vec<_> =
        scenarios.iter().flat_map(|scenario| (0..seeds).map(move |number| (scenario, number))).collect();
    run(&jobs, progress).chunks(seeds.max(1)).map(<[Outcome]>::to_vec).collect()
}

/// Runs groups of scenarios that are compared, all of a group with the same seeds, until each ratio of `ratios` is known well
/// enough or the seeds are used up. Outcomes are by group, scenario and seed.
///
/// Groups are looked at between rounds, each by its own outcomes alone: so the figures are the same on any number of cores.
pub fn until_narrow(
    groups: &[Vec<Scenario>],
    seeds: Seeds,
    ratios: impl Fn(usize, &[Vec<Outcome>]) -> Vec<Mean>,
    progress: &ProgressBar,
) -> Vec<Vec<Vec<Outcome>>> {
    let mut outcomes: Vec<Vec<Vec<Outcome>>> =
        groups.iter().map(|scenarios| vec![Vec::new(); scenarios.len()]).collect();
    let (mut number, mut open): (usize, Vec<usize>) = (0, (0..groups.len()).collect());
    while number < seeds.most && !open.is_empty() {
        let jobs: Vec<_> =
            open.iter().flat_map(|group| groups[*group].iter().map(move |it| (it, number))).collect();
        let mut done = run(&jobs, progress).into_iter();
        for group in &open {
            outcomes[*group].iter_mut().zip(done.by_ref()).for_each(|(of, outcome)| of.push(outcome));
        }
        number += 1;
        if number >= seeds.least {
            open.retain(|group| {
                ratios(*group, &outcomes[*group]).iter().any(|ratio| ratio.half_90 > seeds.narrow)
            });
        }
    }
    outcomes
}

/// Runs scenarios, each with one of its seeds, on as many threads as there are cores.
fn run(jobs: &[(&Scenario, usize)], progress: &ProgressBar) -> Vec<Outcome> {
    progress.set_length(jobs.len() as u64);
    progress.set_position(0);
    let next = AtomicUsize::new(0);
    let outcomes: Mutex<Vec<Option<Outcome>>> = Mutex::new(vec![None; jobs.len()]);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some((scenario, number)) = jobs.get(at) else { return };
                    let seed = scenario.seed + *number as u64;
                    let outcome = World::new(&Scenario { seed, ..(*scenario).clone() }).run();
                    outcomes.lock().expect("no run panics with it")[at] = Some(outcome);
                    progress.inc(1);
                }
            });
        }
    });
    outcomes.into_inner().expect("no run panics with it").into_iter().flatten().collect()
}

/// A progress bar where somebody looks; none otherwise.
pub fn progress() -> ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{msg} {wide_bar} {pos} of {len} runs, {eta} left");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::costs::Costs;
    use crate::draw::Skew;
    use crate::scenario::{Cluster, Gaps, Load, Model, Sizes, Web, Work};

    #[test]
    fn means_have_their_confidence() {
        assert_eq!(Mean::of(&[3.0]), Mean { value: 3.0, half_90: 0.0, half_95: 0.0 });
        // Deviation 1.291; t(3) is 2.353 and 3.182.
        let mean = Mean::of(&[1.0, 2.0, 3.0, 4.0]);
        assert!((mean.half_90 - 1.519).abs() < 1e-3 && (mean.half_95 - 2.054).abs() < 1e-3, "{mean:?}");
        assert!(mean.has(2.5) && mean.has(4.5) && !mean.has(4.6));
        assert_eq!(format!("{mean:.1}"), "2.5 ± 1.5");
    }

    /// Seeds are added where a ratio is wide, and nowhere else; what came before stays as it was.
    #[test]
    fn wide_ratios_get_more_seeds() {
        let scenario = |model| Scenario {
            cluster: Cluster::default(),
            load: Load {
                rate: 500.0,
                gaps: Gaps::Poisson,
                clients: 16,
                skew: Skew::Even,
                sessions: None,
                kept: None,
                sizes: Sizes::Web(Web::default()),
                work: Work::Exponential(1e7),
            },
            costs: Arc::new(Costs::nothing()),
            model,
            warm_up: 50,
            requests: 200,
            seed: 1,
        };
        let group = vec![scenario(Model::Session), scenario(Model::Central)];
        let groups = [group.clone(), group.clone()];
        let seeds = Seeds { least: 2, most: 4, narrow: 0.1 };
        // The first group is called narrow once it has three seeds, the second never is.
        let ratios = |at: usize, of: &[Vec<Outcome>]| {
            let half_90 = if at == 0 && of[0].len() == 3 { 0.0 } else { 1.0 };
            vec![Mean { value: 1.0, half_90, half_95: half_90 }]
        };
        let found = until_narrow(&groups, seeds, ratios, &ProgressBar::hidden());
        let whole = all(&group, 4, &ProgressBar::hidden());
        assert_eq!(found[1], whole);
        assert_eq!(found[0], [whole[0][..3].to_vec(), whole[1][..3].to_vec()]);
    }
}
