//! A cluster in virtual time: requests come, wait, move and end. In: a [`Scenario`]. Out: an [`Outcome`].
//!
//! One event at a time, in the order of time, all from one seed. Cores and slots that serve what comes in turn know when a job
//! ends when it comes, and only that is an event; cores that jobs share have events of their own. This file has the state,
//! the clock and arrivals; `stages` has what becomes of a request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use keyferry_decide::Peer;

use crate::clients::{Client, Connection, NONE};
use crate::draw::splitmix64;
use crate::events::{Events, INDEX_MAX, Kind};
use crate::front::{CLIENTS_MAX, Front};
use crate::node::{INTERVALS_MAX, Node};
use crate::peers::Peers;
use crate::scenario::{Model, Scenario};
use crate::share::Share;
use crate::tally::{Outcome, Tally};
use crate::wishes::{Wish, Wishes};

/// Requests under way for which memory is taken at start.
const REQUESTS_START: usize = 1 << 12;

/// A request under way.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) client: u32,
    /// The kept connection it is on; [`NONE`] if it has one of its own, or waits.
    pub(crate) connection: u32,
    /// Where its connection is, and in which life of that node.
    pub(crate) node: u32,
    pub(crate) life: u8,
    pub(crate) worker: u32,
    /// Where it runs, and in which life.
    pub(crate) runs_at: u32,
    pub(crate) runs_life: u8,
    /// The lease's pair; [`NONE`] if it is not lent.
    pub(crate) pair: u32,
    pub(crate) port: u16,
    /// Times its client has tried to connect.
    pub(crate) tries: u8,
    /// Its handshake is a full one.
    pub(crate) is_full: bool,
    /// Whether it counts.
    pub(crate) is_measured: bool,
    pub(crate) wish: Wish,
    pub(crate) asked_ns: u64,
    pub(crate) granted_ns: u64,
    pub(crate) claimed_ns: u64,
    pub(crate) expected_us: u32,
    /// Work the application had with it, on the node it ran on.
    pub(crate) service_ns: u64,
    /// Further requests of its session, and their source.
    pub(crate) left: u32,
    pub(crate) source: Rng,
}

/// A run.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now_ns: u64,
    pub(crate) events: Events,
    pub(crate) front: Front,
    pub(crate) nodes: Vec<Node>,
    /// When each core, each slot and each node's wire is free: nodes one after the other.
    pub(crate) cores_ns: Vec<u64>,
    pub(crate) slots_ns: Vec<u64>,
    pub(crate) wires_ns: Vec<u64>,
    /// The cores in place of `cores_ns`, where jobs share them: where the application works on them.
    pub(crate) shares: Vec<Share>,
    /// When each slot of the cluster is free, and whose it is, where all serve one queue.
    pub(crate) central_ns: BinaryHeap<Reverse<(u64, u32)>>,
    pub(crate) peers: Peers,
    pub(crate) views: Vec<Peer>,
    /// Counts decisions, so that they look at other peers each time; one number for each node.
    pub(crate) turns: Vec<usize>,
    pub(crate) clients: Vec<Client>,
    pub(crate) connections: Vec<Connection>,
    pub(crate) requests: Vec<Request>,
    pub(crate) free: Vec<u32>,
    pub(crate) wishes: Wishes,
    pub(crate) tally: Tally,
    /// Requests begun and ended, and events, since the start.
    pub(crate) begun: u64,
    pub(crate) ended: u64,
    pub(crate) handled: u64,
    /// Arrivals come no more.
    is_closed: bool,
    last_arrival_ns: u64,
}

