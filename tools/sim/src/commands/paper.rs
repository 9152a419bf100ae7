//! `paper`: the figures of the paper for 16 and 32 nodes, beside what it says, and everything it leaves open swept.
//!
//! In: the calibration `paper`. Out: figures, tables and a page in a directory; last line `paper: nodes16=X nodes32=Y`, the mean
//! latency of `bf` by that of `session` at the paper's high load. `setup` has what was chosen before anything was run,
//! `page` what is said of it.

mod figures;
mod page;
mod plan;
mod setup;

use std::collections::HashMap;
use std::path::PathBuf;

use indicatif::ProgressBar;

use crate::replicate::{self, Mean, Seeds};
use crate::scenario::Scenario;
use crate::tally::Outcome;
use plan::{Extent, HIGH, NODES, Part, Place};
use setup::Setup;

/// Where to, and how long.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// A directory for figures, tables and the page
    #[arg(long, default_value = "docs/paper")]
    pub out: PathBuf,
    /// Fewer and shorter runs: to see that it works
    #[arg(long)]
    pub quick: bool,
}

/// What was run, by what it is called.
struct Results {
    outcomes: HashMap<String, Vec<Outcome>>,
    /// What each part took.
    spent: Vec<Spent>,
}

/// Runs of a part, and requests in them, those of the warm-up among them.
struct Spent {
    what: &'static str,
    seeds: Seeds,
    places: usize,
    /// Of them, those whose intervals were still wide when the seeds were used up.
    wide: usize,
    runs: usize,
    requests: u64,
    /// The largest share of measured requests that had not ended when a run did, under another model than `rr`.
    cut_short: f64,
}

impl Results {
    fn of(&self, key: &str) -> &[Outcome] {
        self.outcomes.get(key).map_or(&[], Vec::as_slice)
    }

    /// A figure of one model by that of another in the same place.
    fn ratio(&self, place: &str, one: &str, other: &str, figure: impl Fn(&Outcome) -> f64) -> Mean {
        Mean::ratio(self.of(&format!("{place}/{one}")), self.of(&format!("{place}/{other}")), figure)
    }

    /// Runs a part.
    fn add(&mut self, part: Part, progress: &ProgressBar) {
        let Part { what, seeds, places } = part;
        progress.set_message(what);
        let groups: Vec<Vec<Scenario>> = places
            .iter()
            .map(|place| place.scenarios.iter().map(|(_, scenario)| scenario.clone()).collect())
            .collect();
        let known = |group: usize, outcomes: &[Vec<Outcome>]| ratios(&places[group], outcomes);
        let found = replicate::until_narrow(&groups, seeds, known, progress);
        let mut spent =
            Spent { what, seeds, places: places.len(), wide: 0, runs: 0, requests: 0, cut_short: 0.0 };
        for (place, outcomes) in places.iter().zip(found) {
            spent.wide += usize::from(ratios(place, &outcomes).iter().any(|it| it.half_90 > seeds.narrow));
            for ((name, scenario), of) in place.scenarios.iter().zip(outcomes) {
                spent.runs += of.len();
                spent.requests += of.len() as u64 * (scenario.warm_up + scenario.requests);
                if name != "rr" {
                    let share = |it: &Outcome| it.cut_short as f64 / it.requests.max(1) as f64;
                    spent.cut_short = of.iter().map(share).fold(spent.cut_short, f64::max);
                }
                self.outcomes.insert(format!("{}/{name}", place.name), of);
            }
        }
        self.spent.push(spent);
    }
}

/// What a place is there for: mean latencies by that of `session`. `rr` is far off, and no ratio of the paper's.
fn ratios(place: &Place, outcomes: &[Vec<Outcome>]) -> Vec<Mean> {
    let named = || place.scenarios.iter().map(|(name, _)| name.as_str()).zip(outcomes);
    let session = named().find(|(name, _)| *name == "session").map_or(&[][..], |(_, of)| of);
    named()
        .filter(|(name, _)| !["session", "rr"].contains(name))
        .map(|(_, of)| Mean::ratio(of, session, |outcome| outcome.mean_ns))
        .collect()
}

/// Runs and writes.
///
/// # Errors
/// A file cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (base, extent) = (Setup::chosen(arguments.quick)?, Extent { quick: arguments.quick });
    let progress = replicate::progress();
    let mut results = Results { outcomes: HashMap::new(), spent: Vec::new() };
    plan::parts(&base, &extent).into_iter().for_each(|part| results.add(part, &progress));
    std::fs::create_dir_all(&arguments.out)?;
    for nodes in NODES {
        for figure in figures::figures(&results, &extent, nodes) {
            figure.write(&arguments.out)?;
        }
        figures::breakdown(&results, nodes).write(&arguments.out)?;
    }
    std::fs::write(arguments.out.join("README.md"), page::page(&results, &base, &extent))?;
    let at = |nodes| results.ratio(&format!("{nodes}/k/{HIGH}"), "bf", "session", |outcome| outcome.mean_ns);
    println!("paper: nodes16={:.2} nodes32={:.2}", at(16).value, at(32).value);
    Ok(())
}
