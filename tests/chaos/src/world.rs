//! A run: its nodes, clients, wires and fabric in one virtual time, turn by turn until everything is over and every
//! buffer is back; then what came of it is judged.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use keyferry_fabric::sim::Net as Fabric;
use keyferry_fabric::{Fence, Limits};
use keyferry_lease::Channel;
use keyferry_lease::channel::{Incarnation, PairSecret, Role};
use keyferry_nic::sim::Net;
use keyferry_time::Time;
use keyferry_worker::Counters;
use keyferry_worker::mailbox::{Connect, Drain, Mail};
use keyferry_worker::peer::SLOT_BYTES;

use crate::app;
use crate::client::Client;
use crate::crypto::{self, Clock};
use crate::faults::Shared;
use crate::hub::Hub;
use crate::judge;
use crate::node::{MESSAGE_BYTES, Node};
use crate::plan::{Fault, MS, Plan};

/// Longest step: load words go round and lease limits are looked at in a turn.
const STEP_NS: u64 = 4 * MS;

/// The step when all that is awaited are time-outs of seconds.
const IDLE_STEP_NS: u64 = 100 * MS;

/// What a turn with something to do takes.
const TURN_NS: u64 = 2_000;

/// Control finds a lost queue pair and makes a new one after this.
const RELINK_NS: u64 = 5 * MS;

/// Faults hold no transfer up for longer.
const SETTLE_NS: u64 = 200 * MS;

/// Everything has to be over by then.
const END_NS: u64 = 300_000 * MS;

/// Steps of one run; more is a loop that never rests.
const STEPS_MAX: u64 = 2_000_000;

/// How long what is open at a node that ends may go on: longer than the silence of a helper.
const DRAIN: Drain = Drain { idle: Duration::from_secs(5), deadline: Duration::from_secs(60) };

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// A sentence.
    pub what: String,
    /// When, in ns of the run.
    pub at_ns: u64,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Names the run: equal for equal runs.
    pub trace: u64,
    /// Virtual time it took.
    pub ns: u64,
    /// Turns of workers, all together.
    pub steps: u64,
    /// Whole replies clients saw.
    pub replies: u64,
    /// Whole replies sealed by helpers.
    pub lent: u64,
    /// Requests lent by the estimate.
    pub sooner: u64,
    /// Leases whose keys were out when they broke.
    pub broken: u64,
    /// Requests taken back before.
    pub failed: u64,
    /// Records copied out of reply slots that had been there for too long.
    pub copied_late: u64,
    /// Records copied out because slots were short.
    pub copied_short: u64,
    /// Sessions that came from the nodes they lived at.
    pub taken: u64,
    /// Sessions that were moved to another node.
    pub moved: u64,
    /// PSKs that were offered more than once.
    pub offered_again: u64,
}

struct Live {
    fences: [Arc<dyn Fence>; 2],
    /// Lives of the nodes at both ends when it was made.
    lives: [u32; 2],
}

struct Pair {
    live: Option<Live>,
    /// Made again then.
    next_ns: u64,
    made: u64,
}

pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    net: Net,
    fabric: Fabric,
    pub(crate) shared: Shared,
    /// `None` while a node is down.
    pub(crate) nodes: Vec<Option<Node>>,
    /// Counts each node's lives.
    pub(crate) lives: Vec<u32>,
    frozen_until: Vec<u64>,
    restart_at: Vec<Option<u64>>,
    hubs: Vec<Hub>,
    pub(crate) clients: Vec<Client>,
    pairs: Vec<Pair>,
    /// Faults of the script that are still to come, by index.
    script: Vec<(u64, usize)>,
    steps: u64,
    /// Everything is over then, unless something happens before.
    settled_ns: Option<u64>,
}

