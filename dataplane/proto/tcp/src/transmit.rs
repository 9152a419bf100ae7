//! What a connection sends next, if anything: a reset, a SYN, what was lost, a probe, new data, its end, an
//! acknowledgement; one packet a call.
//!
//! In: the state, the time. Out: one packet through the [`Egress`]. Part of a connection.

use std::time::Duration;

use keyferry_time::Time;

use crate::arrive::send;
use crate::config::{Stretch, TSO_PACKET_BYTES_MAX};
use crate::connection::{Connection, Shared, Stage, State};
use crate::counters::CloseReason;
use crate::draft::{Draft, flag};
use crate::outbound::Outbound;
use crate::recovery::Phase;
use crate::rtt::{RTO_INITIAL, RTO_MAX};
use crate::seam::{Egress, Segment};
use crate::sending::{Probe, Sending};
use crate::sequence::Seq;

/// How much of the pace may go out at once.
const BURST: Duration = Duration::from_millis(1);

/// Steps of a paced stream are at least so many a second, where they are of more than two segments.
const STEPS_PER_S: u64 = 1_000;

/// Bytes of IP and TCP headers, at most.
const HEADERS_BYTES_MAX: u32 = 120;

/// How much of it is caught up with, at most, where the worker came late: the path was idle for as long, so that what goes
/// out at once finds the queue it would have found.
const CATCH_UP: Duration = Duration::from_millis(20);

/// What a visit found to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// A packet went out.
    Packet,
    /// There is nothing to send now, or nothing before this time.
    Nothing(Time),
    /// The reset went out.
    Over(CloseReason),
}

/// A part of the stream that may go out.
#[derive(Clone, Copy, Debug)]
struct Part {
    seq: Seq,
    /// Bytes of data, and behind them the FIN.
    len: u32,
    fin: bool,
    /// It was sent before.
    again: bool,
    /// It is one segment, larger than the others.
    probe: bool,
}

impl<S: Segment> Connection<S> {
    /// Sends one packet if there is one to send; the egress has room.
    pub(crate) fn transmit(&mut self, now: Time, shared: &mut Shared<S>, out: &mut impl Egress<S>) -> Step {
        if let Stage::Aborting(reason) = self.stage {
            self.send_reset(now, shared, out);
            return Step::Over(reason);
        }
        if matches!(self.state, State::SynSent | State::SynReceived) {
            return self.send_syn(now, shared, out);
        }
        let mut wait = Time::NEVER;
        if let Some(mut sending) = self.sending.take() {
            let step = self.send_stream(now, &mut sending, shared, out);
            self.sending = Some(sending);
            match step {
                Step::Nothing(at) => wait = at,
                done => return done,
            }
        }
        if self.send_keep_alive(now, shared, out) {
            return Step::Packet;
        }
        if self.owed.now || self.window_opens(shared) {
            let draft = self.draft_ack(now, shared);
            send(&draft, shared, out);
            return Step::Packet;
        }
        Step::Nothing(wait)
    }

    fn window_opens(&self, shared: &Shared<S>) -> bool {
        self.state == State::Established
            && self.receive.is_narrow(&shared.buffers)
            && self.receive.opens(u32::from(self.seen_mss.max(self.mss)), &shared.buffers)
    }

    fn send_reset(&mut self, now: Time, shared: &mut Shared<S>, out: &mut impl Egress<S>) {
        let draft = Draft::new(&self.flow, flag::RST, self.bare_seq(true), Some(self.receive.next))
            .with_timestamps(self.timestamps(now, shared));
        send(&draft, shared, out);
    }

