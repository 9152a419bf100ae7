//! A distributor on a simulated port, between a gateway and two nodes on one wire: by frames.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use common::frame::{self, ACK, ETHERNET, SYN, Segment};
use common::node::{ADDRESS, GATEWAY, MAC, PORT};
use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{Config, Distributor, Model, Node, NodeId, Service, State};
use keyferry_link::{Link, Route};
use keyferry_nic::sim::{Net, PortOptions, Queue};
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::Turning;
use keyferry_worker::distribute::{Distribute, NEWS_MAX, News};

/// Where the nodes are, each with a MAC address that ends as its own does.
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 12)];
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 4000);

fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    [2, 0, 0, 0, 1, address.octets()[3]]
}

/// A distributor, and everything else at the other end of its wire.
struct World {
    net: Net,
    outside: Queue,
    it: Distribute<Queue>,
    news: Arc<ArrayQueue<News>>,
    /// Stations that answer ARP.
    stations: Vec<Ipv4Addr>,
    now_ns: u64,
}

impl World {
    fn new(model: Model) -> World {
        let mut net = Net::new();
        let inside = net.port(PortOptions { mac: MAC, ..PortOptions::default() }).remove(0);
        let outside = net.port(PortOptions { mac: [2, 0, 0, 0, 0, 9], ..PortOptions::default() }).remove(0);
        net.connect(inside.port(), outside.port(), 1_000);
        let link = Link::new(keyferry_link::Config {
            mac: MAC,
            addresses: vec![format!("{ADDRESS}/24").parse().unwrap()],
            routes: vec![Route { to: "0.0.0.0/0".parse().unwrap(), via: IpAddr::V4(GATEWAY) }],
            vlan: None,
            mtu: 1500,
        });
        let config = Config {
            flows: 1000,
            clients: 1000,
            idle_time: Duration::from_secs(300),
            client_time: Duration::from_secs(600),
            seed: 1,
            places_seed: 2,
        };
        let service = Service { address: (ADDRESS, PORT).into(), model, nodes: vec![NodeId(0), NodeId(1)] };
        let node = |name: &str| Node { name: name.to_owned(), weight: 1, state: State::Up };
        let distributor = Distributor::new(config, vec![service], vec![node("a"), node("b")]);
        let news = Arc::new(ArrayQueue::new(NEWS_MAX));
        let nodes = NODES.map(IpAddr::V4).to_vec();
        let it = Distribute::new(inside, link, distributor, nodes, Arc::clone(&news));
        World { net, outside, it, news, stations: [&NODES[..], &[GATEWAY]].concat(), now_ns: 0 }
    }

    fn inject(&mut self, frame: &[u8]) {
        let mut packet = self.outside.alloc().expect("a packet");
        packet.set_len(frame.len());
        packet.bytes_mut().copy_from_slice(frame);
        self.outside.tx_burst(&mut ArrayVec::from_iter([packet]));
    }

    /// Lets some time pass; answers what came out that was no ARP.
    fn pass(&mut self) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
        for _ in 0..10 {
            self.now_ns += 100_000;
            self.net.advance(self.now_ns);
            self.it.turn(Time(self.now_ns));
            let mut packets = ArrayVec::<_, BURST>::new();
            self.outside.rx_burst(&mut packets);
            for packet in packets {
                let answer = self.stations.iter().find_map(|station| {
                    let mut answer = frame::arp_answer(packet.bytes(), *station)?;
                    answer[6..12].copy_from_slice(&mac_of(*station));
                    answer[22..28].copy_from_slice(&mac_of(*station));
                    Some(answer)
                });
                match answer {
                    Some(answer) => self.inject(&answer),
                    None if packet.bytes()[12..14] == [8, 6] => {}
                    None => seen.push(packet.bytes().to_vec()),
                }
            }
        }
        seen
    }

    /// The node a frame goes to, which is otherwise as it was.
    fn forwarded(&mut self, frame: &[u8]) -> usize {
        self.inject(frame);
        let seen = self.pass();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0][6..12], MAC, "from the distributor");
        assert_eq!(seen[0][12..], frame[12..]);
        NODES.iter().position(|node| seen[0][..6] == mac_of(*node)).expect("to a node")
    }
}

