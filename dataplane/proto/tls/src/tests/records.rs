//! Round trips, corruptions, and the limits of single records.

use proptest::prelude::*;

use super::{any_suite, ends, key, opener};
use crate::keys::TrafficKey;
use crate::protect::Protector;
use crate::record::{
    ALERT, APPLICATION_DATA, HANDSHAKE, HEADER_BYTES, PLAINTEXT_BYTES_MAX, SEALED_BYTES_MAX, record_len,
};
use crate::*;

/// A record of TLS 1.3 with any inner plaintext, content type and padding included.
fn record13(key: &TrafficKey, seq: u64, inner: &[u8]) -> Vec<u8> {
    let (kind, content) = inner.split_last().unwrap();
    let mut out = vec![0; SEALED_BYTES_MAX + 512];
    let len = Protector::new(key).seal_any(seq, *kind, content, &mut out).unwrap();
    out.truncate(len);
    out
}

#[test]
fn a_full_record_of_each_suite_fits_the_constants() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = ends(suite);
        let plaintext = vec![9; PLAINTEXT_BYTES_MAX];
        let mut out = vec![0; SEALED_BYTES_MAX];
        let len = sealer.seal(Content::Data, &plaintext, &mut out).unwrap();
        assert_eq!(len, sealer.sealed_len(PLAINTEXT_BYTES_MAX));
        assert_eq!(record_len(&out), Ok(Some(len)));
        assert_eq!(out[..3], [APPLICATION_DATA, 3, 3]);
        assert_eq!(
            opener.open(&mut out[..len]),
            Ok(Opened::Data(&mut plaintext.clone())),
            "{}",
            suite.name()
        );
    }
}

#[test]
fn nothing_is_spent_on_a_refusal() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = ends(suite);
        let mut out = vec![0; SEALED_BYTES_MAX];
        let left = sealer.records_left();
        let long = vec![0; PLAINTEXT_BYTES_MAX + 1];
        assert_eq!(sealer.seal(Content::Data, &long, &mut out), Err(SealError::Bounds));
        assert_eq!(sealer.seal(Content::Handshake, b"", &mut out), Err(SealError::Bounds));
        let short = sealer.sealed_len(3) - 1;
        assert_eq!(sealer.seal(Content::Data, b"abc", &mut out[..short]), Err(SealError::Bounds));
        assert_eq!(sealer.records_left(), left);
        let len = sealer.seal(Content::Data, b"abc", &mut out[..short + 1]).unwrap();
        assert_eq!(opener.open(&mut out[..len]), Ok(Opened::Data(&mut b"abc".to_vec())));
        assert_eq!(sealer.records_left(), left - 1);
    }
}

#[test]
fn a_fault_is_final() {
    let (mut sealer, mut opener) = ends(Suite::Aes128GcmSha256);
    let (mut first, mut second) = (vec![0; 64], vec![0; 64]);
    let len = sealer.seal(Content::Data, b"one", &mut first).unwrap();
    sealer.seal(Content::Data, b"two", &mut second).unwrap();
    first[len - 1] ^= 1;
    let failure = opener.open(&mut first[..len]).unwrap_err();
    assert_eq!(failure, Failure::peer(Alert::BAD_RECORD_MAC, PeerFault::BadRecordMac));
    assert_eq!(opener.open(&mut second[..len]), Err(failure));
}

#[test]
fn padding_counts_against_the_plaintext_limit() {
    let (key, _) = key(Suite::Aes128GcmSha256, 7);
    let mut inner = vec![b'x'; PLAINTEXT_BYTES_MAX + 1];
    inner[100] = APPLICATION_DATA;
    inner[101..].fill(0);
    let mut fits = record13(&key, 0, &inner);
    let opened = opener(Suite::Aes128GcmSha256, 7, 0)
        .open(&mut fits)
        .map(|it| matches!(it, Opened::Data(data) if data.len() == 100));
    assert_eq!(opened, Ok(true));
    inner.push(0);
    let mut over = record13(&key, 0, &inner);
    let failure = opener(Suite::Aes128GcmSha256, 7, 0).open(&mut over).unwrap_err();
    assert_eq!(failure, Failure::peer(Alert::RECORD_OVERFLOW, PeerFault::PlaintextTooLong));
}