/// Runs a plan.
///
/// # Errors
/// What must never be, and was.
pub fn run(plan: &Plan) -> Result<Report, Violation> {
    let mut world = World::new(plan);
    let outcome = world.play();
    world.shared.lock().tell(|| tell(&world));
    let at_ns = world.clock.now_ns();
    outcome.map_err(|what| Violation { what, at_ns })
}

/// What every worker has counted, for a trace.
fn tell(world: &World) -> String {
    let mut lines = String::from("counted");
    for (node, counters) in world.counters() {
        let all = Counters::NAMES.iter().zip(counters.values()).filter(|(_, value)| *value > 0);
        let all: Vec<String> = all.map(|(name, value)| format!("{name}={value}")).collect();
        lines += &format!("\nnode {node}: {}", all.join(" "));
    }
    lines
}

impl World {
    fn new(plan: &Plan) -> World {
        crypto::seed(plan.seed);
        app::forget();
        let clock = Clock::default();
        let mut net = Net::with_frames(4096);
        let shared = Shared::new(plan);
        let fabric = Fabric::new();
        let path = shared.clone();
        fabric.set_faults(move |transfer| path.lock().transfer(transfer));
        let hubs =
            (0..plan.nodes.len()).map(|node| Hub::new(node, plan.seed ^ node as u64, &mut net)).collect();
        let mut script: Vec<(u64, usize)> = (0..)
            .zip(&plan.faults)
            .filter_map(|(index, fault)| match fault {
                Fault::LinkDown { at_ns, .. }
                | Fault::Kill { at_ns, .. }
                | Fault::Freeze { at_ns, .. }
                | Fault::Members { at_ns, .. }
                | Fault::Drain { at_ns, .. } => Some((*at_ns, index)),
                Fault::Frames { .. } | Fault::Partition { .. } | Fault::Transfers { .. } => None,
            })
            .collect();
        script.sort_unstable();
        script.reverse();
        let count = plan.nodes.len();
        let mut wallets = BTreeMap::new();
        let clients = plan.clients.iter().enumerate();
        let mut world = World {
            clients: clients
                .map(|(number, client)| Client::new(number, client, &clock, &mut wallets))
                .collect(),
            pairs: plan.links.iter().map(|_| Pair { live: None, next_ns: 0, made: 0 }).collect(),
            plan: plan.clone(),
            clock,
            net,
            fabric,
            shared,
            nodes: (0..count).map(|_| None).collect(),
            lives: vec![0; count],
            frozen_until: vec![0; count],
            restart_at: vec![None; count],
            hubs,
            script,
            steps: 0,
            settled_ns: None,
        };
        for node in 0..count {
            world.start(node);
        }
        world
    }

    fn start(&mut self, number: usize) {
        self.lives[number] += 1;
        let node = Node::start(&self.plan.nodes, number, self.lives[number], &mut self.net, &self.clock);
        let (out, back) = (self.shared.wire(number, false), self.shared.wire(number, true));
        self.net.connect_with(node.port, self.hubs[number].port(), out, back);
        self.nodes[number] = Some(node);
    }

    fn play(&mut self) -> Result<Report, String> {
        loop {
            self.steps += 1;
            if self.steps > STEPS_MAX {
                return Err("it never rests".into());
            }
            let busy = self.step()?;
            if let Some(what) = self.shared.lock().streams.wrong.take() {
                return Err(what);
            }
            let now_ns = self.clock.now_ns();
            let over = self.script.is_empty() && self.clients.iter().all(Client::is_over);
            if over && !busy && self.is_quiet() && self.is_settled(now_ns) {
                return judge::judge(self);
            }
            if now_ns > END_NS {
                return Err(judge::unfinished(self));
            }
            let next_ns = if busy { now_ns + TURN_NS } else { self.next_ns(now_ns, over) };
            self.clock.set_ns(next_ns);
        }
    }

    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// One turn of everything.
    fn step(&mut self) -> Result<bool, String> {
        let now_ns = self.clock.now_ns();
        self.shared.lock().now_ns = now_ns;
        self.net.advance(now_ns);
        self.fabric.advance(now_ns);
        let mut busy = self.follow_script(now_ns);
        busy |= self.relink(now_ns);
        for (node, frozen) in self.nodes.iter_mut().zip(&self.frozen_until) {
            let Some(node) = node.as_mut().filter(|_| *frozen <= now_ns) else { continue };
            for core in &mut node.cores {
                busy |= core.worker.turn(Time(now_ns));
            }
        }
        for hub in &mut self.hubs {
            busy |= hub.poll(now_ns);
        }
        for client in &mut self.clients {
            let node = client.node();
            let hub = &mut self.hubs[node];
            busy |= client.act(now_ns, hub).map_err(|what| format!("client of node {node}: {what}"))?;
        }
        for hub in &mut self.hubs {
            busy |= hub.poll(now_ns);
        }
        self.net.advance(now_ns);
        self.fabric.advance(now_ns);
        Ok(busy)
    }

