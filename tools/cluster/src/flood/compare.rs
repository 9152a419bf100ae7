//! What established connections, new clients and operators notice of a flood: one cluster, the same load, without and
//! with it, in turns.
//!
//! In: the load, the flood, how often. Out: what each trial saw, and the figures of all. Trials are interleaved, and each
//! is first as often as the other, so that what else the machine does meets both.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Parser;
use keyferry_load::args::Args;
use keyferry_load::report::Report;

use super::{Asking, Flood, Kind, METRICS, Requests, Seen, Sending, Sent, Watch};
use crate::cluster::Cluster;
use crate::description::{Description, Model};
use crate::models::Ratio;

/// Seconds in which the load opens its connections, before a flood and before anything is measured.
const WARM_UP: f64 = 2.0;
/// How often tables are looked at.
const LOOK: Duration = Duration::from_millis(200);
/// Longest wait of a new client: three SYNs are sent within it (RFC 6298 2).
const NEW_CLIENT_TIMEOUT: f64 = 8.0;

/// What is compared.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it runs on.
    pub cluster: Description,
    /// Measured seconds of a trial.
    pub seconds: f64,
    /// Trials with a flood, and as many without.
    pub rounds: u64,
    /// Requests a second of the load, Poisson.
    pub rate: f64,
    /// Its keep-alive connections.
    pub connections: usize,
    /// Clients a second that come anew, each with a connection, a full handshake and a request.
    pub new_clients: f64,
    /// The flood.
    pub flood: Of,
}

/// What a flood is made of.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    /// Packets of clients that nobody is.
    Packets {
        /// Which.
        kind: Kind,
        /// So many a second.
        per_s: f64,
        /// From so many addresses.
        sources: u32,
    },
    /// Requests, each as soon as the one before it is answered.
    Requests {
        /// On so many connections.
        connections: usize,
    },
}

impl Of {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Of::Packets { kind, .. } => kind.name(),
            Of::Requests { .. } => "requests",
        }
    }

    /// What is counted of it.
    fn unit(self) -> &'static str {
        match self {
            Of::Packets { .. } => "packets",
            Of::Requests { .. } => "requests",
        }
    }

    /// Begins, behind `count` packets or requests of floods before.
    fn start(self, cluster: &Cluster, plan: &Plan, count: u64) -> anyhow::Result<UnderWay> {
        Ok(match self {
            Of::Packets { kind, per_s, sources } => {
                let flood = Flood { kind, sources, service: super::service(), rate: per_s };
                UnderWay::Packets(flood.start(cluster.clients(), count))
            }
            Of::Requests { connections } => {
                let time_max = Duration::from_secs_f64(WARM_UP + plan.seconds);
                UnderWay::Requests(Requests { connections, time_max }.start(cluster, count)?)
            }
        })
    }
}

/// A flood of either kind.
enum UnderWay {
    Packets(Sending),
    Requests(Asking),
}

impl UnderWay {
    fn stop(self) -> anyhow::Result<Sent> {
        match self {
            UnderWay::Packets(sending) => sending.stop(),
            UnderWay::Requests(asking) => asking.stop(),
        }
    }
}

/// The cluster a flood is measured on: tables so small that they are full within seconds.
pub fn cluster(nodes: usize, model: Model, flows: usize, half_open: u32, idle: &str) -> Description {
    let description = Description { nodes, model, ..Description::default() };
    let common = format!("[cores]\nidle = \"{idle}\"\n[cluster]\nheartbeat_timeout_ms = 1000");
    let description = super::with_way_out(description)
        .with_node(&common)
        .with_node(&format!("[limits]\nhalf_open = {half_open}"));
    description
        .with_distributor(&common)
        .with_distributor(&format!("[distributor]\nflows = {flows}\nclients = {flows}"))
}

/// How full a table was at most, and its size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Entries.
    pub used: u64,
    /// Places.
    pub places: u64,
}

impl Fill {
    fn and(self, other: Fill) -> Fill {
        Fill { used: self.used.max(other.used), places: self.places.max(other.places) }
    }
}

impl fmt::Display for Fill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.used, self.places)
    }
}

/// What one trial saw.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The established connections' side.
    pub load: Report,
    /// The new clients'.
    pub new: Report,
    /// The operators'.
    pub seen: Seen,
    /// The flood, if there was one.
    pub flood: Option<(Of, Sent)>,
    /// The distributor's table of connections.
    pub flows: Fill,
    /// Its table of clients.
    pub clients: Fill,
    /// Half-open connections of the fullest node.
    pub half_open: u64,
    /// Packets that reached the distributor.
    pub received: u64,
    /// Resident memory of all processes at the end, in KiB.
    pub resident_kib: u64,
}

