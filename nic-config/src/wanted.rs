//! What a node or distributor wants of the host: its core map and its port. Text of its configuration file comes in; it is
//! read leniently, as `keyferry check` says all that is wrong with a file, and a test there holds both readings together.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use crate::device::{Device, DeviceError};

/// What a configuration asks of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The port.
    pub device: Option<Device>,
    /// The driver its PCI function is to have, of those that give it to user space; `None`: what suits the machine.
    pub driver: Option<String>,
    /// The control thread's core.
    pub control: Option<usize>,
    /// Cores that poll the port.
    pub workers: BTreeSet<usize>,
    /// Cores of application threads.
    pub apps: BTreeSet<usize>,
    /// They spin: nothing else gets a turn on their cores.
    pub spin: bool,
    /// Addresses the node answers for.
    pub addresses: Vec<IpAddr>,
    /// Ends of control links, here and there: the kernel carries them.
    pub links: BTreeSet<IpAddr>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Packet memory, in MiB.
    pub memory_mib: u64,
    /// Whether that memory is in hugepages.
    pub hugepages: Hugepages,
    /// Peers are reached through verbs.
    pub verbs: bool,
    /// With verbs: an IP address of an RDMA port, or `DEVICE[:PORT]`.
    pub fabric: Option<String>,
}

/// Whether packet memory is in hugepages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// Where there are enough.
    #[default]
    Auto,
    /// Always: do not start without.
    Require,
    /// Not at all.
    Never,
}

/// Why a file says nothing of use.
#[derive(Debug, thiserror::Error)]
pub enum WantedError {
    /// It is no TOML, or a key has a value of another type.
    #[error("{0}: keyferry check --config FILE says what to write")]
    Toml(#[from] toml::de::Error),
    /// `[nic] device` names no port.
    #[error("[nic] device: {0}")]
    Device(#[from] DeviceError),
}

impl Wanted {
    /// Reads what a node's or distributor's file asks of the host; keys that ask nothing of it are passed over.
    ///
    /// # Errors
    /// It cannot be told what the file asks.
    pub fn read(text: &str) -> Result<Wanted, WantedError> {
        let file: File = toml::from_str(text)?;
        let device = file.nic.device.as_deref().map(str::parse).transpose()?;
        let address = |text: &str| text.split('/').next().and_then(|address| address.parse().ok());
        let links = file.cluster.listen.iter().chain(file.peer.iter().map(|peer| &peer.address));
        let links = links.chain(file.node.links().filter_map(|node| node.link.as_ref()));
        Ok(Wanted {
            device,
            driver: None,
            control: Some(file.cores.control),
            workers: file.cores.workers,
            apps: file.cores.apps,
            spin: file.cores.idle == "spin",
            addresses: file.nic.addresses.iter().filter_map(|text| address(text)).collect(),
            links: links.filter_map(|text| link(text)).collect(),
            mtu: file.nic.mtu,
            memory_mib: file.nic.memory_mib,
            hugepages: file.nic.hugepages,
            verbs: file.fabric.driver == "verbs",
            fabric: file.fabric.address,
        })
    }

    /// Cores that are to be left to this process alone: those of threads that spin.
    pub fn spinning(&self) -> BTreeSet<usize> {
        if self.spin { &self.workers | &self.apps } else { BTreeSet::new() }
    }
}

/// The address of a link, if the kernel's network carries it: sockets of this machine's are not.
fn link(text: &str) -> Option<IpAddr> {
    let address = text.parse::<SocketAddr>().ok()?.ip();
    is_carried(address).then_some(address)
}

/// Whether packets to an address use a port.
pub fn is_carried(address: IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct File {
    cores: CoresText,
    nic: NicText,
    fabric: FabricText,
    cluster: ClusterText,
    peer: Vec<PeerText>,
    node: NodeText,
}

#[derive(Deserialize)]
#[serde(default)]
struct CoresText {
    control: usize,
    workers: BTreeSet<usize>,
    apps: BTreeSet<usize>,
    idle: String,
}

#[derive(Deserialize)]
#[serde(default)]
struct NicText {
    device: Option<String>,
    addresses: Vec<String>,
    mtu: u16,
    memory_mib: u64,
    hugepages: Hugepages,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FabricText {
    driver: String,
    address: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ClusterText {
    listen: Vec<String>,
}

#[derive(Deserialize)]
struct PeerText {
    address: String,
}

/// A distributor has a list of nodes where a node has its own table.
#[derive(Deserialize)]
#[serde(untagged)]
enum NodeText {
    Nodes(Vec<LinkedText>),
    Own(serde::de::IgnoredAny),
}

#[derive(Deserialize)]
struct LinkedText {
    link: Option<String>,
}

impl NodeText {
    fn links(&self) -> impl Iterator<Item = &LinkedText> {
        match self {
            NodeText::Nodes(nodes) => nodes.as_slice(),
            NodeText::Own(_) => &[],
        }
        .iter()
    }
}

impl Default for NodeText {
    fn default() -> NodeText {
        NodeText::Nodes(Vec::new())
    }
}

impl Default for CoresText {
    fn default() -> CoresText {
        CoresText { control: 0, workers: BTreeSet::from([1]), apps: BTreeSet::new(), idle: "spin".to_owned() }
    }
}

impl Default for NicText {
    fn default() -> NicText {
        NicText {
            device: None,
            addresses: Vec::new(),
            mtu: 1500,
            memory_mib: 256,
            hugepages: Hugepages::Auto,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_a_node_and_a_distributor() {
        let node = "[node]\nname = \"a\"\n[cores]\nworkers = [2, 3]\nidle = \"yield\"\n[nic]\ndevice = \"3b:00.0\"\n\
                    addresses = [\"192.0.2.10/24\"]\n[cluster]\nlisten = [\"unix:/run/a\", \"10.0.0.1:7411\"]\n\
                    [[peer]]\nname = \"b\"\naddress = \"10.0.0.2:7411\"\n[limits]\nconnections = 5\n";
        let wanted = Wanted::read(node).unwrap();
        assert_eq!((wanted.workers, wanted.spin), (BTreeSet::from([2, 3]), false));
        assert_eq!(wanted.links, BTreeSet::from(["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()]));
        assert_eq!((wanted.mtu, wanted.memory_mib, wanted.control), (1500, 256, Some(0)));

        let distributor = "[distributor]\nname = \"d\"\n[[node]]\nname = \"a\"\nlink = \"10.0.0.3:7411\"\n[[node]]\nname = \"w\"\n";
        let wanted = Wanted::read(distributor).unwrap();
        assert_eq!(wanted.links, BTreeSet::from(["10.0.0.3".parse().unwrap()]));
        assert_eq!((wanted.device, wanted.workers), (None, BTreeSet::from([1])));
    }

    #[test]
    fn says_what_is_wrong() {
        let error = |text: &str| Wanted::read(text).unwrap_err().to_string();
        assert!(error("[nic]\ndevice = \"net_af_paket0\"").contains("did you mean \"net_af_packet\""));
        assert!(error("[cores]\nworkers = 3").contains("keyferry check"));
    }

    proptest! {
        #[test]
        fn survives_anything(text in "(\\PC|\\[nic\\]|\\[cores\\]|device|workers|[=\n\"\\[\\],]){0,64}") {
            let _ = Wanted::read(&text);
        }
    }
}
