//! Conditional requests (RFC 9110 13): whether a request is to be served, answered 304, or answered 412.
//!
//! In: a request's fields and the validators of the file it names. Out: a verdict. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyferry_http::Request;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validators<'a> {
    /// The entity tag, quotes included; strong.
    pub tag: &'a [u8],
    /// When it was modified, in whole seconds since 1970.
    pub modified: u64,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Served; a Range, if there is one, counts or not.
    Serve {
        /// Range may be honoured.
        ranges: bool,
    },
    /// 304: the client has it.
    NotModified,
    /// 412.
    Failed,
}

/// Fields that make the answer another one than the whole file.
const FIELDS: [&str; 6] =
    ["if-match", "if-none-match", "if-modified-since", "if-unmodified-since", "if-range", "range"];

/// Whether a GET or HEAD asks for the file, and nothing else.
pub(super) fn is_plain(request: &Request) -> bool {
    !FIELDS.iter().any(|name| has(request, name))
}

/// Evaluates the preconditions of a GET or HEAD in the order of RFC 9110 13.2.2.
pub(super) fn evaluate(request: &Request, file: Validators<'_>) -> Verdict {
    if has(request, "if-match") {
        if !any_tag(request, "if-match", |tag| tag == Tag::Any || tag == Tag::Strong(file.tag)) {
            return Verdict::Failed;
        }
    } else if date(request, "if-unmodified-since").is_some_and(|date| file.modified > date) {
        return Verdict::Failed;
    }
    if has(request, "if-none-match") {
        // The weak comparison: only what is in the quotes counts.
        let same = |tag: Tag<'_>| {
            matches!(tag, Tag::Strong(it) | Tag::Weak(it) if it == file.tag) || tag == Tag::Any
        };
        if any_tag(request, "if-none-match", same) {
            return Verdict::NotModified;
        }
    } else if date(request, "if-modified-since").is_some_and(|date| file.modified <= date) {
        return Verdict::NotModified;
    }
    Verdict::Serve { ranges: allows_ranges(request, file) }
}

/// If-Range: the parts a client has are of this state (RFC 9110 13.1.5).
fn allows_ranges(request: &Request, file: Validators<'_>) -> bool {
    let mut fields = request.values("if-range");
    match (fields.next(), fields.next()) {
        (None, _) => true,
        (Some(value), None) => match next_tag(value) {
            Some((tag, [])) => tag == Tag::Strong(file.tag),
            _ => http_date(value) == Some(file.modified),
        },
        (Some(_), Some(_)) => false,
    }
}

/// One element of a list of entity tags; the quotes are part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag<'a> {
    Strong(&'a [u8]),
    Weak(&'a [u8]),
    /// `*`: any state of a file that is there.
    Any,
}

fn has(request: &Request, name: &str) -> bool {
    request.header(name).is_some()
}

/// Whether a tag in the fields of that name is as wanted. What is no list of tags ends the search.
fn any_tag(request: &Request, name: &str, wanted: impl Fn(Tag<'_>) -> bool) -> bool {
    for mut rest in request.values(name) {
        if rest == b"*" {
            return wanted(Tag::Any);
        }
        loop {
            rest = rest.trim_ascii_start();
            if let [b',', behind @ ..] = rest {
                rest = behind;
                continue;
            }
            let Some((tag, behind)) = next_tag(rest) else { break };
            if wanted(tag) {
                return true;
            }
            rest = behind.trim_ascii_start();
            if !rest.is_empty() && rest[0] != b',' {
                break;
            }
        }
    }
    false
}

/// The entity tag at the start of `text`, and what is behind it (RFC 9110 8.8.3).
fn next_tag(text: &[u8]) -> Option<(Tag<'_>, &[u8])> {
    let (weak, quoted) = match text.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, text),
    };
    let inner = quoted.strip_prefix(b"\"")?;
    let end = inner.iter().position(|byte| *byte == b'"')?;
    // No space or control character is part of one.
    if !inner[..end].iter().all(|byte| *byte > b' ' && *byte != 0x7f) {
        return None;
    }
    let (tag, behind) = quoted.split_at(end + 2);
    Some((if weak { Tag::Weak(tag) } else { Tag::Strong(tag) }, behind))
}

/// The date of a field, in seconds since 1970; `None` where the field has to be ignored: no date, or more than one.
fn date(request: &Request, name: &str) -> Option<u64> {
    let mut fields = request.values(name);
    match (fields.next(), fields.next()) {
        (Some(value), None) => http_date(value),
        _ => None,
    }
}

fn http_date(value: &[u8]) -> Option<u64> {
    let time = httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()?;
    time.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}