/// Trials in pairs, without and with the flood.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Each round's.
    pub rounds: Vec<(Trial, Trial)>,
}

/// Runs it all; `told` hears of each trial.
///
/// # Errors
/// The load or the flood does not start, or a byte of a reply was wrong.
///
/// # Panics
/// If the cluster does not start or end.
pub fn compare(executable: &Path, plan: &Plan, mut told: impl FnMut(&Trial)) -> anyhow::Result<Outcome> {
    let mut cluster = Cluster::start(executable, &plan.cluster);
    ensure!(
        super::loses_strays(cluster.clients()),
        "the clients' host forwards packets: set ip_forward to 0"
    );
    let mut outcome = Outcome::default();
    let mut first = 0;
    for round in 0..plan.rounds {
        let mut trial = |flooded: bool| -> anyhow::Result<Trial> {
            let trial = trial(&cluster, plan, flooded.then_some(first), round)?;
            first += trial.flood.map_or(0, |(_, sent)| sent.count);
            told(&trial);
            Ok(trial)
        };
        outcome.rounds.push(if round.is_multiple_of(2) {
            let quiet = trial(false)?;
            (quiet, trial(true)?)
        } else {
            let flooded = trial(true)?;
            (trial(false)?, flooded)
        });
    }
    cluster.stop();
    Ok(outcome)
}

/// One trial; with a flood from packet or request `first` on.
fn trial(cluster: &Cluster, plan: &Plan, first: Option<u64>, round: u64) -> anyhow::Result<Trial> {
    let (load, new) = (load_args(cluster, plan, round)?, new_args(cluster, plan, round)?);
    let never = Arc::new(AtomicBool::new(false));
    let before = cluster.status("d1").total("rx_packets");
    std::thread::scope(|scope| {
        let run = |args: Args| {
            let never = Arc::clone(&never);
            scope.spawn(move || cluster.clients().enter(|| keyferry_load::run(&args, &never)))
        };
        let (load, new) = (run(load), run(new));
        std::thread::sleep(Duration::from_secs_f64(WARM_UP * 0.75));
        let flood = first.map(|first| plan.flood.start(cluster, plan, first)).transpose()?;
        let watch = Watch::start(cluster, METRICS);
        let (mut flows, mut clients, mut half_open) = (Fill::default(), Fill::default(), 0);
        while !load.is_finished() {
            let status = cluster.status("d1");
            let fill = |used, places| Fill { used: status.total(used), places: status.total(places) };
            flows = flows.and(fill("flows", "flows_max"));
            clients = clients.and(fill("clients", "clients_max"));
            let nodes = cluster.description().node_names();
            half_open =
                nodes.iter().map(|node| cluster.status(node).total("half_open")).fold(half_open, u64::max);
            std::thread::sleep(LOOK);
        }
        let seen = watch.stop();
        let flood = flood.map(UnderWay::stop).transpose()?.map(|sent| (plan.flood, sent));
        let join = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<Report>>| {
            thread.join().expect("a load does not panic")
        };
        let (load, new) = (join(load)?, join(new)?);
        for report in [&load, &new] {
            ensure!(report.mismatches == 0, "{} replies were wrong", report.mismatches);
        }
        let received = cluster.status("d1").total("rx_packets") - before;
        let resident_kib = cluster.names().iter().map(|name| cluster.process(name).resident_kib()).sum();
        Ok(Trial { load, new, seen, flood, flows, clients, half_open, received, resident_kib })
    })
}

/// What both loads have in common.
fn common(cluster: &Cluster, seconds: f64, seed: u64) -> Vec<String> {
    let mut text = super::ask(cluster);
    text.extend(["--arrivals=poisson".to_owned(), format!("--duration={seconds}"), format!("--seed={seed}")]);
    text
}

fn load_args(cluster: &Cluster, plan: &Plan, round: u64) -> anyhow::Result<Args> {
    let mut text = common(cluster, WARM_UP + plan.seconds, 2 * round);
    text.extend([
        format!("--warm-up={WARM_UP}"),
        format!("--rate={}", plan.rate),
        format!("--connections={}", plan.connections),
        "--bytes-mix=1024".to_owned(),
        "--skew-of=requests".to_owned(),
    ]);
    Args::try_parse_from(text).context("these values are not the generator's")
}

