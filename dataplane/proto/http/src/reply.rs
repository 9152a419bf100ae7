//! Replies: heads, chunked framing, and the small ones made without an application.
//!
//! In: status, length and header fields from the application, and what its request allows. Out: bytes in the
//! caller's buffer. Pure; runs on workers and on app threads.

use std::fmt::Write as _;

use arrayvec::{ArrayString, ArrayVec};

use crate::Request;

/// Bytes of extra header fields a reply head holds in place.
pub const FIELDS_BYTES_MAX: usize = 512;

/// Bytes of header fields beyond those that a forwarded reply may have.
pub const FORWARDED_BYTES_MAX: usize = 12 * 1024;

/// Bytes a chunk's framing takes: a size line of up to 8 hex digits, and CR LF twice.
pub const CHUNK_OVERHEAD_BYTES: usize = 8 + 2 + 2;

/// Bytes [`error`] writes at most.
pub const ERROR_BYTES_MAX: usize = 512;

/// Bytes [`redirect`] writes at most.
pub const REDIRECT_BYTES_MAX: usize = 6 * 1024;

/// Bytes of a host name at most (RFC 1035 2.3.4).
const HOST_BYTES_MAX: usize = 255;

/// Bytes of a content type at most.
const CONTENT_TYPE_MAX: usize = 96;

/// Bytes of a reply head besides its extra fields.
const FIXED_BYTES_MAX: usize = 384;

/// Bytes [`write_head`] takes at most.
pub const fn reply_head_bytes_max() -> usize {
    FIXED_BYTES_MAX + FIELDS_BYTES_MAX + FORWARDED_BYTES_MAX
}

/// The buffer is too short for what was to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for the reply head")]
pub struct NoRoom;

/// A header field that is not a valid one, is not the application's to write, or goes beyond [`FIELDS_BYTES_MAX`], in a
/// forwarded reply beyond [`FORWARDED_BYTES_MAX`] as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a header field is not valid, is not the application's to write, or the head is too long")]
pub struct HeadTooLong;

/// Fields [`write_head`] writes itself, or that would change the framing: a second one could end the reply at
/// another byte than ours.
const RESERVED: [&str; 8] = [
    "connection",
    "content-length",
    "content-type",
    "date",
    "keep-alive",
    "server",
    "transfer-encoding",
    "upgrade",
];

/// Of them those that a forwarded reply has from its origin.
const OF_ORIGIN: [&str; 3] = ["content-type", "date", "server"];

/// RFC 9110 5.6.2.
pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// RFC 9110 5.5: no control character but the tab, so no line end.
pub(crate) fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_token_byte)
}

fn is_field_value(value: &[u8]) -> bool {
    value.iter().copied().all(is_text)
}

/// Status, framing and header fields of a reply.
#[derive(Debug)]
pub struct ReplyHead {
    /// Status code.
    pub status: u16,
    /// Body bytes; `None`: chunked.
    pub length: Option<u64>,
    /// The connection ends after it.
    pub close: bool,
    content_type: ArrayString<CONTENT_TYPE_MAX>,
    fields: ArrayVec<u8, FIELDS_BYTES_MAX>,
    /// Fields of a forwarded reply that have no room there.
    more: Vec<u8>,
    /// Made by an origin server, which says who and when itself.
    forwarded: bool,
    /// It has said when.
    dated: bool,
}

impl Clone for ReplyHead {
    /// Copies the fields that are there at once, where a derived one would go byte by byte.
    fn clone(&self) -> ReplyHead {
        let mut fields = ArrayVec::new();
        // It fits: its room is the same.
        let _ = fields.try_extend_from_slice(&self.fields);
        ReplyHead { fields, more: self.more.clone(), ..*self }
    }
}

impl ReplyHead {
    /// A reply of a known length. A content type that is no valid field value, or longer than 96 bytes, is left out.
    pub fn new(status: u16, length: u64, content_type: &str) -> ReplyHead {
        // Made in place, as it is large: to take it apart would copy it.
        let mut head = ReplyHead::chunked(status, content_type);
        head.length = Some(length);
        head
    }

    /// A reply whose length is not known yet. Of the content type as for [`new`](ReplyHead::new).
    pub fn chunked(status: u16, content_type: &str) -> ReplyHead {
        let content_type = Some(content_type).filter(|it| is_field_value(it.as_bytes()));
        let content_type = content_type.and_then(|it| ArrayString::from(it).ok()).unwrap_or_default();
        ReplyHead {
            status,
            length: None,
            close: false,
            content_type,
            fields: ArrayVec::new(),
            more: Vec::new(),
            forwarded: false,
            dated: false,
        }
    }

