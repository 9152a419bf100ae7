//! RDMA devices, their ports and GIDs; from `/sys/class/infiniband`.

use std::net::Ipv6Addr;
use std::path::Path;

use crate::host::{entries, line, link_name};

/// Entries of a GID table that are read: a queue pair names its GID with 8 bits.
const GIDS_MAX: usize = 256;
/// Link layer of a RoCE port, as sysfs writes it.
const ETHERNET: &str = "Ethernet";

/// A device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaDevice {
    /// Its name, `mlx5_0`.
    pub name: String,
    /// The kernel driver of the PCI function it is on; `None` for software devices.
    pub driver: Option<String>,
    /// Ports.
    pub ports: Vec<RdmaPort>,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RdmaPort {
    /// Its number, from 1 on.
    pub number: usize,
    /// `ACTIVE`, `DOWN`, `INIT` or `ARMED`.
    pub state: String,
    /// It is on Ethernet: RoCE.
    pub is_ethernet: bool,
    /// What is in its GID table.
    pub gids: Vec<Gid>,
}

/// An entry of a GID table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gid {
    /// Its index.
    pub index: usize,
    /// The address.
    pub address: Ipv6Addr,
    /// Packets to it are UDP, which routers forward.
    pub is_roce_v2: bool,
    /// The network interface it comes from.
    pub interface: String,
}

impl RdmaDevice {
    /// It is Soft-RoCE or another device without hardware.
    pub fn is_software(&self) -> bool {
        self.driver.is_none()
    }
}

impl RdmaPort {
    /// Whether traffic can pass.
    pub fn is_active(&self) -> bool {
        self.state == "ACTIVE"
    }

    /// The network interface of the port, of which its first GID is.
    pub fn interface(&self) -> Option<&str> {
        self.gids.iter().map(|gid| gid.interface.as_str()).find(|name| !name.is_empty())
    }
}

/// Every device, by name.
pub(crate) fn read(root: &Path) -> Vec<RdmaDevice> {
    let folder = root.join("sys/class/infiniband");
    let device = |name: String| {
        let own = folder.join(&name);
        let ports = entries(&own.join("ports"));
        let port = |number: String| Some(read_port(&own.join("ports").join(&number), number.parse().ok()?));
        RdmaDevice {
            // Soft-RoCE says which interface it is on, and may show that one's device as its own.
            driver: link_name(&own.join("device/driver")).filter(|_| !own.join("parent").exists()),
            ports: ports.into_iter().filter_map(port).collect(),
            name,
        }
    };
    entries(&folder).into_iter().map(device).collect()
}

fn read_port(folder: &Path, number: usize) -> RdmaPort {
    let gid = |index: usize| {
        let address = line(&folder.join(format!("gids/{index}"))).parse::<Ipv6Addr>().ok()?;
        let attribute = |kind: &str| line(&folder.join(format!("gid_attrs/{kind}/{index}")));
        (address != Ipv6Addr::UNSPECIFIED).then(|| Gid {
            index,
            address,
            is_roce_v2: attribute("types") == "RoCE v2",
            interface: attribute("ndevs"),
        })
    };
    let indices = entries(&folder.join("gids")).into_iter().filter_map(|name| name.parse().ok());
    let mut indices: Vec<usize> = indices.filter(|index| *index < GIDS_MAX).collect();
    indices.sort_unstable();
    // "4: ACTIVE"
    let state = line(&folder.join("state"));
    let state = state.rsplit(':').next().unwrap_or("").trim().to_owned();
    RdmaPort {
        number,
        state,
        is_ethernet: line(&folder.join("link_layer")) == ETHERNET,
        gids: indices.into_iter().filter_map(gid).collect(),
    }
}
