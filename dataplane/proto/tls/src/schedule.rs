//! The end of TLS 1.3's key schedule: from a traffic secret to its record key and to the next secret
//! (RFC 8446 7.2, 7.3). rustls does the rest and is gone by the time of a KeyUpdate.

use aws_lc_rs::hkdf;
use zeroize::Zeroize;

use crate::keys::{SECRET_BYTES_MAX, Secret, TrafficKey};
use crate::suite::Suite;

/// Longest label used here, prefix included.
const LABEL_BYTES_MAX: usize = "tls13 traffic upd".len();

/// Bytes of an HkdfLabel structure without context.
const INFO_BYTES_MAX: usize = 2 + 1 + LABEL_BYTES_MAX + 1;

struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 7.1).
fn expand_label(suite: Suite, secret: &Secret, label: &str, out: &mut [u8]) {
    const PREFIX: &str = "tls13 ";
    let mut info = [0; INFO_BYTES_MAX];
    let label_bytes = PREFIX.len() + label.len();
    info[..2].copy_from_slice(&(out.len() as u16).to_be_bytes());
    info[2] = label_bytes as u8;
    info[3..3 + PREFIX.len()].copy_from_slice(PREFIX.as_bytes());
    info[3 + PREFIX.len()..3 + label_bytes].copy_from_slice(label.as_bytes());
    let info = &info[..3 + label_bytes + 1];
    let prk = hkdf::Prk::new_less_safe(suite.hkdf(), secret.bytes());
    let filled = prk.expand(&[info], Len(out.len())).and_then(|okm| okm.fill(out));
    assert!(filled.is_ok(), "HKDF refuses only lengths that are never asked for");
}

/// Derives the record key and IV of `secret` into `key`.
pub(crate) fn traffic_key(secret: &Secret, key: &mut TrafficKey) {
    expand_label(key.suite, secret, "key", key.key_mut());
    let suite = key.suite;
    expand_label(suite, secret, "iv", &mut key.iv);
}

/// Replaces `secret` by that of the next epoch; the old one is gone.
pub(crate) fn next_secret(suite: Suite, secret: &mut Secret) {
    let mut next = [0; SECRET_BYTES_MAX];
    let len = secret.bytes().len();
    expand_label(suite, secret, "traffic upd", &mut next[..len]);
    secret.bytes_mut().copy_from_slice(&next[..len]);
    next.zeroize();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// RFC 8448 3: the server's application traffic secret, and the write key and IV of it.
    #[test]
    fn derives_the_keys_of_rfc_8448() {
        let secret =
            Secret::new(&bytes("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")).unwrap();
        let mut key = TrafficKey::empty(Suite::Aes128GcmSha256);
        traffic_key(&secret, &mut key);
        assert_eq!(key.key(), bytes("9f02283b6c9c07efc26bb9f2ac92e356"));
        assert_eq!(key.iv.to_vec(), bytes("cf782b88dd83549aadf1e984"));
    }
}
