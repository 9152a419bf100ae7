//! Frames under way, by time of arrival.
//!
//! In: frames and times from a [`Wire`](super::Wire). Out: frames whose time has come, in order of time and then of
//! sending. Owned by the net. Buffers are used again; a bound keeps a runaway wire from eating the memory.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};

/// A frame on its way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    pub at_ns: u64,
    sequence: u64,
    /// Index of the port it goes to.
    pub to: usize,
    pub frame: Vec<u8>,
}

impl Ord for Arrival {
    /// Earlier is greater: the heap gives the greatest first.
    fn cmp(&self, other: &Arrival) -> Ordering {
        (other.at_ns, other.sequence).cmp(&(self.at_ns, self.sequence))
    }
}

impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Arrival) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// All frames under way.
#[derive(Debug)]
pub(super) struct Pending {
    /// Frames that arrive no earlier than the one before: nearly all, and no heap is needed for them.
    line: VecDeque<Arrival>,
    /// Frames that overtake.
    heap: BinaryHeap<Arrival>,
    free: Vec<Vec<u8>>,
    sequence: u64,
    frames_max: usize,
    /// Frames that found no place.
    pub dropped: u64,
}

impl Pending {
    pub fn new(frames_max: usize) -> Pending {
        Pending {
            line: VecDeque::with_capacity(frames_max),
            heap: BinaryHeap::with_capacity(frames_max),
            free: Vec::with_capacity(frames_max),
            sequence: 0,
            frames_max,
            dropped: 0,
        }
    }

    /// The next frame, and whether it is in the heap.
    fn next(&self) -> Option<(&Arrival, bool)> {
        match (self.line.front(), self.heap.peek()) {
            (Some(line), Some(heap)) if line < heap => Some((heap, true)),
            (Some(line), _) => Some((line, false)),
            (None, heap) => heap.map(|heap| (heap, true)),
        }
    }

    /// When the next frame arrives.
    pub fn next_ns(&self) -> Option<u64> {
        self.next().map(|(arrival, _)| arrival.at_ns)
    }

    pub fn len(&self) -> usize {
        self.line.len() + self.heap.len()
    }

    /// The next frame, if its time has come. Give its buffer back with [`recycle`](Pending::recycle).
    pub fn pop_due(&mut self, now_ns: u64) -> Option<Arrival> {
        let (_, in_heap) = self.next().filter(|(arrival, _)| arrival.at_ns <= now_ns)?;
        if in_heap { self.heap.pop() } else { self.line.pop_front() }
    }

    pub fn recycle(&mut self, mut frame: Vec<u8>) {
        frame.clear();
        self.free.push(frame);
    }

    fn push(&mut self, at_ns: u64, to: usize, bytes: &[u8]) {
        if self.len() >= self.frames_max {
            self.dropped += 1;
            return;
        }
        let mut frame = self.free.pop().unwrap_or_default();
        // A copy, as a wire makes one: the sender's buffer is free once the frame is out.
        frame.extend_from_slice(bytes);
        let arrival = Arrival { at_ns, sequence: self.sequence, to, frame };
        self.sequence += 1;
        if self.line.back().is_some_and(|last| last.at_ns > at_ns) {
            self.heap.push(arrival);
        } else {
            self.line.push_back(arrival);
        }
    }
}

/// Where a [`Wire`](super::Wire) puts what becomes of a frame.
#[derive(Debug)]
pub struct Arrivals<'a> {
    pub(super) pending: &'a mut Pending,
    pub(super) to: usize,
}

impl Arrivals<'_> {
    /// `frame` arrives at `at_ns`. May be called any number of times.
    pub fn at(&mut self, at_ns: u64, frame: &[u8]) {
        self.pending.push(at_ns, self.to, frame);
    }
}
