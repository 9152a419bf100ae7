//! An acknowledgement arrives: what was delivered, what was lost, and what follows for the window and the timers
//! (RFC 9293 section 3.10.7.4, RFC 2018, RFC 6582, RFC 8985).
//!
//! In: the acknowledgement's fields. Out: released segments, round trips, verdicts about pieces under way. Part of a
//! connection.

use keyferry_time::Time;

use crate::congestion::{Ack, Rate};
use crate::connection::{Connection, Pending, Shared, Stage};
use crate::flight::{Sent, Snapshot};
use crate::packet::{Header, Options};
use crate::rack::{DUPLICATES, Path};
use crate::recovery::Phase;
use crate::seam::Segment;
use crate::sending::Sending;
use crate::sequence::Seq;

/// What an acknowledgement delivered.
#[derive(Default)]
struct Delivered {
    bytes: u32,
    /// When the oldest piece was sent that was sent once only, and is acknowledged in order.
    oldest: Option<Time>,
    /// The same of the one sent last, out of order or not.
    latest: Option<Time>,
    /// A piece sent more than once was acknowledged.
    again: bool,
    /// What the piece sent last knew, and when it was sent.
    newest: Option<(Time, Snapshot)>,
    /// A piece larger than the others has arrived.
    probe: bool,
}

impl Delivered {
    fn add(&mut self, piece: &Sent, in_order: bool) {
        self.bytes += piece.len;
        self.probe |= piece.is_probe();
        if piece.is_again() {
            self.again = true;
        } else {
            self.latest = self.latest.max(Some(piece.at));
            if in_order && self.oldest.is_none() {
                self.oldest = Some(piece.at);
            }
        }
        if self.newest.is_none_or(|(at, _)| at <= piece.at) {
            self.newest = Some((piece.at, piece.snapshot()));
        }
    }
}

/// Whether a SACK block is of what is under way: another is mistaken, or tells of a duplicate (RFC 2018 section 5).
fn is_of_flight((start, end): (Seq, Seq), una: Seq, nxt: Seq) -> bool {
    start < end && start >= una && end <= nxt
}

impl<S: Segment> Connection<S> {
    /// Takes the acknowledgement of a segment that is acceptable otherwise. `false`: it acknowledges what it cannot, and
    /// tells nothing (RFC 5961 section 5.2).
    pub(crate) fn acknowledge(
        &mut self,
        now: Time,
        header: &Header,
        options: &Options,
        shared: &mut Shared<S>,
    ) -> bool {
        let ack = header.acknowledges;
        if ack > self.nxt || ack < self.una - self.window_max {
            return false;
        }
        if ack < self.una {
            return true;
        }
        let was_closed = self.window == 0;
        let moved_window = self.note_window(header);
        let Some(mut sending) = self.sending.take() else {
            if self.sack && options.sack.first().is_some_and(|block| block.1 <= ack) {
                self.reordering.widen();
            }
            return true;
        };
        if !sending.flight.is_empty() {
            self.progress(now, header, options, moved_window, &mut sending, shared);
        }
        self.note_closed_window(now, was_closed, &mut sending);
        self.sending = Some(sending);
        self.rest(shared);
        self.note_room(shared);
        true
    }

    /// What the peer takes (SND.WND): told by a segment that is newer than the one that told last, or that acknowledges
    /// more, or that, being as new, opens the window. Answers whether it changed.
    fn note_window(&mut self, header: &Header) -> bool {
        let window = u32::from(header.window) << self.peer_shift;
        let newer = header.acknowledges > self.una
            || header.seq > self.window_seq
            || (header.seq == self.window_seq && (window > self.window || window == 0));
        if !newer {
            return false;
        }
        self.window_seq = header.seq;
        self.window_max = self.window_max.max(window);
        let edge = self.una + self.window;
        self.window = window;
        header.acknowledges + window != edge
    }

