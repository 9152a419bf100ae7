//! Starts a distributor: the port, the worker on its core, the links to nodes, and the end of it all.
//!
//! In: a validated configuration. Runs on the control thread, which then serves the admin socket until a signal.

use std::cell::Cell;
use std::hash::Hasher;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossbeam_queue::ArrayQueue;
use keyferry_distribute as distribute;
use keyferry_link::Cidr;
use keyferry_nic::{Nic, dpdk, prefer_hugepages};
use keyferry_nic_config::Host;
use keyferry_worker::Clock;
use keyferry_worker::distribute::{Distribute, NEWS_MAX, News, names};
use serde::Serialize;
use siphasher::sip::SipHasher13;
use tracing::{info, warn};

use crate::admin::{Admin, Answer, document, refusal};
use crate::capture::{Captures, Tell};
use crate::config::{self, Cluster, DistributedNode, DistributedService, Distributor, Etcd};
use crate::counters::{Registry, Snapshot};
use crate::links::{CompanionReport, Companions, Duty, Front, Links, Local, NodeReport, Nodes, Tally};
use crate::members::{self, Member, Members};
use crate::membership::{Membership, first_state, placed};
use crate::metrics::Metrics;
use crate::places::tend;
use crate::reload::distributor::{EXPIRY_WARNING, Reload, others};
use crate::reload::expiry;
use crate::runtime::{Control, Hangups};
use crate::top::sample::{Life, Role, Sample};
use crate::web::{Site, Web, serve};
use crate::{log, node, port, privileges, service};

/// Runs a distributor of this release until SIGINT or SIGTERM.
///
/// # Errors
/// What keeps it from starting; each sentence says what to do.
pub fn run(config: &Distributor, version: &'static str) -> anyhow::Result<()> {
    log::start(&config.admin);
    node::end_on_panic();
    // Before this thread takes its place on one of them.
    let cores = Host::read(Path::new("/")).cores.usable().clone();
    let stop = Arc::new(AtomicBool::new(false));
    let clock = Clock::start();
    let registry = Arc::new(Registry::new());
    let control = Control::start()?;
    let admin = control.within(|| Admin::start(&config.admin.socket))?;
    let web = config.admin.metrics.map(|address| control.within(|| Web::start(address))).transpose()?;
    let news = Arc::new(ArrayQueue::new(NEWS_MAX));
    let nic = with_services(config);
    let (opened, mut queues) = port::open(&nic, 1)?;
    let queue = queues.pop().context("the port has no queue")?;
    let link = port::link(&nic, &queue.caps());
    let addresses: Vec<IpAddr> = config.nodes.iter().map(|node| node.address).collect();
    let it = Distribute::new(queue, link, distributor(config)?, addresses, Arc::clone(&news));
    let (vacated, told) = (it.vacated(), it.told());
    let of_file = config.nodes.iter().map(|node| (placed(config, node), first_state(node.link.is_some())));
    let nodes = Rc::new(Nodes::new(of_file, config.room(), config.services.len(), Arc::clone(&news)));
    let captures = captures(config, version, clock, &news);
    let companions = Rc::new(Companions::new(config.nic.addresses.clone(), news, told));
    companions.list(config.peers.iter().map(|peer| peer.name.as_str()));
    let (mut roster, incarnation) = (None, node::incarnation());
    let links = match &config.cluster {
        None => None,
        Some(cluster) => {
            let tally = Tally::new(&registry);
            roster = Some(tally.roster().clone());
            let front = Front { nodes: Rc::clone(&nodes), companions: Rc::clone(&companions) };
            Some(control.within(|| links(config, cluster, front, incarnation, tally))?)
        }
    };
    privileges::give_up(&config.admin, config.cluster.as_ref())?;
    let worker = start_worker(config, it, clock, &registry, &stop)?;
    let membership = Rc::new(Membership::new(config, &nodes, &companions, vacated, &registry));
    let reload = Rc::new(Reload::new(config, cores, (&nodes, &membership), &registry));
    let (about, shown) =
        (vec![("distributor", config.name.clone()), ("version", version.to_owned())], Rc::clone(&reload));
    let metrics = Metrics::new(Arc::clone(&registry), move || about.clone(), move || shown.certificates());
    log::count(&registry);
    let phase = Rc::new(Cell::new(Phase::Learning));
    let meet = meet(config, Arc::clone(&registry), Rc::clone(&phase));
    let desk = Rc::new(Desk {
        version,
        name: config.name.clone(),
        registry: Arc::clone(&registry),
        nodes: Rc::clone(&nodes),
        companions: Rc::clone(&companions),
        phase,
        reload: Rc::clone(&reload),
        life: Life::begin(),
        captures,
    });
    let site = Site::new(metrics, {
        let desk = Rc::clone(&desk);
        move || desk.sample()
    });
    core_affinity::set_for_current(core_affinity::CoreId { id: config.cores.control.0 });
    info!(distributor = config.name, nodes = config.nodes.len(), "distributing");
    let mut outcome = Ok(());
    control.run(async |mut signals| {
        let links = links.map(|links| Rc::new(links.start()));
        reload.set_links(links.clone());
        let members = config.etcd().zip(roster).map(|(etcd, roster)| {
            let is_linked = Rc::new(move |name: &str| roster.is_up(name));
            Members::start(etcd, own(config, etcd, incarnation), is_linked, &registry)
        });
        let members = match members.transpose() {
            Ok(members) => members,
            Err(error) => return outcome = Err(error),
        };
        let meet = async {
            meet.await;
            eprintln!("keyferry: distributor {} ready", config.name);
            service::ready(&format!("distributor {} serves", config.name));
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = meet => {}
            () = admin.serve(async move |command: &str| desk.answer(command).await) => {}
            () = serve(web, site) => {}
            () = membership.follow(members.as_ref().map(Members::list), links.as_deref()) => {}
            () = tend(&nodes) => {}
            () = change(&reload, &mut signals.hangups) => {}
            () = service::watched(&registry) => {}
            () = signals.ends.next() => {}
        }
        service::stopping();
        admin.end().await;
        if let Some(members) = members {
            members.leave().await;
        }
        reload.set_links(None);
        if let Some(links) = links.and_then(Rc::into_inner) {
            links.end().await;
        }
    });
    stop.store(true, Ordering::Relaxed);
    let _ = worker.join();
    drop(opened);
    Ok(outcome?)
}

