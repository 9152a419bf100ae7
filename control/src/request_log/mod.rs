//! The access log and the slow-request log: what workers tell of requests, written by a thread of its own.
//!
//! In: entries of each worker over a bounded queue, and that files are to be opened anew. Out: lines of JSON in the files that
//! `[access_log]` and `[slow_log]` name. A disk that is slow or full costs lines, which are counted, and no client any time.
//!
//! - `line`: one request in a line
//! - `file`: one log's file, and those that were put aside

mod file;
mod line;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use crossbeam_queue::ArrayQueue;
use keyferry_decide::NodeId;
use keyferry_time::Time;
use keyferry_worker::Clock;
use keyferry_worker::access::{Access, ENTRIES_MAX, Entry, Rules, Share};
use tokio::sync::oneshot;
use tracing::warn;

use self::file::{Lines, Output, Written};
use crate::config::{Config, LogFile};
use crate::counters::{Block, Registry};

/// Between looks at the queues.
const LOOK: Duration = Duration::from_millis(20);

/// What is counted.
const NAMES: &[&str] = &[
    "log_lines_access",
    "log_lines_slow",
    "log_lines_lost",
    "log_files_put_aside",
    "log_files_opened_anew",
    "log_files_unopened",
];

/// What each of [`NAMES`] counts.
const HELP: [&str; NAMES.len()] = [
    "Lines written into the access log.",
    "Lines written into the slow-request log.",
    "Lines that could not be written: the disk is full, or a file is in the way. The log says which.",
    "Files of these logs that were put aside because they were long.",
    "Files of these logs that were opened anew, after `keyferry ctl reload` or SIGHUP.",
    "Times that could not be done; the one before is written on.",
];

/// The counters, each with what it counts.
pub(crate) fn help() -> impl Iterator<Item = (&'static str, &'static str)> {
    NAMES.iter().copied().zip(HELP)
}

/// Counted so far.
#[derive(Default)]
struct Counts {
    access: u64,
    slow: u64,
    lost: u64,
    put_aside: u64,
    opened_anew: u64,
    unopened: u64,
}

impl Counts {
    /// In the order of [`NAMES`].
    fn values(&self) -> [u64; NAMES.len()] {
        [self.access, self.slow, self.lost, self.put_aside, self.opened_anew, self.unopened]
    }
}

/// Names of nodes that requests are lent to, from links to whoever writes lines.
#[derive(Clone, Default)]
pub struct Names(Arc<Mutex<HashMap<NodeId, String>>>);

impl Names {
    /// There is a node of this name.
    pub(crate) fn learn(&self, name: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        names.entry(NodeId::of(name)).or_insert_with(|| name.to_owned());
    }
}

/// Which requests a configuration wants told of.
pub(crate) fn rules(config: &Config) -> Rules {
    Rules {
        sampled: config.access_log.as_ref().map_or(Share::NONE, |log| Share::of(log.sample)),
        slow_over: config.slow_log.as_ref().map(|log| log.over),
    }
}

/// What the thread is told.
enum Command {
    /// Open the files anew; the answer is what went wrong, a sentence each.
    OpenAnew(oneshot::Sender<Vec<String>>),
    /// Write what is there, and end.
    End,
}

/// The thread that writes.
pub(crate) struct RequestLog {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
    queues: Vec<Arc<ArrayQueue<Entry>>>,
}

/// Has files opened anew.
#[derive(Clone)]
pub(crate) struct Reopener(Sender<Command>);

impl Reopener {
    /// Has both files opened anew, and waits until they are: what was moved is whole then. Answers what went wrong.
    pub(crate) async fn open_anew(&self) -> Vec<String> {
        let (answer, said) = oneshot::channel();
        if self.0.send(Command::OpenAnew(answer)).is_err() {
            return Vec::new();
        }
        // It ends without an answer only with the process.
        said.await.unwrap_or_default()
    }
}

