//! Memory asked for ahead of its use, so that several waits for it overlap, and in hugepages, so that its addresses
//! are not waited for as well.
//!
//! In: an address. Out: nothing that could be observed but time. Any thread.

use rustix::mm::{Advice, madvise};

/// Bytes of a page, of x86-64's; with larger ones the kernel refuses advice about parts of them.
const PAGE_BYTES: usize = 4096;

/// Bytes of a hugepage, of x86-64's: less memory than that has none.
const HUGEPAGE_BYTES: usize = 2 << 20;

/// Asks the processor to bring the cache line at `at` close. Of an address at which nothing is nothing comes.
#[inline]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint: it reads nothing a program could see, and faults at no address (Intel SDM 2B, PREFETCHh).
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks the kernel for hugepages for memory that nothing has been written to yet: a table of tens of megabytes has more
/// small ones than a processor remembers. Where it has none to give, or they are switched off, small ones do.
pub fn prefer_hugepages(at: *const u8, bytes: usize) {
    if bytes < HUGEPAGE_BYTES {
        return;
    }
    let into_page = at.addr() % PAGE_BYTES;
    let from = at.wrapping_sub(into_page).cast_mut();
    let bytes = (into_page + bytes).next_multiple_of(PAGE_BYTES);
    // SAFETY: advice that changes nothing of what is there, nor of its neighbours in the first and last page (madvise(2),
    // MADV_HUGEPAGE); a range that is not mapped is an error.
    let _ = unsafe { madvise(from.cast(), bytes, Advice::LinuxHugepage) };
}
