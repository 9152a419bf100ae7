//! A request's head: parsed by httparse, then judged by the rules that keep framing unambiguous.

use std::mem::MaybeUninit;
use std::ops::Range;

use httparse::Status;

use crate::{HEADERS_MAX, Limits, Method, Reason, Refusal};

/// How the body is framed (RFC 9112 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    #[default]
    None,
    Length(u64),
    Chunked,
}

/// What a head says; ranges are within its bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    pub method: Method,
    pub target: Range<usize>,
    pub host: Range<usize>,
    pub minor: u8,
    pub keep_alive: bool,
    pub upgrade: bool,
    pub expects_continue: bool,
    pub framing: Framing,
    /// First letters of the field names that are there; see [`Facts::may_hold`].
    pub initials: u32,
}

impl Facts {
    /// Whether there may be a field of this name: no, for most of those that are asked for, without a look at the head.
    pub fn may_hold(&self, name: &str) -> bool {
        self.initials & initial(name) != 0
    }
}

/// A bit for the first letter of a field name, the same in either case; characters may share one.
fn initial(name: &str) -> u32 {
    name.bytes().next().map_or(0, |first| 1 << (first & 31))
}

/// Parses a head that starts with its request line. `None`: it is not whole yet.
pub(crate) fn parse(bytes: &[u8], limits: &Limits) -> Result<Option<(usize, Facts)>, Refusal> {
    // A refused head may have no method that could be asked.
    judge(bytes, limits).map_err(|refusal| Refusal { head_only: asks_head_only(bytes), ..refusal })
}

/// Whether these first bytes of a request are those of a HEAD, whose answer never has a body (RFC 9110 9.3.2).
pub(crate) fn asks_head_only(bytes: &[u8]) -> bool {
    bytes.starts_with(b"HEAD ")
}

fn judge(bytes: &[u8], limits: &Limits) -> Result<Option<(usize, Facts)>, Refusal> {
    // httparse skips empty lines before the request line; what is lent or kept starts with that line.
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(Reason::Syntax.refusal());
    }
    // Left uninitialised: clearing 4 KiB for each request would cost more than parsing most of them.
    let mut fields = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let fields = &mut fields[..limits.headers.min(HEADERS_MAX)];
    let mut parsed = httparse::Request::new(&mut []);
    let used = match parsed.parse_with_uninit_headers(bytes, fields) {
        Ok(Status::Complete(used)) if used <= limits.head_bytes => used,
        Ok(Status::Complete(_)) => return Err(too_large(bytes, limits)),
        Ok(Status::Partial) if bytes.len() >= limits.head_bytes => return Err(too_large(bytes, limits)),
        Ok(Status::Partial) => return Ok(None),
        // Which version, and whether it is one, shows at the line's end: in pieces the answer is the same.
        Err(httparse::Error::Version) if bytes.len() < limits.head_bytes && !bytes.contains(&b'\n') => {
            return Ok(None);
        }
        Err(error) => return Err(refuse(error, bytes)),
    };
    // httparse lets a line end in a bare LF; two parsers could differ there (RFC 9112 2.2).
    if has_bare_line_feed(&bytes[..used]) {
        return Err(Reason::Syntax.refusal());
    }
    let target = parsed.path.unwrap_or("");
    if target.len() > limits.target_bytes {
        return Err(Reason::TargetTooLong.refusal());
    }
    let mut facts = Facts {
        method: Method::of(parsed.method.unwrap_or("")),
        minor: parsed.version.unwrap_or(1),
        ..Facts::default()
    };
    if parsed.method == Some("CONNECT") {
        return Err(Reason::Method.refusal());
    }
    judge_fields(parsed.headers, bytes, &mut facts)?;
    judge_target(target, bytes, &mut facts)?;
    Ok(Some((used, facts)))
}

fn too_large(bytes: &[u8], limits: &Limits) -> Refusal {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    if line > limits.target_bytes { Reason::TargetTooLong.refusal() } else { Reason::HeadTooLarge.refusal() }
}

fn refuse(error: httparse::Error, bytes: &[u8]) -> Refusal {
    match error {
        httparse::Error::TooManyHeaders => Reason::HeadTooLarge.refusal(),
        httparse::Error::Version if names_http(bytes) => Reason::Version.refusal(),
        _ => Reason::Syntax.refusal(),
    }
}

