//! What back-end forwarding gains: the models of the paper on one cluster, under the same load.
//!
//! In: a workload, committed and seeded. Out: what clients and nodes saw under each model, and the ratios of two models
//! with their confidence. Runs are interleaved, model after model in each round, so that what else the machine does meets
//! all of them; a round's seed is its own.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, ensure};
use clap::Parser;
use keyferry_load::args::Args;
use keyferry_load::report::Report;
use serde::Deserialize;

use crate::certificates::NAME;
use crate::cluster::{Cluster, SERVICE4};
use crate::description::{Description, Model};

/// A load, and the cluster it is for.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Workload {
    /// Of a run, the warm-up included.
    pub seconds: f64,
    /// Not measured.
    pub warm_up: f64,
    /// Requests a second, Poisson.
    pub rate: f64,
    /// Of the first round.
    pub seed: u64,
    /// Addresses that requests come from.
    pub clients: usize,
    /// How requests are spread over them, as `keyferry-load --skew` has it.
    pub skew: String,
    /// Of all clients together.
    pub connections: usize,
    /// Before a connection is replaced.
    pub requests_per_connection: u64,
    /// What a request costs, in us, with weights.
    pub cost_us: String,
    /// Sizes of replies, with weights.
    pub bytes: String,
    /// What it runs on; its model is not used.
    pub cluster: Description,
}

impl Workload {
    /// Reads one.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn load(file: &Path) -> anyhow::Result<Workload> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let workload: Workload =
            toml::from_str(&text).with_context(|| format!("{} is no workload", file.display()))?;
        ensure!(
            workload.clients <= workload.cluster.clients,
            "{}: clients has to be at most that of [cluster]",
            file.display()
        );
        Ok(workload)
    }

    /// The generator's arguments.
    fn args(&self, cluster: &Cluster, round: u64) -> anyhow::Result<Args> {
        let addresses = &cluster.client_addresses()[..self.clients];
        let text = [
            "keyferry-load".to_owned(),
            format!("https://{NAME}/"),
            format!("--resolve={NAME}:{SERVICE4}"),
            format!("--ca={}", cluster.ca().display()),
            "--synthetic".to_owned(),
            format!("--duration={}", self.seconds),
            format!("--warm-up={}", self.warm_up),
            format!("--rate={}", self.rate),
            "--arrivals=poisson".to_owned(),
            format!("--seed={}", self.seed + round),
            format!("--source={}", addresses.join(",")),
            format!("--skew={}", self.skew),
            "--skew-of=requests".to_owned(),
            format!("--connections={}", self.connections),
            format!("--requests-per-connection={}", self.requests_per_connection),
            format!("--cost-mix={}", self.cost_us),
            format!("--bytes-mix={}", self.bytes),
        ];
        Args::try_parse_from(text).context("the workload's values are not the generator's")
    }
}

/// What one run saw.
#[derive(Clone, Debug)]
pub struct Run {
    /// Under which model.
    pub model: Model,
    /// The clients' side.
    pub report: Report,
    /// Requests a helper answered.
    pub moved: u64,
    /// The share of its slots' time that each node's application worked, the warm-up included.
    pub busy: Vec<f64>,
}

/// Runs the load under one model, on a cluster that is started for it.
///
/// # Errors
/// The load does not start, or something came back wrong. What could not be sent in time is in the report.
///
/// # Panics
/// If the cluster does not start.
pub fn run(cluster: &mut Cluster, workload: &Workload, model: Model, round: u64) -> anyhow::Result<Run> {
    cluster.restart(&Description { model, ..workload.cluster.clone() });
    let args = workload.args(cluster, round)?;
    let report = cluster.clients().enter(|| keyferry_load::run(&args, &Arc::new(AtomicBool::new(false))))?;
    ensure!(report.mismatches == 0, "{} bodies were wrong under {}", report.mismatches, model.name());
    ensure!(report.failures() == 0, "{} requests failed under {}: {report}", report.failures(), model.name());
    let slots = workload.cluster.node.get("app").and_then(|app| app.get("slots"));
    let slots = slots.and_then(toml::Value::as_integer).unwrap_or(1) as f64;
    let nodes = workload.cluster.node_names();
    let moved = nodes.iter().map(|node| cluster.status(node).total("replies_lent")).sum();
    let busy = nodes
        .iter()
        .map(|node| cluster.status(node).total("app_busy_ns") as f64 / 1e9 / slots / workload.seconds);
    Ok(Run { model, moved, busy: busy.collect(), report })
}

