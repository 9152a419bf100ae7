//! What becomes of a request: decide, run, reply, end. `connect` has what is before, `lend` what is between if it moves.
//!
//! The stages are the worker's, in its order; each takes its time of a core, a slot or the wire, and an event tells when
//! it is over. Whatever is found to be of a node's former life is lost, as its messages would be. Owned by a run.

use std::cmp::Reverse;

use keyferry_decide::{Facts, Policy, decide};

use crate::clients::NONE;
use crate::draw::exponential;
use crate::events::Kind;
use crate::scenario::Model;
use crate::share::Then;
use crate::tally::Use;
use crate::world::World;

/// Every request here could be lent.
const FACTS: Facts = Facts { lendable: true, pinned: false };

impl World {
    /// A request is whole: here, or where?
    pub(crate) fn decide(&mut self, index: u32) {
        if !self.is_held(index) {
            return self.fail(index);
        }
        let request = &self.requests[index as usize];
        let (client, node, worker) = (request.client, request.node, request.worker);
        if request.connection == NONE {
            let (is_full, took_ns) = (request.is_full, request.service_ns);
            if self.scenario.costs.app_on_core {
                self.nodes[node as usize].end(self.now_ns, took_ns);
            }
            self.know(client, node, is_full);
        }
        match self.scenario.model {
            Model::Rr | Model::Session => self.run_at(index, node),
            Model::Bf(policy) => self.decide_by(policy, index, node, worker),
            Model::ShortestQueue => {
                let shortest = self.shortest(node);
                self.run_at(index, shortest);
            }
            Model::Central => self.run_central(index),
        }
    }

    pub(crate) fn decide_by(&mut self, policy: Policy, index: u32, node: u32, worker: u32) {
        let own = self.nodes[node as usize].own();
        // Where a policy does not look at peers they need not be looked up.
        let looks = match policy {
            Policy::Estimate { .. } => own.wait_us(0) > 0,
            Policy::Threshold { us } => own.waiting_us > us,
            Policy::Always | Policy::Never => true,
        };
        if looks || self.views.len() != self.peers.count() {
            let (node, worker) = (node as usize, worker as usize);
            // Only the estimate asks what lending has taken.
            let is_measured = matches!(policy, Policy::Estimate { .. });
            self.peers.views(self.now_ns, node, worker, is_measured, &self.nodes, &mut self.views);
        }
        let turn = &mut self.turns[node as usize];
        *turn = turn.wrapping_add(1);
        let decision = decide(policy, FACTS, &own, &self.views, *turn);
        self.tally.reasons[decision.reason as usize] += 1;
        match decision.peer {
            None => self.run_at(index, node),
            Some(peer) => self.grant(index, peer, decision.expected_us),
        }
    }

    /// The node with the fewest requests for its slots and speed; the request's own if none has fewer.
    pub(crate) fn shortest(&self, own: u32) -> u32 {
        let load = |node: u32| {
            let it = &self.nodes[node as usize];
            f64::from(it.outstanding() + 1) * it.factor
        };
        let nodes = self.nodes.len() as u32;
        let all =
            (0..nodes).map(|step| (own + step) % nodes).filter(|node| self.nodes[*node as usize].is_alive);
        all.min_by(|one, other| load(*one).total_cmp(&load(*other))).unwrap_or(own)
    }

    /// One queue for all slots.
    pub(crate) fn run_central(&mut self, index: u32) {
        let Some(Reverse((free_ns, slot))) = self.central_ns.pop() else { return };
        let node = slot / self.scenario.cluster.slots as u32;
        let service_ns = self.service_ns(index, node);
        let done_ns = free_ns.max(self.now_ns) + service_ns;
        self.central_ns.push(Reverse((done_ns, slot)));
        self.tally.uses[Use::App as usize] += service_ns;
        self.tally.app_ns[node as usize] += service_ns;
        self.begin(index, node, service_ns);
        self.events.push(done_ns, Kind::Done, index);
    }

    pub(crate) fn begin(&mut self, index: u32, node: u32, service_ns: u64) {
        let runs_life = self.nodes[node as usize].life;
        let request = &mut self.requests[index as usize];
        (request.runs_at, request.runs_life, request.service_ns) = (node, runs_life, service_ns);
        self.nodes[node as usize].begin(self.now_ns);
    }

