//! Reads the corpus of requests beside this file: text in, cases out. Used by tests of the parser and of whole nodes.

/// The corpus.
pub const TEXT: &str = include_str!("corpus.txt");

/// What may follow the case on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The connection takes another request.
    Open,
    /// The connection ends.
    Close,
}

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is odd about it.
    pub name: String,
    /// Section and reason.
    pub why: String,
    /// Statuses of all requests in it, in order.
    pub statuses: Vec<u16>,
    /// What may follow.
    pub after: After,
    /// What the client sends.
    pub bytes: Vec<u8>,
}

impl Case {
    /// Whether it ends in a request that does not become whole, so that nothing can follow.
    pub fn is_partial(&self) -> bool {
        self.statuses.last() == Some(&408)
    }
}

/// All cases, in the file's order.
///
/// # Panics
/// At a line that is none: a mistake in the file.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut lines = TEXT.lines().enumerate().peekable();
    while let Some((at, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = at + 1;
        let name =
            line.strip_prefix("== ").unwrap_or_else(|| panic!("line {at}: a case begins with ==: {line}"));
        let (_, why) = lines.next().expect("a reason follows the name");
        assert!(why.starts_with("RFC "), "line {at}: a reason begins with its section: {why}");
        let (_, expected) = lines.next().expect("what is expected follows the reason");
        let (statuses, after) = outcome(expected).unwrap_or_else(|| panic!("line {at}: {expected}"));
        let mut bytes = Vec::new();
        while let Some((_, line)) = lines.next_if(|(_, line)| line.starts_with(['>', '|'])) {
            let text = &line[1..];
            bytes.extend(unescape(text.strip_prefix(' ').unwrap_or(text)));
            if line.starts_with('>') {
                bytes.extend(b"\r\n");
            }
        }
        cases.push(Case { name: name.to_owned(), why: why.to_owned(), statuses, after, bytes });
    }
    cases
}

fn outcome(line: &str) -> Option<(Vec<u16>, After)> {
    let (statuses, after) = line.rsplit_once(' ')?;
    let statuses: Option<Vec<u16>> = statuses.split(' ').map(|status| status.parse().ok()).collect();
    let after = match after {
        "open" => After::Open,
        "close" => After::Close,
        _ => return None,
    };
    Some((statuses?, after))
}

fn unescape(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let [byte, behind @ ..] = rest {
        rest = behind;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let [escape, behind @ ..] = rest else { panic!("an escape is cut off in {text}") };
        rest = behind;
        match escape {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'0' => out.push(0),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = std::str::from_utf8(&rest[..2]).expect("hex digits");
                out.push(u8::from_str_radix(digits, 16).expect("hex digits"));
                rest = &rest[2..];
            }
            b'{' => {
                let end = rest.iter().position(|byte| *byte == b'}').expect("a repetition ends");
                let inner = std::str::from_utf8(&rest[..end]).expect("text");
                let (what, times) = inner.rsplit_once('*').expect("a repetition says how often");
                out.extend(unescape(what).repeat(times.parse().expect("a number")));
                rest = &rest[end + 1..];
            }
            other => panic!("no escape \\{} in {text}", *other as char),
        }
    }
    out
}
