//! One end of a simulated queue pair. In: posts. Out: completions. Owned by whoever plays the worker; what is under
//! way lies in the net.

use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::Shared;
use super::world::{EndId, Posted, Work};
use crate::receives::ReceiveBuffers;
use crate::{BURST, Completion, Fence, LOAD_BYTES, Limits, PostError, Received, Slots, State, WrId};

/// One end of a queue pair in virtual time.
pub struct QueuePair {
    world: Shared,
    end: EndId,
    limits: Limits,
    staging: Vec<u8>,
    buffers: ReceiveBuffers,
}

impl QueuePair {
    pub(super) fn new(world: Shared, end: EndId, limits: Limits) -> QueuePair {
        let staging = vec![0; limits.staging_bytes];
        QueuePair { world, end, limits, staging, buffers: ReceiveBuffers::new(&limits) }
    }

    /// The control thread's hold on this end.
    pub fn fence(&self) -> Arc<dyn Fence> {
        Arc::new(Fencer { world: self.world.clone(), end: self.end })
    }

    /// The source of a post must stand as it was posted until its completion is polled.
    fn check_source(&self, posted: &Posted) {
        if let Some((at, bytes)) = &posted.source {
            assert!(
                self.staging[*at..at + bytes.len()] == bytes[..],
                "staging {at}..{} was changed before the completion of {:?} was polled",
                at + bytes.len(),
                posted.wr
            );
        }
    }

    fn poll_posted(&mut self, completions: &mut ArrayVec<Completion, BURST>, most: usize) {
        for _ in 0..most.min(completions.remaining_capacity()) {
            let Some((posted, done)) = self.world.lock().completed(self.end) else { return };
            self.check_source(&posted);
            let wr = posted.wr;
            completions.push(if done { Completion::Posted(wr) } else { Completion::Flushed(wr) });
        }
    }

    fn poll_arrived(&mut self, completions: &mut ArrayVec<Completion, BURST>) {
        while !completions.is_full() {
            let Some(arrived) = self.world.lock().arrived(self.end) else { return };
            let received = self.buffers.claim(arrived.bytes.len() as u32);
            self.buffers.message(&received).copy_from_slice(&arrived.bytes);
            completions.push(match arrived.immediate {
                Some(value) => Completion::Immediate(received, value),
                None => Completion::Message(received),
            });
        }
    }
}

impl crate::QueuePair for QueuePair {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn state(&self) -> State {
        self.world.lock().state(self.end)
    }

    fn fail(&mut self) {
        self.world.lock().fail(self.end);
    }

    fn staging(&mut self) -> &mut [u8] {
        &mut self.staging
    }

    fn slots(&self) -> Arc<dyn Slots> {
        self.world.lock().slots(self.end)
    }

    fn send(&mut self, wr: WrId, message: &[u8]) -> Result<(), PostError> {
        if message.len() > self.limits.message_bytes_max {
            return Err(PostError::Bounds);
        }
        let posted = Posted { wr, source: None };
        self.world.lock().post(self.end, Work::Send(message.to_vec()), Some(posted))
    }

    fn write(
        &mut self,
        wr: WrId,
        from: Range<usize>,
        to: usize,
        immediate: Option<u32>,
    ) -> Result<(), PostError> {
        let at = from.start;
        let source = self.staging.get(from).ok_or(PostError::Bounds)?;
        if to > self.limits.slots_bytes || source.len() > self.limits.slots_bytes - to {
            return Err(PostError::Bounds);
        }
        let posted = Posted { wr, source: Some((at, source.to_vec())) };
        let work = Work::Write { to, bytes: source.to_vec(), immediate };
        self.world.lock().post(self.end, work, Some(posted))
    }

    fn write_load(&mut self, word: &[u8; LOAD_BYTES]) -> Result<(), PostError> {
        self.world.lock().post(self.end, Work::Load(*word), None)
    }

    fn read_load(&self) -> [u8; LOAD_BYTES] {
        self.world.lock().load(self.end)
    }

    fn poll(&mut self, completions: &mut ArrayVec<Completion, BURST>) {
        // Half of the room for each kind first, so that neither starves the other.
        self.poll_posted(completions, completions.remaining_capacity().div_ceil(2));
        self.poll_arrived(completions);
        self.poll_posted(completions, BURST);
    }

    fn message(&mut self, received: &Received) -> &mut [u8] {
        self.buffers.message(received)
    }

    fn repost(&mut self, received: Received) {
        self.buffers.release(received);
        self.world.lock().post_receive(self.end);
    }
}

impl Drop for QueuePair {
    /// A pair with one end is in error at the other.
    fn drop(&mut self) {
        self.world.lock().fail(self.end);
    }
}

struct Fencer {
    world: Shared,
    end: EndId,
}

impl Fence for Fencer {
    fn fail(&self) {
        self.world.lock().fail(self.end);
    }

    fn failed(&self) -> bool {
        self.world.lock().state(self.end) == State::Error
    }
}
