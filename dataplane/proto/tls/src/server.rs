//! A server's configuration: checked whole at start, then shared by every handshake of every worker. Another one may take
//! its place while handshakes are under way: they end with what they began with, and clients come back as before.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{ServerConfig, SupportedCipherSuite, SupportedProtocolVersion};

use crate::certificates::{CHAIN_MAX, CertificateFacts, CertificatePem, Certificates};
use crate::hooks::{Hooks, Shared};
use crate::key_log::KeyLog;
use crate::offered::{Offered, Search};
use crate::record::{Fragment, HEADER_BYTES};
use crate::resumer::Resumer;
use crate::session::{Cursor, Session, SessionId, Walk};
use crate::suite::{Suite, Version};

/// The one application protocol (RFC 7301).
const ALPN: &[u8] = b"http/1.1";

/// TLS 1.3 sessions a client gets in a handshake: each can be used once (RFC 8446 C.4). One record carries both.
const SESSIONS_PER_HANDSHAKE: usize = 2;

/// aws-lc reads this variable; set to nothing it turns AES instructions off.
const CPU_CAPABILITIES_VARIABLE: &str = "OPENSSL_ia32cap";

/// What a server is to be.
pub struct ServerOptions {
    /// Picked by the server name a client asks for; the first is the default.
    pub certificates: Vec<CertificatePem>,
    /// Offer TLS 1.2.
    pub tls12: bool,
    /// Offer TLS 1.3.
    pub tls13: bool,
    /// How clients come back.
    pub resumption: Resumption,
    /// IANA names of the cipher suites offered, the preferred first; `None`: all of [`Suite::ALL`]. Our order
    /// decides: all are sound, and AES-128-GCM costs us least.
    pub suites: Option<Vec<String>>,
    /// Most plaintext of one record of ours.
    pub fragment: Fragment,
    /// Where the secrets of all connections go. Whoever gets them reads the traffic: for an operator's own debugging.
    pub key_log: Option<Arc<KeyLog>>,
}

/// How clients come back without a full handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// They do not.
    Off,
    /// By sessions kept here.
    Table {
        /// Sessions kept at most.
        sessions: usize,
        /// How long.
        lifetime: Duration,
    },
    /// By sessions kept by the cluster: a handshake tells which sessions it made, and asks for those that are not here.
    Shared {
        /// Sessions kept here at most.
        sessions: usize,
        /// How long.
        lifetime: Duration,
    },
    /// By tickets kept by the client.
    Tickets {
        /// How long they are good.
        lifetime: Duration,
    },
}

/// Why a server cannot start, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No certificate at all.
    #[error("TLS needs a certificate: add a [[certificate]] section")]
    NoCertificates,
    /// A chain without a certificate.
    #[error(
        "{source_name}: no certificate in it; it has to have PEM blocks \"BEGIN CERTIFICATE\", the server's first"
    )]
    NoCertificate {
        /// The chain's file.
        source_name: String,
    },
    /// A chain too long.
    #[error("{source_name}: more than {max} certificates; leave only the server's and its intermediates", max = CHAIN_MAX)]
    LongChain {
        /// The chain's file.
        source_name: String,
    },
    /// A broken PEM block.
    #[error("{source_name}: the PEM text of the certificate or of its key is damaged; copy the files again")]
    MalformedPem {
        /// The chain's file.
        source_name: String,
    },
    /// A certificate that is none.
    #[error(
        "{source_name}: its first certificate cannot be read; `openssl x509 -in FILE -text` should show it"
    )]
    MalformedCertificate {
        /// The chain's file.
        source_name: String,
    },
    /// No key.
    #[error(
        "{source_name}: no private key for it; the key's file has to have a PEM block \"BEGIN PRIVATE KEY\""
    )]
    NoKey {
        /// The chain's file.
        source_name: String,
    },
    /// A key under a passphrase.
    #[error(
        "{source_name}: its private key is encrypted; `openssl pkey -in KEY -out PLAINKEY` removes the passphrase"
    )]
    EncryptedKey {
        /// The chain's file.
        source_name: String,
    },
    /// A key of a kind we cannot use.
    #[error(
        "{source_name}: its private key cannot be used; make an ECDSA P-256, Ed25519 or RSA (2048 bits or more) key"
    )]
    UnusableKey {
        /// The chain's file.
        source_name: String,
    },
    /// A key of another certificate.
    #[error(
        "{source_name}: the private key belongs to another certificate; pair each chain with its own key"
    )]
    WrongKey {
        /// The chain's file.
        source_name: String,
    },
    /// No version.
    #[error("no TLS version is offered: allow 1.2 or 1.3")]
    NoVersion,
    /// A suite we do not have.
    #[error("cipher suite \"{name}\" is not known; known are {known}", known = known_suites())]
    UnknownSuite {
        /// As it was written.
        name: String,
    },
    /// A version without suite.
    #[error("{version} is offered, but none of its cipher suites: add one or leave the version out", version = version.name())]
    NoSuite {
        /// The version.
        version: Version,
    },
    /// A session lifetime out of range.
    #[error("sessions have to live from 1 second to 7 days (RFC 8446 4.6.1)")]
    SessionLifetime,
    /// rustls or aws-lc-rs failed.
    #[error("TLS cannot start: {what}")]
    Provider {
        /// Their word.
        what: String,
    },
}

