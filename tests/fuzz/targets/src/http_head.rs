//! Requests of one connection: any bytes, whole and in pieces, with the configured limits and with tight ones.
//!
//! Input: a byte for the limits, a byte for the cuts, then what the client sends.

use keyferry_http::{Limits, Progress, REDIRECT_BYTES_MAX, Reader, Reason, Refusal, Request, redirect};

use crate::input::{Input, cut};
use crate::{Seed, Target};

/// Requests of one input at most.
const REQUESTS_MAX: usize = 64;

pub(crate) static TARGET: Target = Target { name: "http_head", heap_bytes_max: 4 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let limits = limits(input.u8());
    let seed = input.u8();
    let wire = input.rest();
    let whole = converse(std::iter::once(wire), &limits);
    let pieces = converse(cut(wire, seed), &limits);
    compare(&whole, &pieces);
    for request in &whole.requests {
        judge(request, &limits);
    }
}

fn limits(choice: u8) -> Limits {
    match choice % 3 {
        0 => Limits::default(),
        1 => Limits {
            head_bytes: 256,
            headers: 4,
            target_bytes: 32,
            body_bytes: 64,
            chunk_line_bytes: 16,
            ..Limits::default()
        },
        _ => Limits {
            head_bytes: 1024,
            headers: 1,
            target_bytes: 8,
            body_bytes: 0,
            chunk_line_bytes: 1,
            ..Limits::default()
        },
    }
}

/// What a connection came to.
pub(crate) struct Outcome {
    pub(crate) requests: Vec<Request>,
    pub(crate) refusal: Option<Refusal>,
}

/// Reads everything that comes, as a worker does: bytes that are not of this request are the next one's.
pub(crate) fn converse<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: &Limits) -> Outcome {
    let mut reader = Reader::new();
    let mut outcome = Outcome { requests: Vec::new(), refusal: None };
    let mut request = Request::default();
    for piece in pieces {
        let mut rest = piece;
        while !rest.is_empty() && outcome.requests.len() < REQUESTS_MAX {
            let (used, progress) = match reader.feed(rest, &mut request, limits) {
                Ok(fed) => fed,
                Err(refusal) => {
                    assert!((400..600).contains(&refusal.status), "a refusal has a status of its own");
                    outcome.refusal = Some(refusal);
                    return outcome;
                }
            };
            assert!(used <= rest.len(), "no more is used than there was");
            rest = &rest[used..];
            match progress {
                Progress::NeedMore => assert!(rest.is_empty(), "bytes are left and more are wanted"),
                Progress::Continue100 => assert!(reader.head_started() && rest.is_empty()),
                Progress::Streams => unreachable!("nobody has asked for it"),
                Progress::Complete => {
                    assert!(!reader.head_started(), "the next request has not begun");
                    outcome.requests.push(std::mem::take(&mut request));
                }
            }
            let (head, body) = request.wire();
            assert!(head.len() <= limits.head_bytes && body.len() <= limits.body_bytes, "within the limits");
        }
    }
    outcome
}

/// How bytes come in must not change what they mean. A fault may be seen later when they come in pieces, never be
/// overlooked.
fn compare(whole: &Outcome, pieces: &Outcome) {
    assert_eq!(whole.requests.len(), pieces.requests.len(), "as many requests");
    for (one, other) in whole.requests.iter().zip(&pieces.requests) {
        assert_eq!(one.wire(), other.wire(), "the same request");
        same_facts(one, other);
    }
    if let Some(refusal) = pieces.refusal {
        assert!(whole.refusal.is_some(), "{refusal:?} of the pieces alone");
    }
}

fn same_facts(one: &Request, other: &Request) {
    assert_eq!(one.method(), other.method());
    assert_eq!(one.method_name(), other.method_name());
    assert_eq!(one.target(), other.target());
    assert_eq!(one.host(), other.host());
    assert_eq!(one.minor(), other.minor());
    assert_eq!(one.keep_alive(), other.keep_alive());
    assert_eq!(one.upgrade(), other.upgrade());
    assert_eq!(one.body(), other.body());
}

/// What holds of each request that is served.
pub(crate) fn judge(request: &Request, limits: &Limits) {
    let (head, body) = request.wire();
    unambiguous(request, head);
    assert!(request.target().len() <= limits.target_bytes.max(1), "the target is within its limit");
    assert!(request.headers().count() <= limits.headers, "header fields are within their limit");

    // Lent, it is the same request.
    let mut lent = Request::default();
    lent.read_wire(head, body, limits).expect("a request that can be served can be lent");
    same_facts(request, &lent);

    // Said in our own words, it is the same request: nobody behind us can read it differently.
    let again = said_again(request);
    let roomy = Limits { head_bytes: again.len() + 64, target_bytes: usize::MAX, headers: 128, ..*limits };
    let mut outcome = converse(std::iter::once(&again[..]), &roomy);
    assert_eq!((outcome.requests.len(), outcome.refusal), (1, None), "{:?}", String::from_utf8_lossy(&again));
    let said = outcome.requests.remove(0);
    assert_eq!(said.wire().1, body);
    assert_eq!((said.method_name(), said.target()), (request.method_name(), request.target()));
    assert_eq!((said.host(), said.keep_alive()), (request.host(), request.keep_alive()));

    redirected(request);
}