#[test]
fn a_record_of_nothing_but_padding_has_no_type() {
    let (key, _) = key(Suite::Aes256GcmSha384, 7);
    let mut record = record13(&key, 0, &[0; 40]);
    let failure = opener(Suite::Aes256GcmSha384, 7, 0).open(&mut record).unwrap_err();
    assert_eq!(failure, Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::NoContentType));
}

#[test]
fn outer_types_other_than_data_are_refused_in_tls13() {
    for kind in [20, ALERT, HANDSHAKE] {
        let (mut sealer, mut opener) = ends(Suite::Chacha20Poly1305Sha256);
        let mut out = vec![0; 64];
        let len = sealer.seal(Content::Data, b"x", &mut out).unwrap();
        out[0] = kind;
        let failure = opener.open(&mut out[..len]).unwrap_err();
        assert_eq!(failure, Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::UnexpectedRecord));
    }
}

#[test]
fn over_long_records_are_refused_before_they_are_opened() {
    for (suite, expansion) in [(Suite::Aes128GcmSha256, 256), (Suite::EcdheRsaAes128GcmSha256, 2048)] {
        let body = (PLAINTEXT_BYTES_MAX + expansion + 1) as u16;
        let mut record = vec![0; HEADER_BYTES + usize::from(body)];
        record[..3].copy_from_slice(&[APPLICATION_DATA, 3, 3]);
        record[3..5].copy_from_slice(&body.to_be_bytes());
        let failure = opener(suite, 7, 0).open(&mut record).unwrap_err();
        assert_eq!(failure, Failure::peer(Alert::RECORD_OVERFLOW, PeerFault::RecordTooLong));
    }
}

#[test]
fn only_exactly_one_record_is_taken() {
    let (mut sealer, _) = ends(Suite::Aes128GcmSha256);
    let mut out = vec![0; 64];
    let len = sealer.seal(Content::Data, b"x", &mut out).unwrap();
    for wrong in [0, 4, len - 1, len + 1] {
        let failure = opener(Suite::Aes128GcmSha256, 7, 0).open(&mut out.clone()[..wrong]).unwrap_err();
        assert_eq!(failure.reason, FailureReason::Ours(OwnFault::NotOneRecord));
    }
}

#[test]
fn data_ends_before_the_limit_and_alerts_at_it() {
    for suite in [Suite::Aes128GcmSha256, Suite::EcdheRsaAes256GcmSha384] {
        let mut sealer = super::sealer(suite, 7, suite.records_max() - seal::RECORDS_RESERVED - 1);
        let mut out = vec![0; 64];
        assert_eq!(sealer.records_left(), 1);
        sealer.seal(Content::Data, b"x", &mut out).unwrap();
        assert_eq!(sealer.records_left(), 0);
        assert_eq!(sealer.seal(Content::Data, b"x", &mut out), Err(SealError::Exhausted));
        assert_eq!(sealer.lend(1).err(), Some(SealError::Exhausted));
        for _ in 0..seal::RECORDS_RESERVED {
            sealer.close_notify(&mut out).unwrap();
        }
        assert_eq!(sealer.close_notify(&mut out), Err(SealError::Exhausted));
    }
}

#[test]
fn a_key_opens_no_more_than_its_limit() {
    let suite = Suite::Chacha20Poly1305Sha256;
    let mut sealer = super::sealer(suite, 7, open::OPENED_RECORDS_MAX - 1);
    let mut opener = opener(suite, 7, open::OPENED_RECORDS_MAX - 1);
    let mut out = vec![0; 64];
    let len = sealer.seal(Content::Data, b"x", &mut out).unwrap();
    assert!(opener.open(&mut out[..len]).is_ok());
    let len = sealer.seal(Content::Data, b"x", &mut out).unwrap();
    let failure = opener.open(&mut out[..len]).unwrap_err();
    assert_eq!(failure.reason, FailureReason::Peer(PeerFault::TooManyRecords));
}

