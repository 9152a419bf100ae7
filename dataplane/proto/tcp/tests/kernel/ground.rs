//! What a test with Linux stands on: a network namespace of its own, with a TUN device whose other end is the test. All of
//! it ends with the process inside.

#![allow(dead_code, reason = "each user needs its part")]

use std::fs;
use std::os::fd::{AsRawFd, RawFd};
use std::process::Command;

use smoltcp::phy::{Device, Medium, RxToken, TunTapInterface, TxToken};
use smoltcp::time::Instant;

/// This program, to be run in a fresh network namespace, and with what else `unshare` is told.
pub fn inside(besides: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--net").args(besides).arg(std::env::current_exe().expect("this program"));
    command
}

/// Ends this process with the one that began it, however that ends.
pub fn end_with_parent() {
    let kill = Some(rustix::process::Signal::KILL);
    rustix::process::set_parent_process_death_signal(kill).expect("a process may want to end");
}

/// Runs a command that must succeed.
pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().expect("a command")).args(words).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{command}: {status:?}");
}

/// Sets a value of the namespace: `name` from `net` on, with dots.
pub fn set(name: &str, value: &str) {
    let file = format!("/proc/sys/net/{}", name.replace('.', "/"));
    fs::write(&file, value).unwrap_or_else(|error| panic!("{file} = {value}: {error} (needs root)"));
}

/// A counter of the kernel's, of this namespace: the column `name` of the two lines of /proc/net/{snmp,netstat} that begin
/// with `group`.
pub fn counter(group: &str, name: &str) -> u64 {
    let text =
        ["snmp", "netstat"].map(|file| fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default());
    let text = text.concat();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { panic!("no counters {group}") };
    let found = names.split_whitespace().zip(values.split_whitespace()).find(|(found, _)| *found == name);
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or_else(|| panic!("no counter {group} {name}"))
}

/// The test's end of a TUN device: IP packets that Linux sends, and such that it receives.
pub struct Tun(TunTapInterface);

impl Tun {
    /// Makes a device, with addresses (and their prefixes) for Linux.
    pub fn new(name: &str, mtu: u16, addresses: &[&str]) -> Tun {
        run(&format!("ip tuntap add dev {name} mode tun"));
        run(&format!("ip link set {name} mtu {mtu} txqueuelen 10000"));
        for address in addresses {
            // Without it IPv6 waits a second to see whether somebody else has the address.
            let flags = if address.contains(':') { "nodad" } else { "" };
            run(&format!("ip address add {address} dev {name} {flags}"));
        }
        let tun = TunTapInterface::new(name, Medium::Ip).expect("a TUN device");
        run(&format!("ip link set {name} up"));
        Tun(tun)
    }

    /// The next packet of Linux's, if there is one.
    pub fn receive(&mut self) -> Option<Vec<u8>> {
        let (packet, _) = self.0.receive(Instant::ZERO)?;
        Some(packet.consume(|bytes| bytes.to_vec()))
    }

    /// Gives Linux a packet.
    pub fn send(&mut self, packet: &[u8]) {
        let room = self.0.transmit(Instant::ZERO).expect("a device that takes packets");
        room.consume(packet.len(), |bytes| bytes.copy_from_slice(packet));
    }
}

impl AsRawFd for Tun {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
