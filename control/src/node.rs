//! Starts a node: the port, the workers on their cores, the application, the links to peers, and the end of it all.
//!
//! In: a validated configuration. Runs on the control thread, which then serves the admin socket until a signal.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use crossbeam_queue::ArrayQueue;
use keyferry_app::{Builtin, threads};
use keyferry_link::{Link, Route};
use keyferry_nic::dpdk::{self, Eal, EalOptions, PortOptions};
use keyferry_nic::handover::Handover;
use keyferry_nic::{Caps, Nic, Packet};
use keyferry_tcp::{RxChecksum, Tcp};
use keyferry_tls::{CertificatePem, Resumption, Server, ServerOptions};
use keyferry_worker::conn::Service;
use keyferry_worker::mailbox::{MAIL_MAX, Mail};
use keyferry_worker::peer::{LeaseLimits, SLOT_BYTES};
use keyferry_worker::pool::PoolSizes;
use keyferry_worker::receive::Receive;
use keyferry_worker::{Clock, Counters, Parts, Worker};
use tracing::info;
use zeroize::Zeroizing;

use crate::config::{self, Config, Model, Protocol};
use crate::counters::Registry;
use crate::{admin, peers};

/// Bytes of packet memory a chunk of the application, a record or a gathering buffer takes is far below a
/// connection's TCP buffers, so their number follows the requests that may be under way.
const GATHERS_PER_CONNECTION: usize = 2;

/// Receive and transmit descriptors of a queue.
const DESCRIPTORS: u16 = 512;

/// Packets waiting to be taken over from other workers.
const HANDOVER_PACKETS: usize = 1024;

/// The application, as the executable knows it.
type App = Builtin;

/// Runs a node until SIGINT or SIGTERM.
///
/// # Errors
/// What keeps it from starting; each sentence says what to do.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    let clock = Clock::start();
    let registry = Arc::new(Registry::default());
    let tls = Server::new(&tls_options(config)?)?;
    tls.warm_up();
    let eal = Eal::start(&EalOptions {
        hugepages: hugepages(config.nic.hugepages),
        memory_mib: config.nic.memory_mib,
        extra: config.nic.eal.clone(),
        virtual_only: matches!(config.nic.device, keyferry_nic_config::Device::Vdev(_)),
    })?;
    let workers = config.cores.workers.len();
    let (port, queues) = dpdk::Port::open(
        &eal,
        &PortOptions {
            device: config.nic.device.to_string(),
            queues: workers as u16,
            mtu: config.nic.mtu,
            packets: config.nic.packets,
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
        },
    )?;
    let (apps, app_threads) = applications(config, &stop)?;
    let handovers = Handover::between(workers, HANDOVER_PACKETS);
    let mailboxes: Vec<_> = (0..workers).map(|_| Arc::new(ArrayQueue::new(MAIL_MAX))).collect();
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    for (number, (((nic, app), handover), mailbox)) in
        queues.into_iter().zip(apps).zip(handovers).zip(&mailboxes).enumerate()
    {
        let parts = parts(config, nic, app, Receive::new(handover), Arc::clone(mailbox), tls.clone())?;
        let block = registry.block(Counters::NAMES, format!("worker {number}"));
        let (core, idle) = (config.cores.workers[number].0, idle(config.cores.idle));
        let stop = Arc::clone(&stop);
        let thread = std::thread::Builder::new().name(format!("worker {number}")).spawn(move || {
            let _registered = dpdk::register_worker_thread();
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
            let mut worker = Worker::new(parts);
            keyferry_worker::run(&mut worker, clock, idle, &stop, |counters| block.publish(counters));
        });
        threads.push(thread.context("cannot start a worker thread")?);
    }
    let links = if config.peers.is_empty() {
        Vec::new()
    } else {
        peers::start(local(config, mailboxes, &stop), &config.fabric.socket, &config.peers)?
    };
    core_affinity::set_for_current(core_affinity::CoreId { id: config.cores.control.0 });
    info!(node = config.node.name, workers, "serving");
    eprintln!("keyferry: node {} ready", config.node.name);
    let served = admin::serve_until_signal(&config.admin.socket, &config.node.name, &registry);
    stop.store(true, Ordering::Relaxed);
    for thread in threads.into_iter().chain(links) {
        let _ = thread.join();
    }
    drop(app_threads);
    drop(port);
    served
}