#[test]
fn who_rests_goes_on_where_it_was() {
    for suite in Suite::ALL {
        let (mut sealer, mut opener) = ends(suite);
        let mut out = vec![0; SEALED_BYTES_MAX];
        let mut say = |sealer: &mut Sealer, opener: &mut Opener| {
            let len = sealer.seal(Content::Data, b"on it goes", &mut out).unwrap();
            assert_eq!(opener.open(&mut out[..len]), Ok(Opened::Data(&mut b"on it goes".to_owned())));
        };
        assert!(sealer.is_resting() && opener.is_resting(), "nothing is made before it is needed");
        for _ in 0..3 {
            say(&mut sealer, &mut opener);
            assert!(!sealer.is_resting() && !opener.is_resting());
            say(&mut sealer, &mut opener);
            sealer.rest();
            opener.rest();
            // The key is lent as well by who rests, and comes back.
            let mut lent = LentSealer::new(sealer.lend(2).unwrap());
            let mut record = [0; 64];
            let len = lent.seal_data(b"lent", &mut record).unwrap();
            assert_eq!(opener.open(&mut record[..len]), Ok(Opened::Data(&mut b"lent".to_owned())));
            sealer.reclaim(lent.used()).unwrap();
            assert!(sealer.is_resting());
            opener.rest();
        }
        if suite.version() == Version::Tls13 {
            let mut record = [0; 64];
            let len = sealer.key_update(false, &mut record).unwrap();
            assert_eq!(opener.open(&mut record[..len]), Ok(Opened::KeyUpdate { reply: false }));
            assert!(sealer.is_resting() && opener.is_resting(), "of the old key nothing is left");
            say(&mut sealer, &mut opener);
        }
    }
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(
        suite in any_suite(),
        plaintexts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..600), 1..6),
        first in 0u64..1 << 23,
    ) {
        let mut sealer = super::sealer(suite, 7, first);
        let mut opener = opener(suite, 7, first);
        let mut out = vec![0; 1024];
        for mut plaintext in plaintexts {
            let len = sealer.seal(Content::Data, &plaintext, &mut out).unwrap();
            prop_assert_eq!(len, sealer.sealed_len(plaintext.len()));
            let expected = if plaintext.is_empty() { Opened::Nothing } else { Opened::Data(&mut plaintext) };
            prop_assert_eq!(opener.open(&mut out[..len]), Ok(expected));
        }
    }

    #[test]
    fn one_changed_bit_is_noticed(
        suite in any_suite(),
        plaintext in prop::collection::vec(any::<u8>(), 1..200),
        at in any::<prop::sample::Index>(),
        bit in 0..8,
    ) {
        let (mut sealer, mut opener) = ends(suite);
        let mut out = vec![0; 300];
        let len = sealer.seal(Content::Data, &plaintext, &mut out).unwrap();
        out[at.index(len)] ^= 1u8 << bit;
        // The length as well: the record is then not one record, or a shorter one.
        let len = record_len(&out).ok().flatten().unwrap_or(len).min(300);
        prop_assert!(opener.open(&mut out[..len]).is_err());
    }

    #[test]
    fn records_out_of_order_are_noticed(suite in any_suite(), skipped in 1u64..1000) {
        let mut sealer = super::sealer(suite, 7, skipped);
        let mut opener = opener(suite, 7, 0);
        let mut out = [0; 64];
        let len = sealer.seal(Content::Data, b"late", &mut out).unwrap();
        prop_assert!(opener.open(&mut out[..len]).is_err());
    }

    #[test]
    fn any_bytes_are_judged(suite in any_suite(), mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
            let [kind, ..] = *header;
            let body = (bytes.len() - HEADER_BYTES) as u16;
            bytes[..3].copy_from_slice(&[20 + kind % 4, 3, 3]);
            bytes[3..HEADER_BYTES].copy_from_slice(&body.to_be_bytes());
        }
        prop_assert!(opener(suite, 7, 0).open(&mut bytes).is_err());
    }
}
