//! Sessions that go on, read off the wires: over a whole cluster a PSK that nodes keep goes on once, and no client
//! waits for longer than a session may take to come.
//!
//! In: ClientHellos, with the PSKs they offer, and the ServerHellos that answer them, which say which was taken
//! (RFC 8446 4.2.11). Neither the product's own state nor its parsers are looked at.

use std::collections::BTreeMap;

use crate::streams::{Hello, Streams};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const PRE_SHARED_KEY: u16 = 41;

/// Bytes of a PSK's name that nodes keep. Tickets, which clients keep and may use again, are longer.
const KEPT_BYTES: usize = 32;

/// Finds a PSK that went on twice. Answers how many were offered again, by whomever.
///
/// # Errors
/// Which, and where.
pub fn used_once(streams: &Streams) -> Result<u64, String> {
    let mut offers: BTreeMap<&[u8], u64> = BTreeMap::new();
    for hello in streams.hellos.values() {
        if let Some(psk) = offered(&hello.bytes, 0).filter(|psk| psk.len() == KEPT_BYTES) {
            *offers.entry(psk).or_default() += 1;
        }
    }
    let mut used: BTreeMap<&[u8], (usize, u16)> = BTreeMap::new();
    for (end, answers) in &streams.all {
        let Some(hello) = streams.hellos.get(end) else { continue };
        for answer in answers {
            let Some(psk) = taken(&hello.bytes, &answer.bytes).filter(|psk| psk.len() == KEPT_BYTES) else {
                continue;
            };
            if let Some((node, port)) = used.insert(psk, *end) {
                return Err(format!(
                    "a PSK went on twice (RFC 8446 C.4): at node {node}, port {port}, and at node {}, port {}",
                    end.0, end.1
                ));
            }
        }
    }
    Ok(offers.values().filter(|times| **times > 1).count() as u64)
}

/// Finds a client that was kept waiting for longer than `limit_ns` once the node had its ClientHello.
///
/// # Errors
/// For how long.
pub fn answered_within(hello: &Hello, limit_ns: u64) -> Result<(), String> {
    match (hello.taken_ns, hello.answered_ns) {
        (None, _) => Ok(()),
        (Some(_), None) => Err("a handshake waits for ever".to_owned()),
        (Some(taken), Some(answered)) if answered.saturating_sub(taken) > limit_ns => {
            Err(format!("a handshake waited for {} us", (answered - taken) / 1_000))
        }
        (Some(_), Some(_)) => Ok(()),
    }
}

/// The PSK of a ClientHello that its ServerHello takes.
fn taken<'a>(hello: &'a [u8], answer: &[u8]) -> Option<&'a [u8]> {
    let mut selected = Reader(extension(body(answer, SERVER_HELLO)?, false)?);
    offered(hello, selected.number(2)?)
}

/// The PSK at this place among those a ClientHello offers.
fn offered(hello: &[u8], place: usize) -> Option<&[u8]> {
    let mut offered = Reader(extension(body(hello, CLIENT_HELLO)?, true)?);
    let mut identities = Reader(offered.vector(2)?);
    for _ in 0..place {
        identities.vector(2)?;
        // Obfuscated age of the ticket.
        identities.take(4)?;
    }
    identities.vector(2)
}

/// The body of the handshake message of this type that a stream begins with, in one record.
fn body(stream: &[u8], kind: u8) -> Option<&[u8]> {
    let mut stream = Reader(stream);
    let is_handshake = stream.number(1)? == usize::from(HANDSHAKE);
    stream.take(2)?;
    let mut record = Reader(stream.vector(2)?);
    let is_kind = record.number(1)? == usize::from(kind);
    (is_handshake && is_kind).then(|| record.vector(3))?
}

/// The body of the pre_shared_key extension of a hello.
fn extension(hello: &[u8], of_client: bool) -> Option<&[u8]> {
    let mut hello = Reader(hello);
    hello.take(2 + 32)?;
    hello.vector(1)?;
    if of_client {
        hello.vector(2)?;
        hello.vector(1)?;
    } else {
        hello.take(2 + 1)?;
    }
    let mut extensions = Reader(hello.vector(2)?);
    loop {
        let kind = extensions.number(2)?;
        let body = extensions.vector(2)?;
        if kind == usize::from(PRE_SHARED_KEY) {
            return Some(body);
        }
    }
}

/// Reads from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        let taken = self.take(bytes)?;
        Some(taken.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// Bytes behind their number.
    fn vector(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let len = self.number(bytes)?;
        self.take(len)
    }
}
