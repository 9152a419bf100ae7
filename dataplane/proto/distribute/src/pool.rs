//! Nodes behind a service, and the choice among them for a client that comes.
//!
//! In: which nodes there are and how they fare. Out: one of them. Pure.

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
#[derive(Clone, PartialEq, Eq, Debug)]
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
}

impl Pool {
    pub(crate) fn new(model: Model, members: Vec<NodeId>) -> Pool {
        Pool { model, members, next: 0 }
    }

    /// Takes the memory for so many members.
    pub(crate) fn reserve(&mut self, members: usize) {
        self.members.reserve(members.saturating_sub(self.members.len()));
    }

    /// Whether a node is one of its members.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.members.contains(&node)
    }

    /// One more.
    pub(crate) fn join(&mut self, node: NodeId) {
        self.members.push(node);
    }

    /// One less, if it was one.
    pub(crate) fn leave(&mut self, node: NodeId) {
        let Some(at) = self.members.iter().position(|member| *member == node) else { return };
        self.members.remove(at);
        // Whose turn it was, it still is.
        self.next -= usize::from(at < self.next);
        self.next %= self.members.len().max(1);
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
}
