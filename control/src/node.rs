//! Starts a node: the port, the workers on their cores, the application, the links to peers, and the end of it all.
//!
//! In: a validated configuration. Runs on the control thread, which then serves the admin socket until a signal or an
//! operator ends the node.

use std::cell::Cell;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use crossbeam_queue::ArrayQueue;
use keyferry_app::Port;
use keyferry_decide::NodeId;
use keyferry_nic::dpdk;
use keyferry_nic::handover::Handover;
use keyferry_nic::{Caps, Nic};
use keyferry_nic_config::Host;
use keyferry_tcp::{RxChecksum, Tcp};
use keyferry_tls::key_log::KeyLog;
use keyferry_tls::{CertificatePem, Resumer, Resumption, Server, ServerOptions};
use keyferry_worker::announce::{ANNOUNCED_MAX, Announced, Announcements};
use keyferry_worker::config::{Place, Rate};
use keyferry_worker::conn::Service;
use keyferry_worker::mailbox::{MAIL_MAX, Mail};
use keyferry_worker::peer::{LeaseLimits, SLOT_BYTES};
use keyferry_worker::pool::PoolSizes;
use keyferry_worker::receive::Receive;
use keyferry_worker::{Clock, Parts, Worker, counters};
use tracing::{info, warn};

use crate::admin::Admin;
use crate::applications::{self, App, Own};
use crate::capture::{Captures, Tell};
use crate::config::{self, Cluster, Config, Protocol, files};
use crate::counters::Registry;
use crate::desk::{self, Desk};
use crate::drain::Drain;
use crate::links::{self, Announcer, Between, Duty, Links, Others, Tally};
use crate::members::{Member, Members, Role};
use crate::metrics::Metrics;
use crate::peers::Followed;
use crate::reload::expiry;
use crate::reload::node::Reload;
use crate::request_log::{Names, RequestLog};
use crate::runtime::{Control, Ends, Hangups};
use crate::top::sample::Life;
use crate::web::{Site, Web, serve};
use crate::{key_log, log, memory, port, privileges, service};

/// Bytes of the request bodies a worker reads at a time, unless two of the largest need more.
const BODIES_BYTES: usize = 64 << 20;

/// Records of one worker at most, 64 MiB; memory that is never used is never touched.
const RECORDS_MAX: usize = 4096;

/// Bytes of packet memory a chunk of the application, a record or a gathering buffer takes is far below a
/// connection's TCP buffers, so their number follows the requests that may be under way.
const GATHERS_PER_CONNECTION: usize = 2;

/// Packets waiting to be taken over from other workers.
const HANDOVER_PACKETS: usize = 1024;

/// How long a node that drains still takes what distributors send it: they hear of it within 50 ms, and what is on its way
/// from clients then is a round trip behind.
const NOTICE: Duration = Duration::from_millis(300);

/// Runs a node of this release until SIGINT, SIGTERM, or an operator ends it.
///
/// # Errors
/// What keeps it from starting; each sentence says what to do.
pub fn run(config: &Config, version: &'static str) -> anyhow::Result<()> {
    run_between(config, version, |queue_pair| queue_pair)
}

/// As [`run`], with applications of the executable's own; the configuration was read for them ([`Config::load_with`]).
///
/// # Errors
/// As [`run`].
pub fn run_with<A: keyferry_app::App>(
    config: &Config,
    version: &'static str,
    brought: Own<A>,
) -> anyhow::Result<()> {
    start(config, version, brought, |queue_pair| queue_pair)
}

/// As [`run`], with something between the workers and their queue pairs.
///
/// # Errors
/// As [`run`].
pub fn run_between(config: &Config, version: &'static str, between: Between) -> anyhow::Result<()> {
    start(config, version, Own::none(), between)
}

