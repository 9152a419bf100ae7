//! Memory asked for ahead of its use, so that several waits for it overlap.
//!
//! In: an address. Out: nothing that could be observed but time. Any thread.

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
