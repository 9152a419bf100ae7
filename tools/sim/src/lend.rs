//! A request that moves: granted, claimed, sealed at the helper, returned; and what becomes of it when a node goes.
//!
//! In: decisions to lend. Out: replies at the node that has the connection. Owned by a run.

use crate::clients::NONE;
use crate::events::Kind;
use crate::share::Then;
use crate::tally::Use;
use crate::work::of_size;
use crate::world::World;

impl World {
    /// A request is lent.
    pub(crate) fn grant(&mut self, index: u32, peer: usize, expected_us: u32) {
        let request = &self.requests[index as usize];
        let (node, worker) = (request.node, request.worker);
        let (helper, pair) = self.peers.peer(node as usize, worker as usize, peer);
        self.peers.granted(pair);
        self.tally.moved += 1;
        let (granted_ns, runs_life) = (self.now_ns, self.nodes[helper].life);
        let request = &mut self.requests[index as usize];
        (request.pair, request.granted_ns, request.expected_us) = (pair, granted_ns, expected_us);
        (request.runs_at, request.runs_life) = (helper as u32, runs_life);
        let message = (Use::Lend, self.scenario.costs.lend.message);
        let later_ns = self.scenario.costs.fabric.one_way;
        self.core(node, worker, &[message], Then { kind: Kind::Granted, index, later_ns });
    }

    /// A lent request is at its helper, or back from one that is gone.
    pub(crate) fn come_to_helper(&mut self, index: u32) {
        let pair = self.requests[index as usize].pair;
        if pair != NONE {
            self.peers.arrived(pair, self.now_ns);
        }
        if !self.is_held(index) || !self.runs(index) {
            return self.helper_lost(index);
        }
        let request = &self.requests[index as usize];
        let (node, worker, helper) = (request.node, request.worker, request.runs_at);
        if pair == NONE {
            return self.run_at(index, node);
        }
        let waits = |node: u32| self.nodes[node as usize].own().wait_us(0);
        self.tally.regretted += u64::from(waits(helper) > waits(node));
        if !self.scenario.costs.app_on_core {
            self.core_in_turn(helper, worker, &[(Use::Lend, self.scenario.costs.lend.message)]);
        }
        self.run_at(index, helper);
    }

    /// A lease came to nothing. Before *go* its node runs the request itself, once it knows.
    pub(crate) fn helper_lost(&mut self, index: u32) {
        let pair = std::mem::replace(&mut self.requests[index as usize].pair, NONE);
        if pair != NONE {
            self.peers.ended(pair);
        }
        if !self.is_held(index) {
            return self.fail(index);
        }
        let request = &mut self.requests[index as usize];
        let is_known =
            !self.nodes[request.runs_at as usize].is_up || self.nodes[request.runs_at as usize].is_alive;
        let later_ns = if is_known { 0 } else { self.scenario.cluster.notice_ns };
        (request.runs_at, request.runs_life) = (request.node, request.life);
        self.events.push(self.now_ns + later_ns, Kind::Granted, index);
    }

    /// The helper asks for the key.
    pub(crate) fn claimed(&mut self, index: u32) {
        if !self.is_held(index) {
            return self.helper_lost(index);
        }
        let request = &mut self.requests[index as usize];
        request.claimed_ns = self.now_ns;
        let (pair, expected_us, took_ns) =
            (request.pair, request.expected_us, self.now_ns - request.granted_ns);
        let (node, worker) = (request.node, request.worker);
        self.peers.claimed(pair, expected_us, took_ns);
        // The claim is opened, and *go* said.
        let messages = (Use::Lend, 2 * self.scenario.costs.lend.message);
        let later_ns = self.scenario.costs.fabric.one_way;
        self.core(node, worker, &[messages], Then { kind: Kind::Go, index, later_ns });
    }

    /// The helper has the key: it seals and writes.
    pub(crate) fn go(&mut self, index: u32) {
        if !self.is_held(index) || !self.runs(index) {
            return self.lease_broken(index);
        }
        let request = &self.requests[index as usize];
        let (helper, worker, bytes) = (request.runs_at, request.worker, request.wish.bytes);
        let message_ns = self.scenario.costs.lend.message;
        let sealed_ns = if self.scenario.costs.app_on_core {
            self.now_ns
        } else {
            let [seal, key, copy] = self.reply_jobs(bytes, true);
            self.core_in_turn(helper, worker, &[(Use::Lend, message_ns), seal, key, copy])
        };
        let there_ns = self.wire(helper, sealed_ns, bytes);
        self.events.push(there_ns, Kind::Returned, index);
    }

    /// After *go* only the helper knows which sequence numbers are spent: the connection ends.
    pub(crate) fn lease_broken(&mut self, index: u32) {
        let pair = std::mem::replace(&mut self.requests[index as usize].pair, NONE);
        self.peers.ended(pair);
        self.fail(index);
    }

    /// The records are in the memory of the node that lent the request.
    pub(crate) fn returned(&mut self, index: u32) {
        if !self.is_held(index) {
            return self.lease_broken(index);
        }
        let request = &mut self.requests[index as usize];
        let (node, worker, bytes) = (request.node, request.worker, request.wish.bytes);
        let pair = std::mem::replace(&mut request.pair, NONE);
        let took_ns = self.now_ns - request.claimed_ns;
        self.peers.exchanged(pair, took_ns);
        self.peers.ended(pair);
        let costs = &self.scenario.costs;
        let received = (Use::Lend, costs.lend.message + of_size(costs.lend.in_per_kb, bytes));
        let reply = (Use::Request, costs.core.reply);
        let send = (Use::Send, of_size(costs.core.send_per_kb, bytes));
        self.core(node, worker, &[received, reply, send], Then { kind: Kind::End, index, later_ns: 0 });
    }
}
