//! Memory for received bytes, shared by all connections of a worker.
//!
//! In: buffers wanted and given back. Out: buffers, as far as the budget goes. A connection has one only while it has
//! bytes its caller has not read, so idle ones cost nothing, and the buffer given back last, still in the cache,
//! serves the next connection. Sizes double from the configured one. Owned by a worker's TCP.

use crate::reassembly::Reassembly;

/// Doublings of the smallest buffer, at most.
pub(crate) const CLASSES_MAX: usize = 16;

/// Of the budget, what growing may use: the rest is for connections that have no buffer at all.
const GROWTH_SHARE: (usize, usize) = (3, 4);

/// Of the budget, what grown buffers may keep that nobody uses: one in so many bytes.
const GROWN_FREE_SHARE: usize = 8;

pub(crate) struct Buffers {
    /// Window of the smallest.
    base: usize,
    /// Bytes beyond the window, for what scaling rounds up (RFC 7323 section 2.3).
    slack: usize,
    /// Largest class there is.
    class_max: u8,
    free: [Vec<Box<[u8]>>; CLASSES_MAX],
    /// Bytes of grown ones among the free.
    grown: usize,
    #[allow(clippy::vec_box, reason = "the boxes are what is recycled")]
    reassemblies: Vec<Box<Reassembly>>,
    used: usize,
    budget: usize,
}

impl Buffers {
    /// Buffers for windows from `base` to `most` bytes; `budget` bytes of them are in use at most.
    pub(crate) fn new(base: usize, most: usize, slack: usize, budget: usize) -> Buffers {
        let mut class_max = 0;
        while base << (class_max + 1) <= most && class_max + 1 < CLASSES_MAX {
            class_max += 1;
        }
        Buffers {
            base,
            slack,
            class_max: class_max as u8,
            free: Default::default(),
            grown: 0,
            reassemblies: Vec::new(),
            used: 0,
            budget,
        }
    }

    /// Bytes of window a class stands for.
    pub(crate) fn window(&self, class: u8) -> u32 {
        (self.base << class) as u32
    }

    fn bytes(&self, class: u8) -> usize {
        (self.base << class) + self.slack
    }

    /// Whether a connection of this class may have the next one.
    pub(crate) fn may_grow(&self, class: u8) -> bool {
        let (share, of) = GROWTH_SHARE;
        class < self.class_max && self.used + self.bytes(class + 1) <= self.budget / of * share
    }

    /// A buffer, if the budget has it.
    pub(crate) fn take(&mut self, class: u8) -> Option<Box<[u8]>> {
        let bytes = self.bytes(class);
        if self.used + bytes > self.budget {
            return None;
        }
        self.used += bytes;
        let free = self.free[usize::from(class)].pop();
        if class > 0 && free.is_some() {
            self.grown -= bytes;
        }
        Some(free.unwrap_or_else(|| vec![0; bytes].into_boxed_slice()))
    }

    /// Takes a buffer back.
    pub(crate) fn give(&mut self, class: u8, buffer: Box<[u8]>) {
        self.used -= buffer.len();
        // Grown ones serve few: a part of the budget is kept for them, for making one costs as much as filling it.
        if class > 0 {
            if self.grown + buffer.len() > self.budget / GROWN_FREE_SHARE {
                return;
            }
            self.grown += buffer.len();
        }
        self.free[usize::from(class)].push(buffer);
    }

    /// A place to keep note of what came out of order.
    pub(crate) fn take_reassembly(&mut self) -> Box<Reassembly> {
        self.reassemblies.pop().unwrap_or_default()
    }

    /// Takes it back, emptied.
    pub(crate) fn give_reassembly(&mut self, mut reassembly: Box<Reassembly>) {
        reassembly.clear();
        self.reassemblies.push(reassembly);
    }

    /// Bytes in use.
    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used
    }
}
