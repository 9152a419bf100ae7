//! One receive and one transmit queue of a DPDK port: the `Nic` a worker polls.
//!
//! In: a started port. Out: bursts of mbufs both ways. Owned by one worker; any registered thread may be it.

use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;
use dpdk_sys as sys;

use super::packet::Mbuf;
use super::pool::{Pool, Shape};
use super::port::Shared;
use crate::{BURST, Buffer, Caps, Nic, PIECES_MAX, Stats};

/// A worker's queue.
#[derive(Debug)]
pub struct Queue {
    caps: Caps,
    /// The port wants IPv4 header checksums from us although it does TCP's.
    fill_ipv4: bool,
    pool: Pool,
    large: Option<Pool>,
    /// Mbufs without memory of their own, for pieces; `None`: the port takes none.
    pieces: Option<Pool>,
    /// Where stores came from.
    stores: Vec<Pool>,
    counted: Counted,
    /// Last: the port may close once its last queue is gone.
    port: Arc<Shared>,
}

/// The pools of a queue.
#[derive(Debug)]
pub(super) struct Pools {
    /// Of packets for frames, and for what the port cuts.
    pub pool: Pool,
    pub large: Option<Pool>,
    /// Of mbufs that refer to other memory.
    pub pieces: Option<Pool>,
}

/// What this queue counts itself; drivers do not all count by queue.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    rx_packets: u64,
    tx_packets: u64,
    /// Received in several segments, which no buffer of ours should lead to.
    rx_chained: u64,
    /// Packets the driver found it cannot send.
    tx_refused: u64,
}

impl Queue {
    pub(super) fn new(caps: Caps, fill_ipv4: bool, pools: Pools, port: Arc<Shared>) -> Queue {
        let Pools { pool, large, pieces } = pools;
        Queue { caps, fill_ipv4, pool, large, pieces, stores: Vec::new(), counted: Counted::default(), port }
    }

    /// Prepares packets that want offloads; returns how many can be handed over. Some drivers need header fields
    /// set their way, and some packets cannot be sent at all: those are dropped and counted.
    fn prepare(&mut self, packets: &mut ArrayVec<Mbuf, BURST>) -> usize {
        if !packets.iter().any(Mbuf::wants_offload) {
            return packets.len();
        }
        if self.fill_ipv4 {
            packets.iter_mut().for_each(Mbuf::fill_ipv4_checksum);
        }
        let count = packets.len() as u16;
        // SAFETY: the port has started and this queue exists; `Mbuf` is a pointer to an mbuf and `count` of them
        // are there; the driver only edits them.
        let ready = unsafe {
            sys::kf_eth_tx_prepare(self.port.number(), self.caps.queue, packets.as_mut_ptr().cast(), count)
        };
        if ready < count {
            drop(packets.remove(usize::from(ready)));
            self.counted.tx_refused += 1;
        }
        usize::from(ready)
    }
}

impl Nic for Queue {
    type Packet = Mbuf;

    fn caps(&self) -> Caps {
        self.caps
    }

    #[inline]
    fn rx_burst(&mut self, packets: &mut ArrayVec<Mbuf, BURST>) -> usize {
        let (before, room) = (packets.len(), packets.remaining_capacity() as u16);
        let free = packets.spare_capacity_mut().as_mut_ptr();
        // SAFETY: the port has started, this queue exists and no other thread polls it; there is room for the answer: an
        // `Mbuf` is a pointer to an mbuf.
        let count = unsafe { sys::kf_eth_rx_burst(self.port.number(), self.caps.queue, free.cast(), room) };
        // SAFETY: the driver wrote so many mbufs there, and gave them away.
        unsafe { packets.set_len(before + usize::from(count)) };
        if packets[before..].iter().any(Mbuf::is_chained) {
            let all = packets.len();
            packets.retain(|packet| !packet.is_chained());
            self.counted.rx_chained += (all - packets.len()) as u64;
        }
        let count = packets.len() - before;
        self.counted.rx_packets += count as u64;
        count
    }

    fn rx_waiting(&self) -> Option<usize> {
        // SAFETY: the port has started, this queue exists and no other thread polls it.
        let count = unsafe { sys::kf_eth_rx_queue_count(self.port.number(), self.caps.queue) };
        // Drivers that do not count say that they cannot.
        usize::try_from(count).ok()
    }

    fn tx_burst(&mut self, packets: &mut ArrayVec<Mbuf, BURST>) -> usize {
        let before = packets.len();
        let ready = self.prepare(packets);
        // SAFETY: the port has started, this queue exists and no other thread polls it; `Mbuf` is a pointer to an
        // mbuf and at least `ready` of them are there.
        let sent = unsafe {
            sys::kf_eth_tx_burst(
                self.port.number(),
                self.caps.queue,
                packets.as_mut_ptr().cast(),
                ready as u16,
            )
        };
        // The driver owns them now.
        packets.drain(..usize::from(sent)).for_each(std::mem::forget);
        self.counted.tx_packets += u64::from(sent);
        before - packets.len()
    }

    fn alloc(&mut self) -> Option<Mbuf> {
        self.pool.alloc()
    }

    fn alloc_large(&mut self) -> Option<Mbuf> {
        self.large.as_ref()?.alloc()
    }

    fn buffers(&mut self, count: usize, bytes: usize) -> Vec<Buffer> {
        let heap = || Buffer::heap(bytes);
        let shape = |room| Shape { packets: count as u32, room, socket: self.pool.socket() };
        let room = u16::try_from(bytes).ok().filter(|_| self.pieces.is_some());
        let Some(pool) = room.and_then(|room| Pool::new(shape(room))) else {
            return std::iter::repeat_with(heap).take(count).collect();
        };
        let made = (0..count).map(|_| pool.store().map_or_else(heap, Buffer::of_port)).collect();
        self.stores.push(pool);
        made
    }

    fn attach(&mut self, packet: &mut Mbuf, pieces: &[(&Buffer, Range<usize>)]) -> bool {
        let Some(pool) = &self.pieces else { return false };
        if pieces.len() > usize::from(self.caps.pieces_max) || packet.is_chained() {
            return false;
        }
        let mut parts = ArrayVec::<_, PIECES_MAX>::new();
        for (buffer, range) in pieces {
            let Some(store) = buffer.as_store() else { return false };
            parts.push((store, range.clone()));
        }
        pool.attach(packet, &parts)
    }

    fn in_use(&self) -> usize {
        self.pool.in_use() + self.large.as_ref().map_or(0, Pool::in_use)
    }

    fn stats(&self) -> Stats {
        let mut stats = Stats {
            rx_packets: self.counted.rx_packets,
            tx_packets: self.counted.tx_packets,
            rx_missed: self.counted.rx_chained,
            tx_errors: self.counted.tx_refused,
            ..Stats::default()
        };
        // The port counts these for all queues together; one queue reports them, so that sums are right.
        if self.caps.queue == 0 {
            let port = self.port.stats();
            stats.rx_missed += port.rx_missed;
            stats.rx_no_buffer += port.rx_no_buffer;
            stats.tx_errors += port.tx_errors;
        }
        stats
    }
}
