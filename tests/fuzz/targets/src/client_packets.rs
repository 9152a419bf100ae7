//! Packets of clients, and bytes that are none, through a distributor whose nodes come and go: in bursts, as a worker
//! routes them, beside a twin that is given them one by one.
//!
//! Input: a byte that says how large the tables are, then steps; each a byte that picks what happens, then its numbers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use keyferry_distribute::{
    Counters, Distributor, Flow, Midst, Node, NodeId, Packet, Segment, State, Verdict,
};
use keyferry_time::Time;

use crate::front::{
    GUEST, NEXT_GUEST, NODES, check, check_reset, distributor, ends, packet, places, sent, services,
};
use crate::input::Input;
use crate::{Seed, Target};

/// Steps of one series at most.
const STEPS_MAX: usize = 64;
/// Packets of a burst at most.
const BURST: usize = 16;
/// Connections of tables that never have to forget one, of all that fit a series.
const ROOMY: usize = STEPS_MAX * BURST;
/// Silence after which any connection is still known (the shortest time is that of half-open ones).
const KNOWN_FOR: Duration = Duration::from_secs(29);

/// Most of it are the distributors' tables of fragments and of held packets.
pub(crate) static TARGET: Target = Target { name: "client_packets", heap_bytes_max: 4 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let is_roomy = input.u8() & 1 == 0;
    let mut front = Front::new(is_roomy);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        front.step(&mut input);
    }
    front.wind_up();
}

/// A connection as the target knows it.
struct Conn {
    node: NodeId,
    /// How often its node had gone.
    downs: u32,
    heard: Time,
    /// A SYN would be of another connection.
    may_begin_again: bool,
    is_closing: bool,
}

struct Front {
    together: Distributor,
    one_by_one: Distributor,
    /// Where nothing is forgotten: what is known of each connection.
    conns: Option<BTreeMap<(SocketAddr, SocketAddr), Conn>>,
    /// How often each node has gone.
    downs: [u32; NODES as usize],
    /// How often the guest has left or come.
    revision: usize,
    is_vacant: bool,
    /// What the counters of verdicts have to add up to.
    counted: u64,
    now: Time,
}

