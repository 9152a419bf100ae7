//! Handshakes that fail: the client hears the right alert, we count the right reason, and nothing panics.

mod common;

use std::sync::Arc;

use common::*;
use keyferry_tls::*;
use proptest::prelude::*;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};

/// The last alert in plaintext records of `out`.
fn plain_alert(out: &[u8]) -> Option<Alert> {
    let last = records(out).pop()?;
    (last[0] == 21 && last.len() == 7).then(|| Alert(last[6]))
}

/// The alert the client got.
fn heard(error: rustls::Error) -> Alert {
    match error {
        rustls::Error::AlertReceived(alert) => Alert(u8::from(alert)),
        other => panic!("{other}"),
    }
}

fn hello() -> Vec<u8> {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let config = Arc::new(client_config(&[&identity], &all_suites()));
    from_client(&mut client(&config, "a.test"))
}

fn server() -> Server {
    Server::new(&options(&[&Identity::new(Kind::Ecdsa, &["a.test"])])).unwrap()
}

fn fail(server: &Server, wire: &[u8]) -> (Failure, Vec<u8>) {
    let mut handshake = Handshake::new(server);
    let mut out = Vec::new();
    for mut record in records(wire) {
        if let Step::Failed(failure) = handshake.advance(&mut record, &mut out) {
            let mut more = Vec::new();
            assert!(
                matches!(handshake.advance(&mut record, &mut more), Step::Failed(again) if again == failure)
            );
            assert!(more.is_empty(), "a failed handshake says nothing more");
            return (failure, out);
        }
    }
    panic!("it does not fail");
}

#[test]
fn nothing_in_common() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let only = |suites: &[&str], tls12, tls13| ServerOptions {
        suites: Some(suites.iter().map(|it| (*it).to_owned()).collect()),
        tls12,
        tls13,
        ..options(&[&identity])
    };
    let aes256_13 = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
    let rsa_12 = rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256;
    let try_it = |options: ServerOptions, suite, alpn: &[u8]| {
        let mut config = client_config(&[&identity], &[suite]);
        config.alpn_protocols = vec![alpn.to_vec()];
        let mut client = client(&Arc::new(config), "a.test");
        let (failure, out) = fail(&Server::new(&options).unwrap(), &from_client(&mut client));
        let error = to_client(&mut client, &out).unwrap_err();
        (failure.reason, heard(error))
    };
    let (reason, alert) = try_it(only(&["TLS_AES_128_GCM_SHA256"], false, true), aes256_13, b"http/1.1");
    assert_eq!((reason, alert), (FailureReason::Incompatible(Incompatible::Suite), Alert::HANDSHAKE_FAILURE));
    let ecdsa = "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
    let (reason, alert) = try_it(only(&[ecdsa], true, false), aes256_13, b"http/1.1");
    assert_eq!(
        (reason, alert),
        (FailureReason::Incompatible(Incompatible::Version), Alert::PROTOCOL_VERSION)
    );
    let (_, alert) = try_it(options(&[&identity]), rsa_12, b"http/1.1");
    assert_eq!(alert, Alert::HANDSHAKE_FAILURE);
    let (reason, alert) = try_it(options(&[&identity]), aes256_13, b"h2");
    let application = FailureReason::Incompatible(Incompatible::Application);
    assert_eq!((reason, alert), (application, Alert::NO_APPLICATION_PROTOCOL));
}

#[test]
fn no_group_in_common() {
    // ML-KEM alone, without a curve beside it, is nothing we offer.
    let provider = CryptoProvider {
        kx_groups: vec![rustls::crypto::aws_lc_rs::kx_group::MLKEM768],
        ..rustls::crypto::aws_lc_rs::default_provider()
    };
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let mut client = client(&Arc::new(config), "a.test");
    let (failure, out) = fail(&server(), &from_client(&mut client));
    assert_eq!(failure.reason, FailureReason::Incompatible(Incompatible::Group));
    assert_eq!(heard(to_client(&mut client, &out).unwrap_err()), Alert::HANDSHAKE_FAILURE);
}

#[test]
fn a_client_that_wants_all_compressed_is_refused() {
    let mut hello = hello();
    // Behind both headers, version and random: a session's id, suites, and then methods of compression (RFC 5246 7.4.1.2).
    let session = 5 + 4 + 2 + 32;
    let suites = session + 1 + usize::from(hello[session]);
    let methods = suites + 2 + usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
    assert_eq!(hello[methods..methods + 2], [1, 0], "none, and nothing else");
    hello[methods + 1] = 1;
    let (failure, out) = fail(&server(), &hello);
    assert_eq!(failure.reason, FailureReason::Incompatible(Incompatible::Other));
    assert_eq!(
        (failure.alert, plain_alert(&out)),
        (Alert::ILLEGAL_PARAMETER, Some(Alert::ILLEGAL_PARAMETER))
    );
}

