//! An mbuf with exactly one owner, and what it may go on in: parts of stores.
//!
//! In: mbufs from a pool or a receive ring. Out: the same to a transmit ring, or back to their pool on drop. Fields
//! are read where the C compiler put them (`KF_MBUF_*`). Whoever holds it owns it; any thread may drop it.

use std::ptr::NonNull;
use std::slice;

use dpdk_sys as sys;

use super::store::Store;
use crate::{Checksum, Packet, RxMeta, TxOffload, checksum};

/// A packet buffer of DPDK's.
#[repr(transparent)]
#[derive(Debug)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

// SAFETY: an mbuf belongs to whoever holds it, its pool may be given it back from any thread, and pools are never
// freed (see pool.rs).
unsafe impl Send for Mbuf {}

/// All offload requests this driver makes.
const TX_FLAGS: u64 =
    sys::KF_TX_IP_CKSUM | sys::KF_TX_TCP_CKSUM | sys::KF_TX_TCP_SEG | sys::KF_TX_IPV4 | sys::KF_TX_IPV6;

impl Mbuf {
    /// Takes ownership.
    ///
    /// # Safety
    /// `mbuf` is a live mbuf that nobody else owns.
    pub(super) unsafe fn from_raw(mbuf: NonNull<sys::rte_mbuf>) -> Mbuf {
        Mbuf(mbuf)
    }

    /// Reads a field.
    ///
    /// # Safety
    /// `offset` is that of a field of type `T`.
    #[inline]
    unsafe fn field<T: Copy>(&self, offset: u32) -> T {
        // SAFETY: the field is inside the mbuf, which we own.
        unsafe { self.0.as_ptr().wrapping_byte_add(offset as usize).cast::<T>().read() }
    }

    /// Writes a field.
    ///
    /// # Safety
    /// As for [`field`](Mbuf::field), and the value is one DPDK allows there.
    #[inline]
    unsafe fn set_field<T: Copy>(&mut self, offset: u32, value: T) {
        // SAFETY: the field is inside the mbuf, which we own.
        unsafe { self.0.as_ptr().wrapping_byte_add(offset as usize).cast::<T>().write(value) }
    }

    #[inline]
    fn flags(&self) -> u64 {
        // SAFETY: ol_flags is a uint64_t.
        unsafe { self.field(sys::KF_MBUF_OL_FLAGS) }
    }

    #[inline]
    fn len(&self) -> usize {
        // SAFETY: data_len is a uint16_t.
        usize::from(unsafe { self.field::<u16>(sys::KF_MBUF_DATA_LEN) })
    }

    #[inline]
    fn headroom(&self) -> u16 {
        // SAFETY: data_off is a uint16_t.
        unsafe { self.field(sys::KF_MBUF_DATA_OFF) }
    }

    #[inline]
    fn start(&self) -> *mut u8 {
        // SAFETY: buf_addr is a pointer.
        let buffer: *mut u8 = unsafe { self.field(sys::KF_MBUF_BUF_ADDR) };
        // SAFETY: the headroom lies inside the buffer.
        unsafe { buffer.add(usize::from(self.headroom())) }
    }

    /// Whether the frame goes on in further segments, of which [`bytes`](Packet::bytes) knows nothing.
    #[inline]
    pub(super) fn is_chained(&self) -> bool {
        // SAFETY: nb_segs is a uint16_t.
        (unsafe { self.field::<u16>(sys::KF_MBUF_NB_SEGS) }) > 1
    }

    /// Goes on in `len` bytes of a store from `at` on, through an indirect mbuf made of `empty`.
    ///
    /// # Safety
    /// `empty` is a live mbuf that nobody else owns, as it came from its pool, and the bytes are inside the store.
    pub(super) unsafe fn append(&mut self, empty: NonNull<sys::rte_mbuf>, store: &Store, at: u16, len: u16) {
        // SAFETY: by the above; the store lives at least as long as the reference to it that is taken here.
        unsafe { sys::kf_pktmbuf_append(self.0.as_ptr(), empty.as_ptr(), store.as_ptr(), at, len) };
    }

    /// Whether the port is asked to do anything.
    #[inline]
    pub(super) fn wants_offload(&self) -> bool {
        self.flags() & TX_FLAGS != 0
    }

    /// Fills in the IPv4 header checksum here, for a port that only does TCP's, if it was left to the port.
    pub(super) fn fill_ipv4_checksum(&mut self) {
        let flags = self.flags();
        if flags & sys::KF_TX_IP_CKSUM == 0 {
            return;
        }
        // SAFETY: tx_offload is a uint64_t.
        let lengths: u64 = unsafe { self.field(sys::KF_MBUF_TX_OFFLOAD) };
        let l2 = (lengths >> sys::KF_TX_L2_LEN_SHIFT & 0x7f) as usize;
        let l3 = (lengths >> sys::KF_TX_L3_LEN_SHIFT & 0x1ff) as usize;
        if let Some(header) = self.bytes_mut().get_mut(l2..l2 + l3) {
            checksum::fill_ipv4(header);
        }
        // SAFETY: as above; one flag less.
        unsafe { self.set_field(sys::KF_MBUF_OL_FLAGS, flags & !sys::KF_TX_IP_CKSUM) };
    }
}

