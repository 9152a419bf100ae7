//! A path of the Internet in virtual time: a bottleneck with a queue, a round trip, loss, reordering; our TCP at both
//! ends, one sending as fast as it may.

#![allow(dead_code, reason = "each user needs its part")]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use keyferry_tcp::{Config, ConnId, Egress, Event, RxChecksum, Segment, Tcp, Tuning};
use keyferry_time::Time;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), 50_000);
const MTU: u16 = 1500;

/// What is between the two ends.
#[derive(Clone, Debug)]
pub struct Link {
    /// Rate of the bottleneck.
    pub megabits: u64,
    /// Round trip with empty queues.
    pub rtt: Duration,
    /// What the queue holds, as time.
    pub queue: Duration,
    /// Packets lost of a thousand, data and acknowledgements alike.
    pub loss_permille: u64,
    /// Packets of a hundred that are late, and by how much at most.
    pub reorder_percent: u64,
    pub late: Duration,
    /// Bytes to carry; 0: as many as go in `time`.
    pub bytes: u64,
    pub time: Duration,
}

impl Default for Link {
    fn default() -> Link {
        Link {
            megabits: 100,
            rtt: Duration::from_millis(10),
            queue: Duration::from_millis(10),
            loss_permille: 0,
            reorder_percent: 0,
            late: Duration::from_millis(3),
            bytes: 0,
            time: Duration::from_secs(20),
        }
    }
}

/// How it went.
#[derive(Debug)]
pub struct Outcome {
    pub megabits: f64,
    pub bytes: u64,
    /// Packets of the sender, and those of them that the queue dropped.
    pub packets: u64,
    pub overflowed: u64,
    /// Whether everything arrived, if there was an end to it.
    pub complete: bool,
}

/// A record of 16 KiB: byte `at` of the stream follows from its place.
struct Record(u64);

const RECORD: usize = 16_384;

fn byte(at: u64) -> u8 {
    (at ^ (at >> 8) ^ (at >> 16)).wrapping_mul(167) as u8
}

impl Segment for Record {
    fn len(&self) -> usize {
        RECORD
    }

    fn copy_to(&self, at: usize, to: &mut [u8]) {
        for (place, byte) in to.iter_mut().enumerate() {
            *byte = self::byte(self.0 + (at + place) as u64);
        }
    }
}

#[derive(Default)]
struct Out(Vec<Vec<u8>>);

impl Egress for Out {
    fn room(&mut self) -> bool {
        true
    }

    fn packet<R>(&mut self, len: usize, _: u16, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut packet = vec![0; len];
        let result = fill(&mut packet);
        self.0.push(packet);
        result
    }
}

fn config(own: IpAddr, seed: u64) -> Config {
    Config {
        addresses: vec![own],
        ports: vec![443],
        mtu: MTU,
        connections: 4,
        half_open: 4,
        half_open_timeout: Duration::from_secs(60),
        idle_timeout: Duration::from_secs(300),
        receive_bytes: 65_536,
        send_bytes: 65_536,
        rx_checksum: RxChecksum::Trust,
        tx_checksum_offload: true,
        tso_bytes_max: 0,
        seed,
    }
}

struct Path {
    link: Link,
    now: Time,
    rng: u64,
    /// By time of arrival, then in order.
    flying: BTreeMap<(Time, u64), (bool, Vec<u8>)>,
    sent: u64,
    /// When the bottleneck has sent what is in its queue.
    free_at: Time,
    overflowed: u64,
}

