//! Writes a core map for this machine: a port, and cores on its NUMA node. Pure: a [`Host`] goes in, text for a node's
//! configuration file comes out.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::drivers::{self, PCI_ETHERNET};
use crate::guard::{self, Use};
use crate::host::Host;
use crate::network::PciNic;
use crate::plan;
use crate::wanted::Wanted;

/// Workers that are suggested at most; a node takes more.
const WORKERS_MAX: usize = 16;
/// Packet memory of a worker, and of a node at least, in MiB.
const WORKER_MIB: usize = 64;
const MEMORY_MIB_MIN: usize = 256;
/// Packet buffers of a worker, and of a node at least.
const WORKER_PACKETS: usize = 8192;
const PACKETS_MIN: usize = 16_384;

/// A core map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// `[nic] device`.
    pub device: String,
    /// Why this one; one sentence without its full stop.
    pub why: String,
    /// The NUMA node it is on, where that is known.
    pub node: Option<usize>,
    /// `[cores] control`.
    pub control: usize,
    /// `[cores] workers`.
    pub workers: BTreeSet<usize>,
    /// Threads of workers' physical cores that are left idle.
    pub idle: BTreeSet<usize>,
    /// Workers have their cores to themselves.
    pub spin: bool,
}

/// A core map for this host, with at most so many workers.
pub fn suggest(host: &Host, workers_max: Option<usize>) -> Suggestion {
    let (device, why, node) = device(host);
    let cores = cores_of(host, node);
    // The kernel keeps to core 0 what nobody else has, so the control thread goes there too, where that is near.
    let control = host.cores.usable().first().copied().unwrap_or(0);
    let first = |core: &usize| host.cores.first_thread(*core) == *core;
    let control_core = host.cores.first_thread(control);
    let free = |core: &usize| first(core) && *core != control_core;
    let most = workers_max.unwrap_or(WORKERS_MAX).max(1);
    let workers: BTreeSet<_> = cores.iter().copied().filter(free).take(most).collect();
    // One core, or one physical core: a worker shares it.
    let is_small = workers.is_empty();
    let workers = match is_small {
        true => cores.last().copied().into_iter().chain([control]).take(1).collect(),
        false => workers,
    };
    let idle = workers.iter().filter_map(|core| host.cores.siblings.get(core)).flatten().copied();
    Suggestion {
        device: with_queues(device, workers.len()),
        why,
        node,
        control,
        idle: &idle.collect::<BTreeSet<_>>() - &workers,
        // The machine's other work goes on where cores are few.
        spin: !is_small && host.cores.usable().len() > 2,
        workers,
    }
}

/// The fastest port that may be taken: one that shares itself with the kernel before others, as nothing has to be bound.
fn device(host: &Host) -> (String, String, Option<usize>) {
    let ports = host.network.pci.iter().filter(|nic| nic.class == PCI_ETHERNET && is_free(host, nic));
    let rate =
        |nic: &PciNic| nic.interfaces.iter().filter_map(|name| host.network.interface(name)?.rate_mbit).max();
    let is_shared =
        |nic: &PciNic| nic.driver.as_deref().is_some_and(|driver| drivers::shared(driver).is_some());
    let is_user = |nic: &PciNic| nic.driver.as_deref().is_some_and(drivers::is_user);
    let best =
        ports.max_by_key(|nic| (is_user(nic), rate(nic), is_shared(nic), std::cmp::Reverse(nic.address)));
    if let Some(nic) = best {
        let driver = nic.driver.as_deref().unwrap_or("no driver");
        let what = match rate(nic) {
            Some(rate) => format!("{driver}, {rate} Mbit/s"),
            None => driver.to_owned(),
        };
        let why = match (is_user(nic), is_shared(nic)) {
            (true, _) => format!("{what}: it is given to user space already"),
            (_, true) => {
                format!("{what}: it shares itself with DPDK, and the kernel's use does not forbid it")
            }
            _ => format!("{what}: the kernel does not use it, so keyferry-nic-config apply can take it"),
        };
        return (nic.address.to_string(), why, nic.node);
    }
    let virtual_why = "no port can be taken whole from the kernel: this one is an interface of your own, such as one end of a \
                       veth pair (ip link add kf0 type veth peer name kf1)";
    ("net_af_packet0,iface=kf0".to_owned(), virtual_why.to_owned(), None)
}

fn is_free(host: &Host, nic: &PciNic) -> bool {
    if plan::port::is_hidden(nic) {
        return false;
    }
    let is_shared = nic.driver.as_deref().is_some_and(|driver| drivers::shared(driver).is_some());
    guard::uses(host, &Wanted::default(), &nic.interfaces)
        .iter()
        .all(|use_| is_shared && matches!(use_.by, Use::Network(..)))
}

/// Cores near the port, those of other nodes where it has none that this process may use.
fn cores_of(host: &Host, node: Option<usize>) -> BTreeSet<usize> {
    let usable = host.cores.usable();
    let near = |core: &usize| node.is_none_or(|node| host.cores.node(*core) == node);
    let near: BTreeSet<_> = usable.iter().copied().filter(near).collect();
    if near.is_empty() { usable.clone() } else { near }
}

fn with_queues(device: String, workers: usize) -> String {
    match device.starts_with("net_af_packet") && workers > 1 {
        true => format!("{device},qpairs={workers}"),
        false => device,
    }
}

impl Suggestion {
    /// `[nic] memory_mib`.
    pub fn memory_mib(&self) -> usize {
        MEMORY_MIB_MIN.max(WORKER_MIB * self.workers.len())
    }

    /// The tables `[cores]` and `[nic]` of a configuration file, with an address that has to be replaced.
    pub fn toml(&self) -> String {
        self.toml_of("[\"192.0.2.10/24\"]  # yours")
    }

    /// The same with the node's address, which has its prefix.
    pub fn toml_with(&self, address: &str) -> String {
        self.toml_of(&format!("[\"{address}\"]"))
    }

    fn toml_of(&self, addresses: &str) -> String {
        let workers: Vec<_> = self.workers.iter().map(usize::to_string).collect();
        let mut text = String::new();
        let node = self.node.map_or("a machine without NUMA".to_owned(), |node| format!("NUMA node {node}"));
        let mut line = |row: &str| writeln!(text, "{row}").expect("a String takes all");
        line(
            "# Suggested by keyferry-nic-config for this machine; docs/examples/keyferry.toml has the other tables.",
        );
        line("[cores]");
        line(&format!("control = {}", self.control));
        line(&format!("workers = [{}]  # of {node}, one thread a physical core", workers.join(", ")));
        if !self.idle.is_empty() {
            line(&format!("# left idle: {}, the second threads of these", crate::list::write(&self.idle)));
        }
        line("apps = []  # workers run the application; move cores here where it computes for long");
        line(&format!("idle = \"{}\"", if self.spin { "spin" } else { "yield" }));
        line("");
        line("[nic]");
        line(&format!("# {}", self.why));
        line(&format!("device = \"{}\"", self.device));
        line(&format!("addresses = {addresses}"));
        line("hugepages = \"require\"");
        line(&format!("memory_mib = {}", self.memory_mib()));
        line(&format!("packets = {}", PACKETS_MIN.max(WORKER_PACKETS * self.workers.len())));
        text
    }
}
