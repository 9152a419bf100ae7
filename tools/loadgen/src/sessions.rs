//! TLS sessions of one client, and whether its next handshake resumes one. A share goes in and, handshake by handshake,
//! comes out as exact as the server lets it: what it refused, or what no session was there for, counts as full and is
//! made up for. Owned by one load thread (rustls wants the store behind a lock; nobody else takes it).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup};

/// TLS 1.3 tickets kept for one client and target; each resumes once (RFC 8446 appendix C.4).
const TICKETS_MAX: usize = 32;
/// Shares like 0.1 are not exact in binary.
const ROUNDING: f64 = 1e-9;

/// How many handshakes resumed, and how many should have.
#[derive(Clone, Copy, Debug)]
pub struct Resumption {
    share: f64,
    done: u64,
    resumed: u64,
    /// Under way, and those of them that are meant to resume.
    pending: u64,
    pending_resumed: u64,
}

impl Resumption {
    /// `share`: of handshakes that resume, from 0 to 1.
    pub fn new(share: f64) -> Resumption {
        Resumption { share, done: 0, resumed: 0, pending: 0, pending_resumed: 0 }
    }

    /// A handshake starts; whether it is meant to resume.
    pub fn start(&mut self) -> bool {
        let all = (self.done + self.pending + 1) as f64;
        let resumes = (self.resumed + self.pending_resumed) as f64 + 1.0 <= self.share * all + ROUNDING
            || self.share >= 1.0;
        self.pending += 1;
        self.pending_resumed += u64::from(resumes);
        resumes
    }

    /// It ended: resumed, full, or (`None`) not at all.
    pub fn end(&mut self, was_meant: bool, is_resumed: Option<bool>) {
        self.pending -= 1;
        self.pending_resumed -= u64::from(was_meant);
        self.done += u64::from(is_resumed.is_some());
        self.resumed += u64::from(is_resumed == Some(true));
    }
}

/// The two configurations of one client and target: they share its sessions, and one of them offers them.
pub struct Configs {
    resuming: Arc<ClientConfig>,
    full: Arc<ClientConfig>,
}

impl Configs {
    /// Made from the one all clients share.
    pub fn new(base: &ClientConfig, ids_only: bool) -> Configs {
        let kept = Arc::new(Mutex::new(Kept::default()));
        let config = |offers| {
            let store = Arc::new(Store { kept: Arc::clone(&kept), offers });
            let mut config = base.clone();
            config.resumption = rustls::client::Resumption::store(store);
            if ids_only {
                config.resumption =
                    config.resumption.tls12_resumption(rustls::client::Tls12Resumption::SessionIdOnly);
            }
            Arc::new(config)
        };
        Configs { resuming: config(true), full: config(false) }
    }

    /// The one for a handshake that is, or is not, meant to resume.
    pub fn choose(&self, resumes: bool) -> Arc<ClientConfig> {
        Arc::clone(if resumes { &self.resuming } else { &self.full })
    }
}

#[derive(Default)]
struct Kept {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

/// One server's sessions. rustls names the server; a store has only one, so the name is not looked at.
struct Store {
    kept: Arc<Mutex<Kept>>,
    offers: bool,
}

impl Store {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Nothing is left half done under the lock, so a panic elsewhere does no harm to what it guards.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("offers", &self.offers).finish_non_exhaustive()
    }
}

impl ClientSessionStore for Store {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.kept().group = Some(group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.kept().tls12 = Some(value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        if self.offers { self.kept().tls12.clone() } else { None }
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.kept().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut kept = self.kept();
        if kept.tls13.len() == TICKETS_MAX {
            kept.tls13.pop_front();
        }
        kept.tls13.push_back(value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        if self.offers { self.kept().tls13.pop_back() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_share_is_kept_although_the_server_refuses(
            share in 0.0_f64..1.0,
            refused in prop::collection::vec(prop::bool::weighted(0.2), 2_000),
            parallel in 1_usize..20,
        ) {
            let mut resumption = Resumption::new(share);
            let mut under_way = VecDeque::new();
            let mut full_wanted = 0;
            for refuses in refused {
                let meant = resumption.start();
                full_wanted += u64::from(!meant);
                under_way.push_back((meant, meant && !refuses));
                if under_way.len() > parallel {
                    let (meant, is_resumed) = under_way.pop_front().unwrap();
                    resumption.end(meant, Some(is_resumed));
                }
            }
            let achieved = resumption.resumed as f64 / resumption.done as f64;
            // A fifth of the attempts fails, so up to 0.7 the rest can make up for it.
            if share < 0.7 {
                prop_assert!((achieved - share).abs() < 0.03, "{achieved} {share}");
            }
            prop_assert!(share > 0.98 || full_wanted > 0);
        }
    }

    #[test]
    fn none_and_all_are_exact() {
        let (mut none, mut all) = (Resumption::new(0.0), Resumption::new(1.0));
        for _ in 0..100 {
            assert!(!none.start());
            none.end(false, Some(false));
            assert!(all.start());
            all.end(true, None);
        }
    }
}
