//! The clock an application runs by: the machine's, or a simulation's; and the Date field.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrayvec::ArrayString;
use keyferry_time::Time;

/// Bytes of an IMF-fixdate (RFC 9110 5.6.7).
const DATE_BYTES: usize = 29;

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

/// The value of the Date field (RFC 9110 6.6.1), made once a second.
#[derive(Default)]
pub(crate) struct Date {
    text: ArrayString<DATE_BYTES>,
    until: Time,
}

impl Date {
    /// The value at `now`.
    pub(crate) fn at(&mut self, now: Time, clock: &dyn Clock) -> &str {
        if self.text.is_empty() || self.until.is_due(now) {
            self.until = now + Duration::from_secs(1);
            self.text.clear();
            let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(clock.unix_seconds()));
            // Its length is fixed, so it fits.
            let _ = write!(self.text, "{date}");
        }
        &self.text
    }
}
