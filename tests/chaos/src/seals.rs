//! The invariant of the lease: no (key, sequence number) ever seals two different plaintexts.
//!
//! In: what was read off the wires and off the fabric, and the clients' secrets. Records on a wire have the sequence
//! number of their place. A record that a helper wrote and no client was sent (its lease broke) has any: it is tried
//! under each key with each number. Nothing of the product's own state is looked at, and none of its record layer is
//! used.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, KeyType, Prk};
use aws_lc_rs::hmac;

use crate::client::Secret;
use crate::streams::Stream;

/// Bytes of a record's header.
const HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
const CHANGE_CIPHER_SPEC: u8 = 20;
const APPLICATION_DATA: u8 = 23;
const SERVER_HELLO: u8 = 2;

/// Numbers behind the last one seen on the wire that a lost record may have.
const NUMBERS_BEYOND: u64 = 64;

/// Keys in a row that one connection may have had.
const EPOCHS_MAX: usize = 16;

/// One connection: what it was sent, and its secrets.
pub struct Sealed<'a> {
    /// TLS 1.2.
    pub tls12: bool,
    /// Which cipher suite, as in the plan.
    pub suite: usize,
    /// What the node sent.
    pub stream: &'a Stream,
    /// The client's secrets for it.
    pub secrets: &'a [Secret],
}

struct Key {
    key: LessSafeKey,
    iv: [u8; 12],
    tls12: bool,
    chacha: bool,
}

/// A connection's write keys, and the records under each.
struct Epochs<'a> {
    keys: Vec<Key>,
    /// By epoch and number.
    records: BTreeMap<(usize, u64), &'a [u8]>,
}

/// Finds a key and number used twice. What a forger `spoiled` on the fabric cannot be opened; nothing follows from it.
///
/// # Errors
/// Which.
pub fn check(connections: &[Sealed<'_>], written: &[Vec<u8>], spoiled: bool) -> Result<(), String> {
    let mut epochs = Vec::new();
    let mut sent = HashSet::new();
    for connection in connections {
        let (found, whole) = epochs_of(connection);
        if let (Err(what), false) = (whole, spoiled) {
            return Err(what);
        }
        let Some(found) = found else { continue };
        sent.extend(found.records.values().copied());
        epochs.push(found);
    }
    // Orphans: written by a helper and never sent.
    let orphans: BTreeSet<&[u8]> =
        written.iter().map(Vec::as_slice).filter(|record| !sent.contains(record)).collect();
    let mut claimed: BTreeMap<(usize, usize, u64), &[u8]> = BTreeMap::new();
    for orphan in orphans {
        for (number, connection) in epochs.iter().enumerate() {
            let Some((epoch, sequence)) = connection.find(orphan) else { continue };
            if connection.records.contains_key(&(epoch, sequence)) {
                return Err(format!(
                    "key {epoch} of connection {number} sealed two records {sequence}: one was sent"
                ));
            }
            if claimed.insert((number, epoch, sequence), orphan).is_some() {
                return Err(format!(
                    "key {epoch} of connection {number} sealed two records {sequence}: none was sent"
                ));
            }
        }
    }
    Ok(())
}

/// The whole records at the start of some bytes, and what is left.
fn records(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some(header) = bytes.get(..HEADER) {
        let len = HEADER + usize::from(u16::from_be_bytes([header[3], header[4]]));
        let Some(record) = bytes.get(..len) else { break };
        all.push(record);
        bytes = &bytes[len..];
    }
    all
}

/// Opens everything a connection was sent, in order: a record that does not open was sealed under a wrong number.
fn epochs_of<'a>(connection: &Sealed<'a>) -> (Option<Epochs<'a>>, Result<(), String>) {
    let records = records(&connection.stream.bytes);
    let Some(random) = server_random(&records) else { return (None, Ok(())) };
    let mut found = Epochs { keys: Vec::new(), records: BTreeMap::new() };
    let whole = if connection.tls12 {
        tls12_records(connection, &records, random, &mut found)
    } else {
        tls13_records(connection, &records, &mut found)
    };
    (Some(found), whole)
}

fn tls12_records<'a>(
    connection: &Sealed<'a>,
    records: &[&'a [u8]],
    random: &[u8],
    found: &mut Epochs<'a>,
) -> Result<(), String> {
    let Some(secret) = secret(connection, "CLIENT_RANDOM") else { return Ok(()) };
    let key = tls12_key(connection.suite, secret, random);
    let protected = records.iter().skip_while(|record| record[0] != CHANGE_CIPHER_SPEC).skip(1);
    let opened = (0..).zip(protected).try_for_each(|(number, record)| {
        key.open(number, record).ok_or_else(|| format!("record {number} does not open (TLS 1.2)"))?;
        found.records.insert((0, number), record);
        Ok(())
    });
    found.keys.push(key);
    opened
}

fn tls13_records<'a>(
    connection: &Sealed<'a>,
    records: &[&'a [u8]],
    found: &mut Epochs<'a>,
) -> Result<(), String> {
    let handshake = secret(connection, "SERVER_HANDSHAKE_TRAFFIC_SECRET");
    let traffic = secret(connection, "SERVER_TRAFFIC_SECRET_0");
    let (Some(handshake), Some(traffic)) = (handshake, traffic) else { return Ok(()) };
    let handshake = tls13_key(connection.suite, &handshake.2);
    let mut traffic = traffic.2.clone();
    found.keys.push(tls13_key(connection.suite, &traffic));
    let (mut under_handshake, mut number) = (0, 0);
    let mut in_handshake = true;
    for record in records.iter().filter(|record| record[0] == APPLICATION_DATA) {
        if in_handshake && handshake.open(under_handshake, record).is_some() {
            under_handshake += 1;
            continue;
        }
        in_handshake = false;
        let epoch = found.keys.len() - 1;
        let plain = found.keys[epoch].open(number, record);
        let plain = plain.ok_or_else(|| format!("record {number} under key {epoch} does not open"))?;
        found.records.insert((epoch, number), record);
        number += 1;
        if is_key_update(&plain) && found.keys.len() < EPOCHS_MAX {
            traffic = expand_label(connection.suite, &traffic, b"traffic upd", traffic.len());
            found.keys.push(tls13_key(connection.suite, &traffic));
            number = 0;
        }
    }
    Ok(())
}

