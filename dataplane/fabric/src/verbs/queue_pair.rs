//! The worker's end of a queue pair on an adapter. In: posts. Out: completions. Owned by one worker, which makes no
//! system call here: posting and polling are the adapter's user-space driver (on Soft-RoCE that driver makes one).
//!
//! Every SEND and WRITE asks for its completion, because each gives something back at once: a credit, a staging
//! slot. Load words give nothing back, so only one in [`LOAD_SIGNAL_EVERY`] asks, to free their places.

use std::collections::VecDeque;
use std::mem::zeroed;
use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;
use ibverbs_sys as ffi;

use super::link::Link;
use super::memory::Layout;
use super::offer::Remote;
use super::receives::Holders;
use crate::mapping::Mapping;
use crate::slots::MappedSlots;
use crate::{BURST, Completion, LOAD_BYTES, Limits, PostError, Received, Slots, State, WrId};

/// Load words under way, at most; a word more waits, and a newer one takes its place.
pub(super) const LOAD_POSTED_MAX: usize = 128;
/// Load words posted in a row of which the last asks for a completion.
const LOAD_SIGNAL_EVERY: u32 = 32;
/// SENDs up to this long are asked to go inline: they save the adapter a read of memory, and fit its request.
pub(super) const INLINE_BYTES: u32 = 192;

// Each run of load words ends with one that tells, so their places always come back.
const _: () = assert!(LOAD_SIGNAL_EVERY as usize * 2 <= LOAD_POSTED_MAX);
const _: () = assert!(LOAD_BYTES <= INLINE_BYTES as usize);

/// In the name of a request of the adapter: a SEND or WRITE of the caller. Below it: load words posted so far.
const CALLERS: u64 = 1 << 32;

/// One end of a queue pair on an adapter.
pub struct QueuePair {
    link: Arc<Link>,
    limits: Limits,
    mapping: Arc<Mapping>,
    layout: Layout,
    peer_slots: Remote,
    peer_load: Remote,
    /// The caller's names of what was posted and not yet polled, oldest first; made with room for `posted_max`.
    posted: VecDeque<WrId>,
    /// Completions taken from the adapter ahead of the caller's poll: at most `posted_max`.
    done: VecDeque<Completion>,
    /// The send buffer of the next SEND. Posts complete in order, so of `posted_max` buffers the next is free.
    send_buffer: usize,
    /// Load words posted, and the number of them known to be done; both wrap.
    loads_posted: u32,
    loads_done: u32,
    /// Load words since a request that asks for a completion.
    loads_unsignalled: u32,
    /// The newest load word, while there is no room for it.
    load_waiting: Option<[u8; LOAD_BYTES]>,
    receives: Holders,
    slots: Arc<dyn Slots>,
    /// What the adapter's queue is polled into.
    polled: [ffi::ibv_wc; BURST],
}

/// Where a request's bytes come from.
enum Source {
    /// Registered memory, at an offset of the mapping.
    Registered(usize),
    /// Any memory: the bytes go into the request itself.
    Inline(*const u8),
}

impl QueuePair {
    /// `link` is not yet connected; the receives are posted before it can be.
    pub(super) fn new(
        link: Arc<Link>,
        limits: Limits,
        mapping: Arc<Mapping>,
        layout: Layout,
        (peer_slots, peer_load): (Remote, Remote),
    ) -> QueuePair {
        let count = u16::try_from(limits.receives).expect("checked against RECEIVES_LIMIT");
        let slots =
            MappedSlots { mapping: Arc::clone(&mapping), at: layout.slots.0, bytes: limits.slots_bytes };
        let mut queue_pair = QueuePair {
            link,
            limits,
            mapping,
            layout,
            peer_slots,
            peer_load,
            posted: VecDeque::with_capacity(limits.posted_max),
            done: VecDeque::with_capacity(limits.posted_max),
            send_buffer: 0,
            loads_posted: 0,
            loads_done: 0,
            loads_unsignalled: 0,
            load_waiting: None,
            receives: Holders::new(limits.receives),
            slots: Arc::new(slots),
            polled: [ffi::ibv_wc::default(); BURST],
        };
        for buffer in 0..count {
            queue_pair.post_receive(buffer);
        }
        queue_pair
    }

    /// Whether everything posted has come back and was polled, receives too: only in error, once the control thread
    /// has told the adapter.
    pub fn is_drained(&self) -> bool {
        self.link.is_failed() && self.posted.is_empty() && self.receives.posted() == 0
    }

