//! `[cluster]` and `[[peer]]`: who the other nodes are, where they are reached, and how the nodes know each other.
//! Where etcd lists them there is no `[[peer]]`.

use std::path::PathBuf;
use std::time::Duration;

use super::changes::Ledger;
use super::etcd::{self, Etcd};
use super::lending::{Driver, PEERS_MAX, check_socket};
use super::node::name;
use super::reader::{Context, Section};
use crate::links::{Address, Peer, Trust, TrustError, trust};

/// Addresses a node listens on for its peers, at most.
pub const LISTEN_MAX: usize = 4;
/// Distributors in front of a node, at most.
pub const DISTRIBUTORS_MAX: usize = 16;

/// How nodes know and reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The certificates of the authority every node is certified by.
    pub ca: PathBuf,
    /// This node's certificate chain, for its name.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Where peers reach this node.
    pub listen: Vec<Address>,
    /// Silence on a link after which the peer is taken to be gone.
    pub heartbeat_timeout: Duration,
    /// Distributors that may connect to this node.
    pub distributors: Vec<String>,
    /// Where the other nodes are listed; `None`: in the file.
    pub etcd: Option<Etcd>,
}

impl Cluster {
    /// Reads the files.
    ///
    /// # Errors
    /// What makes them useless to a node of that name.
    pub fn trust(&self, node: &str) -> Result<Trust, TrustError> {
        Trust::load(&self.ca, &self.certificate, &self.key, node)
    }
}

/// Goes by another table of the file; `can`: it has links, and what they rest on is as it was.
pub(super) fn take_over(now: &mut Option<Cluster>, new: Option<&Cluster>, can: bool, ledger: &mut Ledger) {
    let table = "[cluster]";
    let (Some(now), Some(new)) = (now.as_mut(), new) else {
        // Listening, sessions and buffers follow from whether there is one at all.
        return ledger.fixed(table, "", &now.is_some(), &new.is_some());
    };
    let Cluster { ca, certificate, key, listen, heartbeat_timeout, distributors, etcd } = now;
    ledger.live_if(can, table, "ca", ca, &new.ca);
    ledger.live_if(can, table, "certificate", certificate, &new.certificate);
    ledger.live_if(can, table, "key", key, &new.key);
    ledger.fixed(table, "listen", listen, &new.listen);
    ledger.live(table, "heartbeat_timeout_ms", heartbeat_timeout, &new.heartbeat_timeout);
    // Workers announce sessions only where somebody wanted to know at start; of those that etcd lists it says itself.
    let can = can && !distributors.is_empty() && etcd.is_none();
    ledger.live_if(can, table, "distributors", distributors, &new.distributors);
    etcd::compare(etcd.as_ref(), new.etcd.as_ref(), ledger);
}

/// A node's table, if the file has peers or says where they are, or has distributors. Otherwise nothing of it is needed.
pub(super) fn read(mut section: Section<'_, '_>, node: &str, has_peers: bool) -> Option<Cluster> {
    let wants = "a list of their names, such as [\"d1\"]";
    let distributors = section.parsed_list("distributors", wants, 0..=DISTRIBUTORS_MAX, name);
    let distributors = distributors.unwrap_or_default();
    let has_others = has_peers || !distributors.is_empty();
    let cluster = read_with_etcd(section, node, has_others, etcd::OF_A_NODE);
    Some(Cluster { distributors, ..cluster? })
}

/// The table but for keys that nodes only have; it is needed where there are others, or etcd lists them.
pub(super) fn read_with_etcd(
    mut section: Section<'_, '_>,
    own: &str,
    has_others: bool,
    nodes: (u64, u64),
) -> Option<Cluster> {
    let members = section.section("etcd");
    let has_etcd = section.context.is_set(&section.path("etcd"));
    let cluster = read_common(section, own, has_others || has_etcd);
    let listen = cluster.as_ref().map(|cluster| cluster.listen.clone()).unwrap_or_default();
    let etcd = etcd::read(members, has_etcd, &listen, nodes);
    Some(Cluster { etcd, ..cluster? })
}

/// Files, addresses and times, which are needed if it has links.
fn read_common(mut section: Section<'_, '_>, own: &str, has_peers: bool) -> Option<Cluster> {
    let mut file = |key, wants| {
        let path = section.file(key);
        if has_peers { section.required(key, path, wants) } else { path }
    };
    let ca = file("ca", "the path of the cluster's CA certificate (keyferry ca init makes one)");
    let certificate = file("certificate", "the path of this node's certificate (keyferry ca node makes one)");
    let key = file("key", "the path of this node's key");
    let wants = "a list such as [\"unix:/run/keyferry/a.sock\", \"192.0.2.10:7411\"]";
    let folder = section.folder().to_owned();
    let listen = section.parsed_list("listen", wants, 1..=LISTEN_MAX, |text| address(text, &folder));
    let heartbeat_timeout = section.millis("heartbeat_timeout_ms", 3000, 200..=600_000);
    section.finish();
    let default = || vec![Address::Unix(PathBuf::from(format!("/run/keyferry/{own}.sock")))];
    let (ca, certificate, key) = (ca?, certificate?, key?);
    has_peers.then(|| Cluster {
        ca,
        certificate,
        key,
        listen: listen.unwrap_or_else(default),
        heartbeat_timeout,
        distributors: Vec::new(),
        etcd: None,
    })
}

