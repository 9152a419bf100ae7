//! Whether a turn is behind what comes. In: how many packets each receive burst had. Out: yes or no.

use keyferry_nic::BURST;

/// Full bursts in a row that are no chance any more: so many packets were there before the turns got to them. A quarter
/// of a port's ring, whose rest is for what comes until those are dealt with.
pub const FULL_BURSTS: u32 = 8;

/// Full bursts in a row.
#[derive(Default)]
pub(crate) struct Lag(u32);

impl Lag {
    /// Takes note of a burst; answers whether its packets come late.
    pub(crate) fn note(&mut self, received: usize) -> bool {
        self.0 = if received == BURST { self.0.saturating_add(1) } else { 0 };
        self.0 > FULL_BURSTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_burst_that_is_not_full_ends_it() {
        let mut lag = Lag::default();
        let full = (0..FULL_BURSTS).map(|_| lag.note(BURST)).filter(|behind| *behind).count();
        assert_eq!(full, 0, "bursts come");
        assert!(lag.note(BURST));
        assert!(!lag.note(BURST - 1));
        assert!(!lag.note(BURST));
    }
}