    /// Whether everything posted, load words included, has reached the peer's memory or failed.
    pub fn is_settled(&mut self) -> bool {
        if self.loads_unsignalled > 0 && !self.link.is_failed() {
            // An empty WRITE behind them tells when they are done.
            self.post_load(Source::Inline(std::ptr::null()), 0, true);
        }
        self.reap();
        self.done.len() == self.posted.len() && (self.link.is_failed() || self.loads_under_way() == 0)
    }

    /// The queue pair's number at this end.
    pub fn number(&self) -> u32 {
        self.link.queue_pair.number()
    }

    #[inline]
    fn loads_under_way(&self) -> usize {
        self.loads_posted.wrapping_sub(self.loads_done) as usize
    }

    /// Whether one more signalled post is taken.
    #[inline]
    fn admit(&self) -> Result<(), PostError> {
        if self.link.is_failed() {
            return Err(PostError::Broken);
        }
        if self.posted.len() == self.limits.posted_max {
            return Err(PostError::Full);
        }
        Ok(())
    }

    /// Posts `bytes` bytes of `source`; the caller has looked for room.
    #[inline]
    fn post(&mut self, kind: &mut ffi::ibv_send_wr, source: &Source, bytes: usize, signalled: bool) -> bool {
        let mut piece = ffi::ibv_sge { addr: 0, length: bytes as u32, lkey: 0 };
        let mut flags = ffi::ibv_send_flags(0);
        match *source {
            Source::Registered(at) => {
                piece.addr = self.mapping.address(at, bytes) as u64;
                piece.lkey = self.link.regions.sources.local_key();
            }
            Source::Inline(bytes) => {
                piece.addr = bytes as u64;
                flags |= ffi::ibv_send_flags::IBV_SEND_INLINE;
            }
        }
        if signalled {
            flags |= ffi::ibv_send_flags::IBV_SEND_SIGNALED;
            self.loads_unsignalled = 0;
        }
        // A request without bytes names no memory.
        kind.num_sge = i32::from(bytes > 0);
        kind.sg_list = &raw mut piece;
        kind.send_flags = flags.0;
        // SAFETY: inline bytes are read during the call; registered ones belong to the adapter until their
        // completion, by the rule of `staging` for the caller and of `send_buffer` for this end; the mapping and the
        // region live as long as `link`, which drops the queue pair first.
        let taken = unsafe { self.link.queue_pair.post_send(kind) };
        if !taken {
            // There is room for it, so the adapter is in trouble.
            self.link.fail();
        }
        taken
    }

    /// Posts on behalf of the caller.
    #[inline]
    fn post_for(
        &mut self,
        wr: WrId,
        mut kind: ffi::ibv_send_wr,
        source: &Source,
        bytes: usize,
    ) -> Result<(), PostError> {
        kind.wr_id = CALLERS | u64::from(self.loads_posted);
        if !self.post(&mut kind, source, bytes, true) {
            return Err(PostError::Broken);
        }
        self.posted.push_back(wr);
        Ok(())
    }

    #[inline]
    fn post_load(&mut self, source: Source, bytes: usize, signalled: bool) {
        self.loads_posted = self.loads_posted.wrapping_add(1);
        self.loads_unsignalled += 1;
        let signalled = signalled || self.loads_unsignalled >= LOAD_SIGNAL_EVERY;
        let mut kind = write_request(self.peer_load, 0);
        kind.wr_id = u64::from(self.loads_posted);
        self.post(&mut kind, &source, bytes, signalled);
    }

    #[inline]
    fn post_receive(&mut self, buffer: u16) {
        let bytes = self.limits.message_bytes_max;
        let at = self.layout.receives.0 + usize::from(buffer) * bytes;
        let mut piece = ffi::ibv_sge {
            addr: self.mapping.address(at, bytes) as u64,
            length: bytes as u32,
            lkey: self.link.regions.receives.local_key(),
        };
        let mut request = ffi::ibv_recv_wr {
            wr_id: u64::from(buffer),
            next: std::ptr::null_mut(),
            sg_list: &raw mut piece,
            num_sge: 1,
        };
        // SAFETY: the buffer is registered as long as `link` lives, and `receives` keeps the worker from it.
        if unsafe { self.link.queue_pair.post_receive(&mut request) } {
            self.receives.post(buffer);
        } else {
            self.link.fail();
        }
    }

