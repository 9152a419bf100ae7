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

#[cfg(test)]
mod tests {
    use arrayvec::ArrayVec;

    use super::Handover;
    use crate::sim::{Net, PortOptions};
    use crate::{Nic, Packet};

    #[test]
    fn packets_reach_their_worker_in_order() {
        let mut ends = Handover::between(3, 8);
        for number in 0..4 {
            assert!(ends[usize::from(number % 2 == 0)].send(2, number));
        }
        assert_eq!((ends[2].waiting(), ends[0].waiting(), ends[2].workers()), (4, 0, 3));
        let mut got = ArrayVec::new();
        assert_eq!(ends[2].receive(&mut got), 4);
        assert_eq!((got.as_slice(), ends[2].received()), (&[0, 1, 2, 3][..], 4));
        assert_eq!(ends[1].receive(&mut got), 0);
    }

    #[test]
    fn a_full_ring_drops_and_counts() {
        let mut ends = Handover::between(2, 2);
        let taken = [1, 2, 3, 4].map(|number| ends[0].send(1, number));
        assert_eq!((taken, ends[0].dropped(), ends[1].dropped()), ([true, true, false, false], 2, 0));
    }

    #[test]
    fn a_full_burst_leaves_the_rest() {
        let mut ends = Handover::between(1, 64);
        assert!((0..40).all(|number| ends[0].send(0, number)));
        let mut got = ArrayVec::new();
        assert_eq!((ends[0].receive(&mut got), ends[0].receive(&mut got), ends[0].waiting()), (32, 0, 8));
    }

    #[test]
    fn copies_reach_every_other_worker_or_are_counted() {
        let mut net = Net::new();
        let mut nic = net.port(PortOptions { packets: 3, tso: false, ..PortOptions::default() }).remove(0);
        let mut ends = Handover::between(4, 8);
        let mut packet = nic.alloc().expect("the pool is not empty");
        packet.set_len(60);
        packet.bytes_mut().fill(9);
        // Two buffers are left for three copies.
        assert_eq!((ends[1].share(&mut nic, &packet), ends[1].dropped()), (2, 1));
        assert_eq!(ends.iter().map(Handover::waiting).collect::<Vec<_>>(), [1, 0, 1, 0]);
        let mut got = ArrayVec::new();
        ends[0].receive(&mut got);
        assert_eq!(got[0].bytes(), packet.bytes());
        drop((ends, got, packet));
        assert_eq!(nic.in_use(), 0);
    }
}
