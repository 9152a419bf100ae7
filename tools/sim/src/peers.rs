//! What each worker knows about those it may lend to: its choice of helpers, their words as it read them, its own grants since,
//! and what lending to each has taken.
//!
//! In: grants, replies, `now`. Out: what `decide` needs to know of each. The same that the worker's `peer.rs` keeps, for all
//! workers of a cluster. Owned by a run.

use std::cmp::Ordering;
use std::time::Duration;

use keyferry_decide::{Lent, NodeId, Peer, home};

use crate::node::Node;

/// A load word is fresh this long after its reader saw it change, as in the worker.
const LOAD_LIFETIME_NS: u64 = 20_000_000;

/// Grants to one peer that no word read yet knows of; of more the oldest counts as known.
const RECENT: usize = 32;

/// Words that pass between two looks at a peer and are forgotten by, at most: what is left then is less than a us.
const FADES_MAX: u64 = 1 << 17;

/// One worker's view of one peer.
#[derive(Clone, Copy, Debug)]
struct Pair {
    node: u32,
    /// Leases under way.
    open: u32,
    lent: Lent,
    /// The last word read.
    word: u64,
    /// Grants on their way.
    leaving: u32,
    /// In the ring of those that have come.
    first: u32,
    recent: u32,
}

/// All pairs of a cluster.
pub struct Peers {
    pairs: Vec<Pair>,
    /// Moments at which grants come to the peer, a ring for each pair.
    arrivals: Vec<u64>,
    a_worker: usize,
    workers: usize,
    leases: u32,
    word_ns: u64,
    /// From a word's writing until it can be read.
    way_ns: u64,
}

/// Names of so many nodes.
pub fn names(nodes: usize) -> Vec<NodeId> {
    (0..nodes).map(|node| NodeId::of(&format!("n{}", node + 1))).collect()
}

/// Those that node `own` chooses as helpers, by rendezvous hash of its own name: all others, or the first so many.
pub fn helpers(own: usize, names: &[NodeId], most: usize) -> Vec<usize> {
    let mut others: Vec<usize> = (0..names.len()).filter(|node| *node != own).collect();
    if others.len() <= most {
        return others;
    }
    // The product's hash names the first of a list; of two at a time it orders them all.
    let mut name = [0; 32];
    name[..8].copy_from_slice(&(own as u64).to_be_bytes());
    others.select_nth_unstable_by(most, |one, other| match home(&name, &[names[*one], names[*other]]) {
        Some(first) if first == names[*one] => Ordering::Less,
        _ => Ordering::Greater,
    });
    others.truncate(most);
    others.sort_unstable();
    others
}

impl Peers {
    /// Of so many nodes with so many workers each; a worker is paired with that of the same number.
    pub fn new(nodes: usize, workers: usize, most: usize, leases: u32, word_ns: u64, way_ns: u64) -> Peers {
        let a_worker = most.min(nodes.saturating_sub(1));
        let pair = |node: usize| Pair {
            node: node as u32,
            open: 0,
            lent: Lent::default(),
            word: 0,
            leaving: 0,
            first: 0,
            recent: 0,
        };
        let mut pairs = Vec::with_capacity(nodes * workers * a_worker);
        let names = names(nodes);
        for own in 0..nodes {
            let chosen: Vec<Pair> = helpers(own, &names, most).into_iter().map(pair).collect();
            for _ in 0..workers {
                pairs.extend_from_slice(&chosen);
            }
        }
        Peers { arrivals: vec![0; pairs.len() * RECENT], pairs, a_worker, workers, leases, word_ns, way_ns }
    }

    /// Peers of a worker.
    pub fn count(&self) -> usize {
        self.a_worker
    }

    /// What a worker knows of its peers at this moment, in `views`; without `is_measured` what lending to them has taken may be
    /// older.
    pub fn views(
        &mut self,
        now_ns: u64,
        node: usize,
        worker: usize,
        is_measured: bool,
        nodes: &[Node],
        views: &mut Vec<Peer>,
    ) {
        views.clear();
        // A worker reads when it writes.
        let since_ns = now_ns.saturating_sub(nodes[node].phase_ns());
        let read_ns = now_ns - since_ns % self.word_ns;
        let from = (node * self.workers + worker) * self.a_worker;
        for at in from..from + self.a_worker {
            let pair = &mut self.pairs[at];
            let peer = &nodes[pair.node as usize];
            let Some((number, written_ns, word)) =
                read_ns.checked_sub(self.way_ns).and_then(|by| peer.word(by))
            else {
                views.push(Peer::absent());
                continue;
            };
            let arrivals = &self.arrivals[at * RECENT..(at + 1) * RECENT];
            while pair.recent > 0 && arrivals[pair.first as usize] <= written_ns {
                pair.first = (pair.first + 1) % RECENT as u32;
                pair.recent -= 1;
            }
            if is_measured {
                pair.fade(number);
            }
            views.push(Peer {
                ready: peer.is_up && pair.open < self.leases,
                fresh: read_ns - (written_ns + self.way_ns) <= LOAD_LIFETIME_NS,
                word,
                granted: pair.leaving + pair.recent,
                late_us: pair.lent.late_us(),
                cost_us: pair.lent.cost_us(),
            });
        }
    }

