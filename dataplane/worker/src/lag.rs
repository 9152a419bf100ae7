//! Whether a turn is behind what comes. In: how many packets each receive burst had, and how many wait. Out: yes or no.

use keyferry_nic::BURST;

/// Full bursts in a row after which a port is asked how many packets wait.
const FULL_BURSTS: u32 = 4;
/// The same, where the port does not say: so many as a ring holds were there before the turns got to them.
const FULL_BURSTS_UNTOLD: u32 = 16;
/// A ring has at least so many places (virtio's least common size); how many more is seen when they are used.
const RING_MIN: usize = 256;

/// How full bursts and the ring have been.
pub(crate) struct Lag {
    full_bursts: u32,
    /// Most packets that ever waited.
    ring: usize,
}

impl Lag {
    pub(crate) fn new() -> Lag {
        Lag { full_bursts: 0, ring: RING_MIN }
    }

    /// Takes note of a burst; answers whether its packets come late: of the ring, whose rest is for what comes until they
    /// are dealt with, three quarters are in use.
    #[inline]
    pub(crate) fn note(&mut self, received: usize, waiting: impl Fn() -> Option<usize>) -> bool {
        if received < BURST {
            self.full_bursts = 0;
            return false;
        }
        self.full_bursts = self.full_bursts.saturating_add(1);
        if self.full_bursts <= FULL_BURSTS {
            return false;
        }
        let Some(waiting) = waiting() else { return self.full_bursts > FULL_BURSTS_UNTOLD };
        self.ring = self.ring.max(waiting + BURST);
        waiting + BURST > self.ring / 4 * 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note_many(lag: &mut Lag, bursts: u32, waiting: Option<usize>) -> usize {
        (0..bursts).filter(|_| lag.note(BURST, || waiting)).count()
    }

    #[test]
    fn a_port_that_counts_is_believed() {
        let mut lag = Lag::new();
        assert_eq!(note_many(&mut lag, FULL_BURSTS, Some(RING_MIN)), 0, "bursts come");
        assert_eq!(note_many(&mut lag, 1000, Some(RING_MIN / 2)), 0, "there is room");
        assert_eq!(note_many(&mut lag, 3, Some(RING_MIN)), 3);
        assert_eq!(note_many(&mut lag, 1, Some(1000)), 1, "a larger ring");
        assert_eq!(note_many(&mut lag, 3, Some(RING_MIN)), 0, "of which that is little");
    }

    #[test]
    fn one_burst_that_is_not_full_ends_it() {
        let mut lag = Lag::new();
        assert_eq!(note_many(&mut lag, FULL_BURSTS_UNTOLD, None), 0, "bursts come");
        assert_eq!(note_many(&mut lag, 1, None), 1);
        assert!(!lag.note(BURST - 1, || None));
        assert_eq!(note_many(&mut lag, FULL_BURSTS_UNTOLD, None), 0);
    }
}
