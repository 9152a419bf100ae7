//! Clients, nodes and a distributor between them, by packets: who gets what, whatever happens to the nodes.

mod common;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::{CONFIG, SERVICE, SERVICE6, Sent, WEB, ack, at, distributor, node_of, sent, syn};
use keyferry_distribute::{
    Config, Distributor, DropReason, Model, Node, NodeId, RESET_BYTES_MAX, Reset, Service, State, Verdict,
};
use proptest::prelude::*;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Packet, Icmpv4Repr, IpAddress, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    TcpControl, TcpPacket,
};

#[path = "distributor/membership.rs"]
mod membership;

/// Sequence and acknowledgement number of a reset that is a good packet to `to`.
fn read_reset(reset: &Reset, to: &str) -> (u32, Option<u32>) {
    let mut out = [0; RESET_BYTES_MAX];
    let bytes = reset.write(&mut out);
    let to: SocketAddr = to.parse().unwrap();
    let (from, payload) = match to.ip() {
        IpAddr::V4(ip) => {
            let packet = Ipv4Packet::new_checked(&out[..bytes]).unwrap();
            assert!(packet.verify_checksum() && packet.dst_addr() == ip);
            (IpAddress::from(packet.src_addr()), packet.payload())
        }
        IpAddr::V6(ip) => {
            let packet = Ipv6Packet::new_checked(&out[..bytes]).unwrap();
            assert!(packet.dst_addr() == ip);
            (IpAddress::from(packet.src_addr()), packet.payload())
        }
    };
    let tcp = TcpPacket::new_checked(payload).unwrap();
    assert!(tcp.verify_checksum(&from, &to.ip().into()) && tcp.rst());
    assert_eq!((tcp.src_port(), tcp.dst_port()), (443, to.port()));
    (tcp.seq_number().0 as u32, tcp.ack().then(|| tcp.ack_number().0 as u32))
}

#[test]
fn rr_takes_nodes_in_turn_and_a_flow_stays() {
    let mut it = distributor(CONFIG, Model::RoundRobin, 3);
    let clients = ["198.51.100.1:1000", "198.51.100.1:1001", "198.51.100.1:1002", "198.51.100.1:1003"];
    let nodes = clients.map(|client| node_of(it.route(at(1), &syn(client))));
    assert_eq!(nodes, [NodeId(0), NodeId(1), NodeId(2), NodeId(0)]);
    for (client, node) in clients.iter().zip(nodes) {
        assert_eq!(it.route(at(2), &syn(client)), Verdict::Forward(node), "a SYN that is sent again");
        assert_eq!(it.route(at(200), &ack(client, 5)), Verdict::Forward(node));
    }
    assert_eq!((it.counters().in_turn, it.counters().forwarded), (4, 12));
}

#[test]
fn a_client_goes_back_to_the_node_of_its_session() {
    let mut it = distributor(CONFIG, Model::Session, 3);
    let first = node_of(it.route(at(1), &syn("198.51.100.1:1000")));
    let other = node_of(it.route(at(1), &syn("198.51.100.2:1000")));
    assert_ne!(first, other, "a new client goes to the next node");
    assert_eq!(node_of(it.route(at(2), &syn("198.51.100.1:1001"))), first);
    // Another node has its session meanwhile.
    it.announce(at(3), "198.51.100.1".parse().unwrap(), other, Duration::from_secs(50));
    assert_eq!(node_of(it.route(at(52), &syn("198.51.100.1:1002"))), other);
    let later = node_of(it.route(at(54), &syn("198.51.100.1:1003")));
    assert_eq!((later, it.counters().by_client), (NodeId(2), 2), "no longer than the session lives");
    let mut six = sent("[2001:db8::9]:1", SERVICE6, TcpControl::Syn, None);
    let node = node_of(it.route(at(55), &six.packet()));
    six.from.set_port(2);
    assert_eq!(node_of(it.route(at(55), &six.packet())), node);
}

