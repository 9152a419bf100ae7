//! What two ends tell each other while their link lives, besides heartbeats: it depends on what they are. In: messages of
//! the peer. Out: messages for it. Control thread.

use std::rc::Rc;
use std::time::Instant;

use keyferry_lease::PairSecret;

use super::companions::Companion;
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
    /// Two distributors: where each is.
    Meet(Companion),
}

impl Talk {
    /// With a peer just connected; `secret` is what only this life of the link gives.
    pub(super) async fn new(
        local: &Local,
        ours: &Hello,
        peer: &Hello,
        secret: impl FnOnce() -> Result<PairSecret, LinkError>,
    ) -> Result<Talk, LinkError> {
        let talk = match (&local.duty, peer.role) {
            (Duty::Node(_), Role::Node) => Talk::Keys(ticket_keys::Told::default()),
            (Duty::Node(node), Role::Distributor) => {
                Talk::Announce(Rc::clone(&node.announcer), announce::Told::default())
            }
            (Duty::Distributor(it), Role::Node) => {
                it.nodes.up(peer).await;
                Talk::Listen(Rc::clone(&it.nodes), peer.node.clone())
            }
            (Duty::Distributor(it), Role::Distributor) => {
                Talk::Meet(Companion::new(&it.companions, &secret()?, ours, peer))
            }
        };
        Ok(talk)
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
            (Talk::Meet(companion), Message::Station(addresses)) => {
                if !companion.heard(&addresses).await {
                    return Err(LinkError::Order);
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
            Talk::Meet(companion) => companion.station().map(Message::Station).into_iter().collect(),
            Talk::Listen(..) => Vec::new(),
        }
    }
}
