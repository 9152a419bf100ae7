//! Server to client: seals records, counts them, updates its key, and lends it.

use crate::alert::Alert;
use crate::lend::{RecordKey, RecordSealer, Secret};
use crate::record::{ALERT, APPLICATION_DATA, HANDSHAKE};
use crate::schedule::TrafficSecret;
use crate::suite::{Suite, Version};

/// Handshake type and length of a KeyUpdate (RFC 8446 section 4.6.3).
const KEY_UPDATE_HEAD: [u8; 4] = [24, 0, 0, 1];

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Application data.
    Data,
    /// An alert.
    Alert,
    /// A handshake message.
    Handshake,
}

/// Why nothing was sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key is lent: its sequence numbers belong to the helper.
    #[error("the record key is lent to another node")]
    Lent,
    /// The key has sealed as many records as it may, or as were lent.
    #[error("the record key has reached its limit")]
    Exhausted,
    /// Plaintext too long or `out` too short: a mistake of ours.
    #[error("the record does not fit")]
    Bounds,
}

/// Seals one connection's records.
pub struct Sealer {
    sealer: RecordSealer,
    secret: Secret,
    /// TLS 1.3 only.
    traffic: Option<TrafficSecret>,
    /// Records lent, while the key is.
    lent: Option<u64>,
}

impl Sealer {
    pub(crate) fn new(
        version: Version,
        suite: Suite,
        secret: Secret,
        sequence: u64,
        traffic: Option<TrafficSecret>,
    ) -> Sealer {
        let sealer = RecordSealer::new(version, suite, &secret, sequence, suite.records_max());
        Sealer { sealer, secret, traffic, lent: None }
    }

    /// Seals one record straight into `out`. Returns its length. No allocation.
    ///
    /// # Errors
    /// [`SealError`]; no sequence number was used then.
    pub fn seal(&mut self, content: Content, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        if self.lent.is_some() {
            return Err(SealError::Lent);
        }
        let kind = match content {
            Content::Data => APPLICATION_DATA,
            Content::Alert => ALERT,
            Content::Handshake => HANDSHAKE,
        };
        self.sealer.seal(kind, plaintext, out)
    }

    /// Length of a record with this much plaintext.
    pub fn sealed_len(&self, plaintext: usize) -> usize {
        self.sealer.sealed_len(plaintext)
    }

    /// Records this key may still seal.
    pub fn records_left(&self) -> u64 {
        self.sealer.end - self.sealer.next
    }

    /// Seals an alert.
    ///
    /// # Errors
    /// As [`seal`](Sealer::seal).
    pub fn alert(&mut self, alert: Alert, out: &mut [u8]) -> Result<usize, SealError> {
        let level = if alert.is_warning() { 1 } else { 2 };
        self.seal(Content::Alert, &[level, alert.0], out)
    }

    /// Seals close_notify.
    ///
    /// # Errors
    /// As [`seal`](Sealer::seal).
    pub fn close_notify(&mut self, out: &mut [u8]) -> Result<usize, SealError> {
        self.alert(Alert::CLOSE_NOTIFY, out)
    }

    /// Seals a KeyUpdate under the old key and moves to the next; the old one is erased. TLS 1.3 only.
    ///
    /// # Errors
    /// As [`seal`](Sealer::seal); [`SealError::Exhausted`] in TLS 1.2, which cannot.
    pub fn key_update(&mut self, request_peer: bool, out: &mut [u8]) -> Result<usize, SealError> {
        if self.traffic.is_none() {
            return Err(SealError::Exhausted);
        }
        let [kind, a, b, c] = KEY_UPDATE_HEAD;
        let len = self.seal(Content::Handshake, &[kind, a, b, c, u8::from(request_peer)], out)?;
        if let Some(traffic) = &mut self.traffic {
            traffic.update();
            let suite = self.sealer.suite;
            self.secret = traffic.record_secret(suite);
            self.sealer = RecordSealer::new(Version::Tls13, suite, &self.secret, 0, suite.records_max());
        }
        Ok(len)
    }

    /// Lends the key with the next `records` sequence numbers. Until [`reclaim`](Sealer::reclaim) nothing is
    /// sealed here.
    ///
    /// # Errors
    /// [`SealError::Lent`] if it is lent already, [`SealError::Exhausted`] if it has fewer left.
    pub fn lend(&mut self, records: u64) -> Result<RecordKey, SealError> {
        if self.lent.is_some() {
            return Err(SealError::Lent);
        }
        if records > self.records_left() {
            return Err(SealError::Exhausted);
        }
        self.lent = Some(records);
        Ok(RecordKey {
            version: self.sealer.version,
            suite: self.sealer.suite,
            secret: self.secret.clone(),
            first: self.sealer.next,
            records,
        })
    }

    /// Takes the key back after `used` of the lent sequence numbers.
    ///
    /// # Errors
    /// [`SealError::Bounds`] if it was not lent, or not that many: the connection has to end.
    pub fn reclaim(&mut self, used: u64) -> Result<(), SealError> {
        match self.lent {
            Some(records) if used <= records => {
                self.lent = None;
                self.sealer.next += used;
                Ok(())
            }
            _ => Err(SealError::Bounds),
        }
    }
}
