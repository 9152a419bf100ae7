//! What went wrong, whose fault it was, and which alert says so.
//!
//! [`Failure`] is `Copy` and made on the path of bytes from the peer: no text, no allocation.

use std::fmt;

/// An alert description (RFC 8446 6, RFC 5246 7.2, RFC 7301 3.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Alert(pub u8);

macro_rules! alerts {
    ($($name:ident = $code:literal, $text:literal;)*) => {
        impl Alert {
            $(#[doc = concat!("`", $text, "`")] pub const $name: Alert = Alert($code);)*

            /// Those with a name, in the order of their numbers.
            pub(crate) const KNOWN: [Alert; [$($code),*].len()] = [$(Alert($code)),*];

            /// The RFC's name, or `unknown`.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => $text,)*
                    _ => "unknown",
                }
            }
        }
    };
}

alerts! {
    CLOSE_NOTIFY = 0, "close_notify";
    UNEXPECTED_MESSAGE = 10, "unexpected_message";
    BAD_RECORD_MAC = 20, "bad_record_mac";
    RECORD_OVERFLOW = 22, "record_overflow";
    HANDSHAKE_FAILURE = 40, "handshake_failure";
    BAD_CERTIFICATE = 42, "bad_certificate";
    UNSUPPORTED_CERTIFICATE = 43, "unsupported_certificate";
    CERTIFICATE_REVOKED = 44, "certificate_revoked";
    CERTIFICATE_EXPIRED = 45, "certificate_expired";
    CERTIFICATE_UNKNOWN = 46, "certificate_unknown";
    ILLEGAL_PARAMETER = 47, "illegal_parameter";
    UNKNOWN_CA = 48, "unknown_ca";
    ACCESS_DENIED = 49, "access_denied";
    DECODE_ERROR = 50, "decode_error";
    DECRYPT_ERROR = 51, "decrypt_error";
    PROTOCOL_VERSION = 70, "protocol_version";
    INSUFFICIENT_SECURITY = 71, "insufficient_security";
    INTERNAL_ERROR = 80, "internal_error";
    INAPPROPRIATE_FALLBACK = 86, "inappropriate_fallback";
    USER_CANCELED = 90, "user_canceled";
    NO_RENEGOTIATION = 100, "no_renegotiation";
    MISSING_EXTENSION = 109, "missing_extension";
    UNSUPPORTED_EXTENSION = 110, "unsupported_extension";
    UNRECOGNIZED_NAME = 112, "unrecognized_name";
    UNKNOWN_PSK_IDENTITY = 115, "unknown_psk_identity";
    CERTIFICATE_REQUIRED = 116, "certificate_required";
    NO_APPLICATION_PROTOCOL = 120, "no_application_protocol";
}

/// Level byte of a warning and of a fatal alert.
pub(crate) const WARNING: u8 = 1;
pub(crate) const FATAL: u8 = 2;

impl Alert {
    /// The two bytes of the alert message. Closing and declining are warnings, all else is fatal (RFC 8446 6).
    pub(crate) const fn message(self) -> [u8; 2] {
        let level = match self {
            Alert::CLOSE_NOTIFY | Alert::USER_CANCELED | Alert::NO_RENEGOTIATION => WARNING,
            _ => FATAL,
        };
        [level, self.0]
    }
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self} ({})", self.0)
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The end of a connection for a fault in TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason:?}: {alert}")]
pub struct Failure {
    /// What to tell the peer; `close_notify` where the peer itself ended with a fatal alert.
    pub alert: Alert,
    /// What happened.
    pub reason: FailureReason,
}

impl Failure {
    pub(crate) const fn peer(alert: Alert, fault: PeerFault) -> Failure {
        Failure { alert, reason: FailureReason::Peer(fault) }
    }

    pub(crate) const fn ours(fault: OwnFault) -> Failure {
        Failure { alert: Alert::INTERNAL_ERROR, reason: FailureReason::Ours(fault) }
    }

    /// The peer ended the connection. Nothing has to be answered (RFC 8446 6.2); what is, is a plain goodbye.
    pub(crate) const fn ended_by(alert: Alert) -> Failure {
        Failure { alert: Alert::CLOSE_NOTIFY, reason: FailureReason::PeerAlert(alert) }
    }
}

/// Why a connection failed, sorted by whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureReason {
    /// The peer broke the protocol, or something between us changed its bytes.
    Peer(PeerFault),
    /// The peer keeps the protocol, but we have nothing in common.
    Incompatible(Incompatible),
    /// The peer ended the connection with this alert.
    PeerAlert(Alert),
    /// We did.
    Ours(OwnFault),
}

/// How the peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerFault {
    /// A record type TLS does not have: mostly another protocol on this port.
    RecordType,
    /// A record version that is not 3.x.
    RecordVersion,
    /// A record longer than its version allows.
    RecordTooLong,
    /// A record whose plaintext, padding included, is longer than allowed.
    PlaintextTooLong,
    /// A record whose tag is wrong.
    BadRecordMac,
    /// A record without content type: nothing but padding (RFC 8446 5.4).
    NoContentType,
    /// A record type that may not come now.
    UnexpectedRecord,
    /// A handshake or alert record without content (RFC 8446 5.4, RFC 5246 6.2.1).
    EmptyRecord,
    /// Another record inside a handshake message (RFC 8446 5.1).
    Interleaved,
    /// A handshake message that may not come now.
    UnexpectedMessage,
    /// A message that cannot be parsed.
    Malformed,
    /// A KeyUpdate with a request that is neither 0 nor 1 (RFC 8446 4.6.3).
    KeyUpdateRequest,
    /// Bytes behind a message that changes keys, in its record (RFC 8446 5.1).
    Unaligned,
    /// More KeyUpdates ahead of data than [`KEY_UPDATES_MAX`](crate::open::KEY_UPDATES_MAX).
    TooManyKeyUpdates,
    /// More empty records in a row than [`EMPTY_RECORDS_MAX`](crate::open::EMPTY_RECORDS_MAX).
    TooManyEmptyRecords,
    /// More warnings than [`WARNINGS_MAX`](crate::open::WARNINGS_MAX).
    TooManyWarnings,
    /// More renegotiations asked for than [`RENEGOTIATIONS_MAX`](crate::open::RENEGOTIATIONS_MAX).
    TooManyRenegotiations,
    /// More records under one key than [`OPENED_RECORDS_MAX`](crate::open::OPENED_RECORDS_MAX).
    TooManyRecords,
    /// More handshake bytes than [`PENDING_BYTES_MAX`](crate::handshake::PENDING_BYTES_MAX).
    HandshakeTooLong,
    /// A handshake that rustls refused as contrary to the protocol.
    Misbehaved,
}

/// What we do not have in common with the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Incompatible {
    /// No protocol version.
    Version,
    /// No cipher suite.
    Suite,
    /// No key exchange group.
    Group,
    /// No signature scheme that fits a certificate.
    Signature,
    /// No application protocol: the client wants ALPN without `http/1.1`.
    Application,
    /// Something else that one of us requires.
    Other,
}

/// What we did wrong, or ran out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OwnFault {
    /// The caller gave something that is not exactly one record.
    NotOneRecord,
    /// The caller went on after the end of a handshake.
    HandshakeOver,
    /// rustls or aws-lc-rs failed.
    Internal,
}
