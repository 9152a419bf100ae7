//! Slots that lie in a mapping, which they keep. In: a part of a mapping. Out: [`Slots`]. Used by the worker, and by
//! whoever reads what arrived after the queue pair is gone.

use std::sync::Arc;

use crate::Slots;
use crate::mapping::Mapping;

/// `bytes` bytes from offset `at` of a mapping.
pub(crate) struct MappedSlots {
    pub(crate) mapping: Arc<Mapping>,
    pub(crate) at: usize,
    pub(crate) bytes: usize,
}

impl MappedSlots {
    fn offset(&self, at: usize, bytes: usize) -> usize {
        assert!(at <= self.bytes && bytes <= self.bytes - at, "{bytes} bytes at {at} of the slots");
        self.at + at
    }
}

impl Slots for MappedSlots {
    fn len(&self) -> usize {
        self.bytes
    }

    fn read(&self, at: usize, to: &mut [u8]) {
        self.mapping.copy_out(self.offset(at, to.len()), to);
    }

    fn clear(&self, at: usize, bytes: usize) {
        self.mapping.clear(self.offset(at, bytes), bytes);
    }
}
