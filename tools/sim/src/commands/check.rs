//! `check`: a workload of the real cluster, simulated: the same table as `keyferry-cluster models` prints, to lay beside it.
//!
//! In: a workload file. Out: medians over rounds, and ratios. Requests are those the load generator draws from the same seed:
//! the same clients ask for the same at the same moments.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use keyferry_decide::Policy;
use serde::Deserialize;

use crate::costs::Costs;
use crate::draw::{Mix, Skew};
use crate::replicate::{self, Mean};
use crate::scenario::{Cluster, Gaps, Kept, Load, Model, OURS, Scenario, Sizes, Work, word_ns};
use crate::tally::Outcome;
use crate::wishes::Wishes;
use crate::world::World;

/// Nodes of which each is shown.
const BUSY_SHOWN: usize = 16;

/// What to check.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// A workload of tools/cluster/workloads
    pub workload: PathBuf,
    /// Requests a second, in place of the workload's; several are simulated one after the other
    #[arg(long, value_delimiter = ',')]
    pub rate: Vec<f64>,
    /// Rounds, each with the seed the real rounds have
    #[arg(long, default_value_t = 10)]
    pub rounds: u64,
    /// Seconds of each run, in place of the workload's
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Which models: rr, session, bf, threshold, jsq, central
    #[arg(long, value_delimiter = ',', default_value = "session,bf", value_parser = model)]
    pub models: Vec<Model>,
    /// A calibration: measured, paper, or a file
    #[arg(long, default_value = "measured")]
    pub costs: String,
    /// How often load words are written, in us, in place of the product's 200 to 1,000 by the number of peers
    #[arg(long)]
    pub word_us: Option<u64>,
    /// Seeds as they come, and so many requests in each run, in place of the generator's: for figures with small intervals
    #[arg(long)]
    pub requests: Option<u64>,
}

/// Models by name.
///
/// # Errors
/// It is none.
pub fn model(text: &str) -> Result<Model, String> {
    let all = [
        Model::Rr,
        Model::Session,
        OURS,
        Model::Bf(Policy::Threshold { us: 2000 }),
        Model::ShortestQueue,
        Model::Central,
    ];
    all.into_iter()
        .find(|model| model.name() == text)
        .ok_or_else(|| "write rr, session, bf, threshold, jsq or central".to_owned())
}

/// A workload of the real cluster, as far as it matters here. What else its description has is for real processes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    seconds: f64,
    warm_up: f64,
    rate: f64,
    seed: u64,
    clients: usize,
    skew: Skew,
    connections: usize,
    requests_per_connection: u32,
    cost_us: String,
    bytes: String,
    cluster: toml::Table,
}

impl Workload {
    /// Reads one.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn load(file: &Path) -> anyhow::Result<Workload> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        toml::from_str(&text).with_context(|| format!("{} is no workload", file.display()))
    }

    fn of_node(&self, section: &str, key: &str) -> Option<&toml::Value> {
        self.cluster.get("node")?.get(section)?.get(key)
    }

    /// The scenario of a round.
    ///
    /// # Errors
    /// A value is none of its kind.
    pub fn scenario(&self, costs: &Arc<Costs>, model: Model, round: u64) -> anyhow::Result<Scenario> {
        let mix = |text: &str| text.parse::<Mix>().map_err(|error| anyhow::anyhow!("{text:?}: {error}"));
        let number = |value: Option<&toml::Value>| value.and_then(toml::Value::as_integer);
        let nodes = usize::try_from(number(self.cluster.get("nodes")).unwrap_or(2))?;
        let slots = usize::try_from(number(self.of_node("app", "slots")).unwrap_or(1))?;
        ensure!(nodes > 0 && slots > 0, "a cluster has nodes, and they have slots");
        let shared = self.of_node("tls", "sessions_shared").and_then(toml::Value::as_bool).unwrap_or(true);
        let seed = self.seed + round;
        let load = Load {
            rate: self.rate,
            gaps: Gaps::Generator(seed),
            clients: self.clients,
            skew: self.skew,
            sessions: None,
            kept: Some(Kept {
                connections: self.connections / self.clients.max(1),
                requests: self.requests_per_connection,
            }),
            sizes: Sizes::Mix(mix(&self.bytes)?),
            work: Work::Mix(mix(&self.cost_us)?),
        };
        let (warm_up, requests) = self.counts(&load, seed);
        let cluster =
            Cluster { nodes, slots, sessions_shared: shared, word_ns: word_ns(nodes), ..Cluster::default() };
        Ok(Scenario { cluster, load, costs: Arc::clone(costs), model, warm_up, requests, seed })
    }

    /// How many requests come while the real run warms up, and how many while it measures.
    fn counts(&self, load: &Load, seed: u64) -> (u64, u64) {
        let mut wishes = Wishes::new(load, seed);
        let (mut now_ns, mut before, mut measured) = (0, 0, 0);
        while let Some(at_ns) = wishes.next_ns(now_ns).filter(|at_ns| (*at_ns as f64) < self.seconds * 1e9) {
            wishes.client();
            now_ns = at_ns;
            *(if (at_ns as f64) < self.warm_up * 1e9 { &mut before } else { &mut measured }) += 1;
        }
        (before, measured)
    }
}

