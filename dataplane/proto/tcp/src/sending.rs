//! What a connection sends: segments queued by the caller, what of them is under way, and the timers that see to it that
//! they arrive. A connection has one only while there is something to send or to acknowledge.
//!
//! In: segments, acknowledgements. Out: where bytes lie by their number, each time they are sent, and segments that are no
//! longer needed. Part of a connection; its memory is recycled by the worker.

use std::collections::{VecDeque, vec_deque};
use std::ops::{ControlFlow, Range};

use keyferry_time::Time;

use crate::flight::{Flight, Snapshot};
use crate::rack::Rack;
use crate::recovery::Recovery;
use crate::seam::Segment;
use crate::sequence::Seq;

/// A segment and the number of its first byte.
struct Queued<S> {
    segment: S,
    start: Seq,
}

impl<S: Segment> Queued<S> {
    fn end(&self) -> Seq {
        self.start + self.segment.len() as u32
    }
}

/// Part of the stream, segment by segment.
pub(crate) struct Pieces<'a, S> {
    segments: vec_deque::Iter<'a, Queued<S>>,
    /// Bytes of the first segment that are before it.
    skip: usize,
    left: usize,
}

impl<S> Pieces<'_, S> {
    /// No bytes.
    pub(crate) fn none() -> Self {
        Pieces { segments: vec_deque::Iter::default(), skip: 0, left: 0 }
    }
}

impl<'a, S: Segment> Pieces<'a, S> {
    /// Takes the first `len` bytes off.
    pub(crate) fn split_off(&mut self, len: usize) -> Pieces<'a, S> {
        let first = Pieces { left: len, ..self.clone() };
        self.left -= len;
        self.skip += len;
        let mut rest = self.segments.clone();
        while let Some(Queued { segment, .. }) = rest.next()
            && self.skip >= segment.len()
        {
            self.skip -= segment.len();
            self.segments = rest.clone();
        }
        first
    }
}

impl<S> Clone for Pieces<'_, S> {
    fn clone(&self) -> Self {
        Pieces { segments: self.segments.clone(), ..*self }
    }
}

impl<'a, S: Segment> Iterator for Pieces<'a, S> {
    type Item = (&'a S, Range<usize>);

    fn next(&mut self) -> Option<(&'a S, Range<usize>)> {
        while self.left > 0 {
            let Queued { segment, .. } = self.segments.next()?;
            let from = std::mem::take(&mut self.skip);
            let len = (segment.len() - from).min(self.left);
            if len > 0 {
                self.left -= len;
                return Some((segment, from..from + len));
            }
        }
        None
    }
}

/// A tail loss probe under way (RFC 8985 section 7.3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Probe {
    /// The number behind what was sent.
    pub(crate) end: Seq,
    /// It repeated a segment.
    pub(crate) again: bool,
}

pub(crate) struct Sending<S> {
    segments: VecDeque<Queued<S>>,
    /// The first so many are acknowledged and wait to be collected.
    done: usize,
    pub(crate) flight: Flight,
    pub(crate) rack: Rack,
    pub(crate) recovery: Recovery,
    /// When what is under way is sent again (RFC 6298), when its tail is probed (RFC 8985 section 7), when overtaken
    /// pieces are looked at again (section 6.2), when a closed window is probed (RFC 9293 section 3.8.6.1).
    pub(crate) rto_at: Time,
    pub(crate) tail_at: Time,
    pub(crate) reorder_at: Time,
    pub(crate) persist_at: Time,
    /// Doublings of the time-out, or of the time between two probes.
    pub(crate) doublings: u8,
    pub(crate) probe: Option<Probe>,
    /// A probe of the tail, or of a closed window, is to be sent.
    pub(crate) tail_due: bool,
    pub(crate) persist_due: bool,
    /// Large packets were found to vanish on the way, which nobody has counted yet.
    pub(crate) suspected: bool,
    /// What fits a small window is sent though it is little (RFC 9293 section 3.8.6.2.1).
    pub(crate) override_due: bool,
    /// The pace keeps more from being sent, and nothing else.
    pub(crate) waits_for_pace: bool,
    /// See [`Snapshot`].
    pub(crate) delivered_at: Time,
    pub(crate) first_sent_at: Time,
}

