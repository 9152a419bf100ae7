//! The port of a node or a distributor, from its `[nic]` table to queues and a link layer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use keyferry_link::{Cidr, Link, Route};
use keyferry_nic::dpdk::{self, Eal, EalOptions, PortOptions, Queue};
use keyferry_nic::{Caps, Packet};
use keyferry_nic_config::{Device, Hugepages};

use crate::config::{self, Nic};

/// Receive and transmit descriptors of a queue.
const DESCRIPTORS: u16 = 512;

/// Starts DPDK's EAL, once a process, and opens the port with so many queues.
///
/// # Errors
/// What keeps it from opening; the sentence says what to do.
pub fn open(nic: &Nic, queues: u16) -> anyhow::Result<(dpdk::Port, Vec<Queue>)> {
    let eal = Eal::start(&EalOptions {
        hugepages: match nic.hugepages {
            Hugepages::Auto => dpdk::Hugepages::Auto,
            Hugepages::Require => dpdk::Hugepages::Require,
            Hugepages::Never => dpdk::Hugepages::Never,
        },
        memory_mib: nic.memory_mib,
        extra: nic.eal.clone(),
        virtual_only: matches!(nic.device, Device::Vdev(_)),
    })?;
    let options = PortOptions {
        device: nic.device.to_string(),
        queues,
        mtu: nic.mtu,
        packets: nic.packets,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
    };
    Ok(dpdk::Port::open(&eal, &options)?)
}

/// The link layer of a queue; that of the first one announces the addresses.
pub fn link<P: Packet>(nic: &Nic, caps: &Caps) -> Link<P> {
    let gateways = nic.gateways.iter().map(default_route);
    let mut link = Link::new(keyferry_link::Config {
        mac: caps.mac,
        addresses: nic.addresses.clone(),
        routes: nic.routes.iter().cloned().chain(gateways).collect(),
        vlan: nic.vlan,
        mtu: nic.mtu.min(caps.mtu),
    })
    .with_services(nic.service_addresses.clone());
    if caps.queue == 0 {
        link.announce();
    }
    link
}

/// The route to everywhere else through a gateway.
fn default_route(gateway: &IpAddr) -> Route {
    let any = if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    Route { to: Cidr::new(any, 0).expect("every address has a prefix of 0 bits"), via: *gateway }
}

/// What a worker does with nothing to do.
pub fn idle(wanted: config::Idle) -> keyferry_worker::Idle {
    match wanted {
        config::Idle::Spin => keyferry_worker::Idle::Spin,
        config::Idle::Yield => keyferry_worker::Idle::Yield,
        config::Idle::Sleep => keyferry_worker::Idle::Sleep,
    }
}