/// Runs and prints.
///
/// # Errors
/// The workload or the costs cannot be read.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut workload = Workload::load(&arguments.workload)?;
    workload.seconds = arguments.seconds.unwrap_or(workload.seconds);
    let costs = Arc::new(Costs::load(&arguments.costs)?);
    let rates = if arguments.rate.is_empty() { vec![workload.rate] } else { arguments.rate.clone() };
    for rate in rates {
        workload.rate = rate;
        println!("{rate} requests/s, {} rounds", arguments.rounds);
        let outcomes = outcomes(arguments, &workload, &costs)?;
        print!("{}", table(&arguments.models, &outcomes));
        told(&arguments.models, &outcomes);
    }
    Ok(())
}

fn outcomes(
    arguments: &Arguments,
    workload: &Workload,
    costs: &Arc<Costs>,
) -> anyhow::Result<Vec<Vec<Outcome>>> {
    let adjust = |mut scenario: Scenario| {
        if let Some(word_us) = arguments.word_us {
            scenario.cluster.word_ns = word_us * 1000;
        }
        if let Some(requests) = arguments.requests {
            scenario.load.gaps = Gaps::Poisson;
            (scenario.warm_up, scenario.requests) = (requests / 5, requests);
        }
        scenario
    };
    let progress = replicate::progress();
    arguments
        .models
        .iter()
        .map(|model| {
            let rounds = (0..arguments.rounds).map(|round| {
                let scenario = adjust(workload.scenario(costs, *model, round)?);
                progress.inc(1);
                Ok(World::new(&scenario).run())
            });
            rounds.collect()
        })
        .collect()
}

/// The middle of some figures.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// One line a model: medians over rounds, as the real comparison has them.
fn table(models: &[Model], outcomes: &[Vec<Outcome>]) -> String {
    let mut text = String::from(
        "| model | mean ms | p50 ms | p99 ms | requests/s | handshakes full, resumed | moved | busy, each node |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for (model, of) in models.iter().zip(outcomes) {
        let figure = |figure: &dyn Fn(&Outcome) -> f64| median(of.iter().map(figure).collect());
        let nodes = of.first().map_or(0, |outcome| outcome.app.len());
        let mut busy: Vec<f64> =
            (0..nodes).map(|node| figure(&|outcome: &Outcome| outcome.app[node])).collect();
        // Of many the least and the most are enough.
        if nodes > BUSY_SHOWN {
            busy.sort_by(f64::total_cmp);
            busy = vec![busy[0], busy[nodes - 1]];
        }
        let busy: Vec<_> = busy.iter().map(|share| format!("{share:.2}")).collect();
        text.push_str(&format!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0}, {:.0} | {:.0} % | {} |\n",
            model.name(),
            figure(&|outcome| outcome.mean_ns / 1e6),
            figure(&|outcome| outcome.p50_ns / 1e6),
            figure(&|outcome| outcome.p99_ns / 1e6),
            figure(&|outcome| outcome.per_s),
            figure(&|outcome| outcome.full as f64),
            figure(&|outcome| outcome.resumed as f64),
            figure(&|outcome| outcome.moved * 100.0),
            busy.join(" "),
        ));
    }
    text
}

/// Each model against `session`, and against one queue for all.
fn told(models: &[Model], outcomes: &[Vec<Outcome>]) {
    let of = |model: Model| models.iter().position(|it| *it == model).map(|at| &outcomes[at]);
    let between = |one: &[Outcome], other: &[Outcome]| {
        let mean = Mean::ratio(one, other, |outcome| outcome.mean_ns);
        (mean, Mean::ratio(one, other, |outcome| outcome.p99_ns))
    };
    for other in [Model::Central, Model::Session] {
        let Some((bf, others)) = of(OURS).zip(of(other)) else { continue };
        let (mean, p99) = between(bf, others);
        println!("bf / {}, 90 % confidence: mean {mean}, p99 {p99}", other.name());
        if other == Model::Session {
            println!("models: bf_vs_session_mean={:.2} bf_vs_session_p99={:.2}", mean.value, p99.value);
        }
    }
    if let Some(bf) = of(OURS) {
        let regretted = Mean::over(bf, |outcome| outcome.regretted * 100.0);
        println!("of requests moved under bf, {regretted:.1} % found more waiting than where they came from");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_workloads_are_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster/workloads");
        let costs = Arc::new(Costs::load("measured").unwrap());
        for name in ["skewed.toml", "balanced.toml"] {
            let workload = Workload::load(&folder.join(name)).unwrap();
            let scenario = workload.scenario(&costs, OURS, 0).unwrap();
            assert_eq!((scenario.cluster.nodes, scenario.cluster.slots), (4, 2));
            assert_eq!(scenario.load.kept, Some(Kept { connections: 12, requests: 40 }));
            assert!(!scenario.cluster.sessions_shared);
            // 580 a second, for 2 s and for 18 s.
            assert!((1_000..1_320).contains(&scenario.warm_up), "{}", scenario.warm_up);
            assert!((10_000..10_900).contains(&scenario.requests), "{}", scenario.requests);
        }
    }
}
