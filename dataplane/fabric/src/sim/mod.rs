//! Queue pairs within one process, in virtual time, for tests and the simulator.
//!
//! A post takes a pair's latency to arrive and its completion as long again to come back; nothing moves but in
//! [`Net::advance`]. The same calls give the same run. It is stricter than an adapter in one respect: a range of
//! the staging memory that was changed before its completion was polled is a panic, because an adapter may read it
//! until then. Unlike the other drivers it locks and allocates.

mod queue_pair;
#[cfg(test)]
mod tests;
mod world;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use queue_pair::QueuePair;
use world::World;
pub use world::{Fate, Kind, Transfer};

use crate::Limits;

/// A set of queue pairs with one clock. Clones share it.
#[derive(Clone, Default)]
pub struct Net {
    world: Shared,
}

impl Net {
    /// No pairs, time 0.
    pub fn new() -> Net {
        Net::default()
    }

    /// Both ends of a new, connected pair; each way takes `latency_ns`.
    ///
    /// # Panics
    /// If the limits are out of bounds ([`Limits::check`]).
    pub fn pair(&self, limits: Limits, latency_ns: u64) -> (QueuePair, QueuePair) {
        limits.check().expect("limits within bounds");
        let (a, b) = self.world.lock().connect(limits, latency_ns);
        (QueuePair::new(self.world.clone(), a, limits), QueuePair::new(self.world.clone(), b, limits))
    }

    /// Moves the clock to `now_ns` (never back) and lets everything due by then happen, in order.
    pub fn advance(&self, now_ns: u64) {
        self.world.lock().advance(now_ns);
    }

    /// The clock.
    pub fn now_ns(&self) -> u64 {
        self.world.lock().now_ns()
    }

    /// When the next thing is due, if any is under way.
    pub fn next_ns(&self) -> Option<u64> {
        self.world.lock().next_ns()
    }

    /// Decides the fate of every transfer posted from now on. The function must not call this net.
    pub fn set_faults(&self, faults: impl FnMut(&Transfer<'_>) -> Fate + Send + 'static) {
        self.world.lock().set_faults(Box::new(faults));
    }
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    /// A panic elsewhere must not hide behind this one.
    fn lock(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