impl Front {
    fn new(is_roomy: bool) -> Front {
        let flows = if is_roomy { ROOMY } else { 1 };
        Front {
            together: distributor(7, flows),
            one_by_one: distributor(7, flows),
            conns: is_roomy.then(BTreeMap::new),
            downs: [0; NODES as usize],
            revision: 0,
            is_vacant: false,
            counted: 0,
            now: Time::from_us(1),
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(16) {
            0..=7 => {
                let (packets, is_behind) = (1 + input.below(BURST), input.u8() & 7 == 7);
                let packets: Vec<_> = (0..packets).map(|_| packet(input)).collect();
                self.burst(&packets, is_behind);
            }
            8 => self.now += Duration::from_millis(u64::from(input.u16())),
            9 => self.now += Duration::from_secs(u64::from(input.u8())),
            10 | 11 => {
                let node = NodeId(input.below(NODES.into()) as u16);
                let state = [State::Up, State::Draining, State::Down][input.below(3)];
                self.change(node, |it| it.set_state(node, state));
            }
            12 => {
                let (client, node, secs) = (input.u8(), input.below(NODES.into()) as u16, input.u16());
                let client = ends(client, client & 0x80 != 0).ip();
                let now = self.now;
                self.both(|it| it.announce(now, client, NodeId(node), Duration::from_secs(secs.into())));
            }
            13 => self.sweep(),
            14 => {
                let now = self.now;
                self.both(|it| it.age(now));
            }
            _ => self.change_members(),
        }
    }

    fn both(&mut self, mut change: impl FnMut(&mut Distributor)) {
        change(&mut self.together);
        change(&mut self.one_by_one);
    }

    /// News of a node, which may be gone then.
    fn change(&mut self, node: NodeId, change: impl FnMut(&mut Distributor)) {
        let before = self.together.node(node).state;
        self.both(change);
        let after = self.together.node(node).state;
        self.downs[node.index()] += u32::from(before != State::Down && after == State::Down);
    }

    /// The guest leaves, or the next one comes when its place is free.
    fn change_members(&mut self) {
        match self.revision {
            0 => self.change(GUEST, |it| it.leave(GUEST)),
            1 if self.is_vacant => {
                let node = || Node { name: NEXT_GUEST.into(), weight: 1, state: State::Up };
                self.change(GUEST, |it| it.join(GUEST, node(), [0, 1].into_iter().collect()));
            }
            _ => return,
        }
        self.revision += 1;
        let made = places(self.revision);
        self.both(|it| it.set_places(made.clone()));
        self.take_vacant();
    }

    fn take_vacant(&mut self) {
        let vacated = self.together.vacated();
        assert_eq!(self.one_by_one.vacated(), vacated);
        if let Some(place) = vacated {
            assert!(place == GUEST && self.revision == 1 && !self.is_vacant, "a place is told once");
            self.is_vacant = true;
        }
    }

    fn sweep(&mut self) {
        let (mut resets, mut counted) = (Vec::new(), 0);
        let more = self.together.sweep(|reset| resets.push(reset));
        let mut others = resets.iter();
        assert_eq!(self.one_by_one.sweep(|reset| assert_eq!(others.next(), Some(&reset))), more);
        assert!(others.next().is_none());
        for reset in &resets {
            let (from, _) = check_reset(reset);
            assert!(services().iter().any(|it| it.0 == from), "in a service's name");
            counted += 1;
        }
        self.counted += counted;
        self.take_vacant();
    }

    fn burst(&mut self, packets: &[Vec<u8>], is_behind: bool) {
        let now = self.now;
        let read: Vec<Option<Midst>> = packets.iter().map(|packet| self.together.read(packet)).collect();
        let spot = |midst: Option<Midst>| midst.map(|midst| (midst, self.together.spot(&midst)));
        let spotted: Vec<_> = read.into_iter().map(spot).collect();
        for (packet, spotted) in packets.iter().zip(&spotted) {
            let sheds = is_behind && self.one_by_one.sheds(now, packet);
            let node =
                spotted.as_ref().and_then(|(midst, spot)| self.together.route_midst(now, midst, *spot));
            if node.is_none() && is_behind {
                assert_eq!(self.together.sheds(now, packet), sheds);
            }
            self.counted += u64::from(sheds);
            if sheds {
                assert_eq!(node, None, "what is known gives way to nothing");
                continue;
            }
            let verdict = self.one_by_one.route(now, packet);
            let other = node.map_or_else(|| self.together.route(now, packet), Verdict::Forward);
            assert_eq!(other, verdict, "together and one by one it is the same");
            self.check(packet, verdict);
        }
        assert_eq!(self.together.flows(), self.one_by_one.flows());
    }

    fn check(&mut self, packet: &[u8], verdict: Verdict) {
        check(&self.one_by_one, packet, verdict, false);
        match verdict {
            Verdict::Datagram { at, len } => {
                let before = self.one_by_one.counters().drop_forged;
                let now = self.now;
                self.both(|it| it.hear(now, &mut packet[at..at + len].to_vec()));
                assert_eq!(self.one_by_one.counters().drop_forged, before + 1, "there are no others");
                self.counted += 1;
            }
            Verdict::Other => {}
            _ => self.counted += 1,
        }
        assert!(!matches!(verdict, Verdict::Hold(_)), "there is nobody to wait for");
        let Verdict::Forward(node) = verdict else { return };
        assert_ne!(self.one_by_one.node(node).state, State::Down, "a node that is gone gets nothing");
        if let Ok(Packet::Segment(segment)) = Packet::parse(packet) {
            self.follow(&segment, node);
        }
    }

    /// A connection stays with its node while that lives.
    fn follow(&mut self, segment: &Segment, node: NodeId) {
        let (now, downs) = (self.now, self.downs[node.index()]);
        let Some(conns) = &mut self.conns else { return };
        let Flow { client, service } = segment.flow;
        let is_open_request = segment.is_open_request();
        let before = conns.get(&(client, service)).filter(|it| it.downs == self.downs[it.node.index()]);
        let is_late = before.is_some_and(|it| now - it.heard >= KNOWN_FOR);
        let known = before.filter(|it| !(is_late || is_open_request && it.may_begin_again));
        if let Some(conn) = known {
            assert_eq!(conn.node, node, "a connection stays where it is");
        }
        // Of one that may have been forgotten it is not asked whether it was.
        let was_closing = is_late || known.is_some_and(|conn| conn.is_closing);
        let was_stray = known.is_none_or(|conn| conn.may_begin_again);
        let ends = segment.fin || segment.rst;
        let is_closing = !is_open_request && (was_closing || ends);
        let goes_on = known.is_some() && segment.ack && !ends;
        let may_begin_again = is_closing || !is_open_request && was_stray && !goes_on;
        let conn = Conn { node, downs, heard: now, may_begin_again, is_closing };
        conns.insert((client, service), conn);
    }

    fn wind_up(mut self) {
        // Everything that is gone is out of the tables after one round.
        for _ in 0..256 {
            self.sweep();
        }
        assert!(!self.together.sweep(|_| ()), "a sweep comes to its end");
        assert_eq!(self.is_vacant, self.revision > 0, "a place is free when no table names its node");
        let (ours, theirs) = (self.together.counters(), self.one_by_one.counters());
        assert_eq!(ours, theirs);
        assert_eq!(self.together.clients(), self.one_by_one.clients());
        assert_eq!(all(ours), self.counted, "each packet is counted once");
        for (used, there) in [self.together.flows(), self.together.clients()] {
            assert!(used <= there, "tables are bounded");
        }
        assert_eq!(ours.flows_lost & u64::from(self.conns.is_some()), 0, "there was room for all");
        assert_eq!((self.together.held(), self.together.poll_at()), (0, None), "nothing waits");
    }
}

/// Packets, and resets that nobody asked for.
fn all(counters: &Counters) -> u64 {
    let Counters {
        forwarded,
        resets,
        held,
        drop_malformed,
        drop_no_service,
        drop_no_node,
        drop_stray,
        drop_fragment,
        drop_held,
        drop_unanswered,
        drop_forged,
        drop_behind,
        ..
    } = counters;
    forwarded
        + resets
        + held
        + drop_malformed
        + drop_no_service
        + drop_no_node
        + drop_stray
        + drop_fragment
        + drop_held
        + drop_unanswered
        + drop_forged
        + drop_behind
}

fn seeds() -> Vec<Seed> {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let burst = |packets: &[Vec<u8>]| {
        let mut step = vec![0, packets.len() as u8 - 1, 0];
        step.extend(packets.concat());
        step
    };
    let series = |tables: u8, steps: &[Vec<u8>]| [&[tables][..], &steps.concat()].concat();
    let opened = |service: u8| {
        burst(&[sent(0, 1, service, SYN), sent(0, 1, service, ACK), sent(0, 1, service, ACK | 1)])
    };
    let shapes: Vec<_> = (0..8).map(|shape| sent(shape, 2, shape % 2, ACK)).collect();
    let many: Vec<_> = (0..16).map(|client| sent(0, client << 4, 0, SYN)).collect();
    vec![
        ("connections".into(), series(0, &[opened(0), opened(1), opened(2), opened(3)])),
        (
            "gone".into(),
            series(
                0,
                &[
                    opened(0),
                    opened(1),
                    vec![10, 0, 2, 10, 1, 2, 10, 2, 2],
                    burst(&[sent(0, 1, 0, ACK)]),
                    vec![13, 13, 10, 0, 0],
                ],
            ),
        ),
        (
            "fragments".into(),
            series(
                0,
                &[burst(&[sent(3, 1, 0, SYN), sent(4, 1, 0, SYN), sent(3, 1, 1, SYN), sent(4, 1, 1, SYN)])],
            ),
        ),
        ("shapes".into(), series(0, &[burst(&shapes)])),
        ("full".into(), series(1, &[burst(&many), burst(&many), vec![9, 40, 14], burst(&many)])),
        ("sessions".into(), series(1, &[vec![12, 1, 2, 60, 0], opened(0), vec![9, 61], opened(0)])),
        ("guest".into(), series(0, &[opened(0), vec![15], vec![13; 24], vec![15], opened(0)])),
        ("behind".into(), series(1, &[opened(0), vec![0, 1, 7], sent(0, 1, 0, ACK), sent(0, 3, 0, SYN)])),
    ]
}
