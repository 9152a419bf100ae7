//! What takes time: cores, slots, wires. In: jobs. Out: when they are done. Owned by a run.
//!
//! A worker's core does what comes in turn: so does the product's. Where the application works on the core, as on the paper's
//! servers, its jobs share it: requests are processes or threads there, and their system gives each a slice in turn.

use crate::events::Kind;
use crate::share::Then;
use crate::tally::Use;
use crate::world::World;

/// Of a reply's cost by the KB.
pub(crate) fn of_size(per_kb: u64, bytes: u32) -> u64 {
    per_kb * u64::from(bytes) / 1024
}

impl World {
    /// Gives a core a job; `then` is due once it is done.
    pub(crate) fn core(&mut self, node: u32, worker: u32, jobs: &[(Use, u64)], then: Then) {
        if self.shares.is_empty() {
            let done_ns = self.core_in_turn(node, worker, jobs);
            return self.events.push(done_ns + then.later_ns, then.kind, then.index);
        }
        let all_ns = self.count(node, jobs);
        let core = node as usize * self.scenario.cluster.workers + worker as usize;
        let share = &mut self.shares[core];
        let at_ns = match then.kind {
            // What a client begins. What goes on from there has its process; messages need none.
            Kind::Ready | Kind::Decide => share.admit(self.now_ns, all_ns, then),
            _ => share.add(self.now_ns, all_ns, then),
        };
        if let Some(at_ns) = at_ns {
            self.events.push(at_ns, Kind::Shared, core as u32);
        }
    }

    /// A core that jobs share may be done with some.
    pub(crate) fn shared(&mut self, core: u32) {
        let share = &mut self.shares[core as usize];
        if !share.is_planned(self.now_ns) {
            return;
        }
        while let Some(Then { kind, index, later_ns }) = share.done(self.now_ns) {
            self.events.push(self.now_ns + later_ns, kind, index);
        }
        if let Some(at_ns) = share.go_on() {
            self.events.push(at_ns, Kind::Shared, core);
        }
    }

    /// Gives a core that does one job after the other a job; answers when it is done.
    pub(crate) fn core_in_turn(&mut self, node: u32, worker: u32, jobs: &[(Use, u64)]) -> u64 {
        debug_assert!(self.shares.is_empty(), "jobs of this core share it");
        let all_ns = self.count(node, jobs);
        let at = node as usize * self.scenario.cluster.workers + worker as usize;
        let free_ns = &mut self.cores_ns[at];
        *free_ns = (*free_ns).max(self.now_ns) + all_ns;
        *free_ns
    }

    /// Counts jobs as work of a node's core; answers how long they take there.
    fn count(&mut self, node: u32, jobs: &[(Use, u64)]) -> u64 {
        let factor = self.nodes[node as usize].factor;
        let mut all_ns = 0;
        for (used, ns) in jobs {
            let ns = (*ns as f64 * factor) as u64;
            self.tally.uses[*used as usize] += ns;
            all_ns += ns;
        }
        self.tally.core_ns[node as usize] += all_ns;
        all_ns
    }

    /// Gives a node's application a job; answers when it is done. Slots serve one queue in turn: the one that is free first
    /// takes the next job.
    pub(crate) fn slot(&mut self, node: u32, service_ns: u64) -> u64 {
        let slots = self.scenario.cluster.slots;
        let own = &mut self.slots_ns[node as usize * slots..(node as usize + 1) * slots];
        let first = own.iter_mut().min().expect("a node has slots");
        *first = (*first).max(self.now_ns) + service_ns;
        self.tally.uses[Use::App as usize] += service_ns;
        self.tally.app_ns[node as usize] += service_ns;
        *first
    }

    /// Bytes leave a node at `from_ns` for another: when they are there.
    pub(crate) fn wire(&mut self, node: u32, from_ns: u64, bytes: u32) -> u64 {
        let fabric = &self.scenario.costs.fabric;
        let free_ns = &mut self.wires_ns[node as usize];
        *free_ns = (*free_ns).max(from_ns) + of_size(fabric.per_kb, bytes);
        *free_ns + fabric.one_way
    }

    /// Whether the node that has the request's connection still is what it was.
    pub(crate) fn is_held(&self, index: u32) -> bool {
        let request = &self.requests[index as usize];
        self.nodes[request.node as usize].life == request.life
    }

    /// Whether the node it runs at is.
    pub(crate) fn runs(&self, index: u32) -> bool {
        let request = &self.requests[index as usize];
        let node = &self.nodes[request.runs_at as usize];
        node.is_alive && node.life == request.runs_life
    }

    pub(crate) fn service_ns(&self, index: u32, node: u32) -> u64 {
        (self.requests[index as usize].wish.work_ns as f64 * self.nodes[node as usize].factor) as u64
    }

    /// What is done where a reply is sealed: on the way to the client, or to the node that lent the request.
    pub(crate) fn reply_jobs(&self, bytes: u32, is_lent: bool) -> [(Use, u64); 3] {
        let (core, lend) = (&self.scenario.costs.core, &self.scenario.costs.lend);
        let seal = (Use::Seal, of_size(core.seal_per_kb, bytes));
        match is_lent {
            true => {
                [seal, (Use::Lend, lend.message + lend.key), (Use::Lend, of_size(lend.out_per_kb, bytes))]
            }
            false => [seal, (Use::Request, core.reply), (Use::Send, of_size(core.send_per_kb, bytes))],
        }
    }
}
