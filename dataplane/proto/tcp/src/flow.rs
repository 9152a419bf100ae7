//! The flow table: from a packet's addresses and ports to a connection's index.
//!
//! In: flows and indexes. Out: indexes. Owned by a worker's TCP; fixed memory, at most half full. The hash is keyed
//! (SipHash-1-3), because the peer picks its address and port, and seeded, so that a simulation repeats.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher13;

use crate::slab::{MemoryHint, filled};

/// One end of a connection: an address and a port, without the scope and flow label that a `SocketAddr` has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct End {
    ip: IpAddr,
    port: u16,
}

impl End {
    pub(crate) fn new(ip: IpAddr, port: u16) -> End {
        End { ip, port }
    }

    pub(crate) fn ip(&self) -> IpAddr {
        self.ip
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn is_ipv4(&self) -> bool {
        self.ip.is_ipv4()
    }
}

impl From<SocketAddr> for End {
    fn from(address: SocketAddr) -> End {
        End { ip: address.ip(), port: address.port() }
    }
}

impl From<End> for SocketAddr {
    fn from(end: End) -> SocketAddr {
        SocketAddr::new(end.ip, end.port)
    }
}

#[cfg(test)]
impl std::str::FromStr for End {
    type Err = std::net::AddrParseError;

    fn from_str(text: &str) -> Result<End, Self::Err> {
        text.parse::<SocketAddr>().map(End::from)
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Flow {
    pub(crate) peer: End,
    pub(crate) local: End,
}

/// The key of every hash that a peer must not foresee.
#[derive(Clone, Copy)]
pub(crate) struct Secret(u64, u64);

impl Secret {
    pub(crate) fn new(seed: u64) -> Secret {
        Secret(seed, seed.rotate_left(32) ^ 0x6b65_7966_6572_7279)
    }

    fn hasher(self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }

    /// The local address is left out: there are a few, and a peer gains that many collisions at most.
    pub(crate) fn hash(self, flow: &Flow) -> u32 {
        let mut hasher = self.hasher();
        write(&mut hasher, flow);
        (hasher.finish() >> 32) as u32
    }

    /// F of RFC 6528: where a flow's sequence numbers begin, but for the clock. Every part of the flow counts.
    pub(crate) fn sequence(self, flow: &Flow) -> u32 {
        self.of(flow, 0)
    }

    /// Where a flow's clock of timestamps begins (RFC 7323 section 7.1).
    pub(crate) fn stamp(self, flow: &Flow) -> u32 {
        self.of(flow, 1)
    }

    /// A number of every part of a flow, another for each purpose.
    pub(crate) fn of(self, flow: &Flow, purpose: u64) -> u32 {
        let mut hasher = self.hasher();
        hasher.write_u64(purpose);
        match flow.local.ip() {
            IpAddr::V4(local) => hasher.write_u32(u32::from(local)),
            IpAddr::V6(local) => hasher.write_u128(u128::from(local)),
        }
        write(&mut hasher, flow);
        (hasher.finish() >> 32) as u32
    }
}

fn write(hasher: &mut SipHasher13, flow: &Flow) {
    let ports = u64::from(flow.peer.port()) << 16 | u64::from(flow.local.port());
    match flow.peer.ip() {
        IpAddr::V4(peer) => hasher.write_u64(u64::from(u32::from(peer)) << 32 | ports),
        IpAddr::V6(peer) => {
            let peer = u128::from(peer);
            hasher.write_u64(peer as u64);
            hasher.write_u64((peer >> 64) as u64);
            hasher.write_u64(ports);
        }
    }
}

#[derive(Clone, Copy)]
struct Cell {
    hash: u32,
    index: u32,
}

const EMPTY: Cell = Cell { hash: 0, index: u32::MAX };

/// Open addressing with linear probing; removal shifts back, so there are no tombstones.
pub(crate) struct FlowTable {
    cells: Box<[Cell]>,
    mask: usize,
}

impl FlowTable {
    /// A table for at most `flows` flows. `hint` is told of its memory.
    pub(crate) fn new(flows: u32, hint: MemoryHint) -> FlowTable {
        let cells = (flows.max(1) as usize * 2).next_power_of_two();
        FlowTable { cells: filled(EMPTY, cells, hint), mask: cells - 1 }
    }

    /// Tells where a look under `hash` begins.
    pub(crate) fn ahead(&self, hash: u32, ahead: impl Fn(*const u8)) {
        ahead(std::ptr::from_ref(&self.cells[hash as usize & self.mask]).cast());
    }

    /// The index under `hash` that `is` accepts.
    pub(crate) fn find(&self, hash: u32, is: impl Fn(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask;
        loop {
            let cell = self.cells[at];
            if cell.index == EMPTY.index {
                return None;
            }
            if cell.hash == hash && is(cell.index) {
                return Some(cell.index);
            }
            at = (at + 1) & self.mask;
        }
    }

    /// Adds an index that is not in the table. The owner keeps to the number of flows given at start.
    pub(crate) fn insert(&mut self, hash: u32, index: u32) {
        let mut at = hash as usize & self.mask;
        while self.cells[at].index != EMPTY.index {
            at = (at + 1) & self.mask;
        }
        self.cells[at] = Cell { hash, index };
    }

    /// Removes an index if it is in the table.
    pub(crate) fn remove(&mut self, hash: u32, index: u32) {
        let mut hole = hash as usize & self.mask;
        loop {
            match self.cells[hole].index {
                found if found == index => break,
                found if found == EMPTY.index => return,
                _ => hole = (hole + 1) & self.mask,
            }
        }
        let mut at = hole;
        loop {
            at = (at + 1) & self.mask;
            let cell = self.cells[at];
            if cell.index == EMPTY.index {
                break;
            }
            // A cell may move back to the hole unless its home lies behind the hole.
            let from_home = at.wrapping_sub(cell.hash as usize) & self.mask;
            if from_home >= at.wrapping_sub(hole) & self.mask {
                self.cells[hole] = cell;
                hole = at;
            }
        }
        self.cells[hole] = EMPTY;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Few distinct hashes, so that runs of cells collide, wrap and shift.
        #[test]
        fn finds_what_a_map_would(steps in prop::collection::vec((0u32..32, any::<bool>()), 0..300)) {
            let hash = |index: u32| [0, 1, 2, 61, 62, 63][index as usize % 6];
            let mut table = FlowTable::new(32, crate::slab::no_hint);
            let mut model = BTreeMap::new();
            for (index, insert) in steps {
                if insert && !model.contains_key(&index) {
                    table.insert(hash(index), index);
                    model.insert(index, ());
                } else if !insert {
                    table.remove(hash(index), index);
                    model.remove(&index);
                }
                for index in 0..32 {
                    let found = table.find(hash(index), |at| at == index);
                    prop_assert_eq!(found, model.contains_key(&index).then_some(index));
                }
            }
        }
    }

    #[test]
    fn a_flow_hashes_by_its_peer_and_the_seed() {
        let flow = |peer: &str| Flow { peer: peer.parse().unwrap(), local: "192.0.2.1:443".parse().unwrap() };
        let secret = Secret::new(1);
        assert_eq!(secret.hash(&flow("192.0.2.7:1000")), secret.hash(&flow("192.0.2.7:1000")));
        assert_ne!(secret.hash(&flow("192.0.2.7:1000")), secret.hash(&flow("192.0.2.7:1001")));
        assert_ne!(secret.hash(&flow("192.0.2.7:1000")), Secret::new(2).hash(&flow("192.0.2.7:1000")));
        assert_ne!(secret.sequence(&flow("192.0.2.7:1000")), secret.hash(&flow("192.0.2.7:1000")));
    }
}