fn known_suites() -> String {
    Suite::ALL.map(Suite::name).join(", ")
}

/// A server's configuration; cheap to clone and to share.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    /// Without hooks; each handshake has its own.
    config: ServerConfig,
    shared: Arc<Shared>,
    resumer: Resumer,
    warnings: Vec<String>,
    fragment: Fragment,
    tls13: bool,
}

impl Server {
    /// Checks everything that can be checked before the first client.
    ///
    /// # Errors
    /// A sentence that names the file and what to do.
    pub fn new(options: &ServerOptions) -> Result<Server, ConfigError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Server::with_provider(options, provider, Arc::new(DefaultTimeProvider))
    }

    /// As [`new`](Server::new), with another source of randomness and time: for simulations.
    ///
    /// # Errors
    /// As [`new`](Server::new).
    pub fn with_provider(
        options: &ServerOptions,
        provider: CryptoProvider,
        clock: Arc<dyn TimeProvider>,
    ) -> Result<Server, ConfigError> {
        let resumer = Resumer::new(options.resumption, &provider, &clock)?;
        Server::assemble(options, provider, clock, resumer)
    }

    /// The server that takes this one's place: of these options, but for [`ServerOptions::resumption`], which stays as it
    /// is. Clients come back to it by the sessions and tickets of this one; handshakes under way end with this one.
    ///
    /// # Errors
    /// As [`new`](Server::new); this one goes on as it is.
    pub fn renewed(&self, options: &ServerOptions) -> Result<Server, ConfigError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Server::assemble(options, provider, Arc::new(DefaultTimeProvider), self.resumer())
    }

    /// This server with other certificates in some of its places, by their order in [`certificates`](Server::certificates);
    /// the rest is the same, keys of other places included.
    ///
    /// # Errors
    /// One cannot be used; this server goes on as it is.
    pub fn with_certificates(&self, others: &[(usize, CertificatePem)]) -> Result<Server, ConfigError> {
        let Inner { config, shared, resumer, warnings: _, fragment, tls13 } = &*self.inner;
        let certificates = shared.certificates.with(others)?;
        let now = config.time_provider.current_time();
        let warnings = now.map(|now| certificates.warnings(now)).unwrap_or_default();
        let shared = Arc::new(Shared { certificates, ..shared.without_certificates() });
        let mut config = config.clone();
        config.cert_resolver = Hooks::new(Arc::clone(&shared));
        let resumer = resumer.clone();
        let inner = Inner { config, shared, resumer, warnings, fragment: *fragment, tls13: *tls13 };
        Ok(Server { inner: Arc::new(inner) })
    }

    fn assemble(
        options: &ServerOptions,
        mut provider: CryptoProvider,
        clock: Arc<dyn TimeProvider>,
        resumer: Resumer,
    ) -> Result<Server, ConfigError> {
        let failed = |what: &str| ConfigError::Provider { what: what.to_owned() };
        let versions = versions(options, &mut provider)?;
        let now = clock.current_time().ok_or_else(|| failed("the clock is before 1970: set it"))?;
        let certificates = Certificates::new(&options.certificates)?;
        let mut warnings = certificates.warnings(now);
        if std::env::var_os(CPU_CAPABILITIES_VARIABLE).is_some() {
            warnings.push(format!(
                "{CPU_CAPABILITIES_VARIABLE} is set: it can make AES 35 times slower; unset it"
            ));
        }
        let shared = Arc::new(Shared {
            certificates,
            sessions: resumer.storage(),
            is_shared: resumer.is_shared,
            tickets: resumer.tickets(),
            key_log: options.key_log.clone(),
        });
        let provider = Arc::new(provider);
        let mut config = ServerConfig::builder_with_details(provider, clock)
            .with_protocol_versions(&versions)
            .map_err(|error| failed(&error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Hooks::new(Arc::clone(&shared)));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_secret_extraction = true;
        config.ignore_client_order = true;
        config.send_tls13_tickets = if resumer.is_off() { 0 } else { SESSIONS_PER_HANDSHAKE };
        // rustls counts the header in.
        config.max_fragment_size = Some(options.fragment.bytes() + HEADER_BYTES);
        // Early data can be replayed to another node: refused.
        config.max_early_data_size = 0;
        let inner =
            Inner { config, shared, resumer, warnings, fragment: options.fragment, tls13: options.tls13 };
        Ok(Server { inner: Arc::new(inner) })
    }

    /// What clients come back by, without the certificates.
    pub fn resumer(&self) -> Resumer {
        self.inner.resumer.clone()
    }

    /// What is known of its certificates, in their order.
    pub fn certificates(&self) -> &[CertificateFacts] {
        self.inner.shared.certificates.facts()
    }

    /// Whether nobody else holds this server, nor a handshake that began with it: dropped now, its keys are erased.
    pub fn is_alone(&self) -> bool {
        Arc::strong_count(&self.inner) == 1
    }

    /// Most plaintext of one record of ours.
    pub(crate) fn fragment(&self) -> Fragment {
        self.inner.fragment
    }

    /// What is no error, but clients may notice: expired certificates, slow AES. Sentences for the log.
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Does once what is slow the first time: the random number generator (tens of milliseconds), one signature by
    /// each key, one share of each key exchange group. Call it before polling.
    pub fn warm_up(&self) {
        let provider = self.inner.config.crypto_provider();
        // What fails here fails in the first handshake, with its own alert.
        let _ = provider.secure_random.fill(&mut [0; 32]);
        for group in &provider.kx_groups {
            let _ = group.start();
        }
        self.inner.shared.certificates.warm_up();
    }

    /// Keeps a session a handshake has made, here or at another node. Without a table it is dropped.
    pub fn keep(&self, session: Session) {
        if let Some(table) = &self.inner.resumer.table {
            table.keep(session);
        }
    }

    /// Gives a session kept here to a handshake of another node. One that may go on once is gone here.
    pub fn give(&self, identity: &SessionId) -> Option<Session> {
        self.inner.resumer.table.as_ref()?.give(identity)
    }

    /// Gives a session kept here to the node it lives at from now on: it is gone here, whether it may go on once or not.
    pub fn hand_over(&self, identity: &SessionId) -> Option<Session> {
        self.inner.resumer.table.as_ref()?.hand_over(identity)
    }

    /// The next session kept here, from the cursor on, that is such. Looks at no more than `looks` places, and counts
    /// them down.
    pub fn walk(&self, cursor: &mut Cursor, looks: &mut usize, is_such: impl Fn(&SessionId) -> bool) -> Walk {
        self.inner.resumer.table.as_ref().map_or(Walk::Over, |table| table.walk(cursor, looks, is_such))
    }

    /// Of the sessions a client offers, those that are not here, if others may keep them; nothing if one is here.
    pub(crate) fn absent(&self, offered: Offered) -> Offered {
        match &self.inner.resumer.table {
            Some(table) if !offered.iter().any(|identity| table.has(identity)) => offered,
            _ => Offered::new(),
        }
    }

    /// How a handshake looks for sessions offered, if it has to.
    pub(crate) fn search(&self) -> Option<Search> {
        self.inner.resumer.is_shared.then(Search::default)
    }

    /// Whether it offers TLS 1.3.
    pub(crate) fn has_tls13(&self) -> bool {
        self.inner.tls13
    }

    /// The configuration of one handshake, with hooks of its own.
    pub(crate) fn handshake(&self) -> (Arc<ServerConfig>, Arc<Hooks>) {
        let hooks = Hooks::new(Arc::clone(&self.inner.shared));
        let mut config = self.inner.config.clone();
        config.cert_resolver = Arc::clone(&hooks) as _;
        config.session_storage = Arc::clone(&hooks) as _;
        config.ticketer = Arc::clone(&hooks) as _;
        config.key_log = Arc::clone(&hooks) as _;
        (Arc::new(config), hooks)
    }
}

