//! Bursts: what becomes of packets that are read and looked for together is what becomes of them one by one.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use keyferry_distribute::{Config, Distributor, Midst, Model, Node, NodeId, Service, Spot, State, Verdict};
use keyferry_time::Time;
use proptest::prelude::*;

const SYN: u8 = 2;
const ACK: u8 = 16;
const NODES: u16 = 3;
const SERVICES: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// So small that connections drive each other out, also within a burst.
fn distributor() -> Distributor {
    let config = Config {
        flows: 1,
        clients: 1,
        idle_time: Duration::from_secs(300),
        client_time: Duration::from_secs(600),
        seed: 7,
        places_seed: 9,
    };
    let nodes: Vec<_> = (0..NODES).map(NodeId).collect();
    let service = |ip| Service { address: (ip, 443).into(), model: Model::RoundRobin, nodes: nodes.clone() };
    let node = |number| Node { name: format!("node-{number}"), weight: 1, state: State::Up };
    Distributor::new(config, SERVICES.map(service).into(), (0..NODES).map(node).collect())
}

/// A segment of a few connections, and what is wrong with it: a byte that is another one, and bytes missing at the end.
#[derive(Clone, Debug)]
struct Sent {
    is_v6: bool,
    client: u8,
    port: u8,
    to_port: u16,
    flags: u8,
    acknowledges: u32,
    payload: usize,
    mangled: Option<(usize, u8)>,
    cut: usize,
}

fn segment() -> impl Strategy<Value = Sent> {
    let flags = prop_oneof![3 => Just(ACK), 2 => Just(SYN), 1 => any::<u8>()];
    let to_port = prop_oneof![8 => Just(443), 1 => Just(80)];
    let mangled = prop_oneof![2 => Just(None), 1 => (0..80usize, any::<u8>()).prop_map(Some)];
    let cut = prop_oneof![4 => Just(0), 1 => 0..60usize];
    (any::<bool>(), 0..4u8, 0..4u8, to_port, flags, any::<u32>(), 0..20usize, mangled, cut).prop_map(
        |(is_v6, client, port, to_port, flags, acknowledges, payload, mangled, cut)| Sent {
            is_v6,
            client,
            port,
            to_port,
            flags,
            acknowledges,
            payload,
            mangled,
            cut,
        },
    )
}

impl Sent {
    fn packet(&self) -> Vec<u8> {
        let mut tcp = vec![4, self.port];
        tcp.extend(self.to_port.to_be_bytes());
        tcp.extend([0, 0, 0, 9]);
        tcp.extend(self.acknowledges.to_be_bytes());
        tcp.extend([0x50, self.flags, 1, 0, 0, 0, 0, 0]);
        tcp.resize(tcp.len() + self.payload, 0);
        let mut packet = if self.is_v6 {
            let mut ip = vec![0x60, 0, 0, 0, 0, tcp.len() as u8, 6, 64];
            ip.extend(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, self.client.into()).octets());
            ip
        } else {
            let mut ip = vec![0x45, 0, 0, 20 + tcp.len() as u8, 0, 7, 0x40, 0, 64, 6, 0, 0];
            ip.extend([198, 51, 100, self.client]);
            ip
        };
        match SERVICES[usize::from(self.is_v6)] {
            IpAddr::V4(ip) => packet.extend(ip.octets()),
            IpAddr::V6(ip) => packet.extend(ip.octets()),
        }
        packet.extend(tcp);
        if let Some((at, byte)) = self.mangled
            && let Some(there) = packet.get_mut(at)
        {
            *there = byte;
        }
        packet.truncate(packet.len() - self.cut.min(packet.len()));
        packet
    }
}

fn burst(it: &mut Distributor, now: Time, packets: &[Vec<u8>]) -> Vec<Verdict> {
    let read: Vec<Option<Midst>> = packets.iter().map(|packet| it.read(packet)).collect();
    let spotted: Vec<_> =
        read.iter().map(|midst| Some((*midst)?).map(|it_is| (it_is, it.spot(&it_is)))).collect();
    let one = |(packet, spotted): (&Vec<u8>, &Option<(Midst, Spot)>)| {
        let node = spotted.as_ref().and_then(|(midst, spot)| it.route_midst(now, midst, *spot));
        node.map_or_else(|| it.route(now, packet), Verdict::Forward)
    };
    packets.iter().zip(&spotted).map(one).collect()
}

proptest! {
    #[test]
    fn a_burst_is_its_packets_one_by_one(
        bursts in prop::collection::vec(
            (prop::collection::vec(segment(), 1..32), 0..100u64, prop::option::of((0..NODES, 0..3u8))),
            1..12,
        ),
    ) {
        let (mut together, mut one_by_one) = (distributor(), distributor());
        let mut now = Time::ZERO;
        for (segments, seconds, news) in bursts {
            now += Duration::from_secs(seconds);
            if let Some((node, state)) = news {
                let state = [State::Up, State::Draining, State::Down][usize::from(state)];
                together.set_state(NodeId(node), state);
                one_by_one.set_state(NodeId(node), state);
            }
            let packets: Vec<_> = segments.iter().map(Sent::packet).collect();
            let verdicts: Vec<_> = packets.iter().map(|packet| one_by_one.route(now, packet)).collect();
            prop_assert_eq!(burst(&mut together, now, &packets), verdicts);
            prop_assert_eq!(together.flows(), one_by_one.flows());
        }
        let (ours, theirs) = (together.counters().values(), one_by_one.counters().values());
        prop_assert_eq!(ours.into_iter().collect::<Vec<_>>(), theirs.into_iter().collect::<Vec<_>>());
    }
}

/// The test above is of what this one says happens at all.
#[test]
fn segments_of_a_known_connection_are_found_together() {
    let mut it = distributor();
    let sent = |is_v6, flags| {
        let (client, port, acknowledges, payload) = (1, 1, 5, 3);
        Sent { is_v6, client, port, to_port: 443, flags, acknowledges, payload, mangled: None, cut: 0 }
            .packet()
    };
    for is_v6 in [false, true] {
        let Verdict::Forward(node) = it.route(Time::ZERO, &sent(is_v6, SYN)) else { panic!("a node") };
        let midst = it.read(&sent(is_v6, ACK)).expect("a segment in the midst");
        let spot = it.spot(&midst);
        assert_eq!(
            it.route_midst(Time::ZERO, &midst, spot),
            None,
            "the first brings it further: others are to hear of it"
        );
        assert_eq!(it.route(Time::ZERO, &sent(is_v6, ACK)), Verdict::Forward(node));
        assert_eq!(it.route_midst(Time::ZERO, &midst, spot), Some(node));
        for flags in [SYN, ACK | 1, ACK | SYN, ACK | 4, 0] {
            assert!(it.read(&sent(is_v6, flags)).is_none(), "{flags}");
        }
    }
}