impl RequestLog {
    /// Opens the files and starts the thread, if the configuration wants any.
    ///
    /// # Errors
    /// A file cannot be opened; the sentence says what to do.
    pub(crate) fn start(
        config: &Config,
        clock: Clock,
        names: Names,
        registry: &Registry,
    ) -> anyhow::Result<Option<RequestLog>> {
        if config.access_log.is_none() && config.slow_log.is_none() {
            return Ok(None);
        }
        let open = |key: &str, to: &LogFile| {
            let what = || {
                format!(
                    "{key}: {} cannot be opened for writing: name a file in a folder that this user can write, no \
                     symbolic link",
                    to.path.display()
                )
            };
            Output::open(to).with_context(what)
        };
        let access = config.access_log.as_ref().map(|log| open("access_log.file", &log.file)).transpose()?;
        let slow = config.slow_log.as_ref().map(|log| open("slow_log.file", &log.file)).transpose()?;
        let workers = config.cores.workers.len();
        let queues: Vec<_> = (0..workers).map(|_| Arc::new(ArrayQueue::new(ENTRIES_MAX))).collect();
        let writer = Writer {
            queues: queues.clone(),
            clock,
            names,
            access: access.map(Log::of),
            slow: slow.map(Log::of),
            block: registry.block(NAMES, "request log".to_owned()),
            counts: Counts::default(),
        };
        let (commands, told) = channel();
        let thread = std::thread::Builder::new().name("request log".into()).spawn(move || writer.run(&told));
        let thread = thread.context("cannot start the thread that writes the logs of requests")?;
        Ok(Some(RequestLog { commands, thread, queues }))
    }

    /// What this worker tells.
    pub(crate) fn access(&self, config: &Config, worker: usize) -> Access {
        let queue = Arc::clone(&self.queues[worker]);
        Access::new(queue, rules(config), config.limits.connections, worker as u64)
    }

    pub(crate) fn reopener(&self) -> Reopener {
        Reopener(self.commands.clone())
    }

    /// Writes what is left, once no worker tells anything any more.
    pub(crate) fn end(self) {
        let _ = self.commands.send(Command::End);
        let _ = self.thread.join();
    }
}

/// One of the two logs.
struct Log {
    output: Output,
    lines: Lines,
    /// The last write failed; told once.
    is_failing: bool,
}

impl Log {
    fn of(output: Output) -> Log {
        Log { output, lines: Lines::default(), is_failing: false }
    }

    /// Writes what was gathered.
    fn write(&mut self) -> Written {
        let written = self.output.write(&self.lines);
        self.lines.clear();
        match &written.error {
            None => self.is_failing &= written.lines == 0,
            Some(_) if self.is_failing => {}
            Some(error) => {
                self.is_failing = true;
                warn!(
                    "{} cannot be written ({error}): lines are lost and counted (log_lines_lost) until it can be; make room \
                     on the disk, or have this user write its folder",
                    self.output.path().display()
                );
            }
        }
        written
    }

    /// Answers what went wrong.
    fn open_anew(&mut self) -> Option<String> {
        let error = self.output.open_anew().err()?;
        Some(format!(
            "{} cannot be opened anew ({error}): lines go on into the file that had this name; have this user write its \
             folder",
            self.output.path().display()
        ))
    }
}

struct Writer {
    queues: Vec<Arc<ArrayQueue<Entry>>>,
    clock: Clock,
    names: Names,
    access: Option<Log>,
    slow: Option<Log>,
    block: Arc<Block>,
    counts: Counts,
}

impl Writer {
    fn run(mut self, told: &Receiver<Command>) {
        loop {
            match told.recv_timeout(LOOK) {
                Err(RecvTimeoutError::Timeout) => self.write(),
                Ok(Command::OpenAnew(answer)) => {
                    self.write();
                    let said = self.open_anew();
                    // Nobody waits any more: the operator has gone.
                    let _ = answer.send(said);
                }
                Ok(Command::End) | Err(RecvTimeoutError::Disconnected) => return self.write(),
            }
        }
    }

    /// Writes what there is.
    fn write(&mut self) {
        let (now, wall) = (self.clock.now(), SystemTime::now());
        for queue in 0..self.queues.len() {
            // What comes meanwhile is for the next look.
            for _ in 0..self.queues[queue].len() {
                let Some(entry) = self.queues[queue].pop() else { break };
                self.gather(&entry, at(entry.ended, now, wall));
            }
        }
        let Counts { access, slow, lost: all_lost, put_aside: all_put_aside, .. } = &mut self.counts;
        for (log, all) in [(&mut self.access, access), (&mut self.slow, slow)] {
            let Some(log) = log.as_mut().filter(|log| !log.lines.ends.is_empty()) else { continue };
            let Written { lines, lost, put_aside, error: _ } = log.write();
            *all += lines;
            *all_lost += lost;
            *all_put_aside += put_aside;
        }
        self.block.publish(&self.counts.values());
    }

    fn gather(&mut self, entry: &Entry, ended: SystemTime) {
        let names = self.names.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (log, is_for_it) in [(&mut self.access, entry.is_sampled), (&mut self.slow, entry.is_slow)] {
            let Some(log) = log.as_mut().filter(|_| is_for_it) else { continue };
            let name = |node| names.get(&node).map_or("?", String::as_str);
            line::append(entry, ended, name, &mut log.lines.bytes);
            log.lines.end();
        }
    }

