//! One keep-alive GET of 1 KiB through the whole turn of a worker: packets, TCP, TLS, HTTP, application, seal,
//! packets. The application runs inside the worker; the port is the simulated one, with every offload, so that
//! checksums cost what they cost on a real port: nothing.
//!
//! Requests come in bursts of up to 32, each from another connection, far from the one before in every table; what is timed
//! is the worker's turn alone, and apart from it the turn that takes in the clients' acknowledgements. With many connections
//! once while each keeps its AEAD contexts, and once when each has rested and makes them anew.
//!
//! `request [SIZE..]` measures these numbers of connections (1, 1000 and 1000000 if none is named). The last line is
//! `bench request: ns_1_conn=.. ns_1k_conns=.. ns_1m_conns=.. ratio_1m_to_1k=.. ratio_1m_to_1k_compact=.. allocs_per_request=.. ...`.

mod harness;

use std::time::{Duration, Instant};

use harness::crowd::Crowd;
use harness::median;
use keyferry_nic::BURST;
use keyferry_worker::{Probe, Stage};

/// Bursts timed one by one; the median is quoted.
const BURSTS: usize = 3_000;
/// Bursts before those.
const WARM_UP: usize = 1_000;
/// Longer than a connection may be idle and keep its AEAD contexts, in these benches.
const REST: Duration = Duration::from_secs(601);

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

/// A crowd, and who of it asks next.
struct Bench {
    crowd: Crowd,
    next: u32,
}

/// Medians in ns a request.
#[derive(Clone, Copy)]
struct Times {
    /// Of the turn that answers.
    request: f64,
    /// Of the turn that takes the acknowledgements.
    ack: f64,
}

impl Bench {
    fn new(connections: u32) -> Bench {
        // The last places are for newcomers: who has not shaken hands would be let go for them.
        let mut crowd =
            Crowd::new(connections + connections / 8 + 16, connections, REST - Duration::from_secs(1));
        crowd.open(connections, 0);
        Bench { crowd, next: 0 }
    }

    /// The next few connections: each once before any comes again, and no two of them neighbours.
    fn burst(&mut self) -> Vec<u32> {
        let connections = self.crowd.opened();
        // About the golden section of them, and prime to a power of ten.
        let stride = (f64::from(connections) * 0.618 / 10.0) as u32 * 10 + 1;
        let step = |_| {
            self.next = (self.next + stride) % connections;
            self.next
        };
        (0..BURST.min(connections as usize)).map(step).collect()
    }

    /// One burst: `around` does the turn that answers it. Answers how long that turn took, and the one of the
    /// acknowledgements, in ns.
    fn once(&mut self, around: impl FnOnce(&mut Crowd)) -> (f64, f64, usize) {
        let burst = self.burst();
        self.crowd.ask(burst.iter().copied());
        let began = Instant::now();
        around(&mut self.crowd);
        let request = began.elapsed().as_nanos() as f64;
        self.crowd.check(burst.len());
        self.crowd.send_acknowledgements(burst.iter().copied());
        let now = self.crowd.now();
        let began = Instant::now();
        self.crowd.node.worker.turn(now);
        let ack = began.elapsed().as_nanos() as f64;
        (request, ack, burst.len())
    }

    fn time(&mut self) -> Times {
        let (mut requests, mut acks) = (Vec::new(), Vec::new());
        for at in 0..WARM_UP + BURSTS {
            let (request, ack, count) = self.once(turn);
            if at >= WARM_UP {
                requests.push(request / count as f64);
                acks.push(ack / count as f64);
            }
        }
        Times { request: median(&mut requests), ack: median(&mut acks) }
    }

    /// Heap allocations of the worker for each request.
    fn allocations(&mut self) -> f64 {
        let (mut allocated, mut requests) = (0, 0);
        for _ in 0..200 {
            let (_, _, count) = self.once(|crowd| {
                let now = crowd.now();
                let info = allocation_counter::measure(|| {
                    crowd.node.worker.turn(now);
                });
                allocated += info.count_total;
            });
            requests += count;
        }
        allocated as f64 / requests as f64
    }

    /// Mean ns a request by stage; reading the clock between stages costs some itself.
    fn stages(&mut self) -> Vec<(Stage, f64)> {
        let mut spent = Spent::default();
        let mut requests = 0;
        for _ in 0..BURSTS / 4 {
            let (_, _, count) = self.once(|crowd| {
                let now = crowd.now();
                crowd.node.worker.turn_probed(now, &mut spent);
            });
            requests += count;
        }
        Stage::ALL
            .into_iter()
            .map(|stage| (stage, spent.ns[stage as usize] as f64 / requests as f64))
            .collect()
    }
}

/// The turn that answers a burst.
fn turn(crowd: &mut Crowd) {
    let now = crowd.now();
    crowd.node.worker.turn(now);
}

fn name(connections: u32) -> String {
    match connections {
        1 => "1_conn".into(),
        1_000_000 => "1m_conns".into(),
        many if many % 1_000 == 0 => format!("{}k_conns", many / 1_000),
        many => format!("{many}_conns"),
    }
}

fn main() {
    keyferry_control::memory::heap_in_hugepages();
    let named: Vec<u32> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if named.is_empty() { vec![1, 1_000, 1_000_000] } else { named };
    let mut line = String::new();
    let mut thousand = f64::NAN;
    for connections in sizes {
        let began = Instant::now();
        let mut bench = Bench::new(connections);
        let took = began.elapsed().as_secs_f64();
        // All have their contexts: they are made when a connection first needs them.
        (0..connections.div_ceil(BURST as u32)).for_each(|_| {
            bench.once(turn);
        });
        let times = bench.time();
        let name = name(connections);
        println!("{connections:>7} connections, opened in {took:.1} s:");
        println!(
            "{:>12} {:>6.0} ns a request, {:.0} ns its acknowledgement",
            "kept", times.request, times.ack
        );
        line += &format!(" ns_{name}={:.0} ack_{name}={:.0}", times.request, times.ack);
        for (stage, ns) in bench.stages() {
            println!("{:>12} {ns:>6.0} ns", stage.name());
        }
        if connections == 1_000 {
            thousand = times.request;
            line += &format!(" allocs_per_request={:.3}", bench.allocations());
        } else if connections == 1_000_000 {
            line += &format!(" ratio_1m_to_1k={:.2}", times.request / thousand);
        }
        if connections < 10_000 {
            // All of them would be asked again before they have rested.
            continue;
        }
        bench.crowd.rest(REST);
        assert_eq!(bench.crowd.node.worker.snapshot().awake, 0, "all rest");
        bench.crowd.meet();
        let times = bench.time();
        println!(
            "{:>12} {:>6.0} ns a request, {:.0} ns its acknowledgement",
            "compact", times.request, times.ack
        );
        line += &format!(" ns_{name}_compact={:.0}", times.request);
        if connections == 1_000_000 {
            line += &format!(" ratio_1m_to_1k_compact={:.2}", times.request / thousand);
        }
    }
    println!("bench request:{line}");
}
