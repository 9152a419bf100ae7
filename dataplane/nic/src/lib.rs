//! One receive queue and one transmit queue of a port, owned by one worker.
//!
//! Two drivers stand behind [`Nic`]: `dpdk` (any poll-mode driver, by PCI address or `--vdev` string) and
//! `sim` (in memory, virtual time). Neither holds policy: packets go in and out in bursts, checksums and
//! segmentation are done by the port where it reports them and by whoever builds the packet where not.

#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "prefetching is an intrinsic, and advice a system call")]
mod ahead;
mod buffer;
mod checksum;
#[cfg(feature = "dpdk")]
#[allow(unsafe_code, reason = "the safe wrapper around DPDK")]
pub mod dpdk;
pub mod handover;
mod headers;
pub mod rss;
pub mod sim;

pub use ahead::{prefer_hugepages, prefetch};
pub use buffer::{Buffer, PIECES_MAX};

use std::ops::Range;

/// Packets moved by one call; also the size of the caller's storage.
pub const BURST: usize = 32;

/// Largest TCP payload in one packet handed over for segmentation, in bytes: one TLS record with its header
/// (RFC 8446 section 5.2, RFC 5246 section 6.2.3 allows more, which we never send).
pub const TSO_BYTES_MAX: u32 = 5 + 16_384 + 256;

/// A packet buffer with exactly one owner; dropping it gives it back to its pool.
pub trait Packet: Send + 'static {
    /// The frame, from the Ethernet header on; of one with [attached](Nic::attach) pieces what is before them.
    fn bytes(&self) -> &[u8];
    /// The frame, writable.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Largest frame that fits this buffer, in bytes.
    fn capacity(&self) -> usize;
    /// Sets the frame's length. New bytes hold whatever the pool left there.
    ///
    /// # Panics
    /// If `len` exceeds [`capacity`](Packet::capacity): a mistake of ours, never of a peer.
    fn set_len(&mut self, len: usize);
    /// Copies the frame's first bytes with those of attached pieces, as many as `out` takes. Returns the length of the whole.
    fn copy_to(&self, out: &mut [u8]) -> usize;
    /// What the port said about a received packet.
    fn rx(&self) -> RxMeta;
    /// Whether the port said that a checksum of a received packet is wrong. Nothing is checked here: for whoever hands
    /// packets on to someone who does.
    fn is_bad(&self) -> bool;
    /// What the port is to do to this packet when it is sent. Only what [`Caps`] reports may be asked for.
    fn set_tx(&mut self, tx: TxOffload);
}

/// A port's word on a received packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxMeta {
    /// IP and L4 checksums, if the port checked them.
    pub checksum: Checksum,
    /// RSS hash with the key of [`rss::KEY`], if the port computed it.
    pub hash: Option<u32>,
}

/// Outcome of the port's checksum check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Not checked: software has to.
    #[default]
    Unknown,
    /// IP header and L4 checksum are right.
    Good,
    /// One of them is wrong.
    Bad,
}

/// Work left to the port for one packet to be sent. Headers must be Ethernet, an optional VLAN tag, IP and TCP,
/// the TCP checksum field holding the pseudo-header sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TxOffload {
    /// Fill in the IPv4 header checksum and the TCP checksum.
    pub checksum: bool,
    /// Cut the payload into segments of this many bytes (TSO); 0: do not.
    pub tso_segment_bytes: u16,
    /// Bytes before the IP header.
    pub l2_len: u8,
    /// Bytes of the IP header.
    pub l3_len: u16,
    /// Bytes of the TCP header.
    pub l4_len: u8,
    /// IPv6 instead of IPv4.
    pub ipv6: bool,
}

/// What a queue's port is and can do. Fixed once the port has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// The port's MAC address.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// This queue's number.
    pub queue: u16,
    /// Queues of the port.
    pub queues: u16,
    /// The port checks IP and TCP checksums of received packets.
    pub rx_checksum: bool,
    /// The port can fill in IPv4 and TCP checksums.
    pub tx_checksum: bool,
    /// Largest TCP payload in one packet handed over for segmentation, in bytes; 0: the port has no TSO.
    pub tso_bytes_max: u32,
    /// Pieces that may be [attached](Nic::attach) to one packet; 0: everything is copied into packets.
    pub pieces_max: u8,
    /// The port spreads flows over queues with [`rss::KEY`], so a packet's queue is its owner's. Without it
    /// the worker hashes in software and hands misplaced packets over.
    pub rss: bool,
}

/// One worker's pair of queues. No call blocks, locks or allocates from the heap.
pub trait Nic {
    /// The driver's packet buffer.
    type Packet: Packet;

    /// What the port can do.
    fn caps(&self) -> Caps;

    /// Appends up to `BURST - packets.len()` received packets, returns how many.
    fn rx_burst(&mut self, packets: &mut arrayvec::ArrayVec<Self::Packet, BURST>) -> usize;

    /// Packets that wait to be received, if the port says so.
    fn rx_waiting(&self) -> Option<usize> {
        None
    }

    /// Hands packets to the port, first to last, and removes those it took; the rest stay, in order, for the
    /// next turn. Returns how many were taken.
    fn tx_burst(&mut self, packets: &mut arrayvec::ArrayVec<Self::Packet, BURST>) -> usize;

    /// An empty packet from this queue's pool, or `None` when the pool is empty.
    fn alloc(&mut self) -> Option<Self::Packet>;

    /// An empty packet with room for [`tso_bytes_max`](Caps::tso_bytes_max) and headers, or `None` when there is
    /// none left or the port has no TSO.
    fn alloc_large(&mut self) -> Option<Self::Packet> {
        None
    }

    /// Makes buffers that packets of this queue may be sent from, at start. Where the port takes no pieces, or its memory has
    /// no room for so many, they are of the heap and it will not take them.
    fn buffers(&mut self, count: usize, bytes: usize) -> Vec<Buffer> {
        std::iter::repeat_with(|| Buffer::heap(bytes)).take(count).collect()
    }

    /// Has a packet go on in these ranges of buffers, which are not copied: each buffer [is shared](Buffer::is_shared) until
    /// the packet is gone, sent or dropped. Its [length](Packet::set_len) is set before. `false`: the packet is as it
    /// was, because it has pieces already, there are more than [`pieces_max`](Caps::pieces_max), the queue has none left,
    /// or a buffer is not one of the port's.
    ///
    /// # Panics
    /// If a range is outside its buffer: a mistake of ours.
    fn attach(&mut self, packet: &mut Self::Packet, pieces: &[(&Buffer, Range<usize>)]) -> bool {
        let _ = (packet, pieces);
        false
    }

    /// Packets missing from the pool right now: what is held by the port's rings and by us.
    fn in_use(&self) -> usize;

    /// Counters of the port, for the control thread's export; packets the port itself dropped above all.
    fn stats(&self) -> Stats;
}

/// A port's own counters since start. Where a driver counts for the whole port only, queue 0 reports them, so that
/// the sum over all queues is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets the port dropped because nobody polled or the ring was full.
    pub rx_missed: u64,
    /// Receives that found the pool empty.
    pub rx_no_buffer: u64,
    /// Sends the port refused for good.
    pub tx_errors: u64,
}
