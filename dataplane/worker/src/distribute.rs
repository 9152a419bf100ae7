//! A distributor's turn: packets in, a verdict for each, packets out to nodes in the buffers they came in.
//!
//! In: frames for the services' addresses, and news of nodes. Out: the same frames with a node's MAC address, resets in the
//! place of nodes that are gone, and what a station says of itself (ARP, neighbour discovery, echo). Nodes answer clients
//! themselves. One worker a distributor: all connections of a client have to meet in one client table.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{Distributor, Midst, NodeId, RESET_BYTES_MAX, Reset, State, Verdict};
use keyferry_link::{Ingress, Link};
use keyferry_nic::{BURST, Checksum, Nic, Packet, prefetch};
use keyferry_time::Time;

use crate::counters::Counters;
use crate::hops::Hops;
use crate::port::Port;
use crate::run::Turning;

/// News waiting for a distributor at most; a node announces each session once.
pub const NEWS_MAX: usize = 4096;
/// News taken in one turn.
const NEWS_A_TURN: usize = 64;

/// What the control thread tells a distributor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum News {
    /// A node fares otherwise.
    State(NodeId, State),
    /// A node holds a session of a client, for so long.
    Session {
        /// Whose.
        client: IpAddr,
        /// Which node.
        node: NodeId,
        /// How long it can be resumed.
        lifetime: Duration,
    },
}

/// A distributor on a queue of a port.
pub struct Distribute<N: Nic> {
    port: Port<N>,
    distributor: Distributor,
    nodes: Hops,
    news: Arc<ArrayQueue<News>>,
    packets: ArrayVec<N::Packet, BURST>,
    turns: u64,
    turns_idle: u64,
    busy_ns: u64,
    was_busy: bool,
}

/// What a distributor counts of its port, besides what becomes of each packet.
const PORT_NAMES: &[&str] = &[
    "rx_packets",
    "rx_link",
    "tx_packets",
    "solicits",
    "neighbors_lost",
    "drop_link",
    "drop_checksum",
    "drop_missed",
    "drop_missed_no_buffer",
    "drop_no_buffer",
    "drop_outgoing_full",
    "drop_no_route",
    "drop_parked_full",
    "drop_parked_late",
    "drop_tx_full",
    "drop_tx_error",
    "parked",
    "packets_in_use",
];

/// Gauges of its tables, and of its turns.
const OWN_NAMES: &[&str] =
    &["flows", "flows_max", "clients", "clients_max", "turns", "turns_idle", "busy_ns"];

/// Names of everything a distributor publishes, in the order of its values.
pub fn names() -> &'static [&'static str] {
    static NAMES: OnceLock<Vec<&'static str>> = OnceLock::new();
    NAMES.get_or_init(|| {
        let link = keyferry_link::DropReason::ALL.iter();
        // Leaked once a process: they are as static as the enum they come from.
        let link = link.map(|reason| &*format!("drop_link_{}", reason.name()).leak());
        let own = [keyferry_distribute::Counters::NAMES, PORT_NAMES, OWN_NAMES].concat();
        own.into_iter().chain(link).collect()
    })
}

impl<N: Nic> Distribute<N> {
    /// A distributor that has not turned yet; `nodes`: where each is, an address on a network of the port.
    pub fn new(
        nic: N,
        link: Link<N::Packet>,
        distributor: Distributor,
        nodes: Vec<IpAddr>,
        news: Arc<ArrayQueue<News>>,
    ) -> Distribute<N> {
        let port = Port::new(nic, link);
        Distribute {
            port,
            distributor,
            nodes: Hops::new(nodes),
            news,
            packets: ArrayVec::new(),
            turns: 0,
            turns_idle: 0,
            busy_ns: 0,
            was_busy: false,
        }
    }

    /// What it decides by, and its counters.
    pub fn distributor(&self) -> &Distributor {
        &self.distributor
    }

    /// Its side of the port.
    pub fn port(&self) -> &Port<N> {
        &self.port
    }

    fn read_news(&mut self, now: Time) -> bool {
        for taken in 0..NEWS_A_TURN {
            match self.news.pop() {
                Some(News::State(node, state)) => self.distributor.set_state(node, state),
                Some(News::Session { client, node, lifetime }) => {
                    self.distributor.announce(now, client, node, lifetime);
                }
                None => return taken > 0,
            }
        }
        true
    }

