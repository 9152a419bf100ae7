//! Nodes that fail and come back, and when others notice. Owned by a run.

use crate::events::Kind;
use crate::world::World;

impl World {
    /// A node stops: all it had is lost.
    pub(crate) fn fault(&mut self, index: usize) {
        let failure = self.scenario.cluster.failures[index];
        let node = failure.node;
        self.nodes[node].fail(self.now_ns);
        self.free_all(node);
        self.events.push(self.now_ns + self.scenario.cluster.notice_ns, Kind::Notice, index as u32);
        if let Some(back_ns) = failure.back_ns {
            self.events.push(back_ns.max(self.now_ns), Kind::Back, index as u32);
        }
    }

    /// Its cores, slots and wire have nothing to do.
    fn free_all(&mut self, node: usize) {
        let (workers, slots, now_ns) =
            (self.scenario.cluster.workers, self.scenario.cluster.slots, self.now_ns);
        // Jobs it was given and did not do are no work.
        let (core_ns, app_ns) = self.backlog_ns(node);
        self.tally.core_ns[node] = self.tally.core_ns[node].saturating_sub(core_ns);
        self.tally.app_ns[node] = self.tally.app_ns[node].saturating_sub(app_ns);
        for free in &mut self.cores_ns[node * workers..(node + 1) * workers] {
            *free = (*free).min(now_ns);
        }
        for free in &mut self.slots_ns[node * slots..(node + 1) * slots] {
            *free = (*free).min(now_ns);
        }
        self.wires_ns[node] = self.wires_ns[node].min(now_ns);
        // What was due is so now, and will find that the node is not what it was.
        for core in node * workers..((node + 1) * workers).min(self.shares.len()) {
            for then in self.shares[core].drop_all(now_ns) {
                self.events.push(now_ns, then.kind, then.index);
            }
        }
    }

    /// The distributor and its peers know that it is gone, unless it is back.
    pub(crate) fn notice(&mut self, index: usize) {
        let node = self.scenario.cluster.failures[index].node;
        if !self.nodes[node].is_alive {
            self.nodes[node].is_up = false;
            self.front.fare(node, false);
        }
    }

    /// It runs again, and everyone knows.
    pub(crate) fn come_back(&mut self, index: usize) {
        let node = self.scenario.cluster.failures[index].node;
        if self.nodes[node].is_alive {
            return;
        }
        // What went to its former life is lost, also if nobody had noticed yet.
        self.front.fare(node, false);
        self.front.fare(node, true);
        self.nodes[node].come_back(self.now_ns);
    }
}