fn start<A: keyferry_app::App>(
    config: &Config,
    version: &'static str,
    brought: Own<A>,
    between: Between,
) -> anyhow::Result<()> {
    log::start(&config.admin);
    end_on_panic();
    for warning in memory::protect(config.node.core_dumps) {
        warn!("{warning}");
    }
    // Before this thread takes its place on one of them.
    let cores = Host::read(Path::new("/")).cores.usable().clone();
    let stop = Arc::new(AtomicBool::new(false));
    let clock = Clock::start();
    let registry = Arc::new(Registry::new());
    let control = Control::start()?;
    let admin = control.within(|| Admin::start(&config.admin.socket))?;
    let web = config.admin.metrics.map(|address| control.within(|| Web::start(address))).transpose()?;
    let secrets = match &config.tls.key_log {
        None => None,
        Some(path) => {
            let file = key_log::open(path)?;
            warn!(
                "tls.key_log: the secrets of every connection go to {}; whoever reads it reads the traffic",
                path.display()
            );
            Some((Arc::new(KeyLog::default()), file))
        }
    };
    let key_log = secrets.as_ref().map(|(log, _)| Arc::clone(log));
    let tls = Server::new(&tls_options(config, key_log.clone())?)?;
    for warning in tls.warnings() {
        warn!("{warning}");
    }
    tls.warm_up();
    let workers = config.cores.workers.len();
    let (port, queues) = port::open(&config.nic, workers as u16)?;
    let mailboxes: Vec<_> = (0..workers).map(|_| Arc::new(ArrayQueue::new(MAIL_MAX))).collect();
    let announced = announced(config);
    let resumer = tls.resumer();
    let tickets = (resumer.makes_tickets() && config.tls.sessions_shared).then(|| resumer.clone());
    let captures = Rc::new(Captures {
        name: config.node.name.clone(),
        version,
        clock,
        workers: mailboxes.iter().map(tell).collect(),
        key_log: key_log.clone(),
        is_on: Cell::new(false),
    });
    let notice = if has_distributors(config) { NOTICE } else { Duration::ZERO };
    let drain = Rc::new(Drain::new(mailboxes.clone(), Arc::clone(&registry), notice));
    let announcer = Rc::new(Announcer::new(announced.clone(), Arc::clone(&registry), drain.phase()));
    let names = Names::default();
    let (links, roster) = match &config.cluster {
        None => (None, None),
        Some(cluster) => {
            let tally = Tally::new(&registry);
            let roster = tally.roster().clone();
            let duty = links::Node {
                between,
                tickets,
                names: names.clone(),
                ..duty(config, mailboxes.clone(), &announcer)
            };
            let local = links::Local {
                node: config.node.name.clone(),
                incarnation: incarnation(),
                heartbeat_timeout: Cell::new(cluster.heartbeat_timeout),
                tally: tally.clone(),
                duty: Duty::Node(Box::new(duty)),
            };
            let own = own(config, &local, cluster);
            let trust = cluster.trust(&config.node.name)?;
            if let Some(warning) = trust.warning() {
                warn!("peers will refuse {}: it {warning}", cluster.certificate.display());
            }
            let others = Others::of_node(&config.node.name, &config.peers, &cluster.distributors);
            let links = control.within(|| Links::new(local, trust, &cluster.listen, others))?;
            (Some((links, cluster.etcd.as_ref().map(|etcd| (etcd, own, tally)))), Some(roster))
        }
    };
    privileges::give_up(&config.admin, config.cluster.as_ref())?;
    warn_of_files(config);
    let applications::Started { ports: apps, threads: app_threads, live } =
        applications::start(config, brought, &registry, &stop)?;
    let request_log = RequestLog::start(config, clock, names, &registry)?;
    let handovers = Handover::between(workers, HANDOVER_PACKETS);
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let (turns, turned) = mpsc::channel();
    for (number, (((nic, app), handover), mailbox)) in
        queues.into_iter().zip(apps).zip(handovers).zip(&mailboxes).enumerate()
    {
        let parts =
            parts(config, number, nic, app, Receive::new(handover), Arc::clone(mailbox), tls.clone())?;
        let block = registry.block(counters::names(), format!("worker {number}"));
        let (core, idle) = (config.cores.workers[number].0, port::idle(config.cores.idle));
        let stop = Arc::clone(&stop);
        let announcements = announced.get(number).zip(config.tls.resumption.lifetime());
        let announcements =
            announcements.map(|(queue, lifetime)| Announcements::new(Arc::clone(queue), lifetime));
        let access = request_log.as_ref().map(|log| log.access(config, number));
        let mut turns = Some(turns.clone());
        let thread = std::thread::Builder::new().name(format!("worker {number}")).spawn(move || {
            let _registered = dpdk::register_worker_thread();
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
            let mut worker = Worker::new(parts);
            if let Some(announcements) = announcements {
                worker = worker.announce_to(announcements);
            }
            if let Some(access) = access {
                worker = worker.log_to(access);
            }
            keyferry_worker::run(&mut worker, clock, idle, &stop, |counters| {
                block.publish(counters);
                if let Some(turns) = turns.take() {
                    let _ = turns.send(());
                }
            });
        });
        threads.push(thread.context("cannot start a worker thread")?);
    }
    threads.push(expire_sessions(resumer, &stop)?);
    let reload = Rc::new(Reload::new(config, tls, key_log, cores, mailboxes.clone(), live, &registry));
    reload.set_request_log(request_log.as_ref().map(RequestLog::reopener));
    if let Some((log, file)) = secrets {
        threads.push(key_log::start(log, file, &stop)?);
    }
    log::count(&registry);
    let metrics = metrics(&reload, &registry, version);
    let desk = Rc::new(Desk {
        version,
        reload: Rc::clone(&reload),
        registry: Arc::clone(&registry),
        roster,
        drain: Rc::clone(&drain),
        life: Life::begin(),
        captures,
    });
    let site = Site::new(metrics, {
        let desk = Rc::clone(&desk);
        move || desk.sample()
    });
    core_affinity::set_for_current(core_affinity::CoreId { id: config.cores.control.0 });
    // A worker first makes all it will need, which may take seconds. Who is told that the node is ready may count on it: peers
    // find a worker that takes their queue pairs, and clients one that answers.
    drop(turns);
    turned.iter().for_each(drop);
    info!(node = config.node.name, workers, "serving");
    eprintln!("keyferry: node {} ready", config.node.name);
    service::ready(&format!("node {} serves", config.node.name));
    let mut outcome = Ok(());
    control.run(async |mut signals| {
        let (links, etcd) = links.map(|(links, etcd)| (Rc::new(links.start()), etcd)).unzip();
        reload.set_links(links.clone());
        let members = etcd.flatten().map(|(etcd, own, tally)| {
            let is_linked = Rc::new(move |name: &str| tally.roster().is_up(name));
            Members::start(etcd, own, is_linked, &registry)
        });
        let members = match members.transpose() {
            Ok(members) => members,
            Err(error) => return outcome = Err(error),
        };
        let followed = Followed {
            own: &config.node.name,
            distributors: config.cluster.as_ref().map_or(&[], |cluster| &cluster.distributors),
            driver: config.fabric.driver,
            mailboxes: &mailboxes,
        };
        let follow = async {
            match (&members, &links) {
                (Some(members), Some(links)) => followed.follow(members.list(), links).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = admin.serve(async move |command: &str| desk.answer(command).await) => {}
            () = serve(web, site) => {}
            () = follow => {}
            () = change(&reload, &mut signals.hangups) => {}
            () = service::watched(&registry) => {}
            // The links live on meanwhile: their end would end the leases.
            () = end(&drain, &mut signals.ends, || reload.config().admin.drain_timeout) => {}
        }
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
    for thread in threads.into_iter().chain(app_threads) {
        let _ = thread.join();
    }
    if let Some(log) = request_log {
        log.end();
    }
    drop(port);
    Ok(outcome?)
}

/// How a worker is given a tap.
fn tell(mailbox: &Arc<ArrayQueue<Mail>>) -> Tell {
    let mailbox = Arc::clone(mailbox);
    Box::new(move |tap| mailbox.push(Mail::Capture(tap)).is_ok())
}

/// A node that has become another user reads its files with that user's rights: what it cannot is said now, not when a reload
/// is refused.
fn warn_of_files(config: &Config) {
    if config.admin.user.is_none() {
        return;
    }
    let mut refused: Vec<anyhow::Error> = Vec::new();
    refused.extend(files::read_any(&config.file).err().map(Into::into));
    refused.extend(tls_options(config, None).err());
    let trust = |cluster: &Cluster| cluster.trust(&config.node.name).err();
    refused.extend(config.cluster.as_ref().and_then(trust).map(Into::into));
    for error in refused {
        warn!("`keyferry ctl reload` will be refused: {error:#}");
    }
}

/// This node as others find it in etcd.
fn own(config: &Config, local: &links::Local, cluster: &Cluster) -> Member {
    Member {
        name: local.node.clone(),
        role: Role::Node,
        addresses: cluster.etcd.as_ref().map(|etcd| etcd.advertise.clone()).unwrap_or_default(),
        incarnation: local.incarnation,
        port_addresses: config.nic.addresses.iter().map(|cidr| cidr.address()).collect(),
        weight: config.node.weight,
    }
}

/// Drops sessions past their lifetime every few seconds, so that their secrets do not stay until they are pushed out.
fn expire_sessions(resumer: Resumer, stop: &Arc<AtomicBool>) -> anyhow::Result<JoinHandle<()>> {
    const LOOK: Duration = Duration::from_millis(200);
    const LOOKS: u32 = 25;
    let stop = Arc::clone(stop);
    let thread = std::thread::Builder::new().name("sessions".into()).spawn(move || {
        for look in (0..LOOKS).cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
            if look == 0 {
                resumer.expire();
            }
            std::thread::sleep(LOOK);
        }
    });
    thread.context("cannot start the thread that expires sessions")
}

/// A worker that panics has lost count of something: the node ends, to be started anew, rather than serve on without it.
pub(crate) fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

/// What may change while it serves: its file, certificates and what becomes of old ones.
async fn change(reload: &Reload, hangups: &mut Hangups) {
    let told = async {
        loop {
            hangups.next().await;
            reload.reload().await.log("SIGHUP");
        }
    };
    let certificates = || (reload.certificates(), reload.config().tls.expiry_warning);
    tokio::select! {
        () = told => {}
        () = reload.follow_files() => {}
        () = reload.retire() => {}
        () = expiry::tend(certificates, reload.shown()) => {}
    }
}

/// What Prometheus is told.
fn metrics(reload: &Rc<Reload>, registry: &Arc<Registry>, version: &'static str) -> Metrics {
    let (told, shown) = (Rc::clone(reload), Rc::clone(reload));
    let about = move || {
        let config = told.config();
        let node = &config.node;
        let model = desk::model(node.model).to_owned();
        vec![("node", node.name.clone()), ("model", model), ("version", version.to_owned())]
    };
    Metrics::new(Arc::clone(registry), about, move || shown.certificates())
}

/// Waits for the end: an operator's, or that of a signal, which has the time the configuration gives it then.
async fn end(drain: &Drain, signals: &mut Ends, timeout: impl Fn() -> Duration) {
    let signalled = async {
        loop {
            signals.next().await;
            drain.begin(timeout());
        }
    };
    tokio::select! {
        () = signalled => {}
        () = drain.drained() => {}
    }
    let progress = drain.progress();
    info!(closed = progress.closed, reset = progress.reset, requests_lost = progress.requests, "drained");
}

/// Tells the lives of this process apart: when it started, in ns since 1970.
pub(crate) fn incarnation() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX)
}

