//! Which pieces under way are lost: by time (RACK, RFC 8985 section 6).
//!
//! In: pieces delivered, the time. Out: pieces taken for lost, and when to look again. Pure; part of a connection.

use std::time::Duration;

use keyferry_time::Time;

use crate::flight::{Flight, Sent};
use crate::sequence::Seq;

/// Recoveries a widened reordering window outlives the last sign of reordering (RFC 8985 section 6.2 step 4).
const WIDE_RECOVERIES: u8 = 16;

/// Pieces out of order from which on loss is more likely than reordering (RFC 8985 section 6.2, DupThresh).
pub(crate) const DUPLICATES: u32 = 3;

/// What the path has shown when a verdict is due.
#[derive(Clone, Copy)]
pub(crate) struct Path {
    pub(crate) min_rtt_ns: u64,
    pub(crate) smoothed_ns: u64,
    pub(crate) recovering: bool,
}

/// What a path has shown of reordering: outlives what is under way.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reordering {
    seen: bool,
    /// Quarters of the least round trip to wait for reordered pieces.
    quarters: u8,
    wide_left: u8,
}

impl Reordering {
    /// The peer told of a segment that came twice: we were too quick (RFC 8985 section 6.2 step 4).
    pub(crate) fn widen(&mut self) {
        self.quarters = self.quarters.max(1).saturating_add(1);
        self.wide_left = WIDE_RECOVERIES;
    }
}

/// The piece delivered last of those sent, and what reordering was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rack {
    /// When the piece was sent that was sent last of all delivered ones.
    sent_at: Time,
    end: Seq,
    rtt_ns: u64,
    /// The highest number delivered; `None` before the first.
    forward: Option<Seq>,
    pub(crate) reordering: Reordering,
    /// Until which number duplicates count once.
    duplicate_round: Option<Seq>,
}

impl Rack {
    /// A piece was delivered (RFC 8985 section 6.2 steps 1 to 3). `echoed`: its acknowledgement names a time, in the
    /// clock of timestamps, before the piece was last sent, so that an earlier transmission was delivered.
    pub(crate) fn delivered(&mut self, piece: &Sent, now: Time, min_rtt_ns: u64, echoed_before: bool) {
        let rtt_ns = now.ns_since(piece.at);
        if piece.is_again() {
            if rtt_ns < min_rtt_ns || echoed_before {
                return;
            }
        } else if self.forward.is_some_and(|forward| piece.end() < forward) {
            self.reordering.seen = true;
        }
        self.forward = Some(self.forward.map_or(piece.end(), |forward| forward.max(piece.end())));
        if (piece.at, 0) > (self.sent_at, 0) || (piece.at == self.sent_at && piece.end() > self.end) {
            (self.sent_at, self.end, self.rtt_ns) = (piece.at, piece.end(), rtt_ns);
        }
    }

    /// The peer told of a segment that came twice; counts once a round trip.
    pub(crate) fn duplicated(&mut self, una: Seq, nxt: Seq) {
        if self.duplicate_round.is_none_or(|until| until <= una) {
            self.duplicate_round = Some(nxt);
            self.reordering.widen();
        }
    }

    /// A recovery ended.
    pub(crate) fn recovered(&mut self) {
        let reordering = &mut self.reordering;
        reordering.wide_left = reordering.wide_left.saturating_sub(1);
        if reordering.wide_left == 0 {
            reordering.quarters = 1;
        }
    }

    /// How long a piece may be overtaken (RFC 8985 section 6.2 step 4).
    fn window_ns(&self, path: Path, sacked_pieces: u32) -> u64 {
        if !self.reordering.seen && (path.recovering || sacked_pieces >= DUPLICATES) {
            return 0;
        }
        let quarters = u64::from(self.reordering.quarters.max(1));
        (path.min_rtt_ns * quarters / 4).min(path.smoothed_ns)
    }

