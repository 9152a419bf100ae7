//! Cores, their NUMA nodes and governors, and the instructions that make AES fast; from sysfs and `/proc/cpuinfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::host::{entries, line};
use crate::list;

/// The machine's cores.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cores {
    /// Cores the kernel has online.
    pub online: BTreeSet<usize>,
    /// Cores this process may run on (its cpuset).
    pub allowed: BTreeSet<usize>,
    /// Cores kept free of other work (`isolcpus`).
    pub isolated: BTreeSet<usize>,
    /// Cores without a timer tick while one thread runs on them (`nohz_full`).
    pub tickless: BTreeSet<usize>,
    /// What chooses each core's frequency, where that can be chosen.
    pub governors: BTreeMap<usize, String>,
    /// NUMA node of each core, where the machine has nodes.
    pub nodes: BTreeMap<usize, usize>,
    /// Other threads of the same physical core.
    pub siblings: BTreeMap<usize, BTreeSet<usize>>,
}

/// Instructions AES-GCM runs on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// AES rounds (AES-NI, ARMv8 crypto extension).
    pub aes: bool,
    /// Carry-less multiplication, for GCM's authenticator.
    pub clmul: bool,
    /// AES on wide vectors.
    pub vaes: bool,
    /// AVX-512 with what AES-GCM needs of it.
    pub avx512: bool,
}

impl Cores {
    pub(crate) fn read(root: &Path) -> Cores {
        let cpu = root.join("sys/devices/system/cpu");
        let online = list::parse(&line(&cpu.join("online")));
        let status = std::fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
        let allowed = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
            .map_or_else(|| online.clone(), |text| &list::parse(text) & &online);
        let siblings = |core: &usize| {
            let path = cpu.join(format!("cpu{core}/topology/thread_siblings_list"));
            let mut siblings = list::parse(&line(&path));
            siblings.remove(core);
            (*core, siblings)
        };
        let governor = |core: &usize| {
            let governor = line(&cpu.join(format!("cpu{core}/cpufreq/scaling_governor")));
            (!governor.is_empty()).then_some((*core, governor))
        };
        Cores {
            allowed,
            isolated: list::parse(&line(&cpu.join("isolated"))),
            tickless: list::parse(&line(&cpu.join("nohz_full"))),
            governors: online.iter().filter_map(governor).collect(),
            nodes: nodes(root),
            siblings: online.iter().map(siblings).filter(|(_, siblings)| !siblings.is_empty()).collect(),
            online,
        }
    }

    /// Cores a thread of this process can be pinned to.
    pub fn usable(&self) -> &BTreeSet<usize> {
        &self.allowed
    }

    /// The first thread of a core's physical core.
    pub fn first_thread(&self, core: usize) -> usize {
        let siblings = self.siblings.get(&core).into_iter().flatten().copied();
        siblings.chain([core]).min().expect("the core itself is there")
    }

    /// The NUMA node of a core; 0 where the machine has none.
    pub fn node(&self, core: usize) -> usize {
        self.nodes.get(&core).copied().unwrap_or(0)
    }
}

fn nodes(root: &Path) -> BTreeMap<usize, usize> {
    let mut nodes = BTreeMap::new();
    for name in entries(&root.join("sys/devices/system/node")) {
        let Some(node) = name.strip_prefix("node").and_then(|number| number.parse().ok()) else { continue };
        let cores = line(&root.join("sys/devices/system/node").join(&name).join("cpulist"));
        nodes.extend(list::parse(&cores).into_iter().map(|core| (core, node)));
    }
    nodes
}

impl Features {
    pub(crate) fn read(root: &Path) -> Features {
        let text = std::fs::read_to_string(root.join("proc/cpuinfo")).unwrap_or_default();
        // x86 says "flags", arm64 "Features".
        let flags: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| matches!(name.trim(), "flags" | "Features"))
            .map(|(_, flags)| flags.split_whitespace().collect())
            .unwrap_or_default();
        let all = |names: &[&str]| names.iter().all(|name| flags.contains(name));
        Features {
            aes: all(&["aes"]),
            clmul: all(&["pclmulqdq"]) || all(&["pmull"]),
            vaes: all(&["vaes", "vpclmulqdq"]),
            avx512: all(&["avx512f", "avx512bw", "avx512vl", "avx512dq"]),
        }
    }
}