    /// The application of a node gets a request.
    pub(crate) fn run_at(&mut self, index: u32, node: u32) {
        if !self.scenario.costs.app_on_core {
            let service_ns = self.service_ns(index, node);
            let done_ns = self.slot(node, service_ns);
            self.begin(index, node, service_ns);
            return self.events.push(done_ns, Kind::Done, index);
        }
        let request = &self.requests[index as usize];
        let (wish, is_lent, worker) = (request.wish, request.pair != NONE, request.worker);
        let [seal, other, size] = self.reply_jobs(wish.bytes, is_lent);
        let taken = (Use::Lend, if is_lent { self.scenario.costs.lend.message } else { 0 });
        let jobs = [taken, (Use::App, wish.work_ns), seal, other, size];
        let all_ns: u64 = jobs.iter().map(|(_, ns)| ns).sum();
        let service_ns = (all_ns as f64 * self.nodes[node as usize].factor) as u64;
        self.begin(index, node, service_ns);
        self.core(node, worker, &jobs, Then { kind: Kind::Done, index, later_ns: 0 });
    }

    /// The application is done.
    pub(crate) fn done(&mut self, index: u32) {
        if !self.runs(index) {
            return if self.requests[index as usize].pair == NONE {
                self.fail(index)
            } else {
                self.helper_lost(index)
            };
        }
        let request = &self.requests[index as usize];
        let (runs_at, service_ns, pair) = (request.runs_at, request.service_ns, request.pair);
        self.nodes[runs_at as usize].end(self.now_ns, service_ns);
        if !self.is_held(index) {
            return self.helper_lost(index);
        }
        let request = &self.requests[index as usize];
        let (node, worker, bytes) = (request.node, request.worker, request.wish.bytes);
        let costs = &self.scenario.costs;
        let (message_ns, one_way_ns, is_sealed) =
            (costs.lend.message, costs.fabric.one_way, costs.app_on_core);
        match (pair, costs.lend.key_with_request) {
            (NONE, _) if is_sealed => self.end(index),
            (NONE, _) => {
                let jobs = self.reply_jobs(bytes, false);
                self.core(node, worker, &jobs, Then { kind: Kind::End, index, later_ns: 0 });
            }
            (_, true) => {
                self.requests[index as usize].claimed_ns = self.now_ns;
                self.go(index);
            }
            (_, false) => {
                let claimed = Then { kind: Kind::Claimed, index, later_ns: one_way_ns };
                self.core(runs_at, worker, &[(Use::Lend, message_ns)], claimed);
            }
        }
    }

    /// The client has its reply.
    pub(crate) fn end(&mut self, index: u32) {
        if !self.is_held(index) {
            return self.fail(index);
        }
        let request = &self.requests[index as usize];
        if request.is_measured {
            self.tally.ended(self.now_ns - request.asked_ns);
        }
        self.tally.done += 1;
        self.over(index);
    }

    /// It has none, and never will.
    pub(crate) fn fail(&mut self, index: u32) {
        if self.requests[index as usize].is_measured {
            self.tally.failed();
        }
        self.over(index);
    }

    /// A request is over: its connection goes on or ends, its session too.
    pub(crate) fn over(&mut self, index: u32) {
        self.ended += 1;
        let request = &mut self.requests[index as usize];
        request.is_measured = false;
        let (client, connection, port) = (request.client, request.connection, request.port);
        // One that has waited for a kept connection has no port.
        if connection == NONE && port != 0 {
            self.front.close(self.now_ns, client, port);
            self.clients[client as usize].give_port(port);
        }
        match self.scenario.load.sessions {
            Some(sessions) if self.requests[index as usize].left > 0 => {
                let mut source = self.requests[index as usize].source.clone();
                let think_ns = sessions.think_ns * exponential(&mut source);
                let wish = self.wishes.wish_of(&mut source);
                let request = &mut self.requests[index as usize];
                (request.left, request.tries, request.wish) = (request.left - 1, 0, wish);
                (request.connection, request.pair, request.source) = (NONE, NONE, source);
                self.events.push(self.now_ns + think_ns as u64, Kind::Think, index);
            }
            _ => self.free.push(index),
        }
        if connection != NONE {
            let kept = self.scenario.load.kept.map_or(u32::MAX, |kept| kept.requests);
            match self.connections[connection as usize].used >= kept {
                true => self.open_again(connection),
                false => self.send_next(connection),
            }
        }
    }
}
