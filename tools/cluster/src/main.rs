//! `keyferry-cluster`: a cluster on this machine, to be tried, or under the load that the models are compared by.

use std::io::BufRead;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use keyferry_cluster::flood::{
    self, Kind,
    compare::{Of, Plan},
};
use keyferry_cluster::models::{self, Ratio, Workload};
use keyferry_cluster::{Cluster, Description, Members, Model};

/// Nodes, distributors and clients in network namespaces of one machine
#[derive(Parser)]
#[command(name = "keyferry-cluster", version)]
struct Arguments {
    /// The keyferry executable
    #[arg(long, value_name = "FILE", default_value = "target/release/keyferry", global = true)]
    keyferry: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start what a description says, and do to it what lines of standard input say: start, stop, kill, freeze, resume,
    /// cut, mend or remove NAME; status [NAME]; add, a node, where members are in etcd; its end ends all
    Run {
        /// A TOML file: nodes, distributors, clients, model, members ("file" or "etcd"), and tables of configuration; none:
        /// two nodes
        description: Option<PathBuf>,
    },
    /// Find the highest of some rates at which a model meets a p99, in each of some rounds
    Capacity {
        /// The workload; its rate is not used
        workload: PathBuf,
        /// The goal, in ms, from the moment a request was meant to be sent
        #[arg(long)]
        p99_ms: f64,
        /// Requests a second, ascending
        #[arg(long, value_delimiter = ',', required = true)]
        rates: Vec<f64>,
        /// Which models
        #[arg(long, value_delimiter = ',', default_value = "session,bf", value_parser = model)]
        models: Vec<Model>,
        /// Runs of each rate, whose median counts
        #[arg(long, default_value_t = 3)]
        rounds: u64,
    },
    /// Flood the service, with packets from a million addresses or with requests, and compare what others notice with what
    /// they notice without
    Flood(FloodArguments),
    /// Run a workload under rr, session and bf, and compare
    Models {
        /// The workload
        workload: PathBuf,
        /// Rounds, each with a seed of its own
        #[arg(long, default_value_t = 1)]
        rounds: u64,
        /// Which models
        #[arg(long, value_delimiter = ',', default_value = "rr,session,bf", value_parser = model)]
        models: Vec<Model>,
        /// Seconds of each run, in place of the workload's
        #[arg(long)]
        seconds: Option<f64>,
        /// Requests a second, in place of the workload's
        #[arg(long)]
        rate: Option<f64>,
    },
}

#[derive(clap::Args)]
struct FloodArguments {
    /// What the flood is made of
    #[arg(long, value_enum, default_value = "syns")]
    kind: Kind,
    /// Its packets a second
    #[arg(long, default_value_t = 50_000.0)]
    packets: f64,
    /// Its addresses
    #[arg(long, default_value_t = 1_000_000)]
    sources: u32,
    /// In place of packets: requests of so many connections, each as soon as the one before it is answered
    #[arg(long, value_name = "CONNECTIONS", conflicts_with_all = ["kind", "packets", "sources"])]
    requests: Option<usize>,
    /// Trials with it, and as many without
    #[arg(long, default_value_t = 5)]
    rounds: u64,
    /// Measured seconds of each
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Requests a second over connections that are kept
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// Those connections
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Clients a second that come anew
    #[arg(long, default_value_t = 10.0)]
    new_clients: f64,
    /// Nodes
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Connections, and clients, that the distributor is to know
    #[arg(long, default_value_t = 65_536)]
    flows: usize,
    /// Half-open connections of a node
    #[arg(long, default_value_t = 8_192)]
    half_open: u32,
    /// What idle workers do
    #[arg(long, default_value = "sleep")]
    idle: String,
    /// How clients are spread over nodes
    #[arg(long, default_value = "bf", value_parser = model)]
    model: Model,
}

