//! `decide`: what the product's decision is worth on the committed workloads, held against the aims set for it.
//!
//! In: the workloads of the real cluster. Out: tables, and a last line of figures; an aim that is missed is an error. Requests
//! are drawn as the workload has them, but many more than a real run has, so that intervals are narrow.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use keyferry_decide::Policy;

use super::check::Workload;
use crate::costs::{Costs, Fabric, Lend};
use crate::replicate::{self, Mean};
use crate::scenario::{Gaps, Model, OURS, Scenario};
use crate::tally::Outcome;

/// Where the workloads are, and how long.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The folder with skewed.toml and balanced.toml
    #[arg(long, default_value = "tools/cluster/workloads")]
    pub workloads: PathBuf,
    /// A calibration: measured, paper, or a file
    #[arg(long, default_value = "measured")]
    pub costs: String,
    /// Fewer and shorter runs
    #[arg(long)]
    pub quick: bool,
}

/// Of `session`, on the skewed workload at its rate, at most: the mean, and p99.
const MEAN_MOST: f64 = 0.40;
const P99_MOST: f64 = 0.30;

/// Of one queue for all slots, at most.
const BOUND_MOST: f64 = 1.10;

/// Of `session` where clients ask for the same, at any rate, at most.
const BALANCED_MOST: f64 = 1.02;

/// Requests moved to where more waited than where they came from: if nodes swung, about half would be.
const REGRETTED_MOST: f64 = 0.25;

/// Requests a second: of the skewed workload up to its own, of the balanced one from idle to nearly all slots.
const SKEWED: [f64; 3] = [300.0, 440.0, 580.0];
const BALANCED: [f64; 7] = [100.0, 200.0, 300.0, 440.0, 580.0, 700.0, 800.0];

/// Between two words, in us. When it is acted on a word is up to twice as old, since readers read as often as they write.
const WORDS_US: [u64; 5] = [1, 100, 200, 350, 500];

/// Figures of a run.
type Of = fn(&Outcome) -> f64;
const MEAN: Of = |outcome| outcome.mean_ns;
const P99: Of = |outcome| outcome.p99_ns;

struct Runs {
    skewed: Workload,
    balanced: Workload,
    costs: Arc<Costs>,
    seeds: usize,
    requests: u64,
}

impl Runs {
    fn scenario(&self, workload: &Workload, rate: f64, model: Model) -> anyhow::Result<Scenario> {
        let mut scenario = workload.scenario(&self.costs, model, 0)?;
        (scenario.load.gaps, scenario.load.rate) = (Gaps::Poisson, rate);
        (scenario.warm_up, scenario.requests) = (self.requests / 10, self.requests);
        Ok(scenario)
    }

    fn all(&self, scenarios: &[Scenario]) -> Vec<Vec<Outcome>> {
        replicate::all(scenarios, self.seeds, &replicate::progress())
    }

    fn by_rate(&self, workload: &Workload, rates: &[f64]) -> anyhow::Result<Vec<Compared>> {
        let models = [Model::Session, OURS, Model::Central];
        let scenarios = rates.iter().flat_map(|rate| models.map(|model| (rate, model)));
        let scenarios: anyhow::Result<Vec<_>> =
            scenarios.map(|(rate, model)| self.scenario(workload, *rate, model)).collect();
        Ok(self.all(&scenarios?).chunks(3).map(|of| Compared::of(&of[0], &of[1], &of[2])).collect())
    }
}

/// `bf` beside `session` and one queue for all: mean and p99.
struct Compared {
    ms: [Mean; 3],
    p99_ms: [Mean; 3],
    to_session: [Mean; 2],
    to_bound: [Mean; 2],
    moved: Mean,
    regretted: Mean,
}

impl Compared {
    fn of(session: &[Outcome], bf: &[Outcome], central: &[Outcome]) -> Compared {
        let all = [session, bf, central];
        Compared {
            ms: all.map(|of| Mean::over(of, |outcome| outcome.mean_ns / 1e6)),
            p99_ms: all.map(|of| Mean::over(of, |outcome| outcome.p99_ns / 1e6)),
            to_session: [MEAN, P99].map(|figure| Mean::ratio(bf, session, figure)),
            to_bound: [MEAN, P99].map(|figure| Mean::ratio(bf, central, figure)),
            moved: Mean::over(bf, |outcome| outcome.moved),
            regretted: Mean::over(bf, |outcome| outcome.regretted),
        }
    }

    fn row(&self) -> String {
        let pair = |[mean, p99]: [Mean; 2]| format!("{mean}, {p99}");
        let three = |of: [Mean; 3]| of.map(|mean| format!("{:.1}", mean.value)).join(", ");
        format!(
            "{} | {} | {} | {} | {:.0} % | {:.1} % |",
            three(self.ms),
            three(self.p99_ms),
            pair(self.to_session),
            pair(self.to_bound),
            self.moved.value * 100.0,
            self.regretted.value * 100.0
        )
    }
}

const COLUMNS: &str = " mean ms: session, bf, central | p99 ms | bf / session: mean, p99 | bf / central: mean, p99 | moved | \
                       for nothing |\n|---|---|---|---|---|---|---|";

