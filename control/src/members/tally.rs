//! Counts of membership. In: what happens. Out: a block of counters. Control thread.

use std::cell::Cell;
use std::sync::Arc;

use crate::counters::{Block, Registry};

/// The counters, in the order in which they are published.
const NAMES: &[&str] = &["members", "etcd_connected", "etcd_connects", "etcd_failures", "etcd_registrations"];

/// What each of [`NAMES`] counts.
const HELP: [&str; NAMES.len()] = [
    "Other members known now.",
    "Whether etcd can be read now: 0 or 1.",
    "Times etcd could be read again.",
    "Attempts and connections to etcd that failed.",
    "Times this process was registered.",
];

/// The counters, each with what it counts.
pub(crate) fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMES.iter().copied().zip(HELP)
}

/// What is counted.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    /// Others known now.
    pub(super) members: u64,
    /// Whether etcd can be read now: 0 or 1.
    pub(super) connected: u64,
    /// Times it could be read again.
    pub(super) connects: u64,
    /// Attempts and connections that failed.
    pub(super) failures: u64,
    /// Times this process was registered.
    pub(super) registrations: u64,
}

/// Counts, and where they are published.
pub(super) struct Tally {
    block: Arc<Block>,
    counts: Cell<Counts>,
}

impl Tally {
    pub(super) fn new(registry: &Registry) -> Tally {
        Tally { block: registry.block(NAMES, "members".to_owned()), counts: Cell::default() }
    }

    /// etcd can be read. Answers whether that is news.
    pub(super) fn is_connected_now(&self) -> bool {
        let is_news = self.counts.get().connected == 0;
        self.count(|counts| {
            counts.connected = 1;
            counts.connects += u64::from(is_news);
        });
        is_news
    }

    pub(super) fn count(&self, what: impl FnOnce(&mut Counts)) {
        let mut now = self.counts.get();
        what(&mut now);
        self.counts.set(now);
        let Counts { members, connected, connects, failures, registrations } = now;
        self.block.publish(&[members, connected, connects, failures, registrations]);
    }
}
