//! What travels between a worker and the application: requests there, reply bytes back.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use keyferry_http::Request;

use crate::chunk::Chunk;
use crate::synthetic::splitmix64;

/// Chunks a job may be given at once: one to fill while another is sealed.
pub const CHUNKS_PER_JOB: usize = 2;

/// Chunks of one request's body that the application may have and not have taken: one to take while another comes.
pub const FEEDS_PER_JOB: usize = 2;

/// The submitter's name for a request. It may be used again once the job is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(pub u64);

/// A request to run, and the chunk its reply starts in.
pub struct Job {
    /// The submitter's name for it.
    pub id: JobId,
    /// The request, given back at the end. If its body is not whole the rest is [fed](crate::Port::feed).
    pub request: Box<Request>,
    /// The first chunk.
    pub chunk: Chunk,
}

/// What comes back. A job is over with exactly one of: a [`Part::Reply`] with an end, [`Part::Failed`],
/// [`Part::Cancelled`]. Each chunk comes back exactly once: filled, as [`Part::Took`], or as [`Part::Spare`].
pub enum Part {
    /// Reply bytes.
    Reply {
        /// The job.
        id: JobId,
        /// The bytes; none only where an HTTP/1.0 reply without a length ends.
        chunk: Chunk,
        /// The reply ends with them.
        end: Option<End>,
    },
    /// The application failed: a body unlike its length, or an error it could not put into a reply.
    Failed {
        /// The job, which is over.
        id: JobId,
        /// Reply bytes have been given out: the client has to see the connection break.
        started: bool,
        /// The request.
        request: Box<Request>,
    },
    /// A job that was cancelled is over; its request.
    Cancelled(Box<Request>),
    /// The protocol is another one: from here on the application has what the client sends, as it comes, [fed](crate::Port::feed).
    Switched {
        /// The job.
        id: JobId,
    },
    /// The application has taken a chunk of a request's body; another may follow.
    Took {
        /// The job.
        id: JobId,
        /// The chunk.
        chunk: Chunk,
    },
    /// A chunk that was given and is not needed. Without a job: its number may have been used again.
    Spare(Chunk),
}

impl Part {
    /// Whether a job is over with it.
    pub(crate) fn is_last(&self) -> bool {
        match self {
            Part::Reply { end, .. } => end.is_some(),
            Part::Failed { .. } | Part::Cancelled(_) => true,
            Part::Switched { .. } | Part::Took { .. } | Part::Spare(_) => false,
        }
    }
}

/// How a reply ended.
pub struct End {
    /// Status of the reply.
    pub status: u16,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// What the request took of the application's time, in ns: from its begin to its end, without what it waited for
    /// chunks, which is the client's time.
    pub service_ns: u64,
    /// The request.
    pub request: Box<Request>,
}

/// A table by job. It never grows where at most half of its capacity is used, since hashbrown then clears out its
/// tombstones in place.
pub(crate) type ByJob<K, V> = HashMap<K, V, BuildHasherDefault<JobHasher>>;

/// A [`ByJob`] for so many jobs at a time.
pub(crate) fn by_job<K, V>(jobs: usize) -> ByJob<K, V> {
    ByJob::with_capacity_and_hasher(2 * jobs, BuildHasherDefault::default())
}

/// Job numbers are our own, so nobody can aim at this hash; and unlike the standard one it replays in a simulation.
#[derive(Default)]
pub(crate) struct JobHasher(u64);

impl Hasher for JobHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    /// Mixes all bits into all: numbers that differ in their upper half only must not share a bucket.
    fn write_u64(&mut self, value: u64) {
        self.0 = splitmix64(self.0 ^ value);
    }
}
