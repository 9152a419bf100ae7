//! Reads requests of one connection, one after the other, from plaintext in any fragmentation.

use crate::body::Body;
use crate::head::{self, Framing};
use crate::{Limits, Reason, Refusal, Request};

/// What feeding some bytes led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The request is not whole yet.
    NeedMore,
    /// The head is whole and the client waits for 100 (Continue); feed on after sending it.
    Continue100,
    /// The request is whole.
    Complete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Head,
    Body(Body),
}

/// Reads requests of one connection.
#[derive(Debug)]
pub struct Reader {
    stage: Stage,
    started: bool,
}

impl Default for Reader {
    fn default() -> Reader {
        Reader::new()
    }
}

impl Reader {
    /// A reader before its first request.
    pub fn new() -> Reader {
        Reader { stage: Stage::Head, started: false }
    }

    /// Whether part of a request has come: its time-out runs.
    pub fn head_started(&self) -> bool {
        self.started
    }

    /// Feeds bytes. Returns how many belong to this request; the rest is the next one's.
    ///
    /// # Errors
    /// A [`Refusal`]: answer it and end the connection.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        into: &mut Request,
        limits: &Limits,
    ) -> Result<(usize, Progress), Refusal> {
        match self.stage {
            Stage::Head => self.feed_head(bytes, into, limits),
            Stage::Body(_) => self.feed_body(bytes, 0, into, limits),
        }
    }

    fn feed_head(
        &mut self,
        bytes: &[u8],
        into: &mut Request,
        limits: &Limits,
    ) -> Result<(usize, Progress), Refusal> {
        let mut skipped = 0;
        if into.head.is_empty() {
            // An empty line before a request is ignored (RFC 9112 2.2).
            while bytes[skipped..].starts_with(b"\r\n") {
                skipped += 2;
            }
            if skipped == bytes.len() {
                return Ok((skipped, Progress::NeedMore));
            }
        }
        self.started = true;
        let before = into.head.len();
        let fresh = &bytes[skipped..];
        let room = limits.head_bytes.saturating_sub(before);
        if before == 0 {
            // The whole head in one piece: parsed where it is, copied once.
            if let Some((used, facts)) = head::parse(fresh, limits)? {
                into.head.extend_from_slice(&fresh[..used]);
                into.facts = facts;
                return self.head_done(bytes, skipped + used, into, limits);
            }
            into.head.extend_from_slice(&fresh[..fresh.len().min(room)]);
            return Ok((bytes.len(), Progress::NeedMore));
        }
        // In pieces: parsed again only when the bytes that came can have ended it.
        let take = fresh.len().min(room);
        into.head.extend_from_slice(&fresh[..take]);
        let from = before.saturating_sub(3);
        let ended = into.head[from..].windows(4).any(|end| end == b"\r\n\r\n")
            || into.head[from..].windows(2).any(|end| end == b"\n\n");
        if !ended && take == fresh.len() && into.head.len() < limits.head_bytes {
            return Ok((bytes.len(), Progress::NeedMore));
        }
        match head::parse(&into.head, limits)? {
            Some((used, facts)) => {
                into.head.truncate(used);
                into.facts = facts;
                self.head_done(bytes, skipped + used - before, into, limits)
            }
            None => Ok((skipped + take, Progress::NeedMore)),
        }
    }

    fn head_done(
        &mut self,
        bytes: &[u8],
        used: usize,
        into: &mut Request,
        limits: &Limits,
    ) -> Result<(usize, Progress), Refusal> {
        self.stage = Stage::Body(match into.facts.framing {
            Framing::None => Body::Done,
            Framing::Length(length) if length > limits.body_bytes as u64 => {
                return Err(Reason::BodyTooLarge.refusal());
            }
            Framing::Length(length) => Body::Length(length),
            Framing::Chunked => Body::CHUNKED,
        });
        // A client that has sent body bytes already does not wait (RFC 9110 10.1.1).
        if into.facts.expects_continue && used == bytes.len() && into.facts.framing != Framing::None {
            return Ok((used, Progress::Continue100));
        }
        self.feed_body(bytes, used, into, limits)
    }

    fn feed_body(
        &mut self,
        bytes: &[u8],
        from: usize,
        into: &mut Request,
        limits: &Limits,
    ) -> Result<(usize, Progress), Refusal> {
        let Stage::Body(body) = &mut self.stage else { return Ok((from, Progress::NeedMore)) };
        let used = from + body.feed(&bytes[from..], &mut into.body, limits)?;
        if *body == Body::Done {
            *self = Reader::new();
            return Ok((used, Progress::Complete));
        }
        Ok((used, Progress::NeedMore))
    }
}
