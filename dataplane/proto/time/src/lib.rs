//! Monotonic time for sans-IO code, and the timer wheel.
//!
//! Protocol code never reads a clock: `now` comes in as a [`Time`], read once a burst by whoever drives it,
//! and the next deadline goes out as one. In a simulation `now` is virtual.

#![forbid(unsafe_code)]

mod wheel;

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

pub use wheel::Wheel;

/// Nanoseconds since an arbitrary start; monotonic within one process (or one simulation).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Time = Time(0);
    /// Later than any time a clock reaches: "no deadline".
    pub const NEVER: Time = Time(u64::MAX);

    /// Time of `us` microseconds after the start.
    pub const fn from_us(us: u64) -> Time {
        Time(us * 1_000)
    }

    /// Nanoseconds from `earlier` to `self`, 0 if `earlier` is later.
    pub const fn ns_since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether a deadline set for `self` has come at `now`.
    pub const fn is_due(self, now: Time) -> bool {
        self.0 <= now.0
    }
}

impl Add<Duration> for Time {
    type Output = Time;
    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Time {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub for Time {
    type Output = Duration;
    fn sub(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.ns_since(earlier))
    }
}
