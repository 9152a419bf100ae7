//! TLS records after the handshake (RFC 8446 section 5, RFC 5246 section 6.2): one direction's key and sequence number.
//! Plaintext goes in and a sealed record comes out, or the other way round in place; nothing is allocated. Written
//! apart from the data plane's record layer, so that a fault of that one does not hide here. Owned by a connection.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::{ConnectionTrafficSecrets, ProtocolVersion};

/// Length of a record's header.
pub const HEADER_BYTES: usize = 5;
/// Longest record on the wire (RFC 5246 section 6.2.3; RFC 8446 section 5.2 allows less).
pub const RECORD_BYTES_MAX: usize = HEADER_BYTES + (1 << 14) + 2048;
/// Records sealed with one key (RFC 8446 section 5.5: 2^24.5 for AES-GCM).
pub const RECORDS_MAX: u64 = 1 << 24;

/// Most plaintext of one record.
const PLAIN_BYTES_MAX: usize = 1 << 14;
const TAG_BYTES: usize = 16;
/// The part of the nonce that TLS 1.2 sends with GCM (RFC 5288 section 3).
const EXPLICIT_BYTES: usize = 8;

/// What a record carries (RFC 8446 section 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Kind {
    Alert = 21,
    Handshake = 22,
    Data = 23,
}

impl Kind {
    fn new(byte: u8) -> Option<Kind> {
        [Kind::Alert, Kind::Handshake, Kind::Data].into_iter().find(|&kind| kind as u8 == byte)
    }
}

/// A record that is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// Longer than TLS allows.
    #[error("a TLS record is too long")]
    TooLong,
    /// Of a type that has no place here.
    #[error("a TLS record of type {0} where none belongs")]
    Kind(u8),
    /// It does not authenticate.
    #[error("a TLS record does not authenticate")]
    Tag,
    /// The cipher is not one of the AEAD suites.
    #[error("a cipher this client does not know")]
    Cipher,
}

/// How nonce, additional data and content type are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    Tls13,
    /// RFC 5288: eight bytes of the nonce are in the record.
    Tls12Gcm,
    /// RFC 7905: as in TLS 1.3.
    Tls12ChaCha,
}

/// One direction.
pub struct Half {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
    layout: Layout,
}

impl Half {
    /// Starts at `sequence` with what the handshake agreed on.
    ///
    /// # Errors
    /// A cipher that is none of TLS's three common ones.
    pub fn new(
        version: ProtocolVersion,
        (sequence, secrets): (u64, ConnectionTrafficSecrets),
    ) -> Result<Half, Broken> {
        let (algorithm, key, iv, is_gcm) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv, true),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv, true),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv, false),
            _ => return Err(Broken::Cipher),
        };
        let layout = match (version, is_gcm) {
            (ProtocolVersion::TLSv1_3, _) => Layout::Tls13,
            (_, true) => Layout::Tls12Gcm,
            (_, false) => Layout::Tls12ChaCha,
        };
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| Broken::Cipher)?;
        let iv = iv.as_ref().try_into().map_err(|_| Broken::Cipher)?;
        Ok(Half { key: LessSafeKey::new(key), iv, sequence, layout })
    }

    /// Records sealed or opened with this key, and those before it in TLS 1.2.
    pub fn records(&self) -> u64 {
        self.sequence
    }

    /// Appends `plain` to `out` as records.
    ///
    /// # Errors
    /// Never with an intact key; the cipher's own failure.
    pub fn seal(&mut self, kind: Kind, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        for part in plain.chunks(PLAIN_BYTES_MAX) {
            self.seal_one(kind, part, out)?;
        }
        Ok(())
    }

    fn seal_one(&mut self, kind: Kind, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        let nonce = self.nonce();
        let extra = match self.layout {
            Layout::Tls13 => 1,
            Layout::Tls12Gcm => EXPLICIT_BYTES,
            Layout::Tls12ChaCha => 0,
        };
        let length = (plain.len() + extra + TAG_BYTES) as u16;
        let outer = if self.layout == Layout::Tls13 { Kind::Data } else { kind };
        let [high, low] = length.to_be_bytes();
        let header = [outer as u8, 3, 3, high, low];
        out.extend_from_slice(&header);
        if self.layout == Layout::Tls12Gcm {
            out.extend_from_slice(&nonce[4..]);
        }
        let start = out.len();
        out.extend_from_slice(plain);
        if self.layout == Layout::Tls13 {
            out.push(kind as u8);
        }
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = match self.layout {
            Layout::Tls13 => self.key.seal_in_place_separate_tag(nonce, Aad::from(header), &mut out[start..]),
            _ => {
                let aad = Aad::from(self.additional(kind as u8, plain.len()));
                self.key.seal_in_place_separate_tag(nonce, aad, &mut out[start..])
            }
        };
        out.extend_from_slice(tag.map_err(|_| Broken::Tag)?.as_ref());
        self.sequence += 1;
        Ok(())
    }

    /// Opens one whole record in place, header included.
    ///
    /// # Errors
    /// A record that is forged, empty of meaning, or out of place.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(Kind, &'a [u8]), Broken> {
        let (header, body) = record.split_first_chunk_mut::<HEADER_BYTES>().ok_or(Broken::Tag)?;
        let header = *header;
        let mut nonce = self.nonce();
        let result = match self.layout {
            Layout::Tls13 if header[0] != Kind::Data as u8 => return Err(Broken::Kind(header[0])),
            Layout::Tls13 => {
                self.key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(header), body)
            }
            Layout::Tls12Gcm => {
                let (explicit, sealed) = body.split_first_chunk_mut::<EXPLICIT_BYTES>().ok_or(Broken::Tag)?;
                nonce[..4].copy_from_slice(&self.iv[..4]);
                nonce[4..].copy_from_slice(explicit);
                let plain = sealed.len().checked_sub(TAG_BYTES).ok_or(Broken::Tag)?;
                let aad = Aad::from(self.additional(header[0], plain));
                self.key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, sealed)
            }
            Layout::Tls12ChaCha => {
                let plain = body.len().checked_sub(TAG_BYTES).ok_or(Broken::Tag)?;
                let aad = Aad::from(self.additional(header[0], plain));
                self.key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, body)
            }
        };
        let plain: &[u8] = result.map_err(|_| Broken::Tag)?;
        self.sequence += 1;
        let (plain, kind) = match self.layout {
            Layout::Tls13 => {
                // The content type is the last byte that is not padding (RFC 8446 section 5.4).
                let last = plain.iter().rposition(|&byte| byte != 0).ok_or(Broken::Kind(0))?;
                (&plain[..last], plain[last])
            }
            _ => (plain, header[0]),
        };
        if plain.len() > PLAIN_BYTES_MAX {
            return Err(Broken::TooLong);
        }
        Ok((Kind::new(kind).ok_or(Broken::Kind(kind))?, plain))
    }

    /// The initialisation vector with the sequence number mixed in (RFC 8446 section 5.3). TLS 1.2 leaves the choice
    /// of GCM's explicit part to the sender; this one never repeats.
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = self.iv;
        for (byte, mix) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= mix;
        }
        nonce
    }

    /// TLS 1.2's additional data (RFC 5246 section 6.2.3.3).
    fn additional(&self, kind: u8, plain: usize) -> [u8; 13] {
        let mut data = [0; 13];
        data[..8].copy_from_slice(&self.sequence.to_be_bytes());
        data[8..11].copy_from_slice(&[kind, 3, 3]);
        data[11..].copy_from_slice(&(plain as u16).to_be_bytes());
        data
    }
}