    /// The node of a worker's peer, and the number of the pair.
    pub fn peer(&self, node: usize, worker: usize, index: usize) -> (usize, u32) {
        let at = (node * self.workers + worker) * self.a_worker + index;
        (self.pairs[at].node as usize, at as u32)
    }

    /// A request was granted over a pair.
    pub fn granted(&mut self, pair: u32) {
        let pair = &mut self.pairs[pair as usize];
        pair.leaving += 1;
        pair.open += 1;
    }

    /// It is there.
    pub fn arrived(&mut self, pair: u32, now_ns: u64) {
        let at = pair as usize;
        let pair = &mut self.pairs[at];
        pair.leaving -= 1;
        if pair.recent as usize == RECENT {
            pair.first = (pair.first + 1) % RECENT as u32;
            pair.recent -= 1;
        }
        let place = (pair.first + pair.recent) as usize % RECENT;
        self.arrivals[at * RECENT + place] = now_ns;
        pair.recent += 1;
    }

    /// The reply was ready so long after its request was granted.
    pub fn claimed(&mut self, pair: u32, expected_us: u32, took_ns: u64) {
        if expected_us > 0 {
            self.pairs[pair as usize].lent.ready(expected_us, Duration::from_nanos(took_ns));
        }
    }

    /// From its claim to its return a lease took so long.
    pub fn exchanged(&mut self, pair: u32, took_ns: u64) {
        self.pairs[pair as usize].lent.exchanged(Duration::from_nanos(took_ns));
    }

    /// Leases under way, all together.
    pub fn open(&self) -> u32 {
        self.pairs.iter().map(|pair| pair.open).sum()
    }

    /// A lease is over.
    pub fn ended(&mut self, pair: u32) {
        self.pairs[pair as usize].open -= 1;
    }
}

impl Pair {
    /// Words up to this one have come.
    fn fade(&mut self, number: u64) {
        let words = number.saturating_sub(self.word).min(FADES_MAX);
        self.word = self.word.max(number);
        for _ in 0..words {
            if self.lent.late_us() == 0 && self.lent.cost_us() == 0 {
                break;
            }
            self.lent.fade();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_chooses_so_many_others_and_all_of_few() {
        let all = names(200);
        assert_eq!(helpers(1, &all[..4], 32), [0, 2, 3]);
        let mut chosen_by = [0; 200];
        for own in 0..200 {
            let chosen = helpers(own, &all, 32);
            assert_eq!(chosen.len(), 32);
            assert!(!chosen.contains(&own));
            chosen.iter().for_each(|node| chosen_by[*node] += 1);
        }
        assert!(chosen_by.iter().all(|count| (10..60).contains(count)), "{chosen_by:?}");
    }

    #[test]
    fn own_grants_count_until_a_word_knows_of_them() {
        let mut peers = Peers::new(2, 1, 32, 2, 100, 10);
        let mut nodes = vec![Node::new(1, 1.0, 0, 100), Node::new(1, 1.0, 0, 100)];
        let mut views = Vec::new();
        let mut view = |peers: &mut Peers, nodes: &[Node], now_ns| {
            peers.views(now_ns, 0, 0, true, nodes, &mut views);
            views[0]
        };
        assert!(!view(&mut peers, &nodes, 5).fresh, "no word has come");
        assert!(view(&mut peers, &nodes, 120).fresh);
        let (node, pair) = peers.peer(0, 0, 0);
        assert_eq!(node, 1);
        peers.granted(pair);
        assert_eq!(view(&mut peers, &nodes, 240).granted, 1, "on its way");
        peers.arrived(pair, 250);
        nodes[1].begin(250);
        assert_eq!(
            (view(&mut peers, &nodes, 390).granted, view(&mut peers, &nodes, 390).word.outstanding),
            (1, 0)
        );
        // The word of 300 is read at 400.
        assert_eq!(
            (view(&mut peers, &nodes, 400).granted, view(&mut peers, &nodes, 400).word.outstanding),
            (0, 1)
        );
        peers.granted(pair);
        assert!(!view(&mut peers, &nodes, 400).ready, "both leases are under way");
        peers.ended(pair);
        assert!(view(&mut peers, &nodes, 400).ready);
    }
}
