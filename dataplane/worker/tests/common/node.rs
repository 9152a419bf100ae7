//! A node of one or two workers on a simulated port, with the applications of [`sink`](super::sink) inside each.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use keyferry_app::routes::Routes;
use keyferry_app::synthetic::{Distribution, Options as AppOptions};
use keyferry_app::{Clock, Port, Runner};
use keyferry_decide::{NodeId, Policy};
use keyferry_fabric::sim::Net as Fabric;
use keyferry_link::{Cidr, Link, Route};
use keyferry_nic::handover::Handover;
use keyferry_nic::sim::{Net, PortOptions, Queue};
use keyferry_nic::{Nic, Packet as _};
use keyferry_tcp::{RxChecksum, Tcp};
use keyferry_time::Time;
use keyferry_tls::{CertificatePem, Resumption, Server, ServerOptions};
use keyferry_worker::config::Place;
use keyferry_worker::conn::Service;
use keyferry_worker::mailbox::{MAIL_MAX, Mail};
use keyferry_worker::peer::LeaseLimits;
use keyferry_worker::pool::PoolSizes;
use keyferry_worker::receive::Receive;
use keyferry_worker::{Config, Parts, Worker};

use super::sink::{self, Gate, Served};

/// The node's address, in a /8 of which most belongs to nobody.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The way to every client.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
pub const PORT: u16 = 443;
pub const MTU: u16 = 1500;
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a test may want otherwise.
#[derive(Clone, Debug)]
pub struct Options {
    pub workers: u16,
    pub connections: u32,
    pub half_open: u32,
    pub handshakes: u64,
    pub pools: PoolSizes,
    pub jobs: usize,
    pub packets: usize,
    pub descriptors: usize,
    pub handover: usize,
    pub receive_bytes: usize,
    pub send_bytes: usize,
    /// From the head of a request to the end of its body.
    pub body_timeout: Duration,
    /// The slowest it may come, in bytes a second.
    pub body_rate: u32,
    /// When it lends.
    pub policy: Policy,
    /// The other nodes that keep sessions; with any, clients may come back.
    pub others: &'static [&'static str],
    /// There is a way to those who are no neighbours.
    pub has_gateway: bool,
    /// What the port takes, which is thought to take [`MTU`].
    pub port_mtu: u16,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            workers: 1,
            connections: 1024,
            half_open: 256,
            handshakes: 64,
            pools: PoolSizes {
                records: 256,
                gathers: 128,
                requests: 128,
                chunks: 256,
                head_bytes: 1024,
                body_bytes: 4 << 20,
            },
            jobs: 128,
            packets: 4096,
            descriptors: 512,
            handover: 256,
            receive_bytes: 8192,
            send_bytes: 16_384,
            body_timeout: Duration::from_secs(600),
            body_rate: 1,
            policy: Policy::Never,
            others: &[],
            has_gateway: true,
            port_mtu: MTU,
        }
    }
}

/// Virtual time, for the application.
#[derive(Clone, Default)]
pub struct VirtualClock(Arc<AtomicU64>);

impl VirtualClock {
    pub fn set(&self, now_ns: u64) {
        self.0.store(now_ns, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::Relaxed))
    }

    fn unix_seconds(&self) -> u64 {
        1_700_000_000 + self.0.load(Ordering::Relaxed) / 1_000_000_000
    }
}

/// Workers and the far end of their port.
pub struct Node {
    pub workers: Vec<Worker<Queue, Routes<Served>>>,
    pub net: Net,
    pub wire: Queue,
    pub fabric: Fabric,
    /// By worker.
    pub mailboxes: Vec<Arc<ArrayQueue<Mail>>>,
    /// What they shake hands with at first.
    pub server: Server,
    pub time: VirtualClock,
    /// What sinks take.
    pub gate: Gate,
    pub injected: Cell<u64>,
}

impl Node {
    /// Sends a frame from the clients' end; false if its ring is full.
    pub fn inject(&mut self, frame: &[u8]) -> bool {
        let Some(mut packet) = self.wire.alloc() else { return false };
        packet.set_len(frame.len());
        packet.bytes_mut().copy_from_slice(frame);
        let mut packets = arrayvec::ArrayVec::from_iter([packet]);
        let sent = self.wire.tx_burst(&mut packets) == 1;
        self.injected.set(self.injected.get() + u64::from(sent));
        sent
    }
}

