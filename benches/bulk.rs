//! Large replies through the whole turn of a worker: 1 MiB each, TLS 1.3 AES-128-GCM, from the memory of an application
//! inside the worker to the packets of a simulated port, once without any offload and once with every one.
//!
//! Timed is the worker's turn alone, by its thread's own clock, so that a busy machine does not count: packets in, among them the clients' acknowledgements, the application's copy into its
//! chunks, seal, TCP with its checksums, packets out. Clients acknowledge once what a turn has brought them, as Linux
//! does behind GRO, or each second segment (RFC 5681 section 4.2). The first and the last reply of each client are
//! opened and compared, every byte; of those between the sequence numbers are, and the length.
//!
//! `bulk [CONNECTIONS..]` measures these numbers of connections (1 and 64 if none is named). The last line is
//! `bench bulk: sealed_gb_per_s=.. ...`: 10^9 bytes of plaintext for each second of the turns, the least of its numbers
//! of connections, no offload.

mod harness;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use arrayvec::ArrayVec;
use harness::client::{self, Client};
use harness::median;
use harness::node::{self, Node};
use harness::settled::Settled;
use keyferry_app::{App, Body, Shared, synthetic};
use keyferry_http::{ReplyHead, Request};
use keyferry_nic::sim::PortOptions;
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::{Probe, Stage};

/// Bytes of a reply's body.
const BODY_BYTES: usize = 1 << 20;
/// Virtual time between two turns: a round trip.
const TURN_NS: u64 = 50_000;
/// Bytes of the stream in each timed run, and in the one before them.
const RUN_BYTES: usize = 512 << 20;
const WARM_UP_BYTES: usize = 128 << 20;
/// Runs; the median is quoted.
const RUNS: usize = 7;

const REQUEST: &[u8] = b"GET /bulk HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

/// Whether the application reads the clock, and what it has spent since it does.
static TIMES: AtomicBool = AtomicBool::new(false);
static APP_NS: AtomicU64 = AtomicU64::new(0);

/// Answers each request with the same bytes of its own.
struct Memory(keyferry_app::Memory);

impl App for Memory {
    type Task = usize;

    fn begin(&mut self, _: &Request, _: Time) -> usize {
        0
    }

    fn head(&mut self, _: &mut usize, _: &Request, _: Time) -> Poll<ReplyHead> {
        Poll::Ready(ReplyHead::new(200, BODY_BYTES as u64, "application/octet-stream"))
    }

    fn body(&mut self, sent: &mut usize, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
        let began = TIMES.load(Ordering::Relaxed).then(clock);
        let bytes = (BODY_BYTES - *sent).min(out.len());
        out[..bytes].copy_from_slice(&(*self.0).as_ref()[*sent..*sent + bytes]);
        *sent += bytes;
        if let Some(began) = began {
            APP_NS.fetch_add(clock() - began, Ordering::Relaxed);
        }
        Poll::Ready(Body { bytes, end: *sent == BODY_BYTES })
    }

    fn share(&mut self, sent: &mut usize, _: &Request, bytes_max: usize) -> Option<Shared> {
        let shared = Shared::new(Arc::clone(&self.0), *sent..BODY_BYTES.min(*sent + bytes_max));
        *sent = BODY_BYTES.min(*sent + bytes_max);
        shared
    }
}

/// How often a client acknowledges.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acks {
    /// Once for all that a turn has brought.
    Burst,
    /// Each second segment.
    Second,
}

/// A client that asks for the same again and again.
struct Download {
    client: Settled,
    /// Bytes of the reply under way.
    got: usize,
    /// They are opened when all have come: then they are here.
    kept: Option<Vec<u8>>,
    /// Segments not acknowledged.
    owed: usize,
    /// A reply is under way.
    asked: bool,
    /// It asks for no more.
    rests: bool,
}

/// Processor time of this thread, in ns.
fn clock() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Time spent in each stage of a turn, in ns.
#[derive(Default)]
struct Spent {
    ns: [u64; Stage::ALL.len()],
    last: u64,
}

impl Probe for Spent {
    fn begin(&mut self) {
        self.last = clock();
    }

    fn end_of(&mut self, stage: Stage) {
        let now = clock();
        self.ns[stage as usize] += now - std::mem::replace(&mut self.last, now);
    }
}

/// A node and its clients.
struct Bench {
    node: Node<Memory>,
    now_ns: u64,
    clients: Vec<Download>,
    acks: Acks,
    /// Bytes of the stream, and records, that one reply is; known when the first has come.
    reply_bytes: usize,
    reply_records: u32,
    /// Bytes of the stream received so far.
    received: usize,
    body: Box<[u8]>,
    /// Frames to the node.
    out: Vec<Vec<u8>>,
}

