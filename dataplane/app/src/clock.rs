//! The clock an application runs by: the machine's, or a simulation's.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use keyferry_time::Time;

/// Time for an application.
pub trait Clock: Send {
    /// Monotonic time.
    fn now(&self) -> Time;
    /// Calendar time, in seconds since 1970, for the Date field.
    fn unix_seconds(&self) -> u64;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}
