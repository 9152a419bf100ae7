//! Packet pools: DPDK mempools near a port, one for each queue.
//!
//! In: how many packets, how large, which NUMA node. Out: a pool. Pools are never freed, because a packet may be held
//! anywhere when its port closes; a later port of the same shape takes them over. Control thread; allocating from a
//! pool belongs to its queue, giving back to any thread.

use std::ffi::CString;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use dpdk_sys as sys;

use super::log;
use super::packet::Mbuf;
use super::store::Store;
use crate::PIECES_MAX;

/// Packets a registered thread keeps in front of a pool.
const CACHE_MAX: u32 = 256;

/// What a pool was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Packets.
    pub packets: u32,
    /// Bytes for each, headroom included.
    pub room: u16,
    /// NUMA node, or -1 for any.
    pub socket: i32,
}

/// A mempool in use by one queue.
#[derive(Debug)]
pub(super) struct Pool {
    mempool: NonNull<sys::rte_mempool>,
    shape: Shape,
}

// SAFETY: mempools may be used from any thread.
unsafe impl Send for Pool {}
// SAFETY: as above; nothing here is written through a shared reference but by DPDK's own synchronised code.
unsafe impl Sync for Pool {}

struct Shelf {
    unused: Vec<(NonNull<sys::rte_mempool>, Shape)>,
    made: u32,
}

// SAFETY: as for `Pool`.
unsafe impl Send for Shelf {}

static SHELF: Mutex<Shelf> = Mutex::new(Shelf { unused: Vec::new(), made: 0 });

/// Packets in a pool and in the caches in front of it.
fn free(mempool: NonNull<sys::rte_mempool>) -> usize {
    // SAFETY: mempools live for ever; other threads' caches are counted without a lock, so roughly.
    unsafe { sys::rte_mempool_avail_count(mempool.as_ptr()) as usize }
}

impl Pool {
    /// A pool of this shape, or none if the memory does not suffice.
    pub fn new(shape: Shape) -> Option<Pool> {
        let mut shelf = SHELF.lock().unwrap_or_else(PoisonError::into_inner);
        // A pool with packets still outside (held by someone, or lost by a driver that closed) waits for them.
        let whole = |(mempool, other): &(NonNull<sys::rte_mempool>, Shape)| {
            *other == shape && free(*mempool) == shape.packets as usize
        };
        if let Some(at) = shelf.unused.iter().position(whole) {
            let (mempool, _) = shelf.unused.swap_remove(at);
            return Some(Pool { mempool, shape });
        }
        shelf.made += 1;
        let name = CString::new(format!("keyferry{}", shelf.made)).ok()?;
        // DPDK wants the cache well below the pool's size; what lies in another thread's cache is out of reach.
        let cache = CACHE_MAX.min(shape.packets / 8);
        let create = || {
            // SAFETY: the EAL runs (ports are opened with one), and the name is a C string that is copied.
            unsafe {
                sys::rte_pktmbuf_pool_create(name.as_ptr(), shape.packets, cache, 0, shape.room, shape.socket)
            }
        };
        let (mempool, _) = log::captured(create);
        Some(Pool { mempool: NonNull::new(mempool)?, shape })
    }

    /// Its NUMA node, or -1.
    pub fn socket(&self) -> i32 {
        self.shape.socket
    }

    /// For `rte_eth_rx_queue_setup`.
    pub fn as_ptr(&self) -> *mut sys::rte_mempool {
        self.mempool.as_ptr()
    }

    /// An empty packet.
    pub fn alloc(&self) -> Option<Mbuf> {
        // SAFETY: the mempool lives for ever.
        let mbuf = unsafe { sys::kf_pktmbuf_alloc(self.mempool.as_ptr()) };
        // SAFETY: a fresh mbuf has one segment and one owner.
        NonNull::new(mbuf).map(|mbuf| unsafe { Mbuf::from_raw(mbuf) })
    }

    /// An empty packet whose memory others are sent from.
    pub fn store(&self) -> Option<Store> {
        // SAFETY: the mempool lives for ever.
        let mbuf = unsafe { sys::kf_pktmbuf_alloc(self.mempool.as_ptr()) };
        // SAFETY: a fresh mbuf is direct and has one owner.
        unsafe { Store::from_raw(NonNull::new(mbuf)?) }
    }

    /// Has a packet go on in parts of stores, all of them or none: whether there were mbufs for all.
    ///
    /// # Panics
    /// If a part is outside its store.
    pub fn attach(&self, packet: &mut Mbuf, parts: &[(&Store, Range<usize>)]) -> bool {
        let mut empty = [std::ptr::null_mut(); PIECES_MAX];
        let Some(wanted) = empty.get_mut(..parts.len()) else { return false };
        for (store, part) in parts {
            assert!(
                part.start <= part.end && part.end <= store.bytes().len(),
                "a piece is inside its buffer"
            );
        }
        let count = wanted.len() as u32;
        // SAFETY: the mempool lives for ever, and there are so many places.
        if unsafe { sys::kf_pktmbuf_alloc_bulk(self.mempool.as_ptr(), wanted.as_mut_ptr(), count) } != 0 {
            return false;
        }
        for (mbuf, (store, part)) in wanted.iter().filter_map(|mbuf| NonNull::new(*mbuf)).zip(parts) {
            // SAFETY: the mbuf is fresh and ours, and the part inside the store, whose size 16 bits hold.
            unsafe { packet.append(mbuf, store, part.start as u16, part.len() as u16) };
        }
        true
    }

    /// Packets missing from the pool.
    pub fn in_use(&self) -> usize {
        (self.shape.packets as usize).saturating_sub(free(self.mempool))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut shelf = SHELF.lock().unwrap_or_else(PoisonError::into_inner);
        shelf.unused.push((self.mempool, self.shape));
    }
}
