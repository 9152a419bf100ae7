//! After a return the borrower's memory holds no byte of the lent key, and after a key update ours holds none of the
//! old one. The whole writable memory of this process is searched, so this file has one test.
#![cfg(target_os = "linux")]

mod common;

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use common::search::{Needle, occurrences};
use common::*;
use keyferry_tls::*;
use zeroize::{Zeroize, Zeroizing};

/// Where the key lies in the wire form.
const KEY_AT: usize = 20;

/// The wire form of a key nobody else has, as it arrives in a message.
fn lent(suite: Suite) -> Box<[u8; RecordKey::WIRE_BYTES]> {
    let mut wire = Box::new([0; RecordKey::WIRE_BYTES]);
    wire[0] = 2;
    wire[2..4].copy_from_slice(&suite.wire().to_be_bytes());
    wire[19] = 100;
    let at = wire.len() - 2;
    wire[at..].copy_from_slice(&(PLAINTEXT_BYTES_MAX as u16).to_be_bytes());
    let key_bytes = if suite.name().contains("AES_128") { 16 } else { 32 };
    // Straight from the kernel, so that no generator of ours has seen it.
    let mut random = File::open("/dev/urandom").unwrap();
    random.read_exact(&mut wire[KEY_AT..KEY_AT + key_bytes]).unwrap();
    wire
}

/// All a borrower does with a key.
fn borrow(wire: &mut [u8; RecordKey::WIRE_BYTES]) {
    let mut borrower = LentSealer::new(RecordKey::decode(wire).unwrap());
    wire.zeroize();
    let mut out = vec![0; SEALED_BYTES_MAX];
    for _ in 0..3 {
        borrower.seal_data(&[7; 3000], &mut out).unwrap();
    }
    assert_eq!(borrower.used(), 3);
}

/// The key a sealer has now.
fn current_key(sealer: &mut Sealer) -> Needle {
    let mut wire = Zeroizing::new([0; RecordKey::WIRE_BYTES]);
    sealer.lend(1).unwrap().encode(&mut wire[..]);
    sealer.reclaim(0).unwrap();
    Needle::hide(&wire[KEY_AT..])
}

#[test]
fn no_byte_of_a_key_stays() {
    for suite in Suite::ALL {
        let mut wire = lent(suite);
        let needle = Needle::hide(&wire[KEY_AT..]);
        assert!(!occurrences(&needle).is_empty(), "the search finds what is there");
        borrow(&mut wire);
        let found = occurrences(&needle);
        assert!(found.is_empty(), "{}, returned: {found:?}", suite.name());
    }
    let identity = Identity::new(Kind::Ecdsa, &["a.test"]);
    let server = Server::new(&options(&[&identity])).unwrap();
    for suite in all_suites().into_iter().filter(|it| it.tls13().is_some()) {
        let config = Arc::new(client_config(&[&identity], &[suite]));
        let mut pair = connect(&server, client(&config, "a.test"), b"").unwrap();
        let mut out = [0; 64];
        // What rustls had is behind us after the first update; the client never hears of these.
        pair.server.sealer.key_update(false, &mut out).unwrap();
        let needle = current_key(&mut pair.server.sealer);
        assert!(!occurrences(&needle).is_empty(), "the search finds what is there");
        pair.server.sealer.key_update(false, &mut out).unwrap();
        let found = occurrences(&needle);
        assert!(found.is_empty(), "{suite:?}, updated: {found:?}");
        let needle = current_key(&mut pair.server.sealer);
        drop(pair);
        let found = occurrences(&needle);
        assert!(found.is_empty(), "{suite:?}, closed: {found:?}");
    }
}
