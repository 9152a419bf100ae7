//! Why there is no whole reply of an origin, and what the client is told.

use keyferry_http::{ReplyHead, reason};

use crate::tally::Count;

/// Why a request was not answered by an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    #[error("it cannot be connected to")]
    Connect,
    #[error("it does not take a connection in time")]
    ConnectLate,
    #[error("it ended the connection before its reply")]
    Broken,
    #[error("its reply does not come in time")]
    ReplyLate,
    #[error("it does not take a request's body in time")]
    BodyLate,
    #[error("its reply is none of HTTP")]
    Garbled,
    #[error("the head of its reply is too large")]
    HeadTooLarge,
    #[error("as many requests as may wait do")]
    QueueFull,
    #[error("no connection was free in time")]
    QueueLate,
    #[error("no server is well")]
    NoServer,
    #[error("the target cannot be sent on")]
    Target,
}

impl Failure {
    /// The status a client is told (RFC 9110 15.6.3 to 15.6.5).
    pub(crate) fn status(self) -> u16 {
        match self {
            Failure::Target => 400,
            Failure::Connect | Failure::Broken | Failure::Garbled | Failure::HeadTooLarge => 502,
            Failure::QueueFull | Failure::QueueLate | Failure::NoServer => 503,
            Failure::ConnectLate | Failure::ReplyLate | Failure::BodyLate => 504,
        }
    }

    pub(crate) fn count(self) -> Count {
        match self {
            Failure::Connect => Count::Connect,
            Failure::ConnectLate => Count::ConnectLate,
            Failure::Broken => Count::Broken,
            Failure::ReplyLate => Count::ReplyLate,
            Failure::BodyLate => Count::BodyLate,
            Failure::Garbled => Count::Garbled,
            Failure::HeadTooLarge => Count::HeadTooLarge,
            Failure::QueueFull => Count::QueueFull,
            Failure::QueueLate => Count::QueueLate,
            Failure::NoServer => Count::NoServer,
            Failure::Target => Count::Target,
        }
    }

    /// The reply's head, and its body.
    pub(crate) fn reply(self) -> (ReplyHead, String) {
        let status = self.status();
        let text = format!("{status} {}\n", reason(status));
        (ReplyHead::new(status, text.len() as u64, "text/plain"), text)
    }
}
