//! The first flight of a client: any bytes to a server that waits for a ClientHello, in one record and in pieces.
//!
//! Input: a byte that says what the rest is: records as they come; a handshake message to be framed, as it is or with
//! its length made right; a byte for the cuts; then the bytes.

use keyferry_tls::{Failure, FailureReason, Handshake, PLAINTEXT_BYTES_MAX, Session, Step, record_len};
use rustls::ClientConnection;

use crate::input::{Input, cut};
use crate::tls_parties::{client, rewind, server};
use crate::{Seed, Target};

/// Most a server answers to whatever a client sent first: two flights, an alert.
const ANSWER_BYTES_MAX: usize = 16 << 10;
const HANDSHAKE: u8 = 22;

pub(crate) static TARGET: Target = Target { name: "client_hello", heap_bytes_max: 1 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let choice = input.u8();
    let seed = input.u8();
    let bytes = input.rest();
    match choice % 3 {
        0 => drop(converse(&records(bytes))),
        1 => drop(converse(&framed(cut(bytes, seed)))),
        _ => {
            // One whole message: how it is cut must not matter.
            let mut message = vec![1, 0, (bytes.len() >> 8) as u8, bytes.len() as u8];
            message.extend_from_slice(bytes);
            let whole = converse(&framed(message.chunks(PLAINTEXT_BYTES_MAX)));
            // Byte by byte each takes its own call of rustls, as far as there are few.
            let seed = if message.len() > 256 { seed | 1 } else { seed };
            assert_eq!(
                converse(&framed(cut(&message, seed))),
                whole,
                "cut differently it is another ClientHello"
            );
        }
    }
}

/// Records as they are in `bytes`; what is behind the last whole one never gets to a handshake.
fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Ok(Some(len)) = record_len(bytes) {
        let Some((record, rest)) = bytes.split_at_checked(len) else { break };
        records.push(record.to_vec());
        bytes = rest;
    }
    records
}

fn framed<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let frame = |piece: &[u8]| {
        let mut record = vec![HANDSHAKE, 3, 1, (piece.len() >> 8) as u8, piece.len() as u8];
        record.extend_from_slice(piece);
        record
    };
    pieces.map(frame).collect()
}

/// Gives a handshake record after record. Returns how it failed, if it did, and how many records it answered with.
fn converse(records: &[Vec<u8>]) -> (Option<Failure>, usize) {
    rewind();
    let mut handshake = Handshake::new(server());
    let mut out = Vec::new();
    let mut failed = None;
    for record in records {
        let before = out.len();
        let mut step = handshake.advance(&mut record.clone(), &mut out);
        if let Step::Absent(offered) = &step {
            assert_eq!(out.len(), before, "nothing is said while sessions are looked for");
            // The peer that has it may have anything.
            let found = offered.first().filter(|name| name[0] & 1 == 1);
            let found = found.and_then(|name| Session::new(*name, true, &name[1..]));
            step = handshake.go_on(found, &mut out);
        }
        assert!(out.len() <= ANSWER_BYTES_MAX, "{} bytes of answer", out.len());
        match (step, failed) {
            (Step::Continue, None) => {}
            (Step::Continue, Some(failure)) => panic!("it goes on after {failure:?}"),
            (Step::Absent(_), _) => panic!("sessions are looked for once"),
            (Step::Done(_), _) => panic!("nobody who does not know the secret ends a handshake"),
            (Step::Failed(failure), None) => {
                assert!(!matches!(failure.reason, FailureReason::Ours(_)), "{failure:?} is our fault");
                failed = Some(failure);
            }
            (Step::Failed(failure), Some(first)) => {
                assert_eq!((failure, out.len()), (first, before), "a failure is final, and told once");
            }
        }
    }
    let answered = self::records(&out);
    assert_eq!(answered.iter().map(Vec::len).sum::<usize>(), out.len(), "whole records go out");
    if let Some(failure) = failed
        && !matches!(failure.reason, FailureReason::PeerAlert(_))
    {
        assert!(matches!(answered.last().map(|record| record[0]), Some(21 | 23)), "the client is told why");
    }
    (failed, answered.len())
}

fn seeds() -> Vec<Seed> {
    let both = [&rustls::version::TLS13, &rustls::version::TLS12];
    let mut seeds = Vec::new();
    for (name, versions) in [("both", &both[..]), ("tls13", &both[..1]), ("tls12", &both[1..])] {
        rewind();
        let config = std::sync::Arc::new(client(versions));
        let name_of_server = "example.net".try_into().expect("a name");
        let mut connection = ClientConnection::new(config, name_of_server).expect("a client");
        let mut hello = Vec::new();
        connection.write_tls(&mut hello).expect("memory takes everything");
        seeds.push((format!("{name}-record"), [&[0, 0], &hello[..]].concat()));
        seeds.push((format!("{name}-message"), [&[1, 2], &hello[5..]].concat()));
        seeds.push((format!("{name}-body"), [&[2, 1], &hello[9..]].concat()));
        // Two records, with an alert and change_cipher_spec behind them.
        let behind: [u8; 13] = [21, 3, 3, 0, 2, 1, 90, 20, 3, 3, 0, 1, 1];
        seeds.push((format!("{name}-behind"), [&[0, 0], &hello[..], &behind].concat()));
    }
    seeds.push(("plain-http".into(), b"\x00\x00GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()));
    seeds.push(("alert".into(), vec![0, 0, 21, 3, 1, 0, 2, 2, 40]));
    seeds
}
