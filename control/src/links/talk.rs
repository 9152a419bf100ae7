//! What two ends tell each other while their link lives, besides heartbeats: it depends on what they are. In: messages of
//! the peer. Out: messages for it. Control thread.

use std::rc::Rc;
use std::time::Instant;

use super::life::{Duty, Local};
use super::message::{Hello, Message, Role};
use super::{Announcer, LinkError, Nodes, announce, ticket_keys};

/// One life's talk.
pub(super) enum Talk {
    /// Two nodes: keys of tickets.
    Keys(ticket_keys::Told),
    /// A node, to a distributor: how it fares, and whose sessions it has.
    Announce(Rc<Announcer>, announce::Told),
    /// A distributor, of the node of that name.
    Listen(Rc<Nodes>, String),
    /// Two distributors.
    Nothing,
}

impl Talk {
    /// With a peer just connected.
    pub(super) async fn new(local: &Local, peer: &Hello) -> Talk {
        match (&local.duty, peer.role) {
            (Duty::Node(_), Role::Node) => Talk::Keys(ticket_keys::Told::default()),
            (Duty::Node(node), Role::Distributor) => {
                Talk::Announce(Rc::clone(&node.announcer), announce::Told::default())
            }
            (Duty::Distributor(nodes), Role::Node) => {
                nodes.up(peer).await;
                Talk::Listen(Rc::clone(nodes), peer.node.clone())
            }
            (Duty::Distributor(_), Role::Distributor) => Talk::Nothing,
        }
    }

    /// The peer tells something.
    ///
    /// # Errors
    /// It is not what such a peer tells.
    pub(super) async fn heard(&mut self, local: &Local, message: Message) -> Result<(), LinkError> {
        match (self, message) {
            (Talk::Keys(told), Message::TicketKey(key)) => told.heard(local.tickets(), &key),
            (Talk::Listen(nodes, node), Message::State(state)) => nodes.heard(node, state).await,
            (Talk::Listen(nodes, node), Message::Sessions(sessions)) => {
                for session in sessions {
                    nodes.has_session(node, session).await;
                }
            }
            _ => return Err(LinkError::Order),
        }
        Ok(())
    }

    /// What the peer is to be told now.
    pub(super) fn news(&mut self, local: &Local) -> Vec<Message> {
        match self {
            Talk::Keys(told) => told.news(local.tickets()),
            Talk::Announce(announcer, told) => told.news(announcer, Instant::now()),
            Talk::Listen(..) | Talk::Nothing => Vec::new(),
        }
    }
}
