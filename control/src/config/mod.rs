//! The configuration of a node: one TOML file, parsed once into one validated [`Config`]. A distributor's is
//! [`Distributor`].
//!
//! In: the file's path, the cores this process may use, the files the configuration names. Out: a tree whose
//! fields are ready to use, or every problem at once. Read at start, on the control thread. One module a table:
//! each reads its keys and knows their bounds; [`parse`] then checks the tables against each other. The keys and
//! defaults are described in `docs/examples/keyferry.toml`, which a test keeps complete.

mod admin;
mod answers;
mod app;
mod changes;
mod cluster;
mod cores;
mod distributor;
mod etcd;
pub mod files;
mod later;
mod lending;
mod limits;
mod listener;
mod nic;
mod node;
mod problem;
mod reader;
mod request_logs;
mod route;
mod tcp;
mod tls;
mod upstream;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use keyferry_decide::Policy;
use keyferry_nic_config::{Host, Wanted};
use keyferry_upstream::Options;

use crate::links::Address;
pub use crate::links::Peer;
pub use admin::{Admin, LogFormat, LogLevel};
pub use app::{App, Distribution, Files, Named, Synthetic};
pub use changes::{Change, Changes};
pub use cluster::{Cluster, DISTRIBUTORS_MAX, LISTEN_MAX};
pub use cores::{APPS_MAX, Core, Cores, Idle, WORKERS_MAX};
pub use distributor::{
    Distributor, NODES_MAX, Node as DistributedNode, SERVICES_MAX, Service as DistributedService,
};
pub use etcd::{ENDPOINTS_MAX, Etcd, EtcdTls};
pub use files::FileError;
pub use lending::{Driver, Fabric, Lease, PEERS_MAX};
pub use limits::Limits;
pub use listener::{LISTENERS_MAX, Listener, Protocol};
pub use nic::{ADDRESSES_MAX, Nic, ROUTES_MAX};
pub use node::{Model, Node};
pub use problem::{Problem, Problems};
pub use request_logs::{AccessLog, LogFile, SlowLog};
pub use route::{APP_ROUTES_MAX, Route};
pub use tcp::Tcp;
pub use tls::{CERTIFICATES_MAX, Certificate, Resumption, Tls};
pub use upstream::UPSTREAMS_MAX;

pub(crate) use app::is_builtin as is_builtin_app;
pub(crate) use cluster::address as peer_address;
pub(crate) use node::name as member_name;

use reader::{Context, Section};

/// Largest configuration file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A node's configuration, validated.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from.
    pub file: PathBuf,
    /// Who this node is.
    pub node: Node,
    /// Which core runs what.
    pub cores: Cores,
    /// The port.
    pub nic: Nic,
    /// Ports served; at least one speaks https.
    pub listeners: Vec<Listener>,
    /// Certificates; the first is the default.
    pub certificates: Vec<Certificate>,
    /// How connections make use of their paths.
    pub tcp: Tcp,
    /// What is negotiated.
    pub tls: Tls,
    /// What answers.
    pub app: App,
    /// Where requests go that are not for the default of `app`.
    pub routes: Vec<Route>,
    /// Origin servers.
    pub upstreams: Vec<Options>,
    /// Requests an application thread (or a worker that runs the application itself) works on at a time; `None`: all it
    /// has.
    pub slots: Option<NonZeroUsize>,
    /// When requests are lent.
    pub lease: Lease,
    /// What queue pairs are made of.
    pub fabric: Fabric,
    /// How nodes know each other; `None` without peers.
    pub cluster: Option<Cluster>,
    /// The other nodes, where the file lists them.
    pub peers: Vec<Peer>,
    /// Bounds of each worker.
    pub limits: Limits,
    /// Where an operator asks.
    pub admin: Admin,
    /// What the applications are called that the executable has of its own.
    pub own: Vec<String>,
    /// Requests that are told of: a part of all; `None`: none are.
    pub access_log: Option<AccessLog>,
    /// And those that took long.
    pub slow_log: Option<SlowLog>,
}

impl Config {
    /// Reads and validates a file, against this machine's cores.
    ///
    /// # Errors
    /// Every problem of it.
    pub fn load(file: &Path) -> Result<Config, Problems> {
        Config::load_with(file, &[])
    }

