//! What distributors tell each other: datagrams of any content, and notices of any content behind the seal, at a
//! distributor that has a sound one beside it, over a network that loses, repeats and damages; clients' packets at both.
//!
//! Input: a byte that says how large the tables are, then steps; each a byte that picks what happens, then its numbers.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use keyferry_distribute::{
    Distributor, Ends, HOLDS_MAX, NodeId, PACKET_BYTES_MAX, Packet, PeerId, Secrets, State, Verdict,
};
use keyferry_time::Time;
use siphasher::sip::SipHasher13;

use crate::front::{NODES, check, check_reset, distributor, ends, name, packet, sent, services};
use crate::input::Input;
use crate::sealed::{BARE, HEADER_BYTES, NOTICE_BYTES, Sealed, Seals};
use crate::{Seed, Target};

/// Steps of one series at most.
const STEPS_MAX: usize = 64;
/// Notices of one datagram at most.
const NOTICES_MAX: usize = 34;
/// Notices of kinds that mean something.
const KINDS: u8 = 11;
/// Longest wait of a packet.
const HOLD_TIME: Duration = Duration::from_millis(100);
/// Datagrams of one turn at most: to each of two peers a window, and an acknowledgement.
const SENT_MAX: usize = 2 * (64 + 1);
/// Packets under way to one distributor at most.
const WIRE_MAX: usize = 256;
/// For so long after a segment of it came a connection is where it is, whatever another distributor says, and a little.
const OURS_TIME: Duration = Duration::from_millis(2050);
/// Until all is told and nothing waits, on a network that does its work.
const LAST_TURNS: usize = 100;
const LAST_TURN: Duration = Duration::from_millis(5);

/// The distributor that hears what the input says, and the sound one.
const HEARER: usize = 0;
const SOUND: usize = 1;
/// Their numbers for each other, and that of the one the input plays.
const SCRIPTED_ID: PeerId = PeerId(0);
const SOUND_ID: PeerId = PeerId(1);
const HEARER_ID: PeerId = PeerId(0);

/// Most of it are tables of fragments and of held packets, and what is under way on three channels.
pub(crate) static TARGET: Target = Target { name: "notices", heap_bytes_max: 6 << 20, execute, seeds };

fn execute(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let flows = if input.u8() & 1 == 0 { 1024 } else { 1 };
    let mut world = World::new(flows);
    for _ in 0..STEPS_MAX {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.turn();
    }
    world.wind_up();
}

struct Member {
    it: Distributor,
    /// Packets held, by their places.
    held: BTreeMap<usize, (Time, Vec<u8>)>,
    /// Packets of the other one that are under way.
    wire: VecDeque<Vec<u8>>,
}

/// The other end of the hearer's first channel.
struct Scripted {
    sealed: Sealed,
    /// The number the hearer takes next.
    next: u64,
    /// The number that is expected of the hearer.
    heard: u64,
}

struct World {
    members: [Member; 2],
    scripted: Option<Scripted>,
    is_met: bool,
    /// Lives of links so far: each has its secret.
    lives: u8,
    seals: Seals,
    now: Time,
}

fn address(number: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, number])
}

fn name_hash(text: &str) -> u64 {
    SipHasher13::new_with_keys(0x6b65_7966_6572_7279, 3).hash(text.as_bytes())
}

/// What no forged datagram changes.
fn state(it: &Distributor) -> impl PartialEq + std::fmt::Debug + use<> {
    let counters = it.counters();
    let heard = (counters.notices_heard, counters.datagrams_heard, counters.flows_learnt);
    (it.flows(), it.clients(), it.peers(), it.held(), heard)
}

impl World {
    fn new(flows: usize) -> World {
        let member =
            |seed| Member { it: distributor(seed, flows), held: BTreeMap::new(), wire: VecDeque::new() };
        let mut world = World {
            members: [1, 2].map(member),
            scripted: None,
            is_met: false,
            lives: 0,
            seals: Seals::default(),
            now: Time::from_us(1),
        };
        world.meet_scripted();
        world.meet_sound();
        world
    }

    fn meet_scripted(&mut self) {
        self.lives += 1;
        let (secret, salt) = ([self.lives; 32], b"scripted");
        let ends = Ends { own: address(1), peer: address(2) };
        self.members[HEARER].it.add_peer(SCRIPTED_ID, ends, Secrets::new(&secret, salt, true));
        self.scripted = Some(Scripted { sealed: Sealed::new(&secret, salt), next: 0, heard: 0 });
    }

