//! What is between Linux and us: each way of each connection has a lane of its own, with its own seeded faults.
//!
//! In: packets, the time. Out: packets, when they are due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use keyferry_time::Time;
use smoltcp::wire::Ipv4Packet;

use crate::common::Rng;

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    ToLinux,
    ToUs,
}

impl Way {
    /// Its place in a pair; that of whom it goes to.
    pub fn index(self) -> usize {
        self as usize
    }
}

/// What happens to packets of one way: of a thousand so many are lost, come twice, are changed, are late, are marked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// From one end to the other.
    pub delay: Duration,
    pub lost: u64,
    /// Of the packets soon behind a lost one every second is lost.
    pub in_bursts: bool,
    pub twice: u64,
    pub changed: u64,
    pub late: u64,
    /// Late packets come so much later at most.
    pub late_max: Duration,
    /// Congestion experienced (RFC 3168), of those that can carry it.
    pub marked: u64,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Passed,
    Lost,
    Changed,
    Late,
    Twice,
}

/// How many had which fate, by [`Fate`].
pub type Fates = [u64; 5];

/// One way of one connection.
pub struct Lane {
    faults: Faults,
    rng: Rng,
    losing_until: Time,
}

/// How long a burst of losses goes on behind each.
const BURST: Duration = Duration::from_millis(10);

impl Lane {
    pub fn new(faults: Faults, seed: u64) -> Lane {
        Lane { faults, rng: Rng::new(seed), losing_until: Time::ZERO }
    }

    fn draw(&mut self, permille: u64) -> bool {
        self.rng.below(1_000) < permille
    }

    /// Decides over a packet, which it may change. Answers when it arrives, and its twin.
    fn decide(&mut self, now: Time, packet: &mut [u8]) -> (Fate, [Option<Time>; 2]) {
        let faults = self.faults;
        let lost = if self.losing_until > now { 500 } else { faults.lost };
        // All is drawn for each packet, so that what befalls one depends on its place alone.
        let (lost, twice, changed) = (self.draw(lost), self.draw(faults.twice), self.draw(faults.changed));
        let (late, marked) = (self.draw(faults.late), self.draw(faults.marked));
        let (late_by, at, bit) =
            (self.rng.below(faults.late_max.as_nanos() as u64), self.rng.below(1 << 32), self.rng.below(8));
        if lost {
            self.losing_until = if faults.in_bursts { now + BURST } else { Time::ZERO };
            return (Fate::Lost, [None, None]);
        }
        if marked {
            mark(packet);
        }
        let mut arrives = now + faults.delay;
        let twin = twice.then(|| arrives + Duration::from_nanos(late_by));
        if late {
            arrives += Duration::from_nanos(late_by);
        }
        let fate = match (changed, late, twice) {
            (true, ..) => {
                // But the first byte: without the version of IP in it no device takes it.
                let at = 1 + at as usize % (packet.len() - 1);
                packet[at] ^= 1 << bit;
                Fate::Changed
            }
            (_, true, _) => Fate::Late,
            (_, _, true) => Fate::Twice,
            _ => Fate::Passed,
        };
        (fate, [Some(arrives), twin])
    }
}

/// Marks a packet as one that met congestion, if its sender takes such marks (RFC 3168 section 5).
fn mark(packet: &mut [u8]) {
    if packet[0] >> 4 == 4 {
        if packet[1] & 3 != 0 {
            packet[1] |= 3;
            Ipv4Packet::new_unchecked(packet).fill_checksum();
        }
    } else if packet[1] & 0x30 != 0 {
        packet[1] |= 0x30;
    }
}

/// A packet on its way.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub struct Flying {
    pub at: Time,
    number: u64,
    pub way: Way,
    /// Of which connection.
    pub line: usize,
    /// It was changed on the way: nobody is to take it.
    pub changed: bool,
    pub packet: Vec<u8>,
}

/// All packets on their way.
#[derive(Default)]
pub struct Relay {
    flying: BinaryHeap<Reverse<Flying>>,
    number: u64,
    /// By whom they were for.
    pub fates: [Fates; 2],
}

impl Relay {
    /// Takes a packet in.
    pub fn take(&mut self, now: Time, lane: &mut Lane, way: Way, line: usize, mut packet: Vec<u8>) -> Fate {
        let (fate, arrivals) = lane.decide(now, &mut packet);
        self.fates[way.index()][fate as usize] += 1;
        for at in arrivals.into_iter().flatten() {
            self.number += 1;
            let (number, packet, changed) = (self.number, packet.clone(), fate == Fate::Changed);
            self.flying.push(Reverse(Flying { at, number, way, line, changed, packet }));
        }
        fate
    }

    /// The next packet that has arrived.
    pub fn arrived(&mut self, now: Time) -> Option<Flying> {
        self.flying.peek().filter(|next| next.0.at.is_due(now))?;
        self.flying.pop().map(|next| next.0)
    }

    /// When the next one arrives.
    pub fn next(&self) -> Option<Time> {
        self.flying.peek().map(|next| next.0.at)
    }
}
