//! Whom a node believes, and how it proves who it is. In: the cluster's CA and this node's certificate and key. Out:
//! TLS settings for both directions, and one sentence for whatever goes wrong with them. Control thread. Another [`Trust`] may
//! take the place of one while links live: it is asked whether it believes their peers too.
//!
//! TLS 1.3 only, both ends present certificates, nothing is resumed: each life of a link checks certificates anew.

use std::path::PathBuf;
use std::sync::Arc;

use keyferry_tls::CertificateFacts;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, Connection, Error, RootCertStore,
    ServerConfig, ServerConnection,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::config::files::{self, FileError};

/// The protocol both ends negotiate, so that no other service of the same CA is taken for a link.
pub const PROTOCOL: &[u8] = b"keyferry-link";

/// Certificates in the CA's file, at most: old and new ones while a CA is replaced.
const ROOTS_MAX: usize = 16;
/// Names of a certificate that a log line quotes, at most.
const NAMES_MAX: usize = 4;

/// Why a node cannot prove who it is; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// No CA certificate in the file, or one that is none.
    #[error("{0} holds no usable CA certificate ({1}): name the cluster's, as `keyferry ca init` makes it")]
    Ca(PathBuf, String),
    /// Key and certificate do not belong together.
    #[error("{0} is not the key of {1}: name the two files that were made together")]
    Key(PathBuf, PathBuf),
    /// The certificate would be refused by every peer.
    #[error("peers would refuse {0}: it {1}")]
    Certificate(PathBuf, String),
    /// A name that certificates cannot carry.
    #[error(
        "\"{0}\" cannot stand in a certificate: between peers a node's name is a DNS name, such as \"node-a\""
    )]
    Name(String),
}

/// TLS settings of a node's links.
#[derive(Clone)]
pub struct Trust {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// The files' certificates: the authority's, and this node's chain.
    roots: Vec<CertificateDer<'static>>,
    chain: Vec<CertificateDer<'static>>,
    facts: Option<CertificateFacts>,
    /// What is wrong with the certificate now and need not be later.
    warning: Option<String>,
}

/// A node's name as certificates carry it.
pub fn dns_name(node: &str) -> Result<ServerName<'static>, TrustError> {
    match ServerName::try_from(node.to_owned()) {
        Ok(name @ ServerName::DnsName(_)) => Ok(name),
        _ => Err(TrustError::Name(node.to_owned())),
    }
}

