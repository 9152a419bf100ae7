//! How two ends of one machine become connected, in two steps. In: the agreed limits, then the peer's memory. Out:
//! this end's memory for the peer, then the queue pair and the control thread's hold on it. Control thread; whoever
//! carries the descriptors from one process to the other is no matter of this driver.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::ShmError;
use super::layout::Layout;
use super::queue_pair::QueuePair;
use super::region::Region;
use crate::{Fence, Limits};

/// One end of a queue pair that waits for the other end's memory.
pub struct Endpoint {
    limits: Limits,
    inbound: Region,
}

/// Makes one end. The descriptor goes to the peer, whose own one goes to [`Endpoint::connect`]; both ends must use the
/// same limits.
///
/// # Errors
/// Limits out of bounds, or no memory.
pub fn prepare(limits: Limits) -> Result<(Endpoint, OwnedFd), ShmError> {
    limits.check()?;
    let (fd, inbound) = Region::create(Layout::new(&limits).bytes)?;
    Ok((Endpoint { limits, inbound }, fd))
}

impl Endpoint {
    /// Joins this end with the peer's memory, which is closed again as a descriptor once it is mapped. The peer may
    /// use the pair before this end does, and may be gone already: only the pair's state word tells.
    ///
    /// # Errors
    /// The descriptor is not what [`prepare`] makes for the same limits.
    pub fn connect(self, theirs: OwnedFd) -> Result<(QueuePair, Arc<dyn Fence>), ShmError> {
        let outbound = Region::map(&theirs, Layout::new(&self.limits).bytes)?;
        let queue_pair = QueuePair::new(self.limits, self.inbound, outbound);
        let fence: Arc<dyn Fence> = queue_pair.fence();
        Ok((queue_pair, fence))
    }
}
