//! A server that takes another's place: new handshakes get its certificates, those under way end with the old ones,
//! clients come back by what they had, and nothing of an old key stays in memory.
#![cfg(target_os = "linux")]

mod common;

use std::fs::File;
use std::io::Read;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use common::search::{Needle, occurrences};
use common::*;
use keyferry_tls::*;
use rustls::{ClientConfig, HandshakeKind};
use zeroize::Zeroizing;

fn served(pair: &Pair) -> Vec<u8> {
    pair.client.peer_certificates().expect("a full handshake").first().expect("a leaf").to_vec()
}

fn both(identities: &[&Identity]) -> Arc<ClientConfig> {
    Arc::new(client_config(identities, &all_suites()))
}

#[test]
fn a_handshake_under_way_ends_with_what_it_began_with() {
    let [old, new] = [0, 1].map(|_| Identity::new(Kind::Ecdsa, &["a.test"]));
    let config = both(&[&old, &new]);
    let first = Server::new(&options(&[&old])).unwrap();
    let mut late = client(&config, "a.test");
    let (mut handshake, mut out) = (Handshake::new(&first), Vec::new());
    // As far as its certificate is picked.
    for mut record in records(&from_client(&mut late)) {
        assert!(matches!(handshake.advance(&mut record, &mut out), Step::Continue));
    }
    let second = first.renewed(&options(&[&new])).unwrap();
    assert!(!first.is_alone() && second.is_alone());
    assert_eq!(second.certificates().len(), 1);
    assert_ne!(first.certificates()[0].serial, second.certificates()[0].serial);

    let pair = connect(&second, client(&config, "a.test"), b"").unwrap();
    assert_eq!(served(&pair), new.certificate.der().to_vec());
    to_client(&mut late, &out).unwrap();
    assert_eq!(late.peer_certificates().unwrap()[0], *old.certificate.der());
    let mut done = false;
    for mut record in records(&from_client(&mut late)) {
        done |= matches!(handshake.advance(&mut record, &mut Vec::new()), Step::Done(_));
    }
    assert!(done);
    drop(handshake);
    assert!(first.is_alone(), "nothing holds the old keys any more");
}

#[test]
fn clients_come_back_by_what_they_had() {
    let [old, new] = [0, 1].map(|_| Identity::new(Kind::Ecdsa, &["a.test"]));
    let lifetime = Duration::from_secs(3600);
    for resumption in [Resumption::Table { sessions: 100, lifetime }, Resumption::Tickets { lifetime }] {
        for tls13 in [false, true] {
            let of = |identity| ServerOptions { tls12: !tls13, tls13, resumption, ..options(&[identity]) };
            let config = both(&[&old, &new]);
            let first = Server::new(&of(&old)).unwrap();
            connect(&first, client(&config, "a.test"), b"hello").unwrap().early_request(b"hello");
            // What comes with its first reply is taken in.
            let mut pair = connect(&first, client(&config, "a.test"), b"hello").unwrap();
            pair.early_request(b"hello");
            pair.reply(b"reply");
            drop(pair);
            let resumer = first.resumer();
            let kept = resumer.sessions();
            let second = first.renewed(&of(&new)).unwrap();
            drop(first);
            assert_eq!(second.resumer().sessions(), kept);
            let mut pair = connect(&second, client(&config, "a.test"), b"hello").unwrap();
            let case = format!("{resumption:?} tls13={tls13}");
            assert_eq!(pair.client.handshake_kind(), Some(HandshakeKind::Resumed), "{case}");
            pair.early_request(b"hello");
            pair.reply(b"reply");
            assert!(second.is_alone(), "whoever looks after sessions holds no certificate: {case}");
        }
    }
}

#[test]
fn versions_and_sizes_of_records_are_renewed_too() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let first = Server::new(&options(&[&identity])).unwrap();
    let fragment = Fragment::new(512).unwrap();
    let second = first.renewed(&ServerOptions { tls13: false, fragment, ..options(&[&identity]) }).unwrap();
    let versions = [&first, &second].map(|server| {
        connect(server, client(&both(&[&identity]), "a.test"), b"").unwrap().server.info.version
    });
    assert_eq!(versions, [Version::Tls13, Version::Tls12]);
}

