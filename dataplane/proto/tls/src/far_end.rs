//! The client's end of the record layer, with keys of the caller's choosing: for tests and fuzzers, which seal what no
//! sound client would.
//!
//! In: content of any type and length. Out: records that open. Not part of a server.

use crate::keys::{Secret, TrafficKey};
use crate::open::Opener;
use crate::protect::Protector;
use crate::schedule;
use crate::suite::{Suite, Version};

/// A key of `seed`; in TLS 1.3 with the secret it comes from.
pub(crate) fn key(suite: Suite, seed: u8) -> (TrafficKey, Option<Secret>) {
    let mut key = TrafficKey::empty(suite);
    let secret_bytes = if suite == Suite::Aes256GcmSha384 { 48 } else { 32 };
    let secret = Secret::new(&[seed; 48][..secret_bytes]);
    match (suite.version(), secret) {
        (Version::Tls13, Some(secret)) => {
            schedule::traffic_key(&secret, &mut key);
            (key, Some(secret))
        }
        _ => {
            key.key_mut().fill(seed);
            key.iv.fill(!seed);
            (key, None)
        }
    }
}

/// Seals as a client of any intent.
pub struct FarEnd {
    protector: Protector,
    secret: Option<Secret>,
    seq: u64,
}

/// Both ends of one direction.
pub fn ends(suite: Suite, seed: u8) -> (FarEnd, Opener) {
    let ((ours, secret), (theirs, theirs_secret)) = (key(suite, seed), key(suite, seed));
    let far_end = FarEnd { protector: Protector::new(&theirs), secret: theirs_secret, seq: 0 };
    (far_end, Opener::new(&ours, secret, 0))
}

impl FarEnd {
    /// Seals content of a type; in TLS 1.3 with so many zeros behind it (RFC 8446 5.4). `None` if a record's header
    /// cannot tell its length.
    pub fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Option<Vec<u8>> {
        let suite = self.protector.suite();
        let mut inner = content.to_vec();
        let mut last = kind;
        if suite.version() == Version::Tls13 && padding > 0 {
            inner.push(kind);
            inner.resize(content.len() + padding, 0);
            last = 0;
        }
        let mut record = vec![0; Protector::sealed_len(suite, inner.len())];
        let len = self.protector.seal_any(self.seq, last, &inner, &mut record)?;
        self.seq += 1;
        record.truncate(len);
        Some(record)
    }

    /// Moves to the next keys, as behind a KeyUpdate; nothing in TLS 1.2.
    pub fn rekey(&mut self) {
        let suite = self.protector.suite();
        let Some(secret) = &mut self.secret else { return };
        let mut key = TrafficKey::empty(suite);
        schedule::next_secret(suite, secret);
        schedule::traffic_key(secret, &mut key);
        self.protector = Protector::new(&key);
        self.seq = 0;
    }
}
