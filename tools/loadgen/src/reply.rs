//! Reads HTTP/1.1 replies (RFC 9112): bytes in any fragmentation go in, status, body slices and the end come out.

/// Largest head of a reply, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most header fields of a reply.
pub const HEADERS_MAX: usize = 64;
/// Longest line of a chunked body's framing, in bytes.
pub const CHUNK_LINE_BYTES_MAX: usize = 1024;

/// What the next bytes meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Everything given was taken in; the reply goes on.
    More,
    /// The head is complete.
    Head(Head),
    /// Bytes of the body.
    Body(&'a [u8]),
    /// The reply is complete.
    End,
}

/// What matters of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// The server closes the connection after this reply.
    pub close: bool,
}

/// A reply that is not HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The head does not parse, or has too many fields.
    #[error("malformed head")]
    Head,
    /// The head, or a line of chunked framing, is too long.
    #[error("line or head too long")]
    TooLong,
    /// Neither one valid Content-Length nor chunked.
    #[error("unclear body length")]
    Framing,
    /// Chunked framing is broken.
    #[error("malformed chunk")]
    Chunk,
}

/// Where in a reply the reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
    UntilClose,
    End,
}

/// One connection's reader; after [`Event::End`] it is ready for the next reply.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// The head, or a line of framing, as far as it has come.
    partial: Vec<u8>,
}

impl Default for Reader {
    fn default() -> Self {
        Reader { state: State::Head, partial: Vec::new() }
    }
}

impl Reader {
    /// Nothing of a reply has come yet.
    pub fn is_idle(&self) -> bool {
        self.state == State::Head && self.partial.is_empty()
    }

    /// The connection was closed in order; true where that is how the reply ends (RFC 9112 section 6.3 item 8).
    pub fn is_ended_by_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Takes bytes from the front of `bytes`; returns how many, and what they meant.
    ///
    /// # Errors
    /// Bytes that are not HTTP/1.1; the connection is of no more use.
    pub fn feed<'a>(&mut self, bytes: &'a [u8]) -> Result<(usize, Event<'a>), Malformed> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match self.state {
                State::End => {
                    self.state = State::Head;
                    return Ok((used, Event::End));
                }
                _ if rest.is_empty() => return Ok((used, Event::More)),
                State::Head => {
                    let (taken, head) = self.head(rest)?;
                    used += taken;
                    match head {
                        Some(head) => return Ok((used, Event::Head(head))),
                        None => continue,
                    }
                }
                State::Length(left) => {
                    let part = &rest[..clamp(left, rest.len())];
                    self.state = after(left, part.len(), State::Length, State::End);
                    return Ok((used + part.len(), Event::Body(part)));
                }
                State::Chunk(left) => {
                    let part = &rest[..clamp(left, rest.len())];
                    self.state = after(left, part.len(), State::Chunk, State::ChunkEnd);
                    return Ok((used + part.len(), Event::Body(part)));
                }
                State::UntilClose => return Ok((bytes.len(), Event::Body(rest))),
                State::ChunkSize | State::ChunkEnd | State::Trailer => used += self.line(rest)?,
            }
        }
    }

    /// Takes bytes of the head; `Some` when it is complete and not an interim reply.
    fn head(&mut self, bytes: &[u8]) -> Result<(usize, Option<Head>), Malformed> {
        // A head usually comes whole, and is then parsed where it is.
        if self.partial.is_empty() {
            if let Some((taken, head, state)) = parse_head(bytes)? {
                self.state = state;
                return Ok((taken, head));
            }
            if bytes.len() > HEAD_BYTES_MAX {
                return Err(Malformed::TooLong);
            }
            self.partial.extend_from_slice(bytes);
            return Ok((bytes.len(), None));
        }
        let had = self.partial.len();
        let taken = bytes.len().min(HEAD_BYTES_MAX.saturating_sub(had));
        self.partial.extend_from_slice(&bytes[..taken]);
        match parse_head(&self.partial)? {
            Some((whole, head, state)) => {
                self.partial.clear();
                self.state = state;
                Ok((whole.saturating_sub(had), head))
            }
            None if self.partial.len() >= HEAD_BYTES_MAX => Err(Malformed::TooLong),
            None => Ok((taken, None)),
        }
    }

    /// Takes bytes up to the end of one line of chunked framing and acts on it when it is whole.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let end = bytes.iter().position(|&byte| byte == b'\n').map(|at| at + 1);
        let taken = end.unwrap_or(bytes.len());
        if self.partial.len() + taken > CHUNK_LINE_BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        self.partial.extend_from_slice(&bytes[..taken]);
        if end.is_none() {
            return Ok(taken);
        }
        self.state = match self.state {
            State::ChunkSize => match httparse::parse_chunk_size(&self.partial) {
                Ok(httparse::Status::Complete((_, 0))) => State::Trailer,
                Ok(httparse::Status::Complete((_, size))) => State::Chunk(size),
                _ => return Err(Malformed::Chunk),
            },
            State::ChunkEnd if self.partial == b"\r\n" => State::ChunkSize,
            State::Trailer if self.partial == b"\r\n" => State::End,
            State::Trailer if self.partial.ends_with(b"\r\n") => State::Trailer,
            _ => return Err(Malformed::Chunk),
        };
        self.partial.clear();
        Ok(taken)
    }
}

