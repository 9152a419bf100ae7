//! Two nodes that are each other's peer, or up to three that find each other in etcd; one namespace of clients, a link
//! from it to each node.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use keyferry_cluster::certificates::{self, Another, Certificates, NAME};
use keyferry_cluster::netns::Link;
use keyferry_cluster::process::PAUSE;
use keyferry_cluster::{Etcd, Guard, Netns, Process as Node, Status};
use keyferry_load::args::Args;
use keyferry_load::report::Report;

use super::config::{self, Options, Place, Runs};
use super::fabric;
use super::keyferry;
use crate::{embedded, faulty};

/// Node A, which the clients speak to.
pub const A4: &str = "10.77.1.2";
/// Node A.
pub const A6: &str = "fd77:1::2";
/// Node B, which helps.
pub const B4: &str = "10.77.2.2";
/// Node C, where there are three.
pub const C4: &str = "10.77.3.2";
/// Longest time until connections and leases of clients that are gone are forgotten. Above it are the silence
/// time-outs of the configuration (two seconds), below it the idle time-out (a minute).
const REST_MAX: Duration = Duration::from_secs(20);

/// Longest time until two started nodes have found each other.
const LINKED_MAX: Duration = Duration::from_secs(20);
/// Longest time until counters show what has been seen by a client; workers publish them now and then.
const COUNTED_MAX: Duration = Duration::from_secs(5);

/// The nodes' names and addresses.
const PLACES: [Place<'static>; 3] = [
    Place { number: 0, name: "a", addresses: ["10.77.1.2/24", "fd77:1::2/64"], peer: "b" },
    Place { number: 1, name: "b", addresses: ["10.77.2.2/24", "fd77:2::2/64"], peer: "a" },
    Place { number: 2, name: "c", addresses: ["10.77.3.2/24", "fd77:3::2/64"], peer: "a" },
];
/// How the names of the nodes' interfaces begin.
const INTERFACE: &str = "kfe";
/// Between the indexes of the nodes' interfaces.
const INDEX_STEP: u32 = 10_000;
/// The clients' interface and addresses on the link of each node.
const CLIENT_ENDS: [(&str, [&str; 2]); PLACES.len()] = [
    ("to-a", ["10.77.1.1/24", "fd77:1::1/64"]),
    ("to-b", ["10.77.2.1/24", "fd77:2::1/64"]),
    ("to-c", ["10.77.3.1/24", "fd77:3::1/64"]),
];

/// Running nodes and what is around them. Dropped, nothing of it is left.
pub struct Cluster {
    // Dropped first, so that a node's end is not the guard's work in the ordinary case.
    a: Option<Node>,
    b: Option<Node>,
    /// Only where members are in etcd.
    c: Option<Node>,
    etcd: Option<Etcd>,
    a_netns: Netns,
    b_netns: Netns,
    clients: Netns,
    /// Of A's port.
    a_interface: String,
    directory: PathBuf,
    certificates: Certificates,
    /// B is not the first of its name.
    restarted: bool,
    /// What runs as a node.
    runs: Runs,
    /// Their heaps are in pages of the ordinary size.
    small_pages: bool,
    _guard: Guard,
}

