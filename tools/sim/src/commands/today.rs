//! `today`: measured costs, TLS 1.3 with ECDSA and resumption: where forwarding pays, by what, and where it does not.
//!
//! In: a calibration. Out: tables and figures in a directory. Policies: rr, session, the paper's threshold, ours, and two
//! that know more than any node could: the shortest queue, and one queue for all slots.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use keyferry_decide::Policy;

use super::check::model;
use super::{latencies, spread};
use crate::costs::Costs;
use crate::draw::{Mix, Skew};
use crate::plot::{Figure, Series};
use crate::replicate::{self, Mean, Seeds};
use crate::scenario::{Cluster, Gaps, Kept, Load, Model, OURS, Scenario, Sizes, Work, word_ns};
use crate::tally::Outcome;

/// Where to, and how long.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// A directory for tables and figures
    #[arg(long, default_value = "docs/today")]
    pub out: PathBuf,
    /// A calibration
    #[arg(long, default_value = "measured")]
    pub costs: String,
    /// Fewer and shorter runs
    #[arg(long)]
    pub quick: bool,
}

/// Worker cores and slots of a node.
const WORKERS: usize = 2;
const SLOTS: usize = 8;

/// The busiest quarter of the nodes has so many times the mean, as the busiest of four has under the committed skewed
/// workload.
const BUSIEST: f64 = 1.38;

/// Sizes of the cluster.
const SIZES: [usize; 5] = [4, 16, 64, 256, 1024];

/// What the application works, in us.
const WORKS_US: [f64; 5] = [10.0, 30.0, 100.0, 1_000.0, 10_000.0];

/// How busy the busiest nodes are if nothing moves.
const LOADS: [f64; 4] = [0.5, 0.7, 0.9, 0.95];

/// The part of the mean latency that forwarding has to save to be worth a word.
const WORTH: f64 = 0.05;

/// Half the width of the 90 % interval of a ratio to `session` that needs no further seed.
const NARROW: f64 = 0.01;

/// By which models.
const POLICIES: [&str; 6] = ["rr", "session", "threshold", "bf", "jsq", "central"];

/// Skewed clients: one at each node of the busiest quarter sends what makes that node so much busier than the mean.
pub fn skew(nodes: usize) -> Skew {
    let hot = (nodes / 4).max(1);
    Skew::Hot(hot, (BUSIEST - 1.0) * hot as f64 / nodes.saturating_sub(hot).max(1) as f64)
}

/// Clients: about 16 a node. Not a multiple of the nodes, or each client's connections would all be in turn for the same one.
pub fn clients(nodes: usize) -> usize {
    16 * nodes + 1
}

/// Nodes of which the busiest are `busy` where nothing moves.
pub fn scenario(
    costs: &Arc<Costs>,
    nodes: usize,
    work_us: f64,
    busy: f64,
    skew: Skew,
    model: Model,
) -> Scenario {
    let mean_busy = if skew == Skew::Even { busy } else { busy / BUSIEST };
    let model = match model {
        // The paper's threshold is a difference of waiting work: twice a request's is neither nothing nor much.
        Model::Bf(Policy::Threshold { .. }) => Model::Bf(Policy::Threshold { us: (2.0 * work_us) as u32 }),
        other => other,
    };
    Scenario {
        cluster: Cluster {
            nodes,
            workers: WORKERS,
            slots: SLOTS,
            sessions_shared: true,
            word_ns: word_ns(nodes),
            ..Cluster::default()
        },
        load: Load {
            rate: mean_busy * (nodes * SLOTS) as f64 * 1e6 / work_us,
            gaps: Gaps::Poisson,
            clients: clients(nodes),
            skew,
            sessions: None,
            kept: Some(Kept { connections: 16, requests: 100 }),
            sizes: Sizes::Mix(Mix::new(&[(1024.0, 8.0), (16384.0, 2.0)]).expect("weights are above 0")),
            work: Work::Lognormal(work_us * 1e3, 1.0),
        },
        costs: Arc::clone(costs),
        model,
        warm_up: 20_000.max(200 * nodes as u64),
        requests: 100_000.max(500 * nodes as u64),
        seed: 71,
    }
}

fn models() -> Vec<Model> {
    POLICIES.iter().filter_map(|name| model(name).ok()).collect()
}

/// Runs and writes.
///
/// # Errors
/// The calibration cannot be read, or a file not be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let costs = Arc::new(Costs::load(&arguments.costs)?);
    std::fs::create_dir_all(&arguments.out)?;
    let mut text = format!(
        "# Where forwarding pays today\n\nWritten by `keyferry-sim today`: {}; {}. Nodes have {WORKERS} worker cores and {SLOTS} \
         slots; work is lognormal (deviation of its logarithm 1), a fifth of the replies have 16 KiB and the rest 1 KiB, on kept \
         connections. *Skewed*: a quarter of the nodes has {BUSIEST} times the mean. Means with the half width of \
         their 90 % confidence.\n",
        costs.source, costs.machine
    );
    by_policy(arguments, &costs, &mut text)?;
    by_work(arguments, &costs, &mut text);
    by_size(arguments, &costs, &mut text)?;
    by_handshake(arguments, &costs, &mut text);
    let file = arguments.out.join("README.md");
    std::fs::write(&file, text)?;
    println!("{}", file.display());
    Ok(())
}

