//! Which receive buffers are the adapter's and which the worker's. In: posts, completions, `repost`. Out: each
//! buffer's one holder. Owned by the worker.

use crate::Received;

/// Who may touch a receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Posted: a message may arrive in it at any time.
    Adapter,
    /// It holds a message, or may be posted.
    Worker,
}

pub(super) struct Holders {
    of: Box<[Holder]>,
    posted: usize,
}

impl Holders {
    pub(super) fn new(receives: usize) -> Holders {
        Holders { of: vec![Holder::Worker; receives].into_boxed_slice(), posted: 0 }
    }

    /// Buffers the adapter still has.
    #[inline]
    pub(super) fn posted(&self) -> usize {
        self.posted
    }

    #[inline]
    pub(super) fn post(&mut self, buffer: u16) {
        self.of[usize::from(buffer)] = Holder::Adapter;
        self.posted += 1;
    }

    /// The adapter gave one back.
    #[inline]
    pub(super) fn complete(&mut self, buffer: u16) {
        let holder = &mut self.of[usize::from(buffer)];
        assert_eq!(*holder, Holder::Adapter, "receive buffer {buffer} completed twice");
        *holder = Holder::Worker;
        self.posted -= 1;
    }

    /// # Panics
    /// If the buffer is posted: a mistake of ours.
    #[inline]
    pub(super) fn assert_held(&self, received: &Received) {
        let holder = self.of[usize::from(received.buffer)];
        assert_eq!(holder, Holder::Worker, "receive buffer {} is posted", received.buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_one_holder() {
        let mut holders = Holders::new(2);
        holders.assert_held(&Received { buffer: 1, len: 0 });
        holders.post(1);
        assert_eq!(holders.posted(), 1);
        holders.complete(1);
        assert_eq!(holders.posted(), 0);
        holders.assert_held(&Received { buffer: 1, len: 0 });
    }

    #[test]
    #[should_panic(expected = "is posted")]
    fn a_posted_buffer_is_not_read() {
        let mut holders = Holders::new(1);
        holders.post(0);
        holders.assert_held(&Received { buffer: 0, len: 0 });
    }

    #[test]
    #[should_panic(expected = "completed twice")]
    fn a_buffer_completes_once() {
        Holders::new(1).complete(0);
    }
}
