//! The session table: stateful resumption inside a node, by session ID (TLS 1.2) and PSK identity (TLS 1.3).
//!
//! In: sessions that rustls puts and asks for; a TLS 1.3 session is taken, once. Shared by all workers: split into
//! shards by identity, each behind a lock that only handshakes take. Full means the oldest goes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::server::StoresServerSessions;
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

/// Shards of a large table.
const SHARDS: usize = 16;

/// Tables smaller than this have one shard: so few sessions would not spread evenly.
const SHARDED_SESSIONS_MIN: usize = 1024;

/// Bytes of an identity: rustls draws that many at random.
pub const IDENTITY_BYTES: usize = 32;

/// Longest session kept. One of rustls' without client certificate has some 200 bytes.
pub const SESSION_BYTES_MAX: usize = 1024;

/// The life of a session just made: as long as whoever keeps it keeps any.
pub const WHOLE_LIFE: u32 = u32::MAX;

/// No slot.
const NIL: u32 = u32::MAX;

/// What a session is called, by client and server: a session ID of TLS 1.2, a PSK identity of TLS 1.3.
pub type SessionId = [u8; IDENTITY_BYTES];

/// A session on its way between nodes.
pub struct Session {
    /// Its name.
    pub name: SessionId,
    /// It may go on once: of TLS 1.3 (RFC 8446 appendix C.4). One of TLS 1.2 is copied.
    pub once: bool,
    /// Seconds it is good for at most; [`WHOLE_LIFE`] for one just made.
    pub lives_s: u32,
    value: Zeroizing<Vec<u8>>,
}

impl Session {
    /// A session of these bytes; `None` if there are more than any session has.
    pub fn new(name: SessionId, once: bool, value: &[u8]) -> Option<Session> {
        (value.len() <= SESSION_BYTES_MAX).then(|| Session {
            name,
            once,
            lives_s: WHOLE_LIFE,
            value: Zeroizing::new(value.to_vec()),
        })
    }

    /// The same one, good for so many seconds at most.
    pub fn living(self, lives_s: u32) -> Session {
        Session { lives_s, ..self }
    }

    /// What rustls makes of it: secrets.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
}

/// How far a walk over the table has come. Walkers may share the work: each takes every so-manieth part of it.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    shard: usize,
    slot: usize,
    step: usize,
}

impl Cursor {
    /// At the beginning, of the walker of this number among so many.
    pub fn new(number: usize, walkers: usize) -> Cursor {
        Cursor { shard: number, slot: 0, step: walkers.max(1) }
    }

    /// Back to the session found last, which is found again.
    pub fn back(&mut self) {
        self.slot = self.slot.saturating_sub(1);
    }
}

/// What a walk has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Walk {
    /// This one is looked for.
    Found(SessionId),
    /// None among those looked at, and there are more.
    More,
    /// None, and that was all.
    Over,
}

/// Sessions by identity.
pub(crate) struct Table {
    shards: Vec<Mutex<Shard>>,
    lifetime_s: u64,
    clock: Arc<dyn TimeProvider>,
}

/// A part of the table, with its slots in a list from oldest to newest. All live equally long, so the oldest also
/// expires first; but for those that came with a part of their life behind them, which are found no more when it is over
/// and go when they are the oldest.
struct Shard {
    slots: Vec<Slot>,
    index: HashMap<SessionId, u32>,
    free: u32,
    oldest: u32,
    newest: u32,
}

struct Slot {
    identity: SessionId,
    once: bool,
    value: Zeroizing<Vec<u8>>,
    expires_s: u64,
    older: u32,
    /// Of a free slot: the next free one.
    newer: u32,
}

impl Table {
    pub(crate) fn new(sessions: usize, lifetime: Duration, clock: Arc<dyn TimeProvider>) -> Table {
        let shards = if sessions < SHARDED_SESSIONS_MIN { 1 } else { SHARDS };
        let each = sessions.div_ceil(shards).clamp(1, NIL as usize - 1);
        let shards = (0..shards).map(|_| Mutex::new(Shard::new(each))).collect();
        Table { shards, lifetime_s: lifetime.as_secs(), clock }
    }