    /// As [`load`](Config::load), where the executable has applications of its own, which are called so.
    ///
    /// # Errors
    /// As for [`load`](Config::load).
    pub fn load_with(file: &Path, own: &[String]) -> Result<Config, Problems> {
        let host = Host::read(Path::new("/"));
        parse(&read_file(file)?, file, host.cores.usable(), own).0
    }

    /// Where the node or distributor of a file answers operators: the one thing to know of a node that is running already, whose
    /// other files may have changed since or be closed to whoever asks.
    pub fn admin_socket(file: &Path) -> Result<PathBuf, Problems> {
        let text = read_file(file)?;
        let context = Context::new(&text, file);
        match context.root() {
            Some(root) if distributor::is_one(&text) => Ok(distributor::read(root).admin.socket),
            Some(root) => Ok(read(root, &[]).admin.socket),
            None => Err(Problems::new(file, context.into_parts().0)),
        }
    }

    /// Other nodes at most, at any time.
    pub fn peers_max(&self) -> usize {
        let etcd = self.cluster.as_ref().and_then(|cluster| cluster.etcd.as_ref());
        etcd.map_or(self.peers.len(), |etcd| etcd.nodes_max)
    }

    /// Whether a request can reach an upstream.
    pub fn reaches_upstreams(&self) -> bool {
        reaches_upstreams(Some(&self.app), &self.routes)
    }

    /// Ports that speak https, as the file orders them.
    pub fn https_ports(&self) -> impl Iterator<Item = u16> + '_ {
        self.listeners
            .iter()
            .filter(|listener| listener.protocol == Protocol::Https)
            .map(|listener| listener.port)
    }
}

/// Reads and validates a file's text; for fuzzers.
///
/// # Errors
/// Every problem of it.
#[doc(hidden)]
pub fn read_text(text: &str, file: &Path, cores: &BTreeSet<usize>) -> Result<Config, Problems> {
    parse(text, file, cores, &[]).0
}

/// A distributor of a file's text, for tests of what follows from it.
#[cfg(test)]
pub(crate) fn read_distributor(text: &str, file: &Path) -> Result<Distributor, Problems> {
    distributor::parse(text, file, &BTreeSet::from([0, 1])).0
}

/// Reads and validates a file; also what it asks of the host as far as that can be told, valid or not.
pub(crate) fn examine(
    file: &Path,
    cores: &BTreeSet<usize>,
    own: &[String],
) -> (Result<Kind, Problems>, Wanted) {
    match read_file(file) {
        Ok(text) if distributor::is_one(&text) => {
            let (read, wanted) = distributor::parse(&text, file, cores);
            (read.map(|config| Kind::Distributor(Box::new(config))), wanted)
        }
        Ok(text) => {
            let (read, wanted) = parse(&text, file, cores, own);
            (read.map(|config| Kind::Node(Box::new(config))), wanted)
        }
        Err(problems) => (Err(problems), Wanted::default()),
    }
}

/// Whose file it is.
pub(crate) enum Kind {
    /// A node's.
    Node(Box<Config>),
    /// A distributor's.
    Distributor(Box<Distributor>),
}

fn read_file(file: &Path) -> Result<String, Problems> {
    let problem = |what| Problems::new(file, vec![Problem { line: None, place: String::new(), what }]);
    if std::fs::metadata(file).is_ok_and(|data| data.len() > FILE_BYTES_MAX) {
        return Err(problem(format!("the file is larger than {FILE_BYTES_MAX} bytes: name the right one")));
    }
    std::fs::read_to_string(file).map_err(|error| {
        problem(format!("the file cannot be read ({error}): name one that can with --config"))
    })
}

/// What was read of a file, before it is known to be whole.
struct Draft {
    node: Option<Node>,
    cores: Cores,
    nic: Option<Nic>,
    listeners: Vec<(usize, Listener)>,
    certificates: Vec<(usize, Certificate)>,
    certificates_declared: usize,
    tcp: Tcp,
    tls: Tls,
    app: app::Draft,
    routes: Vec<(usize, route::Draft)>,
    upstreams: Vec<(usize, Options)>,
    upstreams_declared: usize,
    lease: Lease,
    fabric: Fabric,
    cluster: Option<Cluster>,
    peers: Vec<(usize, Peer)>,
    limits: Limits,
    admin: Admin,
    access_log: Option<AccessLog>,
    slow_log: Option<SlowLog>,
}

