//! Replies as a strict client reads them: framed by Content-Length, or without a body.

use super::Tls;

/// One reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Header fields in order, names in small letters.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Reply {
    /// Reads one; `head_only` if it answers a HEAD. Interim replies before it are skipped (RFC 9110 15.2).
    pub fn read(tls: &mut Tls, head_only: bool) -> Reply {
        loop {
            let mut reply = Reply::parse(&tls.head());
            if (100..200).contains(&reply.status) {
                continue;
            }
            if !head_only && reply.status != 304 && reply.status != 204 {
                let bytes = reply.field("content-length").and_then(|length| length.parse().ok());
                reply.body = tls.read(bytes.unwrap_or_else(|| panic!("no length: {reply:?}")));
            }
            return reply;
        }
    }

    fn parse(head: &str) -> Reply {
        let mut lines = head.trim_end().split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let field = |line: &str| {
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} in {head:?}"));
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Reply {
            status: status.unwrap_or_else(|| panic!("no status line: {head:?}")),
            fields: lines.map(field).collect(),
            body: Vec::new(),
        }
    }

    /// The first field of that name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Whether the server says that it closes.
    pub fn closes(&self) -> bool {
        self.field("connection") == Some("close")
    }

    /// Without what differs from one second to the next.
    pub fn timeless(mut self) -> Reply {
        self.fields.retain(|(name, _)| name != "date");
        self
    }
}
