//! One world: a network namespace, a Linux with its settings, our TCP with its own, and a share of the seeds, each of them a
//! connection of its own; all at the same time, in real time.
//!
//! In: settings, seeds. Out: what failed, and what was done to packets. One thread.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use keyferry_tcp::{ConnId, Event, Tcp};
use keyferry_time::Time;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use super::app::Piece;
use super::ground::{self, Tun};
use super::line::{Line, Note};
use super::plan::Plan;
use super::relay::{Fate, Fates, Relay, Way};
use super::segment::Seen;
use super::settings::Settings;
use crate::common::{PORT, Port};

/// Addresses of the two ends.
pub const LINUX_V4: &str = "192.0.2.9";
pub const LINUX_V6: &str = "2001:db8::9";

/// Linux's port of the first connection, and ours of those that we begin.
const LINUX_PORT: u16 = 10_000;
const OUR_PORT: u16 = 40_000;
/// When it begins: our TCP takes zero for never.
const START: Time = Time::from_us(1_000_000);
/// The TUN device among the things waited for.
const TUN: Token = Token(usize::MAX);
/// How often silence is looked for.
const LOOK: Duration = Duration::from_millis(20);
/// What else may hold Linux up.
const SLACK: Duration = Duration::from_millis(500);
/// How much later than it wanted a turn may come. Where the machine's other work holds it up for longer the clock stands
/// still meanwhile, for the relay, our TCP and both applications; Linux's goes on, so that it only seems the quicker.
const LATE_MAX: Duration = Duration::from_millis(5);
/// How long a connection may rest of which nobody owes anything.
const REST: Duration = Duration::from_secs(5);
/// How long any may take.
const LIFE: Duration = Duration::from_secs(240);

pub struct World {
    settings: &'static Settings,
    start: Instant,
    /// When the clock was read last, and what it said.
    read: Instant,
    now: Time,
    tun: Tun,
    poll: Poll,
    tcp: Tcp<Piece>,
    out: Port,
    relay: Relay,
    lines: Vec<Line>,
    by_id: HashMap<ConnId, usize>,
}

/// What a world has to say at its end.
pub struct Outcome {
    pub failures: Vec<String>,
    pub fates: [Fates; 2],
    /// Wrong checksums that Linux and we have seen.
    pub wrong: [u64; 2],
    pub seconds: f64,
}

fn address(ipv6: bool, v4: &str, v6: &str) -> IpAddr {
    if ipv6 { v6 } else { v4 }.parse().expect("an address")
}

impl World {
    /// Lays the ground and plans the connections. This process has to be in a namespace of its own.
    pub fn new(settings: &'static Settings, seeds: &[u64]) -> World {
        // What one connection learns of its path is no use to the next, whose path is another.
        for (name, value) in [("ipv4.tcp_no_metrics_save", "1")].iter().chain(settings.sysctls) {
            ground::set(name, value);
        }
        let config = settings.config();
        let v6 = format!("{LINUX_V6}/64");
        let tun = Tun::new("kf0", settings.mtu, &[&format!("{LINUX_V4}/24"), &v6]);
        let poll = Poll::new().expect("epoll");
        poll.registry()
            .register(&mut SourceFd(&tun.as_raw_fd()), TUN, Interest::READABLE)
            .expect("a TUN device can be waited for");
        let offload = config.tx_checksum_offload;
        let mut lines: Vec<_> = seeds.iter().map(|seed| Line::new(Plan::new(*seed, settings.kind))).collect();
        let first = lines.iter().map(|line| line.plan.starts).min().unwrap_or_default();
        lines.iter_mut().for_each(|line| line.plan.starts -= first);
        World {
            settings,
            start: Instant::now(),
            read: Instant::now(),
            now: START,
            tun,
            poll,
            tcp: Tcp::tuned(config, settings.tuning(seeds.len())),
            out: Port {
                packets: VecDeque::new(),
                room: usize::MAX,
                offload,
                segmented: 0,
                mtu: settings.mtu.into(),
            },
            relay: Relay::default(),
            lines,
            by_id: HashMap::new(),
        }
    }

    /// Runs all connections to their end.
    pub fn run(mut self) -> Outcome {
        let mut events = Events::with_capacity(256);
        let mut look_at = Time::ZERO;
        while self.lines.iter().any(|line| !line.is_over()) {
            self.wait(&mut events, look_at);
            for event in &events {
                if let Some(line) = self.lines.get_mut(event.token().0) {
                    line.writable |= event.is_writable();
                    line.awake = true;
                }
            }
            self.begin();
            while let Some(packet) = self.tun.receive() {
                self.take(Way::ToUs, packet);
            }
            self.deliver();
            self.our_events();
            self.step();
            self.tcp.timers(self.now, &mut self.out);
            while let Some(packet) = self.out.packets.pop_front() {
                self.take(Way::ToLinux, packet);
            }
            if look_at.is_due(self.now) {
                look_at = self.now + LOOK;
                for line in &mut self.lines {
                    line.judge(self.now, SLACK, REST, START + LIFE, self.settings.kind);
                }
            }
        }
        Outcome {
            failures: self.lines.iter().filter_map(Line::failure).collect(),
            fates: self.relay.fates,
            wrong: [
                ground::counter("Tcp", "InCsumErrors") + ground::counter("Ip", "InHdrErrors"),
                self.tcp.counters().drops[keyferry_tcp::DropReason::Checksum.index()],
            ],
            seconds: self.start.elapsed().as_secs_f64(),
        }
    }

