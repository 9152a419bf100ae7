//! The tables of a distributor, and what becomes of each packet.
//!
//! In: IP packets, news of nodes, `now`. Out: verdicts. One a worker; nothing is shared. A flow that is known stays with
//! its node for as long as that node lives, whatever else changes.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use keyferry_time::Time;
use siphasher::sip::SipHasher13;

use crate::counters::Counters;
use crate::packet::{Flow, FragmentId, Packet, Segment};
use crate::pool::{Node, Pool, State};
use crate::reset::Reset;
use crate::ways::{OVER, Ways};
use crate::{Model, NodeId};

/// Datagrams whose fragments are awaited at once.
const FRAGMENTS: usize = 4096;
/// Longest wait for a datagram's other fragments (RFC 8200 4.5 allows more; a segment is sent again sooner).
const FRAGMENT_TIME: Duration = Duration::from_secs(5);
/// A client that does not go on with its handshake: half as long as Linux' servers wait.
const OPENING_TIME: Duration = Duration::from_secs(30);
/// Silence after a FIN or a reset.
const CLOSING_TIME: Duration = Duration::from_secs(60);
/// Buckets of the flow table looked at in one step of a sweep.
const SWEEP_BUCKETS: usize = 64;

/// Sizes and times.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Connections known at once, at least.
    pub flows: usize,
    /// Clients known at once, at least.
    pub clients: usize,
    /// Silence after which an open connection is forgotten; at least what nodes allow.
    pub idle_time: Duration,
    /// How long a client is sent back to its node, unless the node says otherwise.
    pub client_time: Duration,
    /// Key of the tables' hashes.
    pub seed: u64,
    /// Key of the places flows have when nothing is remembered: the same at all distributors.
    pub places_seed: u64,
}

/// An address clients come to.
#[derive(Clone, Debug)]
pub struct Service {
    /// Address and port.
    pub address: SocketAddr,
    /// How they are spread.
    pub model: Model,
    /// Over whom.
    pub nodes: Vec<NodeId>,
}

/// Why a packet goes nowhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DropReason {
    /// It is no packet.
    Malformed,
    /// For no service.
    NoService,
    /// No node takes connections.
    NoNode,
    /// A reset of nothing.
    Stray,
    /// A fragment whose first one has not come.
    Fragment,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// This node gets it.
    Forward(NodeId),
    /// Its node is gone: the client is told.
    Reset(Reset),
    /// Nobody gets it.
    Drop(DropReason),
    /// It is not for a service: echo, neighbours, another protocol.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct FlowKey {
    pub(crate) client: [u8; 16],
    pub(crate) port: u16,
    pub(crate) service: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    /// A SYN, and nothing behind it: what a flood is made of.
    Opening,
    /// A FIN or a reset.
    Closing,
    Open,
}

/// A moment, in 2^24 ns: coarse, so that it is small. It wraps after two years.
type Tick = u32;

fn tick(now: Time) -> Tick {
    (now.0 >> 24) as Tick
}

fn ticks(time: Duration) -> Tick {
    Tick::try_from(time.as_nanos() >> 24).unwrap_or(Tick::MAX / 2).min(Tick::MAX / 2)
}

#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) node: NodeId,
    /// In which of the node's lives it began.
    pub(crate) life: u8,
    stage: Stage,
    seen: Tick,
    /// The client has got all before this.
    acknowledged: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct ClientKey {
    client: [u8; 16],
    service: u16,
}

#[derive(Clone, Copy)]
struct Client {
    node: NodeId,
    until: Tick,
    /// The node has said so, and so it has shaken hands.
    has_session: bool,
}

#[derive(Clone, Copy)]
struct Pieces {
    node: NodeId,
    seen: Tick,
}

/// A distributor.
pub struct Distributor {
    config: Config,
    pub(crate) services: Vec<(SocketAddr, Pool)>,
    nodes: Vec<Node>,
    /// How often each node has gone: what began before is lost, even when it is back.
    pub(crate) lives: Vec<u8>,
    pub(crate) flows: Ways<FlowKey, Known>,
    clients: Ways<ClientKey, Client>,
    fragments: Ways<FragmentId, Pieces>,
    pub(crate) counters: Counters,
    /// Where a sweep for connections of nodes that are gone stands.
    sweep: Option<usize>,
}

