//! Body framing of requests: Content-Length and chunked (RFC 9112 6, 7.1).
//!
//! In: plaintext behind a head. Out: decoded bytes appended to the request's body. Owned by the connection's
//! [`Reader`](crate::Reader).

use crate::head::Framing;
use crate::reply::{is_text, is_token_byte};
use crate::{Limits, Reason, Refusal};

/// Framing bytes of a chunk that are taken as usual, besides twice its data. What goes beyond adds up, so that a
/// small body cannot arrive in endless extensions.
const CHUNK_FRAMING_USUAL: usize = 16;

/// How often [`Limits::chunk_line_bytes`] all unusual framing of one body may take.
const CHUNK_EXCESS_LINES: usize = 16;

/// A body on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    state: State,
    /// Unusual framing bytes so far.
    excess: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None, or all of it is here.
    Done,
    /// Bytes still to come.
    Length(u64),
    /// Hex digits of a chunk's size: how many so far, the value.
    Size { digits: u8, value: u64, line: usize },
    /// White space behind the size: an extension may follow, nothing else (RFC 9112 7.1.1).
    Blank { value: u64, line: usize },
    /// Chunk extension, skipped to the end of the line.
    Extension { value: u64, line: usize },
    /// LF of a size line.
    SizeEnd { value: u64, line: usize },
    /// Chunk data.
    Data { left: u64 },
    /// CR, then LF behind chunk data.
    DataEnd { seen_cr: bool },
    /// No framing: all that comes, for as long as the connection lasts.
    Raw,
    /// Trailer section, checked and skipped: bytes so far, and where in its line.
    Trailer { total: usize, at: TrailerAt },
}

/// What is next of a body: framing, then data.
struct Next {
    /// Bytes of framing.
    skipped: usize,
    /// Bytes of data behind them.
    data: usize,
}

/// Where in a line of the trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TrailerAt {
    /// At its start.
    Start,
    /// In a field's name.
    Name,
    /// In a field's value.
    Value,
    /// Behind the CR of a field line.
    FieldEnd,
    /// Behind the CR of the empty line.
    SectionEnd,
}

impl Default for Body {
    fn default() -> Body {
        Body::of(Framing::None)
    }
}

const SIZE: State = State::Size { digits: 0, value: 0, line: 0 };

impl Body {
    /// The start of a body framed like this.
    pub(crate) fn of(framing: Framing) -> Body {
        let state = match framing {
            Framing::None => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => SIZE,
        };
        Body { state, excess: 0 }
    }

    /// What comes once the protocol is another one.
    pub(crate) fn raw() -> Body {
        Body { state: State::Raw, excess: 0 }
    }

    /// Whether all of it is here.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Decodes as much as there is. Returns the bytes used: all, unless the body ends before.
    pub(crate) fn feed(
        &mut self,
        bytes: &[u8],
        into: &mut Vec<u8>,
        limits: &Limits,
    ) -> Result<usize, Refusal> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            let Next { skipped, data } = self.next(&bytes[at..], usize::MAX, into.len(), limits)?;
            at += skipped;
            // Copied, since the lender of `bytes` wants them back.
            into.extend_from_slice(&bytes[at..at + data]);
            at += data;
        }
        Ok(at)
    }

    /// Decodes framing up to data, and as much of that as there is and `room` for. `decoded` bytes came before.
    fn next(&mut self, bytes: &[u8], room: usize, decoded: usize, limits: &Limits) -> Result<Next, Refusal> {
        let mut skipped = 0;
        while skipped < bytes.len() && !self.is_done() {
            let here = (bytes.len() - skipped).min(room);
            match self.state {
                State::Length(left) => {
                    let (data, left) = take(left, here, decoded, limits)?;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Next { skipped, data });
                }
                State::Data { left } => {
                    let (data, left) = take(left, here, decoded, limits)?;
                    self.state =
                        if left == 0 { State::DataEnd { seen_cr: false } } else { State::Data { left } };
                    return Ok(Next { skipped, data });
                }
                State::Raw => return Ok(Next { skipped, data: here }),
                _ => {
                    self.state = self.step(bytes[skipped], decoded, limits)?;
                    skipped += 1;
                }
            }
        }
        Ok(Next { skipped, data: 0 })
    }

    /// One byte of chunked framing.
    fn step(&mut self, byte: u8, decoded: usize, limits: &Limits) -> Result<State, Refusal> {
        match self.state {
            State::Size { digits, value, line } => size(byte, digits, value, line, limits),
            State::Blank { value, line } => match byte {
                _ if line >= limits.chunk_line_bytes => bad(),
                b' ' | b'\t' => Ok(State::Blank { value, line: line + 1 }),
                b';' => Ok(State::Extension { value, line: line + 1 }),
                _ => bad(),
            },
            State::Extension { value, line } => match byte {
                _ if line >= limits.chunk_line_bytes => bad(),
                b'\r' => Ok(State::SizeEnd { value, line: line + 1 }),
                _ if !is_text(byte) => bad(),
                _ => Ok(State::Extension { value, line: line + 1 }),
            },
            State::SizeEnd { value, line } if byte == b'\n' => self.size_end(value, line, decoded, limits),
            State::DataEnd { seen_cr: false } if byte == b'\r' => Ok(State::DataEnd { seen_cr: true }),
            State::DataEnd { seen_cr: true } if byte == b'\n' => Ok(SIZE),
            State::Trailer { total, at } => trailer(byte, total, at, limits),
            _ => bad(),
        }
    }

    /// A size line is whole.
    fn size_end(
        &mut self,
        size: u64,
        line: usize,
        decoded: usize,
        limits: &Limits,
    ) -> Result<State, Refusal> {
        if size == 0 {
            return Ok(State::Trailer { total: 0, at: TrailerAt::Start });
        }
        // Said at once rather than after as many bytes as the limit.
        if size > limits.body_bytes.saturating_sub(decoded) as u64 {
            return Err(Reason::BodyTooLarge.refusal());
        }
        let usual = CHUNK_FRAMING_USUAL + 2 * size as usize;
        self.excess += line.saturating_sub(usual);
        if self.excess > CHUNK_EXCESS_LINES * limits.chunk_line_bytes {
            return bad();
        }
        Ok(State::Data { left: size })
    }
}