#[test]
fn what_cannot_be_used_is_refused_and_the_old_one_goes_on() {
    let [old, new] = [0, 1].map(|_| Identity::new(Kind::Ecdsa, &["a.test"]));
    let first = Server::new(&options(&[&old])).unwrap();
    let pair = |chain: Vec<u8>, key: &str| CertificatePem {
        chain,
        key: Zeroizing::new(key.as_bytes().to_vec()),
        source: "new.pem".to_owned(),
    };
    let key = Zeroizing::new(new.key.serialize_pem());
    let chain = new.certificate.pem();
    let (half, half_key) = (&chain.as_bytes()[..chain.len() / 2], &key[..key.len() / 2]);
    // A second certificate of which only the first half was written.
    let torn = [chain.as_bytes(), half].concat();
    for (chain, key) in [
        (chain.clone().into_bytes(), old.key.serialize_pem().as_str()),
        (half.to_vec(), key.as_str()),
        (torn, key.as_str()),
        (chain.clone().into_bytes(), half_key),
        (chain.clone().into_bytes(), ""),
        (Vec::new(), key.as_str()),
    ] {
        let broken = pair(chain, key);
        let error = broken.check().expect_err("it is of no use");
        assert!(error.to_string().starts_with("new.pem: "), "{error}");
        let options = ServerOptions { certificates: vec![old.pem(), broken], ..options(&[]) };
        assert_eq!(first.renewed(&options).err(), Some(error));
    }
    let facts = new.pem().check().unwrap();
    assert_eq!((facts.name.as_str(), facts.source.as_str()), ("a.test", "test.pem"));
    assert!(facts.fault(facts.not_before).is_none() && facts.fault(facts.not_before - 1).is_some());
    assert!(facts.fault(facts.not_after + 7200).unwrap().starts_with("expired 2 hours ago"));
    assert_eq!(CertificateFacts::of_pem(new.certificate.pem().as_bytes(), "test.pem"), Some(facts));
    let disordered = [new.certificate.pem(), old.certificate.pem()].concat().into_bytes();
    let disordered = pair(disordered, &new.key.serialize_pem());
    let options = ServerOptions { certificates: vec![disordered], ..options(&[]) };
    let third = first.renewed(&options).unwrap();
    assert!(third.warnings().is_empty(), "both are of the same subject: {:?}", third.warnings());
}

#[test]
fn one_certificate_of_several_is_replaced() {
    let [a, b, renewed] = ["a.test", "b.test", "b.test"].map(|name| Identity::new(Kind::Ecdsa, &[name]));
    let first = Server::new(&options(&[&a, &b])).unwrap();
    let second = first.with_certificates(&[(1, renewed.pem())]).unwrap();
    for (server, name, expected) in
        [(&first, "b.test", &b), (&second, "b.test", &renewed), (&second, "a.test", &a)]
    {
        // A client that has not been here: one that resumes is shown no certificate.
        let config = both(&[&a, &b, &renewed]);
        let pair = connect(server, client(&config, name), b"").unwrap();
        assert_eq!(served(&pair), expected.certificate.der().to_vec());
    }
    assert_eq!(first.certificates()[0], second.certificates()[0]);
    assert_ne!(first.certificates()[1].serial, second.certificates()[1].serial);
    let mut broken = renewed.pem();
    broken.key = a.pem().key;
    assert!(matches!(first.with_certificates(&[(1, broken)]), Err(ConfigError::WrongKey { .. })));
}

/// Where the secret lies in PKCS#8 of P-256 as OpenSSL writes it.
const SCALAR: std::ops::Range<usize> = 36..68;

#[test]
fn nothing_of_an_old_key_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).current_dir(folder.path()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let curve =
        ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=a.test"];
    openssl(&[&["req", "-x509", "-keyout", "key.pem", "-out", "cert.pem"], &curve[..]].concat());
    openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", "key.pem", "-outform", "DER", "-out", "key.der"]);
    let needles = {
        let mut der = Zeroizing::new([0; 256]);
        let mut file = File::open(path("key.der")).unwrap();
        let len = file.read(&mut der[..]).unwrap();
        assert!(len > SCALAR.end, "it is a key of P-256");
        let mut scalar = Zeroizing::new([0; 32]);
        scalar.copy_from_slice(&der[SCALAR]);
        let as_written = Needle::hide(&scalar[..]);
        // As aws-lc computes with it.
        scalar.reverse();
        [as_written, Needle::hide(&scalar[..])]
    };
    let found = || needles.iter().flat_map(occurrences).collect::<Vec<_>>();
    assert!(found().is_empty(), "it is hidden: {:?}", found());
    let read = |name: &str| {
        let file = File::open(path(name)).unwrap();
        let mut bytes = Zeroizing::new(vec![0; file.metadata().unwrap().len() as usize]);
        (&file).read_exact(&mut bytes).unwrap();
        bytes
    };
    let pem =
        CertificatePem { chain: read("cert.pem").to_vec(), key: read("key.pem"), source: String::new() };
    let old = Server::new(&ServerOptions { certificates: vec![pem], ..options(&[]) }).unwrap();
    old.warm_up();
    let other = Identity::new(Kind::Ecdsa, &["a.test"]);
    let new = old.renewed(&options(&[&other])).unwrap();
    assert!(!found().is_empty(), "the search finds what is there");
    drop(old);
    let left = found();
    assert!(left.is_empty(), "{left:?}");
    drop(new);
}
