//! Handshakes and traffic with rustls as the client, in process: every suite, key updates, loans, names, resumption.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use keyferry_tls::*;
use rustls::HandshakeKind;

#[test]
fn every_suite_talks_both_ways_and_lends() {
    let (ecdsa, rsa) = (Identity::new(Kind::Ecdsa, &["a.test"]), Identity::new(Kind::Rsa, &["a.test"]));
    let server = Server::new(&options(&[&ecdsa, &rsa])).unwrap();
    server.warm_up();
    for suite in all_suites() {
        let config = Arc::new(client_config(&[&ecdsa, &rsa], &[suite]));
        let mut pair = connect(&server, client(&config, "a.test"), b"").unwrap();
        let info = pair.server.info;
        assert_eq!(info.suite.wire(), u16::from(suite.suite()));
        assert_eq!(info.version, info.suite.version());
        assert!(!info.resumed && info.sni && info.group.is_some());
        assert_eq!(pair.client.alpn_protocol(), Some(&b"http/1.1"[..]));
        let big: Vec<u8> = (0..100_000u32).map(|it| it as u8).collect();
        for _ in 0..2 {
            pair.request(b"GET / HTTP/1.1\r\n\r\n");
            pair.reply(&big);
            lend(&mut pair, &big);
        }
        pair.request(&big[..50_000]);
        close(&mut pair);
    }
}

/// A reply sealed by another node.
fn lend(pair: &mut Pair, data: &[u8]) {
    let key = pair.server.sealer.lend(1000).unwrap();
    let mut wire = [0; RecordKey::WIRE_BYTES];
    key.encode(&mut wire);
    drop(key);
    let mut borrower = LentSealer::new(RecordKey::decode(&wire).unwrap());
    let mut out = vec![0; SEALED_BYTES_MAX];
    assert_eq!(pair.server.sealer.seal(Content::Data, b"x", &mut out), Err(SealError::Lent));
    for chunk in data.chunks(PLAINTEXT_BYTES_MAX) {
        let len = borrower.seal_data(chunk, &mut out).unwrap();
        assert_eq!(len, borrower.sealed_len(chunk.len()));
        to_client(&mut pair.client, &out[..len]).unwrap();
        pair.client_reads(chunk);
    }
    pair.server.sealer.reclaim(borrower.used()).unwrap();
}

/// An orderly end, both ways.
fn close(pair: &mut Pair) {
    let mut out = vec![0; 64];
    let len = pair.server.sealer.close_notify(&mut out).unwrap();
    to_client(&mut pair.client, &out[..len]).unwrap();
    assert_eq!(std::io::Read::read(&mut pair.client.reader(), &mut [0; 9]).unwrap(), 0);
    pair.client.send_close_notify();
    let mut records = records(&from_client(&mut pair.client));
    assert_eq!(pair.server.opener.open(records.last_mut().unwrap()), Ok(Opened::CloseNotify));
}

#[test]
fn requests_behind_finished_stay_for_the_opener() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let server = Server::new(&options(&[&identity])).unwrap();
    let config = Arc::new(client_config(&[&identity], &all_suites()));
    let mut pair = connect(&server, client(&config, "a.test"), b"early").unwrap();
    assert_eq!(pair.early.len(), 1);
    let mut record = pair.early.remove(0);
    assert_eq!(pair.server.opener.open(&mut record), Ok(Opened::Data(&mut b"early".to_vec())));
    pair.reply(b"reply");
}

