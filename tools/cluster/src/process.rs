//! One `keyferry` process, a node or a distributor: started, watched, asked for its counters, ended.

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

use crate::status::Status;

/// Longest start: the first use of DPDK and of the random number generator included.
const START_MAX: Duration = Duration::from_secs(60);
/// Longest orderly end.
const STOP_MAX: Duration = Duration::from_secs(20);
/// Longest time until a process that ends or stops by itself has done so.
const FAULT_MAX: Duration = Duration::from_secs(20);
/// Between looks at a process or at counters that are to change.
pub const PAUSE: Duration = Duration::from_millis(20);

/// A running node or distributor.
pub struct Process {
    name: String,
    socket: PathBuf,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Process {
    /// Starts `command`, a `role` of that name which answers operators at `socket`, and waits until it says that it is
    /// ready.
    ///
    /// # Panics
    /// If it does not become ready; with its log.
    pub fn start(mut command: Command, role: &str, name: &str, socket: &Path) -> Process {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ip starts (package iproute2)");
        let stderr = child.stderr.take().expect("stderr is piped");
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = mpsc::channel();
        let (lines, marker) = (Arc::clone(&log), format!("keyferry: {role} {name} ready"));
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
        let node = Process { name: name.to_owned(), socket: socket.to_owned(), child, log };
        // The sender goes with the log's end, so a node that dies early is noticed at once.
        if is_ready.recv_timeout(START_MAX).is_err() {
            panic!("{name} did not become ready:\n{}", node.log());
        }
        node
    }

    /// Says a line to it; its standard input is piped.
    ///
    /// # Panics
    /// If it has gone.
    pub fn say(&mut self, line: &str) {
        let stdin = self.child.stdin.as_mut().expect("its standard input is piped");
        writeln!(stdin, "{line}").expect("it runs");
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log's lock is never poisoned").clone()
    }

    /// Its counters, as `keyferry status` asks for them.
    pub fn status(&self) -> Status {
        let answer = admin::ask(&self.socket, "status");
        let answer = answer
            .unwrap_or_else(|error| panic!("status of {}: {error}\nits log:\n{}", self.name, self.log()));
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
                "{}: {what} not within {within:?}; {status}\nits log:\n{}",
                self.name,
                self.log()
            );
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until what its one worker has done so far is counted: it publishes its counters every few milliseconds, and
    /// the next may be of a turn that is under way.
    pub fn wait_counted(&self) {
        for _ in 0..2 {
            let turns = self.status().total("turns");
            self.wait_for("newer counters", FAULT_MAX, |status| status.total("turns") != turns);
        }
    }

    /// Ends it with SIGTERM and checks that it goes in order.
    pub fn stop(self) {
        self.signal(Signal::TERM);
        self.wait_ended();
    }

    /// Tells it that its file is another one.
    pub fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// Its answer to an operator's command.
    pub fn ask(&self, command: &str) -> String {
        let answer = admin::ask(&self.socket, command);
        answer.unwrap_or_else(|error| panic!("{command} to {}: {error}\nits log:\n{}", self.name, self.log()))
    }

    /// Waits until it has written this, as often as that.
    pub fn wait_logged(&self, text: &str, times: usize) {
        let deadline = Instant::now() + FAULT_MAX;
        while self.log().matches(text).count() < times {
            assert!(Instant::now() < deadline, "{}: `{text}` is not in its log:\n{}", self.name, self.log());
            std::thread::sleep(PAUSE);
        }
    }

    /// Tells it to end, and does not wait.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end, which has to be in order; returns its log.
    pub fn wait_ended(mut self) -> String {
        let deadline = Instant::now() + STOP_MAX;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not end:\n{}\n{}",
                self.name,
                self.log(),
                self.stacks()
            );
            std::thread::sleep(PAUSE);
        };
        assert!(status.success(), "{} ended with {status}:\n{}", self.name, self.log());
        self.log()
    }

    /// What each of its threads is doing, as gdb sees it.
    fn stacks(&self) -> String {
        let pid = self.child.id().to_string();
        let gdb = Command::new("gdb").args(["-batch", "-ex", "thread apply all bt", "-p", &pid]).output();
        gdb.map_or_else(|error| error.to_string(), |gdb| String::from_utf8_lossy(&gdb.stdout).into_owned())
    }

    /// Kills it in the middle of whatever it does.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        let status: ExitStatus = self.child.wait().expect("it is our child");
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it died before:\n{}", self.log());
    }

    /// Waits until it has been killed by its own hand.
    pub fn wait_killed(mut self) {
        let deadline = Instant::now() + FAULT_MAX;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(Instant::now() < deadline, "{} was to die:\n{}", self.name, self.log());
            std::thread::sleep(PAUSE);
        };
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it ended otherwise:\n{}", self.log());
    }

    /// Waits until it has stopped itself.
    pub fn wait_stopped(&self) {
        let deadline = Instant::now() + FAULT_MAX;
        let file = format!("/proc/{}/status", self.child.id());
        while !fs::read_to_string(&file).expect("it runs").contains("State:\tT") {
            assert!(Instant::now() < deadline, "{} was to stop:\n{}", self.name, self.log());
            std::thread::sleep(PAUSE);
        }
    }

    /// Stops it where it is, without its knowing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on after that.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Resident memory in KiB, from the kernel's books.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("VmRSS is a number")
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a child has a pid");
        kill_process(pid, signal).expect("it is our child and not yet waited for");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What a failing test needs to know is in the node's log.
        if std::thread::panicking() {
            eprintln!("---- {}:\n{}", self.name, self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
