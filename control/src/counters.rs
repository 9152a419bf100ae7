//! Counters of the node's threads, as the control thread sees them.
//!
//! A worker counts in a plain struct of its own and copies it into its [`Block`] every few milliseconds; the
//! control thread reads the blocks when somebody asks. One writer a block, relaxed atomics: a reader sees each
//! counter whole, and counters of one block that may be one publication apart. What a thread did before it published is seen by
//! whoever has read what it published.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// Blocks of a registry, at most: workers, application threads, and a few of the control thread's.
pub const BLOCKS_MAX: usize = 1024;
/// Counters that fit a cache line.
const PER_LINE: usize = 8;

/// One cache line of counters: blocks of different workers never share one.
#[derive(Default)]
#[repr(align(64))]
struct Line([AtomicU64; PER_LINE]);

/// The counters one thread publishes.
pub struct Block {
    names: &'static [&'static str],
    label: String,
    lines: Box<[Line]>,
}

impl Block {
    /// Publishes a value for each name, in their order. Only the thread that owns the block may call it.
    ///
    /// # Panics
    /// If there are not as many values as names: a mistake of ours.
    pub fn publish(&self, values: &[u64]) {
        assert_eq!(values.len(), self.names.len(), "a block publishes a value for each of its names");
        let counters = self.lines.iter().flat_map(|line| &line.0);
        fence(Ordering::Release);
        for (counter, value) in counters.zip(values) {
            counter.store(*value, Ordering::Relaxed);
        }
    }

    /// Whose counters these are.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Each name with the value last published, 0 before the first time.
    pub fn values(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counters = self.lines.iter().flat_map(|line| &line.0);
        self.names.iter().copied().zip(counters.map(|counter| counter.load(Ordering::Relaxed)))
    }
}

/// Every block of a node.
#[derive(Default)]
pub struct Registry {
    // Locked when a thread starts and when somebody asks, never by a worker at work.
    blocks: Mutex<Vec<Arc<Block>>>,
}

/// What the registry's blocks hold at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Each block's counters, in the order they were made.
    pub threads: Vec<Counters>,
    /// The sum over all blocks, by name.
    pub total: BTreeMap<&'static str, u64>,
}

/// One block's counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Whose they are.
    pub label: String,
    /// The values, by name.
    #[serde(flatten)]
    pub values: BTreeMap<&'static str, u64>,
}

impl Registry {
    /// No blocks yet.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// A block for one thread, all zero. `names` is that kind of thread's static table, each name once.
    ///
    /// # Panics
    /// If there are [`BLOCKS_MAX`] already, or a name twice: mistakes of ours.
    pub fn block(&self, names: &'static [&'static str], label: String) -> Arc<Block> {
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} is twice in a table of counters");
        }
        let lines = (0..names.len().div_ceil(PER_LINE)).map(|_| Line::default()).collect();
        let block = Arc::new(Block { names, label, lines });
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(blocks.len() < BLOCKS_MAX, "a node has at most {BLOCKS_MAX} blocks of counters");
        blocks.push(Arc::clone(&block));
        block
    }

    /// The sum of one counter over all blocks; 0 if none has it.
    pub fn total(&self, name: &str) -> u64 {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let values = blocks.iter().flat_map(|block| block.values());
        let values = values.filter(|(known, _)| *known == name).map(|(_, value)| value);
        let total = values.fold(0, u64::wrapping_add);
        fence(Ordering::Acquire);
        total
    }

    /// Every counter now.
    pub fn snapshot(&self) -> Snapshot {
        let blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let counters =
            |block: &Arc<Block>| Counters { label: block.label.clone(), values: block.values().collect() };
        let threads: Vec<_> = blocks.iter().map(counters).collect();
        let mut total = BTreeMap::new();
        for (name, value) in threads.iter().flat_map(|thread| &thread.values) {
            let sum: &mut u64 = total.entry(*name).or_default();
            *sum = sum.wrapping_add(*value);
        }
        Snapshot { threads, total }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NAMES: &[&str] = &["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

    #[test]
    fn sums_by_name_and_lists_by_block() {
        let registry = Registry::new();
        let one = registry.block(&["requests", "flows"], "worker 0".into());
        let two = registry.block(&["flows", "links"], "worker 1".into());
        one.publish(&[5, 2]);
        two.publish(&[3, 1]);
        one.publish(&[6, 1]);
        let snapshot = registry.snapshot();
        assert_eq!((registry.total("flows"), registry.total("none")), (4, 0));
        assert_eq!(snapshot.total, BTreeMap::from([("requests", 6), ("flows", 4), ("links", 1)]));
        let json = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(json["threads"][0], serde_json::json!({"label": "worker 0", "requests": 6, "flows": 1}));
        assert_eq!(json["total"]["links"], 1);
    }

    #[test]
    fn blocks_start_on_their_own_cache_lines() {
        assert_eq!(align_of::<Line>(), 64);
        assert_eq!(size_of::<Line>(), 64);
    }

    #[test]
    #[should_panic(expected = "a value for each")]
    fn refuses_another_number_of_values() {
        Registry::new().block(NAMES, String::new()).publish(&[1]);
    }

    #[test]
    fn a_reader_never_sees_a_counter_go_back() {
        let registry = Arc::new(Registry::new());
        let block = registry.block(NAMES, "worker".into());
        let writer = std::thread::spawn(move || (1..=20_000).for_each(|n| block.publish(&[n; 10])));
        let mut last = BTreeMap::new();
        while !writer.is_finished() {
            let now = registry.snapshot().total;
            assert!(last.iter().all(|(name, value)| now[name] >= *value));
            last = now;
        }
        writer.join().unwrap();
        assert!(registry.snapshot().total.values().all(|value| *value == 20_000));
    }

    proptest! {
        #[test]
        fn reads_what_was_published(values in proptest::collection::vec(any::<u64>(), NAMES.len())) {
            let block = Registry::new().block(NAMES, String::new());
            block.publish(&values);
            prop_assert_eq!(block.values().map(|(_, value)| value).collect::<Vec<_>>(), values);
        }
    }
}
