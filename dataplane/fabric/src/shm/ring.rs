//! The ring of posted receives in shared memory. In: messages and immediates from the worker of one process. Out:
//! the same, in order, to the worker of the other. Each end is owned by one worker and keeps its place in private
//! memory; what it reads from the ring it checks, for the other process may have scribbled over all of it.
//!
//! An entry carries the number of its message (as in Vyukov's bounded queue), so the receiver polls the line the
//! message comes in and no other. How many receives are posted stands in a counter the sender reads only when its
//! last reading is used up.

use std::sync::atomic::Ordering;

use super::layout::{
    DESCRIPTOR_AT, FIRST_LINE_BYTES, Layout, MESSAGE_AT, POSTED_AT, SECOND_LINE_AT, SEQUENCE_AT,
};
use super::region::Region;

/// Descriptor: set for an immediate, whose value is the low half.
const IMMEDIATE: u64 = 1 << 63;
/// Descriptor: a message's length is the upper half without that bit.
const LEN_SHIFT: u32 = 32;

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// A message of so many bytes, within the limit.
    Message(u32),
    /// An immediate.
    Immediate(u32),
}

/// A descriptor no honest peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Garbled;

/// The sending end, writing into the peer's region.
pub(super) struct Sender {
    index: usize,
    sent: u64,
    /// The peer's posted counter as last read.
    posted: u64,
}

impl Sender {
    pub(super) fn new(receives: usize) -> Sender {
        Sender { index: 0, sent: 0, posted: receives as u64 }
    }

    /// Whether the peer has a receive posted.
    #[inline]
    pub(super) fn has_receive(&mut self, region: &Region) -> bool {
        if self.sent == self.posted {
            // Acquire pairs with `Receiver::post`: the receiver's copying out of the entry comes first.
            self.posted = region.u64(POSTED_AT).load(Ordering::Acquire);
        }
        // A garbled counter can only make us overwrite what we sent ourselves.
        self.sent < self.posted
    }

    /// Fills the next posted receive. Ask [`has_receive`](Self::has_receive) first.
    #[inline]
    pub(super) fn push_message(&mut self, region: &Region, layout: &Layout, message: &[u8]) {
        let at = layout.entry(self.index) + MESSAGE_AT;
        let (first, rest) = message.split_at(message.len().min(FIRST_LINE_BYTES));
        // The line the receiver polls comes last and in one go, so that it does not change hands in between.
        region.copy_in(at + first.len(), rest);
        region.copy_in(at, first);
        self.push(region, layout, (message.len() as u64) << LEN_SHIFT);
    }

    /// Uses up the next posted receive for an immediate. Ask [`has_receive`](Self::has_receive) first.
    #[inline]
    pub(super) fn push_immediate(&mut self, region: &Region, layout: &Layout, immediate: u32) {
        self.push(region, layout, IMMEDIATE | u64::from(immediate));
    }

    #[inline]
    fn push(&mut self, region: &Region, layout: &Layout, descriptor: u64) {
        let entry = layout.entry(self.index);
        region.u64(entry + DESCRIPTOR_AT).store(descriptor, Ordering::Relaxed);
        self.sent += 1;
        // Release: message, descriptor and every WRITE before them are visible to whoever sees the number.
        region.u64(entry + SEQUENCE_AT).store(self.sent, Ordering::Release);
        self.index = layout.next(self.index);
    }
}

/// The receiving end, reading this end's own region.
pub(super) struct Receiver {
    index: usize,
    taken: u64,
    posted: u64,
    message_bytes_max: u32,
}

impl Receiver {
    /// All receives are posted from the start.
    pub(super) fn new(region: &Region, receives: usize, message_bytes_max: u32) -> Receiver {
        let receiver = Receiver { index: 0, taken: 0, posted: receives as u64, message_bytes_max };
        region.u64(POSTED_AT).store(receiver.posted, Ordering::Release);
        receiver
    }

    /// What has arrived next, if anything. The descriptor is read once and checked here; nothing else of it is
    /// taken from shared memory again.
    #[inline]
    pub(super) fn peek(&self, region: &Region, layout: &Layout) -> Result<Option<Entry>, Garbled> {
        let entry = layout.entry(self.index);
        // Asked for before it is known to be there, so that a message of two lines waits for both at once and not for
        // one after the other: 180 ns instead of 215 for 64 bytes (benches/shm.rs).
        region.prefetch(entry + SECOND_LINE_AT);
        // Acquire pairs with `Sender::push`.
        if region.u64(entry + SEQUENCE_AT).load(Ordering::Acquire) != self.taken + 1 {
            return Ok(None);
        }
        let descriptor = region.u64(entry + DESCRIPTOR_AT).load(Ordering::Relaxed);
        let (upper, lower) = ((descriptor >> LEN_SHIFT) as u32, descriptor as u32);
        if descriptor & IMMEDIATE != 0 {
            return if upper == 1 << 31 { Ok(Some(Entry::Immediate(lower))) } else { Err(Garbled) };
        }
        if upper > self.message_bytes_max || lower != 0 {
            return Err(Garbled);
        }
        Ok(Some(Entry::Message(upper)))
    }

    /// Copies the entry seen by [`peek`](Self::peek) into `message`, as an adapter's DMA would, so that the peer
    /// can no longer change it, and moves on.
    #[inline]
    pub(super) fn take(&mut self, region: &Region, layout: &Layout, message: &mut [u8]) {
        region.copy_out(layout.entry(self.index) + MESSAGE_AT, message);
        self.taken += 1;
        self.index = layout.next(self.index);
    }

    /// Posts one more receive, in the entry taken longest ago.
    #[inline]
    pub(super) fn post(&mut self, region: &Region) {
        self.posted += 1;
        // Release: the entry was copied out before.
        region.u64(POSTED_AT).store(self.posted, Ordering::Release);
    }
}