fn bad() -> Result<State, Refusal> {
    Err(Reason::Chunk.refusal())
}

fn size(byte: u8, digits: u8, value: u64, line: usize, limits: &Limits) -> Result<State, Refusal> {
    let line = line + 1;
    if line > limits.chunk_line_bytes {
        return bad();
    }
    match byte {
        b'\r' if digits > 0 => Ok(State::SizeEnd { value, line }),
        b';' if digits > 0 => Ok(State::Extension { value, line }),
        b' ' | b'\t' if digits > 0 => Ok(State::Blank { value, line }),
        // Sixteen digits fill the value; more, even zeros, are refused, so the shift never loses a bit.
        _ if digits < 16 => match (byte as char).to_digit(16) {
            Some(digit) => Ok(State::Size { digits: digits + 1, value: value << 4 | u64::from(digit), line }),
            None => bad(),
        },
        _ => bad(),
    }
}

/// One byte of the trailer section. Its fields are discarded (RFC 9110 6.5.1), but have to be fields: what one parser
/// skips as a trailer another would read as the next request.
fn trailer(byte: u8, total: usize, at: TrailerAt, limits: &Limits) -> Result<State, Refusal> {
    let total = total + 1;
    if total > limits.chunk_line_bytes {
        return bad();
    }
    let at = match (at, byte) {
        (TrailerAt::Start, b'\r') => TrailerAt::SectionEnd,
        (TrailerAt::SectionEnd, b'\n') => return Ok(State::Done),
        (TrailerAt::Name, b':') => TrailerAt::Value,
        (TrailerAt::Start | TrailerAt::Name, _) if is_token_byte(byte) => TrailerAt::Name,
        (TrailerAt::Value, b'\r') => TrailerAt::FieldEnd,
        (TrailerAt::Value, _) if is_text(byte) => TrailerAt::Value,
        (TrailerAt::FieldEnd, b'\n') => TrailerAt::Start,
        _ => return bad(),
    };
    Ok(State::Trailer { total, at })
}

/// How many of the bytes that are here belong to the `left` ones, and how many of those are still to come.
fn take(left: u64, here: usize, decoded: usize, limits: &Limits) -> Result<(usize, u64), Refusal> {
    let data = left.min(here as u64) as usize;
    if data > limits.body_bytes.saturating_sub(decoded) {
        return Err(Reason::BodyTooLarge.refusal());
    }
    Ok((data, left - data as u64))
}

/// A body that comes while its request runs already: what is behind the bytes the request has of it.
#[derive(Clone, Copy, Debug)]
pub struct Upload {
    body: Body,
    /// Bytes of data so far.
    decoded: usize,
}

impl Upload {
    /// Of a request that has these bytes of it.
    pub(crate) fn behind(body: Body, decoded: usize) -> Upload {
        Upload { body, decoded }
    }

    /// What comes once the protocol is another one, without an end of its own.
    pub fn raw() -> Upload {
        Upload::behind(Body::raw(), 0)
    }

    /// Whether all of it has come.
    pub fn is_over(&self) -> bool {
        self.body.is_done()
    }

    /// Decodes to the start of `out` as much as there is room for. Returns the bytes used and those written. With room for
    /// all of `bytes` all are used, unless the body ends before.
    ///
    /// # Errors
    /// A [`Refusal`]: the body cannot be made whole. Its `head_only` is the caller's to say.
    pub fn feed(&mut self, bytes: &[u8], out: &mut [u8], limits: &Limits) -> Result<(usize, usize), Refusal> {
        let limits = limits.of_streamed();
        let (mut at, mut written) = (0, 0);
        while at < bytes.len() && !self.is_over() {
            let room = out.len() - written;
            let Next { skipped, data } = self.body.next(&bytes[at..], room, self.decoded, &limits)?;
            at += skipped;
            // Copied, since the lender of `bytes` wants them back.
            out[written..written + data].copy_from_slice(&bytes[at..at + data]);
            (at, written, self.decoded) = (at + data, written + data, self.decoded + data);
            if skipped + data == 0 {
                break;
            }
        }
        Ok((at, written))
    }
}
