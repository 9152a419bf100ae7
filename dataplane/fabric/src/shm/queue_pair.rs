//! One end of a queue pair over two shared regions: this end's, which the peer writes, and the peer's, which this
//! end writes. In: posts. Out: completions. Owned by one worker; [`Fencer`] is for the control thread.
//!
//! A post is carried out before it returns, so what was posted while the pair was ready is done, and only a
//! post that found no receive is ever flushed.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arrayvec::ArrayVec;

use super::layout::{ERROR, LOAD_AT, Layout, READY, STATE_AT};
use super::region::Region;
use super::ring::{Entry, Receiver, Sender};
use crate::receives::ReceiveBuffers;
use crate::slots::MappedSlots;
use crate::{BURST, Completion, Fence, LOAD_BYTES, Limits, PostError, Received, Slots, State, WrId};

/// Both regions of a pair and whether it failed. The failure is kept in private memory: the peer can cause it but
/// not undo it.
pub(super) struct Link {
    pub(super) inbound: Arc<Region>,
    outbound: Region,
    failed: AtomicBool,
}

impl Link {
    #[inline]
    fn is_failed(&self) -> bool {
        if self.failed.load(Ordering::Acquire) {
            return true;
        }
        // Acquire: what the peer sent before it failed is visible to whoever sees that it did.
        if self.inbound.u32(STATE_AT).load(Ordering::Acquire) == READY {
            return false;
        }
        self.failed.store(true, Ordering::Release);
        true
    }

    fn fail(&self) {
        self.failed.store(true, Ordering::Release);
        self.outbound.u32(STATE_AT).store(ERROR, Ordering::Release);
    }
}

/// The control thread's hold on a queue pair. It does not keep the memory: a pair that is gone has failed.
struct Fencer(Weak<Link>);

impl Fence for Fencer {
    fn fail(&self) {
        if let Some(link) = self.0.upgrade() {
            link.fail();
        }
    }

    fn failed(&self) -> bool {
        self.0.upgrade().is_none_or(|link| link.is_failed())
    }
}

/// One end of a queue pair between two processes of one machine.
pub struct QueuePair {
    limits: Limits,
    layout: Layout,
    pub(super) link: Arc<Link>,
    sender: Sender,
    receiver: Receiver,
    /// What arrived before the failure has been delivered; the ring is not looked at again.
    drained: bool,
    buffers: ReceiveBuffers,
    staging: Box<[u8]>,
    /// Signalled posts not yet polled; never longer than `posted_max`, the capacity it is made with.
    posted: VecDeque<Completion>,
    slots: Arc<dyn Slots>,
}

impl QueuePair {
    /// `inbound` is this end's region, `outbound` the peer's, both of [`Layout::bytes`].
    pub(super) fn new(limits: Limits, inbound: Region, outbound: Region) -> QueuePair {
        let layout = Layout::new(&limits);
        let message_bytes_max =
            u32::try_from(limits.message_bytes_max).expect("checked against MESSAGE_BYTES_LIMIT");
        let inbound = Arc::new(inbound);
        let slots =
            MappedSlots { mapping: Arc::clone(&inbound), at: layout.slots_at, bytes: layout.slots_bytes };
        QueuePair {
            limits,
            layout,
            sender: Sender::new(limits.receives),
            receiver: Receiver::new(&inbound, limits.receives, message_bytes_max),
            drained: false,
            buffers: ReceiveBuffers::new(&limits),
            staging: vec![0; limits.staging_bytes].into_boxed_slice(),
            posted: VecDeque::with_capacity(limits.posted_max),
            slots: Arc::new(slots),
            link: Arc::new(Link { inbound, outbound, failed: AtomicBool::new(false) }),
        }
    }

    pub(super) fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(Fencer(Arc::downgrade(&self.link)))
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

    /// The peer had no receive posted: as with `rnr_retry` 0 the post is flushed and the pair in error.
    #[cold]
    fn receiver_not_ready(&mut self, wr: WrId) {
        self.link.fail();
        self.posted.push_back(Completion::Flushed(wr));
    }

