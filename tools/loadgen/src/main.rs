//! `keyferry-load`: arguments in, report out. Exit status 0: every reply was right and there was at least one;
//! 1: a wrong body, or nothing was answered; 2: the arguments, or the load could not start; 3: the goal of `--slo`
//! was not met.

#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Context;
use clap::Parser;
use keyferry_load::args::Args;
use keyferry_load::collect::Outputs;
use keyferry_load::report::Report;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit statuses.
const NOT_RIGHT: u8 = 1;
const NOT_STARTED: u8 = 2;
const GOAL_MISSED: u8 = 3;

fn main() -> ExitCode {
    match command() {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("keyferry-load: {error:#}");
            ExitCode::from(NOT_STARTED)
        }
    }
}

fn command() -> anyhow::Result<u8> {
    // An interrupted run still reports what it saw; a second signal ends it at once.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)))
            .context("cannot watch for signals")?;
    }
    run(&Args::parse(), &stop)
}

/// The plain form: one run.
fn run(args: &Args, stop: &Arc<AtomicBool>) -> anyhow::Result<u8> {
    let progress = args.progress || std::io::stderr().is_terminal();
    let outputs = Outputs { hdr: args.hdr.as_deref(), progress };
    let report = keyferry_load::run_with(args, stop, outputs)?;
    print(args, &report)?;
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

/// The result in all the forms that were asked for.
fn print(args: &Args, report: &Report) -> anyhow::Result<()> {
    match &args.json {
        Some(file) if file == Path::new("-") => println!("{}", report.json()),
        Some(file) => {
            std::fs::write(file, report.json() + "\n")
                .with_context(|| format!("cannot write {}", file.display()))?;
            print!("{report}");
        }
        None => print!("{report}"),
    }
    Ok(())
}