#[test]
fn key_updates_both_ways_and_around_loans() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let server = Server::new(&options(&[&identity])).unwrap();
    for suite in all_suites().into_iter().filter(|it| it.tls13().is_some()) {
        let config = Arc::new(client_config(&[&identity], &[suite]));
        let mut pair = connect(&server, client(&config, "a.test"), b"").unwrap();
        let mut out = vec![0; 128];
        for round in 0..3 {
            pair.client.refresh_traffic_keys().unwrap();
            let mut records = records(&from_client(&mut pair.client));
            let opened = pair.server.opener.open(&mut records[0]);
            let Ok(Opened::KeyUpdate { reply }) = opened else { panic!("{opened:?}") };
            pair.request(b"under the client's new key");
            pair.reply(b"under our old key");
            if reply {
                let len = pair.server.sealer.key_update(false, &mut out).unwrap();
                to_client(&mut pair.client, &out[..len]).unwrap();
            }
            pair.reply(b"under our new key");
            lend(&mut pair, b"and lent");
            // And one of our own accord, answered by the client.
            let len = pair.server.sealer.key_update(true, &mut out).unwrap();
            to_client(&mut pair.client, &out[..len]).unwrap();
            // rustls answers before its next data.
            std::io::Write::write_all(&mut pair.client.writer(), b"next").unwrap();
            let mut records = common::records(&from_client(&mut pair.client));
            let opened = pair.server.opener.open(&mut records[0]);
            assert_eq!(opened, Ok(Opened::KeyUpdate { reply: false }), "round {round}");
            let opened = pair.server.opener.open(&mut records[1]);
            assert_eq!(opened, Ok(Opened::Data(&mut b"next".to_vec())), "round {round}");
            pair.reply(b"again");
        }
        close(&mut pair);
    }
}

#[test]
fn names_pick_certificates() {
    let first = Identity::new(Kind::Ecdsa, &["first.test"]);
    let wild = Identity::new(Kind::Ecdsa, &["*.wild.test", "wild.test"]);
    let exact = Identity::new(Kind::Ecdsa, &["exact.wild.test"]);
    let all = [&first, &wild, &exact];
    let server = Server::new(&options(&all)).unwrap();
    let served = |name: &'static str| {
        let mut config = client_config(&all, &all_suites());
        // Which certificate comes is asked, not whether its name is right.
        let verifier = Arc::new(AnyCertificate);
        config.dangerous().set_certificate_verifier(verifier);
        let pair = connect(&server, client(&Arc::new(config), name), b"").unwrap();
        let chain = pair.client.peer_certificates().unwrap().to_vec();
        (all.iter().position(|it| it.certificate.der() == &chain[0]).unwrap(), pair.server.info.sni)
    };
    assert_eq!(served("first.test"), (0, true));
    assert_eq!(served("wild.test"), (1, true));
    assert_eq!(served("any.wild.test"), (1, true));
    assert_eq!(served("ANY.wild.test"), (1, true));
    assert_eq!(served("exact.wild.test"), (2, true));
    assert_eq!(served("two.labels.wild.test"), (0, true));
    assert_eq!(served("unknown.test"), (0, true));
    assert_eq!(served("192.0.2.1"), (0, false));
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[test]
fn clients_come_back() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let lifetime = Duration::from_secs(3600);
    for (resumption, resumes) in [
        (Resumption::Off, false),
        (Resumption::Table { sessions: 100, lifetime }, true),
        (Resumption::Tickets { lifetime }, true),
    ] {
        for tls13 in [false, true] {
            let options = ServerOptions { tls12: !tls13, tls13, resumption, ..options(&[&identity]) };
            let server = Server::new(&options).unwrap();
            let config = Arc::new(client_config(&[&identity], &all_suites()));
            for round in 0..4 {
                let mut pair = connect(&server, client(&config, "a.test"), b"hello").unwrap();
                let resumed = pair.client.handshake_kind() == Some(HandshakeKind::Resumed);
                let case = format!("{resumption:?} tls13={tls13} round={round}");
                assert_eq!(resumed, resumes && round > 0, "{case}");
                assert_eq!(pair.server.info.resumed, resumed, "{case}");
                pair.early_request(b"hello");
                pair.reply(b"reply");
                lend(&mut pair, b"lent");
            }
        }
    }
}

#[test]
fn sessions_end_with_the_server_that_made_them() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    for resumption in [
        Resumption::Table { sessions: 100, lifetime: Duration::from_secs(60) },
        Resumption::Tickets { lifetime: Duration::from_secs(60) },
    ] {
        let config = Arc::new(client_config(&[&identity], &all_suites()));
        for _ in 0..2 {
            let server = Server::new(&ServerOptions { resumption, ..options(&[&identity]) }).unwrap();
            let pair = connect(&server, client(&config, "a.test"), b"").unwrap();
            assert!(!pair.server.info.resumed);
        }
    }
}