#[test]
fn services_have_nodes_of_their_own() {
    let mut it = distributor(CONFIG, Model::RoundRobin, 3);
    for port in 1..10 {
        let web = sent(&format!("198.51.100.1:{port}"), WEB, TcpControl::Syn, None);
        assert_eq!(node_of(it.route(at(1), &web.packet())), NodeId(0));
    }
    let nobody = sent("198.51.100.1:1", "192.0.2.1:22", TcpControl::Syn, None);
    assert_eq!(it.route(at(1), &nobody.packet()), Verdict::Drop(DropReason::NoService));
}

#[test]
fn a_node_that_drains_keeps_what_it_has() {
    let mut it = distributor(CONFIG, Model::Session, 2);
    let node = node_of(it.route(at(1), &syn("198.51.100.1:1000")));
    it.route(at(1), &ack("198.51.100.1:1000", 5));
    it.set_state(node, State::Draining);
    assert_eq!(it.route(at(2), &ack("198.51.100.1:1000", 6)), Verdict::Forward(node));
    assert_ne!(node_of(it.route(at(2), &syn("198.51.100.1:1001"))), node);
    assert!(!it.sweep(|_| panic!("nobody is reset")));
}

#[test]
fn clients_of_a_node_that_is_gone_are_told() {
    let mut it = distributor(CONFIG, Model::Session, 2);
    let client = "198.51.100.1:1000";
    let node = node_of(it.route(at(1), &syn(client)));
    it.route(at(1), &ack(client, 5));
    it.route(at(1), &ack(client, 77));
    it.set_state(node, State::Down);
    let mut told = Vec::new();
    while it.sweep(|reset| told.push(reset)) {}
    assert_eq!(told.len(), 1);
    assert_eq!(read_reset(&told[0], client), (77, None));
    // It comes back and is somebody else's.
    assert_ne!(node_of(it.route(at(2), &syn(client))), node);
    it.set_state(NodeId(0), State::Down);
    it.set_state(NodeId(1), State::Down);
    assert_eq!(it.route(at(3), &syn("198.51.100.9:1")), Verdict::Drop(DropReason::NoNode));
}

/// A node that restarts has none of the connections it had.
#[test]
fn connections_of_a_node_that_was_gone_stay_lost_when_it_is_back() {
    let mut it = distributor(CONFIG, Model::RoundRobin, 1);
    for client in ["198.51.100.1:1000", "198.51.100.1:1001"] {
        it.route(at(1), &syn(client));
        it.route(at(1), &ack(client, 5));
    }
    it.set_state(NodeId(0), State::Down);
    it.set_state(NodeId(0), State::Up);
    let Verdict::Reset(_) = it.route(at(2), &ack("198.51.100.1:1000", 6)) else { panic!("no reset") };
    node_of(it.route(at(2), &syn("198.51.100.1:1000")));
    let mut told = Vec::new();
    while it.sweep(|reset| told.push(reset)) {}
    assert_eq!(told.len(), 1, "the other one, and not what began since");
    assert_eq!(read_reset(&told[0], "198.51.100.1:1001"), (5, None));
    node_of(it.route(at(2), &ack("198.51.100.1:1000", 7)));
}

#[test]
fn who_speaks_to_a_node_that_is_gone_is_answered() {
    let mut it = distributor(CONFIG, Model::Session, 2);
    for (client, control, ack, expected) in [
        ("198.51.100.1:1000", TcpControl::None, Some(9), (9, None)),
        ("[2001:db8::9]:1", TcpControl::Fin, None, (0, Some(1001))),
    ] {
        let to = if client.starts_with('[') { SERVICE6 } else { SERVICE };
        let node = node_of(it.route(at(1), &sent(client, to, TcpControl::Syn, None).packet()));
        it.set_state(node, State::Down);
        let Verdict::Reset(reset) = it.route(at(2), &sent(client, to, control, ack).packet()) else {
            panic!("no reset");
        };
        assert_eq!(read_reset(&reset, client), expected);
        it.set_state(node, State::Up);
    }
    let stray = sent("198.51.100.1:1000", SERVICE, TcpControl::Rst, None);
    assert_eq!(it.route(at(2), &stray.packet()), Verdict::Drop(DropReason::Stray));
}

