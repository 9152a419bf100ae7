//! Tickets: sessions the client keeps, sealed with keys that only the nodes of a cluster have (RFC 5077 4, RFC 8446 4.6.1).
//!
//! In: a session to seal, or a ticket an attacker may have made; keys of other nodes. Out: a ticket, or its session; keys
//! for other nodes. Shared by all workers; the lock is held to look a key up, never while sealing.
//!
//! A ticket is key name, nonce, ciphertext of issue time and session, tag. A key seals for one lifetime and opens for
//! one more, then it is erased: what was recorded cannot be opened later. Of several that may seal, the one whose time
//! ends first does, so nodes that know the same keys use the same, whoever made them and in whatever order they came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::crypto::SecureRandom;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

/// Bytes of a key's name.
pub const TICKET_NAME_BYTES: usize = 16;

/// Bytes of a key.
pub const TICKET_KEY_BYTES: usize = 32;

/// Keys known at once, at most: each node of a cluster may make one as it starts.
pub const TICKET_KEYS_MAX: usize = 64;

/// Where the ciphertext starts.
const SEALED_AT: usize = TICKET_NAME_BYTES + NONCE_LEN;

/// Issue time, in seconds.
const TIME_BYTES: usize = 8;

/// Tickets one node may seal with a key. 128 nodes stay below the 2^32 under random nonces of NIST SP 800-38D 8.3.
const TICKETS_MAX: u64 = 1 << 25;

/// Longest ticket looked at.
const TICKET_BYTES_MAX: usize = 2048;

/// The next key is there so long before it seals, at most: time to tell every node.
const LEAD_S_MAX: u64 = 60;

/// A ticket key as nodes of a cluster give it to each other. Times are from now on, so clocks need not agree.
#[derive(Clone, PartialEq, Eq)]
pub struct TicketKey {
    /// What its tickets begin with.
    pub name: [u8; TICKET_NAME_BYTES],
    /// The key, of AES-256-GCM.
    pub key: Zeroizing<[u8; TICKET_KEY_BYTES]>,
    /// Seconds until it seals; 0: it may already.
    pub seals_in_s: u32,
    /// Seconds until it seals no more; 0: it only opens.
    pub seals_until_s: u32,
    /// Seconds until it is erased.
    pub opens_until_s: u32,
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey")
    }
}

/// What has become of tickets and their keys, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TicketCounts {
    /// Keys known now.
    pub keys: u64,
    /// Tickets sealed.
    pub sealed: u64,
    /// Tickets of clients opened.
    pub opened: u64,
    /// Tickets of clients refused: of an unknown key, too old, or damaged.
    pub refused: u64,
    /// Keys taken from other nodes.
    pub keys_taken: u64,
    /// Keys of other nodes not taken: there were too many.
    pub keys_refused: u64,
}

/// Seals and opens tickets.
pub(crate) struct Ticketer {
    keys: Mutex<Vec<Key>>,
    /// Goes up when a key comes.
    version: AtomicU64,
    lifetime_s: u64,
    random: &'static dyn SecureRandom,
    clock: Arc<dyn TimeProvider>,
    sealed: AtomicU64,
    opened: AtomicU64,
    refused: AtomicU64,
    keys_taken: AtomicU64,
    keys_refused: AtomicU64,
}

struct Key {
    name: [u8; TICKET_NAME_BYTES],
    bytes: Zeroizing<[u8; TICKET_KEY_BYTES]>,
    aead: Arc<LessSafeKey>,
    /// Seals from then on.
    from_s: u64,
    /// Seals until then.
    until_s: u64,
    /// Opens until then.
    over_s: u64,
    /// Tickets this node has sealed with it.
    sealed: u64,
}

impl Key {
    fn may_seal(&self, now_s: u64) -> bool {
        self.from_s <= now_s && now_s < self.until_s && self.sealed < TICKETS_MAX
    }
}

impl Ticketer {
    /// `None` if there is no randomness, or no time.
    pub(crate) fn new(
        lifetime: Duration,
        random: &'static dyn SecureRandom,
        clock: Arc<dyn TimeProvider>,
    ) -> Option<Ticketer> {
        let now_s = clock.current_time()?.as_secs();
        let ticketer = Ticketer {
            keys: Mutex::new(Vec::with_capacity(TICKET_KEYS_MAX)),
            version: AtomicU64::new(0),
            lifetime_s: lifetime.as_secs().max(1),
            random,
            clock,
            sealed: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            keys_taken: AtomicU64::new(0),
            keys_refused: AtomicU64::new(0),
        };
        ticketer.make(&mut ticketer.keys(), now_s, now_s)?;
        Some(ticketer)
    }

    /// Erases keys whose time is over, also when no client comes.
    pub(crate) fn expire(&self) {
        if let Some(now_s) = self.now_s() {
            forget(&mut self.keys(), now_s);
        }
    }