fn local(config: &Config, mailboxes: Vec<Arc<ArrayQueue<Mail>>>, stop: &Arc<AtomicBool>) -> peers::Local {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let slots = usize::from(config.fabric.slots);
    peers::Local {
        node: config.node.name.clone(),
        incarnation: u64::try_from(since_epoch.as_nanos()).unwrap_or(0),
        limits: keyferry_fabric::Limits {
            message_bytes_max: config.fabric.message_bytes,
            receives: config.fabric.receives,
            posted_max: config.fabric.receives + slots,
            slots_bytes: slots * SLOT_BYTES,
            staging_bytes: slots * SLOT_BYTES,
        },
        mailboxes,
        stop: Arc::clone(stop),
    }
}

fn parts<N: Nic>(
    config: &Config,
    nic: N,
    app: keyferry_app::Port<App>,
    receive: Receive<N::Packet>,
    mailbox: Arc<ArrayQueue<Mail>>,
    tls: Server,
) -> anyhow::Result<Parts<N, App>> {
    let caps = nic.caps();
    let connections = config.limits.connections as usize;
    let requests = config.limits.requests_in_app + config.lease.leases * config.peers.len();
    Ok(Parts {
        config: worker_config(config),
        link: link(config, &caps),
        tcp: tcp(config, &caps)?,
        nic,
        tls,
        app,
        receive,
        pools: PoolSizes {
            records: requests.max(64),
            gathers: (connections * GATHERS_PER_CONNECTION).min(requests + 64),
            // A request being read belongs to its connection; those in the application are bounded besides.
            requests: connections.min(4 * requests) + requests,
            chunks: 2 * requests,
            head_bytes: 1024,
        },
        mailbox,
    })
}

fn worker_config(config: &Config) -> keyferry_worker::Config {
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
        http: keyferry_http::Limits {
            head_bytes: limits.header_bytes,
            headers: limits.headers,
            body_bytes: limits.body_bytes,
            ..keyferry_http::Limits::default()
        },
        app_threads: config.cores.apps.len().max(1) as u32,
        policy: match config.node.model {
            Model::Bf => config.lease.policy,
            // Both serve every request where its connection is.
            Model::Rr | Model::Session => keyferry_decide::Policy::Never,
        },
        eager: config.lease.eager,
        leases: LeaseLimits {
            leases: config.lease.leases,
            credits: config.lease.credits,
            claim_timeout: config.lease.claim_timeout,
            silence_timeout: config.lease.silence_timeout,
        },
        message_bytes: config.fabric.message_bytes,
    }
}

fn link<P: Packet>(config: &Config, caps: &Caps) -> Link<P> {
    let default = |gateway: &std::net::IpAddr| Route::default_via(*gateway);
    let gateways = config.nic.gateways.iter().map(default);
    let mut link = Link::new(keyferry_link::Config {
        mac: caps.mac,
        addresses: config.nic.addresses.clone(),
        routes: config.nic.routes.iter().cloned().chain(gateways).collect(),
        vlan: config.nic.vlan,
        mtu: config.nic.mtu.min(caps.mtu),
    });
    if caps.queue == 0 {
        link.announce();
    }
    link
}

fn tcp(config: &Config, caps: &Caps) -> anyhow::Result<Tcp<keyferry_worker::segment::Outgoing>> {
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).ok().context("the random number generator failed")?;
    let limits = &config.limits;
    Ok(Tcp::new(keyferry_tcp::Config {
        addresses: config.nic.addresses.iter().map(|cidr| cidr.address()).collect(),
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
        tso_bytes_max: caps.tso_bytes_max,
        seed: u64::from_le_bytes(seed),
    }))
}

fn tls_options(config: &Config) -> anyhow::Result<ServerOptions> {
    let read = |file: &std::path::Path| {
        std::fs::read(file).with_context(|| format!("{} cannot be read: check [[certificate]]", file.display()))
    };
    let certificate = |it: &config::Certificate| {
        anyhow::Ok(CertificatePem {
            chain: read(&it.chain)?,
            key: Zeroizing::new(read(&it.key)?),
            source: it.chain.display().to_string(),
        })
    };
    Ok(ServerOptions {
        certificates: config.certificates.iter().map(certificate).collect::<anyhow::Result<_>>()?,
        tls12: config.tls.tls12,
        tls13: config.tls.tls13,
        resumption: match config.tls.resumption {
            config::Resumption::Table { sessions, lifetime } => Resumption::Table { sessions, lifetime },
            config::Resumption::Tickets { lifetime } => Resumption::Tickets { lifetime },
            config::Resumption::Off => Resumption::Off,
        },
        suites: None,
    })
}
