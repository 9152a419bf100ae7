//! Reads the host: devices, ports, GID tables, addresses. In: sysfs (its root is an argument, for tests), the devices
//! themselves, and the interface list. Out: a [`Host`]. Control thread, at set-up.

use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

use super::host::{Device, Gid, GidKind, Host, LinkLayer, Mtu, Port, PortState, Transport};
use super::objects::Context;

/// Devices, ports of each and interfaces that are looked at, at most.
const ENTRIES_MAX: usize = 1024;
/// `ibv_port_attr.flags`: the subnet wants global routing headers (`IBV_QPF_GRH_REQUIRED`).
const GRH_REQUIRED: u8 = 1;

/// This host. A device that cannot be opened is described as far as sysfs does it: it only matters when it is the
/// one chosen, and then opening it says why.
pub fn discover() -> Host {
    // Without a list of interfaces IPoIB addresses are not known; GIDs still are.
    let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
    let addresses = |interface: &str| -> Vec<IpAddr> {
        interfaces.iter().filter(|found| found.name == interface).map(if_addrs::Interface::ip).collect()
    };
    let mut host = read_sysfs(Path::new("/sys"), &addresses);
    for device in &mut host.devices {
        if device.transport != Transport::InfiniBand {
            continue;
        }
        let Ok(context) = Context::open(&device.name) else { continue };
        for port in &mut device.ports {
            let Ok(attributes) = context.query_port(port.number) else { continue };
            // Not in sysfs.
            port.grh_required = attributes.flags & GRH_REQUIRED != 0;
            if let Some(mtu) = Mtu::from_code(attributes.active_mtu) {
                port.mtu = mtu;
            }
        }
    }
    host
}

/// What sysfs says; MTUs are the smallest and routing headers not asked for until a device is asked.
fn read_sysfs(root: &Path, addresses: &impl Fn(&str) -> Vec<IpAddr>) -> Host {
    let class = root.join("class/infiniband");
    let devices = names(&class).into_iter().map(|name| {
        let path = class.join(&name);
        let transport = match leading_number(&path.join("node_type")) {
            // `enum rdma_node_type`: 1 is a channel adapter, 4 an RDMA NIC of iWARP.
            Some(1) => Transport::InfiniBand,
            Some(4) => Transport::Iwarp,
            _ => Transport::Other,
        };
        let numbers = names(&path.join("ports"));
        let mut ports: Vec<Port> = numbers
            .iter()
            .filter_map(|number| Some((number.parse().ok()?, path.join("ports").join(number))))
            .map(|(number, port)| read_port(root, &path, number, &port, addresses))
            .collect();
        ports.sort_by_key(|port| port.number);
        Device { name, transport, ports }
    });
    Host { devices: devices.collect() }
}

fn read_port(
    root: &Path,
    device: &Path,
    number: u8,
    port: &Path,
    addresses: &impl Fn(&str) -> Vec<IpAddr>,
) -> Port {
    let state = match leading_number(&port.join("state")) {
        // `enum ib_port_state`; 5 is a port that is active and about to be deferred.
        Some(4 | 5) => PortState::Active,
        Some(3) => PortState::Armed,
        Some(2) => PortState::Initializing,
        _ => PortState::Down,
    };
    let link_layer = match text(&port.join("link_layer")).as_deref() {
        Some("InfiniBand") => LinkLayer::InfiniBand,
        _ => LinkLayer::Ethernet,
    };
    let lid =
        text(&port.join("lid")).and_then(|lid| u16::from_str_radix(lid.trim_start_matches("0x"), 16).ok());
    let gids = read_gids(port, link_layer);
    let mut on_port: Vec<String> = gids.iter().filter_map(|gid| gid.interface.clone()).collect();
    on_port.extend(interfaces_of(root, device, number));
    on_port.sort();
    on_port.dedup();
    Port {
        number,
        state,
        link_layer,
        lid: lid.unwrap_or(0),
        grh_required: false,
        mtu: Mtu::B256,
        gids,
        addresses: on_port.iter().flat_map(|interface| addresses(interface)).collect(),
    }
}

fn read_gids(port: &Path, link_layer: LinkLayer) -> Vec<Gid> {
    // By index and not by what the folder lists: some tables are longer than a queue pair can name.
    (0..=u8::MAX)
        .map_while(|index| Some((index, text(&port.join(format!("gids/{index}")))?)))
        .filter_map(|(index, address)| {
            let address: Ipv6Addr = address.parse().ok()?;
            // An empty entry reads as zeroes, or as link-local zeroes on some devices.
            let empty = address.octets()[8..].iter().all(|byte| *byte == 0);
            let kind = match text(&port.join(format!("gid_attrs/types/{index}"))).as_deref() {
                Some("RoCE v2") => GidKind::RoceV2,
                // One name for two things (`ib_cache_gid_type_str`): RoCE v1 has the header of InfiniBand.
                Some("IB/RoCE v1") if link_layer == LinkLayer::Ethernet => GidKind::RoceV1,
                Some("RoCE v1") => GidKind::RoceV1,
                _ if link_layer == LinkLayer::InfiniBand => GidKind::InfiniBand,
                _ => return None,
            };
            let interface = text(&port.join(format!("gid_attrs/ndevs/{index}")));
            (!empty).then_some(Gid { index, address, kind, interface })
        })
        .collect()
}

/// Interfaces of the kernel that sit on the same physical device and port, as IPoIB does.
fn interfaces_of(root: &Path, device: &Path, number: u8) -> Vec<String> {
    let Ok(parent) = fs::canonicalize(device.join("device")) else { return Vec::new() };
    let class = root.join("class/net");
    names(&class)
        .into_iter()
        .filter(|name| {
            let interface = class.join(name);
            let same = fs::canonicalize(interface.join("device")).is_ok_and(|path| path == parent);
            // Ports of an interface count from 0 (`dev_port`), those of RDMA from 1.
            same && leading_number(&interface.join("dev_port"))
                .is_some_and(|port| port + 1 == u32::from(number))
        })
        .collect()
}

/// The entries of a folder, sorted; none if there is no such folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).take(ENTRIES_MAX).collect();
    names.sort();
    names
}

fn text(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The number a file begins with, as in `4: ACTIVE`.
fn leading_number(file: &Path) -> Option<u32> {
    text(file)?.split(':').next()?.trim().parse().ok()
}

#[cfg(test)]
#[path = "discover_tests.rs"]
mod tests;
