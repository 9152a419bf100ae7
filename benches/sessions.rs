//! What it costs that a client's session lives at another node: two processes, each with one spinning worker on a core of
//! its own, queue pairs over shared memory. Clients come back to the first node all the time; by its name half of the
//! sessions live there and half at the second one, so handshakes that resume from the table here and by a take from
//! there alternate at random.
//!
//! Timed from the ClientHello's packet being on the wire to the server's flight being on it. Then what others notice:
//! requests on established connections, in rounds without and with handshakes that wait; the second process stands
//! still meanwhile, so that they do. The last line is `bench sessions: local_resume_us_p50=.. remote_resume_us_p50=..
//! remote_take_added_us_p50=.. others_p99_us_idle=.. others_p99_us_taking=.. ...`.

mod harness;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use harness::client::{self, Client};
use harness::node::{self, Node};
use harness::pair::{FIRST, Pair, SECOND};
use harness::wallet::{SESSIONS_MAX, Wallet};
use harness::{median, quantile};
use keyferry_decide::Policy;
use keyferry_nic::{BURST, Nic, Packet as _};
use rustls::{ClientConfig, SupportedProtocolVersion};

type Packet = <keyferry_nic::sim::Queue as Nic>::Packet;

/// Handshakes that resume, of each version; a tenth more warm up.
const HANDSHAKES: usize = 20_000;

/// Sessions of TLS 1.2 that clients come back with in turn.
const SESSIONS12: usize = 64;

/// Rounds of requests without and with handshakes that wait.
const ROUNDS: usize = 40;

/// Requests of a round, each way.
const REQUESTS: usize = 1_000;

/// Requests before those, untimed: what opening connections has driven out of the caches comes back.
const WARM_UP: usize = 200;

/// Time before those: what opened connections still owe, delayed acknowledgements above all, is sent.
const SETTLE: Duration = Duration::from_millis(50);

/// Connections that make them.
const OTHERS: u32 = 32;

/// Handshakes that wait meanwhile.
const WAITING: u64 = 64;

/// Connections at once, at most.
const CONNECTIONS: u32 = 1_024;

/// Anything takes longer than this only if something is broken.
const PATIENCE: Duration = Duration::from_secs(20);

fn member(name: &str) -> Node {
    node::node_of(name, &[FIRST, SECOND], CONNECTIONS, Policy::Never)
}

fn main() {
    let pair = Pair::begin(|| member(SECOND));
    let mut bench = Bench::new(&pair);
    let tls13 = bench.resumptions(&rustls::version::TLS13, 0);
    let tls12 = bench.resumptions(&rustls::version::TLS12, SESSIONS12);
    let others = bench.others(&pair);
    println!(
        "bench sessions: local_resume_us_p50={:.2} remote_resume_us_p50={:.2} remote_take_added_us_p50={:.2} \
         others_p99_us_idle={:.2} others_p99_us_taking={:.2} others_p99_ratio={:.3} \
         others_p50_us_idle={:.2} others_p50_us_taking={:.2} local_resume_us_p99={:.2} \
         remote_resume_us_p99={:.2} tls12_local_resume_us_p50={:.2} tls12_remote_resume_us_p50={:.2} \
         tls12_remote_take_added_us_p50={:.2}",
        tls13.local_p50,
        tls13.remote_p50,
        tls13.remote_p50 - tls13.local_p50,
        others.idle_p99,
        others.taking_p99,
        others.ratio,
        others.idle_p50,
        others.taking_p50,
        tls13.local_p99,
        tls13.remote_p99,
        tls12.local_p50,
        tls12.remote_p50,
        tls12.remote_p50 - tls12.local_p50,
    );
}

/// Times of handshakes, in us.
struct Resumed {
    local_p50: f64,
    local_p99: f64,
    remote_p50: f64,
    remote_p99: f64,
}

/// Times of requests, in us: medians over the rounds.
struct Others {
    idle_p50: f64,
    taking_p50: f64,
    idle_p99: f64,
    taking_p99: f64,
    ratio: f64,
}

/// The first node and its clients.
struct Bench {
    node: Node,
    start: Instant,
    clients: HashMap<u32, Client>,
    /// Number of the next client.
    next: u32,
}

impl Bench {
    fn new(pair: &Pair) -> Bench {
        let mut bench =
            Bench { node: member(FIRST), start: Instant::now(), clients: HashMap::new(), next: 0 };
        pair.connect(&bench.node);
        node::inject(&mut bench.node.wire, &client::arp(0));
        bench.until("a queue pair", |bench| bench.node.worker.snapshot().peers_ready > 0);
        bench
    }

    /// A turn, and what comes of it at the clients.
    fn turn(&mut self) {
        self.node.turn(self.start);
        let packets = self.packets();
        self.hear(packets);
    }

    /// What the node has sent.
    fn packets(&mut self) -> ArrayVec<Packet, BURST> {
        let mut packets = ArrayVec::new();
        self.node.wire.rx_burst(&mut packets);
        packets
    }