    /// Our SYN, or the SYN-ACK where both ends began, again until it is answered (RFC 6298 section 5).
    fn send_syn(&mut self, now: Time, shared: &mut Shared<S>, out: &mut impl Egress<S>) -> Step {
        if !self.retry_at.is_due(now) {
            return Step::Nothing(Time::NEVER);
        }
        let answers = self.state == State::SynReceived;
        let stamp = shared.stamp(shared.secret.stamp(&self.flow), now);
        let echo = self.stamps.map_or(0, |stamps| stamps.recent);
        let stamps =
            (!answers || self.stamps.is_some()).then_some(crate::packet::Timestamps { value: stamp, echo });
        let (sack, scale) = (!answers || self.sack, !answers || self.peer_shift > 0);
        let acknowledges = answers.then_some(self.receive.next);
        let mut draft = Draft::new(&self.flow, flag::SYN, self.una, acknowledges)
            .with_mss(shared.mss(&self.flow))
            .with_window_scale(scale.then_some(shared.shift))
            .with_sack_permitted(sack)
            .with_timestamps(stamps);
        draft.window = shared.syn_window();
        // A SYN that is not answered may have met a router that takes the flags amiss (RFC 3168 section 6.1.1.1).
        if shared.tuning.ecn && !answers && self.tries == 0 {
            draft.flags |= flag::ECE | flag::CWR;
        }
        send(&draft, shared, out);
        let wait = RTO_INITIAL.saturating_mul(1 << u32::from(self.tries.min(6))).min(RTO_MAX);
        self.tries = self.tries.saturating_add(1);
        self.retry_at = now + wait;
        self.sent_at = now;
        Step::Packet
    }

    /// A probe of a silent peer: an old number, which it answers (RFC 9293 section 3.8.4).
    fn send_keep_alive(&mut self, now: Time, shared: &mut Shared<S>, out: &mut impl Egress<S>) -> bool {
        let Some(keep_alive) = shared.tuning.keep_alive else { return false };
        if self.stage != Stage::Open || !self.retry_at.is_due(now) {
            return false;
        }
        self.send_probe(now, shared, out);
        self.tries += 1;
        self.retry_at = now + keep_alive.every;
        true
    }

    fn send_probe(&mut self, now: Time, shared: &mut Shared<S>, out: &mut impl Egress<S>) {
        let mut draft = self.draft_ack(now, shared);
        draft.seq = self.una - 1;
        send(&draft, shared, out);
    }

    fn send_stream(
        &mut self,
        now: Time,
        sending: &mut Sending<S>,
        shared: &mut Shared<S>,
        out: &mut impl Egress<S>,
    ) -> Step {
        if std::mem::take(&mut sending.persist_due) {
            self.send_probe(now, shared, out);
            return Step::Packet;
        }
        if std::mem::take(&mut sending.tail_due)
            && let Some(part) = self.tail(sending)
        {
            let end = part.seq + part.len + u32::from(part.fin);
            sending.probe = Some(Probe { end, again: part.again });
            self.send_part(now, part, sending, shared, out);
            return Step::Packet;
        }
        self.restart_after_pause(now, sending, shared);
        let Some(part) = self.next_part(now, sending, shared) else {
            sending.waits_for_pace = false;
            return Step::Nothing(Time::NEVER);
        };
        if let Some(at) = self.pace(now, part, sending, shared) {
            return Step::Nothing(at);
        }
        self.send_part(now, part, sending, shared, out);
        Step::Packet
    }

    /// Nothing was sent for longer than a time-out: the window may say nothing about the path any more.
    fn restart_after_pause(&mut self, now: Time, sending: &Sending<S>, shared: &Shared<S>) {
        if sending.flight.is_empty()
            && self.nxt != self.end
            && now.ns_since(self.sent_at) > self.rtt.timeout(0).as_nanos() as u64
        {
            self.congestion.restart(shared.initial_window(self.mss));
        }
    }

    /// Bytes in the network. Without SACK each acknowledgement that tells nothing new tells that a segment left it
    /// (RFC 5681 section 3.2).
    pub(crate) fn pipe(&self, sending: &Sending<S>) -> u32 {
        let left = if self.sack { 0 } else { sending.recovery.duplicates * u32::from(self.mss) };
        sending.flight.pipe().saturating_sub(left)
    }

    pub(crate) fn send_window(&self, sending: &Sending<S>) -> u32 {
        let in_proportion = self.congestion.recovers_in_proportion();
        match sending.recovery.phase {
            Phase::Recovery if in_proportion => sending.recovery.window,
            _ => self.congestion.window(),
        }
    }

