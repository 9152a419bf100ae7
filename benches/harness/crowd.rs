//! A node and a crowd of connections to it: opened by real handshakes, then held by clients of a few bytes each.
//!
//! Time is virtual, so that what it brings (delayed acknowledgements, pacing, rest) comes at the same moments in each run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use keyferry_app::synthetic;
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use rustls::ClientConfig;

use super::client::{self, Client};
use super::node::{self, Node};
use super::settled::Settled;

/// Handshakes under way at once while connections are opened.
const OPENING: u32 = 256;
/// Virtual time between two turns.
const TURN_NS: u64 = 50_000;
/// Turns that a handshake may take.
const TURNS_MAX: u32 = 1_000;
/// Bytes of a reply's body.
const BODY_BYTES: usize = 1024;

/// A node and its clients.
pub struct Crowd {
    /// The node.
    pub node: Node,
    clients: Box<[Settled]>,
    /// Clients that shake hands.
    pending: HashMap<u32, Client>,
    opened: u32,
    now_ns: u64,
    config: Arc<ClientConfig>,
}

impl Crowd {
    /// A node with places for so many connections, and room for the clients of all of them.
    ///
    /// Connections keep their AEAD contexts while they are not idle for longer than `rest_after`.
    pub fn new(places: u32, connections: u32, rest_after: Duration) -> Crowd {
        Crowd {
            node: node::resting(places, rest_after),
            clients: vec![Settled::NOBODY; connections as usize].into(),
            pending: HashMap::new(),
            opened: 0,
            now_ns: TURN_NS,
            config: client::config(),
        }
    }

    /// Connections open.
    pub fn opened(&self) -> u32 {
        self.opened
    }

    /// The time.
    pub fn now(&self) -> Time {
        Time(self.now_ns)
    }

    /// Lets virtual time pass, and brings what was sent until then to the node's port.
    pub fn pass(&mut self, ns: u64) {
        self.now_ns += ns;
        self.node.net.advance(self.now_ns);
    }

    /// One turn of the node, a moment later, and what it sends on the wire.
    pub fn turn(&mut self) {
        self.pass(TURN_NS);
        self.node.worker.turn(Time(self.now_ns));
        self.node.net.advance(self.now_ns);
    }

    /// Opens connections until there are so many, `pause_ns` between two lots of them.
    pub fn open(&mut self, connections: u32, pause_ns: u64) {
        while self.opened < connections {
            let first = self.opened;
            // The last places are for newcomers: who has not shaken hands is let go for them, if there are others.
            let crowded = u64::from(first) * 16 > u64::from(self.node.places) * 15 - u64::from(16 * OPENING);
            let last = connections.min(first + if crowded { 1 } else { OPENING });
            node::inject(&mut self.node.wire, &client::arp(first));
            node::inject(&mut self.node.wire, &client::arp(last - 1));
            self.turn();
            for number in first..last {
                let (client, syn) = Client::new(number, &self.config);
                self.pending.insert(number, client);
                node::inject(&mut self.node.wire, &syn);
            }
            for turns in 0.. {
                assert!(turns < TURNS_MAX, "handshakes end: {:?}", self.node.worker.snapshot());
                self.turn();
                self.deliver(&mut Vec::new());
                if self.node.worker.snapshot().handshakes_full == u64::from(last) {
                    break;
                }
            }
            for (number, client) in self.pending.drain() {
                assert!(client.is_ready(), "a client has shaken hands");
                self.clients[number as usize] = Settled::of(client);
            }
            self.opened = last;
            self.acknowledge(first..last);
            self.pass(pause_ns);
        }
    }

    /// Lets so much time pass twice, since who has stirred is looked at twice, and has the node do what is due.
    pub fn rest(&mut self, time: Duration) {
        for _ in 0..2 {
            self.pass(time.as_nanos() as u64);
            for turns in 0.. {
                self.turn();
                self.deliver(&mut Vec::new());
                if turns > 10 && self.node.worker.poll_at().is_none_or(|at| !at.is_due(Time(self.now_ns))) {
                    break;
                }
            }
        }
    }

    /// Puts acknowledgements of all that these clients have got on the node's port.
    pub fn send_acknowledgements(&mut self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let frame = self.clients[number as usize].acknowledge();
            node::inject(&mut self.node.wire, &frame);
        }
        self.pass(TURN_NS);
    }

    /// Sends acknowledgements of all that these clients have got, and has them taken.
    pub fn acknowledge(&mut self, numbers: impl IntoIterator<Item = u32>) {
        self.send_acknowledgements(numbers);
        // As many turns as it takes to receive them all.
        (0..OPENING as usize / BURST).for_each(|_| self.turn());
        self.deliver(&mut Vec::new());
    }

    /// Has the node know where all clients are: it may have forgotten in so much time.
    pub fn meet(&mut self) {
        for number in (0..self.opened).step_by(client::PORTS_PER_ADDRESS as usize) {
            node::inject(&mut self.node.wire, &client::arp(number));
        }
        self.turn();
        self.deliver(&mut Vec::new());
    }

    /// Puts a request of each of these on the node's port.
    pub fn ask(&mut self, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            let frame = self.clients[number as usize].request(client::REQUEST);
            node::inject(&mut self.node.wire, &frame);
        }
        self.pass(TURN_NS);
    }

    /// Hands the node's frames to their clients. Answers how many brought plaintext.
    fn deliver(&mut self, plaintext: &mut Vec<u8>) -> usize {
        let (mut out, mut replies) = (Vec::new(), 0);
        loop {
            let mut packets = ArrayVec::<_, BURST>::new();
            if self.node.wire.rx_burst(&mut packets) == 0 {
                break;
            }
            for packet in packets {
                let frame = packet.bytes();
                out.extend(client::arp_reply(frame));
                let Some(number) = client::number(frame).filter(|_| frame[12..14] == [8, 0]) else {
                    continue;
                };
                if let Some(client) = self.pending.get_mut(&number) {
                    client.take(frame, &mut out, plaintext);
                } else if let Some(client) = self.clients.get_mut(number as usize) {
                    replies += usize::from(client.take(frame, plaintext));
                }
            }
        }
        for frame in out.drain(..) {
            node::inject(&mut self.node.wire, &frame);
        }
        replies
    }

    /// Takes so many replies and looks at every byte of them.
    pub fn check(&mut self, replies: usize) {
        self.node.net.advance(self.now_ns);
        let mut plaintext = Vec::new();
        self.deliver(&mut plaintext);
        let mut body = [0; BODY_BYTES];
        synthetic::fill(0, 0, &mut body);
        let mut rest = &plaintext[..];
        for _ in 0..replies {
            assert!(rest.starts_with(b"HTTP/1.1 200 OK\r\n"), "a reply: {:?}", self.node.worker.snapshot());
            let head = rest.windows(4).position(|end| end == b"\r\n\r\n").expect("a whole head") + 4;
            assert_eq!(rest[head..head + body.len()], body, "the body is the pattern");
            rest = &rest[head + body.len()..];
        }
        assert!(rest.is_empty(), "nothing else");
    }
}
