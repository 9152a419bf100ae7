//! What is printed: tables of the host and of a plan, aligned, without colours or lines.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::drivers;
use crate::finding::Finding;
use crate::guard;
use crate::host::Host;
use crate::list;
use crate::plan::{Plan, Reboot};
use crate::wanted::Wanted;

/// Operations of a step that are shown; JSON has all.
const OPERATIONS_SHOWN: usize = 4;

/// What a host offers, for people and, as JSON, for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// Network functions.
    pub ports: Vec<PortRow>,
    /// RDMA ports.
    pub rdma: Vec<RdmaRow>,
    /// NUMA nodes.
    pub nodes: Vec<NodeRow>,
    /// One line each about the whole machine.
    pub machine: Vec<String>,
}

/// A network function, or an interface on none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortRow {
    /// PCI address.
    pub device: String,
    /// Kernel interfaces on it.
    pub interfaces: Vec<String>,
    /// Driver.
    pub driver: Option<String>,
    /// Whose it is: `kernel`, `user space`, or `shared`.
    pub whose: String,
    /// NUMA node.
    pub node: Option<usize>,
    /// Rate in Mbit/s.
    pub rate_mbit: Option<u32>,
    /// Whether it has a link.
    pub link: Option<bool>,
    /// What the kernel uses it for.
    pub uses: Vec<String>,
}

/// An RDMA port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RdmaRow {
    /// `mlx5_0:1`.
    pub port: String,
    /// Its interface.
    pub interface: Option<String>,
    /// Its state, as the kernel says it.
    pub state: String,
    /// `RoCE`, `Soft-RoCE` or `InfiniBand`.
    pub kind: String,
    /// GIDs with their index; of RoCE only those of version 2.
    pub gids: Vec<String>,
}

/// A NUMA node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeRow {
    /// Its number; `None`: the machine has none.
    pub node: Option<usize>,
    /// First threads of its physical cores, as a list of the kernel's.
    pub cores: String,
    /// Their other threads.
    pub second_threads: String,
    /// Cores kept free of other work.
    pub isolated: String,
    /// Hugepages: free and reserved of each size.
    pub hugepages: Vec<String>,
}

impl Listing {
    /// Of a host.
    pub fn new(host: &Host) -> Listing {
        Listing { ports: ports(host), rdma: rdma(host), nodes: nodes(host), machine: machine(host) }
    }
}

fn ports(host: &Host) -> Vec<PortRow> {
    let row = |nic: &crate::network::PciNic| {
        let interfaces = nic.interfaces.iter().filter_map(|name| host.network.interface(name));
        let uses: BTreeSet<_> =
            guard::uses(host, &Wanted::default(), &nic.interfaces).into_iter().map(|use_| use_.by).collect();
        PortRow {
            device: nic.address.to_string(),
            interfaces: nic.interfaces.clone(),
            driver: nic.driver.clone(),
            whose: match nic.driver.as_deref() {
                Some(driver) if drivers::is_user(driver) => "user space",
                Some(driver) if drivers::shared(driver).is_some() => "shared",
                Some(_) => "kernel",
                None => "nobody",
            }
            .to_owned(),
            node: nic.node,
            rate_mbit: interfaces.clone().filter_map(|interface| interface.rate_mbit).max(),
            link: interfaces.filter_map(|interface| interface.carrier).max(),
            uses: uses.iter().map(ToString::to_string).collect(),
        }
    };
    host.network.pci.iter().map(row).collect()
}

fn rdma(host: &Host) -> Vec<RdmaRow> {
    let mut rows = Vec::new();
    for device in &host.network.rdma {
        for port in &device.ports {
            let gids = port.gids.iter().filter(|gid| gid.is_roce_v2 || !port.is_ethernet);
            let gid = |gid: &crate::rdma::Gid| {
                format!("{}: {}", gid.index, std::net::IpAddr::V6(gid.address).to_canonical())
            };
            rows.push(RdmaRow {
                port: format!("{}:{}", device.name, port.number),
                interface: port.interface().map(str::to_owned),
                state: port.state.clone(),
                kind: match (port.is_ethernet, device.is_software()) {
                    (true, true) => "Soft-RoCE",
                    (true, false) => "RoCE",
                    (false, _) => "InfiniBand",
                }
                .to_owned(),
                gids: gids.map(gid).collect(),
            });
        }
    }
    rows
}

fn nodes(host: &Host) -> Vec<NodeRow> {
    let cores = &host.cores;
    let mut numbers: BTreeSet<Option<usize>> = cores.nodes.values().copied().map(Some).collect();
    if numbers.is_empty() {
        numbers.insert(None);
    }
    let row = |node: Option<usize>| {
        let all: BTreeSet<_> =
            cores.online.iter().copied().filter(|core| cores.nodes.get(core).copied() == node).collect();
        let first: BTreeSet<_> =
            all.iter().copied().filter(|core| cores.first_thread(*core) == *core).collect();
        let pools = host.memory.huge.iter().filter(|pool| pool.node == node);
        NodeRow {
            node,
            second_threads: list::write(&(&all - &first)),
            cores: list::write(&first),
            isolated: list::write(&(&all & &cores.isolated)),
            hugepages: pools
                .map(|pool| format!("{} of {} free, {} KiB each", pool.free, pool.total, pool.page_kib))
                .collect(),
        }
    };
    numbers.into_iter().map(row).collect()
}

