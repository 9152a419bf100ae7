//! Body framing of requests: Content-Length and chunked (RFC 9112 6, 7.1).

use crate::{Limits, Reason, Refusal};

/// Where a chunked body stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// None, or all of it is here.
    Done,
    /// Bytes still to come.
    Length(u64),
    /// Hex digits of a chunk's size; how many so far, the value, bytes of the line.
    Size { digits: u8, value: u64, line: usize },
    /// Chunk extension, skipped to the end of the line.
    Extension { value: u64, line: usize },
    /// LF of a size line.
    SizeEnd { value: u64 },
    /// Chunk data.
    Data { left: u64 },
    /// CR, then LF behind chunk data.
    DataEnd { seen_cr: bool },
    /// Trailer section: bytes so far, bytes of this line.
    Trailer { total: usize, line: usize, seen_cr: bool },
}

impl Body {
    /// The start of a chunked body.
    pub(crate) const CHUNKED: Body = Body::Size { digits: 0, value: 0, line: 0 };

    /// Decodes as much as there is. Returns the bytes used; done when the state is [`Body::Done`].
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        into: &mut Vec<u8>,
        limits: &Limits,
    ) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && *self != Body::Done {
            match *self {
                Body::Length(left) => {
                    let take = (left.min((bytes.len() - at) as u64)) as usize;
                    push(into, &bytes[at..at + take], limits)?;
                    at += take;
                    let left = left - take as u64;
                    *self = if left == 0 { Body::Done } else { Body::Length(left) };
                }
                Body::Data { left } => {
                    let take = (left.min((bytes.len() - at) as u64)) as usize;
                    push(into, &bytes[at..at + take], limits)?;
                    at += take;
                    let left = left - take as u64;
                    *self = if left == 0 { Body::DataEnd { seen_cr: false } } else { Body::Data { left } };
                }
                _ => {
                    *self = self.step(bytes[at], limits)?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    /// One byte of framing.
    fn step(self, byte: u8, limits: &Limits) -> Result<Body, Refusal> {
        let bad = Err(Reason::Chunk.refusal());
        match self {
            Body::Size { digits, value, line } => match byte {
                _ if line >= limits.chunk_line_bytes => bad,
                b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F' if digits < 16 => {
                    let digit = (byte as char).to_digit(16).unwrap_or(0);
                    let value = value.checked_mul(16).and_then(|value| value.checked_add(u64::from(digit)));
                    match value {
                        Some(value) => Ok(Body::Size { digits: digits + 1, value, line: line + 1 }),
                        None => bad,
                    }
                }
                b';' | b' ' | b'\t' if digits > 0 => Ok(Body::Extension { value, line: line + 1 }),
                b'\r' if digits > 0 => Ok(Body::SizeEnd { value }),
                _ => bad,
            },
            Body::Extension { value, line } => match byte {
                _ if line >= limits.chunk_line_bytes => bad,
                b'\r' => Ok(Body::SizeEnd { value }),
                b'\n' | 0 => bad,
                _ => Ok(Body::Extension { value, line: line + 1 }),
            },
            Body::SizeEnd { value } if byte == b'\n' => Ok(if value == 0 {
                Body::Trailer { total: 0, line: 0, seen_cr: false }
            } else {
                Body::Data { left: value }
            }),
            Body::DataEnd { seen_cr: false } if byte == b'\r' => Ok(Body::DataEnd { seen_cr: true }),
            Body::DataEnd { seen_cr: true } if byte == b'\n' => Ok(Body::CHUNKED),
            Body::Trailer { total, line, seen_cr } => match (byte, seen_cr) {
                _ if total >= limits.chunk_line_bytes => bad,
                (b'\r', false) => Ok(Body::Trailer { total: total + 1, line, seen_cr: true }),
                (b'\n', true) if line == 0 => Ok(Body::Done),
                (b'\n', true) => Ok(Body::Trailer { total: total + 1, line: 0, seen_cr: false }),
                (b'\n' | 0, false) | (_, true) => bad,
                _ => Ok(Body::Trailer { total: total + 1, line: line + 1, seen_cr: false }),
            },
            _ => bad,
        }
    }
}

fn push(into: &mut Vec<u8>, bytes: &[u8], limits: &Limits) -> Result<(), Refusal> {
    if into.len() + bytes.len() > limits.body_bytes {
        return Err(Reason::BodyTooLarge.refusal());
    }
    into.extend_from_slice(bytes);
    Ok(())
}
