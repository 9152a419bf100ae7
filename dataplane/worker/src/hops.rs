//! Where the nodes behind a distributor are, so that the link is not asked for each packet.
//!
//! In: a node, and the link. Out: how a frame to it begins, for as long as nothing has changed in what the link knows of its
//! neighbours: then a look-up would say the same again, and mark the same neighbour as used.

use std::net::IpAddr;

use keyferry_distribute::NodeId;
use keyferry_link::{Link, NextHop, Stations};
use keyferry_time::Time;

/// Of every node.
pub(crate) struct Hops(Vec<Hop>);

struct Hop {
    /// An address on a network of the port, of either family.
    address: IpAddr,
    /// What the link said, and our own address.
    stations: Stations,
    /// Changes of the link's neighbours when it said so.
    changes: u64,
}

/// No number of changes.
const NEVER: u64 = u64::MAX;

impl Hop {
    fn new(address: IpAddr) -> Hop {
        Hop { address, stations: [0; 12], changes: NEVER }
    }
}

impl Hops {
    /// Nodes at these addresses, by their number.
    pub(crate) fn new(nodes: Vec<IpAddr>) -> Hops {
        Hops(nodes.into_iter().map(Hop::new).collect())
    }

    /// A node is there from here on.
    pub(crate) fn set(&mut self, node: NodeId, address: IpAddr) {
        self.0[node.index()] = Hop::new(address);
    }

    /// A node's address.
    pub(crate) fn address(&self, node: NodeId) -> IpAddr {
        self.0[node.index()].address
    }

    /// How a frame to a node begins, if the link has its MAC address.
    #[inline]
    pub(crate) fn stations<P>(&mut self, now: Time, node: NodeId, link: &mut Link<P>) -> Option<Stations> {
        let hop = &mut self.0[node.index()];
        if hop.changes != link.neighbor_changes() {
            let NextHop::Known(mac) = link.next_hop(now, hop.address) else { return None };
            (hop.stations, hop.changes) = (link.stations(mac), link.neighbor_changes());
        }
        Some(hop.stations)
    }
}