fn machine(host: &Host) -> Vec<String> {
    let iommu = match host.network.iommu_groups {
        0 => "IOMMU: off, or there is none".to_owned(),
        groups => format!("IOMMU: on, {groups} groups"),
    };
    let governors: BTreeSet<_> = host.cores.governors.values().map(String::as_str).collect();
    let governor = match governors.len() {
        0 => "governor: none can be chosen".to_owned(),
        _ => format!("governor: {}", governors.into_iter().collect::<Vec<_>>().join(", ")),
    };
    let guest = if host.kernel.is_guest { "a virtual machine" } else { "no virtual machine" };
    vec![iommu, governor, format!("this is {guest}")]
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.ports.iter().map(|port| {
            vec![
                port.device.clone(),
                or_dash(port.interfaces.join(", ")),
                or_dash(port.driver.clone().unwrap_or_default()),
                port.whose.clone(),
                number(port.node),
                port.rate_mbit.map_or("-".to_owned(), |rate| rate.to_string()),
                port.link.map_or("-", |link| if link { "up" } else { "none" }).to_owned(),
                or_dash(port.uses.join(", ")),
            ]
        });
        let head =
            ["port", "interface", "driver", "whose", "node", "Mbit/s", "link", "the kernel's use of it"];
        writeln!(f, "{}", table(&head, rows))?;
        let rows = self.rdma.iter().map(|port| {
            vec![
                port.port.clone(),
                or_dash(port.interface.clone().unwrap_or_default()),
                port.kind.clone(),
                port.state.clone(),
                or_dash(port.gids.join(", ")),
            ]
        });
        writeln!(f, "{}", table(&["RDMA port", "interface", "kind", "state", "GIDs (RoCE v2)"], rows))?;
        let rows = self.nodes.iter().map(|node| {
            vec![
                number(node.node),
                or_dash(node.cores.clone()),
                or_dash(node.second_threads.clone()),
                or_dash(node.isolated.clone()),
                or_dash(node.hugepages.join("; ")),
            ]
        });
        writeln!(f, "{}", table(&["node", "cores", "second threads", "isolated", "hugepages"], rows))?;
        writeln!(f, "{}", self.machine.join("\n"))
    }
}

/// A plan as text: its steps as a table, then what each does, then what is refused and noted.
pub fn plan(plan: &Plan) -> String {
    let mut text = String::new();
    for refusal in &plan.refusals {
        text += &format!("refused: {}: {}\n", refusal.what, refusal.fix);
    }
    if plan.steps.is_empty() && plan.refusals.is_empty() {
        text += "nothing has to be done\n";
    }
    if !plan.steps.is_empty() {
        let rows = plan.steps.iter().map(|step| {
            let reboot = match step.reboot {
                Reboot::No => "no",
                Reboot::After => "needs one",
                Reboot::Before => "waits for one",
            };
            let who = match (step.operations.is_empty(), &step.by_hand) {
                (false, None) => "apply",
                (false, Some(_)) => "apply, then you",
                (true, _) => "you",
            };
            vec![step.what.clone(), step.now.clone(), step.wanted.clone(), reboot.to_owned(), who.to_owned()]
        });
        text += &table(&["what", "now", "wanted", "reboot", "who"], rows);
        for step in &plan.steps {
            text += &format!("\n{}: {}\n", step.what, step.why);
            for operation in step.operations.iter().take(OPERATIONS_SHOWN) {
                text += &format!("  apply    {operation}\n");
            }
            if step.operations.len() > OPERATIONS_SHOWN {
                text +=
                    &format!("  apply    and {} more like these\n", step.operations.len() - OPERATIONS_SHOWN);
            }
            if let Some(by_hand) = &step.by_hand {
                text += &format!("  you      {by_hand}\n");
            }
            text += &format!("  undone   {}\n", step.undo);
        }
    }
    for note in &plan.notes {
        text += &format!("\nnote: {}: {}\n", note.what, note.fix);
    }
    text
}

/// Findings, worst first, each with what mends it below.
pub fn findings(findings: &[Finding]) -> String {
    findings
        .iter()
        .map(|finding| format!("{}: {}\n  -> {}\n", finding.severity, finding.what, finding.fix))
        .collect()
}

/// Rows below a head, in columns of equal width; empty without rows, but for the head.
fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(ToString::to_string).collect();
    let rows: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
    let columns = rows[0].len();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn number(number: Option<usize>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [vec!["a".to_owned(), "bbb".to_owned()], vec!["cccc".to_owned(), "d".to_owned()]];
        assert_eq!(table(&["x", "yy"], rows.into_iter()), "x     yy\na     bbb\ncccc  d\n");
    }
}
