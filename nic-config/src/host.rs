//! A snapshot of the host: everything [`check`](crate::check) looks at, read once.
//!
//! A file that is missing or unreadable is "not there", never an error: containers hide much of sysfs, and a
//! check must say what it can. Read-only.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::Path;

use crate::cpu::{Cores, Features};
use crate::interrupts::{self, Interrupt};
use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::network::Network;
use crate::routes::Routes;

/// Bits of `CapEff` in `/proc/self/status` (`linux/capability.h`).
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;

/// What this process may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    /// The effective user is root.
    pub root: bool,
    /// It may configure interfaces (`CAP_NET_ADMIN`).
    pub net_admin: bool,
    /// It may open packet sockets (`CAP_NET_RAW`).
    pub net_raw: bool,
    /// It may lock memory beyond the limit (`CAP_IPC_LOCK`).
    pub ipc_lock: bool,
}

/// The host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Host {
    /// Cores.
    pub cores: Cores,
    /// Instructions for AES.
    pub features: Features,
    /// Hugepages and memory.
    pub memory: Memory,
    /// Interfaces, PCI, RDMA.
    pub network: Network,
    /// The kernel's routes and connections.
    pub routes: Routes,
    /// The kernel itself.
    pub kernel: Kernel,
    /// Interrupts.
    pub interrupts: Vec<Interrupt>,
    /// What this process may do.
    pub rights: Rights,
    /// This end and the other of the SSH session this process runs in.
    pub ssh: Option<(IpAddr, IpAddr)>,
    /// `OPENSSL_ia32cap` of this process's environment: it takes instructions away from the AES code.
    pub ia32cap: Option<String>,
}

impl Host {
    /// Reads the host below `root`: `/`, or a fixture's folder.
    pub fn read(root: &Path) -> Host {
        let mut environment = environment(root);
        Host {
            cores: Cores::read(root),
            features: Features::read(root),
            memory: Memory::read(root),
            network: Network::read(root),
            routes: Routes::read(root),
            kernel: Kernel::read(root),
            interrupts: interrupts::read(root),
            rights: Rights::read(root),
            ssh: environment.get("SSH_CONNECTION").and_then(|text| ssh(text)),
            ia32cap: environment.remove("OPENSSL_ia32cap"),
        }
    }
}

impl Rights {
    fn read(root: &Path) -> Rights {
        let text = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("").trim();
        // Real, effective, saved and file-system user.
        let effective = field("Uid:").split_whitespace().nth(1);
        let bits = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(0);
        let has = |bit: u32| bits >> bit & 1 == 1;
        Rights {
            root: effective == Some("0"),
            net_admin: has(CAP_NET_ADMIN),
            net_raw: has(CAP_NET_RAW),
            ipc_lock: has(CAP_IPC_LOCK),
        }
    }
}

/// `CLIENT PORT SERVER PORT` (ssh(1)).
fn ssh(text: &str) -> Option<(IpAddr, IpAddr)> {
    let words: Vec<_> = text.split(' ').collect();
    let [client, _, server, _] = words[..] else { return None };
    // A link-local address has its interface behind it.
    let address = |text: &str| text.split('%').next()?.parse::<IpAddr>().ok();
    Some((address(server)?, address(client)?))
}

fn environment(root: &Path) -> BTreeMap<String, String> {
    let bytes = fs::read(root.join("proc/self/environ")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .split('\0')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A file's text without white space around it; empty if there is none.
pub(crate) fn line(path: &Path) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Names in a folder, sorted; none if there is no such folder.
pub(crate) fn entries(path: &Path) -> Vec<String> {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    let mut names: Vec<_> =
        fs::read_dir(path).map(|folder| folder.flatten().filter_map(name).collect()).unwrap_or_default();
    names.sort();
    names
}

/// The last part of what a symbolic link points to.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    fs::read_link(path).ok()?.file_name()?.to_str().map(str::to_owned)
}
