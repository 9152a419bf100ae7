//! Clients' packets, and distributors to give them to.

#![allow(dead_code)] // not every test needs all of it

use std::net::SocketAddr;
use std::time::Duration;

use keyferry_distribute::{Config, Distributor, Model, Node, NodeId, Service, State, Verdict};
use keyferry_time::Time;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpAddress, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

pub const SERVICE: &str = "192.0.2.1:443";
pub const SERVICE6: &str = "[2001:db8::1]:443";
pub const WEB: &str = "192.0.2.1:80";

pub const CONFIG: Config = Config {
    flows: 4096,
    clients: 4096,
    idle_time: Duration::from_secs(300),
    client_time: Duration::from_secs(600),
    seed: 7,
    places_seed: 9,
};

pub fn at(secs: u64) -> Time {
    Time(secs * 1_000_000_000)
}

/// Nodes, all up, and three services: two with `model`, plain web requests on node 0.
pub fn distributor(config: Config, model: Model, nodes: u16) -> Distributor {
    let all: Vec<_> = (0..nodes).map(NodeId).collect();
    let service = |address: &str, model, nodes| Service { address: address.parse().unwrap(), model, nodes };
    let services = vec![
        service(SERVICE, model, all.clone()),
        service(SERVICE6, model, all),
        service(WEB, Model::RoundRobin, vec![NodeId(0)]),
    ];
    let node = |number| Node { name: format!("node-{number}"), weight: 1, state: State::Up };
    Distributor::new(config, services, (0..nodes).map(node).collect())
}

#[derive(Clone, Copy)]
pub struct Sent {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub control: TcpControl,
    pub ack: Option<u32>,
}

pub fn sent(from: &str, to: &str, control: TcpControl, ack: Option<u32>) -> Sent {
    Sent { from: from.parse().unwrap(), to: to.parse().unwrap(), control, ack }
}

impl Sent {
    pub fn packet(&self) -> Vec<u8> {
        let tcp = TcpRepr {
            src_port: self.from.port(),
            dst_port: self.to.port(),
            control: self.control,
            seq_number: TcpSeqNumber(1000),
            ack_number: self.ack.map(|number| TcpSeqNumber(number as i32)),
            window_len: 100,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let (from, to) = (IpAddress::from(self.from.ip()), IpAddress::from(self.to.ip()));
        let ip = IpRepr::new(from, to, IpProtocol::Tcp, tcp.buffer_len(), 64);
        let mut packet = vec![0; ip.buffer_len()];
        let sums = ChecksumCapabilities::default();
        ip.emit(&mut packet[..], &sums);
        tcp.emit(&mut TcpPacket::new_unchecked(&mut packet[ip.header_len()..]), &from, &to, &sums);
        packet
    }
}

pub fn syn(from: &str) -> Vec<u8> {
    sent(from, SERVICE, TcpControl::Syn, None).packet()
}

pub fn ack(from: &str, number: u32) -> Vec<u8> {
    sent(from, SERVICE, TcpControl::None, Some(number)).packet()
}

pub fn node_of(verdict: Verdict) -> NodeId {
    match verdict {
        Verdict::Forward(node) => node,
        other => panic!("not forwarded: {other:?}"),
    }
}
