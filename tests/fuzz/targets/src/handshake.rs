//! Whole handshakes with a rustls client whose records are changed, cut, dropped, doubled or joined by others on their
//! way; then a request, and a second connection that wants to resume.
//!
//! Input: a byte for version and name; then for each record of the client a byte that picks what becomes of it, with its
//! numbers. Once the input is used up records pass as they are.

use std::io::Write;
use std::sync::Arc;

use keyferry_tls::{Established, Failure, HEADER_BYTES, Handshake, Opened, Step, record_len};
use rustls::{ClientConfig, ClientConnection};

use crate::input::Input;
use crate::tls_parties::{client, rewind, server};
use crate::{Seed, Target};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: example.net\r\n\r\n";
/// Flights of a client at most: hello, hello again, finished, request.
const FLIGHTS_MAX: usize = 8;
const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;

pub(crate) static TARGET: Target = Target { name: "handshake", heap_bytes_max: 1 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    rewind();
    let mut input = Input::new(bytes);
    let choice = input.u8();
    let versions: &[&rustls::SupportedProtocolVersion] = match choice % 3 {
        0 => &[&rustls::version::TLS13],
        1 => &[&rustls::version::TLS12],
        _ => &[&rustls::version::TLS13, &rustls::version::TLS12],
    };
    let name = if choice & 0x80 == 0 { "example.net" } else { "other.example" };
    let config = Arc::new(client(versions));
    if connect(&config, name, &mut input) {
        connect(&config, name, &mut input);
    }
}

/// What is on the way from client to server.
struct Way<'i, 'b> {
    input: &'i mut Input<'b>,
    /// A record was changed, lost or added: nothing needs to work any more.
    tampered: bool,
    /// The client's records are protected from here on.
    protected: bool,
}

impl Way<'_, '_> {
    /// What becomes of one record.
    fn carry(&mut self, mut record: Vec<u8>, out: &mut Vec<Vec<u8>>) {
        let kind = record[0];
        let choice = if self.input.is_empty() { 0 } else { self.input.below(9) };
        self.tampered |= choice > 2;
        match choice {
            1 | 2 if kind == HANDSHAKE && !self.protected && record.len() > HEADER_BYTES => {
                let size = 1 + usize::from(self.input.u8());
                for piece in record[HEADER_BYTES..].chunks(size) {
                    let mut part = vec![kind, record[1], record[2], 0, piece.len() as u8];
                    part[3..5].copy_from_slice(&(piece.len() as u16).to_be_bytes());
                    part.extend_from_slice(piece);
                    out.push(part);
                }
            }
            0..=2 => out.push(record),
            3 | 4 => {
                let at = usize::from(self.input.u16()) % record.len();
                record[at] ^= self.input.u8().max(1);
                out.push(record);
            }
            5 => {}
            6 => out.extend([record.clone(), record]),
            7 => {
                let body = self.input.piece();
                let mut other = vec![20 + self.input.u8() % 4, 3, 3, 0, body.len() as u8];
                other.extend_from_slice(body);
                out.extend([other, record]);
            }
            _ => {
                let kept =
                    HEADER_BYTES + usize::from(self.input.u16()) % (record.len() - HEADER_BYTES).max(1);
                record.truncate(kept);
                let len = (kept - HEADER_BYTES) as u16;
                record[3..5].copy_from_slice(&len.to_be_bytes());
                out.push(record);
            }
        }
        self.protected |= kind == CHANGE_CIPHER_SPEC;
    }
}

/// The server's side of one connection.
enum Side {
    Shaking(Box<Handshake>),
    Open(Box<Established>),
    Over(Failure),
}