    fn open_anew(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        for log in [&mut self.access, &mut self.slow].into_iter().flatten() {
            let problem = log.open_anew();
            let count = &mut self.counts;
            *if problem.is_none() { &mut count.opened_anew } else { &mut count.unopened } += 1;
            said.extend(problem);
        }
        self.block.publish(&self.counts.values());
        said
    }
}

/// A worker's time on the wall's clock, by what both are now.
fn at(time: Time, now: Time, wall: SystemTime) -> SystemTime {
    wall.checked_sub(now - time).unwrap_or(wall)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use serde_json::Value;

    use super::line::tests::entry;
    use super::*;

    /// What writes into two files of a folder, and where entries are put.
    fn writer(folder: &Path) -> (Writer, Arc<ArrayQueue<Entry>>, Arc<Registry>) {
        let log = |name: &str| {
            let to = LogFile { path: folder.join(name), bytes_max: 1 << 20, kept: 1 };
            Some(Log::of(Output::open(&to).unwrap()))
        };
        let (queue, registry) = (Arc::new(ArrayQueue::new(8)), Arc::new(Registry::new()));
        let writer = Writer {
            queues: vec![Arc::clone(&queue)],
            clock: Clock::start(),
            names: Names::default(),
            access: log("access"),
            slow: log("slow"),
            block: registry.block(NAMES, "request log".to_owned()),
            counts: Counts::default(),
        };
        (writer, queue, registry)
    }

    fn paths(file: &Path) -> Vec<String> {
        let text = fs::read_to_string(file).unwrap();
        let path =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["path"].as_str().unwrap().to_owned();
        text.lines().map(path).collect()
    }

    #[test]
    fn each_entry_goes_where_it_belongs_and_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, queue, registry) = writer(folder.path());
        for (path, is_sampled, is_slow) in [("/a", true, false), ("/s", false, true), ("/both", true, true)] {
            queue.push(Entry { is_sampled, is_slow, ..entry(path.as_bytes()) }).unwrap();
        }
        writer.write();
        assert_eq!(paths(&folder.path().join("access")), ["/a", "/both"]);
        assert_eq!(paths(&folder.path().join("slow")), ["/s", "/both"]);
        let total = |name| registry.total(name);
        assert_eq!([total("log_lines_access"), total("log_lines_slow"), total("log_lines_lost")], [2, 2, 0]);
    }

    #[test]
    fn a_node_has_its_name_once_it_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let (mut writer, queue, _) = writer(folder.path());
        for _ in 0..2 {
            queue.push(entry(b"/")).unwrap();
            writer.write();
            writer.names.learn("b");
        }
        let text = fs::read_to_string(folder.path().join("access")).unwrap();
        let name = |line: &str| serde_json::from_str::<Value>(line).unwrap()["lent_to"].clone();
        assert_eq!(text.lines().map(name).collect::<Vec<_>>(), ["?", "b"]);
    }

    #[test]
    fn the_thread_opens_files_anew_before_it_says_so_and_writes_what_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (writer, queue, registry) = writer(folder.path());
        let (commands, told) = channel();
        let thread = std::thread::spawn(move || writer.run(&told));
        let log = RequestLog { commands, thread, queues: vec![Arc::clone(&queue)] };
        queue.push(entry(b"/before")).unwrap();
        fs::rename(folder.path().join("access"), folder.path().join("moved")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(log.reopener().open_anew()), Vec::<String>::new());
        assert_eq!(paths(&folder.path().join("moved")), ["/before"]);
        queue.push(entry(b"/after")).unwrap();
        // Nobody can open a file in a folder that is gone: the one there is goes on.
        let gone = folder.path().join("gone");
        fs::rename(folder.path().join("slow"), &gone).unwrap();
        fs::create_dir(folder.path().join("slow")).unwrap();
        let said = runtime.block_on(log.reopener().open_anew());
        assert!(said.len() == 1 && said[0].contains("cannot be opened anew"), "{said:?}");
        queue.push(Entry { is_slow: true, ..entry(b"/last") }).unwrap();
        log.end();
        assert_eq!(paths(&folder.path().join("access")), ["/after", "/last"]);
        assert_eq!(paths(&gone), ["/last"]);
        assert_eq!([registry.total("log_files_opened_anew"), registry.total("log_files_unopened")], [3, 1]);
    }

    #[test]
    fn a_workers_time_is_one_on_the_wall() {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let told = at(Time(2_000_000_000), Time(5_000_000_000), wall);
        assert_eq!(told, SystemTime::UNIX_EPOCH + Duration::from_secs(97));
    }
}
