//! `keyferry-chaos`: runs plans by their seeds, on every core, and tells the first that goes wrong, cut down to what
//! it takes.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use keyferry_chaos::plan::Plan;
use keyferry_chaos::shrink;
use keyferry_chaos::world::{Report, Violation};

/// Runs clusters of keyferry workers in virtual time, with faults, and checks what must always be true.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads; each runs whole plans. As many as there are cores, if not given.
    #[arg(long)]
    threads: Option<usize>,
    /// Runs one written plan instead, as printed for a seed that failed; `-` reads it from standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seeds", "from"])]
    plan: Option<PathBuf>,
    /// Prints the plan of the first seed and does not run it.
    #[arg(long)]
    print: bool,
    /// Prints every frame and transfer of the plan.
    #[arg(long, requires = "plan")]
    trace: bool,
    /// Leaves a plan that fails as it is.
    #[arg(long)]
    no_shrink: bool,
    /// Runs with a mistake put in on purpose, and fails if it is not found.
    #[cfg(feature = "planted-bugs")]
    #[arg(long)]
    plant: Option<keyferry_lease::planted::Bug>,
}

#[derive(Default)]
struct Total {
    runs: AtomicU64,
    replies: AtomicU64,
    lent: AtomicU64,
    sooner: AtomicU64,
    broken: AtomicU64,
    failed: AtomicU64,
    copied_late: AtomicU64,
    copied_short: AtomicU64,
    taken: AtomicU64,
    taking: AtomicU64,
    moved: AtomicU64,
    moving: AtomicU64,
    offered_again: AtomicU64,
    seconds: AtomicU64,
}

impl Total {
    fn add(&self, report: &Report) {
        let add = |to: &AtomicU64, value| to.fetch_add(value, Ordering::Relaxed);
        add(&self.runs, 1);
        add(&self.replies, report.replies);
        add(&self.lent, report.lent);
        add(&self.sooner, report.sooner);
        add(&self.broken, report.broken);
        add(&self.failed, report.failed);
        add(&self.copied_late, report.copied_late);
        add(&self.copied_short, report.copied_short);
        add(&self.taken, report.taken);
        add(&self.taking, u64::from(report.taken > 0));
        add(&self.moved, report.moved);
        add(&self.moving, u64::from(report.moved > 0));
        add(&self.offered_again, report.offered_again);
        add(&self.seconds, report.ns / 1_000_000_000);
    }
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    if arguments.print {
        println!("{}", serde_json::to_string_pretty(&Plan::from_seed(arguments.from))?);
        return Ok(ExitCode::SUCCESS);
    }
    shrink::quiet_panics();
    #[cfg(feature = "planted-bugs")]
    if let Some(bug) = arguments.plant {
        keyferry_lease::planted::plant(bug);
        return plant(&arguments);
    }
    match &arguments.plan {
        Some(file) => run_plan(&arguments, file),
        None => run_seeds(&arguments),
    }
}

/// Runs a written plan.
fn run_plan(arguments: &Arguments, file: &Path) -> anyhow::Result<ExitCode> {
    let text = if file.as_os_str() == "-" {
        std::io::read_to_string(std::io::stdin())
    } else {
        std::fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("{}: cannot be read", file.display()))?;
    let plan: Plan = serde_json::from_str(&text)
        .with_context(|| format!("{}: no plan, as --print writes one", file.display()))?;
    if arguments.trace {
        keyferry_chaos::faults::trace();
    }
    match shrink::outcome(&plan) {
        Ok(report) => {
            println!("{report:?}");
            Ok(ExitCode::SUCCESS)
        }
        Err(violation) => fail(arguments, &plan, violation),
    }
}

fn run_seeds(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let from = Instant::now();
    let total = Total::default();
    if let Some((plan, violation)) = run_all(arguments, &total) {
        return fail(arguments, &plan, violation);
    }
    let value = |of: &AtomicU64| of.load(Ordering::Relaxed);
    println!(
        "chaos: ok seeds={} replies={} lent={} sooner={} broken={} failed={} copied_late={} copied_short={} taken={} runs_taking={} \
         moved={} runs_moving={} offered_again={} virtual_s={} real_s={:.1}",
        value(&total.runs),
        value(&total.replies),
        value(&total.lent),
        value(&total.sooner),
        value(&total.broken),
        value(&total.failed),
        value(&total.copied_late),
        value(&total.copied_short),
        value(&total.taken),
        value(&total.taking),
        value(&total.moved),
        value(&total.moving),
        value(&total.offered_again),
        value(&total.seconds),
        from.elapsed().as_secs_f64()
    );
    Ok(ExitCode::SUCCESS)
}

/// Runs all seeds; answers the lowest that failed among those that were run.
fn run_all(arguments: &Arguments, total: &Total) -> Option<(Plan, Violation)> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicU64::new(arguments.from);
    let stop = AtomicBool::new(false);
    let failed: Mutex<Option<(Plan, Violation)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads.unwrap_or(cores) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed - arguments.from >= arguments.seeds {
                        return;
                    }
                    let plan = Plan::from_seed(seed);
                    match shrink::outcome(&plan) {
                        Ok(report) => total.add(&report),
                        Err(violation) => {
                            stop.store(true, Ordering::Relaxed);
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            if failed.as_ref().is_none_or(|(other, _)| other.seed > seed) {
                                *failed = Some((plan, violation));
                            }
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Tells what went wrong, and the shortest plan found on which it does.
fn fail(arguments: &Arguments, plan: &Plan, violation: Violation) -> anyhow::Result<ExitCode> {
    println!("chaos: FAILED seed={} at_us={}: {}", plan.seed, violation.at_ns / 1_000, violation.what);
    if !arguments.no_shrink && !arguments.trace {
        let (short, violation) = shrink::shrink(plan, violation);
        println!("on the shortest plan found, at_us={}: {}", violation.at_ns / 1_000, violation.what);
        println!("{}", serde_json::to_string_pretty(&short)?);
        println!("run it again: keyferry-chaos --plan FILE --trace");
    }
    Ok(ExitCode::FAILURE)
}

/// Success is to find it.
#[cfg(feature = "planted-bugs")]
fn plant(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let total = Total::default();
    let Some((plan, violation)) = run_all(arguments, &total) else {
        println!("chaos: FAILED: the planted bug was not found in {} seeds", arguments.seeds);
        return Ok(ExitCode::FAILURE);
    };
    println!(
        "chaos: planted bug found seed={} after={}: {}",
        plan.seed,
        plan.seed - arguments.from,
        violation.what
    );
    Ok(ExitCode::SUCCESS)
}
