//! An app thread whose turns are tasks of a runtime: it sleeps until a worker, a socket or a timer has something for it.
//!
//! In: the turns of a thread. Owns the thread until they are over.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use keyferry_app::App;
use keyferry_app::threads::{Idle, Turns};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::{Tally, Upstream};

/// How late a sleeping thread sees that it has to end, and how old the counters it publishes may be.
const LOOK: Duration = Duration::from_millis(100);

/// How old they may be while it is busy.
const PUBLISHED: Duration = Duration::from_millis(10);

/// Turns after which a busy thread looks at the time.
const TURNS_A_LOOK: u32 = 64;

/// Ends the sleep of the task that takes turns.
struct Told(Notify);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

/// What an app thread needs beside its turns.
pub struct Beside {
    background: Vec<Upstream>,
    tally: Arc<Tally>,
}

impl Beside {
    /// Of a thread with these upstreams, which count in `tally`.
    pub fn new(upstreams: &[Upstream], tally: Arc<Tally>) -> Beside {
        Beside { background: upstreams.to_vec(), tally }
    }
}

/// Takes turns until they are over, and publishes the values of its counters now and then. A thread with nothing to do sleeps,
/// unless [`Idle::Spin`] is asked for.
///
/// # Panics
/// If the system refuses what a runtime needs.
pub fn run<A: App>(turns: Turns<A>, beside: Beside, publish: impl FnMut(&[u64]) + Send + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.expect("an app thread needs epoll: raise the number of open files (ulimit -n)");
    runtime.block_on(async {
        for upstream in &beside.background {
            upstream.start();
        }
        // A task of its own: other tasks then wake it without a system call.
        let turns = tokio::spawn(take_turns(turns, beside.tally, publish));
        turns.await.expect("a turn failed");
    });
}

async fn take_turns<A: App>(mut turns: Turns<A>, tally: Arc<Tally>, mut publish: impl FnMut(&[u64])) {
    let told = Arc::new(Told(Notify::new()));
    turns.wake_by(Waker::from(Arc::clone(&told)));
    let mut look = std::pin::pin!(sleep(LOOK));
    let (mut count, mut published) = (0u32, Instant::now());
    while !turns.are_over() {
        turns.turn();
        count = count.wrapping_add(1);
        if count.is_multiple_of(TURNS_A_LOOK) && published.elapsed() >= PUBLISHED {
            published = Instant::now();
            publish(&tally.values());
        }
        if turns.idle() == Idle::Spin || !turns.fall_asleep() {
            // Sockets have their turn.
            tokio::task::yield_now().await;
            continue;
        }
        let woken = async {
            tokio::select! {
                biased;
                () = told.0.notified() => {}
                () = look.as_mut() => {
                    look.as_mut().reset(Instant::now() + LOOK);
                    publish(&tally.values());
                }
            }
        };
        match turns.due_in() {
            None => woken.await,
            Some(due) => {
                // Then it is due.
                let _ = timeout(due, woken).await;
            }
        }
        turns.wake_up();
    }
    publish(&tally.values());
}