    fn meet_sound(&mut self) {
        self.lives += 1;
        let secrets = |is_first| Secrets::new(&[self.lives; 32], b"sound", is_first);
        let (hearer, sound) = (address(1), address(3));
        self.members[HEARER].it.add_peer(SOUND_ID, Ends { own: hearer, peer: sound }, secrets(true));
        self.members[SOUND].it.add_peer(HEARER_ID, Ends { own: sound, peer: hearer }, secrets(false));
        self.is_met = true;
    }

    fn part_from_scripted(&mut self) {
        self.scripted = None;
        self.members[HEARER].it.remove_peer(self.now, SCRIPTED_ID);
    }

    fn part_from_sound(&mut self) {
        self.is_met = false;
        self.members[HEARER].it.remove_peer(self.now, SOUND_ID);
        self.members[SOUND].it.remove_peer(self.now, HEARER_ID);
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(20) {
            0 => self.hear_raw(input),
            1..=6 => self.hear_sealed(input),
            7..=9 => self.send(HEARER, &packet(input)),
            10 => self.send(SOUND, &packet(input)),
            11 => self.now += Duration::from_micros(u64::from(input.u16())),
            12 => self.now += Duration::from_millis(u64::from(input.u16())),
            13..=15 => self.network(input.u8(), input.u8()),
            16 => self.change(input),
            17 => self.members.iter_mut().for_each(sweep),
            18 => {
                let (client, node, secs) =
                    (input.u8(), NodeId(input.below(NODES.into()) as u16), input.u16());
                let client = ends(client, client & 0x80 != 0).ip();
                let time = Duration::from_secs(secs.into());
                self.members[usize::from(client.is_ipv6())].it.announce(self.now, client, node, time);
            }
            _ => match input.below(4) {
                0 => self.part_from_scripted(),
                1 => self.meet_scripted(),
                2 => self.part_from_sound(),
                _ => self.meet_sound(),
            },
        }
    }

    /// A node fares otherwise, as one of the two or both are told.
    fn change(&mut self, input: &mut Input<'_>) {
        let (node, how) = (NodeId(input.below(NODES.into()) as u16), input.u8());
        let state = [State::Up, State::Draining, State::Down][usize::from(how / 4) % 3];
        for (number, member) in self.members.iter_mut().enumerate() {
            if usize::from(how & 3) != number + 1 {
                member.it.set_state(node, state);
            }
        }
    }

    /// Bytes that nobody has sealed, behind the name of a channel or not.
    fn hear_raw(&mut self, input: &mut Input<'_>) {
        let how = input.u8();
        let mut datagram = Vec::new();
        if let Some(scripted) = self.scripted.as_ref().filter(|_| how & 1 != 0) {
            datagram.extend(if how & 2 != 0 {
                scripted.sealed.outgoing_id()
            } else {
                scripted.sealed.incoming_id()
            });
            let bare = if how & 4 != 0 { BARE } else { 0 };
            datagram.extend((scripted.next | bare).to_be_bytes());
        }
        datagram.extend_from_slice(input.piece());
        self.hear_forged(HEARER, &mut datagram);
    }

    fn hear_forged(&mut self, member: usize, datagram: &mut [u8]) {
        let it = &mut self.members[member].it;
        let before = state(it);
        it.hear(self.now, datagram);
        assert_eq!(state(it), before, "what nobody has sealed changes nothing");
    }

