//! Sessions of the cluster: a session goes to the node it lives at, and a client that comes back to any node waits for
//! the microseconds its session takes to come.
//!
//! In: sessions handshakes made, sessions clients offer that are not here, what peers ask. Out: *put*, *take*, *taken*
//! on the queue pairs, and handshakes that go on. Whatever cannot be had now (no queue pair, no room, no place to wait)
//! costs a full handshake and nothing else, so nothing here queues, and the worker never waits.

use std::collections::VecDeque;

use keyferry_app::App;
use keyferry_decide::NodeId;
use keyferry_fabric::PostError;
use keyferry_lease::Message;
use keyferry_lease::message::{self, SessionName};
#[cfg(feature = "planted-bugs")]
use keyferry_lease::planted;
use keyferry_nic::Nic;
use keyferry_tcp::ConnId;
use keyferry_time::Time;
use keyferry_tls::{Offered, Session};

use crate::conn::Seek;
use crate::turn::Worker;

// What a handshake makes can be said, and what is said can be kept.
const _: () = assert!(message::SESSION_BYTES_MAX == keyferry_tls::SESSION_BYTES_MAX);

/// Handshakes that wait for sessions at once.
pub const WAITING_MAX: usize = 256;

/// Entries of handshakes that wait or waited.
const DUE_MAX: usize = 4 * WAITING_MAX;

/// A handshake that waits.
struct Waiting {
    conn: ConnId,
    token: u32,
    /// What its client offers, the next to ask for first.
    offered: Offered,
    /// The session asked for.
    asked: SessionName,
}

/// Handshakes that wait for sessions. The low bits of a token are the place, the others count its uses.
pub(crate) struct Sessions {
    waiting: Vec<Option<Waiting>>,
    free: Vec<u16>,
    uses: Vec<u16>,
    /// When each is too late, the first first; tokens of those that are over are skipped.
    due: VecDeque<(Time, u32)>,
}

impl Sessions {
    pub(crate) fn new() -> Sessions {
        Sessions {
            waiting: std::iter::repeat_with(|| None).take(WAITING_MAX).collect(),
            free: (0..WAITING_MAX as u16).rev().collect(),
            uses: vec![0; WAITING_MAX],
            due: VecDeque::with_capacity(DUE_MAX),
        }
    }

    /// Handshakes that wait.
    pub(crate) fn len(&self) -> usize {
        WAITING_MAX - self.free.len()
    }

    /// When the next one is too late.
    pub(crate) fn next(&self) -> Option<Time> {
        self.due.front().map(|(due, _)| *due)
    }

    fn begin(&mut self, conn: ConnId, offered: Offered, due: Time) -> Option<u32> {
        // They end mostly in order, so few that are over stay behind the first that is not.
        while self.due.front().is_some_and(|(_, token)| !self.waits(*token)) {
            self.due.pop_front();
        }
        if self.due.len() == DUE_MAX {
            return None;
        }
        let place = self.free.pop()?;
        let used = &mut self.uses[usize::from(place)];
        *used = used.wrapping_add(1);
        let token = u32::from(*used) << 16 | u32::from(place);
        self.waiting[usize::from(place)] = Some(Waiting { conn, token, offered, asked: [0; 32] });
        self.due.push_back((due, token));
        Some(token)
    }

    fn waits(&self, token: u32) -> bool {
        let waiting = self.waiting.get(usize::from(token as u16)).and_then(Option::as_ref);
        waiting.is_some_and(|waiting| waiting.token == token)
    }

    fn find(&mut self, token: u32) -> Option<&mut Waiting> {
        self.waiting.get_mut(usize::from(token as u16))?.as_mut().filter(|waiting| waiting.token == token)
    }

    fn end(&mut self, token: u32) -> Option<Waiting> {
        self.find(token)?;
        self.free.push(token as u16);
        self.waiting[usize::from(token as u16)].take()
    }

    fn late(&mut self, now: Time) -> Option<u32> {
        let (due, token) = *self.due.front()?;
        due.is_due(now).then(|| self.due.pop_front().map(|_| token))?
    }
}