fn has_distributors(config: &Config) -> bool {
    let may_have = |cluster: &Cluster| !cluster.distributors.is_empty() || cluster.etcd.is_some();
    config.cluster.as_ref().is_some_and(may_have)
}

/// Where each worker says whose sessions it has, if distributors want to know.
fn announced(config: &Config) -> Vec<Arc<ArrayQueue<Announced>>> {
    let wanted = has_distributors(config) && config.tls.resumption.lifetime().is_some();
    let workers = if wanted { config.cores.workers.len() } else { 0 };
    (0..workers).map(|_| Arc::new(ArrayQueue::new(ANNOUNCED_MAX))).collect()
}

fn duty(config: &Config, mailboxes: Vec<Arc<ArrayQueue<Mail>>>, announcer: &Rc<Announcer>) -> links::Node {
    let slots = usize::from(config.fabric.slots);
    links::Node {
        driver: config.fabric.driver,
        address: config.fabric.address.clone(),
        limits: keyferry_fabric::Limits {
            message_bytes_max: config.fabric.message_bytes,
            receives: config.fabric.receives,
            posted_max: config.fabric.receives + slots,
            slots_bytes: slots * SLOT_BYTES,
            staging_bytes: slots * SLOT_BYTES,
        },
        mailboxes,
        between: |queue_pair| queue_pair,
        tickets: None,
        announcer: Rc::clone(announcer),
        names: Names::default(),
    }
}

