//! Connections we begin, against our own listener, over a network that loses, repeats and reorders packets.

mod common;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use common::{CLIENT_V4, CLIENT_V6, Faults, MTU, PORT, Port, Rng, SERVER_V4, SERVER_V6, config, pattern};
use keyferry_tcp::{CloseReason, ConnId, ConnectError, Event, Tcp};
use keyferry_time::Time;
use proptest::prelude::*;

const STEP: Duration = Duration::from_millis(1);
const DELAY: Duration = Duration::from_millis(2);

/// One host.
struct Host {
    tcp: Tcp<Vec<u8>>,
    port: Port,
    /// On their way to it.
    coming: Vec<(Time, Vec<u8>)>,
    events: Vec<Event>,
    received: Vec<u8>,
    /// Still to be sent on the connection that is open.
    sending: VecDeque<Vec<u8>>,
}

impl Host {
    fn new(config: keyferry_tcp::Config) -> Host {
        Host {
            tcp: Tcp::new(config),
            port: Port { packets: VecDeque::new(), room: 32, offload: false, segmented: 0, mtu: MTU },
            coming: Vec::new(),
            events: Vec::new(),
            received: Vec::new(),
            sending: VecDeque::new(),
        }
    }

    fn turn(&mut self, now: Time) {
        let (due, coming) = self.coming.drain(..).partition(|(at, _)| at.is_due(now));
        self.coming = coming;
        let mut due: Vec<(Time, Vec<u8>)> = due;
        due.sort_by_key(|(at, _)| *at);
        for (_, mut packet) in due {
            self.tcp.ingest(now, &mut packet, false, &mut self.port);
        }
        while let Some(event) = self.tcp.poll_event() {
            match event {
                Event::Readable(id) | Event::Eof(id) => {
                    let received = &mut self.received;
                    while self
                        .tcp
                        .receive(id, |bytes| {
                            received.extend_from_slice(bytes);
                            (bytes.len(), ())
                        })
                        .is_some()
                    {}
                }
                _ => {}
            }
            self.events.push(event);
            if let Event::Opened(id) | Event::Writable(id) = event {
                self.send(id);
            }
        }
        while self.tcp.released().is_some() {}
        self.tcp.timers(now, &mut self.port);
        self.tcp.emit(now, &mut self.port);
    }

    fn send(&mut self, id: ConnId) {
        while let Some(segment) = self.sending.pop_front() {
            if let Err(segment) = self.tcp.send(id, segment) {
                self.sending.push_front(segment);
                return;
            }
        }
    }

    fn closed(&self) -> Option<CloseReason> {
        self.events.iter().find_map(|event| match event {
            Event::Closed(_, reason) => Some(*reason),
            _ => None,
        })
    }

    fn opened(&self) -> Option<ConnId> {
        self.events.iter().find_map(|event| match event {
            Event::Opened(id) => Some(*id),
            _ => None,
        })
    }
}

/// Two hosts and what is between them.
struct World {
    now: Time,
    client: Host,
    server: Host,
    rng: Rng,
    faults: Faults,
    /// The client's packets so far, those that were lost included.
    sent: usize,
    cut: bool,
}

fn world(faults: Faults, seed: u64) -> World {
    let client = keyferry_tcp::Config {
        addresses: vec![CLIENT_V4, CLIENT_V6],
        ports: vec![],
        seed: seed + 1,
        ..config()
    };
    World {
        now: Time::from_us(1_000_000),
        client: Host::new(client),
        server: Host::new(config()),
        rng: Rng::new(seed),
        faults,
        sent: 0,
        cut: false,
    }
}

impl World {
    fn connect(&mut self, port: u16) -> Result<ConnId, ConnectError> {
        self.client.tcp.connect(self.now, near(port), far(PORT))
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.client.turn(self.now);
            self.server.turn(self.now);
            self.sent += self.client.port.packets.len();
            for (from, to) in [
                (&mut self.client.port, &mut self.server.coming),
                (&mut self.server.port, &mut self.client.coming),
            ] {
                for packet in from.packets.drain(..) {
                    if self.cut || self.rng.below(100) < self.faults.loss {
                        continue;
                    }
                    let copies = 1 + u64::from(self.rng.below(100) < self.faults.repeat);
                    for _ in 0..copies {
                        let late = Duration::from_micros(self.rng.below(self.faults.jitter_us + 1));
                        to.push((self.now + DELAY + late, packet.clone()));
                    }
                }
            }
            self.now += STEP;
        }
    }

    fn run_until(&mut self, what: &str, is_met: impl Fn(&World) -> bool) {
        for _ in 0..600_000 {
            if is_met(self) {
                return;
            }
            self.run(STEP);
        }
        panic!("{what}: {:?} {:?}", self.client.events, self.server.events);
    }
}

fn near(port: u16) -> SocketAddr {
    SocketAddr::new(CLIENT_V4, port)
}

fn far(port: u16) -> SocketAddr {
    SocketAddr::new(SERVER_V4, port)
}

#[test]
fn a_connection_is_opened_used_and_closed() {
    for (near, far) in [(CLIENT_V4, SERVER_V4), (CLIENT_V6, SERVER_V6)] {
        let mut world = world(Faults::default(), 1);
        let (near, far) = (SocketAddr::new(near, 5000), SocketAddr::new(far, PORT));
        let id = world.client.tcp.connect(world.now, near, far).expect("it begins");
        assert_eq!((world.client.tcp.local(id), world.client.tcp.peer(id)), (near, far));
        world.client.sending.push_back(b"a request".to_vec());
        world.server.sending.push_back(b"a reply".to_vec());
        world.run_until("both have it", |world| {
            world.server.received == b"a request" && world.client.received == b"a reply"
        });
        assert_eq!(world.client.events.first(), Some(&Event::Opened(id)));
        world.client.tcp.close(id);
        let there = world.server.opened().expect("it was opened");
        world.run_until("the server hears of it", |world| world.server.events.contains(&Event::Eof(there)));
        world.server.tcp.close(there);
        world.run_until("closed", |world| world.client.closed().is_some() && world.server.closed().is_some());
        assert_eq!(world.client.closed(), Some(CloseReason::Finished));
        let counters = world.client.tcp.counters();
        assert_eq!((counters.begun, counters.opened, counters.closed.iter().sum::<u64>()), (1, 1, 1));
        assert_eq!(world.client.tcp.connections(), 0);
    }
}

