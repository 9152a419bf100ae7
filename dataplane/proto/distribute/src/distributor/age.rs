//! A table of connections that a flood has filled empties again: those that are over go, a few buckets at a time. Where one
//! is needed before, its place is taken anyway; but a table that looks full has new connections go to their places.

use keyferry_time::Time;

use super::Distributor;
use crate::flow::tick;
use crate::ways::OVER;

/// Buckets looked at in one step: a few cache lines.
const BUCKETS: usize = 2;

impl Distributor {
    /// Forgets what is over of some buckets; for turns with nothing else to do.
    pub fn age(&mut self, now: Time) {
        let (now, times) = (tick(now), self.times());
        let next = self.flows.sweep(self.aged, BUCKETS, |_, known| known.matters(now, times) != OVER);
        self.aged = next.unwrap_or(0);
    }
}
