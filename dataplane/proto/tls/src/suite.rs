//! Cipher suites and protocol versions: every AEAD suite of TLS 1.2 and 1.3 that rustls offers on aws-lc-rs.

use aws_lc_rs::{aead, hkdf};

use crate::record::EXPLICIT_NONCE_BYTES;

/// A protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl Version {
    /// `TLSv1.2` or `TLSv1.3`.
    pub const fn name(self) -> &'static str {
        match self {
            Version::Tls12 => "TLSv1.2",
            Version::Tls13 => "TLSv1.3",
        }
    }
}

macro_rules! suites {
    ($($name:ident = $code:literal, $text:literal, $version:ident, $aead:ident, $hash:ident;)*) => {
        /// A cipher suite, by its number at IANA.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Suite {
            $(#[doc = concat!("`", $text, "`")] $name = $code,)*
        }

        impl Suite {
            /// All of them, strongest version first.
            pub const ALL: [Suite; [$($code),*].len()] = [$(Suite::$name),*];

            /// The suite of an IANA number.
            pub const fn from_wire(code: u16) -> Option<Suite> {
                match code {
                    $($code => Some(Suite::$name),)*
                    _ => None,
                }
            }

            /// IANA's name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Suite::$name => $text,)*
                }
            }

            /// The version it belongs to.
            pub const fn version(self) -> Version {
                match self {
                    $(Suite::$name => Version::$version,)*
                }
            }

            pub(crate) const fn aead(self) -> Aead {
                match self {
                    $(Suite::$name => Aead::$aead,)*
                }
            }

            /// The hash of the key schedule.
            pub(crate) const fn hkdf(self) -> hkdf::Algorithm {
                match self {
                    $(Suite::$name => hkdf::$hash,)*
                }
            }
        }
    };
}

suites! {
    Aes128GcmSha256 = 0x1301, "TLS_AES_128_GCM_SHA256", Tls13, Aes128Gcm, HKDF_SHA256;
    Aes256GcmSha384 = 0x1302, "TLS_AES_256_GCM_SHA384", Tls13, Aes256Gcm, HKDF_SHA384;
    Chacha20Poly1305Sha256 = 0x1303, "TLS_CHACHA20_POLY1305_SHA256", Tls13, Chacha20Poly1305, HKDF_SHA256;
    EcdheEcdsaAes128GcmSha256 = 0xc02b, "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", Tls12, Aes128Gcm, HKDF_SHA256;
    EcdheEcdsaAes256GcmSha384 = 0xc02c, "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", Tls12, Aes256Gcm, HKDF_SHA384;
    EcdheEcdsaChacha20Poly1305 = 0xcca9, "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", Tls12, Chacha20Poly1305, HKDF_SHA256;
    EcdheRsaAes128GcmSha256 = 0xc02f, "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", Tls12, Aes128Gcm, HKDF_SHA256;
    EcdheRsaAes256GcmSha384 = 0xc030, "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", Tls12, Aes256Gcm, HKDF_SHA384;
    EcdheRsaChacha20Poly1305 = 0xcca8, "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", Tls12, Chacha20Poly1305, HKDF_SHA256;
}

/// What protects the records of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aead {
    Aes128Gcm,
    Aes256Gcm,
    Chacha20Poly1305,
}

impl Suite {
    /// aws-lc copies the key of ChaCha20-Poly1305 to its stack to seal a record, and leaves it there.
    pub(crate) const fn leaves_keys_on_stack(self) -> bool {
        matches!(self.aead(), Aead::Chacha20Poly1305)
    }

    /// IANA's number.
    pub const fn wire(self) -> u16 {
        self as u16
    }

    /// Records one key may seal: the confidentiality limit for records of full size, that of rustls (2^24 for AES-GCM,
    /// RFC 8446 5.5 has 2^24.5). For ChaCha20-Poly1305 only the sequence number bounds it.
    pub const fn records_max(self) -> u64 {
        match self.aead() {
            Aead::Aes128Gcm | Aead::Aes256Gcm => 1 << 24,
            Aead::Chacha20Poly1305 => 1 << 62,
        }
    }

    pub(crate) const fn key_bytes(self) -> usize {
        match self.aead() {
            Aead::Aes128Gcm => 16,
            Aead::Aes256Gcm | Aead::Chacha20Poly1305 => 32,
        }
    }

    /// Bytes of the nonce that each record carries: only in TLS 1.2 AES-GCM (RFC 5288 3; RFC 7905 2 has none).
    pub(crate) const fn explicit_nonce_bytes(self) -> usize {
        match (self.version(), self.aead()) {
            (Version::Tls12, Aead::Aes128Gcm | Aead::Aes256Gcm) => EXPLICIT_NONCE_BYTES,
            _ => 0,
        }
    }

    pub(crate) fn algorithm(self) -> &'static aead::Algorithm {
        match self.aead() {
            Aead::Aes128Gcm => &aead::AES_128_GCM,
            Aead::Aes256Gcm => &aead::AES_256_GCM,
            Aead::Chacha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_every_suite_of_the_provider() {
        let mut theirs: Vec<u16> = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES
            .iter()
            .map(|suite| u16::from(suite.suite()))
            .collect();
        let mut ours: Vec<u16> = Suite::ALL.iter().map(|suite| suite.wire()).collect();
        theirs.sort_unstable();
        ours.sort_unstable();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn limits_are_no_larger_than_those_of_the_provider() {
        for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
            let ours = Suite::from_wire(u16::from(suite.suite())).unwrap();
            let theirs = match suite {
                rustls::SupportedCipherSuite::Tls12(it) => it.common.confidentiality_limit,
                rustls::SupportedCipherSuite::Tls13(it) => it.common.confidentiality_limit,
            };
            assert!(ours.records_max() <= theirs, "{}", ours.name());
            assert_eq!(ours.algorithm().key_len(), ours.key_bytes());
            assert_eq!(ours.algorithm().tag_len(), crate::record::TAG_BYTES);
        }
    }
}
