//! The body of a reply: a short text, a range of a file, or several ranges in one (RFC 9110 14.6).
//!
//! In: a file, open or in memory, what it was when the reply began, and ranges. Out: bytes, or that they cannot be had any more.

use std::fmt::Write as _;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use arrayvec::ArrayString;
use rustix::fs::{Stat, fstat};
use rustix::io::{pread, retry_on_intr};

use crate::static_files::cache::Held;
use crate::static_files::range::Ranges;
use crate::{Body, Memory, Shared};

/// Bytes of the text before one part at most: boundary, content type, Content-Range with three numbers of 20 digits.
const PART_HEAD_BYTES_MAX: usize = 320;

/// Bytes of an entity tag or boundary at most: three numbers of 16 hex digits and what is around them.
const TAG_BYTES_MAX: usize = 64;

/// One state of a file. Two are the same if size and time of modification are; the time has the grain of the
/// kernel's clock, so only changes of the same moment and size are missed. Nothing in it differs between nodes that
/// serve copies of a file, so that a client may continue on any of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// Bytes.
    pub length: u64,
    /// Seconds since 1970.
    pub modified: u64,
    /// And nanoseconds.
    nanoseconds: u64,
}

impl State {
    /// The state the kernel tells of.
    pub(super) fn of(stat: &Stat) -> State {
        State {
            length: u64::try_from(stat.st_size).unwrap_or(0),
            modified: u64::try_from(stat.st_mtime).unwrap_or(0),
            nanoseconds: stat.st_mtime_nsec,
        }
    }

    /// Its entity tag (RFC 9110 8.8.3), quotes included.
    pub(super) fn tag(&self) -> ArrayString<TAG_BYTES_MAX> {
        self.text("\"", "\"")
    }

    /// What separates the parts of a reply: nothing a file is likely to hold, since it changes with the file.
    fn boundary(&self) -> ArrayString<TAG_BYTES_MAX> {
        self.text("keyferry-", "")
    }

    fn text(&self, before: &str, after: &str) -> ArrayString<TAG_BYTES_MAX> {
        let mut text = ArrayString::new();
        let State { length, modified, nanoseconds } = self;
        // It fits, by the length of its numbers.
        let _ = write!(text, "{before}{modified:x}.{nanoseconds:x}-{length:x}{after}");
        text
    }
}

/// Where the bytes of a reply come from.
pub(super) enum Source {
    /// An open file, and what it was when the reply began.
    File(OwnedFd, State),
    /// One that is in memory.
    Memory(Arc<Held>),
}

impl Source {
    /// What it was when the reply began.
    pub(super) fn state(&self) -> State {
        match self {
            Source::File(_, state) => *state,
            Source::Memory(held) => held.state,
        }
    }

    /// Reads up to `range.end`. `None`: it cannot be read, or is not what it was, so that the promised length, or the
    /// entity tag, would be wrong.
    fn read(&self, range: &Range<u64>, out: &mut [u8]) -> Option<usize> {
        let want = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(out.len());
        match self {
            Source::Memory(held) => {
                let from = usize::try_from(range.start).ok()?;
                out[..want].copy_from_slice(held.bytes.get(from..)?.get(..want)?);
                Some(want)
            }
            Source::File(file, before) => {
                let bytes = retry_on_intr(|| pread(file, &mut out[..want], range.start)).ok()?;
                let state = State::of(&fstat(file).ok()?);
                (bytes > 0 && state == *before).then_some(bytes)
            }
        }
    }

    /// All of it; `None` as for a part.
    pub(super) fn whole(&self) -> Option<Box<[u8]>> {
        let length = self.state().length;
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        let mut read = 0;
        while read < bytes.len() {
            read += self.read(&(read as u64..length), &mut bytes[read..])?;
        }
        Some(bytes.into())
    }
}

/// A body on its way.
pub(super) enum Content {
    /// A text, or its rest.
    Text(&'static str),
    /// A range of a file, or its rest.
    File(Source, Range<u64>),
    /// Several; boxed, they are much the larger and rare.
    Parts(Box<Parts>),
}

impl Content {
    /// Bytes still to come.
    pub(super) fn left(&self) -> u64 {
        match self {
            Content::Text(text) => text.len() as u64,
            Content::File(_, range) => range.end - range.start,
            Content::Parts(parts) => parts.left(),
        }
    }

