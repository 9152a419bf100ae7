//! From the path of a request to one relative to the root.
//!
//! In: a path as sent. Out: the decoded path, or the status that refuses it. What leads out of the root is stopped
//! by the kernel when the path is opened; here goes only what names no file one would want served.

use arrayvec::ArrayVec;

/// Longest decoded path, in bytes.
pub(super) const PATH_BYTES_MAX: usize = 1024;

/// A path relative to the root.
pub(super) type Path = ArrayVec<u8, PATH_BYTES_MAX>;

/// The one directory with a leading dot that is for everybody (RFC 8615 3).
const WELL_KNOWN: &[u8] = b".well-known";

/// Percent-decodes a path, once (RFC 3986 2.4), into one relative to the root.
///
/// Refused with 400: bad escapes, NUL, more than [`PATH_BYTES_MAX`]. With 404, as if there were none: `.` and `..`,
/// which clients resolve before they send (RFC 3986 5.2.4), however they are written; an encoded slash, which who
/// stands before us would not take for one; without `dotfiles`, names that begin with a dot.
pub(super) fn decode(path: &[u8], dotfiles: bool) -> Result<Path, u16> {
    let mut rest = path.strip_prefix(b"/").ok_or(400u16)?;
    let mut out = Path::new();
    while let [byte, behind @ ..] = rest {
        let (byte, behind) = match (byte, behind) {
            (b'%', [high, low, behind @ ..]) => (escape(*high, *low).ok_or(400u16)?, behind),
            (b'%', _) => return Err(400),
            _ => (*byte, behind),
        };
        match (byte, rest[0]) {
            (0, _) => return Err(400),
            (b'/', b'%') => return Err(404),
            _ => out.try_push(byte).map_err(|_| 400u16)?,
        }
        rest = behind;
    }
    let served = |(at, name): (usize, &[u8])| match name {
        b"." | b".." => false,
        [b'.', ..] => dotfiles || (at == 0 && name == WELL_KNOWN),
        _ => true,
    };
    if out.split(|byte| *byte == b'/').enumerate().all(served) { Ok(out) } else { Err(404) }
}

fn escape(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| (byte as char).to_digit(16);
    Some((digit(high)? << 4 | digit(low)?) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(path: &str, dotfiles: bool) -> Result<String, u16> {
        decode(path.as_bytes(), dotfiles).map(|path| String::from_utf8_lossy(&path).into_owned())
    }

    #[test]
    fn paths_are_decoded_once() {
        for (path, expected) in [
            ("/", Ok("")),
            ("/a%20b", Ok("a b")),
            ("/%61/%C3%A4", Ok("a/ä")),
            ("/a%252e", Ok("a%2e")),
            ("/a//b/", Ok("a//b/")),
            ("/a...", Ok("a...")),
            ("/a\\..\\b", Ok("a\\..\\b")),
            ("/..a", Err(404)),
            ("/.a", Err(404)),
            ("/b/.git/config", Err(404)),
            ("/.well-known/a", Ok(".well-known/a")),
            ("/b/.well-known/a", Err(404)),
            ("/.well-known/.a", Err(404)),
            ("/.", Err(404)),
            ("/a/../b", Err(404)),
            ("/%2e%2E/b", Err(404)),
            ("/a/.%2e/b", Err(404)),
            ("/a%2fb", Err(404)),
            ("/%2Fetc", Err(404)),
            ("/a%00", Err(400)),
            ("/a%", Err(400)),
            ("/a%4", Err(400)),
            ("/a%zz", Err(400)),
            ("/a%+1", Err(400)),
            ("a", Err(400)),
            ("*", Err(400)),
        ] {
            assert_eq!(decoded(path, false), expected.map(str::to_owned), "{path}");
        }
        assert_eq!(decoded("/b/.git", true), Ok("b/.git".to_owned()));
        assert_eq!(decoded("/b/../c", true), Err(404));
        let long = format!("/{}", "a".repeat(PATH_BYTES_MAX));
        assert!(decoded(&long, false).is_ok() && decoded(&(long + "a"), false) == Err(400));
    }

    proptest! {
        #[test]
        fn no_name_of_dots_passes(path in "(/|%2[fF]|\\.|%2[eE]|%25|%00|a|\\\\){0,20}") {
            if let Ok(path) = decode(format!("/{path}").as_bytes(), true) {
                prop_assert!(!path.contains(&0));
                prop_assert!(path.split(|byte| *byte == b'/').all(|name| name != b"." && name != b".."));
            }
        }
    }
}