impl World {
    /// A cluster at rest, before its first arrival.
    ///
    /// # Panics
    /// If the scenario is more than can be told apart, or asks for words older than are kept: mistakes of the caller.
    pub fn new(scenario: &Scenario) -> World {
        let (cluster, load) = (&scenario.cluster, &scenario.load);
        assert!(load.clients <= CLIENTS_MAX && cluster.nodes < 1 << 15, "too many clients or nodes");
        let way_ns = scenario.costs.fabric.one_way + cluster.word_delay_ns;
        assert!(way_ns / cluster.word_ns < INTERVALS_MAX - 2, "words are kept for {INTERVALS_MAX} intervals");
        let factor =
            |node| cluster.slow.iter().find(|(slow, _)| *slow == node).map_or(1.0, |(_, factor)| *factor);
        let phase = |node: usize| splitmix64(splitmix64(scenario.seed) ^ node as u64) % cluster.word_ns;
        let on_core = scenario.costs.app_on_core;
        let slots = if on_core { cluster.workers } else { cluster.slots };
        let node = |node| Node::new(slots, factor(node), phase(node), cluster.word_ns);
        let kept = load.kept.map_or(0, |kept| kept.connections);
        let mut world = World {
            now_ns: 0,
            events: Events::with_room(REQUESTS_START),
            front: Front::new(
                scenario.model != Model::Rr,
                cluster.nodes,
                load.clients,
                kept,
                Duration::from_nanos(cluster.lifetime_ns),
                scenario.seed,
            ),
            nodes: (0..cluster.nodes).map(node).collect(),
            cores_ns: vec![0; cluster.nodes * cluster.workers],
            slots_ns: vec![0; cluster.nodes * cluster.slots],
            wires_ns: vec![0; cluster.nodes],
            shares: vec![
                Share::new(cluster.processes);
                if on_core { cluster.nodes * cluster.workers } else { 0 }
            ],
            central_ns: (0..cluster.nodes * cluster.slots).map(|slot| Reverse((0, slot as u32))).collect(),
            peers: Peers::new(
                if matches!(scenario.model, Model::Bf(_)) { cluster.nodes } else { 0 },
                cluster.workers,
                cluster.helpers,
                cluster.leases,
                cluster.word_ns,
                way_ns,
            ),
            views: Vec::with_capacity(cluster.helpers),
            turns: vec![0; cluster.nodes],
            clients: vec![Client::new(); load.clients],
            connections: Vec::with_capacity(load.clients * kept),
            requests: Vec::with_capacity(REQUESTS_START),
            free: Vec::with_capacity(REQUESTS_START),
            wishes: Wishes::new(load, scenario.seed),
            tally: Tally::new(cluster.nodes),
            begun: 0,
            ended: 0,
            handled: 0,
            is_closed: false,
            last_arrival_ns: 0,
            scenario: scenario.clone(),
        };
        world.open_all(kept);
        for (index, failure) in scenario.cluster.failures.iter().enumerate() {
            world.events.push(failure.at_ns, Kind::Fault, index as u32);
        }
        if scenario.warm_up == 0 {
            world.tally.begin(0, std::iter::empty());
        }
        world.plan_arrival();
        world
    }

    /// Clients open the connections they keep, in turn, before anything else happens.
    fn open_all(&mut self, kept: usize) {
        let clients = self.clients.len();
        for place in 0..clients * kept {
            let client = (place % clients) as u32;
            let port = self.clients[client as usize].take_port(place as u32);
            self.connections.push(Connection {
                client,
                port,
                node: NONE,
                life: 0,
                worker: 0,
                used: 0,
                tries: 0,
            });
            self.events.push(0, Kind::Open, place as u32);
        }
    }

    /// Runs until every measured request has ended, or nothing is left to happen; at the latest until as many requests have come
    /// again. More come than can be served then, or one that is long waits among many: what is under way counts with the
    /// time it has had.
    pub fn run(mut self) -> Outcome {
        let latest = self.scenario.warm_up + 2 * self.scenario.requests;
        while self.tally.ended < self.scenario.requests && self.begun < latest && self.step() {}
        for request in self.requests.iter().filter(|request| request.is_measured) {
            self.tally.cut_short(self.now_ns - request.asked_ns);
        }
        self.outcome()
    }

    /// What was measured.
    pub fn outcome(self) -> Outcome {
        let (now_ns, cluster) = (self.now_ns, &self.scenario.cluster);
        let (workers, slots) = (cluster.workers, cluster.slots);
        let backlogs: Vec<_> = (0..self.nodes.len()).map(|node| self.backlog_ns(node)).collect();
        self.tally.end(now_ns, backlogs.into_iter(), workers, slots)
    }

    /// What a node's cores and slots have been given and not done.
    pub(crate) fn backlog_ns(&self, node: usize) -> (u64, u64) {
        let left = |free_ns: &[u64], each: usize| -> u64 {
            free_ns[node * each..(node + 1) * each].iter().map(|free| free.saturating_sub(self.now_ns)).sum()
        };
        let (workers, slots) = (self.scenario.cluster.workers, self.scenario.cluster.slots);
        let shares = self.shares.iter().skip(node * workers).take(workers);
        let shared: u64 = shares.map(|share| share.left_ns(self.now_ns)).sum();
        (left(&self.cores_ns, workers) + shared, left(&self.slots_ns, slots))
    }

