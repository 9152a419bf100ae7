//! What a peer sent and the caller has not read: a ring of bytes in order, and behind its end what came out of order.
//!
//! In: payloads with their place. Out: bytes in order, the window to offer (RFC 9293 section 3.8.6.2.2), what to
//! acknowledge. The ring is taken from [`Buffers`] when bytes come and given back when all are read. Part of a
//! connection.

use arrayvec::ArrayVec;
use keyferry_time::Time;

use crate::buffers::Buffers;
use crate::packet::SACK_BLOCKS_MAX;
use crate::reassembly::Reassembly;
use crate::sequence::Seq;

/// What became of a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Taken {
    /// Bytes the stream has grown by.
    pub(crate) joined: u32,
    /// It left a hole, filled one, or was not taken: the peer is to hear of it at once (RFC 5681 section 4.2).
    pub(crate) urgent: bool,
    /// There was no memory for it.
    pub(crate) refused: bool,
}

pub(crate) struct Receive {
    /// The next number expected (RCV.NXT).
    pub(crate) next: Seq,
    /// The first number beyond the window offered; it never moves back.
    edge: Seq,
    /// Bits the window is shifted by.
    shift: u8,
    /// The size the window has grown to.
    class: u8,
    /// The size of the ring there is.
    ring_class: u8,
    ring: Option<Box<[u8]>>,
    /// Place of the first unread byte in the ring.
    start: u32,
    unread: u32,
    reassembly: Option<Box<Reassembly>>,
    /// A segment that came twice (RFC 2883), to be told once.
    duplicate: Option<(Seq, Seq)>,
    /// Bytes read since `round`, which began then: shows how fast the caller reads.
    round: Time,
    round_bytes: u32,
}

impl Receive {
    /// Of a peer whose stream begins at `next`, and that was offered `window` bytes with its SYN.
    pub(crate) fn new(next: Seq, window: u32, shift: u8) -> Receive {
        Receive {
            next,
            edge: next + window,
            shift,
            class: 0,
            ring_class: 0,
            ring: None,
            start: 0,
            unread: 0,
            reassembly: None,
            duplicate: None,
            round: Time::ZERO,
            round_bytes: 0,
        }
    }

    /// Bytes in order and not read.
    pub(crate) fn unread(&self) -> u32 {
        self.unread
    }

    /// Bytes the peer may send.
    pub(crate) fn window(&self) -> u32 {
        self.edge.since(self.next)
    }

    /// Whether bytes lie behind a hole.
    pub(crate) fn has_hole(&self) -> bool {
        self.reassembly.is_some()
    }

    /// Whether all that is held could be sent again: nothing in order is lost by letting go of it.
    pub(crate) fn is_all_out_of_order(&self) -> bool {
        self.unread == 0 && self.has_hole()
    }

    /// Takes a payload that begins at `seq`.
    pub(crate) fn take(&mut self, seq: Seq, bytes: &[u8], buffers: &mut Buffers) -> Taken {
        let end = (seq + bytes.len() as u32).min(self.edge);
        if end <= self.next {
            self.duplicate = (!bytes.is_empty()).then_some((seq, seq + bytes.len() as u32));
            return Taken { urgent: !bytes.is_empty(), ..Taken::default() };
        }
        let start = seq.max(self.next);
        if start >= end {
            return Taken::default();
        }
        if seq < self.next {
            self.duplicate = Some((seq, self.next));
        }
        let capacity = self.capacity(buffers);
        let room = capacity.saturating_sub(self.unread + start.since(self.next));
        let bytes = &bytes[start.since(seq) as usize..end.since(seq) as usize];
        let bytes = &bytes[..bytes.len().min(room as usize)];
        let end = start + bytes.len() as u32;
        if bytes.is_empty() {
            return Taken { urgent: true, refused: true, ..Taken::default() };
        }
        if start > self.next {
            return self.take_out_of_order(start, end, bytes, buffers);
        }
        self.write(0, bytes);
        let mut joined = end;
        let mut urgent = seq < self.next;
        if let Some(mut reassembly) = self.reassembly.take() {
            urgent = true;
            joined = reassembly.join(joined);
            if reassembly.is_empty() {
                buffers.give_reassembly(reassembly);
            } else {
                self.reassembly = Some(reassembly);
            }
        }
        let grown = joined.since(self.next);
        self.next = joined;
        self.unread += grown;
        Taken { joined: grown, urgent, refused: false }
    }

    /// A segment came that lies before the next number.
    pub(crate) fn note_duplicate(&mut self, start: Seq, end: Seq) {
        self.duplicate = Some((start, end));
    }

