//! The configuration of a distributor: a file of its own, in which `[nic]`, `[cores]`, `[cluster]` and `[admin]` are a
//! node's. In: the file. Out: a validated [`Distributor`], or every problem at once. Its keys and defaults are described
//! in `docs/examples/distributor.toml`, which a test keeps complete.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keyferry_distribute::{Model, NodeId};
use keyferry_nic_config::{Host, Wanted};

use super::changes::Ledger;
use super::node::name;
use super::problem::Problems;
use super::reader::{Context, Section};
use super::{
    Admin, Cluster, Cores, Etcd, Nic, admin, cluster, cores, each, etcd, lending, nic, read_file, wanted,
};
use crate::links::{Address, Peer};

/// Nodes behind a distributor, at most.
pub const NODES_MAX: usize = 1024;
/// Services of a distributor, at most.
pub const SERVICES_MAX: usize = keyferry_distribute::SERVICES_MAX;
/// Largest share of a node.
const WEIGHT_MAX: u64 = keyferry_distribute::maglev::WEIGHT_MAX as u64;

/// A distributor's configuration, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Distributor {
    /// The file it was read from.
    pub file: PathBuf,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Sizes and times of its tables.
    pub tables: Tables,
    /// Which core runs what; one worker.
    pub cores: Cores,
    /// The port.
    pub nic: Nic,
    /// What clients come to.
    pub services: Vec<Service>,
    /// Who serves it, but for those that etcd lists.
    pub nodes: Vec<Node>,
    /// How nodes and distributors know each other; `None` where no node has a link and there is no other distributor.
    pub cluster: Option<Cluster>,
    /// The other distributors, where the file lists them.
    pub peers: Vec<Peer>,
    /// Where an operator asks.
    pub admin: Admin,
}

/// Sizes and times of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Connections known at once.
    pub flows: usize,
    /// Clients known at once.
    pub clients: usize,
    /// Silence after which a connection is forgotten.
    pub idle_timeout: Duration,
    /// How long a client is sent back to its node, unless the node has announced a session.
    pub client_lifetime: Duration,
}

impl Tables {
    /// What another table of the file would change.
    pub(super) fn compare(&self, new: &Tables, ledger: &mut Ledger) {
        let Tables { flows, clients, idle_timeout, client_lifetime } = self;
        ledger.fixed("[distributor]", "flows", flows, &new.flows);
        ledger.fixed("[distributor]", "clients", clients, &new.clients);
        ledger.fixed("[distributor]", "idle_timeout_s", idle_timeout, &new.idle_timeout);
        ledger.fixed("[distributor]", "client_lifetime_s", client_lifetime, &new.client_lifetime);
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Address and port.
    pub address: SocketAddr,
    /// How clients are spread.
    pub model: Model,
    /// Over whom, by their places in [`Distributor::nodes`].
    pub nodes: Vec<NodeId>,
    /// Over whom of those that come later; `None`: whoever does.
    pub names: Option<Vec<String>>,
}

impl Service {
    /// Whether a node of this name serves it.
    pub fn has(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|it| it == name))
    }

    /// The same service over these nodes.
    fn over(self, nodes: &[Node]) -> Service {
        let serve = (0..).map(NodeId).zip(nodes).filter(|(_, node)| self.has(&node.name));
        Service { nodes: serve.map(|(id, _)| id).collect(), ..self }
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name; for its link its certificate has to be for it.
    pub name: String,
    /// Where packets reach it: an address on a network of the port.
    pub address: IpAddr,
    /// Where its control thread listens: one of its `[cluster] listen`. Without it the node is taken to be up.
    pub link: Option<Address>,
    /// Its share beside the others'.
    pub weight: u8,
}

const MODELS: &[(&str, Model)] =
    &[("bf", Model::BackEndForwarding), ("rr", Model::RoundRobin), ("session", Model::Session)];

impl Distributor {
    /// Reads and validates a file, against this machine's cores.
    ///
    /// # Errors
    /// Every problem of it.
    pub fn load(file: &Path) -> Result<Distributor, Problems> {
        let host = Host::read(Path::new("/"));
        parse(&read_file(file)?, file, host.cores.usable()).0
    }

    /// Where nodes are listed, if not in this file.
    pub fn etcd(&self) -> Option<&Etcd> {
        self.cluster.as_ref().and_then(|cluster| cluster.etcd.as_ref())
    }

    /// Nodes there is room for: those that the file or etcd may list, and as many that have left and are not forgotten
    /// yet. Beside etcd the file's are as they were at start.
    pub fn room(&self) -> usize {
        self.etcd().map_or(2 * NODES_MAX, |etcd| self.nodes.len() + 2 * etcd.nodes_max)
    }
}

