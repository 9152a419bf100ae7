//! What one seed stands for: who begins, what each end sends, how it reads and when it closes, and what befalls the packets.
//!
//! In: a seed and the settings it runs under. Out: a plan. The same seed gives the same plan.

use std::time::Duration;

use super::relay::Faults;
use crate::common::Rng;

/// When an end takes what has arrived.
#[derive(Clone, Copy, Debug)]
pub enum Reading {
    AtOnce,
    /// So many bytes, then a pause.
    Slowly {
        bytes: usize,
        every: Duration,
    },
    /// Once it has this many it takes nothing for a while.
    Pausing {
        at: u64,
        long: Duration,
    },
}

/// When an end closes, all it had to send being handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// At once: Linux goes on reading, we discard what still comes.
    Sent,
    /// When all that is to come has come.
    All,
    /// When the peer has closed.
    Eof,
}

/// What one end does.
#[derive(Clone, Copy, Debug)]
pub struct Side {
    pub sends: u64,
    /// Bytes handed over at once, at most.
    pub piece: usize,
    pub receives: u64,
    /// It waits for so many bytes of the peer before it sends so many of its own, and the asker is one ahead.
    pub turns: Option<Turns>,
    pub reading: Reading,
    pub end: End,
}

#[derive(Clone, Copy, Debug)]
pub struct Turns {
    pub theirs: u64,
    pub own: u64,
    pub asks: bool,
}

/// What one connection is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub ipv6: bool,
    pub linux_connects: bool,
    pub starts: Duration,
    pub linux: Side,
    pub ours: Side,
    /// Of what Linux has for the socket; `None`: what it has by itself.
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
    pub no_delay: bool,
    /// By where packets go: to Linux, to us.
    pub faults: [Faults; 2],
}

/// Connections begin within so many milliseconds, a thousand seeds at a time, each thousand so much later.
const STARTS_MS: u64 = 2_000;
const THOUSAND: Duration = Duration::from_secs(20);

/// What all plans of a world have in common.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    /// Packets are marked as having met congestion.
    pub marks: bool,
    /// Linux begins, and speaks first: our end may have forgotten the handshake.
    pub linux_first: bool,
}

impl Plan {
    pub fn new(seed: u64, kind: Kind) -> Plan {
        let mut rng = Rng::new(seed.wrapping_add(0x5eed));
        let faults = faults(&mut rng, kind);
        // So much that a path that loses much is not walked for minutes.
        let most = if faults.iter().any(|way| way.lost + way.changed > 20) { 100_000 } else { 600_000 };
        let (mut up, mut down) = (size(&mut rng, most), size(&mut rng, most));
        let linux_connects = kind.linux_first || rng.below(2) == 0;
        if kind.linux_first {
            up = up.max(1);
        }
        let (mut linux_end, mut our_end) = match rng.below(6) {
            0 | 1 => (End::Sent, End::Eof),
            2 => (End::Sent, End::All),
            3 => (End::All, End::Eof),
            4 => (End::All, End::All),
            _ => (End::Eof, End::All),
        };
        let turns = rng.below(4) == 0;
        let (mut asks, mut answers) = (None, None);
        if turns {
            let (own, theirs, rounds) = (1 + rng.below(6_000), 1 + rng.below(12_000), 2 + rng.below(15));
            (up, down) = (own * rounds, theirs * rounds);
            asks = Some(Turns { theirs, own, asks: true });
            answers = Some(Turns { theirs: own, own: theirs, asks: false });
        } else if rng.below(10) == 0 {
            // Few bytes, so that Linux has sent them all before we give up waiting for its end.
            up = up.min(4_000);
            (linux_end, our_end) = (End::Eof, End::Sent);
        }
        let piece = [100, 1_460, 16_384, 100_000][rng.below(4) as usize];
        let side =
            |sends, receives, turns, end, reading| Side { sends, piece, receives, turns, reading, end };
        let linux = side(up, down, asks, linux_end, reading(&mut rng, down));
        let ours = side(down, up, answers, our_end, reading(&mut rng, up));
        Plan {
            seed,
            ipv6: rng.below(3) == 0,
            linux_connects,
            starts: THOUSAND * (seed / 1_000) as u32 + Duration::from_millis(rng.below(STARTS_MS)),
            linux,
            ours,
            receive_buffer: buffer(&mut rng),
            send_buffer: buffer(&mut rng),
            no_delay: rng.below(2) == 0,
            faults,
        }
    }
}

/// From nothing to `most`: many large ones, and of the others all orders of magnitude alike.
fn size(rng: &mut Rng, most: u64) -> u64 {
    match rng.below(8) {
        0 => return 0,
        1..=3 => return rng.below(most),
        _ => {}
    }
    let order = rng.below(u64::from(most.ilog2()) + 1);
    ((1 << order) + rng.below(1 << order)).min(most)
}

fn buffer(rng: &mut Rng) -> Option<usize> {
    match rng.below(3) {
        0 => None,
        1 => Some(1_000 + rng.below(8_000) as usize),
        _ => Some(10_000 + rng.below(500_000) as usize),
    }
}

fn reading(rng: &mut Rng, receives: u64) -> Reading {
    match rng.below(5) {
        // At least 100 KB a second, and pauses of at most two: a run is not to take longer for that.
        0 => {
            let every = Duration::from_millis(1 + rng.below(50));
            let least = receives.min(100_000) / 1_000 * every.as_millis() as u64;
            Reading::Slowly { bytes: (least + rng.below(4_000)) as usize + 1, every }
        }
        1 => {
            let long = Duration::from_millis(rng.below(2_000));
            Reading::Pausing { at: rng.below(receives + 1), long }
        }
        _ => Reading::AtOnce,
    }
}

/// A path's faults: one kind or all kinds, on one way or both.
fn faults(rng: &mut Rng, kind: Kind) -> [Faults; 2] {
    let delay = Duration::from_micros([200, 5_000, 20_000, 60_000][rng.below(4) as usize]);
    let mut way = || {
        let mut faults =
            Faults { delay, late_max: Duration::from_millis(1 + rng.below(40)), ..Faults::default() };
        let wanted = rng.below(7);
        if matches!(wanted, 1 | 6) {
            faults.lost = 1 + rng.below(100);
            faults.in_bursts = rng.below(3) == 0;
        }
        if matches!(wanted, 2 | 6) {
            faults.twice = 1 + rng.below(200);
        }
        if matches!(wanted, 3 | 6) {
            faults.changed = 1 + rng.below(50);
        }
        if matches!(wanted, 4..=6) {
            faults.late = 1 + rng.below(if wanted == 5 { 1_000 } else { 100 });
        }
        if kind.marks {
            faults.marked = rng.below(100);
        }
        faults
    };
    [way(), way()]
}
