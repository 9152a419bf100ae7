//! Where things lie in the region one end makes for a queue pair. In: the agreed limits. Out: offsets; both
//! ends work them out alike, so none of them is ever read from the peer.
//!
//! ```text
//! state word      the peer writes it: it is in error, or wants this end to be
//! posted counter  receives this end has posted since the start; the peer reads it
//! load word       the peer's load word, on a page of its own
//! ring            one entry a posted receive, each on cache lines of its own: sequence, descriptor, message
//! slots           what the peer WRITEs
//! ```
//!
//! The two words lie 128 bytes apart: processors fetch cache lines in pairs, and their writers differ.

use crate::{LOAD_BYTES, Limits};

const PAGE_BYTES: usize = 4096;
const LINE_BYTES: usize = 64;

/// A `u32`, [`READY`] or anything else for error.
pub(super) const STATE_AT: usize = 0;
/// A `u64`.
pub(super) const POSTED_AT: usize = 128;
/// [`LOAD_BYTES`] bytes.
pub(super) const LOAD_AT: usize = PAGE_BYTES;
const RING_AT: usize = 2 * PAGE_BYTES;

/// Within a ring entry: the `u64` number of the message in it, counted from 1; 0 before the first.
pub(super) const SEQUENCE_AT: usize = 0;
/// Within a ring entry: what the message is, a `u64`.
pub(super) const DESCRIPTOR_AT: usize = 8;
/// Within a ring entry: its bytes. Short messages share the line of sequence and descriptor.
pub(super) const MESSAGE_AT: usize = 16;
/// Bytes of a message on the line of sequence and descriptor.
pub(super) const FIRST_LINE_BYTES: usize = LINE_BYTES - MESSAGE_AT;
/// Within a ring entry of more than one line: the second.
pub(super) const SECOND_LINE_AT: usize = LINE_BYTES;

/// Zero, so that new memory is ready.
pub(super) const READY: u32 = 0;
/// Any other value means the same.
pub(super) const ERROR: u32 = 1;

const _: () = assert!(LOAD_AT + LOAD_BYTES <= RING_AT);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    entry_bytes: usize,
    entries: usize,
    pub(super) slots_at: usize,
    pub(super) slots_bytes: usize,
    /// Bytes of the whole region.
    pub(super) bytes: usize,
}

impl Layout {
    /// `limits` must have passed [`Limits::check`], which keeps the sums far from overflow.
    pub(super) fn new(limits: &Limits) -> Layout {
        let entry_bytes = (MESSAGE_AT + limits.message_bytes_max).next_multiple_of(LINE_BYTES);
        let slots_at = (RING_AT + entry_bytes * limits.receives).next_multiple_of(PAGE_BYTES);
        Layout {
            entry_bytes,
            entries: limits.receives,
            slots_at,
            slots_bytes: limits.slots_bytes,
            bytes: (slots_at + limits.slots_bytes).next_multiple_of(PAGE_BYTES),
        }
    }

    /// Offset of entry `index`.
    #[inline]
    pub(super) fn entry(&self, index: usize) -> usize {
        RING_AT + self.entry_bytes * index
    }

    /// The entry after `index`. No division: this is on every message's path.
    #[inline]
    pub(super) fn next(&self, index: usize) -> usize {
        if index + 1 == self.entries { 0 } else { index + 1 }
    }
}
