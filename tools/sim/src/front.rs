//! The distributor in front of the nodes: the product's own, given the packets that open and close connections.
//!
//! In: a client's connection, news of sessions and of nodes. Out: the node a connection goes to. Owned by a run. What comes in
//! the midst of a connection goes where its first packet went, so it is not shown.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use keyferry_distribute::{Config, Distributor, Model, Node, NodeId, Service, State, Verdict};
use keyferry_time::Time;

/// Where the service is.
const SERVICE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);

/// Connections stay in the table a minute after they have closed; more of a client than that share places.
const FLOWS_A_CLIENT: usize = 4;

/// Clients of which addresses can be made.
pub const CLIENTS_MAX: usize = 1 << 24;

/// Bytes of a segment: the headers of IPv4 and TCP.
const SEGMENT_BYTES: usize = 40;
/// Where its parts are.
const CLIENT_AT: usize = 12;
const PORT_AT: usize = 20;
const FLAGS_AT: usize = 33;
const FIN_ACK: u8 = 0x11;
const SYN: u8 = 0x02;

/// A distributor and the segment it is shown.
pub struct Front {
    distributor: Distributor,
    segment: [u8; SEGMENT_BYTES],
}

/// A segment without data from nobody yet: what does not change from one to the next (RFC 791, RFC 9293).
fn segment() -> [u8; SEGMENT_BYTES] {
    let mut segment = [0; SEGMENT_BYTES];
    (segment[0], segment[3], segment[8], segment[9]) = (0x45, SEGMENT_BYTES as u8, 64, 6);
    segment[16..20].copy_from_slice(&[192, 0, 2, 1]);
    segment[22..24].copy_from_slice(&SERVICE.port().to_be_bytes());
    segment[32] = 5 << 4;
    segment
}

fn address(client: u32) -> Ipv4Addr {
    // 10.0.0.0/8 has room for CLIENTS_MAX.
    Ipv4Addr::from_bits(10 << 24 | client)
}

impl Front {
    /// In front of so many nodes, for so many clients that have `connections` each at once, about.
    pub fn new(
        knows_clients: bool,
        nodes: usize,
        clients: usize,
        connections: usize,
        lifetime: Duration,
        seed: u64,
    ) -> Front {
        let ids = (0..nodes as u16).map(NodeId).collect();
        let model = if knows_clients { Model::Session } else { Model::RoundRobin };
        let config = Config {
            flows: (clients * connections.max(FLOWS_A_CLIENT)).max(1024),
            clients: clients.max(1024),
            idle_time: Duration::from_secs(1 << 20),
            client_time: lifetime,
            seed,
            places_seed: 0,
        };
        let node = |number| Node { name: format!("n{}", number + 1), weight: 1, state: State::Up };
        let service = Service { address: SERVICE, model, nodes: ids };
        Front {
            distributor: Distributor::new(config, vec![service], (0..nodes).map(node).collect()),
            segment: segment(),
        }
    }

    fn show(&mut self, now_ns: u64, client: u32, port: u16, flags: u8) -> Option<usize> {
        self.segment[CLIENT_AT..CLIENT_AT + 4].copy_from_slice(&address(client).octets());
        self.segment[PORT_AT..PORT_AT + 2].copy_from_slice(&port.to_be_bytes());
        self.segment[FLAGS_AT] = flags;
        match self.distributor.route(Time(now_ns), &self.segment) {
            Verdict::Forward(node) => Some(node.index()),
            _ => None,
        }
    }

    /// A client opens a connection: the node it goes to.
    pub fn open(&mut self, now_ns: u64, client: u32, port: u16) -> Option<usize> {
        self.distributor.age(Time(now_ns));
        self.show(now_ns, client, port, SYN)
    }

    /// It closes it.
    pub fn close(&mut self, now_ns: u64, client: u32, port: u16) {
        self.show(now_ns, client, port, FIN_ACK);
    }

    /// A node says that it has a session of a client.
    pub fn announce(&mut self, now_ns: u64, client: u32, node: usize, lifetime: Duration) {
        self.distributor.announce(Time(now_ns), address(client).into(), NodeId(node as u16), lifetime);
    }

    /// A node is gone, or back.
    pub fn fare(&mut self, node: usize, is_up: bool) {
        self.distributor.set_state(NodeId(node as u16), if is_up { State::Up } else { State::Down });
        while self.distributor.sweep(|_| ()) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_in_turn_and_go_back_where_they_were() {
        let mut front = Front::new(true, 3, 100, 1, Duration::from_secs(10), 7);
        let second = 1_000_000_000;
        assert_eq!([0, 1, 2, 3].map(|client| front.open(0, client, 1024)), [0, 1, 2, 0].map(Some));
        front.close(second, 1, 1024);
        assert_eq!(front.open(second, 1, 1024), Some(1), "it goes back");
        front.announce(second, 2, 1, Duration::from_secs(10));
        assert_eq!(front.open(2 * second, 2, 1025), Some(1), "where its session is");
        front.fare(1, false);
        assert_eq!(front.open(2 * second, 1, 1026), Some(2), "the next in turn that is up");
        front.fare(1, true);
        assert_eq!(front.open(30 * second, 2, 1027), Some(0), "forgotten");
    }

    #[test]
    fn in_turn_knows_nobody() {
        let mut front = Front::new(false, 2, 100, 1, Duration::from_secs(10), 7);
        assert_eq!([7, 7, 7].map(|client| front.open(0, client, 1024 + client as u16)).len(), 3);
        let nodes: Vec<_> = (0..4).map(|port| front.open(0, 9, 2000 + port)).collect();
        assert!(nodes.windows(2).all(|pair| pair[0] != pair[1]), "{nodes:?}");
    }
}
