//! The buffers replies are made in: the plaintext of one TLS record each, recycled, never reallocated.

/// Bytes of a chunk: the largest plaintext of a record (RFC 8446 5.1).
pub const CHUNK_BYTES: usize = 16 * 1024;

/// One buffer.
pub struct Chunk {
    bytes: Box<[u8; CHUNK_BYTES]>,
    len: u32,
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
        // Made on the heap: the stack of a thread may be small.
        let Ok(bytes) = vec![0; CHUNK_BYTES].into_boxed_slice().try_into() else {
            unreachable!("it has as many bytes as asked for")
        };
        Chunk { bytes, len: 0 }
    }

    /// The bytes in use.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    /// Forgets the bytes in use.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The room left.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.bytes[self.len as usize..]
    }

    /// Takes bytes written to the room into use.
    pub(crate) fn grow(&mut self, by: usize) {
        assert!(by <= self.left(), "more was taken into use than there was room");
        self.len += by as u32;
    }

    /// Bytes of the room left.
    pub(crate) fn left(&self) -> usize {
        CHUNK_BYTES - self.len as usize
    }
}