/// How many seeds a comparison gets.
fn seeds(is_quick: bool) -> Seeds {
    let (least, most) = if is_quick { (3, 3) } else { (3, 6) };
    Seeds { least, most, narrow: NARROW }
}

/// Runs what is compared with each other, shorter if asked to, until the ratios to `session` are known well enough.
fn runs(arguments: &Arguments, groups: &[Vec<Scenario>]) -> Vec<Vec<Vec<Outcome>>> {
    let part = if arguments.quick { 5 } else { 1 };
    let shorter = |scenario: &Scenario| Scenario {
        warm_up: scenario.warm_up / part,
        requests: scenario.requests / part,
        ..scenario.clone()
    };
    let groups: Vec<Vec<_>> = groups.iter().map(|group| group.iter().map(shorter).collect()).collect();
    let ratios = |at: usize, outcomes: &[Vec<Outcome>]| {
        let named = || groups[at].iter().map(|scenario| scenario.model).zip(outcomes);
        let session = named().find(|(model, _)| *model == Model::Session).map_or(&[][..], |(_, of)| of);
        let others = named().filter(|(model, _)| !matches!(model, Model::Rr | Model::Session));
        others.map(|(_, of)| Mean::ratio(of, session, |outcome| outcome.mean_ns)).collect()
    };
    replicate::until_narrow(&groups, seeds(arguments.quick), ratios, &replicate::progress())
}

/// 16 nodes, work of 1 ms: each policy, skewed and balanced.
fn by_policy(arguments: &Arguments, costs: &Arc<Costs>, text: &mut String) -> anyhow::Result<()> {
    text.push_str("\n## By policy: 16 nodes, work of 1 ms, the busiest nodes 0.92 busy without forwarding\n");
    let loads = [("skewed", skew(16), 0.92), ("balanced", Skew::Even, 0.92 / BUSIEST)];
    let group =
        |skew, busy| models().into_iter().map(|model| scenario(costs, 16, 1e3, busy, skew, model)).collect();
    let groups = loads.map(|(_, skew, busy)| group(skew, busy));
    for ((name, ..), outcomes) in loads.iter().zip(runs(arguments, &groups)) {
        let session = &outcomes[1];
        writeln!(
            text,
            "\n| {name} | mean ms | p99 ms | mean / session | p99 / session | moved | slots busy, most less least |\n\
             |---|---|---|---|---|---|---|"
        )?;
        for (policy, of) in POLICIES.iter().zip(&outcomes) {
            let (mean, p99) = latencies(of);
            let to_session = Mean::ratio(of, session, |outcome| outcome.mean_ns);
            let p99_to_session = Mean::ratio(of, session, |outcome| outcome.p99_ns);
            let moved = Mean::over(of, |outcome| outcome.moved * 100.0);
            let spread = Mean::over(of, spread);
            writeln!(
                text,
                "| {policy} | {mean} | {p99} | {to_session} | {p99_to_session} | {:.0} % | {spread} |",
                moved.value
            )?;
        }
    }
    Ok(())
}

/// What forwarding saves, by work and load.
fn by_work(arguments: &Arguments, costs: &Arc<Costs>, text: &mut String) {
    text.push_str(
        "\n## By work: bf / session, mean latency, 16 nodes\n\nColumns: how busy the busiest nodes are without forwarding. \
         Left of the bar skewed, right of it balanced.\n\n| work |",
    );
    let columns: Vec<(Skew, f64)> =
        [skew(16), Skew::Even].into_iter().flat_map(|skew| LOADS.map(|busy| (skew, busy))).collect();
    for (at, (_, busy)) in columns.iter().enumerate() {
        text.push_str(&format!("{} {busy} |", if at == LOADS.len() { " |" } else { "" }));
    }
    text.push_str(&format!("\n|---|{}\n", "---|".repeat(columns.len() + 1)));
    let pair = |work_us: f64, skew: Skew, busy: f64| {
        [Model::Session, OURS].map(|model| scenario(costs, 16, work_us, busy, skew, model)).to_vec()
    };
    let groups: Vec<_> = WORKS_US
        .iter()
        .flat_map(|work_us| columns.iter().map(|(skew, busy)| pair(*work_us, *skew, *busy)))
        .collect();
    let outcomes = runs(arguments, &groups);
    let mut places = Vec::new();
    for (work_us, of) in WORKS_US.iter().zip(outcomes.chunks(columns.len())) {
        text.push_str(&format!("| {work_us} us |"));
        for (at, pair) in of.iter().enumerate() {
            let ratio = Mean::ratio(&pair[1], &pair[0], |outcome| outcome.mean_ns);
            text.push_str(&format!("{} {ratio} |", if at == LOADS.len() { " |" } else { "" }));
            let name = if at < LOADS.len() { "skewed" } else { "balanced" };
            places.push((ratio, format!("{work_us} us, {name}, {}", columns[at].1)));
        }
        text.push('\n');
    }
    let of = |holds: &dyn Fn(&Mean) -> bool| {
        let places: Vec<_> =
            places.iter().filter(|(mean, _)| holds(mean)).map(|(_, it)| it.as_str()).collect();
        if places.is_empty() { "nowhere".to_owned() } else { places.join("; ") }
    };
    let pays = |mean: &Mean| mean.value + mean.half_90 < 1.0 - WORTH;
    text.push_str(&format!(
        "\nIt pays ({} % at least, confidence considered): {}.\n\nIt costs (more than 1 %, the same way): {}.\n\nNeither: \
         all others.\n",
        WORTH * 100.0,
        of(&pays),
        of(&|mean| mean.value - mean.half_90 > 1.01),
    ));
}