    fn take_out_of_order(&mut self, start: Seq, end: Seq, bytes: &[u8], buffers: &mut Buffers) -> Taken {
        let mut reassembly = self.reassembly.take().unwrap_or_else(|| buffers.take_reassembly());
        let told = Taken { urgent: true, ..Taken::default() };
        if reassembly.has(start, end) {
            self.duplicate = Some((start, end));
            self.reassembly = Some(reassembly);
            return told;
        }
        let taken = reassembly.insert(start, end);
        self.reassembly = Some(reassembly);
        if taken {
            self.write(start.since(self.next), bytes);
        }
        Taken { refused: !taken, ..told }
    }

    /// Bytes the ring can hold, having taken one or a larger one if there is memory.
    fn capacity(&mut self, buffers: &mut Buffers) -> u32 {
        if let Some(ring) = &self.ring
            && self.ring_class == self.class
        {
            return ring.len() as u32;
        }
        // A ring there is stays as it is if there is no larger one; who has none takes a smaller one.
        let least = if self.ring.is_some() { self.class } else { 0 };
        for class in (least..=self.class).rev() {
            let Some(mut ring) = buffers.take(class) else { continue };
            if let Some(old) = self.ring.take() {
                self.move_to(&old, &mut ring);
                buffers.give(self.ring_class, old);
            }
            self.ring = Some(ring);
            self.ring_class = class;
            self.start = 0;
            break;
        }
        self.ring.as_ref().map_or(0, |ring| ring.len() as u32)
    }

    /// Copies what is held into a larger ring: seldom, each time a window doubles.
    fn move_to(&self, old: &[u8], new: &mut [u8]) {
        let behind = self.reassembly.as_ref().and_then(|reassembly| reassembly.end());
        let held = (self.unread + behind.map_or(0, |end| end.since(self.next))) as usize;
        let first = held.min(old.len() - self.start as usize);
        new[..first].copy_from_slice(&old[self.start as usize..][..first]);
        new[first..held].copy_from_slice(&old[..held - first]);
    }

    /// Copies bytes to their place, `ahead` bytes behind the stream's end. The copy frees the packet's buffer for the
    /// port, and makes a record contiguous.
    fn write(&mut self, ahead: u32, bytes: &[u8]) {
        let Some(ring) = self.ring.as_mut() else { return };
        let at = (self.start + self.unread + ahead) as usize % ring.len();
        let first = bytes.len().min(ring.len() - at);
        ring[at..at + first].copy_from_slice(&bytes[..first]);
        ring[..bytes.len() - first].copy_from_slice(&bytes[first..]);
    }

    /// The first contiguous bytes not read.
    pub(crate) fn readable(&mut self) -> Option<&mut [u8]> {
        let ring = self.ring.as_mut()?;
        let start = self.start as usize;
        let end = (start + self.unread as usize).min(ring.len());
        (start < end).then(|| &mut ring[start..end])
    }

    /// The caller has read bytes. Where it reads fast, the window grows: twice what was read in a round trip (`rtt_ns`)
    /// is what a sender needs to go on while our answer is under way.
    pub(crate) fn consume(&mut self, now: Time, bytes: u32, rtt_ns: u64, buffers: &mut Buffers) {
        let Some(ring) = &self.ring else { return };
        self.start = (self.start + bytes) % ring.len() as u32;
        self.unread -= bytes;
        if self.unread == 0 && self.reassembly.is_none() {
            self.release(buffers);
        }
        self.round_bytes = self.round_bytes.saturating_add(bytes);
        if now.ns_since(self.round) >= rtt_ns {
            // A round that was a pause says nothing about the pace.
            let steady = now.ns_since(self.round) < 2 * rtt_ns.max(1);
            let window = buffers.window(self.class);
            if steady && self.round_bytes > window / 2 && buffers.may_grow(self.class) {
                self.class += 1;
            }
            (self.round, self.round_bytes) = (now, 0);
        }
    }

    /// Gives the ring back.
    fn release(&mut self, buffers: &mut Buffers) {
        if let Some(ring) = self.ring.take() {
            buffers.give(self.ring_class, ring);
        }
        self.start = 0;
    }

    /// Lets go of what is out of order: the peer sends it again (RFC 2018 section 8 allows it).
    pub(crate) fn renege(&mut self, buffers: &mut Buffers) {
        if let Some(reassembly) = self.reassembly.take() {
            buffers.give_reassembly(reassembly);
        }
        if self.unread == 0 {
            self.release(buffers);
        }
    }

    /// Lets go of everything: the connection has ended, or nobody wants to read.
    pub(crate) fn discard(&mut self, buffers: &mut Buffers) {
        self.start = 0;
        self.unread = 0;
        self.renege(buffers);
    }

    /// Moves past the peer's FIN.
    pub(crate) fn end(&mut self) {
        self.next += 1;
        self.edge = self.edge.max(self.next);
    }

