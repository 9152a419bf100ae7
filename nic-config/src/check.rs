//! Compares a host with what a node wants. Pure: a [`Host`] and a [`Wanted`] go in, findings come out, worst first.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::device::{Device, PciAddress, Vdev};
use crate::finding::Finding;
use crate::host::Host;
use crate::memory::Memlock;

/// Drivers that give a PCI function to user space.
const USER_DRIVERS: &[&str] = &["vfio-pci", "igb_uio", "uio_pci_generic"];
/// Drivers that share their function with DPDK, so nothing has to be bound.
const SHARING_DRIVERS: &[&str] = &["mlx4_core", "mlx5_core", "mana"];
/// Locked memory a node wants besides its packet memory: keys and rings, in MiB.
const LOCKED_MIB: u64 = 64;
/// Size of a hugepage where the kernel does not say, in KiB: x86 and most of arm64.
const HUGE_PAGE_KIB: u64 = 2048;

/// What a node's configuration asks of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The port.
    pub device: Option<Device>,
    /// Cores that poll.
    pub workers: BTreeSet<usize>,
    /// The pollers spin: nothing else gets a turn on their cores.
    pub spin: bool,
    /// Addresses the node answers for.
    pub addresses: Vec<IpAddr>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Packet memory, in MiB.
    pub memory_mib: u64,
    /// Whether that memory is in hugepages.
    pub hugepages: Hugepages,
    /// Peers are reached through verbs.
    pub verbs: bool,
}

/// Whether packet memory is in hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hugepages {
    /// Where there are enough.
    #[default]
    Auto,
    /// Always: do not start without.
    Require,
    /// Not at all.
    Never,
}