impl<S> Default for Sending<S> {
    fn default() -> Sending<S> {
        Sending {
            segments: VecDeque::new(),
            done: 0,
            flight: Flight::default(),
            rack: Rack::default(),
            recovery: Recovery::default(),
            rto_at: Time::NEVER,
            tail_at: Time::NEVER,
            reorder_at: Time::NEVER,
            persist_at: Time::NEVER,
            doublings: 0,
            probe: None,
            tail_due: false,
            persist_due: false,
            suspected: false,
            override_due: false,
            waits_for_pace: false,
            delivered_at: Time::ZERO,
            first_sent_at: Time::ZERO,
        }
    }
}

impl<S: Segment> Sending<S> {
    /// Forgets everything but its memory. Nothing may be left in it.
    pub(crate) fn clear(&mut self) {
        assert!(self.segments.is_empty(), "a segment that nobody has collected");
        let mut flight = std::mem::take(&mut self.flight);
        flight.clear();
        *self = Sending { segments: std::mem::take(&mut self.segments), flight, ..Sending::default() };
    }

    /// Whether there is nothing to send, to acknowledge or to collect.
    pub(crate) fn is_over(&self) -> bool {
        self.segments.is_empty() && self.flight.is_empty()
    }

    /// Segments queued, those that wait to be collected included.
    pub(crate) fn segments(&self) -> usize {
        self.segments.len()
    }

    /// Segments that wait to be collected.
    pub(crate) fn done(&self) -> usize {
        self.done
    }

    pub(crate) fn push(&mut self, segment: S, start: Seq) {
        self.segments.push_back(Queued { segment, start });
    }

    /// All before `una` is acknowledged. Answers whether a segment is no longer needed.
    pub(crate) fn acknowledge(&mut self, una: Seq) -> bool {
        let before = self.done;
        while self.segments.get(self.done).is_some_and(|queued| queued.end() <= una) {
            self.done += 1;
        }
        self.done > before
    }

    /// The connection has ended: no segment is needed any more.
    pub(crate) fn give_up(&mut self) {
        self.done = self.segments.len();
        self.flight.clear();
        (self.rto_at, self.tail_at) = (Time::NEVER, Time::NEVER);
        (self.reorder_at, self.persist_at) = (Time::NEVER, Time::NEVER);
    }

    /// Collects a segment that is no longer needed.
    pub(crate) fn collect(&mut self) -> Option<S> {
        self.done = self.done.checked_sub(1)?;
        self.segments.pop_front().map(|queued| queued.segment)
    }

    /// Shows the segments that are still needed to `f`, which may put others with the same bytes in their places.
    pub(crate) fn replace(&mut self, mut f: impl FnMut(&mut S) -> ControlFlow<()>) {
        for Queued { segment, .. } in self.segments.range_mut(self.done..) {
            let bytes = segment.len();
            let flow = f(segment);
            assert_eq!(segment.len(), bytes, "a segment in whose place another one was put");
            if flow.is_break() {
                return;
            }
        }
    }

    /// Where `len` bytes from `seq` on lie: the same memory serves each time they are sent.
    pub(crate) fn pieces(&self, seq: Seq, len: usize) -> Pieces<'_, S> {
        let at = self.segments.partition_point(|queued| queued.start <= seq).saturating_sub(1);
        let skip = self.segments.get(at).map_or(0, |queued| seq.since(queued.start) as usize);
        Pieces { segments: self.segments.range(at..), skip, left: len }
    }

    /// What a piece sent now knows of deliveries.
    pub(crate) fn snapshot(&mut self, now: Time, delivered: u64, app_limited: bool) -> Snapshot {
        if self.flight.is_empty() {
            (self.first_sent_at, self.delivered_at) = (now, now);
        }
        let (delivered_at, first_sent_at) = (self.delivered_at, self.first_sent_at);
        Snapshot { delivered, delivered_at, first_sent_at, app_limited }
    }

    /// When the first of its timers is due.
    pub(crate) fn next_timer(&self) -> Time {
        self.rto_at.min(self.tail_at).min(self.reorder_at).min(self.persist_at)
    }
}