/// RFC 9112 2.2, 5.1, 5.2, 6.1: what an attacker would need to be read in two ways is not there.
fn unambiguous(request: &Request, head: &[u8]) {
    let lines: Vec<&[u8]> = head.split(|byte| *byte == b'\n').collect();
    assert!(lines.len() >= 3 && lines[lines.len() - 1].is_empty(), "the head ends with an empty line");
    assert!(lines[..lines.len() - 1].iter().all(|line| line.ends_with(b"\r")), "every line ends in CR LF");
    assert_eq!(head.iter().filter(|byte| **byte == b'\r').count(), lines.len() - 1, "no bare CR");
    assert!(!head.contains(&0), "no NUL");
    assert_eq!(request.headers().count(), lines.len() - 3, "each line is one field");
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    assert!(!request.method_name().is_empty() && request.method_name().iter().all(token));
    let (mut lengths, mut codings, mut hosts) = (0, 0, 0);
    for (name, value) in request.headers() {
        assert!(!name.is_empty() && name.iter().all(token), "no space before the colon, no folding");
        assert!(value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)));
        lengths += usize::from(name.eq_ignore_ascii_case(b"content-length"));
        codings += usize::from(name.eq_ignore_ascii_case(b"transfer-encoding"));
        hosts += usize::from(name.eq_ignore_ascii_case(b"host"));
    }
    assert!(lengths + codings <= 1, "one framing at most");
    assert!(codings == 0 || request.minor() == 1, "HTTP/1.0 has no chunks");
    assert!(hosts == 1 || (hosts == 0 && request.minor() == 0), "one host");
    let target = request.target();
    assert!(!target.is_empty() && !target.contains(&b'#') && target.iter().all(|byte| *byte > b' '));
    assert!(target.starts_with(b"/") || target == b"*", "origin form, or the server as a whole");
}

fn said_again(request: &Request) -> Vec<u8> {
    let mut out = Vec::new();
    let version: &[u8] = if request.minor() == 1 { b" HTTP/1.1\r\n" } else { b" HTTP/1.0\r\n" };
    for part in [request.method_name(), b" ", request.target(), version] {
        out.extend_from_slice(part);
    }
    let framing = |name: &[u8]| {
        [&b"host"[..], b"content-length", b"transfer-encoding", b"expect"]
            .iter()
            .any(|framing| name.eq_ignore_ascii_case(framing))
    };
    for (name, value) in request.headers().filter(|(name, _)| !framing(name)) {
        for part in [name, b": ", value, b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    if request.minor() == 1 || !request.host().is_empty() {
        for part in [&b"Host: "[..], request.host(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(format!("Content-Length: {}\r\n\r\n", request.body().len()).as_bytes());
    out.extend_from_slice(request.body());
    out
}

/// The plain listener's answer is one reply, whatever the request put into it (response splitting).
fn redirected(request: &Request) {
    let mut reply = [0; REDIRECT_BYTES_MAX];
    let len = redirect(request, 8443, &mut reply);
    let reply = &reply[..len];
    let end = reply.windows(4).position(|end| end == b"\r\n\r\n").expect("the reply's head ends") + 4;
    let mut fields = [httparse::EMPTY_HEADER; 8];
    let mut parsed = httparse::Response::new(&mut fields);
    assert_eq!(parsed.parse(reply).ok(), Some(httparse::Status::Complete(end)));
    let field = |name: &str| parsed.headers.iter().find(|it| it.name == name).map(|it| it.value);
    let body = field("Content-Length").and_then(|it| std::str::from_utf8(it).ok()?.parse().ok());
    // An answer to HEAD says how long it would be, and has no body (RFC 9110 9.3.2).
    let has_body = request.method_name() != b"HEAD" || parsed.code == Some(308);
    assert_eq!(len - end, if has_body { body.unwrap_or(usize::MAX) } else { 0 }, "nothing behind it");
    match parsed.code {
        Some(308) => assert!(field("Location").is_some_and(|it| it.starts_with(b"https://"))),
        code => assert!(matches!(code, Some(400 | 414)), "{code:?}"),
    }
}

/// Reasons that are told apart only by when the fault is seen.
pub(crate) fn is_framing(refusal: Refusal) -> bool {
    matches!(refusal.reason, Reason::Chunk | Reason::BodyTooLarge)
}

fn seeds() -> Vec<Seed> {
    let requests: [(&str, &str); 14] = [
        ("get", "GET /index.html?a=b HTTP/1.1\r\nHost: example.net\r\nAccept: */*\r\n\r\n"),
        (
            "pipelined",
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        ),
        (
            "length",
            "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        ),
        (
            "chunked",
            "POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        ("old", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"),
        ("absolute", "GET http://example.net:80/x?y HTTP/1.1\r\nHost: other\r\n\r\n"),
        ("authority", "OPTIONS https://[2001:db8::1]:8443 HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n"),
        ("star", "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("expect", "PUT /p HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"),
        (
            "upgrade",
            "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
        (
            "both",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("folded", "GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n"),
        ("blank", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("connect", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
    ];
    let input = |(name, wire): (&str, &str)| (name.to_owned(), [b"\x00\x01", wire.as_bytes()].concat());
    requests.into_iter().map(input).collect()
}
