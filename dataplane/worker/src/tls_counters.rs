//! How TLS ended on a worker: failures by reason, alerts by description, both ways.
//!
//! Plain numbers with one writer, the worker; published behind its other counters.

use keyferry_tls::{Alert, Failure, FailureReason};

/// What a worker counts of TLS, by reason.
#[derive(Clone, Debug)]
pub struct TlsCounters {
    failures: [u64; FailureReason::COUNT],
    received: [u64; Alert::COUNT],
    sent: [u64; Alert::COUNT],
}

impl Default for TlsCounters {
    fn default() -> TlsCounters {
        TlsCounters {
            failures: [0; FailureReason::COUNT],
            received: [0; Alert::COUNT],
            sent: [0; Alert::COUNT],
        }
    }
}

impl TlsCounters {
    /// Names, in the order of [`append`](TlsCounters::append).
    pub fn names() -> impl Iterator<Item = String> {
        let failures = FailureReason::names().map(|name| format!("closed_tls_{name}"));
        let received = Alert::names().map(|name| format!("alerts_received_{name}"));
        let sent = Alert::names().map(|name| format!("alerts_sent_{name}"));
        failures.chain(received).chain(sent)
    }

    /// Appends every value.
    pub fn append(&self, out: &mut Vec<u64>) {
        out.extend(self.failures);
        out.extend(self.received);
        out.extend(self.sent);
    }

    /// A connection failed, during its handshake or later.
    pub fn failed(&mut self, failure: &Failure) {
        self.failures[failure.reason.index()] += 1;
        if let FailureReason::PeerAlert(alert) = failure.reason {
            self.received(alert);
        }
    }

    /// The client sent an alert.
    pub fn received(&mut self, alert: Alert) {
        self.received[alert.index()] += 1;
    }

    /// We did.
    pub fn sent(&mut self, alert: Alert) {
        self.sent[alert.index()] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_stands_under_its_name() {
        let mut counters = TlsCounters::default();
        counters.failed(&Failure {
            alert: Alert::CLOSE_NOTIFY,
            reason: FailureReason::PeerAlert(Alert::UNKNOWN_CA),
        });
        counters.sent(Alert::RECORD_OVERFLOW);
        let mut values = Vec::new();
        counters.append(&mut values);
        let counted: Vec<_> =
            TlsCounters::names().zip(values).filter(|(_, value)| *value > 0).map(|(name, _)| name).collect();
        assert_eq!(
            counted,
            ["closed_tls_peer_alert", "alerts_received_unknown_ca", "alerts_sent_record_overflow"]
        );
    }
}
