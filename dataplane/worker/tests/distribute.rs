//! A distributor on a simulated port, between a gateway and two nodes on one wire: by frames.

mod common;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use common::frame::{self, ACK, ETHERNET, SYN, Segment};
use common::node::{ADDRESS, GATEWAY, MAC, PORT};
use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{
    Config, Distributor, Ends, Model, Node, NodeId, PACKET_BYTES_MAX, PeerId, Plan, Secrets, Service,
    Services, State, Verdict,
};
use keyferry_link::{Link, Route};
use keyferry_nic::sim::{Net, PortOptions, Queue};
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::Turning;
use keyferry_worker::capture::{Copies, Direction, Tap};
use keyferry_worker::distribute::{Distribute, Join, NEWS_MAX, News, names};

/// Where the nodes are, each with a MAC address that ends as its own does.
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 12)];
/// Where the other distributor is.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 20);
/// Where others come to be.
const LATER: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 13), Ipv4Addr::new(10, 0, 0, 14)];
const CLIENT: (Ipv4Addr, u16) = (Ipv4Addr::new(198, 51, 100, 1), 4000);

fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    [2, 0, 0, 0, 1, address.octets()[3]]
}

fn distributor(model: Model) -> Distributor {
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
    Distributor::new(config, vec![service], vec![node("a"), node("b")])
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
        let news = Arc::new(ArrayQueue::new(NEWS_MAX));
        let nodes = NODES.map(IpAddr::V4).to_vec();
        let it = Distribute::new(inside, link, distributor(model).with_room(3), nodes, Arc::clone(&news));
        let stations = [&NODES[..], &LATER[..], &[GATEWAY, OTHER]].concat();
        World { net, outside, it, news, stations, now_ns: 0 }
    }

    fn tell(&self, news: News) {
        assert!(self.news.push(news).is_ok(), "there is room");
    }

    /// What it publishes under this name.
    fn total(&self, name: &str) -> u64 {
        let mut values = Vec::new();
        self.it.publish(&mut values);
        let place = names().iter().position(|it| *it == name).expect("a counter");
        values[place]
    }

    fn inject(&mut self, frame: &[u8]) {
        let mut packet = self.outside.alloc().expect("a packet");
        packet.set_len(frame.len());
        packet.bytes_mut().copy_from_slice(frame);
        self.outside.tx_burst(&mut ArrayVec::from_iter([packet]));
    }

    /// Lets some time pass; answers what came out that was no ARP.
    fn pass(&mut self) -> Vec<Vec<u8>> {
        (0..10).flat_map(|_| self.turn()).collect()
    }

    /// One turn; answers the same.
    fn turn(&mut self) -> Vec<Vec<u8>> {
        let mut seen = Vec::new();
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
        seen
    }

    /// The node a frame goes to, which is otherwise as it was.
    fn forwarded(&mut self, frame: &[u8]) -> usize {
        self.inject(frame);
        let seen = self.pass();
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!(seen[0][6..12], MAC, "from the distributor");
        assert_eq!(seen[0][12..], frame[12..]);
        NODES.iter().chain(&LATER).position(|node| seen[0][..6] == mac_of(*node)).expect("to a node")
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
    world.tell(News::Session { client: IpAddr::V4(CLIENT.0), node: other, lifetime });
    world.pass();
    assert_eq!(world.forwarded(&segment(3, SYN, 0)), other.index());
    assert_eq!(world.forwarded(&segment(1, ACK, 9)), node, "what is open stays");
}

