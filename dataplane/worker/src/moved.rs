//! Leases of one queue pair, both ways: what its worker counts and whoever shows peers reads. One writer, relaxed atomics.

use std::sync::atomic::{AtomicU64, Ordering};

/// Leases of one queue pair so far; on a cache line of its own, as its worker writes it for each.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Moved {
    lent: AtomicU64,
    borrowed: AtomicU64,
}

impl Moved {
    /// Requests granted to the peer, and grants taken from it.
    pub fn counts(&self) -> [u64; 2] {
        [&self.lent, &self.borrowed].map(|count| count.load(Ordering::Relaxed))
    }

    /// A request was granted. Only the worker of the queue pair may call it.
    pub fn lent(&self) {
        more(&self.lent);
    }

    /// A grant was taken. Only the worker of the queue pair may call it.
    pub fn borrowed(&self) {
        more(&self.borrowed);
    }
}

/// There is one writer, so that a load and a store do.
fn more(count: &AtomicU64) {
    count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}
