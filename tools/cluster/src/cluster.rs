//! A running cluster, and what happens to it.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::certificates::{self, Certificates};
use crate::description::{Description, Members};
use crate::netns::Switch;
use crate::process::PAUSE;
use crate::{Etcd, Guard, Netns, Process, Status};

/// Where clients find the service.
pub const SERVICE4: &str = "10.99.0.1";
/// Where clients find the service.
pub const SERVICE6: &str = "fd81::1";
/// Its port.
pub const SERVICE_PORT: u16 = 443;
/// The interface of a node or distributor in its namespace.
pub(crate) const PORT: &str = "kf0";
/// The clients' interface.
const CLIENTS: &str = "eth0";
/// The interface by which a member reaches etcd.
const OFFICE: &str = "office0";
/// Where etcd is, on a network of its own: what is between clients and nodes is DPDK's.
const ETCD: Ipv4Addr = Ipv4Addr::new(10, 90, 255, 1);

/// Longest time until all have found each other.
const LINKED_MAX: Duration = Duration::from_secs(30);
/// Between the indexes of interfaces: packet sockets of two of DPDK's processes clash where process and interface
/// numbers, one XOR the other, are the same. Far apart they never are.
const INDEX_STEP: u32 = 10_000;
/// Indexes of one cluster.
const INDEXES: u32 = 256;

/// Who has which address on the switch.
#[derive(Clone, Copy)]
pub(crate) enum Address {
    Distributor(usize),
    Node(usize),
    Client(usize),
}

impl Address {
    fn place(self) -> (u8, u16) {
        let (kind, number) = match self {
            Address::Distributor(number) => (1, number),
            Address::Node(number) => (2, number),
            Address::Client(number) => (3, number),
        };
        (kind, u16::try_from(number).expect("a cluster is small"))
    }

    pub(crate) fn v4(self) -> String {
        let (kind, number) = self.place();
        let [high, low] = number.to_be_bytes();
        Ipv4Addr::new(10, 80 + kind, high, low).to_string()
    }

    pub(crate) fn v6(self) -> String {
        let (kind, number) = self.place();
        Ipv6Addr::new(0xfd80, 0, 0, 0, 0, 0, kind.into(), number).to_string()
    }

    /// On the network of etcd, with prefix.
    fn office(self) -> String {
        let (kind, number) = self.place();
        format!("{}/16", Ipv4Addr::new(10, 90, kind, u8::try_from(number).expect("a cluster is small")))
    }

    /// With the switch's prefixes.
    pub(crate) fn with_prefix(self) -> [String; 2] {
        [format!("{}/12", self.v4()), format!("{}/64", self.v6())]
    }
}

/// A node or a distributor, running or not.
struct Member {
    name: String,
    role: &'static str,
    netns: Netns,
    process: Option<Process>,
    /// Of one that came later; dropped behind its process.
    _guard: Option<Guard>,
}

/// A cluster. Dropped, nothing of it is left.
pub struct Cluster {
    executable: PathBuf,
    description: Description,
    // Dropped before the guard, so that their end is not the guard's work in the ordinary case.
    members: Vec<Member>,
    etcd: Option<Etcd>,
    switch: Switch,
    /// The network of etcd.
    office: Option<Switch>,
    clients: Netns,
    /// What namespaces' names begin with.
    prefix: String,
    directory: PathBuf,
    certificates: Certificates,
    /// Indexes of interfaces that are still free.
    indexes: Range<u32>,
    /// Nodes there have been, and distributors.
    numbered: usize,
    numbered_distributors: usize,
    _guard: Guard,
}

impl Cluster {
    /// Makes everything and starts every process of it; returns when all have found each other.
    ///
    /// # Panics
    /// If something of it cannot be made; with the logs of those that run.
    pub fn start(executable: &Path, description: &Description) -> Cluster {
        let mut cluster = Cluster::make(executable, description);
        cluster.start_all();
        cluster
    }

    /// Starts every member at once; none runs.
    fn start_all(&mut self) {
        let this = &*self;
        let started: Vec<Process> = std::thread::scope(|scope| {
            let starts: Vec<_> =
                this.members.iter().map(|member| scope.spawn(|| this.start_process(member))).collect();
            let join = |start: std::thread::ScopedJoinHandle<'_, Process>| start.join();
            starts.into_iter().map(|start| join(start).expect("every member starts")).collect()
        });
        for (member, process) in self.members.iter_mut().zip(started) {
            member.process = Some(process);
        }
        self.wait_linked();
    }

    fn start_process(&self, member: &Member) -> Process {
        let config = self.config(&member.name);
        let mut command = member.netns.command(&self.executable);
        command.args([member.role, "--config"]).arg(&config).stdin(Stdio::null());
        Process::start(command, member.role, &member.name, &config.with_extension("ctl"))
    }

