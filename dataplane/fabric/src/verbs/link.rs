//! What the worker's end of a queue pair and the control thread's [`Fence`] share: the adapter's objects, and whether
//! the pair failed. In: failures seen by either. Out: the state, and the move to ERR, which only the control thread
//! makes because it is a system call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use ibverbs_sys as ffi;

use super::objects::{MemoryRegion, RawQueuePair};
use crate::Fence;

/// A queue pair and the memory registered for it. Fields are dropped in this order, so the adapter stops before
/// its memory is unregistered.
pub(super) struct Link {
    pub(super) queue_pair: RawQueuePair,
    pub(super) regions: Regions,
    failed: AtomicBool,
    /// The adapter was told, or told us.
    fenced: AtomicBool,
}

/// The registered parts of one end's memory.
pub(super) struct Regions {
    pub(super) slots: MemoryRegion,
    pub(super) load: MemoryRegion,
    pub(super) receives: MemoryRegion,
    pub(super) sources: MemoryRegion,
}

impl Link {
    pub(super) fn new(queue_pair: RawQueuePair, regions: Regions) -> Link {
        Link { queue_pair, regions, failed: AtomicBool::new(false), fenced: AtomicBool::new(false) }
    }

    #[inline]
    pub(super) fn is_failed(&self) -> bool {
        self.failed.load(Ordering::Acquire)
    }

    /// From now on posts are refused. The adapter goes on with what was posted until the control thread looks.
    #[inline]
    pub(super) fn fail(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Moves the adapter's queue pair to ERR: it flushes everything, and takes no more of the peer's WRITEs.
    fn fence(&self) {
        self.fail();
        if self.fenced.load(Ordering::Acquire) {
            return;
        }
        let mut attributes =
            ffi::ibv_qp_attr { qp_state: ffi::ibv_qp_state::IBV_QPS_ERR, ..Default::default() };
        // Should the adapter refuse, the next call tries again; dropping the pair ends it in any case.
        if self.queue_pair.modify(&mut attributes, ffi::ibv_qp_attr_mask::IBV_QP_STATE).is_ok() {
            self.fenced.store(true, Ordering::Release);
        }
    }
}

/// The control thread's hold on a queue pair. It does not keep the memory: a pair that is gone has failed.
pub(super) struct Fencer(Weak<Link>);

impl Fencer {
    pub(super) fn hold(link: &Arc<Link>) -> Arc<dyn Fence> {
        Arc::new(Fencer(Arc::downgrade(link)))
    }
}

impl Fence for Fencer {
    fn fail(&self) {
        if let Some(link) = self.0.upgrade() {
            link.fence();
        }
    }

    /// Asks the adapter, so it is not for a worker. A failure that the worker saw, or asked for, is made the
    /// adapter's here.
    fn failed(&self) -> bool {
        let Some(link) = self.0.upgrade() else { return true };
        let ready = |state| matches!(state, Ok(ffi::ibv_qp_state::IBV_QPS_RTS));
        let failed = link.is_failed() || !ready(link.queue_pair.state());
        if failed {
            link.fence();
        }
        failed
    }
}
