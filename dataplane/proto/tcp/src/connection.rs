//! One connection: its transmission control block (RFC 9293 section 3.3.1).
//!
//! In: what was agreed in a handshake. Out: the state that `arrive`, `acknowledge`, `transmit` and `timeouts` move.
//! What it needs only while bytes are under way, or unread, is elsewhere and recycled, so that an idle one costs a few
//! hundred bytes. Owned by a worker's TCP.

use std::time::Duration;

use keyferry_time::Time;

use crate::buffers::Buffers;
use crate::config::{Config, SEGMENTS_GROWN_MAX, SEGMENTS_MAX, Tuning};
use crate::congestion::{Congestion, initial_window};
use crate::counters::{CloseReason, Counters};
use crate::draft::{TCP_HEADER_BYTES, TIMESTAMPS_BYTES, ip_header_bytes};
use crate::flow::{Flow, Secret};
use crate::half_open::HalfOpen;
use crate::packet::{Mark, SynOptions, Timestamps};
use crate::path_mtu::Search;
use crate::rack::Reordering;
use crate::receive::Receive;
use crate::rtt::Rtt;
use crate::seam::Segment;
use crate::sending::Sending;
use crate::sequence::Seq;

/// Where a connection is between the caller and its peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Begun by the caller, and not yet taken by the peer.
    Connecting,
    /// The caller may receive and send.
    Open,
    /// Closed by the caller: what is queued goes out, then FIN; what comes in is discarded.
    Closing,
    /// RST goes out, then it is dead for this reason.
    Aborting(CloseReason),
    /// Only its last event and its segments are left.
    Dead(CloseReason),
}

/// Which of the two ends are known (RFC 9293 section 3.3.2). What the caller wants is the [`Stage`]; whether our FIN is
/// out and acknowledged follows from the numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Our SYN is out.
    SynSent,
    /// Both SYNs are out, and ours is not acknowledged.
    SynReceived,
    /// The peer may send more: ESTABLISHED, FIN-WAIT-1, FIN-WAIT-2.
    Established,
    /// The peer's FIN was taken: CLOSE-WAIT, LAST-ACK, CLOSING, TIME-WAIT.
    PeerClosed,
}

/// Events of a connection not yet given to the caller, in the order they are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pending(u8);

impl Pending {
    pub(crate) const OPENED: u8 = 1;
    pub(crate) const READABLE: u8 = 2;
    pub(crate) const WRITABLE: u8 = 4;
    pub(crate) const EOF: u8 = 8;
    pub(crate) const CLOSED: u8 = 16;

    pub(crate) fn add(&mut self, event: u8) {
        self.0 |= event;
    }

    pub(crate) fn remove(&mut self, events: u8) {
        self.0 &= !events;
    }

    /// The first one.
    pub(crate) fn first(self) -> Option<u8> {
        (self.0 != 0).then(|| 1 << self.0.trailing_zeros())
    }
}

/// What all connections of a worker share.
pub(crate) struct Shared<S> {
    pub(crate) config: Config,
    pub(crate) tuning: Tuning,
    pub(crate) secret: Secret,
    pub(crate) counters: Counters,
    pub(crate) buffers: Buffers,
    #[allow(clippy::vec_box, reason = "the boxes are what is recycled")]
    sendings: Vec<Box<Sending<S>>>,
    /// Bits our windows are shifted by.
    pub(crate) shift: u8,
    /// Bytes queued by all connections.
    pub(crate) queued: usize,
    /// When time was told last.
    pub(crate) now: Time,
}

/// A duration in nanoseconds: some five hundred years at most, which is for ever.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The shift that a window of so many bytes needs (RFC 7323 section 2.3).
fn window_scale(bytes: usize) -> u8 {
    let bits = (usize::BITS - bytes.leading_zeros()).saturating_sub(16);
    bits.min(u32::from(crate::packet::WINDOW_SCALE_MAX)) as u8
}

