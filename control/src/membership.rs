//! What a distributor does when the cluster's members change. In: the list as [`members`](crate::members) has it, and places
//! that its worker has freed. Out: nodes of the worker, and the others of its links. Control thread.
//!
//! Every member of role `node` is a node, once its link says how it fares. One that is no longer listed gets nothing new, and
//! is let go when its link is down for good: its connections are its link's affair, never etcd's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{NodeId, State};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use crate::config::Distributor;
use crate::counters::{Block, Registry};
use crate::links::{Companions, Nodes, Others, Peer, Placed, Running, Said};
use crate::members::{List, Member, Role};

/// How often it is looked whether a link is down for good, or a place is free.
const LOOK: Duration = Duration::from_millis(100);

/// What is counted of them.
const NAMES: &[&str] = &["nodes", "nodes_up", "nodes_refused"];

/// What each of [`NAMES`] counts.
const HELP: [&str; NAMES.len()] = [
    "Nodes behind this distributor now.",
    "Nodes that take connections now.",
    "Members of role node that are not taken now: the log says why.",
];

/// The counters, each with what it counts.
pub(crate) fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMES.iter().copied().zip(HELP)
}

/// Why a member of role node is no node here; follows its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Refusal {
    #[error("it says no address of its port in etcd: run this release there")]
    Unsaid,
    #[error(
        "no address of its port is on a network of this distributor's [nic]: give its [nic] addresses one there"
    )]
    Elsewhere,
    #[error("it says to be at {0}, which is another one's: give each its own [nic] addresses")]
    Occupied(IpAddr),
    #[error("this distributor's file has a [[node]] of that name: give each its own")]
    Named,
    #[error("no [[service]] of this distributor has it among its nodes: write it there, or leave nodes out")]
    Unwanted,
    #[error("it says no address of links in etcd: write its [cluster] listen")]
    Unreachable,
    #[error("there is no room: raise [cluster.etcd] nodes_max of this distributor")]
    Full,
}

/// A member that is to be a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Admitted {
    placed: Placed,
    peer: Peer,
    incarnation: u64,
}

/// What a member would be as a node; `taken`: whose addresses are known.
fn admit(config: &Distributor, member: &Member, taken: &[Admitted]) -> Result<Admitted, Refusal> {
    if member.port_addresses.is_empty() {
        return Err(Refusal::Unsaid);
    }
    let networks = || config.nic.addresses.iter();
    let on_network =
        |address: &&IpAddr| networks().any(|cidr| cidr.contains(**address) && cidr.address() != **address);
    let address = *member.port_addresses.iter().find(on_network).ok_or(Refusal::Elsewhere)?;
    let is_taken = config.nodes.iter().any(|node| node.address == address)
        || taken.iter().any(|other| other.placed.address == address);
    if is_taken {
        return Err(Refusal::Occupied(address));
    }
    if config.nodes.iter().any(|node| node.name == member.name) {
        return Err(Refusal::Named);
    }
    let services = config.services.iter().enumerate().filter(|(_, service)| service.has(&member.name));
    let services: Vec<usize> = services.map(|(place, _)| place).collect();
    if services.is_empty() {
        return Err(Refusal::Unwanted);
    }
    let peer = member.reached(false).ok_or(Refusal::Unreachable)?;
    let (name, weight, services) = (member.name.clone(), member.weight, services.into_iter().collect());
    Ok(Admitted { placed: Placed { name, address, weight, services }, peer, incarnation: member.incarnation })
}

/// What a distributor has of its members.
pub(crate) struct Membership<'a> {
    config: &'a Distributor,
    nodes: &'a Nodes,
    companions: &'a Companions,
    /// Places that the worker has freed.
    vacated: Arc<ArrayQueue<NodeId>>,
    /// The links, as they were last set.
    linked: (Vec<Peer>, Vec<Peer>),
    block: Arc<Block>,
    said: Said,
}