impl Trust {
    /// Reads the CA's certificates, and this node's certificate and key, and checks that they are of use to `node`.
    ///
    /// # Errors
    /// What makes them useless. A certificate that is merely out of date is a [`warning`](Self::warning): clocks are
    /// put right, and the node serves without its peers meanwhile.
    pub fn load(
        ca: &std::path::Path,
        chain: &std::path::Path,
        key: &std::path::Path,
        node: &str,
    ) -> Result<Trust, TrustError> {
        let name = dns_name(node)?;
        let authority = authority(ca)?;
        let roots = Arc::new(roots(ca, &authority)?);
        let pem = files::certificate_chain(chain)?;
        let facts = CertificateFacts::of_pem(&pem, &chain.display().to_string());
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|_| FileError::NoCertificate(chain.to_owned()))?;
        let pem = files::private_key(key)?;
        if files::is_exposed(key) {
            return Err(FileError::Exposed(key.to_owned()).into());
        }
        let no_key = || TrustError::File(FileError::NoKey(key.to_owned()));
        let private = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| no_key())?;
        let own_chain = certificates.clone();

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let warning = self_check(&provider, &roots, &certificates, &name)
            .map_err(|what| TrustError::Certificate(chain.to_owned(), what))?;
        let unfit = |error| match error {
            Error::InconsistentKeys(_) => TrustError::Key(key.to_owned(), chain.to_owned()),
            other => TrustError::Certificate(chain.to_owned(), sentence(&other)),
        };
        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(certificates.clone(), private.clone_key())
            .map_err(unfit)?;
        client.alpn_protocols = vec![PROTOCOL.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();

        let verifier: Arc<dyn ClientCertVerifier> =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
                .build()
                .map_err(|error| TrustError::Ca(ca.to_owned(), error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(Arc::clone(&verifier))
            .with_single_cert(certificates, private)
            .map_err(unfit)?;
        server.alpn_protocols = vec![PROTOCOL.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Trust {
            client: Arc::new(client),
            server: Arc::new(server),
            verifier,
            roots: authority,
            chain: own_chain,
            facts,
            warning,
        })
    }

    /// What an operator should know though the node starts.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// What is known of this node's own certificate.
    pub fn facts(&self) -> Option<&CertificateFacts> {
        self.facts.as_ref()
    }

    /// Whether it believes the same authority.
    pub fn has_same_authority(&self, other: &Trust) -> bool {
        self.roots == other.roots
    }

    /// Whether it shows the same certificate.
    pub fn has_same_certificate(&self, other: &Trust) -> bool {
        self.chain == other.chain
    }

    /// What is wrong with the peer of a link that was made under another trust; `None`: a link made now would be made too,
    /// but for the time: a certificate that ends while its link lives does not end the link.
    pub(super) fn complaint(&self, tls: &Connection) -> Option<String> {
        let Some([leaf, rest @ ..]) = tls.peer_certificates() else { return Some("is missing".to_owned()) };
        match self.verifier.verify_client_cert(leaf, rest, UnixTime::now()) {
            Ok(_) => None,
            Err(Error::InvalidCertificate(error)) if is_of_time(&error) => None,
            Err(error) => Some(certificate_fault(&error)),
        }
    }

    /// The end that connects, to a peer that has to be `peer`.
    pub(super) fn connect(&self, peer: &ServerName<'static>) -> Result<Connection, Error> {
        ClientConnection::new(Arc::clone(&self.client), peer.clone()).map(Connection::from)
    }

    /// The end that is connected to; who the peer is shows in its hello, and [`is_for`] checks it.
    pub(super) fn accept(&self) -> Result<Connection, Error> {
        ServerConnection::new(Arc::clone(&self.server)).map(Connection::from)
    }
}

/// Whether the peer of an established link has a certificate for this name.
pub(super) fn is_for(tls: &Connection, name: &ServerName<'_>) -> bool {
    let Some([leaf, ..]) = tls.peer_certificates() else { return false };
    webpki::EndEntityCert::try_from(leaf)
        .is_ok_and(|leaf| leaf.verify_is_valid_for_subject_name(name).is_ok())
}

/// The names in the certificate of an established link's peer, few enough for a log.
pub(super) fn names(tls: &Connection) -> String {
    let Some([leaf, ..]) = tls.peer_certificates() else { return String::new() };
    let Ok(leaf) = webpki::EndEntityCert::try_from(leaf) else { return String::new() };
    let names: Vec<_> = leaf.valid_dns_names().take(NAMES_MAX).map(|name| format!("`{name}`")).collect();
    names.join(", ")
}

fn authority(ca: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let pem = files::certificate_chain(ca)?;
    let certificates = CertificateDer::pem_slice_iter(&pem).take(ROOTS_MAX);
    certificates.collect::<Result<_, _>>().map_err(|error| TrustError::Ca(ca.to_owned(), error.to_string()))
}

fn roots(ca: &std::path::Path, authority: &[CertificateDer<'static>]) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in authority {
        let added = roots.add(certificate.clone());
        added.map_err(|error| TrustError::Ca(ca.to_owned(), error.to_string()))?;
    }
    Ok(roots)
}

/// What the peers will check, checked here: a node that is refused everywhere should know it from its own log.
fn self_check(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    chain: &[CertificateDer<'_>],
    name: &ServerName<'_>,
) -> Result<Option<String>, String> {
    let Some((leaf, rest)) = chain.split_first() else { return Err("is empty".to_owned()) };
    let as_server = WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|error| error.to_string())?;
    let as_client = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .build()
        .map_err(|error| error.to_string())?;
    let now = UnixTime::now();
    let checked = as_server
        .verify_server_cert(leaf, rest, name, &[], now)
        .map(|_| ())
        .and_then(|()| as_client.verify_client_cert(leaf, rest, now).map(|_| ()));
    match checked {
        Ok(()) => Ok(None),
        Err(Error::InvalidCertificate(error)) if is_of_time(&error) => Ok(Some(what_is_wrong(&error))),
        Err(error) => Err(certificate_fault(&error)),
    }
}

/// Whether a certificate is only out of its time.
fn is_of_time(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

fn certificate_fault(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => what_is_wrong(error),
        other => other.to_string(),
    }
}

/// What is wrong with a certificate, to follow "it".
fn what_is_wrong(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "has expired: issue a new one, and check the clocks".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "is not valid yet: check the clocks".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "is not signed by the cluster's CA: both nodes need certificates of the one in [cluster] ca"
                .to_owned()
        }
        CertificateError::NotValidForName => "is not for the node's name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<_> = presented.iter().take(NAMES_MAX).map(|name| presented_name(name)).collect();
            format!(
                "is for {} and not for {}: check names and addresses",
                names.join(", "),
                expected.to_str()
            )
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for both servers and clients: it needs both extended key usages".to_owned()
        }
        other => format!("cannot be used: {other}"),
    }
}

/// A name as the verifier quotes it, which is `DnsName("b")` for b.
fn presented_name(quoted: &str) -> String {
    let name = quoted.strip_prefix("DnsName(\"").and_then(|rest| rest.strip_suffix("\")"));
    name.unwrap_or(quoted).escape_default().to_string()
}

/// What went wrong in TLS, to follow the peer's name or address.
pub(super) fn sentence(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => format!("its certificate {}", what_is_wrong(error)),
        Error::NoCertificatesPresented => "it presented no certificate".to_owned(),
        Error::AlertReceived(alert) => refusal(*alert),
        Error::InvalidMessage(_) | Error::InappropriateMessage { .. } => {
            format!("it does not speak TLS as a link does ({error}): check the address")
        }
        Error::PeerIncompatible(_) => format!("it does not speak TLS 1.3 as a link does ({error})"),
        other => format!("TLS failed: {other}"),
    }
}

/// What a peer's alert says about this end.
fn refusal(alert: AlertDescription) -> String {
    let why = match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it is not signed by the peer's [cluster] ca: both nodes need certificates of one CA"
        }
        AlertDescription::CertificateExpired => {
            "it has expired or is not valid yet: issue a new one, and check the clocks"
        }
        AlertDescription::BadCertificate => {
            "it is not for the name the peer has for this node: check names and addresses"
        }
        AlertDescription::UnsupportedCertificate => "it lacks an extended key usage, server or client",
        AlertDescription::CertificateRequired => "there was none",
        other => return format!("it ended the TLS handshake with the alert {other:?}"),
    };
    format!("it refused this node's certificate: {why}")
}