/// Last-Modified: never later than now (RFC 9110 8.8.2.1).
pub(super) fn last_modified(modified: u64, now: SystemTime) -> httpdate::HttpDate {
    let modified = UNIX_EPOCH.checked_add(Duration::from_secs(modified)).unwrap_or(now);
    httpdate::HttpDate::from(modified.min(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keyferry_http::{Limits, Reader};

    const FILE: Validators<'static> = Validators { tag: b"\"a,b\"", modified: 784_111_777 };
    const EARLIER: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const SAME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const LATER: &str = "Sunday, 06-Nov-94 08:49:38 GMT";
    const SERVE: Verdict = Verdict::Serve { ranges: true };

    fn verdict(fields: &[(&str, &str)]) -> Verdict {
        let mut head = b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec();
        for (name, value) in fields {
            head.extend(format!("{name}: {value}\r\n").bytes());
        }
        head.extend(b"\r\n");
        let mut request = Request::default();
        Reader::new().feed(&head, &mut request, &Limits::default()).expect("a request");
        evaluate(&request, FILE)
    }

    #[test]
    fn each_condition_alone() {
        for (name, value, expected) in [
            ("If-Match", "\"a,b\"", SERVE),
            ("If-Match", "*", SERVE),
            ("If-Match", "\"x\" , ,\"a,b\"", SERVE),
            ("If-Match", "W/\"a,b\"", Verdict::Failed),
            ("If-Match", "\"a\"", Verdict::Failed),
            ("If-Match", "a,b", Verdict::Failed),
            ("If-Match", "\"x\" \"a,b\"", Verdict::Failed),
            ("If-Match", "", Verdict::Failed),
            ("If-Unmodified-Since", EARLIER, Verdict::Failed),
            ("If-Unmodified-Since", SAME, SERVE),
            ("If-Unmodified-Since", LATER, SERVE),
            ("If-Unmodified-Since", "never", SERVE),
            ("If-None-Match", "\"a,b\"", Verdict::NotModified),
            ("If-None-Match", "W/\"a,b\"", Verdict::NotModified),
            ("If-None-Match", "\"x\",W/\"a,b\"", Verdict::NotModified),
            ("If-None-Match", "*", Verdict::NotModified),
            ("If-None-Match", "\"b\"", SERVE),
            ("If-None-Match", "\"a,b", SERVE),
            ("If-Modified-Since", EARLIER, SERVE),
            ("If-Modified-Since", SAME, Verdict::NotModified),
            ("If-Modified-Since", LATER, Verdict::NotModified),
            ("If-Modified-Since", "0", SERVE),
            ("If-Range", "\"a,b\"", SERVE),
            ("If-Range", SAME, SERVE),
            ("If-Range", "W/\"a,b\"", Verdict::Serve { ranges: false }),
            ("If-Range", "\"b\"", Verdict::Serve { ranges: false }),
            ("If-Range", LATER, Verdict::Serve { ranges: false }),
            ("If-Range", "\"a,b\", \"a,b\"", Verdict::Serve { ranges: false }),
        ] {
            assert_eq!(verdict(&[(name, value)]), expected, "{name}: {value}");
        }
    }

    #[test]
    fn conditions_in_their_order() {
        let tag = "\"a,b\"";
        for (fields, expected) in [
            // A tag is the better validator: the date beside it is ignored.
            (vec![("If-Match", tag), ("If-Unmodified-Since", EARLIER)], SERVE),
            (vec![("If-None-Match", "\"x\""), ("If-Modified-Since", LATER)], SERVE),
            (vec![("If-None-Match", tag), ("If-Modified-Since", EARLIER)], Verdict::NotModified),
            // What must hold comes before what must not.
            (vec![("If-None-Match", tag), ("If-Match", "\"x\"")], Verdict::Failed),
            (vec![("If-Modified-Since", SAME), ("If-Unmodified-Since", EARLIER)], Verdict::Failed),
            (vec![("If-Match", tag), ("If-None-Match", tag)], Verdict::NotModified),
            (vec![("If-Range", "\"x\""), ("If-None-Match", tag)], Verdict::NotModified),
            // Fields of one name are one list; of dates there is only one.
            (vec![("If-None-Match", "\"x\""), ("If-None-Match", tag)], Verdict::NotModified),
            (vec![("If-Modified-Since", SAME), ("If-Modified-Since", SAME)], SERVE),
            (vec![("If-Range", tag), ("If-Range", tag)], Verdict::Serve { ranges: false }),
        ] {
            assert_eq!(verdict(&fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn a_file_from_the_future_is_modified_now() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(last_modified(u64::MAX, now).to_string(), SAME);
        assert_eq!(last_modified(784_111_776, now).to_string(), EARLIER);
    }
}
