//! A node of a run: real workers on simulated ports, in one of their lives. The parts are the product's own; only
//! sizes are small and addresses fixed.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use keyferry_app::routes::Streams;
use keyferry_app::{Port, Runner};
use keyferry_decide::{NodeId, Policy};
use keyferry_link::{Cidr, Link};
use keyferry_nic::Nic;
use keyferry_nic::handover::Handover;
use keyferry_nic::sim::{Net, PortId, PortOptions, Queue};
use keyferry_tcp::{RxChecksum, Tcp};
use keyferry_tls::{CertificatePem, Resumption, Server, ServerOptions};
use keyferry_worker::config::{Place, Rate};
use keyferry_worker::conn::Service;
use keyferry_worker::mailbox::{MAIL_MAX, Mail};
use keyferry_worker::peer::LeaseLimits;
use keyferry_worker::pool::PoolSizes;
use keyferry_worker::receive::Receive;
use keyferry_worker::segment::Outgoing;
use keyferry_worker::{Config, Parts, Worker};

use crate::app::Echo;
use crate::crypto::{self, Clock};
use crate::plan::{Lending, NodePlan};

/// The port clients connect to.
pub const PORT: u16 = 443;

/// Largest lease message.
pub const MESSAGE_BYTES: usize = 4096;

/// Connections of one worker.
const CONNECTIONS: u32 = 32;

/// No progress between requests, and data the client does not acknowledge.
pub const IDLE: Duration = Duration::from_secs(10);

/// The longest a handshake waits for a session.
pub const SESSION_WAIT: Duration = Duration::from_millis(20);

/// The address of a node.
pub fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, node as u8, 1)
}

/// A node as the others know it.
pub fn id(node: usize) -> NodeId {
    NodeId::of(&node.to_string())
}

/// The MAC address of a node.
pub fn mac(node: usize) -> [u8; 6] {
    [2, 0, 0, 0, node as u8, 1]
}

/// One core of a node.
pub struct Core {
    /// Its worker.
    pub worker: Worker<Queue, Echo>,
    /// The worker's letter box.
    pub mailbox: Arc<ArrayQueue<Mail>>,
}

/// A node in one of its lives.
pub struct Node {
    /// Its cores.
    pub cores: Vec<Core>,
    /// Its port.
    pub port: PortId,
}

impl Node {
    /// Starts one of the nodes.
    pub fn start(plans: &[NodePlan], number: usize, life: u32, net: &mut Net, clock: &Clock) -> Node {
        let (plan, nodes) = (&plans[number], plans.len());
        let options = PortOptions {
            mac: mac(number),
            queues: plan.workers as u16,
            packets: plan.packets * plan.workers,
            descriptors: 64,
            rx_checksum: plan.offload,
            tx_checksum: plan.offload,
            tso: plan.offload,
            rss: plan.rss,
            ..PortOptions::default()
        };
        let queues = net.port(options);
        let port = queues[0].port();
        let tls = server(plan, clock);
        let cores = queues
            .into_iter()
            .zip(Handover::between(plan.workers, 64))
            .enumerate()
            .map(|(worker, (queue, handover))| {
                let mailbox = Arc::new(ArrayQueue::new(MAIL_MAX));
                let app = Echo::new(number, life, worker);
                let runner = Runner::new(app, plan.jobs, Box::new(clock.clone()))
                    .with_slots(NonZeroUsize::new(plan.slots));
                let parts = Parts {
                    config: config(plan, number, nodes, Place { number: worker, of: plan.workers }),
                    link: link(number, &queue),
                    tcp: tcp(plan, number, &queue),
                    tls: tls.clone(),
                    app: Port::inline(runner),
                    receive: Receive::new(handover),
                    pools: pools(plan),
                    nic: queue,
                    mailbox: Arc::clone(&mailbox),
                };
                Core { worker: Worker::new(parts), mailbox }
            })
            .collect();
        Node { cores, port }
    }
}

