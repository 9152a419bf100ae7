//! What distributors tell each other, one at a time: 35 bytes each, whatever it is (`docs/PROTOCOL.md`).
//!
//! In: a notice, or a peer's bytes. Out: bytes, or a notice. Pure. Nodes and services go by hashes of their names, since
//! each distributor counts its own in its own order.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// Bytes of a notice.
pub(crate) const NOTICE_BYTES: usize = 1 + 2 + 16 + 8 + 8;

/// Key of names' hashes: fixed, since all distributors must agree.
const NAME_KEY: (u64, u64) = (0x6b65_7966_6572_7279, 3);

/// A node or a service, as every distributor knows it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Name(pub u64);

impl Name {
    pub(crate) fn of(text: &str) -> Name {
        let mut hasher = SipHasher13::new_with_keys(NAME_KEY.0, NAME_KEY.1);
        hasher.write(text.as_bytes());
        Name(hasher.finish())
    }
}

/// A connection, as every distributor knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct FlowName {
    /// The client's address; one of IPv4 as IPv6 maps it.
    pub client: [u8; 16],
    /// And its port.
    pub port: u16,
    pub service: Name,
}

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Stage {
    /// A segment from its midst, and nothing behind it: what a flood is made of.
    Stray,
    /// A SYN, and nothing behind it: what a flood is made of.
    Opening,
    /// A FIN or a reset.
    Closing,
    /// Something behind the SYN, which whoever makes up an address can send as well: open, as far as one direction tells.
    Answered,
    /// The same, and a node has a session of its client: somebody is there.
    Served,
}

impl Stage {
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Stage::Answered | Stage::Served)
    }
}

/// One thing told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Notice {
    /// A connection, its node, and how far it has come: just now, or as it is remembered.
    Flow { flow: FlowName, node: Name, stage: Stage, is_news: bool },
    /// Whose is this connection?
    Ask { flow: FlowName },
    /// The answer of one that does not know it; one that does answers with the flow.
    Unknown { flow: FlowName },
    /// All connections known when the two met have been told.
    Copied,
}

const OPENING: u8 = 0;
const CLOSING: u8 = 1;
const ANSWERED: u8 = 2;
const ASK: u8 = 3;
const UNKNOWN: u8 = 4;
const COPIED: u8 = 5;
const SERVED: u8 = 6;
const REMEMBERED_OPENING: u8 = 7;
const REMEMBERED_CLOSING: u8 = 8;
const REMEMBERED_ANSWERED: u8 = 9;
const REMEMBERED_SERVED: u8 = 10;

impl Notice {
    pub(crate) fn encode(&self) -> [u8; NOTICE_BYTES] {
        let nobody = FlowName { client: [0; 16], port: 0, service: Name(0) };
        let (kind, flow, node) = match *self {
            Notice::Flow { flow, node, stage, is_news } => {
                let [news, remembered] = match stage {
                    Stage::Stray | Stage::Opening => [OPENING, REMEMBERED_OPENING],
                    Stage::Closing => [CLOSING, REMEMBERED_CLOSING],
                    Stage::Answered => [ANSWERED, REMEMBERED_ANSWERED],
                    Stage::Served => [SERVED, REMEMBERED_SERVED],
                };
                (if is_news { news } else { remembered }, flow, node)
            }
            Notice::Ask { flow } => (ASK, flow, Name(0)),
            Notice::Unknown { flow } => (UNKNOWN, flow, Name(0)),
            Notice::Copied => (COPIED, nobody, Name(0)),
        };
        let mut out = [0; NOTICE_BYTES];
        out[0] = kind;
        out[1..3].copy_from_slice(&flow.port.to_be_bytes());
        out[3..19].copy_from_slice(&flow.client);
        out[19..27].copy_from_slice(&flow.service.0.to_be_bytes());
        out[27..35].copy_from_slice(&node.0.to_be_bytes());
        out
    }

    /// `None` for a kind that this release does not know.
    pub(crate) fn decode(bytes: &[u8; NOTICE_BYTES]) -> Option<Notice> {
        let eight = |at: usize| {
            let bytes: [u8; 8] = bytes[at..at + 8].try_into().expect("eight bytes");
            u64::from_be_bytes(bytes)
        };
        let flow = FlowName {
            client: bytes[3..19].try_into().expect("sixteen bytes"),
            port: u16::from_be_bytes([bytes[1], bytes[2]]),
            service: Name(eight(19)),
        };
        let node = Name(eight(27));
        let known = |stage, is_news| Some(Notice::Flow { flow, node, stage, is_news });
        match bytes[0] {
            OPENING => known(Stage::Opening, true),
            CLOSING => known(Stage::Closing, true),
            ANSWERED => known(Stage::Answered, true),
            SERVED => known(Stage::Served, true),
            REMEMBERED_OPENING => known(Stage::Opening, false),
            REMEMBERED_CLOSING => known(Stage::Closing, false),
            REMEMBERED_ANSWERED => known(Stage::Answered, false),
            REMEMBERED_SERVED => known(Stage::Served, false),
            ASK => Some(Notice::Ask { flow }),
            UNKNOWN => Some(Notice::Unknown { flow }),
            COPIED => Some(Notice::Copied),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_survive_the_wire() {
        let flow = FlowName { client: [7; 16], port: 443, service: Name::of("192.0.2.1:443") };
        let node = Name::of("a");
        let stages = [Stage::Opening, Stage::Closing, Stage::Answered, Stage::Served];
        let flows =
            [false, true].map(|is_news| stages.map(|stage| Notice::Flow { flow, node, stage, is_news }));
        let others = [Notice::Ask { flow }, Notice::Unknown { flow }, Notice::Copied];
        for notice in flows.into_iter().flatten().chain(others) {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
        assert_eq!(Notice::decode(&[11; NOTICE_BYTES]), None);
        assert_ne!(Name::of("a"), Name::of("b"));
    }
}
