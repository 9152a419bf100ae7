//! Replies of our own, without an application: why, counted, sealed, and then the orderly end of the connection.
//!
//! In: why a request is not served. Out: one small reply, close_notify, FIN. Owned by the worker.

use keyferry_app::App;
use keyferry_http::{Reason, Refusal};
use keyferry_nic::Nic;
use keyferry_time::Time;

use crate::counters::Counters;
use crate::turn::Worker;

/// Why a request is answered without the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It cannot be served as it is.
    Refused(Refusal),
    /// It was not whole in time.
    Late,
    /// The application has too many, or there is no buffer.
    Busy,
    /// It may have run on a helper that gave no answer, and may not run twice.
    Lost,
    /// The application failed before it gave a reply.
    Failed,
    /// It asks for a WebSocket, which only an upstream may have.
    NoUpgrade,
}

impl Why {
    /// The status that says so (RFC 9110 15.5, 15.6).
    fn status(self) -> u16 {
        match self {
            Why::Refused(refusal) => refusal.status,
            Why::Late => 408,
            Why::Busy => 503,
            Why::Lost => 502,
            Why::Failed => 500,
            Why::NoUpgrade => 501,
        }
    }
}

impl Counters {
    /// The one counter of a reply of our own. Together they are `replies_own`.
    fn own(&mut self, why: Why) -> &mut u64 {
        match why {
            Why::Refused(refusal) => match refusal.reason {
                Reason::Syntax => &mut self.refused_syntax,
                Reason::Version => &mut self.refused_version,
                Reason::HeadTooLarge => &mut self.refused_head_too_large,
                Reason::TargetTooLong => &mut self.refused_target_too_long,
                Reason::Host => &mut self.refused_host,
                Reason::ContentLength => &mut self.refused_content_length,
                Reason::BothLengths => &mut self.refused_both_lengths,
                Reason::TransferEncoding => &mut self.refused_transfer_encoding,
                Reason::Framing => &mut self.refused_framing,
                Reason::Chunk => &mut self.refused_chunk,
                Reason::BodyTooLarge => &mut self.refused_body_too_large,
                Reason::Method => &mut self.refused_method,
                Reason::Expectation => &mut self.refused_expectation,
            },
            Why::Late => &mut self.refused_late,
            Why::Busy => &mut self.refused_busy,
            Why::Lost => &mut self.refused_lost,
            Why::Failed => &mut self.refused_failed,
            Why::NoUpgrade => &mut self.refused_upgrade,
        }
    }
}

impl<N: Nic, A: App> Worker<N, A> {
    /// A whole small reply of our own, then the end of the connection.
    pub(crate) fn answer(&mut self, index: usize, why: Why) {
        let Some(conn) = self.conns[index].as_ref() else { return };
        if conn.asked_at == Time::NEVER {
            // It never came to be a whole request.
            self.trace_whole(index);
        }
        let Some(conn) = self.conns[index].as_ref() else { return };
        // A request that is with the application has left what it asked for with the connection.
        let head_only = match (why, conn.request.as_deref()) {
            (Why::Refused(refusal), _) => refusal.head_only,
            (_, Some(request)) => request.asks_head_only(),
            (_, None) => conn.head_only,
        };
        let mut bytes = [0; keyferry_http::ERROR_BYTES_MAX];
        let len = keyferry_http::error(why.status(), head_only, &mut bytes);
        if self.send_last(index, &bytes[..len]) {
            *self.counters.own(why) += 1;
        }
    }

    /// The plain listener's answer: the same resource under https, or why that cannot be said.
    pub(crate) fn redirect(&mut self, index: usize, https_port: u16) {
        let Some(conn) = self.conns[index].as_ref() else { return };
        let Some(request) = conn.request.as_deref() else { return };
        let mut reply = [0; keyferry_http::REDIRECT_BYTES_MAX];
        let len = keyferry_http::redirect(request, https_port, &mut reply);
        if self.send_last(index, &reply[..len]) {
            self.counters.redirected += 1;
        }
    }

    /// Sends the last reply of a connection and ends it in order. Without a buffer for the reply it ends in RST, so
    /// that the client does not take silence for an answer. `true`: the reply is on its way.
    fn send_last(&mut self, index: usize, reply: &[u8]) -> bool {
        let asked = self.conns[index].as_mut().is_some_and(|conn| conn.take_asked().is_some());
        self.drop_request(index);
        if !self.send_bytes(index, reply) {
            self.counters.closed_unanswered += 1;
            self.counters.requests_dropped += u64::from(asked);
            self.reset(index);
            return false;
        }
        self.trace_sealed(index, status_of(reply));
        self.counters.replies_own += 1;
        self.counters.requests_answered += u64::from(asked);
        self.close(index);
        true
    }
}

/// The status of a reply of our own, from its first line: `HTTP/1.1 408 ...`.
fn status_of(reply: &[u8]) -> Option<u16> {
    std::str::from_utf8(reply.get(9..12)?).ok()?.parse().ok()
}