impl Distributor {
    /// One that knows nobody yet; nodes are as their state says.
    ///
    /// # Panics
    /// If a service names a node that is not there: a mistake of the caller.
    pub fn new(config: Config, services: Vec<Service>, nodes: Vec<Node>) -> Distributor {
        let services = services
            .into_iter()
            .map(|service| (service.address, Pool::new(service.model, service.nodes, &nodes)))
            .collect();
        Distributor {
            services,
            lives: vec![0; nodes.len()],
            nodes,
            flows: Ways::new(config.flows),
            clients: Ways::new(config.clients),
            fragments: Ways::new(FRAGMENTS),
            counters: Counters::default(),
            sweep: None,
            config,
        }
    }

    /// Counts since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections known, those that are over included, and room for them.
    pub fn flows(&self) -> (usize, usize) {
        (self.flows.used(), self.flows.capacity())
    }

    /// Clients known, and room for them.
    pub fn clients(&self) -> (usize, usize) {
        (self.clients.used(), self.clients.capacity())
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
    }

    /// A node fares otherwise. Connections of one that is gone, even if it is back, are reset by
    /// [`sweep`](Distributor::sweep), and when their clients send something.
    pub fn set_state(&mut self, id: NodeId, state: State) {
        let before = std::mem::replace(&mut self.nodes[id.index()].state, state);
        if before == state {
            return;
        }
        for (_, pool) in self.services.iter_mut().filter(|(_, pool)| pool.has(id)) {
            pool.settle(&self.nodes);
        }
        if state == State::Down {
            self.lives[id.index()] = self.lives[id.index()].wrapping_add(1);
            self.sweep = Some(0);
        }
    }

    /// A node says that it holds a session of a client: for so long the client is sent to it.
    pub fn announce(&mut self, now: Time, client: IpAddr, node: NodeId, time: Duration) {
        let until = tick(now).wrapping_add(ticks(time));
        self.counters.announced += 1;
        for service in 0..self.services.len() {
            let (_, pool) = &self.services[service];
            if pool.model.knows_clients() && pool.has(node) {
                self.remember(now, client, service, Client { node, until, has_session: true });
            }
        }
    }

    /// What becomes of a packet.
    pub fn route(&mut self, now: Time, packet: &[u8]) -> Verdict {
        let verdict = match Packet::parse(packet) {
            Err(_) => Verdict::Drop(DropReason::Malformed),
            Ok(Packet::Other) => Verdict::Other,
            Ok(Packet::Segment(segment)) => self.segment(now, &segment),
            Ok(Packet::Fragment(id)) => self.fragment(now, id),
            Ok(Packet::Error(flow)) => self.error(flow),
        };
        self.count(verdict);
        verdict
    }

    fn count(&mut self, verdict: Verdict) {
        let counters = &mut self.counters;
        *match verdict {
            Verdict::Forward(_) => &mut counters.forwarded,
            Verdict::Reset(_) => &mut counters.resets,
            Verdict::Drop(DropReason::Malformed) => &mut counters.drop_malformed,
            Verdict::Drop(DropReason::NoService) => &mut counters.drop_no_service,
            Verdict::Drop(DropReason::NoNode) => &mut counters.drop_no_node,
            Verdict::Drop(DropReason::Stray) => &mut counters.drop_stray,
            Verdict::Drop(DropReason::Fragment) => &mut counters.drop_fragment,
            Verdict::Other => return,
        } += 1;
    }

    /// Tells clients of nodes that are gone, some at a time; answers whether there may be more.
    pub fn sweep(&mut self, mut out: impl FnMut(Reset)) -> bool {
        let Some(from) = self.sweep else { return false };
        let (lives, services, counters) = (&self.lives, &self.services, &mut self.counters);
        self.sweep = self.flows.sweep(from, SWEEP_BUCKETS, |key, known| {
            if lives[known.node.index()] == known.life {
                return true;
            }
            if known.stage == Stage::Open {
                let service = services[usize::from(key.service)].0;
                counters.resets += 1;
                out(Reset::unasked(key.flow(service), known.acknowledged));
            }
            false
        });
        self.sweep.is_some()
    }

    fn service(&self, address: SocketAddr) -> Option<usize> {
        self.services.iter().position(|(it, _)| *it == address)
    }