    fn progress(
        &mut self,
        now: Time,
        header: &Header,
        options: &Options,
        moved_window: bool,
        sending: &mut Sending<S>,
        shared: &mut Shared<S>,
    ) {
        let ack = header.acknowledges;
        let prior_pipe = sending.flight.pipe();
        let advanced = ack > self.una;
        let echo = options.timestamps.filter(|_| self.stamps.is_some()).map(|said| said.echo);
        let mut delivered = Delivered::default();
        let min_rtt_ns = self.rtt.min_ns();
        // What is echoed may be of an earlier transmission than the last (RFC 8985 section 6.2 step 2).
        let stamps = self.stamps.zip(echo);
        let earlier = |piece: &Sent| {
            stamps
                .is_some_and(|(own, echo)| (echo.wrapping_sub(shared.stamp(own.offset, piece.at)) as i32) < 0)
        };
        let rack = &mut sending.rack;
        sending.flight.acknowledge(ack, |piece| {
            delivered.add(piece, true);
            rack.delivered(piece, now, min_rtt_ns, earlier(piece));
        });
        if self.sack {
            self.note_duplicates(header, options, sending);
            let (rack, nxt, una) = (&mut sending.rack, self.nxt, self.una.max(ack));
            // In the order of their numbers: what one acknowledgement tells of was not overtaken by itself.
            let mut blocks = options.sack.clone();
            blocks.retain(|block| is_of_flight(*block, una, nxt));
            blocks.sort_unstable_by_key(|block| block.0.since(una));
            for (start, end) in blocks {
                sending.flight.sack(start, end, |piece| {
                    delivered.add(piece, false);
                    rack.delivered(piece, now, min_rtt_ns, earlier(piece));
                });
            }
        }
        if advanced {
            self.advance(now, ack, sending, shared);
        }
        self.sample_rtt(now, &delivered, echo, shared);
        let undone = echo.filter(|_| advanced).and_then(|echo| sending.recovery.echoed(echo));
        if let Some(before) = undone {
            self.undo(before, sending);
        }
        let duplicate = !advanced && header.payload == 0 && !header.fin && !moved_window;
        if delivered.probe {
            self.larger_arrived(now, shared);
        }
        let lost = self.find_lost(now, advanced, duplicate, sending);
        if sending.flight.take_lost_probe() {
            self.larger_is_lost(now);
        }
        self.delivered += u64::from(delivered.bytes);
        let rate = self.rate(now, &delivered, sending);
        if self.app_limited > 0 && self.delivered > self.app_limited {
            self.app_limited = 0;
        }
        self.probed(now, ack, options, advanced, sending);
        self.move_recovery(now, lost, advanced, sending);
        self.answer_marks(now, header, sending);
        let told = Ack {
            now,
            delivered: delivered.bytes,
            total_delivered: self.delivered,
            pipe: sending.flight.pipe(),
            prior_pipe,
            lost,
            rtt_ns: delivered.latest.map(|at| now.ns_since(at)),
            smoothed_ns: self.rtt.smoothed_ns(),
            limited: self.limited,
            recovering: sending.recovery.is_on(),
            rate,
            mss: u32::from(self.mss),
        };
        if delivered.bytes > 0 || lost > 0 {
            self.congestion.acknowledged(&told);
        }
        if sending.recovery.phase == Phase::Recovery && self.congestion.recovers_in_proportion() {
            let (threshold, mss) = (self.congestion.threshold(), u32::from(self.mss));
            sending.recovery.delivered(delivered.bytes, told.pipe, threshold, mss, advanced && lost == 0);
        }
        if told.pipe < self.congestion.window() / 2 {
            self.limited = false;
        }
        self.set_timers(now, advanced || delivered.bytes > 0, sending);
    }

    /// All before `ack` has arrived.
    fn advance(&mut self, now: Time, ack: Seq, sending: &mut Sending<S>, shared: &mut Shared<S>) {
        // A FIN takes a number and no memory.
        let bytes = ack.min(self.end).since(self.una.min(self.end)) as usize;
        self.una = ack;
        self.queued -= bytes;
        shared.queued -= bytes;
        self.active = now;
        self.waiting = now;
        sending.doublings = 0;
        sending.recovery.duplicates = 0;
        sending.acknowledge(ack);
    }

    /// The first SACK block tells of a segment that came twice if it lies before what is acknowledged, or within the
    /// second (RFC 2883 section 4).
    fn note_duplicates(&mut self, header: &Header, options: &Options, sending: &mut Sending<S>) {
        let Some((start, end)) = options.sack.first().copied() else { return };
        let inside = options.sack.get(1).is_some_and(|outer| outer.0 <= start && end <= outer.1);
        if start < end && (start < header.acknowledges || inside) {
            self.duplicated(start, end, sending);
        }
    }

