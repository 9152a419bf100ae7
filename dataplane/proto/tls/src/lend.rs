//! What is lent: a record key, its IV, and a range of sequence numbers nobody else seals with.
//!
//! Never the traffic secret, so that no other epoch's key can be derived from it.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::record::{APPLICATION_DATA, HEADER_BYTES, PLAINTEXT_BYTES_MAX};
use crate::seal::SealError;
use crate::suite::{Suite, Version};

/// Key and IV of one direction and epoch.
#[derive(Clone, Default, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Secret {
    pub(crate) key: [u8; 32],
    pub(crate) iv: [u8; 12],
}

/// Seals records with one key, counting up through its sequence numbers.
pub(crate) struct RecordSealer {
    pub(crate) version: Version,
    pub(crate) suite: Suite,
    key: LessSafeKey,
    iv: Zeroizing<[u8; 12]>,
    pub(crate) next: u64,
    pub(crate) end: u64,
}

/// The AEAD key object; making one costs 150 to 210 ns.
pub(crate) fn aead(suite: Suite, secret: &Secret) -> LessSafeKey {
    let key = UnboundKey::new(suite.algorithm(), &secret.key[..suite.key_len()]);
    LessSafeKey::new(key.expect("a suite's key has its algorithm's length"))
}

/// The nonce of a sequence number (RFC 8446 section 5.3, RFC 7905 section 2; and, as rustls does, for GCM in
/// TLS 1.2, where any unique explicit part is allowed).
pub(crate) fn nonce(iv: &[u8; 12], sequence: u64) -> [u8; 12] {
    let mut nonce = *iv;
    for (byte, with) in nonce[4..].iter_mut().zip(sequence.to_be_bytes()) {
        *byte ^= with;
    }
    nonce
}

impl RecordSealer {
    pub(crate) fn new(version: Version, suite: Suite, secret: &Secret, next: u64, end: u64) -> RecordSealer {
        let iv = Zeroizing::new(secret.iv);
        RecordSealer { version, suite, key: aead(suite, secret), iv, next, end }
    }

    pub(crate) fn sealed_len(&self, plaintext: usize) -> usize {
        let inner_type = usize::from(self.version == Version::Tls13);
        HEADER_BYTES + self.suite.explicit_nonce_bytes(self.version) + plaintext + inner_type + 16
    }

    pub(crate) fn seal(&mut self, kind: u8, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        let total = self.sealed_len(plaintext.len());
        if plaintext.len() > PLAINTEXT_BYTES_MAX || out.len() < total {
            return Err(SealError::Bounds);
        }
        if self.next >= self.end {
            return Err(SealError::Exhausted);
        }
        let sequence = self.next;
        self.next += 1;
        let nonce = nonce(&self.iv, sequence);
        let len = ((total - HEADER_BYTES) as u16).to_be_bytes();
        let (header, body) = out[..total].split_at_mut(HEADER_BYTES);
        let sealed = match self.version {
            Version::Tls13 => {
                header.copy_from_slice(&[APPLICATION_DATA, 3, 3, len[0], len[1]]);
                let (into, tail) = body.split_at_mut(plaintext.len());
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.key.seal_out_of_place_scatter(nonce, Aad::from(&*header), plaintext, into, &[kind], tail)
            }
            Version::Tls12 => {
                header.copy_from_slice(&[kind, 3, 3, len[0], len[1]]);
                let (explicit, body) = body.split_at_mut(self.suite.explicit_nonce_bytes(self.version));
                explicit.copy_from_slice(&nonce[12 - explicit.len()..]);
                let (into, tail) = body.split_at_mut(plaintext.len());
                let aad = Aad::from(aad12(sequence, kind, plaintext.len()));
                let nonce = Nonce::assume_unique_for_key(nonce);
                self.key.seal_out_of_place_scatter(nonce, aad, plaintext, into, &[], tail)
            }
        };
        sealed.map(|()| total).map_err(|_| SealError::Bounds)
    }
}

/// Additional data of a TLS 1.2 record (RFC 5246 section 6.2.3.3).
pub(crate) fn aad12(sequence: u64, kind: u8, len: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&sequence.to_be_bytes());
    aad[8..11].copy_from_slice(&[kind, 3, 3]);
    aad[11..].copy_from_slice(&(len as u16).to_be_bytes());
    aad
}

/// A lent record key. Has no `Debug`; zeroized on drop.
pub struct RecordKey {
    pub(crate) version: Version,
    pub(crate) suite: Suite,
    pub(crate) secret: Secret,
    pub(crate) first: u64,
    pub(crate) records: u64,
}

impl RecordKey {
    /// Bytes of the wire form: version, suite, first sequence number, count, key, IV; little-endian.
    pub const WIRE_BYTES: usize = 2 + 8 + 8 + 32 + 12;

    /// Writes the wire form, which the caller seals and wipes. Returns its length.
    ///
    /// # Panics
    /// If `out` is shorter than [`WIRE_BYTES`](RecordKey::WIRE_BYTES): a mistake of ours.
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let out = &mut out[..RecordKey::WIRE_BYTES];
        out[0] = if self.version == Version::Tls13 { 13 } else { 12 };
        out[1] = self.suite as u8;
        out[2..10].copy_from_slice(&self.first.to_le_bytes());
        out[10..18].copy_from_slice(&self.records.to_le_bytes());
        out[18..50].copy_from_slice(&self.secret.key);
        out[50..62].copy_from_slice(&self.secret.iv);
        RecordKey::WIRE_BYTES
    }

    /// Reads the wire form; `None` if it is not one.
    pub fn decode(bytes: &[u8]) -> Option<RecordKey> {
        let bytes: &[u8; RecordKey::WIRE_BYTES] = bytes.try_into().ok()?;
        let version = match bytes[0] {
            12 => Version::Tls12,
            13 => Version::Tls13,
            _ => return None,
        };
        let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let (first, records) = (number(2)?, number(10)?);
        first.checked_add(records)?;
        let mut secret = Secret::default();
        secret.key.copy_from_slice(&bytes[18..50]);
        secret.iv.copy_from_slice(&bytes[50..62]);
        Some(RecordKey { version, suite: Suite::of(bytes[1])?, secret, first, records })
    }
}

/// Seals application data with a lent key, within its range.
pub struct LentSealer {
    sealer: RecordSealer,
    first: u64,
}

impl LentSealer {
    /// Takes a lent key into use; its bytes are wiped.
    pub fn new(key: RecordKey) -> LentSealer {
        let end = key.first.saturating_add(key.records);
        let sealer = RecordSealer::new(key.version, key.suite, &key.secret, key.first, end);
        LentSealer { sealer, first: key.first }
    }

    /// Seals one record straight into `out`. Returns its length.
    ///
    /// # Errors
    /// [`SealError::Exhausted`] beyond the range, [`SealError::Bounds`] if `out` is too short.
    pub fn seal_data(&mut self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        self.sealer.seal(APPLICATION_DATA, plaintext, out)
    }

    /// Length of a record with this much plaintext.
    pub fn sealed_len(&self, plaintext: usize) -> usize {
        self.sealer.sealed_len(plaintext)
    }

    /// Records sealed so far.
    pub fn used(&self) -> u64 {
        self.sealer.next - self.first
    }
}