impl Bench {
    fn new(port: PortOptions, connections: u32, acks: Acks) -> Bench {
        let mut body = vec![0; BODY_BYTES].into_boxed_slice();
        synthetic::fill(0, 0, &mut body);
        let mut bench = Bench {
            node: node::sending(port, connections + 16, Memory(Arc::new(body.clone()))),
            now_ns: TURN_NS,
            clients: Vec::new(),
            acks,
            reply_bytes: 0,
            reply_records: 0,
            received: 0,
            body,
            out: Vec::new(),
        };
        let config = client::config();
        node::inject(&mut bench.node.wire, &client::arp(0));
        for number in 0..connections {
            let (client, syn) = Client::new(number, &config);
            node::inject(&mut bench.node.wire, &syn);
            let client = Settled::of(bench.shake(client));
            node::inject(&mut bench.node.wire, &client.acknowledge());
            bench.turn(&mut ());
            let kept = Some(Vec::new());
            bench.clients.push(Download { client, got: 0, kept, owed: 0, asked: false, rests: false });
        }
        bench.ask_all();
        bench
    }

    /// Has a client shake hands.
    fn shake(&mut self, mut client: Client) -> Client {
        while !client.is_ready() {
            self.turn(&mut ());
            let mut packets = ArrayVec::<_, BURST>::new();
            self.node.wire.rx_burst(&mut packets);
            for packet in packets {
                let frame = packet.bytes();
                self.out.extend(client::arp_reply(frame));
                if client::number(frame).is_some() && frame[12..14] == [8, 0] {
                    client.take(frame, &mut self.out, &mut Vec::new());
                }
            }
            self.send();
        }
        client
    }

    /// One turn of the node, a moment later; answers how long it took, in ns.
    fn turn(&mut self, probe: &mut impl Probe) -> u64 {
        self.now_ns += TURN_NS;
        self.node.net.advance(self.now_ns);
        let began = clock();
        self.node.worker.turn_probed(Time(self.now_ns), probe);
        let took = clock() - began;
        self.node.net.advance(self.now_ns);
        took
    }

    fn send(&mut self) {
        self.out.drain(..).for_each(|frame| node::inject(&mut self.node.wire, &frame));
    }

    /// Each client asks for a reply.
    fn ask_all(&mut self) {
        for download in &mut self.clients {
            download.asked = true;
            self.out.push(download.client.request(REQUEST));
        }
        self.send();
    }

    /// Turns until so many more bytes of the stream have come; answers ns of the turns.
    fn run(&mut self, bytes: usize, probe: &mut impl Probe) -> u64 {
        let (from, mut spent) = (self.received, 0);
        while self.received - from < bytes {
            spent += self.turn(probe);
            self.deliver();
        }
        spent
    }

    /// Hands the node's frames to their clients, who acknowledge and ask again.
    fn deliver(&mut self) {
        loop {
            let mut packets = ArrayVec::<_, BURST>::new();
            if self.node.wire.rx_burst(&mut packets) == 0 {
                break;
            }
            for packet in packets {
                let frame = packet.bytes();
                self.out.extend(client::arp_reply(frame));
                let download = client::number(frame).and_then(|number| self.clients.get_mut(number as usize));
                let Some(download) = download.filter(|_| frame[12..14] == [8, 0]) else { continue };
                let Some(bytes) = download.client.stream(frame) else { continue };
                self.received += bytes.len();
                download.got += bytes.len();
                download.owed += 1;
                if let Some(kept) = &mut download.kept {
                    kept.extend(bytes);
                }
                if self.acks == Acks::Second && download.owed == 2 {
                    download.owed = 0;
                    self.out.push(download.client.acknowledge());
                }
            }
        }
        for number in 0..self.clients.len() {
            self.answer(number);
        }
        self.send();
    }

