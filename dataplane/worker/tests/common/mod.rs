//! A worker on a simulated port in virtual time, honest clients that keep asking, and whatever else is thrown at it.
//!
//! The same seed gives the same packets at the same virtual times. Progress is counted in requests answered.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod client;
pub mod frame;
pub mod helper;
pub mod hoard;
pub mod node;
pub mod peer;
pub mod sink;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use arrayvec::ArrayVec;
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::Counters;
use rustls::ClientConfig;

use client::{Client, Habit};
use node::{Node, Options};

/// Virtual time of one step.
pub const STEP_NS: u64 = 1_000_000;

/// xorshift64*: enough to draw a flood from.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 33) % bound.max(1)
    }
}

/// The node, its wire, and everybody on it.
pub struct World {
    pub node: Node,
    pub now_ns: u64,
    pub rng: Rng,
    pub clients: Vec<Client>,
    by_end: BTreeMap<(Ipv4Addr, u16), usize>,
    /// What new clients have in common.
    pub config: Arc<ClientConfig>,
    next_port: u32,
    /// Bytes of heap the workers have taken since it was last asked, less those given back.
    pub heap_bytes: i64,
    /// Frames of the node that went to nobody here.
    pub unclaimed: u64,
}

impl World {
    pub fn new(options: Options, seed: u64) -> World {
        let mut world = World {
            node: node::node(&options),
            now_ns: 0,
            rng: Rng::new(seed),
            clients: Vec::new(),
            by_end: BTreeMap::new(),
            config: client::config(),
            next_port: 0,
            heap_bytes: 0,
            unclaimed: 0,
        };
        world.inject(&frame::arp_request(node::GATEWAY));
        world.step();
        world
    }