    /// Notices of any content, sealed as the hearer's peer would.
    fn hear_sealed(&mut self, input: &mut Input<'_>) {
        let Some(scripted) = &mut self.scripted else { return };
        let how = input.u8();
        let number = match how & 7 {
            0..=4 => scripted.next,
            5 => scripted.next.wrapping_add(u64::from(input.u8())).wrapping_sub(1) & !BARE,
            6 => BARE | u64::from(input.u8()),
            _ => BARE | u64::from(input.u32()) << 16,
        };
        let ack = match how >> 3 & 3 {
            0 | 1 => scripted.heard,
            2 => u64::from(input.u8()),
            _ => u64::from(input.u32()) << 32 | u64::from(how),
        };
        let mut plaintext = ack.to_be_bytes().to_vec();
        for _ in 0..input.below(NOTICES_MAX + 1) {
            plaintext.extend(notice(input));
        }
        if how & 0x20 != 0 {
            plaintext.truncate(usize::from(input.u8()));
        }
        let is_taken = number == scripted.next && plaintext.len() >= 8;
        let (notices, _) = plaintext.get(8..).unwrap_or(&[]).as_chunks::<NOTICE_BYTES>();
        let told = notices.iter().filter(|notice| notice[0] < KINDS).count() as u64;
        let mut datagram = scripted.sealed.seal(number, &plaintext);
        scripted.next += u64::from(is_taken);

        let it = &mut self.members[HEARER].it;
        let before = *it.counters();
        it.hear(self.now, &mut datagram);
        let after = it.counters();
        let heard = if is_taken { told } else { 0 };
        assert_eq!(
            after.notices_heard - before.notices_heard,
            heard,
            "the next datagram is heard, and no other"
        );
        let flows_max =
            after.notices_strange + after.flows_learnt - before.notices_strange - before.flows_learnt;
        assert!(flows_max <= heard, "no more is learnt than is told");
    }

    /// A client's packet, in a burst of its own.
    fn send(&mut self, member: usize, packet: &[u8]) {
        let (now, Member { it, held, .. }) = (self.now, &mut self.members[member]);
        let spotted = it.read(packet).map(|midst| (midst, it.spot(&midst)));
        let node = spotted.and_then(|(midst, spot)| it.route_midst(now, &midst, spot));
        let verdict = it.route(now, packet);
        if let Some(node) = node {
            assert_eq!(verdict, Verdict::Forward(node), "together and by itself it is the same");
        }
        check(it, packet, verdict, true);
        match verdict {
            Verdict::Hold(place) => {
                assert!(place.index() < HOLDS_MAX, "a place that there is");
                let before = held.insert(place.index(), (now, packet.to_vec()));
                assert!(before.is_none(), "a place is one packet's");
            }
            Verdict::Datagram { at, len } => self.hear_forged(member, &mut packet[at..at + len].to_vec()),
            _ => {}
        }
    }

    /// What becomes of the packet that is next to arrive at one of the two.
    fn network(&mut self, how: u8, detail: u8) {
        let to = usize::from(how & 1);
        let Some(mut packet) = self.members[to].wire.pop_front() else { return };
        match how >> 1 & 7 {
            0 => {}
            1 => self.members[to].wire.push_back(packet),
            2 => {
                self.members[to].wire.push_back(packet.clone());
                self.deliver(to, &mut packet);
            }
            3 => {
                let from = packet.len() - usize::from(detail) % (packet.len() - 28 - HEADER_BYTES) - 1;
                packet[from] ^= 1 << (detail & 7);
                self.hear_forged(to, &mut packet[28..]);
            }
            _ => {
                self.deliver(to, &mut packet);
                while let Some(mut packet) = self.members[to].wire.pop_front() {
                    self.deliver(to, &mut packet);
                }
            }
        }
    }

    fn deliver(&mut self, to: usize, packet: &mut [u8]) {
        let it = &mut self.members[to].it;
        let Verdict::Datagram { at, len } = it.route(self.now, packet) else {
            panic!("a distributor's datagram")
        };
        it.hear(self.now, &mut packet[at..at + len]);
    }

    /// A turn of both.
    fn turn(&mut self) {
        for number in [HEARER, SOUND] {
            let (now, Member { it, held, .. }) = (self.now, &mut self.members[number]);
            it.keep_together(now);
            while let Some((place, verdict)) = it.released() {
                let (_, packet) = held.remove(&place.index()).expect("only what is held is released, once");
                check(it, &packet, verdict, true);
                let is_end = matches!(verdict, Verdict::Forward(_) | Verdict::Drop(_));
                assert!(is_end, "{verdict:?} is no end of a wait");
            }
            assert_eq!(it.held(), held.len());
            assert!(held.values().all(|(since, _)| now - *since < HOLD_TIME), "nothing waits for long");
            let mut out = [0; PACKET_BYTES_MAX];
            let mut sent = 0;
            while let Some(len) = self.members[number].it.poll_peers(now, &mut out) {
                sent += 1;
                assert!(sent <= SENT_MAX, "what is under way is bounded");
                self.carry(number, &out[..len]);
            }
        }
    }

