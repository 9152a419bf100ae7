//! The generator: clients and nodes at once, on a DPDK port of this process and the second core.
//!
//! So many packets are on their way at a time and no more, fewer than the rings in between hold, so that nothing is lost
//! and whoever is slower sets the pace. In: which flows, what frames. Out: packets that came back to the right place.

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use keyferry_nic::dpdk::{Eal, Mbuf, Port, PortOptions, Queue};
use keyferry_nic::{BURST, Nic as _, Packet as _};

use super::harness::traffic::{self, ARP_BYTES, CLIENT_MAC, Template};

/// Packet buffers of a port.
const PACKETS: u32 = 8_192;
/// Descriptors of its queues.
const DESCRIPTORS: u16 = 512;
/// Buffers that came back and wait to be sent again.
const SPARE_MAX: usize = 512;
/// Packets that have not come back when nothing came for so long are lost.
const LOST_AFTER: Duration = Duration::from_millis(50);

/// Where frames have to come back to.
#[derive(Clone, Copy)]
pub enum Expect<'a> {
    /// Unchanged: to whom they were sent.
    Sent([u8; 6]),
    /// To the generator, whose address and the receiver's have changed places.
    Swapped,
    /// Each flow's to its node.
    Nodes(&'a [u8]),
}

/// What a while of traffic came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Packets back a second.
    pub rate: f64,
    /// Share of the time in which the generator had nothing to receive and might send nothing more: it waited for the
    /// forwarder.
    pub waited: f64,
    /// Packets that did not come back.
    pub lost: u64,
}

/// A port of the generator.
pub struct Generator {
    queue: Queue,
    _port: Port,
    /// Packets on their way at most.
    window: usize,
    out: ArrayVec<Mbuf, BURST>,
    spare: Vec<Mbuf>,
    on_their_way: usize,
}

impl Generator {
    /// Opens a port.
    pub fn open(eal: &Eal, device: &str, window: usize) -> Generator {
        let options = PortOptions {
            device: device.to_owned(),
            queues: 1,
            mtu: 1500,
            packets: PACKETS,
            rx_descriptors: DESCRIPTORS,
            tx_descriptors: DESCRIPTORS,
        };
        let (port, mut queues) = Port::open(eal, &options).unwrap_or_else(|error| panic!("{error}"));
        let queue = queues.pop().expect("a port has a queue");
        let spare = Vec::with_capacity(SPARE_MAX);
        Generator { queue, _port: port, window, out: ArrayVec::new(), spare, on_their_way: 0 }
    }

    /// The distributor's MAC address, once it answers.
    pub fn ask(&mut self, patience: Duration) -> [u8; 6] {
        let (until, mut asked) = (Instant::now() + patience, None::<Instant>);
        loop {
            if asked.is_none_or(|at| at.elapsed() > Duration::from_millis(100)) {
                asked = Some(Instant::now());
                self.say(&traffic::arp_request());
            }
            let mut packets = ArrayVec::new();
            self.queue.rx_burst(&mut packets);
            if let Some(mac) = packets.iter().find_map(|packet| traffic::distributor_mac(packet.bytes())) {
                return mac;
            }
            assert!(Instant::now() < until, "the distributor does not answer: its log has the reason");
        }
    }

    /// Sends frames until one comes back: the forwarder has started.
    pub fn knock(&mut self, template: &Template, expect: Expect<'_>, patience: Duration) {
        let until = Instant::now() + patience;
        while self.run(template, 1, expect, 2 * LOST_AFTER).rate == 0.0 {
            assert!(Instant::now() < until, "nothing comes back: the forwarder's log has the reason");
        }
    }

    /// Sends each flow's frame and hears of each that came back, again until all have. Answers whose node each flow has. Fewer
    /// than a burst are on their way at a time: full ones, one after the other, look like a flood.
    pub fn introduce(&mut self, template: &Template, flows: u32, patience: Duration) -> Vec<u8> {
        const UNKNOWN: u8 = u8::MAX;
        let (until, mut nodes) = (Instant::now() + patience, vec![UNKNOWN; flows as usize]);
        loop {
            let missing: Vec<u32> = (0..flows).filter(|flow| nodes[*flow as usize] == UNKNOWN).collect();
            if missing.is_empty() {
                return nodes;
            }
            assert!(Instant::now() < until, "{} flows are not forwarded", missing.len());
            let (mut next, mut heard) = (missing.iter(), Instant::now());
            let window = std::mem::replace(&mut self.window, BURST - 1);
            while next.len() + self.on_their_way > 0 {
                let received = self.receive(template.len(), |frame| {
                    let known = traffic::flow_of(frame).zip(traffic::node_of(frame));
                    let Some((flow, node)) = known else { return false };
                    let place = nodes.get_mut(flow as usize);
                    place.map(|place| *place = node).is_some()
                });
                self.send(template, || next.next().copied());
                self.forget_lost(Instant::now(), received > 0, &mut heard);
            }
            self.window = window;
        }
    }

