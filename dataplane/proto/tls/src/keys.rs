//! Key material: record keys and traffic secrets. Erased on drop, without `Debug`, never copied on purpose.

use aws_lc_rs::aead::{LessSafeKey, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::schedule;
use crate::suite::Suite;

/// Longest record key.
pub(crate) const KEY_BYTES_MAX: usize = 32;

/// Bytes of the record IV, and of the nonce.
pub(crate) const IV_BYTES: usize = 12;

/// Longest traffic secret: an output of SHA-384.
pub(crate) const SECRET_BYTES_MAX: usize = 48;

/// The key and IV of one direction in one epoch.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct TrafficKey {
    key: [u8; KEY_BYTES_MAX],
    pub(crate) iv: [u8; IV_BYTES],
    #[zeroize(skip)]
    pub(crate) suite: Suite,
}

impl TrafficKey {
    /// A key of all zeros, to be filled in where it stays.
    pub(crate) fn empty(suite: Suite) -> TrafficKey {
        TrafficKey { key: [0; KEY_BYTES_MAX], iv: [0; IV_BYTES], suite }
    }

    /// The key, as long as the suite wants it.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key[..self.suite.key_bytes()]
    }

    pub(crate) fn key_mut(&mut self) -> &mut [u8] {
        &mut self.key[..self.suite.key_bytes()]
    }

    /// The bytes behind a short key; zero.
    pub(crate) fn padded_key(&self) -> &[u8; KEY_BYTES_MAX] {
        &self.key
    }
}

/// A traffic secret of TLS 1.3 (RFC 8446 7.1).
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret {
    bytes: [u8; SECRET_BYTES_MAX],
    len: usize,
}

impl Secret {
    /// A secret of `bytes`; `None` if no hash of ours is that long.
    pub(crate) fn new(bytes: &[u8]) -> Option<Secret> {
        let mut secret = Secret { bytes: [0; SECRET_BYTES_MAX], len: bytes.len() };
        secret.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(secret)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// What one direction keeps for as long as its connection lives: the record key and IV of its epoch and, in TLS 1.3, the
/// traffic secret that the next ones come from. Key and secret are in one allocation of no more bytes than the suite needs,
/// which stays where it is when its owner moves, so that neither is left behind. The IV, of no use without the key, is
/// beside it: each record needs it, and with a context at hand nothing else. Erased on drop.
pub(crate) struct Keys {
    /// Key, secret.
    bytes: Box<[u8]>,
    iv: [u8; IV_BYTES],
    suite: Suite,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.bytes.zeroize();
        self.iv.zeroize();
    }
}

impl Keys {
    /// Keeps copies.
    pub(crate) fn new(record: &TrafficKey, secret: Option<&Secret>) -> Keys {
        let secret = secret.map_or(&[][..], Secret::bytes);
        let at = record.suite.key_bytes();
        let bytes = vec![0; at + secret.len()].into_boxed_slice();
        let mut keys = Keys { bytes, iv: record.iv, suite: record.suite };
        keys.put(record);
        keys.bytes[at..].copy_from_slice(secret);
        keys
    }

    fn put(&mut self, record: &TrafficKey) {
        self.bytes[..record.suite.key_bytes()].copy_from_slice(record.key());
        self.iv = record.iv;
    }

    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// Tells where the bytes are: in two cache lines at most, but for the longest.
    pub(crate) fn ahead(&self, ahead: impl Fn(*const u8)) {
        let bytes = self.bytes.as_ptr_range();
        ahead(bytes.start);
        ahead(bytes.end.wrapping_sub(1));
    }

    /// The record key.
    pub(crate) fn key(&self) -> &[u8] {
        &self.bytes[..self.suite.key_bytes()]
    }

    /// The record IV.
    pub(crate) fn iv(&self) -> &[u8; IV_BYTES] {
        &self.iv
    }

    /// Whether there is a secret that the keys of the next epoch come from.
    pub(crate) fn has_next(&self) -> bool {
        self.bytes.len() > self.suite.key_bytes()
    }

    /// Moves to the next epoch (RFC 8446 7.2); what was is overwritten. Nothing where there is no secret.
    pub(crate) fn next(&mut self) {
        let (suite, at) = (self.suite, self.suite.key_bytes());
        let Some(mut secret) = Secret::new(&self.bytes[at..]).filter(|_| self.has_next()) else { return };
        let mut record = TrafficKey::empty(suite);
        schedule::next_secret(suite, &mut secret);
        schedule::traffic_key(&secret, &mut record);
        self.put(&record);
        self.bytes[at..].copy_from_slice(secret.bytes());
    }

    /// The record key alone, to be lent.
    pub(crate) fn copy_to(&self, to: &mut TrafficKey) {
        to.suite = self.suite;
        to.key.fill(0);
        to.key_mut().copy_from_slice(self.key());
        to.iv = *self.iv();
    }
}

/// An AEAD context of a record key: aws-lc's form of it, which it erases when it is freed.
pub(crate) fn context(suite: Suite, key: &[u8]) -> LessSafeKey {
    let unbound = UnboundKey::new(suite.algorithm(), key);
    // It refuses wrong lengths, which the suite rules out, and fails when memory is exhausted.
    let Ok(unbound) = unbound else { panic!("no memory for an AEAD key") };
    LessSafeKey::new(unbound)
}
