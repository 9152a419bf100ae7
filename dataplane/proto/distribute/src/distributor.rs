//! The tables of a distributor, and what becomes of each packet.
//!
//! In: IP packets, news of nodes, `now`. Out: verdicts. One a worker; nothing is shared. A flow that is known stays with
//! its node for as long as that node lives, whatever else changes.

mod age;
pub(crate) mod shed;

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use keyferry_time::Time;
use siphasher::sip::SipHasher13;

use crate::counters::Counters;
use crate::doors::Doors;
use crate::flow::{FlowKey, Known, Spread, Tick, Times, bytes, is_past, tick, ticks};
use crate::membership::Membership;
use crate::packet::{Flow, FragmentId, Packet, Segment};
use crate::peers::Peers;
use crate::peers::channel::NOTICES_A_DATAGRAM;
use crate::peers::holds::HoldId;
use crate::peers::notice::{Notice, Stage};
use crate::places::{Places, Plan, Share};
use crate::pool::{Node, Pool, State};
use crate::reset::Reset;
use crate::together::Names;
use crate::ways::{OVER, Ways};
use crate::{Model, NodeId, SERVICES_MAX};

/// Datagrams whose fragments are awaited at once.
const FRAGMENTS: usize = 4096;
/// Longest wait for a datagram's other fragments (RFC 8200 4.5 allows more; a segment is sent again sooner).
const FRAGMENT_TIME: Duration = Duration::from_secs(5);

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

impl Config {
    /// Silence after which connections are forgotten.
    pub(crate) fn times(&self) -> Times {
        Times::new(self.idle_time)
    }
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
    /// A SYN that is sent again while the first one is held.
    Held,
    /// Of a connection that is not known, and another distributor has not said whose it is.
    Unanswered,
}

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// This node gets it.
    Forward(NodeId),
    /// Its node is gone: the client is told.
    Reset(Reset),
    /// It is kept at this place until [`released`](Distributor::released) says what becomes of it.
    Hold(HoldId),
    /// Another distributor may have sent it: its payload, of so many bytes from there on in the packet, is for
    /// [`hear`](Distributor::hear).
    Datagram {
        /// Where it begins.
        at: usize,
        /// Its bytes.
        len: usize,
    },
    /// Nobody gets it.
    Drop(DropReason),
    /// It is not for a service: echo, neighbours, another protocol.
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClientKey {
    client: [u8; 16],
    service: u16,
}

#[derive(Clone, Copy)]
pub(crate) struct Client {
    pub(crate) node: NodeId,
    pub(crate) until: Tick,
    /// The node has said so, and so it has shaken hands.
    pub(crate) has_session: bool,
}

/// Why a new connection goes to its node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    ByClient,
    InTurn,
    ByPlace,
}

#[derive(Clone, Copy)]
pub(crate) struct Pieces {
    pub(crate) node: NodeId,
    seen: Tick,
}

/// A distributor.
pub struct Distributor {
    pub(crate) config: Config,
    pub(crate) services: Vec<(SocketAddr, Pool)>,
    pub(crate) doors: Doors,
    pub(crate) nodes: Vec<Node>,
    pub(crate) names: Names,
    /// How often each node has gone: what began before is lost, even when it is back.
    pub(crate) lives: Vec<u8>,
    pub(crate) flows: Ways<FlowKey, Known>,
    pub(crate) spread: Spread,
    pub(crate) clients: Ways<ClientKey, Client>,
    pub(crate) fragments: Ways<FragmentId, Pieces>,
    pub(crate) peers: Peers,
    /// Notices of one datagram.
    pub(crate) heard: Vec<Notice>,
    pub(crate) counters: Counters,
    /// Whose each flow is of which nothing is remembered.
    pub(crate) places: Arc<Places>,
    /// Who has come and gone, and what of them is still in the tables.
    pub(crate) membership: Membership,
    /// Where the walk over connections that are over stands.
    aged: usize,
}

