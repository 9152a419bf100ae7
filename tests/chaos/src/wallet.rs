//! The sessions of clients that come back. A PSK may be there twice, so that it is offered twice, which no good client
//! does (RFC 8446 appendix C.4): rustls gives each out once, so the second copy comes from a twin of the connection
//! that got it, which draws the same random numbers and hears the same bytes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup};

/// PSKs in a wallet; beyond, the oldest goes.
const PSKS_MAX: usize = 64;

/// The sessions of one client, or of several that share them.
pub struct Wallet {
    /// What its connections have in common: rustls goes on with a session only for who trusts the same servers.
    pub config: ClientConfig,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    /// By connection and place among those it got, each once or twice.
    psks: BTreeMap<(usize, usize), Copies>,
    /// A TLS 1.2 session, offered again and again.
    id: Option<Tls12ClientSessionValue>,
    connections: usize,
}

type Copies = [Option<Tls13ClientSessionValue>; 2];

/// What one connection takes out of a wallet and puts into it.
pub struct Purse {
    wallet: Arc<Wallet>,
    connection: usize,
    /// 0, or 1 for its twin.
    copy: usize,
    offers: Mutex<Option<Tls13ClientSessionValue>>,
    got: AtomicUsize,
}

impl Wallet {
    /// An empty one.
    pub fn new(config: ClientConfig) -> Arc<Wallet> {
        Arc::new(Wallet { config, sessions: Mutex::default() })
    }

    /// Opens a purse for the next connection, and one for its twin if it is to have one. `twice`: PSKs are offered twice,
    /// the second time before any other.
    pub fn open(self: &Arc<Wallet>, twice: bool) -> (Purse, Option<Purse>) {
        let mut sessions = self.lock();
        sessions.connections += 1;
        let connection = sessions.connections;
        // Only a connection that offers nothing can have a twin, so there have to be some.
        let fresh = twice && connection.is_multiple_of(2);
        let offers = sessions.next(|copies| copies[1].is_some());
        let offers = offers.or_else(|| if fresh { None } else { sessions.next(|_| true) });
        let twin = twice && offers.is_none();
        let purse = |copy, offers| Purse {
            wallet: Arc::clone(self),
            connection,
            copy,
            offers: Mutex::new(offers),
            got: AtomicUsize::new(0),
        };
        (purse(0, offers), twin.then(|| purse(1, None)))
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sessions {
    /// The oldest PSK that is such.
    fn next(&mut self, is_such: impl Fn(&Copies) -> bool) -> Option<Tls13ClientSessionValue> {
        let (place, _) = self.psks.iter().find(|(_, copies)| is_such(copies))?;
        let place = *place;
        let copies = self.psks.get_mut(&place)?;
        let taken = copies[0].take().or_else(|| copies[1].take());
        if copies.iter().all(Option::is_none) {
            self.psks.remove(&place);
        }
        taken
    }
}

impl fmt::Debug for Purse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Purse")
    }
}

impl ClientSessionStore for Purse {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.wallet.lock().id = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.wallet.lock().id.clone()
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.wallet.lock().id = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let place = (self.connection, self.got.fetch_add(1, Ordering::Relaxed));
        let mut sessions = self.wallet.lock();
        sessions.psks.entry(place).or_default()[self.copy] = Some(value);
        if sessions.psks.len() > PSKS_MAX {
            sessions.psks.pop_first();
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.offers.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
