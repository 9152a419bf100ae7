//! What the control thread tells a worker, over a bounded queue.

use std::sync::Arc;
use std::time::Duration;

use keyferry_decide::NodeId;
use keyferry_fabric::QueuePair;
use keyferry_lease::Channel;

use crate::capture::Tap;
use crate::moved::Moved;
use crate::settings::Settings;

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
    /// Where its leases are counted.
    pub moved: Arc<Moved>,
}

/// How long what is open may go on; from when the worker reads this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Connections that are idle then are closed in order.
    pub idle: Duration,
    /// What is left then is reset.
    pub deadline: Duration,
}

/// To a worker.
pub enum Mail {
    /// A queue pair to a peer's worker.
    Peer(Box<Connect>),
    /// The nodes that keep sessions from now on, this one among them.
    Members(Box<[NodeId]>),
    /// Go by these settings from now on.
    Settings(Box<Settings>),
    /// Take no new work, and end. Said again, it can only end sooner.
    Drain(Drain),
    /// Show packets to an operator, or to nobody any more.
    Capture(Option<Box<Tap>>),
}