    /// Hands packets to their clients and their answers back. Returns plaintext that came.
    fn hear(&mut self, packets: ArrayVec<Packet, BURST>) -> Vec<u8> {
        let (mut out, mut plaintext) = (Vec::new(), Vec::new());
        for packet in packets {
            self.hear_one(&packet, &mut out, &mut plaintext);
        }
        self.inject(out);
        plaintext
    }

    /// Hands a packet to its client, and answers whose it is.
    fn hear_one(&mut self, packet: &Packet, out: &mut Vec<Vec<u8>>, plaintext: &mut Vec<u8>) -> Option<u32> {
        out.extend(client::arp_reply(packet.bytes()));
        let number = client::number(packet.bytes()).filter(|_| packet.bytes()[12..14] == [8, 0])?;
        self.clients.get_mut(&number)?.take(packet.bytes(), out, plaintext);
        Some(number)
    }

    fn inject(&mut self, frames: Vec<Vec<u8>>) {
        for frame in frames {
            node::inject(&mut self.node.wire, &frame);
        }
    }

    fn until(&mut self, what: &str, mut done: impl FnMut(&Bench) -> bool) {
        let began = Instant::now();
        while !done(self) {
            self.turn();
            assert!(began.elapsed() < PATIENCE, "{what}: {:?}", self.node.worker.snapshot());
        }
    }

    /// A client whose ClientHello is on the wire, and nothing else of it. Answers its number.
    fn say_hello(&mut self, config: &Arc<ClientConfig>) -> u32 {
        let number = self.next;
        self.next += 1;
        let (client, syn) = Client::new(number, config);
        self.clients.insert(number, client);
        self.inject(vec![client::arp(number), syn]);
        let mut hello = Vec::new();
        let began = Instant::now();
        while hello.is_empty() {
            self.node.turn(self.start);
            for packet in self.packets() {
                let mut out = Vec::new();
                match self.hear_one(&packet, &mut out, &mut Vec::new()) {
                    Some(whose) if whose == number => hello.append(&mut out),
                    _ => self.inject(out),
                }
            }
            assert!(began.elapsed() < PATIENCE, "a connection: {:?}", self.node.worker.snapshot());
        }
        self.inject(hello);
        number
    }

    /// Takes a handshake to its end, with so many sessions in the wallet then, and the connection to its own.
    fn finish(&mut self, number: u32, wallet: &Wallet, sessions: usize) {
        let sessions = sessions.min(SESSIONS_MAX);
        self.until("a handshake's end", |bench| {
            bench.clients[&number].is_ready() && wallet.len() >= sessions
        });
        // What is still under way: the node's acknowledgements, sessions on their way to where they live.
        for _ in 0..4 {
            self.turn();
        }
        let open = self.node.worker.snapshot().flows;
        if let Some(client) = self.clients.remove(&number) {
            node::inject(&mut self.node.wire, &client.reset());
        }
        self.until("a connection's end", |bench| bench.node.worker.snapshot().flows < open);
    }

    /// Fills a wallet by full handshakes.
    fn fill(&mut self, config: &Arc<ClientConfig>, wallet: &Wallet, sessions: usize) {
        while wallet.len() < sessions {
            let before = wallet.len();
            let number = self.say_hello(config);
            self.finish(number, wallet, before + 1);
        }
    }

    /// Time from the ClientHello to the server's flight, in us, and whether the session came from the other node.
    fn resume(&mut self, config: &Arc<ClientConfig>, wallet: &Wallet, gained: usize) -> (f64, bool) {
        let before = self.node.worker.snapshot();
        let sessions = wallet.len();
        let number = self.say_hello(config);
        let (took, packets) = self.until_payload();
        self.hear(packets);
        // One is used, so many are new.
        self.finish(number, wallet, (sessions + gained).saturating_sub(1));
        let after = self.node.worker.snapshot();
        assert_eq!(after.handshakes_resumed - before.handshakes_resumed, 1, "it resumes: {after:?}");
        (took.as_nanos() as f64 / 1_000.0, after.takes_found > before.takes_found)
    }

    /// Turns until the node sends bytes of a connection. Returns the time it took and what was sent.
    fn until_payload(&mut self) -> (Duration, ArrayVec<Packet, BURST>) {
        let mut packets = ArrayVec::new();
        let began = Instant::now();
        loop {
            let heard = packets.len();
            self.node.turn(self.start);
            self.node.wire.rx_burst(&mut packets);
            if packets[heard..].iter().any(|packet: &Packet| client::has_payload(packet.bytes())) {
                return (began.elapsed(), packets);
            }
            assert!(began.elapsed() < PATIENCE, "an answer: {:?}", self.node.worker.snapshot());
        }
    }

