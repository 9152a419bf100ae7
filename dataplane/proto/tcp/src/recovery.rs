//! What a connection is in the middle of after a loss, and how much it may send meanwhile.
//!
//! In: losses, deliveries. Out: a window for the time of the recovery (proportional rate reduction, RFC 6937), and
//! whether the loss turns out to have been none. Pure; part of a connection.

use crate::congestion::Before;
use crate::sequence::Seq;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Phase {
    /// Nothing is taken for lost.
    #[default]
    Open,
    /// Segments were lost; what was delivered behind them told of it.
    Recovery,
    /// The retransmission timer fired.
    Loss,
}

/// What the window was, should the loss have been none.
#[derive(Clone, Copy, Debug)]
struct Undo {
    before: Before,
    /// What our clock of timestamps said when the first segment was sent again.
    stamp: Option<u32>,
    /// Segments sent again of which the peer has not said that they came twice.
    again: i32,
    any: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) phase: Phase,
    /// It is over once all before this number is acknowledged.
    pub(crate) end: Seq,
    /// Bytes that may be under way, in [`Phase::Recovery`].
    pub(crate) window: u32,
    /// Acknowledgements that told nothing new, of a peer without SACK (RFC 5681 section 2).
    pub(crate) duplicates: u32,
    delivered: u32,
    sent: u32,
    /// Bytes that were under way when it began (RecoverFS).
    flight: u32,
    undo: Option<Undo>,
}

impl Recovery {
    /// Whether a loss is being recovered from.
    pub(crate) fn is_on(&self) -> bool {
        self.phase != Phase::Open
    }

    /// A loss was found or the timer fired; `before`: the window as it was.
    pub(crate) fn begin(&mut self, phase: Phase, end: Seq, flight: u32, pipe: u32, mss: u32, before: Before) {
        // What a time-out finds in a recovery is part of the same loss.
        let undo = self.undo.take().filter(|_| self.is_on());
        *self = Recovery {
            phase,
            end,
            // RFC 6937 section 3: the first segment is sent again at once.
            window: pipe + mss,
            duplicates: self.duplicates,
            delivered: 0,
            sent: 0,
            flight,
            undo: undo.or(Some(Undo { before, stamp: None, again: 0, any: false })),
        };
    }

    /// It is over.
    pub(crate) fn finish(&mut self) {
        *self = Recovery::default();
    }

    /// Bytes were delivered: says how many may be under way (RFC 6937 section 3, with the slow start reduction bound
    /// where the acknowledgement moved on and told of no further loss).
    pub(crate) fn delivered(&mut self, bytes: u32, pipe: u32, threshold: u32, mss: u32, good: bool) {
        self.delivered = self.delivered.saturating_add(bytes);
        let more = if pipe > threshold {
            let share = u64::from(self.delivered) * u64::from(threshold);
            let due = share.div_ceil(u64::from(self.flight.max(1))) as u32;
            due.saturating_sub(self.sent)
        } else {
            let owed = self.delivered.saturating_sub(self.sent).max(bytes);
            let limit = if good { owed + mss } else { owed };
            limit.min(threshold - pipe)
        };
        // Never none while nothing is under way, or nothing would ever come back.
        self.window = pipe + if pipe == 0 { more.max(mss) } else { more };
    }

    /// Bytes were sent, new ones or again.
    pub(crate) fn sent(&mut self, bytes: u32) {
        self.sent = self.sent.saturating_add(bytes);
    }

    /// A lost segment was sent again.
    pub(crate) fn sent_again(&mut self, stamp: Option<u32>) {
        if let Some(undo) = &mut self.undo {
            undo.again += 1;
            undo.any = true;
            if undo.stamp.is_none() {
                undo.stamp = stamp;
            }
        }
    }

    /// The peer told of a segment that came twice (RFC 2883). Answers what the window was if all that was sent again came
    /// twice: nothing had been lost.
    pub(crate) fn duplicated(&mut self) -> Option<Before> {
        let undo = self.undo.as_mut()?;
        undo.again -= 1;
        if !undo.any || undo.again > 0 {
            return None;
        }
        self.undo.take().map(|undo| undo.before)
    }

    /// An acknowledgement moved on, and names this time of ours. Answers what the window was if that is before anything was
    /// sent again: the first transmission had arrived (Eifel, RFC 3522 section 3.2 and RFC 4015).
    pub(crate) fn echoed(&mut self, stamp: u32) -> Option<Before> {
        let first = self.undo.as_ref()?.stamp?;
        if (stamp.wrapping_sub(first) as i32) < 0 { self.undo.take().map(|undo| undo.before) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::congestion::{Algorithm, Congestion};

    const MSS: u32 = 1_000;

    fn recovery() -> Recovery {
        let mut recovery = Recovery::default();
        let before = Congestion::new(Algorithm::Reno, 10 * MSS).before();
        recovery.begin(Phase::Recovery, Seq(20_000), 20_000, 17_000, MSS, before);
        recovery
    }

    #[test]
    fn what_is_sent_is_in_proportion_to_what_is_delivered() {
        let mut recovery = recovery();
        assert_eq!(recovery.window, 18_000);
        let mut sent = 0;
        let mut pipe = 17_000;
        for _ in 0..14 {
            pipe -= MSS;
            recovery.delivered(MSS, pipe, 10_000, MSS, true);
            while pipe + MSS <= recovery.window {
                recovery.sent(MSS);
                (sent, pipe) = (sent + 1, pipe + MSS);
            }
        }
        assert_eq!((sent, pipe), (7, 10_000), "half of it, down to the threshold");
    }

    #[test]
    fn below_the_threshold_it_grows_back_by_what_is_delivered_and_one() {
        let mut recovery = recovery();
        recovery.delivered(MSS, 2_000, 10_000, MSS, true);
        assert_eq!(recovery.window, 4_000);
        recovery.sent(2 * MSS);
        recovery.delivered(MSS, 3_000, 10_000, MSS, false);
        assert_eq!(recovery.window, 4_000);
        recovery.delivered(0, 0, 10_000, MSS, false);
        assert!(recovery.window >= MSS, "something is always under way");
    }

    #[test]
    fn a_loss_that_was_none_is_seen_by_an_older_echo_or_by_duplicates() {
        let mut recovery = recovery();
        recovery.sent_again(Some(100));
        recovery.sent_again(Some(101));
        assert!(recovery.echoed(100).is_none(), "the segment sent again may have arrived");
        assert!(recovery.echoed(99).is_some());
        assert!(recovery.echoed(98).is_none(), "once");
        let mut recovery = self::recovery();
        assert!(recovery.duplicated().is_none(), "nothing was sent again");
        let mut recovery2 = self::recovery();
        recovery2.sent_again(None);
        recovery2.sent_again(None);
        assert!(recovery2.duplicated().is_none() && recovery2.duplicated().is_some());
        recovery.finish();
        assert!(!recovery.is_on());
    }
}
