//! One whole request in one reusable buffer: the head as received, and the decoded body.

use std::net::SocketAddr;
use std::ops::Range;

use crate::body::{Body, Upload};
use crate::head::{self, Facts, Framing};
use crate::{Limits, Reason, Refusal};

/// A request method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
    /// PATCH
    Patch,
    /// TRACE
    Trace,
    /// Any other token; see [`Request::method_name`].
    Other,
}

impl Method {
    pub(crate) fn of(token: &str) -> Method {
        match token {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            "TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// Safe methods may be run twice (RFC 9110 9.2.1).
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace)
    }
}

/// The two ends of the connection a request came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client's.
    pub client: SocketAddr,
    /// Where it was served.
    pub local: SocketAddr,
}

/// One whole request.
#[derive(Default)]
pub struct Request {
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
    /// How far the body is while it is read.
    pub(crate) coming: Body,
    pub(crate) facts: Facts,
    /// As far as they are known.
    ends: Option<Ends>,
}

impl Request {
    /// An empty request with room for a head and a body of these sizes; it grows within the limits.
    pub fn with_capacity(head_bytes: usize, body_bytes: usize) -> Request {
        let (head, body) = (Vec::with_capacity(head_bytes), Vec::with_capacity(body_bytes));
        Request { head, body, ..Request::default() }
    }

    /// Empties it for the next request. A large body's memory is given back, so that one upload does not stay.
    pub fn clear(&mut self) {
        const KEPT_BODY_BYTES: usize = 64 * 1024;
        self.head.clear();
        self.body.clear();
        self.body.shrink_to(KEPT_BODY_BYTES);
        self.facts = Facts::default();
        self.ends = None;
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.facts.method
    }

    /// The method's name, also of one that [`Method`] does not list.
    pub fn method_name(&self) -> &[u8] {
        self.head.split(|byte| *byte == b' ').next().unwrap_or(&[])
    }

    /// The request target as sent, without scheme and authority if it was in absolute form; never empty.
    pub fn target(&self) -> &[u8] {
        match self.slice(&self.facts.target) {
            // `http://host` means its root, or the server as a whole (RFC 9112 3.2.4).
            [] if self.facts.method == Method::Options => b"*",
            [] => b"/",
            target => target,
        }
    }

    /// Method and path as they came, without the query; of a request that is not whole, or was refused, what of them has.
    pub fn request_line(&self) -> (&[u8], &[u8]) {
        if !self.facts.target.is_empty() {
            return (self.method_name(), self.path());
        }
        let line = self.head.split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or(&[]);
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (method, target) = (words.next().unwrap_or(&[]), words.next().unwrap_or(&[]));
        (method, target.split(|byte| *byte == b'?').next().unwrap_or(target))
    }

    /// Whether its answer never has a body; known as soon as the method has come.
    pub fn asks_head_only(&self) -> bool {
        head::asks_head_only(&self.head)
    }

    /// The target's path.
    pub fn path(&self) -> &[u8] {
        let target = self.target();
        target.split(|byte| *byte == b'?').next().unwrap_or(target)
    }

    /// The target's query, without the question mark.
    pub fn query(&self) -> &[u8] {
        let target = self.target();
        target.iter().position(|byte| *byte == b'?').map_or(&[], |at| &target[at + 1..])
    }

    /// Header fields in order; values without surrounding white space.
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        head::fields(&self.head)
    }

    /// The values of the fields of that name, in any case. To ask for one that is not there costs next to nothing.
    pub fn values<'a, 'n>(&'a self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let head = if self.facts.may_hold(name) { &self.head[..] } else { &[] };
        let fields = head::fields(head);
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// The first field of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.values(name).next()
    }

    /// The host it is for: of an absolute target, else of the Host field.
    pub fn host(&self) -> &[u8] {
        self.slice(&self.facts.host)
    }

    /// The decoded body; of one that streams what came with the head.
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Whether the body is all here.
    pub fn is_whole(&self) -> bool {
        self.coming.is_done()
    }

    /// What is still to come of a body that streams.
    pub fn upload(&self) -> Upload {
        Upload::behind(self.coming, self.body.len())
    }

    /// Bytes of the body, as its head says; `None`: it is chunked.
    pub fn length(&self) -> Option<u64> {
        match self.facts.framing {
            Framing::None => Some(0),
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        }
    }

    /// Whether the client waits for 100 (Continue) before it sends the body.
    pub fn waits_to_go_on(&self) -> bool {
        self.facts.expects_continue && self.body.is_empty()
    }

    /// Minor version: 0 or 1.
    pub fn minor(&self) -> u8 {
        self.facts.minor
    }

    /// Whether the connection may carry another request (RFC 9112 9.3).
    pub fn keep_alive(&self) -> bool {
        self.facts.keep_alive
    }

    /// The connection carries no other request, whatever the client asks for: the reply says so.
    pub fn ends_connection(&mut self) {
        self.facts.keep_alive = false;
    }

    /// Whose request it is; `None`: nobody has said.
    pub fn ends(&self) -> Option<Ends> {
        self.ends
    }

    /// Says whose request it is.
    pub fn came_over(&mut self, ends: Ends) {
        self.ends = Some(ends);
    }

    /// Whether the method is safe.
    pub fn is_safe(&self) -> bool {
        self.facts.method.is_safe()
    }

    /// Whether the client offered to change the protocol.
    pub fn upgrade(&self) -> bool {
        self.facts.upgrade
    }

    /// Whether the client wants the connection to go on as a WebSocket (RFC 6455 4.1).
    pub fn wants_websocket(&self) -> bool {
        let is_named = |value: &[u8]| value.eq_ignore_ascii_case(b"websocket");
        self.facts.upgrade
            && self.facts.method == Method::Get
            && self.facts.minor == 1
            && self.facts.framing == Framing::None
            && self.values("upgrade").all(is_named)
    }

    /// The protocol is another one from here on: what the client sends has no end of its own.
    pub fn switch(&mut self) {
        self.coming = Body::raw();
    }

    /// Head and body as they are lent to another node.
    pub fn wire(&self) -> (&[u8], &[u8]) {
        (&self.head, &self.body)
    }

    /// Reads a lent request. The head is parsed anew and the body held against it: a helper takes nothing on trust.
    ///
    /// # Errors
    /// As for a request from a client.
    pub fn read_wire(&mut self, head: &[u8], body: &[u8], limits: &Limits) -> Result<(), Refusal> {
        self.clear();
        if body.len() > limits.body_bytes {
            return Err(Reason::BodyTooLarge.refusal());
        }
        let (used, facts) = head::parse(head, limits)?.ok_or_else(|| Reason::Syntax.refusal())?;
        if used != head.len() {
            return Err(Reason::Syntax.refusal());
        }
        let fits = match facts.framing {
            Framing::None => body.is_empty(),
            Framing::Length(length) => length == body.len() as u64,
            Framing::Chunked => true,
        };
        if !fits {
            return Err(Reason::Framing.refusal());
        }
        self.head.extend_from_slice(head);
        self.body.extend_from_slice(body);
        self.coming = Body::default();
        self.facts = facts;
        Ok(())
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.head.get(range.clone()).unwrap_or(&[])
    }
}