fn model(text: &str) -> Result<Model, String> {
    let all = [Model::Rr, Model::Session, Model::Bf];
    all.into_iter().find(|model| model.name() == text).ok_or_else(|| "write rr, session or bf".to_owned())
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Run { description } => run(&arguments, description.as_ref()),
        Command::Capacity { workload, p99_ms, rates, models, rounds } => {
            capacity(&arguments, workload, *p99_ms, rates, models, *rounds)
        }
        Command::Flood(flood) => flooded(&arguments, flood),
        Command::Models { workload, rounds, models, seconds, rate } => {
            compare(&arguments, workload, *rounds, models, (*seconds, *rate))
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keyferry-cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn compare(
    arguments: &Arguments,
    workload: &std::path::Path,
    rounds: u64,
    models: &[Model],
    (seconds, rate): (Option<f64>, Option<f64>),
) -> anyhow::Result<()> {
    let mut workload = Workload::load(workload)?;
    workload.seconds = seconds.unwrap_or(workload.seconds);
    workload.rate = rate.unwrap_or(workload.rate);
    let runs = models::compare(&arguments.keyferry, &workload, models, rounds, |run| {
        let latency = &run.report.latency_us;
        eprintln!(
            "{}: mean {:.1} ms, p99 {:.1} ms, {:.0} requests/s, {} moved",
            run.model.name(),
            latency.mean / 1e3,
            latency.p99 / 1e3,
            run.report.requests_per_s,
            run.moved
        );
    })?;
    for run in &runs {
        ensure!(
            run.report.unsent == 0,
            "{} requests were never sent under {}: the machine is too slow for this rate, give a lower --rate",
            run.report.unsent,
            run.model.name()
        );
    }
    print!("{}", models::table(&runs, models));
    if models.contains(&Model::Bf) && models.contains(&Model::Session) {
        let between =
            |figure: fn(&models::Run) -> f64| Ratio::between(&runs, Model::Bf, Model::Session, figure);
        let mean = between(|run| run.report.latency_us.mean);
        let p99 = between(|run| run.report.latency_us.p99);
        println!("bf / session over {rounds} rounds, 90 % confidence: mean {mean}, p99 {p99}");
        println!("models: bf_vs_session_mean={:.2} bf_vs_session_p99={:.2}", mean.mean, p99.mean);
    }
    Ok(())
}

fn capacity(
    arguments: &Arguments,
    workload: &std::path::Path,
    p99_ms: f64,
    rates: &[f64],
    models: &[Model],
    rounds: u64,
) -> anyhow::Result<()> {
    let workload = Workload::load(workload)?;
    let mut highest = Vec::new();
    for model in models {
        let mut meets = None;
        for rate in rates {
            let workload = Workload { rate: *rate, ..workload.clone() };
            let runs = models::compare(&arguments.keyferry, &workload, &[*model], rounds, |_| {})?;
            let p99 = |run: &models::Run| match run.report.unsent {
                0 => run.report.latency_us.p99 / 1e3,
                _ => f64::INFINITY,
            };
            let p99 = models::median(runs.iter().map(p99).collect());
            eprintln!("{} at {rate} requests/s: p99 {p99:.1} ms", model.name());
            if p99 > p99_ms {
                break;
            }
            meets = Some(*rate);
        }
        match meets {
            Some(rate) => println!("{}: p99 is at most {p99_ms} ms up to {rate} requests/s", model.name()),
            None => println!("{}: p99 is above {p99_ms} ms at each of these rates", model.name()),
        }
        highest.push((*model, meets));
    }
    let of = |model| highest.iter().find(|(it, _)| *it == model).and_then(|(_, rate)| *rate);
    if let (Some(bf), Some(session)) = (of(Model::Bf), of(Model::Session)) {
        println!("capacity: bf_vs_session_rate={:.2}", bf / session);
    }
    Ok(())
}

fn flooded(arguments: &Arguments, flood: &FloodArguments) -> anyhow::Result<()> {
    let plan = Plan {
        cluster: flood::compare::cluster(flood.nodes, flood.model, flood.flows, flood.half_open, &flood.idle),
        seconds: flood.seconds,
        rounds: flood.rounds,
        rate: flood.rate,
        connections: flood.connections,
        new_clients: flood.new_clients,
        flood: match flood.requests {
            Some(connections) => Of::Requests { connections },
            None => Of::Packets { kind: flood.kind, per_s: flood.packets, sources: flood.sources },
        },
    };
    let outcome = flood::compare::compare(&arguments.keyferry, &plan, |trial| eprintln!("{trial}"))?;
    println!("p99 with {} / without, 90 % confidence: {}", plan.flood.name(), outcome.p99());
    println!("{outcome}");
    Ok(())
}

fn run(arguments: &Arguments, description: Option<&PathBuf>) -> anyhow::Result<()> {
    let description = match description {
        None => Description::default(),
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            toml::from_str(&text).with_context(|| format!("{} is no description", file.display()))?
        }
    };
    let mut cluster = Cluster::start(&arguments.keyferry, &description);
    println!("{}", cluster.summary());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (word, name) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        let names = cluster.names();
        let is_known = names.iter().any(|known| known == name);
        match word {
            "" => {}
            "status" if name.is_empty() => {
                for name in names.iter().filter(|name| cluster.is_running(name)) {
                    println!("{}", cluster.status(name));
                }
            }
            "add" if description.members == Members::Etcd => println!("{} runs", cluster.add_node()),
            _ if !is_known => println!(
                "write start, stop, kill, freeze, resume, cut, mend, remove or status, and one of {}; or add, where \
                 members are in etcd",
                names.join(", ")
            ),
            "start" if !cluster.is_running(name) => cluster.start_one(name),
            "remove" if !cluster.is_running(name) => cluster.remove(name),
            "cut" => cluster.set_plugged(name, false),
            "mend" => cluster.set_plugged(name, true),
            _ if !cluster.is_running(name) => println!("{name} does not run"),
            "start" => println!("{name} runs"),
            "stop" => cluster.take(name).stop(),
            "kill" => cluster.kill(name),
            "freeze" => cluster.process(name).freeze(),
            "resume" => cluster.process(name).resume(),
            "status" => println!("{}", cluster.status(name)),
            "remove" => println!("{name} runs: stop it first"),
            _ => println!("unknown: write start, stop, kill, freeze, resume, cut, mend, remove or status"),
        }
    }
    cluster.stop();
    Ok(())
}
