//! What a distributor does when its nodes change. In: what its file lists, the list as [`members`](crate::members) has it, and
//! places that its worker has freed. Out: nodes of the worker, and the others of its links. Control thread.
//!
//! Every member of role `node` is a node, once its link says how it fares, and so is every `[[node]]` of the file, which changes
//! when the file is read again. One that is no longer listed gets nothing new, and is let go when its link is down for good, or
//! has said for a while that it has no connections: these are its link's affair, never the list's.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{NodeId, State};
use tokio::sync::{Mutex, watch};
use tokio::time::{sleep, timeout};
use tracing::warn;

use crate::config::{DistributedNode, Distributor};
use crate::counters::{Block, Registry};
use crate::links::{Companions, Listed, Nodes, Others, Peer, Placed, Present, Running, Said};
use crate::members::{List, Member, Role};

/// How often it is looked whether somebody can be let go, or a place is free.
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

/// Why another list of the file cannot be taken over while this distributor runs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error(
        "nothing was applied: [[node]] {name} is at {address}, where {other} is until this distributor restarts: \
         give it another address, or restart"
    )]
    Occupied { name: String, address: IpAddr, other: String },
    #[error(
        "nothing was applied: [[node]] {0} was removed and is still there with its connections, by another address or \
         link: write those it had, or wait until `keyferry ctl peers` lists it no more, or give it another name"
    )]
    Leaving(String),
    #[error(
        "nothing was applied: {added} [[node]] are added and there is room for {room}, because of those that were removed \
         and still have connections: reload again when `keyferry ctl peers` lists fewer as gone"
    )]
    Full { added: usize, room: usize },
}

/// Somebody who is to be a node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Admitted {
    placed: Placed,
    listed: Listed,
    /// Where its link is; without one it is taken to be up.
    peer: Option<Peer>,
    incarnation: u64,
}

/// What a node of the file is behind this distributor.
pub(crate) fn placed(config: &Distributor, node: &DistributedNode) -> Placed {
    let services = config.services.iter().enumerate().filter(|(_, service)| service.has(&node.name));
    let services = services.map(|(place, _)| place).collect();
    Placed { name: node.name.clone(), address: node.address, weight: node.weight, services }
}

/// How a node fares until its link says otherwise.
pub(crate) fn first_state(has_link: bool) -> State {
    if has_link { State::Down } else { State::Up }
}

/// Where the links of the file's nodes are.
pub(crate) fn linked(config: &Distributor) -> Vec<Peer> {
    config.nodes.iter().filter_map(peer).collect()
}

fn peer(node: &DistributedNode) -> Option<Peer> {
    Some(Peer { name: node.name.clone(), address: node.link.clone()? })
}

/// What the file's nodes are to be.
fn of_file(config: &Distributor) -> Vec<Admitted> {
    let admitted = |node| {
        let (placed, peer) = (placed(config, node), peer(node));
        Admitted { placed, listed: Listed::File, peer, incarnation: 0 }
    };
    config.nodes.iter().map(admitted).collect()
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
    let peer = Some(member.reached(false).ok_or(Refusal::Unreachable)?);
    let (name, weight, services) = (member.name.clone(), member.weight, services.into_iter().collect());
    let placed = Placed { name, address, weight, services };
    Ok(Admitted { placed, listed: Listed::Etcd, peer, incarnation: member.incarnation })
}

/// What a distributor has of its nodes.
pub(crate) struct Membership {
    nodes: Rc<Nodes>,
    companions: Rc<Companions>,
    /// Places that the worker has freed.
    vacated: Arc<ArrayQueue<NodeId>>,
    block: Arc<Block>,
    /// One change at a time.
    lists: Mutex<Lists>,
}

/// Who there is to be, and what was made of that.
struct Lists {
    config: Distributor,
    of_file: Vec<Admitted>,
    members: List,
    /// The links, as they were last set: nodes, and other distributors.
    linked: (Vec<Peer>, Vec<Peer>),
    said: Said,
}

impl Membership {
    /// Of a distributor that has the nodes and links of `config`.
    pub(crate) fn new(
        config: &Distributor,
        nodes: &Rc<Nodes>,
        companions: &Rc<Companions>,
        vacated: Arc<ArrayQueue<NodeId>>,
        registry: &Registry,
    ) -> Membership {
        let lists = Lists {
            config: config.clone(),
            of_file: of_file(config),
            members: List::from([]),
            linked: (linked(config), config.peers.clone()),
            said: Said::default(),
        };
        Membership {
            nodes: Rc::clone(nodes),
            companions: Rc::clone(companions),
            vacated,
            block: registry.block(NAMES, "nodes".to_owned()),
            lists: Mutex::new(lists),
        }
    }

