//! Memory that someone else may write at any time: another process, or a network adapter. In: a mapping and its
//! length. Out: atomics and copies in and out, each checked against that length. No reference to plain bytes of it
//! exists while they may be written. Used by the worker and by [`crate::Fence`].

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Copies at least this long are left to the processor's string instructions where it has them.
const STRING_COPY_BYTES_MIN: usize = 256;

/// A mapping, unmapped on drop.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping belongs to the value alone and is reached through atomics and byte-wise copies only, which
// are sound from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; no safe method hands out a plain reference into the mapping.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Takes over a mapping of `len` bytes, page-aligned.
    ///
    /// # Safety
    /// It is mapped for reading and writing, stays so until this value unmaps it, and nobody else in this process
    /// reaches it but through this value.
    pub(crate) unsafe fn from_raw(base: NonNull<u8>, len: usize) -> Mapping {
        Mapping { base, len }
    }

    /// Address of `bytes` bytes at `at`; the one place where an offset becomes an address.
    #[inline]
    pub(crate) fn address(&self, at: usize, bytes: usize) -> *mut u8 {
        assert!(at <= self.len && bytes <= self.len - at, "{bytes} bytes at {at} of {}", self.len);
        self.base.as_ptr().wrapping_add(at)
    }

    /// The aligned 64-bit word at `at`.
    #[inline]
    pub(crate) fn u64(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(align_of::<AtomicU64>()));
        let address = self.address(at, size_of::<AtomicU64>()).cast();
        // SAFETY: in bounds, aligned (the mapping is page-aligned), alive as long as `self`, and only ever
        // accessed as atomics or by the copies below.
        unsafe { AtomicU64::from_ptr(address) }
    }

    /// The aligned 32-bit word at `at`.
    #[inline]
    pub(crate) fn u32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(align_of::<AtomicU32>()));
        let address = self.address(at, size_of::<AtomicU32>()).cast();
        // SAFETY: as for `u64`.
        unsafe { AtomicU32::from_ptr(address) }
    }

    /// Copies `from` to offset `at`.
    ///
    /// # Panics
    /// If it does not fit, as with every offset here: a mistake of ours.
    #[inline]
    pub(crate) fn copy_in(&self, at: usize, from: &[u8]) {
        let to = self.address(at, from.len());
        if string_copy(from.as_ptr(), to, from.len()) {
            return;
        }
        let len = from.len();
        let (head, words, tail) = split(at, len);
        for (i, byte) in from[..head].iter().enumerate() {
            self.u8(at + i).store(*byte, Ordering::Relaxed);
        }
        let (chunks, _) = from[head..].as_chunks::<8>();
        for (i, chunk) in chunks[..words].iter().enumerate() {
            self.u64(at + head + 8 * i).store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
        }
        for (i, byte) in from[len - tail..].iter().enumerate() {
            self.u8(at + len - tail + i).store(*byte, Ordering::Relaxed);
        }
    }

    /// Copies `to.len()` bytes from offset `at`.
    #[inline]
    pub(crate) fn copy_out(&self, at: usize, to: &mut [u8]) {
        let from = self.address(at, to.len());
        if string_copy(from, to.as_mut_ptr(), to.len()) {
            return;
        }
        let len = to.len();
        let (head, words, tail) = split(at, len);
        for (i, byte) in to[..head].iter_mut().enumerate() {
            *byte = self.u8(at + i).load(Ordering::Relaxed);
        }
        let (chunks, _) = to[head..].as_chunks_mut::<8>();
        for (i, chunk) in chunks[..words].iter_mut().enumerate() {
            *chunk = self.u64(at + head + 8 * i).load(Ordering::Relaxed).to_ne_bytes();
        }
        for (i, byte) in to[len - tail..].iter_mut().enumerate() {
            *byte = self.u8(at + len - tail + i).load(Ordering::Relaxed);
        }
    }

    /// Zeroes `bytes` bytes from offset `at`.
    pub(crate) fn clear(&self, at: usize, bytes: usize) {
        self.address(at, bytes);
        let (head, words, tail) = split(at, bytes);
        for i in (0..head).chain(bytes - tail..bytes) {
            self.u8(at + i).store(0, Ordering::Relaxed);
        }
        for i in 0..words {
            self.u64(at + head + 8 * i).store(0, Ordering::Relaxed);
        }
    }

    /// Asks for the cache line at `at` where the processor can be asked; a hint that reads nothing and cannot fault,
    /// so any offset will do.
    #[inline]
    pub(crate) fn prefetch(&self, at: usize) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let address = self.base.as_ptr().wrapping_add(at).cast();
            // SAFETY: SSE is part of x86-64, and prefetching accesses no memory as the language sees it.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    #[inline]
    fn u8(&self, at: usize) -> &AtomicU8 {
        let address = self.address(at, 1);
        // SAFETY: as for `u64`.
        unsafe { AtomicU8::from_ptr(address) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping was made with this address and length, and no borrow of `self` is left.
        let unmapped = unsafe { rustix::mm::munmap(self.base.as_ptr().cast::<c_void>(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Cuts `len` bytes at offset `at` into bytes before the first aligned word, words, and bytes after the last.
#[inline]
fn split(at: usize, len: usize) -> (usize, usize, usize) {
    let head = (at.wrapping_neg() % 8).min(len);
    let rest = len - head;
    (head, rest / 8, rest % 8)
}

/// Copies long runs with `rep movsb`, which on every x86-64 of the last decade moves whole cache lines; returns
/// whether it did. Assembly and not `ptr::copy`: the other process may write the source meanwhile, which the
/// language allows of atomics and of machine code but not of plain copies.
#[cfg(target_arch = "x86_64")]
#[inline]
fn string_copy(from: *const u8, to: *mut u8, len: usize) -> bool {
    if len < STRING_COPY_BYTES_MIN {
        return false;
    }
    // SAFETY: both callers pass one side checked by `address` and one slice of the same length, which cannot
    // overlap as no slice of the mapping exists. The direction flag is clear on entry as the ABI demands. Stores
    // of a string instruction are ordered before later stores (Intel SDM 3A, 8.2.4.2).
    unsafe {
        std::arch::asm!(
            "rep movsb",
            inout("rcx") len => _,
            inout("rdi") to => _,
            inout("rsi") from => _,
            options(nostack, preserves_flags)
        );
    }
    true
}

/// Elsewhere word by word.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn string_copy(_from: *const u8, _to: *mut u8, _len: usize) -> bool {
    let _ = STRING_COPY_BYTES_MIN;
    false
}