    /// Many handshakes that resume, from here and from the other node.
    fn resumptions(&mut self, version: &'static SupportedProtocolVersion, sessions12: usize) -> Resumed {
        let wallet = Arc::new(Wallet::new(sessions12));
        let config = client::config_with(version, &wallet);
        self.fill(&config, &wallet, sessions12.max(2));
        // Of TLS 1.3 each handshake takes one session and makes two; of TLS 1.2 none is made.
        let gained = if sessions12 == 0 { 2 } else { 0 };
        let (mut local, mut remote) = (Vec::new(), Vec::new());
        for number in 0..HANDSHAKES + HANDSHAKES / 10 {
            let (took, taken) = self.resume(&config, &wallet, gained);
            if number >= HANDSHAKES / 10 {
                if taken { &mut remote } else { &mut local }.push(took);
            }
        }
        let counters = self.node.worker.snapshot();
        assert_eq!(counters.takes, counters.takes_found, "nothing is missed: {counters:?}");
        assert!(local.len().min(remote.len()) > HANDSHAKES / 4, "about half live elsewhere");
        Resumed {
            local_p50: median(&mut local),
            local_p99: quantile(&mut local, 0.99),
            remote_p50: median(&mut remote),
            remote_p99: quantile(&mut remote, 0.99),
        }
    }

    /// Requests of others, beside handshakes that wait and without them.
    fn others(&mut self, pair: &Pair) -> Others {
        let established: Vec<u32> = (0..OTHERS).map(|_| self.say_hello(&client::config())).collect();
        self.until("connections", |bench| established.iter().all(|number| bench.clients[number].is_ready()));
        let wallet = Arc::new(Wallet::new(0));
        let config = client::config_with(&rustls::version::TLS13, &wallet);
        // Half of them live here.
        self.fill(&config, &wallet, 4 * WAITING as usize);
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            pair.freeze();
            // Every other round the other way round: what drifts falls on both.
            let mut times = [[0.0; 2]; 2];
            for waiting in [round % 2 == 1, round % 2 == 0] {
                let parked = if waiting { self.park(&config, &wallet) } else { Vec::new() };
                times[usize::from(waiting)] = self.requests(&established);
                if waiting {
                    pair.thaw();
                    self.unpark(&parked, &wallet);
                    pair.freeze();
                }
            }
            pair.thaw();
            rounds.push(times);
        }
        let of =
            |value: &dyn Fn(&[[f64; 2]; 2]) -> f64| median(&mut rounds.iter().map(value).collect::<Vec<_>>());
        Others {
            idle_p50: of(&|round| round[0][0]),
            taking_p50: of(&|round| round[1][0]),
            idle_p99: of(&|round| round[0][1]),
            taking_p99: of(&|round| round[1][1]),
            ratio: of(&|round| round[1][1] / round[0][1]),
        }
    }

    /// Handshakes that wait for sessions of the other node, which stands still.
    fn park(&mut self, config: &Arc<ClientConfig>, wallet: &Wallet) -> Vec<u32> {
        let mut parked = Vec::new();
        while self.node.worker.snapshot().handshakes_waiting < WAITING {
            let waiting = self.node.worker.snapshot().handshakes_waiting;
            let sessions = wallet.len();
            let number = self.say_hello(config);
            let began = Instant::now();
            // Either it waits, or it is answered from here.
            loop {
                self.turn();
                if self.node.worker.snapshot().handshakes_waiting > waiting {
                    parked.push(number);
                    break;
                }
                if self.clients[&number].is_ready() {
                    self.finish(number, wallet, sessions + 1);
                    break;
                }
                assert!(began.elapsed() < PATIENCE, "a handshake: {:?}", self.node.worker.snapshot());
            }
        }
        parked
    }

    /// The sessions come, and the handshakes end.
    fn unpark(&mut self, parked: &[u32], wallet: &Wallet) {
        self.until("sessions", |bench| bench.node.worker.snapshot().handshakes_waiting == 0);
        let sessions = wallet.len();
        for number in parked {
            self.finish(*number, wallet, sessions.min(1));
        }
        let counters = self.node.worker.snapshot();
        assert_eq!(counters.takes, counters.takes_found, "nothing is missed: {counters:?}");
    }

    /// Requests, one at a time, on connections in turn. Answers p50 and p99 of their times in us.
    fn requests(&mut self, established: &[u32]) -> [f64; 2] {
        let began = Instant::now();
        self.until("time to pass", |_| began.elapsed() > SETTLE);
        let mut times = Vec::with_capacity(WARM_UP + REQUESTS);
        for number in established.iter().cycle().take(WARM_UP + REQUESTS) {
            let client = self.clients.get_mut(number).expect("an established connection");
            let frame = client.request(client::REQUEST);
            self.inject(vec![frame]);
            let (took, packets) = self.until_payload();
            times.push(took.as_nanos() as f64 / 1_000.0);
            let plaintext = self.hear(packets);
            assert!(plaintext.starts_with(b"HTTP/1.1 200 OK\r\n"), "a reply");
        }
        let times = &mut times[WARM_UP..];
        [quantile(times, 0.5), quantile(times, 0.99)]
    }
}
