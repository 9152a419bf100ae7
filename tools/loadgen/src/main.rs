//! `keyferry-load`: arguments in, report out. Exit status 0: every reply was right and there was at least one;
//! 1: a wrong byte, or nothing was answered; 2: the arguments, or the load could not start.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = keyferry_load::args::Args::parse();
    match keyferry_load::run(&args) {
        Ok(report) => {
            if args.json {
                println!("{}", report.json());
            } else {
                print!("{report}");
            }
            ExitCode::from(u8::from(!report.is_right()))
        }
        Err(error) => {
            eprintln!("keyferry-load: {error:#}");
            ExitCode::from(2)
        }
    }
}
