//! What `tools/instructions` counts: each case does its work so many times, and nothing else, inside [`measured`],
//! between whose entry and return callgrind collects. Nothing here depends on a clock, so that a count is the same again.
//!
//! `instructions CASE` prints how many times the work was done.

mod harness;

use std::hint::black_box;

use arrayvec::ArrayVec;
use harness::client::{self, Client};
use harness::front::Front;
use harness::keys;
use harness::node::{self, Node};
use harness::pair;
use harness::traffic::Template;
use keyferry_app::synthetic;
use keyferry_decide::Policy;
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_tls::{PLAINTEXT_BYTES_MAX, SEALED_BYTES_MAX, Suite};

/// Times the work is done.
const TIMES: u32 = 200;
/// Before that, unmeasured.
const WARM_UP: u32 = 50;
/// Between two turns, in ns of a clock of our own.
const TURN_NS: u64 = 2_000;
/// Places for connections at either node.
const CONNECTIONS: u32 = 64;
/// Turns that a reply, or a handshake, may take at either node.
const TURNS_MAX: u32 = 1_000;

fn main() {
    let case = std::env::args().nth(1).unwrap_or_default();
    match case.as_str() {
        "seal_16k" => seal(PLAINTEXT_BYTES_MAX),
        "seal_1k" => seal(1024),
        "handshake" => handshakes(),
        "request" => requests(client::REQUEST_LOCAL),
        "lease" => requests(client::REQUEST),
        "distribute" => distribute(),
        // `cargo bench` runs every bench without a case.
        _ => {
            println!(
                "usage: instructions seal_1k|seal_16k|handshake|request|lease|distribute; tools/instructions counts them all"
            )
        }
    }
}

/// callgrind collects while this runs: `--toggle-collect`.
#[inline(never)]
fn measured<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// One record sealed with a lent key.
fn seal(bytes: usize) {
    let mut sealer = keys::sealer(&keys::wire(Suite::Aes128GcmSha256, 16));
    let (plaintext, mut out) = (vec![b'x'; bytes], vec![0; SEALED_BYTES_MAX]);
    let mut once = || {
        black_box(sealer.seal_data(black_box(&plaintext), &mut out)).expect("it seals");
    };
    (0..WARM_UP).for_each(|_| once());
    measured(|| (0..TIMES).for_each(|_| once()));
    println!("{TIMES}");
}

/// Full handshakes, each with the TCP connection it is for: the server's part of both.
fn handshakes() {
    const WARM_UP: u32 = 5;
    const TIMES: u32 = 20;
    let mut bench = Bench::new();
    let config = client::config();
    for number in 1..=WARM_UP + TIMES {
        let (client, syn) = Client::new(number, &config);
        bench.client = client;
        node::inject(&mut bench.lender.wire, &syn);
        for _ in 0..TURNS_MAX {
            bench.turn(&mut |turn| if number > WARM_UP { measured(turn) } else { turn() });
            bench.deliver();
            if bench.client.is_ready() && bench.lender.worker.snapshot().handshakes_full > u64::from(number) {
                break;
            }
        }
        assert!(bench.client.is_ready(), "the handshake is done");
    }
    println!("{TIMES}");
}

/// Packets of open flows through a distributor, in whole bursts: its turn, with the driver's part of the simulated port.
fn distribute() {
    const FLOWS: u32 = 4_096;
    let mut front = Front::new(FLOWS);
    let template = Template::data(node::MAC, 64);
    let packets = TIMES * BURST as u32;
    for number in 0..WARM_UP + TIMES {
        let first = number * BURST as u32 % FLOWS;
        let passed = front.pass(&template, first..first + BURST as u32, |turn| {
            if number < WARM_UP { turn() } else { measured(turn) }
        });
        assert_eq!(passed, BURST, "each packet reaches a node");
    }
    println!("{packets}");
}

/// Two nodes that are each other's peer and share this thread, and one client of the first.
struct Bench {
    lender: Node,
    helper: Node,
    client: Client,
    now: Time,
}

/// Requests of one connection, one after the other; every byte of every reply is checked, unmeasured.
fn requests(request: &[u8]) {
    let mut bench = Bench::new();
    let before = bench.lender.worker.snapshot().replies_lent;
    for _ in 0..WARM_UP {
        bench.answer(request, |turn| turn());
    }
    for _ in 0..TIMES {
        bench.answer(request, |turn| measured(turn));
    }
    let counters = bench.lender.worker.snapshot();
    let lent = if request == client::REQUEST { u64::from(WARM_UP + TIMES) } else { 0 };
    assert_eq!(counters.replies_lent - before, lent, "who sealed: {counters:?}");
    println!("{TIMES}");
}

impl Bench {
    fn new() -> Bench {
        let lender = node::node(CONNECTIONS, Policy::Always);
        let helper = node::node(CONNECTIONS, Policy::Never);
        pair::connect_both(&lender, &helper);
        let (client, syn) = Client::new(0, &client::config());
        let mut bench = Bench { lender, helper, client, now: Time(TURN_NS) };
        node::inject(&mut bench.lender.wire, &client::arp(0));
        node::inject(&mut bench.lender.wire, &syn);
        for _ in 0..TURNS_MAX {
            bench.turn(&mut |turn| turn());
            bench.deliver();
        }
        assert!(bench.client.is_ready(), "the handshake is done");
        assert_eq!(bench.lender.worker.snapshot().peers_ready, 1, "the nodes have each other");
        bench
    }

    /// A turn of each node.
    fn turn(&mut self, around: &mut impl FnMut(&mut dyn FnMut())) {
        self.now = Time(self.now.0 + TURN_NS);
        for node in [&mut self.lender, &mut self.helper] {
            node.net.advance(self.now.0);
            around(&mut || {
                node.worker.turn(self.now);
            });
            node.net.advance(self.now.0);
        }
    }

    /// One request, until its reply is whole.
    fn answer(&mut self, request: &[u8], mut around: impl FnMut(&mut dyn FnMut())) {
        let frame = self.client.request(request);
        node::inject(&mut self.lender.wire, &frame);
        for _ in 0..TURNS_MAX {
            self.turn(&mut around);
            let plaintext = self.deliver();
            if !plaintext.is_empty() {
                let mut body = [0; 1024];
                synthetic::fill(0, 0, &mut body);
                assert!(plaintext.ends_with(&body), "the body is the pattern, whoever sealed it");
                return;
            }
        }
        panic!("a reply: {:?}", self.lender.worker.snapshot());
    }

    /// Hands frames to the client and its answers back; returns what it could read.
    fn deliver(&mut self) -> Vec<u8> {
        let (mut out, mut plaintext) = (Vec::new(), Vec::new());
        let mut packets = ArrayVec::<_, BURST>::new();
        self.lender.wire.rx_burst(&mut packets);
        for packet in packets {
            out.extend(client::arp_reply(packet.bytes()));
            if packet.bytes()[12..14] == [8, 0] {
                self.client.take(packet.bytes(), &mut out, &mut plaintext);
            }
        }
        for frame in out {
            node::inject(&mut self.lender.wire, &frame);
        }
        plaintext
    }
}
