//! TLS 1.3 traffic secrets: record keys from them, and the next one from the last (RFC 8446 sections 7.2, 7.3).

use aws_lc_rs::hkdf::{HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use zeroize::Zeroizing;

use crate::lend::Secret;
use crate::suite::Suite;

/// Bytes of the largest hash used: SHA-384.
const HASH_BYTES_MAX: usize = 48;

/// A traffic secret of one direction.
pub(crate) struct TrafficSecret {
    bytes: Zeroizing<[u8; HASH_BYTES_MAX]>,
    len: usize,
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

impl TrafficSecret {
    /// A secret as the handshake made it; its length tells the hash.
    pub(crate) fn new(secret: &[u8]) -> Option<TrafficSecret> {
        let mut bytes = Zeroizing::new([0; HASH_BYTES_MAX]);
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        matches!(secret.len(), 32 | 48).then_some(TrafficSecret { bytes, len: secret.len() })
    }

    /// HKDF-Expand-Label with an empty context.
    fn expand(&self, label: &[u8], out: &mut [u8]) {
        let algorithm = if self.len == 32 { HKDF_SHA256 } else { HKDF_SHA384 };
        let len = (out.len() as u16).to_be_bytes();
        let label_len = [6 + label.len() as u8];
        let info: [&[u8]; 5] = [&len, &label_len, b"tls13 ", label, &[0]];
        Prk::new_less_safe(algorithm, &self.bytes[..self.len])
            .expand(&info, Len(out.len()))
            .and_then(|okm| okm.fill(out))
            .expect("keys are within HKDF's range");
    }

    /// The record key and IV of this secret.
    pub(crate) fn record_secret(&self, suite: Suite) -> Secret {
        let mut secret = Secret::default();
        self.expand(b"key", &mut secret.key[..suite.key_len()]);
        self.expand(b"iv", &mut secret.iv[..]);
        secret
    }

    /// The next secret; this one is erased.
    pub(crate) fn update(&mut self) {
        let mut next = Zeroizing::new([0; HASH_BYTES_MAX]);
        self.expand(b"traffic upd", &mut next[..self.len]);
        self.bytes = next;
    }
}
