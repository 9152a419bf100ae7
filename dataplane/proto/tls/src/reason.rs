//! A place and a name for each reason of a failure and for each alert, so that they can be counted one by one.
//!
//! In: a [`FailureReason`] or an [`Alert`]; out: an index below a constant, and a name for metrics. Stateless.

use crate::alert::{Alert, FailureReason, Incompatible, OwnFault, PeerFault};

/// Every reason but the peer's own alerts, which share the last place: they are told apart by the alert.
const REASONS: [(FailureReason, &str); FailureReason::COUNT - 1] = {
    use FailureReason::{Incompatible as I, Ours, Peer};
    use Incompatible as With;
    use PeerFault as P;
    [
        (Peer(P::RecordType), "record_type"),
        (Peer(P::RecordVersion), "record_version"),
        (Peer(P::RecordTooLong), "record_too_long"),
        (Peer(P::PlaintextTooLong), "plaintext_too_long"),
        (Peer(P::BadRecordMac), "bad_record_mac"),
        (Peer(P::NoContentType), "no_content_type"),
        (Peer(P::UnexpectedRecord), "unexpected_record"),
        (Peer(P::EmptyRecord), "empty_record"),
        (Peer(P::Interleaved), "interleaved"),
        (Peer(P::UnexpectedMessage), "unexpected_message"),
        (Peer(P::Malformed), "malformed"),
        (Peer(P::KeyUpdateRequest), "key_update_request"),
        (Peer(P::Unaligned), "unaligned"),
        (Peer(P::TooManyKeyUpdates), "too_many_key_updates"),
        (Peer(P::TooManyEmptyRecords), "too_many_empty_records"),
        (Peer(P::TooManyWarnings), "too_many_warnings"),
        (Peer(P::TooManyRenegotiations), "too_many_renegotiations"),
        (Peer(P::TooManyRecords), "too_many_records"),
        (Peer(P::HandshakeTooLong), "handshake_too_long"),
        (Peer(P::Misbehaved), "misbehaved"),
        (I(With::Version), "no_common_version"),
        (I(With::Suite), "no_common_suite"),
        (I(With::Group), "no_common_group"),
        (I(With::Signature), "no_common_signature"),
        (I(With::Application), "no_common_application"),
        (I(With::Other), "incompatible"),
        (Ours(OwnFault::NotOneRecord), "own_not_one_record"),
        (Ours(OwnFault::HandshakeOver), "own_handshake_over"),
        (Ours(OwnFault::Internal), "own_internal"),
    ]
};

const PEER_FAULTS: usize = PeerFault::Misbehaved as usize + 1;
const INCOMPATIBLES: usize = Incompatible::Other as usize + 1;
const OWN_FAULTS: usize = OwnFault::Internal as usize + 1;

impl FailureReason {
    /// How many there are to count.
    pub const COUNT: usize = PEER_FAULTS + INCOMPATIBLES + OWN_FAULTS + 1;

    /// Its place, below [`COUNT`](FailureReason::COUNT).
    pub const fn index(self) -> usize {
        match self {
            FailureReason::Peer(fault) => fault as usize,
            FailureReason::Incompatible(with) => PEER_FAULTS + with as usize,
            FailureReason::Ours(fault) => PEER_FAULTS + INCOMPATIBLES + fault as usize,
            FailureReason::PeerAlert(_) => FailureReason::COUNT - 1,
        }
    }

    /// Names in metrics, in the order of [`index`](FailureReason::index).
    pub fn names() -> impl Iterator<Item = &'static str> {
        REASONS.into_iter().map(|(_, name)| name).chain(std::iter::once("peer_alert"))
    }
}

impl Alert {
    /// How many there are to count: those with a name, and all others together.
    pub const COUNT: usize = Alert::KNOWN.len() + 1;

    /// Its place, below [`COUNT`](Alert::COUNT).
    pub fn index(self) -> usize {
        Alert::KNOWN.iter().position(|known| *known == self).unwrap_or(Alert::KNOWN.len())
    }

    /// Names in metrics, in the order of [`index`](Alert::index).
    pub fn names() -> impl Iterator<Item = &'static str> {
        Alert::KNOWN.into_iter().map(Alert::name).chain(std::iter::once("unknown"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_name() {
        for (place, (reason, name)) in REASONS.into_iter().enumerate() {
            assert_eq!(reason.index(), place, "{name}");
        }
        assert_eq!(FailureReason::PeerAlert(Alert::UNKNOWN_CA).index(), REASONS.len());
        let mut names: Vec<_> = FailureReason::names().collect();
        assert_eq!(names.len(), FailureReason::COUNT);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FailureReason::COUNT);
    }

    #[test]
    fn every_alert_has_a_place_and_a_name() {
        let names: Vec<_> = Alert::names().collect();
        assert_eq!(names.len(), Alert::COUNT);
        for code in 0..=u8::MAX {
            assert_eq!(names[Alert(code).index()], Alert(code).name());
        }
    }
}