    fn follow_script(&mut self, now_ns: u64) -> bool {
        let mut busy = false;
        for node in 0..self.nodes.len() {
            if self.restart_at[node].is_some_and(|at| at <= now_ns) {
                self.restart_at[node] = None;
                self.start(node);
                busy = true;
            }
        }
        while let Some((_, index)) = self.script.pop_if(|(at, _)| *at <= now_ns) {
            busy = true;
            match &self.plan.faults[index] {
                &Fault::LinkDown { link, .. } => {
                    if let Some(live) = &self.pairs[link].live {
                        live.fences[0].fail();
                        live.fences[1].fail();
                    }
                }
                &Fault::Kill { node, down_ns, .. } => {
                    if self.nodes[node].take().is_some() {
                        self.restart_at[node] = down_ns.map(|down| now_ns + down);
                    }
                }
                &Fault::Freeze { node, for_ns, .. } => self.frozen_until[node] = now_ns + for_ns,
                &Fault::Drain { node, .. } => {
                    for core in self.nodes[node].iter().flat_map(|node| &node.cores) {
                        let sent = core.mailbox.push(Mail::Drain(DRAIN));
                        assert!(sent.is_ok(), "a letter box has room");
                    }
                }
                Fault::Members { node, without, .. } => {
                    let members = (0..self.nodes.len()).filter(|node| !without.contains(node));
                    let members: Vec<_> = members.map(crate::node::id).collect();
                    for core in self.nodes[*node].iter().flat_map(|node| &node.cores) {
                        let sent = core.mailbox.push(Mail::Members(members.clone().into_boxed_slice()));
                        assert!(sent.is_ok(), "a letter box has room");
                    }
                }
                Fault::Frames { .. } | Fault::Partition { .. } | Fault::Transfers { .. } => {}
            }
        }
        busy
    }

    /// What the control threads do: a queue pair that failed is made anew, with keys of its own.
    fn relink(&mut self, now_ns: u64) -> bool {
        let mut busy = false;
        for link in 0..self.pairs.len() {
            let [(a, _), (b, _)] = self.plan.links[link].ends;
            let pair = &mut self.pairs[link];
            if let Some(live) = &pair.live {
                let gone = live.lives != [self.lives[a], self.lives[b]]
                    || self.nodes[a].is_none()
                    || self.nodes[b].is_none();
                if gone || live.fences.iter().any(|fence| fence.failed()) {
                    live.fences[0].fail();
                    live.fences[1].fail();
                    pair.live = None;
                    pair.next_ns = now_ns + RELINK_NS;
                    busy = true;
                }
            } else if pair.next_ns <= now_ns && self.nodes[a].is_some() && self.nodes[b].is_some() {
                self.link(link);
                busy = true;
            }
        }
        busy
    }

