//! What a flood of SYNs costs those who are established: 64 keep-alive connections, and beside each request so many SYNs
//! of sources nobody has.
//!
//! Timed is the worker's turn alone, as in the bench `request`; every reply is looked at outside of it. The last line is
//! `bench flood: ns_0_syns=.. ns_1_syn=.. ns_10_syns=.. ns_100_syns=.. ns_a_syn=.. allocs_a_syn=.. answered=..`.

mod harness;

use std::time::Instant;

use arrayvec::ArrayVec;
use harness::client::{self, Client};
use harness::median;
use harness::node::{self, Node};
use keyferry_decide::Policy;
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;

const REQUEST: &[u8] = b"GET /?bytes=1024 HTTP/1.1\r\nHost: bench.test\r\n\r\n";
const CONNECTIONS: u32 = 64;
/// Requests timed for each rate; the median is quoted.
const REQUESTS: usize = 2_000;
/// Virtual time between two requests.
const STEP_NS: u64 = 100_000;
/// Sources of the flood begin here: numbers of clients that never come.
const SOURCES: u32 = 1_000_000;

struct Bench {
    node: Node,
    clients: Vec<Client>,
    now_ns: u64,
    sources: u32,
    answered: u64,
}

impl Bench {
    fn new() -> Bench {
        let mut bench = Bench {
            node: node::node(1024, Policy::Never),
            clients: Vec::new(),
            now_ns: 0,
            sources: SOURCES,
            answered: 0,
        };
        let config = client::config();
        node::inject(&mut bench.node.wire, &client::arp(0));
        bench.turn();
        for number in 0..CONNECTIONS {
            let (client, syn) = Client::new(number, &config);
            bench.clients.push(client);
            node::inject(&mut bench.node.wire, &syn);
        }
        while bench.node.worker.snapshot().handshakes_full < u64::from(CONNECTIONS) {
            bench.turn();
            bench.deliver();
        }
        (0..4).for_each(|_| {
            bench.turn();
            bench.deliver();
        });
        bench
    }

    /// One turn; answers how long it took, in ns.
    fn turn(&mut self) -> f64 {
        self.now_ns += STEP_NS;
        self.node.net.advance(self.now_ns);
        let began = Instant::now();
        self.node.worker.turn(Time(self.now_ns));
        let took = began.elapsed().as_nanos() as f64;
        self.node.net.advance(self.now_ns);
        took
    }

    /// Hands the node's frames to their clients; what is for the flood's sources goes nowhere.
    fn deliver(&mut self) -> usize {
        let (mut out, mut plaintext) = (Vec::new(), Vec::new());
        loop {
            let mut packets = ArrayVec::<_, BURST>::new();
            if self.node.wire.rx_burst(&mut packets) == 0 {
                break;
            }
            for packet in packets {
                out.extend(client::arp_reply(packet.bytes()));
                let number = client::number(packet.bytes()).filter(|_| packet.bytes()[12..14] == [8, 0]);
                if let Some(client) = number.and_then(|number| self.clients.get_mut(number as usize)) {
                    client.take(packet.bytes(), &mut out, &mut plaintext);
                }
            }
        }
        for frame in out {
            node::inject(&mut self.node.wire, &frame);
        }
        plaintext.windows(15).filter(|line| *line == b"HTTP/1.1 200 OK").count()
    }

    fn flood(&mut self, config: &std::sync::Arc<rustls::ClientConfig>, syns: usize) -> Vec<Vec<u8>> {
        (0..syns)
            .map(|_| {
                self.sources += 1;
                Client::new(self.sources, config).1
            })
            .collect()
    }

    /// Median ns of all turns a request takes, with so many SYNs before it.
    fn time(&mut self, syns: usize) -> f64 {
        let config = client::config();
        let mut samples = Vec::with_capacity(REQUESTS);
        for number in 0..REQUESTS {
            for syn in self.flood(&config, syns) {
                node::inject(&mut self.node.wire, &syn);
            }
            let request = self.clients[number % CONNECTIONS as usize].request(REQUEST);
            node::inject(&mut self.node.wire, &request);
            let mut spent = 0.0;
            let mut turns = 0;
            loop {
                spent += self.turn();
                turns += 1;
                let answered = self.deliver();
                self.answered += answered as u64;
                if answered > 0 {
                    break;
                }
                assert!(turns < 100, "an established connection is answered");
            }
            samples.push(spent);
        }
        median(&mut samples)
    }

    /// Heap allocations of the worker for each SYN.
    fn allocations(&mut self) -> f64 {
        let config = client::config();
        let frames = self.flood(&config, 6_400);
        let mut allocated = 0;
        for burst in frames.chunks(64) {
            burst.iter().for_each(|syn| node::inject(&mut self.node.wire, syn));
            self.now_ns += STEP_NS;
            self.node.net.advance(self.now_ns);
            let now = Time(self.now_ns);
            let info = allocation_counter::measure(|| {
                self.node.worker.turn(now);
            });
            allocated += info.count_total;
            self.node.net.advance(self.now_ns);
            self.deliver();
        }
        allocated as f64 / frames.len() as f64
    }
}

fn main() {
    let mut bench = Bench::new();
    let mut figures = String::new();
    let mut times = Vec::new();
    for (syns, name) in [(0, "0_syns"), (1, "1_syn"), (10, "10_syns"), (100, "100_syns")] {
        let ns = bench.time(syns);
        println!("{syns:>4} SYNs a request: {ns:.0} ns a request");
        figures += &format!(" ns_{name}={ns:.0}");
        times.push(ns);
    }
    let each = (times[3] - times[0]) / 100.0;
    let allocations = bench.allocations();
    println!(
        "bench flood:{figures} ns_a_syn={each:.0} allocs_a_syn={allocations:.3} answered={}",
        bench.answered
    );
    assert_eq!(bench.answered, 4 * REQUESTS as u64, "each request is answered once");
}
