//! A worker on a simulated port, with the synthetic application inside it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keyferry_app::routes::Streams;
use keyferry_app::synthetic::{Distribution, Options, Synthetic};
use keyferry_app::{App, Port, Runner, SystemClock};
use keyferry_decide::{NodeId, Policy};
use keyferry_link::{Cidr, Link, Route};
use keyferry_nic::handover::Handover;
use keyferry_nic::sim::{Net, PortOptions, Queue};
use keyferry_nic::{Caps, Nic, Packet as _};
use keyferry_tcp::{RxChecksum, Tcp};
use keyferry_time::Time;
use keyferry_tls::{CertificatePem, Resumption, Server, ServerOptions};
use keyferry_worker::config::{Place, REST_AFTER, Rate};
use keyferry_worker::conn::Service;
use keyferry_worker::mailbox::{MAIL_MAX, Mail};
use keyferry_worker::peer::LeaseLimits;
use keyferry_worker::pool::PoolSizes;
use keyferry_worker::receive::Receive;
use keyferry_worker::segment::Outgoing;
use keyferry_worker::{Config, Parts, Worker};

/// The node's address; clients are in the same /8.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The node's port.
pub const PORT: u16 = 443;
/// Largest lease message.
pub const MESSAGE_BYTES: usize = 8192;
/// The node's MAC address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What a node in production keeps under way to a client, at least.
const SEND_BYTES: usize = 65_536;
/// Sessions kept by a node of a cluster.
const SESSIONS: usize = 16_384;
/// So long that handshakes can be kept waiting on purpose.
const SESSION_WAIT: Duration = Duration::from_secs(60);

/// A worker and the far end of its port.
pub struct Node<A: App = Synthetic> {
    /// The worker.
    pub worker: Worker<Queue, A>,
    /// Its mailbox.
    pub mailbox: Arc<ArrayQueue<Mail>>,
    /// Virtual network.
    pub net: Net,
    /// The clients' end of the cable.
    pub wire: Queue,
    /// Connections it has places for.
    pub places: u32,
}

impl<A: App> Node<A> {
    /// Turns the worker, between frames that arrive and frames that leave.
    pub fn turn(&mut self, start: Instant) {
        let now = Time(start.elapsed().as_nanos() as u64);
        self.net.advance(now.0);
        self.worker.turn(now);
        self.net.advance(now.0);
    }
}

/// The only node there is, for this many connections; it decides by this policy.
pub fn node(connections: u32, policy: Policy) -> Node {
    node_of("bench", &["bench"], connections, policy)
}

/// The same, whose connections keep what can be made again for so long.
pub fn resting(connections: u32, rest_after: Duration) -> Node {
    made("bench", &["bench"], connections, Policy::Never, rest_after)
}

/// A node of a cluster. If it is not alone its clients come back, to any of the nodes.
pub fn node_of(name: &str, members: &[&str], connections: u32, policy: Policy) -> Node {
    made(name, members, connections, policy, REST_AFTER)
}

/// The only node there is, to which who is not its neighbour comes by a gateway.
pub fn routed(connections: u32, gateway: Ipv4Addr) -> Node {
    connected(port(), connections, application(), |nic, app, mailbox| {
        let mut parts = parts("bench", &["bench"], connections, Policy::Never, nic, app, mailbox);
        let anywhere = Cidr::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("a prefix of no bits");
        parts.link = link(&parts.nic.caps(), vec![Route { to: anywhere, via: gateway.into() }]);
        parts
    })
}

/// A port with every offload.
fn port() -> PortOptions {
    PortOptions { mac: MAC, packets: 4096, ..PortOptions::default() }
}

/// The application that answers at once, with a kilobyte.
fn application() -> Synthetic {
    Synthetic::new(Options {
        cost_us: Distribution::Fixed(0.0),
        bytes: Distribution::Fixed(1024.0),
        burn: false,
        seed: 1,
    })
}

fn made(name: &str, members: &[&str], connections: u32, policy: Policy, rest_after: Duration) -> Node {
    connected(port(), connections, application(), |nic, app, mailbox| {
        let mut parts = parts(name, members, connections, policy, nic, app, mailbox);
        parts.config.rest_after = rest_after;
        parts
    })
}

/// The only node there is, on a port of this kind, which keeps as much under way to each client as one in production does.
pub fn sending<A: App>(port: PortOptions, connections: u32, app: A) -> Node<A> {
    connected(port, connections, app, |nic, app, mailbox| {
        let mut parts = parts("bench", &["bench"], connections, Policy::Never, nic, app, mailbox);
        parts.tcp = tcp(&parts.nic.caps(), connections, SEND_BYTES);
        parts
    })
}

