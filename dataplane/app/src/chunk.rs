//! The buffers replies are made in: the plaintext of one TLS record each, recycled, never reallocated.

use std::ops::Range;
use std::sync::Arc;

/// Bytes of a chunk: the largest plaintext of a record (RFC 8446 5.1).
pub const CHUNK_BYTES: usize = 16 * 1024;

/// Memory that several may read while it does not change.
pub type Memory = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Bytes of an application that are sealed from where they lie.
pub struct Shared {
    memory: Memory,
    range: Range<usize>,
}

impl Shared {
    /// This part of it; `None`: there is no such part.
    pub fn new(memory: Memory, range: Range<usize>) -> Option<Shared> {
        (*memory).as_ref().get(range.clone())?;
        Some(Shared { memory, range })
    }

    /// The bytes; none if the memory has become shorter, which it must not.
    pub fn bytes(&self) -> &[u8] {
        (*self.memory).as_ref().get(self.range.clone()).unwrap_or_default()
    }
}

/// One buffer.
pub struct Chunk(Box<Inner>);

struct Inner {
    bytes: [u8; CHUNK_BYTES],
    len: u32,
    /// What is in use in place of its own bytes.
    shared: Option<Shared>,
}

const _: () = assert!(CHUNK_BYTES <= u32::MAX as usize);

impl Default for Chunk {
    fn default() -> Chunk {
        Chunk::new()
    }
}

impl Chunk {
    /// An empty chunk.
    pub fn new() -> Chunk {
        Chunk(Box::new(Inner { bytes: [0; CHUNK_BYTES], len: 0, shared: None }))
    }

    /// The bytes in use.
    pub fn bytes(&self) -> &[u8] {
        match &self.0.shared {
            Some(shared) => shared.bytes(),
            None => &self.0.bytes[..self.0.len as usize],
        }
    }

    /// Has `write` put bytes at the start of it, and takes as many into use as it says: those of a request's body.
    ///
    /// # Panics
    /// If it says more than there was room for.
    pub fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) {
        self.clear();
        let bytes = write(self.room());
        self.grow(bytes);
    }

    /// Forgets the bytes in use.
    pub fn clear(&mut self) {
        self.0.len = 0;
        self.0.shared = None;
    }

    /// The room left.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        let left = self.left();
        &mut self.0.bytes[CHUNK_BYTES - left..]
    }

    /// Takes bytes written to the room into use.
    pub(crate) fn grow(&mut self, by: usize) {
        assert!(by <= self.left(), "more was taken into use than there was room");
        self.0.len += by as u32;
    }

    /// Takes bytes that lie elsewhere into use; it is full with them.
    ///
    /// # Panics
    /// If it has bytes of its own.
    pub(crate) fn share(&mut self, shared: Shared) {
        assert!(self.bytes().is_empty(), "shared bytes are alone in a chunk");
        self.0.shared = Some(shared);
    }

    /// Bytes of the room left.
    pub(crate) fn left(&self) -> usize {
        if self.0.shared.is_some() { 0 } else { CHUNK_BYTES - self.0.len as usize }
    }
}