    /// Makes the next key in time, if making keys is this node's part.
    pub(crate) fn tend(&self, is_maker: bool) {
        let Some(now_s) = self.now_s() else { return };
        let mut keys = self.keys();
        forget(&mut keys, now_s);
        let lead_s = (self.lifetime_s / 8).clamp(1, LEAD_S_MAX);
        let last_s = keys.iter().filter(|key| key.sealed < TICKETS_MAX).map(|key| key.until_s).max();
        let last_s = last_s.unwrap_or(now_s).max(now_s);
        if is_maker && last_s - now_s <= lead_s {
            // Without randomness the next look tries again.
            let _ = self.make(&mut keys, now_s, last_s);
        }
    }

    /// Changes whenever there is a key more.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Every key, for another node.
    pub(crate) fn all(&self) -> Vec<TicketKey> {
        let Some(now_s) = self.now_s() else { return Vec::new() };
        let mut keys = self.keys();
        forget(&mut keys, now_s);
        let left = |time_s: u64| u32::try_from(time_s.saturating_sub(now_s)).unwrap_or(u32::MAX);
        let told = |key: &Key| TicketKey {
            name: key.name,
            key: key.bytes.clone(),
            seals_in_s: left(key.from_s),
            seals_until_s: left(key.until_s),
            opens_until_s: left(key.over_s),
        };
        keys.iter().map(told).collect()
    }

    /// Takes another node's key, unless it is known or there are too many. No key lives longer than one of this node's
    /// own would, whatever the other says.
    pub(crate) fn take(&self, told: &TicketKey) {
        let (Some(now_s), Some(aead)) = (self.now_s(), aead(&told.key)) else { return };
        let mut keys = self.keys();
        forget(&mut keys, now_s);
        if told.opens_until_s == 0 || keys.iter().any(|key| key.name == told.name) {
            return;
        }
        if keys.len() >= TICKET_KEYS_MAX {
            self.keys_refused.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let from_s = now_s + u64::from(told.seals_in_s).min(self.lifetime_s);
        let until_s = (now_s + u64::from(told.seals_until_s)).min(from_s + self.lifetime_s);
        let over_s = (now_s + u64::from(told.opens_until_s)).min(until_s + self.lifetime_s);
        keys.push(Key { name: told.name, bytes: told.key.clone(), aead, from_s, until_s, over_s, sealed: 0 });
        self.keys_taken.fetch_add(1, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// What has happened so far.
    pub(crate) fn counts(&self) -> TicketCounts {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TicketCounts {
            keys: self.keys().len() as u64,
            sealed: count(&self.sealed),
            opened: count(&self.opened),
            refused: count(&self.refused),
            keys_taken: count(&self.keys_taken),
            keys_refused: count(&self.keys_refused),
        }
    }

    fn keys(&self) -> MutexGuard<'_, Vec<Key>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_s(&self) -> Option<u64> {
        self.clock.current_time().map(|now| now.as_secs())
    }

    /// Adds a key of this node's own that seals from then on; where there is no room the one that ends first goes.
    fn make(&self, keys: &mut Vec<Key>, now_s: u64, from_s: u64) -> Option<()> {
        let mut name = [0; TICKET_NAME_BYTES];
        let mut bytes = Zeroizing::new([0; TICKET_KEY_BYTES]);
        self.random.fill(&mut name).ok()?;
        self.random.fill(&mut bytes[..]).ok()?;
        let aead = aead(&bytes)?;
        let until_s = from_s.max(now_s) + self.lifetime_s;
        let over_s = until_s + self.lifetime_s;
        if keys.len() >= TICKET_KEYS_MAX {
            let first = (0..keys.len()).min_by_key(|at| keys[*at].over_s)?;
            keys.swap_remove(first);
        }
        keys.push(Key { name, bytes, aead, from_s, until_s, over_s, sealed: 0 });
        self.version.fetch_add(1, Ordering::Relaxed);
        Some(())
    }

    /// The key that seals now, made if there is none: a node that is cut off serves on.
    fn sealing(&self, now_s: u64) -> Option<([u8; TICKET_NAME_BYTES], Arc<LessSafeKey>)> {
        let mut keys = self.keys();
        forget(&mut keys, now_s);
        if !keys.iter().any(|key| key.may_seal(now_s)) {
            self.make(&mut keys, now_s, now_s)?;
        }
        let may_seal = keys.iter_mut().filter(|key| key.may_seal(now_s));
        let key = may_seal.min_by_key(|key| (key.until_s, key.name))?;
        key.sealed += 1;
        Some((key.name, Arc::clone(&key.aead)))
    }

    fn open(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        if cipher.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = cipher.split_first_chunk::<TICKET_NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let now_s = self.now_s()?;
        let aead = {
            let mut keys = self.keys();
            forget(&mut keys, now_s);
            // A key's name is no secret: each ticket shows it.
            Arc::clone(&keys.iter().find(|key| key.name == *name)?.aead)
        };
        let mut opened = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = aead.open_in_place(nonce, Aad::from(*name), &mut opened).ok()?;
        let (issued, session) = plain.split_first_chunk::<TIME_BYTES>()?;
        let age_s = now_s.saturating_sub(u64::from_be_bytes(*issued));
        (age_s < self.lifetime_s).then(|| session.to_vec())
    }
}

fn aead(bytes: &[u8; TICKET_KEY_BYTES]) -> Option<Arc<LessSafeKey>> {
    Some(Arc::new(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).ok()?)))
}

