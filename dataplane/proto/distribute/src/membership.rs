//! Nodes that come and go while packets flow, in room taken at start. In: who comes and goes, how each fares, and tables of
//! places made elsewhere. Out: places of nodes that somebody else may have.
//!
//! Tables name a node by its place, and the next holder of a place must not be taken for the one before. So a place whose
//! node has left is swept out of all tables first, and out of the tables of places, before it is anybody's again. Flows
//! also carry in which of its lives their node was. A life is eight bits of an entry: a node that has gone so often since
//! the last sweep that they would come round again is held down until that sweep is over.

use std::sync::Arc;

use crate::distributor::Distributor;
use crate::places::Places;
use crate::pool::{Node, State};
use crate::reset::Reset;
use crate::{Model, NodeId, SERVICES_MAX};

/// Buckets of the tables looked at in one step of a sweep.
const SWEEP_BUCKETS: usize = 64;
/// Lives of a node that may have ended and still be in the flow table: one less than there are numbers for.
const ENDED_MAX: u8 = u8::MAX;

/// Services, by their places in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Services(u64);

const _: () = assert!(SERVICES_MAX <= u64::BITS as usize);

impl Services {
    /// Whether a service is one of them.
    pub fn has(self, service: usize) -> bool {
        service < SERVICES_MAX && self.0 & (1 << service) != 0
    }
}

impl FromIterator<usize> for Services {
    fn from_iter<I: IntoIterator<Item = usize>>(services: I) -> Services {
        Services(services.into_iter().filter(|it| *it < SERVICES_MAX).fold(0, |bits, it| bits | 1 << it))
    }
}

/// Whose a place is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holder {
    Nobody,
    Somebody,
    /// Nobody any more, but some table may still name it.
    Left,
}

/// A place for a node.
#[derive(Clone, Copy, Debug)]
struct Slot {
    holder: Holder,
    /// How its node is said to fare.
    told: State,
    /// Lives of it that have ended and may still be in the flow table.
    ended: u8,
    /// When a sweep stands here, none of them is, and nothing of one that has left.
    clean_at: u64,
}

const NOBODY: Slot = Slot { holder: Holder::Nobody, told: State::Down, ended: 0, clean_at: 0 };

/// All places, and where a sweep of the tables stands.
pub(crate) struct Membership {
    slots: Vec<Slot>,
    /// How often nodes have joined and left.
    revision: u64,
    /// Buckets swept since start: all tables one behind the other, again and again.
    swept: u64,
    /// Where the sweep may end.
    due: u64,
    /// Where the next slot is clean.
    next: u64,
    /// Free again, and not yet told; with room for all.
    vacated: Vec<NodeId>,
}

impl Membership {
    /// Of nodes that are there from the start.
    pub(crate) fn new(nodes: &[Node]) -> Membership {
        let slot = |node: &Node| Slot { holder: Holder::Somebody, told: node.state, ..NOBODY };
        let slots: Vec<_> = nodes.iter().map(slot).collect();
        let vacated = Vec::with_capacity(slots.len());
        Membership { slots, revision: 0, swept: 0, due: 0, next: u64::MAX, vacated }
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.swept >= self.due
    }

    /// One round from here on, and a slot is clean; `ring`: buckets of all tables.
    fn sweep_for(&mut self, id: NodeId, ring: u64) {
        if self.is_idle() {
            // From the start of the flow table: clients are told first.
            self.swept = self.swept.next_multiple_of(ring);
        }
        let clean_at = self.swept + ring;
        self.slots[id.index()].clean_at = clean_at;
        self.due = clean_at;
        self.next = self.next.min(clean_at);
    }
}

impl Distributor {
    /// With room for so many nodes, those included that are there.
    pub fn with_room(mut self, nodes: usize) -> Distributor {
        let room = nodes.max(self.nodes.len());
        let vacant = || Node { name: String::new(), weight: 1, state: State::Down };
        self.nodes.resize_with(room, vacant);
        self.lives.resize(room, 0);
        self.names.reserve(room);
        self.membership.slots.resize(room, NOBODY);
        self.membership.vacated.reserve(room);
        for (_, pool) in &mut self.services {
            pool.reserve(room);
        }
        self
    }

    /// Places for nodes.
    pub fn room(&self) -> usize {
        self.nodes.len()
    }

    /// A node comes, to serve these; it fares as its state says.
    ///
    /// # Panics
    /// If the place is not free: a mistake of the caller.
    pub fn join(&mut self, id: NodeId, node: Node, services: Services) {
        let slot = &mut self.membership.slots[id.index()];
        assert!(slot.holder == Holder::Nobody, "place {} is {}'s", id.0, self.nodes[id.index()].name);
        *slot = Slot { holder: Holder::Somebody, told: node.state, ..*slot };
        self.names.join(id, &node.name);
        self.nodes[id.index()] = node;
        self.membership.revision += 1;
        for (service, (_, pool)) in self.services.iter_mut().enumerate() {
            if services.has(service) {
                pool.join(id);
            }
        }
    }

