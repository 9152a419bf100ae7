//! The neighbour cache: which MAC address a neighbour has, and how sure we are of it.
//!
//! In: what ARP and neighbour discovery tell, look-ups, the time. Out: MAC addresses, and the solicitations to
//! send. The states are those of RFC 4861 section 7.3.2 without DELAY; ARP entries use them too. A used entry is
//! asked again by unicast before it is given up, and keeps serving meanwhile, so a live flow never waits.
//! Owned by a worker's link; fixed memory.

use std::net::IpAddr;
use std::time::Duration;

use keyferry_time::{Time, Wheel};

use crate::cidr::mapped;

/// Neighbours one set of the cache holds.
const WAYS: usize = 8;
/// Sets of the cache, a power of two.
const SETS: usize = 256;
/// Neighbours known at a time, at most; a further one replaces the one of its set that matters least: one that only
/// asked, then one that has not answered, then one that has. Of equals the one heard of least recently goes. So a flood
/// of askers, or of packets from addresses nobody has, cannot push out a neighbour that is in use.
pub const NEIGHBORS_MAX: usize = WAYS * SETS;

/// How long a confirmation holds (RFC 4861 section 10, REACHABLE_TIME).
const REACHABLE: Duration = Duration::from_secs(30);
/// Between two solicitations (RETRANS_TIMER).
const RETRANSMIT: Duration = Duration::from_secs(1);
/// Unicast solicitations before asking everyone again (MAX_UNICAST_SOLICIT).
const UNICAST_MAX: u8 = 3;
/// Multicast solicitations before giving up (MAX_MULTICAST_SOLICIT).
const MULTICAST_MAX: u8 = 3;
/// An entry nobody used for this long is forgotten.
const FORGET: Duration = Duration::from_secs(600);
/// Granularity of all these.
const TICK: Duration = Duration::from_millis(10);
/// Key of an empty place: the unspecified address is nobody's neighbour.
const EMPTY: u128 = 0;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Asked, never answered.
    Incomplete,
    /// Confirmed lately.
    Reachable,
    /// Known, unconfirmed, unused.
    Stale,
    /// Known, used, being asked again.
    Probe,
}

#[derive(Clone, Copy)]
struct Neighbor {
    address: IpAddr,
    mac: [u8; 6],
    state: State,
    /// Looked up since it was last confirmed.
    used: bool,
    /// Solicitations sent since it was last confirmed.
    solicits: u8,
    /// Last heard of or, if incomplete, first asked.
    since: Time,
}

/// A solicitation to send, to everyone or, with a MAC address, to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Solicit {
    pub(crate) hop: IpAddr,
    pub(crate) to: Option<[u8; 6]>,
}

/// What an ARP or neighbour discovery message says about its sender.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// It asked for us, so it is likely to want packets soon.
    Asked,
    /// It answered our solicitation.
    Answered,
    /// It answered without being asked.
    Announced,
    /// As `Answered`, without the right to replace a MAC address (RFC 4861, override flag clear).
    AnsweredWeakly,
}

pub(crate) enum Look {
    Known([u8; 6]),
    /// Wait for an answer; send this first if there is one.
    Wait(Option<Solicit>),
}

pub(crate) struct Neighbors {
    keys: Box<[u128]>,
    neighbors: Box<[Neighbor]>,
    wheel: Wheel,
    due: Vec<u32>,
    changes: u64,
}

impl Neighbors {
    pub(crate) fn new() -> Neighbors {
        let nobody = Neighbor {
            address: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            mac: [0; 6],
            state: State::Incomplete,
            used: false,
            solicits: 0,
            since: Time::ZERO,
        };
        Neighbors {
            keys: vec![EMPTY; NEIGHBORS_MAX].into(),
            neighbors: vec![nobody; NEIGHBORS_MAX].into(),
            wheel: Wheel::new(NEIGHBORS_MAX as u32, TICK),
            due: Vec::with_capacity(NEIGHBORS_MAX),
            changes: 0,
        }
    }

    /// How often a state or a MAC address has changed.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The MAC address of the neighbour `hop` for a packet to it. A stale entry serves and is asked again: its
    /// solicitation comes out through `solicit`.
    pub(crate) fn look(&mut self, now: Time, hop: IpAddr, solicit: impl FnOnce(Solicit)) -> Look {
        let Some(at) = self.find(hop) else {
            let at = self.place(now, hop, State::Incomplete);
            self.neighbors[at].solicits = 1;
            self.wheel.set(at as u32, now + RETRANSMIT);
            return Look::Wait(Some(Solicit { hop, to: None }));
        };
        let neighbor = &mut self.neighbors[at];
        match neighbor.state {
            State::Incomplete => return Look::Wait(None),
            State::Reachable => {
                if !neighbor.used {
                    neighbor.used = true;
                }
            }
            State::Probe => {}
            State::Stale => {
                (neighbor.state, neighbor.solicits) = (State::Probe, 1);
                self.changes += 1;
                solicit(Solicit { hop, to: Some(neighbor.mac) });
                self.wheel.set(at as u32, now + RETRANSMIT);
            }
        }
        Look::Known(neighbor.mac)
    }

