//! Several distributors, a router before them and a network between them that loses and delays: whoever goes, the
//! connections stay.

mod common;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use common::{CONFIG, ack, distributor, sent, syn};
use keyferry_distribute::{
    Config, Distributor, DropReason, Ends, HoldId, Model, NodeId, PACKET_BYTES_MAX, PeerId, Secrets, State,
    Verdict,
};
use keyferry_time::Time;
use proptest::prelude::*;
use smoltcp::wire::TcpControl;

const NODES: u16 = 4;
/// Of the network between distributors.
const DELAY: Duration = Duration::from_micros(50);
const TURN: Duration = Duration::from_micros(20);

/// A connection, by its client's port.
type Port = u16;

struct Member {
    it: Distributor,
    held: HashMap<HoldId, Port>,
}

/// Up to so many distributors; who is not there has crashed, or has not come yet.
struct World {
    members: Vec<Option<Member>>,
    model: Model,
    states: [State; NODES as usize],
    /// To whom, when, what.
    under_way: Vec<(usize, Time, Vec<u8>)>,
    /// What becomes of datagrams: one of so many is lost; 0: none.
    loses: usize,
    sent: usize,
    lives: u8,
    now: Time,
    /// What came out for nodes.
    forwarded: Vec<(Port, Verdict)>,
}

fn address(member: usize) -> IpAddr {
    IpAddr::from([10, 0, 0, member as u8 + 1])
}

fn name(port: Port) -> String {
    format!("198.51.100.{}:{}", port % 200, 1000 + port)
}

impl World {
    fn new(members: usize, model: Model) -> World {
        let (states, now) = ([State::Up; NODES as usize], Time::from_us(1));
        let (under_way, forwarded) = (Vec::new(), Vec::new());
        let none = (0..members).map(|_| None).collect();
        let mut world =
            World { members: none, model, states, under_way, loses: 0, sent: 0, lives: 0, now, forwarded };
        for member in 0..members {
            world.join(member);
        }
        world
    }

    /// A distributor starts, and meets those that are there.
    fn join(&mut self, member: usize) {
        let config = Config { seed: member as u64, ..CONFIG };
        let mut it = distributor(config, self.model, NODES);
        for (node, state) in (0..NODES).map(NodeId).zip(self.states) {
            it.set_state(node, state);
        }
        self.lives += 1;
        for (other, met) in self.members.iter_mut().enumerate() {
            let Some(met) = met else { continue };
            let ends = |own, peer| Ends { own: address(own), peer: address(peer) };
            let secrets = |is_first| Secrets::new(&[self.lives; 32], &[other as u8], is_first);
            it.add_peer(PeerId(other as u8), ends(member, other), secrets(true));
            met.it.add_peer(PeerId(member as u8), ends(other, member), secrets(false));
        }
        self.members[member] = Some(Member { it, held: HashMap::new() });
    }

    /// One stops in the middle of whatever it does; the others notice later.
    fn crash(&mut self, member: usize) {
        self.members[member] = None;
    }

    fn notice_crash(&mut self, gone: usize) {
        let now = self.now;
        self.members.iter_mut().flatten().for_each(|other| other.it.remove_peer(now, PeerId(gone as u8)));
    }

    fn set_state(&mut self, node: usize, state: State) {
        self.states[node] = state;
        for member in self.members.iter_mut().flatten() {
            member.it.set_state(NodeId(node as u16), state);
            while member.it.sweep(|_| ()) {}
        }
    }

    /// Whom the router gives a connection's packets.
    fn router(&self, port: Port) -> usize {
        let there: Vec<_> =
            (0..self.members.len()).filter(|member| self.members[*member].is_some()).collect();
        there[usize::from(port) * 7 % there.len()]
    }

    /// A packet of a client.
    fn send(&mut self, port: Port, packet: &[u8]) {
        self.send_by(self.router(port), port, packet);
    }