    /// Keeps a session; one of that name goes.
    pub(crate) fn keep(&self, session: Session) {
        let now_s = self.now_s();
        let expires_s = now_s.saturating_add(self.lifetime_s.min(u64::from(session.lives_s)));
        self.shard(&session.name).put(session, now_s, expires_s);
    }

    /// Gives a session to another node: the only one there is, if it may go on once.
    pub(crate) fn give(&self, identity: &SessionId) -> Option<Session> {
        let mut shard = self.shard(identity);
        let now_s = self.now_s();
        let (at, slot) = shard.find(identity, now_s)?;
        let session = slot.session(Zeroizing::new(slot.value.to_vec()), now_s);
        if session.once {
            shard.remove(at);
        }
        Some(session)
    }

    /// Gives a session to the node it lives at from now on: it is gone here.
    pub(crate) fn hand_over(&self, identity: &SessionId) -> Option<Session> {
        let mut shard = self.shard(identity);
        let now_s = self.now_s();
        let (at, _) = shard.find(identity, now_s)?;
        let slot = &mut shard.slots[at as usize];
        let value = std::mem::take(&mut slot.value);
        let session = slot.session(value, now_s);
        shard.remove(at);
        Some(session)
    }

    /// The next session from the cursor on that is such; looks at `looks` places at most and counts them.
    pub(crate) fn walk(
        &self,
        cursor: &mut Cursor,
        looks: &mut usize,
        is_such: impl Fn(&SessionId) -> bool,
    ) -> Walk {
        let now_s = self.now_s();
        while let Some(shard) = self.shards.get(cursor.shard) {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for slot in &shard.slots[cursor.slot.min(shard.slots.len())..] {
                if *looks == 0 {
                    return Walk::More;
                }
                *looks -= 1;
                cursor.slot += 1;
                // A free slot has no value.
                let is_there = !slot.value.is_empty() && now_s < slot.expires_s;
                if is_there && is_such(&slot.identity) {
                    return Walk::Found(slot.identity);
                }
            }
            cursor.shard += cursor.step;
            cursor.slot = 0;
        }
        Walk::Over
    }

    /// Whether a session is here.
    pub(crate) fn has(&self, identity: &SessionId) -> bool {
        self.shard(identity).find(identity, self.now_s()).is_some()
    }

    /// Sessions kept, those that are over and not dropped yet included.
    pub(crate) fn len(&self) -> usize {
        let len = |shard: &Mutex<Shard>| shard.lock().unwrap_or_else(PoisonError::into_inner).index.len();
        self.shards.iter().map(len).sum()
    }

    /// Drops what is over.
    pub(crate) fn expire(&self) {
        let now_s = self.now_s();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            while shard.expire_one(now_s) {}
        }
    }

    fn now_s(&self) -> u64 {
        self.clock.current_time().map_or(u64::MAX, |now| now.as_secs())
    }

    /// Identities in the table are random, and others are not found in any shard.
    fn shard(&self, identity: &SessionId) -> MutexGuard<'_, Shard> {
        self.shards[usize::from(identity[0]) % self.shards.len()]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn session(&self, value: Zeroizing<Vec<u8>>, now_s: u64) -> Session {
        let lives_s = u32::try_from(self.expires_s.saturating_sub(now_s)).unwrap_or(WHOLE_LIFE);
        Session { name: self.identity, once: self.once, lives_s, value }
    }
}

impl Shard {
    fn new(sessions: usize) -> Shard {
        let slot = |at: usize| Slot {
            identity: [0; IDENTITY_BYTES],
            once: true,
            value: Zeroizing::new(Vec::new()),
            expires_s: 0,
            older: NIL,
            newer: if at + 1 < sessions { at as u32 + 1 } else { NIL },
        };
        let index = HashMap::with_capacity(sessions);
        Shard { slots: (0..sessions).map(slot).collect(), index, free: 0, oldest: NIL, newest: NIL }
    }

