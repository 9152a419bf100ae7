//! Tickets: sessions the client keeps, sealed with keys that only this process has (RFC 5077 4, RFC 8446 4.6.1).
//!
//! In: a session to seal, or a ticket an attacker may have made; out: a ticket, or its session. Shared by all workers;
//! the lock is held to look a key up, never while sealing.
//!
//! A ticket is key name, nonce, ciphertext of issue time and session, tag. A key seals for one lifetime and opens for
//! one more, then it is erased: what was recorded cannot be opened later.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::crypto::SecureRandom;
use rustls::server::ProducesTickets;
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

/// Bytes of a key's name.
const NAME_BYTES: usize = 16;

const KEY_BYTES: usize = 32;

/// Where the ciphertext starts.
const SEALED_AT: usize = NAME_BYTES + NONCE_LEN;

/// Issue time, in seconds.
const TIME_BYTES: usize = 8;

/// Tickets one key may seal under random nonces (NIST SP 800-38D 8.3).
const TICKETS_MAX: u64 = 1 << 32;

/// Longest ticket looked at.
const TICKET_BYTES_MAX: usize = 2048;

/// Seals and opens tickets.
pub(crate) struct Ticketer {
    keys: Mutex<Keys>,
    lifetime_s: u64,
    random: &'static dyn SecureRandom,
    clock: Arc<dyn TimeProvider>,
}

struct Keys {
    current: Arc<Key>,
    previous: Option<Arc<Key>>,
    sealed: u64,
    since_s: u64,
}

struct Key {
    name: [u8; NAME_BYTES],
    aead: LessSafeKey,
}

impl Key {
    fn new(random: &dyn SecureRandom) -> Option<Arc<Key>> {
        let mut name = [0; NAME_BYTES];
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        random.fill(&mut name).ok()?;
        random.fill(&mut bytes[..]).ok()?;
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &bytes[..]).ok()?);
        Some(Arc::new(Key { name, aead }))
    }
}

impl Ticketer {
    /// `None` if there is no randomness.
    pub(crate) fn new(
        lifetime: Duration,
        random: &'static dyn SecureRandom,
        clock: Arc<dyn TimeProvider>,
    ) -> Option<Ticketer> {
        let since_s = clock.current_time()?.as_secs();
        let keys = Keys { current: Key::new(random)?, previous: None, sealed: 0, since_s };
        Some(Ticketer { keys: Mutex::new(keys), lifetime_s: lifetime.as_secs().max(1), random, clock })
    }

    /// Replaces keys whose time is over, so that they are erased even when no client comes.
    pub(crate) fn expire(&self) {
        if let Some(now_s) = self.now_s() {
            self.roll(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner), now_s);
        }
    }

    fn now_s(&self) -> Option<u64> {
        self.clock.current_time().map(|now| now.as_secs())
    }

    fn roll(&self, keys: &mut Keys, now_s: u64) {
        let age_s = now_s.saturating_sub(keys.since_s);
        if age_s >= 2 * self.lifetime_s {
            keys.previous = None;
        }
        if age_s < self.lifetime_s && keys.sealed < TICKETS_MAX {
            return;
        }
        // Without randomness the old key goes on sealing: its tickets are refused by their age.
        if let Some(next) = Key::new(self.random) {
            let last = std::mem::replace(&mut keys.current, next);
            keys.previous = (age_s < 2 * self.lifetime_s).then_some(last);
            keys.sealed = 0;
            keys.since_s = now_s;
        }
    }
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
        let key = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            self.roll(&mut keys, now_s);
            if keys.sealed >= TICKETS_MAX {
                return None;
            }
            keys.sealed += 1;
            Arc::clone(&keys.current)
        };
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(SEALED_AT + TIME_BYTES + plain.len() + AES_256_GCM.tag_len());
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(&now_s.to_be_bytes());
        ticket.extend_from_slice(plain);
        let (_, sealed) = ticket.split_at_mut(SEALED_AT);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.aead.seal_in_place_separate_tag(nonce, Aad::from(key.name), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        if cipher.len() > TICKET_BYTES_MAX {
            return None;
        }
        let (name, rest) = cipher.split_first_chunk::<NAME_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let now_s = self.now_s()?;
        let key = {
            let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
            self.roll(&mut keys, now_s);
            let mut known = [Some(&keys.current), keys.previous.as_ref()].into_iter().flatten();
            // A key's name is no secret: each ticket shows it.
            Arc::clone(known.find(|key| key.name == *name)?)
        };
        let mut opened = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.aead.open_in_place(nonce, Aad::from(key.name), &mut opened).ok()?;
        let (issued, session) = plain.split_first_chunk::<TIME_BYTES>()?;
        let age_s = now_s.saturating_sub(u64::from_be_bytes(*issued));
        (age_s < self.lifetime_s).then(|| session.to_vec())
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

    #[test]
    fn tickets_live_for_their_lifetime_across_a_rotation() {
        let clock = TestClock::default();
        let ticketer = ticketer(&clock);
        clock.advance(9);
        let late = ticketer.encrypt(b"late").unwrap();
        clock.advance(1);
        let next = ticketer.encrypt(b"next").unwrap();
        assert_ne!(late[..NAME_BYTES], next[..NAME_BYTES]);
        clock.advance(8);
        assert_eq!(ticketer.decrypt(&late), Some(b"late".to_vec()));
        clock.advance(1);
        assert_eq!(ticketer.decrypt(&late), None);
        assert_eq!(ticketer.decrypt(&next), Some(b"next".to_vec()));
    }

    #[test]
    fn keys_are_erased_even_when_nobody_comes() {
        let clock = TestClock::default();
        let ticketer = ticketer(&clock);
        let first = Arc::downgrade(&ticketer.keys.lock().unwrap().current);
        clock.advance(10);
        ticketer.expire();
        assert!(first.upgrade().is_some());
        clock.advance(10);
        ticketer.expire();
        assert!(first.upgrade().is_none());
        // After a long pause nothing old is kept either.
        let second = Arc::downgrade(&ticketer.keys.lock().unwrap().current);
        clock.advance(100);
        ticketer.expire();
        assert!(second.upgrade().is_none());
    }

    #[test]
    fn another_servers_tickets_are_not_ours() {
        let clock = TestClock::default();
        let ticket = ticketer(&clock).encrypt(b"x").unwrap();
        assert_eq!(ticketer(&clock).decrypt(&ticket), None);
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
    }
}
