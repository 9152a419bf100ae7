//! The head of an origin's reply as it goes to the client.
//!
//! In: hyper's. Out: ours, without the fields that end here. Pure.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, TRANSFER_ENCODING};
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
    // Interim replies were passed over; another protocol was not asked for.
    if !(200..600).contains(&status) || !is_framed(fields) {
        return Err(Failure::Garbled);
    }
    let mut head = ReplyHead::forwarded(status, length);
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
    Ok(head)
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