impl<S: Segment> Shared<S> {
    pub(crate) fn new(config: Config, tuning: Tuning) -> Shared<S> {
        let most = tuning.receive_bytes_max.max(config.receive_bytes);
        let shift = window_scale(most);
        let slack = 1 << shift;
        let base = (config.receive_bytes + slack) * config.connections as usize;
        let budget = tuning.receive_budget_bytes.unwrap_or(base + (64 << 20));
        Shared {
            secret: Secret::new(config.seed),
            buffers: Buffers::new(config.receive_bytes, most, slack, budget),
            counters: Counters::default(),
            sendings: Vec::new(),
            shift,
            queued: 0,
            now: Time::ZERO,
            config,
            tuning,
        }
    }

    pub(crate) fn take_sending(&mut self, reordering: Reordering) -> Box<Sending<S>> {
        let mut sending = self.sendings.pop().unwrap_or_default();
        sending.rack.reordering = reordering;
        sending
    }

    pub(crate) fn give_sending(&mut self, mut sending: Box<Sending<S>>) {
        sending.clear();
        self.sendings.push(sending);
    }

    /// The window a SYN offers, which is not scaled.
    pub(crate) fn syn_window(&self) -> u16 {
        u16::try_from(self.config.receive_bytes).unwrap_or(u16::MAX)
    }

    /// The largest segment we take, as a SYN says it (RFC 9293 section 3.7.1).
    pub(crate) fn mss(&self, flow: &Flow) -> u16 {
        self.config.mtu - (ip_header_bytes(flow.peer.ip()) + TCP_HEADER_BYTES) as u16
    }

    /// Bytes of a first window.
    pub(crate) fn initial_window(&self, mss: u16) -> u32 {
        initial_window(self.tuning.initial_segments, u32::from(mss))
    }

    /// A flow's clock of timestamps: milliseconds from where an outsider cannot foresee (RFC 7323 section 7.1).
    pub(crate) fn stamp(&self, flow_offset: u32, now: Time) -> u32 {
        flow_offset.wrapping_add((now.0 / 1_000_000) as u32)
    }
}

/// Both ends use timestamps (RFC 7323 section 3).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamps {
    /// Of our clock.
    pub(crate) offset: u32,
    /// What the peer said last (TS.Recent), and when we heard.
    pub(crate) recent: u32,
    pub(crate) recent_at: Time,
}

/// What we owe the peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owed {
    /// An acknowledgement goes out with the next visit.
    pub(crate) now: bool,
    /// Or at this time.
    pub(crate) at: Time,
    /// Bytes taken since the last one.
    pub(crate) bytes: u32,
}

/// Explicit congestion notification (RFC 3168 section 6.1).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ecn {
    pub(crate) on: bool,
    /// A packet came marked; said until the peer answers.
    pub(crate) echo: bool,
    /// We have reduced our window, and say so with the next new data.
    pub(crate) reduced: bool,
    /// Marks of what was sent before this number have been answered for.
    pub(crate) until: Seq,
}