const _: () = assert!(2 * NODES_MAX <= keyferry_distribute::NODES_MAX);
const _: () = assert!(NODES_MAX + 2 * crate::members::MEMBERS_MAX <= keyferry_distribute::NODES_MAX);

/// What of another list of nodes can be taken over.
#[derive(Clone, Copy)]
pub(super) struct Can {
    /// The file lists them, now as before; beside etcd it is read at start.
    pub(super) list: bool,
    /// There are links.
    pub(super) link: bool,
}

/// Goes by other `[[node]]`s: some come and some go, and those that stay have other shares.
pub(super) fn take_over_nodes(can: Can, now: &mut Vec<Node>, new: &[Node], ledger: &mut Ledger) {
    let table = "[[node]]";
    let is_live = |node: &Node| can.list && (can.link || node.link.is_none());
    let mut next = Vec::new();
    for node in now.iter().filter(|node| !new.iter().any(|it| it.name == node.name)) {
        let key = format!("{}: removed", node.name);
        if is_live(node) {
            ledger.applied(table, key);
        } else {
            ledger.needs_restart(table, key);
            next.push(node.clone());
        }
    }
    for new in new {
        let key = format!("{}: added", new.name);
        match now.iter().find(|node| node.name == new.name).cloned() {
            Some(mut node) => {
                let Node { name, address, link, weight } = &mut node;
                ledger.fixed(table, &format!("{name}: address"), address, &new.address);
                ledger.fixed(table, &format!("{name}: link"), link, &new.link);
                ledger.live(table, &format!("{name}: weight"), weight, &new.weight);
                next.push(node);
            }
            None if is_live(new) => {
                ledger.applied(table, key);
                next.push(new.clone());
            }
            None => ledger.needs_restart(table, key),
        }
    }
    *now = next;
}

/// Goes by other `[[service]]`s, where they are the same but for how they spread clients, and for nodes that come and go:
/// `before` are those there were, `nodes` those there are from now on.
pub(super) fn take_over_services(
    can: Can,
    now: &mut [Service],
    new: &[Service],
    (before, nodes): (&[Node], &[Node]),
    ledger: &mut Ledger,
) {
    let table = "[[service]]";
    let addresses = |services: &[Service]| services.iter().map(|it| it.address).collect::<Vec<_>>();
    if addresses(now) != addresses(new) {
        // Which places names have says nothing about a service.
        let bare = |services: &[Service]| services.iter().cloned().map(|it| it.over(&[])).collect::<Vec<_>>();
        ledger.list(false, table, &mut bare(now), &bare(new), |service| service.address.to_string());
    } else {
        for (now, new) in now.iter_mut().zip(new) {
            ledger.live(table, &format!("{}: model", now.address), &mut now.model, &new.model);
            take_over_names(can, now, new, (before, nodes), ledger);
        }
    }
    for service in now {
        *service = service.clone().over(nodes);
    }
}

/// Who serves it: nodes that come serve what the file says, those that stay go on with what they do.
fn take_over_names(
    can: Can,
    now: &mut Service,
    new: &Service,
    (before, nodes): (&[Node], &[Node]),
    ledger: &mut Ledger,
) {
    let (table, key) = ("[[service]]", format!("{}: nodes", now.address));
    let stays = |node: &Node| before.iter().any(|it| it.name == node.name);
    let is_other = |node: &Node| stays(node) && now.has(&node.name) != new.has(&node.name);
    if !can.list || !nodes.iter().any(is_other) {
        return ledger.live_if(can.list, table, &key, &mut now.names, &new.names);
    }
    ledger.needs_restart(table, key);
    let serves = |node: &&Node| if stays(node) { now.has(&node.name) } else { new.has(&node.name) };
    now.names = Some(nodes.iter().filter(serves).map(|node| node.name.clone()).collect());
}

/// What was read of a file, before it is known to be whole.
pub(super) struct Draft {
    name: Option<String>,
    tables: Tables,
    cores: Cores,
    nic: Option<Nic>,
    services: Vec<(usize, ServiceText)>,
    nodes: Vec<(usize, Node)>,
    cluster: Option<Cluster>,
    peers: Vec<(usize, Peer)>,
    pub(super) admin: Admin,
}

/// A service whose nodes are not looked up yet.
struct ServiceText {
    address: SocketAddr,
    model: Model,
    nodes: Option<Vec<String>>,
}

/// Whether a file is a distributor's.
pub(super) fn is_one(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| table.contains_key("distributor"))
}

