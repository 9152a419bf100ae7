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
    /// Sleeps for moments once it has been idle for a while, each a small part of that while: nothing rings when a packet
    /// comes, so each sleep is latency of whoever comes meanwhile.
    Sleep,
}

/// Longest sleep of a core that was idle for a moment only.
const SLEEP_MIN: Duration = Duration::from_micros(100);

/// Longest sleep at all. A port that has taken nothing for long has room for what comes in so much time, and a core wakes so
/// rarely that it is at rest.
pub const SLEEP_MAX: Duration = Duration::from_millis(2);

/// What part of its idle time a core sleeps at a time: what was waited for so long comes so much later at most.
const SLEEP_PART: u32 = 64;

/// Idle turns before a core first sleeps.
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
    let (mut idle_turns, mut idle_since) = (0u32, Time::ZERO);
    let mut publish_at = Time::ZERO;
    let mut values = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        if it.turn(now) {
            idle_turns = 0;
        } else {
            if idle_turns == 0 {
                idle_since = now;
            }
            idle_turns = idle_turns.saturating_add(1);
            rest(idle, idle_turns, || sleep(now - idle_since, it.poll_at().map(|at| at - now)));
        }
        if publish_at.is_due(now) {
            it.publish(&mut values);
            publish(&values);
            publish_at = now + PUBLISH_EVERY;
        }
    }
}

fn rest(idle: Idle, idle_turns: u32, sleep: impl FnOnce() -> Duration) {
    match idle {
        Idle::Spin => std::hint::spin_loop(),
        Idle::Sleep if idle_turns > TURNS_BEFORE_SLEEP => {
            let time = sleep();
            if !time.is_zero() {
                std::thread::sleep(time);
            }
        }
        Idle::Yield | Idle::Sleep => std::thread::yield_now(),
    }
}

/// How long a core sleeps that has been idle for `idle_for` and has something to do after `due_in`.
fn sleep(idle_for: Duration, due_in: Option<Duration>) -> Duration {
    let time = (idle_for / SLEEP_PART).clamp(SLEEP_MIN, SLEEP_MAX);
    due_in.map_or(time, |due| due.min(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleeps_grow_with_the_rest_before_them() {
        let ms = Duration::from_millis;
        assert_eq!(sleep(Duration::ZERO, None), SLEEP_MIN);
        assert_eq!(sleep(ms(64), None), ms(1));
        assert_eq!(sleep(Duration::MAX, None), SLEEP_MAX);
        assert_eq!(sleep(Duration::MAX, Some(ms(1))), ms(1), "what is due is not slept through");
        assert_eq!(sleep(ms(1), Some(Duration::ZERO)), Duration::ZERO);
        assert_eq!(sleep(ms(1), Some(ms(9))), SLEEP_MIN);
    }
}
