//! Hugepages on the NUMA nodes that want them: that of the port, where packet buffers are, and those of worker cores.

use std::collections::BTreeSet;

use super::{Plan, Reboot, Step};
use crate::device::Device;
use crate::finding::Finding;
use crate::host::Host;
use crate::memory::HugePool;
use crate::operation::Operation;
use crate::wanted::{Hugepages, Wanted};

pub(super) fn plan(host: &Host, wanted: &Wanted, plan: &mut Plan) {
    if wanted.hugepages == Hugepages::Never || wanted.memory_mib == 0 {
        return;
    }
    for node in nodes(host, wanted) {
        let free: u64 =
            host.memory.huge.iter().filter(|pool| pool.node == node).map(HugePool::free_mib).sum();
        if free >= wanted.memory_mib {
            continue;
        }
        let place = node.map_or("this machine".to_owned(), |node| format!("NUMA node {node}"));
        let Some(pool) = pool(host, node) else {
            plan.notes.push(Finding::note(
                format!("the kernel shows no hugepages of {place}"),
                "start a kernel that has them (CONFIG_HUGETLBFS), or set [nic] hugepages to \"never\"",
            ));
            continue;
        };
        let missing = ((wanted.memory_mib - free) * 1024).div_ceil(pool.page_kib.max(1));
        let pages = pool.total.saturating_add(missing);
        let path = file(node, pool.page_kib);
        plan.steps.push(Step {
            what: format!("hugepages of {place}"),
            why: format!(
                "{} MiB of packet memory are wanted there, and {free} MiB are free",
                wanted.memory_mib
            ),
            now: format!("{} of {} KiB", pool.total, pool.page_kib),
            wanted: format!("{pages} of {} KiB", pool.page_kib),
            reboot: Reboot::No,
            undo: format!("echo {} > /{path}", pool.total),
            operations: vec![Operation::Set { path, value: pages.to_string() }],
            by_hand: None,
        });
    }
}

/// NUMA nodes that packet memory is wanted on; `None` stands for a machine without.
pub(crate) fn nodes(host: &Host, wanted: &Wanted) -> BTreeSet<Option<usize>> {
    if host.memory.huge.iter().all(|pool| pool.node.is_none()) {
        return BTreeSet::from([None]);
    }
    let port = match &wanted.device {
        Some(Device::Pci(address)) => host.network.pci_nic(*address).and_then(|nic| nic.node),
        _ => None,
    };
    let workers = wanted.workers.iter().map(|core| host.cores.node(*core));
    port.into_iter().chain(workers).map(Some).collect()
}

/// The pool pages are added to: that of the kernel's usual size, or the smallest.
pub(crate) fn pool(host: &Host, node: Option<usize>) -> Option<&HugePool> {
    let pools = || host.memory.huge.iter().filter(|pool| pool.node == node);
    pools()
        .find(|pool| Some(pool.page_kib) == host.memory.huge_page_kib)
        .or_else(|| pools().min_by_key(|pool| pool.page_kib))
}

/// The file that reserves pages.
pub(crate) fn file(node: Option<usize>, page_kib: u64) -> String {
    let folder = match node {
        Some(node) => format!("sys/devices/system/node/node{node}"),
        None => "sys/kernel/mm".to_owned(),
    };
    format!("{folder}/hugepages/hugepages-{page_kib}kB/nr_hugepages")
}
