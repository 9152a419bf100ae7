//! Packets that reached the wrong worker, on their way to their owner: one bounded ring into each worker of a node.
//!
//! In: packets classified by [`rss`](crate::rss). Out: the same packets at their owner, or copies of them at every
//! worker. A ring that is full drops the packet and counts it: whoever sent it repeats it, and waiting here would
//! let one slow worker stop the others. Each [`Handover`] belongs to one worker.

use std::sync::Arc;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;

use crate::{BURST, Nic, Packet};

/// One worker's end of the rings: it sends into all others and receives from its own.
#[derive(Debug)]
pub struct Handover<P> {
    rings: Arc<[ArrayQueue<P>]>,
    me: u16,
    dropped: u64,
    received: u64,
}

impl<P> Handover<P> {
    /// The ends of `workers` workers, in their order; each ring holds up to `packets`.
    ///
    /// # Panics
    /// If `packets` is 0 or there are more than 65,535 workers.
    pub fn between(workers: usize, packets: usize) -> Vec<Handover<P>> {
        let count = u16::try_from(workers).expect("workers are numbered by u16");
        let rings: Arc<[ArrayQueue<P>]> = (0..workers).map(|_| ArrayQueue::new(packets)).collect();
        (0..count).map(|me| Handover { rings: Arc::clone(&rings), me, dropped: 0, received: 0 }).collect()
    }

    /// This worker's number.
    pub fn worker(&self) -> u16 {
        self.me
    }

    /// Workers of the node.
    pub fn workers(&self) -> u16 {
        self.rings.len() as u16
    }

    /// Gives `packet` to worker `to`; false if its ring was full and the packet is dropped and counted.
    ///
    /// # Panics
    /// If there is no such worker.
    pub fn send(&mut self, to: u16, packet: P) -> bool {
        let taken = self.rings[usize::from(to)].push(packet).is_ok();
        self.dropped += u64::from(!taken);
        taken
    }

    /// Appends up to `BURST - packets.len()` packets other workers sent here; returns how many.
    pub fn receive(&mut self, packets: &mut ArrayVec<P, BURST>) -> usize {
        let before = packets.len();
        let ring = &self.rings[usize::from(self.me)];
        while !packets.is_full() {
            let Some(packet) = ring.pop() else { break };
            packets.push(packet);
        }
        let count = packets.len() - before;
        self.received += count as u64;
        count
    }

    /// Packets that wait for this worker.
    pub fn waiting(&self) -> usize {
        self.rings[usize::from(self.me)].len()
    }

    /// Packets this worker could not give away: a full ring, or no buffer for a copy.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Packets this worker took from its ring.
    pub fn received(&self) -> u64 {
        self.received
    }
}

impl<P: Packet> Handover<P> {
    /// Gives a copy of `packet` to every other worker, from `nic`'s pool. A copy, because a buffer has exactly
    /// one owner; only address resolution takes this way. Returns how many copies were taken.
    pub fn share<N: Nic<Packet = P>>(&mut self, nic: &mut N, packet: &P) -> usize {
        let frame = packet.bytes();
        let mut taken = 0;
        let me = self.me;
        for to in (0..self.workers()).filter(|to| *to != me) {
            let Some(mut copy) = nic.alloc().filter(|copy| copy.capacity() >= frame.len()) else {
                self.dropped += 1;
                continue;
            };
            copy.set_len(frame.len());
            copy.bytes_mut().copy_from_slice(frame);
            taken += usize::from(self.send(to, copy));
        }
        taken
    }
}