fn config(plan: &NodePlan, number: usize, nodes: usize, place: Place) -> Config {
    Config {
        services: vec![(PORT, Service::Https)],
        connections: CONNECTIONS,
        handshakes: u64::from(CONNECTIONS),
        handshake_timeout: Duration::from_secs(20),
        header_timeout: Duration::from_secs(20),
        body_timeout: Duration::from_secs(20),
        body_rate: Rate::bytes_per_second(1024),
        idle_timeout: IDLE,
        http: keyferry_http::Limits { body_bytes: 64 * 1024, ..keyferry_http::Limits::default() },
        streams: Streams::default(),
        app_slots: plan.slots.max(1) as u32,
        policy: match plan.lending {
            Lending::Never => Policy::Never,
            Lending::Always => Policy::Always,
            Lending::Threshold(us) => Policy::Threshold { us },
            Lending::Estimate(move_cost_us) => Policy::Estimate { move_cost_us },
        },
        eager: plan.eager,
        leases: LeaseLimits {
            leases: plan.leases,
            credits: plan.credits,
            claim_timeout: Duration::from_millis(plan.claim_timeout_ms),
            silence_timeout: Duration::from_millis(plan.silence_timeout_ms),
            slot_patience: Duration::from_millis(plan.slot_patience_ms),
        },
        message_bytes: MESSAGE_BYTES,
        place,
        node: id(number),
        members: (0..nodes).map(id).collect(),
        session_wait: SESSION_WAIT,
        rest_after: keyferry_worker::config::REST_AFTER,
    }
}

fn pools(plan: &NodePlan) -> PoolSizes {
    let [records, gathers, requests, chunks] = plan.pools;
    PoolSizes { records, gathers, requests, chunks, head_bytes: 512, body_bytes: 1 << 20 }
}

fn link(number: usize, queue: &Queue) -> Link<<Queue as Nic>::Packet> {
    let caps = queue.caps();
    Link::new(keyferry_link::Config {
        mac: caps.mac,
        addresses: vec![Cidr::new(IpAddr::V4(address(number)), 24).expect("24 bits are a prefix")],
        routes: Vec::new(),
        vlan: None,
        mtu: caps.mtu,
    })
}

fn tcp(plan: &NodePlan, number: usize, queue: &Queue) -> Tcp<Outgoing> {
    let caps = queue.caps();
    Tcp::new(keyferry_tcp::Config {
        addresses: vec![IpAddr::V4(address(number))],
        ports: vec![PORT],
        mtu: caps.mtu,
        connections: CONNECTIONS,
        half_open: CONNECTIONS,
        half_open_timeout: Duration::from_secs(15),
        idle_timeout: IDLE,
        receive_bytes: plan.tcp_bytes,
        send_bytes: plan.tcp_bytes,
        rx_checksum: if caps.rx_checksum { RxChecksum::Trust } else { RxChecksum::Verify },
        tx_checksum_offload: caps.tx_checksum,
        stretch: keyferry_worker::port::stretch(&caps),
        seed: u64::from_le_bytes(crypto::random()),
    })
}

/// An Ed25519 key: its signatures draw nothing from a generator.
const KEY: [u8; 32] = *b"the key of every simulated node.";

/// PKCS #8 of an Ed25519 key, up to the key itself (RFC 8410 7).
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

fn certificate() -> &'static (String, String) {
    static MADE: OnceLock<(String, String)> = OnceLock::new();
    MADE.get_or_init(|| {
        let der = [&PKCS8[..], &KEY[..]].concat();
        let key = rcgen::KeyPair::try_from(der).expect("an Ed25519 key");
        let mut params = rcgen::CertificateParams::new(vec!["chaos.test".into()]).expect("a name");
        params.serial_number = Some(rcgen::SerialNumber::from(7u64));
        let certificate = params.self_signed(&key).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    })
}

fn server(plan: &NodePlan, clock: &Clock) -> Server {
    let (chain, key) = certificate();
    let lifetime = Duration::from_secs(3600);
    let options = ServerOptions {
        certificates: vec![CertificatePem {
            chain: chain.clone().into_bytes(),
            key: key.clone().into_bytes().into(),
            source: "chaos".into(),
        }],
        tls12: true,
        tls13: true,
        resumption: if plan.session_table {
            Resumption::Shared { sessions: 64, lifetime }
        } else {
            Resumption::Tickets { lifetime }
        },
        suites: None,
        fragment: keyferry_tls::Fragment::MAX,
        key_log: None,
    };
    Server::with_provider(&options, crypto::provider(), Arc::new(clock.clone())).expect("a server")
}
