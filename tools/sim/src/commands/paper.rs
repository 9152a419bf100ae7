//! `paper`: the figures of the paper for 16 and 32 nodes, beside what it says, and everything it leaves open swept.
//!
//! In: the calibration `paper`. Out: figures, tables and a page in a directory; last line `paper: nodes16=X nodes32=Y`, the mean
//! latency of `bf` by that of `session` at the paper's high load. `setup` has what was chosen before anything was run,
//! `page` what is said of it.

mod figures;
mod page;
mod setup;

use std::collections::HashMap;
use std::path::PathBuf;

use indicatif::ProgressBar;

use crate::replicate::{self, Mean};
use crate::scenario::{Model, Scenario};
use crate::tally::Outcome;
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

/// Sizes of the paper's clusters.
const NODES: [usize; 2] = [16, 32];

/// The knob of arrivals; the paper names 12, high load, and 14, moderate.
const KNOBS: &[f64] = &[11.0, 12.0, 13.0, 14.0, 16.0, 20.0, 30.0];

/// The paper's high load, and its moderate one.
const HIGH: f64 = 12.0;
const MODERATE: f64 = 14.0;

/// More than the cluster can do: where throughput tells models apart.
const MOST: f64 = 11.0;

/// Lifetimes at the distributor, in mean lengths of a session.
const LIFETIMES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 100.0];

/// What the paper leaves open, each swept alone.
const SWEEPS: [Sweep; 10] = [
    Sweep {
        name: "threshold",
        x: "threshold, ms of waiting work",
        values: &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0],
        set: |setup, value| setup.threshold_us = (value * 1e3) as u32,
        is_log: false,
    },
    Sweep {
        name: "dynamic_share",
        x: "share of dynamic requests",
        values: &[0.0, 0.01, 0.03, 0.1, 0.3, 1.0],
        set: |setup, value| setup.dynamic = value,
        is_log: false,
    },
    Sweep {
        name: "dynamic_cost",
        x: "dynamic content, times static",
        values: &[10.0, 30.0, 100.0, 300.0, 1000.0],
        set: |setup, value| setup.factor = (value, value),
        is_log: true,
    },
    Sweep {
        name: "static_cost",
        x: "static content, us of 1 KB",
        values: &STATICS_US,
        set: |setup, value| setup.static_ns = value * 1e3,
        is_log: true,
    },
    Sweep {
        name: "skew",
        x: "skew of clients, exponent of Zipf's law",
        values: &[0.0, 0.3, 0.5, 0.7, 0.8, 0.9],
        set: |setup, value| setup.skew = value,
        is_log: false,
    },
    Sweep {
        name: "clients",
        x: "clients a node",
        values: &[32.0, 64.0, 128.0, 256.0, 512.0, 1024.0],
        set: |setup, value| setup.clients_a_node = value as usize,
        is_log: true,
    },
    Sweep {
        name: "busy",
        x: "work offered at k = 12, of what the cluster can do",
        values: &[0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95],
        set: |setup, value| setup.busy_at_high = value,
        is_log: false,
    },
    Sweep {
        name: "gaps",
        x: "shape of the gaps between sessions; less is burstier",
        values: &[1.1, 1.3, 1.5, 1.9, 3.0],
        set: |setup, value| setup.shape = value,
        is_log: false,
    },
    Sweep {
        name: "requests",
        x: "requests of a session",
        values: &[2.0, 5.0, 10.0, 20.0, 50.0],
        set: |setup, value| {
            // A session is as long as before.
            setup.think_ns *= setup.requests / value;
            setup.requests = value;
        },
        is_log: true,
    },
    Sweep {
        name: "word",
        x: "load words, ms from one to the next",
        values: &[0.2, 1.0, 5.0, 10.0],
        set: |setup, value| setup.word_ns = (value * 1e6) as u64,
        is_log: true,
    },
];

/// Costs of static content of 1 KB, in us: from an answer out of memory to a file and a process for it.
const STATICS_US: [f64; 5] = [0.25, 1.0, 5.0, 25.0, 100.0];

/// Shares of dynamic requests, each with each of these costs: where all that the paper says may hold at once.
const SHARES: &[f64] = &[0.0, 0.01, 0.03, 0.1, 0.3, 1.0];

/// Thresholds, in ms, each with each of some lifetimes: with which the paper's sweep of lifetimes comes out.
const THRESHOLDS_MS: [f64; 6] = [2.0, 5.0, 10.0, 20.0, 50.0, 100.0];
const LIFETIMES_TOGETHER: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 32.0];

/// One open parameter.
struct Sweep {
    name: &'static str,
    x: &'static str,
    values: &'static [f64],
    set: fn(&mut Setup, f64),
    is_log: bool,
}

/// What is run of it all: a quick run has what the paper names, and of what is swept the ends, on the smaller cluster.
struct Extent {
    quick: bool,
}