impl Cluster {
    /// Makes everything and starts both nodes.
    pub fn start(options: &Options) -> Cluster {
        assert!(
            rustix::process::geteuid().is_root(),
            "end-to-end tests make network namespaces: run them as root"
        );
        static MADE: AtomicU32 = AtomicU32::new(0);
        // The process id makes the names unique and tells whose they are, should any ever be left.
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("kf-{}-{made}", std::process::id());
        let directory = std::env::temp_dir().join(&prefix);
        let [a_name, b_name, clients] = ["a", "b", "c"].map(|name| format!("{prefix}-{name}"));
        let guard = Guard::new(&directory, &[&a_name, &b_name, &clients]);
        fs::create_dir(&directory).expect("the temporary directory is writable");
        let clients = Netns::new(clients);
        // Soft-RoCE speaks in the first namespace only.
        let [a_netns, b_netns] = match fabric::devices() {
            Some(_) => [Netns::here(), Netns::here()],
            None if options.members_in_etcd => {
                let shared = Netns::new(a_name);
                [shared.clone(), shared]
            }
            None => [Netns::new(a_name), Netns::new(b_name)],
        };
        // All of them reach etcd over one loopback; without it there is no third.
        let c_netns = a_netns.clone();
        let etcd = options
            .members_in_etcd
            .then(|| Etcd::start(&c_netns, Ipv4Addr::LOCALHOST, &directory, options.secure_etcd));
        let certificates = Certificates::issue(&directory);
        let names = PLACES.each_ref().map(|place| place.name);
        certificates::for_links(&keyferry(), &directory.join(config::CLUSTER), &names);
        for ((netns, place), (client_interface, addresses)) in
            [&a_netns, &b_netns, &c_netns].iter().zip(places(options)).zip(CLIENT_ENDS)
        {
            // DPDK's packet sockets of two processes clash where process and interface numbers, one XOR the other, are
            // the same: far apart they never are.
            let interface = interface(made, place);
            let index = INDEX_STEP * (PLACES.len() as u32 * made + 1 + place.number as u32);
            Link {
                node: netns,
                node_interface: (&interface, index),
                client: &clients,
                client_interface,
                addresses,
            }
            .make();
            let text = config::text(&directory, place, &interface, options, &certificates, etcd.as_ref());
            fs::write(config_file(&directory, place.name), text).expect("the test's directory is writable");
        }
        let mut cluster = Cluster {
            a: None,
            b: None,
            c: None,
            etcd,
            a_netns,
            b_netns,
            clients,
            a_interface: interface(made, &PLACES[0]),
            directory,
            certificates,
            restarted: false,
            runs: options.runs,
            small_pages: options.small_pages,
            _guard: guard,
        };
        // B first: A then finds its peer at once.
        cluster.start_b();
        cluster.start_a();
        cluster.wait_linked(options.workers);
        cluster
    }

    /// Node A.
    pub fn a(&self) -> &Node {
        self.a.as_ref().expect("A runs")
    }

    /// Node B.
    pub fn b(&self) -> &Node {
        self.b.as_ref().expect("B runs")
    }