#[test]
fn all_distributors_agree_on_flows_nobody_remembers() {
    let (mut one, mut other) =
        (distributor(CONFIG, Model::Session, 5), distributor(CONFIG, Model::Session, 5));
    one.route(at(1), &syn("198.51.100.77:7"));
    let mut nodes = HashMap::new();
    for port in 1..500 {
        let packet = ack(&format!("198.51.100.1:{port}"), 5);
        let node = node_of(one.route(at(1), &packet));
        assert_eq!(node_of(other.route(at(9), &packet)), node);
        *nodes.entry(node).or_insert(0) += 1;
    }
    assert!(nodes.len() == 5 && nodes.values().all(|count| (60..140).contains(count)), "{nodes:?}");
    assert_eq!(one.counters().unknown, 499);
}

#[test]
fn a_flood_of_opening_connections_drives_no_open_one_out() {
    let config = Config { flows: 1000, clients: 1000, ..CONFIG };
    let mut it = distributor(config, Model::Session, 4);
    let clients: Vec<_> = (0..500).map(|number| format!("198.51.100.1:{}", number + 1)).collect();
    let nodes: Vec<_> = clients.iter().map(|client| node_of(it.route(at(1), &syn(client)))).collect();
    for client in &clients {
        it.route(at(1), &ack(client, 5));
    }
    it.announce(at(1), "198.51.100.1".parse().unwrap(), nodes[0], Duration::from_secs(100));
    for number in 0..1_000_000u32 {
        let from = SocketAddr::new(Ipv4Addr::from(0x0b00_0000 + number).into(), 1);
        let packet =
            Sent { from, to: SERVICE.parse().unwrap(), control: TcpControl::Syn, ack: None }.packet();
        node_of(it.route(at(2), &packet));
    }
    for (client, node) in clients.iter().zip(&nodes) {
        assert_eq!(it.route(at(3), &ack(client, 6)), Verdict::Forward(*node));
    }
    assert_eq!(node_of(it.route(at(3), &syn("198.51.100.1:9999"))), nodes[0], "its session is known");
    assert_eq!((it.counters().flows_lost, it.counters().clients_lost), (0, 0));
}

#[test]
fn fragments_follow_the_first() {
    let mut it = distributor(CONFIG, Model::RoundRobin, 3);
    let mut first = syn("198.51.100.1:1000");
    let mut rest = first.clone();
    for (packet, offset, more) in [(&mut first, 0, true), (&mut rest, 64, false)] {
        let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
        ip.set_ident(77);
        ip.set_more_frags(more);
        ip.set_frag_offset(offset);
        ip.set_dont_frag(false);
    }
    assert_eq!(it.route(at(1), &rest), Verdict::Drop(DropReason::Fragment));
    let node = node_of(it.route(at(1), &first));
    assert_eq!(it.route(at(2), &rest), Verdict::Forward(node));
    assert_eq!(it.route(at(9), &rest), Verdict::Drop(DropReason::Fragment), "not for long");
    let node = node_of(it.route(at(10), &first));
    it.set_state(node, State::Down);
    assert_eq!(it.route(at(10), &rest), Verdict::Drop(DropReason::Fragment), "nobody is there");
}

