//! Network interfaces of this namespace, PCI network functions with their drivers, IOMMU, RDMA devices, and the
//! addresses the kernel answers for.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use crate::device::PciAddress;
use crate::host::{entries, line, link_name};
use crate::rdma::{self, RdmaDevice};

/// `IFF_UP` of `if.h`.
const UP: u32 = 1;
/// Class of PCI network controllers, in the upper byte of `class`.
const PCI_NETWORK: u32 = 0x02;

/// A kernel interface in this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it was set up; `None` where sysfs shows another namespace.
    pub up: Option<bool>,
    /// Its MTU, likewise.
    pub mtu: Option<u32>,
    /// Whether it has a link, where it is up.
    pub carrier: Option<bool>,
    /// Its rate in Mbit/s, where it has one.
    pub rate_mbit: Option<u32>,
    /// Interfaces it is made of: members of a bond or bridge, what a VLAN is on.
    pub below: Vec<String>,
    /// Receive queues it has now.
    pub queues: usize,
}

/// A PCI function of the network class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciNic {
    /// Where it is.
    pub address: PciAddress,
    /// Its class and subclass, such as 0x0200 for Ethernet.
    pub class: u32,
    /// The driver it is bound to.
    pub driver: Option<String>,
    /// The NUMA node it hangs on.
    pub node: Option<usize>,
    /// The kernel interfaces on it.
    pub interfaces: Vec<String>,
}

/// The host's network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Network {
    /// Interfaces of this network namespace.
    pub interfaces: Vec<Interface>,
    /// PCI network functions.
    pub pci: Vec<PciNic>,
    /// IOMMU groups; 0: there is no IOMMU, or it is off.
    pub iommu_groups: usize,
    /// VFIO was told to do without an IOMMU.
    pub vfio_without_iommu: bool,
    /// RDMA devices.
    pub rdma: Vec<RdmaDevice>,
    /// Addresses of this namespace that the kernel answers for.
    pub addresses: BTreeSet<IpAddr>,
}

impl Network {
    pub(crate) fn read(root: &Path) -> Network {
        let noiommu = root.join("sys/module/vfio/parameters/enable_unsafe_noiommu_mode");
        Network {
            interfaces: interfaces(root),
            pci: pci(root),
            iommu_groups: entries(&root.join("sys/kernel/iommu_groups")).len(),
            vfio_without_iommu: line(&noiommu) == "Y",
            rdma: rdma::read(root),
            addresses: ipv4_addresses(root).chain(ipv6_addresses(root)).collect(),
        }
    }

    /// The interface of this name.
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The interface of this name, and every bond, bridge and VLAN it is part of.
    pub fn above<'n>(&'n self, name: &'n str) -> BTreeSet<&'n str> {
        let mut above = BTreeSet::from([name]);
        // Each turn adds one, or is the last: there are no more than interfaces.
        for _ in 0..self.interfaces.len() {
            let part =
                |interface: &&Interface| interface.below.iter().any(|below| above.contains(below.as_str()));
            let next: Vec<_> =
                self.interfaces.iter().filter(part).map(|interface| interface.name.as_str()).collect();
            above.extend(next);
        }
        above
    }

    /// The PCI network function at this address.
    pub fn pci_nic(&self, address: PciAddress) -> Option<&PciNic> {
        self.pci.iter().find(|nic| nic.address == address)
    }
}

/// `/proc/net` is the namespace of the reader; `/sys/class/net` that of whoever mounted sysfs. So procfs says what
/// there is, sysfs only adds to it.
fn interfaces(root: &Path) -> Vec<Interface> {
    let text = std::fs::read_to_string(root.join("proc/net/dev")).unwrap_or_default();
    let interface = |row: &str| {
        let name = row.split_once(':')?.0.trim().to_owned();
        let folder = root.join("sys/class/net").join(&name);
        let flags = line(&folder.join("flags"));
        let flags = u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok();
        let mtu = line(&folder.join("mtu")).parse().ok();
        let below =
            entries(&folder).into_iter().filter_map(|entry| entry.strip_prefix("lower_").map(str::to_owned));
        let queues = entries(&folder.join("queues"));
        Some(Interface {
            name,
            up: flags.map(|flags| flags & UP != 0),
            mtu,
            carrier: line(&folder.join("carrier")).parse::<u8>().ok().map(|carrier| carrier == 1),
            rate_mbit: line(&folder.join("speed")).parse().ok(), // -1 without a link
            below: below.collect(),
            queues: queues.iter().filter(|queue| queue.starts_with("rx-")).count(),
        })
    };
    text.lines().skip(2).filter_map(interface).collect()
}

fn pci(root: &Path) -> Vec<PciNic> {
    let devices = root.join("sys/bus/pci/devices");
    let nic = |name: String| {
        let folder = devices.join(&name);
        let class = u32::from_str_radix(line(&folder.join("class")).trim_start_matches("0x"), 16).ok()?;
        (class >> 16 == PCI_NETWORK).then_some(())?;
        Some(PciNic {
            address: PciAddress::parse(&name)?,
            class: class >> 8,
            driver: link_name(&folder.join("driver")),
            node: line(&folder.join("numa_node")).parse().ok(), // -1 where the firmware does not say
            interfaces: interfaces_on(&folder),
        })
    };
    let mut nics: Vec<_> = entries(&devices).into_iter().filter_map(nic).collect();
    nics.sort_by_key(|nic| nic.address);
    nics
}

/// Kernel interfaces of a PCI function: its own, or those of a device on it, as virtio's is.
fn interfaces_on(folder: &Path) -> Vec<String> {
    let below = entries(folder).into_iter().filter(|name| name.starts_with("virtio"));
    let folders = below.map(|name| folder.join(name)).chain([folder.to_owned()]);
    let mut names: Vec<_> = folders.flat_map(|folder| entries(&folder.join("net"))).collect();
    names.sort();
    names
}

/// The trie prints an address on one line and below it what it is: `/32 host LOCAL` is one of our own.
fn ipv4_addresses(root: &Path) -> impl Iterator<Item = IpAddr> {
    let text = std::fs::read_to_string(root.join("proc/net/fib_trie")).unwrap_or_default();
    let mut last: Option<Ipv4Addr> = None;
    let mut found = Vec::new();
    for row in text.lines() {
        if let Some(address) = row.trim_start().strip_prefix("|-- ") {
            last = address.trim().parse().ok();
        } else if row.trim() == "/32 host LOCAL" {
            found.extend(last.map(IpAddr::V4));
        }
    }
    found.into_iter()
}

fn ipv6_addresses(root: &Path) -> impl Iterator<Item = IpAddr> {
    let text = std::fs::read_to_string(root.join("proc/net/if_inet6")).unwrap_or_default();
    let address = |row: &str| {
        let digits = row.split_whitespace().next().filter(|digits| digits.len() == 32)?;
        u128::from_str_radix(digits, 16).ok().map(|bits| IpAddr::V6(Ipv6Addr::from(bits)))
    };
    text.lines().filter_map(address).collect::<Vec<_>>().into_iter()
}
