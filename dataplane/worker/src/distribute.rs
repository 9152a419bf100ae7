//! A distributor's turn: packets in, a verdict for each, packets out to nodes in the buffers they came in.
//!
//! In: frames for the services' addresses, and news of nodes. Out: the same frames with a node's MAC address, resets in the
//! place of nodes that are gone, what distributors tell each other, and what a station says of itself (ARP, neighbour
//! discovery, echo). Nodes answer clients themselves. One worker a distributor: all connections of a client have to meet in
//! one client table.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{
    Distributor, Ends, HOLDS_MAX, HoldId, Midst, Model, Node, NodeId, PACKET_BYTES_MAX, PeerId, Places,
    RESET_BYTES_MAX, Reset, Secrets, Services, Spot, State, Verdict,
};
use keyferry_link::{Ingress, Link, readdress};
use keyferry_nic::{BURST, Nic, Packet, prefetch};
use keyferry_time::Time;

use crate::capture::Tap;
use crate::counters::Counters;
use crate::hops::Hops;
use crate::lag::Lag;
use crate::port::Port;
use crate::run::Turning;
use crate::told::Told;

/// News waiting for a distributor at most; a node announces each session once.
pub const NEWS_MAX: usize = 4096;
/// News taken in one turn.
const NEWS_A_TURN: usize = 64;

/// What the control thread tells a distributor.
pub enum News {
    /// A node comes.
    Join(Box<Join>),
    /// A node is none any more; [`Distribute::vacated`] says when another one may have its place.
    Leave(NodeId),
    /// A node is somewhere else from here on.
    Address(NodeId, IpAddr),
    /// Where flows go that nobody remembers. Who sends them keeps them until others are taken: memory is not freed in a turn.
    Places(Arc<Places>),
    /// A service spreads clients otherwise from here on; who has a flow keeps it.
    Model {
        /// Its place among the services.
        service: usize,
        /// How.
        model: Model,
    },
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
    /// Another distributor has been met.
    Met {
        /// Which.
        peer: PeerId,
        /// Where the two reach each other.
        ends: Ends,
        /// What seals their datagrams.
        secrets: Secrets,
    },
    /// Another distributor is gone.
    Parted(PeerId),
    /// Show packets to an operator, or to nobody any more.
    Capture(Option<Box<Tap>>),
}

/// A node that comes.
#[derive(PartialEq, Eq, Debug)]
pub struct Join {
    /// Its place, which is free.
    pub id: NodeId,
    /// What it is called, and how it fares.
    pub node: Node,
    /// Where it is: an address on a network of the port.
    pub address: IpAddr,
    /// What it serves.
    pub services: Services,
}

/// A distributor on a queue of a port.
pub struct Distribute<N: Nic> {
    port: Port<N>,
    distributor: Distributor,
    nodes: Hops,
    news: Arc<ArrayQueue<News>>,
    /// Places of nodes that are free again; with room for all.
    vacated: Arc<ArrayQueue<NodeId>>,
    told: Arc<Told>,
    /// Of the burst under way; boxed, so that a turn takes it out and puts it back as one pointer.
    burst: Option<Box<Burst<N::Packet>>>,
    /// Packets that wait for other distributors' answers, each at its place.
    held: Box<[Option<N::Packet>]>,
    lag: Lag,
    /// More comes than can be handed on: what matters least is dropped.
    is_behind: bool,
    turns: u64,
    turns_idle: u64,
    busy_ns: u64,
    was_busy: bool,
}

/// Packets after which the memory they are looked for in is asked for. Each of those has an address to be translated that
/// the core does not remember: with little between them such translations overlap, and packet by packet they do not.
const AHEAD: usize = 8;

/// Packets of one turn, and what was read of them before any was routed.
struct Burst<P> {
    packets: ArrayVec<P, BURST>,
    /// Which of them are common ones, by their places as bits.
    common: Bits,
    /// Of each common one, in their order: what it is, and where its connection seems to be.
    read: [Midst; BURST],
    spots: [Spot; BURST],
}

type Bits = u32;
const _: () = assert!(BURST <= Bits::BITS as usize);

