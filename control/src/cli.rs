//! The command line: `keyferry init`, `node`, `distributor`, `check`, `ctl`, `status`, `top`, `capture` and `ca`. Exit codes: 0 well,
//! 1 problems, 2 wrong usage, 3 a reload of which some keys wait for a restart.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use keyferry_app::App;
use keyferry_link::Cidr;
use keyferry_worker::capture::SNAP_BYTES_MAX;

use crate::applications::Own;
use crate::ca;
use crate::capture::{self, request::Request};
use crate::check::Report;
use crate::config::{Config, Distributor};
use crate::ctl;
use crate::drain::DRAIN_MAX;
use crate::init;
use crate::memory;
use crate::node;
use crate::top;

/// Exit code of a reload of which some keys wait for a restart.
const PARTLY: u8 = 3;

/// A TLS front end that bypasses the kernel and lends requests, with the key to answer them, to less loaded nodes
#[derive(Parser)]
#[command(name = "keyferry")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a first configuration for this machine, with a certificate to try it with, and say what to do next
    Init {
        /// Where to; nothing there is overwritten
        #[arg(long, value_name = "DIR", default_value = init::FOLDER)]
        dir: PathBuf,
        /// The name clients ask for
        #[arg(long, value_name = "NAME", default_value = "first.test")]
        host: String,
        /// The node's address on the network of the port that is taken; without it no port is, for a first look
        #[arg(long, value_name = "IP/PREFIX")]
        address: Option<Cidr>,
    },
    /// Run a node until SIGTERM or SIGINT
    Node {
        /// The node's configuration; docs/examples/keyferry.toml describes every key
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Run a distributor in front of nodes until SIGTERM or SIGINT
    Distributor {
        /// The distributor's configuration; docs/examples/distributor.toml describes every key
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Say what would fail at start, and what to do about it
    Check {
        /// The configuration to check
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print one JSON document
        #[arg(long)]
        json: bool,
    },
    /// Ask a running node or distributor, or tell it something
    Ctl {
        #[command(subcommand)]
        command: CtlCommand,
        /// Its configuration
        #[arg(long, value_name = "FILE", global = true)]
        config: Option<PathBuf>,
        /// Print JSON: one document, or for drain one a line
        #[arg(long, global = true)]
        json: bool,
    },
    /// Print the counters of a running node or distributor as one JSON document: short for ctl status --json
    Status {
        /// Its configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Write packets of a running node or distributor to a file that Wireshark reads, until Ctrl-C
    Capture(Capture),
    /// Show what a running node or distributor does, once a second: its cores, peers, moves, latency, drops and certificates
    Top {
        /// Its configuration
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print one frame as text, of the second that begins now
        #[arg(long)]
        once: bool,
    },
    /// Make certificates for the links between nodes, if you have no authority of your own
    Ca {
        #[command(subcommand)]
        command: CaCommand,
    },
}

#[derive(clap::Args)]
struct Capture {
    /// Its configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where to: pcapng, what was there is replaced; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// End after so many packets
    #[arg(short, long, value_name = "NUMBER")]
    count: Option<u64>,
    /// End after so many seconds
    #[arg(long, value_name = "NUMBER")]
    seconds: Option<u32>,
    /// Bytes kept of each packet
    #[arg(long, value_name = "BYTES", default_value_t = SNAP_BYTES_MAX)]
    snap: usize,
    /// With the secrets of the connections that begin meanwhile: whoever has the file reads them. Wants [tls] key_log
    #[arg(long)]
    keys: bool,
    /// What this worker receives and sends, alone
    #[arg(long, value_name = "NUMBER")]
    worker: Option<usize>,
    /// Which packets, as for tcpdump: host, net and port, with src or dst before them, tcp, udp, icmp, icmp6, arp, ip, ip6, and, or, not,
    /// parentheses
    filter: Vec<String>,
}

#[derive(Clone, Copy, Subcommand)]
enum CtlCommand {
    /// What it counts, by thread
    Status,
    /// Its peers, and the links to them
    Peers,
    /// What it keeps for clients that come back
    Sessions,
    /// Take no new work, finish what there is, and end; stays until it has ended
    Drain {
        /// What is left after so long is reset
        #[arg(long, value_name = "TIME", default_value = "30s", value_parser = deadline)]
        deadline: Duration,
    },
    /// Read the configuration and the certificates again and take over what can be; exits with 3 if the rest needs a restart
    Reload,
}

#[derive(Subcommand)]
enum CaCommand {
    /// Make an authority: DIR/ca.pem and DIR/ca.key
    Init {
        /// Where to keep it; made if it is missing
        dir: PathBuf,
        /// How long it lasts
        #[arg(long, value_name = "DAYS", default_value_t = ca::CA_DAYS, value_parser = clap::value_parser!(u16).range(1..))]
        days: u16,
    },
    /// Make a certificate and a key for each node: DIR/NAME.pem and DIR/NAME.key
    Node {
        /// The authority's folder
        dir: PathBuf,
        /// The nodes' names, as [node] name has them
        #[arg(required = true)]
        names: Vec<String>,
        /// How long they last
        #[arg(long, value_name = "DAYS", default_value_t = ca::NODE_DAYS, value_parser = clap::value_parser!(u16).range(1..))]
        days: u16,
    },
}

/// What its arguments may be, for its manual.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the process's arguments and does what they say.
pub fn run(version: &'static str) -> ExitCode {
    run_with(version, Own::none())
}

/// As [`run`], for an executable that has applications of its own.
pub fn run_with<A: App>(version: &'static str, own: Own<A>) -> ExitCode {
    // clap prints help and usage errors itself and leaves with 0 and 2.
    let matches = Arguments::command().version(version).get_matches();
    let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let done = match arguments.command {
        Command::Init { dir, host, address } => say(init::init(&dir, &host, address)),
        Command::Node { config } => {
            memory::heap_in_hugepages();
            Config::load_with(&config, own.names())
                .map_err(anyhow::Error::from)
                .and_then(|config| node::run_with(&config, version, own))
        }
        Command::Distributor { config } => distribute(&config, version),
        Command::Check { config, json } => return check(&config, json, own.names()),
        Command::Ctl { command, config: Some(config), json } => {
            return told(ctl::run(&config, command.into(), json));
        }
        Command::Ctl { config: None, .. } => {
            let missing = clap::error::ErrorKind::MissingRequiredArgument;
            Arguments::command()
                .error(missing, "name the running node's configuration with --config FILE")
                .exit()
        }
        Command::Status { config } => return told(ctl::run(&config, ctl::Command::Status, true)),
        Command::Capture(wanted) => capture(wanted),
        Command::Top { config, once } => top::run(&config, once),
        Command::Ca { command } => certify(&command),
    };
    told(done.map(|()| ctl::Done::Whole))
}

fn told(done: anyhow::Result<ctl::Done>) -> ExitCode {
    match done {
        Ok(ctl::Done::Whole) => ExitCode::SUCCESS,
        Ok(ctl::Done::Partly) => ExitCode::from(PARTLY),
        Err(error) => {
            eprintln!("keyferry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn distribute(file: &Path, version: &'static str) -> anyhow::Result<()> {
    memory::heap_in_hugepages();
    crate::distributor::run(&Distributor::load(file)?, version)
}

fn capture(wanted: Capture) -> anyhow::Result<()> {
    let Capture { config, write, count, seconds, snap, keys, worker, filter } = wanted;
    let request = Request { filter: filter.join(" "), snap, count, seconds, worker, keys };
    // How many workers there are the process knows.
    if let Err(why) = request.check(usize::MAX) {
        Arguments::command().error(clap::error::ErrorKind::ValueValidation, why).exit()
    }
    capture::command::run(&config, &write, &request)
}

fn check(file: &Path, json: bool, own: &[String]) -> ExitCode {
    let report = Report::new(file, Path::new("/"), own);
    match json {
        true => println!("{}", serde_json::to_string(&report).expect("a report is plain data")),
        false => println!("{report}"),
    }
    if report.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn certify(command: &CaCommand) -> anyhow::Result<()> {
    say(match command {
        CaCommand::Init { dir, days } => ca::init(dir, *days),
        CaCommand::Node { dir, names, days } => ca::node(dir, names, *days),
    })
}

fn say(said: anyhow::Result<String>) -> anyhow::Result<()> {
    println!("{}", said?.trim_end());
    Ok(())
}

impl From<CtlCommand> for ctl::Command {
    fn from(command: CtlCommand) -> ctl::Command {
        match command {
            CtlCommand::Status => ctl::Command::Status,
            CtlCommand::Peers => ctl::Command::Peers,
            CtlCommand::Sessions => ctl::Command::Sessions,
            CtlCommand::Drain { deadline } => ctl::Command::Drain(deadline),
            CtlCommand::Reload => ctl::Command::Reload,
        }
    }
}

fn deadline(text: &str) -> Result<Duration, String> {
    let wants = "write a time such as 30s, 500ms or 2m, at most 1h";
    match humantime::parse_duration(text) {
        Ok(deadline) if deadline <= DRAIN_MAX => Ok(deadline),
        Ok(_) => Err(format!("too long: {wants}")),
        Err(error) => Err(format!("{error}: {wants}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_make_sense() {
        Arguments::command().debug_assert();
        let json = Arguments::try_parse_from(["keyferry", "check", "--config", "a.toml", "--json"]).unwrap();
        assert!(
            matches!(json.command, Command::Check { json: true, config } if config == Path::new("a.toml"))
        );
        let drain = |time| {
            Arguments::try_parse_from(["keyferry", "ctl", "drain", "--config", "a.toml", "--deadline", time])
        };
        let Command::Ctl { command: CtlCommand::Drain { deadline }, config: Some(_), json: false } =
            drain("1m 30s").unwrap().command
        else {
            panic!("it is a drain");
        };
        assert_eq!(deadline, Duration::from_secs(90));
        for (time, sentence) in
            [("2h", ": too long: write a time such as 30s"), ("30", ": write a time such as 30s")]
        {
            let error = drain(time).err().unwrap().to_string();
            assert!(error.contains(sentence), "{error}");
        }
        assert_eq!(Arguments::try_parse_from(["keyferry", "node"]).err().unwrap().exit_code(), 2);
    }
}