    /// Makes everything, and starts nothing.
    ///
    /// # Panics
    /// As [`start`](Cluster::start).
    pub fn make(executable: &Path, description: &Description) -> Cluster {
        assert!(
            rustix::process::geteuid().is_root(),
            "a cluster is made of network namespaces: run it as root"
        );
        static MADE: AtomicU32 = AtomicU32::new(0);
        // The process id makes the names unique and tells whose they are, should any ever be left.
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("kf-{}-cluster{made}", std::process::id());
        let directory = std::env::temp_dir().join(&prefix);
        let namespace = |name: &str| format!("{prefix}-{name}");
        let names = [description.node_names(), description.distributor_names()].concat();
        let all = names.iter().map(String::as_str).chain(["s", "c", "o", "e"]);
        let namespaces: Vec<String> = all.map(namespace).collect();
        let guard = Guard::new(&directory, &namespaces.iter().map(String::as_str).collect::<Vec<_>>());
        fs::create_dir(&directory).expect("the temporary directory is writable");
        let first = 1 + INDEXES * made;
        let mut indexes = first..first + INDEXES;
        let switch = Switch::new(namespace("s"));
        let clients = Netns::new(namespace("c"));
        plug_clients(&switch, &clients, next_index(&mut indexes), description);
        let (office, etcd) = match description.members {
            Members::File => (None, None),
            Members::Etcd => {
                let office = Switch::new(namespace("o"));
                let netns = Netns::new(namespace("e"));
                let address = format!("{ETCD}/16");
                office.plug_kernel(&netns, OFFICE, next_index(&mut indexes), "etcd", &[address]);
                let etcd = Etcd::start(&netns, ETCD, &directory, false);
                (Some(office), Some(etcd))
            }
        };
        let certificates = Certificates::issue(&directory);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        certificates::for_links(executable, &directory.join("cluster"), &names);
        let mut cluster = Cluster {
            executable: executable.to_owned(),
            description: description.clone(),
            members: Vec::new(),
            etcd,
            switch,
            office,
            clients,
            prefix,
            directory,
            certificates,
            indexes,
            numbered: description.nodes,
            numbered_distributors: description.distributors,
            _guard: guard,
        };
        for number in 1..=description.nodes {
            cluster.plug("node", Address::Node(number), format!("n{number}"), None);
        }
        for number in 1..=description.distributors {
            cluster.plug("distributor", Address::Distributor(number), format!("d{number}"), None);
        }
        cluster.configure();
        cluster
    }

    /// A member's namespace and its cables.
    fn plug(&mut self, role: &'static str, address: Address, name: String, guard: Option<Guard>) {
        let netns = Netns::new(format!("{}-{name}", self.prefix));
        self.switch.plug_port(&netns, PORT, next_index(&mut self.indexes), &name);
        if let Some(office) = &self.office {
            office.plug_kernel(&netns, OFFICE, next_index(&mut self.indexes), &name, &[address.office()]);
        }
        self.members.push(Member { name, role, netns, process: None, _guard: guard });
    }

    /// Starts one more node, which members hear of by etcd; returns what it is called.
    ///
    /// # Panics
    /// If files list the members, or it does not become ready.
    pub fn add_node(&mut self) -> String {
        self.numbered += 1;
        let number = self.numbered;
        let name = format!("n{number}");
        self.plug_late("node", Address::Node(number), &name);
        self.configure_node(number);
        self.start_one(&name);
        name
    }

    /// Starts one more distributor, which members hear of by etcd; returns what it is called. Nobody sends it clients yet: see
    /// [`route_by`](Cluster::route_by).
    ///
    /// # Panics
    /// If files list the members, or it does not become ready.
    pub fn add_distributor(&mut self) -> String {
        self.numbered_distributors += 1;
        let number = self.numbered_distributors;
        let name = format!("d{number}");
        self.plug_late("distributor", Address::Distributor(number), &name);
        self.configure_distributor(number);
        self.start_one(&name);
        name
    }

    /// A place for a member that comes later.
    fn plug_late(&mut self, role: &'static str, address: Address, name: &str) {
        assert!(self.etcd.is_some(), "members are in files");
        // With no directory of its own: its files are the cluster's.
        let nothing = self.directory.join(format!("{name}.guarded"));
        let guard = Guard::new(&nothing, &[&format!("{}-{name}", self.prefix)]);
        self.plug(role, address, name.to_owned(), Some(guard));
        certificates::for_links(&self.executable, &self.directory.join("cluster"), &[name]);
    }