    /// What a client has to say when a turn's frames have come.
    fn answer(&mut self, number: usize) {
        let download = &mut self.clients[number];
        if let Some(kept) = &mut download.kept
            && self.reply_bytes == 0
        {
            // Nobody knows yet how long a reply is on the wire.
            let (mut plaintext, mut probe) = (Vec::new(), download.client);
            if probe.open(kept, &mut plaintext) == kept.len() && plaintext.len() > BODY_BYTES {
                self.reply_bytes = kept.len();
                self.reply_records = plaintext.len().div_ceil(keyferry_tls::PLAINTEXT_BYTES_MAX) as u32;
            }
        }
        if self.reply_bytes > 0 && download.got >= self.reply_bytes {
            assert_eq!(download.got, self.reply_bytes, "all replies are of one length");
            download.got = 0;
            match download.kept.take() {
                Some(kept) => check(&mut download.client, &kept, &self.body),
                None => download.client.skip(self.reply_records),
            }
            download.asked = !download.rests;
            if download.asked {
                download.owed = 0;
                return self.out.push(download.client.request(REQUEST));
            }
        }
        if std::mem::take(&mut download.owed) > 0 {
            self.out.push(download.client.acknowledge());
        }
    }

    /// Lets all replies under way end, and looks at every byte of one more of each client.
    fn finish(&mut self) {
        for keeps in [false, true] {
            for download in &mut self.clients {
                download.rests = true;
                download.kept = keeps.then(Vec::new);
            }
            if keeps {
                self.ask_all();
            }
            while self.clients.iter().any(|download| download.asked) {
                self.turn(&mut ());
                self.deliver();
            }
        }
    }
}

/// Opens a reply and compares every byte of its body.
fn check(client: &mut Settled, kept: &[u8], body: &[u8]) {
    let mut plaintext = Vec::with_capacity(kept.len());
    assert_eq!(client.open(kept, &mut plaintext), kept.len(), "a reply is whole records");
    assert!(plaintext.starts_with(b"HTTP/1.1 200 OK\r\n"), "a reply");
    assert!(plaintext.ends_with(body), "the body is what the application has");
}

/// Figures of one kind of port and number of connections.
struct Figures {
    gb_per_s: f64,
    /// Mean ns by stage for each 16 KiB of plaintext; reading the clock costs some itself.
    stages: Vec<(&'static str, f64)>,
}

fn figures(port: &PortOptions, connections: u32, acks: Acks) -> Figures {
    let mut bench = Bench::new(port.clone(), connections, acks);
    bench.run(WARM_UP_BYTES, &mut ());
    let share = BODY_BYTES as f64 / bench.reply_bytes as f64;
    let mut rates: Vec<f64> = (0..RUNS)
        .map(|_| {
            let from = bench.received;
            let ns = bench.run(RUN_BYTES, &mut ());
            (bench.received - from) as f64 * share / ns as f64
        })
        .collect();
    let (mut spent, from) = (Spent::default(), bench.received);
    APP_NS.store(0, Ordering::Relaxed);
    TIMES.store(true, Ordering::Relaxed);
    bench.run(RUN_BYTES, &mut spent);
    TIMES.store(false, Ordering::Relaxed);
    let chunks = (bench.received - from) as f64 * share / 16_384.0;
    bench.finish();
    let app = APP_NS.load(Ordering::Relaxed);
    spent.ns[Stage::Replies as usize] -= app.min(spent.ns[Stage::Replies as usize]);
    let stages = Stage::ALL.map(|stage| (stage.name(), spent.ns[stage as usize] as f64 / chunks));
    let app = ("app", app as f64 / chunks);
    Figures { gb_per_s: median(&mut rates), stages: [app].into_iter().chain(stages).collect() }
}

fn main() {
    keyferry_control::memory::heap_in_hugepages();
    let named: Vec<u32> = std::env::args().skip(1).filter_map(|size| size.parse().ok()).collect();
    let sizes = if named.is_empty() { vec![1, 64] } else { named };
    let every = PortOptions { mac: node::MAC, packets: 8192, descriptors: 4096, ..PortOptions::default() };
    let none = PortOptions {
        rx_checksum: false,
        tx_checksum: false,
        tso: false,
        rss: false,
        descriptors: 2048,
        ..every
    };
    let (mut least, mut line) = (f64::INFINITY, String::new());
    for (name, port, acks) in [
        ("plain", &none, Acks::Burst),
        ("plain_acks2", &none, Acks::Second),
        ("offloads", &every, Acks::Burst),
    ] {
        for connections in &sizes {
            let figures = figures(port, *connections, acks);
            println!("{name}, {connections} connections: {:.2} GB/s, ns for each 16 KiB:", figures.gb_per_s);
            for (stage, ns) in figures.stages {
                println!("{stage:>12} {ns:>6.0}");
            }
            line += &format!(" {name}_{connections}={:.2}", figures.gb_per_s);
            if name == "plain" {
                least = least.min(figures.gb_per_s);
            }
        }
    }
    println!("bench bulk: sealed_gb_per_s={least:.2}{line}");
}
