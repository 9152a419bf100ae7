//! Certificates: read from PEM at start, checked there, and picked by name in each handshake.
//!
//! In: files' bytes and a ClientHello's name and signature schemes. Out: chain and key. Read-only after start.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rustls::SignatureScheme;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroizing;

use crate::server::ConfigError;

/// Certificates a chain may have.
pub const CHAIN_MAX: usize = 16;

/// A chain and its key, as they lie in their files.
pub struct CertificatePem {
    /// PEM certificates, leaf first.
    pub chain: Vec<u8>,
    /// One PEM private key: PKCS#8, SEC1 or PKCS#1, not encrypted.
    pub key: Zeroizing<Vec<u8>>,
    /// What errors call it: the chain's file.
    pub source: String,
}

/// All certificates of a server.
#[derive(Default)]
pub(crate) struct Certificates {
    keys: Vec<Arc<CertifiedKey>>,
    exact: HashMap<String, Vec<usize>>,
    /// By the name behind `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

impl Certificates {
    /// Reads and checks all of them. The second value has sentences about what is no error but soon will be noticed.
    pub(crate) fn new(
        pems: &[CertificatePem],
        provider: &CryptoProvider,
        now: UnixTime,
    ) -> Result<(Certificates, Vec<String>), ConfigError> {
        if pems.is_empty() {
            return Err(ConfigError::NoCertificates);
        }
        let mut all = Certificates::default();
        let mut warnings = Vec::new();
        for pem in pems {
            let key = certified_key(pem, provider)?;
            let leaf = read_leaf(&key, &pem.source)?;
            warnings.extend(leaf.validity(now).map(|what| format!("{}: {what}", pem.source)));
            let index = all.keys.len();
            for name in leaf.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut all.wildcard, parent.to_owned()),
                    None => (&mut all.exact, name),
                };
                map.entry(name).or_default().push(index);
            }
            all.keys.push(Arc::new(key));
        }
        Ok((all, warnings))
    }

    /// The certificate for a server name (lower case, as rustls hands it out): exact name, then a wildcard for its
    /// first label (RFC 9525 6.3), then the first of all. Among several for one name the first whose key the client
    /// can verify, so that an ECDSA and an RSA certificate may stand side by side.
    pub(crate) fn pick(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let name = name.map(|name| name.trim_end_matches('.').to_ascii_lowercase());
        let exact = name.as_ref().and_then(|name| self.exact.get(name));
        let named = exact.or_else(|| {
            let (_, parent) = name.as_ref()?.split_once('.')?;
            self.wildcard.get(parent)
        });
        let fits = |key: &&Arc<CertifiedKey>| key.key.choose_scheme(schemes).is_some();
        match named {
            Some(indices) => {
                let keys = || indices.iter().map(|index| &self.keys[*index]);
                keys().find(fits).or_else(|| keys().next()).cloned()
            }
            None => self.keys.iter().find(fits).or_else(|| self.keys.first()).cloned(),
        }
    }

    /// One signature by each key.
    pub(crate) fn warm_up(&self) {
        for key in &self.keys {
            let schemes = [
                SignatureScheme::ECDSA_NISTP256_SHA256,
                SignatureScheme::ECDSA_NISTP384_SHA384,
                SignatureScheme::ECDSA_NISTP521_SHA512,
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::ED25519,
            ];
            if let Some(signer) = key.key.choose_scheme(&schemes) {
                // Only the first use counts, not the signature.
                let _ = signer.sign(b"warm-up");
            }
        }
    }
}

/// What of a leaf certificate matters here.
struct Leaf {
    /// dNSNames, lower case.
    names: Vec<String>,
    not_before: i64,
    not_after: i64,
}

impl Leaf {
    fn validity(&self, now: UnixTime) -> Option<String> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if now > self.not_after {
            let ago = Duration::from_secs((now - self.not_after).unsigned_abs());
            return Some(format!("expired {} hours ago: clients will refuse it", ago.as_secs() / 3600));
        }
        (now < self.not_before)
            .then(|| "not valid yet: clients will refuse it; is the clock right?".to_owned())
    }
}

fn read_leaf(key: &CertifiedKey, source: &str) -> Result<Leaf, ConfigError> {
    let malformed = || ConfigError::MalformedCertificate { source_name: source.to_owned() };
    let der = key.cert.first().ok_or_else(malformed)?;
    let (_, leaf) = X509Certificate::from_der(der).map_err(|_| malformed())?;
    let alternatives = leaf.subject_alternative_name().map_err(|_| malformed())?;
    let names = alternatives.iter().flat_map(|it| &it.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    let validity = leaf.validity();
    Ok(Leaf {
        names: names.collect(),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    })
}

fn certified_key(pem: &CertificatePem, provider: &CryptoProvider) -> Result<CertifiedKey, ConfigError> {
    let source = || pem.source.clone();
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem.chain)
        .take(CHAIN_MAX + 1)
        .collect::<Result<_, _>>()
        .map_err(|_| ConfigError::MalformedPem { source_name: source() })?;
    match chain.len() {
        0 => return Err(ConfigError::NoCertificate { source_name: source() }),
        count if count > CHAIN_MAX => return Err(ConfigError::LongChain { source_name: source() }),
        _ => {}
    }
    let key = private_key(pem)?;
    let key = provider
        .key_provider
        .load_private_key(key)
        .map_err(|_| ConfigError::UnusableKey { source_name: source() })?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        // A key that cannot tell its public half is not known to be wrong.
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(_)) => Err(ConfigError::WrongKey { source_name: source() }),
        Err(_) => Err(ConfigError::MalformedCertificate { source_name: source() }),
    }
}

fn private_key(pem: &CertificatePem) -> Result<PrivateKeyDer<'static>, ConfigError> {
    match PrivateKeyDer::from_pem_slice(&pem.key) {
        Ok(key) => Ok(key),
        Err(pem::Error::NoItemsFound) => {
            let source_name = pem.source.clone();
            let text = pem.key.as_slice();
            let says = |what: &[u8]| text.windows(what.len()).any(|part| part == what);
            if says(b"ENCRYPTED") {
                Err(ConfigError::EncryptedKey { source_name })
            } else {
                Err(ConfigError::NoKey { source_name })
            }
        }
        Err(_) => Err(ConfigError::MalformedPem { source_name: pem.source.clone() }),
    }
}
