//! `keyferry-sim`: the paper again, clusters larger than a machine, and how large one has to be.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use keyferry_sim::commands::{check, decide, paper, scale, size, today};
use keyferry_sim::costs;

/// Clusters of any size in virtual time, by the product's own decisions
#[derive(Parser)]
#[command(name = "keyferry-sim", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The figures of the paper for 16 and 32 nodes, and what it leaves open swept
    Paper(paper::Arguments),
    /// Where forwarding pays with today's costs, by policy and size
    Today(today::Arguments),
    /// How many nodes a load needs to meet a goal, under each model
    Size(size::Arguments),
    /// A workload of the real cluster, in the form of `keyferry-cluster models`
    Check(check::Arguments),
    /// What the product's decision is worth on the committed workloads, against its aims
    Decide(decide::Arguments),
    /// What the fabric takes of a node, from 16 to 10,000 nodes
    Scale(scale::Arguments),
    /// Reads lines of benches from standard input and writes a calibration
    Calibrate {
        /// Where to
        out: std::path::PathBuf,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Paper(arguments) => paper::run(&arguments),
        Command::Today(arguments) => today::run(&arguments),
        Command::Size(arguments) => size::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Decide(arguments) => decide::run(&arguments),
        Command::Scale(arguments) => scale::run(&arguments),
        Command::Calibrate { out } => calibrate(&out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyferry-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn calibrate(out: &std::path::Path) -> anyhow::Result<()> {
    let text = std::io::read_to_string(std::io::stdin())?;
    let (costs, used) = costs::Costs::from_benches(&text, costs::machine())?;
    costs.save(out)?;
    println!("{}: {}", out.display(), used.join(", "));
    Ok(())
}
