//! Private receive buffers of one queue pair: where an arrived message lies while its worker reads it. In:
//! claims by the driver's poll, releases by `repost`. Out: buffers with exactly one holder. Owned by the worker.

use crate::{Limits, Received};

pub(crate) struct ReceiveBuffers {
    bytes: Box<[u8]>,
    message_bytes_max: usize,
    /// Last in, first out: the buffer given back last is the one still in the cache.
    free: Vec<u16>,
    held: Box<[bool]>,
}

impl ReceiveBuffers {
    pub(crate) fn new(limits: &Limits) -> ReceiveBuffers {
        let count = u16::try_from(limits.receives).expect("checked against RECEIVES_LIMIT");
        ReceiveBuffers {
            bytes: vec![0; limits.receives * limits.message_bytes_max].into_boxed_slice(),
            message_bytes_max: limits.message_bytes_max,
            free: (0..count).rev().collect(),
            held: vec![false; limits.receives].into_boxed_slice(),
        }
    }

    /// No buffer is posted: the peer may not have sent anything that is still to be received.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.free.is_empty()
    }

    /// Takes a free buffer for a message of `len` bytes.
    ///
    /// # Panics
    /// If there is none: the driver asks [`is_exhausted`](Self::is_exhausted) first.
    pub(crate) fn claim(&mut self, len: u32) -> Received {
        let buffer = self.free.pop().expect("asked before claiming");
        self.held[usize::from(buffer)] = true;
        Received { buffer, len }
    }

    /// The message's bytes.
    ///
    /// # Panics
    /// If the buffer is not held or the length is not its own: a mistake of ours.
    pub(crate) fn message(&mut self, received: &Received) -> &mut [u8] {
        assert!(self.held[usize::from(received.buffer)], "receive buffer {} is posted", received.buffer);
        let len = received.len as usize;
        assert!(len <= self.message_bytes_max, "{len} bytes of a shorter receive buffer");
        let at = usize::from(received.buffer) * self.message_bytes_max;
        &mut self.bytes[at..at + len]
    }

    /// # Panics
    /// If the buffer is not held: a mistake of ours.
    pub(crate) fn release(&mut self, received: Received) {
        let held = &mut self.held[usize::from(received.buffer)];
        assert!(*held, "receive buffer {} is posted already", received.buffer);
        *held = false;
        self.free.push(received.buffer);
    }
}
