//! A cluster under a flood: its packets and who sends them, or its requests and who asks; who watches the cluster
//! meanwhile, and what those who are established notice ([`compare`]).

pub mod compare;
pub mod packets;
pub mod requests;
pub mod sender;
pub mod watch;

pub use packets::Kind;
pub use requests::{Asking, Requests};
pub use sender::{Flood, Sending, Sent};
pub use watch::{Seen, Watch};

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use crate::certificates::NAME;
use crate::cluster::{Cluster, SERVICE_PORT, SERVICE4};
use crate::{Description, Netns};

/// Where each process has its counters for Prometheus, in its own namespace.
pub const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// The service of a cluster, as a flood has it.
///
/// # Panics
/// Never: the address is one.
pub fn service() -> SocketAddrV4 {
    SocketAddrV4::new(SERVICE4.parse().expect("an address"), SERVICE_PORT)
}

/// A cluster whose nodes and distributors answer sources of a flood by way of the clients' host, which is a router that
/// loses them, and have counters for Prometheus at [`METRICS`].
pub fn with_way_out(description: Description) -> Description {
    let gateway = crate::cluster::Address::Client(1).v4();
    let keys = format!("[nic]\ngateways = [\"{gateway}\"]\n[admin]\nmetrics = \"{METRICS}\"");
    description.with_node(&keys).with_distributor(&keys)
}

/// Whether these clients' host sends what it does not know on: it must not, or packets of a flood went round in circles.
pub fn loses_strays(clients: &Netns) -> bool {
    let output = clients.command("sysctl").args(["-n", "net.ipv4.ip_forward"]).output();
    output.is_ok_and(|output| output.stdout.starts_with(b"0"))
}

/// The load generator's arguments for whoever asks a cluster's synthetic application from all addresses of clients.
fn ask(cluster: &Cluster) -> Vec<String> {
    vec![
        "keyferry-load".to_owned(),
        format!("https://{NAME}/"),
        format!("--resolve={NAME}:{SERVICE4}"),
        format!("--ca={}", cluster.ca().display()),
        "--synthetic".to_owned(),
        format!("--source={}", cluster.client_addresses().join(",")),
    ]
}
