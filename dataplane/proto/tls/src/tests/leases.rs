//! The invariant of the lease: no (key, sequence number) seals twice, whatever lender and borrower do in whatever
//! order. The opener is the witness: it opens the n-th record it is given under number n and no other, so a number
//! used twice, or left out, ends its stream.

use proptest::prelude::*;

use super::{any_suite, ends, key};
use crate::record::SEALED_BYTES_MAX;
use crate::*;

#[derive(Clone, Debug)]
enum Action {
    Seal(u16),
    KeyUpdate,
    Lend(u64),
    Borrower(u16),
    Return,
    LieOnReturn(u64),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0u16..300).prop_map(Action::Seal),
        1 => Just(Action::KeyUpdate),
        2 => (0u64..5).prop_map(Action::Lend),
        4 => (0u16..300).prop_map(Action::Borrower),
        2 => Just(Action::Return),
        1 => (1u64..9).prop_map(Action::LieOnReturn),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_number_seals_twice(suite in any_suite(), actions in prop::collection::vec(action(), 1..60)) {
        let (mut sealer, mut opener) = ends(suite);
        let mut borrower: Option<LentSealer> = None;
        let mut seq = 0;
        let mut fill = 0u8;
        for action in actions {
            let mut out = vec![0; SEALED_BYTES_MAX];
            fill = fill.wrapping_add(1);
            match action {
                Action::Seal(len) => {
                    let mut plaintext = vec![fill; usize::from(len)];
                    let sealed = sealer.seal(Content::Data, &plaintext, &mut out);
                    if borrower.is_some() {
                        prop_assert_eq!(sealed, Err(SealError::Lent));
                        continue;
                    }
                    let record = &mut out[..sealed.unwrap()];
                    seq += 1;
                    let data = if len == 0 { Opened::Nothing } else { Opened::Data(&mut plaintext) };
                    prop_assert_eq!(opener.open(record), Ok(data));
                }
                Action::KeyUpdate => {
                    let sealed = sealer.key_update(false, &mut out);
                    if borrower.is_some() && suite.version() == Version::Tls13 {
                        prop_assert_eq!(sealed, Err(SealError::Lent));
                    } else if suite.version() == Version::Tls12 {
                        prop_assert_eq!(sealed, Err(SealError::Bounds));
                    } else {
                        let record = &mut out[..sealed.unwrap()];
                        prop_assert_eq!(opener.open(record), Ok(Opened::KeyUpdate { reply: false }));
                        seq = 0;
                    }
                }
                Action::Lend(records) => match sealer.lend(records) {
                    Ok(key) => {
                        prop_assert!(borrower.is_none() && records > 0);
                        prop_assert_eq!((key.first(), key.records()), (seq, records));
                        borrower = Some(LentSealer::new(key));
                    }
                    Err(error) => {
                        let lent = borrower.is_some();
                        prop_assert_eq!(error, if lent { SealError::Lent } else { SealError::Bounds });
                    }
                },
                Action::Borrower(len) => {
                    let Some(lent) = borrower.as_mut() else { continue };
                    let mut plaintext = vec![fill; usize::from(len)];
                    let left = lent.records_left();
                    match lent.seal_data(&plaintext, &mut out) {
                        Ok(len) => {
                            let record = &mut out[..len];
                            seq += 1;
                            let empty = plaintext.is_empty();
                            let data = if empty { Opened::Nothing } else { Opened::Data(&mut plaintext) };
                            prop_assert_eq!(opener.open(record), Ok(data));
                        }
                        Err(error) => {
                            prop_assert_eq!(error, SealError::Exhausted);
                            prop_assert_eq!(left, 0);
                        }
                    }
                }
                Action::Return => match borrower.take() {
                    Some(lent) => prop_assert_eq!(sealer.reclaim(lent.used()), Ok(())),
                    None => prop_assert_eq!(sealer.reclaim(0), Err(SealError::Bounds)),
                },
                Action::LieOnReturn(more) => {
                    let Some(lent) = borrower.as_ref() else { continue };
                    // More than was lent: refused, and the sealer stays shut.
                    let all = lent.used() + lent.records_left();
                    prop_assert_eq!(sealer.reclaim(all + more), Err(SealError::Bounds));
                    prop_assert!(sealer.is_lent());
                }
            }
        }
    }

    #[test]
    fn the_wire_form_is_the_key(suite in any_suite(), first in 0u64..1000, records in 1u64..1 << 20) {
        let mut sealer = super::sealer(suite, 3, first);
        let lent = sealer.lend(records).unwrap();
        let mut wire = [0; RecordKey::WIRE_BYTES];
        prop_assert_eq!(lent.encode(&mut wire), RecordKey::WIRE_BYTES);
        let read = RecordKey::decode(&wire).unwrap();
        prop_assert_eq!((read.first(), read.records(), read.suite()), (first, records, suite));
        prop_assert_eq!(read.version(), suite.version());
        let (mut a, mut b) = (vec![0; 64], vec![0; 64]);
        let len = LentSealer::new(lent).seal_data(b"same", &mut a).unwrap();
        prop_assert_eq!(LentSealer::new(read).seal_data(b"same", &mut b), Ok(len));
        prop_assert_eq!(a, b);
    }

    #[test]
    fn any_wire_form_is_judged(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(RecordKey::decode(&bytes).is_none_or(|key| key.records() > 0));
    }
}