    /// The peer has had a segment twice.
    fn duplicated(&mut self, start: Seq, end: Seq, sending: &mut Sending<S>) {
        if end > self.nxt || start < self.una - self.window_max.max(1 << 16) {
            return;
        }
        if sending.probe.is_some_and(|probe| probe.again && probe.end == end) {
            // The probe of the tail came twice: nothing was lost (RFC 8985 section 7.4.2).
            sending.probe = None;
            return;
        }
        sending.rack.duplicated(self.una, self.nxt);
        if let Some(before) = sending.recovery.duplicated() {
            self.undo(before, sending);
        }
    }

    /// What was taken for a loss was none: the window is as it was.
    fn undo(&mut self, before: crate::congestion::Before, sending: &mut Sending<S>) {
        self.congestion.undo(before);
        sending.flight.find_all();
        sending.recovery.finish();
    }

    /// Round trips: of what was sent once (Karn, RFC 6298 section 3), or by what the peer echoes (RFC 7323 section 4.1).
    fn sample_rtt(&mut self, now: Time, delivered: &Delivered, echo: Option<u32>, shared: &Shared<S>) {
        if let Some(sent_at) = delivered.oldest.or(delivered.latest) {
            self.rtt.sample(now.0, now.ns_since(sent_at));
        } else if delivered.again
            && let (Some(stamps), Some(echo)) = (self.stamps, echo)
            && echo != 0
        {
            let ms = shared.stamp(stamps.offset, now).wrapping_sub(echo);
            if ms < 60_000 {
                self.rtt.sample(now.0, u64::from(ms.max(1)) * 1_000_000);
            }
        }
    }

    /// Takes pieces for lost. Answers their bytes.
    fn find_lost(&mut self, now: Time, advanced: bool, duplicate: bool, sending: &mut Sending<S>) -> u32 {
        if self.sack {
            let path = Path {
                min_rtt_ns: self.rtt.min_ns(),
                smoothed_ns: self.rtt.smoothed_ns(),
                recovering: sending.recovery.is_on(),
            };
            let (lost, again) = sending.rack.detect(&mut sending.flight, now, path);
            sending.reorder_at = again.unwrap_or(Time::NEVER);
            return lost;
        }
        // Without SACK three acknowledgements that tell nothing new tell of a hole (RFC 5681 section 3.2), and in a
        // recovery one that moves on but not to its end tells of the next (RFC 6582 section 3.2).
        let mss = u32::from(self.mss);
        let recovering = sending.recovery.phase == Phase::Recovery;
        if duplicate {
            sending.recovery.duplicates += 1;
        }
        let third = duplicate && sending.recovery.duplicates == DUPLICATES && !recovering;
        let next = advanced && recovering && self.una < sending.recovery.end;
        if (third || next) && sending.flight.lose_first(mss) { mss } else { 0 }
    }

    /// The rate at which what was delivered went through (draft-cheng-iccrg-delivery-rate-estimation section 3.3).
    fn rate(&self, now: Time, delivered: &Delivered, sending: &mut Sending<S>) -> Option<Rate> {
        let (sent_at, snapshot) = delivered.newest?;
        sending.delivered_at = now;
        sending.first_sent_at = sending.first_sent_at.max(sent_at);
        let send_ns = sent_at.ns_since(snapshot.first_sent_at);
        let ack_ns = now.ns_since(snapshot.delivered_at);
        let ns = send_ns.max(ack_ns);
        // Shorter than a round trip: a burst of acknowledgements, which says nothing.
        if ns == 0 || ns < self.rtt.min_ns() {
            return None;
        }
        let bytes = self.delivered - snapshot.delivered;
        Some(Rate {
            bytes_per_second: bytes.saturating_mul(1_000_000_000) / ns,
            prior_delivered: snapshot.delivered,
            app_limited: snapshot.app_limited,
        })
    }

    /// The probe of the tail is answered (RFC 8985 section 7.4.2): if what it repeated had been lost, and nothing else
    /// told of that, it counts as congestion.
    fn probed(&mut self, now: Time, ack: Seq, options: &Options, advanced: bool, sending: &mut Sending<S>) {
        let Some(probe) = sending.probe else { return };
        if ack < probe.end {
            return;
        }
        if !probe.again {
            sending.probe = None;
        } else if advanced && ack > probe.end {
            // More than it was acknowledged, and no duplicate told of: it filled a hole.
            sending.probe = None;
            self.tail_was_lost(now, sending);
        } else if !advanced && options.sack.is_empty() {
            // The same number once more, without a duplicate: the first had arrived (section 7.4.2, case 2).
            sending.probe = None;
        }
    }

