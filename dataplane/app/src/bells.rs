//! How a task that waits for something other than a time is asked again: each slot of a runner has a bell, and whoever
//! rings it wakes the thread.
//!
//! In: wakers that were woken, on any thread. Out: the slots to look at, each once. Owned by a runner, made at start.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};

use crossbeam_queue::ArrayQueue;

/// The bells of one runner.
pub(crate) struct Bells {
    board: Arc<Board>,
    bells: Vec<Arc<Bell>>,
    wakers: Vec<Waker>,
}

/// Where those that rang are listed.
struct Board {
    /// As long as there are bells, and each is in it at most once.
    rung: ArrayQueue<u32>,
    /// Wakes the thread that looks at it; without one nobody sleeps.
    thread: OnceLock<Waker>,
}

struct Bell {
    slot: u32,
    /// It is listed.
    listed: AtomicBool,
    board: Arc<Board>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.listed.swap(true, Ordering::AcqRel) {
            return;
        }
        let listed = self.board.rung.push(self.slot);
        assert!(listed.is_ok(), "a bell is listed once");
        if let Some(thread) = self.board.thread.get() {
            thread.wake_by_ref();
        }
    }
}

impl Bells {
    /// One for each of so many slots.
    pub(crate) fn new(slots: u32) -> Bells {
        let board = Arc::new(Board {
            // A queue has room for one at least.
            rung: ArrayQueue::new(slots.max(1) as usize),
            thread: OnceLock::new(),
        });
        let bell = |slot| Arc::new(Bell { slot, listed: AtomicBool::new(false), board: Arc::clone(&board) });
        let bells: Vec<_> = (0..slots).map(bell).collect();
        let wakers = bells.iter().map(|bell| Waker::from(Arc::clone(bell))).collect();
        Bells { board, bells, wakers }
    }

    /// Rings that of `slot`.
    pub(crate) fn waker(&self, slot: u32) -> &Waker {
        &self.wakers[slot as usize]
    }

    /// Whom they wake. The first one stays.
    pub(crate) fn wake_thread_by(&self, waker: Waker) {
        let _ = self.board.thread.set(waker);
    }

    /// Whether any has rung.
    pub(crate) fn have_rung(&self) -> bool {
        !self.board.rung.is_empty()
    }

    /// One that has rung; it may ring again.
    pub(crate) fn next(&self) -> Option<u32> {
        let slot = self.board.rung.pop()?;
        // Before the slot is looked at: what happens behind that look rings again.
        self.bells[slot as usize].listed.store(false, Ordering::Release);
        Some(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_is_listed_once_and_may_ring_again() {
        let bells = Bells::new(2);
        assert!(!bells.have_rung());
        bells.waker(1).wake_by_ref();
        bells.waker(1).wake_by_ref();
        bells.waker(0).wake_by_ref();
        assert!(bells.have_rung());
        assert_eq!([bells.next(), bells.next(), bells.next()], [Some(1), Some(0), None]);
        bells.waker(1).wake_by_ref();
        assert_eq!([bells.next(), bells.next()], [Some(1), None]);
    }
}
