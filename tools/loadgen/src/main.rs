//! `keyferry-load`: arguments in, report out. Exit status 0: every reply was right and there was at least one;
//! 1: a wrong body, or nothing was answered; 2: the arguments, or the load could not start; 3: the goal of `--slo`
//! was not met; 4: a search cannot measure reliably.

#![forbid(unsafe_code)]

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use clap::Parser;
use keyferry_load::args::{Args, CompareArgs, SearchArgs};
use keyferry_load::collect::Outputs;
use keyferry_load::compare::Comparison;
use keyferry_load::html;
use keyferry_load::report::Report;
use keyferry_load::search::{Doubt, Span, Trial, Verdict, search};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit statuses.
const NOT_RIGHT: u8 = 1;
const NOT_STARTED: u8 = 2;
const GOAL_MISSED: u8 = 3;
const NOT_RELIABLE: u8 = 4;

/// Seconds before each trial of a search, in which connections are opened, unless --warm-up says otherwise.
const TRIAL_WARM_UP_S: f64 = 1.0;

fn main() -> ExitCode {
    match command() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("keyferry-load: {error:#}");
            ExitCode::from(NOT_STARTED)
        }
    }
}

/// A plain run has no name; the other commands have theirs as the first argument.
fn command() -> anyhow::Result<u8> {
    // An interrupted run still reports what it saw; a second signal ends it at once.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot watch for signals")?;
    }
    let arguments = || std::env::args_os().skip(1);
    match std::env::args().nth(1).as_deref() {
        Some("search") => highest_rate(&SearchArgs::parse_from(arguments()), &stop),
        Some("compare") => compare(&CompareArgs::parse_from(arguments())),
        _ => run(&Args::parse(), &stop),
    }
}

/// The plain form: one run.
fn run(args: &Args, stop: &Arc<AtomicBool>) -> anyhow::Result<u8> {
    let progress = args.progress || std::io::stderr().is_terminal();
    let outputs = Outputs { hdr: args.hdr.as_deref(), progress };
    let report = keyferry_load::run_with(args, stop, outputs)?;
    match &args.json {
        Some(file) if file == Path::new("-") => print(&(report.json() + "\n"))?,
        Some(file) => {
            write(file, &(report.json() + "\n"))?;
            print(&report.to_string())?;
        }
        None => print(&report.to_string())?,
    }
    if let Some(file) = &args.html {
        let command: Vec<_> = std::env::args().collect();
        write(file, &html::page(&report, &command.join(" ")))?;
    }
    let failures = args.slo.as_ref().map(|slo| slo.failures(&report)).unwrap_or_default();
    for failure in &failures {
        eprintln!("keyferry-load: {failure}");
    }
    Ok(match (report.is_right(), failures.is_empty()) {
        (false, _) => NOT_RIGHT,
        (true, false) => GOAL_MISSED,
        (true, true) => 0,
    })
}

/// `compare`: two results side by side.
fn compare(args: &CompareArgs) -> anyhow::Result<u8> {
    let read = |file: &Path| -> anyhow::Result<Report> {
        let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("{} was not written by keyferry-load --json", file.display()))
    };
    print(&Comparison::new(&read(&args.a)?, &read(&args.b)?).to_string())?;
    Ok(0)
}

/// `search`: one run after the other, until the highest rate is known.
fn highest_rate(args: &SearchArgs, stop: &Arc<AtomicBool>) -> anyhow::Result<u8> {
    let goal = args.run.slo.clone().context("say what is to be met, as in --slo 'p99<2ms,errors<0.1%'")?;
    let goal = goal.with_errors();
    let is_paced = args.run.rate.is_none() && args.run.trace.is_none() && args.run.requests.is_none();
    let asked = args.run.duration.filter(|_| is_paced).context(
        "the search has the rate: say how long a trial lasts by --duration, and leave out --rate, --trace and --requests",
    )?;
    let (warm_up, duration) = match args.run.warm_up {
        Some(warm_up) => (warm_up, asked),
        None => (TRIAL_WARM_UP_S, asked + TRIAL_WARM_UP_S),
    };

    let mut trials = Vec::new();
    let span = Span { from: args.from, to: args.to, precision: args.precision, repeats: args.repeats.get() };
    let verdict = search(span, |rate| {
        // What is not sent within another trial's time is lost anyway, and would only make the search longer.
        let trial = Args {
            rate: Some(rate),
            duration: Some(duration),
            warm_up: Some(warm_up),
            drain: Some(asked),
            ..args.run.clone()
        };
        let report = keyferry_load::run_with(&trial, stop, Outputs::default())?;
        anyhow::ensure!(!stop.load(Ordering::Relaxed), "interrupted; no verdict");
        anyhow::ensure!(report.mismatches == 0, "{}", report.first_mismatch.unwrap_or_default());
        let trial = Trial {
            rate,
            achieved: report.requests_per_s,
            p99_us: report.latency_us.p99,
            failures: goal.failures(&report),
            doubt: Doubt::of(&report, goal.tightest_us()),
        };
        eprintln!("{trial}");
        trials.push(trial.clone());
        Ok(trial)
    })?;
    if let Some(file) = &args.run.json {
        let text = serde_json::json!({ "outcome": verdict, "trials": trials }).to_string() + "\n";
        if file == Path::new("-") { print(&text)? } else { write(file, &text)? }
    }
    print(&format!("{verdict}\n"))?;
    Ok(match verdict {
        Verdict::Highest { .. } | Verdict::AboveAll { .. } => 0,
        Verdict::None => GOAL_MISSED,
        Verdict::CannotMeasure { .. } => NOT_RELIABLE,
    })
}

/// To standard output; whoever reads it may have gone.
fn print(text: &str) -> anyhow::Result<()> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
