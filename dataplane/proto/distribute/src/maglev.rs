//! Maglev hashing: which node a flow belongs to when nothing is remembered of it (Eisenbud et al., NSDI 2016, 3.4).
//!
//! In: nodes by name and weight. Out: a table every distributor makes alike, however its list is ordered, in which nodes
//! have their share and a node that comes or goes moves few flows of the others.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::NodeId;

/// Places of the table: prime, and a hundred times the nodes of a large pool, so that shares are even within a few
/// percent.
pub const PLACES: usize = 65_537;
/// Largest weight of a node.
pub const WEIGHT_MAX: u8 = 16;

/// Places looked at for a node of use, before all nodes are: a table has others only until it is made anew.
const TRIES: u64 = 64;

/// Keys of the two hashes of a name: fixed, since all distributors must agree.
const OFFSET_KEY: (u64, u64) = (0x6b65_7966_6572_7279, 1);
const SKIP_KEY: (u64, u64) = (0x6b65_7966_6572_7279, 2);

/// A node, as far as its place matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place<'a> {
    /// What it is called here.
    pub id: NodeId,
    /// What it is called everywhere.
    pub name: &'a str,
    /// Its share beside the others'; 0 counts as 1, more than [`WEIGHT_MAX`] as that.
    pub weight: u8,
}

/// A table of places.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Maglev {
    places: Box<[NodeId]>,
    /// Who has some, by name.
    nodes: Box<[NodeId]>,
}

