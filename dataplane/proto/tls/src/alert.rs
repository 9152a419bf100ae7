//! Alerts, and why a connection fails: one place maps each fault to its alert.

/// An alert's description (RFC 8446 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Alert(pub u8);

impl Alert {
    /// close_notify
    pub const CLOSE_NOTIFY: Alert = Alert(0);
    /// unexpected_message
    pub const UNEXPECTED_MESSAGE: Alert = Alert(10);
    /// bad_record_mac
    pub const BAD_RECORD_MAC: Alert = Alert(20);
    /// record_overflow
    pub const RECORD_OVERFLOW: Alert = Alert(22);
    /// handshake_failure
    pub const HANDSHAKE_FAILURE: Alert = Alert(40);
    /// illegal_parameter
    pub const ILLEGAL_PARAMETER: Alert = Alert(47);
    /// decode_error
    pub const DECODE_ERROR: Alert = Alert(50);
    /// protocol_version
    pub const PROTOCOL_VERSION: Alert = Alert(70);
    /// internal_error
    pub const INTERNAL_ERROR: Alert = Alert(80);
    /// user_canceled
    pub const USER_CANCELED: Alert = Alert(90);
    /// no_renegotiation
    pub const NO_RENEGOTIATION: Alert = Alert(100);

    /// Whether it goes out as a warning. In TLS 1.3 the level means nothing but is fatal for all but these.
    pub(crate) fn is_warning(self) -> bool {
        matches!(self, Alert::CLOSE_NOTIFY | Alert::USER_CANCELED | Alert::NO_RENEGOTIATION)
    }
}

/// Why a connection has to end, sorted by whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReason {
    /// The client sent a record of a type, version or length that cannot be.
    PeerRecord,
    /// The client's record does not open.
    PeerMac,
    /// The client sent a message that does not belong here.
    PeerMessage,
    /// The client floods with records that carry nothing.
    PeerFlood,
    /// The client ended the connection with this alert.
    PeerAlert(Alert),
    /// The handshake failed; what the two could not agree on, or what the client did wrong.
    Handshake,
    /// Something of ours failed.
    Internal,
}

/// A fault and the alert that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The alert to send.
    pub alert: Alert,
    /// Why.
    pub reason: FailureReason,
}

impl Failure {
    pub(crate) const fn new(alert: Alert, reason: FailureReason) -> Failure {
        Failure { alert, reason }
    }

    pub(crate) const fn record(alert: Alert) -> Failure {
        Failure::new(alert, FailureReason::PeerRecord)
    }

    pub(crate) const fn message(alert: Alert) -> Failure {
        Failure::new(alert, FailureReason::PeerMessage)
    }

    /// A fault of our own.
    pub const fn internal() -> Failure {
        Failure::new(Alert::INTERNAL_ERROR, FailureReason::Internal)
    }
}