    /// A datagram goes to whom it is for.
    fn carry(&mut self, from: usize, packet: &[u8]) {
        let Ok(Packet::Datagram { at, len }) = Packet::parse(packet) else { panic!("a datagram") };
        let datagram = &packet[at..at + len];
        self.seals.note(datagram);
        match &mut self.scripted {
            Some(scripted) if datagram[..8] == scripted.sealed.incoming_id() => {
                assert_eq!(from, HEARER);
                let (number, ack, notices) = scripted.sealed.open(datagram);
                assert!(ack <= scripted.next, "only what was taken is acknowledged");
                assert!(notices.iter().all(|notice| notice[0] < KINDS), "it says what all know");
                scripted.heard += u64::from(number == scripted.heard);
            }
            _ => {
                let wire = &mut self.members[1 - from].wire;
                if wire.len() < WIRE_MAX {
                    wire.push_back(packet.to_vec());
                }
            }
        }
    }

    /// The input is over, and with it the scripted end: the others come to rest, and know each other's connections.
    fn wind_up(mut self) {
        if self.scripted.is_some() {
            self.part_from_scripted();
        }
        if !self.is_met {
            self.meet_sound();
        }
        // Whoever takes a node to be gone tells its clients so: the two have to agree.
        for member in &mut self.members {
            (0..NODES).for_each(|node| member.it.set_state(NodeId(node), State::Up));
            sweep(member);
        }
        self.settle();
        // One that both had segments of lately is at either where it was; later both keep the same one of what they remember.
        self.now += OURS_TIME;
        self.part_from_sound();
        self.meet_sound();
        self.settle();
        for member in &self.members {
            assert_eq!(member.it.peers(), (1, 1), "each has told all it knew");
            assert!(member.held.is_empty() && member.it.poll_at().is_none(), "nothing waits");
            for (used, there) in [member.it.flows(), member.it.clients()] {
                assert!(used <= there, "tables are bounded");
            }
        }
        for (begins, goes_on) in [(HEARER, SOUND), (SOUND, HEARER)] {
            let client = 0xf3 - begins as u8;
            let Some(node) = self.forwarded(begins, &sent(0, client, 0, SYN)) else { continue };
            let there = self.forwarded(goes_on, &sent(0, client, 0, ACK));
            assert_eq!(there, Some(node), "a connection stays where it is, whoever gets its packets");
        }
    }

    /// Time passes on a network that does its work.
    fn settle(&mut self) {
        for _ in 0..LAST_TURNS {
            for to in [HEARER, SOUND] {
                while let Some(mut packet) = self.members[to].wire.pop_front() {
                    self.deliver(to, &mut packet);
                }
            }
            self.turn();
            self.now += LAST_TURN;
        }
    }

    /// The node a packet goes to, at once or after its wait.
    fn forwarded(&mut self, member: usize, fields: &[u8]) -> Option<NodeId> {
        let packet = packet(&mut Input::new(fields));
        let before = self.members[member].it.counters().forwarded;
        self.send(member, &packet);
        self.settle();
        let it = &mut self.members[member].it;
        let is_forwarded = it.counters().forwarded > before;
        // Sent again it says where it went.
        match it.route(self.now, &packet) {
            Verdict::Forward(node) if is_forwarded => Some(node),
            _ => None,
        }
    }
}

const SYN: u8 = 2;
const ACK: u8 = 16;

fn sweep(member: &mut Member) {
    while member.it.sweep(|reset| {
        let (from, _) = check_reset(&reset);
        assert!(services().iter().any(|it| it.0 == from), "in a service's name");
    }) {}
}

/// Kind, client, service and node by their numbers; the last ones are nobody's.
fn notice(input: &mut Input<'_>) -> [u8; NOTICE_BYTES] {
    // One more than there are kinds.
    let kind = input.below(usize::from(KINDS) + 1) as u8;
    let (client, service, node) = (input.u8(), input.u8(), input.below(6) as u16);
    let services = services();
    let known = services.get(usize::from(service & 7));
    let is_v6 = known.is_some_and(|it| it.0.is_ipv6()) != (service & 0x80 != 0);
    let client = ends(client, is_v6);
    let ip = match client.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let service = known.map_or(u64::from(service), |it| name_hash(&it.0.to_string()));
    let node = if node < NODES { name_hash(&name(node)) } else { node.into() };
    let mut out = [0; NOTICE_BYTES];
    out[0] = kind;
    out[1..3].copy_from_slice(&client.port().to_be_bytes());
    out[3..19].copy_from_slice(&ip);
    out[19..27].copy_from_slice(&service.to_be_bytes());
    out[27..35].copy_from_slice(&node.to_be_bytes());
    out
}