fn parts<N: Nic, A: keyferry_app::App>(
    config: &Config,
    number: usize,
    nic: N,
    app: Port<App<A>>,
    receive: Receive<N::Packet>,
    mailbox: Arc<ArrayQueue<Mail>>,
    tls: Server,
) -> anyhow::Result<Parts<N, App<A>>> {
    let caps = nic.caps();
    let connections = config.limits.connections as usize;
    let requests = config.limits.requests_in_app + config.lease.leases * config.peers_max();
    Ok(Parts {
        config: worker_config(config, number),
        link: port::link(&config.nic, &caps),
        tcp: tcp(config, &caps)?,
        nic,
        tls,
        app,
        receive,
        pools: PoolSizes {
            // A record is out until the client has acknowledged it: one for each connection that is being sent to, and more
            // only for those whose paths hold more.
            records: requests.max(connections.min(RECORDS_MAX)).max(64),
            gathers: (connections * GATHERS_PER_CONNECTION).min(requests + 64),
            // A request being read belongs to its connection; those in the application are bounded besides.
            requests: connections.min(4 * requests) + requests,
            chunks: 2 * requests,
            head_bytes: 1024,
            body_bytes: bodies_bytes(config),
        },
        mailbox,
    })
}

/// Bytes of the request bodies a worker reads at a time.
pub(crate) fn bodies_bytes(config: &Config) -> usize {
    BODIES_BYTES.max(2 * config.limits.body_bytes)
}