    /// Reads a burst before any of it is routed, so that it waits for the tables' memory once.
    fn read(&self, packets: &[N::Packet]) -> [Option<Midst>; BURST] {
        let mut burst = [None; BURST];
        for (packet, midst) in packets.iter().zip(&mut burst) {
            let frame = packet.bytes();
            *midst = self.port.link.ip_at(frame).and_then(|at| self.distributor.read(&frame[at..], prefetch));
        }
        for midst in burst[..packets.len()].iter_mut().flatten() {
            self.distributor.spot(midst, prefetch);
        }
        burst
    }

    fn take(&mut self, now: Time, mut packet: N::Packet, midst: Option<&Midst>) {
        if packet.rx().checksum == Checksum::Bad {
            self.port.counters.drop_checksum += 1;
            return;
        }
        if let Some(node) = midst.and_then(|midst| self.distributor.route_midst(now, midst)) {
            return self.forward(now, packet, node);
        }
        let verdict = match self.port.link.ip_at(packet.bytes()) {
            Some(at) => self.distributor.route(now, &packet.bytes()[at..]),
            None => Verdict::Other,
        };
        match verdict {
            Verdict::Forward(node) => self.forward(now, packet, node),
            Verdict::Reset(reset) => send(&mut self.port, &reset),
            // The distributor has counted it.
            Verdict::Drop(_) => {}
            Verdict::Other => match self.port.link.ingest(now, packet.bytes_mut()) {
                Ingress::Reply { len } => {
                    self.port.counters.rx_link += 1;
                    packet.set_len(len);
                    self.port.transmit(packet);
                }
                Ingress::Consumed => self.port.counters.rx_link += 1,
                // TCP that is not for a service has been dropped above, but for frames with a priority tag.
                Ingress::Ip { .. } => self.port.counters.drop_link += 1,
                Ingress::Drop(reason) => {
                    self.port.counters.drop_link += 1;
                    self.port.link_drops[reason.index()] += 1;
                }
            },
        }
    }

    /// Hands a packet on in the frame it came in.
    #[inline]
    fn forward(&mut self, now: Time, mut packet: N::Packet, node: NodeId) {
        match self.nodes.mac(now, node, &mut self.port.link) {
            Some(mac) => {
                self.port.link.readdress(packet.bytes_mut(), mac);
                self.port.transmit(packet);
            }
            None => self.port.route_by(packet, self.nodes.address(node)),
        }
    }
}

impl<N: Nic> Turning for Distribute<N> {
    fn turn(&mut self, now: Time) -> bool {
        if self.was_busy {
            // With what its core did for the kernel meanwhile: the clock is read once a turn.
            self.busy_ns += (now - self.port.now).as_nanos() as u64;
        }
        self.turns += 1;
        self.port.now = now;
        let mut busy = self.read_news(now);
        let mut packets = std::mem::take(&mut self.packets);
        let received = self.port.nic.rx_burst(&mut packets);
        self.port.counters.rx_packets += received as u64;
        let burst = self.read(&packets);
        for (packet, midst) in packets.drain(..).zip(&burst) {
            self.take(now, packet, midst.as_ref());
        }
        self.packets = packets;
        let port = &mut self.port;
        busy |= self.distributor.sweep(|reset| send(port, &reset));
        self.port.link_turn();
        busy |= self.port.flush() > 0 || received > 0;
        self.turns_idle += u64::from(!busy);
        self.was_busy = busy;
        busy
    }

    fn poll_at(&self) -> Option<Time> {
        self.port.link.poll_at()
    }

    fn publish(&self, out: &mut Vec<u64>) {
        out.clear();
        out.extend(self.distributor.counters().values());
        let mut all = Counters::default();
        self.port.count(&mut all);
        let values = all.values();
        let of = |name: &&str| Counters::NAMES.iter().position(|it| it == name).map_or(0, |at| values[at]);
        out.extend(PORT_NAMES.iter().map(of));
        let ((flows, flows_max), (clients, clients_max)) =
            (self.distributor.flows(), self.distributor.clients());
        out.extend([flows, flows_max, clients, clients_max].map(|count| count as u64));
        out.extend([self.turns, self.turns_idle, self.busy_ns]);
        out.extend(self.port.link_drops);
    }
}

/// Sends a reset to its client; without a buffer it is not told, and asks again.
fn send<N: Nic>(port: &mut Port<N>, reset: &Reset) {
    let Some(mut packet) = port.nic.alloc() else {
        port.counters.drop_no_buffer += 1;
        return;
    };
    let (l2, mut bytes) = (port.link.header_bytes(), [0; RESET_BYTES_MAX]);
    let len = reset.write(&mut bytes);
    packet.set_len(l2 + len);
    packet.bytes_mut()[l2..].copy_from_slice(&bytes[..len]);
    port.route(packet);
}
