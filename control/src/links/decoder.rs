//! Cuts a peer's bytes into messages. In: bytes as they come. Out: messages in order, or what is wrong with the bytes.
//! Sans-IO; holds at most one incomplete message and what came with it, and erases what has been taken: a message may be
//! a key.

use zeroize::Zeroizing;

use super::message::{HEADER_BYTES, Hello, Message, PREFIX_BYTES, WireError};

/// Bytes taken and not yet given out as messages.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Zeroizing<Vec<u8>>,
    greeted: bool,
    failed: Option<WireError>,
}

impl Decoder {
    /// Takes bytes. The caller asks for every message before it takes more, so that what is held stays bounded.
    pub fn take(&mut self, bytes: &[u8]) {
        if self.failed.is_none() {
            // Into a buffer of their own: one that grew would leave what it held behind.
            self.bytes = Zeroizing::new([&self.bytes[..], bytes].concat());
        }
    }

    /// The next message, if all of it is here. The first is always a hello.
    ///
    /// # Errors
    /// What is wrong; the same from then on.
    pub fn next_message(&mut self) -> Result<Option<Message>, WireError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        self.read().inspect_err(|error| {
            self.failed = Some(*error);
            self.bytes = Zeroizing::default();
        })
    }

    fn read(&mut self) -> Result<Option<Message>, WireError> {
        let (message, used) = if self.greeted {
            let Some((&[kind, zero, low, high], rest)) = self.bytes.split_first_chunk::<HEADER_BYTES>()
            else {
                return Ok(None);
            };
            if zero != 0 {
                return Err(WireError::Kind);
            }
            let len = usize::from(u16::from_le_bytes([low, high]));
            if len > Message::payload_max(kind)? {
                return Err(WireError::Length);
            }
            let Some(payload) = rest.get(..len) else { return Ok(None) };
            (Message::decode(kind, payload)?, HEADER_BYTES + len)
        } else {
            let Some((prefix, rest)) = self.bytes.split_first_chunk::<PREFIX_BYTES>() else {
                return Ok(None);
            };
            let len = Hello::decode_prefix(prefix)?;
            let Some(body) = rest.get(..len) else { return Ok(None) };
            (Message::Hello(Hello::decode_body(body)?), PREFIX_BYTES + len)
        };
        self.greeted = true;
        self.bytes = Zeroizing::new(self.bytes[used..].to_vec());
        Ok(Some(message))
    }

    /// Bytes of a message that is not whole yet.
    pub fn pending(&self) -> usize {
        self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use keyferry_fabric::Limits;
    use keyferry_tls::TicketKey;
    use proptest::prelude::*;

    use super::super::message::{
        BODY_BYTES_MAX, MAGIC, NODE_BYTES_MAX, NodeState, OFFER_BYTES_MAX, Offer, PAYLOAD_BYTES_MAX, Reason,
        Role, SESSIONS_MAX, STATION_ADDRESSES_MAX, Session, VERSION, WORKERS_MAX,
    };
    use super::*;
    use crate::config::Driver;

    fn hello() -> impl Strategy<Value = Hello> {
        let limits = any::<[usize; 5]>().prop_map(|[a, b, c, d, e]| Limits {
            message_bytes_max: a,
            receives: b,
            posted_max: c,
            slots_bytes: d,
            staging_bytes: e,
        });
        (
            proptest::string::string_regex("[!-~]{1,63}").unwrap(),
            any::<(u64, [u8; 32])>(),
            prop_oneof![
                (1..=WORKERS_MAX).prop_map(|workers| (Role::Node, workers)),
                Just((Role::Distributor, 0))
            ],
            limits,
        )
            .prop_map(|(node, (incarnation, random), (role, workers), limits)| Hello {
                role,
                node,
                incarnation,
                random,
                workers,
                driver: Driver::Shm,
                limits,
            })
    }

    fn message() -> impl Strategy<Value = Message> {
        let reason = prop_oneof![Just(Reason::Leaving), Just(Reason::NotPeer), Just(Reason::Unable)];
        let bytes = prop::collection::vec(any::<u8>(), 0..=OFFER_BYTES_MAX);
        let session = any::<(std::net::IpAddr, u32)>()
            .prop_map(|(client, lifetime_s)| Session { client: client.to_canonical(), lifetime_s });
        prop_oneof![
            (any::<(u16, bool)>(), bytes).prop_map(|((index, with_descriptor), bytes)| Message::Offer(
                Offer { index, with_descriptor, bytes }
            )),
            Just(Message::Connected),
            Just(Message::Heartbeat),
            any::<([u8; 16], [u8; 32], [u32; 3])>().prop_map(
                |(name, key, [seals_in_s, seals_until_s, opens_until_s])| {
                    let key = zeroize::Zeroizing::new(key);
                    Message::TicketKey(TicketKey { name, key, seals_in_s, seals_until_s, opens_until_s })
                }
            ),
            prop::collection::vec(session, 0..=SESSIONS_MAX).prop_map(Message::Sessions),
            any::<(bool, u32, u32)>().prop_map(|(draining, connections, requests)| {
                Message::State(NodeState { draining, connections, requests })
            }),
            prop::collection::vec(any::<std::net::IpAddr>(), 0..=STATION_ADDRESSES_MAX).prop_map(
                |addresses| {
                    Message::Station(addresses.iter().map(std::net::IpAddr::to_canonical).collect())
                }
            ),
            reason.prop_map(Message::Bye),
        ]
    }

    proptest! {
        /// Whatever is said arrives, however the bytes are cut.
        #[test]
        fn what_is_said_arrives(
            hello in hello(),
            messages in prop::collection::vec(message(), 0..8),
            cut in 1..4000usize,
        ) {
            let said: Vec<_> = std::iter::once(Message::Hello(hello)).chain(messages).collect();
            let mut wire = Vec::new();
            said.iter().for_each(|message| message.encode(&mut wire));
            let (mut decoder, mut heard) = (Decoder::default(), Vec::new());
            for part in wire.chunks(cut) {
                decoder.take(part);
                while let Some(message) = decoder.next_message().unwrap() {
                    heard.push(message);
                }
            }
            prop_assert_eq!(heard, said);
            prop_assert_eq!(decoder.pending(), 0);
        }

        /// Any bytes are messages or an error, and never more is held than one message and what came with it.
        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..3000), greeted: bool) {
            let mut decoder = Decoder { greeted, ..Decoder::default() };
            for part in bytes.chunks(100) {
                decoder.take(part);
                while let Ok(Some(_)) = decoder.next_message() {}
                prop_assert!(decoder.pending() < 100 + (HEADER_BYTES + PAYLOAD_BYTES_MAX).max(PREFIX_BYTES + BODY_BYTES_MAX));
            }
        }
    }

    fn refused(bytes: &[u8], greeted: bool) -> WireError {
        let mut decoder = Decoder { greeted, ..Decoder::default() };
        decoder.take(bytes);
        let error = decoder.next_message().unwrap_err();
        decoder.take(&[0; 64]);
        assert_eq!((decoder.next_message(), decoder.pending()), (Err(error), 0), "an error is final");
        error
    }

    #[test]
    fn lengths_are_refused_before_their_bytes_have_come() {
        for (kind, len) in [
            (1, PAYLOAD_BYTES_MAX as u16 + 1),
            (2, 1),
            (3, 1),
            (4, 2),
            (16, 61),
            (17, 961),
            (18, 10),
            (19, 129),
        ] {
            let [low, high] = len.to_le_bytes();
            assert_eq!(refused(&[kind, 0, low, high], true), WireError::Length);
        }
        for kind in [0, 5, 15, 20, 255] {
            assert_eq!(refused(&[kind, 0, 0, 0], true), WireError::Kind);
        }
        assert_eq!(refused(&[3, 1, 0, 0], true), WireError::Kind);
        assert_eq!(refused(&[4, 0, 1, 0, 99], true), WireError::Kind);
        assert_eq!(refused(&[4, 0, 0, 0], true), WireError::Length);
        assert_eq!(refused(&[1, 0, 3, 0, 0, 0, 2], true), WireError::Kind);
        assert_eq!(refused(&[17, 0, 1, 0, 0], true), WireError::Length);
        assert_eq!(
            refused(&[19, 0, 15, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], true),
            WireError::Length
        );
        assert_eq!(refused(&[18, 0, 9, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0], true), WireError::Kind);
    }

    #[test]
    fn another_protocol_and_another_version_are_recognised_from_sixteen_bytes() {
        assert_eq!(refused(b"GET / HTTP/1.1\r\n", false), WireError::Magic);
        let mut prefix = [&MAGIC[..], &(VERSION + 6).to_le_bytes(), &u32::MAX.to_le_bytes()].concat();
        assert_eq!(refused(&prefix, false), WireError::Version { theirs: VERSION + 6 });
        prefix[8..12].copy_from_slice(&VERSION.to_le_bytes());
        assert_eq!(refused(&prefix, false), WireError::Length);
    }

    /// A hello with the longest name there may be.
    fn wire() -> Vec<u8> {
        let limits =
            Limits { message_bytes_max: 1, receives: 1, posted_max: 1, slots_bytes: 1, staging_bytes: 1 };
        let hello = Hello {
            role: Role::Node,
            node: "n".repeat(NODE_BYTES_MAX),
            incarnation: 1,
            random: [2; 32],
            workers: 1,
            driver: Driver::Shm,
            limits,
        };
        let mut wire = Vec::new();
        Message::Hello(hello).encode(&mut wire);
        wire
    }

    #[test]
    fn names_can_be_logged() {
        let mut wire = wire();
        *wire.last_mut().unwrap() = b'\n';
        assert_eq!(refused(&wire, false), WireError::Node);
    }

    #[test]
    fn roles_workers_and_drivers_are_those_of_this_release() {
        // Behind the prefix, the incarnation and the random bytes.
        const ROLE_AT: usize = 16 + 8 + 32;
        let cases: [(usize, &[u8], WireError); 5] = [
            (ROLE_AT, &[3], WireError::Role(3)),
            (ROLE_AT + 1, &[0, 0], WireError::Workers),
            (ROLE_AT + 1, &(WORKERS_MAX + 1).to_le_bytes(), WireError::Workers),
            // A distributor has none.
            (ROLE_AT, &[2], WireError::Workers),
            (ROLE_AT + 3, &[9], WireError::Driver(9)),
        ];
        for (at, to, error) in cases {
            let mut wire = wire();
            wire[at..at + to.len()].copy_from_slice(to);
            assert_eq!(refused(&wire, false), error);
        }
    }
}