impl Packet for Mbuf {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: the data of a segment lies in its buffer, which is memory of the pool, zeroed when it was mapped.
        unsafe { slice::from_raw_parts(self.start(), self.len()) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and we own the mbuf.
        unsafe { slice::from_raw_parts_mut(self.start(), self.len()) }
    }

    fn capacity(&self) -> usize {
        // SAFETY: buf_len is a uint16_t.
        let buffer: u16 = unsafe { self.field(sys::KF_MBUF_BUF_LEN) };
        usize::from(buffer - self.headroom())
    }

    fn set_len(&mut self, len: usize) {
        assert!(len <= self.capacity(), "a frame of {len} bytes does not fit {}", self.capacity());
        assert!(!self.is_chained(), "a length is set before pieces are attached");
        // SAFETY: data_len is a uint16_t, and so is the capacity.
        unsafe { self.set_field(sys::KF_MBUF_DATA_LEN, len as u16) };
        // SAFETY: pkt_len is a uint32_t; there is one segment.
        unsafe { self.set_field(sys::KF_MBUF_PKT_LEN, len as u32) };
    }

    fn copy_to(&self, out: &mut [u8]) -> usize {
        // SAFETY: pkt_len is a uint32_t.
        let whole: u32 = unsafe { self.field(sys::KF_MBUF_PKT_LEN) };
        let len = out.len().min(whole as usize);
        // SAFETY: the packet has `len` bytes at least and `out` takes as many; the stores it goes on in live as long as it does, and
        // nobody writes them meanwhile.
        unsafe { sys::kf_pktmbuf_copy_out(self.0.as_ptr(), len as u32, out.as_mut_ptr().cast()) };
        whole as usize
    }

    #[inline]
    fn rx(&self) -> RxMeta {
        let flags = self.flags();
        let hash = (flags & sys::KF_RX_RSS_HASH != 0).then(|| {
            // SAFETY: hash.rss is a uint32_t, and set when the flag is.
            unsafe { self.field(sys::KF_MBUF_HASH_RSS) }
        });
        RxMeta { checksum: received(flags, self.bytes()), hash }
    }

    #[inline]
    fn is_bad(&self) -> bool {
        is_bad(self.flags())
    }

    fn set_tx(&mut self, tx: TxOffload) {
        let version = if tx.ipv6 { sys::KF_TX_IPV6 } else { sys::KF_TX_IPV4 | sys::KF_TX_IP_CKSUM };
        let segment = if tx.tso_segment_bytes > 0 { sys::KF_TX_TCP_SEG } else { 0 };
        // Segmentation implies checksums (rte_mbuf_core.h, RTE_MBUF_F_TX_TCP_SEG).
        let asked = tx.checksum || tx.tso_segment_bytes > 0;
        let flags = if asked { version | sys::KF_TX_TCP_CKSUM | segment } else { 0 };
        let lengths = u64::from(tx.l2_len) << sys::KF_TX_L2_LEN_SHIFT
            | u64::from(tx.l3_len) << sys::KF_TX_L3_LEN_SHIFT
            | u64::from(tx.l4_len) << sys::KF_TX_L4_LEN_SHIFT
            | u64::from(tx.tso_segment_bytes) << sys::KF_TX_TSO_SEGSZ_SHIFT;
        // What a port said about this packet when it was received does not go out again.
        // SAFETY: ol_flags is a uint64_t, without the flags of external or indirect buffers, which the first segment is not.
        unsafe { self.set_field(sys::KF_MBUF_OL_FLAGS, flags) };
        // SAFETY: tx_offload is a uint64_t; each length is within the bits of its field.
        unsafe { self.set_field(sys::KF_MBUF_TX_OFFLOAD, lengths) };
    }
}

/// Whether the port's flags say that a sum is wrong.
#[inline]
fn is_bad(flags: u64) -> bool {
    let (ip, l4) = (flags & sys::KF_RX_IP_CKSUM_MASK, flags & sys::KF_RX_L4_CKSUM_MASK);
    ip == sys::KF_RX_IP_CKSUM_BAD || l4 == sys::KF_RX_L4_CKSUM_BAD
}

/// What the port's flags say. Ports that check TCP but not IPv4 headers (virtio) leave the header to us: it is
/// twenty bytes, and in the cache.
#[inline]
fn received(flags: u64, frame: &[u8]) -> Checksum {
    let ip = flags & sys::KF_RX_IP_CKSUM_MASK;
    let l4 = flags & sys::KF_RX_L4_CKSUM_MASK;
    if is_bad(flags) {
        return Checksum::Bad;
    }
    // NONE: the sum in the packet is not filled in, but the data never left this machine.
    if l4 != sys::KF_RX_L4_CKSUM_GOOD && l4 != sys::KF_RX_L4_CKSUM_NONE {
        return Checksum::Unknown;
    }
    if ip == sys::KF_RX_IP_CKSUM_GOOD {
        return Checksum::Good;
    }
    checksum::ip_header(frame)
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: we own it, and it is not used after.
        unsafe { sys::kf_pktmbuf_free(self.0.as_ptr()) };
    }
}