    /// Takes up to `most` completions of posts from the adapter, into `into`.
    #[inline]
    fn take_posted(&mut self, most: usize, mut into: impl FnMut(Completion)) -> usize {
        let count = self.link.queue_pair.send_queue.poll(&mut self.polled[..most]);
        let mut next = self.done.len();
        for completion in &self.polled[..count] {
            let done = completion.is_valid();
            if !done {
                self.link.fail();
            }
            // The lower half counts the load words posted before it, which are done too.
            self.loads_done = completion.wr_id() as u32;
            if completion.wr_id() & CALLERS == 0 {
                continue;
            }
            let wr = self.posted[next];
            next += 1;
            into(if done { Completion::Posted(wr) } else { Completion::Flushed(wr) });
        }
        count
    }

    /// Takes what the adapter has completed, without giving it to the caller yet.
    fn reap(&mut self) {
        loop {
            let mut taken: ArrayVec<Completion, BURST> = ArrayVec::new();
            let count = self.take_posted(BURST, |completion| taken.push(completion));
            self.done.extend(taken);
            if count == 0 {
                return;
            }
        }
    }

    /// Gives the caller up to `most` completions of posts.
    #[inline]
    fn poll_posted(&mut self, completions: &mut ArrayVec<Completion, BURST>, most: usize) {
        let most = most.min(completions.remaining_capacity());
        for _ in 0..most {
            let Some(completion) = self.done.pop_front() else { break };
            self.posted.pop_front();
            completions.push(completion);
        }
        let left = most.min(completions.remaining_capacity());
        if !self.done.is_empty() || left == 0 {
            return;
        }
        let before = completions.len();
        // Load words complete too, and are nobody's news: a poll that finds only those looks again.
        while self.take_posted(left, |completion| completions.push(completion)) > 0
            && completions.len() == before
        {}
        self.posted.drain(..completions.len() - before);
    }

    #[inline]
    fn poll_arrived(&mut self, completions: &mut ArrayVec<Completion, BURST>) {
        let (before, room) = (completions.len(), completions.remaining_capacity());
        // Receives that are flushed are nobody's news either.
        while self.take_arrived(completions, room) > 0 && completions.len() == before {}
    }

    #[inline]
    fn take_arrived(&mut self, completions: &mut ArrayVec<Completion, BURST>, most: usize) -> usize {
        let count = self.link.queue_pair.receive_queue.poll(&mut self.polled[..most]);
        for completion in &self.polled[..count] {
            let buffer = completion.wr_id() as u16;
            self.receives.complete(buffer);
            if !completion.is_valid() {
                self.link.fail();
                continue;
            }
            let immediate = completion.opcode() == ffi::ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM;
            completions.push(match completion.imm_data() {
                Some(value) if immediate => {
                    Completion::Immediate(Received { buffer, len: 0 }, u32::from_be(value))
                }
                _ => Completion::Message(Received { buffer, len: completion.len() as u32 }),
            });
        }
        count
    }
}

/// A WRITE to `at` bytes into the peer's memory.
#[inline]
fn write_request(to: Remote, at: usize) -> ffi::ibv_send_wr {
    let mut kind = request(ffi::ibv_wr_opcode::IBV_WR_RDMA_WRITE);
    // Checked when the offer was read: the end of the memory has an address.
    kind.wr.rdma =
        ffi::ibv_send_wr__bindgen_ty_2__bindgen_ty_1 { remote_addr: to.address + at as u64, rkey: to.key };
    kind
}

#[inline]
fn request(opcode: ffi::ibv_wr_opcode::Type) -> ffi::ibv_send_wr {
    // SAFETY: all-zero bytes are a value of this plain C struct: no next request, no memory.
    let mut kind: ffi::ibv_send_wr = unsafe { zeroed() };
    kind.opcode = opcode;
    kind
}

impl crate::QueuePair for QueuePair {
    fn limits(&self) -> Limits {
        self.limits
    }

    #[inline]
    fn state(&self) -> State {
        if self.link.is_failed() { State::Error } else { State::Ready }
    }

    fn fail(&mut self) {
        self.link.fail();
    }

