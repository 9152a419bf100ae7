//! Copies of packets for an operator who captures: those the port gave, and those it is about to be given.
//!
//! In: bursts, of which a filter wants some. Out: copies of these in buffers made before, over two bounded queues, to whoever
//! reads them, who gives the buffers back. A worker never waits: without a free buffer the packet is not copied, and
//! counted. While nobody captures there is no tap, and a burst costs a look at whether there is one.
//!
//! A packet that is cut by the port is copied as it is given to it, whole; sums that are left to the port are not in it yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use keyferry_filter::Filter;
use keyferry_nic::{Packet, TSO_BYTES_MAX};
use keyferry_time::Time;

use crate::counters::Counters;

/// Least and most bytes kept of a packet: headers, and all of the largest one that a port cuts.
pub const SNAP_BYTES_MIN: usize = 64;
/// See [`SNAP_BYTES_MIN`].
pub const SNAP_BYTES_MAX: usize = 17 << 10;
const _: () = assert!(SNAP_BYTES_MAX > TSO_BYTES_MAX as usize + 14 + 4 + 40 + 60);

/// Bytes of one worker's buffers, and how many they are at most: what comes in a few milliseconds, between two looks of the reader.
const BUFFERS_BYTES: usize = 16 << 20;
const BUFFERS_MAX: usize = 16_384;

/// Which way a packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the port to the worker.
    Received,
    /// From the worker to the port.
    Sent,
}

impl Direction {
    /// Both, in the order of their numbers.
    pub const ALL: [Direction; 2] = [Direction::Received, Direction::Sent];
}

/// A packet that was copied.
pub struct Captured {
    /// When its burst came, or was about to go.
    pub at: Time,
    /// Which way it went.
    pub direction: Direction,
    /// Bytes of all of it.
    pub whole_bytes: usize,
    kept_bytes: usize,
    buffer: Box<[u8]>,
}

impl Captured {
    /// Its first bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.kept_bytes]
    }
}

/// What a worker and the reader of its copies share.
pub struct Copies {
    free: ArrayQueue<Box<Captured>>,
    full: ArrayQueue<Box<Captured>>,
    /// By direction; the worker alone writes them.
    missed: [AtomicU64; 2],
    turns: AtomicU64,
    is_on: AtomicBool,
}

impl Copies {
    /// Buffers for so many bytes of each packet. Not for a worker to make.
    pub fn new(snap_bytes: usize) -> Arc<Copies> {
        let snap_bytes = snap_bytes.clamp(SNAP_BYTES_MIN, SNAP_BYTES_MAX);
        Copies::with_buffers((BUFFERS_BYTES / snap_bytes).min(BUFFERS_MAX), snap_bytes)
    }

    fn with_buffers(count: usize, snap_bytes: usize) -> Arc<Copies> {
        let copies = Copies {
            free: ArrayQueue::new(count),
            full: ArrayQueue::new(count),
            missed: Default::default(),
            turns: AtomicU64::new(0),
            is_on: AtomicBool::new(false),
        };
        for _ in 0..count {
            copies.give_back(Box::new(Captured {
                at: Time::ZERO,
                direction: Direction::Received,
                whole_bytes: 0,
                kept_bytes: 0,
                buffer: vec![0; snap_bytes].into_boxed_slice(),
            }));
        }
        Arc::new(copies)
    }

    /// The next copy, in the order the worker made them.
    pub fn take(&self) -> Option<Box<Captured>> {
        self.full.pop()
    }

    /// A copy that was read.
    pub fn give_back(&self, copy: Box<Captured>) {
        // There is a place for each buffer.
        let _ = self.free.push(copy);
    }

    /// Packets that were wanted and not copied.
    pub fn missed(&self, direction: Direction) -> u64 {
        self.missed[direction as usize].load(Ordering::Relaxed)
    }

    /// Turns the worker has begun with it: once there are two more, all is done that was to be done about the copies there were.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Acquire)
    }

    /// Whether the worker has it: of packets that come from then on none is overlooked.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Acquire)
    }

    /// Whether the worker has put it away.
    pub fn is_over(self: &Arc<Copies>) -> bool {
        Arc::strong_count(self) == 1
    }
}

/// A worker's side of a capture.
pub struct Tap {
    filter: Filter,
    copies: Arc<Copies>,
    /// Read once a burst, so that who answers is later than who asked, whichever workers they meet.
    clock: Box<dyn Fn() -> Time + Send>,
    turn: Time,
    /// How many packets the port has been given when all that were copied are: one that it does not take at once is seen again.
    sent_seen: u64,
}

impl Tap {
    /// Copies what `filter` wants.
    pub fn new(filter: Filter, copies: Arc<Copies>, clock: impl Fn() -> Time + Send + 'static) -> Tap {
        Tap { filter, copies, clock: Box::new(clock), turn: Time::ZERO, sent_seen: 0 }
    }

    /// It is in use from here on.
    pub(crate) fn begin(&self) {
        self.copies.is_on.store(true, Ordering::Release);
    }

    /// Packets the port gave, or none, in a turn.
    #[cold]
    pub(crate) fn received<P: Packet>(&mut self, turn: Time, packets: &[P], counters: &mut Counters) {
        if turn != self.turn {
            self.turn = turn;
            let turns = &self.copies.turns;
            turns.store(turns.load(Ordering::Relaxed) + 1, Ordering::Release);
        }
        if packets.is_empty() {
            return;
        }
        let at = (self.clock)();
        for packet in packets {
            self.look(at, Direction::Received, packet, counters);
        }
    }