#[test]
fn unsound_wire_forms_are_refused() {
    let mut sealer = super::sealer(Suite::Aes128GcmSha256, 3, 5);
    let mut wire = [0; RecordKey::WIRE_BYTES];
    sealer.lend(9).unwrap().encode(&mut wire);
    assert!(RecordKey::decode(&wire).is_some());
    assert!(RecordKey::decode(&wire[1..]).is_none());
    assert!(RecordKey::decode(&[&wire[..], &[0]].concat()).is_none());
    for at in [0, 1, 2, 4, 12, 19, 40] {
        let mut wrong = wire;
        // Format, reserved byte, suite, first and records out of range, no records, a padded key.
        wrong[at] = if at == 19 { 0 } else { 0x7f };
        assert!(RecordKey::decode(&wrong).is_none(), "byte {at}");
    }
}

/// The key that is lent is the record key and nothing it could be derived from.
#[test]
fn a_secret_is_never_lent() {
    let (record, secret) = key(Suite::Aes128GcmSha256, 3);
    let mut sealer = super::sealer(Suite::Aes128GcmSha256, 3, 0);
    let mut wire = [0; RecordKey::WIRE_BYTES];
    sealer.lend(1).unwrap().encode(&mut wire);
    let has = |part: &[u8]| wire.windows(part.len()).any(|it| it == part);
    assert!(has(record.key()));
    assert!(!has(&secret.unwrap().bytes()[..16]));
}

/// What the lender gives its own records at most, the borrower gives its records at most.
#[test]
fn the_fragment_is_lent_with_the_key() {
    let (record, secret) = key(Suite::Aes128GcmSha256, 3);
    let fragment = Fragment::new(700).unwrap();
    let mut sealer = Sealer::new(&record, secret, 0, fragment);
    let mut out = vec![0; SEALED_BYTES_MAX];
    assert_eq!(sealer.seal(Content::Data, &[0; 701], &mut out), Err(SealError::Bounds));
    assert!(sealer.seal(Content::Data, &[0; 700], &mut out).is_ok());
    let mut wire = [0; RecordKey::WIRE_BYTES];
    sealer.lend(9).unwrap().encode(&mut wire);
    let mut borrower = LentSealer::new(RecordKey::decode(&wire).unwrap());
    assert_eq!(borrower.fragment(), fragment);
    assert_eq!(borrower.seal_data(&[0; 701], &mut out), Err(SealError::Bounds));
    assert!(borrower.seal_data(&[0; 700], &mut out).is_ok());
    let at = wire.len() - 2;
    for bytes in [0u16, 511, 16385, u16::MAX] {
        wire[at..].copy_from_slice(&bytes.to_be_bytes());
        assert!(RecordKey::decode(&wire).is_none(), "{bytes}");
    }
}
