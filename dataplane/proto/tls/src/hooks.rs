//! What one handshake has to do with the rest of the server: certificates, sessions and tickets in, traffic secrets and
//! the facts rustls does not tell out.
//!
//! One value per handshake, behind the traits rustls calls; it is used by one thread at a time, the locks are only
//! what these traits ask for.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::KeyLog;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, StoresServerSessions};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::certificates::Certificates;
use crate::keys::Secret;
use crate::session::{Session, SessionId};

/// Sessions looked up for one ClientHello. It may offer as many as fit into 64 KiB, and rustls would try them all.
pub const LOOKUPS_MAX: u32 = 8;

/// Sessions one handshake makes at most: rustls makes one, or those that [`Server`](crate::Server) gives a client.
const MADE_MAX: usize = 8;

/// What all handshakes of a server share.
pub(crate) struct Shared {
    pub(crate) certificates: Certificates,
    pub(crate) sessions: Arc<dyn StoresServerSessions>,
    /// Sessions made here go to whoever is to keep them.
    pub(crate) is_shared: bool,
    pub(crate) tickets: Arc<dyn ProducesTickets>,
    pub(crate) key_log: Option<Arc<crate::key_log::KeyLog>>,
}

impl Shared {
    /// The same for other certificates.
    pub(crate) fn without_certificates(&self) -> Shared {
        Shared {
            certificates: Certificates::default(),
            sessions: Arc::clone(&self.sessions),
            is_shared: self.is_shared,
            tickets: Arc::clone(&self.tickets),
            key_log: self.key_log.clone(),
        }
    }
}

/// The application traffic secrets of a TLS 1.3 connection (RFC 8446 7.1).
#[derive(Default)]
pub(crate) struct Secrets {
    pub(crate) client: Option<Secret>,
    pub(crate) server: Option<Secret>,
}

/// One handshake's hooks.
pub(crate) struct Hooks {
    shared: Arc<Shared>,
    secrets: Mutex<Secrets>,
    sni: AtomicBool,
    lookups: AtomicU32,
    /// Fetched from other nodes for this handshake.
    brought: Mutex<Vec<Session>>,
    /// Made by this handshake, to be kept somewhere.
    made: Mutex<Vec<Session>>,
}

impl Hooks {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Hooks> {
        Arc::new(Hooks {
            shared,
            secrets: Mutex::new(Secrets::default()),
            sni: AtomicBool::new(false),
            lookups: AtomicU32::new(0),
            brought: Mutex::default(),
            made: Mutex::default(),
        })
    }

    /// Takes the secrets captured so far; nothing of them stays here.
    pub(crate) fn take_secrets(&self) -> Secrets {
        std::mem::take(&mut *self.secrets.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A session that another node kept.
    pub(crate) fn bring(&self, session: Session) {
        self.brought.lock().unwrap_or_else(PoisonError::into_inner).push(session);
    }

    /// Takes the sessions this handshake has made.
    pub(crate) fn take_made(&self) -> Vec<Session> {
        std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn brought(&self, key: &[u8]) -> Option<Vec<u8>> {
        let brought = self.brought.lock().unwrap_or_else(PoisonError::into_inner);
        brought.iter().find(|session| session.name == *key).map(|session| session.value().to_vec())
    }

    /// Whether the client named the server it wants.
    pub(crate) fn has_sni(&self) -> bool {
        self.sni.load(Ordering::Relaxed)
    }

    fn may_look_up(&self) -> bool {
        self.lookups.fetch_add(1, Ordering::Relaxed) < LOOKUPS_MAX
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hooks")
    }
}

impl KeyLog for Hooks {
    fn will_log(&self, label: &str) -> bool {
        self.shared.key_log.is_some()
            || matches!(label, "CLIENT_TRAFFIC_SECRET_0" | "SERVER_TRAFFIC_SECRET_0")
    }

    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        if let Some(log) = &self.shared.key_log {
            log.log(label, client_random, secret);
        }
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => secrets.client = Secret::new(secret),
            "SERVER_TRAFFIC_SECRET_0" => secrets.server = Secret::new(secret),
            _ => {}
        }
    }
}

impl ResolvesServerCert for Hooks {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.sni.store(client_hello.server_name().is_some(), Ordering::Relaxed);
        self.shared.certificates.pick(client_hello.server_name(), client_hello.signature_schemes())
    }
}

impl StoresServerSessions for Hooks {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        if !self.shared.is_shared {
            return self.shared.sessions.put(key, value);
        }
        let value = Zeroizing::new(value);
        let session = SessionId::try_from(key).ok().and_then(|it| Session::new(it, true, &value));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = session.is_some() && made.len() < MADE_MAX;
        made.extend(session.filter(|_| kept));
        kept
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.may_look_up().then(|| self.brought(key).or_else(|| self.shared.sessions.get(key)))?
    }

    /// One that was brought is this handshake's alone, so that it stays does no harm.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.may_look_up().then(|| self.brought(key).or_else(|| self.shared.sessions.take(key)))?
    }

    fn can_cache(&self) -> bool {
        self.shared.sessions.can_cache()
    }
}

impl ProducesTickets for Hooks {
    fn enabled(&self) -> bool {
        self.shared.tickets.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.shared.tickets.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.shared.tickets.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.may_look_up().then(|| self.shared.tickets.decrypt(cipher))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Knows every session, and counts how often it is asked.
    #[derive(Debug, Default)]
    struct Asked(AtomicU32);

    impl StoresServerSessions for Asked {
        fn put(&self, _: Vec<u8>, _: Vec<u8>) -> bool {
            true
        }

        fn get(&self, _: &[u8]) -> Option<Vec<u8>> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Some(Vec::new())
        }

        fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
            self.get(key)
        }

        fn can_cache(&self) -> bool {
            true
        }
    }

    impl ProducesTickets for Asked {
        fn enabled(&self) -> bool {
            true
        }

        fn lifetime(&self) -> u32 {
            1
        }

        fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
            None
        }

        fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
            self.get(cipher)
        }
    }

    #[test]
    fn a_client_hello_is_worth_so_many_look_ups() {
        for ask in [
            (|hooks| StoresServerSessions::take(hooks, b"x")) as fn(&Hooks) -> Option<Vec<u8>>,
            |hooks| StoresServerSessions::get(hooks, b"x"),
            |hooks| ProducesTickets::decrypt(hooks, b"x"),
        ] {
            let asked = Arc::new(Asked::default());
            let shared = Arc::new(Shared {
                certificates: Certificates::default(),
                sessions: Arc::clone(&asked) as _,
                is_shared: false,
                tickets: Arc::clone(&asked) as _,
                key_log: None,
            });
            let hooks = Hooks::new(shared);
            for _ in 0..LOOKUPS_MAX {
                assert!(ask(&hooks).is_some());
            }
            // More than a ClientHello has room for would not start the count again either.
            for _ in 0..1000 {
                assert!(ask(&hooks).is_none());
            }
            assert_eq!(asked.0.load(Ordering::Relaxed), LOOKUPS_MAX);
        }
    }
}
