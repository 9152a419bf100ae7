//! Buffers of one worker, made at start and recycled. Running out is an outcome its caller counts or waits out.

use keyferry_app::Chunk;
use keyferry_http::Request;

/// One in this many of a pool's values is kept for clients that have been served before.
const RESERVE_SHARE: usize = 4;

/// A stack of recycled values, bounded by what it was made with.
pub struct Pool<T> {
    free: Vec<T>,
    made: usize,
}

impl<T> Pool<T> {
    /// A pool of `count` values.
    pub fn new(count: usize, make: impl FnMut() -> T) -> Pool<T> {
        let free: Vec<T> = std::iter::repeat_with(make).take(count).collect();
        Pool { free, made: count }
    }

    /// The value given back last: it is the warmest in the cache.
    pub fn take(&mut self) -> Option<T> {
        self.free.pop()
    }

    /// Gives a value back.
    pub fn give(&mut self, value: T) {
        debug_assert!(self.free.len() < self.made, "more came back than was made");
        self.free.push(value);
    }

    /// Values there are, in the pool and out.
    pub fn made(&self) -> usize {
        self.made
    }

    /// Whether a value may be taken by one that may hold it for long: the last quarter is for those that give it back
    /// at once, or have shown that they do.
    pub fn has_for(&self, trusted: bool) -> bool {
        let reserve = if trusted { 0 } else { self.made / RESERVE_SHARE };
        self.free.len() > reserve
    }

    /// Whether so few are left that they are for those who give them back at once.
    pub fn is_low(&self) -> bool {
        self.free.len() <= self.made / RESERVE_SHARE
    }

    /// Whether there is nothing to take.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }

    /// Values in the pool.
    pub fn left(&self) -> usize {
        self.free.len()
    }

    /// Values not in the pool.
    pub fn out(&self) -> usize {
        self.made - self.free.len()
    }
}

/// A sealed record, or part of a handshake flight, on its way to TCP.
pub struct Record {
    /// The buffer, of the largest record's size.
    pub bytes: Box<[u8]>,
    /// Bytes in use.
    pub len: usize,
}

/// Bytes of a TLS record that arrives in pieces, or plaintext that waits for its turn.
pub struct Gather {
    /// The buffer, of the largest record's size.
    pub bytes: Box<[u8]>,
    /// First byte in use.
    pub start: usize,
    /// End of the bytes in use.
    pub end: usize,
}

impl Gather {
    /// The bytes in use.
    pub fn filled(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }
}

/// Everything a worker recycles.
pub struct Pools {
    /// Sealed records.
    pub records: Pool<Record>,
    /// Gathering buffers.
    pub gathers: Pool<Gather>,
    /// Requests.
    pub requests: Pool<Box<Request>>,
    /// Application chunks.
    pub chunks: Pool<Chunk>,
    /// Bytes of bodies being read.
    pub body_bytes: usize,
    /// Bytes of bodies being read beyond which no more is opened until some come back.
    pub body_bytes_max: usize,
}

/// How many of each.
#[derive(Clone, Copy, Debug)]
pub struct PoolSizes {
    /// Sealed records.
    pub records: usize,
    /// Gathering buffers.
    pub gathers: usize,
    /// Requests being read, run or waiting.
    pub requests: usize,
    /// Application chunks.
    pub chunks: usize,
    /// Bytes of a request's head at first; it grows to the limits.
    pub head_bytes: usize,
    /// Bytes of all bodies being read, at most, but for the last record of each.
    pub body_bytes: usize,
}

impl Pools {
    /// Makes everything.
    pub fn new(sizes: &PoolSizes) -> Pools {
        let bytes = || vec![0; keyferry_tls::RECORD_BYTES_MAX].into_boxed_slice();
        Pools {
            records: Pool::new(sizes.records, || Record { bytes: bytes(), len: 0 }),
            gathers: Pool::new(sizes.gathers, || Gather { bytes: bytes(), start: 0, end: 0 }),
            requests: Pool::new(sizes.requests, || Box::new(Request::with_capacity(sizes.head_bytes, 0))),
            chunks: Pool::new(sizes.chunks, Chunk::new),
            body_bytes: 0,
            body_bytes_max: sizes.body_bytes,
        }
    }

    /// Gives an emptied gathering buffer back.
    pub fn give_gather(&mut self, mut gather: Gather) {
        gather.start = 0;
        gather.end = 0;
        self.gathers.give(gather);
    }

    /// Gives a request back, emptied.
    pub fn give_request(&mut self, mut request: Box<Request>) {
        request.clear();
        self.requests.give(request);
    }
}
