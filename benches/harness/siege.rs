//! A node, clients of its own, newcomers, and a flood of SYNs, in time that passes as the worker's turns take it.
//!
//! A turn is timed; so long after its beginning the next one begins, and what has come to the port meanwhile is in its queue
//! by the order of its arrival, as far as it has room: a worker that is slow finds more, and what is too much is lost,
//! whoever sent it. While connections are asked it is turned on and on, as a worker that spins, so that what disturbs it falls on
//! quiet times as often as on a flood's; else it is not turned until something comes. What other threads do is not counted: a turn
//! is as long as the clock says or the thread has run, whichever is less.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use hdrhistogram::Histogram;
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::{Probe, Stage};
use rustix::time::{ClockId, clock_gettime};
use rustls::ClientConfig;

use super::client::{self, Client};
use super::median;
use super::node::{self, Node};
use super::patience::Patience;
use super::settled::Settled;
use super::spoofed::Spoofed;

/// Connections that are there before the flood.
pub const CONNECTIONS: u32 = 64;
/// What they ask for all together, in a second.
pub const REQUESTS_PER_S: u64 = 100_000;
/// Packets that the port's queue has room for.
pub const QUEUE: usize = 512;

const REQUEST: &[u8] = b"GET /?bytes=1024 HTTP/1.1\r\nHost: bench.test\r\n\r\n";
const REPLY: &[u8] = b"HTTP/1.1 200 OK\r\n";
const PLACES: u32 = 1024;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
/// From a frame that leaves the node to the one that answers it.
const ROUND_TRIP_NS: u64 = 20_000;
/// How often clients look at their timers.
const TIMERS_NS: u64 = 1_000_000;
/// Frames put on the wire before it is emptied into the port's queue.
const INJECTED_MAX: usize = 1_024;
/// Longer ones count as this long.
const LATENCY_NS_MAX: u64 = 60_000_000_000;
const NEVER: u64 = u64::MAX;

/// How SYNs come.
#[derive(Clone, Copy, PartialEq)]
pub enum Flood {
    /// Not at all.
    None,
    /// So many a second, each as long after the one before.
    Rate(f64),
    /// Each turn finds as many as the port's queue has room for beside what else has come, which is anywhere among them.
    Full,
}

/// A connection that is there before the flood.
struct Established {
    client: Settled,
    patience: Patience,
    /// When the request that is under way was to be sent.
    asked_ns: u64,
}

/// A client that comes during the flood.
pub struct Newcomer {
    client: Client,
    patience: Patience,
    /// Its SYN, and when it comes.
    syn: Vec<u8>,
    comes_ns: u64,
    /// SYNs sent; what follows from them.
    pub syns: u32,
    heard: bool,
    asked: bool,
    /// How long it took from its first SYN to its reply.
    pub served_ns: Option<u64>,
}

/// What a turn took, and when its packets were out.
struct Out {
    began: Instant,
    after: Duration,
}

impl Probe for Out {
    fn begin(&mut self) {}

    fn end_of(&mut self, stage: Stage) {
        if stage == Stage::Transmit {
            self.after = self.began.elapsed();
        }
    }
}

/// All of it.
pub struct Siege {
    /// The node.
    pub node: Node,
    /// Whoever has come.
    pub newcomers: Vec<Newcomer>,
    /// From when a request was to be sent until its reply was out, in ns.
    pub latencies: Histogram<u64>,
    /// How long turns with something to do took, in ns.
    pub turns: Histogram<u64>,
    /// Frames that clients have sent again.
    pub again: u64,
    /// SYNs of the flood so far.
    pub syns: u64,
    now_ns: u64,
    flood: Flood,
    next_syn_ns: f64,
    spoofed: Spoofed,
    established: Vec<Established>,
    /// Connections that may be asked on, and from when.
    free: VecDeque<(u64, usize)>,
    /// Requests that found none: when each was to be sent.
    waiting: VecDeque<u64>,
    next_request_ns: u64,
    timers_ns: u64,
    /// Frames of clients on their way: when each arrives, how many were sent before.
    underway: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    sent: u64,
    random: u64,
    config: Arc<ClientConfig>,
}

