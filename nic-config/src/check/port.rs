//! The port: whether it is there, whose it is, and whether packets can come by it.

use crate::device::{PciAddress, Vdev};
use crate::drivers;
use crate::finding::Finding;
use crate::host::Host;
use crate::plan;
use crate::wanted::{Hugepages, Wanted};

pub(super) fn virtual_device(host: &Host, wanted: &Wanted, vdev: &Vdev, findings: &mut Vec<Finding>) {
    let (right, has) = match vdev.driver() {
        "net_af_packet" => ("CAP_NET_RAW", host.rights.net_raw),
        "net_af_xdp" | "net_tap" => ("CAP_NET_ADMIN", host.rights.net_admin),
        _ => ("", true),
    };
    if !has {
        findings.push(Finding::blocks(
            format!("{} needs {right}, which this process does not have", vdev.driver()),
            format!("start the node as root, or with {right}"),
        ));
    }
    findings.extend(plan::port::refusals(host, wanted));
    if let Some(name) = vdev.interface() {
        interface(host, wanted, vdev, name, findings);
        link(host, Some(&name.to_owned()), findings);
        queues(host, wanted, vdev, name, findings);
    }
}

fn interface(host: &Host, wanted: &Wanted, vdev: &Vdev, name: &str, findings: &mut Vec<Finding>) {
    let Some(interface) = host.network.interface(name) else {
        let names: Vec<_> = host.network.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        findings.push(Finding::blocks(
            format!("{vdev}: this network namespace has no interface {name}; it has {}", names.join(", ")),
            "name one of these, or start the node in the namespace that has it",
        ));
        return;
    };
    if interface.up == Some(false) {
        findings.push(Finding::blocks(
            format!("{vdev}: the interface {name} is down"),
            format!("ip link set {name} up"),
        ));
    }
    if let Some(mtu) = interface.mtu
        && mtu < u32::from(wanted.mtu)
    {
        findings.push(Finding::blocks(
            format!("[nic] mtu is {}, and the interface {name} carries packets of {mtu} bytes", wanted.mtu),
            format!("ip link set {name} mtu {}, or lower [nic] mtu", wanted.mtu),
        ));
    }
}

pub(super) fn pci(host: &Host, wanted: &Wanted, address: PciAddress, findings: &mut Vec<Finding>) {
    if !host.rights.root {
        findings.push(Finding::blocks(
            "a PCI device is driven from user space, and this process is not root",
            "start the node as root",
        ));
    }
    let refusals = plan::port::refusals(host, wanted);
    let Some(nic) = host.network.pci_nic(address) else {
        findings.extend(refusals);
        return;
    };
    let is_taken = !refusals.is_empty();
    findings.extend(refusals);
    let bind = format!("dpdk-devbind.py --bind=vfio-pci {address}");
    match nic.driver.as_deref() {
        Some(driver) if drivers::shared(driver).is_some() => link(host, nic.interfaces.first(), findings),
        // The kernel's use of it comes first.
        _ if is_taken => {}
        Some("vfio-pci") if host.network.iommu_groups == 0 && !host.network.vfio_without_iommu => {
            findings.push(Finding::blocks(
                format!("{address} is bound to vfio-pci, and this machine's IOMMU is off"),
                "turn it on (kernel arguments intel_iommu=on iommu=pt; AMD: iommu=pt), or, where there is none, \
                 echo Y > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            ));
        }
        Some(driver) if drivers::is_user(driver) => {}
        Some(driver) => findings.push(Finding::blocks(
            match nic.interfaces.first() {
                Some(interface) => {
                    format!("{address} belongs to the kernel: {driver}, interface {interface}")
                }
                None => format!("{address} belongs to the kernel: {driver}"),
            },
            format!("take it away from the kernel, which ends its connections: keyferry-nic-config apply, or {bind}"),
        )),
        None => findings.push(Finding::blocks(format!("{address} is bound to no driver"), bind)),
    }
    numa(host, wanted, address, nic.node, findings);
}

/// An interface that is up and has no link.
fn link(host: &Host, name: Option<&String>, findings: &mut Vec<Finding>) {
    let Some(interface) = name.and_then(|name| host.network.interface(name)) else { return };
    if interface.up != Some(false) && interface.carrier == Some(false) {
        findings.push(Finding::blocks(
            format!("{} has no link", interface.name),
            "look at its cable, its transceiver and the other end (ethtool INTERFACE says which rates fit)",
        ));
    }
}

/// XDP is on the queues of workers, and RSS spreads packets over all there are.
fn queues(host: &Host, wanted: &Wanted, vdev: &Vdev, name: &str, findings: &mut Vec<Finding>) {
    let Some(interface) = host.network.interface(name) else { return };
    let workers = wanted.workers.len();
    if vdev.driver() == "net_af_xdp" && interface.queues > workers {
        findings.push(Finding::blocks(
            format!(
                "{name} has {} queues and {workers} of them have workers: what comes by the others is lost",
                interface.queues
            ),
            format!("ethtool -L {name} combined {workers}"),
        ));
    }
}

/// Packet memory and polling belong on the port's own NUMA node.
fn numa(host: &Host, wanted: &Wanted, address: PciAddress, node: Option<usize>, findings: &mut Vec<Finding>) {
    let Some(node) = node else { return };
    let elsewhere = |core: &&usize| host.cores.nodes.get(core).is_some_and(|other| *other != node);
    let far: Vec<_> = wanted.workers.iter().filter(elsewhere).map(usize::to_string).collect();
    if !far.is_empty() {
        findings.push(Finding::slows(
            format!("{address} is on NUMA node {node}, and worker cores {} are on another", far.join(", ")),
            format!("choose [cores] workers of node {node}"),
        ));
    }
    let here = host.memory.huge_free_mib_of(node);
    let pool = plan::memory::pool(host, Some(node));
    let total = host.memory.huge_free_mib();
    if wanted.hugepages != Hugepages::Never && total >= wanted.memory_mib && here < wanted.memory_mib {
        findings.push(Finding::slows(
            format!("{address} is on NUMA node {node}, which has only {here} MiB of free hugepages"),
            match pool {
                Some(pool) => format!(
                    "reserve them there: echo {} > /{}",
                    pool.total + ((wanted.memory_mib - here) * 1024).div_ceil(pool.page_kib.max(1)),
                    plan::memory::file(Some(node), pool.page_kib)
                ),
                None => "start a kernel that has hugepages".to_owned(),
            },
        ));
    }
}