    /// Removes a member that does not run any more, and its cables.
    ///
    /// # Panics
    /// If it runs.
    pub fn remove(&mut self, name: &str) {
        let index = self.index(name);
        assert!(self.members[index].process.is_none(), "{name} runs");
        self.switch.unplug(name);
        self.members.remove(index);
    }

    /// Where members are listed.
    ///
    /// # Panics
    /// If files list them.
    pub fn etcd(&self) -> &Etcd {
        self.etcd.as_ref().expect("the description says so")
    }

    /// Where members are listed, to be killed or started.
    ///
    /// # Panics
    /// If files list them.
    pub fn etcd_mut(&mut self) -> &mut Etcd {
        self.etcd.as_mut().expect("the description says so")
    }

    /// Writes every configuration.
    fn configure(&self) {
        (1..=self.description.nodes).for_each(|number| self.configure_node(number));
        (1..=self.description.distributors).for_each(|number| self.configure_distributor(number));
    }

    fn configure_distributor(&self, number: usize) {
        let text = self.description.distributor_text(number, &self.directory, self.etcd.as_ref());
        self.write(&format!("d{number}"), &text);
    }

    /// From its next start or reload on, a distributor's file lists these nodes of the description and no others.
    ///
    /// # Panics
    /// If there is no distributor of that name, or etcd lists the members.
    pub fn list_nodes(&self, distributor: &str, nodes: &[&str]) {
        let number = distributor[1..].parse().expect("a distributor's name ends in its number");
        let text = self.description.distributor_text(number, &self.directory, self.etcd.as_ref());
        let mut file: toml::Table = text.parse().expect("the file is TOML");
        let listed = file["node"].as_array_mut().expect("the file lists nodes");
        listed.retain(|node| node["name"].as_str().is_some_and(|name| nodes.contains(&name)));
        self.write(distributor, &file.to_string());
    }

