//! Reliable-connected queue pairs between one worker here and one worker of a peer node.
//!
//! [`QueuePair`] has the semantics of an InfiniBand RC queue pair, no more: SEND into posted receive buffers,
//! one-sided WRITE into memory the peer registered for it, WRITE WITH IMMEDIATE, everything delivered once and
//! in order, completions polled from a queue, and an error state that flushes what was posted. Drivers: `verbs`
//! (InfiniBand, RoCE; a cargo feature), `shm` (two processes of one machine) and `sim` (one process, virtual time).
//!
//! A queue pair belongs to one worker; only [`Fence`] is for the control thread.
//!
//! # Where the rules come from
//! - *Once and in order*: RC delivers the messages of one queue pair in the order they were posted (IBTA vol. 1,
//!   9.7), so a SEND or an immediate that arrived proves every WRITE posted before it.
//! - *No receive, no message*: a SEND or WRITE WITH IMMEDIATE that finds no receive posted is answered RNR NAK;
//!   with `rnr_retry` 0 (`ibv_modify_qp(3)`) the sender's queue pair fails at once. Retries would hide a mistake
//!   in the credits, and stall whatever is behind.
//! - *Immediates use up a receive* and carry no data there: `IBV_WR_RDMA_WRITE_WITH_IMM`, `ibv_post_send(3)`.
//! - *A source belongs to the adapter until its completion*: `ibv_post_send(3)`; SENDs and the load word are small
//!   and copied out at once, as with `IBV_SEND_INLINE` or a buffer of the driver's.
//! - *Completed means placed in the peer's memory*, not read by it: the acknowledgement comes from its adapter.
//! - *Completions of posts come in post order*; what fails first fails all behind it (`IBV_WC_WR_FLUSH_ERR`). A
//!   flushed post may still have arrived: the acknowledgement can be what was lost.
//! - *In error* nothing new is taken. `ibv_post_send(3)` would take it and flush it; refusing says so sooner. What
//!   had arrived before may still be polled. `ibv_modify_qp(3)` allows any thread to move the pair there.
//! - *Full at `posted_max`*: `ibv_create_cq(3)` overruns if a completion queue is smaller than what is posted.
//! - *The load word may be torn*: RDMA orders whole messages, not the bytes of one WRITE against the reader.

#![deny(unsafe_code)]

mod limits;
#[allow(unsafe_code)]
mod mapping;
mod receives;
pub mod shm;
pub mod sim;
mod slots;
pub mod verbs;

use std::ops::Range;
use std::sync::Arc;

pub use limits::{LimitsError, MEMORY_BYTES_LIMIT, MESSAGE_BYTES_LIMIT, POSTED_LIMIT, RECEIVES_LIMIT};

/// Completions delivered by one poll; also the size of the caller's storage.
pub const BURST: usize = 32;

/// Bytes of a load word page entry: one cache line, written whole.
pub const LOAD_BYTES: usize = 64;

/// Sizes agreed for one queue pair; both ends use the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest SEND, in bytes.
    pub message_bytes_max: usize,
    /// Receives posted at each end: sends and immediates under way to it at most.
    pub receives: usize,
    /// Work requests posted and not yet polled as completions, at most.
    pub posted_max: usize,
    /// Bytes of remote-writable slot memory at each end.
    pub slots_bytes: usize,
    /// Bytes of staging memory at each end, from which WRITEs are posted.
    pub staging_bytes: usize,
}

/// The caller's name for a work request, given back in its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WrId(pub u64);

/// A posted receive that was filled; give it back with [`QueuePair::repost`].
#[derive(Debug, PartialEq, Eq)]
pub struct Received {
    /// Index of the receive buffer.
    pub buffer: u16,
    /// Bytes of the message; 0 for an immediate.
    pub len: u32,
}

/// One entry of the completion queue.
#[derive(Debug, PartialEq, Eq)]
pub enum Completion {
    /// A SEND or WRITE is done: its source may be used again.
    Posted(WrId),
    /// A message arrived.
    Message(Received),
    /// A WRITE WITH IMMEDIATE arrived; every WRITE posted before it is visible. It used up a posted receive.
    Immediate(Received, u32),
    /// A work request was not carried out, or not provably: the queue pair is in error.
    Flushed(WrId),
}

/// Whether a queue pair takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Connected.
    Ready,
    /// In error: posts are refused, what was posted is flushed, nothing leaves this state.
    Error,
}

/// Why a post was refused; nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// `posted_max` work requests wait to be polled.
    #[error("the send queue is full: poll completions first")]
    Full,
    /// The queue pair is in error.
    #[error("the queue pair is in error")]
    Broken,
    /// A length or offset outside [`Limits`]: a mistake of ours.
    #[error("outside the agreed limits")]
    Bounds,
}

/// This end's remote-writable slot memory. The peer may write it at any time, so bytes are only ever copied out
/// of it, and nothing copied twice is taken to be the same.
pub trait Slots: Send + Sync + 'static {
    /// Bytes of the memory.
    fn len(&self) -> usize;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies `to.len()` bytes from offset `at`.
    ///
    /// # Panics
    /// If the range is outside the memory: a mistake of ours.
    fn read(&self, at: usize, to: &mut [u8]);
    /// Zeroes `bytes` bytes from offset `at`.
    ///
    /// # Panics
    /// As [`read`](Slots::read).
    fn clear(&self, at: usize, bytes: usize);
}

/// Moves a queue pair to the error state from the control thread: when the peer is gone or is to be fenced.
pub trait Fence: Send + Sync + 'static {
    /// The queue pair is in error from now on; its worker sees completions flushed. Idempotent.
    fn fail(&self);
    /// Whether the queue pair is in error or gone.
    fn failed(&self) -> bool;
}

/// One end of a connected queue pair. No call blocks, locks, allocates from the heap or makes a system call.
pub trait QueuePair: Send {
    /// The sizes both ends agreed on.
    fn limits(&self) -> Limits;
    /// Whether it takes work.
    fn state(&self) -> State;
    /// Moves it to the error state from the worker that owns it.
    fn fail(&mut self);

    /// The memory WRITEs are posted from. A range named in a post belongs to the adapter until its completion.
    fn staging(&mut self) -> &mut [u8];
    /// This end's slot memory.
    fn slots(&self) -> Arc<dyn Slots>;

    /// SENDs `message`, which is copied out before the call returns.
    ///
    /// The peer must have a receive posted (the caller counts credits); if it has none the pair goes into error,
    /// as RC does with `rnr_retry` 0.
    fn send(&mut self, wr: WrId, message: &[u8]) -> Result<(), PostError>;
    /// WRITEs `from` of the staging memory to offset `to` of the peer's slots, optionally with an immediate
    /// (which uses up a receive posted there).
    fn write(
        &mut self,
        wr: WrId,
        from: Range<usize>,
        to: usize,
        immediate: Option<u32>,
    ) -> Result<(), PostError>;
    /// WRITEs this node's load word into the peer's page; unsignalled, copied out before the call returns.
    fn write_load(&mut self, word: &[u8; LOAD_BYTES]) -> Result<(), PostError>;
    /// The load word the peer last wrote here, which may be torn.
    fn read_load(&self) -> [u8; LOAD_BYTES];

    /// Appends completions, oldest first.
    fn poll(&mut self, completions: &mut arrayvec::ArrayVec<Completion, BURST>);
    /// The bytes of a received message, in private memory: the peer cannot change them any more.
    fn message(&mut self, received: &Received) -> &mut [u8];
    /// Posts a receive buffer again.
    fn repost(&mut self, received: Received);
}
