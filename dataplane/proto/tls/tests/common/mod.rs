//! Certificates of the tests' own, rustls clients in process, and the records between them and us.
#![allow(dead_code)] // Each test file uses a part.

pub mod search;

use std::sync::Arc;
use std::time::Duration;

use keyferry_tls::*;
use rcgen::{CertifiedKey, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, ClientConnection, RootCertStore, SupportedCipherSuite};
use zeroize::Zeroizing;

/// A self-signed certificate.
pub struct Identity {
    pub certificate: rcgen::Certificate,
    pub key: KeyPair,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

impl Identity {
    pub fn new(kind: Kind, names: &[&str]) -> Identity {
        let key = match kind {
            Kind::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256),
            Kind::Rsa => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048),
        };
        let key = key.unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        Identity { certificate, key }
    }

    pub fn pem(&self) -> CertificatePem {
        CertificatePem {
            chain: self.certificate.pem().into_bytes(),
            key: Zeroizing::new(self.key.serialize_pem().into_bytes()),
            source: "test.pem".to_owned(),
        }
    }
}

impl From<CertifiedKey<KeyPair>> for Identity {
    fn from(it: CertifiedKey<KeyPair>) -> Identity {
        Identity { certificate: it.cert, key: it.signing_key }
    }
}

/// Options with one certificate, everything on.
pub fn options(identities: &[&Identity]) -> ServerOptions {
    ServerOptions {
        certificates: identities.iter().map(|it| it.pem()).collect(),
        tls12: true,
        tls13: true,
        resumption: Resumption::Table { sessions: 100, lifetime: Duration::from_secs(3600) },
        suites: None,
        fragment: Fragment::MAX,
        key_log: None,
    }
}

/// A rustls client that trusts these, offers these suites, and `http/1.1`.
pub fn client_config(identities: &[&Identity], suites: &[SupportedCipherSuite]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for identity in identities {
        roots.add(identity.certificate.der().clone()).unwrap();
    }
    let provider =
        CryptoProvider { cipher_suites: suites.to_vec(), ..rustls::crypto::aws_lc_rs::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&versions(suites))
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn versions(suites: &[SupportedCipherSuite]) -> Vec<&'static rustls::SupportedProtocolVersion> {
    [&rustls::version::TLS12, &rustls::version::TLS13]
        .into_iter()
        .filter(|version| suites.iter().any(|suite| suite.version() == *version))
        .collect()
}

pub fn all_suites() -> Vec<SupportedCipherSuite> {
    rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES.to_vec()
}

/// The certificate a suite of TLS 1.2 wants.
pub fn kind_of(suite: SupportedCipherSuite) -> Kind {
    if format!("{:?}", suite.suite()).contains("ECDHE_RSA") { Kind::Rsa } else { Kind::Ecdsa }
}

pub fn client(config: &Arc<ClientConfig>, name: &'static str) -> ClientConnection {
    ClientConnection::new(Arc::clone(config), name.try_into().unwrap()).unwrap()
}

/// What the client has to send.
pub fn from_client(client: &mut ClientConnection) -> Vec<u8> {
    let mut wire = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut wire).unwrap();
    }
    wire
}

/// Hands bytes to the client.
pub fn to_client(client: &mut ClientConnection, mut wire: &[u8]) -> Result<(), rustls::Error> {
    while !wire.is_empty() {
        client.read_tls(&mut wire).unwrap();
        client.process_new_packets()?;
    }
    Ok(())
}

/// Cuts whole records.
pub fn records(wire: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = wire;
    let mut records = Vec::new();
    while let Ok(Some(len)) = record_len(rest) {
        let (record, behind) = rest.split_at(len);
        records.push(record.to_vec());
        rest = behind;
    }
    assert!(rest.is_empty(), "the client's bytes end inside a record");
    records
}

/// Both ends of a connection, and records the client sent behind its Finished.
pub struct Pair {
    pub client: ClientConnection,
    pub server: Box<Established>,
    pub early: Vec<Vec<u8>>,
}

/// Runs a handshake; the client's first request is already behind its Finished.
pub fn connect(server: &Server, client: ClientConnection, request: &[u8]) -> Result<Pair, Failure> {
    connect_with(server, client, request, |offered| panic!("{offered:?} may only be here"))
}

/// As [`connect`]; sessions that are not here are asked of `elsewhere`.
pub fn connect_with(
    server: &Server,
    mut client: ClientConnection,
    request: &[u8],
    mut elsewhere: impl FnMut(Offered) -> Option<Session>,
) -> Result<Pair, Failure> {
    let mut handshake = Handshake::new(server);
    let mut established = None;
    let mut early = Vec::new();
    for _ in 0..10 {
        if !client.is_handshaking() && !request.is_empty() && early.is_empty() {
            std::io::Write::write_all(&mut client.writer(), request).unwrap();
        }
        let wire = from_client(&mut client);
        let mut out = Vec::new();
        for mut record in records(&wire) {
            if established.is_some() {
                early.push(record);
                continue;
            }
            let mut step = handshake.advance(&mut record, &mut out);
            if let Step::Absent(offered) = step {
                assert!(out.is_empty(), "nothing is said before");
                step = handshake.go_on(elsewhere(offered), &mut out);
            }
            match step {
                Step::Continue => {}
                Step::Absent(_) => panic!("it asks once"),
                Step::Done(done) => established = Some(done),
                Step::Failed(failure) => {
                    let _ = to_client(&mut client, &out);
                    return Err(failure);
                }
            }
        }
        let _ = to_client(&mut client, &out);
        let request_sent = request.is_empty() || !early.is_empty();
        if !client.is_handshaking() && established.is_some() && request_sent {
            break;
        }
    }
    Ok(Pair { client, server: established.expect("ten flights are enough"), early })
}

impl Pair {
    /// We open what the client has sent behind its Finished.
    pub fn early_request(&mut self, data: &[u8]) {
        assert!(!self.early.is_empty());
        self.opens(data);
    }

    /// The client sends, we open.
    pub fn request(&mut self, data: &[u8]) {
        std::io::Write::write_all(&mut self.client.writer(), data).unwrap();
        self.opens(data);
    }

    fn opens(&mut self, data: &[u8]) {
        let mut got = Vec::new();
        for mut record in self.early.drain(..).chain(records(&from_client(&mut self.client))) {
            match self.server.opener.open(&mut record).unwrap() {
                Opened::Data(data) => got.extend_from_slice(data),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got, data);
    }

    /// We seal, the client reads.
    pub fn reply(&mut self, data: &[u8]) {
        let mut out = vec![0; SEALED_BYTES_MAX];
        for chunk in data.chunks(PLAINTEXT_BYTES_MAX) {
            let len = self.server.sealer.seal(Content::Data, chunk, &mut out).unwrap();
            to_client(&mut self.client, &out[..len]).unwrap();
            self.client_reads(chunk);
        }
    }

    pub fn client_reads(&mut self, data: &[u8]) {
        let mut got = vec![0; data.len()];
        std::io::Read::read_exact(&mut self.client.reader(), &mut got).unwrap();
        assert_eq!(got, data);
    }
}
