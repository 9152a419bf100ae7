//! Network namespaces, and the veth pairs and bridges between them.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The namespace of one node or of the clients.
#[derive(Clone)]
pub struct Netns {
    /// `None`: the one this process is in.
    name: Option<String>,
}

impl Netns {
    /// Makes the namespace, with loopback up. It is removed by a [`Guard`](crate::Guard).
    pub fn new(name: String) -> Netns {
        let netns = Netns { name: Some(name.clone()) };
        run(Command::new("ip").args(["netns", "add", &name]));
        netns.ip(&["link", "set", "lo", "up"]);
        netns
    }

    /// The namespace this process is in.
    pub fn here() -> Netns {
        Netns { name: None }
    }

    /// What it is called, if this process is not in it.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// `program`, to be run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(name) = &self.name else { return Command::new(program) };
        // `ip netns exec` mounts a /sys of the namespace as well, which nobody here looks at and which takes its time.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{name}")).arg(program);
        command
    }

    /// Runs `ip` on what is inside.
    ///
    /// # Panics
    /// If it fails.
    pub fn ip(&self, arguments: &[&str]) {
        let mut command = Command::new("ip");
        if let Some(name) = &self.name {
            command.args(["-n", name]);
        }
        run(command.args(arguments));
    }

    /// Runs `work` on a thread that lives inside, so that its sockets do too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let Some(name) = &self.name else { return work() };
        let file = File::open(format!("/run/netns/{name}")).expect("the namespace exists");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter a namespace");
                work()
            });
            match thread.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

/// One link: the node's end carries packets of DPDK only, the client's end is an ordinary kernel interface.
pub struct Link<'a> {
    /// Where the node's end lives.
    pub node: &'a Netns,
    /// Its name and index there.
    pub node_interface: (&'a str, u32),
    /// Where the client's end lives.
    pub client: &'a Netns,
    /// Its name there.
    pub client_interface: &'a str,
    /// The client's addresses, with prefix.
    pub addresses: [&'a str; 2],
}

impl Link<'_> {
    /// Makes the link and brings it up.
    pub fn make(&self) {
        let ((inner, index), outer) = (self.node_interface, self.client_interface);
        pair(self.node, inner, index, self.client, outer);
        make_bare(self.node, inner);
        make_plain(self.client, outer);
        for address in self.addresses {
            let mut add = vec!["address", "add", address, "dev", outer];
            if address.contains(':') {
                // Duplicate address detection would hold the address back for a second.
                add.push("nodad");
            }
            self.client.ip(&add);
        }
        self.node.ip(&["link", "set", inner, "up"]);
        self.client.ip(&["link", "set", outer, "up"]);
    }
}

/// One veth pair, both ends down; the index is that of the first.
fn pair(one: &Netns, inner: &str, index: u32, other: &Netns, outer: &str) {
    let other = other.name.as_ref().expect("the far end has a namespace of its own");
    let (index, peer) = (index.to_string(), ["peer", "name", outer, "netns", other]);
    one.ip(&[&["link", "add", inner, "index", &index, "type", "veth"][..], &peer].concat());
}

/// An interface for a port of DPDK's: the kernel must not answer beside it, so it has no address, nor IPv6 of its own
/// making.
fn make_bare(netns: &Netns, interface: &str) {
    run(netns.command("sysctl").args(["-qw", &format!("net.ipv6.conf.{interface}.disable_ipv6=1")]));
}

/// What leaves has its checksums, and no packet is larger than the MTU: the port at the other end is a plain one.
fn make_plain(netns: &Netns, interface: &str) {
    run(netns.command("ethtool").args(["-K", interface, "tx", "off", "gso", "off", "tso", "off"]));
}

/// A switch: a bridge in a namespace of its own, to which ports are plugged.
pub struct Switch {
    netns: Netns,
}

/// The bridge's name in its namespace.
const BRIDGE: &str = "switch";

impl Switch {
    /// Makes one in a namespace of that name.
    pub fn new(name: String) -> Switch {
        let netns = Netns::new(name);
        netns.ip(&["link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "mcast_snooping", "0"]);
        netns.ip(&["link", "set", BRIDGE, "up"]);
        Switch { netns }
    }

    /// Plugs in a port of DPDK's: `interface` in `netns`, of that index; `at` is the switch's end.
    pub fn plug_port(&self, netns: &Netns, interface: &str, index: u32, at: &str) {
        pair(netns, interface, index, &self.netns, at);
        make_bare(netns, interface);
        netns.ip(&["link", "set", interface, "up"]);
        self.attach(at);
    }

    /// Plugs in a kernel's interface with these addresses.
    pub fn plug_kernel(&self, netns: &Netns, interface: &str, index: u32, at: &str, addresses: &[String]) {
        pair(netns, interface, index, &self.netns, at);
        make_plain(netns, interface);
        netns.ip(&["link", "set", interface, "up"]);
        for address in addresses {
            let duplicates: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            netns.ip(&[&["address", "add", address, "dev", interface][..], duplicates].concat());
        }
        self.attach(at);
    }

    /// Pulls the plug of a port, or puts it back.
    pub fn set_up(&self, at: &str, up: bool) {
        self.netns.ip(&["link", "set", at, if up { "up" } else { "down" }]);
    }

    /// Takes a port away, and with it the interface at its other end.
    pub fn unplug(&self, at: &str) {
        self.netns.ip(&["link", "del", at]);
    }

    fn attach(&self, at: &str) {
        make_plain(&self.netns, at);
        self.netns.ip(&["link", "set", at, "master", BRIDGE]);
        self.set_up(at, true);
    }
}

/// Runs a command of the set-up.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
