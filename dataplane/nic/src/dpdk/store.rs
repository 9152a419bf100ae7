//! An mbuf whose memory packets are sent from: the memory a port can read without being told of it, and DPDK's count of
//! who refers to it.
//!
//! In: an mbuf from a pool of its own, filled by its one owner. Out: indirect mbufs in packets ([`Mbuf`]), each of which counts
//! until the driver frees it. Owned by a worker; the driver may free the last reference on any thread.
//!
//! [`Mbuf`]: super::Mbuf

use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{Ordering, fence};

use dpdk_sys as sys;

/// A direct mbuf that is never sent itself.
#[derive(Debug)]
pub(crate) struct Store {
    mbuf: NonNull<sys::rte_mbuf>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: an mbuf's memory belongs to whoever holds its first reference, who writes only while it is the only one; its pool may
// be given it back from any thread, and pools are never freed (see pool.rs).
unsafe impl Send for Store {}

impl Store {
    /// Takes ownership.
    ///
    /// # Safety
    /// `mbuf` is a live direct mbuf that nobody else owns.
    pub(super) unsafe fn from_raw(mbuf: NonNull<sys::rte_mbuf>) -> Option<Store> {
        let field = |offset: u32| mbuf.as_ptr().wrapping_byte_add(offset as usize);
        // SAFETY: buf_addr is a pointer, inside the mbuf.
        let start = NonNull::new(unsafe { field(sys::KF_MBUF_BUF_ADDR).cast::<*mut u8>().read() })?;
        // SAFETY: buf_len is a uint16_t, inside the mbuf.
        let len = unsafe { field(sys::KF_MBUF_BUF_LEN).cast::<u16>().read() };
        Some(Store { mbuf, start, len: usize::from(len) })
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rte_mbuf {
        self.mbuf.as_ptr()
    }

    /// The bytes, headroom and all.
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: the buffer of a live mbuf, memory of its pool that was zeroed when it was mapped; nobody writes it while it is
        // borrowed, because that takes the store itself.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }

    /// The bytes, writable, unless a packet refers to them.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        if self.is_shared() {
            return None;
        }
        // SAFETY: as in `bytes`; ours is the only reference, and only we could make another.
        Some(unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) })
    }

    /// Whether a packet refers to it.
    #[inline]
    pub(crate) fn is_shared(&self) -> bool {
        // SAFETY: the mbuf is live, and its count is read atomically.
        let count = unsafe { sys::kf_mbuf_refcnt_read(self.mbuf.as_ptr()) };
        // Whoever gave up the last reference elsewhere has read what it wanted to before.
        fence(Ordering::Acquire);
        count > 1
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: this gives up our reference; with the last one the mbuf goes back to its pool.
        unsafe { sys::kf_pktmbuf_free(self.mbuf.as_ptr()) };
    }
}
