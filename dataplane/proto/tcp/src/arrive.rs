//! A segment arrives at its connection (RFC 9293 section 3.10.7, RFC 5961, RFC 7323 section 5).
//!
//! In: a segment. Out: bytes in order, events, what is owed to the peer; answers that cannot wait. Part of a connection.

use keyferry_time::Time;

use crate::config::{ACK_DELAY_MAX, CHALLENGE_INTERVAL, FIN_WAIT};
use crate::connection::{Connection, Pending, Shared, Stage, State};
use crate::counters::CloseReason;
use crate::draft::{Draft, flag};
use crate::outbound::Outbound;
use crate::packet::{Header, Options, SynOptions};
use crate::seam::{Egress, Segment};
use crate::sending::Pieces;
use crate::sequence::Seq;

/// How old a timestamp of the peer may be and still tell old segments (RFC 7323 section 5.5).
const RECENT_MAX_NS: u64 = 24 * 24 * 3_600 * 1_000_000_000;

/// Full segments are at least so large: two small ones are not worth an acknowledgement at once.
const SEEN_MIN: u16 = 536;

/// What became of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Taken,
    /// It changed nothing.
    Unacceptable,
    /// Its bytes found no memory: it may be given again once there is some.
    NoMemory,
    /// It ended the connection.
    Ended(CloseReason),
}

impl<S: Segment> Connection<S> {
    /// Takes a segment in.
    pub(crate) fn arrive(
        &mut self,
        now: Time,
        header: &Header,
        packet: &[u8],
        shared: &mut Shared<S>,
        out: &mut impl Egress<S>,
    ) -> Verdict {
        if let Stage::Aborting(_) | Stage::Dead(_) = self.stage {
            return Verdict::Unacceptable;
        }
        if self.state == State::SynSent {
            return self.arrive_in_syn_sent(now, header, packet, shared, out);
        }
        let options = Options::parse(header, packet);
        if let Some(refused) = self.check(now, header, &options, shared, out) {
            return refused;
        }
        self.heard = now;
        self.note_time(now, header, &options);
        if self.state == State::SynReceived {
            if header.acknowledges != self.nxt {
                self.answer(now, reset(&self.flow, header), shared, out);
                return Verdict::Unacceptable;
            }
            self.una = self.nxt;
            self.open(now, header, shared);
        } else if !self.acknowledge(now, header, &options, shared) {
            self.challenge(now, shared, out);
            return Verdict::Unacceptable;
        }
        if self.ecn.on {
            self.ecn.echo = (self.ecn.echo && !header.cwr) || header.ce;
        }
        let verdict =
            self.take_text(now, header, &packet[header.payload_at..][..header.payload], shared, out);
        if self.is_fin_acknowledged() {
            match self.state {
                // LAST-ACK: the peer knows that we have closed too. Where we closed first, our acknowledgement of its FIN
                // is due before: see `settle`.
                State::PeerClosed if !self.fin_first => return Verdict::Ended(CloseReason::Finished),
                State::PeerClosed => {}
                _ => self.fin_wait = self.fin_wait.min(now + FIN_WAIT),
            }
        }
        verdict
    }

    /// Whether a segment may be looked at: in the window, not old, with the flags it must have. Answers what does not
    /// (RFC 9293 section 3.10.7.4, the first four steps).
    fn check(
        &mut self,
        now: Time,
        header: &Header,
        options: &Options,
        shared: &mut Shared<S>,
        out: &mut impl Egress<S>,
    ) -> Option<Verdict> {
        if let Some(stamps) = self.stamps {
            match options.timestamps {
                // PAWS: an old duplicate from before numbers wrapped, or from an earlier connection (RFC 7323 section 5).
                Some(said)
                    if (said.value.wrapping_sub(stamps.recent) as i32) < 0
                        && !header.rst
                        && now.ns_since(stamps.recent_at) < RECENT_MAX_NS =>
                {
                    self.answer_unacceptable(now, header, shared, out);
                    return Some(Verdict::Unacceptable);
                }
                // RFC 7323 section 3.2: whoever agreed to timestamps sends them.
                None if !header.rst => return Some(Verdict::Unacceptable),
                _ => {}
            }
        }
        let next = self.receive.next;
        if !header.is_acceptable(next, self.receive.window()) {
            if !header.rst {
                self.answer_unacceptable(now, header, shared, out);
            }
            return Some(Verdict::Unacceptable);
        }
        if header.rst {
            // RFC 5961 section 3.2: only the exact number ends a connection; another may be a guess.
            if header.seq == next {
                return Some(Verdict::Ended(CloseReason::Reset));
            }
            self.challenge(now, shared, out);
            return Some(Verdict::Unacceptable);
        }
        if header.syn {
            // RFC 5961 section 4.2.
            self.challenge(now, shared, out);
            return Some(Verdict::Unacceptable);
        }
        (!header.ack).then_some(Verdict::Unacceptable)
    }