/// The models in turn, for so many rounds.
///
/// # Errors
/// As [`run`].
///
/// # Panics
/// As [`run`].
pub fn compare(
    executable: &Path,
    workload: &Workload,
    models: &[Model],
    rounds: u64,
    mut told: impl FnMut(&Run),
) -> anyhow::Result<Vec<Run>> {
    let mut cluster = Cluster::make(executable, &workload.cluster);
    let mut runs = Vec::new();
    for round in 0..rounds {
        // Each model is first as often as the others.
        let mut order = models.to_vec();
        order.rotate_left(round as usize % models.len());
        for model in order {
            let run = run(&mut cluster, workload, model, round)?;
            told(&run);
            runs.push(run);
        }
    }
    cluster.stop();
    Ok(runs)
}

/// The ratio of two models' figures over rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The geometric mean.
    pub mean: f64,
    /// Its confidence interval of 90 %.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// Quantiles of Student's t at 0.95 by degrees of freedom, from 1 on (ISO 2602, table 2).
const STUDENT_95: [f64; 15] =
    [6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761, 1.753];

impl Ratio {
    /// Of pairs of figures, of which the first is divided by the second; one pair has no confidence.
    pub fn of(pairs: &[(f64, f64)]) -> Ratio {
        let logs: Vec<f64> = pairs.iter().map(|(one, other)| (one / other).ln()).collect();
        let count = logs.len() as f64;
        let mean = logs.iter().sum::<f64>() / count;
        let variance = logs.iter().map(|log| (log - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
        let t = match logs.len() {
            0 | 1 => 0.0,
            pairs => STUDENT_95[(pairs - 2).min(STUDENT_95.len() - 1)],
        };
        let half = t * (variance / count).sqrt();
        Ratio { mean: mean.exp(), low: (mean - half).exp(), high: (mean + half).exp() }
    }

    /// Of a figure of two models, round by round.
    pub fn between(runs: &[Run], one: Model, other: Model, figure: impl Fn(&Run) -> f64) -> Ratio {
        let of = |model| runs.iter().filter(move |run| run.model == model).map(&figure);
        Ratio::of(&of(one).zip(of(other)).collect::<Vec<_>>())
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.mean, self.low, self.high)
    }
}

/// The middle of some figures.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => (values[len / 2 - 1] + values[len / 2]) / 2.0,
    }
}

/// One line a model: medians over its runs.
pub fn table(runs: &[Run], models: &[Model]) -> String {
    let mut text = String::from(
        "| model | mean ms | p50 ms | p99 ms | requests/s | handshakes full, resumed | moved | busy, each node |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for model in models {
        let of: Vec<&Run> = runs.iter().filter(|run| run.model == *model).collect();
        let figure = |figure: &dyn Fn(&Run) -> f64| median(of.iter().map(|run| figure(run)).collect());
        let nodes = of.first().map_or(0, |run| run.busy.len());
        let busy: Vec<_> =
            (0..nodes).map(|node| format!("{:.2}", figure(&|run: &Run| run.busy[node]))).collect();
        text.push_str(&format!(
            "| {} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0}, {:.0} | {:.0} % | {} |\n",
            model.name(),
            figure(&|run| run.report.latency_us.mean / 1e3),
            figure(&|run| run.report.latency_us.p50 / 1e3),
            figure(&|run| run.report.latency_us.p99 / 1e3),
            figure(&|run| run.report.requests_per_s),
            figure(&|run| run.report.handshakes.full as f64),
            figure(&|run| run.report.handshakes.resumed as f64),
            figure(&|run| {
                100.0 * run.moved as f64 / (run.report.requests + run.report.warm_up_requests).max(1) as f64
            }),
            busy.join(" "),
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_have_their_confidence() {
        assert_eq!(Ratio::of(&[(1.0, 2.0)]), Ratio { mean: 0.5, low: 0.5, high: 0.5 });
        let ratio = Ratio::of(&[(1.0, 2.0), (2.0, 2.0), (0.5, 1.0), (1.0, 1.0)]);
        // Logs are 0 and ln 0.5, twice each: mean -0.3466, deviation 0.4002, t(3) 2.353.
        assert!((ratio.mean - std::f64::consts::FRAC_1_SQRT_2).abs() < 1e-3, "{ratio}");
        assert!((ratio.low - 0.4416).abs() < 1e-3 && (ratio.high - 1.1322).abs() < 1e-3, "{ratio:?}");
        assert_eq!(median(vec![3.0, 1.0, 2.0, 9.0]), 2.5);
    }

    #[test]
    fn the_committed_workloads_are_workloads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(files.len() >= 2);
        for file in files {
            let workload = Workload::load(&file).unwrap();
            assert_eq!(workload.cluster.nodes, 4, "{}", file.display());
        }
    }
}