pub(crate) struct Connection<S> {
    pub(crate) flow: Flow,
    pub(crate) hash: u32,
    pub(crate) stage: Stage,
    pub(crate) state: State,
    pub(crate) pending: Pending,
    /// The peer began it.
    pub(crate) passive: bool,
    /// A segment was refused since the queue was full.
    pub(crate) refused: bool,
    /// The caller waits until all that is queued may go out.
    pub(crate) sated: bool,
    /// The caller sent something since: that counts as progress, at the next visit.
    pub(crate) touched: bool,
    /// Both ends take selective acknowledgements.
    pub(crate) sack: bool,
    /// Our FIN is in the stream, behind `end`, and was sent.
    pub(crate) fin_sent: bool,
    /// It was sent before the peer's came.
    pub(crate) fin_first: bool,
    /// The window kept more from being sent.
    pub(crate) limited: bool,
    /// Bits the peer's windows are shifted by.
    pub(crate) peer_shift: u8,
    /// Tries of a SYN or a probe.
    pub(crate) tries: u8,
    /// Bytes of payload a segment to the peer may have, options of every segment taken off; what it said, and the
    /// largest packet the path takes.
    pub(crate) mss: u16,
    pub(crate) peer_mss: u16,
    pub(crate) path_mtu: u16,
    /// How the search for a larger one goes.
    pub(crate) search: Search,
    /// The largest payload the peer has sent.
    pub(crate) seen_mss: u16,
    /// Oldest number not acknowledged, next one to send, end of what is queued (SND.UNA, SND.NXT).
    pub(crate) una: Seq,
    pub(crate) nxt: Seq,
    pub(crate) end: Seq,
    /// What the peer takes, from `una` on (SND.WND), the most it ever took, and the segment that told (SND.WL1).
    pub(crate) window: u32,
    pub(crate) window_max: u32,
    pub(crate) window_seq: Seq,
    pub(crate) receive: Receive,
    /// Where the peer's FIN stands, if it came.
    pub(crate) peer_end: Option<Seq>,
    /// The number acknowledged last.
    pub(crate) acknowledged: Seq,
    pub(crate) owed: Owed,
    pub(crate) stamps: Option<Stamps>,
    pub(crate) ecn: Ecn,
    pub(crate) rtt: Rtt,
    pub(crate) congestion: Congestion,
    pub(crate) sending: Option<Box<Sending<S>>>,
    /// What was learnt while there was one.
    pub(crate) reordering: Reordering,
    /// Bytes queued and not acknowledged.
    pub(crate) queued: usize,
    /// Bytes delivered in all; and by when the caller last had less to send than the window takes, 0 if it has more.
    pub(crate) delivered: u64,
    pub(crate) app_limited: u64,
    /// When what was sent is out at the pace there is.
    pub(crate) paced: Time,
    /// When something was sent last that takes a number.
    pub(crate) sent_at: Time,
    /// How long it may be idle; `u64::MAX`: for ever, as long as none of our data is outstanding.
    pub(crate) idle_ns: u64,
    /// When the handshake began, or when there was progress last.
    pub(crate) active: Time,
    /// When the peer was heard last.
    pub(crate) heard: Time,
    /// When a SYN, or a probe of a silent peer, is sent next.
    pub(crate) retry_at: Time,
    /// Since when our data waits to be acknowledged, for the user time-out.
    pub(crate) waiting: Time,
    /// When the half-closed connection is given up.
    pub(crate) fin_wait: Time,
    /// When an answer to an unacceptable segment may be sent again.
    pub(crate) challenge_at: Time,
    /// What its timer is set for.
    pub(crate) armed: Time,
}

impl<S: Segment> Connection<S> {
    /// A connection whose handshake has just been completed by the peer.
    pub(crate) fn accept(half_open: &HalfOpen, now: Time, shared: &Shared<S>) -> Connection<S> {
        let HalfOpen { flow, hash, since, ours, .. } = *half_open;
        let mut connection = Connection::new(flow, hash, ours, since, shared);
        connection.greet(half_open.theirs, half_open.options, half_open.ecn, now, shared);
        connection.una = ours + 1;
        connection.passive = true;
        connection.stage = Stage::Open;
        connection.state = State::Established;
        connection.active = now;
        connection.pending.add(Pending::OPENED);
        if half_open.is_first_try() {
            connection.rtt.sample(now.0, now.ns_since(since));
        }
        connection
    }

