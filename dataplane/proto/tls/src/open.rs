//! Client to server: opens records in place and keeps the rules of what may come when.

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};
use zeroize::Zeroizing;

use crate::alert::{Alert, Failure, FailureReason};
use crate::lend::{Secret, aad12, aead, nonce};
use crate::record::{ALERT, APPLICATION_DATA, HANDSHAKE, HEADER_BYTES, PLAINTEXT_BYTES_MAX};
use crate::schedule::TrafficSecret;
use crate::suite::{Suite, Version};

/// Records in a row that carry no data: more is a flood.
const IDLE_RECORDS_MAX: u32 = 32;

/// A KeyUpdate, the only handshake message a TLS 1.3 client may send now, has this many bytes.
const KEY_UPDATE_BYTES: usize = 5;

/// Bytes of authentication tag.
const TAG_BYTES: usize = 16;

/// What a record held.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// Application data.
    Data(&'a mut [u8]),
    /// The client's key moved on.
    KeyUpdate {
        /// It wants ours to move on too.
        reply: bool,
    },
    /// The client will send nothing more.
    CloseNotify,
    /// Nothing to act on.
    Nothing,
    /// A TLS 1.2 client asked to renegotiate: answer with a no_renegotiation warning.
    NoRenegotiation,
}

/// Opens one connection's records.
pub struct Opener {
    version: Version,
    suite: Suite,
    key: LessSafeKey,
    iv: Zeroizing<[u8; 12]>,
    sequence: u64,
    /// TLS 1.3 only.
    traffic: Option<TrafficSecret>,
    /// A handshake message in pieces.
    partial: [u8; KEY_UPDATE_BYTES],
    partial_len: usize,
    /// Records in a row without data.
    idle: u32,
}

impl Opener {
    pub(crate) fn new(
        version: Version,
        suite: Suite,
        secret: &Secret,
        sequence: u64,
        traffic: Option<TrafficSecret>,
    ) -> Opener {
        Opener {
            version,
            suite,
            key: aead(suite, secret),
            iv: Zeroizing::new(secret.iv),
            sequence,
            traffic,
            partial: [0; KEY_UPDATE_BYTES],
            partial_len: 0,
            idle: 0,
        }
    }