    /// A reply of an origin server, whose content type, date and server are header fields like others; a date is added if it
    /// has none (RFC 9110 6.6.1).
    pub fn forwarded(status: u16, length: Option<u64>) -> ReplyHead {
        let mut head = ReplyHead::chunked(status, "");
        (head.length, head.forwarded) = (length, true);
        head
    }

    /// Adds a header field.
    ///
    /// # Errors
    /// [`HeadTooLong`] if it is not valid (RFC 9110 5.1, 5.5), is written by [`write_head`] itself, or does not fit;
    /// nothing was added then.
    pub fn header(&mut self, name: &str, value: &[u8]) -> Result<(), HeadTooLong> {
        let is_one_of = |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        let is_ours = is_one_of(&RESERVED) && !(self.forwarded && is_one_of(&OF_ORIGIN));
        let bytes = name.len() + value.len() + 4;
        let fits = self.more.is_empty() && bytes <= self.fields.remaining_capacity();
        let fits_behind = self.forwarded && self.more.len() + bytes <= FORWARDED_BYTES_MAX;
        if is_ours || !is_token(name) || !is_field_value(value) || !(fits || fits_behind) {
            return Err(HeadTooLong);
        }
        self.dated |= name.eq_ignore_ascii_case("date");
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            if fits {
                self.fields.try_extend_from_slice(part).map_err(|_| HeadTooLong)?;
            } else {
                self.more.extend_from_slice(part);
            }
        }
        Ok(())
    }
}

/// What the framing of a reply depends on in its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// HEAD: the reply has no body.
    pub head_only: bool,
    /// The client can go on.
    pub keep_alive: bool,
    /// Minor version.
    pub minor: u8,
}

impl Seen {
    /// Of a request.
    pub fn of(request: &Request) -> Seen {
        Seen {
            head_only: request.method() == crate::Method::Head,
            keep_alive: request.keep_alive(),
            minor: request.minor(),
        }
    }

    /// Whether a reply without a length has to be ended by closing the connection: HTTP/1.0 has no chunks.
    pub fn needs_close(self, head: &ReplyHead) -> bool {
        head.length.is_none() && self.minor == 0
    }
}

/// Writes into a slice, remembering whether it fitted.
struct Cursor<'a> {
    out: &'a mut [u8],
    at: usize,
    fits: bool,
}

impl Cursor<'_> {
    fn put(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.at..self.at + bytes.len()) {
            Some(room) if self.fits => {
                room.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            _ => self.fits = false,
        }
    }

    /// Decimal digits, without the formatting machinery.
    fn number(&mut self, mut value: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (value % 10) as u8;
            value /= 10;
            if value == 0 {
                break;
            }
        }
        self.put(&digits[at..]);
    }

    fn done(self) -> Result<usize, NoRoom> {
        if self.fits { Ok(self.at) } else { Err(NoRoom) }
    }
}

/// Whether a status never has a body (RFC 9110 6.4.1).
pub fn is_bodiless(status: u16) -> bool {
    status == 204 || status == 304 || (100..200).contains(&status)
}

/// Writes status line and header fields. `date` is an IMF-fixdate, empty for none. Returns the bytes written.
///
/// # Errors
/// [`NoRoom`] if `out` is too short; [`reply_head_bytes_max`] always suffices.
pub fn write_head(head: &ReplyHead, seen: Seen, date: &str, out: &mut [u8]) -> Result<usize, NoRoom> {
    let mut cursor = Cursor { out, at: 0, fits: true };
    cursor.put(b"HTTP/1.1 ");
    cursor.number(u64::from(head.status));
    cursor.put(b" ");
    cursor.put(reason(head.status).as_bytes());
    cursor.put(if head.forwarded { b"\r\n" } else { b"\r\nServer: keyferry\r\n" });
    if !date.is_empty() && !head.dated {
        cursor.put(b"Date: ");
        cursor.put(date.as_bytes());
        cursor.put(b"\r\n");
    }
    if !head.content_type.is_empty() {
        cursor.put(b"Content-Type: ");
        cursor.put(head.content_type.as_bytes());
        cursor.put(b"\r\n");
    }
    match head.length {
        _ if is_bodiless(head.status) => {}
        Some(length) => {
            cursor.put(b"Content-Length: ");
            cursor.number(length);
            cursor.put(b"\r\n");
        }
        None if seen.minor == 1 => cursor.put(b"Transfer-Encoding: chunked\r\n"),
        None => {}
    }
    if head.close || !seen.keep_alive || seen.needs_close(head) {
        cursor.put(match head.status {
            101 => b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
            _ => b"Connection: close\r\n",
        });
    } else if seen.minor == 0 {
        cursor.put(b"Connection: keep-alive\r\n");
    }
    cursor.put(&head.fields);
    cursor.put(&head.more);
    cursor.put(b"\r\n");
    cursor.done()
}

