//! Packet memory: hugepages, where they are, and the limit on locking.

use crate::finding::Finding;
use crate::host::Host;
use crate::memory::Memlock;
use crate::wanted::{Hugepages, Wanted};

/// Locked memory a node wants besides its packet memory: keys and rings, in MiB.
const LOCKED_MIB: u64 = 64;
/// Size of a hugepage where the kernel does not say, in KiB: x86 and most of arm64.
const HUGE_PAGE_KIB: u64 = 2048;

pub(super) fn check(host: &Host, wanted: &Wanted, findings: &mut Vec<Finding>) {
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
