//! What keeps floods and slow clients from holding what others need: budgets of a turn, and who is let go when
//! something runs short.
//!
//! In: what a connection waits for, or holds while it waits for its client. Out: connections let go, oldest claim first,
//! each counted. A client that makes progress is never let go before one that does not. Owned by a worker.

use std::time::Duration;

use keyferry_app::App;
use keyferry_nic::Nic;
use keyferry_tcp::{ConnId, List};
use keyferry_time::Time;

use crate::answer::Why;
use crate::conn::{Conn, Reply, Seek, Tls};
use crate::turn::Worker;

/// Handshake records taken in a turn: each may cost a signature and a key exchange, 0.3 ms with RSA, and established
/// connections wait meanwhile. Those beyond stay in TCP's memory and have their turn in the order they came.
pub const HANDSHAKE_RECORDS_A_TURN: usize = 8;

/// Records of established connections taken in a turn, so that tiny ones cannot make a turn long.
pub const RECORDS_A_TURN: usize = 1024;

/// Records of one connection taken in before others have their turn.
pub const RECORDS_A_VISIT: usize = 64;

/// How long a client may hold a buffer that others wait for: longer than most of the Internet's round trips.
pub const PATIENCE: Duration = Duration::from_millis(250);

/// Connections let go in a turn for want of buffers, at most: what they held comes back during the turn.
pub const SHED_A_TURN: usize = 8;

/// Records a handshake's flight may need: certificate chains rarely fill one.
pub const FLIGHT_RECORDS: usize = 4;

/// One in this many connections is kept free for newcomers by letting go of those that never said anything.
const RESERVE_SHARE: u32 = 16;

const _: () = assert!(RECORDS_A_VISIT <= RECORDS_A_TURN);

/// Connections by what is known against them. Each list holds a connection at most once, the oldest claim first.
pub(crate) struct Shed {
    /// No TLS handshake done (on a plain listener: no request yet).
    pub(crate) unproven: List,
    /// A TLS handshake under way.
    pub(crate) handshakes: List,
    /// Handshake records came and wait for a turn's budget.
    pub(crate) hellos: List,
    /// Buffers are held and the client is waited for: a request or record comes slowly, or a reply is not read.
    pub(crate) holding: List,
    /// Left of this turn's budgets.
    pub(crate) handshake_records: usize,
    pub(crate) records: usize,
    sheds: usize,
}

impl Shed {
    pub(crate) fn new(connections: u32) -> Shed {
        let list = || List::new(connections, keyferry_nic::prefer_hugepages);
        Shed {
            unproven: list(),
            handshakes: list(),
            hellos: list(),
            holding: list(),
            handshake_records: 0,
            records: 0,
            sheds: 0,
        }
    }

    /// A new turn, with new budgets.
    pub(crate) fn begin(&mut self) {
        self.handshake_records = HANDSHAKE_RECORDS_A_TURN;
        self.records = RECORDS_A_TURN;
        self.sheds = SHED_A_TURN;
    }

    /// A connection's handshake is done: it is somebody.
    pub(crate) fn proven(&mut self, index: usize) {
        for list in [&mut self.unproven, &mut self.handshakes, &mut self.hellos] {
            list.remove(index as u32);
        }
    }

    pub(crate) fn forget(&mut self, index: usize) {
        self.proven(index);
        self.holding.remove(index as u32);
    }
}

/// Whether a connection holds buffers of the worker's pools while its client is waited for. While a reply is made,
/// the application is.
fn holds(conn: &Conn, unacknowledged: usize) -> bool {
    match conn.reply {
        // What helpers write lies in slots, until it is copied out.
        Reply::Lent { .. } => conn.copied,
        Reply::None if conn.request.is_some() || conn.partial.is_some() => true,
        // TCP keeps records until the client has acknowledged them.
        Reply::None => unacknowledged > 0 || !conn.backlog.is_empty(),
        // What cannot be sealed yet waits for the client as well.
        Reply::Local(_) => {
            let uploads = conn.upload.as_ref().is_some_and(|upload| upload.waits());
            uploads || unacknowledged > 0 || !conn.backlog.is_empty() || !conn.parts.is_empty()
        }
    }
}

impl<N: Nic, A: App> Worker<N, A> {
    /// Takes note of what a connection holds. Its claim dates from when it was first noted or made progress.
    pub(crate) fn note(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        let unacknowledged = self.tcp.unacknowledged(conn.id);
        conn.copied &= unacknowledged > 0;
        if !holds(conn, unacknowledged) {
            self.shed.holding.remove(index as u32);
        } else if !self.shed.holding.contains(index as u32) {
            conn.held_since = self.now;
            self.shed.holding.push_back(index as u32);
        }
    }

