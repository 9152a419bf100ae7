//! Which device, port, GID and MTU belong to the fabric's address. In: a host's description and the configured
//! address. Out: one choice, or one sentence that says why there is none. Pure. Control thread, at set-up.
//!
//! - On Ethernet a queue pair's address is a GID; the kernel makes one of each IP address of the interface, of its
//!   VLANs and of the bond it is in, so an IP address names its GID by value. RoCE v2 before v1, which routers do
//!   not carry.
//! - On InfiniBand it is the LID; a GID goes along where the subnet demands a global routing header. An IP address
//!   there is one of IPoIB on the port.

use std::net::{IpAddr, Ipv6Addr};

use super::address::Address;
use super::host::{Device, Gid, GidKind, Host, LinkLayer, Mtu, Port, PortState, Transport};

/// Where a queue pair is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Device, by the kernel's name.
    pub device: String,
    /// Port, counted from 1.
    pub port: u8,
    /// What is below the transport.
    pub link_layer: LinkLayer,
    /// Local identifier; 0 on Ethernet.
    pub lid: u16,
    /// Index of `gid` in the port's table.
    pub gid_index: u8,
    /// The GID.
    pub gid: Ipv6Addr,
    /// Whether packets carry a global routing header: always on Ethernet.
    pub global: bool,
    /// The port's largest packet; a path takes the smaller of both ends'.
    pub mtu: Mtu,
}

/// Why no port of this host will do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChooseError {
    /// The kernel lists none.
    #[error(
        "this host has no RDMA device: /sys/class/infiniband is empty (load the adapter's driver, or make a Soft-RoCE \
         device: rdma link add rxe0 type rxe netdev eth0)"
    )]
    NoDevice,
    /// None of that name.
    #[error("this host has no RDMA device {name}: it has {have}")]
    NoSuchDevice {
        /// As configured.
        name: String,
        /// Those there are.
        have: String,
    },
    /// None of that number.
    #[error("{device} has no port {port}: it has {ports}")]
    NoSuchPort {
        /// Device.
        device: String,
        /// As configured.
        port: u8,
        /// How many it has.
        ports: usize,
    },
    /// No GID and no interface has the address.
    #[error("no RDMA port of this host has the address {address}: give it to the interface of one of {have}")]
    NoSuchAddress {
        /// As configured.
        address: IpAddr,
        /// Ports there are.
        have: String,
    },
    /// iWARP.
    #[error("{device} is an iWARP device: leases need InfiniBand or RoCE")]
    Iwarp {
        /// Device.
        device: String,
    },
    /// Neither InfiniBand, RoCE nor iWARP.
    #[error("{device} has no reliable-connected queue pairs: leases need InfiniBand or RoCE")]
    Transport {
        /// Device.
        device: String,
    },
    /// No link.
    #[error("port {port} of {device} is down: check the cable and `ip link set up` of its interface")]
    Down {
        /// Device.
        device: String,
        /// Port.
        port: u8,
    },
    /// Link, but not configured.
    #[error(
        "port {port} of {device} waits for a subnet manager: start one (opensm) on this InfiniBand subnet"
    )]
    NoSubnetManager {
        /// Device.
        device: String,
        /// Port.
        port: u8,
    },
    /// No GID that fits.
    #[error("port {port} of {device} has no GID: give its network interface an IP address and set it up")]
    NoGid {
        /// Device.
        device: String,
        /// Port.
        port: u8,
    },
}

/// Picks the port, GID and MTU for `address`.
pub fn choose(host: &Host, address: &Address) -> Result<Choice, ChooseError> {
    if host.devices.is_empty() {
        return Err(ChooseError::NoDevice);
    }
    match address {
        Address::Ip(ip) => by_ip(host, *ip),
        Address::Device { name, port } => by_device(host, name, *port),
    }
}

