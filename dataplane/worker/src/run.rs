//! The loop around the turns of a worker or a distributor: the clock, and what a core with nothing to do does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyferry_time::Time;

/// What a core turns: a node's worker, or a distributor.
pub trait Turning {
    /// One turn. Answers whether there was anything to do.
    fn turn(&mut self, now: Time) -> bool;

    /// When a turn has something to do at the earliest besides what comes.
    fn poll_at(&self) -> Option<Time>;

    /// Writes its counters into `out`, in the order of their names.
    fn publish(&self, out: &mut Vec<u64>);
}

/// What a core with nothing to do does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on: lowest latency, the core is always busy.
    Spin,
    /// Lets another thread of the core run.
    Yield,
    /// Sleeps for moments once it has been idle for a while: adds up to [`SLEEP`] of latency.
    Sleep,
}

/// Longest sleep of an idle worker.
pub const SLEEP: Duration = Duration::from_micros(100);

/// Idle turns before a worker first sleeps.
const TURNS_BEFORE_SLEEP: u32 = 1_000;

/// How often counters are published.
const PUBLISH_EVERY: Duration = Duration::from_millis(5);

/// The process's monotonic clock. The standard library reads the TSC through the vDSO where the kernel trusts it;
/// a worker reads it once a turn.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock that starts now. All workers of a process share one.
    pub fn start() -> Clock {
        Clock { start: Instant::now() }
    }

    /// Time since the start.
    pub fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }
}

/// Turns it until `stop`. `publish` gets its counters every few milliseconds.
pub fn run(
    it: &mut impl Turning,
    clock: Clock,
    idle: Idle,
    stop: &AtomicBool,
    mut publish: impl FnMut(&[u64]),
) {
    let mut idle_turns = 0u32;
    let mut publish_at = Time::ZERO;
    let mut values = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        if it.turn(now) {
            idle_turns = 0;
        } else {
            idle_turns = idle_turns.saturating_add(1);
            rest(idle, idle_turns, it.poll_at(), now);
        }
        if publish_at.is_due(now) {
            it.publish(&mut values);
            publish(&values);
            publish_at = now + PUBLISH_EVERY;
        }
    }
}

fn rest(idle: Idle, idle_turns: u32, deadline: Option<Time>, now: Time) {
    match idle {
        Idle::Spin => std::hint::spin_loop(),
        Idle::Sleep if idle_turns > TURNS_BEFORE_SLEEP => {
            let until = deadline.map_or(SLEEP, |at| (at - now).min(SLEEP));
            if !until.is_zero() {
                std::thread::sleep(until);
            }
        }
        Idle::Yield | Idle::Sleep => std::thread::yield_now(),
    }
}