/// The versions offered; leaves only the suites asked for in `provider`.
fn versions(
    options: &ServerOptions,
    provider: &mut CryptoProvider,
) -> Result<Vec<&'static SupportedProtocolVersion>, ConfigError> {
    let mut wanted = Vec::new();
    for name in options.suites.iter().flatten() {
        let known = Suite::ALL.into_iter().find(|suite| suite.name() == name);
        wanted.push(known.ok_or_else(|| ConfigError::UnknownSuite { name: name.clone() })?);
    }
    if options.suites.is_none() {
        wanted.extend(Suite::ALL);
    }
    let place = |it: &SupportedCipherSuite| {
        let suite = Suite::from_wire(u16::from(it.suite()));
        wanted.iter().position(|wanted| Some(*wanted) == suite)
    };
    provider.cipher_suites.retain(|it| place(it).is_some());
    provider.cipher_suites.sort_by_key(place);
    let mut versions = Vec::new();
    for (version, on, theirs) in [
        (Version::Tls13, options.tls13, &rustls::version::TLS13),
        (Version::Tls12, options.tls12, &rustls::version::TLS12),
    ] {
        if !on {
            continue;
        }
        if !provider.cipher_suites.iter().any(|suite| suite.version() == theirs) {
            return Err(ConfigError::NoSuite { version });
        }
        versions.push(theirs);
    }
    if versions.is_empty() { Err(ConfigError::NoVersion) } else { Ok(versions) }
}