impl<'a> Membership<'a> {
    pub(crate) fn new(
        config: &'a Distributor,
        nodes: &'a Nodes,
        companions: &'a Companions,
        vacated: Arc<ArrayQueue<NodeId>>,
        registry: &Registry,
    ) -> Membership<'a> {
        let block = registry.block(NAMES, "nodes".to_owned());
        Membership {
            config,
            nodes,
            companions,
            vacated,
            linked: Default::default(),
            block,
            said: Said::default(),
        }
    }

    /// Does what each list wants, until there is none any more.
    pub(crate) async fn follow(&mut self, mut list: watch::Receiver<List>, links: &Running) {
        loop {
            let members = Arc::clone(&list.borrow_and_update());
            self.apply(&members, links).await;
            if let Ok(Err(_)) = timeout(LOOK, list.changed()).await {
                // Whoever gave it out is gone; what it said last holds.
                return std::future::pending().await;
            }
        }
    }

    async fn apply(&mut self, members: &[Member], links: &Running) {
        while let Some(id) = self.vacated.pop() {
            self.nodes.free(id);
        }
        let (admitted, mut refused) = self.admitted(members);
        let mut peers = self.keep(&admitted).await;
        for node in admitted {
            if peers.iter().any(|peer| peer.name == node.peer.name) {
                continue;
            }
            match self.nodes.join(node.placed).await {
                true => peers.push(node.peer),
                false => refused.push((node.peer.name, Refusal::Full)),
            }
        }
        let distributors = members.iter().filter(|member| member.role == Role::Distributor);
        let distributors: Vec<Peer> = distributors.filter_map(|member| member.reached(false)).collect();
        self.link(peers, distributors, links);
        for (name, refusal) in &refused {
            self.tell(format!("{name} is no node of this distributor: {refusal}"));
        }
        let report = self.nodes.report();
        let up = report.iter().filter(|node| node.state == "up").count();
        self.block.publish(&[report.len(), up, refused.len()].map(|count| count as u64));
    }

    /// Who is to be a node, and who is not.
    fn admitted(&self, members: &[Member]) -> (Vec<Admitted>, Vec<(String, Refusal)>) {
        let (mut admitted, mut refused) = (Vec::new(), Vec::new());
        for member in members.iter().filter(|member| member.role == Role::Node) {
            match admit(self.config, member, &admitted) {
                Ok(node) => admitted.push(node),
                Err(refusal) => refused.push((member.name.clone(), refusal)),
            }
        }
        (admitted, refused)
    }

    /// Those that are nodes already: placed anew, kept for their connections, or let go. Returns where to link to.
    async fn keep(&self, admitted: &[Admitted]) -> Vec<Peer> {
        let mut peers = Vec::new();
        for (placed, linked) in self.nodes.of_etcd() {
            let listed = admitted.iter().find(|node| node.placed.name == placed.name);
            self.nodes.set_listed(&placed.name, listed.is_some()).await;
            let before = self.linked.0.iter().find(|peer| peer.name == placed.name);
            match listed {
                Some(node) => {
                    if node.placed != placed {
                        self.nodes.place(node.placed.clone(), node.incarnation).await;
                    }
                    peers.push(node.peer.clone());
                }
                None if linked == State::Down => self.nodes.leave(&placed.name).await,
                None => peers.extend(before.cloned()),
            }
        }
        peers
    }

    fn link(&mut self, peers: Vec<Peer>, distributors: Vec<Peer>, links: &Running) {
        let linked = (peers, distributors);
        if linked == self.linked {
            return;
        }
        self.companions.list(linked.1.iter().map(|peer| peer.name.as_str()));
        let others = Others::of_distributor(&self.config.name, linked.0.clone(), &linked.1);
        if let Err(error) = links.set_others(others) {
            // Names are checked where they are read.
            warn!("{error}");
        }
        self.linked = linked;
    }

    fn tell(&mut self, sentence: String) {
        if self.said.is_news(&sentence, Instant::now()) {
            warn!("{sentence}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::links::Address;

    const FILE: &str = r#"
[distributor]
name = "d1"
[nic]
device = "net_af_packet0,iface=kf0"
addresses = ["192.0.2.2/24", "2001:db8::2/64"]
[[service]]
address = "203.0.113.1:443"
[[service]]
address = "203.0.113.1:80"
nodes = ["w"]
[[node]]
name = "w"
address = "192.0.2.80"
"#;

    fn config() -> Distributor {
        let mut config = crate::config::read_distributor(FILE, Path::new("d1.toml")).unwrap();
        config.services[1].names = Some(vec!["w".to_owned(), "b".to_owned()]);
        config
    }

    fn member(name: &str, port_addresses: &[&str]) -> Member {
        Member {
            name: name.to_owned(),
            role: Role::Node,
            addresses: vec![
                Address::Unix("/run/x.sock".into()),
                Address::Tcp("192.0.2.9:7411".parse().unwrap()),
            ],
            incarnation: 1,
            port_addresses: port_addresses.iter().map(|address| address.parse().unwrap()).collect(),
            weight: 3,
        }
    }

    #[test]
    fn a_member_is_a_node_at_its_address_on_this_network() {
        let config = config();
        let a = admit(&config, &member("a", &["198.51.100.1", "2001:db8::9", "192.0.2.9"]), &[]).unwrap();
        assert_eq!((a.placed.address, a.placed.weight), ("2001:db8::9".parse().unwrap(), 3));
        assert_eq!(a.placed.services, [0].into_iter().collect(), "it is not among those of the other");
        assert_eq!(
            a.peer.address,
            Address::Tcp("192.0.2.9:7411".parse().unwrap()),
            "paths are of one machine"
        );
        let b = admit(&config, &member("b", &["192.0.2.9"]), &[a]).unwrap();
        assert_eq!(b.placed.services, [0, 1].into_iter().collect());
        let local =
            Member { addresses: vec![Address::Unix("/run/x.sock".into())], ..member("c", &["192.0.2.9"]) };
        assert_eq!(admit(&config, &local, &[]).unwrap().peer.address, local.addresses[0]);
    }

    #[test]
    fn who_cannot_be_a_node_is_told_why() {
        let config = config();
        let at = |address: &str| address.parse::<IpAddr>().unwrap();
        let other = admit(&config, &member("a", &["192.0.2.9"]), &[]).unwrap();
        for (name, addresses, refusal) in [
            ("b", &[][..], Refusal::Unsaid),
            ("b", &["198.51.100.1", "192.0.2.2"], Refusal::Elsewhere),
            ("b", &["192.0.2.80"], Refusal::Occupied(at("192.0.2.80"))),
            ("b", &["192.0.2.9"], Refusal::Occupied(at("192.0.2.9"))),
            ("w", &["192.0.2.10"], Refusal::Named),
        ] {
            assert_eq!(admit(&config, &member(name, addresses), std::slice::from_ref(&other)), Err(refusal));
        }
        let nowhere = Member { addresses: Vec::new(), ..member("b", &["192.0.2.10"]) };
        assert_eq!(admit(&config, &nowhere, &[]), Err(Refusal::Unreachable));
        let mut config = config;
        config.services.remove(0);
        assert_eq!(admit(&config, &member("a", &["192.0.2.10"]), &[]), Err(Refusal::Unwanted));
    }
}
