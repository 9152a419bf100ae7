//! The configuration file of a node under test, as an operator would write it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use keyferry_cluster::Etcd;
use keyferry_cluster::certificates::Certificates;

use super::fabric::{self, Sizes};

/// The folder of the nodes' certificates, in the test's.
pub const CLUSTER: &str = "cluster";

/// Whether a node lends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decide {
    /// No request is lent.
    Never,
    /// Every request that can be lent is, except those with `lend=0` in their query.
    Always,
    /// By load words: the difference of the work that waits.
    Threshold,
    /// By load words: where a request waits less.
    Estimate,
}

/// What runs as a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runs {
    /// The executable under test.
    Keyferry,
    /// This one, which takes scripts of faults.
    Faulty,
    /// This one, with an application of its own, called `hello`.
    Embedded,
}

/// What a test wants of its nodes; both get the same.
#[derive(Clone, Debug)]
pub struct Options {
    /// Workers of each node.
    pub workers: usize,
    /// Application threads of each node; 0: the worker runs the application.
    pub apps: usize,
    /// Whether a reply's cost is burnt on the core, or only waited out.
    pub burn: bool,
    /// When to lend.
    pub decide: Decide,
    /// What runs.
    pub runs: Runs,
    /// `[app] kind`; `None`: what follows from the rest.
    pub kind: Option<&'static str>,
    /// The folder of the static application; `None`: the synthetic one.
    pub root: Option<PathBuf>,
    /// `[tls] resumption`.
    pub resumption: &'static str,
    /// `[lease] silence_timeout_ms`. The machine may be shared: a helper that gets no processor for a while is not a
    /// silent one.
    pub silence_timeout_ms: u32,
    /// `[cluster] heartbeat_timeout_ms`, long for the same reason.
    pub heartbeat_timeout_ms: u32,
    /// Nodes have a vhost port each instead of one on veth; see [`vhost_socket`].
    pub vhost: bool,
    /// Nodes find each other in etcd, and there may be a third.
    pub members_in_etcd: bool,
    /// That etcd speaks TLS, and wants certificates.
    pub secure_etcd: bool,
    /// The tables of origin servers, and of routes; `None`: there are none.
    pub upstream: Option<String>,
    /// Heaps are in pages of the ordinary size, so that what they grow by is seen to the page.
    pub small_pages: bool,
    /// Further lines, by table: `("limits", "half_open = 4")`. Tables of the logs of requests are there if they have any; node A's
    /// files are `a.access_log` and `a.slow_log`, in the test's folder.
    pub extra: Vec<(&'static str, String)>,
}

impl Options {
    /// The ordinary node with so many workers.
    pub fn new(workers: usize) -> Options {
        Options {
            workers,
            apps: 0,
            burn: false,
            decide: Decide::Never,
            runs: Runs::Keyferry,
            kind: None,
            root: None,
            resumption: "table",
            silence_timeout_ms: 20_000,
            heartbeat_timeout_ms: 20_000,
            vhost: false,
            members_in_etcd: false,
            secure_etcd: false,
            upstream: None,
            small_pages: false,
            extra: Vec::new(),
        }
    }

    /// Lending as said.
    pub fn decide(self, decide: Decide) -> Options {
        Options { decide, ..self }
    }

    /// Nodes that take scripts of faults.
    pub fn faulty(self) -> Options {
        Options { runs: Runs::Faulty, ..self }
    }

    /// Nodes that answer by an application of their own.
    pub fn embedded(self) -> Options {
        Options { runs: Runs::Embedded, kind: Some("hello"), ..self }
    }

    /// Nodes with vhost ports.
    pub fn vhost(self) -> Options {
        Options { vhost: true, ..self }
    }

    /// Nodes that find each other in etcd.
    pub fn members_in_etcd(self) -> Options {
        Options { members_in_etcd: true, ..self }
    }

    /// An etcd that speaks TLS and wants certificates.
    pub fn secure_etcd(self) -> Options {
        Options { members_in_etcd: true, secure_etcd: true, ..self }
    }

    /// So many application threads.
    pub fn apps(self, apps: usize) -> Options {
        Options { apps, ..self }
    }

    /// Replies cost the core what they cost.
    pub fn burn(self) -> Options {
        Options { burn: true, ..self }
    }

    /// The files of a folder instead of synthetic replies.
    pub fn root(self, root: &Path) -> Options {
        Options { root: Some(root.to_owned()), ..self }
    }

    /// Origin servers, by their tables.
    pub fn upstream(self, tables: &str) -> Options {
        Options { upstream: Some(tables.to_owned()), ..self }
    }

    /// Resumption as said.
    pub fn resumption(self, resumption: &'static str) -> Options {
        Options { resumption, ..self }
    }

    /// A silent helper is given up this soon.
    pub fn silence_timeout_ms(self, silence_timeout_ms: u32) -> Options {
        Options { silence_timeout_ms, ..self }
    }

    /// A silent peer is taken to be gone this soon.
    pub fn heartbeat_timeout_ms(self, heartbeat_timeout_ms: u32) -> Options {
        Options { heartbeat_timeout_ms, ..self }
    }

    /// Heaps without hugepages.
    pub fn small_pages(self) -> Options {
        Options { small_pages: true, ..self }
    }

