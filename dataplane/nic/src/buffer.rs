//! Memory that packets are sent from without being copied into them.
//!
//! In: bytes from its one owner. Out: the same to any number of packets, each of which holds on to it until the port is
//! done with it. Who owns it writes it again when no packet does. Owned by a worker; packets may be dropped by any thread.

use std::sync::Arc;

#[cfg(feature = "dpdk")]
use crate::dpdk::Store;

/// Pieces of buffers in one packet, at most: what is sent as one lies in two records, or in three where it is cut by the
/// port and has a short one in it.
pub const PIECES_MAX: usize = 3;

/// A buffer that packets may be sent from.
#[derive(Debug)]
pub struct Buffer(Memory);

#[derive(Debug)]
enum Memory {
    /// For the simulated port, and for ports that everything is copied for.
    Heap(Arc<[u8]>),
    #[cfg(feature = "dpdk")]
    Mbuf(Store),
}

impl Buffer {
    /// A buffer of the heap, zeroed.
    pub fn heap(bytes: usize) -> Buffer {
        Buffer(Memory::Heap(std::iter::repeat_n(0, bytes).collect()))
    }

    /// A buffer a port can read by itself.
    #[cfg(feature = "dpdk")]
    pub(crate) fn of_port(store: Store) -> Buffer {
        Buffer(Memory::Mbuf(store))
    }

    /// Its bytes.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Memory::Heap(bytes) => bytes,
            #[cfg(feature = "dpdk")]
            Memory::Mbuf(store) => store.bytes(),
        }
    }

    /// Its bytes, writable.
    ///
    /// # Panics
    /// If it [is shared](Buffer::is_shared): what the port has not sent yet would change under it, a mistake of ours.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let bytes = match &mut self.0 {
            Memory::Heap(bytes) => Arc::get_mut(bytes),
            #[cfg(feature = "dpdk")]
            Memory::Mbuf(store) => store.bytes_mut(),
        };
        bytes.expect("no packet refers to a buffer that is written")
    }

    /// Whether a packet refers to it.
    #[inline]
    pub fn is_shared(&self) -> bool {
        match &self.0 {
            Memory::Heap(bytes) => Arc::strong_count(bytes) > 1,
            #[cfg(feature = "dpdk")]
            Memory::Mbuf(store) => store.is_shared(),
        }
    }

    /// For the simulated port.
    pub(crate) fn as_heap(&self) -> Option<&Arc<[u8]>> {
        match &self.0 {
            Memory::Heap(bytes) => Some(bytes),
            #[cfg(feature = "dpdk")]
            Memory::Mbuf(_) => None,
        }
    }

    /// For a port of DPDK's.
    #[cfg(feature = "dpdk")]
    pub(crate) fn as_store(&self) -> Option<&Store> {
        match &self.0 {
            Memory::Heap(_) => None,
            Memory::Mbuf(store) => Some(store),
        }
    }
}
