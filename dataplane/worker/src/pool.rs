//! Buffers of one worker, made at start and recycled. Running out is an outcome its caller counts or waits out.

use std::collections::VecDeque;

use keyferry_app::Chunk;
use keyferry_http::Request;
use keyferry_nic::{BURST, Buffer};

/// One in this many of a pool's values is kept for clients that have been served before.
const RESERVE_SHARE: usize = 4;

/// Of a pool that has more than one in this many left, values may be taken for what could do without.
const AMPLE_SHARE: usize = 2;

/// One in this many records may wait for the port alone.
const UNSENT_SHARE: usize = 4;

/// A stack of recycled values, bounded by what it was made with.
pub struct Pool<T> {
    free: Vec<T>,
    made: usize,
}

impl<T> Pool<T> {
    /// A pool of `count` values.
    pub fn new(count: usize, make: impl FnMut() -> T) -> Pool<T> {
        Pool::of(std::iter::repeat_with(make).take(count).collect())
    }

    /// A pool of these values.
    fn of(free: Vec<T>) -> Pool<T> {
        let made = free.len();
        Pool { free, made }
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

    /// Whether so many are left that what could do without may take one: nobody waits for it to come back.
    pub fn is_ample(&self) -> bool {
        self.free.len() > self.made / AMPLE_SHARE
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
    pub buffer: Buffer,
    /// Bytes in use.
    pub len: usize,
}

impl Record {
    /// The bytes in use.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer.bytes()[..self.len]
    }
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
    /// Records TCP is done with while a packet of them waits for the port, or for a neighbour's address.
    unsent: VecDeque<Record>,
    /// Gathering buffers.
    pub gathers: Pool<Box<Gather>>,
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
    /// Makes everything but the records' buffers, which may be memory the port can read.
    pub fn new(sizes: &PoolSizes, buffers: Vec<Buffer>) -> Pools {
        let bytes = || vec![0; keyferry_tls::RECORD_BYTES_MAX].into_boxed_slice();
        Pools {
            unsent: VecDeque::with_capacity(buffers.len()),
            records: Pool::of(buffers.into_iter().map(|buffer| Record { buffer, len: 0 }).collect()),
            gathers: Pool::new(sizes.gathers, || Box::new(Gather { bytes: bytes(), start: 0, end: 0 })),
            requests: Pool::new(sizes.requests, || Box::new(Request::with_capacity(sizes.head_bytes, 0))),
            chunks: Pool::new(sizes.chunks, Chunk::new),
            body_bytes: 0,
            body_bytes_max: sizes.body_bytes,
        }
    }

    /// Gives a record back that TCP needs no more, as soon as no packet refers to it: what it sent again may still be on its
    /// way when what it sent first is acknowledged.
    pub fn give_record(&mut self, record: Record) {
        if record.buffer.is_shared() {
            self.unsent.push_back(record);
        } else {
            self.records.give(record);
        }
    }

    /// Looks after records that packets refer to, a burst of them. Answers whether one came back.
    pub fn take_sent(&mut self) -> bool {
        let mut busy = false;
        // In the order they were sent; one that waits for a neighbour does not hold up the others.
        for _ in 0..self.unsent.len().min(BURST) {
            let Some(record) = self.unsent.pop_front() else { break };
            if record.buffer.is_shared() {
                self.unsent.push_back(record);
            } else {
                self.records.give(record);
                busy = true;
            }
        }
        busy
    }

    /// Whether so many records wait for the port that no more packets ought to refer to any: it may keep what it has sent
    /// until it is given more to send.
    pub fn has_many_unsent(&self) -> bool {
        self.unsent.len() > self.records.made() / UNSENT_SHARE
    }

    /// Records that wait for the port alone.
    pub fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Gives a chunk back, emptied: what it shared may go.
    pub fn give_chunk(&mut self, mut chunk: Chunk) {
        chunk.clear();
        self.chunks.give(chunk);
    }

    /// Gives an emptied gathering buffer back.
    pub fn give_gather(&mut self, mut gather: Box<Gather>) {
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

const _: () = assert!(AMPLE_SHARE < RESERVE_SHARE, "a pool that is ample is not low");

#[cfg(test)]
mod tests {
    use keyferry_nic::Nic;
    use keyferry_nic::sim::{Net, PortOptions};

    use super::*;

    #[test]
    fn a_record_comes_back_when_the_port_is_done_with_it_too() {
        let mut queue = Net::new().port(PortOptions::default()).remove(0);
        let sizes =
            PoolSizes { records: 8, gathers: 0, requests: 0, chunks: 0, head_bytes: 0, body_bytes: 0 };
        let mut pools = Pools::new(&sizes, queue.buffers(8, 100));
        let mut packets = Vec::new();
        for unsent in 1..=3 {
            let record = pools.records.take().expect("a record");
            let mut packet = queue.alloc().expect("a packet");
            assert!(queue.attach(&mut packet, &[(&record.buffer, 0..50)]));
            packets.push(packet);
            // Acknowledged: what is still in the ring was sent again.
            pools.give_record(record);
            assert_eq!(
                (pools.unsent(), pools.records.left(), pools.take_sent()),
                (unsent, 8 - unsent, false)
            );
            assert_eq!(pools.has_many_unsent(), unsent > 2);
        }
        // The first one sent waits, as for a neighbour's address; it does not hold up the others.
        packets.truncate(1);
        assert!(pools.take_sent());
        assert_eq!((pools.unsent(), pools.records.left()), (1, 7));
        packets.clear();
        assert!(pools.take_sent() && !pools.take_sent());
        let mut record = pools.records.take().expect("a record");
        record.buffer.bytes_mut().fill(1);
        pools.give_record(record);
        assert_eq!((pools.unsent(), pools.records.left()), (0, 8));
    }
}
