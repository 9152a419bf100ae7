//! Timers of a connection that are due: the retransmission time-out (RFC 6298), the probe of the tail and the look at what
//! was overtaken (RFC 8985), probes of a closed window (RFC 9293 section 3.8.6.1) and of a silent peer (section 3.8.4).
//!
//! In: the time. Out: what is to be sent, as marks for `transmit`. Part of a connection.

use std::time::Duration;

use keyferry_time::Time;

use crate::connection::{Connection, Shared, Stage, State};
use crate::counters::CloseReason;
use crate::rack::Path;
use crate::recovery::Phase;
use crate::rtt::RTO_INITIAL;
use crate::seam::Segment;
use crate::sending::Sending;

/// What a peer may delay an acknowledgement by where one segment is under way (RFC 8985 section 7.2, WCDelAckT).
const PEER_ACK_DELAY: Duration = Duration::from_millis(200);

/// Least time before the tail is probed: below it a probe would race the peer's own timers.
const TAIL_MIN: Duration = Duration::from_millis(10);

impl<S: Segment> Connection<S> {
    /// Marks what is due. Answers why the connection is over, if a timer says so.
    pub(crate) fn fire(&mut self, now: Time, shared: &mut Shared<S>) -> Option<CloseReason> {
        if let Some(mut sending) = self.sending.take() {
            if sending.next_timer().is_due(now) {
                self.fire_sending(now, &mut sending);
                if sending.flight.take_lost_probe() {
                    self.larger_is_lost(now);
                }
                shared.counters.path_mtu_suspected += u64::from(std::mem::take(&mut sending.suspected));
            }
            self.sending = Some(sending);
        }
        if self.owed.at.is_due(now) {
            self.owed.now = true;
        }
        if matches!(self.state, State::Established | State::PeerClosed) {
            return self.keep_alive(now, shared);
        }
        None
    }

    /// When a silent peer is probed next; answers that it has been silent for too long.
    fn keep_alive(&mut self, now: Time, shared: &Shared<S>) -> Option<CloseReason> {
        let wanted = self.stage == Stage::Open && !self.is_outstanding();
        let Some(keep_alive) = shared.tuning.keep_alive.filter(|_| wanted) else {
            (self.retry_at, self.tries) = (Time::NEVER, 0);
            return None;
        };
        let first = self.heard + keep_alive.after;
        if self.tries == 0 || first > self.retry_at {
            (self.retry_at, self.tries) = (first, 0);
        }
        let silent = self.retry_at.is_due(now) && self.tries >= keep_alive.probes;
        silent.then_some(CloseReason::IdleTimeout)
    }

    fn fire_sending(&mut self, now: Time, sending: &mut Sending<S>) {
        if sending.reorder_at.is_due(now) {
            sending.reorder_at = Time::NEVER;
            let path = Path {
                min_rtt_ns: self.rtt.min_ns(),
                smoothed_ns: self.rtt.smoothed_ns(),
                recovering: sending.recovery.is_on(),
            };
            let (lost, again) = sending.rack.detect(&mut sending.flight, now, path);
            sending.reorder_at = again.unwrap_or(Time::NEVER);
            if lost > 0 && !sending.recovery.is_on() {
                self.begin_recovery(now, sending);
            }
        }
        if sending.persist_at.is_due(now) {
            // A window that is small and not closed takes what fits it; that nothing was sent for so long is no time-out.
            (sending.persist_due, sending.override_due) = (self.window == 0, self.window > 0);
            if sending.persist_due {
                sending.doublings = sending.doublings.saturating_add(1);
            }
            sending.persist_at = now + self.rtt.timeout(sending.doublings);
        }
        if sending.tail_at.is_due(now) {
            sending.tail_at = Time::NEVER;
            sending.tail_due = true;
            sending.rto_at = now + self.rtt.timeout(sending.doublings);
        } else if sending.rto_at.is_due(now) {
            self.time_out(now, sending);
        }
    }

    /// RFC 6298 sections 5.4 to 5.7.
    fn time_out(&mut self, now: Time, sending: &mut Sending<S>) {
        if sending.flight.is_empty() {
            sending.rto_at = Time::NEVER;
            return;
        }
        let mss = u32::from(self.mss);
        if sending.recovery.phase != Phase::Loss {
            let before = self.congestion.before();
            let (flight, pipe) = (sending.flight.bytes(), sending.flight.pipe());
            self.congestion.timed_out(now, mss);
            sending.recovery.begin(Phase::Loss, self.nxt, flight, pipe, mss, before);
        } else {
            // Of the same loss: the window was reduced for it already (RFC 5681 section 3.1).
            sending.recovery.end = self.nxt;
        }
        sending.flight.lose_all();
        sending.probe = None;
        sending.tail_at = Time::NEVER;
        sending.doublings = sending.doublings.saturating_add(1);
        sending.rto_at = now + self.rtt.timeout(sending.doublings);
        self.limited = true;
        sending.suspected = self.black_hole(now, sending);
    }

    /// When the tail is probed unless something is heard (RFC 8985 section 7.2): not in a recovery, and not where the peer
    /// could not tell what arrived.
    pub(crate) fn set_tail_timer(&mut self, now: Time, sending: &mut Sending<S>) {
        sending.tail_at = Time::NEVER;
        let quiet = sending.recovery.phase == Phase::Open && sending.probe.is_none() && self.window > 0;
        if !self.sack || !quiet || sending.flight.is_empty() || sending.flight.sacked() > 0 {
            return;
        }
        let mut wait =
            if self.rtt.is_known() { Duration::from_nanos(2 * self.rtt.smoothed_ns()) } else { RTO_INITIAL };
        if sending.flight.bytes() <= u32::from(self.mss) {
            wait += PEER_ACK_DELAY;
        }
        let at = now + wait.max(TAIL_MIN);
        if at < sending.rto_at {
            sending.tail_at = at;
        }
    }

    /// When the connection wants to be visited next, but for its deadline.
    pub(crate) fn next_timer(&self) -> Time {
        let sending = self.sending.as_ref().map_or(Time::NEVER, |sending| sending.next_timer());
        sending.min(self.owed.at).min(self.retry_at)
    }
}