/// Up to 1,024 nodes.
fn by_size(arguments: &Arguments, costs: &Arc<Costs>, text: &mut String) -> anyhow::Result<()> {
    text.push_str("\n## By size: work of 1 ms, skewed, the busiest nodes 0.92 busy without forwarding: mean ms\n\n| nodes |");
    let models = models();
    POLICIES.iter().for_each(|policy| text.push_str(&format!(" {policy} |")));
    text.push_str(&format!(" bf / central |\n|---|{}\n", "---|".repeat(POLICIES.len() + 1)));
    let mut series: Vec<Series> =
        POLICIES.iter().map(|name| Series { name: (*name).to_owned(), points: Vec::new() }).collect();
    let group = |nodes: usize| {
        models.iter().map(|model| scenario(costs, nodes, 1e3, 0.92, skew(nodes), *model)).collect()
    };
    for (nodes, outcomes) in SIZES.iter().zip(runs(arguments, &SIZES.map(group))) {
        text.push_str(&format!("| {nodes} |"));
        for (series, of) in series.iter_mut().zip(&outcomes) {
            let (mean, _) = latencies(of);
            series.points.push((*nodes as f64, mean));
            text.push_str(&format!(" {mean} |"));
        }
        let bound = Mean::ratio(&outcomes[3], &outcomes[5], |outcome| outcome.mean_ns);
        text.push_str(&format!(" {bound} |\n"));
    }
    text.push_str("\n![mean latency by size](size.svg)\n");
    Figure {
        name: "size".to_owned(),
        title: "Mean latency by size: work of 1 ms, skewed clients, measured costs".to_owned(),
        x: "nodes".to_owned(),
        y: "mean latency, ms".to_owned(),
        series,
        paper: Vec::new(),
        is_log: true,
    }
    .write(&arguments.out)
}

/// What affinity is worth where each request has a connection of its own.
fn by_handshake(arguments: &Arguments, costs: &Arc<Costs>, text: &mut String) {
    text.push_str(
        "\n## Affinity: a connection for each request, work of 100 us, 16 nodes, balanced, worker cores 0.8 busy under rr\n\n\
         Sessions stay at their node, as in the paper; *rsa* has the full handshake of RSA-2048, 320 us in place of 68.\n\n\
         | handshakes | model | mean us | p99 us | full of all | cores busy |\n|---|---|---|---|---|---|\n",
    );
    let rsa = Costs { core: crate::costs::Core { full: 320_000, ..costs.core.clone() }, ..(**costs).clone() };
    for (name, costs) in [("ecdsa", Arc::clone(costs)), ("rsa", Arc::new(rsa))] {
        let core = &costs.core;
        let each_ns = (core.tcp + core.full + core.request + core.reply + 4 * core.send_per_kb) as f64;
        let scenarios: Vec<_> = [Model::Rr, Model::Session, OURS]
            .into_iter()
            .map(|model| {
                let mut scenario = scenario(&costs, 16, 100.0, 0.5, Skew::Even, model);
                scenario.load.kept = None;
                // No multiple of the nodes, as in `clients`.
                scenario.load.clients = 4097;
                scenario.cluster.sessions_shared = false;
                scenario.load.rate = 0.8 * (16 * WORKERS) as f64 * 1e9 / each_ns;
                scenario
            })
            .collect();
        for (model, of) in ["rr", "session", "bf"].iter().zip(&runs(arguments, &[scenarios])[0]) {
            let (mean, p99) = latencies(of);
            let full =
                Mean::over(of, |it| it.full as f64 / (it.full + it.resumed).max(1) as f64 * 100.0).value;
            let busy = Mean::over(of, |it| it.cores.iter().sum::<f64>() / it.cores.len() as f64);
            text.push_str(&format!(
                "| {name} | {model} | {:.0} | {:.0} | {full:.0} % | {busy} |\n",
                mean.value * 1e3,
                p99.value * 1e3
            ));
        }
    }
}