impl Extent {
    fn knobs(&self) -> &'static [f64] {
        if self.quick { &[MOST, HIGH, MODERATE] } else { KNOBS }
    }

    fn lifetimes(&self) -> &'static [f64] {
        if self.quick { &[1.0, 2.0, 8.0] } else { LIFETIMES }
    }

    fn values(&self, sweep: &Sweep) -> Vec<f64> {
        match sweep.values {
            [first, .., last] if self.quick => vec![*first, *last],
            all => all.to_vec(),
        }
    }

    /// Sizes that what is open is swept with.
    fn swept(&self) -> &'static [usize] {
        if self.quick { &NODES[..1] } else { &NODES }
    }

    fn statics(&self) -> &'static [f64] {
        if self.quick { &STATICS_US[..1] } else { &STATICS_US }
    }

    fn shares(&self) -> &'static [f64] {
        if self.quick { &SHARES[3..4] } else { SHARES }
    }

    fn thresholds_ms(&self) -> &'static [f64] {
        if self.quick { &THRESHOLDS_MS[3..4] } else { &THRESHOLDS_MS }
    }

    fn lifetimes_together(&self) -> &'static [f64] {
        if self.quick { self.lifetimes() } else { &LIFETIMES_TOGETHER }
    }

    /// Seeds of the figures that the paper has, and of what is swept.
    fn seeds(&self) -> (usize, usize) {
        if self.quick { (2, 2) } else { (8, 4) }
    }
}

/// What was run, by what it is called.
struct Results(HashMap<String, Vec<Outcome>>);

impl Results {
    fn of(&self, key: &str) -> &[Outcome] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// A figure of one model by that of another in the same place.
    fn ratio(&self, place: &str, one: &str, other: &str, figure: impl Fn(&Outcome) -> f64) -> Mean {
        Mean::ratio(self.of(&format!("{place}/{one}")), self.of(&format!("{place}/{other}")), figure)
    }
}

/// The models of a place, by name: `bf` is the paper's threshold, `ours` what the product does.
fn models(setup: &Setup) -> [(&'static str, Model); 4] {
    [
        ("rr", Model::Rr),
        ("session", Model::Session),
        ("bf", Model::Bf(keyferry_decide::Policy::Threshold { us: setup.threshold_us })),
        ("ours", crate::scenario::OURS),
    ]
}

/// Scenarios by name: `16/k/12/bf`, `16/lifetime/4/session`, `16/skew/0.7/ours`, `16/map/5/0.1/rr`.
type Plan = Vec<(String, Scenario)>;

fn add(plan: &mut Plan, place: &str, setup: &Setup, nodes: usize, names: &[&str]) {
    let rate = setup.rate(nodes);
    for (name, model) in models(setup).into_iter().filter(|(name, _)| names.contains(name)) {
        plan.push((format!("{place}/{name}"), setup.scenario(nodes, rate, model)));
    }
}

/// What the paper has figures of.
fn named(base: &Setup, extent: &Extent) -> Plan {
    let mut plan = Plan::new();
    for nodes in NODES {
        for k in extent.knobs() {
            let setup = Setup { k: *k, ..base.clone() };
            add(&mut plan, &format!("{nodes}/k/{k}"), &setup, nodes, &["rr", "session", "bf", "ours"]);
        }
        for lifetime in extent.lifetimes() {
            let setup = Setup { lifetime: *lifetime, ..base.clone() };
            let place = format!("{nodes}/lifetime/{lifetime}");
            add(&mut plan, &place, &setup, nodes, &["session", "bf", "ours"]);
        }
    }
    plan
}

/// What it leaves open.
fn open(base: &Setup, extent: &Extent) -> Plan {
    let base = Setup { measured: base.measured / 2, ..base.clone() };
    let mut plan = Plan::new();
    for nodes in extent.swept().iter().copied() {
        for sweep in &SWEEPS {
            for value in extent.values(sweep) {
                let mut setup = base.clone();
                (sweep.set)(&mut setup, value);
                let place = format!("{nodes}/{}/{value}", sweep.name);
                add(&mut plan, &place, &setup, nodes, &["session", "bf", "ours"]);
            }
        }
        for static_us in extent.statics() {
            for dynamic in extent.shares() {
                let setup = Setup { static_ns: static_us * 1e3, dynamic: *dynamic, ..base.clone() };
                let place = format!("{nodes}/map/{static_us}/{dynamic}");
                add(&mut plan, &place, &setup, nodes, &["rr", "session", "bf"]);
            }
        }
        for lifetime in extent.lifetimes_together() {
            let setup = Setup { lifetime: *lifetime, ..base.clone() };
            // Without forwarding there is no threshold.
            add(&mut plan, &format!("{nodes}/both/{lifetime}"), &setup, nodes, &["session"]);
            for threshold_ms in extent.thresholds_ms() {
                let setup = Setup { threshold_us: (threshold_ms * 1e3) as u32, ..setup.clone() };
                add(&mut plan, &format!("{nodes}/both/{lifetime}/{threshold_ms}"), &setup, nodes, &["bf"]);
            }
        }
    }
    plan
}

fn outcomes(plan: Plan, seeds: usize, progress: &ProgressBar) -> HashMap<String, Vec<Outcome>> {
    let (keys, scenarios): (Vec<_>, Vec<_>) = plan.into_iter().unzip();
    keys.into_iter().zip(replicate::all(&scenarios, seeds, progress)).collect()
}

/// Runs and writes.
///
/// # Errors
/// A file cannot be written.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let (base, extent) = (Setup::chosen(arguments.quick)?, Extent { quick: arguments.quick });
    let (seeds, seeds_open) = extent.seeds();
    let progress = replicate::progress();
    progress.set_message("the paper's figures");
    let mut results = outcomes(named(&base, &extent), seeds, &progress);
    progress.set_message("what it leaves open");
    results.extend(outcomes(open(&base, &extent), seeds_open, &progress));
    let results = Results(results);
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
