//! Counts of a node's links. In: what happens to them. Out: a block of counters that anybody may read. Control thread.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

use crate::counters::{Block, Registry};

/// The counters, in the order of [`Tally::publish`].
const NAMES: &[&str] = &["links_up", "links_made", "links_lost", "links_failed"];

/// What is counted.
#[derive(Clone, Copy, Default)]
struct Counts {
    made: u64,
    lost: u64,
    failed: u64,
}

/// Counts of all links, shared by their tasks.
#[derive(Clone)]
pub struct Tally(Rc<(Arc<Block>, Cell<Counts>)>);

impl Tally {
    /// All zero, published in `registry`.
    pub fn new(registry: &Registry) -> Tally {
        Tally(Rc::new((registry.block(NAMES, "links".to_owned()), Cell::default())))
    }

    /// A link has come to life, and lives as long as what this returns.
    pub(super) fn made(&self) -> Made {
        self.count(|counts| counts.made += 1);
        Made(self.clone())
    }

    /// An attempt, of either end, has come to nothing.
    pub(super) fn failed(&self) {
        self.count(|counts| counts.failed += 1);
    }

    fn count(&self, what: impl FnOnce(&mut Counts)) {
        let (block, counts) = &*self.0;
        let mut now = counts.get();
        what(&mut now);
        counts.set(now);
        block.publish(&[now.made - now.lost, now.made, now.lost, now.failed]);
    }
}

/// A link that lives.
pub(super) struct Made(Tally);

impl Drop for Made {
    fn drop(&mut self) {
        self.0.count(|counts| counts.lost += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_up_are_those_made_and_not_lost() {
        let registry = Registry::new();
        let tally = Tally::new(&registry);
        let (one, _other) = (tally.made(), tally.made());
        drop(one);
        tally.failed();
        let total = registry.snapshot().total;
        let values: Vec<_> = NAMES.iter().map(|name| total[name]).collect();
        assert_eq!(values, [1, 2, 1, 1]);
    }
}
