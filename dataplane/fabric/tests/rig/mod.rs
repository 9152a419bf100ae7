//! A connected pair of ends, one way for each driver. In: limits. Out: two ends, and what makes things arrive.

use std::sync::Arc;

use keyferry_fabric::{Fence, Limits, QueuePair, shm, sim};

/// Small and odd, so that wrapping and alignment matter.
pub const LIMITS: Limits =
    Limits { message_bytes_max: 1001, receives: 7, posted_max: 9, slots_bytes: 4098, staging_bytes: 4098 };

/// A driver under test.
pub trait Rig: Sized {
    /// Its queue pair.
    type End: QueuePair;
    /// Two connected ends.
    fn connect(limits: Limits) -> (Self, Self::End, Self::End);
    /// Everything under way has arrived, and what it causes too.
    fn settle(&self);
    /// The control thread's hold on the first (0) or second (1) end.
    fn fence(&self, end: usize) -> &dyn Fence;
}

/// Two ends of one process over shared memory.
pub struct Shm([Arc<dyn Fence>; 2]);

impl Rig for Shm {
    type End = shm::QueuePair;

    fn connect(limits: Limits) -> (Shm, shm::QueuePair, shm::QueuePair) {
        let ((a, a_memory), (b, b_memory)) =
            (shm::prepare(limits).expect("memory"), shm::prepare(limits).expect("memory"));
        let (a, a_fence) = a.connect(b_memory).expect("connected");
        let (b, b_fence) = b.connect(a_memory).expect("connected");
        (Shm([a_fence, b_fence]), a, b)
    }

    fn settle(&self) {}

    fn fence(&self, end: usize) -> &dyn Fence {
        &*self.0[end]
    }
}

/// Two ends in virtual time.
pub struct Sim(sim::Net, [Arc<dyn Fence>; 2]);

impl Rig for Sim {
    type End = sim::QueuePair;

    fn connect(limits: Limits) -> (Sim, sim::QueuePair, sim::QueuePair) {
        let net = sim::Net::new();
        let (a, b) = net.pair(limits, 1000);
        let fences = [a.fence(), b.fence()];
        (Sim(net, fences), a, b)
    }

    fn settle(&self) {
        while let Some(next_ns) = self.0.next_ns() {
            self.0.advance(next_ns);
        }
    }

    fn fence(&self, end: usize) -> &dyn Fence {
        &*self.1[end]
    }
}