    /// Opens exactly one record in place.
    ///
    /// # Errors
    /// [`Failure`]: send its alert and end the connection.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, Failure> {
        let (kind, inner) = match self.version {
            Version::Tls13 => self.open13(record)?,
            Version::Tls12 => self.open12(record)?,
        };
        let carries = kind == APPLICATION_DATA && !inner.is_empty();
        self.idle = if carries { 0 } else { self.idle + 1 };
        if self.idle > IDLE_RECORDS_MAX {
            return Err(Failure::new(Alert::UNEXPECTED_MESSAGE, FailureReason::PeerFlood));
        }
        if self.partial_len > 0 && kind != HANDSHAKE {
            // Nothing may come between the pieces of a handshake message (RFC 8446 section 5.1).
            return Err(Failure::message(Alert::UNEXPECTED_MESSAGE));
        }
        match kind {
            APPLICATION_DATA if inner.is_empty() => Ok(Opened::Nothing),
            APPLICATION_DATA => Ok(Opened::Data(inner)),
            ALERT => self.alert(inner),
            HANDSHAKE if self.version == Version::Tls13 => self.handshake(inner),
            HANDSHAKE if inner.first() == Some(&1) => Ok(Opened::NoRenegotiation),
            _ => Err(Failure::message(Alert::UNEXPECTED_MESSAGE)),
        }
    }

    fn take_sequence(&mut self) -> Result<u64, Failure> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(Failure::internal())?;
        Ok(sequence)
    }

    fn open13<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), Failure> {
        let (header, body) = record.split_at_mut_checked(HEADER_BYTES).ok_or(Failure::internal())?;
        // After the handshake nothing is sent in the clear (RFC 8446 section 5): a change_cipher_spec neither.
        if header[0] != APPLICATION_DATA {
            return Err(Failure::message(Alert::UNEXPECTED_MESSAGE));
        }
        if body.len() > PLAINTEXT_BYTES_MAX + 256 {
            return Err(Failure::record(Alert::RECORD_OVERFLOW));
        }
        let sequence = self.take_sequence()?;
        let nonce = Nonce::assume_unique_for_key(nonce(&self.iv, sequence));
        let inner = self.key.open_in_place(nonce, Aad::from(&*header), body).map_err(|_| bad_mac())?;
        // Type and padding count towards the limit (RFC 8446 section 5.4).
        if inner.len() > PLAINTEXT_BYTES_MAX + 1 {
            return Err(Failure::record(Alert::RECORD_OVERFLOW));
        }
        let end = inner.iter().rposition(|byte| *byte != 0);
        let end = end.ok_or(Failure::message(Alert::UNEXPECTED_MESSAGE))?;
        let kind = inner[end];
        if end == 0 && kind != APPLICATION_DATA {
            // Alerts and handshake records are never empty (RFC 8446 section 5.1).
            return Err(Failure::message(Alert::UNEXPECTED_MESSAGE));
        }
        Ok((kind, &mut inner[..end]))
    }

    fn open12<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), Failure> {
        let (header, body) = record.split_at_mut_checked(HEADER_BYTES).ok_or(Failure::internal())?;
        let kind = header[0];
        if header[1..3] != [3, 3] {
            return Err(Failure::record(Alert::PROTOCOL_VERSION));
        }
        let explicit = self.suite.explicit_nonce_bytes(self.version);
        let len = body.len().checked_sub(explicit + TAG_BYTES).ok_or_else(bad_mac)?;
        if len > PLAINTEXT_BYTES_MAX {
            return Err(Failure::record(Alert::RECORD_OVERFLOW));
        }
        let sequence = self.take_sequence()?;
        let (sent, body) = body.split_at_mut(explicit);
        let mut nonce = nonce(&self.iv, sequence);
        if explicit > 0 {
            nonce[..4].copy_from_slice(&self.iv[..4]);
            nonce[4..].copy_from_slice(sent);
        }
        let (nonce, aad) = (Nonce::assume_unique_for_key(nonce), Aad::from(aad12(sequence, kind, len)));
        let inner = self.key.open_in_place(nonce, aad, body).map_err(|_| bad_mac())?;
        Ok((kind, inner))
    }

    fn alert<'a>(&self, inner: &[u8]) -> Result<Opened<'a>, Failure> {
        let [level, description] = *inner else { return Err(Failure::message(Alert::DECODE_ERROR)) };
        let alert = Alert(description);
        match (alert, level) {
            (Alert::CLOSE_NOTIFY, _) => Ok(Opened::CloseNotify),
            (Alert::USER_CANCELED, _) => Ok(Opened::Nothing),
            (_, 1) if self.version == Version::Tls12 => Ok(Opened::Nothing),
            // Nothing answers an alert but the end of the connection (RFC 8446 section 6.2).
            _ => Err(Failure::new(Alert::CLOSE_NOTIFY, FailureReason::PeerAlert(alert))),
        }
    }

    /// A KeyUpdate, whole or in pieces; it ends its record (RFC 8446 section 5.1).
    fn handshake<'a>(&mut self, inner: &[u8]) -> Result<Opened<'a>, Failure> {
        let room = KEY_UPDATE_BYTES - self.partial_len;
        let take = inner.len().min(room);
        self.partial[self.partial_len..self.partial_len + take].copy_from_slice(&inner[..take]);
        self.partial_len += take;
        let known = &self.partial[..self.partial_len];
        if known[0] != 24 {
            return Err(Failure::message(Alert::UNEXPECTED_MESSAGE));
        }
        if known.len() >= 4 && known[1..4] != [0, 0, 1] {
            return Err(Failure::message(Alert::DECODE_ERROR));
        }
        if self.partial_len < KEY_UPDATE_BYTES {
            return Ok(Opened::Nothing);
        }
        if inner.len() > take {
            return Err(Failure::message(Alert::UNEXPECTED_MESSAGE));
        }
        let reply = match self.partial[4] {
            0 => false,
            1 => true,
            _ => return Err(Failure::message(Alert::ILLEGAL_PARAMETER)),
        };
        self.partial_len = 0;
        let Some(traffic) = &mut self.traffic else { return Err(Failure::internal()) };
        traffic.update();
        let secret = traffic.record_secret(self.suite);
        self.key = aead(self.suite, &secret);
        self.iv = Zeroizing::new(secret.iv);
        self.sequence = 0;
        Ok(Opened::KeyUpdate { reply })
    }
}

fn bad_mac() -> Failure {
    Failure::new(Alert::BAD_RECORD_MAC, FailureReason::PeerMac)
}