/// One connection. Answers whether it came to a request.
fn connect(config: &Arc<ClientConfig>, name: &'static str, input: &mut Input<'_>) -> bool {
    let name = name.try_into().expect("a name");
    let mut client = ClientConnection::new(Arc::clone(config), name).expect("a client");
    let mut way = Way { input, tampered: false, protected: false };
    let mut side = Side::Shaking(Box::new(Handshake::new(server())));
    let (mut asked, mut got) = (false, Vec::new());
    for _ in 0..FLIGHTS_MAX {
        if !client.is_handshaking() && !asked {
            client.writer().write_all(REQUEST).expect("memory takes everything");
            asked = true;
        }
        let mut flight = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut flight).expect("memory takes everything");
        }
        if flight.is_empty() {
            break;
        }
        let mut carried = Vec::new();
        for record in records(&flight) {
            way.carry(record, &mut carried);
        }
        let mut answer = Vec::new();
        for record in carried {
            side = take(side, record, &mut answer, &mut got, way.tampered);
        }
        let mut answer = &answer[..];
        while !answer.is_empty() {
            client.read_tls(&mut answer).expect("memory gives everything");
            let read = client.process_new_packets();
            assert!(read.is_ok() || way.tampered, "the client does not understand: {read:?}");
            if read.is_err() {
                return false;
            }
        }
    }
    assert!(way.tampered || got == REQUEST, "nothing was changed, and the request did not come");
    got == REQUEST
}

/// Gives the server one record.
fn take(side: Side, mut record: Vec<u8>, out: &mut Vec<u8>, got: &mut Vec<u8>, tampered: bool) -> Side {
    if record_len(&record) != Ok(Some(record.len())) {
        // The worker cuts records by their headers, and ends a connection that has a bad one.
        assert!(tampered);
    }
    match side {
        Side::Shaking(mut handshake) => {
            let before = out.len();
            let mut step = handshake.advance(&mut record, out);
            if let Step::Absent(_) = step {
                step = handshake.go_on(None, out);
            }
            match step {
                Step::Continue => Side::Shaking(handshake),
                Step::Absent(_) => panic!("sessions are looked for once"),
                Step::Done(mut established) => {
                    established.sessions.drain(..).for_each(|session| server().keep(session));
                    Side::Open(established)
                }
                Step::Failed(failure) => {
                    assert!(tampered, "{failure:?} though nothing was changed");
                    assert!(out.len() >= before);
                    Side::Over(failure)
                }
            }
        }
        Side::Open(mut established) => match established.opener.open(&mut record) {
            Ok(Opened::Data(data)) => {
                got.extend_from_slice(data);
                assert!(REQUEST.starts_with(got), "data that nobody sent");
                Side::Open(established)
            }
            Ok(_) => Side::Open(established),
            Err(failure) => {
                assert!(tampered, "{failure:?} though nothing was changed");
                Side::Over(failure)
            }
        },
        Side::Over(failure) => Side::Over(failure),
    }
}

fn records(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while let Ok(Some(len)) = record_len(bytes) {
        let (record, rest) = bytes.split_at(len);
        records.push(record.to_vec());
        bytes = rest;
    }
    assert!(bytes.is_empty(), "a client sends whole records");
    records
}

fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for version in 0..3u8 {
        let steps: [(&str, &[u8]); 8] = [
            ("clean", &[]),
            ("other-name", &[]),
            ("cut", &[1, 40, 0, 1, 10]),
            ("changed", &[0, 0, 3, 20, 0, 1]),
            ("changed-hello", &[3, 60, 0, 4]),
            ("dropped", &[0, 5]),
            ("doubled", &[0, 0, 6]),
            ("joined", &[0, 7, 2, 1, 90, 1]),
        ];
        for (name, steps) in steps {
            let choice = version | if name == "other-name" { 0x80 + 1 } else { 0 };
            seeds.push((format!("{name}-{version}"), [&[choice], steps].concat()));
        }
        seeds.push((format!("resumed-{version}"), vec![version, 0, 0, 0, 0, 0, 1, 90, 0, 0, 8, 9, 0]));
    }
    seeds
}
