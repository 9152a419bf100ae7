//! What happens next: moments and what is due then go in, in any order, and come out in the order of time; those of the same
//! moment in the order in which they went in, so that a run replays. The next arrival is only ever one, and kept beside the
//! heap; it comes before others of its moment. Owned by a run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Bits of an event that say which request, connection or node it is about.
const INDEX_BITS: u32 = 28;

/// Requests, connections or nodes that events can tell apart.
pub const INDEX_MAX: usize = (1 << INDEX_BITS) - 1;

/// What is due, each about the request, connection or node of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The next request or session of the load comes; about nothing.
    Arrival,
    /// A client opens a connection that it keeps.
    Open,
    /// A kept connection has shaken hands.
    Ready,
    /// A client tries again to connect.
    Begin,
    /// A client of a session has thought, and asks on.
    Think,
    /// A request is whole at its node, which decides where it runs.
    Decide,
    /// A lent request has come to its helper.
    Granted,
    /// The application is done with a request.
    Done,
    /// A helper's claim has come to the node it helps.
    Claimed,
    /// The key has come to the helper.
    Go,
    /// All records have come back.
    Returned,
    /// A core that jobs share is done with some.
    Shared,
    /// The client has its reply.
    End,
    /// A fault of the scenario begins.
    Fault,
    /// Others notice it.
    Notice,
    /// The node is back.
    Back,
}

const KINDS: [Kind; 16] = [
    Kind::Arrival,
    Kind::Open,
    Kind::Ready,
    Kind::Begin,
    Kind::Think,
    Kind::Decide,
    Kind::Granted,
    Kind::Done,
    Kind::Claimed,
    Kind::Go,
    Kind::Returned,
    Kind::Shared,
    Kind::End,
    Kind::Fault,
    Kind::Notice,
    Kind::Back,
];

const _: () = assert!(KINDS.len() <= 1 << (u32::BITS - INDEX_BITS));

/// A moment, then the order of insertion; below both what is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at_ns: u64,
    tag: u64,
}

/// Events to come.
pub struct Events {
    heap: BinaryHeap<Reverse<Entry>>,
    /// When the next arrival is.
    arrival_ns: Option<u64>,
    /// Counts the insertions; it goes round, which puts two of one moment out of order once in four thousand million.
    inserted: u32,
}

impl Events {
    /// With room for so many; more take more memory.
    pub fn with_room(events: usize) -> Events {
        Events { heap: BinaryHeap::with_capacity(events), arrival_ns: None, inserted: 0 }
    }

    /// `kind` is due at `at_ns`.
    pub fn push(&mut self, at_ns: u64, kind: Kind, index: u32) {
        debug_assert!(index as usize <= INDEX_MAX);
        let tag = u64::from(self.inserted) << 32 | u64::from(kind as u8) << INDEX_BITS | u64::from(index);
        self.inserted = self.inserted.wrapping_add(1);
        self.heap.push(Reverse(Entry { at_ns, tag }));
    }

    /// The next arrival is at `at_ns`; none was planned.
    pub fn plan_arrival(&mut self, at_ns: u64) {
        debug_assert!(self.arrival_ns.is_none());
        self.arrival_ns = Some(at_ns);
    }

    /// The next one.
    pub fn pop(&mut self) -> Option<(u64, Kind, u32)> {
        if let Some(at_ns) = self.arrival_ns
            && self.heap.peek().is_none_or(|Reverse(first)| at_ns <= first.at_ns)
        {
            self.arrival_ns = None;
            return Some((at_ns, Kind::Arrival, 0));
        }
        let Reverse(Entry { at_ns, tag }) = self.heap.pop()?;
        let low = tag as u32;
        Some((at_ns, KINDS[(low >> INDEX_BITS) as usize], low & INDEX_MAX as u32))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn time_goes_on_and_equals_keep_their_order(moments in prop::collection::vec(0u64..50, 1..300)) {
            let mut events = Events::with_room(1);
            for (index, at_ns) in (0..).zip(&moments) {
                events.push(*at_ns, KINDS[index as usize % KINDS.len()], index);
            }
            let mut sorted: Vec<_> = (0u32..).zip(&moments).collect();
            sorted.sort_by_key(|(_, at_ns)| **at_ns);
            for (index, at_ns) in sorted {
                prop_assert_eq!(events.pop(), Some((*at_ns, KINDS[index as usize % KINDS.len()], index)));
            }
            prop_assert_eq!(events.pop(), None);
        }
    }

    #[test]
    fn the_arrival_comes_at_its_time() {
        let mut events = Events::with_room(4);
        events.push(7, Kind::Done, 1);
        events.plan_arrival(7);
        events.push(3, Kind::End, 2);
        assert_eq!(events.pop(), Some((3, Kind::End, 2)));
        assert_eq!(events.pop(), Some((7, Kind::Arrival, 0)));
        events.plan_arrival(8);
        assert_eq!(events.pop(), Some((7, Kind::Done, 1)));
        assert_eq!((events.pop(), events.pop()), (Some((8, Kind::Arrival, 0)), None));
    }
}