/// Parses and validates a file's text.
fn parse(
    text: &str,
    file: &Path,
    cores: &BTreeSet<usize>,
    own: &[String],
) -> (Result<Config, Problems>, Wanted) {
    let context = Context::new(text, file);
    let Some(root) = context.root() else {
        return (Err(Problems::new(file, context.into_parts().0)), Wanted::default());
    };
    let draft = read(root, own);
    check(&context, &draft, cores);
    let wanted = draft.wanted();
    let config = draft.finish(&context, file, own);
    let (problems, _) = context.into_parts();
    match config {
        Some(config) if problems.is_empty() => (Ok(config), wanted),
        _ => (Err(Problems::new(file, problems)), wanted),
    }
}

fn read(mut root: Section<'_, '_>, own: &[String]) -> Draft {
    let node = node::read(root.section("node"));
    let name = node.as_ref().map_or("node", |node| node.name.as_str());
    let certificates = root.sections("certificate", CERTIFICATES_MAX);
    let listeners = root.sections("listener", LISTENERS_MAX);
    let peers = root.sections("peer", PEERS_MAX);
    let upstreams = root.sections("upstream", UPSTREAMS_MAX);
    let routes = each(root.sections("route", APP_ROUTES_MAX), route::read);
    let wants_files = routes.iter().any(|(_, route)| route.app() == "static");
    let app = app::read(root.section("app"), wants_files, own);
    let draft = Draft {
        cores: cores::read(root.section("cores")),
        nic: nic::read(root.section("nic")),
        listeners: match listeners.is_empty() {
            true => listener::defaults().into_iter().enumerate().collect(),
            false => each(listeners, listener::read),
        },
        certificates_declared: certificates.len(),
        certificates: each(certificates, tls::read_certificate),
        tcp: tcp::read(root.section("tcp")),
        tls: tls::read(root.section("tls")),
        app,
        routes,
        upstreams_declared: upstreams.len(),
        upstreams: each(upstreams, upstream::read),
        lease: lending::read_lease(root.section("lease")),
        fabric: lending::read_fabric(root.section("fabric")),
        cluster: cluster::read(root.section("cluster"), name, !peers.is_empty()),
        peers: each(peers, cluster::read_peer),
        limits: limits::read(root.section("limits")),
        admin: admin::read(root.section("admin"), name),
        access_log: request_logs::read_access(root.section("access_log")),
        slow_log: request_logs::read_slow(root.section("slow_log")),
        node,
    };
    root.finish();
    draft
}

/// What can be read of tables of one kind, each with its position in the file, which reports name.
fn each<'c, 't, T>(
    sections: Vec<Section<'c, 't>>,
    read: impl Fn(Section<'c, 't>) -> Option<T>,
) -> Vec<(usize, T)> {
    let read = |(index, section)| read(section).map(|table| (index, table));
    sections.into_iter().enumerate().filter_map(read).collect()
}

/// Checks the tables against each other, the machine and the files they name.
fn check(context: &Context<'_>, draft: &Draft, usable: &BTreeSet<usize>) {
    cores::check(context, &draft.cores, usable);
    if let Some(nic) = &draft.nic {
        nic::check(context, nic, draft.cores.workers.len());
    }
    listener::check(context, &draft.listeners);
    tls::check(context, &draft.certificates, draft.certificates_declared);
    app::check(context, &draft.app);
    upstream::check(context, &draft.upstreams);
    lending::check_sizes(context, &draft.lease, &draft.fabric);
    let own = draft.node.as_ref().map(|node| cluster::Own { path: "node.name", name: &node.name });
    cluster::check(context, own, draft.cluster.as_ref(), Some(draft.fabric.driver), &draft.peers);
    if let Some(node) = &draft.node {
        let names: Vec<_> = draft.peers.iter().map(|(index, peer)| (*index, peer.name.as_str())).collect();
        node::check_peers(context, node, &names);
    }
    limits::check(context, &draft.limits);
    tcp::check(context, &draft.tcp, &draft.limits);
    lending::check_socket(context, "admin.socket", &draft.admin.socket);
    request_logs::check(context, draft.access_log.as_ref(), draft.slow_log.as_ref());
    let socket = crate::links::Address::Unix(draft.admin.socket.clone());
    if draft.cluster.as_ref().is_some_and(|cluster| cluster.listen.contains(&socket)) {
        context.report("admin.socket", "this is also in [cluster] listen: give each its own path");
    }
}

