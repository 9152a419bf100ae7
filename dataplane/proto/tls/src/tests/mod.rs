//! Tests of the record layer from inside: both ends are ours, with keys of the tests' choosing. Handshakes with other
//! implementations are in the crate's `tests/` folder.

mod leases;
mod post_handshake;
mod records;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;

pub(super) use crate::far_end::key;
use crate::open::Opener;
use crate::record::Fragment;
use crate::seal::Sealer;
use crate::suite::Suite;

pub(super) fn sealer(suite: Suite, seed: u8, seq: u64) -> Sealer {
    let (key, secret) = key(suite, seed);
    Sealer::new(&key, secret, seq, Fragment::MAX)
}

pub(super) fn opener(suite: Suite, seed: u8, seq: u64) -> Opener {
    let (key, secret) = key(suite, seed);
    Opener::new(&key, secret, seq)
}

/// Both ends of one direction.
pub(super) fn ends(suite: Suite) -> (Sealer, Opener) {
    (sealer(suite, 7, 0), opener(suite, 7, 0))
}

proptest::prop_compose! {
    /// Any suite.
    pub(super) fn any_suite()(index in 0..Suite::ALL.len()) -> Suite {
        Suite::ALL[index]
    }
}

/// A clock that goes when told.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestClock {
    seconds: Arc<AtomicU64>,
}

impl TestClock {
    /// Returns the time it is then.
    pub(crate) fn advance(&self, seconds: u64) -> u64 {
        self.seconds.fetch_add(seconds, Ordering::Relaxed) + seconds
    }
}

impl TimeProvider for TestClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.advance(0))))
    }
}