/// Parses and validates a file's text.
pub(super) fn parse(
    text: &str,
    file: &Path,
    usable: &BTreeSet<usize>,
) -> (Result<Distributor, Problems>, Wanted) {
    let context = Context::new(text, file);
    let Some(root) = context.root() else {
        return (Err(Problems::new(file, context.into_parts().0)), Wanted::default());
    };
    let draft = read(root);
    check(&context, &draft, usable);
    let listen = draft.cluster.iter().flat_map(|cluster| &cluster.listen);
    let links = listen.chain(draft.peers.iter().map(|(_, peer)| &peer.address));
    let links = links.chain(draft.nodes.iter().filter_map(|(_, node)| node.link.as_ref()));
    let wanted = wanted(draft.nic.as_ref(), &draft.cores, links);
    let (problems, _) = context.into_parts();
    match draft.finish(file) {
        Some(config) if problems.is_empty() => (Ok(config), wanted),
        _ => (Err(Problems::new(file, problems)), wanted),
    }
}

pub(super) fn read(mut root: Section<'_, '_>) -> Draft {
    let (own, tables) = read_own(root.section("distributor"));
    let called = own.clone().unwrap_or_else(|| "distributor".to_owned());
    let nodes = each(root.sections("node", NODES_MAX), read_node);
    let peers = each(root.sections("peer", lending::PEERS_MAX), cluster::read_peer);
    let has_links = !peers.is_empty() || nodes.iter().any(|(_, node)| node.link.is_some());
    let draft = Draft {
        name: own,
        tables,
        cores: cores::read(root.section("cores")),
        nic: nic::read(root.section("nic")),
        services: each(root.sections("service", SERVICES_MAX), read_service),
        nodes,
        cluster: cluster::read_with_etcd(root.section("cluster"), &called, has_links, etcd::OF_A_DISTRIBUTOR),
        peers,
        admin: admin::read(root.section("admin"), &called),
    };
    root.finish();
    draft
}

fn read_own(mut section: Section<'_, '_>) -> (Option<String>, Tables) {
    let wants = "a name of letters, digits, dots, dashes and underscores, such as \"d1\"";
    let own = section.parsed("name", wants, name);
    let own = section.required("name", own, wants);
    let seconds = |section: &mut Section<'_, '_>, key, default| {
        Duration::from_secs(section.number(key, default, 1..=7 * 24 * 3600))
    };
    let tables = Tables {
        flows: section.number("flows", 1 << 20, 1024..=1 << 28),
        clients: section.number("clients", 1 << 20, 1024..=1 << 28),
        idle_timeout: seconds(&mut section, "idle_timeout_s", 900),
        client_lifetime: seconds(&mut section, "client_lifetime_s", 600),
    };
    section.finish();
    (own, tables)
}

fn read_service(mut section: Section<'_, '_>) -> Option<ServiceText> {
    let wants = "an address and port, such as \"203.0.113.1:443\" or \"[2001:db8::1]:443\"";
    let parse = |text: &str| {
        let wrong = format!("\"{text}\" is no address and port: write {wants}");
        text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0).ok_or(wrong)
    };
    let address = section.parsed("address", wants, parse);
    let address = section.required("address", address, wants);
    let model = section.choice("model", MODELS, Model::BackEndForwarding);
    let wants = "a list of names of [[node]], such as [\"a\", \"b\"]";
    let nodes = section.parsed_list("nodes", wants, 1..=NODES_MAX, name);
    section.finish();
    Some(ServiceText { address: address?, model, nodes })
}

fn read_node(mut section: Section<'_, '_>) -> Option<Node> {
    let wants = "the node's name in quotes";
    let called = section.parsed("name", wants, name);
    let called = section.required("name", called, wants);
    let wants = "the node's address on the port's network, such as \"192.0.2.11\"";
    let address = section.parsed("address", wants, nic::plain_address);
    let address = section.required("address", address, wants);
    let wants = "\"IP:PORT\", or \"unix:PATH\" on one machine: an address of the node's [cluster] listen";
    let folder = section.folder().to_owned();
    let link = section.parsed("link", wants, |text| cluster::address(text, &folder));
    let weight = section.number("weight", 1, 1..=WEIGHT_MAX);
    section.finish();
    Some(Node { name: called?, address: address?, link, weight })
}