    /// The client took a segment of ours: what it holds is held anew.
    pub(crate) fn progress(&mut self, id: ConnId) {
        let index = id.index();
        if self.shed.holding.contains(index as u32) {
            self.shed.holding.remove(index as u32);
            self.note(index);
        }
    }

    /// Lets go of the client that has held buffers for longest, if it is too long. Answers whether it did.
    pub(crate) fn shed_slowest(&mut self) -> bool {
        let Some(index) = self.shed.holding.front().map(|index| index as usize) else { return false };
        let Some(conn) = self.conns[index].as_ref() else { return false };
        let patient = !(conn.held_since + PATIENCE).is_due(self.now);
        if patient || self.shed.sheds == 0 {
            return false;
        }
        self.shed.sheds -= 1;
        self.counters.closed_slow += 1;
        let reads = match &conn.upload {
            Some(upload) => upload.waits() && !upload.replied,
            None => conn.is_amid_request(),
        } && conn.backlog.is_empty();
        let speaks = matches!(conn.tls, Tls::Open(_) | Tls::None) && !conn.closing;
        self.shed.holding.remove(index as u32);
        if reads && speaks && !self.pools.records.is_empty() {
            // RFC 9110 section 15.5.9: it did not send the request in the time we were prepared to wait.
            self.answer(index, Why::Late);
        } else {
            self.reset(index);
        }
        true
    }

    /// Keeps places for newcomers: lets go of the oldest connection that has not proven to be anybody.
    pub(crate) fn make_place(&mut self) {
        let places = self.config.connections;
        let free = places.saturating_sub(self.tcp.connections() as u32);
        if free < (places / RESERVE_SHARE).max(1)
            && self.shed.unproven.len() > 1
            && let Some(oldest) = self.shed.unproven.pop_front()
        {
            self.counters.closed_silent += 1;
            self.reset(oldest as usize);
        }
    }

    /// A handshake began: beyond the limit the oldest makes room, which keeps a flood of halves from shutting others out
    /// for as long as the time limit.
    pub(crate) fn handshake_began(&mut self, index: usize) {
        self.counters.handshakes_open += 1;
        self.shed.handshakes.push_back(index as u32);
        if self.shed.handshakes.len() as u64 > self.config.handshakes
            && let Some(oldest) = self.shed.handshakes.pop_front()
        {
            self.counters.handshakes_failed += 1;
            self.counters.closed_handshake += 1;
            self.reset(oldest as usize);
        }
    }

    /// Whether a connection amid its handshake has to wait: for the turn's budget, or for buffers to answer with.
    pub(crate) fn handshake_waits(&mut self, index: usize) -> bool {
        let waits = self.conns[index]
            .as_ref()
            .is_some_and(|conn| matches!(conn.tls, Tls::Silent | Tls::Handshake(_)) && !conn.closing);
        if !waits {
            return false;
        }
        if self.conns[index].as_ref().is_some_and(|conn| matches!(conn.seek, Seek::Waits(_))) {
            return true;
        }
        if self.shed.handshake_records == 0 {
            self.shed.hellos.push_back(index as u32);
            return true;
        }
        if self.pools.records.left() < FLIGHT_RECORDS.min(self.pools.records.made()) {
            self.short_of_buffers(index);
            return true;
        }
        false
    }

    /// Puts a connection aside until a buffer comes back, and sees to it that one does.
    pub(crate) fn short_of_buffers(&mut self, index: usize) {
        self.counters.starved += 1;
        self.shed_slowest();
        self.starve(index);
    }

    /// Handshakes and connections that had to wait for this turn, before what is new.
    pub(crate) fn take_left_over(&mut self) -> bool {
        self.shed.begin();
        let mut busy = false;
        for _ in 0..self.shed.hellos.len() {
            if self.shed.handshake_records == 0 {
                break;
            }
            let Some(index) = self.shed.hellos.pop_front() else { break };
            busy = true;
            self.pump_index(index);
        }
        busy | self.take_ready()
    }

    /// Whether something waits for the next turn.
    pub(crate) fn has_left_over(&self) -> bool {
        !self.shed.hellos.is_empty() || !self.ready.is_empty() || self.receive.has_left_over()
    }

    /// Looks at a connection by its place.
    pub(crate) fn pump_index(&mut self, index: u32) {
        if let Some(id) = self.conns[index as usize].as_ref().map(|conn| conn.id) {
            self.pump(id);
        }
    }

    /// A connection is gone.
    pub(crate) fn forget_claims(&mut self, index: usize) {
        self.shed.forget(index);
        self.ready.remove(index as u32);
        self.starved.remove(index as u32);
        self.awake.remove(index as u32);
    }
}

/// Nothing is held.
pub(crate) const NOT_HELD: Time = Time::NEVER;
