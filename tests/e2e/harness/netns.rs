//! Network namespaces and the veth pairs between them.

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
    /// Makes the namespace, with loopback up. It is removed by the test's guard.
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

    /// `program`, to be run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let Some(name) = &self.name else { return Command::new(program) };
        // `ip netns exec` mounts a /sys of the namespace as well, which nobody here looks at and which takes its time.
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{name}")).arg(program);
        command
    }

    /// Runs `ip` on what is inside.
    fn ip(&self, arguments: &[&str]) {
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
        let client = self.client.name.as_ref().expect("clients have a namespace of their own");
        let index = index.to_string();
        let peer = ["peer", "name", outer, "netns", client];
        self.node.ip(&[&["link", "add", inner, "index", &index, "type", "veth"][..], &peer].concat());
        // The kernel must not answer beside the node: no address, and no IPv6 of its own making.
        let ipv6 = format!("net.ipv6.conf.{inner}.disable_ipv6=1");
        run(self.node.command("sysctl").args(["-qw", &ipv6]));
        // Checksums have to be on the wire, packets no larger than the MTU: the node's port is a plain one.
        let offloads = ["-K", outer, "tx", "off", "gso", "off", "tso", "off"];
        run(self.client.command("ethtool").args(offloads));
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

/// Runs a command of the set-up; its failure fails the test.
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
