//! Server to client: plaintext into finished records, and the loan of the key that does it.
//!
//! In: plaintext; out: records, straight into the caller's memory. Owned by the worker that owns the connection. No
//! call allocates from the heap except where aws-lc builds a key: for the first record, for the first behind a rest, and for
//! one behind a [`key_update`](Sealer::key_update).

use std::num::NonZeroU64;

use aws_lc_rs::aead::LessSafeKey;

use crate::alert::Alert;
use crate::keys::{Keys, Secret, TrafficKey, context};
use crate::lend::RecordKey;
use crate::protect::{Protection, Protector};
use crate::record::{ALERT, APPLICATION_DATA, Fragment, HANDSHAKE};
use crate::suite::{Suite, Version};

/// Records of each key kept for our own alerts and key updates: data and leases end before them.
pub const RECORDS_RESERVED: u64 = 16;

/// What is inside a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Application data.
    Data,
    /// An alert message.
    Alert,
    /// A handshake message.
    Handshake,
}

impl Content {
    const fn wire(self) -> u8 {
        match self {
            Content::Data => APPLICATION_DATA,
            Content::Alert => ALERT,
            Content::Handshake => HANDSHAKE,
        }
    }
}

/// Why nothing was sealed. No sequence number was spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is lent: only the borrower seals.
    #[error("the write key is lent")]
    Lent,
    /// The key has sealed as many records as it may, or as were lent.
    #[error("the write key has no records left")]
    Exhausted,
    /// More plaintext than a record holds, too little room, or something this version or state does not have: a
    /// mistake of ours.
    #[error("outside what the record layer can do")]
    Bounds,
}

/// Seals the records of one connection.
pub struct Sealer {
    /// `None` until a record is sealed, and while it [rests](Sealer::rest).
    context: Option<LessSafeKey>,
    /// The record key is lent, its secret never.
    keys: Keys,
    /// The next record's.
    seq: u64,
    /// Records lent and not yet reclaimed.
    lent: Option<NonZeroU64>,
    fragment: Fragment,
}

impl Sealer {
    /// A sealer whose next record is number `seq`.
    pub(crate) fn new(record: &TrafficKey, secret: Option<Secret>, seq: u64, fragment: Fragment) -> Sealer {
        Sealer { context: None, keys: Keys::new(record, secret.as_ref()), seq, lent: None, fragment }
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

    /// The version agreed.
    pub fn version(&self) -> Version {
        self.suite().version()
    }

    /// Most plaintext of one record.
    pub fn fragment(&self) -> Fragment {
        self.fragment
    }

    /// Whether the key is lent.
    pub fn is_lent(&self) -> bool {
        self.lent.is_some()
    }

    /// Bytes of the record that `plaintext` bytes become.
    pub fn sealed_len(&self, plaintext: usize) -> usize {
        Protector::sealed_len(self.suite(), plaintext)
    }

    /// Records of data this key may still seal, or lend (RFC 8446 5.5). At 0 it wants a
    /// [`key_update`](Sealer::key_update), or in TLS 1.2 the connection's end.
    pub fn records_left(&self) -> u64 {
        (self.suite().records_max() - RECORDS_RESERVED).saturating_sub(self.seq)
    }

    /// Seals one record of at most [`fragment`](Sealer::fragment) bytes into the start of `out`; returns its length.
    ///
    /// # Errors
    /// See [`SealError`]; the sequence number is then unspent and `out` without meaning.
    pub fn seal(&mut self, content: Content, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        if self.lent.is_some() {
            return Err(SealError::Lent);
        }
        let max = match content {
            Content::Data => self.suite().records_max() - RECORDS_RESERVED,
            Content::Alert | Content::Handshake => self.suite().records_max(),
        };
        if self.seq >= max {
            return Err(SealError::Exhausted);
        }
        // Only data may be empty (RFC 8446 5.1, RFC 5246 6.2.1).
        let empty = plaintext.is_empty() && content != Content::Data;
        if empty || plaintext.len() > self.fragment.bytes() || out.len() < self.sealed_len(plaintext.len()) {
            return Err(SealError::Bounds);
        }
        let seq = self.seq;
        // Spent before it is used: whatever happens in between, it never seals again.
        self.seq += 1;
        let Sealer { context: kept, keys, .. } = self;
        let key = kept.get_or_insert_with(|| context(keys.suite(), keys.key()));
        let protection = Protection { key, iv: keys.iv(), suite: keys.suite() };
        protection.seal(seq, content.wire(), plaintext, out).ok_or(SealError::Bounds)
    }

    /// Seals an alert; returns the record's length.
    ///
    /// # Errors
    /// As [`seal`](Sealer::seal).
    pub fn alert(&mut self, alert: Alert, out: &mut [u8]) -> Result<usize, SealError> {
        self.seal(Content::Alert, &alert.message(), out)
    }

    /// Seals close_notify: nothing may be sent behind it (RFC 8446 6.1).
    ///
    /// # Errors
    /// As [`seal`](Sealer::seal).
    pub fn close_notify(&mut self, out: &mut [u8]) -> Result<usize, SealError> {
        self.alert(Alert::CLOSE_NOTIFY, out)
    }

    /// Seals a KeyUpdate under the old key, then moves to the new one and erases the old (RFC 8446 4.6.3).
    /// `request_peer` asks the client to do the same.
    ///
    /// # Errors
    /// As [`seal`](Sealer::seal); [`SealError::Bounds`] in TLS 1.2, which has no key update.
    pub fn key_update(&mut self, request_peer: bool, out: &mut [u8]) -> Result<usize, SealError> {
        if !self.keys.has_next() {
            return Err(SealError::Bounds);
        }
        let len = self.seal(Content::Handshake, &[24, 0, 0, 1, u8::from(request_peer)], out)?;
        self.rekey();
        Ok(len)
    }

    fn rekey(&mut self) {
        self.keys.next();
        self.context = None;
        self.seq = 0;
    }

    /// Lends the record key for the next `records` sequence numbers. Until [`reclaim`](Sealer::reclaim) every seal
    /// answers [`SealError::Lent`].
    ///
    /// # Errors
    /// [`SealError::Lent`] if it is lent already, [`SealError::Exhausted`] if fewer records are left,
    /// [`SealError::Bounds`] for none.
    pub fn lend(&mut self, records: u64) -> Result<RecordKey, SealError> {
        if self.lent.is_some() {
            return Err(SealError::Lent);
        }
        let count = NonZeroU64::new(records).ok_or(SealError::Bounds)?;
        if records > self.records_left() {
            return Err(SealError::Exhausted);
        }
        self.lent = Some(count);
        Ok(RecordKey::new(&self.keys, self.seq, records, self.fragment))
    }

    /// Takes the key back after the borrower has spent `records_used` of the lent sequence numbers.
    ///
    /// # Errors
    /// [`SealError::Bounds`] if nothing is lent or more was used than lent: then nobody knows which sequence numbers
    /// are spent, and the sealer refuses to seal for good.
    pub fn reclaim(&mut self, records_used: u64) -> Result<(), SealError> {
        match self.lent {
            Some(lent) if records_used <= lent.get() => {
                self.seq += records_used;
                self.lent = None;
                Ok(())
            }
            _ => Err(SealError::Bounds),
        }
    }
}
