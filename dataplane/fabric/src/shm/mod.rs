//! Queue pairs between two processes of one machine, over memory both map.
//!
//! For each pair each end makes a region the peer writes into: a ring of posted receives, the slots, a page for
//! the load word, a state word. [`prepare`] makes it, [`Endpoint::connect`] takes the peer's; after that no system
//! call is made. The layout is in `layout.rs`, everything unsafe in `region.rs`.
//!
//! What a hostile process at the other end can do: garble the messages, slots and load word of its own pairs, and
//! put them in error. It can neither make this end read or write outside the region, nor change a message
//! that was polled, nor take the memory away (the files are sealed), nor undo a failure.
//!
//! A mapping cannot be taken back from the peer. After a failure its slots may still be written, so a pair that
//! failed is retired: drop it, and its memory goes when the last [`Slots`](crate::Slots) of it does.

mod endpoint;
mod layout;
mod queue_pair;
#[allow(unsafe_code)]
mod region;
mod ring;
#[cfg(test)]
mod tests;

pub use endpoint::{Endpoint, prepare};
pub use queue_pair::QueuePair;
pub use region::RegionError;

use crate::limits::LimitsError;

/// Why two ends did not become connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShmError {
    /// The limits agreed are of no use.
    #[error("agreed limits: {0}: check [fabric] of both nodes")]
    Limits(#[from] LimitsError),
    /// The peer's memory, or ours.
    #[error(transparent)]
    Region(#[from] RegionError),
}