    /// A connection that is about to send a SYN with the number `ours`.
    pub(crate) fn new(flow: Flow, hash: u32, ours: Seq, now: Time, shared: &Shared<S>) -> Connection<S> {
        let mss = 536;
        Connection {
            flow,
            hash,
            stage: Stage::Connecting,
            state: State::SynSent,
            pending: Pending::default(),
            passive: false,
            refused: false,
            sated: false,
            touched: false,
            sack: false,
            fin_sent: false,
            fin_first: false,
            limited: false,
            peer_shift: 0,
            tries: 0,
            mss,
            peer_mss: mss,
            path_mtu: shared.config.mtu,
            search: Search::OVER,
            seen_mss: 0,
            una: ours,
            nxt: ours + 1,
            end: ours + 1,
            window: 0,
            window_max: 0,
            window_seq: Seq(0),
            receive: Receive::new(Seq(0), 0, 0),
            peer_end: None,
            acknowledged: Seq(0),
            owed: Owed { now: false, at: Time::NEVER, bytes: 0 },
            stamps: None,
            ecn: Ecn { until: ours, ..Ecn::default() },
            rtt: Rtt::default(),
            congestion: Congestion::new(shared.tuning.congestion, shared.initial_window(mss)),
            sending: None,
            reordering: Reordering::default(),
            queued: 0,
            delivered: 0,
            app_limited: 0,
            paced: Time::ZERO,
            sent_at: now,
            idle_ns: nanoseconds(shared.config.idle_timeout),
            active: now,
            heard: now,
            retry_at: now,
            waiting: Time::NEVER,
            fin_wait: Time::NEVER,
            challenge_at: Time::ZERO,
            armed: Time::NEVER,
        }
    }

    /// Takes note of what the peer's SYN says.
    pub(crate) fn greet(
        &mut self,
        theirs: Seq,
        options: SynOptions,
        ecn: bool,
        now: Time,
        shared: &Shared<S>,
    ) {
        let scaled = options.window_scale.is_some();
        let shift = if scaled { shared.shift } else { 0 };
        self.receive = Receive::new(theirs + 1, u32::from(shared.syn_window()), shift);
        self.acknowledged = theirs + 1;
        self.peer_shift = options.window_scale.unwrap_or(0);
        self.sack = options.sack;
        self.stamps = options.timestamps.map(|said| Stamps {
            offset: shared.secret.stamp(&self.flow),
            recent: said.value,
            recent_at: now,
        });
        self.ecn.on = ecn;
        self.window = u32::from(options.window);
        self.window_max = self.window;
        self.window_seq = theirs;
        self.peer_mss = peer_mss(&self.flow, options.mss);
        self.size_segments();
        self.congestion = Congestion::new(shared.tuning.congestion, shared.initial_window(self.mss));
        self.retry_at = Time::NEVER;
        self.tries = 0;
        self.heard = now;
    }

    /// Bytes of payload that fit the path and the peer.
    pub(crate) fn size_segments(&mut self) {
        let headers = ip_header_bytes(self.flow.peer.ip()) + TCP_HEADER_BYTES;
        let options = if self.stamps.is_some() { TIMESTAMPS_BYTES } else { 0 };
        self.mss = self.peer_mss.min(self.path_mtu - headers as u16) - options as u16;
    }

    /// What a segment sent now says of time.
    pub(crate) fn timestamps(&self, now: Time, shared: &Shared<S>) -> Option<Timestamps> {
        self.stamps.map(|stamps| Timestamps { value: shared.stamp(stamps.offset, now), echo: stamps.recent })
    }

    /// Whether our FIN was sent and acknowledged.
    pub(crate) fn is_fin_acknowledged(&self) -> bool {
        self.fin_sent && self.una == self.nxt
    }

    /// Whether both ends are closed and acknowledged: all that is left is to answer a FIN that comes again.
    pub(crate) fn is_time_wait(&self) -> bool {
        self.state == State::PeerClosed && self.stage == Stage::Closing && self.is_fin_acknowledged()
    }

    /// How far it has come.
    pub(crate) fn mark(&self) -> Mark {
        Mark { seq: self.nxt, ack: self.receive.next, recent: self.stamps.map(|stamps| stamps.recent) }
    }

    /// Whether anything of ours is not acknowledged.
    pub(crate) fn is_outstanding(&self) -> bool {
        self.una != self.end || (self.stage == Stage::Closing && !self.is_fin_acknowledged())
    }

