//! `size`: how many nodes a load needs to meet a goal, under each model.
//!
//! In: requests a second, what they cost, a p99. Out: a table, and a figure of p99 by nodes. The fewest nodes are searched for by
//! doubling and then by halving what is left; each step is a few runs.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{anyhow, ensure};

use super::{latencies, today};
use crate::costs::Costs;
use crate::draw::{Mix, Skew};
use crate::plot::{Figure, Series};
use crate::replicate::{self, Mean};
use crate::scenario::{Cluster, Gaps, Kept, Load, Model, OURS, Scenario, Sizes, Work, word_ns};

/// Nodes at most.
const NODES_MAX: usize = 10_000;

/// The load and the goal.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Requests a second
    #[arg(long)]
    pub rate: f64,
    /// What a request holds a slot of the application for, in us, by weight: 1000:9,20000:1
    #[arg(long)]
    pub mix: String,
    /// The goal: p99 at most, in ms
    #[arg(long)]
    pub slo: f64,
    /// Worker cores of a node
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// Slots of its application
    #[arg(long, default_value_t = 8)]
    pub slots: usize,
    /// Sizes of replies, by weight
    #[arg(long, default_value = "1024:8,16384:2")]
    pub bytes: String,
    /// Of requests over clients: even, zipf:S, hot:CLIENTS:SHARE, or quarter, of which a quarter of the nodes has 1.38 times the
    /// mean
    #[arg(long, default_value = "quarter")]
    pub skew: String,
    /// Clients; about 16 a node without it
    #[arg(long)]
    pub clients: Option<usize>,
    /// A calibration
    #[arg(long, default_value = "measured")]
    pub costs: String,
    /// A figure, as SVG with a CSV beside it
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Fewer and shorter runs
    #[arg(long)]
    pub quick: bool,
}

impl Arguments {
    fn scenario(&self, costs: &Arc<Costs>, nodes: usize, model: Model) -> anyhow::Result<Scenario> {
        let mix = |text: &str| text.parse::<Mix>().map_err(|error| anyhow!("{text:?}: {error}"));
        let skew = match self.skew.as_str() {
            "quarter" => today::skew(nodes),
            text => text.parse::<Skew>().map_err(|error| anyhow!(error))?,
        };
        let part = if self.quick { 5 } else { 1 };
        Ok(Scenario {
            cluster: Cluster {
                nodes,
                workers: self.workers,
                slots: self.slots,
                sessions_shared: true,
                word_ns: word_ns(nodes),
                ..Cluster::default()
            },
            load: Load {
                rate: self.rate,
                gaps: Gaps::Poisson,
                clients: self.clients.unwrap_or(today::clients(nodes)),
                skew,
                sessions: None,
                kept: Some(Kept { connections: 16, requests: 100 }),
                sizes: Sizes::Mix(mix(&self.bytes)?),
                work: Work::Mix(mix(&self.mix)?),
            },
            costs: Arc::clone(costs),
            model,
            warm_up: 20_000.max(200 * nodes as u64) / part,
            requests: 100_000.max(1_000 * nodes as u64) / part,
            seed: 81,
        })
    }

    /// Mean and p99 with so many nodes.
    fn latencies(&self, costs: &Arc<Costs>, nodes: usize, model: Model) -> anyhow::Result<(Mean, Mean)> {
        let seeds = if self.quick { 2 } else { 4 };
        let scenario = self.scenario(costs, nodes, model)?;
        Ok(latencies(&replicate::all(&[scenario], seeds, &replicate::progress())[0]))
    }