    /// The MAC address of `hop` if it has one, without a trace.
    pub(crate) fn peek(&self, hop: IpAddr) -> Option<[u8; 6]> {
        let neighbor = &self.neighbors[self.find(hop)?];
        (neighbor.state != State::Incomplete).then_some(neighbor.mac)
    }

    /// Learns `mac` of `address`. Answers whether packets that waited for it can go now.
    pub(crate) fn learn(&mut self, now: Time, address: IpAddr, mac: [u8; 6], word: Word) -> bool {
        let Some(at) = self.find(address) else {
            // Nobody asked: only who is about to talk to us is worth a place (RFC 4861 sections 7.2.3, 7.2.5).
            if word == Word::Asked && self.has_place(address) {
                let at = self.place(now, address, State::Stale);
                self.neighbors[at].mac = mac;
                self.wheel.set(at as u32, now + FORGET);
            }
            return false;
        };
        self.changes += 1;
        let neighbor = &mut self.neighbors[at];
        let (waited, changed) = (neighbor.state == State::Incomplete, neighbor.mac != mac);
        if word == Word::AnsweredWeakly && changed && !waited {
            // RFC 4861 section 7.2.5: do not replace, but do not trust what we have either.
            if neighbor.state == State::Reachable {
                neighbor.state = State::Stale;
                self.wheel.set(at as u32, now + FORGET);
            }
            return false;
        }
        if matches!(word, Word::Answered | Word::AnsweredWeakly) {
            neighbor.state = State::Reachable;
            self.wheel.set(at as u32, now + REACHABLE);
        } else if waited || changed {
            neighbor.state = State::Stale;
            self.wheel.set(at as u32, now + FORGET);
        } else {
            return false;
        }
        (neighbor.mac, neighbor.used, neighbor.solicits, neighbor.since) = (mac, false, 0, now);
        waited
    }

    /// Handles timers that are due: `solicit` gets what to send, `lost` each neighbour given up.
    pub(crate) fn timers(
        &mut self,
        now: Time,
        mut solicit: impl FnMut(Solicit),
        mut lost: impl FnMut(IpAddr),
    ) {
        let mut due = std::mem::take(&mut self.due);
        self.wheel.expire(now, |at| due.push(at));
        for at in due.drain(..) {
            self.changes += 1;
            let neighbor = &mut self.neighbors[at as usize];
            let hop = neighbor.address;
            let unicast = Some(Solicit { hop, to: Some(neighbor.mac) });
            let multicast = Some(Solicit { hop, to: None });
            let next = match neighbor.state {
                State::Reachable if neighbor.used => {
                    (neighbor.state, neighbor.solicits) = (State::Probe, 0);
                    unicast
                }
                State::Reachable => {
                    neighbor.state = State::Stale;
                    self.wheel.set(at, now + FORGET);
                    continue;
                }
                State::Probe if neighbor.solicits < UNICAST_MAX => unicast,
                State::Probe if neighbor.solicits < UNICAST_MAX + MULTICAST_MAX => multicast,
                State::Incomplete if neighbor.solicits < MULTICAST_MAX => multicast,
                State::Probe | State::Incomplete | State::Stale => None,
            };
            match next {
                Some(next) => {
                    neighbor.solicits += 1;
                    self.wheel.set(at, now + RETRANSMIT);
                    solicit(next);
                }
                None => {
                    self.keys[at as usize] = EMPTY;
                    lost(hop);
                }
            }
        }
        self.due = due;
    }

    pub(crate) fn poll_at(&self) -> Option<Time> {
        self.wheel.next()
    }

    fn find(&self, address: IpAddr) -> Option<usize> {
        let key = mapped(address);
        let set = set_of(key);
        self.keys[set..set + WAYS].iter().position(|probe| *probe == key).map(|way| set + way)
    }

    /// How much a place's neighbour matters.
    fn worth(&self, at: usize) -> (u8, Time) {
        match (self.keys[at], self.neighbors[at].state) {
            (EMPTY, _) => (0, Time::ZERO),
            (_, State::Stale) => (1, self.neighbors[at].since),
            (_, State::Incomplete) => (2, self.neighbors[at].since),
            (_, State::Reachable | State::Probe) => (3, self.neighbors[at].since),
        }
    }

    /// Whether there is a place for a neighbour that nobody asked for: not that of one in use.
    fn has_place(&self, address: IpAddr) -> bool {
        let set = set_of(mapped(address));
        (set..set + WAYS).any(|at| self.worth(at).0 < 2)
    }

    /// A place for a new neighbour: that of the one of its set that matters least.
    fn place(&mut self, now: Time, address: IpAddr, state: State) -> usize {
        let key = mapped(address);
        let set = set_of(key);
        let at = (set..set + WAYS).min_by_key(|at| self.worth(*at)).unwrap_or(set);
        self.keys[at] = key;
        self.neighbors[at] = Neighbor { address, mac: [0; 6], state, used: false, solicits: 0, since: now };
        self.wheel.cancel(at as u32);
        self.changes += 1;
        at
    }
}

/// First place of the set an address belongs to. Neighbours are on our own network, where nothing is gained
/// by colliding that plain ARP spoofing would not gain, so the hash needs no key.
fn set_of(key: u128) -> usize {
    let folded = (key as u64) ^ ((key >> 64) as u64).rotate_left(32);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS.ilog2())) as usize * WAYS
}