    /// A node is none any more; what it had is lost. [`vacated`](Distributor::vacated) says when its place is free.
    pub fn leave(&mut self, id: NodeId) {
        self.set_state(id, State::Down);
        if self.membership.slots[id.index()].holder != Holder::Somebody {
            return;
        }
        for (_, pool) in &mut self.services {
            pool.leave(id);
        }
        self.names.leave(id);
        self.membership.slots[id.index()].holder = Holder::Left;
        self.membership.revision += 1;
        let ring = self.ring();
        self.membership.sweep_for(id, ring);
    }

    /// A place that is free again; each is told once.
    pub fn vacated(&mut self) -> Option<NodeId> {
        self.membership.vacated.pop()
    }

    /// A service spreads clients otherwise from here on. Who has a flow keeps it; what is known of clients stays, and is of use
    /// as soon as the model asks for it.
    pub fn set_model(&mut self, service: usize, model: Model) {
        if let Some((_, pool)) = self.services.get_mut(service) {
            pool.model = model;
        }
    }

    /// A node fares otherwise. Connections of one that is gone, even if it is back, are reset by
    /// [`sweep`](Distributor::sweep), and when their clients send something. Its places go by
    /// [`set_places`](Distributor::set_places); until then what is theirs goes to others.
    pub fn set_state(&mut self, id: NodeId, state: State) {
        let slot = &mut self.membership.slots[id.index()];
        // Of one that has left there may still be news on the way.
        if slot.holder == Holder::Somebody {
            slot.told = state;
            self.fare(id);
        }
    }

    /// Makes a node's state what it is said to be, unless it has to wait for a sweep.
    fn fare(&mut self, id: NodeId) {
        let slot = &mut self.membership.slots[id.index()];
        let state = if slot.ended == ENDED_MAX { State::Down } else { slot.told };
        let before = std::mem::replace(&mut self.nodes[id.index()].state, state);
        if state == State::Down && before != State::Down {
            slot.ended += 1;
            self.lives[id.index()] = self.lives[id.index()].wrapping_add(1);
            let ring = self.ring();
            self.membership.sweep_for(id, ring);
        }
    }

    /// New tables of places. Those of before the last node came or left are not taken: newer ones are on their way.
    pub fn set_places(&mut self, places: Arc<Places>) {
        if places.revision() == self.membership.revision {
            self.places = places;
            self.vacate();
        }
    }

    /// Buckets of all tables.
    fn ring(&self) -> u64 {
        (self.flows.buckets() + self.clients.buckets() + self.fragments.buckets()) as u64
    }

    /// Takes what nodes had that are gone out of the tables, some at a time, and tells its clients; answers whether there may
    /// be more.
    pub fn sweep(&mut self, out: impl FnMut(Reset)) -> bool {
        if self.membership.is_idle() {
            return false;
        }
        let at = (self.membership.swept % self.ring()) as usize;
        let (flows, clients) = (self.flows.buckets(), self.clients.buckets());
        let slots = &self.membership.slots;
        let is_kept = |node: NodeId| slots[node.index()].holder != Holder::Left;
        let (from, end) = if at < flows {
            self.sweep_flows(at, out);
            (at, flows)
        } else if at < flows + clients {
            self.clients.sweep(at - flows, SWEEP_BUCKETS, |_, client| is_kept(client.node));
            (at - flows, clients)
        } else {
            self.fragments.sweep(at - flows - clients, SWEEP_BUCKETS, |_, pieces| is_kept(pieces.node));
            (at - flows - clients, self.fragments.buckets())
        };
        self.membership.swept += SWEEP_BUCKETS.min(end - from) as u64;
        if self.membership.swept >= self.membership.next {
            self.clean();
        }
        !self.membership.is_idle()
    }

    fn sweep_flows(&mut self, from: usize, mut out: impl FnMut(Reset)) {
        let (lives, services, counters) = (&self.lives, &self.services, &mut self.counters);
        self.flows.sweep(from, SWEEP_BUCKETS, |key, known| {
            if lives[known.node().index()] == known.life {
                return true;
            }
            // Of a connection that another distributor has told of it is that one's to say so.
            if known.stage.is_open() && known.is_ours() {
                let service = services[usize::from(key.service)].0;
                counters.resets += 1;
                out(Reset::unasked(key.flow(service), known.acknowledged));
            }
            false
        });
    }

    /// A round is over for some slots.
    fn clean(&mut self) {
        self.membership.next = u64::MAX;
        for id in (0..self.room() as u16).map(NodeId) {
            let Membership { slots, swept, next, .. } = &mut self.membership;
            let slot = &mut slots[id.index()];
            if slot.clean_at > *swept {
                *next = slot.clean_at.min(*next);
            } else if slot.ended > 0 {
                slot.ended = 0;
                self.fare(id);
            }
        }
        self.vacate();
    }

    /// Frees the places that no table names any more.
    fn vacate(&mut self) {
        let Membership { slots, swept, vacated, .. } = &mut self.membership;
        for (id, slot) in (0..).map(NodeId).zip(slots) {
            if slot.holder == Holder::Left && slot.clean_at <= *swept && !self.places.has(id) {
                slot.holder = Holder::Nobody;
                vacated.push(id);
            }
        }
    }
}