/// The length of the record at the front of `bytes`, header included; `None` while that is not known or not all of it
/// is there.
///
/// # Errors
/// A length that no record may have.
pub fn whole(bytes: &[u8]) -> Result<Option<usize>, Broken> {
    let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let length = HEADER_BYTES + usize::from(u16::from_be_bytes([header[3], header[4]]));
    if length > RECORD_BYTES_MAX {
        return Err(Broken::TooLong);
    }
    Ok((bytes.len() >= length).then_some(length))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn secrets(cipher: usize) -> ConnectionTrafficSecrets {
        let (key, iv) = (AeadKey::from([7; 32]), Iv::copy(&[9; 12]));
        match cipher {
            0 => ConnectionTrafficSecrets::Aes256Gcm { key, iv },
            _ => ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv },
        }
    }

    #[test]
    fn keys_and_lengths_that_are_none_are_named() {
        // A key of twice the length.
        let (key, iv) = (AeadKey::from([7; 32]), Iv::copy(&[9; 12]));
        let secrets = ConnectionTrafficSecrets::Aes128Gcm { key, iv };
        let error = Half::new(ProtocolVersion::TLSv1_3, (0, secrets)).err().unwrap();
        assert_eq!(error.to_string(), "a cipher this client does not know");
        let error = whole(&[23, 3, 3, 0xff, 0xff]).unwrap_err();
        assert_eq!(error.to_string(), "a TLS record is too long");
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_a_flipped_bit_does_not(
            plain in prop::collection::vec(any::<u8>(), 1..40_000),
            cipher in 0_usize..2,
            is_13: bool,
            flip: prop::sample::Index,
        ) {
            let version = if is_13 { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 };
            let half = || Half::new(version, (5, secrets(cipher))).unwrap();
            let mut wire = Vec::new();
            half().seal(Kind::Data, &plain, &mut wire).unwrap();
            let (mut reader, mut rest, mut opened) = (half(), &mut wire.clone()[..], Vec::new());
            while !rest.is_empty() {
                let length = whole(rest).unwrap().unwrap();
                let (record, tail) = rest.split_at_mut(length);
                let (kind, bytes) = reader.open(record).unwrap();
                prop_assert_eq!(kind, Kind::Data);
                opened.extend_from_slice(bytes);
                rest = tail;
            }
            prop_assert_eq!(opened, plain);

            let length = whole(&wire).unwrap().unwrap();
            // The version in the header is not authenticated in TLS 1.2, its length is.
            let at = HEADER_BYTES + flip.index(length - HEADER_BYTES);
            wire[at] ^= 1;
            prop_assert_eq!(half().open(&mut wire[..length]), Err(Broken::Tag));
        }

        #[test]
        fn no_bytes_panic(mut bytes: Vec<u8>, is_13: bool) {
            let version = if is_13 { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 };
            let _ = whole(&bytes);
            let _ = Half::new(version, (0, secrets(0))).unwrap().open(&mut bytes);
        }
    }
}