impl Siege {
    /// A node with its connections, and no flood yet.
    pub fn new() -> Siege {
        let mut siege = Siege {
            node: node::routed(PLACES, GATEWAY),
            newcomers: Vec::new(),
            latencies: Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("three digits"),
            turns: Histogram::new_with_max(LATENCY_NS_MAX, 3).expect("three digits"),
            again: 0,
            syns: 0,
            now_ns: 1,
            flood: Flood::None,
            next_syn_ns: 0.0,
            spoofed: Spoofed::new(),
            established: Vec::new(),
            free: VecDeque::new(),
            waiting: VecDeque::new(),
            next_request_ns: NEVER,
            timers_ns: 0,
            underway: BinaryHeap::new(),
            sent: 0,
            random: 1,
            config: client::config(),
        };
        siege.send(0, client::arp(0));
        siege.come(CONNECTIONS, 0);
        siege.run(1_000_000_000, |siege| siege.served() == CONNECTIONS as usize);
        assert_eq!(siege.served(), CONNECTIONS as usize, "{:?}", siege.node.worker.snapshot());
        for newcomer in std::mem::take(&mut siege.newcomers) {
            let (client, patience) = (Settled::of(newcomer.client), newcomer.patience);
            siege.send(siege.now_ns, client.acknowledge());
            siege.free.push_back((siege.now_ns, siege.established.len()));
            siege.established.push(Established { client, patience, asked_ns: 0 });
        }
        siege.run(1_000_000, |_| false);
        siege
    }

    /// From now on SYNs come like this.
    pub fn flood(&mut self, flood: Flood) {
        (self.flood, self.next_syn_ns) = (flood, self.now_ns as f64);
    }

    /// From now on connections are asked, or no more.
    pub fn ask(&mut self, asks: bool) {
        self.next_request_ns = if asks { self.now_ns + self.pause() } else { NEVER };
    }

    /// Newcomers from now on, one each `every_ns`.
    pub fn come(&mut self, count: u32, every_ns: u64) {
        let first = (self.established.len() + self.newcomers.len()) as u32;
        for number in 0..count {
            let (client, syn) = Client::new(first + number, &self.config);
            self.newcomers.push(Newcomer {
                client,
                patience: Patience::default(),
                syn,
                comes_ns: self.now_ns + u64::from(number) * every_ns,
                syns: 0,
                heard: false,
                asked: false,
                served_ns: None,
            });
        }
    }

    /// Newcomers that were served.
    pub fn served(&self) -> usize {
        self.newcomers.iter().filter(|newcomer| newcomer.served_ns.is_some()).count()
    }

    /// Requests that are not answered yet.
    pub fn unanswered(&self) -> usize {
        self.waiting.len() + self.established.len() - self.free.len()
    }

    /// The time.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Median ns of a turn that finds so many SYNs, and behind them a request or none.
    pub fn time(&mut self, samples: usize, syns: usize, asks: bool) -> f64 {
        let mut took = Vec::with_capacity(samples);
        for _ in 0..samples {
            let answered = self.latencies.len() + u64::from(asks);
            self.inject(syns);
            if asks {
                let (_, one) = self.free.pop_front().expect("all have been answered");
                self.request(one, self.now_ns, self.now_ns);
            }
            self.arrive();
            let began_ns = self.now_ns;
            let (_, out_ns) = self.turn();
            took.push((self.now_ns - began_ns) as f64);
            self.hear(out_ns);
            assert_eq!(self.latencies.len(), answered, "a request is answered in the turn that finds it");
            if asks {
                // Its acknowledgement, which is not timed.
                self.now_ns += ROUND_TRIP_NS;
                self.arrive();
                let (_, out_ns) = self.turn();
                self.hear(out_ns);
            }
        }
        median(&mut took)
    }

    /// Heap allocations of so many turns, in each of which so many SYNs come.
    pub fn allocations(&mut self, turns: usize, syns: usize) -> u64 {
        let mut allocated = 0;
        for _ in 0..turns {
            self.inject(syns);
            self.arrive();
            let now = Time(self.now_ns);
            let info = allocation_counter::measure(|| {
                self.node.worker.turn(now);
            });
            allocated += info.count_total;
            self.now_ns += ROUND_TRIP_NS;
            self.hear(self.now_ns);
        }
        allocated
    }

    /// Lets so much time pass, or until `done`.
    pub fn run(&mut self, ns: u64, done: impl Fn(&Siege) -> bool) {
        let end_ns = self.now_ns + ns;
        while self.now_ns < end_ns && !done(self) {
            self.timers();
            self.requests();
            self.arrive();
            let (is_busy, out_ns) = self.turn();
            self.hear(out_ns);
            if !is_busy && self.next_request_ns == NEVER {
                self.now_ns = self.now_ns.max(self.next_ns().min(end_ns));
            }
        }
    }