impl Distributor {
    /// One that knows nobody yet; nodes are as their state says.
    ///
    /// # Panics
    /// If a service names a node that is not there, or there are more than [`SERVICES_MAX`]: mistakes of the caller.
    pub fn new(config: Config, services: Vec<Service>, nodes: Vec<Node>) -> Distributor {
        Distributor::in_memory(config, services, nodes, |_, _| ())
    }

    /// The same; `taken` is told of each table's memory (start, bytes) before anything is in it, to have it in hugepages.
    ///
    /// # Panics
    /// As for [`new`](Distributor::new).
    pub fn in_memory(
        config: Config,
        services: Vec<Service>,
        nodes: Vec<Node>,
        taken: impl Fn(*const u8, usize),
    ) -> Distributor {
        assert!(services.len() <= SERVICES_MAX, "{} services", services.len());
        let share = |(id, node): (u16, &Node)| Share {
            id: NodeId(id),
            name: node.name.clone(),
            weight: node.weight,
            services: (0..services.len()).filter(|it| services[*it].nodes.contains(&NodeId(id))).collect(),
        };
        let up = (0..).zip(&nodes).filter(|(_, node)| node.state == State::Up);
        let plan = Plan { revision: 0, services: services.len(), nodes: up.map(share).collect() };
        Distributor {
            doors: Doors::new(services.iter().map(|service| service.address)),
            names: Names::new(&nodes, services.iter().map(|service| service.address)),
            services: services.into_iter().map(|it| (it.address, Pool::new(it.model, it.nodes))).collect(),
            lives: vec![0; nodes.len()],
            membership: Membership::new(&nodes),
            places: Arc::new(plan.make()),
            nodes,
            peers: Peers::new(),
            heard: Vec::with_capacity(NOTICES_A_DATAGRAM),
            flows: Ways::new(config.flows, &taken),
            spread: Spread::new(config.seed),
            clients: Ways::new(config.clients, &taken),
            fragments: Ways::new(FRAGMENTS, &taken),
            counters: Counters::default(),
            aged: 0,
            config,
        }
    }

    /// Counts since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Connections known, those that are over included, and places for them.
    pub fn flows(&self) -> (usize, usize) {
        (self.flows.used(), self.flows.places())
    }

