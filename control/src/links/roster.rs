//! What an operator wants to know of each peer's link: since when it is up, how many queue pairs it has, how many requests moved
//! over them, when something was last heard, and why it is down. In: what happens to links. Out: a row a peer. Control thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use keyferry_worker::moved::Moved;
use serde::Serialize;

/// Peers remembered at most; more than a process may have at a time. Of more, those are forgotten that are down.
const PEERS_MAX: usize = 1024;

/// The links of a node, by peer; shared by their tasks.
#[derive(Clone, Default)]
pub struct Roster(Rc<RefCell<BTreeMap<String, Seen>>>);

/// What was seen of one peer.
#[derive(Default)]
struct Seen {
    /// Lives of its link: one that is replaced overlaps with the next.
    lives: usize,
    /// Where each queue pair of its link counts leases.
    moved: Vec<Arc<Moved>>,
    /// Leases lent and borrowed over earlier ones.
    before: [u64; 2],
    changed: Option<Instant>,
    heard: Option<Instant>,
    problem: Option<String>,
}

/// One peer, as operators see it.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Where it is reached, as configured.
    pub address: Option<String>,
    /// The link: "up" or "down".
    pub link: &'static str,
    /// Since when, in seconds ago; none if it was never up.
    pub since_s: Option<u64>,
    /// Queue pairs made with it.
    pub queue_pairs: usize,
    /// Requests lent to it since the start, and borrowed from it.
    pub lent: u64,
    /// See `lent`.
    pub borrowed: u64,
    /// When it was last heard, in ms ago.
    pub heard_ms: Option<u64>,
    /// Why it is down, or was not to be had last.
    pub problem: Option<String>,
}

impl Seen {
    /// Leases lent and borrowed, over all queue pairs there have been.
    fn leases(&self) -> [u64; 2] {
        self.moved.iter().map(|moved| moved.counts()).fold(self.before, |[lent, borrowed], [to, from]| {
            [lent.wrapping_add(to), borrowed.wrapping_add(from)]
        })
    }

    /// The queue pairs there are now.
    fn replace(&mut self, moved: Vec<Arc<Moved>>) {
        (self.before, self.moved) = (self.leases(), moved);
    }
}

impl Roster {
    fn note(&self, peer: &str, what: impl FnOnce(&mut Seen)) {
        let mut peers = self.0.borrow_mut();
        if !peers.contains_key(peer) && peers.len() >= PEERS_MAX {
            peers.retain(|_, seen| seen.lives > 0);
        }
        if peers.contains_key(peer) || peers.len() < PEERS_MAX {
            what(peers.entry(peer.to_owned()).or_default());
        }
    }

    /// A link has come to life.
    pub(super) fn up(&self, peer: &str, moved: Vec<Arc<Moved>>) {
        let now = Some(Instant::now());
        self.note(peer, |seen| {
            seen.lives += 1;
            seen.replace(moved);
            (seen.changed, seen.heard, seen.problem) = (now, now, None);
        });
    }

    /// Something came over a link.
    pub(super) fn heard(&self, peer: &str) {
        self.note(peer, |seen| seen.heard = Some(Instant::now()));
    }

    /// A link that came to life has ended.
    pub(super) fn down(&self, peer: &str) {
        self.note(peer, |seen| {
            seen.lives = seen.lives.saturating_sub(1);
            if seen.lives == 0 {
                seen.replace(Vec::new());
                seen.changed = Some(Instant::now());
            }
        });
    }

    /// Why there is no link, or none any more.
    pub(super) fn problem(&self, peer: &str, sentence: &str) {
        self.note(peer, |seen| {
            if seen.lives == 0 {
                seen.problem = Some(sentence.to_owned());
            }
        });
    }

    /// Whether a link to this peer lives.
    pub(crate) fn is_up(&self, peer: &str) -> bool {
        self.0.borrow().get(peer).is_some_and(|seen| seen.lives > 0)
    }

    /// A row for each peer of the configuration, and for each other that was seen.
    pub fn rows(&self, configured: &[(String, String)]) -> Vec<Row> {
        let seen = self.0.borrow();
        let address = |name: &str| configured.iter().find(|(peer, _)| peer == name).map(|(_, it)| it.clone());
        let mut names: Vec<&String> = configured.iter().map(|(name, _)| name).chain(seen.keys()).collect();
        names.sort();
        names.dedup();
        let unseen = Seen::default();
        let row = |name: &String| {
            let seen = seen.get(name).unwrap_or(&unseen);
            let [lent, borrowed] = seen.leases();
            Row {
                name: name.clone(),
                address: address(name),
                link: if seen.lives > 0 { "up" } else { "down" },
                since_s: seen.changed.map(|at| at.elapsed().as_secs()),
                queue_pairs: seen.moved.len(),
                lent,
                borrowed,
                heard_ms: seen.heard.map(|at| at.elapsed().as_millis() as u64),
                problem: seen.problem.clone(),
            }
        };
        names.into_iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_those_of_all_queue_pairs_there_have_been() {
        let roster = Roster::default();
        let pairs: [Arc<Moved>; 3] = Default::default();
        let leases = || {
            let row = roster.rows(&[]).remove(0);
            (row.queue_pairs, row.lent, row.borrowed)
        };
        roster.up("b", pairs[..2].to_vec());
        pairs[0].lent();
        pairs[1].lent();
        pairs[1].borrowed();
        assert_eq!(leases(), (2, 2, 1));
        roster.down("b");
        assert_eq!(leases(), (0, 2, 1), "what was stays");
        roster.up("b", pairs[2..].to_vec());
        pairs[2].borrowed();
        assert_eq!(leases(), (1, 2, 2));
    }

    #[test]
    fn rows_follow_the_links() {
        let roster = Roster::default();
        let configured = [("b".to_owned(), "unix:/b".to_owned())];
        let only = |roster: &Roster| roster.rows(&configured)[0].clone();
        assert_eq!((only(&roster).link, only(&roster).since_s), ("down", None));
        roster.problem("b", "nobody listens");
        assert_eq!(only(&roster).problem.as_deref(), Some("nobody listens"));
        let pairs = |count: usize| (0..count).map(|_| Arc::default()).collect();
        roster.up("b", pairs(2));
        // A new life begins before the old one has ended.
        roster.up("b", pairs(3));
        roster.down("b");
        let row = only(&roster);
        assert_eq!((row.link, row.queue_pairs, row.problem), ("up", 3, None));
        assert!(row.heard_ms.is_some());
        roster.down("b");
        roster.problem("b", "it is ending");
        let row = only(&roster);
        assert_eq!((row.link, row.queue_pairs, row.problem.as_deref()), ("down", 0, Some("it is ending")));
        roster.up("z", pairs(1));
        assert_eq!(roster.rows(&configured).len(), 2, "one that is not configured is seen as well");
        // Peers come and go under other names for ever.
        for number in 0..2 * PEERS_MAX {
            roster.up(&number.to_string(), pairs(1));
            assert!(roster.is_up(&number.to_string()) && roster.is_up("z"));
            roster.down(&number.to_string());
        }
        assert!(roster.rows(&[]).len() <= PEERS_MAX);
    }
}
