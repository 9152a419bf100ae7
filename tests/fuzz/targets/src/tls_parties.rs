//! A server and a rustls client for fuzzing: real protocol code over key exchange and randomness that cost nothing and
//! are the same in each run. Certificates and their signatures, record protection and key schedule are real.
//!
//! In: nothing. Out: one server a process; clients. Nothing here is safe to use for anything else.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use keyferry_tls::{CertificatePem, Resumption, Server, ServerOptions};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, NamedGroup, PeerMisbehaved, SignatureScheme,
    SupportedProtocolVersion,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use zeroize::Zeroizing;

/// The time of day of both ends.
const NOW: Duration = Duration::from_secs(1_800_000_000);

thread_local! {
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// Starts the random numbers anew, so that an input does the same each time.
pub(crate) fn rewind() {
    RANDOM.set(0);
}

#[derive(Debug)]
struct Counted;

impl SecureRandom for Counted {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        for chunk in bytes.chunks_mut(8) {
            let next = RANDOM.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
            RANDOM.set(next);
            let mixed = (next ^ next >> 31).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes();
            chunk.copy_from_slice(&mixed[..chunk.len()]);
        }
        Ok(())
    }
}

/// A group whose shares have the right length and any content, and whose secret everybody knows.
#[derive(Debug)]
struct Group {
    name: NamedGroup,
    share: &'static [u8],
}

static X25519: Group = Group { name: NamedGroup::X25519, share: &[9; 32] };
static P256: Group = Group { name: NamedGroup::secp256r1, share: &[4; 65] };

impl SupportedKxGroup for Group {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        Ok(Box::new(Exchange { name: self.name, share: self.share }))
    }

    fn name(&self) -> NamedGroup {
        self.name
    }
}

struct Exchange {
    name: NamedGroup,
    share: &'static [u8],
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, share: &[u8]) -> Result<SharedSecret, Error> {
        if share.len() != self.share.len() {
            return Err(PeerMisbehaved::InvalidKeyShare.into());
        }
        Ok(SharedSecret::from(&[7; 32][..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.share
    }

    fn group(&self) -> NamedGroup {
        self.name
    }
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: vec![&X25519, &P256],
        secure_random: &Counted,
        ..rustls::crypto::aws_lc_rs::default_provider()
    }
}

#[derive(Debug)]
struct Clock;

impl rustls::time_provider::TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(NOW))
    }
}

fn certificate(algorithm: &'static rcgen::SignatureAlgorithm, name: &str) -> CertificatePem {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let certificate = rcgen::CertificateParams::new(vec![name.to_owned()])
        .and_then(|params| params.self_signed(&key))
        .expect("a certificate");
    CertificatePem {
        chain: certificate.pem().into_bytes(),
        key: Zeroizing::new(key.serialize_pem().into_bytes()),
        source: "fuzz".to_owned(),
    }
}

/// The server of this process.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let options = ServerOptions {
            certificates: vec![
                certificate(&PKCS_ED25519, "example.net"),
                certificate(&PKCS_ECDSA_P256_SHA256, "other.example"),
            ],
            tls12: true,
            tls13: true,
            resumption: Resumption::Shared { sessions: 8, lifetime: Duration::from_secs(3600) },
            suites: None,
            fragment: keyferry_tls::Fragment::MAX,
            key_log: None,
        };
        Server::with_provider(&options, provider(), Arc::new(Clock)).expect("a server")
    })
}

/// Takes every certificate: what is fuzzed is the server.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A client's configuration, for one or both versions. Without sessions from before.
pub(crate) fn client(versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    let mut config = ClientConfig::builder_with_details(Arc::new(provider()), Arc::new(Clock))
        .with_protocol_versions(versions)
        .expect("versions the provider has")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}