fn segment(port: u16, flags: u8, acknowledged: u32) -> Vec<u8> {
    Segment::new((CLIENT.0, port), flags, 7, acknowledged).frame()
}

#[test]
fn connections_go_to_nodes_and_stay() {
    let mut world = World::new(Model::RoundRobin);
    // The first one waits for its node's MAC address.
    let first = world.forwarded(&segment(1, SYN, 0));
    let second = world.forwarded(&segment(2, SYN, 0));
    assert_ne!(first, second);
    for _ in 0..3 {
        assert_eq!(world.forwarded(&segment(1, ACK, 9)), first);
        assert_eq!(world.forwarded(&segment(2, ACK, 9)), second);
    }
    assert_eq!(world.it.port().counters.rx_packets, 8 + 2, "with two answers to ARP");
}

#[test]
fn news_moves_clients() {
    let mut world = World::new(Model::Session);
    let node = world.forwarded(&segment(1, SYN, 0));
    assert_eq!(world.forwarded(&segment(2, SYN, 0)), node);
    let other = NodeId(1 - node as u16);
    let lifetime = Duration::from_secs(10);
    world.news.push(News::Session { client: IpAddr::V4(CLIENT.0), node: other, lifetime }).unwrap();
    world.pass();
    assert_eq!(world.forwarded(&segment(3, SYN, 0)), other.index());
    assert_eq!(world.forwarded(&segment(1, ACK, 9)), node, "what is open stays");
}

#[test]
fn clients_of_a_node_that_goes_are_reset() {
    let mut world = World::new(Model::Session);
    let node = world.forwarded(&segment(1, SYN, 0));
    world.forwarded(&segment(1, ACK, 0x1234));
    world.news.push(News::State(NodeId(node as u16), State::Down)).unwrap();
    let seen = world.pass();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(seen[0][..6], mac_of(GATEWAY), "by the way to the client");
    assert_eq!(frame::destination(&seen[0]), Some((CLIENT.0, 1)));
    assert_eq!(seen[0][ETHERNET + 24..ETHERNET + 28], 0x1234u32.to_be_bytes());
    assert_eq!(world.forwarded(&segment(1, SYN, 0)), 1 - node);
}

/// The MAC address that was used for the last packet is not used when the node has said that it has another one.
#[test]
fn a_node_with_another_mac_address_is_followed() {
    let mut world = World::new(Model::RoundRobin);
    let node = world.forwarded(&segment(1, SYN, 0));
    assert_eq!(world.forwarded(&segment(1, ACK, 9)), node);
    let (mut asks, moved) = (frame::arp_request(NODES[node]), [2, 0, 0, 0, 7, 7]);
    asks[6..12].copy_from_slice(&moved);
    asks[22..28].copy_from_slice(&moved);
    world.inject(&asks);
    world.inject(&segment(1, ACK, 9));
    let seen = world.pass();
    assert_eq!((seen.len(), &seen[0][..6]), (1, &moved[..]));
    // It is asked there, and answers with the one it has always had.
    assert_eq!(world.forwarded(&segment(1, ACK, 9)), node);
}

#[test]
fn a_station_answers_for_itself() {
    let mut world = World::new(Model::Session);
    world.inject(&frame::arp_request(GATEWAY));
    world.inject(&frame::ip(CLIENT.0, 17, 0, &[0; 8]));
    assert!(world.pass().is_empty());
    assert_eq!(world.it.port().counters.rx_link, 1);
    assert_eq!(world.it.port().counters.drop_link, 1, "UDP is for nobody");
    // Dropped by the distributor: a segment for another port.
    world.inject(&Segment { to_port: 22, ..Segment::new(CLIENT, SYN, 7, 0) }.frame());
    assert!(world.pass().is_empty());
    assert_eq!(world.it.distributor().counters().drop_no_service, 1);
}