#[test]
fn clients_of_a_node_that_goes_are_reset() {
    let mut world = World::new(Model::Session);
    let node = world.forwarded(&segment(1, SYN, 0));
    world.forwarded(&segment(1, ACK, 0x1234));
    world.tell(News::State(NodeId(node as u16), State::Down));
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
fn nodes_come_go_and_move() {
    let mut world = World::new(Model::RoundRobin);
    let third = NodeId(2);
    let node = |name: &str| Node { name: name.to_owned(), weight: 1, state: State::Up };
    let join = |name, address| {
        News::Join(Box::new(Join {
            id: third,
            node: node(name),
            address: IpAddr::V4(address),
            services: Services::from_iter([0]),
        }))
    };
    for id in [0, 1] {
        world.tell(News::State(NodeId(id), State::Draining));
    }
    world.tell(join("c", LATER[0]));
    world.pass();
    assert_eq!(world.forwarded(&segment(1, SYN, 0)), 2);
    world.tell(News::Address(third, IpAddr::V4(LATER[1])));
    world.pass();
    assert_eq!(world.forwarded(&segment(1, ACK, 9)), 3, "it has moved");
    // Of a flow that is not known.
    let plan = Plan { revision: 1, services: 1, nodes: Vec::new() };
    world.inject(&segment(7, ACK, 9));
    assert!(world.pass().is_empty(), "nobody has places");
    world.tell(News::Leave(third));
    world.tell(News::Places(Arc::new(Plan { revision: 2, ..plan }.make())));
    let seen = world.pass();
    assert_eq!(frame::destination(&seen[0]), Some((CLIENT.0, 1)), "its client is told");
    for _ in 0..20 {
        world.pass();
    }
    assert_eq!(world.it.vacated().pop(), Some(third));
    world.tell(join("d", LATER[0]));
    world.pass();
    assert_eq!(world.forwarded(&segment(1, SYN, 0)), 2);
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

/// What the other distributor makes of frames, and what it says.
fn other_hears(other: &mut Distributor, now: Time, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
    for frame in frames {
        assert_eq!(frame[..6], mac_of(OTHER));
        let mut packet = frame[ETHERNET..].to_vec();
        let Verdict::Datagram { at, len } = other.route(now, &packet) else { panic!("{packet:?}") };
        other.hear(now, &mut packet[at..at + len]);
    }
    let mut out = [0; PACKET_BYTES_MAX];
    std::iter::from_fn(|| other.poll_peers(now, &mut out).map(|len| out[..len].to_vec()))
        .map(|packet| [&MAC[..], &mac_of(OTHER), &[8, 0], &packet].concat())
        .collect()
}

/// Which node a client's port has its SYN at.
fn note(nodes: &mut std::collections::HashMap<u16, usize>, frame: &[u8]) {
    let port = u16::from_be_bytes([frame[ETHERNET + 20], frame[ETHERNET + 21]]);
    let node = NODES.iter().position(|node| frame[..6] == mac_of(*node)).expect("to a node");
    assert_eq!(nodes.insert(port, node), None, "once");
}

#[test]
fn a_connection_waits_until_the_other_distributor_knows_of_it() {
    let mut world = World::new(Model::RoundRobin);
    let (mut other, met) = (distributor(Model::RoundRobin), PeerId(3));
    let ends = |own, peer| Ends { own: IpAddr::V4(own), peer: IpAddr::V4(peer) };
    let secrets = |is_first| Secrets::new(&[5; 32], &[], is_first);
    other.add_peer(PeerId(0), ends(OTHER, ADDRESS), secrets(false));
    world.tell(News::Met { peer: met, ends: ends(ADDRESS, OTHER), secrets: secrets(true) });
    let talk = |world: &mut World, other: &mut Distributor| {
        let mut seen = world.pass();
        let nodes: Vec<_> = seen.extract_if(.., |frame| frame[..6] != mac_of(OTHER)).collect();
        for frame in other_hears(other, Time(world.now_ns), &seen) {
            world.inject(&frame);
        }
        nodes
    };
    for _ in 0..3 {
        assert!(talk(&mut world, &mut other).is_empty());
    }
    assert_eq!(
        world.it.distributor().peers(),
        (1, 0),
        "the other has no turns: it has not told what it knows"
    );
    let places = (0..20).filter(|port| {
        world.inject(&segment(100 + port, SYN, 0));
        // At once if it goes to its place, else when the other distributor has answered.
        let at_once = talk(&mut world, &mut other).len();
        let later: usize = (0..2).map(|_| talk(&mut world, &mut other).len()).sum();
        assert_eq!((at_once + later, world.it.distributor().held()), (1, 0));
        at_once == 1
    });
    let places = places.count();
    let counters = world.it.distributor().counters();
    assert!((3..17).contains(&places), "{places} of 20 at their places");
    assert_eq!((counters.held, counters.held_late), (20 - places as u64, 0));
    assert_eq!(other.counters().flows_learnt, counters.held);
    // An answer and another SYN in one burst: each packet goes where its own connection does.
    let syn = |port| segment(port, SYN, 0);
    let ports: Vec<u16> = (200..240).collect();
    let mut nodes = std::collections::HashMap::new();
    for pair in ports.chunks(2) {
        world.inject(&syn(pair[0]));
        let mut seen = world.pass();
        seen.extract_if(.., |frame| frame[..6] != mac_of(OTHER)).for_each(|frame| note(&mut nodes, &frame));
        for frame in other_hears(&mut other, Time(world.now_ns), &seen) {
            world.inject(&frame);
        }
        world.inject(&syn(pair[1]));
        for _ in 0..3 {
            talk(&mut world, &mut other).iter().for_each(|frame| note(&mut nodes, frame));
        }
    }
    assert_eq!(nodes.len(), ports.len());
    for port in ports {
        world.inject(&segment(port, ACK, 9));
        let frames = talk(&mut world, &mut other);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0][..6], mac_of(NODES[nodes[&port]]), "{port}");
    }
    // Gone, it is not waited for.
    world.tell(News::Parted(met));
    world.pass();
    world.forwarded(&segment(9, SYN, 0));
    world.forwarded(&segment(10, SYN, 0));
    assert_eq!(world.it.distributor().peers(), (0, 0));
}