    #[inline]
    fn poll_posted(&mut self, completions: &mut ArrayVec<Completion, BURST>, most: usize) {
        for _ in 0..most.min(completions.remaining_capacity()) {
            let Some(completion) = self.posted.pop_front() else { return };
            completions.push(completion);
        }
    }

    #[inline]
    fn poll_arrived(&mut self, completions: &mut ArrayVec<Completion, BURST>, failed: bool) {
        // With no buffer free no receive is posted, so whatever a peer claims to have sent waits.
        while !self.drained && !completions.is_full() && !self.buffers.is_exhausted() {
            let entry = match self.receiver.peek(&self.link.inbound, &self.layout) {
                Ok(Some(entry)) => entry,
                Ok(None) => {
                    self.drained = failed;
                    return;
                }
                Err(_) => {
                    self.link.fail();
                    self.drained = true;
                    return;
                }
            };
            let received = self.buffers.claim(match entry {
                Entry::Message(len) => len,
                Entry::Immediate(_) => 0,
            });
            let message = self.buffers.message(&received);
            self.receiver.take(&self.link.inbound, &self.layout, message);
            completions.push(match entry {
                Entry::Message(_) => Completion::Message(received),
                Entry::Immediate(value) => Completion::Immediate(received, value),
            });
        }
    }
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
        &mut self.staging
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
        if !self.sender.has_receive(&self.link.outbound) {
            self.receiver_not_ready(wr);
            return Ok(());
        }
        self.sender.push_message(&self.link.outbound, &self.layout, message);
        self.posted.push_back(Completion::Posted(wr));
        Ok(())
    }

    #[inline]
    fn write(
        &mut self,
        wr: WrId,
        from: Range<usize>,
        to: usize,
        immediate: Option<u32>,
    ) -> Result<(), PostError> {
        let source = self.staging.get(from).ok_or(PostError::Bounds)?;
        if to > self.layout.slots_bytes || source.len() > self.layout.slots_bytes - to {
            return Err(PostError::Bounds);
        }
        self.admit()?;
        if immediate.is_some() && !self.sender.has_receive(&self.link.outbound) {
            self.receiver_not_ready(wr);
            return Ok(());
        }
        self.link.outbound.copy_in(self.layout.slots_at + to, source);
        if let Some(immediate) = immediate {
            self.sender.push_immediate(&self.link.outbound, &self.layout, immediate);
        }
        self.posted.push_back(Completion::Posted(wr));
        Ok(())
    }

    #[inline]
    fn write_load(&mut self, word: &[u8; LOAD_BYTES]) -> Result<(), PostError> {
        if self.link.is_failed() {
            return Err(PostError::Broken);
        }
        self.link.outbound.copy_in(LOAD_AT, word);
        Ok(())
    }

    #[inline]
    fn read_load(&self) -> [u8; LOAD_BYTES] {
        let mut word = [0; LOAD_BYTES];
        self.link.inbound.copy_out(LOAD_AT, &mut word);
        word
    }

    #[inline]
    fn poll(&mut self, completions: &mut ArrayVec<Completion, BURST>) {
        // Looked at before the ring: what came before the failure is found there.
        let failed = self.link.is_failed();
        // Half of the room for each kind first, so that neither starves the other.
        self.poll_posted(completions, completions.remaining_capacity().div_ceil(2));
        self.poll_arrived(completions, failed);
        self.poll_posted(completions, BURST);
    }

    #[inline]
    fn message(&mut self, received: &Received) -> &mut [u8] {
        self.buffers.message(received)
    }

    #[inline]
    fn repost(&mut self, received: Received) {
        self.buffers.release(received);
        if !self.link.is_failed() {
            self.receiver.post(&self.link.inbound);
        }
    }
}

impl Drop for QueuePair {
    /// A pair with one end is in error at the other.
    fn drop(&mut self) {
        self.link.fail();
    }
}
