//! Hugepages by NUMA node and size, where they are mounted, free memory and the limit on locking it.

use std::path::{Path, PathBuf};

use crate::host::{entries, line};

/// Hugepages of one size, of one NUMA node where the machine has nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HugePool {
    /// NUMA node.
    pub node: Option<usize>,
    /// Size of a page, in KiB.
    pub page_kib: u64,
    /// Pages reserved.
    pub total: u64,
    /// Pages nobody uses.
    pub free: u64,
}

impl HugePool {
    /// Free memory of the pool, in MiB.
    pub fn free_mib(&self) -> u64 {
        self.free.saturating_mul(self.page_kib) / 1024
    }
}

/// How much memory this process may lock (`RLIMIT_MEMLOCK`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memlock {
    /// Any amount.
    Unlimited,
    /// At most this many bytes.
    Bytes(u64),
}

/// The host's memory as far as a node cares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Hugepages, by node and size.
    pub huge: Vec<HugePool>,
    /// Size of the hugepages that `vm.nr_hugepages` reserves, in KiB, if known.
    pub huge_page_kib: Option<u64>,
    /// Where a hugetlbfs is mounted.
    pub huge_mounts: Vec<PathBuf>,
    /// Memory that can be had without hugepages, in MiB, if known.
    pub available_mib: Option<u64>,
    /// The limit on locked memory, if known.
    pub memlock: Option<Memlock>,
}

impl Memory {
    pub(crate) fn read(root: &Path) -> Memory {
        Memory {
            huge: huge(root),
            huge_mounts: huge_mounts(root),
            huge_page_kib: meminfo_kib(root, "Hugepagesize:"),
            available_mib: meminfo_kib(root, "MemAvailable:").map(|kib| kib / 1024),
            memlock: memlock(root),
        }
    }

    /// Free hugepage memory of all nodes and sizes, in MiB.
    pub fn huge_free_mib(&self) -> u64 {
        self.huge.iter().map(HugePool::free_mib).sum()
    }

    /// Free hugepage memory of one node, in MiB.
    pub fn huge_free_mib_of(&self, node: usize) -> u64 {
        self.huge.iter().filter(|pool| pool.node == Some(node)).map(HugePool::free_mib).sum()
    }
}

fn huge(root: &Path) -> Vec<HugePool> {
    let nodes = root.join("sys/devices/system/node");
    let mut pools = Vec::new();
    for name in entries(&nodes) {
        let Some(node) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else { continue };
        pools.extend(huge_of(&nodes.join(name).join("hugepages"), Some(node)));
    }
    // A kernel without NUMA has the machine's pools only; with it they are the nodes' sums.
    if pools.is_empty() {
        pools = huge_of(&root.join("sys/kernel/mm/hugepages"), None);
    }
    pools.sort_by_key(|pool| (pool.node, pool.page_kib));
    pools
}

fn huge_of(folder: &Path, node: Option<usize>) -> Vec<HugePool> {
    let pool = |name: String| {
        let page_kib = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let number = |file| line(&folder.join(&name).join(file)).parse().unwrap_or(0);
        Some(HugePool { node, page_kib, total: number("nr_hugepages"), free: number("free_hugepages") })
    };
    entries(folder).into_iter().filter_map(pool).collect()
}

fn huge_mounts(root: &Path) -> Vec<PathBuf> {
    let text = std::fs::read_to_string(root.join("proc/mounts")).unwrap_or_default();
    let mount = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "hugetlbfs").then(|| PathBuf::from(path))
    };
    text.lines().filter_map(mount).collect()
}

fn meminfo_kib(root: &Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn memlock(root: &Path) -> Option<Memlock> {
    let text = std::fs::read_to_string(root.join("proc/self/limits")).ok()?;
    let soft =
        text.lines().find_map(|line| line.strip_prefix("Max locked memory"))?.split_whitespace().next()?;
    match soft {
        "unlimited" => Some(Memlock::Unlimited),
        bytes => bytes.parse().ok().map(Memlock::Bytes),
    }
}
