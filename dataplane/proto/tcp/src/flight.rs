//! What is under way: each piece sent and not acknowledged, when it was sent, and what is known of it. The scoreboard
//! of RFC 6675 and the transmission times of RFC 8985 in one.
//!
//! In: pieces sent, acknowledgements, SACK blocks, verdicts. Out: pieces that were delivered, pieces to send again,
//! bytes in the pipe. Part of a connection; its memory is recycled by the worker.

use std::collections::VecDeque;

use keyferry_time::Time;

use crate::sequence::Seq;

/// The peer has it (RFC 2018), though not all before it.
const SACKED: u8 = 1;
/// It is taken for lost and not sent again yet.
const LOST: u8 = 2;
/// It was sent more than once.
const AGAIN: u8 = 4;
/// When it was sent, the caller had no more to send.
const APP_LIMITED: u8 = 8;
/// It is larger than the others, to find out whether the path takes it.
const PROBE: u8 = 16;

/// What a connection had delivered when a piece was sent (draft-cheng-iccrg-delivery-rate-estimation section 3).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot {
    /// Bytes delivered by then.
    pub(crate) delivered: u64,
    /// When the last of them were.
    pub(crate) delivered_at: Time,
    /// When the first piece of the flight was sent that was under way then.
    pub(crate) first_sent_at: Time,
    /// The caller had no more to send.
    pub(crate) app_limited: bool,
}

/// A piece of the stream under way: a segment, or a packet the port cuts into segments.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) seq: Seq,
    pub(crate) len: u32,
    /// When it was sent last.
    pub(crate) at: Time,
    delivered: u64,
    delivered_at: Time,
    first_sent_at: Time,
    /// Of a sacked piece: so many from this one on are sacked, at least. Runs are jumped over, so that looking for holes
    /// costs by their number and not by the window.
    run: u32,
    flags: u8,
}

impl Sent {
    pub(crate) fn end(&self) -> Seq {
        self.seq + self.len
    }

    /// Whether it was sent more than once.
    pub(crate) fn is_again(&self) -> bool {
        self.flags & AGAIN != 0
    }