#[test]
fn a_session_whose_key_the_client_does_not_have_is_misbehaviour() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let config = Arc::new(client_config(&[&identity], &[suite]));
    let server = Server::new(&options(&[&identity])).unwrap();
    connect(&server, client(&config, "a.test"), b"GET").unwrap();
    // The binder ends the ClientHello (RFC 8446 4.2.11).
    let mut hello = from_client(&mut client(&config, "a.test"));
    *hello.last_mut().unwrap() ^= 1;
    let (failure, out) = fail(&server, &hello);
    assert_eq!(failure.reason, FailureReason::Peer(PeerFault::Misbehaved));
    assert_eq!((failure.alert, plain_alert(&out)), (Alert::DECRYPT_ERROR, Some(Alert::DECRYPT_ERROR)));
}

#[test]
fn what_a_caller_may_not_do_is_our_own_fault() {
    let (server, hello) = (server(), hello());
    let ours = |step: Step| match step {
        Step::Failed(Failure { reason: FailureReason::Ours(fault), alert: Alert::INTERNAL_ERROR }) => fault,
        _ => panic!("not a fault of ours"),
    };
    let mut out = Vec::new();
    let mut part = hello[..hello.len() - 1].to_vec();
    let step = Handshake::new(&server).advance(&mut part, &mut out);
    assert_eq!(ours(step), OwnFault::NotOneRecord);
    assert_eq!(plain_alert(&out), Some(Alert::INTERNAL_ERROR));

    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let config = Arc::new(client_config(&[&identity], &all_suites()));
    let server = Server::new(&options(&[&identity])).unwrap();
    let (mut client, mut handshake) = (client(&config, "a.test"), Handshake::new(&server));
    let mut is_done = false;
    while !is_done {
        let mut out = Vec::new();
        for mut record in records(&from_client(&mut client)) {
            is_done |= matches!(handshake.advance(&mut record, &mut out), Step::Done(_));
        }
        to_client(&mut client, &out).unwrap();
    }
    let step = handshake.advance(&mut [23, 3, 3, 0, 1, 0], &mut Vec::new());
    assert_eq!(ours(step), OwnFault::HandshakeOver);
}

#[test]
fn data_inside_a_client_hello_is_refused_aloud() {
    // rustls says nothing here: the alert is ours.
    let hello = hello();
    let body = &hello[HEADER_BYTES..];
    let (head, _) = body.split_at(40);
    let mut wire = vec![22, 3, 1, 0, 40];
    wire.extend_from_slice(head);
    wire.extend_from_slice(&[23, 3, 3, 0, 1, 0]);
    let (failure, out) = fail(&server(), &wire);
    assert_eq!(failure.reason, FailureReason::Peer(PeerFault::Interleaved));
    assert_eq!(plain_alert(&out), Some(Alert::UNEXPECTED_MESSAGE));
}

#[test]
fn faults_behind_our_flight_are_told_under_its_keys() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let server = Server::new(&options(&[&identity])).unwrap();
    let config = Arc::new(client_config(&[&identity], &all_suites()));
    let mut client = client(&config, "a.test");
    let mut handshake = Handshake::new(&server);
    let mut out = Vec::new();
    for mut record in records(&from_client(&mut client)) {
        assert!(matches!(handshake.advance(&mut record, &mut out), Step::Continue));
    }
    let failure = record_len(b"GET / HTTP/1.1").unwrap_err();
    to_client(&mut client, &out).unwrap();
    out.clear();
    handshake.refuse(failure, &mut out);
    assert_eq!(out[0], 23);
    let error = to_client(&mut client, &out).unwrap_err();
    assert_eq!(heard(error), Alert::UNEXPECTED_MESSAGE);
}

#[test]
fn a_bad_finished_is_a_bad_record() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let server = Server::new(&options(&[&identity])).unwrap();
    for suite in all_suites().into_iter().filter(|it| kind_of(*it) == Kind::Ecdsa) {
        let config = Arc::new(client_config(&[&identity], &[suite]));
        let mut client = client(&config, "a.test");
        let mut handshake = Handshake::new(&server);
        let failure = loop {
            let mut out = Vec::new();
            let mut failed = None;
            for mut record in records(&from_client(&mut client)) {
                if !client.is_handshaking() || record.len() == 5 + 8 + 16 + 16 || record.len() == 5 + 16 + 16
                {
                    *record.last_mut().unwrap() ^= 1;
                }
                match handshake.advance(&mut record, &mut out) {
                    Step::Absent(_) => panic!("sessions are kept here"),
                    Step::Continue => {}
                    Step::Done(_) => panic!("{suite:?}: a bad Finished was taken"),
                    Step::Failed(failure) => {
                        failed = Some(failure);
                        break;
                    }
                }
            }
            let heard = to_client(&mut client, &out);
            if let Some(failure) = failed {
                assert!(heard.is_err(), "{suite:?}");
                break failure;
            }
        };
        assert!(matches!(failure.reason, FailureReason::Peer(_)), "{failure:?}");
    }
}