fn check(context: &Context<'_>, draft: &Draft, usable: &BTreeSet<usize>) {
    cores::check(context, &draft.cores, usable);
    if draft.cores.workers.len() > 1 {
        let what = "a distributor has one worker, since all connections of a client meet in one table";
        context.report("cores.workers", format!("{what}: write one core, such as [1]"));
    }
    if !draft.cores.apps.is_empty() {
        context.report("cores.apps", "a distributor runs no application: leave it out");
    }
    if let Some(nic) = &draft.nic {
        nic::check(context, nic, 1);
        if !nic.service_addresses.is_empty() {
            let what = "a distributor takes the addresses of its [[service]]: leave it out";
            context.report("nic.service_addresses", what);
        }
        check_reach(context, nic, &draft.nodes);
    }
    check_services(context, draft);
    check_nodes(context, draft);
    if let Some(own) = &draft.name {
        let from = cluster::Own { path: "distributor.name", name: own };
        cluster::check(context, Some(from), draft.cluster.as_ref(), None, &draft.peers);
    }
    lending::check_socket(context, "admin.socket", &draft.admin.socket);
    if context.is_set("admin.drain_timeout_ms") {
        context.report("admin.drain_timeout_ms", "a distributor has nothing to finish: leave it out");
    }
}

/// Nodes are reached by MAC address, so they have to be on a network of the port.
fn check_reach(context: &Context<'_>, nic: &Nic, nodes: &[(usize, Node)]) {
    for (index, node) in nodes {
        let path = format!("node[{index}].address");
        if nic.addresses.iter().any(|cidr| cidr.address() == node.address) {
            context.report(&path, format!("{} is the distributor's own: write the node's", node.address));
        } else if !nic.addresses.iter().any(|cidr| cidr.contains(node.address)) {
            let what = format!("{} is on no network of [nic] addresses", node.address);
            context.report(
                &path,
                format!("{what}: packets go to a node by its MAC address, so give it one there"),
            );
        }
    }
}

fn check_services(context: &Context<'_>, draft: &Draft) {
    if draft.services.is_empty() && !context.is_set("service[0]") {
        context.report(
            "service",
            "there is no [[service]]: write one for each address and port clients come to",
        );
    }
    for (position, (index, service)) in draft.services.iter().enumerate() {
        if draft.services[..position].iter().any(|(_, other)| other.address == service.address) {
            let path = format!("service[{index}].address");
            context.report(&path, format!("{} is another service's too: remove one", service.address));
        }
        for wanted in service.nodes.iter().flatten() {
            // One that etcd lists may come at any time.
            if !draft.has_etcd() && !draft.nodes.iter().any(|(_, node)| node.name == *wanted) {
                let path = format!("service[{index}].nodes");
                context.report(
                    &path,
                    format!("there is no [[node]] called \"{wanted}\": write it, or its name right"),
                );
            }
        }
    }
}

fn check_nodes(context: &Context<'_>, draft: &Draft) {
    if draft.nodes.is_empty() && !context.is_set("node[0]") && !draft.has_etcd() {
        context.report(
            "node",
            "there is no [[node]]: write one for each server, or say in [cluster.etcd] where they are listed",
        );
    }
    for (index, _) in draft.nodes.iter().filter(|(_, node)| node.link.is_some() && draft.has_etcd()) {
        let what = "nodes with a link come from etcd or from this file: remove [cluster.etcd], or this link";
        context.report(&format!("node[{index}].link"), what);
    }
    for (position, (index, node)) in draft.nodes.iter().enumerate() {
        let before = &draft.nodes[..position];
        if before.iter().any(|(_, other)| other.name == node.name)
            || draft.peers.iter().any(|(_, peer)| peer.name == node.name)
            || draft.name.as_ref() == Some(&node.name)
        {
            let path = format!("node[{index}].name");
            context.report(&path, format!("\"{}\" is another one's name too: give each its own", node.name));
        }
        if before.iter().any(|(_, other)| other.address == node.address) {
            let path = format!("node[{index}].address");
            context.report(&path, format!("{} is another node's too: write each its own", node.address));
        }
    }
}

impl Draft {
    fn has_etcd(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.etcd.is_some())
    }

    fn finish(self, file: &Path) -> Option<Distributor> {
        let nodes: Vec<Node> = self.nodes.into_iter().map(|(_, node)| node).collect();
        let service = |text: ServiceText| {
            let ServiceText { address, model, nodes: names } = text;
            Service { address, model, nodes: Vec::new(), names }.over(&nodes)
        };
        let services = self.services.into_iter().map(|(_, text)| service(text)).collect();
        Some(Distributor {
            file: file.to_owned(),
            name: self.name?,
            tables: self.tables,
            cores: self.cores,
            nic: self.nic?,
            services,
            nodes,
            cluster: self.cluster,
            peers: self.peers.into_iter().map(|(_, peer)| peer).collect(),
            admin: self.admin,
        })
    }
}
