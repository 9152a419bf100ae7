//! Client to server: records into plaintext, in place, and what the client says beside its data.
//!
//! In: exactly one record; out: what it was, or the fault that ends the connection. Owned by the worker that owns the
//! connection. No call allocates from the heap, except where aws-lc builds a key: for the first record, for the first behind a
//! rest, and for one behind a KeyUpdate.
//!
//! A stream that ends without [`Opened::CloseNotify`] was cut short: only the caller, who sees TCP, can tell.

use aws_lc_rs::aead::LessSafeKey;

use crate::alert::{Alert, FATAL, Failure, OwnFault, PeerFault, WARNING};
use crate::keys::{Keys, Secret, TrafficKey, context};
use crate::messages::Messages;
use crate::protect::Protection;
use crate::record::{
    ALERT, APPLICATION_DATA, HANDSHAKE, PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, RECORD13_BYTES_MAX, VERSION,
};
use crate::suite::{Suite, Version};

/// Empty records in a row: they cost us work and bring nothing.
pub const EMPTY_RECORDS_MAX: u8 = 32;

/// KeyUpdates that may come ahead of data: each costs a key derivation and each record of data pays for one, so that a
/// client cannot have more of them than of records that mean something.
pub const KEY_UPDATES_MAX: u8 = 32;

/// Warnings that are ignored on one connection.
pub const WARNINGS_MAX: u8 = 4;

/// Renegotiations refused by a warning on one connection (TLS 1.2); a client that goes on asking is cut off.
pub const RENEGOTIATIONS_MAX: u8 = 2;

/// Records opened under one key: the AEADs' integrity limit (RFC 9147 4.5.3, RFC 9001 6.6), which is about forgeries.
/// One forgery ends a connection, so this bounds what an attacker learns across the lifetime of a key at all.
pub const OPENED_RECORDS_MAX: u64 = 1 << 36;

/// What a record was.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'a> {
    /// Application data, in the record's own memory.
    Data(&'a mut [u8]),
    /// The client has moved to new keys, and so has this opener. With `reply` a
    /// [`key_update(false)`](crate::Sealer::key_update) is due before the next data (RFC 8446 4.6.3).
    KeyUpdate {
        /// The client asks us to do the same.
        reply: bool,
    },
    /// The client will send nothing more. Later records are ignored (RFC 8446 6.1).
    CloseNotify,
    /// Nothing for the caller: an empty record, a warning, part of a handshake message.
    Nothing,
    /// A TLS 1.2 client asks to renegotiate: answer with [`Alert::NO_RENEGOTIATION`] (RFC 5246 7.2.2).
    NoRenegotiation,
}

/// Opens the records of one connection.
pub struct Opener {
    /// `None` until a record comes, and while it [rests](Opener::rest).
    context: Option<LessSafeKey>,
    keys: Keys,
    /// The next record's.
    seq: u64,
    messages: Messages,
    empty_records: u8,
    key_updates: u8,
    warnings: u8,
    renegotiations: u8,
    closed: bool,
    /// A fault is final: what follows cannot be trusted to be in order.
    failed: Option<Failure>,
}

impl Opener {
    /// An opener whose next record is number `seq`.
    pub(crate) fn new(key: &TrafficKey, secret: Option<Secret>, seq: u64) -> Opener {
        Opener {
            context: None,
            keys: Keys::new(key, secret.as_ref()),
            seq,
            messages: Messages::default(),
            empty_records: 0,
            key_updates: 0,
            warnings: 0,
            renegotiations: 0,
            closed: false,
            failed: None,
        }
    }

    /// The suite agreed.
    pub fn suite(&self) -> Suite {
        self.keys.suite()
    }

    /// Gives back the AEAD context: the next record makes it anew, out of the key.
    pub fn rest(&mut self) {
        self.context = None;
    }

    /// Tells where its keys are if the next record needs them: with a context it does not.
    pub fn ahead(&self, ahead: impl Fn(*const u8)) {
        if self.is_resting() {
            self.keys.ahead(ahead);
        }
    }

    /// Whether there is no AEAD context.
    pub fn is_resting(&self) -> bool {
        self.context.is_none()
    }