#[test]
fn a_key_that_fits_the_suite_and_no_scheme_is_nothing_in_common() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256];
    let config = Arc::new(client_config(&[&identity], &suites));
    let mut hello = from_client(&mut client(&config, "a.test"));
    // Every scheme of signature_algorithms (RFC 5246 7.4.1.4.1) becomes Ed25519, which signs for the same suites.
    let at = hello.windows(2).rposition(|it| it == [4, 3]).unwrap();
    let list = (0..at).rev().find(|at| hello[*at..].starts_with(&[0, 13])).unwrap();
    let bytes = usize::from(u16::from_be_bytes([hello[list + 4], hello[list + 5]]));
    hello[list + 6..list + 6 + bytes].as_chunks_mut::<2>().0.fill([8, 7]);
    let (failure, out) = fail(&server(), &hello);
    assert_eq!(failure.reason, FailureReason::Incompatible(Incompatible::Signature));
    assert_eq!(plain_alert(&out), Some(Alert::HANDSHAKE_FAILURE));
}

#[test]
fn alerts_of_the_client_end_the_handshake_without_an_answer() {
    let (failure, out) = fail(&server(), &[21, 3, 3, 0, 2, 2, 40]);
    assert_eq!(failure.reason, FailureReason::PeerAlert(Alert::HANDSHAKE_FAILURE));
    assert!(out.is_empty());
}

#[test]
fn a_hello_in_the_smallest_pieces_is_whole() {
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let server = Server::new(&options(&[&identity])).unwrap();
    let config = Arc::new(client_config(&[&identity], &all_suites()));
    let mut client = client(&config, "a.test");
    let wire = from_client(&mut client);
    let mut handshake = Handshake::new(&server);
    let mut out = Vec::new();
    for byte in &wire[HEADER_BYTES..] {
        assert!(out.is_empty());
        let step = handshake.advance(&mut [22, 3, 1, 0, 1, *byte], &mut out);
        assert!(matches!(step, Step::Continue));
    }
    to_client(&mut client, &out).unwrap();
    assert!(!client.is_handshaking());
}

#[test]
fn a_message_without_end_is_bounded() {
    let server = server();
    let mut handshake = Handshake::new(&server);
    let mut out = Vec::new();
    let mut first = vec![22, 3, 1, 0, 5, 1, 0, 255, 255, 0];
    assert!(matches!(handshake.advance(&mut first, &mut out), Step::Continue));
    for _ in 0..handshake::PENDING_BYTES_MAX {
        if let Step::Failed(failure) = handshake.advance(&mut [22, 3, 1, 0, 1, 0], &mut out) {
            assert_eq!(failure.reason, FailureReason::Peer(PeerFault::HandshakeTooLong));
            assert_eq!(plain_alert(&out), Some(Alert::DECODE_ERROR));
            return;
        }
    }
    panic!("it goes on without end");
}

#[test]
fn plaintext_records_are_no_longer_than_plaintext() {
    for (kind, most) in [(22, PLAINTEXT_BYTES_MAX), (23, RECORD13_BYTES_MAX - HEADER_BYTES)] {
        let too_long = most + 1;
        let mut record = vec![0; HEADER_BYTES + too_long];
        let length = (too_long as u16).to_be_bytes();
        record[..HEADER_BYTES].copy_from_slice(&[kind, 3, 3, length[0], length[1]]);
        let (failure, out) = fail(&server(), &record);
        assert_eq!(failure.reason, FailureReason::Peer(PeerFault::RecordTooLong));
        assert_eq!(plain_alert(&out), Some(Alert::RECORD_OVERFLOW));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_first_records_are_judged(
        bodies in prop::collection::vec((20u8..24, prop::collection::vec(any::<u8>(), 0..60)), 1..8),
    ) {
        let server = shared();
        let mut handshake = Handshake::new(server);
        let mut out = Vec::new();
        for (kind, body) in bodies {
            let mut record = vec![kind, 3, 3, 0, body.len() as u8];
            record.extend(body);
            handshake.advance(&mut record, &mut out);
        }
    }

    #[test]
    fn any_change_of_a_hello_is_judged(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in 1usize..300,
    ) {
        let (server, mut wire) = (shared(), hello_once());
        let at = HEADER_BYTES + at.index(wire.len() - HEADER_BYTES);
        wire[at] = byte;
        let mut handshake = Handshake::new(server);
        let mut out = Vec::new();
        for part in wire[HEADER_BYTES..].chunks(cut) {
            let mut record = vec![22, 3, 1, (part.len() >> 8) as u8, part.len() as u8];
            record.extend_from_slice(part);
            handshake.advance(&mut record, &mut out);
        }
    }
}

fn shared() -> &'static Server {
    static SERVER: std::sync::OnceLock<Server> = std::sync::OnceLock::new();
    SERVER.get_or_init(server)
}

fn hello_once() -> Vec<u8> {
    static HELLO: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    HELLO.get_or_init(hello).clone()
}