    /// Bytes it may queue: more where the window has shown that more is under way, if the worker has memory for it.
    pub(crate) fn queue_limit(&self, shared: &Shared<S>) -> usize {
        let base = shared.config.send_bytes;
        let window = self.congestion.window_to_queue();
        let grown = window > shared.initial_window(self.mss);
        if grown && shared.queued < shared.tuning.send_budget_bytes {
            base.max(2 * window as usize)
        } else {
            base
        }
    }

    /// Whether another segment may be queued.
    pub(crate) fn takes(&self, shared: &Shared<S>) -> bool {
        let segments = self.sending.as_ref().map_or(0, |sending| sending.segments());
        segments < SEGMENTS_MAX || (segments < SEGMENTS_GROWN_MAX && self.queued < self.queue_limit(shared))
    }

    /// Whether both windows let all out that is queued.
    pub(crate) fn is_hungry(&self) -> bool {
        let Some(sending) = &self.sending else { return true };
        let unsent = self.end.since(self.nxt.min(self.end));
        let taken = (self.una + self.window).since(self.nxt) as i32;
        let room = self.send_window(sending).saturating_sub(self.pipe(sending));
        unsent <= room.min(taken.max(0) as u32)
    }

    /// Bytes queued beyond what it may have under way.
    pub(crate) fn unsent(&self, shared: &Shared<S>) -> usize {
        self.queued.saturating_sub(self.queue_limit(shared))
    }

    /// Segments that wait to be collected.
    pub(crate) fn done(&self) -> usize {
        self.sending.as_ref().map_or(0, |sending| sending.done())
    }

    /// Gives back what an idle connection does not need. Our end may still wait for its pace.
    pub(crate) fn rest(&mut self, shared: &mut Shared<S>) {
        if self.stage != Stage::Closing || self.is_fin_acknowledged() {
            self.put_away(shared);
        }
    }

    /// Gives back what it sent with, if that is empty.
    pub(crate) fn put_away(&mut self, shared: &mut Shared<S>) {
        if self.sending.as_ref().is_some_and(|sending| sending.is_over())
            && let Some(sending) = self.sending.take()
        {
            self.reordering = sending.rack.reordering;
            shared.give_sending(sending);
        }
    }

    /// When the connection ends by itself unless something happens, and how.
    pub(crate) fn deadline(&self, config: &Config, tuning: &Tuning) -> Option<(Time, CloseReason)> {
        match self.stage {
            Stage::Connecting => Some((self.active + config.half_open_timeout, CloseReason::IdleTimeout)),
            Stage::Open | Stage::Closing => {
                let idle_ns = match self.idle_ns {
                    // A peer that takes nothing is given up all the same.
                    u64::MAX if self.is_outstanding() || self.stage == Stage::Closing => {
                        nanoseconds(config.idle_timeout)
                    }
                    idle_ns => idle_ns,
                };
                let idle = self.active + Duration::from_nanos(idle_ns);
                let user = tuning.user_timeout.filter(|_| self.is_outstanding());
                let user = user.map_or(Time::NEVER, |timeout| self.waiting + timeout);
                let idle = (idle.min(user), CloseReason::IdleTimeout);
                let fin_wait = (self.fin_wait, CloseReason::FinWaitTimeout);
                Some(if idle.0 <= fin_wait.0 { idle } else { fin_wait })
            }
            Stage::Aborting(_) | Stage::Dead(_) => None,
        }
    }
}

/// Segments that are too small to be meant (RFC 9293 section 3.7.1 sets no bound; a window of few bytes would be cut
/// into a packet for each).
const PEER_MSS_MIN: u16 = 48;

/// The largest segment the peer takes; without the option what every host takes (RFC 9293 section 3.7.1).
fn peer_mss(flow: &Flow, said: Option<u16>) -> u16 {
    let default = if flow.peer.is_ipv4() { 536 } else { 1_220 };
    said.filter(|mss| *mss > 0).unwrap_or(default).max(PEER_MSS_MIN)
}

/// An idle connection costs this and its place in a few tables.
const IDLE_BYTES_MAX: usize = 480;
const _: () = assert!(size_of::<Connection<[u8; 64]>>() <= IDLE_BYTES_MAX);
