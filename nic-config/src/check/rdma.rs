//! RDMA: the port of the fabric's address, its GIDs and the size of its packets.

use crate::finding::Finding;
use crate::host::Host;
use crate::plan;
use crate::rdma::RdmaPort;
use crate::wanted::Wanted;

/// Interface MTU from which on RoCE sends packets of 4,096 bytes (InfiniBand specification, MTU values; 4,096 and headers
/// of Ethernet, IP, UDP and InfiniBand).
const ROCE_MTU: u32 = 4200;

pub(super) fn check(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    if !wanted.verbs {
        return;
    }
    if host.network.rdma.is_empty() {
        findings.push(Finding::blocks(
            "this machine has no RDMA device",
            "load its driver, or add a software device: rdma link add rxe0 type rxe netdev INTERFACE",
        ));
        return;
    }
    let ports = plan::ports(host, wanted);
    if ports.is_empty() {
        let address = wanted.fabric.as_deref().unwrap_or_default();
        let there: Vec<_> = host.network.rdma.iter().map(|device| device.name.as_str()).collect();
        findings.push(Finding::blocks(
            format!("no RDMA port has [fabric] address {address}; devices are {}", there.join(", ")),
            "give the port's network interface that address (ip address add), or name what keyferry-nic-config list shows",
        ));
    }
    if wanted.fabric.is_none() {
        return;
    }
    for (device, port) in ports {
        if !port.is_active() {
            findings.push(Finding::blocks(
                format!("port {} of {} is {}", port.number, device.name, port.state.to_lowercase()),
                match port.interface() {
                    Some(interface) => format!("ip link set {interface} up, and look at its cable"),
                    None => "set its network interface up, and look at its cable".to_owned(),
                },
            ));
        }
        if port.is_ethernet {
            roce(host, &device.name, port, findings);
        }
    }
}

fn roce(host: &Host, device: &str, port: &RdmaPort, findings: &mut Vec<Finding>) {
    if !port.gids.iter().any(|gid| gid.is_roce_v2) {
        findings.push(Finding::slows(
            format!("port {} of {device} has no GID of RoCE v2, and routers forward no other", port.number),
            format!(
                "cma_roce_mode -d {device} -p {} -m 2, and give its interface an IP address",
                port.number
            ),
        ));
    }
    let interface = port.interface().and_then(|name| host.network.interface(name));
    if let Some(interface) = interface
        && let Some(mtu) = interface.mtu
        && mtu < ROCE_MTU
    {
        findings.push(Finding::note(
            format!("RoCE of {device} sends small packets, as the MTU of {} is {mtu}", interface.name),
            format!("ip link set {} mtu 9000, at all nodes and switches", interface.name),
        ));
    }
}