/// `left` or `have`, whichever is less.
fn clamp(left: u64, have: usize) -> usize {
    usize::try_from(left).map_or(have, |left| left.min(have))
}

/// The state after `taken` of `left` bytes.
fn after(left: u64, taken: usize, more: fn(u64) -> State, done: State) -> State {
    match left - taken as u64 {
        0 => done,
        left => more(left),
    }
}

/// Parses a head at the front of `bytes`: its length, what matters of it (`None` for 1xx), and what follows.
#[allow(clippy::type_complexity)]
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Option<Head>, State)>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Malformed::Head),
    };
    let status = response.code.ok_or(Malformed::Head)?;
    if (100..200).contains(&status) {
        return Ok(Some((length, None, State::Head)));
    }
    let mut close = response.version == Some(0);
    let mut content_length = None;
    let mut chunked = false;
    for header in response.headers.iter() {
        if header.name.eq_ignore_ascii_case("content-length") {
            let value =
                std::str::from_utf8(header.value).ok().and_then(|text| text.trim().parse::<u64>().ok());
            // Two that differ, or one that is no number, leave the length open to argument (RFC 9112 section 6.3).
            if value.is_none() || (content_length.is_some() && content_length != value) {
                return Err(Malformed::Framing);
            }
            content_length = value;
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            if !header.value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed::Framing);
            }
            chunked = true;
        } else if header.name.eq_ignore_ascii_case("connection") {
            let mut options = header.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
            close |= options.any(|option| option.eq_ignore_ascii_case(b"close"));
        }
    }
    let state = match (chunked, content_length) {
        _ if status == 204 || status == 304 => State::End,
        (true, Some(_)) => return Err(Malformed::Framing),
        (true, None) => State::ChunkSize,
        (false, Some(0)) => State::End,
        (false, Some(length)) => State::Length(length),
        (false, None) => State::UntilClose,
    };
    Ok(Some((length, Some(Head { status, close: close || state == State::UntilClose }), state)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Status, close and body.
    type Reply = (u16, bool, Vec<u8>);

    /// What a stream of replies says, and whether it ends where one of them does.
    fn read(stream: &[u8], cut: usize) -> Result<(Vec<Reply>, bool), Malformed> {
        let mut reader = Reader::default();
        let mut replies = Vec::new();
        let mut body = Vec::new();
        let mut head = None;
        for part in stream.chunks(cut) {
            let mut rest = part;
            loop {
                let (used, event) = reader.feed(rest)?;
                rest = &rest[used..];
                match event {
                    Event::More => break,
                    Event::Head(found) => head = Some(found),
                    Event::Body(bytes) => body.extend_from_slice(bytes),
                    Event::End => {
                        let head = head.take().expect("a head before the end");
                        replies.push((head.status, head.close, std::mem::take(&mut body)));
                    }
                }
            }
        }
        Ok((replies, reader.is_idle()))
    }

    const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello\
        HTTP/1.1 100 Continue\r\n\r\n\
        HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\nA\r\n0123456789\r\n0\r\nT: v\r\n\r\n\
        HTTP/1.1 204 No Content\r\n\r\n\
        HTTP/1.1 503 No\r\nConnection: keep-alive, Close\r\nContent-Length: 0\r\n\r\n";

    proptest! {
        #[test]
        fn any_fragmentation_reads_the_same(cut in 1..STREAM.len() + 1) {
            let expected = vec![
                (200, false, b"hello".to_vec()),
                (200, false, b"abcd0123456789".to_vec()),
                (204, false, vec![]),
                (503, true, vec![]),
            ];
            prop_assert_eq!(read(STREAM, cut), Ok((expected, true)));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, cut in 1_usize..50) {
            let _ = read(&bytes, cut);
        }
    }

    #[test]
    fn broken_framing_is_refused() {
        let head = "HTTP/1.1 200 OK\r\n";
        let refusal = |stream: &str, cut| read(stream.as_bytes(), cut).unwrap_err().to_string();
        for (fields, fault) in [
            ("X A: b\r\n\r\n", "malformed head"),
            ("Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "unclear body length"),
            ("Content-Length: x\r\n\r\n", "unclear body length"),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "unclear body length"),
            ("Transfer-Encoding: gzip\r\n\r\n", "unclear body length"),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n", "malformed chunk"),
            ("Transfer-Encoding: chunked\r\n\r\nzz\r\n", "malformed chunk"),
        ] {
            assert_eq!(refusal(&format!("{head}{fields}"), 7), fault, "{fields}");
        }
        let endless = format!("{head}X: {}", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(refusal(&endless, 100), "line or head too long");
        assert_eq!(refusal(&endless, endless.len()), "line or head too long");
    }

    #[test]
    fn without_framing_the_close_ends_it() {
        let mut reader = Reader::default();
        let bytes = b"HTTP/1.0 200 OK\r\n\r\nabc";
        let (used, head) = reader.feed(bytes).unwrap();
        assert_eq!(head, Event::Head(Head { status: 200, close: true }));
        assert_eq!(reader.feed(&bytes[used..]), Ok((3, Event::Body(b"abc"))));
        assert!(reader.is_ended_by_close());
    }
}