pub(super) fn read_peer(mut section: Section<'_, '_>) -> Option<Peer> {
    let wants = "the peer's name in quotes";
    let name = section.parsed("name", wants, name);
    let name = section.required("name", name, wants);
    let wants = "\"IP:PORT\", or \"unix:PATH\" on one machine: an address of the peer's [cluster] listen";
    let folder = section.folder().to_owned();
    let reached = section.parsed("address", wants, |text| address(text, &folder));
    let reached = section.required("address", reached, wants);
    section.finish();
    Some(Peer { name: name?, address: reached? })
}

/// An address as the file has it; a relative path is relative to `folder`.
pub(crate) fn address(text: &str, folder: &std::path::Path) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            "" => Err("\"unix:\" lacks a path: write where the socket is".to_owned()),
            path if path.contains('\0') => Err("this path holds a NUL: write where the socket is".to_owned()),
            path => Ok(Address::Unix(folder.join(path))),
        };
    }
    let wrong = |_| format!("\"{text}\" is no address: write \"IP:PORT\" or \"unix:PATH\"");
    let address: std::net::SocketAddr = text.parse().map_err(wrong)?;
    if address.port() == 0 {
        return Err(format!(
            "\"{text}\" has no port: write one that is the same on both nodes, such as 7411"
        ));
    }
    Ok(Address::Tcp(address))
}

/// Whose file it is.
#[derive(Clone, Copy)]
pub(super) struct Own<'a> {
    /// The key of its name.
    pub(super) path: &'static str,
    /// Its name.
    pub(super) name: &'a str,
}

/// Whether addresses differ and suit the fabric, where there is one, and certificates are of use.
pub(super) fn check(
    context: &Context<'_>,
    own: Option<Own<'_>>,
    cluster: Option<&Cluster>,
    driver: Option<Driver>,
    peers: &[(usize, Peer)],
) {
    let Some(cluster) = cluster else { return };
    for (position, distributor) in cluster.distributors.iter().enumerate() {
        let is_peer = peers.iter().any(|(_, peer)| peer.name == *distributor);
        let is_own = own.is_some_and(|own| own.name == distributor);
        if is_peer || is_own || cluster.distributors[..position].contains(distributor) {
            let what = format!("\"{distributor}\" is another one's name too: give each its own");
            context.report("cluster.distributors", what);
        }
        if let Err(error) = trust::dns_name(distributor) {
            context.report("cluster.distributors", error.to_string());
        }
    }
    if let Some(etcd) = &cluster.etcd {
        etcd::check(context, etcd, driver, !peers.is_empty());
    }
    for address in &cluster.listen {
        if let Address::Unix(path) = address {
            check_socket(context, "cluster.listen", path);
        }
    }
    for (position, (index, peer)) in peers.iter().take(PEERS_MAX).enumerate() {
        let path = format!("peer[{index}].address");
        if cluster.listen.contains(&peer.address) {
            context.report(&path, "this node listens there itself: write the peer's");
        }
        if peers[..position].iter().any(|(_, other)| other.address == peer.address) {
            context.report(&path, "another peer has the same address: write this peer's own");
        }
        match (&peer.address, driver) {
            (Address::Unix(socket), _) => check_socket(context, &path, socket),
            (Address::Tcp(_), Some(Driver::Verbs) | None) => {}
            (Address::Tcp(_), Some(Driver::Shm)) => {
                context
                    .report(&path, "[fabric] driver \"shm\" passes memory to the peer: write \"unix:PATH\"");
            }
        }
        if let Err(error) = trust::dns_name(&peer.name) {
            context.report(&format!("peer[{index}].name"), error.to_string());
        }
    }
    let Some(own) = own else { return };
    if let Err(error) = cluster.trust(own.name) {
        let key = match &error {
            TrustError::Ca(..) => "cluster.ca",
            TrustError::Key(..) => "cluster.key",
            TrustError::Certificate(..) => "cluster.certificate",
            TrustError::Name(_) => own.path,
            TrustError::File(file) if file.path() == cluster.ca => "cluster.ca",
            TrustError::File(file) if file.path() == cluster.certificate => "cluster.certificate",
            TrustError::File(_) => "cluster.key",
        };
        context.report(key, error.to_string());
    }
}
