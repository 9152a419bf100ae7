//! Packet buffers of a simulated port, and the pool they come from.
//!
//! In: a number and a size. Out: owned buffers that return by themselves, whichever thread drops them. A queue takes many
//! at once, as a core does from a mempool of DPDK's.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;

use crate::{BURST, Buffer, PIECES_MAX, RxMeta, TSO_BYTES_MAX, TxOffload};

/// Bytes around an IP packet: Ethernet and two VLAN tags.
pub(super) const FRAME_OVERHEAD_BYTES: usize = 14 + 4 + 4;
/// Least size of a buffer, as in the DPDK driver.
const BUFFER_BYTES_MIN: usize = 2048;
/// Bytes of headers before a large packet's payload, at most: Ethernet, VLAN tag, IPv6, TCP with options.
const HEADER_BYTES_MAX: usize = 14 + 4 + 40 + 60;
/// Of this many packets one more is a large one, where the port segments.
const PACKETS_PER_LARGE: usize = 16;
/// Of this many packets a queue has at most one at hand.
const PACKETS_PER_CACHED: usize = 32;
/// Large packets of a pool, at least: two bursts.
const LARGE_MIN: usize = 64;

/// A buffer, and what is known of the packet in it.
#[derive(Debug)]
struct Body {
    buffer: Box<[u8]>,
    len: usize,
    large: bool,
    /// What follows the bytes in the buffer.
    pieces: ArrayVec<Piece, PIECES_MAX>,
    rx: RxMeta,
    tx: TxOffload,
}

/// Part of a [`Buffer`] that a packet is sent from.
#[derive(Debug)]
struct Piece {
    memory: Arc<[u8]>,
    range: Range<usize>,
}

/// Boxes, since what moves from list to queue is a word.
type Bodies = Vec<Box<Body>>;

/// Buffers that are not in use. The last to come back is the first to go, so that only as many circulate, and stay in the
/// cache, as are in use at once.
#[derive(Debug)]
struct FreeList {
    count: usize,
    free: Mutex<Bodies>,
}

impl FreeList {
    fn new(count: usize, bytes: usize, large: bool) -> FreeList {
        let body = || Body {
            buffer: vec![0; bytes].into_boxed_slice(),
            len: 0,
            large,
            pieces: ArrayVec::new(),
            rx: RxMeta::default(),
            tx: TxOffload::default(),
        };
        FreeList {
            count,
            free: Mutex::new(std::iter::repeat_with(|| Box::new(body())).take(count).collect()),
        }
    }

    /// Nothing is done under the lock that could panic.
    fn free(&self) -> MutexGuard<'_, Bodies> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn missing(&self) -> usize {
        self.count - self.free().len()
    }
}

/// Buffers of a queue that are at hand.
#[derive(Debug, Default)]
pub(super) struct Cache(ArrayVec<Box<Body>, BURST>);

impl Cache {
    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// The buffers of one queue.
#[derive(Debug)]
pub(super) struct Pool {
    normal: FreeList,
    large: Option<FreeList>,
}

impl Pool {
    /// A pool of `packets` buffers for frames of `mtu`, and large ones if the port segments.
    pub fn new(packets: usize, mtu: u16, tso: bool) -> Pool {
        let bytes = BUFFER_BYTES_MIN.max(usize::from(mtu) + FRAME_OVERHEAD_BYTES);
        let large = (packets / PACKETS_PER_LARGE).max(LARGE_MIN);
        let large_bytes = HEADER_BYTES_MAX + TSO_BYTES_MAX as usize;
        Pool {
            normal: FreeList::new(packets, bytes, false),
            large: tso.then(|| FreeList::new(large, large_bytes, true)),
        }
    }

    /// An empty packet.
    pub fn alloc(self: &Arc<Pool>) -> Option<Packet> {
        let body = self.normal.free().pop()?;
        Some(Packet::new(body, Arc::clone(self)))
    }

    /// An empty packet of those a queue has at hand, which are filled up first if there are none.
    pub fn alloc_from(self: &Arc<Pool>, cache: &mut Cache) -> Option<Packet> {
        if cache.0.is_empty() {
            let mut free = self.normal.free();
            let from =
                free.len() - free.len().min(cache.0.capacity()).min(self.normal.count / PACKETS_PER_CACHED);
            // Of a small pool, or of the last ones, one.
            let from = from.min(free.len().saturating_sub(1));
            cache.0.extend(free.drain(from..));
        }
        Some(Packet::new(cache.0.pop()?, Arc::clone(self)))
    }

