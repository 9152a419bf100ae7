//! Handshake messages cut into records anywhere: RFC 8446 5.1 and RFC 5246 6.2.1 let a client do so with every message
//! that is not protected, and a post-quantum ClientHello leaves it little choice on a small path.

mod common;

use std::sync::{Arc, OnceLock};

use common::*;
use keyferry_tls::*;
use proptest::prelude::*;
use rustls::SupportedCipherSuite;

/// Handshake, content type (RFC 8446 5.1).
const HANDSHAKE: u8 = 22;

/// X25519MLKEM768 at IANA.
const X25519MLKEM768: Group = Group(0x11ec);

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| Identity::new(Kind::Ecdsa, &["kf.test"]))
}

/// The same bytes with unprotected handshake messages cut into records of these sizes, over and over.
fn cut(wire: &[u8], sizes: &[usize], is_protected: &mut bool) -> Vec<Vec<u8>> {
    let mut cut = Vec::new();
    let mut sizes = sizes.iter().copied().cycle();
    for record in records(wire) {
        // Behind change_cipher_spec, TLS 1.2 protects its handshake records.
        *is_protected |= record[0] == 20;
        if record[0] != HANDSHAKE || *is_protected {
            cut.push(record);
            continue;
        }
        let mut rest = &record[HEADER_BYTES..];
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(sizes.next().unwrap().min(rest.len()));
            let mut piece = vec![HANDSHAKE, 3, 3];
            piece.extend((part.len() as u16).to_be_bytes());
            piece.extend(part);
            cut.push(piece);
            rest = behind;
        }
    }
    cut
}

/// A handshake with a client that cuts its messages so.
fn handshake(suites: &[SupportedCipherSuite], sizes: &[usize]) -> Info {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let server = SERVER.get_or_init(|| Server::new(&options(&[identity()])).unwrap());
    let config = Arc::new(client_config(&[identity()], suites));
    let mut client = client(&config, "kf.test");
    let mut handshake = Handshake::new(server);
    let mut is_protected = false;
    for _ in 0..4 {
        let mut out = Vec::new();
        for mut record in cut(&from_client(&mut client), sizes, &mut is_protected) {
            match handshake.advance(&mut record, &mut out) {
                Step::Continue => {}
                Step::Done(established) => {
                    to_client(&mut client, &out).unwrap();
                    assert!(!client.is_handshaking());
                    return established.info;
                }
                Step::Absent(_) => panic!("sessions are kept here"),
                Step::Failed(failure) => panic!("{failure}"),
            }
        }
        to_client(&mut client, &out).unwrap();
    }
    panic!("four flights are enough");
}

fn suites(version: &'static rustls::SupportedProtocolVersion) -> Vec<SupportedCipherSuite> {
    all_suites().into_iter().filter(|it| it.version() == version).collect()
}

#[test]
fn a_post_quantum_hello_is_longer_than_a_segment_and_may_come_byte_by_byte() {
    let config = Arc::new(client_config(&[identity()], &all_suites()));
    let hello = from_client(&mut client(&config, "kf.test"));
    assert!(hello.len() > 1220, "{} bytes fit a segment", hello.len());
    assert_eq!(handshake(&all_suites(), &[1]).group, Some(X25519MLKEM768));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn messages_are_whole_however_they_are_cut(
        tls13: bool,
        sizes in prop::collection::vec(1usize..700, 1..8),
    ) {
        let version = if tls13 { &rustls::version::TLS13 } else { &rustls::version::TLS12 };
        let info = handshake(&suites(version), &sizes);
        prop_assert_eq!(info.version, if tls13 { Version::Tls13 } else { Version::Tls12 });
    }
}
