//! What a client may say beside its data: KeyUpdate, alerts, renegotiation; whole, in pieces, malformed, too often.

use proptest::prelude::*;

use super::{ends, key};
use crate::protect::Protector;
use crate::record::{ALERT, APPLICATION_DATA, HANDSHAKE, SEALED_BYTES_MAX};
use crate::*;

const TLS13: Suite = Suite::Aes128GcmSha256;
const TLS12: Suite = Suite::EcdheEcdsaAes128GcmSha256;

/// A client that seals whatever it is told to, sound or not.
struct Client {
    protector: Protector,
    seq: u64,
}

impl Client {
    fn new(suite: Suite) -> Client {
        Client { protector: Protector::new(&key(suite, 7).0), seq: 0 }
    }

    fn record(&mut self, kind: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![0; SEALED_BYTES_MAX];
        let len = self.protector.seal(self.seq, kind, content, &mut out).unwrap();
        self.seq += 1;
        out.truncate(len);
        out
    }
}

/// What the last of these records comes to; those before it have to be [`Opened::Nothing`].
fn last(suite: Suite, records: &[(u8, &[u8])]) -> Result<Opened<'static>, Failure> {
    let (_, mut opener) = ends(suite);
    let mut client = Client::new(suite);
    let (end, before) = records.split_last().unwrap();
    for (kind, content) in before {
        assert_eq!(opener.open(&mut client.record(*kind, content)), Ok(Opened::Nothing));
    }
    match opener.open(&mut client.record(end.0, end.1))? {
        Opened::Data(data) => Ok(Opened::Data(data.to_vec().leak())),
        Opened::KeyUpdate { reply } => Ok(Opened::KeyUpdate { reply }),
        Opened::CloseNotify => Ok(Opened::CloseNotify),
        Opened::Nothing => Ok(Opened::Nothing),
        Opened::NoRenegotiation => Ok(Opened::NoRenegotiation),
    }
}

fn refused(alert: Alert, fault: PeerFault) -> Result<Opened<'static>, Failure> {
    Err(Failure::peer(alert, fault))
}

const UPDATE: [u8; 5] = [24, 0, 0, 1, 0];
const UPDATE_BOTH: [u8; 5] = [24, 0, 0, 1, 1];

#[test]
fn key_updates_move_both_ends() {
    for suite in Suite::ALL.into_iter().filter(|it| it.version() == Version::Tls13) {
        let (mut sealer, mut opener) = ends(suite);
        let mut out = vec![0; 128];
        for round in 0..3 {
            let len = sealer.seal(Content::Data, b"before", &mut out).unwrap();
            assert_eq!(opener.open(&mut out[..len]), Ok(Opened::Data(&mut b"before".to_vec())));
            let reply = round % 2 == 0;
            let len = sealer.key_update(reply, &mut out).unwrap();
            assert_eq!(opener.open(&mut out[..len]), Ok(Opened::KeyUpdate { reply }));
            assert_eq!(sealer.records_left(), suite.records_max() - seal::RECORDS_RESERVED);
            let len = sealer.seal(Content::Data, b"behind", &mut out).unwrap();
            assert_eq!(opener.open(&mut out[..len]), Ok(Opened::Data(&mut b"behind".to_vec())));
        }
    }
}

#[test]
fn the_old_key_opens_nothing_any_more() {
    let (_, mut opener) = ends(TLS13);
    let mut client = Client::new(TLS13);
    assert_eq!(opener.open(&mut client.record(HANDSHAKE, &UPDATE)), Ok(Opened::KeyUpdate { reply: false }));
    let failure = opener.open(&mut client.record(APPLICATION_DATA, b"old")).unwrap_err();
    assert_eq!(failure.alert, Alert::BAD_RECORD_MAC);
}

#[test]
fn key_updates_may_come_in_pieces() {
    for cut in 1..UPDATE.len() {
        let (head, tail) = UPDATE_BOTH.split_at(cut);
        let opened = last(TLS13, &[(HANDSHAKE, head), (HANDSHAKE, tail)]);
        assert_eq!(opened, Ok(Opened::KeyUpdate { reply: true }));
    }
}