/// Whether clients resume at other nodes than the one they met.
fn is_shared(config: &Config) -> bool {
    config.cluster.is_some() && config.tls.sessions_shared
}

/// The nodes that keep sessions.
pub(crate) fn members(config: &Config) -> Vec<NodeId> {
    let peers = config.peers.iter().map(|peer| &peer.name);
    peers.chain([&config.node.name]).map(|name| NodeId::of(name)).collect()
}

pub(crate) fn worker_config(config: &Config, number: usize) -> keyferry_worker::Config {
    let https_port = config.https_ports().next().unwrap_or(443);
    let service = |protocol| match protocol {
        Protocol::Https => Service::Https,
        Protocol::Redirect => Service::Redirect { https_port },
    };
    let limits = &config.limits;
    keyferry_worker::Config {
        services: config.listeners.iter().map(|it| (it.port, service(it.protocol))).collect(),
        connections: limits.connections,
        handshakes: u64::from(limits.handshakes),
        handshake_timeout: limits.handshake_timeout,
        header_timeout: limits.header_timeout,
        body_timeout: limits.body_timeout,
        body_rate: Rate::bytes_per_second(limits.body_rate),
        idle_timeout: limits.idle_timeout,
        http: keyferry_http::Limits {
            head_bytes: limits.header_bytes,
            headers: limits.headers,
            target_bytes: limits.target_bytes,
            body_bytes: limits.body_bytes,
            streamed_bytes: limits.streamed_bytes,
            chunk_line_bytes: limits.chunk_line_bytes,
        },
        streams: applications::streams(config),
        app_slots: applications::slots(config),
        policy: config.lease.policy,
        eager: config.lease.eager,
        leases: LeaseLimits {
            leases: config.lease.leases,
            credits: config.lease.credits,
            claim_timeout: config.lease.claim_timeout,
            silence_timeout: config.lease.silence_timeout,
            slot_patience: config.lease.slot_patience,
        },
        message_bytes: config.fabric.message_bytes,
        place: Place { number, of: config.cores.workers.len() },
        node: NodeId::of(&config.node.name),
        members: members(config),
        session_wait: config.tls.session_wait,
        rest_after: keyferry_worker::config::REST_AFTER,
    }
}

fn tcp(config: &Config, caps: &Caps) -> anyhow::Result<Tcp<keyferry_worker::segment::Outgoing>> {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).ok().context("the random number generator failed")?;
    let limits = &config.limits;
    let own = config.nic.addresses.iter().map(|cidr| cidr.address());
    let of_port = keyferry_tcp::Config {
        addresses: own.chain(config.nic.service_addresses.iter().copied()).collect(),
        ports: config.listeners.iter().map(|listener| listener.port).collect(),
        mtu: config.nic.mtu.min(caps.mtu),
        connections: limits.connections,
        half_open: limits.half_open,
        half_open_timeout: limits.handshake_timeout,
        idle_timeout: limits.idle_timeout,
        receive_bytes: limits.receive_buffer,
        send_bytes: limits.send_buffer,
        rx_checksum: if caps.rx_checksum { RxChecksum::Trust } else { RxChecksum::Verify },
        tx_checksum_offload: caps.tx_checksum,
        stretch: keyferry_worker::port::stretch(caps),
        seed: u64::from_le_bytes(seed),
    };
    Ok(Tcp::tuned(of_port, config.tcp.tuning()))
}

pub(crate) fn tls_options(config: &Config, key_log: Option<Arc<KeyLog>>) -> anyhow::Result<ServerOptions> {
    let certificate = |it: &config::Certificate| {
        anyhow::Ok(CertificatePem {
            chain: files::certificate_chain(&it.chain)?,
            key: files::private_key(&it.key)?,
            source: it.chain.display().to_string(),
        })
    };
    Ok(ServerOptions {
        certificates: config.certificates.iter().map(certificate).collect::<anyhow::Result<_>>()?,
        tls12: config.tls.tls12,
        tls13: config.tls.tls13,
        resumption: match config.tls.resumption {
            config::Resumption::Table { sessions, lifetime } if is_shared(config) => {
                Resumption::Shared { sessions, lifetime }
            }
            config::Resumption::Table { sessions, lifetime } => Resumption::Table { sessions, lifetime },
            config::Resumption::Tickets { lifetime } => Resumption::Tickets { lifetime },
            config::Resumption::Off => Resumption::Off,
        },
        suites: None,
        fragment: config.tls.max_fragment,
        key_log,
    })
}