#[test]
fn each_verdict_is_counted_as_itself() {
    let counted = |it: &Distributor| {
        let all = it.counters();
        let drops = [all.drop_malformed, all.drop_no_service, all.drop_stray, all.drop_fragment];
        ([all.forwarded, all.resets, all.drop_no_node, all.announced], drops)
    };
    let mut it = distributor(CONFIG, Model::Session, 2);
    let client = "198.51.100.1:1000";
    let node = node_of(it.route(at(1), &syn(client)));
    assert_eq!(counted(&it), ([1, 0, 0, 0], [0; 4]));
    it.route(at(1), &syn(client)[..24]);
    assert_eq!(counted(&it), ([1, 0, 0, 0], [1, 0, 0, 0]));
    it.route(at(1), &sent(client, "192.0.2.1:22", TcpControl::Syn, None).packet());
    assert_eq!(counted(&it), ([1, 0, 0, 0], [1, 1, 0, 0]));
    it.route(at(1), &sent("198.51.100.2:5", SERVICE, TcpControl::Rst, None).packet());
    assert_eq!(counted(&it), ([1, 0, 0, 0], [1, 1, 1, 0]));
    let mut rest = syn("198.51.100.3:5");
    let mut ip = Ipv4Packet::new_unchecked(&mut rest[..]);
    ip.set_dont_frag(false);
    ip.set_frag_offset(64);
    it.route(at(1), &rest);
    assert_eq!(counted(&it), ([1, 0, 0, 0], [1; 4]));
    it.set_state(node, State::Down);
    it.route(at(2), &ack(client, 9));
    assert_eq!(counted(&it), ([1, 1, 0, 0], [1; 4]));
    [NodeId(0), NodeId(1)].into_iter().for_each(|node| it.set_state(node, State::Down));
    it.route(at(3), &syn("198.51.100.4:5"));
    assert_eq!(counted(&it), ([1, 1, 1, 0], [1; 4]));
    it.announce(at(3), "198.51.100.4".parse().unwrap(), NodeId(0), Duration::from_secs(9));
    assert_eq!(counted(&it), ([1, 1, 1, 1], [1; 4]));
}

/// An address of IPv4 as IPv6 maps it belongs on no wire (RFC 4291 2.5.5.2): tables would take it for the other family's.
#[test]
fn a_mapped_address_is_no_clients() {
    let mut it = distributor(CONFIG, Model::RoundRobin, 2);
    for (control, number) in [(TcpControl::Syn, None), (TcpControl::None, Some(5))] {
        let packet = sent("[::ffff:198.51.100.1]:1000", SERVICE6, control, number).packet();
        assert_eq!(it.route(at(1), &packet), Verdict::Drop(DropReason::Malformed));
    }
    for node in 0..2 {
        it.set_state(NodeId(node), State::Down);
    }
    while it.sweep(|reset| panic!("{reset:?} of nothing")) {}
}

#[test]
fn errors_about_what_a_node_sent_go_to_it() {
    let mut it = distributor(CONFIG, Model::RoundRobin, 3);
    let client = "198.51.100.1:1000";
    it.route(at(1), &syn("198.51.100.1:999"));
    let node = node_of(it.route(at(1), &syn(client)));
    // The start of a segment from the service to the client.
    let quoted = sent(SERVICE, client, TcpControl::None, Some(1)).packet();
    let icmp = Icmpv4Repr::DstUnreachable {
        reason: Icmpv4DstUnreachable::FragRequired,
        header: Ipv4Repr {
            src_addr: "192.0.2.1".parse().unwrap(),
            dst_addr: "198.51.100.1".parse().unwrap(),
            next_header: IpProtocol::Tcp,
            payload_len: 1000,
            hop_limit: 60,
        },
        data: &quoted[20..28],
    };
    let ip = Ipv4Repr {
        src_addr: "203.0.113.5".parse().unwrap(),
        dst_addr: "192.0.2.1".parse().unwrap(),
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit: 64,
    };
    let mut packet = vec![0; 20 + icmp.buffer_len()];
    let sums = ChecksumCapabilities::default();
    ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &sums);
    icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut packet[20..]), &sums);
    assert_eq!(it.route(at(2), &packet), Verdict::Forward(node));
    packet[20] = 8;
    assert_eq!(it.route(at(2), &packet), Verdict::Other, "an echo request is for the distributor");
    assert_eq!(it.route(at(2), &packet[..24]), Verdict::Drop(DropReason::Malformed));
}