    /// Takes pieces for lost that were sent long enough before one that was delivered (RFC 8985 section 6.2 step 5).
    /// Answers the bytes lost, and when a piece that was overtaken will be.
    pub(crate) fn detect(&self, flight: &mut Flight, now: Time, path: Path) -> (u32, Option<Time>) {
        let patience = Duration::from_nanos(self.rtt_ns + self.window_ns(path, flight.sacked_pieces()));
        let mut again: Option<Time> = None;
        let lost = flight.judge(|piece| {
            let overtaken = piece.at < self.sent_at || (piece.at == self.sent_at && piece.end() < self.end);
            if !overtaken {
                // What was sent once behind it was sent later still.
                return piece.is_again().then_some(false);
            }
            let due = piece.at + patience;
            if due.is_due(now) {
                return Some(true);
            }
            again = Some(again.map_or(due, |again| again.max(due)));
            Some(false)
        });
        (lost, again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flight::Snapshot;

    const MS: u64 = 1_000_000;
    const PATH: Path = Path { min_rtt_ns: 40 * MS, smoothed_ns: 40 * MS, recovering: false };

    /// Five pieces sent a millisecond apart.
    fn flight() -> Flight {
        let mut flight = Flight::default();
        for at in 0..5u32 {
            flight.push(Seq(at * 100), 100, Time(u64::from(at) * MS), Snapshot::default());
        }
        flight
    }

    fn sack(rack: &mut Rack, flight: &mut Flight, piece: u32, now: Time) {
        flight.sack(Seq(piece * 100), Seq(piece * 100 + 100), |piece| {
            rack.delivered(piece, now, PATH.min_rtt_ns, false);
        });
    }

    #[test]
    fn what_is_overtaken_waits_for_a_quarter_of_the_round_trip() {
        let (mut rack, mut flight) = (Rack::default(), flight());
        sack(&mut rack, &mut flight, 2, Time(42 * MS));
        let (lost, again) = rack.detect(&mut flight, Time(42 * MS), PATH);
        assert_eq!((lost, again), (0, Some(Time(51 * MS))));
        assert_eq!(rack.detect(&mut flight, Time(51 * MS), PATH), (200, None));
    }

    #[test]
    fn three_behind_a_hole_are_enough() {
        let (mut rack, mut flight) = (Rack::default(), flight());
        for piece in 1..4 {
            sack(&mut rack, &mut flight, piece, Time((40 + u64::from(piece)) * MS));
        }
        assert_eq!(rack.detect(&mut flight, Time(43 * MS), PATH).0, 100);
    }

    #[test]
    fn once_reordering_was_seen_three_are_not_enough() {
        let (mut rack, mut flight) = (Rack::default(), flight());
        sack(&mut rack, &mut flight, 3, Time(43 * MS));
        sack(&mut rack, &mut flight, 1, Time(43 * MS));
        sack(&mut rack, &mut flight, 2, Time(43 * MS));
        let (lost, again) = rack.detect(&mut flight, Time(43 * MS), PATH);
        assert_eq!((lost, again), (0, Some(Time(50 * MS))));
        rack.duplicated(Seq(0), Seq(500));
        rack.duplicated(Seq(0), Seq(500));
        assert_eq!(rack.detect(&mut flight, Time(43 * MS), PATH).1, Some(Time(60 * MS)), "once a round trip");
        rack.duplicated(Seq(500), Seq(900));
        assert_eq!(rack.detect(&mut flight, Time(43 * MS), PATH).1, Some(Time(70 * MS)));
    }

    #[test]
    fn what_was_sent_again_is_lost_again_by_its_own_time() {
        let (mut rack, mut flight) = (Rack::default(), flight());
        for piece in 1..4 {
            sack(&mut rack, &mut flight, piece, Time(43 * MS));
        }
        rack.detect(&mut flight, Time(43 * MS), PATH);
        flight.sent_again(Seq(0), 100, Time(43 * MS), Snapshot::default());
        flight.push(Seq(500), 100, Time(44 * MS), Snapshot::default());
        assert_eq!(rack.detect(&mut flight, Time(44 * MS), PATH).0, 0);
        sack(&mut rack, &mut flight, 5, Time(84 * MS));
        // It and what was sent once before it: both were overtaken.
        assert_eq!(rack.detect(&mut flight, Time(84 * MS), Path { recovering: true, ..PATH }).0, 200);
    }
}