fn by_device(host: &Host, name: &str, number: Option<u8>) -> Result<Choice, ChooseError> {
    let Some(device) = host.devices.iter().find(|device| device.name == name) else {
        let have = list(host.devices.iter().map(|device| device.name.clone()));
        return Err(ChooseError::NoSuchDevice { name: name.to_owned(), have });
    };
    let port = match number {
        Some(number) => device.ports.iter().find(|port| port.number == number),
        None => {
            let active = device.ports.iter().find(|port| port.state == PortState::Active);
            active.or(device.ports.first())
        }
    };
    let port = port.ok_or_else(|| ChooseError::NoSuchPort {
        device: name.to_owned(),
        port: number.unwrap_or(1),
        ports: device.ports.len(),
    })?;
    usable(device, port)?;
    let gid = port.gids.iter().filter(|gid| fits(port, gid)).min_by_key(|gid| (rank(gid), gid.index));
    chosen(device, port, gid)
}

fn by_ip(host: &Host, ip: IpAddr) -> Result<Choice, ChooseError> {
    let as_gid = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    // A port that cannot be used is refused only when no other port has the address.
    let mut refused = None;
    for (device, port) in ports(host) {
        let mut named = port.gids.iter().filter(|gid| fits(port, gid) && gid.address == as_gid);
        let on_interface = || port.addresses.iter().any(|address| address.to_canonical() == ip);
        let gid = match port.link_layer {
            LinkLayer::Ethernet => named.clone().min_by_key(|gid| (rank(gid), gid.index)),
            LinkLayer::InfiniBand => port.gids.iter().find(|gid| fits(port, gid)),
        };
        if named.next().is_none() && !on_interface() {
            continue;
        }
        match usable(device, port).and_then(|()| chosen(device, port, gid)) {
            Ok(choice) => return Ok(choice),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or_else(|| ChooseError::NoSuchAddress {
        address: ip,
        have: list(ports(host).map(|(device, port)| format!("{} port {}", device.name, port.number))),
    }))
}

/// Whether the port takes queue pairs at all.
fn usable(device: &Device, port: &Port) -> Result<(), ChooseError> {
    let name = || device.name.clone();
    match device.transport {
        Transport::InfiniBand => {}
        Transport::Iwarp => return Err(ChooseError::Iwarp { device: name() }),
        Transport::Other => return Err(ChooseError::Transport { device: name() }),
    }
    let unmanaged = port.link_layer == LinkLayer::InfiniBand && port.lid == 0 && !port.grh_required;
    match port.state {
        PortState::Down => Err(ChooseError::Down { device: name(), port: port.number }),
        PortState::Initializing | PortState::Armed if port.link_layer == LinkLayer::InfiniBand => {
            Err(ChooseError::NoSubnetManager { device: name(), port: port.number })
        }
        PortState::Initializing | PortState::Armed => {
            Err(ChooseError::Down { device: name(), port: port.number })
        }
        PortState::Active if unmanaged => {
            Err(ChooseError::NoSubnetManager { device: name(), port: port.number })
        }
        PortState::Active => Ok(()),
    }
}

fn chosen(device: &Device, port: &Port, gid: Option<&Gid>) -> Result<Choice, ChooseError> {
    let gid = gid.ok_or_else(|| ChooseError::NoGid { device: device.name.clone(), port: port.number })?;
    Ok(Choice {
        device: device.name.clone(),
        port: port.number,
        link_layer: port.link_layer,
        lid: port.lid,
        gid_index: gid.index,
        gid: gid.address,
        global: port.link_layer == LinkLayer::Ethernet || port.grh_required,
        mtu: port.mtu,
    })
}

/// Whether a GID is of the port's own kind.
fn fits(port: &Port, gid: &Gid) -> bool {
    (port.link_layer == LinkLayer::InfiniBand) == (gid.kind == GidKind::InfiniBand)
}

/// The order in which GIDs are preferred when only the device is named: routed before not, an address that was
/// given before one that made itself, which changes with the adapter.
fn rank(gid: &Gid) -> u8 {
    let of_itself = gid.address.is_unicast_link_local();
    match gid.kind {
        GidKind::InfiniBand => 0,
        GidKind::RoceV2 if gid.address.to_ipv4_mapped().is_some() => 0,
        GidKind::RoceV2 if !of_itself => 1,
        GidKind::RoceV2 => 2,
        GidKind::RoceV1 if !of_itself => 3,
        GidKind::RoceV1 => 4,
    }
}

fn ports(host: &Host) -> impl Iterator<Item = (&Device, &Port)> {
    host.devices.iter().flat_map(|device| device.ports.iter().map(move |port| (device, port)))
}

fn list(names: impl Iterator<Item = String>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
