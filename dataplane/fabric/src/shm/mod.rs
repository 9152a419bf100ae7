//! Queue pairs between two processes of one machine, over memory both map.
//!
//! For each pair each end makes a region the peer writes into: a ring of posted receives, the slots, a page for
//! the load word, a state word. [`exchange`] hands the regions over a Unix socket; after that no system call is
//! made. The layout is in `layout.rs`, everything unsafe in `region.rs`.
//!
//! What a hostile process at the other end can do: garble the messages, slots and load word of its own pairs, and
//! put them in error. It can neither make this end read or write outside the region, nor change a message
//! that was polled, nor take the memory away (the files are sealed), nor undo a failure.
//!
//! A mapping cannot be taken back from the peer. After a failure its slots may still be written, so a pair that
//! failed is retired: drop it, and its memory goes when the last [`Slots`](crate::Slots) of it does.

mod exchange;
mod hello;
mod layout;
mod queue_pair;
#[allow(unsafe_code)]
mod region;
mod ring;
mod socket;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rustix::io::Errno;

pub use exchange::exchange;
pub use hello::{Hello, HelloError, NODE_BYTES_MAX, VERSION, WORKERS_MAX};
pub use queue_pair::QueuePair;
pub use region::RegionError;

use crate::limits::LimitsError;

/// A connected peer.
pub struct Exchange {
    /// What it said about itself.
    pub peer: Hello,
    /// One for each pair of workers, by index.
    pub pairs: Vec<Pair>,
}

/// One queue pair and whom it joins.
pub struct Pair {
    /// The worker of this node it is for.
    pub local_worker: u16,
    /// The worker at the other end.
    pub peer_worker: u16,
    /// Its number, the same at both ends.
    pub index: u16,
    /// The worker's end.
    pub queue_pair: QueuePair,
    /// The control thread's hold on it.
    pub fence: Arc<dyn crate::Fence>,
}

/// Why two nodes did not become connected.
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// The peer did not answer in time.
    #[error("the peer did not answer in time")]
    Timeout,
    /// The peer closed the socket: it refused, and its log says why.
    #[error("the peer closed the socket: its log says why")]
    Closed,
    /// The two speak different versions.
    #[error(
        "fabric version {theirs} of the peer differs from {ours} of this node: run the same release on both"
    )]
    Version {
        /// This node's.
        ours: u32,
        /// The peer's.
        theirs: u32,
    },
    /// The peer's hello, or ours.
    #[error(transparent)]
    Hello(#[from] HelloError),
    /// The limits agreed are of no use.
    #[error("agreed limits: {0}")]
    Limits(#[from] LimitsError),
    /// The peer's memory, or ours.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// The peer sent no descriptor where one belongs.
    #[error("the peer passed no memory")]
    Descriptor,
    /// The peer's messages are out of order.
    #[error("the peer's messages are out of order")]
    Sequence,
    /// The socket itself failed.
    #[error("socket: {0}")]
    Socket(Errno),
}