fn seeds() -> Vec<Seed> {
    let told = |notices: &[[u8; 4]]| {
        let mut step = vec![1, 0, notices.len() as u8];
        step.extend(notices.concat());
        step
    };
    let at = |member: u8, client: u8, flags: u8| [vec![7 + 3 * member], sent(0, client, 0, flags)].concat();
    let stranger = |client: u8, service: u8| [vec![7], sent(0, client, service, ACK)].concat();
    let series = |steps: &[Vec<u8>]| [&[0][..], &steps.concat()].concat();
    // All that is under way arrives at both.
    let arrives = || vec![13, 8, 0, 14, 9, 0];
    let stages = told(&[[0, 1, 0, 0], [2, 2, 0, 1], [6, 3, 1, 2], [1, 1, 0, 0], [5, 0, 0, 0], [2, 1, 3, 5]]);
    vec![
        (
            "told".into(),
            series(&[stages.clone(), at(0, 1, ACK), at(0, 2, ACK), at(1, 2, ACK), arrives(), arrives()]),
        ),
        // Clients that cannot be any, of either family and of the other one.
        (
            "strangers".into(),
            series(&[
                told(&[[2, 5, 1, 0], [2, 4, 0, 0], [2, 1, 0x80, 0], [2, 1, 0x81, 0]]),
                stranger(5, 1),
                stranger(4, 0),
                vec![16, 0, 8, 17],
            ]),
        ),
        (
            "asked".into(),
            series(&[at(0, 1, ACK), told(&[[4, 1, 0, 0]]), arrives(), arrives(), told(&[[3, 1, 0, 0]])]),
        ),
        ("found".into(), series(&[at(0, 1, ACK), told(&[[2, 1, 0, 2]]), at(0, 1, ACK)])),
        (
            "held".into(),
            series(&[
                at(0, 1, SYN),
                at(0, 0x11, SYN),
                at(0, 0x21, SYN),
                at(0, 0x21, SYN),
                vec![1, 0, 0],
                arrives(),
                at(0, 1, ACK),
            ]),
        ),
        (
            "late".into(),
            series(&[
                at(0, 1, SYN),
                at(0, 0x11, SYN),
                at(0, 2, ACK),
                vec![12, 120, 0],
                at(0, 2, ACK),
                vec![12, 0, 8],
                at(0, 3, ACK),
            ]),
        ),
        (
            "numbers".into(),
            series(&[
                vec![1, 5, 0, 0],
                vec![1, 6, 3, 0],
                vec![1, 7, 1, 2, 3, 4, 0],
                vec![1, 0x18, 1, 0, 0, 0, 0],
                vec![1, 0x20, 1, 5, 0, 0, 0, 20],
            ]),
        ),
        (
            "raw".into(),
            series(&[
                vec![0, 0, 4, 1, 2, 3, 4],
                vec![0, 3, 40],
                vec![7; 40],
                vec![0, 7, 40],
                vec![9; 40],
                vec![0, 1, 0],
            ]),
        ),
        (
            "lives".into(),
            series(&[
                stages,
                vec![19, 0, 19, 1],
                at(0, 1, SYN),
                vec![19, 2],
                at(0, 0x11, SYN),
                vec![19, 3],
                arrives(),
                at(1, 1, ACK),
            ]),
        ),
        (
            "gone".into(),
            series(&[
                told(&[[2, 1, 0, 0], [2, 1, 1, 0]]),
                at(0, 1, ACK),
                vec![16, 0, 8, 17, 16, 0, 0],
                told(&[[2, 1, 0, 0]]),
                at(0, 1, ACK),
            ]),
        ),
        (
            "network".into(),
            series(&[
                at(0, 1, SYN),
                vec![13, 1, 0, 13, 3, 0, 13, 5, 0, 13, 7, 9, 12, 9, 0],
                at(1, 1, SYN),
                vec![13, 6, 9, 13, 4, 0],
                arrives(),
                arrives(),
            ]),
        ),
    ]
}
