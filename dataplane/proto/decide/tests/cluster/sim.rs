//! Nodes with slots, a line of requests at each, load words that come late, and moves that cost something: one event
//! after the other, in virtual time. What decides, and what it knows, is the product's own.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use keyferry_decide::{Facts, Lent, LoadWord, Peer, Policy, Service, decide};

use crate::workload::{Draws, Request};

/// Nodes write their words this often, in ns: as the worker does.
const WORD_EVERY_NS: u64 = 200_000;

/// A word is seen at least, and at most, so long after it was written: with the interval it is 0.2 to 1 ms old.
const WORD_DELAY_NS: (u64, u64) = (200_000, 800_000);

/// Requests a node takes from peers at once.
const CREDITS: u32 = 1024;

/// A cluster and how it decides.
#[derive(Clone, Copy)]
pub struct Cluster {
    pub nodes: usize,
    /// Requests a node works on at a time.
    pub slots: usize,
    pub policy: Policy,
    /// What one move costs, in ns: half of it before the peer has the request, half behind its work.
    pub move_ns: u64,
}

/// How a run went.
pub struct Outcome {
    /// From a request's arrival to its reply, in ns, sorted.
    latencies: Vec<u64>,
    /// Requests that ran at a peer.
    pub moved: usize,
    /// Of them, those that had to wait there.
    pub moved_into_line: usize,
    /// The longest line of lent requests at any node.
    pub lent_line_max: usize,
}

impl Outcome {
    pub fn mean(&self) -> f64 {
        self.latencies.iter().map(|latency| *latency as f64).sum::<f64>() / self.latencies.len() as f64
    }

    pub fn p99(&self) -> f64 {
        self.latencies[self.latencies.len() * 99 / 100] as f64
    }

    pub fn moved_share(&self) -> f64 {
        self.moved as f64 / self.latencies.len() as f64
    }
}

/// All slots behind one line: what no cluster can beat.
pub fn central(slots: usize, requests: &[Request]) -> Outcome {
    let mut free: BinaryHeap<Reverse<u64>> = (0..slots).map(|_| Reverse(0)).collect();
    let mut latencies = Vec::with_capacity(requests.len());
    for request in requests {
        let Some(Reverse(at)) = free.pop() else { break };
        let end = at.max(request.at) + request.service_ns;
        free.push(Reverse(end));
        latencies.push(end - request.at);
    }
    latencies.sort_unstable();
    Outcome { latencies, moved: 0, moved_into_line: 0, lent_line_max: 0 }
}

enum Event {
    Arrives(usize),
    /// The node writes its word to all.
    Writes(usize),
    /// They see it; with the grants it had taken from each.
    Seen {
        from: usize,
        word: LoadWord,
        taken: Vec<u32>,
    },
    Granted {
        request: usize,
        to: usize,
    },
    Done {
        request: usize,
        node: usize,
    },
    Claimed {
        request: usize,
    },
    Returned {
        request: usize,
    },
}

#[derive(Clone, Default)]
struct Known {
    word: LoadWord,
    granted: u32,
    lent: Lent,
}

#[derive(Clone, Default)]
struct Node {
    busy: usize,
    line: VecDeque<usize>,
    lent_in_line: usize,
    service: Service,
    sequence: u32,
    turn: usize,
    /// What it knows of the others.
    peers: Vec<Known>,
    /// Grants taken from each.
    taken: Vec<u32>,
}

/// Where a request is.
#[derive(Clone, Copy, Default)]
struct Trip {
    helper: Option<usize>,
    granted_at: u64,
    claimed_at: u64,
    expected_us: u32,
}

struct Run<'r> {
    cluster: Cluster,
    requests: &'r [Request],
    nodes: Vec<Node>,
    trips: Vec<Trip>,
    /// Events by time, then in the order they were made.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    events: Vec<Option<Event>>,
    draws: Draws,
    now: u64,
    outcome: Outcome,
}

/// Runs the requests through the cluster.
pub fn run(cluster: Cluster, requests: &[Request], seed: u64) -> Outcome {
    let Cluster { nodes, .. } = cluster;
    let node = Node { peers: vec![Known::default(); nodes], taken: vec![0; nodes], ..Node::default() };
    let mut run = Run {
        cluster,
        requests,
        nodes: vec![node; nodes],
        trips: vec![Trip::default(); requests.len()],
        due: BinaryHeap::new(),
        events: Vec::new(),
        draws: Draws::new(seed),
        now: 0,
        outcome: Outcome {
            latencies: Vec::with_capacity(requests.len()),
            moved: 0,
            moved_into_line: 0,
            lent_line_max: 0,
        },
    };
    run.at(requests[0].at, Event::Arrives(0));
    for node in 0..nodes {
        let first = run.draws.between(0, WORD_EVERY_NS);
        run.at(first, Event::Writes(node));
    }
    while run.outcome.latencies.len() < requests.len() {
        let Some(Reverse((at, number))) = run.due.pop() else { panic!("requests were lost") };
        run.now = at;
        let event = run.events[number].take().expect("each event happens once");
        run.happens(event);
    }
    run.outcome.latencies.sort_unstable();
    run.outcome
}

