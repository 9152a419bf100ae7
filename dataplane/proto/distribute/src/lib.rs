//! The distributor's decisions: which node gets a packet that came for a service (design.md, "Distributor").
//!
//! A distributor stands in front of the nodes and sees only what clients send: it gives each connection to one node by
//! rewriting the destination MAC; the node answers the client itself, from the service's address (direct server return).
//! Sans-IO: packets and `now` go in, verdicts come out; who calls has the port.
//!
//! - [`packet`]: what a packet is, [`maglev`] and [`Pool`](pool): whom a new connection goes to
//! - [`Distributor`]: the flow table, the client table, fragments, and what becomes of each packet
//! - `membership`: nodes that come and go, [`places`]: tables made off the packet path
//! - [`Midst`]: the common packet, of which a burst is gone through at once
//! - [`reset`]: what clients of a node that is gone are told
//! - `together`, `peers`: several distributors that know each other's connections
//!
//! All tables have fixed sizes. What an attacker can fill is what matters least: half-open connections give way to
//! open ones, clients that were only seen to those a node has a session of.

#![forbid(unsafe_code)]

mod burst;
mod counters;
mod distributor;
mod doors;
mod flow;
pub mod maglev;
mod membership;
pub mod packet;
mod peers;
pub mod places;
pub mod pool;
pub mod reset;
mod together;
mod ways;

pub use burst::{Midst, Spot};
pub use counters::Counters;
pub use distributor::{Config, Distributor, DropReason, Service, Verdict};
pub use membership::Services;
pub use packet::{Flow, FragmentId, Packet, Segment};
pub use peers::datagram::{FLOWS_PORT, PACKET_BYTES_MAX};
pub use peers::holds::{HOLDS_MAX, HoldId};
pub use peers::seal::Secrets;
pub use peers::{Ends, PEERS_MAX, PeerId};
pub use places::{Places, Plan, Share};
pub use pool::{Node, State};
pub use reset::{RESET_BYTES_MAX, Reset};

/// Services of a distributor, at most.
pub const SERVICES_MAX: usize = 64;
/// Places for nodes, at most: two bits of a place's number are the flow table's.
pub const NODES_MAX: usize = 1 << 14;

/// A node, by its place here: other distributors may have it at another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct NodeId(pub u16);

impl NodeId {
    /// Its place.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// How clients are spread over nodes, by the names of the paper.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Model {
    /// `rr`: in turn, whoever comes.
    RoundRobin,
    /// `session`: a client goes back to the node that holds its session.
    Session,
    /// `bf`: the same; nodes lend each other requests besides.
    BackEndForwarding,
}

impl Model {
    /// Whether clients are remembered.
    pub fn knows_clients(self) -> bool {
        !matches!(self, Model::RoundRobin)
    }
}
