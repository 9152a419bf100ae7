//! Nodes behind a service, and the choice among them for a client that comes.
//!
//! In: which nodes there are and how they fare. Out: one of them. Pure.

use crate::maglev::{Maglev, Place};
use crate::{Model, NodeId};

/// How a node fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// It takes new connections.
    Up,
    /// It keeps those it has, and takes no new ones.
    Draining,
    /// It is gone, and its connections with it. So is one that has not been heard of yet.
    #[default]
    Down,
}

/// A node.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is called everywhere.
    pub name: String,
    /// Its share beside the others'.
    pub weight: u8,
    /// How it fares.
    pub state: State,
}

/// Nodes that serve the same.
pub(crate) struct Pool {
    pub(crate) model: Model,
    members: Vec<NodeId>,
    /// Whose turn it is.
    next: usize,
    places: Maglev,
}

impl Pool {
    pub(crate) fn new(model: Model, members: Vec<NodeId>, nodes: &[Node]) -> Pool {
        let mut pool = Pool { model, members, next: 0, places: Maglev::default() };
        pool.settle(nodes);
        pool
    }

    /// Whether a node is one of its members.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }

    /// Makes the places anew: a node has come or gone.
    pub(crate) fn settle(&mut self, nodes: &[Node]) {
        let up = self.members.iter().filter(|id| nodes[id.index()].state == State::Up);
        let places: Vec<_> = up
            .map(|id| Place { id: *id, name: &nodes[id.index()].name, weight: nodes[id.index()].weight })
            .collect();
        self.places = Maglev::new(&places);
    }

    /// The next node in turn that takes new connections.
    pub(crate) fn in_turn(&mut self, nodes: &[Node]) -> Option<NodeId> {
        for _ in 0..self.members.len() {
            let id = self.members[self.next];
            self.next = (self.next + 1) % self.members.len();
            if nodes[id.index()].state == State::Up {
                return Some(id);
            }
        }
        None
    }

    /// Whose a flow is of which nothing is remembered.
    pub(crate) fn by_place(&self, hash: u64) -> Option<NodeId> {
        self.places.pick(hash)
    }
}