#[test]
fn malformed_key_updates() {
    let illegal = refused(Alert::ILLEGAL_PARAMETER, PeerFault::KeyUpdateRequest);
    assert_eq!(last(TLS13, &[(HANDSHAKE, &[24, 0, 0, 1, 2])]), illegal);
    let decode = refused(Alert::DECODE_ERROR, PeerFault::Malformed);
    assert_eq!(last(TLS13, &[(HANDSHAKE, &[24, 0, 0, 0])]), decode);
    assert_eq!(last(TLS13, &[(HANDSHAKE, &[24, 0, 0, 2, 0, 0])]), decode);
    let unexpected = |fault| refused(Alert::UNEXPECTED_MESSAGE, fault);
    let twice = [UPDATE, UPDATE].concat();
    assert_eq!(last(TLS13, &[(HANDSHAKE, &twice)]), unexpected(PeerFault::Unaligned));
    assert_eq!(last(TLS13, &[(HANDSHAKE, &[1, 0])]), unexpected(PeerFault::UnexpectedMessage));
    assert_eq!(last(TLS13, &[(HANDSHAKE, b"")]), unexpected(PeerFault::EmptyRecord));
    assert_eq!(last(TLS13, &[(20, &[1])]), unexpected(PeerFault::UnexpectedRecord));
}

#[test]
fn nothing_comes_inside_a_message() {
    let interleaved = refused(Alert::UNEXPECTED_MESSAGE, PeerFault::Interleaved);
    for cut in 1..UPDATE.len() {
        let part = &UPDATE[..cut];
        assert_eq!(last(TLS13, &[(HANDSHAKE, part), (APPLICATION_DATA, b"x")]), interleaved);
        assert_eq!(last(TLS13, &[(HANDSHAKE, part), (APPLICATION_DATA, b"")]), interleaved);
        assert_eq!(last(TLS13, &[(HANDSHAKE, part), (ALERT, &[1, 0])]), interleaved);
    }
}

/// Takes in a KeyUpdate, or a record of data, of a client.
fn take(sealer: &mut Sealer, opener: &mut Opener, data: Option<&[u8]>) -> Result<(), Failure> {
    let mut out = vec![0; 64];
    let len = match data {
        None => sealer.key_update(false, &mut out),
        Some(data) => sealer.seal(Content::Data, data, &mut out),
    };
    opener.open(&mut out[..len.unwrap()]).map(|_| ())
}

#[test]
fn key_updates_are_bounded_and_each_record_of_data_pays_for_one() {
    let (mut sealer, mut opener) = ends(TLS13);
    for _ in 0..1000 {
        take(&mut sealer, &mut opener, None).unwrap();
        take(&mut sealer, &mut opener, Some(b"x")).unwrap();
    }
    for _ in 0..open::KEY_UPDATES_MAX {
        take(&mut sealer, &mut opener, None).unwrap();
    }
    take(&mut sealer, &mut opener, Some(b"x")).unwrap();
    take(&mut sealer, &mut opener, None).unwrap();
    // An empty record pays for nothing.
    take(&mut sealer, &mut opener, Some(b"")).unwrap();
    let failure = take(&mut sealer, &mut opener, None).unwrap_err();
    assert_eq!(failure.reason, FailureReason::Peer(PeerFault::TooManyKeyUpdates));
    assert_eq!(failure.alert, Alert::UNEXPECTED_MESSAGE);
}

#[test]
fn empty_records_in_a_row_are_bounded() {
    for suite in [TLS12, TLS13] {
        let many = vec![(APPLICATION_DATA, &b""[..]); usize::from(open::EMPTY_RECORDS_MAX) + 1];
        assert_eq!(last(suite, &many), refused(Alert::UNEXPECTED_MESSAGE, PeerFault::TooManyEmptyRecords));
        assert_eq!(last(suite, &many[1..]), Ok(Opened::Nothing));
    }
}

#[test]
fn alerts_of_the_client() {
    for suite in [TLS12, TLS13] {
        assert_eq!(last(suite, &[(ALERT, &[1, 0])]), Ok(Opened::CloseNotify));
        assert_eq!(last(suite, &[(ALERT, &[1, 90])]), Ok(Opened::Nothing));
        assert_eq!(last(suite, &[(ALERT, &[2, 40])]), Err(Failure::ended_by(Alert::HANDSHAKE_FAILURE)));
        let malformed = refused(Alert::DECODE_ERROR, PeerFault::Malformed);
        assert_eq!(last(suite, &[(ALERT, &[1])]), malformed);
        assert_eq!(last(suite, &[(ALERT, &[1, 0, 1, 0])]), malformed);
        let empty = refused(Alert::UNEXPECTED_MESSAGE, PeerFault::EmptyRecord);
        assert_eq!(last(suite, &[(ALERT, b"")]), empty);
        let many = vec![(ALERT, &[1, 90][..]); usize::from(open::WARNINGS_MAX) + 1];
        assert_eq!(last(suite, &many), refused(Alert::UNEXPECTED_MESSAGE, PeerFault::TooManyWarnings));
    }
    // The level counts in TLS 1.2 only (RFC 8446 6).
    assert_eq!(last(TLS12, &[(ALERT, &[1, 40])]), Ok(Opened::Nothing));
    assert_eq!(last(TLS13, &[(ALERT, &[1, 40])]), Err(Failure::ended_by(Alert::HANDSHAKE_FAILURE)));
    assert_eq!(last(TLS12, &[(ALERT, &[3, 40])]), refused(Alert::ILLEGAL_PARAMETER, PeerFault::Malformed));
}