    /// Whether the window can be opened by enough to tell: a segment, or half of it all (RFC 9293 section 3.8.6.2.2).
    pub(crate) fn opens(&self, mss: u32, buffers: &Buffers) -> bool {
        let window = buffers.window(self.class);
        self.free_edge(window).since(self.edge) as i32 >= mss.min(window / 2) as i32
    }

    /// Whether the peer may send less than half of what there is room for, so that it may be waiting for more; else the next
    /// acknowledgement tells in time.
    pub(crate) fn is_narrow(&self, buffers: &Buffers) -> bool {
        self.window() < buffers.window(self.class) / 2
    }

    fn free_edge(&self, window: u32) -> Seq {
        self.next + window.saturating_sub(self.unread)
    }

    /// The window to offer now, as the header has it.
    pub(crate) fn offer(&mut self, mss: u32, buffers: &Buffers) -> u16 {
        if self.opens(mss, buffers) {
            self.edge = self.free_edge(buffers.window(self.class));
        }
        // Rounded up, so that scaling takes nothing back that was offered; the ring has room for it.
        let unit = 1u32 << self.shift;
        let offered = self.window().div_ceil(unit).min(u32::from(u16::MAX));
        self.edge = self.edge.max(self.next + (offered << self.shift));
        offered as u16
    }

    /// SACK blocks to tell, a duplicate first (RFC 2883 section 4).
    pub(crate) fn blocks(&mut self) -> ArrayVec<(Seq, Seq), SACK_BLOCKS_MAX> {
        let mut blocks = ArrayVec::new();
        blocks.extend(self.duplicate.take());
        if let Some(reassembly) = &self.reassembly {
            reassembly.blocks(&mut blocks);
        }
        blocks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Seq = Seq(u32::MAX - 3_000);

    fn byte(at: u32) -> u8 {
        (at ^ (at >> 8)) as u8
    }

    proptest! {
        /// Segments come again, out of order and overlapping; the caller reads now and then.
        #[test]
        fn every_byte_is_read_once_and_in_order(
            steps in prop::collection::vec((0u32..6_000, 1u32..1_500, 0u32..3_000, 0u64..30), 1..120),
            base in 500usize..4_000,
        ) {
            let mut buffers = Buffers::new(base, base * 8, 128, usize::MAX);
            let mut receive = Receive::new(FIRST, base as u32, 7);
            let (mut read, mut now) = (0u32, Time::ZERO);
            for (at, len, most, wait_ms) in steps {
                now += std::time::Duration::from_millis(wait_ms);
                let at = read + at % (base as u32 * 2);
                let bytes: Vec<u8> = (at..at + len).map(byte).collect();
                let window = receive.window();
                receive.take(FIRST + at, &bytes, &mut buffers);
                prop_assert!(receive.window() <= window);
                while let Some(bytes) = receive.readable() {
                    let bytes = &bytes[..bytes.len().min(most as usize)];
                    for (place, found) in bytes.iter().enumerate() {
                        prop_assert_eq!(*found, byte(read + place as u32));
                    }
                    let len = bytes.len() as u32;
                    read += len;
                    receive.consume(now, len, 10_000_000, &mut buffers);
                    if len == 0 || most < 100 {
                        break;
                    }
                }
                receive.offer(1_460, &buffers);
                prop_assert_eq!(receive.next.since(FIRST), read + receive.unread());
            }
            receive.discard(&mut buffers);
            prop_assert_eq!(buffers.used(), 0);
        }
    }

    #[test]
    fn a_small_opening_is_not_told() {
        let mut buffers = Buffers::new(4_000, 4_000, 1, usize::MAX);
        let mut receive = Receive::new(Seq(0), 4_000, 0);
        assert_eq!(receive.take(Seq(0), &[1; 4_000], &mut buffers).joined, 4_000);
        assert_eq!(receive.offer(1_460, &buffers), 0);
        receive.consume(Time::ZERO, 1_000, 1, &mut buffers);
        assert_eq!(receive.offer(1_460, &buffers), 0);
        receive.consume(Time::ZERO, 460, 1, &mut buffers);
        assert_eq!(receive.offer(1_460, &buffers), 1_460);
    }

    #[test]
    fn a_duplicate_is_told_first_and_once() {
        let mut buffers = Buffers::new(4_000, 4_000, 1, usize::MAX);
        let mut receive = Receive::new(Seq(0), 4_000, 0);
        receive.take(Seq(0), &[1; 100], &mut buffers);
        receive.take(Seq(200), &[1; 100], &mut buffers);
        receive.take(Seq(0), &[1; 100], &mut buffers);
        assert_eq!(receive.blocks().as_slice(), [(Seq(0), Seq(100)), (Seq(200), Seq(300))]);
        assert_eq!(receive.blocks().as_slice(), [(Seq(200), Seq(300))]);
        assert_eq!(receive.take(Seq(100), &[1; 100], &mut buffers).joined, 200);
        assert!(receive.blocks().is_empty() && !receive.has_hole());
    }
}
