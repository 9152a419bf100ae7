//! A connected pair of ends, one way for each driver. In: limits. Out: two ends, and what makes things arrive.
#![allow(dead_code, reason = "each test executable uses its part")]

use std::sync::Arc;
#[cfg(feature = "verbs")]
use std::time::Duration;

#[cfg(feature = "verbs")]
use keyferry_fabric::verbs;
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
    /// Everything under way between these ends has arrived, and what it causes too. Takes no completion.
    fn settle(&self, ends: &mut [&mut Self::End]);
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

    fn settle(&self, _ends: &mut [&mut shm::QueuePair]) {}

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

    fn settle(&self, _ends: &mut [&mut sim::QueuePair]) {
        while let Some(next_ns) = self.0.next_ns() {
            self.0.advance(next_ns);
        }
    }

    fn fence(&self, end: usize) -> &dyn Fence {
        &*self.1[end]
    }
}

/// Two ends on adapters of this host: the ports that `KEYFERRY_VERBS_A` and `KEYFERRY_VERBS_B` name.
#[cfg(feature = "verbs")]
pub struct Verbs([Arc<dyn Fence>; 2]);

#[cfg(feature = "verbs")]
impl Verbs {
    /// Longer than any adapter repeats before it gives up.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// The port that the variable names.
    pub fn choice(variable: &str) -> verbs::Choice {
        let address = std::env::var(variable).expect("the variable names an RDMA port");
        let address: verbs::Address = address.parse().expect("an address");
        verbs::choose(&verbs::discover(), &address).expect("a port with that address")
    }

    /// Its device.
    pub fn device(variable: &str) -> verbs::Device {
        verbs::Device::open(&Verbs::choice(variable)).expect("it opens")
    }

    /// Waits until `done` says so.
    pub fn wait(mut done: impl FnMut() -> bool) {
        let begun = std::time::Instant::now();
        while !done() {
            assert!(begun.elapsed() < Self::PATIENCE, "nothing comes any more");
            std::thread::yield_now();
        }
    }
}

#[cfg(feature = "verbs")]
impl Rig for Verbs {
    type End = verbs::QueuePair;

    fn connect(limits: Limits) -> (Verbs, verbs::QueuePair, verbs::QueuePair) {
        let prepare = |variable| Verbs::device(variable).prepare(limits).expect("prepared");
        let (a, offer_a) = prepare("KEYFERRY_VERBS_A");
        let (b, offer_b) = prepare("KEYFERRY_VERBS_B");
        let carried = |offer: &verbs::Offer| verbs::Offer::from_bytes(&offer.to_bytes()).expect("an offer");
        let (a, fence_a) = a.connect(&carried(&offer_b)).expect("connected");
        let (b, fence_b) = b.connect(&carried(&offer_a)).expect("connected");
        (Verbs([fence_a, fence_b]), a, b)
    }

    /// Does what the control threads of both nodes do meanwhile: a failure of one end is told to the other.
    fn settle(&self, ends: &mut [&mut verbs::QueuePair]) {
        Verbs::wait(|| {
            let settled = ends.iter_mut().all(|end| end.is_settled());
            // Both are asked: asking is what tells the adapter.
            let failed = [0, 1].map(|end| self.0[end].failed());
            match failed {
                [false, false] => settled,
                [true, true] => ends.iter_mut().all(|end| end.is_settled()),
                _ => {
                    self.0.iter().for_each(|fence| fence.fail());
                    false
                }
            }
        });
    }

    fn fence(&self, end: usize) -> &dyn Fence {
        &*self.0[end]
    }
}