    /// The fewest nodes whose p99 meets the goal, and all that was tried, by nodes.
    fn fewest(
        &self,
        costs: &Arc<Costs>,
        least: usize,
        model: Model,
    ) -> anyhow::Result<(Option<usize>, Tried)> {
        let mut tried = Tried::new();
        let mut meets = |nodes: usize| -> anyhow::Result<bool> {
            let (mean, p99) = self.latencies(costs, nodes, model)?;
            tried.push((nodes, mean, p99));
            Ok(p99.value <= self.slo)
        };
        let (mut below, mut nodes) = (least.saturating_sub(1), least);
        while !meets(nodes)? {
            if nodes >= NODES_MAX {
                return Ok((None, tried));
            }
            // From an eighth more on, then twice what was added: most loads are met soon above their work.
            (below, nodes) = (nodes, (nodes + (nodes - least).max(nodes / 8).max(1)).min(NODES_MAX));
        }
        while nodes - below > 1 {
            let middle = below + (nodes - below) / 2;
            if meets(middle)? {
                nodes = middle;
            } else {
                below = middle;
            }
        }
        tried.sort_by_key(|(nodes, ..)| *nodes);
        Ok((Some(nodes), tried))
    }
}

type Tried = Vec<(usize, Mean, Mean)>;

/// Searches and prints.
///
/// # Errors
/// An argument is none of its kind, or a file cannot be read or written.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let costs = Arc::new(Costs::load(&arguments.costs)?);
    ensure!(!costs.app_on_core, "nodes of this calibration have no slots: take one of today");
    let work = arguments.mix.parse::<Mix>().map_err(|error| anyhow!("{:?}: {error}", arguments.mix))?;
    ensure!(
        arguments.rate > 0.0 && work.mean() > 0.0 && arguments.slots > 0 && arguments.workers > 0,
        "a load has a rate and work, a node cores and slots"
    );
    let busy_slots = arguments.rate * work.mean() / 1e6;
    // Fewer cannot do the work, whatever the model.
    let least = ((busy_slots / arguments.slots as f64).floor() as usize + 1).max(2);
    ensure!(least <= NODES_MAX, "this is work for more than {NODES_MAX} nodes");
    println!(
        "{} requests/s of {:.0} us on average: {busy_slots:.1} slots are busy, {least} nodes at least; p99 at most {} ms\n\n\
         | model | nodes | cores | slots | slots busy | mean ms | p99 ms |\n|---|---|---|---|---|---|---|",
        arguments.rate,
        work.mean(),
        arguments.slo
    );
    let mut series = Vec::new();
    for model in [Model::Rr, Model::Session, OURS, Model::Central] {
        let (nodes, tried) = arguments.fewest(&costs, least, model)?;
        let met = nodes.and_then(|nodes| tried.iter().find(|(it, ..)| *it == nodes));
        match met {
            Some((nodes, mean, p99)) => println!(
                "| {} | {nodes} | {} | {} | {:.2} | {mean} | {p99} |",
                model.name(),
                nodes * arguments.workers,
                nodes * arguments.slots,
                busy_slots / (nodes * arguments.slots) as f64
            ),
            None => println!("| {} | more than {NODES_MAX} | | | | | |", model.name()),
        }
        let points = tried.iter().map(|(nodes, _, p99)| (*nodes as f64, *p99)).collect();
        series.push(Series { name: model.name().to_owned(), points });
    }
    match &arguments.out {
        Some(out) => draw(arguments, out, series),
        None => Ok(()),
    }
}

fn draw(arguments: &Arguments, out: &std::path::Path, series: Vec<Series>) -> anyhow::Result<()> {
    // What misses the goal by far would leave no room for what meets it.
    let top = 5.0 * arguments.slo;
    let within = |series: Series| Series {
        points: series.points.into_iter().filter(|(_, p99)| p99.value <= top).collect(),
        ..series
    };
    let name = out.file_stem().map_or_else(|| "size".to_owned(), |name| name.to_string_lossy().into_owned());
    let directory = out.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    std::fs::create_dir_all(directory)?;
    Figure {
        name,
        title: format!("p99 by nodes: {} requests/s, goal {} ms", arguments.rate, arguments.slo),
        x: "nodes".to_owned(),
        y: "p99, ms".to_owned(),
        series: series.into_iter().map(within).collect(),
        paper: Vec::new(),
        is_log: false,
    }
    .write(directory)
}
