//! Forwarders, each a process of its own with its port on the first core: testpmd in one of its modes, or a distributor.
//!
//! In: the device of the port. Out: a process that stands still unless it is its turn, so that they share the core
//! without taking it from each other.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::harness::traffic::{self, NODES, SERVICE};

/// The forwarder's core.
pub const CORE: usize = 0;
/// The generator's, where control threads are too.
pub const GENERATOR_CORE: usize = 1;
/// Packet memory of a forwarder, in MiB.
pub const MEMORY_MIB: u32 = 96;
/// Packet buffers of a forwarder.
const PACKETS: u32 = 8_192;
/// Descriptors of its queues; a driver may round, and vhost has the other side's.
const DESCRIPTORS: u32 = 512;
/// The distributor's admin socket, in the forwarders' folder.
const ADMIN: &str = "bench.ctl";

/// What forwards.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `testpmd --forward-mode=io`: looks at nothing, writes nothing. What is left is the driver and the generator.
    Io,
    /// `testpmd --forward-mode=macswap`.
    Macswap,
    /// `keyferry distributor`.
    Distributor,
}

impl Kind {
    /// All, in the order of a round.
    pub const ALL: [Kind; 3] = [Kind::Io, Kind::Macswap, Kind::Distributor];

    /// Its name in files and tables.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Io => "io",
            Kind::Macswap => "macswap",
            Kind::Distributor => "distributor",
        }
    }
}

/// A running forwarder.
pub struct Forwarder {
    child: Child,
    /// There once its port has started.
    sign: Sign,
}

/// How a forwarder shows that its port has started: a memif port connects once, and only to one that has.
enum Sign {
    /// A file that is there.
    File(PathBuf),
    /// A file that says so.
    Said(PathBuf, &'static str),
}

impl Forwarder {
    /// Starts one on a device, a distributor of this `keyferry`; its files and what it says are in `folder`.
    pub fn start(kind: Kind, device: &str, keyferry: &Path, folder: &Path) -> Forwarder {
        let mut command = match kind {
            Kind::Io | Kind::Macswap => testpmd(kind.name(), device),
            Kind::Distributor => distributor(device, keyferry, folder),
        };
        let log = folder.join(format!("{}.log", kind.name()));
        let said = File::create(&log).expect("a file");
        let also = said.try_clone().expect("a file");
        let sign = match kind {
            Kind::Io | Kind::Macswap => Sign::Said(log, "Checking link statuses"),
            Kind::Distributor => Sign::File(folder.join(ADMIN)),
        };
        // testpmd runs until its standard input ends.
        let child = command.stdin(Stdio::piped()).stdout(said).stderr(also).spawn();
        Forwarder { child: child.unwrap_or_else(|error| panic!("{command:?}: {error}")), sign }
    }

    /// Whether its port has started.
    pub fn is_ready(&self) -> bool {
        match &self.sign {
            Sign::File(file) => file.exists(),
            Sign::Said(log, words) => std::fs::read_to_string(log).is_ok_and(|said| said.contains(words)),
        }
    }

    /// It stands still from now on.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// And goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Whether it has ended, which it should not.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child can be signalled");
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // Nothing of it is in files but its socket, and that goes with the folder.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As many buffers, descriptors and as large bursts (32) as the distributor has; its main thread only waits.
fn testpmd(mode: &str, device: &str) -> Command {
    let mut command = Command::new(super::TESTPMD);
    command.args(["--lcores", &format!("0@{GENERATOR_CORE},1@{CORE}"), "--no-pci", "--in-memory"]);
    command.args(["--no-telemetry", "-m", &MEMORY_MIB.to_string(), "--vdev", device, "--"]);
    command.args([&format!("--forward-mode={mode}"), "--auto-start", "--port-topology=loop"]);
    command.args([&format!("--total-num-mbufs={PACKETS}"), "--no-lsc-interrupt", "--burst=32"]);
    command.args([&format!("--rxd={DESCRIPTORS}"), &format!("--txd={DESCRIPTORS}")]);
    command
}

fn distributor(device: &str, keyferry: &Path, folder: &Path) -> Command {
    let file = folder.join("distributor.toml");
    std::fs::write(&file, configuration(device, folder)).expect("a file");
    let mut command = Command::new(keyferry);
    command.arg("distributor").arg("--config").arg(file);
    command
}

/// Tables are of their usual size.
fn configuration(device: &str, folder: &Path) -> String {
    let nodes: String = (0..NODES)
        .map(|node| format!("[[node]]\nname = \"n{node}\"\naddress = \"{}\"\n", traffic::node_address(node)))
        .collect();
    format!(
        "[distributor]\nname = \"bench\"\n\
         [cores]\ncontrol = {GENERATOR_CORE}\nworkers = [{CORE}]\nidle = \"spin\"\n\
         [nic]\ndevice = \"{device}\"\naddresses = [\"{}/24\"]\n\
         hugepages = \"require\"\nmemory_mib = {MEMORY_MIB}\npackets = {PACKETS}\n\
         [[service]]\naddress = \"{}:{}\"\n{nodes}\
         [admin]\nsocket = \"{}/{ADMIN}\"\n",
        traffic::DISTRIBUTOR,
        SERVICE.0,
        SERVICE.1,
        folder.display(),
    )
}