    fn put(&mut self, session: Session, now_s: u64, expires_s: u64) {
        let Session { name: identity, once, lives_s: _, value } = session;
        if let Some(at) = self.index.get(&identity).copied() {
            self.remove(at);
        }
        // Two for one: the expired never pile up.
        self.expire_one(now_s);
        self.expire_one(now_s);
        if self.free == NIL {
            self.remove(self.oldest);
        }
        let at = self.free;
        let newest = self.newest;
        let slot = &mut self.slots[at as usize];
        self.free = slot.newer;
        *slot = Slot { identity, once, value, expires_s, older: newest, newer: NIL };
        match newest {
            NIL => self.oldest = at,
            newest => self.slots[newest as usize].newer = at,
        }
        self.newest = at;
        self.index.insert(identity, at);
    }

    fn find(&self, identity: &SessionId, now_s: u64) -> Option<(u32, &Slot)> {
        let at = *self.index.get(identity)?;
        let slot = &self.slots[at as usize];
        (now_s < slot.expires_s).then_some((at, slot))
    }

    fn expire_one(&mut self, now_s: u64) -> bool {
        let is_over = self.oldest != NIL && self.slots[self.oldest as usize].expires_s <= now_s;
        if is_over {
            self.remove(self.oldest);
        }
        is_over
    }

