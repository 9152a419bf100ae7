//! Why a request is not served, and the status that says so.

/// A request that is not served: the connection ends after the reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP status of the reply.
    pub status: u16,
    /// What is wrong with it.
    pub reason: Reason,
    /// It answers a HEAD, so it has no body (RFC 9110 9.3.2).
    pub head_only: bool,
}

/// What is wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Request line or header field not well-formed: bad bytes, bare CR or LF, obs-fold.
    Syntax,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    Version,
    /// Request line and header fields too long, or too many fields.
    HeadTooLarge,
    /// Request target too long.
    TargetTooLong,
    /// Not exactly one Host field in HTTP/1.1, or a bad one.
    Host,
    /// Content-Length invalid or said more than once.
    ContentLength,
    /// Both Content-Length and Transfer-Encoding: the classic smuggling form (RFC 9112 6.1).
    BothLengths,
    /// A transfer coding other than chunked, with chunked behind it.
    TransferEncoding,
    /// Chunked twice, not last, or in HTTP/1.0, where its sender cannot mean it (RFC 9112 6.1, 6.3).
    Framing,
    /// Chunked framing not well-formed.
    Chunk,
    /// Body too large.
    BodyTooLarge,
    /// CONNECT, or a method no handler knows.
    Method,
    /// An expectation other than 100-continue.
    Expectation,
}

impl Reason {
    /// The refusal with the status for this reason (RFC 9110 15.5, 15.6).
    pub fn refusal(self) -> Refusal {
        let status = match self {
            Reason::Syntax
            | Reason::Host
            | Reason::ContentLength
            | Reason::BothLengths
            | Reason::Framing
            | Reason::Chunk => 400,
            Reason::BodyTooLarge => 413,
            Reason::TargetTooLong => 414,
            Reason::Expectation => 417,
            Reason::HeadTooLarge => 431,
            Reason::Method | Reason::TransferEncoding => 501,
            Reason::Version => 505,
        };
        Refusal { status, reason: self, head_only: false }
    }
}
