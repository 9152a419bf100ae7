//! Whose sessions a worker's handshakes have made: told to the control thread, which tells distributors.
//!
//! In: each client that has shaken hands. Out: a bounded queue that the control thread reads. Where nobody reads in time
//! the client is not announced, and costs a full handshake at another node perhaps.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;

/// Clients waiting for the control thread at most.
pub const ANNOUNCED_MAX: usize = 16_384;

/// A client whose session can be resumed here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Announced {
    /// Where it came from.
    pub client: IpAddr,
    /// For how long.
    pub lifetime: Duration,
}

/// Where they go.
pub struct Announcements {
    queue: Arc<ArrayQueue<Announced>>,
    lifetime: Duration,
}

impl Announcements {
    /// Into `queue`; sessions live so long.
    pub fn new(queue: Arc<ArrayQueue<Announced>>, lifetime: Duration) -> Announcements {
        Announcements { queue, lifetime }
    }

    /// A client has shaken hands. Answers whether there was room to say so.
    pub(crate) fn tell(&self, client: IpAddr) -> bool {
        self.queue.push(Announced { client, lifetime: self.lifetime }).is_ok()
    }
}