#[test]
fn more_than_can_be_handed_on_takes_nothing_from_who_is_there() {
    let mut world = World::new(Model::RoundRobin);
    let node = world.forwarded(&segment(1, SYN, 0));
    world.forwarded(&segment(2, SYN, 0));
    let before = world.it.port().counters.rx_packets;
    let (mut syns, mut acks) = (0u16, 0u16);
    let mut seen = Vec::new();
    for round in 0..100 {
        // As many as a turn takes, and the first time nearly as many as the port's ring holds: so many wait all the time.
        for number in 0..BURST as u16 * if round == 0 { 14 } else { 1 } {
            let number = round * BURST as u16 + number;
            if number % 64 == 63 {
                acks += 1;
                world.inject(&segment(1, ACK, u32::from(number)));
            } else {
                syns += 1;
                world.inject(&segment(1000 + syns, SYN, 0));
            }
        }
        seen.extend(world.turn());
    }
    for _ in 0..2 {
        seen.extend(world.pass());
    }
    let is_established = |frame: &&Vec<u8>| frame[ETHERNET + 20..ETHERNET + 22] == [0, 1];
    let established: Vec<_> = seen.iter().filter(is_established).collect();
    assert_eq!(established.len(), usize::from(acks), "none is lost");
    assert!(established.iter().all(|frame| frame[..6] == mac_of(NODES[node])));
    let (counters, port) = (world.it.distributor().counters(), &world.it.port().counters);
    assert_eq!(port.rx_packets - before, u64::from(syns + acks));
    let begun = seen.len() - established.len();
    assert_eq!(begun as u64 + counters.drop_behind, u64::from(syns), "each SYN once");
    assert!(counters.drop_behind > u64::from(syns) / 2, "{} of {syns}", counters.drop_behind);
    // It is over when the port has no more.
    world.forwarded(&segment(9000, SYN, 0));
}

/// What an operator who captures sees: a packet as it came, and as it went on to a node.
#[test]
fn a_capture_shows_both_sides() {
    let mut world = World::new(Model::RoundRobin);
    let copies = Copies::new(128);
    let filter = format!("src host {} and tcp", CLIENT.0).parse().expect("a filter");
    let tap = Tap::new(filter, Arc::clone(&copies), || Time(1));
    world.tell(News::Capture(Some(Box::new(tap))));
    world.pass();
    assert!(copies.is_on());
    let syn = segment(1, SYN, 0);
    let node = world.forwarded(&syn);
    let seen: Vec<_> = std::iter::from_fn(|| copies.take()).collect();
    assert_eq!(seen.iter().map(|copy| copy.direction).collect::<Vec<_>>(), Direction::ALL);
    assert_eq!(seen[0].bytes(), syn);
    assert_eq!((&seen[1].bytes()[..6], &seen[1].bytes()[12..]), (&mac_of(NODES[node])[..], &syn[12..]));
    world.tell(News::Capture(None));
    world.pass();
    assert!(copies.is_over());
}

/// Of its tables, its companions and its turns: each under its own name.
#[test]
fn what_it_holds_is_published() {
    let mut world = World::new(Model::Session);
    world.pass();
    let gauges = |world: &World| {
        ["flows", "clients", "peers", "peers_copied", "held_now"].map(|name| world.total(name))
    };
    assert_eq!(gauges(&world), [0; 5]);
    assert!(world.total("flows_max") >= 1000 && world.total("clients_max") >= 1000);
    let (turns, idle) = (world.total("turns"), world.total("turns_idle"));
    world.pass();
    assert_eq!([world.total("turns") - turns, world.total("turns_idle") - idle], [10, 10]);

    world.forwarded(&segment(1, SYN, 0));
    assert_eq!(gauges(&world), [1, 1, 0, 0, 0]);
    assert!(world.total("turns_idle") - idle < world.total("turns") - turns);
    assert!(world.total("busy_ns") > 0, "the clock went on meanwhile");

    // One that says nothing: a segment of a connection that is not known waits for its word.
    let ends = Ends { own: IpAddr::V4(ADDRESS), peer: IpAddr::V4(OTHER) };
    let secrets = Secrets::new(&[5; 32], &[], true);
    world.tell(News::Met { peer: PeerId(3), ends, secrets });
    world.pass();
    world.inject(&segment(2, ACK, 9));
    world.turn();
    world.turn();
    assert_eq!(gauges(&world), [1, 1, 1, 0, 1]);
    world.tell(News::Parted(PeerId(3)));
    world.pass();
    assert_eq!(gauges(&world), [2, 1, 0, 0, 0], "it went to its place");
}
