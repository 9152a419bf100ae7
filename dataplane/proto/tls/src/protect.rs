//! The record protection of both versions: one AEAD key, and the nonce, additional data and layout around it.
//!
//! In: a sequence number and plaintext, or a whole record. Out: a whole record, or its plaintext in place. Holds no
//! sequence number of its own: [`Sealer`](crate::Sealer), [`LentSealer`](crate::LentSealer) and
//! [`Opener`](crate::Opener) count.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use zeroize::Zeroize;

use crate::keys::{IV_BYTES, TrafficKey, context};
use crate::record::{
    APPLICATION_DATA, EXPLICIT_NONCE_BYTES, HEADER_BYTES, PLAINTEXT_BYTES_MAX, TAG_BYTES, VERSION,
};
use crate::suite::{Suite, Version};

/// Bytes of the inner content type of TLS 1.3.
const TYPE_BYTES: usize = 1;

/// Additional data of TLS 1.2: sequence number, type, version, plaintext length (RFC 5246 6.2.3.3).
const AAD12_BYTES: usize = 13;

/// Why a record was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadRecord;

/// One direction's key in one epoch. aws-lc erases its copy of the key when it is freed.
pub(crate) struct Protector {
    key: LessSafeKey,
    iv: [u8; IV_BYTES],
    suite: Suite,
}

impl Drop for Protector {
    fn drop(&mut self) {
        self.iv.zeroize();
    }
}

impl Protector {
    pub(crate) fn new(key: &TrafficKey) -> Protector {
        Protector::of(key.suite, key.key(), &key.iv)
    }

    pub(crate) fn of(suite: Suite, key: &[u8], iv: &[u8; IV_BYTES]) -> Protector {
        Protector { key: context(suite, key), iv: *iv, suite }
    }

    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    /// What it is made of.
    pub(crate) fn parts(&self) -> Protection<'_> {
        Protection { key: &self.key, iv: &self.iv, suite: self.suite }
    }

    /// Bytes of a sealed record of `plaintext` bytes.
    pub(crate) const fn sealed_len(suite: Suite, plaintext: usize) -> usize {
        let inside = match suite.version() {
            Version::Tls12 => suite.explicit_nonce_bytes(),
            Version::Tls13 => TYPE_BYTES,
        };
        HEADER_BYTES + inside + plaintext + TAG_BYTES
    }

    /// As [`Protection::seal`].
    pub(crate) fn seal(&self, seq: u64, kind: u8, plaintext: &[u8], out: &mut [u8]) -> Option<usize> {
        self.parts().seal(seq, kind, plaintext, out)
    }

    /// As [`Protection::seal_any`].
    pub(crate) fn seal_any(&self, seq: u64, kind: u8, plaintext: &[u8], out: &mut [u8]) -> Option<usize> {
        self.parts().seal_any(seq, kind, plaintext, out)
    }
}

/// One direction's key in one epoch, its parts kept wherever they are.
#[derive(Clone, Copy)]
pub(crate) struct Protection<'a> {
    pub(crate) key: &'a LessSafeKey,
    pub(crate) iv: &'a [u8; IV_BYTES],
    pub(crate) suite: Suite,
}

impl Protection<'_> {
    /// IV XOR sequence number (RFC 8446 5.3, RFC 7905 2). TLS 1.2 AES-GCM lets the sender choose the explicit part
    /// (RFC 5288 3): the same rule makes it unique there too.
    fn nonce(&self, seq: u64) -> [u8; IV_BYTES] {
        let mut nonce = *self.iv;
        for (byte, seq) in nonce[IV_BYTES - 8..].iter_mut().zip(seq.to_be_bytes()) {
            *byte ^= seq;
        }
        nonce
    }

    /// Seals one record into the start of `out`, whose length the caller has checked. Returns the record's length.
    pub(crate) fn seal(self, seq: u64, kind: u8, plaintext: &[u8], out: &mut [u8]) -> Option<usize> {
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return None;
        }
        self.seal_any(seq, kind, plaintext, out)
    }

    /// As [`seal`](Protection::seal), of any length that a header can tell.
    pub(crate) fn seal_any(self, seq: u64, kind: u8, plaintext: &[u8], out: &mut [u8]) -> Option<usize> {
        let len = Protector::sealed_len(self.suite, plaintext.len());
        let out = out.get_mut(..len)?;
        let (header, body) = out.split_first_chunk_mut::<HEADER_BYTES>()?;
        let body_len = u16::try_from(len - HEADER_BYTES).ok()?;
        let outer = if self.suite.version() == Version::Tls13 { APPLICATION_DATA } else { kind };
        let [high, low] = body_len.to_be_bytes();
        *header = [outer, VERSION[0], VERSION[1], high, low];
        let nonce = self.nonce(seq);
        let sealed = match self.suite.version() {
            Version::Tls13 => {
                let (ciphertext, tail) = body.split_at_mut(plaintext.len());
                self.key.seal_out_of_place_scatter(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(&*header),
                    plaintext,
                    ciphertext,
                    &[kind],
                    tail,
                )
            }
            Version::Tls12 => {
                let (explicit, body) = body.split_at_mut(self.suite.explicit_nonce_bytes());
                explicit.copy_from_slice(&nonce[IV_BYTES - explicit.len()..]);
                let (ciphertext, tag) = body.split_at_mut(plaintext.len());
                self.key.seal_out_of_place_scatter(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(additional_data12(seq, kind, plaintext.len())),
                    plaintext,
                    ciphertext,
                    &[],
                    tag,
                )
            }
        };
        sealed.ok().map(|()| len)
    }

    /// Opens one whole record in place. Returns its plaintext; in TLS 1.3 with content type and padding behind it.
    pub(crate) fn open(self, seq: u64, record: &mut [u8]) -> Result<&mut [u8], BadRecord> {
        let (header, body) = record.split_first_chunk_mut::<HEADER_BYTES>().ok_or(BadRecord)?;
        let mut nonce = self.nonce(seq);
        let opened = match self.suite.version() {
            Version::Tls13 => {
                self.key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(&*header), body)
            }
            Version::Tls12 => {
                let explicit = self.suite.explicit_nonce_bytes();
                if explicit == EXPLICIT_NONCE_BYTES {
                    // The sender chose it: only the salt is ours (RFC 5288 3).
                    nonce[IV_BYTES - EXPLICIT_NONCE_BYTES..]
                        .copy_from_slice(body.first_chunk::<EXPLICIT_NONCE_BYTES>().ok_or(BadRecord)?);
                    nonce[..IV_BYTES - EXPLICIT_NONCE_BYTES]
                        .copy_from_slice(&self.iv[..IV_BYTES - EXPLICIT_NONCE_BYTES]);
                }
                let plaintext = body.len().checked_sub(explicit + TAG_BYTES).ok_or(BadRecord)?;
                if plaintext > usize::from(u16::MAX) {
                    return Err(BadRecord);
                }
                let aad = additional_data12(seq, header[0], plaintext);
                self.key.open_in_place(
                    Nonce::assume_unique_for_key(nonce),
                    Aad::from(aad),
                    &mut body[explicit..],
                )
            }
        };
        opened.map_err(|_| BadRecord)
    }
}

fn additional_data12(seq: u64, kind: u8, plaintext: usize) -> [u8; AAD12_BYTES] {
    let mut aad = [0; AAD12_BYTES];
    aad[..8].copy_from_slice(&seq.to_be_bytes());
    aad[8] = kind;
    aad[9..11].copy_from_slice(&VERSION);
    aad[11..].copy_from_slice(&(plaintext as u16).to_be_bytes());
    aad
}