/// Frames body bytes as one chunk in place (RFC 9112 7.1): the size line has a fixed width, so the body can be
/// written behind it before its length is known.
#[derive(Clone, Copy, Debug)]
pub struct ChunkWriter;

impl ChunkWriter {
    /// Bytes before the body: eight hex digits, CR LF.
    pub const SIZE_LINE_BYTES: usize = 8 + 2;

    /// Where in `out` the body bytes of a chunk go; `None` if not even one fits.
    pub fn body(out: &mut [u8]) -> Option<&mut [u8]> {
        let end = out.len().checked_sub(2).filter(|end| *end > Self::SIZE_LINE_BYTES)?;
        Some(&mut out[Self::SIZE_LINE_BYTES..end])
    }

    /// Frames `len` body bytes written to [`body`](ChunkWriter::body). Returns the bytes of the whole chunk.
    pub fn finish(out: &mut [u8], len: usize) -> usize {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        for (place, digit) in out[..8].iter_mut().enumerate() {
            *digit = HEX[(len >> (28 - 4 * place)) & 0xf];
        }
        out[8..10].copy_from_slice(b"\r\n");
        out[10 + len..12 + len].copy_from_slice(b"\r\n");
        12 + len
    }

    /// What ends a chunked body.
    pub const END: &'static [u8] = b"0\r\n\r\n";
}

/// The reason phrase of a status (IANA's registry of HTTP status codes).
pub fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        // The phrase may be empty and is read by nobody (RFC 9112 4).
        _ => "",
    }
}

/// Writes a whole small reply that ends the connection; of an answer to HEAD only its head (RFC 9110 9.3.2). Returns its
/// length.
pub fn error(status: u16, head_only: bool, out: &mut [u8; ERROR_BYTES_MAX]) -> usize {
    let mut body = ArrayString::<64>::new();
    let _ = writeln!(body, "{status} {}", reason(status));
    let mut head = ReplyHead::new(status, body.len() as u64, "text/plain");
    head.close = true;
    let seen = Seen { head_only, keep_alive: false, minor: 1 };
    let len = write_head(&head, seen, "", out).unwrap_or(0);
    if head_only {
        return len;
    }
    out[len..len + body.len()].copy_from_slice(body.as_bytes());
    len + body.len()
}

/// Writes the answer of a plain HTTP listener: the same resource under https (RFC 9110 15.4.9), or 400 if the
/// request names no host. Returns its length.
pub fn redirect(request: &Request, https_port: u16, out: &mut [u8; REDIRECT_BYTES_MAX]) -> usize {
    let host = without_port(request.host());
    if host.is_empty() || host.len() > HOST_BYTES_MAX {
        return error_into(400, request, out);
    }
    let mut cursor = Cursor { out, at: 0, fits: true };
    cursor.put(b"HTTP/1.1 308 Permanent Redirect\r\nServer: keyferry\r\nLocation: https://");
    cursor.put(host);
    if https_port != 443 {
        cursor.put(b":");
        cursor.number(u64::from(https_port));
    }
    let target = request.target();
    cursor.put(if target.starts_with(b"/") { target } else { b"/" });
    cursor.put(b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    match cursor.done() {
        Ok(len) => len,
        // Only where the configured limit of a target is larger than the reply may be.
        Err(NoRoom) => error_into(414, request, out),
    }
}

fn error_into(status: u16, request: &Request, out: &mut [u8; REDIRECT_BYTES_MAX]) -> usize {
    let mut reply = [0; ERROR_BYTES_MAX];
    let len = error(status, request.method() == crate::Method::Head, &mut reply);
    out[..len].copy_from_slice(&reply[..len]);
    len
}

/// A host without its port; an IPv6 literal keeps its brackets.
fn without_port(host: &[u8]) -> &[u8] {
    let name_end = host.iter().rposition(|byte| *byte == b']').map_or(0, |at| at + 1);
    match host[name_end..].iter().position(|byte| *byte == b':') {
        Some(colon) => &host[..name_end + colon],
        None => host,
    }
}