/// One step of a cluster's life.
#[derive(Clone, Debug)]
enum Step {
    Open { client: u8, port: u8 },
    Talk { client: u8, port: u8 },
    End { client: u8, port: u8 },
    State { node: u8, state: u8 },
    Announce { client: u8, node: u8 },
    Wait { secs: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let (client, port) = (0u8..6, 0u8..4);
    prop_oneof![
        4 => (client.clone(), port.clone()).prop_map(|(client, port)| Step::Open { client, port }),
        6 => (client.clone(), port.clone()).prop_map(|(client, port)| Step::Talk { client, port }),
        1 => (client.clone(), port).prop_map(|(client, port)| Step::End { client, port }),
        1 => (0u8..4, 0u8..3).prop_map(|(node, state)| Step::State { node, state }),
        1 => (client, 0u8..4).prop_map(|(client, node)| Step::Announce { client, node }),
        1 => (0u8..20).prop_map(|secs| Step::Wait { secs }),
    ]
}

proptest! {
    /// A connection that talks stays where it was put while that node lives, and none begins at one that is not up.
    #[test]
    fn flows_of_live_nodes_never_move(steps in prop::collection::vec(step(), 0..200), model in 0..2) {
        let model = [Model::RoundRobin, Model::Session][model as usize];
        let mut it = distributor(CONFIG, model, 4);
        let mut states = [State::Up; 4];
        let mut open: HashMap<(u8, u8), NodeId> = HashMap::new();
        let mut now = 1;
        let name = |client: u8, port: u8| format!("198.51.100.{client}:{}", 1000 + u16::from(port));
        for step in steps {
            match step {
                Step::Open { client, port } => {
                    let verdict = it.route(at(now), &syn(&name(client, port)));
                    match open.get(&(client, port)) {
                        Some(node) => prop_assert_eq!(verdict, Verdict::Forward(*node)),
                        None if states.contains(&State::Up) => {
                            let node = node_of(verdict);
                            prop_assert_eq!(states[node.index()], State::Up);
                            open.insert((client, port), node);
                        }
                        None => prop_assert_eq!(verdict, Verdict::Drop(DropReason::NoNode)),
                    }
                }
                Step::Talk { client, port } => {
                    // Who has no connection is another client, which never opens one.
                    let is_open = open.get(&(client, port));
                    let port = if is_open.is_some() { port } else { port + 100 };
                    let verdict = it.route(at(now), &ack(&name(client, port), 5));
                    if let Some(node) = is_open {
                        prop_assert_eq!(verdict, Verdict::Forward(*node));
                    }
                }
                Step::End { client, port } => {
                    let end = sent(&name(client, port), SERVICE, TcpControl::Fin, Some(5));
                    let verdict = it.route(at(now), &end.packet());
                    if let Some(node) = open.remove(&(client, port)) {
                        prop_assert_eq!(verdict, Verdict::Forward(node));
                    }
                }
                Step::State { node, state } => {
                    let state = [State::Up, State::Draining, State::Down][usize::from(state)];
                    states[usize::from(node)] = state;
                    it.set_state(NodeId(u16::from(node)), state);
                    if state == State::Down {
                        open.retain(|_, it| *it != NodeId(u16::from(node)));
                        while it.sweep(|_| ()) {}
                    }
                }
                Step::Announce { client, node } => {
                    let client = format!("198.51.100.{client}").parse().unwrap();
                    it.announce(at(now), client, NodeId(u16::from(node)), Duration::from_secs(60));
                }
                // Those that never talked may be forgotten; here all keep on.
                Step::Wait { secs } => {
                    now += u64::from(secs);
                    for (client, port) in open.keys() {
                        it.route(at(now), &ack(&name(*client, *port), 5));
                    }
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_routed_or_dropped(
        mut packet in prop::collection::vec(any::<u8>(), 0..100),
        head in 0usize..6,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
    ) {
        let mut it = distributor(CONFIG, Model::Session, 2);
        it.route(at(1), &packet);
        if let Some(first) = packet.first_mut() {
            *first = [0x45, 0x60, 0x46, 0x4f, 0x40, 0x6f][head];
        }
        it.route(at(1), &packet);
        let mut good = syn("198.51.100.1:1000");
        for (place, byte) in damage {
            let place = place.index(good.len());
            good[place] = byte;
        }
        it.route(at(1), &good);
    }
}

#[test]
fn tables_are_no_fuller_than_they_say() {
    let mut it = distributor(CONFIG, Model::Session, 3);
    for number in 0..100_000u32 {
        let client = Ipv4Addr::from_bits(0x6440_0000 | number);
        it.route(at(1), &syn(&format!("{client}:1000")));
    }
    for (used, places) in [it.flows(), it.clients()] {
        // A flood fills what there is.
        assert_eq!(used, places);
        assert!((4096..4 * 4096).contains(&places), "{places} places");
    }
}

#[test]
fn while_it_is_behind_those_who_are_known_come_first() {
    let mut it = distributor(CONFIG, Model::Session, 3);
    let (known, new, served) = ("198.51.100.1:1000", "198.51.100.2:1000", "198.51.100.3:1000");
    let node = node_of(it.route(at(1), &syn(known)));
    it.announce(at(1), served.parse::<SocketAddr>().unwrap().ip(), NodeId(2), Duration::from_secs(60));
    let before = *it.counters();
    assert!(!it.sheds(at(2), &syn(known)), "a SYN that is sent again");
    assert!(!it.sheds(at(2), &ack(known, 5)));
    assert!(!it.sheds(at(2), &syn(served)), "a node holds its session");
    assert!(
        !it.sheds(at(2), &[]) && !it.sheds(at(2), &sent(new, "192.0.2.1:22", TcpControl::Syn, None).packet())
    );
    assert_eq!(*it.counters(), before, "the rest is counted where it is routed");
    assert!(it.sheds(at(2), &syn(new)) && it.sheds(at(2), &ack(new, 5)));
    assert!(it.sheds(at(90), &syn(served)), "its session is over");
    assert_eq!(it.counters().drop_behind, 3);
    assert_eq!(node_of(it.route(at(3), &ack(known, 6))), node);
}

#[test]
fn clients_that_nobody_is_push_out_nobody_a_node_has_served() {
    let mut it = distributor(CONFIG, Model::Session, 3);
    let client = |number: u32| format!("{}:1000", Ipv4Addr::from_bits(0xc633_6400 | number));
    let begin = |it: &mut Distributor, number| {
        let from = client(number);
        let node = node_of(it.route(at(1), &syn(&from)));
        it.announce(at(1), from.parse::<SocketAddr>().unwrap().ip(), node, Duration::from_secs(600));
        node
    };
    let nodes: Vec<NodeId> = (0..100).map(|number| begin(&mut it, number)).collect();
    // The first opens it, the second finds that its client has a session.
    for secs in [2, 3] {
        for (number, node) in (0..).zip(&nodes) {
            assert_eq!(node_of(it.route(at(secs), &ack(&client(number), 1))), *node);
        }
    }
    // As open as a distributor can tell, and heard of later than the others.
    for number in 0..100_000u32 {
        let from = format!("{}:1000", Ipv4Addr::from_bits(0x6440_0000 | number));
        it.route(at(60), &syn(&from));
        it.route(at(60), &ack(&from, 1));
    }
    assert!(it.counters().flows_lost > 0, "of those that nobody is");
    for (number, node) in (0..).zip(&nodes) {
        assert_eq!(it.route(at(61), &ack(&client(number), 3)), Verdict::Forward(*node));
    }
    assert_eq!((it.counters().unknown, it.counters().clients_lost), (0, 0));
}

#[test]
fn what_a_flood_has_filled_empties_when_it_is_over() {
    let mut it = distributor(CONFIG, Model::RoundRobin, 3);
    let established = "198.51.100.1:1000";
    let node = node_of(it.route(at(1), &syn(established)));
    it.route(at(1), &ack(established, 1));
    for number in 0..100_000u32 {
        it.route(at(2), &syn(&format!("{}:1000", Ipv4Addr::from_bits(0x6440_0000 | number))));
    }
    let (full, places) = it.flows();
    assert_eq!(full, places);
    let age = |it: &mut Distributor, secs| (0..places).for_each(|_| it.age(at(secs)));
    age(&mut it, 20);
    assert_eq!(it.flows().0, full, "they may still be going on");
    let before = it.counters().in_turn;
    node_of(it.route(at(20), &syn("198.51.100.2:1000")));
    assert_eq!(it.counters().in_turn, before, "crowded: by its place");
    age(&mut it, 60);
    assert_eq!(it.flows().0, 1, "open, and not silent for long");
    node_of(it.route(at(60), &syn("198.51.100.3:1000")));
    assert_eq!(it.counters().in_turn, before + 1);
    assert_eq!(node_of(it.route(at(60), &ack(established, 2))), node);
}