    /// Empties a slot in use; its value is erased.
    fn remove(&mut self, at: u32) {
        let slot = &mut self.slots[at as usize];
        slot.value = Zeroizing::new(Vec::new());
        let (identity, older, newer) = (slot.identity, slot.older, slot.newer);
        slot.newer = self.free;
        self.free = at;
        self.index.remove(&identity);
        match older {
            NIL => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
        match newer {
            NIL => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Table")
    }
}

impl StoresServerSessions for Table {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        let Ok(identity) = SessionId::try_from(key) else { return false };
        if value.len() > SESSION_BYTES_MAX {
            return false;
        }
        // Only what goes to another node has to know.
        let value = Zeroizing::new(value);
        self.keep(Session { name: identity, once: true, lives_s: WHOLE_LIFE, value });
        true
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let identity = SessionId::try_from(key).ok()?;
        self.shard(&identity).find(&identity, self.now_s()).map(|(_, slot)| slot.value.to_vec())
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let identity = SessionId::try_from(key).ok()?;
        let mut shard = self.shard(&identity);
        let (at, slot) = shard.find(&identity, self.now_s())?;
        let value = slot.value.to_vec();
        shard.remove(at);
        Some(value)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

/// No resumption by state of ours.
#[derive(Debug)]
pub(crate) struct NoTable;

impl StoresServerSessions for NoTable {
    fn put(&self, _: Vec<u8>, _: Vec<u8>) -> bool {
        false
    }

    fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn take(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn can_cache(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;
    use crate::tests::TestClock;

    fn identity(seed: u8) -> Vec<u8> {
        vec![seed; IDENTITY_BYTES]
    }

    fn table(sessions: usize, clock: &TestClock) -> Table {
        Table::new(sessions, Duration::from_secs(10), Arc::new(clock.clone()))
    }

    #[test]
    fn a_session_is_taken_once() {
        let table = table(4, &TestClock::default());
        assert!(table.put(identity(1), vec![1]));
        assert_eq!(table.get(&identity(1)), Some(vec![1]));
        assert_eq!(table.take(&identity(1)), Some(vec![1]));
        assert_eq!(table.take(&identity(1)), None);
        assert_eq!(table.get(&identity(1)), None);
    }

    #[test]
    fn what_cannot_be_ours_is_refused() {
        let table = table(4, &TestClock::default());
        assert!(!table.put(vec![1; 31], vec![1]));
        assert!(!table.put(identity(1), vec![0; SESSION_BYTES_MAX + 1]));
        for len in [0, 31, 33, 5000] {
            assert_eq!(table.take(&vec![1; len]), None);
        }
    }

    #[test]
    fn sessions_expire() {
        let clock = TestClock::default();
        let table = table(4, &clock);
        table.put(identity(1), vec![1]);
        clock.advance(9);
        table.put(identity(2), vec![2]);
        clock.advance(1);
        assert_eq!(table.get(&identity(1)), None);
        assert_eq!(table.take(&identity(2)), Some(vec![2]));
        assert_eq!(table.len(), 1, "the first one is over and not dropped yet");
        table.put(identity(3), vec![3]);
        clock.advance(10);
        table.expire();
        assert!(table.shards.iter().all(|it| it.lock().unwrap().index.is_empty()));
    }

    #[test]
    fn who_moves_takes_its_age_along() {
        let clock = TestClock::default();
        let (here, there) = (table(4, &clock), table(4, &clock));
        here.keep(Session::new([1; 32], false, &[1]).unwrap());
        clock.advance(4);
        let moved = here.hand_over(&[1; 32]).unwrap();
        assert_eq!((moved.lives_s, moved.once, moved.value()), (6, false, &[1][..]));
        assert!(!here.has(&[1; 32]), "moved, not copied");
        there.keep(moved);
        clock.advance(5);
        assert!(there.has(&[1; 32]));
        clock.advance(1);
        assert!(!there.has(&[1; 32]) && there.hand_over(&[1; 32]).is_none());
        // Nobody makes it live longer than those kept here do.
        there.keep(Session::new([2; 32], true, &[2]).unwrap().living(1 << 30));
        clock.advance(10);
        assert!(!there.has(&[2; 32]));
    }

    #[test]
    fn walkers_share_the_table_and_meet_each_session_once() {
        for sessions in [64, 4096] {
            let table = table(sessions, &TestClock::default());
            for at in 0..sessions as u64 / 2 {
                let mut name = [at as u8; 32];
                name[1..9].copy_from_slice(&at.to_be_bytes());
                table.keep(Session::new(name, true, &[1]).unwrap());
            }
            let (mut met, mut turns) = (Vec::new(), 0);
            for walker in 0..3 {
                let mut cursor = Cursor::new(walker, 3);
                loop {
                    turns += 1;
                    let mut looks = 10;
                    match table.walk(&mut cursor, &mut looks, |name| name[8] % 2 == 0) {
                        Walk::Found(name) => {
                            cursor.back();
                            let again = table.walk(&mut cursor, &mut 1, |name| name[8] % 2 == 0);
                            assert_eq!(again, Walk::Found(name));
                            met.push(name);
                        }
                        Walk::More => assert_eq!(looks, 0),
                        Walk::Over => break,
                    }
                }
            }
            assert!(turns >= sessions / 10);
            let count = met.len();
            met.sort_unstable();
            met.dedup();
            assert_eq!([met.len(), count], [sessions / 4; 2]);
        }
    }

    proptest! {
        /// Against a queue of the same length: the oldest go first, whatever is taken in between.
        #[test]
        fn is_a_bounded_queue_with_holes(
            sessions in 1usize..6,
            actions in prop::collection::vec((0u8..4, 0u8..12, 0u64..4), 1..200),
        ) {
            let clock = TestClock::default();
            let table = table(sessions, &clock);
            let mut model: VecDeque<(u8, u64)> = VecDeque::new();
            let mut now = clock.advance(0);
            for (action, id, later) in actions {
                let alive = |model: &VecDeque<(u8, u64)>| model.iter().any(|it| it.0 == id && now < it.1 + 10);
                match action {
                    0 | 1 => {
                        model.retain(|it| it.0 != id);
                        // The table drops two expired ones for each put; more of them would go first anyway.
                        for _ in 0..2 {
                            if model.front().is_some_and(|it| it.1 + 10 <= now) {
                                model.pop_front();
                            }
                        }
                        if model.len() == sessions {
                            model.pop_front();
                        }
                        model.push_back((id, now));
                        prop_assert!(table.put(identity(id), vec![id]));
                    }
                    2 => {
                        prop_assert_eq!(table.take(&identity(id)), alive(&model).then(|| vec![id]));
                        if alive(&model) {
                            model.retain(|it| it.0 != id);
                        }
                    }
                    _ => prop_assert_eq!(table.get(&identity(id)), alive(&model).then(|| vec![id])),
                }
                now = clock.advance(later);
            }
        }
    }
}
