//! A client's request as it is sent to an origin.
//!
//! In: the request. Out: hyper's, without the fields that end here, with those that say whose it is. Pure.

use std::fmt::Write as _;

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE, VIA,
};
use http::{Method as HttpMethod, Uri};
use keyferry_http::{Method, Request};

use crate::failure::Failure;
use crate::fields::{ends_here, is_usual, says_whose};
use crate::options::Options;
use crate::pipe::{Outward, Pipe, streamed, whole};

const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Fields that are added to a request at most.
const ADDED_MAX: usize = 8;

/// Room for the values of those that say whose it is: two addresses and two hosts of a usual length.
const WHOSE_BYTES: usize = 256;

/// The request as it goes to an origin. `server` is the host where the client has named none, as HTTP/1.0 allows; `pipe` its
/// body, if that streams.
///
/// # Errors
/// [`Failure::Target`]: the target is none that can be sent on.
pub(crate) fn outgoing(
    request: &Request,
    options: &Options,
    server: &str,
    pipe: Option<&Pipe>,
) -> Result<http::Request<Outward>, Failure> {
    // Copied, as what is sent must not change while hyper has it, and the request is the worker's: head and body once each.
    let (head, body) = request.wire();
    let shared = Shared { bytes: Bytes::copy_from_slice(head), head };
    let mut fields = HeaderMap::with_capacity(request.headers().count() + ADDED_MAX);
    let host = match request.host() {
        [] => HeaderValue::from_str(server).map_err(|_| Failure::Target)?,
        host => shared.value(host)?,
    };
    fields.insert(HOST, host.clone());
    let untrusted = !options.forwarded.trusted;
    // Looked for once: as a rule there is none.
    let named: Vec<&[u8]> = request.values("connection").filter(|value| !is_usual(value)).collect();
    for (name, value) in request.headers() {
        let is_ours = ["host", "content-length", "expect"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is_ours || ends_here(name, named.iter().copied()) || (untrusted && says_whose(name)) {
            continue;
        }
        // Both were judged when the request was read.
        let name = HeaderName::from_bytes(name).map_err(|_| Failure::Target)?;
        fields.append(name, shared.value(value)?);
    }
    say_whose(request, options, host, &mut fields)?;
    // No other protocol is asked for by whoever speaks for a client.
    if request.wants_websocket() {
        fields.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
    if options.via {
        let via = if request.minor() == 0 { "1.0 keyferry" } else { "1.1 keyferry" };
        fields.append(VIA, HeaderValue::from_static(via));
    }
    // A method that has a body as a rule says that there is none (RFC 9110 8.6); of one with bytes hyper says how many.
    let may_have_body = matches!(request.method(), Method::Post | Method::Put | Method::Patch);
    let body = match pipe {
        None => {
            let is_framed = || request.header("content-length").is_some() || request.length().is_none();
            if body.is_empty() && (may_have_body || is_framed()) {
                fields.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
            }
            whole(Bytes::copy_from_slice(body))
        }
        Some(pipe) => {
            // Said also of methods that have none as a rule.
            if request.length().is_none() {
                fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            streamed(pipe)
        }
    };
    let mut sent = http::Request::new(body);
    *sent.method_mut() = HttpMethod::from_bytes(request.method_name()).map_err(|_| Failure::Target)?;
    *sent.uri_mut() = shared.uri(request.target())?;
    *sent.headers_mut() = fields;
    Ok(sent)
}

/// One copy of the head, which all values are parts of.
struct Shared<'a> {
    bytes: Bytes,
    head: &'a [u8],
}

impl Shared<'_> {
    fn part(&self, part: &[u8]) -> Bytes {
        let start = (part.as_ptr() as usize).wrapping_sub(self.head.as_ptr() as usize);
        match self.bytes.get(start..start.saturating_add(part.len())) {
            Some(here) if here == part => self.bytes.slice(start..start + part.len()),
            // Not of the head: a target that the request implies.
            _ => Bytes::copy_from_slice(part),
        }
    }

    fn value(&self, value: &[u8]) -> Result<HeaderValue, Failure> {
        HeaderValue::from_maybe_shared(self.part(value)).map_err(|_| Failure::Target)
    }

    /// The target; characters that no URI has, but browsers send, are encoded (RFC 3986 2.1).
    fn uri(&self, target: &[u8]) -> Result<Uri, Failure> {
        if let Ok(uri) = Uri::from_maybe_shared(self.part(target)) {
            return Ok(uri);
        }
        let mut encoded = String::with_capacity(target.len() + 16);
        for byte in target {
            if b"\"<>\\^`{|}".contains(byte) {
                let _ = write!(encoded, "%{byte:02X}");
            } else {
                encoded.push(char::from(*byte));
            }
        }
        Uri::from_maybe_shared(Bytes::from(encoded)).map_err(|_| Failure::Target)
    }
}

/// Adds the fields that say whose request it is, behind what a trusted client says.
fn say_whose(
    request: &Request,
    options: &Options,
    host: HeaderValue,
    fields: &mut HeaderMap,
) -> Result<(), Failure> {
    let client = request.ends().map(|ends| ends.client.ip());
    // Allocated once for all of them.
    let mut text = String::with_capacity(WHOSE_BYTES);
    let mut say =
        |fields: &mut HeaderMap, name: HeaderName, write: &dyn Fn(&mut String)| -> Result<(), Failure> {
            text.clear();
            for before in fields.get_all(&name) {
                // What is not text is nobody's address.
                text.push_str(before.to_str().unwrap_or("unknown"));
                text.push_str(", ");
            }
            write(&mut text);
            let value = HeaderValue::from_str(&text).map_err(|_| Failure::Target)?;
            fields.insert(name, value);
            Ok(())
        };
    if options.forwarded.standard {
        say(fields, FORWARDED, &|text| {
            let _ = match client {
                None => write!(text, "for=unknown"),
                Some(std::net::IpAddr::V4(address)) => write!(text, "for={address}"),
                Some(std::net::IpAddr::V6(address)) => write!(text, "for=\"[{address}]\""),
            };
            // No host holds a quotation mark.
            let _ = write!(text, ";proto=https;host=\"{}\"", host.to_str().unwrap_or(""));
        })?;
    }
    if options.forwarded.legacy {
        say(fields, X_FORWARDED_FOR, &|text| {
            let _ = match client {
                None => write!(text, "unknown"),
                Some(address) => write!(text, "{address}"),
            };
        })?;
        if !fields.contains_key(&X_FORWARDED_PROTO) {
            fields.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
        }
        if !fields.contains_key(&X_FORWARDED_HOST) {
            fields.insert(X_FORWARDED_HOST, host);
        }
    }
    Ok(())
}

/// Whether a request may be sent twice (RFC 9110 9.2.2).
pub(crate) fn is_idempotent(method: Method) -> bool {
    method.is_safe() || matches!(method, Method::Put | Method::Delete)
}