    /// No more arrivals: what is under way goes on.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Requests begun, ended, and under way.
    pub fn counts(&self) -> (u64, u64, usize) {
        (self.begun, self.ended, self.requests.len() - self.free.len())
    }

    /// Requests that nodes' applications have.
    pub fn in_applications(&self) -> u32 {
        self.nodes.iter().map(Node::outstanding).sum()
    }

    /// Leases under way.
    pub fn leases_open(&self) -> u32 {
        self.peers.open()
    }

    /// Events so far.
    pub fn handled(&self) -> u64 {
        self.handled
    }

    /// The next event. `false`: there is none.
    pub fn step(&mut self) -> bool {
        let Some((at_ns, kind, index)) = self.events.pop() else { return false };
        debug_assert!(at_ns >= self.now_ns, "time goes back");
        (self.now_ns, self.handled) = (at_ns, self.handled + 1);
        match kind {
            Kind::Arrival => self.arrive(),
            Kind::Open => self.open(index),
            Kind::Ready => self.is_ready(index),
            Kind::Begin => self.connect(index),
            Kind::Think => self.ask(index),
            Kind::Decide => self.decide(index),
            Kind::Granted => self.come_to_helper(index),
            Kind::Done => self.done(index),
            Kind::Claimed => self.claimed(index),
            Kind::Go => self.go(index),
            Kind::Returned => self.returned(index),
            Kind::Shared => self.shared(index),
            Kind::End => self.end(index),
            Kind::Fault => self.fault(index as usize),
            Kind::Notice => self.notice(index as usize),
            Kind::Back => self.come_back(index as usize),
        }
        true
    }

    fn plan_arrival(&mut self) {
        if !self.is_closed
            && let Some(at_ns) = self.wishes.next_ns(self.last_arrival_ns)
        {
            self.last_arrival_ns = at_ns;
            self.events.plan_arrival(at_ns);
        }
    }

    /// A session or a request comes.
    fn arrive(&mut self) {
        if self.is_closed {
            return;
        }
        let client = self.wishes.client();
        self.plan_arrival();
        let mut source = Rng::with_seed(0);
        let (mut left, mut wish) = (0, Wish::default());
        if let Some(sessions) = self.scenario.load.sessions {
            source = self.wishes.session();
            left = crate::draw::geometric(&mut source, sessions.requests) - 1;
            wish = self.wishes.wish_of(&mut source);
        } else if !self.wishes.is_drawn_late() {
            wish = self.wishes.wish();
        }
        let index = self.place(Request {
            client,
            connection: NONE,
            node: NONE,
            life: 0,
            worker: 0,
            runs_at: NONE,
            runs_life: 0,
            pair: NONE,
            port: 0,
            tries: 0,
            is_full: false,
            is_measured: false,
            wish,
            asked_ns: 0,
            granted_ns: 0,
            claimed_ns: 0,
            expected_us: 0,
            service_ns: 0,
            left,
            source,
        });
        self.ask(index);
    }

    /// A place for a request.
    fn place(&mut self, request: Request) -> u32 {
        if let Some(index) = self.free.pop() {
            self.requests[index as usize] = request;
            return index;
        }
        assert!(
            self.requests.len() < INDEX_MAX,
            "more requests wait than can be told apart: the load never ends"
        );
        self.requests.push(request);
        (self.requests.len() - 1) as u32
    }

    /// A client wants something now.
    pub(crate) fn ask(&mut self, index: u32) {
        let number = self.begun;
        self.begun += 1;
        let (from, until) = (self.scenario.warm_up, self.scenario.warm_up + self.scenario.requests);
        if number == from && self.tally.since_ns.is_none() {
            let backlogs: Vec<_> = (0..self.nodes.len()).map(|node| self.backlog_ns(node)).collect();
            self.tally.begin(self.now_ns, backlogs.into_iter());
        }
        let request = &mut self.requests[index as usize];
        request.asked_ns = self.now_ns;
        request.is_measured = (from..until).contains(&number);
        if self.scenario.load.kept.is_none() {
            return self.connect(index);
        }
        let client = &mut self.clients[request.client as usize];
        client.line.push_back(index);
        if let Some(connection) = client.idle.pop_front() {
            self.send_next(connection);
        } else if let Some(connection) = client.given_up.pop() {
            self.open(connection);
        }
    }
}