/// Everything on this host that blocks or slows the node, worst first.
pub fn check(host: &Host, wanted: &Wanted) -> Vec<Finding> {
    let mut findings = Vec::new();
    environment(host, &mut findings);
    aes(host, &mut findings);
    memory(host, wanted, &mut findings);
    match &wanted.device {
        Some(Device::Pci(address)) => pci(host, wanted, *address, &mut findings),
        Some(Device::Vdev(vdev)) => virtual_device(host, wanted, vdev, &mut findings),
        None => {}
    }
    addresses(host, wanted, &mut findings);
    cores(host, wanted, &mut findings);
    rdma(host, wanted, &mut findings);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn environment(host: &Host, findings: &mut Vec<Finding>) {
    if let Some(value) = &host.ia32cap {
        findings.push(Finding::slows(
            format!(
                "OPENSSL_ia32cap is set to \"{value}\" in the environment, which can make AES 35 times slower"
            ),
            "unset it where the node is started",
        ));
    }
}

fn aes(host: &Host, findings: &mut Vec<Finding>) {
    let features = host.features;
    if !(features.aes && features.clmul) {
        findings.push(Finding::slows(
            "this processor (or virtual machine) shows no AES instructions, so sealing takes many times longer",
            "run on a processor that has them, or let the virtual machine see the host's (QEMU: -cpu host)",
        ));
    } else if !(features.vaes && features.avx512) {
        findings.push(Finding::note(
            "this processor seals without VAES and AVX-512, at about half the rate",
            "nothing has to be done; newer processors seal faster",
        ));
    }
}

fn memory(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    let (need, free) = (wanted.memory_mib, host.memory.huge_free_mib());
    let in_huge = wanted.hugepages != Hugepages::Never && free >= need;
    let page_kib = host.memory.huge_page_kib.unwrap_or(HUGE_PAGE_KIB).max(1);
    let reserve = format!("reserve some: sysctl vm.nr_hugepages={}", (need * 1024).div_ceil(page_kib));
    match wanted.hugepages {
        Hugepages::Require if !in_huge => findings.push(Finding::blocks(
            format!("hugepages are required, {need} MiB of packet memory are wanted and {free} MiB are free"),
            reserve,
        )),
        Hugepages::Auto if !in_huge => findings.push(Finding::slows(
            format!(
                "{free} MiB of hugepages are free and {need} MiB are wanted, so packet memory is in small pages"
            ),
            reserve,
        )),
        _ => {}
    }
    if let Some(available) = host.memory.available_mib
        && !in_huge
        && available < need
    {
        findings.push(Finding::blocks(
            format!("{need} MiB of packet memory are wanted and {available} MiB of memory are available"),
            "lower [nic] memory_mib and packets, or free memory",
        ));
    }
    if let Some(Memlock::Bytes(bytes)) = host.memory.memlock
        && !host.rights.ipc_lock
        && bytes >> 20 < need + LOCKED_MIB
    {
        findings.push(Finding::slows(
            format!(
                "only {} KiB of memory may be locked, so keys and packet memory can be swapped out",
                bytes >> 10
            ),
            "raise the limit (systemd: LimitMEMLOCK=infinity) or grant CAP_IPC_LOCK",
        ));
    }
}

fn virtual_device(host: &Host, wanted: &Wanted, vdev: &Vdev, findings: &mut Vec<Finding>) {
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
    if let Some(name) = vdev.interface() {
        interface(host, wanted, vdev, name, findings);
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

fn pci(host: &Host, wanted: &Wanted, address: PciAddress, findings: &mut Vec<Finding>) {
    if !host.rights.root {
        findings.push(Finding::blocks(
            "a PCI device is driven from user space, and this process is not root",
            "start the node as root",
        ));
    }
    let Some(nic) = host.network.pci_nic(address) else {
        let there: Vec<_> = host.network.pci.iter().map(|nic| nic.address.to_string()).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        findings.push(Finding::blocks(
            format!("there is no network device at PCI address {address}; there is {there}"),
            "name one that exists (dpdk-devbind.py --status-dev net lists them)",
        ));
        return;
    };
    let bind = format!("dpdk-devbind.py --bind=vfio-pci {address}");
    match nic.driver.as_deref() {
        Some(driver) if SHARING_DRIVERS.contains(&driver) => {}
        Some("vfio-pci") if host.network.iommu_groups == 0 && !host.network.vfio_without_iommu => {
            findings.push(Finding::blocks(
                format!("{address} is bound to vfio-pci, and this machine's IOMMU is off"),
                "turn it on (kernel arguments intel_iommu=on iommu=pt; AMD: iommu=pt), or, where there is none, \
                 echo Y > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode",
            ));
        }
        Some(driver) if USER_DRIVERS.contains(&driver) => {}
        Some(driver) => findings.push(Finding::blocks(
            match nic.interfaces.first() {
                Some(interface) => {
                    format!("{address} belongs to the kernel: {driver}, interface {interface}")
                }
                None => format!("{address} belongs to the kernel: {driver}"),
            },
            format!("take it away from the kernel, which ends its connections: {bind}"),
        )),
        None => findings.push(Finding::blocks(format!("{address} is bound to no driver"), bind)),
    }
    numa(host, wanted, address, nic.node, findings);
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
    let total = host.memory.huge_free_mib();
    if wanted.hugepages != Hugepages::Never && total >= wanted.memory_mib && here < wanted.memory_mib {
        findings.push(Finding::slows(
            format!("{address} is on NUMA node {node}, which has only {here} MiB of free hugepages"),
            format!(
                "reserve them there: echo N > /sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/nr_hugepages"
            ),
        ));
    }
}

/// An address the kernel also has: its TCP answers every segment of ours with a reset.
fn addresses(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    for address in wanted.addresses.iter().filter(|address| host.network.addresses.contains(address)) {
        findings.push(Finding::blocks(
            format!("the kernel answers for {address} too, and resets the node's connections"),
            format!("take it from the kernel: ip address delete {address} from the interface that has it"),
        ));
    }
}

fn cores(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    let named = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    let shared: Vec<_> = wanted.workers.difference(&host.cores.isolated).copied().collect();
    if wanted.spin && !shared.is_empty() {
        findings.push(Finding::note(
            format!(
                "the kernel runs other work on worker cores {}, which costs tail latency",
                named(&shared)
            ),
            format!("keep them free: kernel argument isolcpus={}", named(&shared).replace(' ', "")),
        ));
    }
    let twin = |core: &&usize| {
        let siblings = host.cores.siblings.get(core);
        siblings.is_some_and(|siblings| !siblings.is_disjoint(&wanted.workers))
    };
    let twins: Vec<_> = wanted.workers.iter().filter(twin).copied().collect();
    if !twins.is_empty() {
        findings.push(Finding::slows(
            format!("worker cores {} share physical cores with each other", named(&twins)),
            "choose one thread of each physical core",
        ));
    }
}

fn rdma(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
    if !host.network.rdma.is_empty() {
        return;
    }
    if wanted.verbs {
        findings.push(Finding::blocks(
            "this machine has no RDMA device",
            "load its driver, or add a software device: rdma link add rxe0 type rxe netdev INTERFACE",
        ));
    }
}