    /// One turn. Answers whether there was anything to do, and when its packets were out.
    fn turn(&mut self) -> (bool, u64) {
        let ran = thread_ns();
        let began = Instant::now();
        let mut out = Out { began, after: Duration::ZERO };
        let is_busy = self.node.worker.turn_probed(Time(self.now_ns), &mut out);
        let took_ns = (began.elapsed().as_nanos() as u64).min(thread_ns() - ran);
        if is_busy {
            self.turns.saturating_record(took_ns);
        }
        let out_ns = self.now_ns + took_ns.min(out.after.as_nanos() as u64);
        self.now_ns += took_ns;
        (is_busy, out_ns)
    }

    /// When something happens next, if the worker has nothing to do.
    fn next_ns(&self) -> u64 {
        let arrives = self.underway.peek().map_or(NEVER, |Reverse((at_ns, ..))| *at_ns);
        let due = self.node.worker.poll_at().map_or(NEVER, |at| at.0);
        let syn = match self.flood {
            Flood::None => NEVER,
            Flood::Rate(_) => self.next_syn_ns as u64 + 1,
            Flood::Full => self.now_ns,
        };
        arrives.min(due).min(syn).min(self.next_request_ns).min(self.timers_ns)
    }

    /// A frame of a client that leaves, or answers what left, at this time.
    fn send(&mut self, at_ns: u64, frame: Vec<u8>) {
        self.sent += 1;
        self.underway.push(Reverse((at_ns, self.sent, frame)));
    }

    /// Time between two requests: drawn, as of clients that know nothing of each other.
    fn pause(&mut self) -> u64 {
        (-(1.0 - self.share()).ln() * 1e9 / REQUESTS_PER_S as f64) as u64
    }