    /// Adds a client that behaves so, and sends its SYN.
    pub fn join(&mut self, habit: Habit) -> usize {
        // Addresses behind the gateway, so that all of them cost one neighbour.
        let address = Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + self.next_port / 50_000);
        let port = 10_000 + (self.next_port % 50_000) as u16;
        self.next_port += 1;
        self.join_at(address, port, habit)
    }

    /// As [`join`](World::join), from an address and port that may have been used before.
    pub fn join_at(&mut self, address: Ipv4Addr, port: u16, habit: Habit) -> usize {
        let sequence = self.rng.next() as u32;
        let client = Client::new(address, port, sequence, habit, &self.config);
        let index = self.clients.len();
        self.by_end.insert((address, port), index);
        self.clients.push(client);
        self.poll_client(index);
        index
    }

    pub fn join_many(&mut self, count: usize, habit: Habit) -> Vec<usize> {
        (0..count).map(|_| self.join(habit)).collect()
    }

    fn poll_client(&mut self, index: usize) {
        let mut out = Vec::new();
        self.clients[index].poll(self.now_ns, &mut out);
        for frame in out {
            self.inject(&frame);
        }
    }

    /// A client that has never been here, though others of its kind have.
    pub fn join_anew(&mut self, habit: Habit) -> usize {
        let known = std::mem::replace(&mut self.config, client::config());
        let index = self.join(habit);
        self.config = known;
        index
    }

    /// Puts a frame on the wire.
    pub fn inject(&mut self, frame: &[u8]) {
        if !self.node.inject(frame) {
            // The wire's own ring is full: what it holds goes on first.
            self.node.net.advance(self.now_ns);
            assert!(self.node.inject(frame), "an emptied ring has room");
        }
    }

    /// One step of virtual time.
    pub fn step(&mut self) {
        self.now_ns += STEP_NS;
        self.node.time.set(self.now_ns);
        self.turn();
        for index in 0..self.clients.len() {
            self.poll_client(index);
        }
    }

    /// The node's turns until it has nothing to do at this time, and everybody's answers.
    fn turn(&mut self) {
        for _ in 0..20 {
            self.node.net.advance(self.now_ns);
            self.node.fabric.advance(self.now_ns);
            let now = Time(self.now_ns);
            let mut busy = false;
            for worker in &mut self.node.workers {
                let info = allocation_counter::measure(|| busy |= worker.turn(now));
                self.heap_bytes += info.bytes_current;
            }
            self.node.net.advance(self.now_ns);
            let heard = self.deliver();
            if !busy && !heard {
                return;
            }
        }
    }

    fn deliver(&mut self) -> bool {
        let mut heard = false;
        loop {
            let mut packets = ArrayVec::<_, BURST>::new();
            if self.node.wire.rx_burst(&mut packets) == 0 {
                return heard;
            }
            heard = true;
            for packet in packets {
                self.hear(packet.bytes());
            }
        }
    }

    fn hear(&mut self, bytes: &[u8]) {
        if let Some(reply) = frame::arp_answer(bytes, node::GATEWAY) {
            return self.inject(&reply);
        }
        let index = frame::destination(bytes).and_then(|end| self.by_end.get(&end).copied());
        match index {
            Some(index) => self.clients[index].take(bytes),
            None => self.unclaimed += 1,
        }
    }

    pub fn steps(&mut self, count: usize) {
        (0..count).for_each(|_| self.step());
    }

    /// Steps until `done`, at most `limit` steps.
    pub fn until(&mut self, limit: usize, what: &str, mut done: impl FnMut(&World) -> bool) {
        for _ in 0..limit {
            if done(self) {
                return;
            }
            self.step();
        }
        assert!(done(self), "{what} not within {limit} steps: {:#?}", self.counted());
    }

    /// Counters of all workers together.
    pub fn totals(&self) -> BTreeMap<&'static str, u64> {
        let mut totals = BTreeMap::new();
        let mut values = Vec::new();
        for worker in &self.node.workers {
            worker.publish(&mut values);
            for (name, value) in keyferry_worker::counters::names().iter().zip(&values) {
                *totals.entry(*name).or_default() += value;
            }
        }
        totals
    }

    /// Counters that are not zero, for messages.
    pub fn counted(&self) -> BTreeMap<&'static str, u64> {
        self.totals().into_iter().filter(|(_, value)| *value > 0).collect()
    }

    pub fn total(&self, name: &str) -> u64 {
        self.totals().get(name).copied().unwrap_or_else(|| panic!("no counter {name}"))
    }

    pub fn snapshot(&self) -> Counters {
        self.node.workers[0].snapshot()
    }

    /// Requests answered so far, for each of these clients.
    pub fn answered(&self, clients: &[usize]) -> Vec<u64> {
        clients.iter().map(|index| self.clients[*index].answered).collect()
    }

    /// Steps while `each` acts, and checks that every one of the clients got `at_least` answers meanwhile.
    pub fn expect_progress(
        &mut self,
        clients: &[usize],
        steps: usize,
        at_least: u64,
        mut each: impl FnMut(&mut World, usize),
    ) {
        let before = self.answered(clients);
        for step in 0..steps {
            each(self, step);
            self.step();
        }
        let after = self.answered(clients);
        for ((before, after), index) in before.iter().zip(&after).zip(clients) {
            let client = &self.clients[*index];
            assert!(
                after - before >= at_least,
                "client {index} got {} answers of {at_least}: {client:?}\n{:#?}",
                after - before,
                self.counted()
            );
        }
    }

    /// Opens clients and waits for each one's first answer.
    pub fn establish(&mut self, count: usize, habit: Habit) -> Vec<usize> {
        let mut all = Vec::new();
        while all.len() < count {
            let some = (count - all.len()).min(64);
            let joined = self.join_many(some, habit);
            all.extend(&joined);
            let ready = |world: &World| joined.iter().all(|index| world.clients[*index].is_established());
            self.until(2_000, "connections", ready);
        }
        all
    }

    /// Everybody goes; then nothing of anybody is left, and every packet is accounted for.
    pub fn assert_all_gone(&mut self) {
        for client in &mut self.clients {
            client.leave();
        }
        // The longest time limit of all, and TIME-WAIT.
        for _ in 0..700 {
            self.now_ns += 99 * STEP_NS;
            self.step();
        }
        self.assert_reconciled();
        let totals = self.totals();
        for gauge in [
            "flows",
            "half_open",
            "time_wait",
            "handshakes_open",
            "packets_in_use",
            "parked",
            "chunks_out",
            "requests_out",
            "records_out",
            "records_unsent",
            "gathers_out",
            "holding",
            "body_bytes",
            "requests_in_app",
            "leases_open",
            "leases_serving",
            "slots_out",
        ] {
            assert_eq!(totals[gauge], 0, "{gauge}: {:#?}", self.counted());
        }
    }

    /// Packets in = packets taken + packets dropped, each by its counter; packets made = packets sent + dropped.
    pub fn assert_reconciled(&mut self) {
        // What is on its way arrives first.
        self.turn();
        let totals = self.totals();
        let sum = |names: &[&str]| names.iter().map(|name| totals[*name]).sum::<u64>();
        let of_packets = keyferry_tcp::DropReason::ALL.iter().filter(|reason| reason.is_of_packets());
        let tcp: u64 = of_packets.map(|reason| totals[&*format!("drop_tcp_{}", reason.name())]).sum();
        let link: u64 = keyferry_link::DropReason::ALL
            .iter()
            .map(|reason| totals[&*format!("drop_link_{}", reason.name())])
            .sum();
        assert_eq!(link, totals["drop_link"]);
        let taken = sum(&["handed_over", "rx_link", "rx_handshakes", "rx_flows", "rx_time_wait"]);
        let dropped = sum(&["drop_handover", "drop_checksum", "drop_syns", "drop_link"]) + tcp;
        assert_eq!(sum(&["rx_packets", "rx_handover"]), taken + dropped, "{:#?}", self.counted());
        // What the wire carried to the port is what it received or dropped itself.
        let port = sum(&["rx_packets", "drop_missed", "drop_missed_no_buffer"]);
        assert_eq!(
            self.node.injected.get(),
            port + self.node.net.in_flight() as u64,
            "{:#?}",
            self.counted()
        );
    }
}
