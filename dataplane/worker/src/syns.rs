//! SYNs that wait: a line of their own behind whoever is connected, so that a flood of them costs those little.
//!
//! In: packets that ask for a connection, told by one look at their headers, before anything is looked for. Out: as many a
//! turn as there is time for, at its end and in the order they came; what the line does not hold is dropped and counted. A crowd of honest
//! clients fits the line and is not dropped from; a line that stays full is a flood. Owned by a worker.

use std::collections::VecDeque;

/// SYNs that wait, at most: with those taken meanwhile, what the port's own queue holds at once.
pub const SYNS_WAITING_MAX: usize = 512;

/// SYNs taken in a turn: what comes to the port meanwhile waits for that long, and so they cost no more than a request does.
pub const SYNS_A_TURN: usize = 8;

/// SYNs taken in a turn besides, for each packet of others: one costs a fifth of such a packet, so that those who are connected
/// have most of a turn, and a worker with much to do makes no fewer connections for it.
pub const SYNS_A_PACKET: usize = 1;

const _: () = assert!(SYNS_A_TURN <= SYNS_WAITING_MAX);

/// Where an IP packet is in its frame.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// The SYNs of a worker that wait.
pub(crate) struct Syns<P> {
    line: VecDeque<(P, Place)>,
    /// Packets of others in this turn.
    others: usize,
}

impl<P> Syns<P> {
    pub(crate) fn new() -> Syns<P> {
        Syns { line: VecDeque::with_capacity(SYNS_WAITING_MAX), others: 0 }
    }

    /// Puts a SYN at the end of the line. `false`: it is full, and the SYN is dropped.
    pub(crate) fn push(&mut self, packet: P, place: Place) -> bool {
        let fits = !self.is_full();
        if fits {
            self.line.push_back((packet, place));
        }
        fits
    }

    /// A packet of another kind was taken.
    pub(crate) fn note_other(&mut self) {
        self.others += 1;
    }

    /// Packets of other kinds in this turn.
    pub(crate) fn others(&self) -> usize {
        self.others
    }

    pub(crate) fn is_full(&self) -> bool {
        self.line.len() >= SYNS_WAITING_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// How many may be taken in this turn, which ends with it.
    pub(crate) fn end_turn(&mut self) -> usize {
        SYNS_A_TURN + SYNS_A_PACKET * std::mem::take(&mut self.others)
    }

    /// The one that has waited for longest.
    pub(crate) fn pop(&mut self) -> Option<(P, Place)> {
        self.line.pop_front()
    }
}