    /// What may go out next by both windows.
    fn next_part(&mut self, now: Time, sending: &mut Sending<S>, shared: &Shared<S>) -> Option<Part> {
        let mss = u32::from(self.mss);
        let (pipe, window) = (self.pipe(sending), self.send_window(sending));
        let room = window.saturating_sub(pipe);
        let burst = self.burst(shared);
        if sending.flight.lost() > 0 {
            if room < mss && pipe > 0 {
                self.limited = true;
                return None;
            }
            let (seq, len) = sending.flight.next_lost(burst.min(room.max(mss)) / mss * mss)?;
            // A window taken back covers it no more: it waits until the window opens, or the time-out.
            if seq >= self.una + self.window {
                return None;
            }
            return Some(self.part_again(seq, len));
        }
        let waiting = self.end.since(self.nxt.min(self.end));
        let fin = self.stage == Stage::Closing && !self.fin_sent;
        if waiting == 0 && !fin {
            self.note_app_limited(pipe, window);
            return None;
        }
        if waiting > 0 && room < mss.min(waiting) && pipe > 0 {
            self.limited = true;
            return None;
        }
        let taken = (self.una + self.window).since(self.nxt) as i32;
        let open = taken.max(0) as u32;
        if let Some(len) = self.larger(now, waiting.min(open).min(room), sending, shared) {
            return Some(Part { seq: self.nxt, len, fin: false, again: false, probe: true });
        }
        let most = open.min(burst).min(room.max(mss));
        let len = if waiting > most && most > mss { most / mss * mss } else { waiting.min(most) };
        let last = len == waiting;
        if !last && len < mss && !self.fits_small_window(now, len, pipe, sending) {
            return None;
        }
        if len == 0 && !(fin && last) {
            return None;
        }
        // A FIN may go where the window is full: it takes no memory of the peer.
        Some(Part { seq: self.nxt, len, fin: fin && last, again: false, probe: false })
    }

    /// Silly-window avoidance (RFC 9293 section 3.8.6.2.1): less than a segment goes out only if it is half of all the peer
    /// ever took, or has waited long.
    fn fits_small_window(&mut self, now: Time, len: u32, pipe: u32, sending: &mut Sending<S>) -> bool {
        if len > 0 && (len >= self.window_max / 2 || sending.override_due) {
            return true;
        }
        // What is under way brings news of the window; else a timer asks for it.
        if pipe == 0 && sending.persist_at == Time::NEVER {
            sending.doublings = 0;
            sending.persist_at = now + self.rtt.timeout(0);
        }
        false
    }

    fn note_app_limited(&mut self, pipe: u32, window: u32) {
        if pipe < window {
            self.app_limited = (self.delivered + u64::from(pipe)).max(1);
        }
    }

    /// Bytes one packet may have: more than a segment where they are cut behind us. What is paced goes out in steps of no
    /// more than a millisecond's worth, but of two segments.
    fn burst(&self, shared: &Shared<S>) -> u32 {
        let mss = u32::from(self.mss);
        let Stretch { bytes_max, segments_max } = shared.config.stretch;
        if segments_max <= 1 {
            return mss;
        }
        let most = bytes_max.min(TSO_PACKET_BYTES_MAX - HEADERS_BYTES_MAX).min(mss * u32::from(segments_max));
        let rate = if shared.tuning.pacing { self.congestion.rate(self.rtt.smoothed_ns()) } else { None };
        let step = rate.map_or(u64::MAX, |rate| rate / STEPS_PER_S);
        let most = step.max(2 * u64::from(mss)).min(most.into()) as u32;
        (most / mss * mss).max(mss)
    }

    /// A part sent before: what of it is data, and whether our FIN is behind it.
    fn part_again(&self, seq: Seq, len: u32) -> Part {
        let fin = self.fin_sent && seq + len == self.nxt;
        Part { seq, len: len - u32::from(fin), fin, again: true, probe: false }
    }

    /// What probes the tail: new data if there is any, else the last segment once more (RFC 8985 section 7.3).
    fn tail(&self, sending: &Sending<S>) -> Option<Part> {
        let mss = u32::from(self.mss);
        let waiting = self.end.since(self.nxt.min(self.end));
        let open = (self.una + self.window).since(self.nxt) as i32;
        if waiting > 0 && open > 0 {
            let len = waiting.min(mss).min(open as u32);
            return Some(Part { seq: self.nxt, len, fin: false, again: false, probe: false });
        }
        let last = sending.flight.last()?;
        let len = last.len.min(mss);
        Some(self.part_again(last.end() - len, len))
    }

