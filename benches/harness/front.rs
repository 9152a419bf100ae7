//! A distributor's worker on a simulated port, with open flows in its table, and the clients' end of the cable.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{Config, Distributor, Model, Node, NodeId, Service, State};
use keyferry_link::{Cidr, Link};
use keyferry_nic::sim::{Net, PortOptions, Queue};
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::Turning as _;
use keyferry_worker::distribute::{Distribute, NEWS_MAX};

use super::node::MAC;
use super::traffic::{self, Template};

/// Between two turns.
const TURN_NS: u64 = 2_000;

/// The worker and what is around it.
pub struct Front {
    it: Distribute<Queue>,
    net: Net,
    wire: Queue,
    now: Time,
}

impl Front {
    /// One that has the first `flows` flows open, and knows its nodes' MAC addresses.
    pub fn new(flows: u32) -> Front {
        let mut net = Net::new();
        let options = |mac| PortOptions { mac, packets: 4096, tso: false, ..PortOptions::default() };
        let queue = net.port(options(MAC)).remove(0);
        let wire = net.port(options(traffic::CLIENT_MAC)).remove(0);
        net.connect(queue.port(), wire.port(), 0);
        let mut front = Front { it: distribute(queue, flows), net, wire, now: Time(TURN_NS) };
        for template in [Template::syn(MAC), Template::ack(MAC)] {
            let mut passed = 0;
            for first in (0..flows).step_by(BURST) {
                passed += front.pass(&template, first..flows.min(first + BURST as u32), |turn| turn());
                // Packets of the first turns wait for their nodes' MAC addresses; and full bursts one after the other would
                // look like a flood.
                passed += front.pass(&template, 0..0, |turn| turn());
            }
            assert_eq!(passed, flows as usize, "each flow goes to a node");
        }
        front
    }

    /// Sends a frame for each of these flows, at most a burst, and turns; answers how many reached a node.
    pub fn pass(
        &mut self,
        template: &Template,
        flows: std::ops::Range<u32>,
        around: impl FnOnce(&mut dyn FnMut()),
    ) -> usize {
        let mut packets = ArrayVec::<_, BURST>::new();
        for flow in flows {
            let mut packet = self.wire.alloc().expect("the clients' pool has room");
            packet.set_len(template.len());
            template.write(flow, false, packet.bytes_mut());
            packets.push(packet);
        }
        self.wire.tx_burst(&mut packets);
        self.now = Time(self.now.0 + TURN_NS);
        self.net.advance(self.now.0);
        around(&mut || {
            self.it.turn(self.now);
        });
        self.net.advance(self.now.0);
        self.deliver()
    }

    /// Nodes take what comes for them, and answer when they are asked for their MAC addresses.
    fn deliver(&mut self) -> usize {
        let mut count = 0;
        loop {
            let mut packets = ArrayVec::<_, BURST>::new();
            if self.wire.rx_burst(&mut packets) == 0 {
                return count;
            }
            for packet in packets {
                count += usize::from(traffic::node_of(packet.bytes()).is_some());
                if let Some(reply) = traffic::arp_reply(packet.bytes()) {
                    super::node::inject(&mut self.wire, &reply);
                }
            }
        }
    }
}

fn distribute(nic: Queue, flows: u32) -> Distribute<Queue> {
    let caps = nic.caps();
    let own = Cidr::new(IpAddr::V4(traffic::DISTRIBUTOR), 24).expect("a prefix of 24 bits");
    let link = Link::new(keyferry_link::Config {
        mac: caps.mac,
        addresses: vec![own],
        routes: Vec::new(),
        vlan: None,
        mtu: caps.mtu,
    });
    let config = Config {
        flows: flows as usize,
        clients: flows as usize,
        idle_time: Duration::from_secs(900),
        client_time: Duration::from_secs(600),
        seed: 1,
        places_seed: 2,
    };
    let ids = (0..traffic::NODES).map(|node| NodeId(node.into())).collect();
    let service = Service {
        address: (traffic::SERVICE.0, traffic::SERVICE.1).into(),
        model: Model::BackEndForwarding,
        nodes: ids,
    };
    let nodes =
        (0..traffic::NODES).map(|node| Node { name: format!("n{node}"), weight: 1, state: State::Up });
    let addresses = (0..traffic::NODES).map(|node| IpAddr::V4(traffic::node_address(node))).collect();
    let distributor = Distributor::new(config, vec![service], nodes.collect());
    Distribute::new(nic, link, distributor, addresses, Arc::new(ArrayQueue::new(NEWS_MAX)))
}