    /// Opens one whole record in place.
    ///
    /// # Errors
    /// The fault, with the alert that tells the client; it is final and every later call answers the same.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<Opened<'a>, Failure> {
        if let Some(failure) = self.failed {
            return Err(failure);
        }
        if self.closed {
            return Ok(Opened::Nothing);
        }
        let opened = match self.suite().version() {
            Version::Tls13 => self.open13(record),
            Version::Tls12 => self.open12(record),
        };
        let judged = opened.and_then(|(kind, data)| self.judge(kind, data));
        if let Err(failure) = &judged {
            self.failed = Some(*failure);
        }
        judged
    }

    /// Decrypts a record of either version; the sequence number is spent.
    fn decrypt<'a>(&mut self, record: &'a mut [u8], bytes_max: usize) -> Result<&'a mut [u8], Failure> {
        if record.len() > bytes_max {
            return Err(Failure::peer(Alert::RECORD_OVERFLOW, PeerFault::RecordTooLong));
        }
        if self.seq >= OPENED_RECORDS_MAX {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::TooManyRecords));
        }
        let seq = self.seq;
        self.seq += 1;
        let bad = |_| Failure::peer(Alert::BAD_RECORD_MAC, PeerFault::BadRecordMac);
        let Opener { context: kept, keys, .. } = self;
        let key = kept.get_or_insert_with(|| context(keys.suite(), keys.key()));
        Protection { key, iv: keys.iv(), suite: keys.suite() }.open(seq, record).map_err(bad)
    }

    fn open13<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), Failure> {
        // Behind Finished everything is protected; change_cipher_spec is no longer ignored (RFC 8446 5).
        if header_kind(record)? != APPLICATION_DATA {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::UnexpectedRecord));
        }
        let inner = self.decrypt(record, RECORD13_BYTES_MAX)?;
        // The limit counts the padding (RFC 8446 5.4).
        if inner.len() > PLAINTEXT_BYTES_MAX + 1 {
            return Err(Failure::peer(Alert::RECORD_OVERFLOW, PeerFault::PlaintextTooLong));
        }
        let Some(at) = inner.iter().rposition(|byte| *byte != 0) else {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::NoContentType));
        };
        let kind = inner[at];
        Ok((kind, &mut inner[..at]))
    }

    fn open12<'a>(&mut self, record: &'a mut [u8]) -> Result<(u8, &'a mut [u8]), Failure> {
        let kind = header_kind(record)?;
        if record[1..3] != VERSION {
            return Err(Failure::peer(Alert::PROTOCOL_VERSION, PeerFault::RecordVersion));
        }
        let plaintext = self.decrypt(record, RECORD_BYTES_MAX)?;
        if plaintext.len() > PLAINTEXT_BYTES_MAX {
            return Err(Failure::peer(Alert::RECORD_OVERFLOW, PeerFault::PlaintextTooLong));
        }
        Ok((kind, plaintext))
    }

    /// Authenticated content: what it means.
    fn judge<'a>(&mut self, kind: u8, data: &'a mut [u8]) -> Result<Opened<'a>, Failure> {
        if kind != HANDSHAKE && self.messages.is_partial() {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::Interleaved));
        }
        if data.is_empty() && kind != APPLICATION_DATA {
            return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::EmptyRecord));
        }
        match kind {
            APPLICATION_DATA if data.is_empty() => {
                let too_many = PeerFault::TooManyEmptyRecords;
                count(&mut self.empty_records, EMPTY_RECORDS_MAX, too_many)?;
                Ok(Opened::Nothing)
            }
            APPLICATION_DATA => {
                self.empty_records = 0;
                self.key_updates = self.key_updates.saturating_sub(1);
                Ok(Opened::Data(data))
            }
            ALERT => self.alert(data),
            HANDSHAKE => self.handshake(data),
            _ => Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::UnexpectedRecord)),
        }
    }

    fn alert(&mut self, data: &[u8]) -> Result<Opened<'static>, Failure> {
        // Alerts are neither fragmented nor coalesced (RFC 8446 5.1).
        let &[level, alert] = data else {
            return Err(Failure::peer(Alert::DECODE_ERROR, PeerFault::Malformed));
        };
        let alert = Alert(alert);
        if alert == Alert::CLOSE_NOTIFY {
            self.closed = true;
            return Ok(Opened::CloseNotify);
        }
        let ignored = match self.suite().version() {
            // The level says nothing any more: all but these two are fatal (RFC 8446 6).
            Version::Tls13 => alert == Alert::USER_CANCELED,
            Version::Tls12 if level != WARNING && level != FATAL => {
                return Err(Failure::peer(Alert::ILLEGAL_PARAMETER, PeerFault::Malformed));
            }
            Version::Tls12 => level == WARNING,
        };
        if !ignored {
            return Err(Failure::ended_by(alert));
        }
        count(&mut self.warnings, WARNINGS_MAX, PeerFault::TooManyWarnings)?;
        Ok(Opened::Nothing)
    }

    fn handshake(&mut self, data: &[u8]) -> Result<Opened<'static>, Failure> {
        match self.suite().version() {
            Version::Tls13 => match self.messages.key_update(data)? {
                None => Ok(Opened::Nothing),
                Some(reply) => {
                    count(&mut self.key_updates, KEY_UPDATES_MAX, PeerFault::TooManyKeyUpdates)?;
                    self.rekey();
                    Ok(Opened::KeyUpdate { reply })
                }
            },
            Version::Tls12 => {
                if !self.messages.renegotiation(data)? {
                    return Ok(Opened::Nothing);
                }
                let too_many = PeerFault::TooManyRenegotiations;
                // The warning was not heard; what is left is the fatal refusal of RFC 5746 4.4 and 4.5.
                count(&mut self.renegotiations, RENEGOTIATIONS_MAX, too_many)
                    .map_err(|failure| Failure { alert: Alert::HANDSHAKE_FAILURE, ..failure })?;
                Ok(Opened::NoRenegotiation)
            }
        }
    }

    fn rekey(&mut self) {
        self.keys.next();
        self.context = None;
        self.seq = 0;
    }
}

/// The type of a record, which has to be exactly one.
fn header_kind(record: &[u8]) -> Result<u8, Failure> {
    match *record {
        [kind, _, _, high, low, ref body @ ..]
            if body.len() == usize::from(u16::from_be_bytes([high, low])) =>
        {
            Ok(kind)
        }
        _ => Err(Failure::ours(OwnFault::NotOneRecord)),
    }
}

/// Counts what a peer may do only so often.
fn count(counter: &mut u8, max: u8, fault: PeerFault) -> Result<(), Failure> {
    if *counter >= max {
        return Err(Failure::peer(Alert::UNEXPECTED_MESSAGE, fault));
    }
    *counter += 1;
    Ok(())
}
