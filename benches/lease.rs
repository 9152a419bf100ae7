//! What lending a request adds to its latency: two processes, each with one spinning worker on a core of its own,
//! application inside, queue pairs over shared memory. Lent and local requests alternate on one connection.
//!
//! Timed from the request's packet being on the wire to the reply's packet being on it. The last line is
//! `bench lease: added_us_p50=.. added_us_p99=.. local_us_p50=.. lent_us_p50=..`.

mod harness;

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use harness::client::{self, Client};
use harness::node::{self, Node};
use harness::pair::Pair;
use harness::quantile;
use keyferry_app::synthetic;
use keyferry_decide::Policy;
use keyferry_nic::{BURST, Nic, Packet as _};

/// Requests of each kind; a tenth more warm up.
const REQUESTS: usize = 50_000;

/// A reply takes longer than this only if something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let pair = Pair::begin(|| node::node(16, Policy::Never));
    let (local, lent) = lender(&pair);
    report(local, lent);
}

/// This process: alternates local and lent requests. Returns their latencies in us.
fn lender(pair: &Pair) -> (Vec<f64>, Vec<f64>) {
    let mut node = node::node(16, Policy::Always);
    pair.connect(&node);
    let start = Instant::now();
    let mut client = open(&mut node, start);
    let (mut local, mut lent) = (Vec::new(), Vec::new());
    for number in 0..REQUESTS + REQUESTS / 10 {
        let (here, there) = (round_trip(&mut node, &mut client, client::REQUEST_LOCAL, start), {
            round_trip(&mut node, &mut client, client::REQUEST, start)
        });
        if number >= REQUESTS / 10 {
            local.push(here);
            lent.push(there);
        }
    }
    let counters = node.worker.snapshot();
    assert!(counters.replies_lent >= REQUESTS as u64, "the helper sealed: {counters:?}");
    assert_eq!(counters.leases_broken + counters.leases_failed, 0, "no lease went wrong");
    (local, lent)
}

/// One connection, its handshake done.
fn open(node: &mut Node, start: Instant) -> Client {
    let (mut client, syn) = Client::new(0, &client::config());
    node::inject(&mut node.wire, &client::arp(0));
    node::inject(&mut node.wire, &syn);
    let mut out = Vec::new();
    while !client.is_ready() || node.worker.snapshot().peers_ready == 0 {
        node.turn(start);
        deliver(node, &mut client, &mut out, &mut Vec::new());
    }
    for _ in 0..1_000 {
        node.turn(start);
        deliver(node, &mut client, &mut out, &mut Vec::new());
    }
    client
}

fn deliver(node: &mut Node, client: &mut Client, out: &mut Vec<Vec<u8>>, plaintext: &mut Vec<u8>) -> bool {
    let mut packets = ArrayVec::<_, BURST>::new();
    node.wire.rx_burst(&mut packets);
    for packet in packets {
        out.extend(client::arp_reply(packet.bytes()));
        if packet.bytes()[12..14] == [8, 0] {
            client.take(packet.bytes(), out, plaintext);
        }
    }
    for frame in out.drain(..) {
        node::inject(&mut node.wire, &frame);
    }
    !plaintext.is_empty()
}

fn round_trip(node: &mut Node, client: &mut Client, request: &[u8], start: Instant) -> f64 {
    let frame = client.request(request);
    node::inject(&mut node.wire, &frame);
    let mut packets = ArrayVec::<_, BURST>::new();
    let began = Instant::now();
    while node.wire.rx_burst(&mut packets) == 0 {
        node.turn(start);
        assert!(began.elapsed() < PATIENCE, "a reply: {:?}", node.worker.snapshot());
    }
    let took = began.elapsed();
    let (mut out, mut plaintext) = (Vec::new(), Vec::new());
    for packet in packets {
        out.extend(client::arp_reply(packet.bytes()));
        if packet.bytes()[12..14] == [8, 0] {
            client.take(packet.bytes(), &mut out, &mut plaintext);
        }
    }
    while plaintext.is_empty() {
        node.turn(start);
        deliver(node, client, &mut out, &mut plaintext);
    }
    let mut body = [0; 1024];
    synthetic::fill(0, 0, &mut body);
    assert!(plaintext.ends_with(&body), "the body is the pattern, whoever sealed it");
    took.as_nanos() as f64 / 1_000.0
}

fn report(mut local: Vec<f64>, mut lent: Vec<f64>) {
    let [local_p50, local_p99] = [0.5, 0.99].map(|share| quantile(&mut local, share));
    let [lent_p50, lent_p99] = [0.5, 0.99].map(|share| quantile(&mut lent, share));
    println!(
        "bench lease: added_us_p50={:.2} added_us_p99={:.2} local_us_p50={local_p50:.2} lent_us_p50={lent_p50:.2} \
         local_us_p99={local_p99:.2} lent_us_p99={lent_p99:.2}",
        lent_p50 - local_p50,
        lent_p99 - local_p99,
    );
}