impl Run<'_> {
    fn at(&mut self, at: u64, event: Event) {
        self.due.push(Reverse((at, self.events.len())));
        self.events.push(Some(event));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Arrives(request) => {
                if request + 1 < self.requests.len() {
                    self.at(self.requests[request + 1].at, Event::Arrives(request + 1));
                }
                self.arrives(request);
            }
            Event::Writes(node) => self.writes(node),
            Event::Seen { from, word, taken } => {
                for (node, taken) in self.nodes.iter_mut().zip(taken) {
                    let known = &mut node.peers[from];
                    // Words come in order on a queue pair.
                    if word.sequence > known.word.sequence {
                        known.word = LoadWord { taken, ..word };
                        known.lent.fade();
                    }
                }
            }
            Event::Granted { request, to } => {
                self.nodes[to].taken[self.requests[request].node] += 1;
                self.submit(request, to);
            }
            Event::Done { request, node } => self.done(request, node),
            Event::Claimed { request } => {
                let Trip { helper, granted_at, expected_us, .. } = self.trips[request];
                self.trips[request].claimed_at = self.now;
                let took = Duration::from_nanos(self.now - granted_at);
                let peer = helper.expect("it was lent");
                self.nodes[self.requests[request].node].peers[peer].lent.ready(expected_us, took);
                self.at(self.now + self.cluster.move_ns / 2, Event::Returned { request });
            }
            Event::Returned { request } => {
                let Trip { helper, claimed_at, .. } = self.trips[request];
                let took = Duration::from_nanos(self.now - claimed_at);
                let peer = helper.expect("it was lent");
                self.nodes[self.requests[request].node].peers[peer].lent.exchanged(took);
                self.answered(request);
            }
        }
    }

    fn word(&self, node: usize) -> LoadWord {
        let Node { busy, line, service, sequence, .. } = &self.nodes[node];
        let (outstanding, slots) = ((busy + line.len()) as u32, self.cluster.slots as u32);
        LoadWord {
            sequence: *sequence,
            waiting_us: outstanding * service.mean_us() / slots,
            service_us: service.mean_us(),
            capacity: slots,
            credits: CREDITS,
            outstanding,
            ..LoadWord::default()
        }
    }

    fn writes(&mut self, node: usize) {
        self.nodes[node].sequence += 1;
        let (word, taken) = (self.word(node), self.nodes[node].taken.clone());
        let delay = self.draws.between(WORD_DELAY_NS.0, WORD_DELAY_NS.1);
        self.at(self.now + delay, Event::Seen { from: node, word, taken });
        self.at(self.now + WORD_EVERY_NS, Event::Writes(node));
    }

    fn arrives(&mut self, request: usize) {
        let number = self.requests[request].node;
        let own = self.word(number);
        let node = &mut self.nodes[number];
        let view = |(index, known): (usize, &Known)| Peer {
            ready: index != number,
            fresh: known.word.sequence > 0,
            word: known.word,
            granted: known.granted.wrapping_sub(known.word.taken),
            late_us: known.lent.late_us(),
            cost_us: known.lent.cost_us(),
        };
        let peers: Vec<Peer> = node.peers.iter().enumerate().map(view).collect();
        node.turn += 1;
        let facts = Facts { lendable: true, pinned: false };
        // Every node counts its own requests, from wherever it stands.
        let turn = node.turn + number * 1_000_003;
        let decision = decide(self.cluster.policy, facts, &own, &peers, turn);
        let Some(to) = decision.peer else { return self.submit(request, number) };
        node.peers[to].granted += 1;
        self.trips[request] =
            Trip { helper: Some(to), granted_at: self.now, claimed_at: 0, expected_us: decision.expected_us };
        self.outcome.moved += 1;
        self.at(self.now + self.cluster.move_ns / 4, Event::Granted { request, to });
    }

    fn submit(&mut self, request: usize, number: usize) {
        let lent = self.trips[request].helper.is_some();
        let node = &mut self.nodes[number];
        if node.busy < self.cluster.slots {
            node.busy += 1;
            let end = self.now + self.requests[request].service_ns;
            return self.at(end, Event::Done { request, node: number });
        }
        node.line.push_back(request);
        node.lent_in_line += usize::from(lent);
        self.outcome.moved_into_line += usize::from(lent);
        self.outcome.lent_line_max = self.outcome.lent_line_max.max(node.lent_in_line);
    }

    fn done(&mut self, request: usize, number: usize) {
        let node = &mut self.nodes[number];
        node.service.served(self.requests[request].service_ns);
        match node.line.pop_front() {
            None => node.busy -= 1,
            Some(next) => {
                node.lent_in_line -= usize::from(self.trips[next].helper.is_some());
                let end = self.now + self.requests[next].service_ns;
                self.at(end, Event::Done { request: next, node: number });
            }
        }
        match self.trips[request].helper {
            None => self.answered(request),
            Some(_) => self.at(self.now + self.cluster.move_ns / 4, Event::Claimed { request }),
        }
    }

    fn answered(&mut self, request: usize) {
        self.outcome.latencies.push(self.now - self.requests[request].at);
    }
}
