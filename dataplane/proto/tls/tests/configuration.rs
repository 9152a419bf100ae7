//! What a server refuses to start with, in sentences that name the file and say what to do.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use keyferry_tls::*;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use zeroize::Zeroizing;

fn refusal(change: impl FnOnce(&mut ServerOptions)) -> (ConfigError, String) {
    let mut options = options(&[&Identity::new(Kind::Ecdsa, &["a.test"])]);
    change(&mut options);
    let error = Server::new(&options).err().expect("it starts");
    let sentence = error.to_string();
    (error, sentence)
}

fn pem_refusal(change: impl FnOnce(&mut CertificatePem)) -> (ConfigError, String) {
    let (error, sentence) = refusal(|options| change(&mut options.certificates[0]));
    assert!(sentence.starts_with("test.pem: "), "{sentence}");
    (error, sentence)
}

#[test]
fn certificates_and_keys() {
    let (error, sentence) = refusal(|it| it.certificates.clear());
    assert_eq!(error, ConfigError::NoCertificates);
    assert!(sentence.contains("[[certificate]]"));

    let (error, _) = pem_refusal(|it| it.chain = b"hello".to_vec());
    assert!(matches!(error, ConfigError::NoCertificate { .. }));
    let (error, _) = pem_refusal(|it| it.key = Zeroizing::new(it.chain.clone()));
    assert!(matches!(error, ConfigError::NoKey { .. }));
    let (error, _) = pem_refusal(|it| it.key = Identity::new(Kind::Ecdsa, &["b.test"]).pem().key);
    assert!(matches!(error, ConfigError::WrongKey { .. }));
    let (error, _) = pem_refusal(|it| it.chain = it.chain.repeat(20));
    assert!(matches!(error, ConfigError::LongChain { .. }));
    let broken = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    let (error, _) = pem_refusal(|it| it.chain = broken.to_vec());
    assert!(matches!(error, ConfigError::MalformedPem { .. }));
    let empty = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let (error, _) = pem_refusal(|it| it.chain = empty.to_vec());
    assert!(matches!(error, ConfigError::MalformedCertificate { .. }));
    let nonsense = b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let (error, _) = pem_refusal(|it| it.key = Zeroizing::new(nonsense.to_vec()));
    assert!(matches!(error, ConfigError::UnusableKey { .. }));
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let (error, sentence) = pem_refusal(|it| it.key = Zeroizing::new(encrypted.to_vec()));
    assert!(matches!(error, ConfigError::EncryptedKey { .. }));
    assert!(sentence.contains("openssl pkey"));
}

#[test]
fn versions_suites_and_lifetimes() {
    let (error, sentence) = refusal(|it| (it.tls12, it.tls13) = (false, false));
    assert_eq!(error, ConfigError::NoVersion);
    assert!(sentence.contains("allow 1.2 or 1.3"), "{sentence}");
    let (error, sentence) = refusal(|it| it.suites = Some(vec!["TLS_RSA_WITH_NULL_MD5".to_owned()]));
    assert_eq!(error, ConfigError::UnknownSuite { name: "TLS_RSA_WITH_NULL_MD5".to_owned() });
    assert!(sentence.contains("TLS_AES_128_GCM_SHA256"));
    let (error, _) = refusal(|it| it.suites = Some(vec!["TLS_AES_128_GCM_SHA256".to_owned()]));
    assert_eq!(error, ConfigError::NoSuite { version: Version::Tls12 });
    for lifetime in [Duration::ZERO, Duration::from_secs(8 * 24 * 3600)] {
        let (error, sentence) = refusal(|it| it.resumption = Resumption::Tickets { lifetime });
        assert_eq!(error, ConfigError::SessionLifetime);
        assert!(sentence.contains("from 1 second to 7 days"), "{sentence}");
        let (error, _) = refusal(|it| it.resumption = Resumption::Table { sessions: 9, lifetime });
        assert_eq!(error, ConfigError::SessionLifetime);
    }
}

/// The system's, where it is set to a time before 1970.
#[derive(Debug)]
struct NoClock;

impl TimeProvider for NoClock {
    fn current_time(&self) -> Option<UnixTime> {
        None
    }
}

#[test]
fn a_clock_that_is_not_set() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    for resumption in [Resumption::Off, Resumption::Tickets { lifetime: Duration::from_secs(60) }] {
        let options = ServerOptions { resumption, ..options(&[&identity]) };
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let error = Server::with_provider(&options, provider, Arc::new(NoClock)).err().expect("it starts");
        let sentence = error.to_string();
        assert!(sentence.starts_with("TLS cannot start: "), "{sentence}");
        assert!(sentence.ends_with("clock is before 1970: set it"), "{sentence}");
    }
}

#[test]
fn an_expired_certificate_is_a_warning() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let certificate = params.self_signed(&key).unwrap();
    let expired = Identity { certificate, key };
    let server = Server::new(&options(&[&expired])).unwrap();
    assert!(server.warnings()[0].starts_with("test.pem: expired "), "{:?}", server.warnings());
    let server = Server::new(&options(&[&Identity::new(Kind::Ecdsa, &["a.test"])])).unwrap();
    assert!(server.warnings().is_empty(), "{:?}", server.warnings());
}

#[test]
fn our_order_of_suites_decides() {
    let identity = Identity::new(Kind::Ecdsa, &["kf.test"]);
    let agreed = |suites: Option<&[Suite]>, tls13: bool| {
        let names = suites.map(|suites| suites.iter().map(|it| it.name().to_owned()).collect());
        let options = ServerOptions { suites: names, tls13, ..options(&[&identity]) };
        // The client wants it the other way round.
        let mut theirs = all_suites();
        theirs
            .sort_by_key(|it| Suite::ALL.iter().rev().position(|ours| ours.wire() == u16::from(it.suite())));
        let config = std::sync::Arc::new(client_config(&[&identity], &theirs));
        connect(&Server::new(&options).unwrap(), client(&config, "kf.test"), b"")
            .map(|it| it.server.info.suite)
    };
    assert_eq!(agreed(None, true), Ok(Suite::Aes128GcmSha256));
    assert_eq!(agreed(None, false), Ok(Suite::EcdheEcdsaAes128GcmSha256));
    let mut turned = Suite::ALL;
    turned.reverse();
    assert_eq!(agreed(Some(&turned), true), Ok(Suite::Chacha20Poly1305Sha256));
    assert_eq!(agreed(Some(&turned), false), Ok(Suite::EcdheEcdsaChacha20Poly1305));
}
