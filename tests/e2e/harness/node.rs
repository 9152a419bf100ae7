//! One `keyferry node` process: started, watched, asked for its counters, ended.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use keyferry_control::admin;
use rustix::process::{Pid, Signal, kill_process};

use super::config;
use super::netns::Netns;
use super::status::Status;
use crate::faulty;

/// Longest start: the first use of DPDK and of the random number generator included.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest orderly end.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Longest time until a node has met the fault its script has for it.
const FAULT_MAX: Duration = Duration::from_secs(20);
/// Between looks at a process or at counters that are to change.
pub const PAUSE: Duration = Duration::from_millis(20);

/// The executable under test: cargo's, unless `KEYFERRY_E2E_EXECUTABLE` names another build.
pub fn keyferry() -> PathBuf {
    std::env::var_os("KEYFERRY_E2E_EXECUTABLE").map_or(env!("CARGO_BIN_EXE_keyferry").into(), PathBuf::from)
}

/// A running node.
pub struct Node {
    name: String,
    config: PathBuf,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Node {
    /// Starts the node and waits until it says that it serves.
    pub fn start(name: &str, config: &Path, netns: &Netns) -> Node {
        let mut command = netns.command(keyferry());
        command.args(["node", "--config"]).arg(config).stdin(Stdio::null());
        Node::start_as(command, name, config)
    }

    /// As [`start`](Node::start), with what follows scripts of faults between its workers and their queue pairs.
    pub fn start_faulty(name: &str, config: &Path, netns: &Netns) -> Node {
        Node::start_as(faulty::command(config, netns), name, config)
    }

    /// Gives a faulty node its next script, and waits until its link, which has to be up, follows it.
    pub fn arm(&mut self, script: &str) {
        let armed = |node: &Node| node.log().matches(faulty::ARMED).count();
        let before = armed(self);
        let stdin = self.child.stdin.as_mut().expect("a faulty node's stdin is piped");
        writeln!(stdin, "{script}").expect("it runs");
        let deadline = Instant::now() + FAULT_MAX;
        while armed(self) == before {
            assert!(Instant::now() < deadline, "node {} takes no script:\n{}", self.name, self.log());
            std::thread::sleep(PAUSE);
        }
    }

    fn start_as(mut command: Command, name: &str, config: &Path) -> Node {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip starts (package iproute2)");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = mpsc::channel();
        let (lines, marker) = (Arc::clone(&log), format!("keyferry: node {name} ready"));
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = lines.lock().expect("the log's lock is never poisoned");
                log.push_str(&line);
                log.push('\n');
                drop(log);
                if line.starts_with(&marker) {
                    let _ = ready.send(());
                }
            }
        });
        let node = Node { name: name.to_owned(), config: config.to_owned(), child, log };
        // The sender goes with the log's end, so a node that dies early is noticed at once.
        if is_ready.recv_timeout(START_MAX).is_err() {
            panic!("node {name} did not become ready:\n{}", node.log());
        }
        node
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the node has written so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log's lock is never poisoned").clone()
    }

    /// The node's counters, as `keyferry status` asks for them.
    pub fn status(&self) -> Status {
        let answer = admin::ask(&config::admin_socket(&self.config), "status");
        let answer = answer.unwrap_or_else(|error| {
            panic!("status of node {}: {error}\nits log:\n{}", self.name, self.log())
        });
        Status::parse(answer.as_bytes())
    }

    /// Asks for counters until `is_met`; fails with the last ones after `within`.
    pub fn wait_for(&self, what: &str, within: Duration, is_met: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + within;
        loop {
            let status = self.status();
            if is_met(&status) {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "node {}: {what} not within {within:?}; {status}\nits log:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Ends the node with SIGTERM and checks that it goes in order.
    pub fn stop(mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + STOP_MAX;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the node is our child") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "node {} ignores SIGTERM:\n{}\n{}",
                self.name,
                self.log(),
                self.stacks()
            );
            std::thread::sleep(PAUSE);
        };
        assert!(status.success(), "node {} ended with {status}:\n{}", self.name, self.log());
    }

    /// What each thread of the node is doing, as gdb sees it.
    fn stacks(&self) -> String {
        let pid = self.child.id().to_string();
        let gdb = Command::new("gdb").args(["-batch", "-ex", "thread apply all bt", "-p", &pid]).output();
        gdb.map_or_else(|error| error.to_string(), |gdb| String::from_utf8_lossy(&gdb.stdout).into_owned())
    }

    /// Kills the node in the middle of whatever it does.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        let status: ExitStatus = self.child.wait().expect("the node is our child");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it died before:\n{}", self.log());
    }

    /// Waits until the node has been killed by its own hand.
    pub fn wait_killed(mut self) {
        let deadline = Instant::now() + FAULT_MAX;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the node is our child") {
                break status;
            }
            assert!(Instant::now() < deadline, "node {} was to die:\n{}", self.name, self.log());
            std::thread::sleep(PAUSE);
        };
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it ended otherwise:\n{}", self.log());
    }

    /// Waits until the node has stopped itself.
    pub fn wait_stopped(&self) {
        let deadline = Instant::now() + FAULT_MAX;
        let file = format!("/proc/{}/status", self.child.id());
        while !fs::read_to_string(&file).expect("the node runs").contains("State:\tT") {
            assert!(Instant::now() < deadline, "node {} was to stop:\n{}", self.name, self.log());
            std::thread::sleep(PAUSE);
        }
    }

    /// Stops the node where it is, without its knowing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a stopped node go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Resident memory in KiB, from the kernel's books.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the node runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("VmRSS is a number")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("the node is our child and not yet waited for");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What a failing test needs to know is in the node's log.
        if std::thread::panicking() {
            eprintln!("---- node {}:\n{}", self.name, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
