//! Packet buffers of a simulated port, and the pool they come from.
//!
//! In: a number and a size. Out: owned buffers that return by themselves. The free lists are lock-free, so that a
//! packet may be dropped by any thread.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::{RxMeta, TSO_BYTES_MAX, TxOffload};

/// Bytes around an IP packet: Ethernet and two VLAN tags.
pub(super) const FRAME_OVERHEAD_BYTES: usize = 14 + 4 + 4;
/// Least size of a buffer, as in the DPDK driver.
const BUFFER_BYTES_MIN: usize = 2048;
/// Bytes of headers before a large packet's payload, at most: Ethernet, VLAN tag, IPv6, TCP with options.
const HEADER_BYTES_MAX: usize = 14 + 4 + 40 + 60;
/// Of this many packets one more is a large one, where the port segments.
const PACKETS_PER_LARGE: usize = 16;
/// Large packets of a pool, at least: two bursts.
const LARGE_MIN: usize = 64;

/// Buffers that are not in use.
#[derive(Debug)]
struct FreeList {
    /// Taken first, so that only as many buffers circulate, and stay in the cache, as are in use at once.
    returned: ArrayQueue<Box<[u8]>>,
    /// Never used so far.
    fresh: ArrayQueue<Box<[u8]>>,
}

impl FreeList {
    fn new(count: usize, bytes: usize) -> FreeList {
        let list = FreeList { returned: ArrayQueue::new(count), fresh: ArrayQueue::new(count) };
        for _ in 0..count {
            // The list has exactly this many places.
            let _ = list.fresh.push(vec![0; bytes].into_boxed_slice());
        }
        list
    }

    fn pop(&self) -> Option<Box<[u8]>> {
        self.returned.pop().or_else(|| self.fresh.pop())
    }

    /// The list has a place for every buffer of the pool, so this succeeds.
    fn push(&self, buffer: Box<[u8]>) {
        let _ = self.returned.push(buffer);
    }

    fn missing(&self) -> usize {
        self.fresh.capacity() - self.fresh.len() - self.returned.len()
    }
}

/// The buffers of one queue.
#[derive(Debug)]
pub(super) struct Pool {
    normal: FreeList,
    large: Option<FreeList>,
}

impl Pool {
    /// A pool of `packets` buffers for frames of `mtu`, and large ones if the port segments.
    pub fn new(packets: usize, mtu: u16, tso: bool) -> Pool {
        let bytes = BUFFER_BYTES_MIN.max(usize::from(mtu) + FRAME_OVERHEAD_BYTES);
        let large = (packets / PACKETS_PER_LARGE).max(LARGE_MIN);
        let large_bytes = HEADER_BYTES_MAX + TSO_BYTES_MAX as usize;
        Pool { normal: FreeList::new(packets, bytes), large: tso.then(|| FreeList::new(large, large_bytes)) }
    }

    /// An empty packet.
    pub fn alloc(self: &Arc<Pool>) -> Option<Packet> {
        Some(Packet::new(self.normal.pop()?, Arc::clone(self), false))
    }

    /// An empty large packet.
    pub fn alloc_large(self: &Arc<Pool>) -> Option<Packet> {
        Some(Packet::new(self.large.as_ref()?.pop()?, Arc::clone(self), true))
    }

    /// Buffers that are missing.
    pub fn in_use(&self) -> usize {
        self.normal.missing() + self.large.as_ref().map_or(0, FreeList::missing)
    }
}

/// A packet buffer of a simulated port.
#[derive(Debug)]
pub struct Packet {
    buffer: Box<[u8]>,
    len: usize,
    large: bool,
    pub(super) rx: RxMeta,
    pub(super) tx: TxOffload,
    home: Arc<Pool>,
}

impl Packet {
    fn new(buffer: Box<[u8]>, home: Arc<Pool>, large: bool) -> Packet {
        Packet { buffer, len: 0, large, rx: RxMeta::default(), tx: TxOffload::default(), home }
    }
}

impl crate::Packet for Packet {
    fn bytes(&self) -> &[u8] {
        &self.buffer[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }

    fn capacity(&self) -> usize {
        self.buffer.len()
    }

    fn set_len(&mut self, len: usize) {
        assert!(len <= self.buffer.len(), "a frame of {len} bytes does not fit {}", self.buffer.len());
        self.len = len;
    }

    fn rx(&self) -> RxMeta {
        self.rx
    }

    fn set_tx(&mut self, tx: TxOffload) {
        self.tx = tx;
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let list = if self.large { self.home.large.as_ref() } else { Some(&self.home.normal) };
        if let Some(list) = list {
            list.push(buffer);
        }
    }
}