    /// Packets the port is given, behind `counters.tx_packets` it has taken before.
    #[cold]
    pub(crate) fn sent<P: Packet>(&mut self, packets: &[P], counters: &mut Counters) {
        let seen = self.sent_seen.saturating_sub(counters.tx_packets) as usize;
        self.sent_seen = counters.tx_packets + packets.len() as u64;
        let at = (self.clock)();
        for packet in packets.iter().skip(seen) {
            self.look(at, Direction::Sent, packet, counters);
        }
    }

    fn look<P: Packet>(&self, at: Time, direction: Direction, packet: &P, counters: &mut Counters) {
        if !self.filter.wants(packet.bytes()) {
            return;
        }
        let Some(mut copy) = self.copies.free.pop() else {
            counters.capture_missed += 1;
            let missed = &self.copies.missed[direction as usize];
            missed.store(missed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return;
        };
        // A copy because the packet goes on, and its memory is the port's.
        copy.whole_bytes = packet.copy_to(&mut copy.buffer);
        copy.kept_bytes = copy.whole_bytes.min(copy.buffer.len());
        (copy.at, copy.direction) = (at, direction);
        counters.captured += 1;
        // There is a place for each buffer.
        let _ = self.copies.full.push(copy);
    }
}

#[cfg(test)]
mod tests {
    use arrayvec::ArrayVec;
    use keyferry_nic::sim::{Net, PortOptions, Queue};
    use keyferry_nic::{BURST, Nic};

    use super::*;

    fn queue() -> Queue {
        Net::new().port(PortOptions::default()).remove(0)
    }

    fn packet(queue: &mut Queue, bytes: &[u8]) -> <Queue as Nic>::Packet {
        let mut packet = queue.alloc().expect("a packet");
        packet.set_len(bytes.len());
        packet.bytes_mut().copy_from_slice(bytes);
        packet
    }

    fn packets(queue: &mut Queue, firsts: std::ops::Range<u8>) -> ArrayVec<<Queue as Nic>::Packet, BURST> {
        firsts.map(|first| packet(queue, &[first; 60])).collect()
    }

    fn firsts(copies: &Copies) -> Vec<u8> {
        std::iter::from_fn(|| copies.take()).map(|copy| copy.bytes()[0]).collect()
    }

    #[test]
    fn what_the_port_does_not_take_at_once_is_copied_once() {
        let (mut queue, mut counters) = (queue(), Counters::default());
        let copies = Copies::new(SNAP_BYTES_MAX);
        let mut tap = Tap::new(Filter::default(), Arc::clone(&copies), || Time(5));
        counters.tx_packets = 1000;
        let mut waiting = packets(&mut queue, 0..4);
        tap.sent(&waiting, &mut counters);
        // The port took three of them.
        waiting.drain(..3);
        counters.tx_packets += 3;
        waiting.extend(packets(&mut queue, 4..6));
        tap.sent(&waiting, &mut counters);
        tap.sent(&waiting, &mut counters);
        assert_eq!(firsts(&copies), [0, 1, 2, 3, 4, 5]);
        counters.tx_packets += 3;
        tap.sent(&packets(&mut queue, 6..7), &mut counters);
        assert_eq!((firsts(&copies), counters.captured), (vec![6], 7));
    }

    #[test]
    fn without_a_buffer_a_packet_is_missed_and_counted() {
        let (mut queue, mut counters) = (queue(), Counters::default());
        let copies = Copies::with_buffers(2, 64);
        let mut tap = Tap::new(Filter::default(), Arc::clone(&copies), || Time(5));
        let burst = packets(&mut queue, 0..5);
        tap.received(Time(1), &burst, &mut counters);
        tap.sent(&burst[..1], &mut counters);
        assert_eq!(Direction::ALL.map(|direction| copies.missed(direction)), [3, 1]);
        assert_eq!((counters.captured, counters.capture_missed), (2, 4));
        let first = copies.take().expect("a copy");
        copies.give_back(first);
        tap.received(Time(2), &burst[4..], &mut counters);
        assert_eq!(firsts(&copies), [1, 4]);
        drop(tap);
        assert!(copies.is_over());
        assert_eq!(copies.turns(), 2);
    }

    #[test]
    fn pieces_are_gathered_and_the_rest_is_only_counted() {
        let (mut queue, mut counters) = (queue(), Counters::default());
        let copies = Copies::with_buffers(4, 64);
        let mut tap = Tap::new(Filter::default(), Arc::clone(&copies), || Time(5));
        for len in [20, 2000] {
            let mut record = queue.buffers(1, 2100).remove(0);
            record.bytes_mut().fill(9);
            record.bytes_mut()[100] = 7;
            let mut packet = packet(&mut queue, &[1; 40]);
            assert!(queue.attach(&mut packet, &[(&record, 100..101), (&record, 101..100 + len)]));
            tap.sent(&[packet], &mut counters);
            counters.tx_packets += 1;
            let copy = copies.take().expect("a copy");
            assert_eq!((copy.at, copy.direction, copy.whole_bytes), (Time(5), Direction::Sent, 40 + len));
            let kept = (40 + len).min(64);
            let expected = [&[1; 40][..], &[7], &[9; 23]].concat();
            assert_eq!(copy.bytes(), &expected[..kept], "{len}");
        }
    }

    #[test]
    fn only_what_is_wanted_is_copied() {
        let (mut queue, mut counters) = (queue(), Counters::default());
        let copies = Copies::with_buffers(4, 64);
        let mut tap = Tap::new("arp".parse().expect("a filter"), Arc::clone(&copies), || Time(5));
        let mut arp = [0; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        let burst = [packet(&mut queue, &[1; 60]), packet(&mut queue, &arp)];
        tap.received(Time(1), &burst, &mut counters);
        assert_eq!((counters.captured, counters.capture_missed), (1, 0));
        assert_eq!(copies.take().expect("a copy").bytes(), arp);
    }
}