    /// Clients known, and places for them.
    pub fn clients(&self) -> (usize, usize) {
        (self.clients.used(), self.clients.places())
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.index()]
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
            Ok(Packet::Datagram { at, len }) => Verdict::Datagram { at, len },
        };
        self.count(verdict);
        verdict
    }

    pub(crate) fn count(&mut self, verdict: Verdict) {
        let counters = &mut self.counters;
        *match verdict {
            Verdict::Forward(_) => &mut counters.forwarded,
            Verdict::Reset(_) => &mut counters.resets,
            Verdict::Drop(DropReason::Malformed) => &mut counters.drop_malformed,
            Verdict::Drop(DropReason::NoService) => &mut counters.drop_no_service,
            Verdict::Drop(DropReason::NoNode) => &mut counters.drop_no_node,
            Verdict::Drop(DropReason::Stray) => &mut counters.drop_stray,
            Verdict::Drop(DropReason::Fragment) => &mut counters.drop_fragment,
            Verdict::Drop(DropReason::Held) => &mut counters.drop_held,
            Verdict::Drop(DropReason::Unanswered) => &mut counters.drop_unanswered,
            Verdict::Hold(_) => &mut counters.held,
            Verdict::Datagram { .. } | Verdict::Other => return,
        } += 1;
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
        let times = self.times();
        let is_over = self.flows.find(hash, &key).is_some_and(|known| known.is_over(now, times));
        let asks_again = !segment.is_open_request() && (is_over || self.is_doubtful(hash, &key));
        let verdict = match self.flows.find(hash, &key) {
            Some(_) if asks_again => self.unknown_segment(now, segment, key),
            // A client may use a port again; before it has closed, the node has to judge.
            Some(known) if !(segment.is_open_request() && (is_over || known.may_begin_again())) => {
                if self.lives[known.node().index()] == known.life {
                    let is_opening = known.stage == Stage::Opening && segment.is_open_request();
                    let is_unproven = known.is_to_prove(now);
                    let (mut is_further, mut known) = (known.hear(now, segment), *known);
                    if is_unproven && self.prove(now, hash, &key) {
                        (is_further, known.stage) = (true, Stage::Served);
                    }
                    if is_further {
                        self.tell_of(&key, &known);
                    }
                    match is_opening && self.is_held(&key) {
                        true => Verdict::Drop(DropReason::Held),
                        false => Verdict::Forward(known.node()),
                    }
                } else {
                    self.orphan(now, segment, hash, key)
                }
            }
            _ if segment.is_open_request() => self.begin(now, segment, hash, key),
            _ => self.unknown_segment(now, segment, key),
        };
        if let (Verdict::Forward(node), Some(id)) = (verdict, segment.fragment) {
            self.keep_pieces(now, id, node);
        }
        verdict
    }

    /// A connection whose node is gone: its client is told, or begins anew.
    fn orphan(&mut self, now: Time, segment: &Segment, hash: u64, key: FlowKey) -> Verdict {
        if segment.is_open_request() {
            return self.begin(now, segment, hash, key);
        }
        self.flows.remove(hash, &key);
        Reset::answer(segment).map_or(Verdict::Drop(DropReason::Stray), Verdict::Reset)
    }

    /// A new connection.
    fn begin(&mut self, now: Time, segment: &Segment, hash: u64, key: FlowKey) -> Verdict {
        let service = usize::from(key.service);
        let client = segment.flow.client.ip();
        let place = self.by_place(service, &key);
        let Some((mut node, mut choice)) = self.choose(now, client, service, place) else {
            return Verdict::Drop(DropReason::NoNode);
        };
        // Where others would look for it anyway, nobody needs to know; unless they remember one before it elsewhere.
        let was_elsewhere = self.flows.find(hash, &key).is_some_and(|before| before.node() != node);
        let mut hold = None;
        if (Some(node) != place || was_elsewhere) && !self.peers.is_empty() {
            hold = self.hold_begin(now, key, node);
            if let (None, Some(place)) = (hold, place) {
                (node, choice) = (place, Choice::ByPlace);
            }
        }
        let counters = &mut self.counters;
        *match choice {
            Choice::ByClient => &mut counters.by_client,
            Choice::InTurn => &mut counters.in_turn,
            Choice::ByPlace => &mut counters.by_place,
        } += 1;
        if choice != Choice::ByClient && self.services[service].1.model.knows_clients() {
            let until = tick(now).wrapping_add(ticks(self.config.client_time));
            self.remember_if_new(now, client, service, Client { node, until, has_session: false });
        }
        let life = self.lives[node.index()];
        let known = Known::new(now, node, life, Stage::Opening);
        self.know(now, hash, key, if hold.is_some() { known } else { known.alone() });
        hold.map_or(Verdict::Forward(node), Verdict::Hold)
    }

    /// Remembers a connection.
    pub(crate) fn know(&mut self, now: Time, hash: u64, key: FlowKey, known: Known) {
        let times = self.times();
        let is_swept = !self.membership.is_idle() || !self.peers.is_at_rest();
        let matters = |known: &Known| known.matters(tick(now), times);
        let lost = self.flows.put(hash, key, known, matters, |key| self.spread.hash(key), is_swept);
        self.counters.flows_lost += u64::from(lost.is_some_and(|(_, known)| known.stage.is_open()));
    }

    fn choose(
        &mut self,
        now: Time,
        client: IpAddr,
        service: usize,
        place: Option<NodeId>,
    ) -> Option<(NodeId, Choice)> {
        let knows_clients = self.services[service].1.model.knows_clients();
        if knows_clients && let Some(node) = self.node_of(now, client, service) {
            return Some((node, Choice::ByClient));
        }
        // Of a connection that may be forgotten soon the place is what can be found again.
        if self.flows.used() >= self.flows.capacity() {
            return Some((place?, Choice::ByPlace));
        }
        let node = self.services[service].1.in_turn(&self.nodes)?;
        Some((node, Choice::InTurn))
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
        let matters = |client: &Client| client.matters(tick(now));
        let rehash = |key: &ClientKey| self.spread.hash_client(&key.client, key.service);
        let lost = self.clients.put(hash, key, entry, matters, rehash, !self.membership.is_idle());
        self.counters.clients_lost += u64::from(lost.is_some_and(|(_, client)| client.has_session));
    }

    /// Remembers where a client is, unless that is known.
    pub(crate) fn remember_if_new(&mut self, now: Time, client: IpAddr, service: usize, entry: Client) {
        if self.node_of(now, client, service).is_none() {
            self.remember(now, client, service, entry);
        }
    }

    /// Whose a flow is of which nothing is remembered.
    pub(crate) fn by_place(&self, service: usize, key: &FlowKey) -> Option<NodeId> {
        let is_up = |node: NodeId| self.nodes[node.index()].state == State::Up;
        self.places.of(service).pick(self.place(key), is_up)
    }

    fn fragment(&mut self, now: Time, id: FragmentId) -> Verdict {
        let hash = hash_fragment(self.config.seed, &id);
        let Some(Pieces { node, seen }) = self.fragments.find(hash, &id).copied() else {
            return Verdict::Drop(DropReason::Fragment);
        };
        // Of a node that is gone the first fragment is too.
        let is_there = self.nodes[node.index()].state != State::Down;
        match is_there && tick(now).wrapping_sub(seen) <= ticks(FRAGMENT_TIME) {
            true => Verdict::Forward(node),
            false => Verdict::Drop(DropReason::Fragment),
        }
    }

    fn keep_pieces(&mut self, now: Time, id: FragmentId, node: NodeId) {
        let hash = hash_fragment(self.config.seed, &id);
        let seen = tick(now);
        // The oldest goes first.
        let matters = |pieces: &Pieces| u64::from(Tick::MAX - seen.wrapping_sub(pieces.seen));
        let (seed, is_swept) = (self.config.seed, !self.membership.is_idle());
        self.fragments.put(hash, id, Pieces { node, seen }, matters, |id| hash_fragment(seed, id), is_swept);
    }

    /// What the network says of a packet that a node sent.
    fn error(&mut self, flow: Flow) -> Verdict {
        let Some(service) = self.service(flow.service) else {
            return Verdict::Drop(DropReason::NoService);
        };
        let key = FlowKey::of(&flow, service);
        let hash = self.hash(&key);
        match self.flows.find(hash, &key).copied() {
            Some(known) if self.lives[known.node().index()] == known.life => Verdict::Forward(known.node()),
            Some(_) => Verdict::Drop(DropReason::Stray),
            None => {
                let node = self.by_place(service, &key);
                self.counters.unknown += u64::from(node.is_some());
                node.map_or(Verdict::Drop(DropReason::NoNode), Verdict::Forward)
            }
        }
    }

    /// How long each stage may be silent.
    pub(crate) fn times(&self) -> Times {
        self.config.times()
    }

    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        self.spread.hash(key)
    }

    pub(crate) fn place(&self, key: &FlowKey) -> u64 {
        key.place(self.config.places_seed)
    }

    fn hash_client(&self, key: &ClientKey) -> u64 {
        self.spread.hash_client(&key.client, key.service)
    }
}

fn hash_fragment(seed: u64, id: &FragmentId) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(seed, 2);
    hasher.write(&bytes(id.source));
    hasher.write(&bytes(id.destination));
    hasher.write_u32(id.ident);
    hasher.finish()
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