    /// Does what each list of etcd wants, if there is any, and lets go who can be, for ever.
    pub(crate) async fn follow(&self, mut list: Option<watch::Receiver<List>>, links: Option<&Running>) {
        loop {
            let mut lists = self.lists.lock().await;
            if let Some(list) = &mut list {
                lists.members = Arc::clone(&list.borrow_and_update());
            }
            self.apply(&mut lists, links).await;
            drop(lists);
            match &mut list {
                None => sleep(LOOK).await,
                Some(list) => {
                    if let Ok(Err(_)) = timeout(LOOK, list.changed()).await {
                        // Whoever gave it out is gone; what it said last holds.
                        return std::future::pending().await;
                    }
                }
            }
        }
    }

    /// Whether what this file lists can be taken over now.
    pub(crate) async fn check(&self, next: &Distributor) -> Result<(), Unfit> {
        let lists = self.lists.lock().await;
        let present = self.nodes.present();
        let present: HashMap<_, _> = present.iter().map(|it| (&*it.placed.name, it)).collect();
        let mut at: HashMap<IpAddr, &str> = HashMap::new();
        let mut added = 0;
        for node in &next.nodes {
            let (name, address) = (node.name.clone(), node.address);
            if let Some(other) = at.insert(address, &node.name) {
                return Err(Unfit::Occupied { name, address, other: other.to_owned() });
            }
            let link = lists.linked.0.iter().find(|peer| peer.name == name).map(|peer| &peer.address);
            match present.get(&*name) {
                None => added += 1,
                Some(it) if it.placed.address == address && link == node.link.as_ref() => {}
                Some(_) => return Err(Unfit::Leaving(name)),
            }
        }
        let room = self.nodes.vacant();
        if added > room { Err(Unfit::Full { added, room }) } else { Ok(()) }
    }

    /// Goes by this file from here on, which has been checked.
    pub(crate) async fn take(&self, config: &Distributor, links: Option<&Running>) {
        let mut lists = self.lists.lock().await;
        (lists.config, lists.of_file) = (config.clone(), of_file(config));
        self.apply(&mut lists, links).await;
    }

    async fn apply(&self, lists: &mut Lists, links: Option<&Running>) {
        while let Some(id) = self.vacated.pop() {
            self.nodes.free(id);
        }
        let (admitted, mut refused) = lists.admitted();
        let present = self.nodes.present();
        let mut peers = self.keep(&present, &admitted, &lists.linked.0).await;
        let known: HashSet<_> = present.iter().map(|it| &*it.placed.name).collect();
        for node in admitted.into_iter().filter(|node| !known.contains(&*node.placed.name)) {
            let (name, state) = (node.placed.name.clone(), first_state(node.peer.is_some()));
            match self.nodes.join(node.placed, node.listed, state).await {
                true => peers.extend(node.peer),
                false => refused.push((name, Refusal::Full)),
            }
        }
        self.link(lists, peers, links);
        for (name, refusal) in &refused {
            lists.tell(format!("{name} is no node of this distributor: {refusal}"));
        }
        let report = self.nodes.report();
        let up = report.iter().filter(|node| node.state == "up").count();
        self.block.publish(&[report.len(), up, refused.len()].map(|count| count as u64));
    }

    /// Those that are nodes already: placed anew, kept for their connections, or let go. Returns where to link to; `linked`: where
    /// that was.
    async fn keep(&self, present: &[Present], admitted: &[Admitted], linked: &[Peer]) -> Vec<Peer> {
        let admitted: HashMap<_, _> = admitted.iter().map(|node| (&*node.placed.name, node)).collect();
        let mut peers = Vec::new();
        for Present { placed, listed, is_over } in present {
            match admitted.get(&*placed.name) {
                Some(node) => {
                    if node.listed != *listed {
                        self.nodes.set_listed(&placed.name, node.listed).await;
                    }
                    if node.placed != *placed {
                        self.nodes.place(node.placed.clone(), node.incarnation).await;
                    }
                    peers.extend(node.peer.clone());
                }
                None if *is_over => self.nodes.leave(&placed.name).await,
                None => {
                    self.nodes.set_listed(&placed.name, Listed::Gone).await;
                    peers.extend(linked.iter().find(|peer| peer.name == placed.name).cloned());
                }
            }
        }
        peers
    }

