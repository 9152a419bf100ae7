//! Ticket keys of a cluster: made by one node, known to all. In: keys peers tell. Out: keys they have not been told. Keys
//! never leave memory but on links. Control thread.
//!
//! Of the nodes that see each other, the one whose name sorts first makes the next key, some time before it is used.
//! Every node tells each peer every key that the peer has not told it, so keys go round whatever links there are. A node
//! that sees nobody makes its own; when links come back all keys meet, and `keyferry_tls` picks the same one everywhere.

use std::collections::HashSet;
use std::time::Duration;

use keyferry_tls::{Resumer, TICKET_KEYS_MAX, TICKET_NAME_BYTES, TicketKey};
use tokio::time::sleep;

use super::Tally;
use super::message::Message;

/// Between looks at the keys' times, which are counted in seconds.
const LOOK: Duration = Duration::from_millis(250);
/// Keys told at one look of a link, at most: well below what an end takes at once.
const KEYS_A_LOOK: usize = 8;

/// Looks after the keys until it is dropped.
pub(super) async fn tend(resumer: Resumer, node: String, tally: Tally) {
    loop {
        resumer.tend_ticket_keys(tally.is_first(&node));
        tally.tickets(resumer.ticket_counts());
        sleep(LOOK).await;
    }
}

/// What the ends of a link know that the other knows.
#[derive(Default)]
pub(super) struct Told {
    names: HashSet<[u8; TICKET_NAME_BYTES]>,
    /// All keys up to this version are told.
    version: u64,
}

impl Told {
    /// The peer knows this one; now this node does. One that makes no tickets has no use for it.
    pub(super) fn heard(&mut self, resumer: Option<&Resumer>, key: &TicketKey) {
        if let Some(resumer) = resumer {
            resumer.take_ticket_key(key);
            self.remember(key.name);
        }
    }

    /// Some of what the peer has not been told.
    pub(super) fn news(&mut self, resumer: Option<&Resumer>) -> Vec<Message> {
        let Some(resumer) = resumer else { return Vec::new() };
        // Read before the keys are: one that comes meanwhile is found at the next look.
        let version = resumer.ticket_keys_version();
        if version == self.version {
            return Vec::new();
        }
        let mut keys = resumer.ticket_keys();
        keys.retain(|key| !self.names.contains(&key.name));
        if keys.len() <= KEYS_A_LOOK {
            self.version = version;
        }
        keys.truncate(KEYS_A_LOOK);
        keys.iter().for_each(|key| self.remember(key.name));
        keys.into_iter().map(Message::TicketKey).collect()
    }

    /// Bounded: a peer told something again only ignores it.
    fn remember(&mut self, name: [u8; TICKET_NAME_BYTES]) {
        if self.names.len() >= 4 * TICKET_KEYS_MAX {
            self.names.clear();
        }
        self.names.insert(name);
    }
}
