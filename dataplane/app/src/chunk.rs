//! The buffers replies are made in: the plaintext of one TLS record each, recycled, never reallocated.

/// Bytes of a chunk: the largest plaintext of a record (RFC 8446 5.1).
pub const CHUNK_BYTES: usize = 16 * 1024;

/// One buffer.
pub struct Chunk {
    bytes: Box<[u8]>,
    len: usize,
}

impl Default for Chunk {
    fn default() -> Chunk {
        Chunk::new()
    }
}

impl Chunk {
    /// An empty chunk.
    pub fn new() -> Chunk {
        Chunk { bytes: vec![0; CHUNK_BYTES].into_boxed_slice(), len: 0 }
    }

    /// The bytes in use.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Forgets the bytes in use.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The room left.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len..]
    }

    /// Takes bytes written to the room into use.
    pub(crate) fn grow(&mut self, by: usize) {
        self.len += by;
        assert!(self.len <= CHUNK_BYTES, "more was taken into use than there was room");
    }

    /// Bytes of the room left.
    pub(crate) fn left(&self) -> usize {
        CHUNK_BYTES - self.len
    }
}
