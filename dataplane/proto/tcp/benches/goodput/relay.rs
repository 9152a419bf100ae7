//! The relay, and our senders: one thread carries packets between Linux's senders, ours, and the receivers, each flow over a
//! path of its own.
//!
//! In: packets of two TUN devices and of our TCPs. Out: packets to them, when they are due.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use keyferry_tcp::{Config, ConnId, Egress, Outbound, RxChecksum, Segment, Stretch, Tcp, Tuning};
use keyferry_time::Time;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::ground::{self, Tun};
use crate::path::Path;
use crate::race::{Flow, LINUX, OURS, RECEIVER, Stack};

const MTU: u16 = 1_500;
/// The first receiver's port.
const PORT: u16 = 20_000;
/// Our senders' ports are so much above their receivers'.
const OURS_ABOVE: u16 = 20_000;
/// The name of the senders' namespace, in mounts of this process's own.
const SENDERS: &str = "senders";
/// How long the relay sleeps when nothing is due.
const NAP: Duration = Duration::from_micros(50);
/// Packets taken in from a device at a time, at most.
const BURST: usize = 256;

/// Two namespaces.
pub struct Ground {
    receivers: File,
    senders: File,
    /// The receiver's port of the next flow: what is left of one is never taken for another.
    port: AtomicU16,
}

/// The relay's ends of the links to the two.
pub struct Links {
    senders: Tun,
    receivers: Tun,
}

impl Ground {
    /// Makes the senders' namespace; the receivers' is the one of this process.
    pub fn new() -> (Ground, Links) {
        std::fs::create_dir_all("/run/netns").expect("a folder for names");
        ground::run("mount -t tmpfs tmpfs /run/netns");
        ground::run(&format!("ip netns add {SENDERS}"));
        let open = |path: &str| File::open(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let ground = Ground {
            receivers: open("/proc/thread-self/ns/net"),
            senders: open(&format!("/run/netns/{SENDERS}")),
            port: AtomicU16::new(PORT),
        };
        for enter in [Ground::enter_senders, Ground::enter_receivers] {
            enter(&ground);
            ground::set("ipv4.tcp_no_metrics_save", "1");
            ground::set("ipv4.tcp_wmem", "4096 65536 33554432");
            ground::set("ipv4.tcp_rmem", "4096 131072 33554432");
        }
        ground.enter_senders();
        let senders = Tun::new("kfs", MTU, &[&format!("{LINUX}/8")]);
        ground.enter_receivers();
        let receivers = Tun::new("kfr", MTU, &[&format!("{RECEIVER}/8")]);
        (ground, Links { senders, receivers })
    }

    /// Ports of so many receivers: the first.
    pub fn take_ports(&self, flows: usize) -> u16 {
        self.port.fetch_add(flows as u16, Ordering::Relaxed)
    }

    fn enter(file: &File) {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may move");
    }

    /// The calling thread, and what it starts, live there from now on.
    pub fn enter_senders(&self) {
        Ground::enter(&self.senders);
    }

    pub fn enter_receivers(&self) {
        Ground::enter(&self.receivers);
    }
}

/// A record of 16 KiB of no interest.
struct Record;

impl Segment for Record {
    fn len(&self) -> usize {
        16_384
    }

    fn copy_to(&self, _: usize, to: &mut [u8]) {
        to.fill(0x5a);
    }
}

#[derive(Default)]
struct Out(Vec<Vec<u8>>);

impl<S: Segment> Egress<S> for Out {
    fn room(&mut self) -> bool {
        true
    }

    fn packet(&mut self, outbound: &Outbound<'_, S>) {
        outbound.each_segment(|one| {
            let mut packet = vec![0; one.len()];
            one.write(&mut packet);
            self.0.push(packet);
        });
    }
}

/// Our sender of one flow.
struct Sender {
    tcp: Tcp<Record>,
    id: ConnId,
    out: Out,
}

impl Sender {
    fn new(flow: &Flow, now: Time, port: u16) -> Sender {
        let config = Config {
            addresses: vec![OURS.into()],
            ports: vec![],
            mtu: MTU,
            connections: 2,
            half_open: 1,
            half_open_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(300),
            receive_bytes: 65_536,
            send_bytes: 65_536,
            rx_checksum: RxChecksum::Verify,
            tx_checksum_offload: false,
            stretch: Stretch::of_egress(16),
            seed: flow.seed,
        };
        let tuning = Tuning { congestion: flow.algorithm, ..Tuning::default() };
        let mut tcp = Tcp::tuned(config, tuning);
        let (local, peer) = ((OURS, port + OURS_ABOVE).into(), (RECEIVER, port).into());
        let id = tcp.connect(now, local, peer).expect("it begins");
        Sender { tcp, id, out: Out::default() }
    }

    fn turn(&mut self, now: Time, path: &mut Path) {
        while self.tcp.released().is_some() {}
        while self.tcp.poll_event().is_some() {}
        while self.tcp.send(self.id, Record).is_ok() {}
        if self.tcp.poll_at().is_some_and(|at| at.is_due(now)) {
            self.tcp.timers(now, &mut self.out);
        }
        for packet in self.out.0.drain(..) {
            path.carry(now, true, packet);
        }
    }
}

/// Of which flow a packet is; the receiver's port says it.
fn index_of(packet: &[u8], to_receiver: bool, first: u16, flows: usize) -> Option<usize> {
    let at = if to_receiver { 22 } else { 20 };
    let port = packet.get(at..at + 2).filter(|_| packet[0] == 0x45)?;
    let index = usize::from(u16::from_be_bytes([port[0], port[1]]).checked_sub(first)?);
    (index < flows).then_some(index)
}

/// Carries packets until no flow is left; their receivers' ports begin with `port`. Answers the longest time between two
/// turns.
pub fn carry(links: &mut Links, flows: &[Flow], port: u16, start: Instant, left: &AtomicUsize) -> Duration {
    let Links { senders, receivers } = links;
    // Our TCP takes zero for never.
    let clock = || Time::from_us(1_000_000) + start.elapsed();
    let mut paths: Vec<Path> = flows.iter().map(|flow| Path::new(flow.link.clone(), flow.seed)).collect();
    let mut ours: Vec<Option<Sender>> = (port..)
        .zip(flows)
        .map(|(port, flow)| (flow.stack == Stack::Ours).then(|| Sender::new(flow, clock(), port)))
        .collect();
    let (mut late, mut last) = (Duration::ZERO, clock());
    while left.load(Ordering::Relaxed) > 0 {
        let now = clock();
        late = late.max(now - last);
        last = now;
        let mut moved = false;
        for (tun, to_receiver) in [(&mut *senders, true), (&mut *receivers, false)] {
            for _ in 0..BURST {
                let Some(packet) = tun.receive() else { break };
                moved = true;
                if let Some(index) = index_of(&packet, to_receiver, port, flows.len()) {
                    paths[index].carry(now, to_receiver, packet);
                }
            }
        }
        for (path, ours) in paths.iter_mut().zip(&mut ours) {
            while let Some((to_receiver, mut packet)) = path.arrived(now) {
                moved = true;
                match ours {
                    _ if to_receiver => receivers.send(&packet),
                    Some(sender) => sender.tcp.ingest(now, &mut packet, false, &mut sender.out),
                    None => senders.send(&packet),
                }
            }
            if let Some(sender) = ours {
                sender.turn(now, path);
            }
        }
        if !moved {
            std::thread::sleep(NAP);
        }
    }
    late
}
