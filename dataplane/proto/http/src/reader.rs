//! Reads requests of one connection, one after the other, from plaintext in any fragmentation.
//!
//! In: slices of plaintext, and the request to fill. Out: how far it is, and how many bytes belong to it. Owned by
//! the connection's worker.

use crate::body::Body;
use crate::head::{self, Facts, Framing};
use crate::{AWAITED_BYTES_MAX, Limits, Reason, Refusal, Request};

/// Bytes of empty lines skipped before a request line. RFC 9112 2.2 wants one line tolerated; without a bound they
/// would keep a connection open for ever, because no request, and so no time-out, has begun.
const BLANK_BYTES_MAX: u8 = 8;

/// Bytes of a head that are kept where it is refused, for whoever tells of it.
const REFUSED_BYTES_MAX: usize = 512;

/// What feeding some bytes led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The request is not whole yet; every byte was used.
    NeedMore,
    /// The head is whole and the client waits for 100 (Continue); feed on after sending it.
    Continue100,
    /// The head is whole, the body is not and [streams](Reader::feed_or_stream): what has come of it the request has, the
    /// rest is for its [`Request::upload`].
    Streams,
    /// The request is whole.
    Complete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Empty lines before a request line: bytes so far.
    Blank(u8),
    Head,
    /// How far it is, its request knows.
    Body,
}

/// Reads requests of one connection.
#[derive(Debug)]
pub struct Reader {
    stage: Stage,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

impl Reader {
    /// A reader before its first request.
    pub fn new() -> Reader {
        Reader { stage: Stage::Blank(0) }
    }

    /// Whether part of a request has come: its time-out runs.
    pub fn head_started(&self) -> bool {
        !matches!(self.stage, Stage::Blank(_))
    }

    /// Whether the head is whole and the body, or more of it, awaited.
    pub fn body_started(&self) -> bool {
        self.stage == Stage::Body
    }

    /// Feeds bytes. Returns how many belong to this request; the rest is the next one's. The first bytes of a
    /// request empty `into`, which has to be the same until it is complete.
    ///
    /// # Errors
    /// A [`Refusal`]: answer it and end the connection.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        into: &mut Request,
        limits: &Limits,
    ) -> Result<(usize, Progress), Refusal> {
        self.feed_or_stream(bytes, into, limits, |_| false)
    }

    /// As [`feed`](Reader::feed), but what `streams` says yes to, of a head that is whole, may run before its body has come. A
    /// body that is here with its head, or is [short](crate::AWAITED_BYTES_MAX), does not stream.
    ///
    /// # Errors
    /// A [`Refusal`]: answer it and end the connection.
    pub fn feed_or_stream(
        &mut self,
        bytes: &[u8],
        into: &mut Request,
        limits: &Limits,
        streams: impl Fn(&Request) -> bool,
    ) -> Result<(usize, Progress), Refusal> {
        match self.stage {
            Stage::Blank(before) => {
                let (skipped, blank) = skip_blank(before, bytes)?;
                self.stage = Stage::Blank(blank);
                if skipped == bytes.len() {
                    return Ok((skipped, Progress::NeedMore));
                }
                self.stage = Stage::Head;
                into.clear();
                self.first_piece(bytes, skipped, into, limits, streams)
            }
            Stage::Head => self.next_piece(bytes, into, limits, streams),
            Stage::Body => self.feed_body(bytes, 0, into, limits),
        }
    }

    /// The whole head in one piece is parsed where it is and copied once, because what lent it wants it back.
    fn first_piece(
        &mut self,
        bytes: &[u8],
        from: usize,
        into: &mut Request,
        limits: &Limits,
        streams: impl Fn(&Request) -> bool,
    ) -> Result<(usize, Progress), Refusal> {
        let fresh = &bytes[from..];
        // What is refused is told of, too.
        let keep = |_: &Refusal| into.head.extend_from_slice(&fresh[..fresh.len().min(REFUSED_BYTES_MAX)]);
        match head::parse(fresh, limits).inspect_err(keep)? {
            Some((used, facts)) => {
                into.head.extend_from_slice(&fresh[..used]);
                self.head_done(bytes, from + used, facts, into, limits, streams)
            }
            None => {
                // Shorter than the limit, or it would have been refused.
                into.head.extend_from_slice(fresh);
                Ok((bytes.len(), Progress::NeedMore))
            }
        }
    }

