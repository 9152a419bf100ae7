//! What the kernel uses an interface for, so that no port is taken that this machine is reached by. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::host::Host;
use crate::wanted::{Wanted, is_carried};

/// Where sshd listens, unless the environment of a session says otherwise.
const SSH_PORT: u16 = 22;

/// One thing the kernel uses an interface for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// The way to everywhere else; of IPv6 or of IPv4.
    DefaultRoute(bool),
    /// Somebody is logged in by it, from this address.
    Ssh(IpAddr),
    /// A control link's end, here or there.
    Link(IpAddr),
    /// A network of the kernel's.
    Network(IpAddr, u8),
}

/// A use of one of several interfaces, and the interface whose own it is: a bond, bridge or VLAN above that one, maybe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InUse {
    /// The interface asked about.
    pub interface: String,
    /// The interface above it, where it is not itself.
    pub through: Option<String>,
    /// What for.
    pub by: Use,
}

/// What the kernel uses these interfaces for, worst first.
pub fn uses(host: &Host, wanted: &Wanted, interfaces: &[String]) -> Vec<InUse> {
    let all: BTreeSet<(Use, &str)> = all(host, wanted).collect();
    let mut found = Vec::new();
    for interface in interfaces {
        let above = host.network.above(interface);
        for (by, name) in all.iter().filter(|(_, name)| above.contains(name)) {
            let through = (name != interface).then(|| (*name).to_owned());
            found.push(InUse { interface: interface.clone(), through, by: by.clone() });
        }
    }
    found.sort_by(|a, b| a.by.cmp(&b.by));
    found
}

/// Every use of every interface.
fn all<'h>(host: &'h Host, wanted: &'h Wanted) -> impl Iterator<Item = (Use, &'h str)> {
    let routes = &host.routes;
    let own = routes.routes.iter().filter_map(|route| {
        let by = match (route.is_default(), route.to) {
            (true, to) => Use::DefaultRoute(to.is_ipv6()),
            // Every interface that is up has one of these.
            (false, IpAddr::V6(to)) if to.is_unicast_link_local() || to.is_multicast() => return None,
            (false, to) => Use::Network(to, route.prefix),
        };
        Some((by, route.interface.as_str()))
    });
    let sessions = host.ssh.iter().copied().chain(
        routes
            .connections
            .iter()
            .filter(|connection| connection.local.1 == SSH_PORT)
            .map(|connection| (connection.local.0, connection.remote.0)),
    );
    let sessions = sessions.filter(|(_, remote)| is_carried(*remote)).flat_map(|(local, remote)| {
        let ways = routes.interfaces_to(local).into_iter().chain(routes.interfaces_to(remote));
        ways.map(move |name| (Use::Ssh(remote), name))
    });
    let links = wanted.links.iter().flat_map(|address| {
        routes.interfaces_to(*address).into_iter().map(|name| (Use::Link(*address), name))
    });
    own.chain(sessions).chain(links)
}

impl Use {
    /// What to do so that the port can be had after all; one sentence without its full stop.
    pub fn fix(&self, interface: &str) -> String {
        match self {
            Use::DefaultRoute(is_ipv6) => {
                let family = if *is_ipv6 { "-6 " } else { "" };
                format!(
                    "choose another port for [nic] device, or move the default route: \
                     ip {family}route replace default via ROUTER dev OTHER; ip {family}route delete default dev {interface}"
                )
            }
            Use::Ssh(_) => {
                "choose another port for [nic] device, or log in by another interface or the console".to_owned()
            }
            Use::Link(_) => {
                "choose another port for [nic] device, or move [cluster] listen and the way to peers to another interface"
                    .to_owned()
            }
            Use::Network(..) => {
                format!("if nothing needs it: ip address flush dev {interface}; else choose another port")
            }
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Use::DefaultRoute(false) => f.write_str("the default route"),
            Use::DefaultRoute(true) => f.write_str("the IPv6 default route"),
            Use::Ssh(remote) => write!(f, "the SSH session from {remote}"),
            Use::Link(address) => write!(f, "the control link to or at {address}"),
            Use::Network(to, prefix) => write!(f, "the kernel's network {to}/{prefix}"),
        }
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.through {
            None => write!(f, "{} carries {}", self.interface, self.by),
            Some(through) => write!(f, "{} is part of {through}, which carries {}", self.interface, self.by),
        }
    }
}