impl<N: Nic, A: App> Worker<N, A> {
    /// A client offers sessions that are not here.
    pub(crate) fn seek_session(&mut self, index: usize, offered: Offered) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        match self.sessions.begin(conn.id, offered, self.now + self.config.session_wait) {
            Some(token) => {
                conn.seek = Seek::Waits(token);
                self.ask(token);
            }
            None => {
                self.counters.takes_skipped += 1;
                conn.seek = Seek::Over(None);
            }
        }
    }

    /// Asks for the next session a handshake waits for that lives elsewhere; without one it goes on.
    fn ask(&mut self, token: u32) {
        loop {
            let Some(waiting) = self.sessions.find(token) else { return };
            let Some(name) = waiting.offered.pop_at(0) else { return self.end_seek(token, None) };
            waiting.asked = name;
            let Some(home) = self.home_elsewhere(&name) else { continue };
            if self.say_to(home, &Message::Take { token, name }) {
                self.counters.takes += 1;
                return;
            }
            self.counters.takes_skipped += 1;
        }
    }

    /// Says something to another node. `false`: it cannot be told now.
    fn say_to(&mut self, node: NodeId, message: &Message<'_>) -> bool {
        let mut pairs = self.peers.iter_mut().flatten().filter(|peer| peer.node == node && peer.is_ready());
        let Some(peer) = pairs.find(|peer| peer.message_room()) else { return false };
        let said = peer.say(message);
        // Too long for the queue pair's messages: nothing was sealed.
        if !matches!(said, Ok(()) | Err(PostError::Bounds)) {
            peer.queue_pair.fail();
        }
        said.is_ok()
    }

    /// The handshake goes on with what was found, in this turn if its budget and the buffers allow.
    fn end_seek(&mut self, token: u32, found: Option<Session>) {
        let Some(waiting) = self.sessions.end(token) else { return };
        let index = waiting.conn.index();
        let conn = self.conns[index].as_mut().filter(|conn| conn.id == waiting.conn);
        if let Some(conn) = conn.filter(|conn| matches!(conn.seek, Seek::Waits(it) if it == token)) {
            conn.seek = Seek::Over(found.map(Box::new));
            self.pump_again(index);
        }
    }

    /// A handshake of this node has made sessions: each goes to where it lives, or stays if that cannot be told.
    pub(crate) fn place_sessions(&mut self, made: Vec<Session>) {
        for session in made {
            let home = self.home_elsewhere(&session.name);
            if !home.is_some_and(|home| self.put_session(home, &session)) {
                let name = session.name;
                self.tls.keep(session);
                self.came_astray(&name);
            }
        }
    }

    /// Tells the node a session lives at to keep it. `false`: it cannot be told now.
    pub(crate) fn put_session(&mut self, home: NodeId, session: &Session) -> bool {
        let Session { name, once, lives_s, .. } = *session;
        let said = self.say_to(home, &Message::Put { name, lives_s, once, value: session.value() });
        self.counters.sessions_put += u64::from(said);
        said
    }

    /// A peer has a session that lives here.
    pub(crate) fn keep_session(&mut self, name: SessionName, lives_s: u32, once: bool, value: &[u8]) {
        if let Some(session) = Session::new(name, once, value) {
            self.counters.sessions_kept += 1;
            self.tls.keep(session.living(lives_s));
            self.came_astray(&name);
        }
    }

    /// A peer's client wants to go on with a session. What cannot be answered stays: the peer does without.
    pub(crate) fn give_session(&mut self, peer_index: usize, token: u32, name: &SessionName) {
        let Some(peer) = self.peers[peer_index].as_mut().filter(|peer| peer.message_room()) else { return };
        let session = self.tls.give(name);
        #[cfg(feature = "planted-bugs")]
        if planted::is_planted(planted::Bug::SessionGivenTwice)
            && let Some(session) = &session
            && let Some(copy) = Session::new(session.name, session.once, session.value())
        {
            self.tls.keep(copy);
        }
        let found = session.as_ref().map(|session| (session.once, session.value()));
        self.counters.sessions_given += u64::from(found.is_some());
        if peer.say(&Message::Taken { token, found }).is_err() {
            // What was sealed is lost, and the next message would be out of order.
            peer.queue_pair.fail();
        }
    }

    /// A peer's answer. One that comes too late is dropped, its session with it.
    pub(crate) fn session_taken(&mut self, token: u32, found: Option<(bool, &[u8])>) {
        let Some(waiting) = self.sessions.find(token) else { return };
        let name = waiting.asked;
        match found.and_then(|(once, value)| Session::new(name, once, value)) {
            Some(session) => {
                self.counters.takes_found += 1;
                self.end_seek(token, Some(session));
            }
            None => {
                self.counters.takes_missed += 1;
                self.ask(token);
            }
        }
    }

    /// Handshakes that waited for too long go on without their sessions.
    pub(crate) fn seeks_too_late(&mut self) {
        while let Some(token) = self.sessions.late(self.now) {
            self.counters.takes_late += u64::from(self.sessions.waits(token));
            self.end_seek(token, None);
        }
    }

    /// A connection is gone, and what it waited for with it.
    pub(crate) fn forget_seek(&mut self, token: u32) {
        self.counters.takes_dropped += u64::from(self.sessions.end(token).is_some());
    }
}