impl Path {
    fn below(&mut self, bound: u64) -> u64 {
        self.rng ^= self.rng >> 12;
        self.rng ^= self.rng << 25;
        self.rng ^= self.rng >> 27;
        (self.rng.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    fn carry(&mut self, to_client: bool, packet: Vec<u8>) {
        if self.below(1_000) < self.link.loss_permille {
            return;
        }
        let mut at = self.now;
        if to_client {
            let wire_bytes = packet.len() as u64 + 38;
            if self.free_at.ns_since(self.now) > self.link.queue.as_nanos() as u64 {
                self.overflowed += 1;
                return;
            }
            self.free_at =
                self.free_at.max(self.now) + Duration::from_nanos(wire_bytes * 8_000 / self.link.megabits);
            at = self.free_at;
        }
        at += self.link.rtt / 2;
        if to_client && self.below(100) < self.link.reorder_percent {
            let late = self.below(self.link.late.as_nanos() as u64);
            at += Duration::from_nanos(late);
        }
        self.sent += 1;
        self.flying.insert((at, self.sent), (to_client, packet));
    }
}

/// Carries bytes from the server to the client.
pub fn transfer(tuning: &Tuning, link: &Link, seed: u64) -> Outcome {
    let mut server = Tcp::<Record>::tuned(config(SERVER.ip(), seed), tuning.clone());
    let mut client = Tcp::<Record>::tuned(config(CLIENT.ip(), seed + 1), Tuning::default());
    let mut path = Path {
        link: link.clone(),
        now: Time::from_us(1_000_000),
        rng: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        flying: BTreeMap::new(),
        sent: 0,
        free_at: Time::ZERO,
        overflowed: 0,
    };
    let start = path.now;
    client.connect(start, CLIENT, SERVER).expect("it begins");
    let (mut queued, mut got, mut packets) = (0u64, 0u64, 0u64);
    let mut id: Option<ConnId> = None;
    let mut outs = (Out::default(), Out::default());
    let mut due: VecDeque<(bool, Vec<u8>)> = VecDeque::new();
    let enough = |got: u64| link.bytes > 0 && got >= link.bytes;
    while path.now.ns_since(start) < link.time.as_nanos() as u64 && !enough(got) {
        while let Some(entry) = path.flying.first_entry() {
            if !entry.key().0.is_due(path.now) {
                break;
            }
            due.push_back(entry.remove());
        }
        for (to_client, mut packet) in due.drain(..) {
            if to_client {
                client.ingest(path.now, &mut packet, true, &mut outs.1);
            } else {
                server.ingest(path.now, &mut packet, true, &mut outs.0);
            }
        }
        while let Some(event) = client.poll_event() {
            if let Event::Readable(id) = event {
                while client
                    .receive(id, |bytes| {
                        for (place, found) in bytes.iter().enumerate() {
                            assert_eq!(*found, byte(got + place as u64), "a byte out of place");
                        }
                        got += bytes.len() as u64;
                        (bytes.len(), ())
                    })
                    .is_some()
                {}
            }
        }
        while server.released().is_some() {}
        while let Some(event) = server.poll_event() {
            match event {
                Event::Opened(opened) => id = Some(opened),
                Event::Closed(_, reason) => panic!("closed: {reason:?}"),
                _ => {}
            }
        }
        if let Some(id) = id {
            while link.bytes == 0 || queued < link.bytes {
                if server.send(id, Record(queued)).is_err() {
                    break;
                }
                queued += RECORD as u64;
            }
        }
        server.timers(path.now, &mut outs.0);
        client.timers(path.now, &mut outs.1);
        for packet in outs.0.0.drain(..) {
            packets += 1;
            path.carry(true, packet);
        }
        for packet in outs.1.0.drain(..) {
            path.carry(false, packet);
        }
        let next = [server.poll_at(), client.poll_at(), path.flying.keys().next().map(|key| key.0)];
        let next = next.into_iter().flatten().min().expect("something is to come");
        path.now = next.max(path.now + Duration::from_nanos(1));
    }
    let seconds = path.now.ns_since(start) as f64 / 1e9;
    Outcome {
        megabits: got as f64 * 8.0 / 1e6 / seconds,
        bytes: got,
        packets,
        overflowed: path.overflowed,
        complete: enough(got),
    }
}
