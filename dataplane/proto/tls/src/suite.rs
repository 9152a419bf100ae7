//! Versions and AEADs of the record layer.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305};

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// TLS 1.2
    Tls12,
    /// TLS 1.3
    Tls13,
}

/// An AEAD. The record layer needs no more of a cipher suite, besides its hash for TLS 1.3 key updates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// AES-128-GCM
    Aes128Gcm = 1,
    /// AES-256-GCM
    Aes256Gcm = 2,
    /// ChaCha20-Poly1305
    ChaCha20Poly1305 = 3,
}

impl Suite {
    pub(crate) fn of(number: u8) -> Option<Suite> {
        [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305]
            .into_iter()
            .find(|suite| *suite as u8 == number)
    }

    pub(crate) fn algorithm(self) -> &'static Algorithm {
        match self {
            Suite::Aes128Gcm => &AES_128_GCM,
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        }
    }

    pub(crate) fn key_len(self) -> usize {
        self.algorithm().key_len()
    }

    /// Records one key may seal (RFC 8446 section 5.5; draft-irtf-cfrg-aead-limits): 2^24.5 for AES-GCM, rounded
    /// down; ChaCha20-Poly1305 has no limit before its sequence numbers end.
    pub(crate) fn records_max(self) -> u64 {
        match self {
            Suite::Aes128Gcm | Suite::Aes256Gcm => 1 << 24,
            Suite::ChaCha20Poly1305 => u64::MAX - 1,
        }
    }

    /// TLS 1.2 sends part of the nonce with GCM (RFC 5288 section 3), not with ChaCha20 (RFC 7905 section 2).
    pub(crate) fn explicit_nonce_bytes(self, version: Version) -> usize {
        match (version, self) {
            (Version::Tls12, Suite::Aes128Gcm | Suite::Aes256Gcm) => 8,
            _ => 0,
        }
    }
}