fn forget(keys: &mut Vec<Key>, now_s: u64) {
    keys.retain(|key| now_s < key.over_s);
}

impl std::fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ticketer")
    }
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime_s).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let now_s = self.now_s()?;
        let (name, aead) = self.sealing(now_s)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(SEALED_AT + TIME_BYTES + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&now_s.to_be_bytes());
        ticket.extend_from_slice(plain);
        let (_, sealed) = ticket.split_at_mut(SEALED_AT);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = aead.seal_in_place_separate_tag(nonce, Aad::from(name), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        self.sealed.fetch_add(1, Ordering::Relaxed);
        Some(ticket)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let session = self.open(cipher);
        let counter = if session.is_some() { &self.opened } else { &self.refused };
        counter.fetch_add(1, Ordering::Relaxed);
        session
    }
}

/// No resumption by tickets.
#[derive(Debug)]
pub(crate) struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tests::TestClock;

    fn ticketer(clock: &TestClock) -> Ticketer {
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        Ticketer::new(Duration::from_secs(10), random, Arc::new(clock.clone())).unwrap()
    }

    fn names(ticketer: &Ticketer) -> Vec<[u8; TICKET_NAME_BYTES]> {
        let mut names: Vec<_> = ticketer.all().iter().map(|key| key.name).collect();
        names.sort_unstable();
        names
    }

    /// What links do: each learns what the other knows.
    fn exchange(one: &Ticketer, other: &Ticketer) {
        one.all().iter().for_each(|key| other.take(key));
        other.all().iter().for_each(|key| one.take(key));
    }

    #[test]
    fn tickets_live_for_their_lifetime_across_a_rotation() {
        let clock = TestClock::default();
        let ticketer = ticketer(&clock);
        clock.advance(9);
        let late = ticketer.encrypt(b"late").unwrap();
        clock.advance(1);
        let next = ticketer.encrypt(b"next").unwrap();
        assert_ne!(late[..TICKET_NAME_BYTES], next[..TICKET_NAME_BYTES]);
        clock.advance(8);
        assert_eq!(ticketer.decrypt(&late), Some(b"late".to_vec()));
        clock.advance(1);
        assert_eq!(ticketer.decrypt(&late), None);
        assert_eq!(ticketer.decrypt(&next), Some(b"next".to_vec()));
        let counts = ticketer.counts();
        assert_eq!((counts.keys, counts.sealed, counts.opened, counts.refused), (2, 2, 2, 1));
    }

    #[test]
    fn keys_are_erased_even_when_nobody_comes() {
        let clock = TestClock::default();
        let ticketer = ticketer(&clock);
        let first = Arc::downgrade(&ticketer.keys()[0].aead);
        clock.advance(19);
        ticketer.expire();
        assert!(first.upgrade().is_some());
        clock.advance(1);
        ticketer.expire();
        assert!(first.upgrade().is_none());
    }

    #[test]
    fn another_servers_tickets_are_not_ours_before_we_have_its_key() {
        let clock = TestClock::default();
        let (one, other) = (ticketer(&clock), ticketer(&clock));
        let ticket = one.encrypt(b"x").unwrap();
        assert_eq!(other.decrypt(&ticket), None);
        exchange(&one, &other);
        assert_eq!(other.decrypt(&ticket), Some(b"x".to_vec()));
        assert_eq!(other.counts().keys_taken, 1);
    }

    /// The next key is with everybody before it seals, so no client meets a node that does not know it.
    #[test]
    fn the_next_key_is_made_before_it_is_used() {
        let clock = TestClock::default();
        let (maker, other) = (ticketer(&clock), ticketer(&clock));
        exchange(&maker, &other);
        for _ in 0..40 {
            maker.tend(true);
            other.tend(false);
            exchange(&maker, &other);
            assert_eq!(names(&maker), names(&other));
            let [one, two] = [&maker, &other].map(|node| node.encrypt(b"x").unwrap());
            assert_eq!(one[..TICKET_NAME_BYTES], two[..TICKET_NAME_BYTES], "both seal with the same key");
            assert!(other.decrypt(&one).is_some() && maker.decrypt(&two).is_some());
            assert!(names(&maker).len() <= 5);
            clock.advance(1);
        }
        assert!(maker.counts().keys_taken <= 1, "the other made none after its first");
    }

    /// Nobody's word keeps a key alive longer than a lifetime of sealing and one of opening.
    #[test]
    fn times_of_others_are_bounded_by_ours() {
        let clock = TestClock::default();
        let ticketer = ticketer(&clock);
        let told = TicketKey {
            name: [7; TICKET_NAME_BYTES],
            key: Zeroizing::new([8; TICKET_KEY_BYTES]),
            seals_in_s: u32::MAX,
            seals_until_s: u32::MAX,
            opens_until_s: u32::MAX,
        };
        ticketer.take(&told);
        let kept = ticketer.all().into_iter().find(|key| key.name == told.name).unwrap();
        assert_eq!((kept.seals_in_s, kept.seals_until_s, kept.opens_until_s), (10, 20, 30));
        // Times the wrong way round make a key that never seals.
        ticketer.take(&TicketKey { name: [9; 16], seals_in_s: 5, seals_until_s: 1, ..told.clone() });
        ticketer.take(&TicketKey { name: [10; 16], opens_until_s: 0, ..told });
        assert_eq!(ticketer.all().len(), 3);
        clock.advance(30);
        ticketer.expire();
        assert_eq!(ticketer.all().len(), 0);
    }

    #[test]
    fn a_full_table_refuses_keys_of_others_and_not_its_own() {
        let clock = TestClock::default();
        let ticketer = ticketer(&clock);
        for name in 0..2 * TICKET_KEYS_MAX as u8 {
            ticketer.take(&TicketKey {
                name: [name; TICKET_NAME_BYTES],
                key: Zeroizing::new([name; TICKET_KEY_BYTES]),
                seals_in_s: 0,
                seals_until_s: 1,
                opens_until_s: 20,
            });
        }
        let counts = ticketer.counts();
        assert_eq!((counts.keys, counts.keys_taken), (TICKET_KEYS_MAX as u64, TICKET_KEYS_MAX as u64 - 1));
        assert_eq!(counts.keys_refused, TICKET_KEYS_MAX as u64 + 1);
        clock.advance(10);
        let ticket = ticketer.encrypt(b"x").unwrap();
        assert_eq!(ticketer.decrypt(&ticket), Some(b"x".to_vec()));
    }

    proptest! {
        #[test]
        fn sessions_come_back_and_changed_tickets_do_not(
            session in prop::collection::vec(any::<u8>(), 0..300),
            at in any::<prop::sample::Index>(),
            bit in 0..8,
        ) {
            let ticketer = ticketer(&TestClock::default());
            let mut ticket = ticketer.encrypt(&session).unwrap();
            prop_assert_eq!(ticketer.decrypt(&ticket), Some(session));
            let at = at.index(ticket.len());
            ticket[at] ^= 1u8 << bit;
            prop_assert_eq!(ticketer.decrypt(&ticket), None);
            prop_assert_eq!(ticketer.decrypt(&ticket[..at]), None);
        }

        /// Whoever makes keys and whenever nodes meet: once all have met, all open what any has sealed within its
        /// lifetime, and the keys of a cluster at rest stay few.
        #[test]
        fn nodes_that_meet_agree(
            steps in prop::collection::vec((0..3usize, 0..3usize, any::<[bool; 3]>(), 0..4u64), 0..60),
        ) {
            let clock = TestClock::default();
            let nodes = [(); 3].map(|()| ticketer(&clock));
            let meet = || for (one, other) in [(0, 1), (1, 2), (0, 2), (0, 1)] {
                exchange(&nodes[one], &nodes[other]);
            };
            let mut issued = Vec::new();
            for (one, other, makers, pass) in steps {
                nodes.iter().zip(makers).for_each(|(node, is_maker)| node.tend(is_maker));
                if one != other {
                    exchange(&nodes[one], &nodes[other]);
                }
                let now = nodes[one].now_s().unwrap();
                issued.push((now, nodes[one].encrypt(b"x").unwrap()));
                clock.advance(pass);
            }
            meet();
            let now = nodes[0].now_s().unwrap();
            for (when, ticket) in issued.iter().rev().filter(|(when, _)| now - when < 10) {
                for node in &nodes {
                    prop_assert!(node.decrypt(ticket).is_some(), "sealed {} s ago", now - when);
                }
            }
            for _ in 0..30 {
                nodes[0].tend(true);
                nodes[1].tend(false);
                nodes[2].tend(false);
                meet();
                clock.advance(1);
            }
            prop_assert!(nodes.iter().all(|node| names(node) == names(&nodes[0]) && names(node).len() <= 4));
        }
    }
}
