//! Counts of a node's links and of what goes over them. In: what happens to them. Out: a block of counters that anybody
//! may read, and whether this node is the first of those that see each other. Control thread.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use keyferry_tls::TicketCounts;
use keyferry_worker::moved::Moved;

use super::message::Role;
use super::roster::Roster;
use crate::counters::{Block, Registry};

/// The counters, in the order in which they are published.
const NAMES: &[&str] = &[
    "links_up",
    "links_made",
    "links_lost",
    "links_failed",
    "ticket_keys",
    "ticket_keys_taken",
    "ticket_keys_refused",
    "tickets_sealed",
    "tickets_opened",
    "tickets_refused",
];

/// What each of [`NAMES`] counts.
const HELP: [&str; NAMES.len()] = [
    "Links that live.",
    "Links that came to life.",
    "Links that ended.",
    "Attempts at a link, of either end, that came to nothing.",
    "Ticket keys known.",
    "Ticket keys taken from other nodes.",
    "Ticket keys of other nodes not taken: there were too many.",
    "Tickets sealed.",
    "Tickets of clients opened.",
    "Tickets of clients refused: of an unknown key, too old, or damaged.",
];

/// What is counted.
#[derive(Clone, Copy, Default)]
struct Counts {
    made: u64,
    lost: u64,
    failed: u64,
    tickets: TicketCounts,
}

/// Counts of all links, and who is at their other ends; shared by their tasks.
#[derive(Clone)]
pub struct Tally(Rc<Inner>);

struct Inner {
    block: Arc<Block>,
    counts: Cell<Counts>,
    /// Links to nodes that live, by peer.
    up: RefCell<BTreeMap<String, usize>>,
    roster: Roster,
}

impl Tally {
    /// The counters, each with what it counts.
    pub fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
        NAMES.iter().copied().zip(HELP)
    }

    /// All zero, published in `registry`.
    pub fn new(registry: &Registry) -> Tally {
        let block = registry.block(NAMES, "links".to_owned());
        let (counts, up, roster) = (Cell::default(), RefCell::default(), Roster::default());
        Tally(Rc::new(Inner { block, counts, up, roster }))
    }

    /// What is known of each peer's link.
    pub fn roster(&self) -> &Roster {
        &self.0.roster
    }

    /// A link has come to life, and lives as long as what this returns; `moved`: where its queue pairs count leases.
    pub(super) fn made(&self, peer: &str, role: Role, moved: Vec<Arc<Moved>>) -> Made {
        self.0.roster.up(peer, moved);
        self.count(|counts| counts.made += 1);
        if role == Role::Node {
            *self.0.up.borrow_mut().entry(peer.to_owned()).or_default() += 1;
        }
        Made { tally: self.clone(), peer: peer.to_owned(), role }
    }

    /// Whether no node whose name sorts before this one's is linked to it.
    pub(super) fn is_first(&self, node: &str) -> bool {
        self.0.up.borrow().keys().next().is_none_or(|first| node < first.as_str())
    }

    /// What has become of tickets.
    pub(super) fn tickets(&self, tickets: TicketCounts) {
        self.count(|counts| counts.tickets = tickets);
    }

    /// An attempt, of either end, has come to nothing.
    pub(super) fn failed(&self) {
        self.count(|counts| counts.failed += 1);
    }

    fn count(&self, what: impl FnOnce(&mut Counts)) {
        let Inner { block, counts, .. } = &*self.0;
        let mut now = counts.get();
        what(&mut now);
        counts.set(now);
        let tickets = now.tickets;
        block.publish(&[
            now.made - now.lost,
            now.made,
            now.lost,
            now.failed,
            tickets.keys,
            tickets.keys_taken,
            tickets.keys_refused,
            tickets.sealed,
            tickets.opened,
            tickets.refused,
        ]);
    }
}

/// A link that lives.
pub(super) struct Made {
    tally: Tally,
    peer: String,
    role: Role,
}

impl Made {
    /// The peer has said something.
    pub(super) fn heard(&self) {
        self.tally.roster().heard(&self.peer);
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        self.tally.roster().down(&self.peer);
        self.tally.count(|counts| counts.lost += 1);
        let mut up = self.tally.0.up.borrow_mut();
        if self.role == Role::Node
            && let Some(links) = up.get_mut(&self.peer)
        {
            *links -= 1;
        }
        up.retain(|_, links| *links > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_up_are_those_made_and_not_lost() {
        let registry = Registry::new();
        let tally = Tally::new(&registry);
        let (one, _other) = (tally.made("a", Role::Node, vec![]), tally.made("c", Role::Node, vec![]));
        drop(tally.made("0", Role::Distributor, vec![]));
        assert_eq!(["0", "b", "d"].map(|node| tally.is_first(node)), [true, false, false]);
        drop(one);
        assert_eq!(["0", "b", "d"].map(|node| tally.is_first(node)), [true, true, false]);
        tally.failed();
        let links = ["links_up", "links_made", "links_lost", "links_failed"];
        assert_eq!(links.map(|name| registry.total(name)), [1, 3, 2, 1]);
    }

    #[test]
    fn what_becomes_of_tickets_is_told_as_it_is() {
        let registry = Registry::new();
        let tally = Tally::new(&registry);
        let counts =
            TicketCounts { keys: 3, keys_taken: 1, keys_refused: 2, sealed: 5, opened: 6, refused: 4 };
        tally.tickets(counts);
        let keys = ["ticket_keys", "ticket_keys_taken", "ticket_keys_refused"];
        assert_eq!(keys.map(|name| registry.total(name)), [3, 1, 2]);
        let tickets = ["tickets_sealed", "tickets_opened", "tickets_refused"];
        assert_eq!(tickets.map(|name| registry.total(name)), [5, 6, 4]);
    }
}