/// Packets for operators.
fn captures(
    config: &Distributor,
    version: &'static str,
    clock: Clock,
    news: &Arc<ArrayQueue<News>>,
) -> Rc<Captures> {
    let news = Arc::clone(news);
    let worker: Tell = Box::new(move |tap| news.push(News::Capture(tap)).is_ok());
    let name = config.name.clone();
    Rc::new(Captures { name, version, clock, workers: vec![worker], key_log: None, is_on: Cell::new(false) })
}

/// Starts the one worker on its core.
fn start_worker<N: Nic + Send + 'static>(
    config: &Distributor,
    mut it: Distribute<N>,
    clock: Clock,
    registry: &Registry,
    stop: &Arc<AtomicBool>,
) -> anyhow::Result<JoinHandle<()>>
where
    N::Packet: Send,
{
    let block = registry.block(names(), "worker 0".to_owned());
    let (core, idle, stop) = (config.cores.workers[0].0, port::idle(config.cores.idle), Arc::clone(stop));
    let worker = std::thread::Builder::new().name("worker 0".to_owned()).spawn(move || {
        let _registered = dpdk::register_worker_thread();
        core_affinity::set_for_current(core_affinity::CoreId { id: core });
        keyferry_worker::run(&mut it, clock, idle, &stop, |counters| block.publish(counters));
    });
    worker.context("cannot start the worker's thread")
}

/// What may change while it runs: its file, and certificates.
async fn change(reload: &Reload, hangups: &mut Hangups) {
    let told = async {
        loop {
            hangups.next().await;
            reload.reload().await.log("SIGHUP");
        }
    };
    let certificates = || (reload.certificates(), EXPIRY_WARNING);
    tokio::select! {
        () = told => {}
        () = reload.follow_files() => {}
        () = expiry::tend(certificates, reload.shown()) => {}
    }
}

