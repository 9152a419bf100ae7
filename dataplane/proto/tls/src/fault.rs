//! One mapping from rustls' errors to ours. rustls sends the right alert itself; the alert named here is for our
//! counters, and for the few faults where rustls sends none.

use rustls::{Error, PeerIncompatible, PeerMisbehaved};

use crate::alert::{Alert, Failure, FailureReason, Incompatible, OwnFault, PeerFault};

/// What rustls says of a key that can sign with no scheme of the client's; a test holds it against the version in use.
const NO_SCHEME: &str = "incompatible signing key";

/// What ended a handshake, as rustls tells it.
pub(crate) fn failure(error: &Error) -> Failure {
    match error {
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            Failure::peer(Alert::UNEXPECTED_MESSAGE, PeerFault::UnexpectedMessage)
        }
        Error::InvalidMessage(_) => Failure::peer(Alert::DECODE_ERROR, PeerFault::Malformed),
        Error::DecryptError => Failure::peer(Alert::BAD_RECORD_MAC, PeerFault::BadRecordMac),
        Error::PeerSentOversizedRecord => Failure::peer(Alert::RECORD_OVERFLOW, PeerFault::PlaintextTooLong),
        Error::PeerMisbehaved(how) => misbehaved(how),
        Error::PeerIncompatible(how) => incompatible(how),
        Error::NoApplicationProtocol => Failure {
            alert: Alert::NO_APPLICATION_PROTOCOL,
            reason: FailureReason::Incompatible(Incompatible::Application),
        },
        // In TLS 1.2 the key may fit the suite and none of the schemes offered: the one such case rustls tells as a
        // sentence.
        Error::General(what) if what == NO_SCHEME => {
            incompatible(&PeerIncompatible::NoSignatureSchemesInCommon)
        }
        Error::AlertReceived(alert) => Failure::ended_by(Alert(u8::from(*alert))),
        _ => Failure::ours(OwnFault::Internal),
    }
}

fn misbehaved(how: &PeerMisbehaved) -> Failure {
    let (alert, fault) = match how {
        PeerMisbehaved::MessageInterleavedWithHandshakeMessage
        | PeerMisbehaved::RejectedEarlyDataInterleavedWithHandshakeMessage => {
            (Alert::UNEXPECTED_MESSAGE, PeerFault::Interleaved)
        }
        PeerMisbehaved::TooManyEmptyFragments => (Alert::UNEXPECTED_MESSAGE, PeerFault::TooManyEmptyRecords),
        PeerMisbehaved::TooManyWarningAlertsReceived => (Alert::DECODE_ERROR, PeerFault::TooManyWarnings),
        PeerMisbehaved::KeyEpochWithPendingFragment => (Alert::UNEXPECTED_MESSAGE, PeerFault::Unaligned),
        PeerMisbehaved::IllegalMiddleboxChangeCipherSpec => {
            (Alert::UNEXPECTED_MESSAGE, PeerFault::UnexpectedRecord)
        }
        PeerMisbehaved::IncorrectBinder => (Alert::DECRYPT_ERROR, PeerFault::Misbehaved),
        _ => (Alert::ILLEGAL_PARAMETER, PeerFault::Misbehaved),
    };
    Failure::peer(alert, fault)
}

fn incompatible(how: &PeerIncompatible) -> Failure {
    let (alert, with) = match how {
        PeerIncompatible::SupportedVersionsExtensionRequired
        | PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig => {
            (Alert::PROTOCOL_VERSION, Incompatible::Version)
        }
        PeerIncompatible::NoCipherSuitesInCommon => (Alert::HANDSHAKE_FAILURE, Incompatible::Suite),
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::KeyShareExtensionRequired
        | PeerIncompatible::NamedGroupsExtensionRequired => (Alert::HANDSHAKE_FAILURE, Incompatible::Group),
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            (Alert::HANDSHAKE_FAILURE, Incompatible::Signature)
        }
        PeerIncompatible::NullCompressionRequired | PeerIncompatible::UncompressedEcPointsRequired => {
            (Alert::ILLEGAL_PARAMETER, Incompatible::Other)
        }
        _ => (Alert::HANDSHAKE_FAILURE, Incompatible::Other),
    };
    Failure { alert, reason: FailureReason::Incompatible(with) }
}