    fn configure_node(&self, number: usize) {
        let (certificates, etcd) = (&self.certificates, self.etcd.as_ref());
        let text = self.description.node_text(number, &self.directory, certificates, etcd);
        self.write(&format!("n{number}"), &text);
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.config(name), text).expect("the cluster's directory is writable");
    }

    /// Ends every process, and starts the same cluster with another description of as many members.
    ///
    /// # Panics
    /// As [`start`](Cluster::start).
    pub fn restart(&mut self, description: &Description) {
        let size =
            |description: &Description| (description.nodes, description.distributors, description.members);
        assert_eq!(size(description), size(&self.description), "as many members as before");
        assert_eq!(
            (self.numbered, self.numbered_distributors),
            (self.description.nodes, self.description.distributors),
            "nobody has come since"
        );
        self.stop();
        self.description = description.clone();
        self.configure();
        self.start_all();
    }

    /// Ends every process in order.
    ///
    /// # Panics
    /// If one does not end well.
    pub fn stop(&mut self) {
        // Distributors first: nodes that end one by one would look like nodes that fail.
        for member in self.members.iter_mut().rev() {
            if let Some(process) = member.process.take() {
                process.stop();
            }
        }
    }

    /// What all members are called.
    pub fn names(&self) -> Vec<String> {
        self.members.iter().map(|member| member.name.clone()).collect()
    }

    /// Starts a member that does not run.
    ///
    /// # Panics
    /// If it does not become ready.
    pub fn start_one(&mut self, name: &str) {
        let index = self.index(name);
        assert!(self.members[index].process.is_none(), "{name} runs");
        let process = self.start_process(&self.members[index]);
        self.members[index].process = Some(process);
    }

    /// Whether a member runs.
    pub fn is_running(&self, name: &str) -> bool {
        self.members[self.index(name)].process.is_some()
    }

    /// What a person who wants to try it has to know.
    pub fn summary(&self) -> String {
        let clients = self.clients.name().unwrap_or("");
        format!(
            "{} run; ask them from where clients are:\n  ip netns exec {clients} curl --cacert {} --resolve {}:443:{} \
             https://{}/",
            self.names().join(", "),
            self.ca().display(),
            certificates::NAME,
            SERVICE4,
            certificates::NAME,
        )
    }

    /// A member's process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn process(&self, name: &str) -> &Process {
        self.members[self.index(name)].process.as_ref().expect("it runs")
    }

    /// A member's process, which is the caller's from here on.
    ///
    /// # Panics
    /// If it does not run.
    pub fn take(&mut self, name: &str) -> Process {
        let index = self.index(name);
        self.members[index].process.take().expect("it runs")
    }

    /// Kills a member in the middle of whatever it does.
    pub fn kill(&mut self, name: &str) {
        self.take(name).kill();
    }

    /// Pulls a member's cable, or plugs it in again.
    pub fn set_plugged(&self, name: &str, plugged: bool) {
        self.switch.set_up(name, plugged);
    }

    /// From here on routers send clients' packets by these distributors alone, as they do once they have noticed that the
    /// others are gone, or have come.
    ///
    /// # Panics
    /// If there is none of that name, or none at all.
    pub fn route_by(&self, distributors: &[&str]) {
        let number = |name: &&str| {
            let of = |member: &&Member| member.name == *name && member.role == "distributor";
            assert!(self.members.iter().any(|member| of(&member)), "no distributor is called {name}");
            name[1..].parse().expect("a distributor's name ends in its number")
        };
        route(&self.clients, "replace", distributors.iter().map(number));
    }

    /// A member's counters.
    pub fn status(&self, name: &str) -> Status {
        self.process(name).status()
    }

    /// Waits until each running node has queue pairs with every other, and each distributor links to all nodes.
    ///
    /// # Panics
    /// If they do not find each other.
    pub fn wait_linked(&self) {
        let running =
            |role| self.members.iter().filter(move |member| member.role == role && member.process.is_some());
        let nodes = running("node").count() as u64;
        for member in running("node") {
            let process = self.process(&member.name);
            process.wait_for("linked to its peers", LINKED_MAX, |status| {
                status.total("peers_ready") >= nodes - 1
            });
        }
        for member in running("distributor") {
            let process = self.process(&member.name);
            process.wait_for("linked to nodes", LINKED_MAX, |status| status.total("links_up") >= nodes);
        }
    }

    /// Waits until something is so.
    ///
    /// # Panics
    /// If it is not within half a minute.
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Cluster) -> bool) {
        let deadline = Instant::now() + LINKED_MAX;
        while !is_so(self) {
            assert!(Instant::now() < deadline, "not within {LINKED_MAX:?}: {what}");
            std::thread::sleep(PAUSE);
        }
    }

    /// What it is made of.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// A member's namespace.
    pub fn netns(&self, name: &str) -> &Netns {
        &self.members[self.index(name)].netns
    }

    /// The clients' namespace.
    pub fn clients(&self) -> &Netns {
        &self.clients
    }

    /// The addresses clients have, of one family.
    pub fn client_addresses(&self) -> Vec<String> {
        (1..=self.description.clients).map(|number| Address::Client(number).v4()).collect()
    }

    /// `program`, to be run where the clients are.
    pub fn client(&self, program: &str) -> Command {
        self.clients.command(program)
    }

    /// The authority clients trust.
    pub fn ca(&self) -> &Path {
        &self.certificates.ca
    }

    /// A place for files.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A member's configuration.
    pub fn config(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.toml"))
    }

    fn index(&self, name: &str) -> usize {
        self.members
            .iter()
            .position(|member| member.name == name)
            .unwrap_or_else(|| panic!("no member is called {name}: there are {}", self.names().join(", ")))
    }
}

/// The index of the next interface.
fn next_index(indexes: &mut Range<u32>) -> u32 {
    INDEX_STEP * indexes.next().expect("a cluster is small")
}

/// The clients' interface with all their addresses, and their routes to the service: by all distributors alike.
fn plug_clients(switch: &Switch, clients: &Netns, index: u32, description: &Description) {
    let addresses: Vec<String> =
        (1..=description.clients.max(1)).flat_map(|number| Address::Client(number).with_prefix()).collect();
    switch.plug_kernel(clients, CLIENTS, index, "c", &addresses);
    // By address and port: as routers spread flows (RFC 2992).
    for family in ["ipv4", "ipv6"] {
        let policy = format!("net.{family}.fib_multipath_hash_policy=1");
        let status = clients.command("sysctl").args(["-qw", &policy]).status();
        assert!(status.is_ok_and(|status| status.success()), "{policy} cannot be set");
    }
    if description.distributors > 0 {
        route(clients, "add", 1..=description.distributors);
    }
}

/// Clients' routes to the service by these distributors, by all alike; `change` is `add` or `replace`.
fn route(clients: &Netns, change: &str, distributors: impl Iterator<Item = usize> + Clone) {
    let change = |to: String, address: fn(Address) -> String| {
        let hops = distributors.clone().flat_map(|number| {
            ["nexthop".to_owned(), "via".to_owned(), address(Address::Distributor(number))]
        });
        let words: Vec<_> = ["route", change, &to].into_iter().map(str::to_owned).chain(hops).collect();
        clients.ip(&words.iter().map(String::as_str).collect::<Vec<_>>());
    };
    change(format!("{SERVICE4}/32"), Address::v4);
    change(format!("{SERVICE6}/128"), Address::v6);
}
