//! The memory of one end: slots and load page, which the peer writes, then receive buffers, staging and send buffers,
//! which only this end's adapter reaches. In: limits. Out: one mapping, and where everything is in it. Control thread,
//! at set-up.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::error::VerbsError;
use crate::mapping::Mapping;
use crate::{LOAD_BYTES, Limits};

/// Every part begins on a page, so that no two are registered over one page.
const PAGE_BYTES: usize = 4096;
const HUGE_PAGE_BYTES: usize = 2 << 20;

const _: () = assert!(LOAD_BYTES <= PAGE_BYTES && HUGE_PAGE_BYTES.is_multiple_of(PAGE_BYTES));

/// Where the parts are, in bytes from the beginning: offset and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) slots: (usize, usize),
    pub(super) load: (usize, usize),
    pub(super) receives: (usize, usize),
    /// Staging and send buffers, registered as one: what posts read from.
    pub(super) sources: (usize, usize),
    /// Offset of the send buffers.
    pub(super) sends_at: usize,
    pub(super) bytes: usize,
}

impl Layout {
    pub(super) fn new(limits: &Limits) -> Layout {
        let mut at = 0;
        let mut part = |bytes: usize| {
            let from = at;
            at += bytes.max(1).next_multiple_of(PAGE_BYTES);
            (from, at - from)
        };
        let slots = part(limits.slots_bytes);
        let load = part(LOAD_BYTES);
        let receives = part(limits.receives * limits.message_bytes_max);
        let staging = part(limits.staging_bytes);
        let sends = part(limits.posted_max * limits.message_bytes_max);
        let sources = (staging.0, staging.1 + sends.1);
        Layout { slots, load, receives, sources, sends_at: sends.0, bytes: at }
    }
}

/// Zeroed memory for `layout`, all of it present: of huge pages where there are any free, which saves the adapter's
/// and the processor's translations, else of ordinary ones.
pub(super) fn allocate(layout: &Layout) -> Result<Arc<Mapping>, VerbsError> {
    let huge_bytes = layout.bytes.next_multiple_of(HUGE_PAGE_BYTES);
    // Half a huge page or less would waste more than it saves.
    if layout.bytes > HUGE_PAGE_BYTES / 2
        && let Ok(mapping) = map(huge_bytes, MapFlags::HUGETLB | MapFlags::HUGE_2MB)
    {
        return Ok(Arc::new(mapping));
    }
    let mapping = map(layout.bytes, MapFlags::empty())
        .map_err(|source| VerbsError::Memory { bytes: layout.bytes, source })?;
    // Registering pins the pages; locking also keeps this process from faulting on them. Without the right to lock
    // it only may be slower at first.
    let base = mapping.address(0, layout.bytes);
    // SAFETY: the range is this mapping, which changes nothing about what it holds.
    let _ = unsafe { rustix::mm::mlock(base.cast(), layout.bytes) };
    Ok(Arc::new(mapping))
}

fn map(bytes: usize, extra: MapFlags) -> Result<Mapping, io::Error> {
    let flags = MapFlags::PRIVATE | MapFlags::POPULATE | extra;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches no memory of ours.
    let base = unsafe {
        rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)
    }?;
    let pointer = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: it was just mapped for reading and writing, at an address nobody else knows.
    let mapping = unsafe { Mapping::from_raw(pointer, bytes) };
    // A child process must not share the pages: copy on write could leave the adapter writing to the child's
    // (`ibv_fork_init(3)`).
    // SAFETY: the advice is about children of this process only.
    unsafe { rustix::mm::madvise(base, bytes, Advice::LinuxDontFork) }?;
    Ok(mapping)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_pages_of_their_own() {
        let limits = Limits {
            message_bytes_max: 1001,
            receives: 7,
            posted_max: 9,
            slots_bytes: 0,
            staging_bytes: 4097,
        };
        let layout = Layout::new(&limits);
        assert_eq!(layout.slots, (0, 4096));
        assert_eq!(layout.load, (4096, 4096));
        assert_eq!(layout.receives, (8192, 8192));
        assert_eq!(layout.sources, (16384, 8192 + 12288));
        assert_eq!((layout.sends_at, layout.bytes), (24576, 36864));
        let mapping = allocate(&layout).unwrap();
        let mut all = vec![1; layout.bytes];
        mapping.copy_out(0, &mut all);
        assert!(all.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn more_memory_than_there_is_says_what_to_do() {
        let limits =
            Limits { message_bytes_max: 1, receives: 1, posted_max: 1, slots_bytes: 0, staging_bytes: 0 };
        let layout = Layout { bytes: 1 << 62, ..Layout::new(&limits) };
        let error = allocate(&layout).err().expect("nobody has so much").to_string();
        assert!(error.starts_with("4611686018427387904 bytes for a queue pair cannot be had"), "{error}");
        assert!(error.contains("lower [fabric] receives or slots"), "{error}");
    }
}
