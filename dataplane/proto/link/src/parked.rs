//! Packets that wait for a neighbour's MAC address.
//!
//! In: packets and the neighbour each waits for. Out: those whose neighbour answered, oldest first; the others
//! are dropped when their neighbour is given up or their time is over. Owned by a worker's link; bounded, so
//! that an absent gateway cannot hold the packet pool.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use keyferry_time::Time;

/// Packets parked at a time, at most.
pub const PARKED_MAX: usize = 256;
/// Packets parked for one neighbour, at most.
pub const PARKED_PER_NEIGHBOR_MAX: usize = 64;
/// How long a packet waits at most: as long as a neighbour is asked for.
const WAIT_MAX: Duration = Duration::from_secs(3);

struct Waiting<P> {
    hop: IpAddr,
    until: Time,
    packet: P,
}

pub(crate) struct Parked<P> {
    /// Oldest first.
    queue: VecDeque<Waiting<P>>,
    /// A neighbour answered since the queue was last searched in vain.
    woken: bool,
}

impl<P> Parked<P> {
    pub(crate) fn new() -> Parked<P> {
        Parked { queue: VecDeque::with_capacity(PARKED_MAX), woken: false }
    }

    pub(crate) fn push(&mut self, now: Time, hop: IpAddr, packet: P) -> Result<(), P> {
        let same = self.queue.iter().filter(|waiting| waiting.hop == hop).count();
        if self.queue.len() >= PARKED_MAX || same >= PARKED_PER_NEIGHBOR_MAX {
            return Err(packet);
        }
        self.queue.push_back(Waiting { hop, until: now + WAIT_MAX, packet });
        // The answer may have come between the question and this call.
        self.woken = true;
        Ok(())
    }

    /// Some neighbour's packets can go.
    pub(crate) fn wake(&mut self) {
        self.woken = true;
    }

    pub(crate) fn pop(&mut self, known: impl Fn(IpAddr) -> Option<[u8; 6]>) -> Option<(P, [u8; 6])> {
        if !self.woken {
            return None;
        }
        let found = self
            .queue
            .iter()
            .enumerate()
            .find_map(|(at, waiting)| known(waiting.hop).map(|mac| (at, mac)))
            .and_then(|(at, mac)| self.queue.remove(at).map(|waiting| (waiting.packet, mac)));
        self.woken = found.is_some();
        found
    }

    /// Drops what waits for `hop`; returns how many.
    pub(crate) fn drop_for(&mut self, hop: IpAddr) -> u64 {
        let before = self.queue.len();
        self.queue.retain(|waiting| waiting.hop != hop);
        (before - self.queue.len()) as u64
    }

    /// Drops what waited too long; returns how many.
    pub(crate) fn expire(&mut self, now: Time) -> u64 {
        let mut expired = 0;
        while self.queue.front().is_some_and(|waiting| waiting.until.is_due(now)) {
            self.queue.pop_front();
            expired += 1;
        }
        expired
    }

    pub(crate) fn poll_at(&self) -> Option<Time> {
        self.queue.front().map(|waiting| waiting.until)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }
}