    fn segment(&mut self, now: Time, segment: &Segment) -> Verdict {
        let Some(service) = self.service(segment.flow.service) else {
            return Verdict::Drop(DropReason::NoService);
        };
        let key = FlowKey::of(&segment.flow, service);
        let hash = self.hash(&key);
        let verdict = match self.flows.find(hash, &key) {
            // A client may use a port again; before it has closed, the node has to judge.
            Some(known) if !(segment.is_open_request() && known.stage == Stage::Closing) => {
                let node = known.node;
                if self.lives[node.index()] == known.life {
                    known.hear(now, segment);
                    Verdict::Forward(node)
                } else {
                    self.orphan(now, segment, hash, key)
                }
            }
            _ if segment.is_open_request() => self.begin(now, segment, hash, key),
            _ if segment.rst => Verdict::Drop(DropReason::Stray),
            _ => self.unknown(service, &key),
        };
        if let (Verdict::Forward(node), Some(id)) = (verdict, segment.fragment) {
            self.keep_pieces(now, id, node);
        }
        verdict
    }

    /// A connection whose node is gone: its client is told, or begins anew.
    fn orphan(&mut self, now: Time, segment: &Segment, hash: u64, key: FlowKey) -> Verdict {
        self.flows.remove(hash, &key);
        if segment.is_open_request() {
            return self.begin(now, segment, hash, key);
        }
        Reset::answer(segment).map_or(Verdict::Drop(DropReason::Stray), Verdict::Reset)
    }

    /// A new connection.
    fn begin(&mut self, now: Time, segment: &Segment, hash: u64, key: FlowKey) -> Verdict {
        let service = usize::from(key.service);
        let client = segment.flow.client.ip();
        let Some(node) = self.choose(now, client, service, &key) else {
            return Verdict::Drop(DropReason::NoNode);
        };
        let life = self.lives[node.index()];
        let known = Known { node, life, stage: Stage::Opening, seen: tick(now), acknowledged: 0 };
        let times = self.times();
        let lost = self.flows.put(hash, key, known, |known| known.matters(tick(now), times));
        self.counters.flows_lost += u64::from(lost.is_some_and(|(_, known)| known.stage == Stage::Open));
        Verdict::Forward(node)
    }

    fn choose(&mut self, now: Time, client: IpAddr, service: usize, key: &FlowKey) -> Option<NodeId> {
        let knows_clients = self.services[service].1.model.knows_clients();
        if knows_clients && let Some(node) = self.node_of(now, client, service) {
            self.counters.by_client += 1;
            return Some(node);
        }
        let place = self.place(key);
        let (_, pool) = &mut self.services[service];
        // Of a connection that may be forgotten soon the place is what can be found again.
        let is_crowded = self.flows.used() >= self.flows.capacity();
        let node = if is_crowded { pool.by_place(place) } else { pool.in_turn(&self.nodes) }?;
        *(if is_crowded { &mut self.counters.by_place } else { &mut self.counters.in_turn }) += 1;
        if knows_clients {
            let until = tick(now).wrapping_add(ticks(self.config.client_time));
            self.remember(now, client, service, Client { node, until, has_session: false });
        }
        Some(node)
    }

    /// The node a client was at, if it takes connections.
    fn node_of(&mut self, now: Time, client: IpAddr, service: usize) -> Option<NodeId> {
        let key = ClientKey { client: bytes(client), service: service as u16 };
        let hash = self.hash_client(&key);
        let client = self.clients.find(hash, &key)?;
        let is_fresh = !is_past(client.until, tick(now));
        (is_fresh && self.nodes[client.node.index()].state == State::Up).then_some(client.node)
    }

    fn remember(&mut self, now: Time, client: IpAddr, service: usize, entry: Client) {
        let key = ClientKey { client: bytes(client), service: service as u16 };
        let hash = self.hash_client(&key);
        let lost = self.clients.put(hash, key, entry, |client| client.matters(tick(now)));
        self.counters.clients_lost += u64::from(lost.is_some_and(|(_, client)| client.has_session));
    }

    /// A segment of a connection that is not known: forgotten, or of before this distributor was there.
    fn unknown(&mut self, service: usize, key: &FlowKey) -> Verdict {
        let node = self.services[service].1.by_place(self.place(key));
        self.counters.unknown += u64::from(node.is_some());
        node.map_or(Verdict::Drop(DropReason::NoNode), Verdict::Forward)
    }