fn new_args(cluster: &Cluster, plan: &Plan, round: u64) -> anyhow::Result<Args> {
    let mut text = common(cluster, WARM_UP + plan.seconds, 2 * round + 1);
    text.extend([
        format!("--warm-up={WARM_UP}"),
        format!("--rate={}", plan.new_clients),
        "--requests-per-connection=1".to_owned(),
        "--no-resumption".to_owned(),
        "--connections=64".to_owned(),
        format!("--timeout={NEW_CLIENT_TIMEOUT}"),
        "--bytes-mix=1024".to_owned(),
    ]);
    Args::try_parse_from(text).context("these values are not the generator's")
}

impl Outcome {
    fn flooded(&self) -> impl Iterator<Item = &Trial> {
        self.rounds.iter().map(|(_, flooded)| flooded)
    }

    fn quiet(&self) -> impl Iterator<Item = &Trial> {
        self.rounds.iter().map(|(quiet, _)| quiet)
    }

    /// The p99 of established connections, with the flood by without.
    pub fn p99(&self) -> Ratio {
        let p99 = |trial: &Trial| trial.load.latency_us.p99;
        Ratio::of(&self.rounds.iter().map(|(quiet, flooded)| (p99(flooded), p99(quiet))).collect::<Vec<_>>())
    }

    /// Requests of established connections that failed under the flood.
    pub fn failures(&self) -> u64 {
        self.flooded().map(|trial| trial.load.failures()).sum()
    }

    fn seen(of: impl Iterator<Item = Seen>) -> Seen {
        of.fold(Seen::default(), Seen::and)
    }
}

/// The line of figures.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let (quiet, seen) =
            (Self::seen(self.quiet().map(|it| it.seen)), Self::seen(self.flooded().map(|it| it.seen)));
        let fill = |of: fn(&Trial) -> Fill| self.flooded().map(of).fold(Fill::default(), Fill::and);
        let floods: Vec<(Of, Sent)> = self.flooded().filter_map(|trial| trial.flood).collect();
        let unit = floods.first().map_or("packets", |(of, _)| of.unit());
        let per_s = floods.iter().map(|(_, sent)| sent.per_s()).sum::<f64>() / floods.len().max(1) as f64;
        let refused: u64 = floods.iter().map(|(_, sent)| sent.failed).sum();
        let new: Vec<&Report> = self.flooded().map(|trial| &trial.new).collect();
        let ok: u64 = new.iter().map(|report| report.requests).sum();
        let failed: u64 = new.iter().map(|report| report.failures()).sum();
        write!(
            f,
            "flood: p99_ratio={:.2} admin_ms_max={:.0} metrics_ms_max={:.0} links_ms_max={:.0} flows={} clients={} \
             half_open={} {unit}_per_s={per_s:.0} refused={refused} new_clients_ok={ok}/{} failed={} unanswered={}",
            self.p99().mean,
            ms(seen.admin),
            ms(seen.metrics),
            // Heartbeats come only so often: what a flood adds to that is what they wait for.
            ms(seen.silence.saturating_sub(quiet.silence)),
            fill(|trial| trial.flows),
            fill(|trial| trial.clients),
            self.flooded().map(|trial| trial.half_open).max().unwrap_or(0),
            ok + failed,
            self.failures(),
            seen.failures,
        )
    }
}

/// One line of a trial.
impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (load, seen) = (&self.load, self.seen);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        match self.flood {
            None => write!(f, "without: ")?,
            Some((of, sent)) => write!(f, "with {:.0} {}/s: ", sent.per_s(), of.unit())?,
        }
        write!(
            f,
            "p50 {:.2} ms, p99 {:.2} ms, {} failed; new clients p99 {:.1} ms, {} of {} failed; admin {:.1} ms, metrics \
             {:.1} ms, links silent {:.0} ms, {} unanswered; flows {}, clients {}, half-open {}, received {}, \
             {} MiB resident",
            load.latency_us.p50 / 1e3,
            load.latency_us.p99 / 1e3,
            load.failures(),
            self.new.latency_us.p99 / 1e3,
            self.new.failures(),
            self.new.requests + self.new.failures(),
            ms(seen.admin),
            ms(seen.metrics),
            ms(seen.silence),
            seen.failures,
            self.flows,
            self.clients,
            self.half_open,
            self.received,
            self.resident_kib / 1024,
        )
    }
}
