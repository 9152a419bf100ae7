//! The sessions clients of a bench hold, all in one place: whoever comes next offers the one that has lain longest.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Sessions held at most; more are dropped.
pub const SESSIONS_MAX: usize = 512;

/// Sessions of clients.
#[derive(Default)]
pub struct Wallet(Mutex<Sessions>);

#[derive(Default)]
struct Sessions {
    /// Of TLS 1.3: each is offered once.
    once: VecDeque<Tls13ClientSessionValue>,
    /// Of TLS 1.2: offered in turn, again and again.
    again: VecDeque<Tls12ClientSessionValue>,
    /// Of TLS 1.2, no more than so many are taken in.
    again_max: usize,
}

impl Wallet {
    /// An empty one, for so many sessions of TLS 1.2.
    pub fn new(again_max: usize) -> Wallet {
        Wallet(Mutex::new(Sessions { again_max, ..Sessions::default() }))
    }

    /// Sessions in it.
    pub fn len(&self) -> usize {
        let sessions = self.sessions();
        sessions.once.len() + sessions.again.len()
    }

    /// Whether clients get full handshakes to fill it.
    fn is_filling(sessions: &Sessions) -> bool {
        sessions.again.len() < sessions.again_max
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Wallet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wallet")
    }
}

impl ClientSessionStore for Wallet {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        let mut sessions = self.sessions();
        if Wallet::is_filling(&sessions) {
            sessions.again.push_back(value);
        }
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let mut sessions = self.sessions();
        if Wallet::is_filling(&sessions) {
            return None;
        }
        let next = sessions.again.pop_front()?;
        sessions.again.push_back(next.clone());
        Some(next)
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut sessions = self.sessions();
        if sessions.once.len() < SESSIONS_MAX {
            sessions.once.push_back(value);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.sessions().once.pop_front()
    }
}