pub fn node(options: &Options) -> Node {
    let mut net = Net::with_frames(65_536);
    // A port that segments would hide how replies are cut; a port without RSS needs the hand-over.
    let port = PortOptions {
        mac: MAC,
        mtu: options.port_mtu,
        queues: options.workers,
        packets: options.packets * usize::from(options.workers),
        descriptors: options.descriptors,
        tso: false,
        rss: options.workers == 1,
        ..PortOptions::default()
    };
    let queues = net.port(port);
    // The clients' end takes frames larger than the node's may be.
    let far = PortOptions {
        mac: [2, 0, 0, 0, 0, 2],
        mtu: 9_000,
        packets: 16_384,
        descriptors: 8_192,
        tso: false,
        tx_checksum: false,
        ..PortOptions::default()
    };
    let wire = net.port(far).remove(0);
    net.connect(queues[0].port(), wire.port(), 0);
    let time = VirtualClock::default();
    let server = server(options);
    let gate = Gate::default();
    let handovers = Handover::between(usize::from(options.workers), options.handover);
    let parts = queues.into_iter().zip(handovers).enumerate().map(|(number, (queue, handover))| {
        let place = Place { number, of: usize::from(options.workers) };
        parts(options, place, queue, handover, server.clone(), time.clone(), &gate)
    });
    let (mailboxes, workers) = parts.map(|parts| (Arc::clone(&parts.mailbox), Worker::new(parts))).unzip();
    Node { workers, net, wire, fabric: Fabric::new(), mailboxes, server, time, gate, injected: Cell::new(0) }
}

fn parts(
    options: &Options,
    place: Place,
    nic: Queue,
    handover: Handover<keyferry_nic::sim::Packet>,
    tls: Server,
    time: VirtualClock,
    gate: &Gate,
) -> Parts<Queue, Routes<Served>> {
    let caps = nic.caps();
    let address = Cidr::new(IpAddr::V4(ADDRESS), 8).expect("a prefix of 8 bits");
    let everywhere = Cidr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).expect("a prefix of 0 bits");
    let gateway = Route { to: everywhere, via: IpAddr::V4(GATEWAY) };
    let app = AppOptions {
        cost_us: Distribution::Fixed(0.0),
        bytes: Distribution::Fixed(1024.0),
        burn: false,
        seed: 1,
    };
    Parts {
        config: Config {
            services: vec![(PORT, Service::Https)],
            connections: options.connections,
            handshakes: options.handshakes,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            header_timeout: Duration::from_secs(10),
            body_timeout: options.body_timeout,
            body_rate: keyferry_worker::config::Rate::bytes_per_second(options.body_rate),
            idle_timeout: IDLE_TIMEOUT,
            http: keyferry_http::Limits::default(),
            streams: sink::streams(),
            app_slots: 1,
            policy: options.policy,
            eager: false,
            leases: LeaseLimits {
                leases: 64,
                credits: 16,
                claim_timeout: Duration::from_secs(5),
                silence_timeout: Duration::from_secs(5),
                slot_patience: keyferry_worker::slots::PATIENCE,
            },
            message_bytes: 8192,
            place,
            node: NodeId::of("node"),
            members: options.others.iter().chain(&["node"]).map(|name| NodeId::of(name)).collect(),
            session_wait: Duration::from_millis(20),
            rest_after: keyferry_worker::config::REST_AFTER,
        },
        link: Link::new(keyferry_link::Config {
            mac: caps.mac,
            addresses: vec![address],
            routes: if options.has_gateway { vec![gateway] } else { vec![] },
            vlan: None,
            mtu: MTU,
        }),
        tcp: Tcp::new(keyferry_tcp::Config {
            addresses: vec![IpAddr::V4(ADDRESS)],
            ports: vec![PORT],
            mtu: MTU,
            connections: options.connections,
            half_open: options.half_open,
            half_open_timeout: HANDSHAKE_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            receive_bytes: options.receive_bytes,
            send_bytes: options.send_bytes,
            rx_checksum: RxChecksum::Trust,
            tx_checksum_offload: caps.tx_checksum,
            stretch: keyferry_worker::port::stretch(&caps),
            seed: 1,
        }),
        tls,
        app: Port::inline(Runner::new(
            Routes::new(sink::applications(app, gate), sink::rules()),
            options.jobs,
            Box::new(time),
        )),
        receive: Receive::new(handover),
        pools: options.pools,
        nic,
        mailbox: Arc::new(ArrayQueue::new(MAIL_MAX)),
    }
}

/// A P-256 certificate made for the occasion.
pub fn certificate() -> CertificatePem {
    let made = rcgen::generate_simple_self_signed(vec!["flood.test".into()]).expect("a certificate");
    CertificatePem {
        chain: made.cert.pem().into_bytes(),
        key: made.signing_key.serialize_pem().into_bytes().into(),
        source: "floods".into(),
    }
}

/// A server with one.
fn server(options: &Options) -> Server {
    let server = Server::new(&ServerOptions {
        certificates: vec![certificate()],
        tls12: true,
        tls13: true,
        resumption: if options.others.is_empty() {
            Resumption::Off
        } else {
            Resumption::Shared { sessions: 256, lifetime: Duration::from_secs(3600) }
        },
        suites: None,
        fragment: keyferry_tls::Fragment::MAX,
        key_log: None,
    })
    .expect("a server");
    server.warm_up();
    server
}
