//! Certificates: read from PEM, checked whole, and picked by name in each handshake.
//!
//! In: files' bytes and a ClientHello's name and signature schemes. Out: chain and key. Read-only once made; other
//! certificates are another [`Server`](crate::Server).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::{Zeroize, Zeroizing};

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

impl CertificatePem {
    /// Checks all that can be checked of the pair by itself: that a server could be made of it.
    ///
    /// # Errors
    /// A sentence that names the chain's file and what to do.
    pub fn check(&self) -> Result<CertificateFacts, ConfigError> {
        let key = certified_key(self)?;
        Ok(read_leaf(&key, &self.source)?.facts)
    }
}

/// What an operator wants to know of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its file.
    pub source: String,
    /// The first name it is for; of one without names its subject.
    pub name: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when, likewise.
    pub not_after: i64,
    /// SHA-256 of the whole chain: those behind the first may be renewed alone.
    pub digest: [u8; 32],
}

impl CertificateFacts {
    /// Of the first certificate in a PEM file's bytes; `None` if there is none that can be read.
    pub fn of_pem(pem: &[u8], source: &str) -> Option<CertificateFacts> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
        let (_, leaf) = X509Certificate::from_der(chain.first()?).ok()?;
        Some(CertificateFacts::of(&leaf, &chain, source))
    }

    fn of(leaf: &X509Certificate<'_>, chain: &[CertificateDer<'_>], source: &str) -> CertificateFacts {
        let mut digest = digest::Context::new(&digest::SHA256);
        chain.iter().for_each(|certificate| digest.update(certificate));
        let mut whole = [0; 32];
        whole.copy_from_slice(digest.finish().as_ref());
        let name = dns_names(leaf).into_iter().next().unwrap_or_else(|| leaf.subject().to_string());
        let validity = leaf.validity();
        CertificateFacts {
            source: source.to_owned(),
            name,
            serial: serial(leaf.raw_serial()),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
            digest: whole,
        }
    }

    /// What clients will hold against it at this time, in seconds since 1970; follows its file.
    pub fn fault(&self, now: i64) -> Option<String> {
        if now > self.not_after {
            let ago = Duration::from_secs((now - self.not_after).unsigned_abs());
            return Some(format!("expired {} hours ago: clients will refuse it", ago.as_secs() / 3600));
        }
        (now < self.not_before)
            .then(|| "not valid yet: clients will refuse it; is the clock right?".to_owned())
    }
}

/// All certificates of a server.
#[derive(Default)]
pub(crate) struct Certificates {
    all: Vec<Certificate>,
    facts: Vec<CertificateFacts>,
    exact: HashMap<String, Vec<usize>>,
    /// By the name behind `*.`.
    wildcard: HashMap<String, Vec<usize>>,
}

/// One of them, ready to be used.
#[derive(Clone)]
struct Certificate {
    key: Arc<CertifiedKey>,
    leaf: Leaf,
}

impl Certificate {
    fn read(pem: &CertificatePem) -> Result<Certificate, ConfigError> {
        let key = certified_key(pem)?;
        let leaf = read_leaf(&key, &pem.source)?;
        Ok(Certificate { key: Arc::new(key), leaf })
    }
}

impl Certificates {
    /// Reads and checks all of them.
    pub(crate) fn new(pems: &[CertificatePem]) -> Result<Certificates, ConfigError> {
        if pems.is_empty() {
            return Err(ConfigError::NoCertificates);
        }
        Ok(Certificates::of(pems.iter().map(Certificate::read).collect::<Result<_, _>>()?))
    }

    /// The same, with others in some places.
    pub(crate) fn with(&self, others: &[(usize, CertificatePem)]) -> Result<Certificates, ConfigError> {
        let mut all = self.all.clone();
        for (index, pem) in others {
            if let Some(place) = all.get_mut(*index) {
                *place = Certificate::read(pem)?;
            }
        }
        Ok(Certificates::of(all))
    }

    fn of(all: Vec<Certificate>) -> Certificates {
        let facts = all.iter().map(|it| it.leaf.facts.clone()).collect();
        let (mut exact, mut wildcard) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for (index, certificate) in all.iter().enumerate() {
            for name in &certificate.leaf.names {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(parent) => (&mut wildcard, parent),
                    None => (&mut exact, name.as_str()),
                };
                map.entry(name.to_owned()).or_default().push(index);
            }
        }
        Certificates { all, facts, exact, wildcard }
    }

    /// What is known of each.
    pub(crate) fn facts(&self) -> &[CertificateFacts] {
        &self.facts
    }

    /// Sentences about what is no error but soon will be noticed.
    pub(crate) fn warnings(&self, now: UnixTime) -> Vec<String> {
        let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        let of = |it: &Certificate| {
            let faults = it.leaf.facts.fault(now).into_iter().chain(it.leaf.disorder.clone());
            faults.map(|what| format!("{}: {what}", it.leaf.facts.source)).collect::<Vec<_>>()
        };
        self.all.iter().flat_map(of).collect()
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
                let keys = || indices.iter().map(|index| &self.all[*index].key);
                keys().find(fits).or_else(|| keys().next()).cloned()
            }
            None => {
                let mut keys = self.all.iter().map(|it| &it.key);
                keys.clone().find(fits).or_else(|| keys.next()).cloned()
            }
        }
    }

    /// One signature by each key.
    pub(crate) fn warm_up(&self) {
        for Certificate { key, .. } in &self.all {
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

/// What of a chain matters here.
#[derive(Clone)]
struct Leaf {
    /// dNSNames, lower case.
    names: Vec<String>,
    facts: CertificateFacts,
    /// What is wrong with the chain's order; follows its file.
    disorder: Option<String>,
}

/// As tools write it: without the zero that DER puts in front so that it is no negative number.
fn serial(bytes: &[u8]) -> String {
    let bytes = if let [0, rest @ ..] = bytes
        && !rest.is_empty()
    {
        rest
    } else {
        bytes
    };
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn dns_names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let alternatives = leaf.subject_alternative_name().ok().flatten();
    let names = alternatives.iter().flat_map(|it| &it.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    names.collect()
}

/// Reads the whole chain: one that was not written to its end is as bad behind its leaf as in it.
fn read_leaf(key: &CertifiedKey, source: &str) -> Result<Leaf, ConfigError> {
    let malformed = || ConfigError::MalformedCertificate { source_name: source.to_owned() };
    let mut chain = Vec::with_capacity(key.cert.len());
    for der in &key.cert {
        chain.push(X509Certificate::from_der(der).map_err(|_| malformed())?.1);
    }
    let leaf = chain.first().ok_or_else(malformed)?;
    leaf.subject_alternative_name().map_err(|_| malformed())?;
    // Most clients sort them by themselves (RFC 8446 4.4.2 asks them to), others do not.
    let follows = |pair: &[X509Certificate<'_>]| pair[0].issuer().as_raw() == pair[1].subject().as_raw();
    let disorder = (!chain.windows(2).all(follows)).then(|| {
        "its certificates are not in order, each signed by the next: some clients will refuse it".to_owned()
    });
    Ok(Leaf { names: dns_names(leaf), facts: CertificateFacts::of(leaf, &key.cert, source), disorder })
}

fn certified_key(pem: &CertificatePem) -> Result<CertifiedKey, ConfigError> {
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
    let mut private = private_key(pem)?;
    // Not by the provider, which would take the bytes and not erase them; its keys are the same.
    let key = any_supported_type(&private);
    private.zeroize();
    let certified =
        CertifiedKey::new(chain, key.map_err(|_| ConfigError::UnusableKey { source_name: source() })?);
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
