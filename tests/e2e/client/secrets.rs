//! The secrets of a TLS connection, from its client's key log: to look for them where they must not be.

use std::path::Path;

use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::sign::Signer;

/// A secret, by name.
#[derive(Clone)]
pub struct Secret {
    /// Whose it is, and what.
    pub name: String,
    /// Itself.
    pub bytes: Vec<u8>,
}

/// Hash and key length of a suite.
fn parameters(suite: &str) -> (MessageDigest, usize) {
    let hash = if suite.ends_with("SHA384") { MessageDigest::sha384() } else { MessageDigest::sha256() };
    let aes128 = suite.contains("AES_128") || suite.contains("AES128");
    (hash, if aes128 { 16 } else { 32 })
}

fn hmac(hash: MessageDigest, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let key = PKey::hmac(key).expect("any bytes are an HMAC key");
    let mut signer = Signer::new(hash, &key).expect("OpenSSL has the hash");
    for part in parts {
        signer.update(part).expect("memory can be hashed");
    }
    signer.sign_to_vec().expect("memory can be hashed")
}

/// HKDF-Expand-Label of at most one hash's length, with an empty context (RFC 8446 7.1).
fn expand_label(hash: MessageDigest, secret: &[u8], label: &str, len: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let mut info = (len as u16).to_be_bytes().to_vec();
    info.push(label.len() as u8);
    info.extend(label.bytes());
    info.push(0);
    let mut out = hmac(hash, secret, &[&info, &[1]]);
    out.truncate(len);
    out
}

/// The pseudorandom function of TLS 1.2 (RFC 5246 5).
fn prf(hash: MessageDigest, secret: &[u8], seed: &[u8], len: usize) -> Vec<u8> {
    let mut chain = hmac(hash, secret, &[seed]);
    let mut out = Vec::new();
    while out.len() < len {
        out.extend(hmac(hash, secret, &[&chain, seed]));
        chain = hmac(hash, secret, &[&chain]);
    }
    out.truncate(len);
    out
}

/// The secrets that a key log names.
pub fn of_log(suite: &str, log: &[String]) -> Vec<Secret> {
    log.iter()
        .filter_map(|line| {
            let mut words = line.split(' ');
            let (label, _, secret) = (words.next()?, words.next()?, words.next()?);
            Some(Secret { name: format!("{suite} {label}"), bytes: from_hex(secret) })
        })
        .collect()
}

/// The number that is the private key of a PEM file, in both orders of bytes.
pub fn of_key_file(file: &Path) -> Vec<Secret> {
    let pem = std::fs::read(file).expect("the test's file");
    let key = PKey::private_key_from_pem(&pem).and_then(|key| key.ec_key()).expect("an ECDSA key");
    let big = key.private_key().to_vec();
    let little = big.iter().rev().copied().collect();
    let named = |bytes| Secret { name: "the certificate's key".to_owned(), bytes };
    vec![named(big), named(little)]
}

/// The server's write key and IV, and the round keys that AES expands the key to.
pub fn server_write(suite: &str, log: &[String], randoms: &[[u8; 32]; 2]) -> Vec<Secret> {
    let (hash, key_len) = parameters(suite);
    let secret = |label: &str| {
        let line = log.iter().find(|line| line.starts_with(label)).expect("the client logged it");
        from_hex(line.rsplit(' ').next().expect("a line has words"))
    };
    let (key, iv) = if suite.starts_with("TLS_") {
        let secret = secret("SERVER_TRAFFIC_SECRET_0");
        (expand_label(hash, &secret, "key", key_len), expand_label(hash, &secret, "iv", 12))
    } else {
        let [client, server] = randoms;
        let seed = [b"key expansion", &server[..], &client[..]].concat();
        // ChaCha20-Poly1305 has twelve bytes of IV (RFC 7905); the four of AES-GCM are too few to be looked for.
        let iv_len = if suite.contains("CHACHA20") { 12 } else { 4 };
        let block = prf(hash, &secret("CLIENT_RANDOM"), &seed, 2 * (key_len + iv_len));
        (block[key_len..2 * key_len].to_vec(), block[2 * key_len + iv_len..].to_vec())
    };
    let named = |what: &str, bytes| Secret { name: format!("{suite} {what}"), bytes };
    let mut all = vec![named("IV", iv)];
    if !suite.contains("CHACHA20") {
        all.push(named("round keys", round_keys(&key)));
    }
    all.push(named("key", key));
    all
}

pub fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.bytes().map(|digit| (digit as char).to_digit(16).expect("hex") as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The round keys behind the key itself (FIPS 197 5.2).
fn round_keys(key: &[u8]) -> Vec<u8> {
    let words = key.len() / 4;
    let rounds = words + 6;
    let mut all: Vec<[u8; 4]> =
        key.chunks_exact(4).map(|word| word.try_into().expect("four bytes")).collect();
    let mut constant = 1;
    for index in words..4 * (rounds + 1) {
        let mut word = all[index - 1];
        if index % words == 0 {
            word.rotate_left(1);
            word = word.map(substitute);
            word[0] ^= constant;
            constant = double(constant);
        } else if words > 6 && index % words == 4 {
            word = word.map(substitute);
        }
        let before = all[index - words];
        all.push(std::array::from_fn(|byte| word[byte] ^ before[byte]));
    }
    all.concat().split_off(key.len())
}

fn double(byte: u8) -> u8 {
    byte << 1 ^ if byte & 0x80 != 0 { 0x1b } else { 0 }
}

fn multiply(a: u8, b: u8) -> u8 {
    let (mut product, mut a) = (0, a);
    for bit in 0..8 {
        if b >> bit & 1 != 0 {
            product ^= a;
        }
        a = double(a);
    }
    product
}

/// AES's S-box: the inverse in GF(2^8), then an affine map (FIPS 197 5.1.1).
fn substitute(byte: u8) -> u8 {
    let inverse = (1..=255).find(|other| multiply(byte, *other) == 1).unwrap_or(0);
    (1..5).fold(inverse ^ 0x63, |sum, turn| sum ^ inverse.rotate_left(turn))
}

#[test]
fn aes_expands_as_in_fips_197() {
    let key = from_hex("2b7e151628aed2a6abf7158809cf4f3c");
    let keys = round_keys(&key);
    assert_eq!(keys[..4], from_hex("a0fafe17")[..]);
    assert_eq!(keys[keys.len() - 4..], from_hex("b6630ca6")[..]);
}
