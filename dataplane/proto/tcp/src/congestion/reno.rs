//! NewReno's window (RFC 5681 section 3.1, RFC 3465): slow start, then a segment a round trip.
//!
//! In: acknowledgements, losses. Out: a window. Pure; part of a connection.

use super::Ack;

/// A window that was never reduced has no threshold.
pub(super) const UNKNOWN: u32 = u32::MAX;

pub(crate) struct Reno {
    pub(super) window: u32,
    pub(super) threshold: u32,
    /// Bytes acknowledged that have not moved the window yet.
    credit: u32,
}

impl Reno {
    pub(super) fn new(window: u32) -> Reno {
        Reno { window, threshold: UNKNOWN, credit: 0 }
    }

    pub(super) fn acknowledged(&mut self, ack: &Ack) {
        if !ack.limited || (ack.recovering && self.window >= self.threshold) {
            return;
        }
        if self.window < self.threshold {
            self.window = self.window.saturating_add(ack.delivered).min(self.threshold);
            return;
        }
        self.credit = self.credit.saturating_add(ack.delivered);
        if self.credit >= self.window {
            self.credit -= self.window;
            self.window = self.window.saturating_add(ack.mss);
        }
    }

    pub(super) fn congested(&mut self, mss: u32) {
        self.threshold = (self.window / 2).max(2 * mss);
        self.window = self.threshold;
        self.credit = 0;
    }

    pub(super) fn timed_out(&mut self, mss: u32) {
        self.congested(mss);
        self.window = mss;
    }
}
