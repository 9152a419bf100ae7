//! What the bench stands on: a network and a process namespace of its own, hugepages, veth pairs. All of it is gone when
//! the bench is, however it ends.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::forwarder::{CORE, GENERATOR_CORE};

/// The argument that makes this the process inside.
const INSIDE: &str = "--inside";
const PAGES_FILE: &str = "/proc/sys/vm/nr_hugepages";
/// Hugepages of 2 MiB: three forwarders and the generator.
const PAGES: u32 = 256;

/// Whether this process is the one inside.
pub fn is_inside() -> bool {
    std::env::args().any(|argument| argument == INSIDE)
}

/// What is missing, in words that say what to do.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("run it as root: it makes network namespaces and reserves hugepages".into());
    }
    let has = |program: &str| {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|path| path.join(program).is_file())
    };
    let needed = [(super::TESTPMD, "dpdk-dev"), ("unshare", "util-linux"), ("ip", "iproute2")];
    let absent: Vec<_> =
        needed.iter().filter(|(program, _)| !has(program)).map(|(_, package)| *package).collect();
    if !absent.is_empty() {
        return Some(format!(
            "install what it compares with and needs: apt-get install {}",
            absent.join(" ")
        ));
    }
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let missing = [CORE, GENERATOR_CORE].into_iter().find(|core| cores.iter().all(|it| it.id != *core));
    missing.map(|core| format!("core {core} is needed: the forwarder has one, the generator another"))
}

/// Runs this program inside, and puts the hugepages back.
pub fn enter() -> ExitCode {
    if let Some(missing) = missing() {
        eprintln!("bench distributor: {missing}");
        return ExitCode::FAILURE;
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted)).expect("a signal handler");
    }
    let pages: u32 =
        fs::read_to_string(PAGES_FILE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    fs::write(PAGES_FILE, (pages + PAGES).to_string()).expect("root may reserve hugepages");
    let itself = std::env::current_exe().expect("this program");
    // Everything in the process namespace ends with its first process, forwarders that stand still included.
    let mut command = Command::new("unshare");
    command.args(["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]).arg(itself);
    let mut inside = command.args(std::env::args().skip(1)).arg(INSIDE).spawn().expect("unshare is there");
    let outcome = loop {
        if let Some(status) = inside.try_wait().expect("a child can be waited for") {
            break status;
        }
        if interrupted.load(Ordering::Relaxed) {
            // It may have gone by itself.
            let _ = inside.kill();
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    fs::write(PAGES_FILE, pages.to_string()).expect("root may give hugepages back");
    if outcome.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A veth pair for a forwarder and the generator. What the kernel does to receive a packet is done on the core of whom it
/// is for (RPS), as that is whose work it is.
pub fn veth(forwarder: &str, generator: &str) {
    mount_sys();
    run(&["ip", "link", "add", forwarder, "type", "veth", "peer", "name", generator]);
    for (interface, core) in [(forwarder, CORE), (generator, GENERATOR_CORE)] {
        // Nobody's kernel speaks here.
        fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6"), "1").expect("IPv6 can be off");
        let cores = format!("{:x}", 1 << core);
        fs::write(format!("/sys/class/net/{interface}/queues/rx-0/rps_cpus"), cores).expect("RPS can be set");
        run(&["ip", "link", "set", interface, "up"]);
    }
}

/// `/sys` shows the interfaces of the namespace it was mounted in.
fn mount_sys() {
    if !Path::new("/sys/class/net/kf0").exists() {
        run(&["mount", "-t", "sysfs", "sysfs", "/sys"]);
    }
}

fn run(command: &[&str]) {
    let output = Command::new(command[0]).args(&command[1..]).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
