//! The clock an application runs by: the machine's, or a simulation's; and the Date field.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The machine's clocks. Monotonic time is the processor's time stamp counter where that is invariant: it is read for each
/// request, in a third of the time the kernel's clock takes, and drifts from that by less than a tenth of a thousandth.
#[derive(Clone, Debug)]
pub struct SystemClock {
    clock: quanta::Clock,
    start: u64,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        let clock = quanta::Clock::new();
        SystemClock { start: clock.raw(), clock }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Time {
        Time(self.clock.delta_as_nanos(self.start, self.clock.raw()))
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