    /// The nodes that run.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        [&self.a, &self.b, &self.c].into_iter().flatten()
    }

    /// Where members are listed.
    pub fn etcd(&self) -> &Etcd {
        self.etcd.as_ref().expect("asked for with the options")
    }

    /// Where members are listed, to be killed or started.
    pub fn etcd_mut(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("asked for with the options")
    }

    /// Starts C, at first or again after its end.
    pub fn start_c(&mut self) {
        self.c = Some(self.start_node("c", &self.a_netns));
    }

    /// C, which is about to end.
    pub fn take_c(&mut self) -> Node {
        self.restarted = true;
        self.c.take().expect("C runs")
    }

    /// Starts B, again after [`kill_b`](Cluster::kill_b).
    pub fn start_b(&mut self) {
        self.b = Some(self.start_node("b", &self.b_netns));
    }

    fn start_node(&self, name: &str, netns: &Netns) -> Node {
        let config = config_file(&self.directory, name);
        let mut command = match self.runs {
            Runs::Faulty => faulty::command(&config, netns),
            Runs::Embedded => embedded::command(&config, netns),
            Runs::Keyferry => {
                let mut command = netns.command(keyferry());
                command.args(["node", "--config"]).arg(&config).stdin(Stdio::null());
                command
            }
        };
        if self.small_pages {
            // A node would have hugepages, 2 MiB at a time.
            command.env("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0");
        }
        Node::start(command, "node", name, &config::admin_socket(&config))
    }

    /// Kills B.
    pub fn kill_b(&mut self) {
        self.b.take().expect("B runs").kill();
        self.restarted = true;
    }

    /// Starts A, again after its end.
    pub fn start_a(&mut self) {
        self.a = Some(self.start_node("a", &self.a_netns));
    }

    /// The next script of faults of A or B.
    pub fn arm(&mut self, name: &str, script: &str) {
        let node = if name == "a" { &mut self.a } else { &mut self.b };
        faulty::arm(node.as_mut().expect("it runs"), script);
    }

    /// A, which is about to end and to be started again.
    pub fn take_a(&mut self) -> Node {
        self.restarted = true;
        self.a.take().expect("A runs")
    }

    /// B, which is about to end and to be started again.
    pub fn take_b(&mut self) -> Node {
        self.restarted = true;
        self.b.take().expect("B runs")
    }

    /// Changes a node's configuration, for its next start.
    pub fn edit_config(&self, name: &str, edit: impl FnOnce(String) -> String) {
        let file = config_file(&self.directory, name);
        let text = fs::read_to_string(&file).expect("the node has a configuration");
        fs::write(&file, edit(text)).expect("the test's directory is writable");
    }

    /// Certificates for links by an authority whose folder is `folder`, made if it is missing.
    pub fn certify(&self, folder: &str, names: &[&str]) {
        certificates::for_links(&keyferry(), &self.directory.join(folder), names);
    }

    /// Where a client with a virtio-user port finds a node with a vhost port.
    pub fn vhost_socket(&self, name: &str) -> PathBuf {
        config::vhost_socket(&self.directory, name)
    }

    /// Where a node listens for its peers.
    pub fn link_socket(&self, name: &str) -> PathBuf {
        config::link_socket(&self.directory, name)
    }

    /// Waits until each worker of both nodes has its peer. A node serves before, so tests of lending wait for it.
    pub fn wait_linked(&self, workers: usize) {
        for node in [self.a(), self.b()] {
            let is_linked = |status: &Status| status.total("peers_ready") == workers as u64;
            node.wait_for("linked to its peer", LINKED_MAX, is_linked);
        }
    }

    /// The clients' namespace.
    pub fn clients(&self) -> &Netns {
        &self.clients
    }

    /// A place for files of the test.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The authority clients trust.
    pub fn ca(&self) -> &Path {
        &self.certificates.ca
    }

    /// Another certificate for the default name, valid for so many days.
    pub fn another_certificate(&self, days: i64) -> Another {
        self.certificates.another(NAME, days)
    }

    /// Chain and key that nodes use by default.
    pub fn default_pair(&self) -> (&Path, &Path) {
        let (chain, key) = &self.certificates.leaves[0];
        (chain, key)
    }

    /// The file of the private key that nodes use by default.
    pub fn private_key(&self) -> &Path {
        &self.certificates.leaves[0].1
    }

    /// `program`, to be run where the clients are.
    pub fn client(&self, program: &str) -> Command {
        self.clients.command(program)
    }

    /// Load against A and its synthetic application, not yet running; `options` follow URL, address and authority.
    pub fn loader(&self, options: &[&str]) -> Loader {
        self.loader_of("/", &[&["--synthetic"][..], options].concat())
    }

    /// Load of one target of A, whoever answers it.
    pub fn loader_of(&self, target: &str, options: &[&str]) -> Loader {
        let ca = self.ca().to_str().expect("the test's paths are text");
        let (url, resolve) = (format!("https://{NAME}{target}"), format!("{NAME}:{A4}"));
        let fixed = ["keyferry-load", &url, "--resolve", &resolve, "--ca", ca];
        let args = Args::parse_from(fixed.iter().chain(options));
        Loader { args, clients: self.clients.clone(), stop: Arc::default() }
    }

    /// `keyferry COMMAND` with A's configuration, after `edit`, where A runs.
    pub fn keyferry(&self, command: &str, edit: impl FnOnce(String) -> String) -> Output {
        let file = self.directory.join("edited.toml");
        let text = fs::read_to_string(config_file(&self.directory, "a")).expect("A has a configuration");
        fs::write(&file, edit(text)).expect("the test's directory is writable");
        let mut keyferry = self.a_netns.command(keyferry());
        keyferry.args([command, "--config"]).arg(file).output().expect("the executable under test starts")
    }

    /// `keyferry ctl ARGUMENTS` to A or B, not yet running.
    pub fn ctl(&self, node: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(keyferry());
        command.arg("ctl").args(arguments).arg("--config").arg(self.config(node));
        command
    }

    /// `keyferry capture ARGUMENTS` of A or B, not yet running.
    pub fn capture(&self, node: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(keyferry());
        command.arg("capture").args(arguments).arg("--config").arg(config_file(&self.directory, node));
        command
    }

    /// Where A or B is asked.
    pub fn admin_socket(&self, node: &str) -> PathBuf {
        config::admin_socket(&config_file(&self.directory, node))
    }

    /// A node's configuration.
    pub fn config(&self, node: &str) -> PathBuf {
        config_file(&self.directory, node)
    }

    /// `program`, to be run where A is.
    pub fn beside_a(&self, program: &str) -> Command {
        self.a_netns.command(program)
    }

    /// The network interface that A's port is on.
    pub fn interface_of_a(&self) -> &str {
        &self.a_interface
    }

    /// Runs load from where A lives, against another server at `address`.
    pub fn load_as_a(&self, url: &str, address: &str, options: &[&str]) -> Report {
        let ca = self.ca().to_str().expect("the test's paths are text");
        let resolve = format!("{NAME}:{address}");
        let fixed = ["keyferry-load", url, "--resolve", &resolve, "--ca", ca];
        let args = Args::parse_from(fixed.iter().chain(options));
        Loader { args, clients: self.a_netns.clone(), stop: Arc::default() }.run()
    }

    /// Runs load against A to its end.
    pub fn load(&self, options: &[&str]) -> Report {
        self.loader(options).run()
    }

    /// Waits until the counters of A and B are as `is_met` has them.
    pub fn expect_counts(&self, what: &str, is_met: impl Fn(&Status, &Status) -> bool) {
        let deadline = Instant::now() + COUNTED_MAX;
        loop {
            let (a, b) = (self.a().status(), self.b().status());
            if is_met(&a, &b) {
                return;
            }
            assert!(Instant::now() < deadline, "{what}: {a} {b}");
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until A and B both count so many replies of A sealed by B, and A so many it sealed itself.
    pub fn expect_replies(&self, local: u64, lent: u64) {
        let what = format!("{local} replies sealed here, {lent} there");
        self.expect_counts(&what, |a, b| {
            let counts = [a.total("replies_local"), a.total("replies_lent"), b.total("leases_served")];
            counts == [local, lent, lent]
        });
    }

    /// Waits until neither node holds anything of any client.
    pub fn wait_at_rest(&self) {
        // Not by counters from before what the test did last.
        for node in [self.a(), self.b()] {
            let before = node.status().workers("turns");
            let is_newer =
                |status: &Status| status.workers("turns").iter().zip(&before).all(|(now, then)| now > then);
            node.wait_for("counters of now", COUNTED_MAX, is_newer);
        }
        self.a().wait_for("back to rest", REST_MAX, Status::is_at_rest);
        self.b().wait_for("back to rest", REST_MAX, Status::is_at_rest);
    }

    /// Both nodes' counters add up, and agree with each other: what A lent B was offered, what B returned A sent, but
    /// for what was lost with a queue pair.
    fn reconcile(&self) {
        self.expect_counts("counters add up", |a, b| a.unbalanced().is_none() && b.unbalanced().is_none());
        if self.restarted || self.c.is_some() {
            // A node that was started anew has forgotten what the one before it did.
            return;
        }
        self.expect_counts("nodes agree", |a, b| {
            [(a, b), (b, a)].into_iter().all(|(lender, helper)| {
                let [granted, lent] = ["leases_granted", "replies_lent"].map(|name| lender.total(name));
                let [taken, served] = ["leases_taken", "leases_served"].map(|name| helper.total(name));
                let undisturbed = lender.total("peers_lost") + helper.total("peers_lost") == 0;
                taken <= granted && lent <= served && (taken == granted || !undisturbed)
            })
        });
    }

    /// Ends both nodes in order, after everything of the clients is gone.
    pub fn finish(mut self) {
        self.wait_at_rest();
        self.reconcile();
        if let Some(c) = self.c.take() {
            c.stop();
        }
        self.a.take().expect("A runs").stop();
        self.b.take().expect("B runs").stop();
    }
}

/// The load generator, in the clients' namespace.
pub struct Loader {
    args: Args,
    clients: Netns,
    stop: Arc<AtomicBool>,
}

impl Loader {
    /// Set to end the load early.
    pub fn stop(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Runs it.
    pub fn run(self) -> Report {
        self.clients.enter(|| keyferry_load::run(&self.args, &self.stop)).expect("the load starts")
    }
}

/// Of the nodes there may be.
fn places(options: &Options) -> &'static [Place<'static>] {
    if options.members_in_etcd { &PLACES } else { &PLACES[..2] }
}

/// Of a name that no other test has, as both may be in one namespace.
fn interface(made: u32, place: &Place<'_>) -> String {
    format!("{INTERFACE}{made}-{}", place.name)
}

fn config_file(directory: &Path, node: &str) -> PathBuf {
    directory.join(format!("{node}.toml"))
}
