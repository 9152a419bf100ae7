//! `--nic`: opens a port through DPDK for a load thread. In: the command line. Out: a [`Stack`] on the port's only queue.
//!
//! DPDK starts once a process; a port that was opened stays until its queue is dropped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use keyferry_link::{Cidr, Link, Route};
use keyferry_nic::dpdk::{self, Eal, EalOptions, Hugepages, PortOptions, Queue};
use keyferry_nic::{Caps, Nic, Packet};

use crate::args::{Args, Pages};
use crate::clients::Sources;
use crate::stack::{Limits, Stack};

/// Packet buffers of the port.
const PACKETS: u32 = 16_384;
/// Descriptors of its queues.
const DESCRIPTORS: u16 = 1024;

/// DPDK, once it was started.
static EAL: Mutex<Option<Eal>> = Mutex::new(None);

/// A port and the client on it.
pub struct Opened {
    /// What a load thread drives.
    pub stack: Stack<Queue>,
    /// Keeps the port for as long.
    pub port: dpdk::Port,
}

/// Opens the port that `--nic` names, if there is one.
///
/// # Errors
/// Each says what to do: arguments that miss something, or what DPDK has against the device.
pub fn open(args: &Args, device: &str) -> anyhow::Result<Opened> {
    anyhow::ensure!(args.threads.get() == 1, "--nic has one queue and one thread; leave --threads out");
    let given = &args.nic.nic_address;
    anyhow::ensure!(
        !given.is_empty(),
        "--nic needs an address that nobody else has: --nic-address 192.0.2.9/24"
    );
    let mut started = EAL.lock().unwrap_or_else(PoisonError::into_inner);
    let eal = match started.take() {
        Some(eal) => eal,
        None => Eal::start(&EalOptions {
            hugepages: match args.nic.nic_hugepages {
                Pages::Auto => Hugepages::Auto,
                Pages::Require => Hugepages::Require,
                Pages::Never => Hugepages::Never,
            },
            memory_mib: args.nic.nic_memory_mib,
            // virtio-user passes its memory to the other side as files, of which it has room for a few.
            extra: match device.starts_with("net_virtio_user") {
                true => vec!["--single-file-segments".to_owned()],
                false => Vec::new(),
            },
            virtual_only: device.starts_with("net_"),
        })?,
    };
    let eal: &Eal = started.insert(eal);
    let options = PortOptions {
        device: device.to_owned(),
        queues: 1,
        mtu: args.nic.nic_mtu,
        packets: PACKETS,
        rx_descriptors: DESCRIPTORS,
        tx_descriptors: DESCRIPTORS,
    };
    let (port, queues) = dpdk::Port::open(eal, &options)?;
    let queue = queues.into_iter().next().context("the port has no queue: name another device")?;
    let addresses = addresses(given, args.source.as_ref())?;
    let link = link(&addresses, &args.nic.gateway, &queue.caps(), args.nic.nic_mtu);
    let mut seed = [0; 8];
    aws_lc_rs::rand::fill(&mut seed).ok().context("the random number generator failed")?;
    let limits = Limits {
        connections: args.connections.get(),
        connect_timeout: args.timeout(),
        seed: u64::from_ne_bytes(seed),
    };
    let own = addresses.iter().map(|cidr| cidr.address()).collect();
    Ok(Opened { stack: Stack::new(queue, link, own, &limits), port })
}

/// The port's addresses: those given, and those of `--source`, each in the network of a given one.
fn addresses(given: &[Cidr], sources: Option<&Sources>) -> anyhow::Result<Vec<Cidr>> {
    let mut all = given.to_vec();
    for source in sources.iter().flat_map(|sources| sources.0.iter().copied()) {
        if all.iter().any(|cidr| cidr.address() == source) {
            continue;
        }
        let network = given.iter().find(|cidr| cidr.contains(source));
        let cidr = network.and_then(|network| Cidr::new(source, network.prefix()));
        all.push(cidr.with_context(|| {
            format!("{source} of --source is in no network of --nic-address: add one it belongs to")
        })?);
    }
    Ok(all)
}

fn link<P: Packet>(addresses: &[Cidr], gateways: &[IpAddr], caps: &Caps, mtu: u16) -> Link<P> {
    let default_route = |gateway: &IpAddr| {
        let any: IpAddr =
            if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Some(Route { to: Cidr::new(any, 0)?, via: *gateway })
    };
    let mut link = Link::new(keyferry_link::Config {
        mac: caps.mac,
        addresses: addresses.to_vec(),
        routes: gateways.iter().filter_map(default_route).collect(),
        vlan: None,
        mtu: mtu.min(caps.mtu),
    });
    link.announce();
    link
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_in_a_network_of_the_port() {
        let given = ["10.0.0.1/24".parse().unwrap(), "fd00::1/64".parse().unwrap()];
        let sources: Sources = "10.0.0.1-10.0.0.3,fd00::9".parse().unwrap();
        let all = addresses(&given, Some(&sources)).unwrap();
        let text: Vec<_> = all.iter().map(|cidr| format!("{}/{}", cidr.address(), cidr.prefix())).collect();
        assert_eq!(text, ["10.0.0.1/24", "fd00::1/64", "10.0.0.2/24", "10.0.0.3/24", "fd00::9/64"]);
        let strange: Sources = "10.0.1.1".parse().unwrap();
        assert!(addresses(&given, Some(&strange)).unwrap_err().to_string().contains("--nic-address"));
    }
}
