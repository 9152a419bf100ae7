//! What a server is: certificates, versions, suites, resumption.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, UnbufferedServerConnection};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedCipherSuite};
use zeroize::Zeroizing;

use crate::capture::Capture;
use crate::names::ByName;
use crate::session::Table;

/// A certificate chain and its key, as PEM.
pub struct CertificatePem {
    /// Chain, leaf first.
    pub chain: Vec<u8>,
    /// Private key: PKCS #8, SEC1 or PKCS #1.
    pub key: Zeroizing<Vec<u8>>,
    /// Where it comes from, for error sentences.
    pub source: String,
}

/// How sessions resume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// Never.
    Off,
    /// Session IDs and PSKs, kept here.
    Table {
        /// Sessions at most.
        sessions: usize,
        /// How long one is kept.
        lifetime: Duration,
    },
    /// Sealed tickets, kept by the client.
    Tickets {
        /// How long one is taken.
        lifetime: Duration,
    },
}

/// What a server is made of.
pub struct ServerOptions {
    /// Picked by the name the client asks for; the first is the default.
    pub certificates: Vec<CertificatePem>,
    /// Offer TLS 1.2.
    pub tls12: bool,
    /// Offer TLS 1.3.
    pub tls13: bool,
    /// How sessions resume.
    pub resumption: Resumption,
    /// IANA names of the suites to offer; `None`: all.
    pub suites: Option<Vec<String>>,
}

/// Why there is no server; each sentence says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No certificate.
    #[error("no certificate is configured: add a [[certificate]] with chain and key")]
    NoCertificate,
    /// The chain cannot be read.
    #[error("{0} holds no certificate that can be read ({1}): give a PEM file, leaf certificate first")]
    Chain(String, String),
    /// The key cannot be read.
    #[error(
        "the private key of {0} cannot be read ({1}): give a PEM file with a PKCS #8, SEC1 or PKCS #1 key"
    )]
    Key(String, String),
    /// They do not belong together.
    #[error(
        "the private key does not belong to the first certificate of {0}: check [[certificate]] chain and key"
    )]
    Mismatch(String),
    /// Neither version.
    #[error("no TLS version is enabled: set [tls] versions to [\"1.3\", \"1.2\"]")]
    NoVersion,
    /// An unknown suite.
    #[error("there is no cipher suite {0}: name one of {1}")]
    Suite(String, String),
    /// rustls refuses.
    #[error("TLS cannot be configured ({0}): check [tls]")]
    Tls(#[from] rustls::Error),
}

/// Everything handshakes share. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    config: Arc<ServerConfig>,
}

impl Server {
    /// Reads certificates and keys.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(options: &ServerOptions) -> Result<Server, ConfigError> {
        let provider = Arc::new(provider(options)?);
        let mut keys = Vec::new();
        for pem in &options.certificates {
            keys.push((pem, Arc::new(certified(pem, &provider)?)));
        }
        let (_, default) = keys.first().ok_or(ConfigError::NoCertificate)?;
        let mut names = ByName::new(Arc::clone(default));
        for (pem, key) in &keys {
            let leaf = webpki::EndEntityCert::try_from(&key.cert[0])
                .map_err(|error| ConfigError::Chain(pem.source.clone(), error.to_string()))?;
            for name in leaf.valid_dns_names() {
                names.add(name, key);
            }
        }
        let versions: Vec<_> = [(options.tls13, &TLS13), (options.tls12, &TLS12)]
            .into_iter()
            .filter_map(|(enabled, version)| enabled.then_some(version))
            .collect();
        if versions.is_empty() {
            return Err(ConfigError::NoVersion);
        }
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&versions)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(names));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.enable_secret_extraction = true;
        config.key_log = Arc::new(Capture);
        match options.resumption {
            Resumption::Off => {
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.send_tls13_tickets = 0;
            }
            Resumption::Table { sessions, lifetime } => {
                config.session_storage = Arc::new(Table::new(sessions, lifetime));
            }
            Resumption::Tickets { .. } => {
                config.session_storage = Arc::new(NoServerSessionStorage {});
                config.ticketer = aws_lc_rs::Ticketer::new()?;
            }
        }
        Ok(Server { config: Arc::new(config) })
    }

    /// Makes the first use of the random number generator now: it takes 31 to 40 ms and must not fall on a worker.
    pub fn warm_up(&self) {
        let mut random = [0; 32];
        let _ = self.config.crypto_provider().secure_random.fill(&mut random);
        for group in &self.config.crypto_provider().kx_groups {
            let _ = group.start();
        }
    }

    pub(crate) fn connection(&self) -> Option<UnbufferedServerConnection> {
        UnbufferedServerConnection::new(Arc::clone(&self.config)).ok()
    }
}

fn provider(options: &ServerOptions) -> Result<CryptoProvider, ConfigError> {
    let mut provider = aws_lc_rs::default_provider();
    let Some(wanted) = &options.suites else { return Ok(provider) };
    let name = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite());
    let find = |wanted: &String| {
        provider.cipher_suites.iter().find(|suite| name(suite) == *wanted).copied().ok_or_else(|| {
            let known: Vec<_> = provider.cipher_suites.iter().map(name).collect();
            ConfigError::Suite(wanted.clone(), known.join(", "))
        })
    };
    let suites = wanted.iter().map(find).collect::<Result<_, _>>()?;
    provider.cipher_suites = suites;
    Ok(provider)
}

fn certified(pem: &CertificatePem, provider: &CryptoProvider) -> Result<CertifiedKey, ConfigError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&pem.chain)
        .collect::<Result<_, _>>()
        .map_err(|error| ConfigError::Chain(pem.source.clone(), error.to_string()))?;
    if chain.is_empty() {
        return Err(ConfigError::Chain(pem.source.clone(), "no CERTIFICATE section".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(&pem.key)
        .map_err(|error| ConfigError::Key(pem.source.clone(), error.to_string()))?;
    CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => ConfigError::Mismatch(pem.source.clone()),
        error => ConfigError::Key(pem.source.clone(), error.to_string()),
    })
}