    #[inline]
    fn staging(&mut self) -> &mut [u8] {
        let bytes = self.limits.staging_bytes;
        let base = self.mapping.address(self.layout.sources.0, bytes);
        // SAFETY: mapped as long as `mapping`, which `self` holds; no other reference to the staging memory is
        // made, as `self` is borrowed, and the adapter only reads it.
        unsafe { std::slice::from_raw_parts_mut(base, bytes) }
    }

    fn slots(&self) -> Arc<dyn Slots> {
        Arc::clone(&self.slots)
    }

    #[inline]
    fn send(&mut self, wr: WrId, message: &[u8]) -> Result<(), PostError> {
        if message.len() > self.limits.message_bytes_max {
            return Err(PostError::Bounds);
        }
        self.admit()?;
        let source = if message.len() <= self.link.queue_pair.inline_bytes as usize {
            Source::Inline(message.as_ptr())
        } else {
            let at = self.layout.sends_at + self.send_buffer * self.limits.message_bytes_max;
            // A copy, because the caller's memory is not registered and is its own again at once.
            self.mapping.copy_in(at, message);
            self.send_buffer = (self.send_buffer + 1) % self.limits.posted_max;
            Source::Registered(at)
        };
        self.post_for(wr, request(ffi::ibv_wr_opcode::IBV_WR_SEND), &source, message.len())
    }

    #[inline]
    fn write(
        &mut self,
        wr: WrId,
        from: Range<usize>,
        to: usize,
        immediate: Option<u32>,
    ) -> Result<(), PostError> {
        if from.start > from.end || from.end > self.limits.staging_bytes {
            return Err(PostError::Bounds);
        }
        if to > self.limits.slots_bytes || from.len() > self.limits.slots_bytes - to {
            return Err(PostError::Bounds);
        }
        self.admit()?;
        let mut kind = write_request(self.peer_slots, to);
        if let Some(value) = immediate {
            kind.opcode = ffi::ibv_wr_opcode::IBV_WR_RDMA_WRITE_WITH_IMM;
            kind.__bindgen_anon_1.imm_data = value.to_be();
        }
        let source = Source::Registered(self.layout.sources.0 + from.start);
        self.post_for(wr, kind, &source, from.len())
    }

    #[inline]
    fn write_load(&mut self, word: &[u8; LOAD_BYTES]) -> Result<(), PostError> {
        if self.link.is_failed() {
            return Err(PostError::Broken);
        }
        if self.loads_under_way() >= LOAD_POSTED_MAX - 1 {
            self.reap();
        }
        // One place is kept for the empty WRITE of `is_settled`.
        if self.loads_under_way() >= LOAD_POSTED_MAX - 1 {
            self.load_waiting = Some(*word);
            return Ok(());
        }
        self.load_waiting = None;
        self.post_load(Source::Inline(word.as_ptr()), LOAD_BYTES, false);
        if self.link.is_failed() { Err(PostError::Broken) } else { Ok(()) }
    }

    #[inline]
    fn read_load(&self) -> [u8; LOAD_BYTES] {
        let mut word = [0; LOAD_BYTES];
        self.mapping.copy_out(self.layout.load.0, &mut word);
        word
    }

    #[inline]
    fn poll(&mut self, completions: &mut ArrayVec<Completion, BURST>) {
        // Half of the room for each kind first, so that neither starves the other.
        self.poll_posted(completions, completions.remaining_capacity().div_ceil(2));
        self.poll_arrived(completions);
        self.poll_posted(completions, BURST);
        if let Some(word) = self.load_waiting {
            let _ = self.write_load(&word);
        }
    }

    #[inline]
    fn message(&mut self, received: &Received) -> &mut [u8] {
        self.receives.assert_held(received);
        let len = received.len as usize;
        assert!(len <= self.limits.message_bytes_max, "{len} bytes of a shorter receive buffer");
        let at = self.layout.receives.0 + usize::from(received.buffer) * self.limits.message_bytes_max;
        let base = self.mapping.address(at, len);
        // SAFETY: mapped as long as `mapping`, which `self` holds; the buffer is not posted, so the adapter does not
        // touch it, and the peer has no key for it; no other reference to it is made, as `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(base, len) }
    }

    #[inline]
    fn repost(&mut self, received: Received) {
        self.receives.assert_held(&received);
        if !self.link.is_failed() {
            self.post_receive(received.buffer);
        }
    }
}

impl Drop for QueuePair {
    /// The fence then finds nobody, which is a failure; the adapter's objects go with the last holder.
    fn drop(&mut self) {
        self.link.fail();
    }
}
