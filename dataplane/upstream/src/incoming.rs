//! The head of an origin's reply as it goes to the client.
//!
//! In: hyper's. Out: ours, without the fields that end here. Pure.

use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use keyferry_http::ReplyHead;

use crate::failure::Failure;
use crate::fields::{ends_here, is_usual};

/// The reply's head; `length` is that of its body, if it has one of a known length.
///
/// # Errors
/// [`Failure`]: it cannot be passed on.
pub(crate) fn incoming(parts: &Parts, length: Option<u64>, via: bool) -> Result<ReplyHead, Failure> {
    let (status, fields) = (parts.status.as_u16(), &parts.headers);
    // Interim replies were passed over; a protocol that was not asked for is none.
    if !(200..600).contains(&status) || !is_framed(fields) {
        return Err(Failure::Garbled);
    }
    let mut head = ReplyHead::forwarded(status, length);
    pass_on(fields, via, &mut head)?;
    Ok(head)
}

/// The head behind which the protocol is another one.
///
/// # Errors
/// As of [`incoming`].
pub(crate) fn switched(fields: &HeaderMap, via: bool) -> Result<ReplyHead, Failure> {
    let mut head = ReplyHead::forwarded(StatusCode::SWITCHING_PROTOCOLS.as_u16(), None);
    pass_on(fields, via, &mut head)?;
    Ok(head)
}

/// Whether what follows a head is a WebSocket (RFC 6455 4.1).
pub(crate) fn is_websocket(status: StatusCode, fields: &HeaderMap) -> bool {
    let mut protocols = fields.get_all(UPGRADE).iter();
    let is_named = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"websocket");
    status == StatusCode::SWITCHING_PROTOCOLS
        && protocols.next().is_some_and(is_named)
        && protocols.next().is_none()
}

/// Adds the fields that do not end here.
fn pass_on(fields: &HeaderMap, via: bool, head: &mut ReplyHead) -> Result<(), Failure> {
    let named: Vec<&[u8]> = fields
        .get_all(CONNECTION)
        .iter()
        .map(|value| value.as_bytes())
        .filter(|value| !is_usual(value))
        .collect();
    for (name, value) in fields {
        if *name == CONTENT_LENGTH || ends_here(name.as_str().as_bytes(), named.iter().copied()) {
            continue;
        }
        head.header(name.as_str(), value.as_bytes()).map_err(|_| Failure::HeadTooLarge)?;
    }
    if via {
        head.header("via", b"1.1 keyferry").map_err(|_| Failure::HeadTooLarge)?;
    }
    Ok(())
}

/// Whether the body is coded in no other way than chunked: hyper would pass on a coding that nobody then tells the client of.
fn is_framed(fields: &HeaderMap) -> bool {
    let mut codings = fields.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        _ => false,
    }
}

/// The length a reply to HEAD says its body would have.
pub(crate) fn length_of_head(fields: &HeaderMap) -> Option<u64> {
    let text = fields.get(CONTENT_LENGTH)?.to_str().ok()?;
    // No sign, as `parse` would allow.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}