    /// Takes note of the peer's clock (RFC 7323 section 4.3).
    fn note_time(&mut self, now: Time, header: &Header, options: &Options) {
        if let (Some(stamps), Some(said)) = (&mut self.stamps, options.timestamps)
            && header.seq <= self.acknowledged
            && (said.value.wrapping_sub(stamps.recent) as i32 >= 0
                || now.ns_since(stamps.recent_at) >= RECENT_MAX_NS)
        {
            (stamps.recent, stamps.recent_at) = (said.value, now);
        }
    }

    /// Both SYNs are acknowledged.
    fn open(&mut self, now: Time, header: &Header, shared: &mut Shared<S>) {
        self.state = State::Established;
        self.stage = Stage::Open;
        self.active = now;
        self.retry_at = Time::NEVER;
        // What a SYN says of the window is not scaled.
        let shift = if header.syn { 0 } else { self.peer_shift };
        self.window = u32::from(header.window) << shift;
        self.window_max = self.window;
        self.window_seq = header.seq;
        if self.tries == 1 {
            self.rtt.sample(now.0, now.ns_since(self.sent_at));
        }
        self.tries = 0;
        self.pending.add(Pending::OPENED);
        shared.counters.opened += 1;
    }

    /// RFC 9293 section 3.10.7.3.
    fn arrive_in_syn_sent(
        &mut self,
        now: Time,
        header: &Header,
        packet: &[u8],
        shared: &mut Shared<S>,
        out: &mut impl Egress<S>,
    ) -> Verdict {
        let acknowledges = header.ack && header.acknowledges == self.nxt;
        if header.ack && !acknowledges {
            if !header.rst {
                self.answer(now, reset(&self.flow, header), shared, out);
            }
            return Verdict::Unacceptable;
        }
        if header.rst {
            return if acknowledges { Verdict::Ended(CloseReason::Reset) } else { Verdict::Unacceptable };
        }
        if !header.syn {
            return Verdict::Unacceptable;
        }
        let options = SynOptions::parse(header, packet);
        // RFC 3168 section 6.1.1: a SYN-ACK agrees with one flag; a SYN asks with two.
        let ecn = shared.tuning.ecn && header.ece && header.cwr != acknowledges;
        let tries = self.tries;
        self.greet(header.seq, options, ecn, now, shared);
        self.tries = tries;
        if acknowledges {
            self.una = self.nxt;
            self.open(now, header, shared);
            self.owed.now = true;
        } else {
            // Both ends began at once (RFC 9293 section 3.5).
            self.state = State::SynReceived;
            self.retry_at = now;
            return Verdict::Taken;
        }
        let text = &packet[header.payload_at..][..header.payload];
        self.take_text(now, header, text, shared, out)
    }

    /// The segment's bytes and its FIN (RFC 9293 section 3.10.7.4, the last steps).
    fn take_text(
        &mut self,
        now: Time,
        header: &Header,
        payload: &[u8],
        shared: &mut Shared<S>,
        out: &mut impl Egress<S>,
    ) -> Verdict {
        if self.state == State::PeerClosed {
            // Nothing is of the stream behind its end; a FIN that comes again was answered as unacceptable.
            return Verdict::Taken;
        }
        let start = if header.syn { header.seq + 1 } else { header.seq };
        let mut payload = payload;
        if header.fin {
            self.peer_end.get_or_insert(start + payload.len() as u32);
        }
        if let Some(end) = self.peer_end {
            // What claims to stand behind the end is not of the stream.
            let most = if start < end { end.since(start) } else { 0 };
            payload = &payload[..payload.len().min(most as usize)];
        }
        let mut verdict = Verdict::Taken;
        if !payload.is_empty() {
            verdict = self.take_payload(now, start, payload, shared, out);
        } else if header.fin && start > self.receive.next {
            self.acknowledge_at_once(now, shared, out);
        }
        if self.peer_end == Some(self.receive.next) {
            self.receive.end();
            self.state = State::PeerClosed;
            self.owed.now = true;
            self.active = now;
            if self.stage == Stage::Open {
                self.pending.add(Pending::EOF);
            }
        }
        verdict
    }

    fn take_payload(
        &mut self,
        now: Time,
        start: Seq,
        payload: &[u8],
        shared: &mut Shared<S>,
        out: &mut impl Egress<S>,
    ) -> Verdict {
        self.seen_mss = self.seen_mss.max(payload.len().min(usize::from(self.path_mtu)) as u16);
        let taken = self.receive.take(start, payload, &mut shared.buffers);
        if taken.joined > 0 {
            self.active = now;
            self.owed.bytes += taken.joined;
            match self.stage {
                Stage::Open => self.pending.add(Pending::READABLE),
                // Nobody reads: what comes is discarded, and the window stays open.
                _ => {
                    let unread = self.receive.unread();
                    self.receive.consume(now, unread, self.rtt.smoothed_ns(), &mut shared.buffers);
                }
            }
        }
        if taken.refused && taken.joined == 0 {
            self.owed.now = true;
            return Verdict::NoMemory;
        }
        if taken.urgent && self.receive.has_hole() {
            // Each segment out of order is answered (RFC 5681 section 4.2): the peer counts them.
            self.acknowledge_at_once(now, shared, out);
        } else if taken.urgent || self.owed.bytes >= 2 * u32::from(self.seen_mss.max(SEEN_MIN)) {
            self.owed.now = true;
        } else if self.owed.at == Time::NEVER {
            self.owed.at = now + shared.tuning.ack_delay.min(ACK_DELAY_MAX);
        }
        Verdict::Taken
    }

