//! Which sequence numbers beyond the next one have arrived, and how a peer is told (RFC 2018, RFC 2883).
//!
//! In: ranges as they come. Out: what joins the stream, SACK blocks. Pure; the bytes themselves are in `receive`.

use arrayvec::ArrayVec;

use crate::packet::SACK_BLOCKS_MAX;
use crate::sequence::Seq;

/// Ranges kept of one connection: each is a hole the network made in one window.
const RANGES_MAX: usize = 256;

/// Ranges remembered as changed last.
const RECENT: usize = 3;

/// Ranges that arrived out of order.
#[derive(Default)]
pub(crate) struct Reassembly {
    /// Apart from each other, in order.
    ranges: Vec<(Seq, Seq)>,
    /// Where segments arrived last, the last one first.
    recent: ArrayVec<Seq, RECENT>,
}

impl Reassembly {
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
        self.recent.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// End of the last range.
    pub(crate) fn end(&self) -> Option<Seq> {
        self.ranges.last().map(|range| range.1)
    }

    /// Whether all of a range has arrived before.
    pub(crate) fn has(&self, start: Seq, end: Seq) -> bool {
        self.ranges.iter().any(|range| range.0 <= start && end <= range.1)
    }

    /// Takes note of a range. `false`: there are too many already.
    pub(crate) fn insert(&mut self, start: Seq, end: Seq) -> bool {
        // Almost always it extends the last range or comes behind it.
        let from = self.ranges.partition_point(|range| range.1 < start);
        let to = from + self.ranges[from..].partition_point(|range| range.0 <= end);
        if from == to {
            if self.ranges.len() == RANGES_MAX {
                return false;
            }
            self.ranges.insert(from, (start, end));
        } else {
            let (first, last) = (self.ranges[from].0, self.ranges[to - 1].1);
            self.ranges[from] = (first.min(start), last.max(end));
            self.ranges.drain(from + 1..to);
        }
        self.recent.retain(|at| !(*at >= start && *at < end));
        if self.recent.is_full() {
            self.recent.pop();
        }
        self.recent.insert(0, start);
        true
    }

    /// The end of the stream once it has reached `next`: takes the ranges that join it out.
    pub(crate) fn join(&mut self, mut next: Seq) -> Seq {
        let joined = self.ranges.iter().take_while(|range| {
            let joins = range.0 <= next;
            if joins {
                next = next.max(range.1);
            }
            joins
        });
        let joined = joined.count();
        self.ranges.drain(..joined);
        self.recent.retain(|at| *at >= next);
        next
    }

    /// SACK blocks: the ranges that changed last first (RFC 2018 section 4).
    pub(crate) fn blocks(&self, blocks: &mut ArrayVec<(Seq, Seq), SACK_BLOCKS_MAX>) {
        let around = |at: Seq| self.ranges.iter().find(|range| range.0 <= at && at < range.1);
        let recent = self.recent.iter().filter_map(|at| around(*at));
        // A duplicate that stands first already is told beside the range it is of (RFC 2883 section 4.1).
        let first = blocks.len();
        for range in recent.chain(&self.ranges) {
            if blocks.is_full() {
                return;
            }
            if !blocks[first..].contains(range) {
                blocks.push(*range);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers begin just before they wrap.
    const FIRST: Seq = Seq(u32::MAX - 100);

    proptest! {
        #[test]
        fn keeps_what_a_set_of_bytes_would(steps in prop::collection::vec((1u32..200, 1u32..30), 1..60)) {
            let mut reassembly = Reassembly::default();
            let mut model = [false; 300];
            let mut next = 0;
            for (at, len) in steps {
                let len = len.min(300 - at);
                model[at as usize..(at + len) as usize].fill(true);
                if at > next {
                    let held = reassembly.has(FIRST + at, FIRST + at + len);
                    prop_assert!(reassembly.insert(FIRST + at, FIRST + at + len));
                    prop_assert!(reassembly.has(FIRST + at, FIRST + at + len));
                    let mut blocks = ArrayVec::new();
                    reassembly.blocks(&mut blocks);
                    let (start, end) = blocks[0];
                    prop_assert!(start <= FIRST + at && FIRST + at + len <= end, "the latest first, {held}");
                } else if at + len > next {
                    next = reassembly.join(FIRST + at + len).since(FIRST);
                }
                let end = (next..300).find(|at| !model[*at as usize]).unwrap_or(300);
                if next > 0 {
                    prop_assert_eq!(reassembly.join(FIRST + next).since(FIRST), next);
                    prop_assert!(at > next || next == end);
                }
            }
        }
    }

    #[test]
    fn ranges_are_bounded() {
        let mut reassembly = Reassembly::default();
        for at in 0..RANGES_MAX as u32 {
            assert!(reassembly.insert(FIRST + 2 * at + 1, FIRST + 2 * at + 2));
        }
        assert!(!reassembly.insert(FIRST + 5_000, FIRST + 5_001));
        assert!(reassembly.insert(FIRST + 2, FIRST + 3), "what joins two is taken");
        assert!(reassembly.insert(FIRST + 5_000, FIRST + 5_001), "and makes room");
    }
}