    /// One more line in a table.
    pub fn line(mut self, table: &'static str, line: impl Into<String>) -> Options {
        self.extra.push((table, line.into()));
        self
    }
}

/// What differs between the nodes of a test.
pub struct Place<'a> {
    /// 0 for A, 1 for B, 2 for C.
    pub number: usize,
    /// The node's name.
    pub name: &'a str,
    /// Its addresses, with prefix.
    pub addresses: [&'a str; 2],
    /// The name of its peer.
    pub peer: &'a str,
}

/// Where `node` listens for its peers.
pub fn link_socket(directory: &Path, node: &str) -> PathBuf {
    directory.join(format!("{node}.sock"))
}

/// Where a client with a virtio-user port finds the vhost port of `node`.
pub fn vhost_socket(directory: &Path, node: &str) -> PathBuf {
    directory.join(format!("{node}.vhost"))
}

/// Where the node of this configuration answers `keyferry status`.
pub fn admin_socket(config: &Path) -> PathBuf {
    config.with_extension("ctl")
}

/// The file's text. Cores are shared: these tests run on small machines.
pub fn text(
    directory: &Path,
    place: &Place<'_>,
    interface: &str,
    options: &Options,
    certificates: &Certificates,
    etcd: Option<&Etcd>,
) -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let spread = |count: usize, from: usize| {
        (0..count).map(|index| ((from + index) % cores).to_string()).collect::<Vec<_>>().join(", ")
    };
    // The nodes' workers on different ones, where there are enough. An emulated machine needs one for all else.
    // There whoever polls without end takes the time of the machine below, too.
    let (first, control, idle) = match fabric::devices() {
        Some(_) => (0, cores - 1, "sleep"),
        None => (place.number, 0, "yield"),
    };
    let sizes = fabric::sizes();
    let workers = spread(options.workers, first);
    let apps = spread(options.apps, first + options.workers);
    let tables = [
        ("node", format!("name = {:?}", place.name)),
        ("cores", format!("control = {control}\nworkers = [{workers}]\napps = [{apps}]\nidle = {idle:?}")),
        ("nic", nic(directory, place, interface, options, &sizes)),
        // Long for a loaded machine: a session that comes late would be missed.
        ("tls", format!("resumption = {:?}\nsession_wait_ms = 5000", options.resumption)),
        ("app", format!("kind = {:?}", options.kind.unwrap_or_else(|| kind(options)))),
        ("app.synthetic", format!("burn = {}", options.burn)),
        ("app.static", options.root.as_ref().map_or(String::new(), |root| format!("root = {root:?}"))),
        (
            "lease",
            format!(
                "{}\nsilence_timeout_ms = {}\ndecide = {:?}",
                sizes.lease,
                options.silence_timeout_ms,
                match options.decide {
                    Decide::Never => "never",
                    Decide::Always => "always",
                    Decide::Threshold => "threshold",
                    Decide::Estimate => "estimate",
                }
            ),
        ),
        ("fabric", fabric::section(place.number)),
        ("cluster", cluster(directory, place, options)),
        ("tcp", String::new()),
        ("limits", sizes.limits.to_owned()),
        ("admin", format!("socket = {:?}", directory.join(format!("{}.ctl", place.name)))),
    ];
    let mut text = String::new();
    for (table, lines) in tables {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "[{table}]\n{lines}");
        for (_, line) in options.extra.iter().filter(|(extra, _)| *extra == table) {
            let _ = writeln!(text, "{line}");
        }
    }
    for table in ["access_log", "slow_log"] {
        let mut lines = options.extra.iter().filter(|(extra, _)| *extra == table).peekable();
        if lines.peek().is_some() {
            // Both nodes have this folder.
            let _ = writeln!(text, "[{table}]\nfile = \"{}.{table}\"", place.name);
        }
        for (_, line) in lines {
            let _ = writeln!(text, "{line}");
        }
    }
    text.push_str("[[listener]]\nport = 443\nprotocol = \"https\"\n");
    text.push_str("[[listener]]\nport = 80\nprotocol = \"redirect\"\n");
    for (chain, key) in &certificates.leaves {
        let _ = writeln!(text, "[[certificate]]\nchain = {chain:?}\nkey = {key:?}");
    }
    text.push_str(options.upstream.as_deref().unwrap_or(""));
    let _ = match etcd {
        Some(etcd) => writeln!(text, "[cluster.etcd]\n{}", etcd.table(2)),
        None => writeln!(
            text,
            "[[peer]]\nname = {:?}\naddress = \"unix:{}\"",
            place.peer,
            link_socket(directory, place.peer).display()
        ),
    };
    text
}

/// What answers where no route says otherwise.
fn kind(options: &Options) -> &'static str {
    match (&options.upstream, &options.root) {
        (Some(_), _) => "upstream",
        (None, Some(_)) => "static",
        (None, None) => "synthetic",
    }
}

fn cluster(directory: &Path, place: &Place<'_>, options: &Options) -> String {
    let file = |name: &str| directory.join(CLUSTER).join(name);
    format!(
        "ca = {:?}\ncertificate = {:?}\nkey = {:?}\nlisten = [\"unix:{}\"]\nheartbeat_timeout_ms = {}",
        file("ca.pem"),
        file(&format!("{}.pem", place.name)),
        file(&format!("{}.key", place.name)),
        link_socket(directory, place.name).display(),
        options.heartbeat_timeout_ms,
    )
}

fn nic(directory: &Path, place: &Place<'_>, interface: &str, options: &Options, sizes: &Sizes) -> String {
    let [v4, v6] = place.addresses;
    let Sizes { frames, nic, .. } = sizes;
    let device = match options.vhost {
        true => format!("net_vhost0,iface={}", vhost_socket(directory, place.name).display()),
        false => format!("net_af_packet0,iface={interface},qpairs={},framecnt={frames}", options.workers),
    };
    format!("device = {device:?}\naddresses = [{v4:?}, {v6:?}]\nhugepages = \"never\"\n{nic}")
}