    /// Some of it where it lies, at most so many bytes; `None`: it has to be written.
    pub(super) fn share(&mut self, bytes_max: usize) -> Option<Shared> {
        let Content::File(Source::Memory(held), range) = self else { return None };
        let from = usize::try_from(range.start).ok()?;
        let bytes = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(bytes_max);
        let shared = Shared::new(Arc::clone(held) as Memory, from..from + bytes)?;
        range.start += bytes as u64;
        Some(shared)
    }

    /// Writes some of it to the start of `out`.
    pub(super) fn write(&mut self, out: &mut [u8]) -> Body {
        let bytes = match self {
            Content::Text(text) => Some(write_text(text, out, |rest| *text = rest)),
            Content::File(source, range) => {
                let bytes = source.read(range, out);
                range.start += bytes.unwrap_or(0) as u64;
                bytes
            }
            Content::Parts(parts) => parts.write(out),
        };
        bytes.map_or(Body::FAILED, |bytes| Body { bytes, end: self.left() == 0 })
    }
}

fn write_text<'a>(text: &'a str, out: &mut [u8], rest: impl FnOnce(&'a str)) -> usize {
    // All these texts are ASCII, so they can be cut anywhere.
    let bytes = text.len().min(out.len());
    out[..bytes].copy_from_slice(&text.as_bytes()[..bytes]);
    rest(&text[bytes..]);
    bytes
}

/// Several ranges of a file, each behind a text that says which (RFC 9110 14.6).
pub(super) struct Parts {
    source: Source,
    content_type: ArrayString<96>,
    ranges: Ranges,
    /// The part under way; behind the last comes the end.
    part: usize,
    /// Bytes written of the text before it.
    text_sent: usize,
    /// Bytes written of its range.
    range_sent: u64,
}

impl Parts {
    /// These ranges.
    pub(super) fn new(source: Source, content_type: &str, ranges: Ranges) -> Parts {
        let content_type = ArrayString::from(content_type).unwrap_or_default();
        Parts { source, content_type, ranges, part: 0, text_sent: 0, range_sent: 0 }
    }

    /// The content type of the whole.
    pub(super) fn content_type(&self) -> ArrayString<96> {
        let mut text = ArrayString::new();
        // It fits: a boundary has at most 64 bytes.
        let _ = write!(text, "multipart/byteranges; boundary={}", self.source.state().boundary());
        text
    }

    /// The text before a part, or, behind the last, the end of the whole.
    fn text(&self, part: usize) -> ArrayString<PART_HEAD_BYTES_MAX> {
        let mut text = ArrayString::new();
        let boundary = self.source.state().boundary();
        // It fits, by the length of what it is made of.
        let _ = match self.ranges.get(part) {
            None => write!(text, "\r\n--{boundary}--\r\n"),
            Some(range) => write!(
                text,
                "\r\n--{boundary}\r\nContent-Type: {}\r\nContent-Range: {}\r\n\r\n",
                self.content_type,
                content_range(range, self.source.state().length)
            ),
        };
        text
    }

    fn left(&self) -> u64 {
        let texts: usize = (self.part..=self.ranges.len()).map(|part| self.text(part).len()).sum();
        let bytes: u64 = self.ranges.iter().skip(self.part).map(|range| range.end - range.start).sum();
        texts as u64 + bytes - self.text_sent as u64 - self.range_sent
    }

    /// Writes some of it.
    fn write(&mut self, out: &mut [u8]) -> Option<usize> {
        let text = self.text(self.part);
        let rest = &text.as_bytes()[self.text_sent..];
        if !rest.is_empty() {
            let bytes = rest.len().min(out.len());
            out[..bytes].copy_from_slice(&rest[..bytes]);
            self.text_sent += bytes;
            return Some(bytes);
        }
        let range = self.ranges.get(self.part)?;
        let bytes = self.source.read(&(range.start + self.range_sent..range.end), out)?;
        self.range_sent += bytes as u64;
        if range.start + self.range_sent == range.end {
            (self.part, self.text_sent, self.range_sent) = (self.part + 1, 0, 0);
        }
        Some(bytes)
    }
}

/// The value of Content-Range (RFC 9110 14.4).
pub(super) fn content_range(range: &Range<u64>, length: u64) -> ArrayString<80> {
    let mut text = ArrayString::new();
    // It fits: three numbers of 20 digits.
    let _ = write!(text, "bytes {}-{}/{length}", range.start, range.end - 1);
    text
}