/// This distributor as others find it in etcd.
fn own(config: &Distributor, etcd: &Etcd, incarnation: u64) -> Member {
    Member {
        name: config.name.clone(),
        role: members::Role::Distributor,
        addresses: etcd.advertise.clone(),
        incarnation,
        port_addresses: Vec::new(),
        weight: 1,
    }
}

/// How long others are awaited of which none has been met: they may not run.
const ALONE: Duration = Duration::from_secs(3);
/// How long others may take to tell what they know.
const LEARNING_MAX: Duration = Duration::from_secs(60);
/// Between two looks at how far that is.
const LOOK: Duration = Duration::from_millis(20);

/// Where a distributor is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    /// Others tell it of their connections: it is not to be given any yet.
    Learning,
    /// It knows them.
    Serving,
}

/// Waits until the other distributors have told what they know, so that nobody sends this one clients before.
async fn meet(config: &Distributor, registry: Arc<Registry>, phase: Rc<Cell<Phase>>) {
    let started = Instant::now();
    if config.peers.is_empty() && config.etcd().is_none() {
        return phase.set(Phase::Serving);
    }
    loop {
        let total = registry.snapshot().total;
        let of = |name| total.get(name).copied().unwrap_or(0);
        let (peers, copied) = (of("peers"), of("peers_copied"));
        if peers > 0 && copied == peers || peers == 0 && started.elapsed() > ALONE {
            break;
        }
        if started.elapsed() > LEARNING_MAX {
            warn!("serving although other distributors have not told all they know: see their logs");
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    phase.set(Phase::Serving);
}

/// What a distributor answers its operators.
struct Desk {
    version: &'static str,
    name: String,
    registry: Arc<Registry>,
    nodes: Rc<Nodes>,
    companions: Rc<Companions>,
    phase: Rc<Cell<Phase>>,
    reload: Rc<Reload>,
    life: Life,
    captures: Rc<Captures>,
}

/// The commands, for whoever sends another.
const COMMANDS: &str = "status, peers, sample, reload, capture REQUEST";

#[derive(Serialize)]
struct Status<'a> {
    node: &'a str,
    version: &'a str,
    phase: Phase,
    uptime_s: u64,
    #[serde(flatten)]
    counters: Snapshot,
}

#[derive(Serialize)]
struct Peers<'a> {
    node: &'a str,
    nodes: Vec<NodeReport>,
    distributors: Vec<CompanionReport>,
}

impl Desk {
    /// The answer to one command: one JSON document, or packets.
    async fn answer(&self, command: &str) -> Answer {
        if let Some(request) = command.strip_prefix("capture ") {
            return self.captures.answer(request).await;
        }
        let document = match command {
            "status" => document(&Status {
                node: &self.name,
                version: self.version,
                phase: self.phase.get(),
                uptime_s: self.life.so_far().as_secs(),
                counters: self.registry.snapshot(),
            }),
            "peers" => document(&Peers {
                node: &self.name,
                nodes: self.nodes.report(),
                distributors: self.companions.report(),
            }),
            "sample" => document(&self.sample()),
            "reload" => {
                let outcome = self.reload.reload().await;
                outcome.log("an operator");
                outcome.answer(&self.name)
            }
            _ => refusal(format!("unknown to a distributor: send one of {COMMANDS}")),
        };
        document.into()
    }

    /// Everything `keyferry top` and the page show.
    fn sample(&self) -> Sample {
        let pins: Vec<_> = self.reload.config().cores.workers.iter().map(|core| core.0).collect();
        let about = self.life.about(Role::Distributor, &self.name, self.version, None, self.phase.get());
        let nodes = self.nodes.report().into_iter().map(Into::into);
        let companions = self.companions.report().into_iter().map(Into::into);
        let peers = nodes.chain(companions).collect();
        Sample::new(about, &pins, &self.registry.snapshot(), peers, &self.reload.certificates())
    }
}

/// The port's table with the services' addresses, which the distributor answers for besides its own.
fn with_services(config: &Distributor) -> config::Nic {
    let mut nic = config.nic.clone();
    for service in &config.services {
        let address = service.address.ip();
        if nic.addresses.iter().all(|cidr| cidr.address() != address) {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            nic.addresses.push(Cidr::new(address, bits).expect("an address has as many bits"));
        }
    }
    nic
}