    /// The next of a row of random numbers, at least 0 and less than 1 (SplitMix64).
    fn share(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.random;
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ bits >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Requests that are to be sent by now.
    fn requests(&mut self) {
        while self.next_request_ns <= self.now_ns {
            let at_ns = self.next_request_ns;
            self.next_request_ns += self.pause();
            match self.free.pop_front() {
                Some((from_ns, one)) => self.request(one, at_ns, at_ns.max(from_ns)),
                None => self.waiting.push_back(at_ns),
            }
        }
    }

    /// A request on a connection, which was to be sent at `asked_ns`.
    fn request(&mut self, one: usize, asked_ns: u64, at_ns: u64) {
        let established = &mut self.established[one];
        established.asked_ns = asked_ns;
        let frame = established.client.request(REQUEST);
        established.patience.sent(at_ns, &frame);
        self.send(at_ns, frame);
    }

    /// What clients send again, and who comes.
    fn timers(&mut self) {
        if self.now_ns < self.timers_ns {
            return;
        }
        let now_ns = self.now_ns;
        self.timers_ns = now_ns + TIMERS_NS;
        let mut frames = Vec::new();
        for established in &mut self.established {
            frames.extend(established.patience.again(now_ns));
        }
        for newcomer in &mut self.newcomers {
            let again = newcomer.patience.again(now_ns);
            newcomer.syns += u32::from(again.first().is_some_and(|frame| client::is_syn(frame)));
            frames.extend(again);
        }
        self.again += frames.len() as u64;
        for newcomer in &mut self.newcomers {
            if newcomer.syns == 0 && newcomer.comes_ns <= now_ns {
                (newcomer.syns, newcomer.comes_ns) = (1, now_ns);
                newcomer.patience.sent(now_ns, &newcomer.syn);
                frames.push(newcomer.syn.clone());
            }
        }
        for frame in frames {
            // Clients do not look at the same time.
            let at_ns = now_ns + (self.share() * TIMERS_NS as f64) as u64;
            self.send(at_ns, frame);
        }
    }

    /// All that has come to the port by now goes into its queue, in the order it came.
    fn arrive(&mut self) {
        let (before, behind) = if self.flood == Flood::Full { self.room() } else { (0, 0) };
        self.inject(before);
        let mut injected = 0;
        loop {
            let frame_ns = self.underway.peek().map_or(NEVER, |Reverse((at_ns, ..))| *at_ns);
            let syn_ns = if let Flood::Rate(_) = self.flood { self.next_syn_ns as u64 } else { NEVER };
            if frame_ns.min(syn_ns) > self.now_ns {
                break;
            }
            if injected == INJECTED_MAX {
                self.node.net.advance(self.now_ns);
                injected = 0;
            }
            injected += 1;
            if frame_ns <= syn_ns {
                let Some(Reverse((_, _, frame))) = self.underway.pop() else { break };
                node::inject(&mut self.node.wire, &frame);
            } else if let Flood::Rate(rate) = self.flood {
                self.inject(1);
                self.next_syn_ns += 1e9 / rate;
            }
        }
        self.inject(behind);
        self.node.net.advance(self.now_ns);
    }

    /// Puts so many SYNs of the flood on the wire.
    pub fn inject(&mut self, syns: usize) {
        for _ in 0..syns {
            node::inject(&mut self.node.wire, self.spoofed.frame());
        }
        self.syns += syns as u64;
    }

    /// How many SYNs the port's queue has room for before and behind what else has come.
    fn room(&mut self) -> (usize, usize) {
        let others = self.underway.iter().filter(|Reverse((at_ns, ..))| *at_ns <= self.now_ns).count();
        let room = QUEUE.saturating_sub(self.queued() + others);
        let before = (self.share() * (room + 1) as f64) as usize;
        (before, room - before)
    }

    /// Packets in the port's queue.
    fn queued(&self) -> usize {
        let counters = self.node.worker.snapshot();
        let sent = self.node.wire.stats().tx_packets;
        (sent - counters.rx_packets - counters.drop_missed) as usize
    }

    /// Hands the node's frames, which were out at `out_ns`, to their clients.
    fn hear(&mut self, out_ns: u64) {
        self.node.net.advance(self.now_ns);
        let clients = client::address(0).octets();
        loop {
            let mut packets = ArrayVec::<_, BURST>::new();
            if self.node.wire.rx_burst(&mut packets) == 0 {
                break;
            }
            for packet in packets {
                let frame = packet.bytes();
                if let Some(reply) = client::arp_reply(frame) {
                    self.send(out_ns + ROUND_TRIP_NS, reply);
                } else if frame[12..14] == [8, 0] && frame[30..34] == clients {
                    self.hear_one(out_ns, frame);
                }
            }
        }
    }

    fn hear_one(&mut self, out_ns: u64, frame: &[u8]) {
        let Some(number) = client::number(frame).map(|number| number as usize) else { return };
        match number.checked_sub(self.established.len()) {
            None => self.hear_established(number, out_ns, frame),
            Some(newcomer) => self.hear_newcomer(newcomer, out_ns, frame),
        }
    }

    fn hear_established(&mut self, one: usize, out_ns: u64, frame: &[u8]) {
        let established = &mut self.established[one];
        assert!(!client::is_reset(frame), "an established connection stays");
        established.patience.heard(out_ns, frame);
        if !client::has_payload(frame) {
            return;
        }
        let mut plaintext = Vec::new();
        let is_new = established.client.take(frame, &mut plaintext);
        let acknowledgement = established.client.acknowledge();
        let asked_ns = established.asked_ns;
        let back_ns = out_ns + ROUND_TRIP_NS;
        self.send(back_ns, acknowledgement);
        if is_new {
            assert!(plaintext.starts_with(REPLY), "a whole reply");
            self.latencies.saturating_record(out_ns.saturating_sub(asked_ns));
            match self.waiting.pop_front() {
                Some(asked_ns) => self.request(one, asked_ns, back_ns),
                None => self.free.push_back((back_ns, one)),
            }
        }
    }

    fn hear_newcomer(&mut self, one: usize, out_ns: u64, frame: &[u8]) {
        let Some(newcomer) = self.newcomers.get_mut(one) else { return };
        newcomer.patience.heard(out_ns, frame);
        // A handshake that is answered twice is the same one.
        if client::is_reset(frame) || (client::is_syn(frame) && newcomer.heard) {
            return;
        }
        newcomer.heard = true;
        let (mut out, mut plaintext) = (Vec::new(), Vec::new());
        newcomer.client.take(frame, &mut out, &mut plaintext);
        if newcomer.client.is_ready() && !newcomer.asked {
            newcomer.asked = true;
            out.push(newcomer.client.request(REQUEST));
        }
        if plaintext.starts_with(REPLY) {
            newcomer.served_ns = Some(out_ns - newcomer.comes_ns);
        }
        let back_ns = out_ns + ROUND_TRIP_NS;
        for frame in out {
            newcomer.patience.sent(back_ns, &frame);
            self.sent += 1;
            self.underway.push(Reverse((back_ns, self.sent, frame)));
        }
    }
}

/// How long this thread has run.
fn thread_ns() -> u64 {
    let ran = clock_gettime(ClockId::ThreadCPUTime);
    ran.tv_sec as u64 * 1_000_000_000 + ran.tv_nsec as u64
}