    fn acknowledge_at_once(&mut self, now: Time, shared: &mut Shared<S>, out: &mut impl Egress<S>) {
        if out.room() {
            let draft = self.draft_ack(now, shared);
            send(&draft, shared, out);
        } else {
            self.owed.now = true;
        }
    }

    /// Answers a segment that lies outside of the window (RFC 9293 section 3.10.7.4). One that carries something is
    /// answered each time: its sender waits for it.
    fn answer_unacceptable(
        &mut self,
        now: Time,
        header: &Header,
        shared: &mut Shared<S>,
        out: &mut impl Egress<S>,
    ) {
        if header.len() == 0 || header.syn {
            if !self.may_challenge(now) {
                return;
            }
        } else if header.payload > 0 && header.seq < self.receive.next {
            let end = header.seq + header.payload as u32;
            // A segment that came twice is told (RFC 2883), which tells the peer that it was too quick.
            self.receive.note_duplicate(header.seq, end.min(self.receive.next));
        }
        let mut draft = self.draft_ack(now, shared);
        // A peer that took its window back takes no number beyond it, not even for an acknowledgement: see `bare_seq`.
        let valid = header.ack && self.una <= header.acknowledges && header.acknowledges <= self.nxt;
        if valid {
            let end = header.acknowledges + (u32::from(header.window) << self.peer_shift);
            draft.seq = draft.seq.min(end.max(header.acknowledges));
        }
        self.answer(now, draft, shared, out);
    }

    fn may_challenge(&mut self, now: Time) -> bool {
        let may = self.challenge_at.is_due(now);
        if may {
            self.challenge_at = now + CHALLENGE_INTERVAL;
        }
        may
    }

    /// Tells the peer where we stand, so that it can prove that it is the peer (RFC 5961).
    fn challenge(&mut self, now: Time, shared: &mut Shared<S>, out: &mut impl Egress<S>) {
        if self.may_challenge(now) {
            let draft = self.draft_ack(now, shared);
            self.answer(now, draft, shared, out);
        }
    }

    fn answer(&mut self, _: Time, draft: Draft, shared: &mut Shared<S>, out: &mut impl Egress<S>) {
        if out.room() {
            send(&draft, shared, out);
        } else {
            // The peer's retransmission asks for it again.
            shared.counters.drop(crate::DropReason::NoRoom);
        }
    }

    /// The number of a segment without payload.
    ///
    /// A peer short of memory may take its window back (RFC 9293 section 3.8.6; Linux does) and with it what it was
    /// sent: it then takes no segment beyond the new window, not even for what it acknowledges, and each side would
    /// send again what the other has long had. A reset has to be exact (RFC 5961 section 3): what scaling may have
    /// rounded off the window does not count for it.
    pub(crate) fn bare_seq(&self, rst: bool) -> Seq {
        let end = self.una + self.window;
        let rounded = if rst { (1 << self.peer_shift) - 1 } else { 0 };
        if self.nxt > end + rounded { end } else { self.nxt }
    }

    /// An acknowledgement of all there is, after which nothing is owed.
    pub(crate) fn draft_ack(&mut self, now: Time, shared: &Shared<S>) -> Draft {
        let blocks = if self.sack { self.receive.blocks() } else { Default::default() };
        let mut draft = Draft::new(&self.flow, 0, self.bare_seq(false), Some(self.receive.next))
            .with_timestamps(self.timestamps(now, shared))
            .with_sack(&blocks);
        self.acknowledge_in(&mut draft, shared);
        draft
    }

    /// Makes a segment acknowledge all there is.
    pub(crate) fn acknowledge_in(&mut self, draft: &mut Draft, shared: &Shared<S>) {
        draft.ack = self.receive.next;
        draft.window = self.receive.offer(u32::from(self.seen_mss.max(self.mss)), &shared.buffers);
        if self.ecn.echo {
            draft.flags |= flag::ECE;
        }
        self.acknowledged = self.receive.next;
        self.owed = crate::connection::Owed { now: false, at: Time::NEVER, bytes: 0 };
    }
}

/// The answer to a segment of no connection, or to one that acknowledges what was never sent (RFC 9293 section 3.10.7.1).
pub(crate) fn reset(flow: &crate::flow::Flow, header: &Header) -> Draft {
    if header.ack {
        Draft::new(flow, flag::RST, header.acknowledges, None)
    } else {
        Draft::new(flow, flag::RST, Seq(0), Some(header.seq + header.len()))
    }
}

/// Hands a segment without payload out; there is room.
pub(crate) fn send<S: Segment>(draft: &Draft, shared: &mut Shared<S>, out: &mut impl Egress<S>) {
    shared.counters.packets_out += 1;
    let offload = shared.config.tx_checksum_offload;
    out.packet(&Outbound::new(draft, Pieces::none(), offload, 0));
}