/// What a distributor counts of its port, besides what becomes of each packet.
const PORT_NAMES: &[&str] = &[
    "rx_packets",
    "rx_link",
    "tx_packets",
    "captured",
    "capture_missed",
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

/// Gauges of its tables that no node has, and what they say.
pub const GAUGES: &[(&str, &str)] = &[
    ("flows_max", "Connections a distributor has room for."),
    ("clients", "Clients a distributor knows the node of."),
    ("clients_max", "Clients a distributor has room for."),
    ("peers", "Other distributors that are linked to this one."),
    ("peers_copied", "Of them, those that have told all the connections they knew."),
    ("held_now", "Packets held until other distributors answer."),
];

/// Gauges of its tables, and of its turns.
const OWN_NAMES: &[&str] = &[
    "flows",
    "flows_max",
    "clients",
    "clients_max",
    "peers",
    "peers_copied",
    "held_now",
    "turns",
    "turns_idle",
    "busy_ns",
];

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
        mut nodes: Vec<IpAddr>,
        news: Arc<ArrayQueue<News>>,
    ) -> Distribute<N> {
        let room = distributor.room();
        nodes.resize(room, IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let vacated = Arc::new(ArrayQueue::new(room.max(1)));
        let port = Port::new(nic, link);
        Distribute {
            port,
            distributor,
            nodes: Hops::new(nodes),
            news,
            vacated,
            told: Arc::default(),
            burst: Some(Box::new(Burst {
                packets: ArrayVec::new(),
                common: 0,
                read: [Midst::default(); BURST],
                spots: [Spot::default(); BURST],
            })),
            held: (0..HOLDS_MAX).map(|_| None).collect(),
            lag: Lag::new(),
            is_behind: false,
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

    /// Where it says which places are free again, for the control thread.
    pub fn vacated(&self) -> Arc<ArrayQueue<NodeId>> {
        Arc::clone(&self.vacated)
    }

    /// Where it says how far others have told what they knew, for the control thread.
    pub fn told(&self) -> Arc<Told> {
        Arc::clone(&self.told)
    }

    fn read_news(&mut self, now: Time) -> bool {
        for taken in 0..NEWS_A_TURN {
            match self.news.pop() {
                Some(News::Join(join)) => {
                    self.nodes.set(join.id, join.address);
                    self.distributor.join(join.id, join.node, join.services);
                }
                Some(News::Leave(node)) => self.distributor.leave(node),
                Some(News::Address(node, address)) => self.nodes.set(node, address),
                Some(News::Places(places)) => self.distributor.set_places(places),
                Some(News::Model { service, model }) => self.distributor.set_model(service, model),
                Some(News::State(node, state)) => self.distributor.set_state(node, state),
                Some(News::Session { client, node, lifetime }) => {
                    self.distributor.announce(now, client, node, lifetime);
                }
                Some(News::Met { peer, ends, secrets }) => self.distributor.add_peer(peer, ends, secrets),
                Some(News::Parted(peer)) => self.distributor.remove_peer(now, peer),
                Some(News::Capture(tap)) => self.port.capture(tap),
                None => return taken > 0,
            }
        }
        true
    }

    /// Reads a burst before any of it is routed, so that it waits for the tables' memory once.
    #[inline]
    fn read(&self, burst: &mut Burst<N::Packet>) {
        let (mut common, mut place, mut count) = (0, 1, 0);
        for packets in burst.packets.chunks(AHEAD) {
            let before = count;
            for packet in packets {
                let frame = packet.bytes();
                let ip = self.port.link.ip_at(frame).filter(|_| !packet.is_bad());
                if let Some(midst) = ip.and_then(|ip| self.distributor.read(&frame[ip..])) {
                    burst.read[count % BURST] = midst;
                    (common, count) = (common | place, count + 1);
                }
                place <<= 1;
            }
            let read = &burst.read[before..count];
            read.iter().for_each(|midst| prefetch(self.distributor.tags(midst)));
        }
        burst.common = common;
        for (midst, spot) in burst.read[..count].iter().zip(&mut burst.spots) {
            *spot = self.distributor.spot(midst);
            prefetch(self.distributor.entry(*spot));
        }
    }

    /// Routes what was read.
    #[inline]
    fn route(&mut self, now: Time, burst: &mut Burst<N::Packet>) {
        let (mut common, mut spotted) = (burst.common, burst.read.iter().zip(&burst.spots));
        for packet in burst.packets.drain(..) {
            let known = if common & 1 == 1 { spotted.next() } else { None };
            common >>= 1;
            match known.and_then(|(midst, spot)| self.distributor.route_midst(now, midst, *spot)) {
                Some(node) => self.forward(now, packet, node),
                None => self.take(now, packet),
            }
        }
    }

    /// A packet that is not the common one.
    #[inline(never)]
    fn take(&mut self, now: Time, mut packet: N::Packet) {
        if packet.is_bad() {
            self.port.counters.drop_checksum += 1;
            return;
        }
        let Some(ip) = self.port.link.ip_at(packet.bytes()) else { return self.take_own(now, packet) };
        if self.is_behind && self.distributor.sheds(now, &packet.bytes()[ip..]) {
            // The distributor has counted it.
            return;
        }
        match self.distributor.route(now, &packet.bytes()[ip..]) {
            Verdict::Hold(id) => self.held[id.index()] = Some(packet),
            Verdict::Datagram { at, len } => {
                let from = ip + at;
                self.distributor.hear(now, &mut packet.bytes_mut()[from..from + len]);
            }
            Verdict::Other => self.take_own(now, packet),
            verdict => self.carry_out(now, verdict, packet),
        }
    }

    /// A packet goes where the distributor says.
    #[inline(never)]
    fn carry_out(&mut self, now: Time, verdict: Verdict, packet: N::Packet) {
        match verdict {
            Verdict::Forward(node) => self.forward(now, packet, node),
            Verdict::Reset(reset) => send(&mut self.port, &reset),
            // The distributor has counted it; the others are no verdict on a packet that was held.
            Verdict::Drop(_) | Verdict::Hold(_) | Verdict::Datagram { .. } | Verdict::Other => {}
        }
    }

    /// A frame for the station itself, or for nobody.
    fn take_own(&mut self, now: Time, mut packet: N::Packet) {
        match self.port.link.ingest(now, packet.bytes_mut()) {
            Ingress::Reply { len } => {
                self.port.counters.rx_link += 1;
                packet.set_len(len);
                self.port.transmit(packet);
            }
            // The distributor sends nothing large; what is for a node went on to it above.
            Ingress::TooBig { .. } | Ingress::Consumed => self.port.counters.rx_link += 1,
            // TCP that is not for a service has been dropped above, but for frames with a priority tag.
            Ingress::Ip { .. } => self.port.counters.drop_link += 1,
            Ingress::Drop(reason) => {
                self.port.counters.drop_link += 1;
                self.port.link_drops[reason.index()] += 1;
            }
        }
    }

    /// What distributors have to tell each other, and packets that need not wait any more.
    fn keep_together(&mut self, now: Time) -> bool {
        let mut busy = self.distributor.keep_together(now);
        while let Some((id, verdict)) = self.distributor.released() {
            busy = true;
            if let Some(packet) = self.unhold(id) {
                self.carry_out(now, verdict, packet);
            }
        }
        let mut bytes = [0; PACKET_BYTES_MAX];
        while let Some(len) = self.distributor.poll_peers(now, &mut bytes) {
            busy = true;
            send_ip(&mut self.port, &bytes[..len]);
        }
        busy
    }

    fn unhold(&mut self, id: HoldId) -> Option<N::Packet> {
        self.held[id.index()].take()
    }

    /// Hands a packet on in the frame it came in.
    #[inline(always)]
    fn forward(&mut self, now: Time, mut packet: N::Packet, node: NodeId) {
        match self.nodes.stations(now, node, &mut self.port.link) {
            Some(stations) => {
                readdress(packet.bytes_mut(), stations);
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
        let mut burst = self.burst.take().expect("it is put back");
        let received = self.port.receive(&mut burst.packets);
        self.is_behind = self.lag.note(received, || self.port.nic.rx_waiting());
        self.read(&mut burst);
        self.route(now, &mut burst);
        self.burst = Some(burst);
        let port = &mut self.port;
        busy |= self.distributor.sweep(|reset| send(port, &reset));
        while let Some(node) = self.distributor.vacated() {
            self.vacated.push(node).expect("there is room for each place once");
        }
        busy |= self.keep_together(now);
        self.port.link_turn();
        busy |= self.port.flush() > 0 || received > 0;
        if !busy {
            self.distributor.age(now);
        }
        self.turns_idle += u64::from(!busy);
        self.was_busy = busy;
        busy
    }

    fn poll_at(&self) -> Option<Time> {
        [self.port.link.poll_at(), self.distributor.poll_at()].into_iter().flatten().min()
    }

    fn publish(&self, out: &mut Vec<u64>) {
        self.told.publish(&self.distributor);
        out.clear();
        out.extend(self.distributor.counters().values());
        let mut all = Counters::default();
        self.port.count(&mut all);
        let values = all.values();
        let of = |name: &&str| Counters::NAMES.iter().position(|it| it == name).map_or(0, |at| values[at]);
        out.extend(PORT_NAMES.iter().map(of));
        let ((flows, flows_max), (clients, clients_max)) =
            (self.distributor.flows(), self.distributor.clients());
        let ((peers, copied), held) = (self.distributor.peers(), self.distributor.held());
        out.extend([flows, flows_max, clients, clients_max, peers, copied, held].map(|count| count as u64));
        out.extend([self.turns, self.turns_idle, self.busy_ns]);
        out.extend(self.port.link_drops);
    }
}

/// Sends a reset to its client; without a buffer it is not told, and asks again.
fn send<N: Nic>(port: &mut Port<N>, reset: &Reset) {
    let mut bytes = [0; RESET_BYTES_MAX];
    let len = reset.write(&mut bytes);
    send_ip(port, &bytes[..len]);
}

/// Sends an IP packet of the distributor's own.
fn send_ip<N: Nic>(port: &mut Port<N>, ip: &[u8]) {
    let Some(mut packet) = port.nic.alloc() else {
        port.counters.drop_no_buffer += 1;
        return;
    };
    let l2 = port.link.header_bytes();
    packet.set_len(l2 + ip.len());
    packet.bytes_mut()[l2..].copy_from_slice(ip);
    port.route(packet);
}
