//! The TLS client configuration all connections start from: whom to trust, which versions, suites and groups.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, SupportedKxGroup, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use crate::args::{Args, TlsVersion};

/// Where Debian and others keep the authorities that the system trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Builds the configuration all clients start from; it keeps no sessions.
///
/// # Errors
/// When the file of `--ca` is unreadable or holds no certificate, or a suite or group is unknown or fits no version.
pub fn client_config(args: &Args) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(provider(args)?);
    let versions: &[&SupportedProtocolVersion] = match args.tls {
        Some(TlsVersion::Tls12) => &[&rustls::version::TLS12],
        Some(TlsVersion::Tls13) => &[&rustls::version::TLS13],
        None => rustls::ALL_VERSIONS,
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .context("the suites of --suites fit no version that is offered")?;
    let builder = if args.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(args)?)
    };
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    // The records after the handshake are sealed and opened by this client itself.
    config.enable_secret_extraction = true;
    Ok(config)
}

fn roots(args: &Args) -> anyhow::Result<RootCertStore> {
    let file = args.ca.as_deref().unwrap_or(Path::new(SYSTEM_AUTHORITIES));
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).with_context(|| {
        format!("cannot read {}; name authorities by --ca, or try --insecure", file.display())
    })?;
    for certificate in certificates {
        let certificate = certificate
            .with_context(|| format!("{} is not PEM; name a file of certificates by --ca", file.display()))?;
        match roots.add(certificate) {
            // A system's file may hold what rustls does not take; a file that was named may not.
            Err(error) if args.ca.is_some() => {
                let what = "holds what is no authority's certificate; name another file by --ca";
                return Err(error).with_context(|| format!("{} {what}", file.display()));
            }
            _ => {}
        }
    }
    let what = "holds no certificate; name another file by --ca";
    anyhow::ensure!(!roots.is_empty(), "{} {what}", file.display());
    Ok(roots)
}

/// All suites and groups, or those that are named, in the order in which they are.
fn provider(args: &Args) -> anyhow::Result<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if !args.suites.is_empty() {
        let known = aws_lc_rs::ALL_CIPHER_SUITES;
        let name = |suite: &SupportedCipherSuite| format!("{:?}", suite.suite());
        provider.cipher_suites = chosen("suite", &args.suites, known, name)?;
    }
    if !args.groups.is_empty() {
        let name = |group: &&'static dyn SupportedKxGroup| format!("{:?}", group.name());
        provider.kx_groups = chosen("group", &args.groups, aws_lc_rs::ALL_KX_GROUPS, name)?;
    }
    Ok(provider)
}

fn chosen<T: Copy>(
    what: &str,
    names: &[String],
    known: &[T],
    name: impl Fn(&T) -> String,
) -> anyhow::Result<Vec<T>> {
    let choose = |wanted: &String| {
        known.iter().copied().find(|one| name(one).eq_ignore_ascii_case(wanted)).with_context(|| {
            let all: Vec<_> = known.iter().map(&name).collect();
            format!("{wanted:?} is not a {what} this client has; it has {}", all.join(", "))
        })
    };
    names.iter().map(choose).collect()
}

/// Accepts any certificate (`--insecure`), but still checks that the server holds its key: a broken handshake
/// signature is a finding, not a matter of trust.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
