//! A path of the Internet in virtual time: a bottleneck with a queue, a round trip, loss, reordering; our TCP at both
//! ends, one sending as fast as it may.

#![allow(dead_code, reason = "each user needs its part")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use keyferry_tcp::{Config, ConnId, Egress, Event, Outbound, RxChecksum, Segment, Stretch, Tcp, Tuning};
use keyferry_time::Time;

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), 50_000);
const MTU: u16 = 1500;
const STALL_EVERY: Duration = Duration::from_millis(50);

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
    /// For how long the sender's worker is busy with other things at a time, each [`STALL_EVERY`].
    pub stall: Duration,
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
            stall: Duration::ZERO,
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

impl<S: Segment> Egress<S> for Out {
    fn room(&mut self) -> bool {
        true
    }

    fn packet(&mut self, outbound: &Outbound<'_, S>) {
        let mut packet = vec![0; outbound.len()];
        outbound.write(&mut packet);
        self.0.push(packet);
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
        stretch: Stretch::SEGMENT,
        seed,
    }
}

/// What is between the two ends, with what is on its way.
pub struct Path {
    link: Link,
    /// To the server, to the client: what befalls a packet depends on its place among those of its way alone, so that
    /// senders that are compared lose the same ones.
    draws: [u64; 2],
    /// By time of arrival, then in order.
    flying: BTreeMap<(Time, u64), (bool, Vec<u8>)>,
    sent: u64,
    /// When the bottleneck has sent what is in its queue.
    free_at: Time,
    /// Packets the queue had no room for.
    pub overflowed: u64,
}

impl Path {
    /// An empty one; `seed` decides over packets.
    pub fn new(link: Link, seed: u64) -> Path {
        Path {
            link,
            draws: [seed + 1, !seed].map(|seed| seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            flying: BTreeMap::new(),
            sent: 0,
            free_at: Time::ZERO,
            overflowed: 0,
        }
    }

    fn below(&mut self, to_client: bool, bound: u64) -> u64 {
        let draws = &mut self.draws[usize::from(to_client)];
        *draws ^= *draws >> 12;
        *draws ^= *draws << 25;
        *draws ^= *draws >> 27;
        (draws.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    /// Takes a packet in.
    pub fn carry(&mut self, now: Time, to_client: bool, packet: Vec<u8>) {
        // All is drawn for each packet.
        let lost = self.below(to_client, 1_000) < self.link.loss_permille;
        let late = self.below(to_client, 100) < self.link.reorder_percent;
        let late_by = Duration::from_nanos(self.below(to_client, self.link.late.as_nanos() as u64));
        if lost {
            return;
        }
        let mut at = now;
        if to_client {
            let wire_bytes = packet.len() as u64 + 38;
            if self.free_at.ns_since(now) > self.link.queue.as_nanos() as u64 {
                self.overflowed += 1;
                return;
            }
            self.free_at =
                self.free_at.max(now) + Duration::from_nanos(wire_bytes * 8_000 / self.link.megabits);
            at = self.free_at;
        }
        at += self.link.rtt / 2;
        if to_client && late {
            at += late_by;
        }
        self.sent += 1;
        self.flying.insert((at, self.sent), (to_client, packet));
    }

    /// The next packet that has arrived, and whether at the client.
    pub fn arrived(&mut self, now: Time) -> Option<(bool, Vec<u8>)> {
        let entry = self.flying.first_entry()?;
        entry.key().0.is_due(now).then(|| entry.remove())
    }

    /// When the next one arrives.
    pub fn next(&self) -> Option<Time> {
        self.flying.keys().next().map(|key| key.0)
    }
}

/// Carries bytes from the server to the client.
pub fn transfer(tuning: &Tuning, link: &Link, seed: u64) -> Outcome {
    let mut server = Tcp::<Record>::tuned(config(SERVER.ip(), seed), tuning.clone());
    let mut client = Tcp::<Record>::tuned(config(CLIENT.ip(), seed + 1), Tuning::default());
    let mut path = Path::new(link.clone(), seed);
    let start = Time::from_us(1_000_000);
    let mut now = start;
    client.connect(start, CLIENT, SERVER).expect("it begins");
    let (mut queued, mut got, mut packets) = (0u64, 0u64, 0u64);
    let mut id: Option<ConnId> = None;
    let mut outs = (Out::default(), Out::default());
    let mut waiting: Vec<Vec<u8>> = Vec::new();
    let enough = |got: u64| link.bytes > 0 && got >= link.bytes;
    while now.ns_since(start) < link.time.as_nanos() as u64 && !enough(got) {
        let stalls_for = link
            .stall
            .saturating_sub(Duration::from_nanos(now.ns_since(start) % STALL_EVERY.as_nanos() as u64));
        while let Some((to_client, mut packet)) = path.arrived(now) {
            if to_client {
                client.ingest(now, &mut packet, true, &mut outs.1);
            } else {
                waiting.push(packet);
            }
        }
        if stalls_for.is_zero() {
            for mut packet in waiting.drain(..) {
                server.ingest(now, &mut packet, true, &mut outs.0);
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
        if stalls_for.is_zero() {
            server.timers(now, &mut outs.0);
        }
        client.timers(now, &mut outs.1);
        for packet in outs.0.0.drain(..) {
            packets += 1;
            path.carry(now, true, packet);
        }
        for packet in outs.1.0.drain(..) {
            path.carry(now, false, packet);
        }
        let wakes = if stalls_for.is_zero() { server.poll_at() } else { Some(now + stalls_for) };
        let next = [wakes, client.poll_at(), path.next()];
        let next = next.into_iter().flatten().min().expect("something is to come");
        now = next.max(now + Duration::from_nanos(1));
    }
    let seconds = now.ns_since(start) as f64 / 1e9;
    Outcome {
        megabits: got as f64 * 8.0 / 1e6 / seconds,
        bytes: got,
        packets,
        overflowed: path.overflowed,
        complete: enough(got),
    }
}