    /// Sends frames of the first `flows` flows in turn, for so long.
    pub fn run(&mut self, template: &Template, flows: u32, expect: Expect<'_>, time: Duration) -> Figures {
        let began = Instant::now();
        let (mut now, mut heard, mut waited) = (began, began, Duration::ZERO);
        let (mut flow, mut back, mut lost) = (0, 0, 0);
        while now - began < time {
            let received = self.receive(template.len(), |frame| is_expected(frame, expect));
            let sent = self.send(template, || {
                flow = if flow + 1 < flows { flow + 1 } else { 0 };
                Some(flow)
            });
            back += received as u64;
            let then = std::mem::replace(&mut now, Instant::now());
            lost += self.forget_lost(now, received > 0, &mut heard) as u64;
            if received + sent == 0 {
                waited += now - then;
            }
        }
        let took = (now - began).as_secs_f64();
        lost += self.settle(template, expect) as u64;
        Figures { rate: back as f64 / took, waited: waited.as_secs_f64() / took, lost }
    }

    /// Receives what is still on its way; answers how much of it does not come.
    fn settle(&mut self, template: &Template, expect: Expect<'_>) -> usize {
        self.out.clear();
        let (mut heard, mut lost) = (Instant::now(), 0);
        while self.on_their_way > 0 {
            let received = self.receive(template.len(), |frame| is_expected(frame, expect));
            lost += self.forget_lost(Instant::now(), received > 0, &mut heard);
        }
        lost
    }

    /// Takes a burst; `is_ours` says of each frame whether it is one of those sent, and came back as it should. Answers
    /// how many.
    fn receive(&mut self, frame_bytes: usize, mut is_ours: impl FnMut(&[u8]) -> bool) -> usize {
        let (mut packets, mut count) = (ArrayVec::<_, BURST>::new(), 0);
        self.queue.rx_burst(&mut packets);
        for packet in packets {
            if is_ours(packet.bytes()) {
                count += 1;
                if packet.bytes().len() == frame_bytes && self.spare.len() < SPARE_MAX {
                    self.spare.push(packet);
                }
            } else if let Some(reply) = traffic::arp_reply(packet.bytes()) {
                self.say(&reply);
            }
        }
        self.on_their_way = self.on_their_way.saturating_sub(count);
        count
    }

    /// Sends as many frames as may be on their way and the port takes; `next` names the flow of each.
    fn send(&mut self, template: &Template, mut next: impl FnMut() -> Option<u32>) -> usize {
        while !self.out.is_full() && self.on_their_way + self.out.len() < self.window {
            let (mut packet, is_filled) = match self.spare.pop() {
                // What is in one that came back is as it was sent, or the frame has another length.
                Some(packet) if packet.bytes().len() == template.len() => (packet, true),
                _ => {
                    let Some(mut packet) = self.queue.alloc() else { break };
                    packet.set_len(template.len());
                    (packet, false)
                }
            };
            let Some(flow) = next() else { break };
            template.write(flow, is_filled, packet.bytes_mut());
            self.out.push(packet);
        }
        if self.out.is_empty() {
            return 0;
        }
        let sent = self.queue.tx_burst(&mut self.out);
        self.on_their_way += sent;
        sent
    }

    /// Gives packets up when nothing has come for long, so that others can be sent; answers how many.
    fn forget_lost(&mut self, now: Instant, is_alive: bool, heard: &mut Instant) -> usize {
        if is_alive || self.on_their_way == 0 {
            *heard = now;
            return 0;
        }
        if now - *heard < LOST_AFTER {
            return 0;
        }
        *heard = now;
        std::mem::take(&mut self.on_their_way)
    }

    /// Sends a frame of its own, if there is room.
    fn say(&mut self, frame: &[u8; ARP_BYTES]) {
        let Some(mut packet) = self.queue.alloc() else { return };
        packet.set_len(ARP_BYTES);
        packet.bytes_mut().copy_from_slice(frame);
        self.queue.tx_burst(&mut ArrayVec::from_iter([packet]));
    }
}

fn is_expected(frame: &[u8], expect: Expect<'_>) -> bool {
    let Some(flow) = traffic::flow_of(frame) else { return false };
    match expect {
        Expect::Sent(to) => frame[..6] == to,
        Expect::Swapped => frame[..6] == CLIENT_MAC,
        Expect::Nodes(nodes) => traffic::node_of(frame) == nodes.get(flow as usize).copied(),
    }
}