    fn link(&self, lists: &mut Lists, peers: Vec<Peer>, links: Option<&Running>) {
        let linked = (peers, lists.distributors());
        if linked == lists.linked {
            return;
        }
        self.companions.list(linked.1.iter().map(|peer| peer.name.as_str()));
        let others = Others::of_distributor(&lists.config.name, linked.0.clone(), &linked.1);
        if let Some(Err(error)) = links.map(|links| links.set_others(others)) {
            // Names are checked where they are read.
            warn!("{error}");
        }
        lists.linked = linked;
    }
}

impl Lists {
    /// Who is to be a node, and who is not.
    fn admitted(&self) -> (Vec<Admitted>, Vec<(String, Refusal)>) {
        let (mut admitted, mut refused) = (self.of_file.clone(), Vec::new());
        for member in self.members.iter().filter(|member| member.role == Role::Node) {
            match admit(&self.config, member, &admitted) {
                Ok(node) => admitted.push(node),
                Err(refusal) => refused.push((member.name.clone(), refusal)),
            }
        }
        (admitted, refused)
    }

    /// The other distributors.
    fn distributors(&self) -> Vec<Peer> {
        if self.config.etcd().is_none() {
            return self.config.peers.clone();
        }
        let distributors = self.members.iter().filter(|member| member.role == Role::Distributor);
        distributors.filter_map(|member| member.reached(false)).collect()
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

    use keyferry_worker::distribute::News;

    use super::*;
    use crate::config::LogFormat;
    use crate::links::Address;
    use crate::log::tests::told;

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
            a.peer.clone().unwrap().address,
            Address::Tcp("192.0.2.9:7411".parse().unwrap()),
            "paths are of one machine"
        );
        let b = admit(&config, &member("b", &["192.0.2.9"]), &[a]).unwrap();
        assert_eq!(b.placed.services, [0, 1].into_iter().collect());
        let local =
            Member { addresses: vec![Address::Unix("/run/x.sock".into())], ..member("c", &["192.0.2.9"]) };
        assert_eq!(admit(&config, &local, &[]).unwrap().peer.unwrap().address, local.addresses[0]);
    }

    #[test]
    fn who_cannot_be_a_node_is_told_why() {
        let config = config();
        let other = admit(&config, &member("a", &["192.0.2.9"]), &[]).unwrap();
        for (name, addresses, sentence) in [
            ("b", &[][..], "it says no address of its port in etcd: run this release there"),
            (
                "b",
                &["198.51.100.1", "192.0.2.2"],
                "no address of its port is on a network of this distributor's",
            ),
            ("b", &["192.0.2.80"], "it says to be at 192.0.2.80, which is another one's"),
            ("b", &["192.0.2.9"], "it says to be at 192.0.2.9, which is another one's"),
            ("w", &["192.0.2.10"], "this distributor's file has a [[node]] of that name"),
        ] {
            let refused = admit(&config, &member(name, addresses), std::slice::from_ref(&other));
            let refusal = refused.unwrap_err().to_string();
            assert!(refusal.starts_with(sentence), "{refusal}");
        }
        let nowhere = Member { addresses: Vec::new(), ..member("b", &["192.0.2.10"]) };
        let refusal = admit(&config, &nowhere, &[]).unwrap_err().to_string();
        assert_eq!(refusal, "it says no address of links in etcd: write its [cluster] listen");
        let mut config = config;
        config.services.remove(0);
        let refusal = admit(&config, &member("a", &["192.0.2.10"]), &[]).unwrap_err().to_string();
        assert!(
            refusal.starts_with("no [[service]] of this distributor has it among its nodes"),
            "{refusal}"
        );
    }

    #[test]
    fn a_member_there_is_no_room_for_is_told_what_to_raise() {
        let lines = told(LogFormat::Text, |_| {
            run(async {
                let config = config();
                let it = distributing(&config, config.nodes.len());
                it.membership.lists.lock().await.members = List::from([member("a", &["192.0.2.9"])]);
                it.membership.take(&config, None).await;
            });
        });
        let sentence = "a is no node of this distributor: there is no room: raise [cluster.etcd] nodes_max";
        assert!(lines.iter().any(|line| line.contains(sentence)), "{lines:?}");
    }

    /// What a distributor is made of that goes by this file.
    struct Distributing {
        nodes: Rc<Nodes>,
        membership: Membership,
        news: Arc<ArrayQueue<News>>,
        vacated: Arc<ArrayQueue<NodeId>>,
    }

    fn distributing(config: &Distributor, room: usize) -> Distributing {
        let (news, vacated) = (Arc::new(ArrayQueue::new(16)), Arc::new(ArrayQueue::new(room)));
        let nodes = config.nodes.iter().map(|node| (placed(config, node), first_state(node.link.is_some())));
        let nodes = Rc::new(Nodes::new(nodes, room, config.services.len(), Arc::clone(&news)));
        let companions = Rc::new(Companions::new(Vec::new(), Arc::clone(&news), Arc::default()));
        let membership = Membership::new(config, &nodes, &companions, Arc::clone(&vacated), &Registry::new());
        Distributing { nodes, membership, news, vacated }
    }

    impl Distributing {
        /// Takes a file over, and lets go who can be.
        async fn take(&self, config: &Distributor) -> Vec<String> {
            assert_eq!(self.membership.check(config).await, Ok(()));
            self.membership.take(config, None).await;
            self.told()
        }

        /// What its worker is told.
        fn told(&self) -> Vec<String> {
            let text = |news| match news {
                News::Join(join) => {
                    format!("{} joins as {}, {:?}", join.node.name, join.id.0, join.node.state)
                }
                News::Leave(id) => {
                    self.vacated.push(id).unwrap();
                    format!("{} leaves", id.0)
                }
                News::State(id, state) => format!("{} is {state:?}", id.0),
                _ => panic!("something else"),
            };
            std::iter::from_fn(|| self.news.pop()).map(text).collect()
        }
    }

    fn node(name: &str, number: u8, is_linked: bool) -> DistributedNode {
        let link = is_linked.then(|| Address::Unix(format!("/run/{name}.sock").into()));
        DistributedNode { name: name.to_owned(), address: IpAddr::from([192, 0, 2, number]), link, weight: 1 }
    }

    /// The file with these nodes.
    fn with(nodes: &[DistributedNode]) -> Distributor {
        Distributor { nodes: nodes.to_vec(), ..config() }
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn nodes_of_the_file_come_and_go() {
        run(async {
            let [a, b, w] = [node("a", 1, true), node("b", 2, true), node("w", 80, false)];
            let it = distributing(&with(&[a.clone(), w.clone()]), 4);
            let both = with(&[b.clone(), w.clone(), a.clone()]);
            assert_eq!(it.take(&both).await, ["b joins as 2, Down"], "the order says nothing");
            assert_eq!(it.take(&both).await, [""; 0]);
            // Nothing has ever been there: it is forgotten at once.
            assert_eq!(it.take(&with(&[a.clone(), w.clone()])).await, ["2 leaves"]);
            assert_eq!(it.take(&both).await, ["b joins as 2, Down"], "its place was free again");
            // A server that says nothing keeps what it has, and is there again when it is listed.
            let next = node("x", 81, false);
            assert_eq!(
                it.take(&with(&[a.clone(), next])).await,
                ["1 is Draining", "2 leaves", "x joins as 3, Up"]
            );
            let listed =
                |name: &str| it.nodes.report().into_iter().find(|it| it.node == name).unwrap().listed;
            assert_eq!((listed("w"), listed("a")), (Listed::Gone, Listed::File));
            assert_eq!(it.take(&with(&[a.clone(), w.clone()])).await, ["1 is Up", "3 is Draining"]);
            assert_eq!((listed("w"), listed("x")), (Listed::File, Listed::Gone));
            let heavy = DistributedNode { weight: 9, ..w };
            assert_eq!(it.take(&with(&[a, heavy])).await, [""; 0]);
            assert_eq!(it.nodes.plan().nodes[0].weight, 9);
        });
    }

    #[test]
    fn a_file_that_does_not_fit_is_told_why() {
        run(async {
            let [a, w] = [node("a", 1, true), node("w", 80, false)];
            let it = distributing(&with(&[a.clone(), w.clone()]), 3);
            it.take(&with(std::slice::from_ref(&a))).await;
            let check = async |nodes: &[DistributedNode]| {
                it.membership.check(&with(nodes)).await.map_err(|unfit| unfit.to_string())
            };
            for other in [node("w", 81, false), DistributedNode { link: a.link.clone(), ..w.clone() }] {
                let refusal = check(&[a.clone(), other]).await.unwrap_err();
                assert!(refusal.contains("w was removed and is still there"), "{refusal}");
            }
            assert_eq!(check(&[a.clone(), w.clone(), node("b", 2, true)]).await, Ok(()));
            let refusal = check(&[a.clone(), w, node("b", 2, true), node("c", 3, true)]).await.unwrap_err();
            assert!(refusal.contains("2 [[node]] are added and there is room for 1"), "{refusal}");
            let refusal = check(&[a, node("b", 1, true)]).await.unwrap_err();
            assert!(refusal.contains("b is at 192.0.2.1, where a is"), "{refusal}");
        });
    }
}
