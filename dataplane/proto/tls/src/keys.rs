//! Key material: record keys and traffic secrets. Erased on drop, without `Debug`, never copied on purpose.

use zeroize::{Zeroize, ZeroizeOnDrop};

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

    /// Copies into another key of the same suite, byte by byte where it stays.
    pub(crate) fn copy_to(&self, to: &mut TrafficKey) {
        to.suite = self.suite;
        to.key = self.key;
        to.iv = self.iv;
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