/// A node on a port, and the clients' end of its cable.
fn connected<A: App>(
    port: PortOptions,
    connections: u32,
    app: A,
    parts: impl FnOnce(Queue, A, Arc<ArrayQueue<Mail>>) -> Parts<Queue, A>,
) -> Node<A> {
    let mut net = Net::new();
    let queue = net.port(port).remove(0);
    // The clients' end takes packets as they are; its own checksums are filled in by the net.
    let far = PortOptions {
        mac: [2, 0, 0, 0, 0, 2],
        packets: 8192,
        descriptors: 4096,
        tso: false,
        ..PortOptions::default()
    };
    let wire = net.port(far).remove(0);
    net.connect(queue.port(), wire.port(), 0);
    let mailbox = Arc::new(ArrayQueue::new(MAIL_MAX));
    let worker = Worker::new(parts(queue, app, Arc::clone(&mailbox)));
    Node { worker, mailbox, net, wire, places: connections }
}

fn parts<A: App>(
    name: &str,
    members: &[&str],
    connections: u32,
    policy: Policy,
    nic: Queue,
    app: A,
    mailbox: Arc<ArrayQueue<Mail>>,
) -> Parts<Queue, A> {
    let caps = nic.caps();
    Parts {
        config: Config {
            services: vec![(PORT, Service::Https)],
            connections,
            handshakes: u64::from(connections),
            handshake_timeout: Duration::from_secs(600),
            header_timeout: Duration::from_secs(600),
            body_timeout: Duration::from_secs(600),
            body_rate: Rate::bytes_per_second(1),
            idle_timeout: Duration::from_secs(3600),
            http: keyferry_http::Limits::default(),
            streams: Streams::default(),
            app_slots: 1,
            policy,
            eager: false,
            leases: LeaseLimits {
                leases: 64,
                credits: 16,
                claim_timeout: Duration::from_secs(5),
                silence_timeout: Duration::from_secs(5),
                slot_patience: keyferry_worker::slots::PATIENCE,
            },
            message_bytes: MESSAGE_BYTES,
            node: NodeId::of(name),
            place: Place { number: 0, of: 1 },
            members: members.iter().map(|member| NodeId::of(member)).collect(),
            session_wait: SESSION_WAIT,
            rest_after: REST_AFTER,
        },
        link: link(&caps, Vec::new()),
        tcp: tcp(&caps, connections, 4096),
        tls: server(members.len() > 1),
        app: Port::inline(Runner::new(app, 1024, Box::new(SystemClock::default()))),
        receive: Receive::new(Handover::between(1, 64).remove(0)),
        pools: PoolSizes {
            records: 512,
            gathers: 512,
            requests: 2048,
            chunks: 2048,
            head_bytes: 1024,
            body_bytes: 64 << 20,
        },
        nic,
        mailbox,
    }
}

fn link<P>(caps: &Caps, routes: Vec<Route>) -> Link<P> {
    let address = Cidr::new(IpAddr::V4(ADDRESS), 8).expect("a prefix of 8 bits");
    Link::new(keyferry_link::Config {
        mac: caps.mac,
        addresses: vec![address],
        routes,
        vlan: None,
        mtu: caps.mtu,
    })
}

fn tcp(caps: &Caps, connections: u32, send_bytes: usize) -> Tcp<Outgoing> {
    Tcp::new(keyferry_tcp::Config {
        addresses: vec![IpAddr::V4(ADDRESS)],
        ports: vec![PORT],
        mtu: caps.mtu,
        connections,
        half_open: 1024,
        half_open_timeout: Duration::from_secs(600),
        idle_timeout: Duration::from_secs(3600),
        receive_bytes: 4096,
        send_bytes,
        rx_checksum: RxChecksum::Trust,
        tx_checksum_offload: caps.tx_checksum,
        stretch: keyferry_worker::port::stretch(caps),
        seed: 1,
    })
}

/// A server with a P-256 certificate made for the occasion.
fn server(resumes: bool) -> Server {
    let made = rcgen::generate_simple_self_signed(vec!["bench.test".into()]).expect("a certificate");
    let server = Server::new(&ServerOptions {
        certificates: vec![CertificatePem {
            chain: made.cert.pem().into_bytes(),
            key: made.signing_key.serialize_pem().into_bytes().into(),
            source: "bench".into(),
        }],
        tls12: true,
        tls13: true,
        resumption: if resumes {
            Resumption::Shared { sessions: SESSIONS, lifetime: Duration::from_secs(3600) }
        } else {
            Resumption::Off
        },
        suites: None,
        fragment: keyferry_tls::Fragment::MAX,
        key_log: None,
    })
    .expect("a server");
    server.warm_up();
    server
}

/// Sends a frame from the clients' end.
pub fn inject(wire: &mut Queue, frame: &[u8]) {
    let mut packet = wire.alloc().expect("the clients' pool has room");
    packet.set_len(frame.len());
    packet.bytes_mut().copy_from_slice(frame);
    let mut packets = arrayvec::ArrayVec::from_iter([packet]);
    assert_eq!(wire.tx_burst(&mut packets), 1, "the clients' ring has room");
}