fn secret<'a>(connection: &Sealed<'a>, label: &str) -> Option<&'a Secret> {
    connection.secrets.iter().find(|secret| secret.0 == label)
}

fn server_random<'a>(records: &[&'a [u8]]) -> Option<&'a [u8]> {
    let hello =
        records.first().filter(|record| record[0] == HANDSHAKE && record.get(5) == Some(&SERVER_HELLO))?;
    hello.get(11..43)
}

/// A TLS 1.3 inner plaintext that is a KeyUpdate (RFC 8446 4.6.3).
fn is_key_update(plain: &[u8]) -> bool {
    let end = plain.iter().rposition(|byte| *byte != 0).unwrap_or(0);
    plain[end] == HANDSHAKE && plain.first() == Some(&24)
}

impl Epochs<'_> {
    fn find(&self, record: &[u8]) -> Option<(usize, u64)> {
        for (epoch, key) in self.keys.iter().enumerate() {
            let last =
                self.records.range((epoch, 0)..(epoch + 1, 0)).next_back().map_or(0, |((_, last), _)| *last);
            let found = (0..=last + NUMBERS_BEYOND).find(|number| key.open(*number, record).is_some());
            if let Some(number) = found {
                return Some((epoch, number));
            }
        }
        None
    }
}

impl Key {
    /// The plaintext, if this number sealed it.
    fn open(&self, number: u64, record: &[u8]) -> Option<Vec<u8>> {
        let body = record.get(HEADER..)?;
        let mut nonce = self.iv;
        for (byte, part) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= part;
        }
        let (sealed, aad) = if self.tls12 {
            // The record carries the rest of the nonce (RFC 5288 3); the number is in the additional data alone.
            let explicit = if self.chacha { 0 } else { 8 };
            if explicit > 0 {
                nonce[4..].copy_from_slice(body.get(..8)?);
            }
            let sealed = body.get(explicit..)?;
            let len = sealed.len().checked_sub(16)? as u16;
            let mut aad = number.to_be_bytes().to_vec();
            aad.extend(&record[..3]);
            aad.extend(len.to_be_bytes());
            (sealed, aad)
        } else {
            (body, record[..HEADER].to_vec())
        };
        let mut bytes = sealed.to_vec();
        let plain =
            self.key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut bytes).ok()?;
        Some(plain.to_vec())
    }
}

fn algorithm(suite: usize) -> &'static aead::Algorithm {
    [&aead::AES_128_GCM, &aead::AES_256_GCM, &aead::CHACHA20_POLY1305][suite]
}

fn make(suite: usize, key: &[u8], iv: [u8; 12], tls12: bool) -> Key {
    let key = LessSafeKey::new(UnboundKey::new(algorithm(suite), key).expect("a key of the suite's length"));
    Key { key, iv, tls12, chacha: suite == 2 }
}

struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446 7.1).
fn expand_label(suite: usize, secret: &[u8], label: &[u8], len: usize) -> Vec<u8> {
    let hash = if suite == 1 { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 };
    let info = [&(len as u16).to_be_bytes()[..], &[6 + label.len() as u8], b"tls13 ", label, &[0]];
    let mut out = vec![0; len];
    Prk::new_less_safe(hash, secret)
        .expand(&info, Len(len))
        .and_then(|okm| okm.fill(&mut out))
        .expect("a length within HKDF's range");
    out
}

fn tls13_key(suite: usize, secret: &[u8]) -> Key {
    let key = expand_label(suite, secret, b"key", algorithm(suite).key_len());
    let iv = expand_label(suite, secret, b"iv", 12);
    make(suite, &key, iv.try_into().expect("12 bytes were asked for"), false)
}

/// The server's write key of TLS 1.2 (RFC 5246 6.3, RFC 5288, RFC 7905).
fn tls12_key(suite: usize, (_, client, master): &Secret, server: &[u8]) -> Key {
    let key_len = algorithm(suite).key_len();
    let iv_len = if suite == 2 { 12 } else { 4 };
    let block = prf(suite, master, &[b"key expansion", server, &client[..]].concat(), 2 * (key_len + iv_len));
    let mut iv = [0; 12];
    iv[..iv_len].copy_from_slice(&block[2 * key_len + iv_len..]);
    make(suite, &block[key_len..2 * key_len], iv, true)
}

/// The pseudorandom function of TLS 1.2 (RFC 5246 5).
fn prf(suite: usize, secret: &[u8], seed: &[u8], len: usize) -> Vec<u8> {
    let hash = if suite == 1 { hmac::HMAC_SHA384 } else { hmac::HMAC_SHA256 };
    let key = hmac::Key::new(hash, secret);
    let mut chain = hmac::sign(&key, seed);
    let mut out = Vec::new();
    while out.len() < len {
        out.extend(hmac::sign(&key, &[chain.as_ref(), seed].concat()).as_ref());
        chain = hmac::sign(&key, chain.as_ref());
    }
    out.truncate(len);
    out
}
