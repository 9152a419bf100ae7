//! Reads a client's replies and compares every byte with what their maker must have written.

use std::collections::VecDeque;

use crate::app;

/// What a reply has to be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Bytes of its body, if it is a 200.
    pub bytes: usize,
    /// Length and sum of the request's body.
    pub uploaded: String,
}

/// A whole reply.
#[derive(Clone, Copy, Debug)]
pub struct Whole {
    /// Its status.
    pub status: u16,
    /// Who made it.
    pub served: Option<u64>,
    /// The server ends the connection behind it.
    pub close: bool,
}

#[derive(Clone, Copy, Debug)]
enum Body {
    Length(usize),
    Size,
    Chunk(usize),
    ChunkEnd,
    Trailer,
}

struct Reply {
    whole: Whole,
    body: Body,
    read: usize,
    expected: Option<Expected>,
}

/// The replies of one connection.
#[derive(Default)]
pub struct Replies {
    expected: VecDeque<Expected>,
    bytes: Vec<u8>,
    current: Option<Reply>,
}

impl Replies {
    /// A request was sent.
    pub fn expect(&mut self, expected: Expected) {
        self.expected.push_back(expected);
    }

    /// Whether part of a reply is here.
    pub fn is_partial(&self) -> bool {
        self.current.is_some() || !self.bytes.is_empty()
    }

    /// Takes plaintext.
    pub fn take(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole reply, if it is here.
    ///
    /// # Errors
    /// A sentence: a byte is not what it has to be.
    pub fn next_whole(&mut self) -> Result<Option<Whole>, String> {
        if self.current.is_none() && !self.head()? {
            return Ok(None);
        }
        while self.step()? {}
        let done = matches!(self.current.as_ref().map(|reply| reply.body), Some(Body::Length(0)));
        if !done {
            return Ok(None);
        }
        let reply = self.current.take().expect("a reply was just read");
        if let Some(expected) = &reply.expected
            && reply.read != expected.bytes
        {
            return Err(format!("a body of {} bytes instead of {}", reply.read, expected.bytes));
        }
        Ok(Some(reply.whole))
    }

    fn head(&mut self) -> Result<bool, String> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Response::new(&mut headers);
        let len = match head.parse(&self.bytes) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) => return Ok(false),
            Err(error) => return Err(format!("a reply's head is none: {error}")),
        };
        let field = |name: &str| {
            let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).into_owned())
        };
        let status = head.code.unwrap_or(0);
        if status == 100 {
            self.bytes.drain(..len);
            return self.head();
        }
        let mut expected = Some(self.expected.pop_front().ok_or("a reply to no request")?);
        let served = field(app::SERVED_BY).and_then(|text| u64::from_str_radix(&text, 16).ok());
        if status == 200 {
            served.ok_or("a 200 that names no maker")?;
            let uploaded = expected.as_ref().map(|expected| expected.uploaded.clone());
            if field(app::UPLOADED) != uploaded {
                return Err(format!("uploaded {uploaded:?}, arrived {:?}", field(app::UPLOADED)));
            }
        } else {
            expected = None;
        }
        let chunked = field("transfer-encoding").is_some();
        let length = field("content-length").and_then(|text| text.parse().ok());
        let body = match (chunked, length) {
            (true, None) => Body::Size,
            (false, Some(length)) => Body::Length(length),
            _ => return Err("a reply without framing".into()),
        };
        let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        self.bytes.drain(..len);
        self.current = Some(Reply { whole: Whole { status, served, close }, body, read: 0, expected });
        Ok(true)
    }

    /// Reads on; `false` if more bytes are needed, or the body is over.
    fn step(&mut self) -> Result<bool, String> {
        let Some(reply) = &mut self.current else { return Ok(false) };
        match reply.body {
            Body::Length(0) => Ok(false),
            Body::Length(left) => {
                let took = content(reply, &mut self.bytes, left)?;
                reply.body = Body::Length(left - took);
                Ok(took > 0)
            }
            Body::Chunk(left) => {
                let took = content(reply, &mut self.bytes, left)?;
                reply.body = if took == left { Body::ChunkEnd } else { Body::Chunk(left - took) };
                Ok(took > 0)
            }
            Body::Size | Body::ChunkEnd | Body::Trailer => {
                let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\r\n") else {
                    return Ok(false);
                };
                let line: Vec<u8> = self.bytes.drain(..end + 2).take(end).collect();
                reply.body = next_line(reply.body, &line)?;
                Ok(true)
            }
        }
    }
}

fn next_line(at: Body, line: &[u8]) -> Result<Body, String> {
    let text = String::from_utf8_lossy(line);
    match at {
        Body::Size => match usize::from_str_radix(&text, 16) {
            Ok(0) => Ok(Body::Trailer),
            Ok(size) => Ok(Body::Chunk(size)),
            Err(_) => Err(format!("a chunk of size {text:?}")),
        },
        Body::ChunkEnd if line.is_empty() => Ok(Body::Size),
        Body::Trailer if line.is_empty() => Ok(Body::Length(0)),
        _ => Err(format!("{text:?} between chunks")),
    }
}

/// Takes body bytes, each compared with what it has to be.
fn content(reply: &mut Reply, bytes: &mut Vec<u8>, most: usize) -> Result<usize, String> {
    let took = most.min(bytes.len());
    if reply.expected.is_some() {
        let mut right = vec![0; took];
        app::fill(reply.whole.served.unwrap_or(0), reply.read as u64, &mut right);
        if let Some(at) = right.iter().zip(&bytes[..took]).position(|(right, byte)| right != byte) {
            return Err(format!("byte {} of a body is wrong", reply.read + at));
        }
    }
    bytes.drain(..took);
    reply.read += took;
    Ok(took)
}