    /// Whether it is larger than the others.
    pub(crate) fn is_probe(&self) -> bool {
        self.flags & PROBE != 0
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            app_limited: self.flags & APP_LIMITED != 0,
        }
    }

    fn is(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// All pieces under way, in the order of their numbers.
#[derive(Default)]
pub(crate) struct Flight {
    pieces: VecDeque<Sent>,
    /// Bytes of all pieces, of the sacked ones, of those lost and not sent again.
    bytes: u32,
    sacked: u32,
    lost: u32,
    /// Pieces sacked: some.
    sacked_pieces: u32,
    /// A piece larger than the others is under way; and it was lost, which nobody has asked for yet.
    probing: bool,
    probe_lost: bool,
}

impl Flight {
    /// Forgets everything but its memory.
    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        (self.bytes, self.sacked, self.lost, self.sacked_pieces) = (0, 0, 0, 0);
        (self.probing, self.probe_lost) = (false, false);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes not acknowledged cumulatively.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }

    /// Bytes thought to be in the network (RFC 6675 section 4).
    pub(crate) fn pipe(&self) -> u32 {
        self.bytes - self.sacked - self.lost
    }

    /// Bytes lost and not sent again.
    pub(crate) fn lost(&self) -> u32 {
        self.lost
    }

    /// Bytes the peer has out of order.
    pub(crate) fn sacked(&self) -> u32 {
        self.sacked
    }

    /// Pieces the peer has out of order.
    pub(crate) fn sacked_pieces(&self) -> u32 {
        self.sacked_pieces
    }

    /// The piece sent last in the stream's order.
    pub(crate) fn last(&self) -> Option<&Sent> {
        self.pieces.back()
    }

    /// The oldest piece.
    pub(crate) fn first(&self) -> Option<&Sent> {
        self.pieces.front()
    }

    /// Adds the next piece of the stream.
    pub(crate) fn push(&mut self, seq: Seq, len: u32, now: Time, snapshot: Snapshot) {
        let flags = if snapshot.app_limited { APP_LIMITED } else { 0 };
        let Snapshot { delivered, delivered_at, first_sent_at, .. } = snapshot;
        self.pieces.push_back(Sent {
            seq,
            len,
            at: now,
            delivered,
            delivered_at,
            first_sent_at,
            run: 1,
            flags,
        });
        self.bytes += len;
    }

    /// The piece added last is larger than the others.
    pub(crate) fn last_is_probe(&mut self) {
        if let Some(last) = self.pieces.back_mut() {
            last.flags |= PROBE;
            self.probing = true;
        }
    }

    /// Whether a piece larger than the others is under way.
    pub(crate) fn is_probed(&self) -> bool {
        self.probing
    }

    /// Whether it was lost since this was asked last.
    pub(crate) fn take_lost_probe(&mut self) -> bool {
        std::mem::take(&mut self.probe_lost)
    }

    /// The first piece that ends behind `seq`.
    fn index_of(&self, seq: Seq) -> usize {
        self.pieces.partition_point(|piece| piece.end() <= seq)
    }

    /// Cuts the piece at `index` in two at `seq`, which is inside it.
    fn split(&mut self, index: usize, seq: Seq) {
        let piece = &mut self.pieces[index];
        let head = seq.since(piece.seq);
        debug_assert!(head > 0 && head < piece.len, "a piece has a byte at least");
        let tail = Sent { seq, len: piece.len - head, run: 1, ..*piece };
        piece.len = head;
        self.sacked_pieces += u32::from(piece.is(SACKED));
        self.pieces.insert(index + 1, tail);
    }

    /// All before `ack` is acknowledged: calls `delivered` with each piece of it that was not sacked before.
    pub(crate) fn acknowledge(&mut self, ack: Seq, mut delivered: impl FnMut(&Sent)) {
        while let Some(first) = self.pieces.front_mut() {
            if ack <= first.seq {
                return;
            }
            let len = ack.min(first.end()).since(first.seq);
            let gone = Sent { len, ..*first };
            first.seq += len;
            first.len -= len;
            let whole = first.len == 0;
            self.bytes -= len;
            if gone.is(SACKED) {
                self.sacked -= len;
                self.sacked_pieces -= u32::from(whole);
            } else {
                if gone.is(LOST) {
                    self.lost -= len;
                }
                self.probing &= !gone.is_probe();
                delivered(&gone);
            }
            if whole {
                self.pieces.pop_front();
            }
        }
    }

    /// The peer has this range: calls `delivered` with each piece of it that is news. One that lies partly inside is cut.
    pub(crate) fn sack(&mut self, start: Seq, end: Seq, mut delivered: impl FnMut(&Sent)) {
        let mut at = self.index_of(start);
        while let Some(piece) = self.pieces.get(at)
            && piece.seq < end
        {
            if piece.is(SACKED) {
                at = self.behind(at);
                continue;
            }
            if piece.seq < start {
                self.split(at, start);
                at += 1;
                continue;
            }
            if end < piece.end() {
                self.split(at, end);
            }
            let piece = &mut self.pieces[at];
            if piece.is(LOST) {
                self.lost -= piece.len;
            }
            piece.flags = piece.flags & !LOST | SACKED;
            piece.run = 1;
            self.sacked += piece.len;
            self.sacked_pieces += 1;
            self.probing &= !piece.is_probe();
            delivered(piece);
            at += 1;
        }
    }

    /// The first piece that is not sacked behind the sacked one at `start`; remembers how far that was.
    fn behind(&mut self, start: usize) -> usize {
        let mut at = start;
        while let Some(piece) = self.pieces.get(at)
            && piece.is(SACKED)
        {
            at += piece.run as usize;
        }
        self.pieces[start].run = (at - start) as u32;
        at
    }

    /// Asks `is_lost` about each piece in the pipe, oldest number first, until it answers `None`: what follows is too young.
    /// Answers the bytes newly lost, but for a piece larger than the others: that tells of its size.
    pub(crate) fn judge(&mut self, mut is_lost: impl FnMut(&Sent) -> Option<bool>) -> u32 {
        let (mut at, mut found, mut probe) = (0, 0, 0);
        while let Some(piece) = self.pieces.get_mut(at) {
            if piece.is(SACKED) {
                at = self.behind(at);
                continue;
            }
            if !piece.is(LOST) {
                match is_lost(piece) {
                    None => break,
                    Some(true) => {
                        piece.flags |= LOST;
                        *if piece.is_probe() { &mut probe } else { &mut found } += piece.len;
                    }
                    Some(false) => {}
                }
            }
            at += 1;
        }
        if probe > 0 && std::mem::take(&mut self.probing) {
            self.probe_lost = true;
        }
        self.lost += found + probe;
        found
    }

    /// Takes the piece at the front for lost, as far as `len` bytes go, if it is in the pipe. Answers whether it was.
    pub(crate) fn lose_first(&mut self, len: u32) -> bool {
        let Some(first) = self.pieces.front() else { return false };
        if first.is(SACKED | LOST) {
            return false;
        }
        if len < first.len {
            let seq = first.seq + len;
            self.split(0, seq);
        }
        let first = &mut self.pieces[0];
        first.flags |= LOST;
        self.lost += first.len;
        true
    }

    /// Takes all that is not sacked for lost (RFC 6298 section 5.4, RFC 8985 section 6.3). Where the oldest piece is
    /// sacked the peer has let go of what it had (RFC 2018 section 8), and nothing of it counts any more.
    pub(crate) fn lose_all(&mut self) {
        let reneged = self.pieces.front().is_some_and(|first| first.is(SACKED));
        self.probe_lost |= std::mem::take(&mut self.probing);
        for piece in &mut self.pieces {
            if reneged {
                piece.flags &= !SACKED;
            }
            if !piece.is(SACKED | LOST) {
                piece.flags |= LOST;
                self.lost += piece.len;
            }
        }
        if reneged {
            (self.sacked, self.sacked_pieces) = (0, 0);
        }
    }

    /// Takes nothing for lost any more: what was sent again was sent in vain.
    pub(crate) fn find_all(&mut self) {
        for piece in &mut self.pieces {
            piece.flags &= !LOST;
        }
        self.lost = 0;
    }

    /// The first lost piece, at most `len` bytes of it: its place and size.
    pub(crate) fn next_lost(&mut self, len: u32) -> Option<(Seq, u32)> {
        if self.lost == 0 {
            return None;
        }
        let mut at = 0;
        while let Some(piece) = self.pieces.get(at) {
            if piece.is(SACKED) {
                at = self.behind(at);
            } else if piece.is(LOST) {
                return Some((piece.seq, piece.len.min(len)));
            } else {
                at += 1;
            }
        }
        None
    }

    /// Part of a piece was sent again: `len` bytes from `seq` on.
    pub(crate) fn sent_again(&mut self, seq: Seq, len: u32, now: Time, snapshot: Snapshot) {
        let mut at = self.index_of(seq);
        if self.pieces.get(at).is_some_and(|piece| piece.seq < seq) {
            self.split(at, seq);
            at += 1;
        }
        let Some(piece) = self.pieces.get(at) else { return };
        if len < piece.len {
            self.split(at, seq + len);
        }
        let piece = &mut self.pieces[at];
        if piece.is(LOST) {
            self.lost -= piece.len;
        }
        let limited = if snapshot.app_limited { APP_LIMITED } else { 0 };
        piece.flags = piece.flags & SACKED | AGAIN | limited;
        piece.at = now;
        piece.delivered = snapshot.delivered;
        piece.delivered_at = snapshot.delivered_at;
        piece.first_sent_at = snapshot.first_sent_at;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FIRST: Seq = Seq(u32::MAX - 50);

    fn flight(pieces: u32, len: u32) -> Flight {
        let mut flight = Flight::default();
        for at in 0..pieces {
            flight.push(FIRST + at * len, len, Time(u64::from(at)), Snapshot::default());
        }
        flight
    }

    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Byte {
        Flying,
        Sacked,
        Lost,
    }

    proptest! {
        /// Every byte is in one state, and the sums are right.
        #[test]
        fn counts_what_a_model_of_bytes_would(steps in prop::collection::vec((0u8..5, 0u32..200, 1u32..60), 1..60)) {
            let mut flight = flight(10, 20);
            let mut bytes = [Byte::Flying; 200];
            let mut una = 0usize;
            for (step, at, len) in steps {
                let (from, to) = (at.min(199) as usize, (at + len).min(200) as usize);
                let mut told = 0;
                match step {
                    0 => {
                        let to = to.max(una);
                        let news = bytes[una..to].iter().filter(|byte| **byte != Byte::Sacked).count();
                        flight.acknowledge(FIRST + to as u32, |piece| told += piece.len as usize);
                        prop_assert_eq!(told, news);
                        una = to;
                    }
                    1 if from >= una => {
                        let news = bytes[from..to].iter().filter(|byte| **byte != Byte::Sacked).count();
                        flight.sack(FIRST + from as u32, FIRST + to as u32, |piece| told += piece.len as usize);
                        prop_assert_eq!(told, news);
                        bytes[from..to].fill(Byte::Sacked);
                    }
                    2 => {
                        let mut left = at % 4;
                        flight.judge(|piece| {
                            let bytes = &mut bytes[piece.seq.since(FIRST) as usize..][..piece.len as usize];
                            assert!(bytes.iter().all(|byte| *byte == Byte::Flying));
                            left = left.checked_sub(1)?;
                            bytes.fill(Byte::Lost);
                            Some(true)
                        });
                    }
                    3 => {
                        if let Some((seq, len)) = flight.next_lost(len) {
                            let from = seq.since(FIRST) as usize;
                            prop_assert!(bytes[una..from].iter().all(|byte| *byte != Byte::Lost));
                            flight.sent_again(seq, len, Time(9), Snapshot::default());
                            bytes[from..from + len as usize].fill(Byte::Flying);
                        } else {
                            prop_assert!(bytes[una..].iter().all(|byte| *byte != Byte::Lost));
                        }
                    }
                    _ => {
                        let reneged = bytes.get(una) == Some(&Byte::Sacked);
                        flight.lose_all();
                        for byte in &mut bytes[una..] {
                            if reneged || *byte == Byte::Flying {
                                *byte = Byte::Lost;
                            }
                        }
                    }
                }
                let count = |state| bytes[una..].iter().filter(|byte| **byte == state).count() as u32;
                prop_assert_eq!(flight.bytes() as usize, 200 - una);
                prop_assert_eq!(flight.sacked(), count(Byte::Sacked));
                prop_assert_eq!(flight.lost(), count(Byte::Lost));
                prop_assert_eq!(flight.pipe(), count(Byte::Flying));
            }
        }
    }

    /// The last segment of a packet that the port cut into several.
    #[test]
    fn the_end_of_a_piece_is_sent_again() {
        let mut flight = flight(1, 400);
        flight.sent_again(FIRST + 300, 100, Time(50), Snapshot::default());
        flight.lose_all();
        assert_eq!(flight.next_lost(1_000), Some((FIRST, 300)));
        flight.sent_again(FIRST, 300, Time(60), Snapshot::default());
        assert_eq!(flight.next_lost(1_000), Some((FIRST + 300, 100)));
        flight.sent_again(FIRST + 300, 100, Time(60), Snapshot::default());
        assert_eq!((flight.next_lost(1_000), flight.pipe()), (None, 400));
    }

    #[test]
    fn only_what_is_sent_again_is_marked() {
        let mut flight = flight(4, 100);
        flight.judge(|piece| Some(piece.seq == FIRST + 100));
        assert_eq!(flight.next_lost(60), Some((FIRST + 100, 60)));
        flight.sent_again(FIRST + 100, 60, Time(50), Snapshot::default());
        assert_eq!(flight.next_lost(60), Some((FIRST + 160, 40)));
        let mut again = vec![];
        flight.acknowledge(FIRST + 400, |piece| again.push(piece.is_again()));
        assert_eq!(again, [false, true, false, false, false]);
        assert!(flight.is_empty());
    }
}
