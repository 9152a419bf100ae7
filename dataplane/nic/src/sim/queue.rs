//! One queue of a simulated port: the `Nic` a worker polls.
//!
//! In: packets from its worker, delivered frames from the net. Out: the same over two bounded rings. Owned by one
//! worker.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;

use super::net::PortId;
use super::packet::{Cache, Packet, Pool};
use crate::{BURST, Buffer, Caps, Nic, Stats};

/// What a queue and the net share.
#[derive(Debug)]
pub(super) struct Rings {
    pub rx: ArrayQueue<Packet>,
    tx: Mutex<VecDeque<Sent>>,
    descriptors: usize,
    pub pool: Arc<Pool>,
    pub rx_missed: AtomicU64,
    pub rx_no_buffer: AtomicU64,
    pub tx_errors: AtomicU64,
}

/// A packet to send, and when it was given to the port.
pub(super) type Sent = (u64, Packet);

impl Rings {
    /// Empty ones of so many descriptors.
    pub fn new(descriptors: usize, pool: Arc<Pool>) -> Rings {
        Rings {
            rx: ArrayQueue::new(descriptors),
            tx: Mutex::new(VecDeque::with_capacity(descriptors)),
            descriptors,
            pool,
            rx_missed: AtomicU64::new(0),
            rx_no_buffer: AtomicU64::new(0),
            tx_errors: AtomicU64::new(0),
        }
    }

    /// What is to be sent; locked once a burst, and nothing that could panic is done meanwhile.
    pub fn tx(&self) -> MutexGuard<'_, VecDeque<Sent>> {
        self.tx.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one.
pub(super) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// A worker's queue of a simulated port.
#[derive(Debug)]
pub struct Queue {
    pub(super) rings: Arc<Rings>,
    pub(super) cache: Cache,
    pub(super) clock: Arc<AtomicU64>,
    pub(super) caps: Caps,
    pub(super) port: PortId,
    pub(super) rx_packets: u64,
    pub(super) tx_packets: u64,
}

impl Queue {
    /// The port this queue is of.
    pub fn port(&self) -> PortId {
        self.port
    }
}

impl Nic for Queue {
    type Packet = Packet;

    fn caps(&self) -> Caps {
        self.caps
    }

    fn rx_burst(&mut self, packets: &mut ArrayVec<Packet, BURST>) -> usize {
        let before = packets.len();
        while !packets.is_full() {
            let Some(packet) = self.rings.rx.pop() else { break };
            packets.push(packet);
        }
        let count = packets.len() - before;
        self.rx_packets += count as u64;
        count
    }

    fn rx_waiting(&self) -> Option<usize> {
        Some(self.rings.rx.len())
    }

    /// # Panics
    /// If a packet asks for what [`Caps`] does not report, or goes out empty: mistakes of ours.
    fn tx_burst(&mut self, packets: &mut ArrayVec<Packet, BURST>) -> usize {
        let asked = packets.iter().map(Packet::tx);
        for tx in asked {
            assert!(self.caps.tx_checksum || !tx.checksum, "the port fills in no checksums");
            assert!(tx.tso_segment_bytes == 0 || self.caps.tso_bytes_max > 0, "the port does not segment");
        }
        let now_ns = self.clock.load(Ordering::Relaxed);
        let mut ring = self.rings.tx();
        let taken = packets.len().min(self.rings.descriptors - ring.len());
        ring.extend(packets.drain(..taken).map(|packet| (now_ns, packet)));
        drop(ring);
        self.tx_packets += taken as u64;
        taken
    }

    fn alloc(&mut self) -> Option<Packet> {
        self.rings.pool.alloc_from(&mut self.cache)
    }

    fn alloc_large(&mut self) -> Option<Packet> {
        self.rings.pool.alloc_large()
    }

    fn attach(&mut self, packet: &mut Packet, pieces: &[(&Buffer, Range<usize>)]) -> bool {
        pieces.len() <= usize::from(self.caps.pieces_max) && packet.attach(pieces)
    }

    fn in_use(&self) -> usize {
        self.rings.pool.in_use() - self.cache.len()
    }

    fn stats(&self) -> Stats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            rx_packets: self.rx_packets,
            tx_packets: self.tx_packets,
            rx_missed: read(&self.rings.rx_missed),
            rx_no_buffer: read(&self.rings.rx_no_buffer),
            tx_errors: read(&self.rings.tx_errors),
        }
    }
}