    /// Whether a part has to wait for its time; answers until when.
    fn pace(&mut self, now: Time, part: Part, sending: &mut Sending<S>, shared: &Shared<S>) -> Option<Time> {
        let rate = self.congestion.rate(self.rtt.smoothed_ns()).filter(|_| shared.tuning.pacing)?;
        let rate = rate.max(u64::from(self.mss));
        let ns = |bytes: u64| bytes.saturating_mul(1_000_000_000) / rate;
        // A first window, or a millisecond's worth, may go at once; the rest follows at its pace.
        let at_once = ns(u64::from(shared.initial_window(self.mss))).max(BURST.as_nanos() as u64);
        let allowed = Time(self.paced.0.saturating_sub(at_once));
        if !allowed.is_due(now) {
            sending.waits_for_pace = true;
            return Some(allowed);
        }
        // What is not sent for want of something to send, or of a window, is not caught up with.
        let late = if sending.waits_for_pace { CATCH_UP.as_nanos() as u64 } else { 0 };
        self.paced = Time(self.paced.0.max(now.0.saturating_sub(late)) + ns(u64::from(part.len)));
        None
    }

    fn send_part(
        &mut self,
        now: Time,
        part: Part,
        sending: &mut Sending<S>,
        shared: &mut Shared<S>,
        out: &mut impl Egress<S>,
    ) {
        let len = part.len + u32::from(part.fin);
        let snapshot = sending.snapshot(now, self.delivered, self.app_limited > 0);
        let mut draft = Draft::new(&self.flow, flag::ACK, part.seq, Some(self.receive.next))
            .with_timestamps(self.timestamps(now, shared));
        self.acknowledge_in(&mut draft, shared);
        draft.payload = part.len as usize;
        let pushed = part.len > 0 && part.seq + part.len == self.end;
        draft.flags |= if part.fin { flag::FIN } else { 0 } | if pushed { flag::PSH } else { 0 };
        if part.again {
            sending.flight.sent_again(part.seq, len, now, snapshot);
            sending.recovery.sent_again(self.stamps.map(|stamps| shared.stamp(stamps.offset, now)));
        } else {
            // What is sent again is not marked (RFC 3168 section 6.1.5).
            draft.ect = self.ecn.on && part.len > 0;
            if draft.ect && std::mem::take(&mut self.ecn.reduced) {
                draft.flags |= flag::CWR;
            }
            if self.una == self.nxt {
                self.waiting = now;
            }
            sending.flight.push(part.seq, len, now, snapshot);
            if part.probe {
                sending.flight.last_is_probe();
            }
            self.nxt = part.seq + len;
            if part.fin {
                self.fin_sent = true;
                self.fin_first = self.state == State::Established;
            }
        }
        sending.recovery.sent(len);
        if self.window > 0 {
            (sending.persist_at, sending.override_due) = (Time::NEVER, false);
        }
        if sending.rto_at == Time::NEVER && sending.persist_at == Time::NEVER {
            sending.rto_at = now + self.rtt.timeout(sending.doublings);
        }
        if !part.again {
            self.set_tail_timer(now, sending);
        }
        self.sent_at = now;
        let segment = if part.probe { part.len as u16 } else { self.mss };
        send_stretch(&draft, part.seq, segment, sending, shared, out);
    }
}

/// Hands out a packet with part of the stream.
fn send_stretch<S: Segment>(
    draft: &Draft,
    seq: Seq,
    mss: u16,
    sending: &Sending<S>,
    shared: &mut Shared<S>,
    out: &mut impl Egress<S>,
) {
    shared.counters.packets_out += 1;
    let segment = if draft.payload > usize::from(mss) { mss } else { 0 };
    let pieces = sending.pieces(seq, draft.payload);
    out.packet(&Outbound::new(draft, pieces, shared.config.tx_checksum_offload, segment));
}
