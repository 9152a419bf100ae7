//! What the control thread tells a worker, over a bounded queue.

use keyferry_decide::NodeId;
use keyferry_fabric::QueuePair;
use keyferry_lease::Channel;

/// Letters waiting for a worker at most.
pub const MAIL_MAX: usize = 256;

/// A queue pair just connected, with the keys of its channel.
pub struct Connect {
    /// The queue pair.
    pub queue_pair: Box<dyn QueuePair>,
    /// The sealed channel on it.
    pub channel: Channel,
    /// The node at its other end.
    pub node: NodeId,
}

/// To a worker.
pub enum Mail {
    /// A queue pair to a peer's worker.
    Peer(Box<Connect>),
    /// Take no new work.
    Drain,
}