    /// Waits until there is something to do, and reads the clock.
    fn wait(&mut self, events: &mut Events, look_at: Time) {
        let now = self.now;
        let lines = self.lines.iter().filter(|line| !line.is_over());
        let next = lines.filter_map(|line| line.next(now)).min();
        let next = [self.tcp.poll_at(), self.relay.next(), next, Some(look_at)].into_iter().flatten().min();
        let wait = Duration::from_nanos(next.map_or(0, |at| at.ns_since(now)));
        self.poll.poll(events, Some(wait)).or_else(ignore_interrupts).expect("epoll waits");
        let read = Instant::now();
        self.now += (read - self.read).min(wait + LATE_MAX);
        self.read = read;
    }

    /// Begins the connections whose time has come.
    fn begin(&mut self) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            let starts = START + line.plan.starts;
            if line.linux.is_some() || !starts.is_due(self.now) {
                continue;
            }
            let ipv6 = line.plan.ipv6;
            let linux = address(ipv6, LINUX_V4, LINUX_V6);
            let linux = SocketAddr::new(linux, LINUX_PORT + index as u16);
            let ours = self.settings.config().addresses[usize::from(ipv6)];
            let listens = line.plan.linux_connects;
            let ours = SocketAddr::new(ours, if listens { PORT } else { OUR_PORT + index as u16 });
            line.begin(self.now, self.settings.linux_congestion, linux, ours, self.poll.registry(), index);
            if !listens && line.failed.is_none() {
                let id = self.tcp.connect(self.now, ours, linux).expect("it begins");
                line.id = Some(id);
                self.by_id.insert(id, index);
            }
        }
    }

    /// Whose packet it is: Linux has a port for each connection.
    fn line_of(&self, way: Way, seen: &Seen) -> Option<usize> {
        let port = if way == Way::ToUs { seen.from_port } else { seen.to_port };
        Some(usize::from(port.checked_sub(LINUX_PORT)?)).filter(|index| *index < self.lines.len())
    }

    /// The relay takes a packet in.
    fn take(&mut self, way: Way, packet: Vec<u8>) {
        let Some(seen) = Seen::of(&packet) else { return };
        let Some(index) = self.line_of(way, &seen) else { return };
        let line = &mut self.lines[index];
        line.says(self.now, way, &seen);
        let fate = self.relay.take(self.now, &mut line.lanes[way.index()], way, index, packet);
        line.note(Note { at: self.now, way, seen, fate: Some(fate) });
    }

    /// What has arrived goes to its end.
    fn deliver(&mut self) {
        while let Some(mut flying) = self.relay.arrived(self.now) {
            let line = &mut self.lines[flying.line];
            if !flying.changed
                && let Some(seen) = Seen::of(&flying.packet)
            {
                line.hears(self.now, flying.way, &seen);
                line.note(Note { at: self.now, way: flying.way, seen, fate: None });
            }
            match flying.way {
                Way::ToUs => self.tcp.ingest(self.now, &mut flying.packet, false, &mut self.out),
                Way::ToLinux => self.tun.send(&flying.packet),
            }
        }
    }

    fn our_events(&mut self) {
        while self.tcp.released().is_some() {}
        while let Some(event) = self.tcp.poll_event() {
            if let Event::Opened(id) = event {
                let index = self.tcp.peer(id).port().checked_sub(LINUX_PORT);
                let index = usize::from(index.expect("a port of Linux's"));
                self.by_id.insert(id, index);
                self.lines[index].id = Some(id);
            }
            let (Event::Opened(id)
            | Event::Readable(id)
            | Event::Writable(id)
            | Event::Eof(id)
            | Event::Closed(id, _)) = event;
            if let Some(index) = self.by_id.get(&id) {
                self.lines[*index].takes(event);
            }
        }
    }

    /// Both applications of each connection that has something to do.
    fn step(&mut self) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            if line.is_awake(self.now) && !line.is_over() {
                line.step(self.now, &mut self.tcp, self.poll.registry(), index);
            }
        }
    }
}

fn ignore_interrupts(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

impl Outcome {
    /// Packets to Linux and to us that had this fate.
    pub fn with(&self, fate: Fate) -> u64 {
        self.fates.iter().map(|way| way[fate as usize]).sum()
    }
}