/// Runs, prints, and says which aim is missed.
///
/// # Errors
/// A workload or the costs cannot be read, or an aim is missed.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let workload = |name: &str| Workload::load(&arguments.workloads.join(name));
    let (seeds, requests) = if arguments.quick { (4, 20_000) } else { (10, 100_000) };
    let runs = Runs {
        skewed: workload("skewed.toml")?,
        balanced: workload("balanced.toml")?,
        costs: Arc::new(Costs::load(&arguments.costs)?),
        seeds,
        requests,
    };
    println!("{seeds} seeds of {requests} requests, half widths of 90 % confidence");
    println!("\n| skewed, requests/s |{COLUMNS}");
    let skewed = runs.by_rate(&runs.skewed, &SKEWED)?;
    SKEWED.iter().zip(&skewed).for_each(|(rate, of)| println!("| {rate} | {}", of.row()));
    println!("\n| balanced, requests/s |{COLUMNS}");
    let balanced = runs.by_rate(&runs.balanced, &BALANCED)?;
    BALANCED.iter().zip(&balanced).for_each(|(rate, of)| println!("| {rate} | {}", of.row()));
    let words = by_word(&runs)?;
    between(&runs)?;
    let high = &skewed[SKEWED.len() - 1];
    let most = |of: &[Compared], figure: fn(&Compared) -> Mean| {
        of.iter().map(|it| figure(it).value).fold(f64::NEG_INFINITY, f64::max)
    };
    let figures = [
        ("mean", high.to_session[0].value, MEAN_MOST),
        ("p99", high.to_session[1].value, P99_MOST),
        ("bound", high.to_bound[0].value, BOUND_MOST),
        ("balanced", most(&balanced, |it| it.to_session[0]), BALANCED_MOST),
        ("words", most(&words, |it| it.to_bound[0]), BOUND_MOST),
        ("regretted", most(&words, |it| it.regretted), REGRETTED_MOST),
    ];
    let told: Vec<_> = figures.iter().map(|(name, figure, _)| format!("{name}={figure:.2}")).collect();
    println!("\ndecide: {}", told.join(" "));
    let missed: Vec<_> = figures
        .iter()
        .filter(|(_, figure, aim)| figure > aim)
        .map(|(name, figure, aim)| format!("{name} is {figure:.3}, at most {aim} is aimed at"))
        .collect();
    ensure!(
        missed.is_empty(),
        "an aim is missed: {}; look at what changed in dataplane/proto/decide",
        missed.join("; ")
    );
    Ok(())
}

/// The skewed workload at its rate, with words of several ages.
fn by_word(runs: &Runs) -> anyhow::Result<Vec<Compared>> {
    println!("\n| skewed, a word each |{COLUMNS}");
    let rate = SKEWED[SKEWED.len() - 1];
    let mut scenarios = vec![
        runs.scenario(&runs.skewed, rate, Model::Session)?,
        runs.scenario(&runs.skewed, rate, Model::Central)?,
    ];
    for word_us in WORDS_US {
        let mut scenario = runs.scenario(&runs.skewed, rate, OURS)?;
        scenario.cluster.word_ns = word_us * 1000;
        scenarios.push(scenario);
    }
    let outcomes = runs.all(&scenarios);
    let compared: Vec<_> =
        outcomes[2..].iter().map(|bf| Compared::of(&outcomes[0], bf, &outcomes[1])).collect();
    WORDS_US.iter().zip(&compared).for_each(|(word_us, of)| println!("| {word_us} us | {}", of.row()));
    Ok(compared)
}

/// What stands between `bf` and the bound: each thing switched off alone, then together.
fn between(runs: &Runs) -> anyhow::Result<()> {
    let rate = SKEWED[SKEWED.len() - 1];
    let bf = runs.scenario(&runs.skewed, rate, OURS)?;
    let free = Costs {
        lend: Lend { message: 0, key: 0, out_per_kb: 0, in_per_kb: 0, ..runs.costs.lend.clone() },
        fabric: Fabric { one_way: 0, per_kb: 0 },
        ..(*runs.costs).clone()
    };
    let with = |change: &dyn Fn(&mut Scenario)| {
        let mut scenario = bf.clone();
        change(&mut scenario);
        scenario
    };
    let at_once = |scenario: &mut Scenario| scenario.cluster.word_ns = 1_000;
    let for_nothing = |scenario: &mut Scenario| {
        scenario.costs = Arc::new(free.clone());
        scenario.model = Model::Bf(Policy::Estimate { move_cost_us: 0 });
    };
    let variants = [
        ("as it is", bf.clone()),
        ("words at once", with(&at_once)),
        ("moves cost nothing", with(&for_nothing)),
        (
            "both",
            with(&|scenario| {
                at_once(scenario);
                for_nothing(scenario);
            }),
        ),
        ("the shortest queue, known at once", with(&|scenario| scenario.model = Model::ShortestQueue)),
        ("one queue for all slots", with(&|scenario| scenario.model = Model::Central)),
    ];
    let scenarios: Vec<_> = variants.iter().map(|(_, scenario)| scenario.clone()).collect();
    let outcomes = runs.all(&scenarios);
    let bound = &outcomes[variants.len() - 1];
    println!("\n| skewed, {rate} requests/s | mean, of one queue for all slots | p99 |\n|---|---|---|");
    for ((name, _), of) in variants.iter().zip(&outcomes) {
        println!("| {name} | {:.3} | {:.3} |", Mean::ratio(of, bound, MEAN), Mean::ratio(of, bound, P99));
    }
    Ok(())
}