    /// An empty large packet.
    pub fn alloc_large(self: &Arc<Pool>) -> Option<Packet> {
        let body = self.large.as_ref()?.free().pop()?;
        Some(Packet::new(body, Arc::clone(self)))
    }

    /// Buffers that are missing.
    pub fn in_use(&self) -> usize {
        self.normal.missing() + self.large.as_ref().map_or(0, FreeList::missing)
    }
}

/// A packet buffer of a simulated port: two words, since it moves from queue to queue.
#[derive(Debug)]
pub struct Packet {
    /// `None` only while it is dropped.
    body: Option<Box<Body>>,
    home: Arc<Pool>,
}

impl Packet {
    fn new(mut body: Box<Body>, home: Arc<Pool>) -> Packet {
        // Several are taken at once, so that what each waits for here comes together.
        crate::prefetch(body.buffer.as_ptr());
        (body.len, body.rx, body.tx) = (0, RxMeta::default(), TxOffload::default());
        Packet { body: Some(body), home }
    }

    fn body(&self) -> &Body {
        self.body.as_ref().expect("a packet that is not dropped")
    }

    fn body_mut(&mut self) -> &mut Body {
        self.body.as_mut().expect("a packet that is not dropped")
    }

    /// What it asks of the port.
    pub(super) fn tx(&self) -> TxOffload {
        self.body().tx
    }

    /// The port's word on it.
    pub(super) fn set_rx(&mut self, rx: RxMeta) {
        self.body_mut().rx = rx;
    }

    /// Goes on in these, if it does in none yet and they are of the heap and not too many.
    pub(super) fn attach(&mut self, pieces: &[(&Buffer, Range<usize>)]) -> bool {
        let own = &mut self.body_mut().pieces;
        let fit = own.is_empty() && pieces.len() <= own.capacity();
        if !fit || pieces.iter().any(|(buffer, _)| buffer.as_heap().is_none()) {
            return false;
        }
        for (buffer, range) in pieces {
            assert!(
                range.start <= range.end && range.end <= buffer.bytes().len(),
                "a piece is inside its buffer"
            );
            let Some(memory) = buffer.as_heap() else { continue };
            own.push(Piece { memory: Arc::clone(memory), range: range.clone() });
        }
        true
    }

    /// Whether it goes on in pieces.
    pub(super) fn has_pieces(&self) -> bool {
        !self.body().pieces.is_empty()
    }

    /// Reads all of it, as a port does that sends it.
    pub(super) fn gather(&self, whole: &mut Vec<u8>) {
        let body = self.body();
        whole.clear();
        whole.extend_from_slice(&body.buffer[..body.len]);
        for Piece { memory, range } in &body.pieces {
            whole.extend_from_slice(&memory[range.clone()]);
        }
    }
}

impl crate::Packet for Packet {
    fn bytes(&self) -> &[u8] {
        let body = self.body();
        &body.buffer[..body.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let body = self.body_mut();
        &mut body.buffer[..body.len]
    }

    fn capacity(&self) -> usize {
        self.body().buffer.len()
    }

    fn set_len(&mut self, len: usize) {
        let body = self.body_mut();
        assert!(len <= body.buffer.len(), "a frame of {len} bytes does not fit {}", body.buffer.len());
        body.len = len;
    }

    fn copy_to(&self, out: &mut [u8]) -> usize {
        let body = self.body();
        let pieces = body.pieces.iter().map(|piece| &piece.memory[piece.range.clone()]);
        let mut whole = 0;
        for part in std::iter::once(&body.buffer[..body.len]).chain(pieces) {
            let free = out.get_mut(whole..).unwrap_or_default();
            let len = part.len().min(free.len());
            free[..len].copy_from_slice(&part[..len]);
            whole += part.len();
        }
        whole
    }

    fn rx(&self) -> RxMeta {
        self.body().rx
    }

    fn is_bad(&self) -> bool {
        self.body().rx.checksum == crate::Checksum::Bad
    }

    fn set_tx(&mut self, tx: TxOffload) {
        self.body_mut().tx = tx;
    }
}

impl Drop for Packet {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        body.pieces.clear();
        let list = if body.large { self.home.large.as_ref() } else { Some(&self.home.normal) };
        if let Some(list) = list {
            list.free().push(body);
        }
    }
}