    fn tail_was_lost(&mut self, now: Time, sending: &mut Sending<S>) {
        if !sending.recovery.is_on() {
            self.congestion.congested(now, u32::from(self.mss), sending.flight.pipe());
        }
    }

    /// Into recovery, and out of it.
    fn move_recovery(&mut self, now: Time, lost: u32, advanced: bool, sending: &mut Sending<S>) {
        if sending.recovery.is_on() && advanced && self.una >= sending.recovery.end {
            self.congestion.recovered();
            sending.rack.recovered();
            sending.recovery.finish();
        }
        if lost > 0 && sending.recovery.phase == Phase::Open {
            self.begin_recovery(now, sending);
        }
    }

    /// Segments were lost.
    pub(crate) fn begin_recovery(&mut self, now: Time, sending: &mut Sending<S>) {
        let (mss, before) = (u32::from(self.mss), self.congestion.before());
        let (flight, pipe) = (sending.flight.bytes(), sending.flight.pipe());
        sending.recovery.begin(Phase::Recovery, self.nxt, flight, pipe, mss, before);
        self.congestion.congested(now, mss, pipe);
        self.ecn.until = self.nxt;
        self.ecn.reduced = self.ecn.on;
        sending.tail_at = Time::NEVER;
    }

    /// The peer says that a router marked what we sent: answered as a loss is, once a window (RFC 3168 section 6.1.2).
    fn answer_marks(&mut self, now: Time, header: &Header, sending: &mut Sending<S>) {
        if self.ecn.on && header.ece && !sending.recovery.is_on() && self.una > self.ecn.until {
            self.congestion.congested(now, u32::from(self.mss), sending.flight.pipe());
            self.ecn.until = self.nxt;
            self.ecn.reduced = true;
        }
    }

    /// RFC 6298 section 5.3: the time-out begins anew with each sign of delivery; and the tail's probe with it.
    fn set_timers(&mut self, now: Time, progressed: bool, sending: &mut Sending<S>) {
        if sending.flight.is_empty() {
            (sending.rto_at, sending.tail_at, sending.reorder_at) = (Time::NEVER, Time::NEVER, Time::NEVER);
            sending.recovery.finish();
            sending.probe = None;
        } else if progressed {
            sending.rto_at = now + self.rtt.timeout(sending.doublings);
            self.set_tail_timer(now, sending);
        }
    }

    /// A window that closes is probed, and the time-outs rest meanwhile (RFC 9293 section 3.8.6.1); one that opens finds
    /// what was sent beyond it lost. What fits a small window waits for so long whatever the peer says meanwhile: only
    /// what is sent ends that (section 3.8.6.2.1).
    fn note_closed_window(&mut self, now: Time, was_closed: bool, sending: &mut Sending<S>) {
        if self.window == 0 {
            let waits = !sending.flight.is_empty() || self.is_outstanding();
            if !waits {
                sending.persist_at = Time::NEVER;
            } else if sending.persist_at == Time::NEVER {
                sending.doublings = 0;
                sending.persist_at = now + self.rtt.timeout(0);
                (sending.rto_at, sending.tail_at) = (Time::NEVER, Time::NEVER);
            }
        } else if was_closed {
            (sending.persist_at, sending.persist_due) = (Time::NEVER, false);
            if !sending.flight.is_empty() {
                // Closed for less than a time-out, it may have taken all the same what was under way.
                if std::mem::take(&mut sending.doublings) > 0 {
                    sending.flight.lose_all();
                }
                sending.rto_at = now + self.rtt.timeout(0);
            }
        }
    }

    /// Has the caller told of the room that it waits for, if there is some.
    pub(crate) fn note_room(&mut self, shared: &Shared<S>) {
        let waits = self.refused || self.sated;
        if waits
            && self.stage == Stage::Open
            && (!self.refused || self.takes(shared))
            && (!self.sated || self.is_hungry())
        {
            (self.refused, self.sated) = (false, false);
            self.pending.add(Pending::WRITABLE);
        }
    }
}