fn distributor(config: &Distributor) -> anyhow::Result<distribute::Distributor> {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).ok().context("the random number generator failed")?;
    let tables = &config.tables;
    let settings = distribute::Config {
        flows: tables.flows,
        clients: tables.clients,
        idle_time: tables.idle_timeout,
        client_time: tables.client_lifetime,
        seed: u64::from_le_bytes(seed),
        places_seed: places_seed(config),
    };
    let service = |it: &DistributedService| distribute::Service {
        address: it.address,
        model: it.model,
        nodes: it.nodes.clone(),
    };
    let node = |it: &DistributedNode| distribute::Node {
        name: it.name.clone(),
        weight: it.weight,
        state: first_state(it.link.is_some()),
    };
    let (services, nodes) =
        (config.services.iter().map(service).collect(), config.nodes.iter().map(node).collect());
    Ok(distribute::Distributor::in_memory(settings, services, nodes, prefer_hugepages)
        .with_room(config.room()))
}

/// The key of flows' places: the same at all distributors, so it follows from what they have in common.
fn places_seed(config: &Distributor) -> u64 {
    let mut hasher = SipHasher13::new();
    for service in &config.services {
        hasher.write(service.address.to_string().as_bytes());
    }
    hasher.finish()
}

fn links(
    config: &Distributor,
    cluster: &Cluster,
    front: Front,
    incarnation: u64,
    tally: Tally,
) -> anyhow::Result<Links> {
    let local = Local {
        node: config.name.clone(),
        incarnation,
        heartbeat_timeout: Cell::new(cluster.heartbeat_timeout),
        tally,
        duty: Duty::Distributor(front),
    };
    let trust = cluster.trust(&config.name)?;
    if let Some(warning) = trust.warning() {
        warn!("nodes will refuse {}: it {warning}", cluster.certificate.display());
    }
    Links::new(local, trust, &cluster.listen, others(config))
}

#[cfg(test)]
mod tests {
    use rcgen::CertificateParams;
    use time::{Duration as Days, OffsetDateTime};

    use super::*;
    use crate::ca;
    use crate::config::LogFormat;
    use crate::log::tests::told;

    const FILE: &str = r#"
[distributor]
name = "d1"
[nic]
device = "net_af_packet0,iface=kf0"
addresses = ["192.0.2.2/24"]
[[service]]
address = "203.0.113.1:443"
[[node]]
name = "a"
address = "192.0.2.10"
link = "192.0.2.10:7411"
[cluster]
ca = "ca.pem"
certificate = "d1.pem"
key = "d1.key"
"#;

    /// It starts all the same: clocks are put right.
    #[test]
    fn a_certificate_that_has_expired_is_told_at_start() {
        let folder = tempfile::tempdir().unwrap();
        ca::init(folder.path(), 1).unwrap();
        let mut over = CertificateParams::default();
        over.not_before = OffsetDateTime::now_utc() - Days::days(2);
        over.not_after = OffsetDateTime::now_utc() - Days::days(1);
        ca::issue(folder.path(), &["d1".to_owned()], &over).unwrap();
        let config = config::read_distributor(FILE, &folder.path().join("d1.toml")).unwrap();
        let cluster = Cluster { listen: Vec::new(), ..config.cluster.clone().unwrap() };
        let news = Arc::new(ArrayQueue::new(1));
        let nodes = Rc::new(Nodes::new([], 0, 0, Arc::clone(&news)));
        let companions = Rc::new(Companions::new(Vec::new(), news, Arc::default()));
        let front = Front { nodes, companions };
        let lines = told(LogFormat::Text, |_| {
            drop(links(&config, &cluster, front, 1, Tally::new(&Registry::new())).unwrap());
        });
        let sentence = "d1.pem: it has expired: issue a new one, and check the clocks";
        let is_told = |line: &String| line.contains("nodes will refuse ") && line.contains(sentence);
        assert!(lines.iter().any(is_told), "{lines:?}");
    }
}
