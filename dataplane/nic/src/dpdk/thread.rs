//! Makes a thread known to DPDK, which gives it caches of its own in front of the packet pools.
//!
//! In: the calling thread. Out: a guard that takes it back. Each worker, once, after the EAL has started.

use std::marker::PhantomData;

use dpdk_sys as sys;

/// The calling thread is registered until this is dropped, on the same thread.
#[derive(Debug)]
#[must_use = "dropping it takes the registration back"]
pub struct WorkerThread {
    registered: bool,
    /// The registration is the thread's, so the guard cannot leave it.
    not_send: PhantomData<*const ()>,
}

impl WorkerThread {
    /// Whether DPDK had room for it. A thread that is not registered works as well, without caches.
    pub fn is_registered(&self) -> bool {
        self.registered
    }
}

/// Registers the calling thread. Pinning it is the caller's.
pub fn register_worker_thread() -> WorkerThread {
    // SAFETY: may be called by any thread once the EAL runs.
    let registered = super::eal::runs() && unsafe { sys::rte_thread_register() } == 0;
    WorkerThread { registered, not_send: PhantomData }
}

impl Drop for WorkerThread {
    fn drop(&mut self) {
        if self.registered {
            // SAFETY: this thread registered, and is not known otherwise.
            unsafe { sys::rte_thread_unregister() };
        }
    }
}