#[test]
fn a_port_nobody_listens_on_refuses() {
    let mut world = world(Faults::default(), 2);
    let id = world.client.tcp.connect(world.now, near(5000), far(81)).expect("it begins");
    world.run(Duration::from_millis(50));
    assert_eq!(world.client.events, [Event::Closed(id, CloseReason::Reset)]);
    let counters = world.client.tcp.counters();
    assert_eq!((counters.opened, counters.closed.iter().sum::<u64>()), (0, 0), "it was never open");
    assert_eq!(world.client.tcp.connections(), 0);
}

#[test]
fn silence_is_asked_again_and_given_up() {
    let mut world = world(Faults::default(), 3);
    world.cut = true;
    let id = world.connect(5000).expect("it begins");
    world.run(config().half_open_timeout + Duration::from_millis(100));
    assert_eq!(world.client.events, [Event::Closed(id, CloseReason::IdleTimeout)]);
    assert!(world.sent > 1, "the SYN was sent again: {}", world.sent);
}

#[test]
fn what_cannot_be_joined_is_refused() {
    let mut world = world(Faults::default(), 4);
    world.connect(5000).expect("it begins");
    assert_eq!(world.connect(5000), Err(ConnectError::InUse));
    let now = world.now;
    for (near, far) in [
        ("192.0.2.77:5001", "192.0.2.1:443"),
        ("192.0.2.9:0", "192.0.2.1:443"),
        ("192.0.2.9:5001", "192.0.2.1:0"),
        ("192.0.2.9:5001", "0.0.0.0:443"),
        ("192.0.2.9:5001", "224.0.0.1:443"),
        ("192.0.2.9:5001", "[2001:db8::1]:443"),
    ] {
        let outcome = world.client.tcp.connect(now, near.parse().unwrap(), far.parse().unwrap());
        assert_eq!(outcome, Err(ConnectError::Unreachable), "{near} to {far}");
    }
    for port in 1..config().connections as u16 {
        world.connect(5000 + port).expect("there is room");
    }
    assert_eq!(world.connect(6000), Err(ConnectError::ConnectionsFull));
}

#[test]
fn one_that_is_given_up_before_it_is_open_leaves_nothing() {
    let mut world = world(Faults::default(), 5);
    let id = world.connect(5000).expect("it begins");
    world.run(STEP);
    world.client.tcp.abort(id);
    world.run(Duration::from_millis(50));
    assert_eq!(world.client.events, [Event::Closed(id, CloseReason::Aborted)]);
    assert_eq!(world.client.tcp.connections(), 0);
    // Its SYN-ACK found nobody and was answered with a reset.
    assert_eq!((world.server.events.len(), world.server.tcp.counters().half_open), (0, 0));
}

/// The same two ends, again and again: the one that closes first is in TIME-WAIT each time.
#[test]
fn ends_are_joined_again_at_once() {
    for closes_first in ["client", "server"] {
        let mut world = world(Faults::default(), 6);
        for _ in 0..5 {
            world.client.events.clear();
            world.server.events.clear();
            let near_id = world.connect(5000).expect("it begins");
            world.run_until("open", |world| {
                world.client.opened().is_some() && world.server.opened().is_some()
            });
            let far_id = world.server.opened().unwrap();
            if closes_first == "client" {
                world.client.tcp.close(near_id);
                world.run(Duration::from_millis(20));
                world.server.tcp.close(far_id);
            } else {
                world.server.tcp.close(far_id);
                world.run(Duration::from_millis(20));
                world.client.tcp.close(near_id);
            }
            world.run_until("closed", |world| {
                world.client.closed().is_some() && world.server.closed().is_some()
            });
            assert_eq!(world.client.closed(), Some(CloseReason::Finished));
        }
        assert!(world.client.tcp.counters().time_wait <= 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the network does, each side has what the other sent, or the client was told that it has not.
    #[test]
    fn bytes_arrive_over_a_bad_network(
        seed in any::<u32>(), loss in 0u64..15, repeat in 0u64..30, jitter_us in 0u64..20_000, bytes in 0usize..60_000,
    ) {
        let mut world = world(Faults { loss, repeat, jitter_us }, u64::from(seed));
        let (request, reply) = (pattern(bytes, 1), pattern(bytes / 2 + 1, 2));
        world.client.sending.extend(request.chunks(5_000).map(<[u8]>::to_vec));
        world.server.sending.extend(reply.chunks(5_000).map(<[u8]>::to_vec));
        world.connect(5000).expect("it begins");
        world.run_until("an end", |world| {
            world.client.closed().is_some()
                || (world.server.received.len() == bytes && world.client.received.len() == bytes / 2 + 1)
        });
        if let Some(reason) = world.client.closed() {
            // Every SYN, or every answer to it, was lost.
            prop_assert_eq!(reason, CloseReason::IdleTimeout);
            prop_assert!(world.client.opened().is_none());
        } else {
            prop_assert_eq!(&world.server.received, &request);
            prop_assert_eq!(&world.client.received, &reply);
        }
    }
}