    fn send_by(&mut self, to: usize, port: Port, packet: &[u8]) {
        let now = self.now;
        let member = self.members[to].as_mut().expect("the router knows who is there");
        match member.it.route(now, packet) {
            Verdict::Hold(id) => assert_eq!(member.held.insert(id, port), None),
            verdict => self.forwarded.push((port, verdict)),
        }
    }

    /// A turn of each distributor.
    fn turn(&mut self) {
        self.now += TURN;
        let now = self.now;
        let due: Vec<_> = self.under_way.extract_if(.., |(_, at, _)| at.is_due(now)).collect();
        for (to, _, mut packet) in due {
            let Some(member) = &mut self.members[to] else { continue };
            let Verdict::Datagram { at, len } = member.it.route(now, &packet) else { panic!("a datagram") };
            member.it.hear(now, &mut packet[at..at + len]);
        }
        for member in self.members.iter_mut().flatten() {
            member.it.keep_together(now);
            while let Some((id, verdict)) = member.it.released() {
                let port = member.held.remove(&id).expect("it was held");
                self.forwarded.push((port, verdict));
            }
            let mut out = [0; PACKET_BYTES_MAX];
            while let Some(len) = member.it.poll_peers(now, &mut out) {
                self.sent += 1;
                // Not each so-manieth: what is sent again would be lost again.
                let dice = (self.sent as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                if self.loses == 0 || !dice.is_multiple_of(self.loses as u64) {
                    let to = usize::from(out[19]) - 1;
                    self.under_way.push((to, now + DELAY, out[..len].to_vec()));
                }
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.turn();
        }
    }

    /// Long enough for everything that is told to be heard.
    fn settle(&mut self) {
        let loses = std::mem::take(&mut self.loses);
        self.pass(Duration::from_millis(5));
        for _ in 0..60 {
            self.now += Duration::from_millis(10);
            self.turn();
        }
        self.loses = loses;
    }

    /// The one verdict on a packet sent just now, once all have said what they had to.
    fn verdict(&mut self, port: Port, packet: &[u8]) -> Verdict {
        self.verdict_by(self.router(port), port, packet)
    }

    fn verdict_by(&mut self, to: usize, port: Port, packet: &[u8]) -> Verdict {
        self.forwarded.clear();
        self.send_by(to, port, packet);
        for _ in 0..10_000 {
            if !self.forwarded.is_empty() {
                break;
            }
            self.turn();
        }
        assert_eq!(self.forwarded.len(), 1, "{:?}", self.forwarded);
        assert_eq!(self.forwarded[0].0, port);
        self.forwarded[0].1
    }

    fn open(&mut self, port: Port) -> NodeId {
        let node = common::node_of(self.verdict(port, &syn(&name(port))));
        assert_eq!(self.verdict(port, &ack(&name(port), 5)), Verdict::Forward(node));
        node
    }

    /// A client says something.
    fn talk(&mut self, port: Port) -> Verdict {
        self.say(port, &ack(&name(port), 6))
    }

    /// A client says something until it is heard.
    fn say(&mut self, port: Port, packet: &[u8]) -> Verdict {
        let mut verdicts = (0..100).map(|_| self.verdict(port, packet));
        verdicts.find(|it| *it != Verdict::Drop(DropReason::Unanswered)).expect("it is heard")
    }

    /// Packets that have waited for too long.
    fn late(&self) -> u64 {
        self.members.iter().flatten().map(|member| member.it.counters().held_late).sum()
    }

    fn counters(&self, member: usize) -> keyferry_distribute::Counters {
        *self.members[member].as_ref().expect("it is there").it.counters()
    }
}

#[test]
fn whoever_crashes_takes_no_connection_along() {
    let mut world = World::new(3, Model::RoundRobin);
    let nodes: Vec<_> = (0..200).map(|port| world.open(port)).collect();
    let shares = (0..NODES).map(|node| nodes.iter().filter(|it| it.0 == node).count()).collect::<Vec<_>>();
    assert!(shares.iter().all(|share| (30..70).contains(share)), "{shares:?}");
    for (crashed, left) in [(1, [0, 2]), (2, [0, 0])] {
        world.crash(crashed);
        let stays = |world: &mut World| {
            for (port, node) in (0..).zip(&nodes) {
                assert_eq!(world.talk(port), Verdict::Forward(*node), "{port} after {crashed} has gone");
            }
        };
        stays(&mut world);
        world.notice_crash(crashed);
        stays(&mut world);
        let late: u64 = left.iter().map(|member| world.counters(*member).held_late).sum();
        assert_eq!(late, 0);
    }
}

#[test]
fn one_that_comes_learns_all_before_it_serves() {
    let mut world = World::new(2, Model::Session);
    world.crash(1);
    world.notice_crash(1);
    let nodes: Vec<_> = (0..3000).map(|port| world.open(port)).collect();
    world.join(1);
    let told = |world: &World| world.members[1].as_ref().map(|member| member.it.peers());
    assert_eq!(told(&world), Some((1, 0)));
    world.settle();
    assert_eq!(told(&world), Some((1, 1)));
    world.crash(0);
    world.notice_crash(0);
    for (port, node) in (0..).zip(&nodes) {
        assert_eq!(world.talk(port), Verdict::Forward(*node));
    }
    // Clients as well.
    assert_eq!(world.verdict(0, &syn("198.51.100.0:7")), Verdict::Forward(nodes[0]));
    assert_eq!((world.counters(1).unknown, world.counters(1).flows_learnt), (0, 3000));
}

#[test]
fn a_silent_peer_is_not_waited_for() {
    let mut world = World::new(2, Model::RoundRobin);
    world.crash(1);
    let first = world.now;
    let ports = |range: std::ops::Range<u16>| range.filter(|port| port % 4 != 0);
    let nodes: Vec<_> = ports(0..40).map(|port| world.open(port)).collect();
    assert!(world.now - first < Duration::from_secs(1), "the first ones wait, then nobody does");
    world.pass(Duration::from_millis(150));
    let before = world.counters(0);
    for port in ports(40..400) {
        world.forwarded.clear();
        world.send(port, &syn(&name(port)));
        assert_eq!(world.forwarded.len(), 1, "at once");
    }
    let after = world.counters(0);
    assert!(after.held_late == before.held_late && after.by_place > before.by_place);
    for (port, node) in ports(0..40).zip(nodes) {
        assert_eq!(world.talk(port), Verdict::Forward(node), "held or not, it stays where it went");
    }
}

#[test]
fn a_connection_nobody_knows_goes_to_its_place() {
    let mut world = World::new(2, Model::RoundRobin);
    let (here, there) = (world.talk(1), world.talk(2));
    world.crash(1);
    world.notice_crash(1);
    assert_eq!((world.talk(1), world.talk(2)), (here, there));
    let reset = sent(&name(7), common::SERVICE, TcpControl::Rst, None).packet();
    assert_eq!(world.verdict(7, &reset), Verdict::Drop(DropReason::Stray));
}

#[test]
fn a_stray_segment_hides_no_connection_that_begins_elsewhere() {
    let mut world = World::new(2, Model::RoundRobin);
    let elsewhere = (0..20).filter(|port| {
        // Of a connection that nobody knows any more; then the client's port is used again, and routers are others.
        let place = world.verdict_by(0, *port, &ack(&name(*port), 5));
        let begun = world.verdict_by(1, *port, &syn(&name(*port)));
        assert_eq!(world.verdict_by(0, *port, &ack(&name(*port), 6)), begun);
        begun != place
    });
    assert!(elsewhere.count() > 5, "most do not begin at their places");
}

#[test]
fn a_stray_that_waits_moves_no_connection_that_begins_meanwhile() {
    let mut world = World::new(2, Model::RoundRobin);
    let elsewhere = (0..20).filter(|port| {
        let place = World::new(1, Model::RoundRobin).verdict_by(0, *port, &ack(&name(*port), 5));
        // Nobody knows it; and while that is being asked, the client's port is used again.
        world.forwarded.clear();
        world.send_by(0, *port, &ack(&name(*port), 5));
        world.send_by(0, *port, &syn(&name(*port)));
        world.settle();
        let [(_, begun), (_, stray)] = world.forwarded[..] else { panic!("{:?}", world.forwarded) };
        assert_eq!(begun, stray, "both go where the connection is");
        for member in [0, 1] {
            assert_eq!(world.verdict_by(member, *port, &ack(&name(*port), 6)), begun);
        }
        begun != place
    });
    assert!(elsewhere.count() > 5, "most do not begin at their places");
}

#[test]
fn a_stray_whose_place_has_changed_is_asked_for_again() {
    let mut begun_at_place = 0;
    for (port, begins_anew) in (0..40).flat_map(|port| [(port, false), (port, true)]) {
        let mut world = World::new(2, Model::RoundRobin);
        let place = World::new(1, Model::RoundRobin).verdict_by(0, port, &ack(&name(port), 5));
        let Verdict::Forward(NodeId(node)) = place else { panic!("{place:?}") };
        world.set_state(usize::from(node), State::Down);
        let stray = world.verdict_by(0, port, &ack(&name(port), 5));
        assert_ne!(stray, place);
        world.set_state(usize::from(node), State::Up);
        let expected = if begins_anew { world.verdict_by(1, port, &syn(&name(port))) } else { stray };
        begun_at_place += u32::from(begins_anew && expected == place);
        for acknowledges in 6..9 {
            assert_eq!(world.verdict_by(0, port, &ack(&name(port), acknowledges)), expected, "{port}");
        }
    }
    assert!(begun_at_place > 5, "one of four is at its place");
}

#[test]
fn a_syn_that_is_sent_again_while_the_first_one_is_held_is_dropped() {
    let mut world = World::new(2, Model::RoundRobin);
    let port = (0..100).find(|port| {
        world.forwarded.clear();
        world.send(*port, &syn(&name(*port)));
        world.forwarded.is_empty()
    });
    let port = port.expect("three of four are held");
    world.send(port, &syn(&name(port)));
    assert_eq!(world.forwarded, [(port, Verdict::Drop(DropReason::Held))]);
    assert_eq!(world.counters(world.router(port)).drop_held, 1);
    world.pass(Duration::from_millis(1));
    assert_eq!(world.forwarded.len(), 2);
    world.send(port, &syn(&name(port)));
    assert_eq!(world.forwarded[1], world.forwarded[2], "once it has gone, so does the next");
}

#[test]
fn what_becomes_of_datagrams_is_counted() {
    let mut world = World::new(2, Model::RoundRobin);
    for port in 0..40 {
        world.open(port);
    }
    let calm = world.counters(0);
    assert!(calm.datagrams_told > 0 && calm.datagrams_heard > 0 && calm.notices_heard > 0, "{calm:?}");
    assert_eq!((calm.datagrams_again, calm.datagrams_out_of_order, calm.notices_lost), (0, 0, 0));
    let told = world.members.iter().flatten().map(|member| member.it.counters().datagrams_told);
    assert_eq!(told.sum::<u64>(), world.sent as u64);

    // The network delivers everything twice: the second copy is of a number that has been.
    world.settle();
    (40..60).for_each(|port| world.send(port, &syn(&name(port))));
    world.turn();
    let twice = world.under_way.clone();
    assert!(!twice.is_empty());
    world.under_way.extend(twice);
    world.settle();
    let out_of_order = |world: &World| [0, 1].map(|member| world.counters(member).datagrams_out_of_order);
    assert!(out_of_order(&world).iter().sum::<u64>() > 0);

    // It loses all for a while.
    world.loses = 1;
    (60..100).for_each(|port| world.send(port, &syn(&name(port))));
    world.pass(Duration::from_millis(20));
    world.loses = 0;
    world.settle();
    assert!([0, 1].iter().any(|member| world.counters(*member).datagrams_again > 0));

    // What nobody sealed is nobody's.
    let (now, before) = (world.now, world.counters(0).drop_forged);
    world.members[0].as_mut().unwrap().it.hear(now, &mut [0; 64]);
    assert_eq!(world.counters(0).drop_forged, before + 1);

    // Nothing is sent any more, and what waits to be told is bounded.
    let is_lost = (1..10_000).any(|port| {
        let client = format!("203.0.113.1:{port}");
        world.send_by(0, 0, &syn(&client));
        world.send_by(0, 0, &ack(&client, 5));
        world.counters(0).notices_lost > 0
    });
    assert!(is_lost, "it has room for all");
}

/// A connection whose SYN went to its place is known to one of them alone; the other asks, and counts what it was told.
#[test]
fn what_another_one_knows_is_found() {
    let mut world = World::new(2, Model::RoundRobin);
    for port in 0..40 {
        let begun = world.verdict_by(0, port, &syn(&name(port)));
        assert_eq!(world.verdict_by(1, port, &ack(&name(port), 5)), begun);
    }
    let counters = world.counters(1);
    assert!((3..37).contains(&counters.asked), "some are at their places: {counters:?}");
    assert_eq!([counters.found, counters.unknown, counters.drop_unanswered], [counters.asked, 0, 0]);
}

/// At another node it would be answered with a reset: what nobody has answered for is dropped, and goes where it belongs when
/// it is sent again.
#[test]
fn what_is_asked_for_in_vain_is_dropped() {
    let mut world = World::new(2, Model::RoundRobin);
    let at_place = (0..40).find_map(|port| {
        let held = world.counters(0).held;
        let begun = world.verdict_by(0, port, &syn(&name(port)));
        (world.counters(0).held == held).then_some((port, begun))
    });
    let (port, begun) = at_place.expect("one is at its place");
    world.loses = 1;
    let segment = ack(&name(port), 5);
    assert_eq!(world.verdict_by(1, port, &segment), Verdict::Drop(DropReason::Unanswered));
    let counters = world.counters(1);
    assert_eq!([counters.asked, counters.drop_unanswered, counters.held_late, counters.found], [1, 1, 1, 0]);
    world.loses = 0;
    world.settle();
    assert_eq!(world.verdict_by(1, port, &segment), begun);
    assert_eq!(world.counters(1).drop_unanswered, 1);
}

/// Two that do not have the same nodes, as while a file is changed on one after the other: what one cannot take leaves the
/// rest as it was.
#[test]
fn what_is_said_of_a_node_that_is_none_here_is_counted() {
    let mut world = World::new(2, Model::RoundRobin);
    let strange = NodeId(3);
    world.members[1].as_mut().expect("it is there").it.leave(strange);
    let begun: Vec<_> = (0..40).map(|port| world.verdict_by(0, port, &syn(&name(port)))).collect();
    world.settle();
    assert!(world.counters(1).notices_strange > 0, "{:?}", world.counters(1));
    assert_eq!(world.counters(0).notices_strange, 0);
    for (port, begun) in (0..).zip(begun).filter(|(_, begun)| *begun != Verdict::Forward(strange)) {
        assert_eq!(world.verdict_by(1, port, &ack(&name(port), 5)), begun, "{port}");
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open(Port),
    Talk(Port),
    End(Port),
    Crash { member: usize, noticed: bool },
    Join(usize),
    State { node: usize, state: u8 },
    Pass(u16),
    Loses(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let port = 0u16..24;
    prop_oneof![
        6 => port.clone().prop_map(Step::Open),
        8 => port.clone().prop_map(Step::Talk),
        1 => port.prop_map(Step::End),
        1 => (0usize..3, any::<bool>()).prop_map(|(member, noticed)| Step::Crash { member, noticed }),
        2 => (0usize..3).prop_map(Step::Join),
        1 => (0usize..4, 0u8..3).prop_map(|(node, state)| Step::State { node, state }),
        2 => (0u16..400).prop_map(Step::Pass),
        1 => prop_oneof![Just(0usize), 4usize..12].prop_map(Step::Loses),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever distributors come and go, and whatever the network between them loses, a connection whose SYN has gone
    /// to a node stays there for as long as that node lives.
    #[test]
    fn connections_stay_whoever_goes(steps in prop::collection::vec(step(), 0..120), session in any::<bool>()) {
        let model = if session { Model::Session } else { Model::RoundRobin };
        let mut world = World::new(3, model);
        let mut open: HashMap<Port, NodeId> = HashMap::new();
        let mut used = HashSet::new();
        for step in steps {
            match step {
                // One that waits for an answer to its SYN would say it again, and may begin elsewhere.
                Step::Open(port) if !open.contains_key(&port) => {
                    let late = world.late();
                    let verdict = world.verdict(port, &syn(&name(port)));
                    // It may have gone to its place although others have heard otherwise, or one of them may still
                    // have another connection of that port: they hear of that too.
                    if world.late() > late || (!used.insert(port) && world.loses > 0) {
                        world.settle();
                    }
                    if !world.states.contains(&State::Up) {
                        prop_assert_eq!(verdict, Verdict::Drop(DropReason::NoNode));
                        continue;
                    }
                    let node = common::node_of(verdict);
                    prop_assert_eq!(world.states[node.index()], State::Up);
                    open.insert(port, node);
                }
                Step::Open(port) | Step::Talk(port) => {
                    if let Some(node) = open.get(&port) {
                        prop_assert_eq!(world.talk(port), Verdict::Forward(*node));
                    }
                }
                Step::End(port) => {
                    if let Some(node) = open.remove(&port) {
                        let end = sent(&name(port), common::SERVICE, TcpControl::Fin, Some(6));
                        prop_assert_eq!(world.say(port, &end.packet()), Verdict::Forward(node));
                        // So that all know when the port is used again.
                        world.settle();
                    }
                }
                Step::Crash { member, noticed } => {
                    if world.members.iter().flatten().count() > 1 && world.members[member].is_some() {
                        // One at a time: what only the last one knew has gone round.
                        let gone = (0..3).filter(|gone| world.members[*gone].is_none()).collect::<Vec<_>>();
                        if !gone.is_empty() {
                            gone.into_iter().for_each(|gone| world.notice_crash(gone));
                            world.settle();
                        }
                        world.crash(member);
                        if noticed {
                            world.notice_crash(member);
                        }
                    }
                }
                Step::Join(member) => {
                    if world.members[member].is_none() {
                        world.notice_crash(member);
                        world.join(member);
                        // A router is told of it when it has learnt all.
                        world.settle();
                    }
                }
                Step::State { node, state } => {
                    // Places change: what has only begun is at its place until all know of it, which they do once two
                    // segments have come.
                    for port in open.keys().copied().collect::<Vec<_>>() {
                        world.talk(port);
                        world.talk(port);
                    }
                    world.settle();
                    let state = [State::Up, State::Draining, State::Down][usize::from(state)];
                    if state == State::Down {
                        open.retain(|_, it| it.index() != node);
                    }
                    world.set_state(node, state);
                }
                Step::Pass(us) => world.pass(Duration::from_micros(us.into())),
                Step::Loses(loses) => world.loses = loses,
            }
        }
        for (port, node) in open {
            prop_assert_eq!(world.talk(port), Verdict::Forward(node), "{} via {}", port, world.router(port));
        }
    }
}