impl Maglev {
    /// The table of these nodes; names are different ones.
    pub fn new(nodes: &[Place<'_>]) -> Maglev {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable_by_key(|node| node.name);
        if nodes.is_empty() {
            return Maglev::default();
        }
        let mut walks: Vec<Walk> = nodes.iter().map(|node| Walk::of(node.name)).collect();
        let mut places = vec![None; PLACES];
        let mut left = PLACES;
        while left > 0 {
            // In each round a node takes its next free places, as many as it weighs.
            for (node, walk) in nodes.iter().zip(&mut walks) {
                for _ in 0..node.weight.clamp(1, WEIGHT_MAX) {
                    if left == 0 {
                        break;
                    }
                    let free = std::iter::from_fn(|| Some(walk.step())).find(|at| places[*at].is_none());
                    if let Some(at) = free {
                        places[at] = Some(node.id);
                        left -= 1;
                    }
                }
            }
        }
        Maglev {
            places: places.into_iter().flatten().collect(),
            nodes: nodes.iter().map(|node| node.id).collect(),
        }
    }

    /// The node of a flow with this hash. Until the table is made anew without them, flows of nodes that cannot be used are
    /// those of other places; `None` where no node is of use.
    pub fn pick(&self, hash: u64, is_of_use: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        if self.places.is_empty() {
            return None;
        }
        let place = |number: u64| self.places[(number % PLACES as u64) as usize];
        let mut tries = (0..TRIES).map(|step| place(if step == 0 { hash } else { scattered(hash, step) }));
        tries.find(|node| is_of_use(*node)).or_else(|| {
            // Few are of use of very many.
            let first = (hash % self.nodes.len() as u64) as usize;
            let mut nodes = self.nodes[first..].iter().chain(&self.nodes[..first]);
            nodes.find(|node| is_of_use(**node)).copied()
        })
    }

    /// Whether a node has places.
    pub fn has(&self, node: NodeId) -> bool {
        self.nodes.contains(&node)
    }
}

/// Numbers of a flow that have nothing to do with each other (the finalizer of SplitMix64, Steele et al., OOPSLA 2014): places of
/// a node are as good as equally far from each other, so that steps of any one length may meet no other node's.
fn scattered(hash: u64, step: u64) -> u64 {
    let mut it = hash.wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    it = (it ^ it >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ it >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    it ^ it >> 31
}

/// The order in which a node asks for places: all of them, each once, since their number is prime.
struct Walk {
    at: usize,
    skip: usize,
}

impl Walk {
    fn of(name: &str) -> Walk {
        let hash = |(key0, key1)| {
            let mut hasher = SipHasher13::new_with_keys(key0, key1);
            hasher.write(name.as_bytes());
            hasher.finish()
        };
        let at = (hash(OFFSET_KEY) % PLACES as u64) as usize;
        let skip = (hash(SKIP_KEY) % (PLACES as u64 - 1)) as usize + 1;
        Walk { at, skip }
    }

    fn step(&mut self) -> usize {
        let at = self.at;
        self.at = (at + self.skip) % PLACES;
        at
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(count: u16) -> Vec<String> {
        (0..count).map(|number| format!("node-{number}")).collect()
    }

    fn places(names: &[String]) -> Vec<Place<'_>> {
        let ids = (0..).map(NodeId);
        ids.zip(names).map(|(id, name)| Place { id, name, weight: 1 }).collect()
    }

    fn share(table: &Maglev, id: NodeId) -> f64 {
        table.places.iter().filter(|it| **it == id).count() as f64 / PLACES as f64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn shares_are_even_and_the_order_of_the_list_does_not_matter(count in 1u16..64, turn in 0usize..64) {
            let names = names(count);
            let mut list = places(&names);
            let table = Maglev::new(&list);
            for place in &list {
                prop_assert!((share(&table, place.id) * f64::from(count) - 1.0).abs() < 0.02);
            }
            let turn = turn % list.len();
            list.rotate_left(turn);
            prop_assert_eq!(&Maglev::new(&list).places, &table.places);
        }

        /// All places of a node that goes are moved, and few others.
        #[test]
        fn a_node_that_goes_moves_few_others(count in 2u16..32, gone in 0u16..32) {
            let names = names(count);
            let (all, gone) = (places(&names), NodeId(gone % count));
            let left: Vec<_> = all.iter().copied().filter(|place| place.id != gone).collect();
            let (before, after) = (Maglev::new(&all), Maglev::new(&left));
            let others = before.places.iter().zip(&after.places);
            let moved = others.filter(|(before, after)| **before != gone && before != after).count();
            prop_assert!(share(&after, gone) == 0.0);
            prop_assert!((moved as f64) < 0.1 * PLACES as f64, "{} of {} moved", moved, PLACES);
        }
    }

    /// Until the table is made anew, flows of a node that is gone go to all others alike, and theirs stay.
    #[test]
    fn flows_of_a_node_that_is_gone_are_spread_over_the_others() {
        let names = names(5);
        let table = Maglev::new(&places(&names));
        let mut counts = [0; 5];
        for flow in 0..PLACES as u64 {
            let mut hasher = SipHasher13::new();
            hasher.write_u64(flow);
            let hash = hasher.finish();
            let owner = table.pick(hash, |_| true).unwrap();
            let node = table.pick(hash, |id| id != NodeId(2)).unwrap();
            assert!(owner == NodeId(2) || node == owner);
            counts[node.index()] += usize::from(owner == NodeId(2));
        }
        assert!(
            counts.iter().enumerate().all(|(id, count)| id == 2 || (2900..3700).contains(count)),
            "{counts:?}"
        );
        assert_eq!(table.pick(7, |_| false), None);
        assert!(table.has(NodeId(4)) && !table.has(NodeId(5)));
    }

    #[test]
    fn one_node_of_use_takes_all() {
        for nodes in [4, 200] {
            let names = names(nodes);
            let table = Maglev::new(&places(&names));
            for flow in 0..100_000u64 {
                let (hash, left) =
                    (flow.wrapping_mul(0x9e37_79b9_7f4a_7c15), NodeId((flow % nodes as u64) as u16));
                assert_eq!(table.pick(hash, |id| id == left), Some(left), "{hash:#x}");
            }
        }
    }

    #[test]
    fn weights_are_shares() {
        let names = names(3);
        let mut list = places(&names);
        list[1].weight = 3;
        let table = Maglev::new(&list);
        assert!((share(&table, NodeId(1)) - 0.6).abs() < 0.01);
        assert!((share(&table, NodeId(2)) - 0.2).abs() < 0.01);
        assert_eq!(Maglev::new(&[]).pick(7, |_| true), None);
    }
}
