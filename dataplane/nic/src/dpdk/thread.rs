//! Makes a thread known to DPDK, which gives it caches of its own in front of the packet pools; and reaches the thread that DPDK
//! has itself.
//!
//! In: the calling thread. Out: a guard that takes it back. Each worker, once, after the EAL has started.

use std::ffi::c_void;
use std::marker::PhantomData;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use dpdk_sys as sys;

/// How long DPDK's thread may take to come to it: it does nothing else.
const INTERRUPT_MAX: Duration = Duration::from_secs(5);

/// What is to be done on it, and whom to tell.
type Task = (Box<dyn FnOnce() + Send>, SyncSender<()>);

/// Runs `f` on the thread that DPDK has for interrupts and alarms, and waits for it. `false`: there is none, or it does not
/// come to it.
pub fn on_interrupt_thread(f: impl FnOnce() + Send + 'static) -> bool {
    extern "C" fn alarm(task: *mut c_void) {
        // SAFETY: a box of this type was made a pointer below, for this one call.
        let (f, done) = *unsafe { Box::from_raw(task.cast::<Task>()) };
        f();
        // Whoever waited no longer does.
        let _ = done.send(());
    }
    if !super::eal::runs() {
        return false;
    }
    let (done, is_done) = sync_channel(1);
    let task: Box<Task> = Box::new((Box::new(f), done));
    let task = Box::into_raw(task);
    // SAFETY: the EAL runs, and calls `alarm` once with this pointer, unless it refuses.
    if unsafe { sys::rte_eal_alarm_set(1, Some(alarm), task.cast()) } != 0 {
        // SAFETY: it was refused, so this is still the only one to have it.
        drop(unsafe { Box::from_raw(task) });
        return false;
    }
    is_done.recv_timeout(INTERRUPT_MAX).is_ok()
}

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