#[test]
fn behind_close_notify_everything_is_ignored() {
    for suite in [TLS12, TLS13] {
        let (_, mut opener) = ends(suite);
        let mut client = Client::new(suite);
        assert_eq!(opener.open(&mut client.record(ALERT, &[1, 0])), Ok(Opened::CloseNotify));
        assert_eq!(opener.open(&mut client.record(APPLICATION_DATA, b"x")), Ok(Opened::Nothing));
        assert_eq!(opener.open(&mut [0; 9]), Ok(Opened::Nothing));
    }
}

fn client_hello(body: usize) -> Vec<u8> {
    let mut hello = vec![1, 0, (body >> 8) as u8, body as u8];
    hello.resize(4 + body, 0xab);
    hello
}

#[test]
fn renegotiation_is_declined_a_few_times() {
    let hello = client_hello(300);
    let (_, mut opener) = ends(TLS12);
    let mut client = Client::new(TLS12);
    for _ in 0..open::RENEGOTIATIONS_MAX {
        assert_eq!(opener.open(&mut client.record(HANDSHAKE, &hello)), Ok(Opened::NoRenegotiation));
    }
    let failure = opener.open(&mut client.record(HANDSHAKE, &hello)).unwrap_err();
    assert_eq!(failure.reason, FailureReason::Peer(PeerFault::TooManyRenegotiations));
}

#[test]
fn other_handshake_messages_are_refused_in_tls12() {
    let unexpected = |fault| refused(Alert::UNEXPECTED_MESSAGE, fault);
    assert_eq!(last(TLS12, &[(HANDSHAKE, &[0, 0, 0, 0])]), unexpected(PeerFault::UnexpectedMessage));
    assert_eq!(last(TLS12, &[(HANDSHAKE, &UPDATE)]), unexpected(PeerFault::UnexpectedMessage));
    assert_eq!(last(TLS12, &[(20, &[1])]), unexpected(PeerFault::UnexpectedRecord));
    let huge = refused(Alert::DECODE_ERROR, PeerFault::Malformed);
    assert_eq!(last(TLS12, &[(HANDSHAKE, &[1, 255, 0, 0])]), huge);
    let hello = client_hello(9);
    let interleaved = unexpected(PeerFault::Interleaved);
    assert_eq!(last(TLS12, &[(HANDSHAKE, &hello[..5]), (APPLICATION_DATA, b"x")]), interleaved);
}

#[test]
fn tls12_has_no_key_update() {
    let (mut sealer, _) = ends(TLS12);
    assert_eq!(sealer.key_update(true, &mut [0; 64]), Err(SealError::Bounds));
    let left = sealer.records_left();
    assert_eq!(left, TLS12.records_max() - seal::RECORDS_RESERVED);
}

proptest! {
    #[test]
    fn a_client_hello_may_come_in_any_pieces(
        body in 0usize..400,
        cuts in prop::collection::vec(1usize..60, 1..12),
    ) {
        let hello = client_hello(body);
        let mut rest = &hello[..];
        let mut pieces = Vec::new();
        for cut in cuts {
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            if !head.is_empty() {
                pieces.push((HANDSHAKE, head));
            }
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push((HANDSHAKE, rest));
        }
        prop_assert_eq!(last(TLS12, &pieces), Ok(Opened::NoRenegotiation));
    }

    #[test]
    fn any_content_is_judged(
        tls13 in any::<bool>(),
        records in prop::collection::vec((20u8..25, prop::collection::vec(any::<u8>(), 0..12)), 1..20),
    ) {
        let suite = if tls13 { TLS13 } else { TLS12 };
        let (_, mut opener) = ends(suite);
        let mut client = Client::new(suite);
        for (kind, content) in records {
            let mut record = client.record(kind, &content);
            match opener.open(&mut record) {
                Ok(Opened::Data(data)) => prop_assert_eq!(&content[..], data),
                Ok(Opened::KeyUpdate { .. }) | Err(_) => break,
                Ok(_) => {}
            }
        }
    }
}