/// Whether the request line is one, of another version: method, target, `HTTP/` and two digits (RFC 9112 2.3).
fn names_http(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\r' || *byte == b'\n').next().unwrap_or(&[]);
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(_), Some(_), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    match version.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor]) => major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    }
}

/// Heads are short and their lines shorter: all pairs of bytes at once cost less than a search for each line's end.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let behind = head.get(1..).unwrap_or(&[]);
    let bare = |(before, byte): (&u8, &u8)| (*byte == b'\n') & (*before != b'\r');
    head.first() == Some(&b'\n') || head.iter().zip(behind).fold(false, |found, pair| found | bare(pair))
}

fn range_of(part: &[u8], whole: &[u8]) -> Range<usize> {
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

fn trim(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

fn judge_fields(fields: &[httparse::Header<'_>], bytes: &[u8], facts: &mut Facts) -> Result<(), Refusal> {
    let mut hosts = 0;
    let mut length = None;
    let mut coding = Coding::None;
    let (mut close, mut keep_alive, mut upgrade_option, mut upgrade) = (false, false, false, false);
    for field in fields {
        let (name, value) = (field.name, trim(field.value));
        facts.initials |= initial(name);
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
            facts.host = range_of(value, bytes);
            if !is_host(value) {
                return Err(Reason::Host.refusal());
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            let value = decimal(value).ok_or_else(|| Reason::ContentLength.refusal())?;
            if length.replace(value).is_some() {
                return Err(Reason::ContentLength.refusal());
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            coding = coding.and(value);
        } else if name.eq_ignore_ascii_case("connection") {
            for option in value.split(|byte| *byte == b',').map(trim) {
                close |= option.eq_ignore_ascii_case(b"close");
                keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                upgrade_option |= option.eq_ignore_ascii_case(b"upgrade");
            }
        } else if name.eq_ignore_ascii_case("upgrade") {
            upgrade = true;
        } else if name.eq_ignore_ascii_case("expect") {
            if !value.eq_ignore_ascii_case(b"100-continue") {
                return Err(Reason::Expectation.refusal());
            }
            facts.expects_continue = facts.minor == 1;
        }
    }
    if coding != Coding::None && length.is_some() {
        return Err(Reason::BothLengths.refusal());
    }
    let chunked = coding.judge(facts.minor)?;
    if hosts > 1 || (hosts == 0 && facts.minor == 1) {
        return Err(Reason::Host.refusal());
    }
    facts.framing = match length {
        _ if chunked => Framing::Chunked,
        Some(length) if length > 0 => Framing::Length(length),
        _ => Framing::None,
    };
    facts.keep_alive = !close && (facts.minor == 1 || keep_alive);
    facts.upgrade = upgrade && upgrade_option;
    Ok(())
}

/// The transfer codings of a request, all fields together (RFC 9110 5.3).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coding {
    /// No field.
    None,
    /// Chunked alone.
    Chunked,
    /// Others, then chunked: framed well, but not understood.
    OthersThenChunked,
    /// Others only; chunked may follow.
    Others,
    /// Chunked is there and not last, or twice, or the list is damaged.
    Faulty,
}

impl Coding {
    /// With the codings of one more field. An empty element is none that a client means.
    fn and(self, value: &[u8]) -> Coding {
        value.split(|byte| *byte == b',').map(trim).fold(self, |before, coding| {
            match (before, coding.eq_ignore_ascii_case(b"chunked")) {
                (Coding::None, true) => Coding::Chunked,
                (Coding::Others, true) => Coding::OthersThenChunked,
                (Coding::None | Coding::Others, false) if !coding.is_empty() => Coding::Others,
                _ => Coding::Faulty,
            }
        })
    }

    /// Whether the body is chunked. Where chunked is not the last coding its end is unknown (RFC 9112 6.3), and
    /// HTTP/1.0 has none (RFC 9112 6.1).
    fn judge(self, minor: u8) -> Result<bool, Refusal> {
        match self {
            Coding::None => Ok(false),
            Coding::Chunked if minor == 1 => Ok(true),
            Coding::OthersThenChunked if minor == 1 => Err(Reason::TransferEncoding.refusal()),
            _ => Err(Reason::Framing.refusal()),
        }
    }
}

/// Host and port (RFC 3986 3.2.2, 3.2.3), not empty: an http URI has a host (RFC 9110 4.2.1). Nothing in it can end
/// it early in a Location field.
fn is_host(value: &[u8]) -> bool {
    let (host_is_good, port) = match value.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = rest.iter().position(|byte| *byte == b']') else { return false };
            let address = std::str::from_utf8(&rest[..end]).ok().and_then(|text| text.parse().ok());
            (address.is_some_and(|_: std::net::Ipv6Addr| true), &rest[end + 1..])
        }
        None => {
            let end = value.iter().position(|byte| *byte == b':').unwrap_or(value.len());
            (end > 0 && is_name(&value[..end]), &value[end..])
        }
    };
    let port_is_good = match port {
        [] => true,
        [b':', digits @ ..] => digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    host_is_good && port_is_good
}

/// A registered name: unreserved characters, sub-delimiters and whole escapes.
fn is_name(name: &[u8]) -> bool {
    // Hardly a name has an escape.
    let plain = name.iter().take_while(|byte| IS_NAME_BYTE[usize::from(**byte)]).count();
    let mut rest = &name[plain..];
    while let [byte, behind @ ..] = rest {
        rest = match (byte, behind) {
            (b'%', [high, low, behind @ ..]) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => behind,
            (b'%', _) => return false,
            _ if IS_NAME_BYTE[usize::from(*byte)] => behind,
            _ => return false,
        };
    }
    true
}

/// Unreserved characters and sub-delimiters (RFC 3986 2.2, 2.3).
const IS_NAME_BYTE: [bool; 256] = {
    let mut is = [false; 256];
    let mut byte = 0;
    while byte < is.len() {
        is[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let mark = b"-._~!$&'()*+,;=";
    let mut at = 0;
    while at < mark.len() {
        is[mark[at] as usize] = true;
        at += 1;
    }
    is
};

/// A Content-Length: digits only, no sign, no list.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Origin form as it is; absolute form without scheme and authority, which then names the host (RFC 9112 3.2.2);
/// `*` for OPTIONS only.
fn judge_target(target: &str, bytes: &[u8], facts: &mut Facts) -> Result<(), Refusal> {
    let range = range_of(target.as_bytes(), bytes);
    // A fragment never leaves the client (RFC 9110 4.2.5); what is behind it two parsers would read differently. Bytes
    // beyond ASCII have to be encoded (RFC 9112 3.2).
    if target.bytes().fold(false, |found, byte| found | !byte.is_ascii_graphic() | (byte == b'#')) {
        return Err(Reason::Syntax.refusal());
    }
    if target.starts_with('/') || (target == "*" && facts.method == Method::Options) {
        facts.target = range;
        return Ok(());
    }
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)));
    let Some(scheme) = scheme else { return Err(Reason::Syntax.refusal()) };
    let rest = &target[scheme.len()..];
    let authority = rest.find(['/', '?']).unwrap_or(rest.len());
    if authority == 0 || !is_host(&rest.as_bytes()[..authority]) || rest[authority..].starts_with('?') {
        return Err(Reason::Syntax.refusal());
    }
    let host = range.start + scheme.len();
    facts.host = host..host + authority;
    facts.target = host + authority..range.end;
    Ok(())
}

/// Whether the bytes from `from` on may hold the end of a head: a line end with an empty line behind it.
pub(crate) fn may_end(head: &[u8], from: usize) -> bool {
    let from = from.saturating_sub(2);
    let fresh = &head[from..];
    fresh.windows(3).any(|end| end == b"\n\r\n") || fresh.windows(2).any(|end| end == b"\n\n")
}

/// Header fields of a head that has been parsed: every line is `name: value` and ends in CR LF.
pub(crate) fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = memchr::memchr(b'\n', head).map_or(&[][..], |end| &head[end + 1..]);
    std::iter::from_fn(move || {
        let (line, behind) = rest.split_at_checked(memchr::memchr(b'\n', rest)?)?;
        rest = &behind[1..];
        // The empty line at the end has none.
        let colon = memchr::memchr(b':', line)?;
        Some((&line[..colon], trim(&line[colon + 1..])))
    })
}
