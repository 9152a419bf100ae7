//! Which driver the port is to have, and whether it may be taken at all.

use super::{Plan, Reboot, Step, kernel};
use crate::device::{Device, PciAddress, Vdev};
use crate::drivers::{self, PCI_ETHERNET};
use crate::finding::Finding;
use crate::guard::{self, Use};
use crate::host::Host;
use crate::network::PciNic;
use crate::operation::Operation;
use crate::wanted::Wanted;

const VFIO: &str = "vfio-pci";
/// The setting by which VFIO does without an IOMMU, in which case the port can reach all memory.
const WITHOUT_IOMMU: &str = "sys/module/vfio/parameters/enable_unsafe_noiommu_mode";

pub(super) fn plan(host: &Host, wanted: &Wanted, plan: &mut Plan) {
    plan.refusals.extend(refusals(host, wanted));
    match &wanted.device {
        Some(Device::Pci(address)) => pci(host, wanted, *address, plan),
        Some(Device::Vdev(vdev)) => queues(host, wanted, vdev, plan),
        None => {}
    }
}

/// Why the wanted port is not to be taken, one finding for each use the kernel has for it.
pub(crate) fn refusals(host: &Host, wanted: &Wanted) -> Vec<Finding> {
    let (interfaces, is_shared) = match &wanted.device {
        Some(Device::Pci(address)) => match host.network.pci_nic(*address) {
            None => return vec![no_device(host, *address)],
            Some(nic) if nic.class != PCI_ETHERNET => {
                return vec![Finding::blocks(
                    format!(
                        "{address} is no Ethernet controller (but Wi-Fi or InfiniBand), and DPDK drives none such"
                    ),
                    "name another port, or a virtual one on it: net_af_packet0,iface=INTERFACE",
                )];
            }
            Some(nic) if is_hidden(nic) => {
                return vec![Finding::blocks(
                    format!(
                        "{address} belongs to the kernel, and its interface is not to be seen: it may be in another \
                             network namespace, and in use"
                    ),
                    "look with ip netns, and bring it back: ip netns exec NAMESPACE ip link set INTERFACE netns 1",
                )];
            }
            Some(nic) => (nic.interfaces.clone(), shares(nic).is_some()),
        },
        // XDP takes the packets of its queues from the kernel; net_af_packet only looks at them.
        Some(Device::Vdev(vdev)) if vdev.driver() == "net_af_xdp" => {
            (vdev.interface().map(str::to_owned).into_iter().collect(), true)
        }
        _ => return Vec::new(),
    };
    let uses = guard::uses(host, wanted, &interfaces).into_iter();
    // A shared port stays the kernel's interface, and RoCE wants an address on it.
    let uses = uses.filter(|use_| !(is_shared && matches!(use_.by, Use::Network(..))));
    uses.map(|use_| Finding::blocks(use_.to_string(), use_.by.fix(&use_.interface))).collect()
}

/// A driver of the kernel's has its function, and no interface shows: drivers that make none are few.
pub(crate) fn is_hidden(nic: &PciNic) -> bool {
    let makes_one = |driver: &str| !drivers::is_user(driver) && driver != "pci-stub";
    nic.interfaces.is_empty() && nic.driver.as_deref().is_some_and(makes_one)
}

pub(crate) fn no_device(host: &Host, address: PciAddress) -> Finding {
    let there: Vec<_> = host.network.pci.iter().map(|nic| nic.address.to_string()).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    Finding::blocks(
        format!("there is no network device at PCI address {address}; there is {there}"),
        "name one that exists (keyferry-nic-config list)",
    )
}

pub(crate) fn shares(nic: &PciNic) -> Option<&'static drivers::Shared> {
    nic.driver.as_deref().and_then(drivers::shared)
}

fn pci(host: &Host, wanted: &Wanted, address: PciAddress, plan: &mut Plan) {
    let Some(nic) = host.network.pci_nic(address) else { return };
    let has = nic.driver.as_deref();
    if let Some(shared) = shares(nic) {
        plan.notes.push(Finding::note(
            format!("{address} is left to {}, which shares it with DPDK ({})", shared.name, shared.source),
            "nothing has to be done",
        ));
        return;
    }
    let target = match (&wanted.driver, has) {
        (Some(driver), _) => driver,
        (None, Some(driver)) if drivers::is_user(driver) => driver,
        (None, _) => VFIO,
    };
    let needs_iommu = target == VFIO && kernel::needs_iommu(host, wanted);
    let reboot = if needs_iommu { Reboot::Before } else { Reboot::No };
    let without_iommu = target == VFIO && host.network.iommu_groups == 0 && !needs_iommu;
    if has != Some(target) && !host.kernel.has_module(target) {
        plan.steps.push(Step {
            what: format!("module {target}"),
            why: "the port is driven from user space through it".to_owned(),
            now: "not loaded".to_owned(),
            wanted: "loaded".to_owned(),
            reboot,
            undo: format!("modprobe --remove {target}"),
            operations: vec![Operation::Load { module: target.to_owned() }],
            by_hand: None,
        });
    }
    if without_iommu && !host.network.vfio_without_iommu {
        plan.steps.push(Step {
            what: "VFIO without an IOMMU".to_owned(),
            why: "this machine has none; the port can then reach all of its memory".to_owned(),
            now: "N".to_owned(),
            wanted: "Y".to_owned(),
            reboot,
            undo: format!("echo N > /{WITHOUT_IOMMU}"),
            operations: vec![Operation::Set { path: WITHOUT_IOMMU.to_owned(), value: "Y".to_owned() }],
            by_hand: None,
        });
    }
    if has != Some(target) {
        plan.steps.push(Step {
            what: format!("driver of {address}"),
            why: match nic.interfaces.first() {
                Some(interface) => format!("the node drives it itself; {interface} is gone meanwhile"),
                None => "the node drives it itself".to_owned(),
            },
            now: has.unwrap_or("none").to_owned(),
            wanted: target.to_owned(),
            reboot,
            undo: format!("{address} goes back to {}", has.unwrap_or("no driver")),
            operations: vec![Operation::Bind { address: address.to_string(), driver: target.to_owned() }],
            by_hand: None,
        });
    }
}

/// A virtual port on some queues of an interface: what comes by the others never reaches it.
fn queues(host: &Host, wanted: &Wanted, vdev: &Vdev, plan: &mut Plan) {
    if vdev.driver() != "net_af_xdp" {
        return;
    }
    let Some(interface) = vdev.interface().and_then(|name| host.network.interface(name)) else { return };
    let workers = wanted.workers.len();
    if interface.queues != 0 && interface.queues != workers {
        plan.steps.push(Step {
            what: format!("queues of {}", interface.name),
            why: "RSS spreads packets over all of them, and only those of workers are read".to_owned(),
            now: interface.queues.to_string(),
            wanted: workers.to_string(),
            reboot: Reboot::No,
            undo: format!("ethtool -L {} combined {}", interface.name, interface.queues),
            operations: Vec::new(),
            by_hand: Some(format!("ethtool -L {} combined {workers}", interface.name)),
        });
    }
}