    fn link(&mut self, link: usize) {
        let plan = &self.plan.links[link];
        let [(a, _), (b, _)] = plan.ends;
        let leases = plan.ends.iter().map(|(node, _)| self.plan.nodes[*node].leases).max().unwrap_or(1);
        let limits = Limits {
            message_bytes_max: MESSAGE_BYTES,
            receives: plan.receives,
            posted_max: 2 * plan.receives + 2 * leases + plan.slots,
            slots_bytes: plan.slots * SLOT_BYTES,
            staging_bytes: plan.slots * SLOT_BYTES,
        };
        self.shared.lock().links.push(link);
        let (first, second) = self.fabric.pair(limits, plan.latency_ns);
        let pair = &mut self.pairs[link];
        pair.made += 1;
        pair.live =
            Some(Live { fences: [first.fence(), second.fence()], lives: [self.lives[a], self.lives[b]] });
        let life = Incarnation {
            random: [crypto::random(), crypto::random()],
            incarnation: [u64::from(self.lives[a]), u64::from(self.lives[b])],
            pair: link as u16,
        };
        let secret = [link as u8; 32];
        for ((node, worker), (queue_pair, role)) in
            plan.ends.into_iter().zip([(first, Role::First), (second, Role::Second)])
        {
            let channel = Channel::new(&PairSecret::new(secret), &life, role, plan.receives as u32);
            let peer = crate::node::id(if node == a { b } else { a });
            let moved = Arc::default();
            let connect = Connect { queue_pair: Box::new(queue_pair), channel, node: peer, moved };
            let core = self.nodes[node].as_ref().map(|node| &node.cores[worker]).expect("both nodes live");
            let sent = core.mailbox.push(Mail::Peer(Box::new(connect)));
            assert!(sent.is_ok(), "a letter box has room");
        }
    }

    /// When something happens next.
    fn next_ns(&mut self, now_ns: u64, over: bool) -> u64 {
        let mut next_ns = now_ns + if over { IDLE_STEP_NS } else { STEP_NS };
        let mut soon = |at: Option<u64>| next_ns = next_ns.min(at.unwrap_or(u64::MAX));
        soon(self.net.next_arrival_ns());
        soon(self.fabric.next_ns());
        soon(self.script.last().map(|(at, _)| *at));
        soon(self.restart_at.iter().flatten().min().copied());
        for (node, frozen) in self.nodes.iter().zip(&self.frozen_until) {
            let Some(node) = node else { continue };
            for core in &node.cores {
                let at = core.worker.poll_at().map(|at| at.0.max(*frozen));
                soon(at);
            }
        }
        for hub in &mut self.hubs {
            soon(hub.poll_at(now_ns));
        }
        for client in &self.clients {
            soon(client.next_at(now_ns));
        }
        next_ns.max(now_ns + 1)
    }

    /// Every live node has everything back.
    fn is_quiet(&self) -> bool {
        let now_ns = self.clock.now_ns();
        self.frozen_until.iter().all(|until| *until <= now_ns)
            && self.restart_at.iter().all(Option::is_none)
            && self.counters().all(|(_, counters)| judge::held(&counters).is_empty())
    }

    /// Whether nothing can be on its way between nodes any more. Of leases nodes hold what is on its way; nobody waits for
    /// a session that is sent to where it lives.
    fn is_settled(&mut self, now_ns: u64) -> bool {
        let keeps = self.plan.nodes.iter().any(|node| node.session_table);
        let last_ns = if keeps { SETTLE_NS } else { 0 };
        *self.settled_ns.get_or_insert(now_ns + last_ns) <= now_ns
    }

    /// Counters of every worker that lives.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (usize, Counters)> + '_ {
        let nodes = self.nodes.iter().enumerate().filter_map(|(number, node)| Some((number, node.as_ref()?)));
        nodes.flat_map(|(number, node)| node.cores.iter().map(move |core| (number, core.worker.snapshot())))
    }
}

const _: () = assert!(Duration::from_millis(20).as_nanos() as u64 > STEP_NS, "load words stay fresh");
