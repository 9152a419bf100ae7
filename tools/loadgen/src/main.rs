//! `keyferry-load`: arguments in, report out. Exit status 0: every reply was right and there was at least one;
//! 1: a wrong byte, or nothing was answered; 2: the arguments, or the load could not start; 3: the goal of `--slo`
//! was not met.

#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

fn main() -> ExitCode {
    let args = keyferry_load::args::Args::parse();
    // An interrupted run still reports what it saw; a second signal ends it at once.
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        let registered = flag::register_conditional_default(signal, Arc::clone(&stop))
            .and_then(|_| flag::register(signal, Arc::clone(&stop)));
        if let Err(error) = registered {
            eprintln!("keyferry-load: cannot watch for signals: {error}");
            return ExitCode::from(2);
        }
    }
    match keyferry_load::run(&args, &stop) {
        Ok(report) => {
            if args.json {
                println!("{}", report.json());
            } else {
                print!("{report}");
            }
            let failures = args.slo.as_ref().map(|slo| slo.failures(&report)).unwrap_or_default();
            for failure in &failures {
                eprintln!("keyferry-load: {failure}");
            }
            match (report.is_right(), failures.is_empty()) {
                (false, _) => ExitCode::from(1),
                (true, false) => ExitCode::from(3),
                (true, true) => ExitCode::SUCCESS,
            }
        }
        Err(error) => {
            eprintln!("keyferry-load: {error:#}");
            ExitCode::from(2)
        }
    }
}
