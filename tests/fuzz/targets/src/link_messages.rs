//! What a node says on the link between control threads, inside TLS, as bytes of any content.
//!
//! Input: a byte that says how to read the rest (as it is, as a hello's body behind the right first bytes, or as frames
//! behind a good hello), a byte that says how it is cut, then the bytes.

use keyferry_control::config::Driver;
use keyferry_control::links::decoder::Decoder;
use keyferry_control::links::message::{
    BODY_BYTES_MAX, HEADER_BYTES, Hello, MAGIC, Message, NODE_BYTES_MAX, NodeState, OFFER_BYTES_MAX, Offer,
    PAYLOAD_BYTES_MAX, PREFIX_BYTES, Reason, Role, SESSIONS_MAX, STATION_ADDRESSES_MAX, Session, VERSION,
    WORKERS_MAX, WireError,
};
use keyferry_fabric::Limits;
use keyferry_tls::TicketKey;

use crate::input::Input;
use crate::{Seed, Target};

/// Of the heap most is the model's: two lists of messages, which may all be the shortest.
pub(crate) static TARGET: Target =
    Target { name: "link_messages", heap_bytes_max: 128 << 10, execute, seeds };

/// Bytes of an input that are looked at: the longest message, and some.
const BYTES_MAX: usize = 2048;
/// The longest message.
const MESSAGE_BYTES_MAX: usize = if HEADER_BYTES + PAYLOAD_BYTES_MAX > PREFIX_BYTES + BODY_BYTES_MAX {
    HEADER_BYTES + PAYLOAD_BYTES_MAX
} else {
    PREFIX_BYTES + BODY_BYTES_MAX
};

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let kind = input.u8() % 3;
    let cut = 1 + usize::from(input.u8());
    let rest = input.rest();
    let rest = &rest[..rest.len().min(BYTES_MAX)];
    let mut wire = Vec::with_capacity(BYTES_MAX + MESSAGE_BYTES_MAX);
    match kind {
        1 => {
            wire.extend(MAGIC);
            wire.extend(VERSION.to_le_bytes());
            wire.extend((rest.len() as u32).to_le_bytes());
        }
        2 => Message::Hello(hello("node-a")).encode(&mut wire),
        _ => {}
    }
    wire.extend_from_slice(rest);

    let (whole, end) = decode(&wire, wire.len().max(1));
    assert_eq!(decode(&wire, cut), (whole.clone(), end), "cut differently it is the same");
    let mut again = Vec::with_capacity(wire.len());
    for (index, message) in whole.iter().enumerate() {
        assert_eq!(index == 0, matches!(message, Message::Hello(_)), "the first is a hello and no other");
        check(message);
        message.encode(&mut again);
    }
    assert_eq!(wire[..again.len()], again, "there is one form of each message");
}

/// The messages of `wire`, taken `cut` bytes at a time, and what ended them.
fn decode(wire: &[u8], cut: usize) -> (Vec<Message>, Option<WireError>) {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for part in wire.chunks(cut) {
        decoder.take(part);
        loop {
            match decoder.next_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => {
                    decoder.take(part);
                    assert_eq!(decoder.next_message(), Err(error), "an error is final");
                    assert_eq!(decoder.pending(), 0, "nothing is kept after an error");
                    return (messages, Some(error));
                }
            }
        }
        assert!(decoder.pending() < MESSAGE_BYTES_MAX, "no more is held than one message that is not whole");
    }
    (messages, None)
}

fn check(message: &Message) {
    match message {
        Message::Hello(hello) => {
            assert!((1..=NODE_BYTES_MAX).contains(&hello.node.len()), "the name is within its bounds");
            assert!(hello.node.bytes().all(|byte| byte.is_ascii_graphic()), "the name can be logged");
            let workers = if hello.role == Role::Node { 1..=WORKERS_MAX } else { 0..=0 };
            assert!(workers.contains(&hello.workers), "the workers are within their bounds");
            assert_eq!(hello.limits.agree(hello.limits), hello.limits, "a node agrees with itself");
        }
        Message::Offer(offer) => {
            assert!(offer.bytes.len() <= OFFER_BYTES_MAX, "the offer is within its bound")
        }
        Message::Sessions(sessions) => {
            assert!(sessions.len() <= SESSIONS_MAX, "the announcement is within its bound")
        }
        Message::Station(addresses) => {
            assert!(addresses.len() <= STATION_ADDRESSES_MAX, "the addresses are within their bound")
        }
        Message::Connected
        | Message::Heartbeat
        | Message::TicketKey(_)
        | Message::State(_)
        | Message::Bye(_) => {}
    }
}

fn hello(node: &str) -> Hello {
    Hello {
        role: Role::Node,
        node: node.to_owned(),
        incarnation: 7,
        random: [9; 32],
        workers: 2,
        driver: Driver::Shm,
        limits: Limits {
            message_bytes_max: 16_384,
            receives: 64,
            posted_max: 256,
            slots_bytes: 1 << 20,
            staging_bytes: usize::MAX,
        },
    }
}

fn seeds() -> Vec<Seed> {
    let wire = |messages: &[Message]| {
        let mut wire = Vec::new();
        messages.iter().for_each(|message| message.encode(&mut wire));
        wire
    };
    let seed = |name: &str, kind: u8, bytes: &[u8]| (name.to_owned(), [&[kind, 20], bytes].concat());
    let offer =
        |with_descriptor, len| Message::Offer(Offer { index: 1, with_descriptor, bytes: vec![3; len] });
    let long = "n".repeat(NODE_BYTES_MAX);
    vec![
        seed("hello", 0, &wire(&[Message::Hello(hello("node-a"))])),
        seed("body", 1, &wire(&[Message::Hello(hello("node-a"))])[PREFIX_BYTES..]),
        seed("long", 1, &wire(&[Message::Hello(hello(&long))])[PREFIX_BYTES..]),
        seed("offers", 2, &wire(&[offer(true, 0), offer(false, 64), offer(false, OFFER_BYTES_MAX)])),
        seed(
            "life",
            2,
            &wire(&[
                offer(true, 0),
                Message::Connected,
                Message::Heartbeat,
                Message::TicketKey(TicketKey {
                    name: [1; 16],
                    key: zeroize::Zeroizing::new([2; 32]),
                    seals_in_s: 0,
                    seals_until_s: 1800,
                    opens_until_s: 5400,
                }),
                Message::Heartbeat,
                Message::Bye(Reason::Leaving),
            ]),
        ),
        seed(
            "announced",
            2,
            &wire(&[
                Message::State(NodeState { draining: true, connections: 3, requests: 1 }),
                Message::Sessions(vec![
                    Session { client: [192, 0, 2, 1].into(), lifetime_s: 60 },
                    Session { client: [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into(), lifetime_s: 0 },
                ]),
            ]),
        ),
        seed("station", 1, &wire(&[Message::Station(vec![[10, 0, 0, 1].into()]), Message::Heartbeat])),
        seed("version", 0, &[&MAGIC[..], &77u32.to_le_bytes(), &100u32.to_le_bytes()].concat()),
    ]
}