    fn fragment(&mut self, now: Time, id: FragmentId) -> Verdict {
        let hash = self.hash_fragment(&id);
        match self.fragments.find(hash, &id) {
            Some(pieces) if tick(now).wrapping_sub(pieces.seen) <= ticks(FRAGMENT_TIME) => {
                Verdict::Forward(pieces.node)
            }
            _ => Verdict::Drop(DropReason::Fragment),
        }
    }

    fn keep_pieces(&mut self, now: Time, id: FragmentId, node: NodeId) {
        let hash = self.hash_fragment(&id);
        let seen = tick(now);
        // The oldest goes first.
        let matters = |pieces: &Pieces| u64::from(Tick::MAX - seen.wrapping_sub(pieces.seen));
        self.fragments.put(hash, id, Pieces { node, seen }, matters);
    }

    /// What the network says of a packet that a node sent.
    fn error(&mut self, flow: Flow) -> Verdict {
        let Some(service) = self.service(flow.service) else {
            return Verdict::Drop(DropReason::NoService);
        };
        let key = FlowKey::of(&flow, service);
        let hash = self.hash(&key);
        match self.flows.find(hash, &key).copied() {
            Some(known) if self.lives[known.node.index()] == known.life => Verdict::Forward(known.node),
            Some(_) => Verdict::Drop(DropReason::Stray),
            None => self.unknown(service, &key),
        }
    }

    fn times(&self) -> [Tick; 3] {
        [ticks(OPENING_TIME), ticks(CLOSING_TIME), ticks(self.config.idle_time)]
    }

    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(self.config.seed)
    }

    fn place(&self, key: &FlowKey) -> u64 {
        key.hash(self.config.places_seed)
    }

    fn hash_client(&self, key: &ClientKey) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.config.seed, 1);
        hasher.write(&key.client);
        hasher.write_u16(key.service);
        hasher.finish()
    }

    fn hash_fragment(&self, id: &FragmentId) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.config.seed, 2);
        hasher.write(&bytes(id.source));
        hasher.write(&bytes(id.destination));
        hasher.write_u32(id.ident);
        hasher.finish()
    }
}

impl FlowKey {
    fn of(flow: &Flow, service: usize) -> FlowKey {
        FlowKey { client: bytes(flow.client.ip()), port: flow.client.port(), service: service as u16 }
    }

    fn flow(&self, service: SocketAddr) -> Flow {
        let client = std::net::Ipv6Addr::from(self.client).to_canonical();
        Flow { client: SocketAddr::new(client, self.port), service }
    }

    fn hash(&self, seed: u64) -> u64 {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.client);
        bytes[16..].copy_from_slice(&(u32::from(self.port) << 16 | u32::from(self.service)).to_le_bytes());
        SipHasher13::new_with_keys(seed, 0).hash(&bytes)
    }
}

/// Either kind of address; one of IPv4 as IPv6 maps it (RFC 4291 2.5.5.2).
fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// Whether a moment has passed.
fn is_past(until: Tick, now: Tick) -> bool {
    now.wrapping_sub(until) < Tick::MAX / 2
}

impl Known {
    /// Takes note of a segment.
    fn hear(&mut self, now: Time, segment: &Segment) {
        if segment.ack && !segment.fin && !segment.rst {
            return self.hear_ack(now, segment.acknowledges);
        }
        self.seen = tick(now);
        if segment.ack {
            self.acknowledged = segment.acknowledges;
        }
        if segment.fin || segment.rst {
            self.stage = Stage::Closing;
        }
    }

    /// Takes note of a segment in the midst of a connection.
    pub(crate) fn hear_ack(&mut self, now: Time, acknowledges: u32) {
        (self.seen, self.acknowledged) = (tick(now), acknowledges);
        if self.stage == Stage::Opening {
            self.stage = Stage::Open;
        }
    }

    /// Open ones matter most, half-open ones least, and those heard of lately more than others.
    fn matters(&self, now: Tick, times: [Tick; 3]) -> u64 {
        let silence = now.wrapping_sub(self.seen);
        if silence > times[self.stage as usize] {
            return OVER;
        }
        (self.stage as u64 + 1) << 32 | u64::from(Tick::MAX - silence)
    }
}

impl Client {
    /// Those with a session matter more, and those remembered for longer.
    fn matters(&self, now: Tick) -> u64 {
        if is_past(self.until, now) {
            return OVER;
        }
        (u64::from(self.has_session) + 1) << 32 | u64::from(self.until.wrapping_sub(now))
    }
}