    /// In pieces it is gathered, and parsed again only when the bytes that came can have ended it: a client that
    /// sends byte by byte costs one look at each.
    fn next_piece(
        &mut self,
        bytes: &[u8],
        into: &mut Request,
        limits: &Limits,
        streams: impl Fn(&Request) -> bool,
    ) -> Result<(usize, Progress), Refusal> {
        let before = into.head.len();
        let taken = bytes.len().min(limits.head_bytes.saturating_sub(before));
        into.head.extend_from_slice(&bytes[..taken]);
        let is_full = into.head.len() >= limits.head_bytes;
        if !is_full && !head::may_end(&into.head, before) {
            return Ok((taken, Progress::NeedMore));
        }
        match head::parse(&into.head, limits)? {
            Some((used, facts)) => {
                into.head.truncate(used);
                self.head_done(bytes, used - before, facts, into, limits, streams)
            }
            None => Ok((taken, Progress::NeedMore)),
        }
    }

    fn head_done(
        &mut self,
        bytes: &[u8],
        used: usize,
        facts: Facts,
        into: &mut Request,
        limits: &Limits,
        streams: impl Fn(&Request) -> bool,
    ) -> Result<(usize, Progress), Refusal> {
        let framing = facts.framing;
        into.facts = facts;
        into.coming = Body::of(framing);
        self.stage = Stage::Body;
        if framing == Framing::None {
            return self.feed_body(bytes, used, into, limits);
        }
        let is_awaited = |length: u64| length <= AWAITED_BYTES_MAX && length <= limits.body_bytes as u64;
        let streams = !matches!(framing, Framing::Length(length) if is_awaited(length)) && streams(into);
        let limits = &if streams { limits.of_streamed() } else { *limits };
        if matches!(framing, Framing::Length(length) if length > limits.body_bytes as u64) {
            return Err(refused(Reason::BodyTooLarge.refusal(), into));
        }
        // A client that has sent body bytes already does not wait (RFC 9110 10.1.1).
        if into.facts.expects_continue && used == bytes.len() && !streams {
            return Ok((used, Progress::Continue100));
        }
        let (used, progress) = self.feed_body(bytes, used, into, limits)?;
        if streams && progress == Progress::NeedMore {
            *self = Reader::new();
            return Ok((used, Progress::Streams));
        }
        Ok((used, progress))
    }

    fn feed_body(
        &mut self,
        bytes: &[u8],
        from: usize,
        into: &mut Request,
        limits: &Limits,
    ) -> Result<(usize, Progress), Refusal> {
        let fed = into.coming.feed(&bytes[from..], &mut into.body, limits);
        let used = from + fed.map_err(|refusal| refused(refusal, into))?;
        if into.coming.is_done() {
            *self = Reader::new();
            return Ok((used, Progress::Complete));
        }
        Ok((used, Progress::NeedMore))
    }
}

/// A refusal of a request whose head is good.
fn refused(refusal: Refusal, request: &Request) -> Refusal {
    Refusal { head_only: request.asks_head_only(), ..refusal }
}

/// Skips empty lines, of which `before` bytes have come already. Returns the bytes skipped now and in all.
fn skip_blank(before: u8, bytes: &[u8]) -> Result<(usize, u8), Refusal> {
    let mut blank = before;
    for (at, byte) in bytes.iter().enumerate() {
        match (byte, blank % 2) {
            (b'\r', 0) | (b'\n', 1) if blank < BLANK_BYTES_MAX => blank += 1,
            (b'\r' | b'\n', _) | (_, 1) => return Err(Reason::Syntax.refusal()),
            _ => return Ok((at, blank)),
        }
    }
    Ok((bytes.len(), blank))
}
