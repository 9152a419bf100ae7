//! HTTP/1.1 as a server speaks it: requests in, reply heads out (RFC 9110, RFC 9112).
//!
//! In: plaintext in any fragmentation. Out: one whole [`Request`] at a time, or a [`Refusal`]; for replies, head
//! bytes and chunked framing. Sans-IO, no allocation in steady state. What two parsers could read differently is
//! refused, so that nothing can be smuggled past whoever stands before or behind us.

#![forbid(unsafe_code)]

mod body;
mod head;
mod reader;
mod refusal;
mod reply;
mod request;

pub use body::Upload;
pub use reader::{Progress, Reader};
pub use refusal::{Reason, Refusal};
pub use reply::{
    CHUNK_OVERHEAD_BYTES, ChunkWriter, ERROR_BYTES_MAX, FORWARDED_BYTES_MAX, HeadTooLong, NoRoom,
    REDIRECT_BYTES_MAX, ReplyHead, Seen, error, is_bodiless, reason, redirect, reply_head_bytes_max,
    write_head,
};
pub use request::{Ends, Method, Request};

/// Header fields a request may have at most, whatever the configuration says.
pub const HEADERS_MAX: usize = 128;

/// A body that says it has no more bytes than these is awaited whole also where longer ones stream: with its request it can
/// run elsewhere, and again. What a record holds.
pub const AWAITED_BYTES_MAX: u64 = 16 * 1024;

/// Bounds of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Request line and header fields, in bytes.
    pub head_bytes: usize,
    /// Header fields; at most [`HEADERS_MAX`].
    pub headers: usize,
    /// Request target, in bytes.
    pub target_bytes: usize,
    /// Decoded body, in bytes.
    pub body_bytes: usize,
    /// Decoded body that streams, in bytes.
    pub streamed_bytes: usize,
    /// One chunk's size line with its extensions, and all trailers together, in bytes. What the size lines of a
    /// body take beyond the usual may add up to sixteen times this.
    pub chunk_line_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 8192,
            headers: 64,
            target_bytes: 4096,
            body_bytes: 1 << 20,
            streamed_bytes: 1 << 30,
            chunk_line_bytes: 1024,
        }
    }
}

impl Limits {
    /// Those of a request whose body streams.
    fn of_streamed(&self) -> Limits {
        Limits { body_bytes: self.streamed_bytes, ..*self }
    }
}