/// What answers requests, each application by its place; what is named and is not there is reported.
fn answering(
    context: &Context<'_>,
    app: app::Draft,
    drafts: Vec<(usize, route::Draft)>,
    upstreams: Vec<(usize, Options)>,
    declared: usize,
    own: &[String],
) -> (Option<App>, Vec<Route>, Vec<Options>) {
    let upstreams: Vec<Options> = upstreams.into_iter().map(|(_, upstream)| upstream).collect();
    if upstreams.len() < declared {
        // Whoever names one that could not be read has named one that is there.
        return (None, Vec::new(), upstreams);
    }
    let names: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let app = app.finish(context, &names);
    for (position, (index, draft)) in drafts.iter().enumerate() {
        if drafts[..position].iter().any(|(_, other)| other.is_like(draft)) {
            let what = "another route has the same host and path_prefix: remove one";
            context.report(&format!("route[{index}].app"), what);
        }
    }
    let route = |(index, draft): (usize, route::Draft)| {
        let named = app::named(context, &format!("route[{index}].app"), draft.app(), &names, own);
        named.map(|named| draft.finish(named))
    };
    let routes = drafts.into_iter().filter_map(route).collect();
    (app, routes, upstreams)
}

/// Whether a request can reach an upstream.
fn reaches_upstreams(app: Option<&App>, routes: &[Route]) -> bool {
    let named = routes.iter().map(|route| route.app).chain(app.map(|app| app.default));
    named.into_iter().any(|named| matches!(named, Named::Upstream(_)))
}

/// What a port, its workers and the ends of control links want of the host.
fn wanted<'a>(nic: Option<&Nic>, cores: &Cores, links: impl Iterator<Item = &'a Address>) -> Wanted {
    Wanted {
        device: nic.map(|nic| nic.device.clone()),
        driver: None,
        control: Some(cores.control.0),
        workers: cores.workers.iter().map(|core| core.0).collect(),
        apps: cores.apps.iter().map(|core| core.0).collect(),
        spin: cores.idle == Idle::Spin,
        addresses: nic
            .map(|nic| nic.addresses.iter().map(|cidr| cidr.address()).collect())
            .unwrap_or_default(),
        mtu: nic.map_or(0, |nic| nic.mtu),
        memory_mib: nic.map_or(0, |nic| nic.memory_mib.into()),
        links: links.filter_map(Address::ip).filter(|ip| keyferry_nic_config::is_carried(*ip)).collect(),
        hugepages: nic.map(|nic| nic.hugepages).unwrap_or_default(),
        verbs: false,
        fabric: None,
    }
}

impl Draft {
    /// What the host is to offer.
    fn wanted(&self) -> Wanted {
        let listen = self.cluster.iter().flat_map(|cluster| &cluster.listen);
        let links = listen.chain(self.peers.iter().map(|(_, peer)| &peer.address));
        Wanted {
            verbs: self.fabric.driver == Driver::Verbs,
            fabric: self.fabric.address.as_ref().map(ToString::to_string),
            ..wanted(self.nic.as_ref(), &self.cores, links)
        }
    }

    fn finish(self, context: &Context<'_>, file: &Path, own: &[String]) -> Option<Config> {
        upstream::check_names(context, &self.upstreams, own);
        let slots = self.app.slots;
        let (app, routes, upstreams) =
            answering(context, self.app, self.routes, self.upstreams, self.upstreams_declared, own);
        if reaches_upstreams(app.as_ref(), &routes) && self.cores.apps.is_empty() {
            let what = "an upstream needs threads of its own, as a worker must not wait for servers: write the cores of";
            context.report(
                "cores.apps",
                format!("{what} application threads, such as [{}]", self.cores.control.0),
            );
        }
        let node = self.node?;
        let mut lease = self.lease;
        if node.model != Model::Bf {
            lease.policy = Policy::Never;
        }
        Some(Config {
            file: file.to_owned(),
            node,
            cores: self.cores,
            nic: self.nic?,
            listeners: self.listeners.into_iter().map(|(_, listener)| listener).collect(),
            certificates: self.certificates.into_iter().map(|(_, certificate)| certificate).collect(),
            tcp: self.tcp,
            tls: self.tls,
            app: app?,
            slots,
            routes,
            upstreams,
            lease,
            fabric: self.fabric,
            cluster: self.cluster,
            peers: self.peers.into_iter().map(|(_, peer)| peer).collect(),
            limits: self.limits,
            admin: self.admin,
            own: own.to_vec(),
            access_log: self.access_log,
            slow_log: self.slow_log,
        })
    }
}
