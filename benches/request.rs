//! One keep-alive GET of 1 KiB through the whole turn of a worker: packets, TCP, TLS, HTTP, application, seal,
//! packets. The application runs inside the worker; the port is the simulated one, with every offload, so that
//! checksums cost what they cost on a real port: nothing.
//!
//! Requests come in bursts of up to 32, each from another connection; what is timed is the worker's turn alone.
//! The last line is `bench request: ns_1_conn=.. ns_1k_conns=.. ns_100k_conns=.. allocs_per_request=.. ...`.

mod harness;

use std::time::Instant;

use arrayvec::ArrayVec;
use harness::client::{self, Client};
use harness::median;
use harness::node::{self, Node};
use keyferry_app::synthetic;
use keyferry_decide::Policy;
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::{Probe, Stage};

/// Bursts timed one by one; the median is quoted.
const BURSTS: usize = 4_000;

/// Handshakes under way at once while connections are opened.
const OPENING: u32 = 256;

/// A node and its clients.
struct Bench {
    node: Node,
    clients: Vec<Client>,
    start: Instant,
    next: usize,
}

/// Time spent in each stage of a turn, in ns.
#[derive(Default)]
struct Spent {
    ns: [u64; Stage::ALL.len()],
    last: Option<Instant>,
}

impl Probe for Spent {
    fn begin(&mut self) {
        self.last = Some(Instant::now());
    }

    fn end_of(&mut self, stage: Stage) {
        let now = Instant::now();
        if let Some(last) = self.last.replace(now) {
            self.ns[stage as usize] += (now - last).as_nanos() as u64;
        }
    }
}

impl Bench {
    fn new(connections: u32) -> Bench {
        let mut bench = Bench {
            // The last places are for newcomers: who has not asked yet would be let go for them.
            node: node::node(connections + connections / 4 + 16, Policy::Never),
            clients: Vec::new(),
            start: Instant::now(),
            next: 0,
        };
        bench.open(connections);
        bench
    }

    fn now(&self) -> Time {
        Time(self.start.elapsed().as_nanos() as u64)
    }

    fn turn(&mut self) {
        let now = self.now();
        self.node.net.advance(now.0);
        self.node.worker.turn(now);
        self.node.net.advance(now.0);
    }

    /// Opens every connection, a few hundred at a time.
    fn open(&mut self, connections: u32) {
        let config = client::config();
        for first in (0..connections).step_by(OPENING as usize) {
            let last = (first + OPENING).min(connections);
            node::inject(&mut self.node.wire, &client::arp(first));
            node::inject(&mut self.node.wire, &client::arp(last - 1));
            self.turn();
            for number in first..last {
                let (client, syn) = Client::new(number, &config);
                self.clients.push(client);
                node::inject(&mut self.node.wire, &syn);
            }
            while self.node.worker.snapshot().handshakes_full < u64::from(last) {
                self.turn();
                self.deliver(&mut Vec::new());
            }
            // What is still under way: acknowledgements.
            for _ in 0..4 {
                self.turn();
                self.deliver(&mut Vec::new());
            }
        }
    }

    /// Hands the node's frames to their clients and their answers back.
    fn deliver(&mut self, plaintext: &mut Vec<u8>) {
        let mut out = Vec::new();
        loop {
            let mut packets = ArrayVec::<_, BURST>::new();
            if self.node.wire.rx_burst(&mut packets) == 0 {
                break;
            }
            for packet in packets {
                out.extend(client::arp_reply(packet.bytes()));
                let number = client::number(packet.bytes()).filter(|_| packet.bytes()[12..14] == [8, 0]);
                if let Some(client) = number.and_then(|number| self.clients.get_mut(number as usize)) {
                    client.take(packet.bytes(), &mut out, plaintext);
                }
            }
        }
        for frame in out.drain(..) {
            node::inject(&mut self.node.wire, &frame);
        }
    }

    /// Puts a burst of requests on the wire. Returns how many.
    fn send_burst(&mut self) -> usize {
        let burst = BURST.min(self.clients.len());
        for _ in 0..burst {
            let frame = self.clients[self.next].request(client::REQUEST);
            self.next = (self.next + 1) % self.clients.len();
            node::inject(&mut self.node.wire, &frame);
        }
        let now = self.now();
        self.node.net.advance(now.0);
        burst
    }

    /// Takes the replies of a burst and looks at every byte of them.
    fn check_burst(&mut self, burst: usize) {
        let now = self.now();
        self.node.net.advance(now.0);
        let mut plaintext = Vec::new();
        self.deliver(&mut plaintext);
        let mut body = [0; 1024];
        synthetic::fill(0, 0, &mut body);
        let mut rest = &plaintext[..];
        for _ in 0..burst {
            assert!(rest.starts_with(b"HTTP/1.1 200 OK\r\n"), "a reply");
            let head = rest.windows(4).position(|end| end == b"\r\n\r\n").expect("a whole head") + 4;
            assert_eq!(rest[head..head + body.len()], body, "the body is the pattern");
            rest = &rest[head + body.len()..];
        }
        assert!(rest.is_empty(), "nothing else");
    }

    /// Median ns a request.
    fn time(&mut self) -> f64 {
        let mut samples: Vec<f64> = (0..BURSTS)
            .map(|_| {
                let burst = self.send_burst();
                let now = self.now();
                let began = Instant::now();
                self.node.worker.turn(now);
                let took = began.elapsed();
                self.check_burst(burst);
                took.as_nanos() as f64 / burst as f64
            })
            .collect();
        median(&mut samples[BURSTS / 4..])
    }

    /// Heap allocations of the worker for each request.
    fn allocations(&mut self) -> f64 {
        let (mut allocated, mut requests) = (0, 0);
        for _ in 0..200 {
            let burst = self.send_burst();
            let now = self.now();
            let info = allocation_counter::measure(|| {
                self.node.worker.turn(now);
            });
            allocated += info.count_total;
            requests += burst;
            self.check_burst(burst);
        }
        allocated as f64 / requests as f64
    }

    /// Mean ns a request by stage; reading the clock between stages costs some itself.
    fn stages(&mut self) -> Vec<(Stage, f64)> {
        let mut spent = Spent::default();
        let mut requests = 0;
        for _ in 0..BURSTS / 4 {
            let burst = self.send_burst();
            let now = self.now();
            self.node.worker.turn_probed(now, &mut spent);
            requests += burst;
            self.check_burst(burst);
        }
        Stage::ALL
            .into_iter()
            .map(|stage| (stage, spent.ns[stage as usize] as f64 / requests as f64))
            .collect()
    }
}

fn main() {
    let mut figures = Vec::new();
    let mut allocations = f64::NAN;
    let mut stages = Vec::new();
    for connections in [1, 1_000, 100_000] {
        let mut bench = Bench::new(connections);
        let ns = bench.time();
        println!("{connections:>7} connections: {ns:.0} ns a request");
        figures.push(ns);
        if connections == 1_000 {
            allocations = bench.allocations();
            stages = bench.stages();
        }
    }
    println!("by stage, 1,000 connections:");
    let mut by_stage = String::new();
    for (stage, ns) in stages {
        println!("{:>12} {ns:>6.0} ns", stage.name());
        by_stage += &format!(" stage_{}_ns={ns:.0}", stage.name());
    }
    let [one, thousand, hundred_thousand] = figures[..] else { unreachable!("three sizes") };
    println!(
        "bench request: ns_1_conn={one:.0} ns_1k_conns={thousand:.0} ns_100k_conns={hundred_thousand:.0} \
         allocs_per_request={allocations:.3}{by_stage}"
    );
}
