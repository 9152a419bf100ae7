//! The app threads: each runs one [`App`] for all workers, on a core of its own, over bounded queues.
//!
//! In: commands from the workers' ports, changes from the control thread. Out: parts to their outboxes. Started by the control
//! thread, ended by its flag.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::task::{Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use keyferry_time::Time;

use crate::App;
use crate::change::Change;
use crate::chunk::Chunk;
use crate::clock::{Clock, SystemClock};
use crate::job::{CHUNKS_PER_JOB, FEEDS_PER_JOB, Job, JobId, Part};
use crate::port::{Port, Threads};
use crate::runner::Runner;

/// Commands one job may have under way: its submission, its chunks (those for a job before it of the same number
/// among them: its own are only asked for once its submission has been read), its body's chunks and those of a job before
/// it, its cancellation.
const COMMANDS_PER_JOB: usize = 2 + CHUNKS_PER_JOB + 2 * FEEDS_PER_JOB;

/// Changes a thread has not taken yet, at most.
const CHANGES_MAX: usize = 1;

/// Commands taken in before the application runs again.
const COMMANDS_A_TURN: usize = 64;

/// Longest sleep of an idle thread: how late it sees that it has to end.
const SLEEP: Duration = Duration::from_millis(10);

/// Idle turns before a thread first sleeps.
const TURNS_BEFORE_SLEEP: u32 = 200;

/// What a thread with nothing to do does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// Polls on.
    Spin,
    /// Lets another thread of the core run.
    Yield,
    /// Sleeps until it is told something.
    Sleep,
}

/// From a worker to an app thread; changes are from the control thread.
pub(crate) enum Command {
    Submit { worker: u16, job: Job },
    More { worker: u16, id: JobId, chunk: Chunk },
    Feed { worker: u16, id: JobId, chunk: Chunk, end: bool },
    Cancel { worker: u16, id: JobId },
    Change(Change),
}

/// One app thread's inbox.
pub(crate) struct Inbox {
    pub(crate) queue: ArrayQueue<Command>,
    /// Jobs of all workers on this thread.
    pub(crate) jobs: AtomicUsize,
    /// Changes taken.
    changed: AtomicU64,
    sleeping: AtomicBool,
    /// Ends the thread's sleep.
    thread: OnceLock<Waker>,
}

impl Inbox {
    fn new(commands: usize) -> Inbox {
        Inbox {
            queue: ArrayQueue::new(commands + CHANGES_MAX),
            jobs: AtomicUsize::new(0),
            changed: AtomicU64::new(0),
            sleeping: AtomicBool::new(false),
            thread: OnceLock::new(),
        }
    }

    /// Wakes the thread if it sleeps. The caller has put a SeqCst fence behind what it told it.
    pub(crate) fn rouse(&self) {
        // The swap leaves one of several workers to make the system call.
        if self.sleeping.load(Ordering::Relaxed)
            && self.sleeping.swap(false, Ordering::Relaxed)
            && let Some(thread) = self.thread.get()
        {
            thread.wake_by_ref();
        }
    }

    /// Says that the thread is going to sleep; `false`: not now, there is something to do. The worker writes the queue and
    /// then reads the flag, we write the flag and then read the queue, each with a SeqCst fence between: one of the two
    /// sees what the other wrote, so no wake-up is lost.
    fn falls_asleep(&self, has_work: impl Fn() -> bool) -> bool {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let sleeps = self.queue.is_empty() && !has_work();
        if !sleeps {
            self.wakes();
        }
        sleeps
    }

    /// Nobody has to wake it.
    fn wakes(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

/// Control's way to the applications of all app threads.
pub struct Changer {
    inboxes: Vec<Arc<Inbox>>,
    told: u64,
}

impl Changer {
    pub(crate) fn new(inboxes: Vec<Arc<Inbox>>) -> Changer {
        Changer { inboxes, told: 0 }
    }

    /// Tells each thread what becomes of its application; it comes behind all that workers have submitted so far.
    ///
    /// # Panics
    /// If there is not one for each thread, or those before [are not taken](Changer::are_taken): mistakes of the caller.
    pub fn tell(&mut self, changes: Vec<Change>) {
        assert!(self.are_taken() && changes.len() == self.inboxes.len(), "one change a thread at a time");
        self.told += 1;
        for (inbox, change) in self.inboxes.iter().zip(changes) {
            let told = inbox.queue.push(Command::Change(change));
            assert!(told.is_ok(), "an inbox has room for a change");
            fence(Ordering::SeqCst);
            inbox.rouse();
        }
    }

    /// Whether all that was told is done.
    pub fn are_taken(&self) -> bool {
        self.inboxes.iter().all(|inbox| inbox.changed.load(Ordering::Acquire) == self.told)
    }
}

/// For whoever rings a bell of the thread's runner.
impl Wake for Inbox {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Between the bell and the look at the flag, as behind a command.
        fence(Ordering::SeqCst);
        self.rouse();
    }
}

/// Ends [`std::thread::park`].
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// How app threads are to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// One thread for each entry; the core it is pinned to, if any.
    pub cores: Vec<Option<usize>>,
    /// Workers that submit.
    pub workers: usize,
    /// Jobs each worker may have under way.
    pub jobs_per_worker: usize,
    /// Jobs each thread works on at a time; `None`: all it has.
    pub slots: Option<NonZeroUsize>,
    /// What an idle thread does.
    pub idle: Idle,
}

/// Each worker's port, and the threads' handles.
pub type Started<A> = (Vec<Port<A>>, Vec<JoinHandle<()>>);

/// Starts app threads, each with an application `make` made for it. Returns each worker's port and the threads'
/// handles; they end once `stop` is set.
///
/// # Errors
/// The system refuses a thread.
pub fn start<A: App>(
    plan: &Plan,
    mut make: impl FnMut() -> A,
    stop: &Arc<AtomicBool>,
) -> std::io::Result<Started<A>> {
    start_on(plan, || (make(), park::<A>), stop)
}

/// As [`start`], with what takes the turns of each thread: on it, until [`Turns::are_over`].
///
/// # Errors
/// As [`start`].
pub fn start_on<A: App, L: FnOnce(Turns<A>) + Send + 'static>(
    plan: &Plan,
    mut make: impl FnMut() -> (A, L),
    stop: &Arc<AtomicBool>,
) -> std::io::Result<Started<A>> {
    let jobs = plan.workers * plan.jobs_per_worker;
    let inboxes: Vec<Arc<Inbox>> =
        plan.cores.iter().map(|_| Arc::new(Inbox::new(COMMANDS_PER_JOB * jobs))).collect();
    let ports: Vec<Threads> = (0..plan.workers)
        .map(|worker| Threads::new(worker as u16, inboxes.clone(), plan.jobs_per_worker))
        .collect();
    let outboxes: Vec<_> = ports.iter().map(|port| Arc::clone(&port.outbox)).collect();
    let mut handles = Vec::new();
    for (number, (inbox, core)) in inboxes.iter().zip(&plan.cores).enumerate() {
        let (inbox, outboxes, stop) = (Arc::clone(inbox), outboxes.clone(), Arc::clone(stop));
        let ((app, take_turns), idle, slots, core) = (make(), plan.idle, plan.slots, *core);
        let thread = std::thread::Builder::new().name(format!("app {number}")).spawn(move || {
            if let Some(id) = core {
                core_affinity::set_for_current(core_affinity::CoreId { id });
            }
            let clock = SystemClock::default();
            let runner = Runner::new(app, jobs, Box::new(clock.clone())).with_slots(slots);
            runner.wake_thread_by(Waker::from(Arc::clone(&inbox)));
            take_turns(Turns { runner, inbox, outboxes, idle, clock, stop });
        })?;
        handles.push(thread);
    }
    Ok((ports.into_iter().map(Port::Threads).collect(), handles))
}

/// What an app thread does, a turn at a time, for whoever decides what it does in between.
pub struct Turns<A: App> {
    runner: Runner<A>,
    inbox: Arc<Inbox>,
    outboxes: Vec<Arc<ArrayQueue<Part>>>,
    idle: Idle,
    clock: SystemClock,
    stop: Arc<AtomicBool>,
}

impl<A: App> Turns<A> {
    /// Takes what workers say and runs what can run. Returns whether there was any of either.
    pub fn turn(&mut self) -> bool {
        let Turns { runner, inbox, outboxes, .. } = self;
        let mut out = |worker: u16, part: Part| {
            if part.is_last() {
                inbox.jobs.fetch_sub(1, Ordering::Relaxed);
            }
            let sent = outboxes[usize::from(worker)].push(part);
            assert!(sent.is_ok(), "an outbox holds every part its jobs can have under way");
        };
        let mut busy = false;
        for _ in 0..COMMANDS_A_TURN {
            let Some(command) = inbox.queue.pop() else { break };
            busy = true;
            take(runner, inbox, command, &mut out);
        }
        busy | runner.turn(&mut out)
    }

    /// What the thread is to do while it is idle.
    pub fn idle(&self) -> Idle {
        self.idle
    }

    /// The thread is to end.
    pub fn are_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What ends the thread's sleep: a worker says something, or a task is woken. The first one stays.
    pub fn wake_by(&self, thread: Waker) {
        let _ = self.inbox.thread.set(thread);
    }

    /// Says that the thread is going to sleep until its waker is woken; `false`: not now, there is something to do. Behind
    /// the sleep: [`Turns::wake_up`].
    pub fn fall_asleep(&self) -> bool {
        self.inbox.falls_asleep(|| self.runner.poll_at() == Some(Time::ZERO))
    }

    /// The thread is awake.
    pub fn wake_up(&self) {
        self.inbox.wakes();
    }

    /// How long until a turn has something to do though nobody wakes the thread.
    pub fn due_in(&self) -> Option<Duration> {
        self.runner.poll_at().map(|at| at - self.clock.now())
    }
}

/// Takes turns, and parks the thread in between.
fn park<A: App>(mut turns: Turns<A>) {
    turns.wake_by(Waker::from(Arc::new(Unpark(std::thread::current()))));
    let mut idle_turns = 0u32;
    while !turns.are_over() {
        if turns.turn() {
            idle_turns = 0;
            continue;
        }
        idle_turns = idle_turns.saturating_add(1);
        match turns.idle {
            Idle::Spin => std::hint::spin_loop(),
            Idle::Sleep if idle_turns > TURNS_BEFORE_SLEEP => {
                if turns.fall_asleep() {
                    std::thread::park_timeout(turns.due_in().map_or(SLEEP, |due| due.min(SLEEP)));
                    turns.wake_up();
                }
            }
            Idle::Yield | Idle::Sleep => std::thread::yield_now(),
        }
    }
}

fn take<A: App>(runner: &mut Runner<A>, inbox: &Inbox, command: Command, out: &mut impl FnMut(u16, Part)) {
    match command {
        Command::Submit { worker, job } => {
            let taken = runner.submit(worker, job);
            assert!(taken.is_ok(), "a runner holds every job its workers can have under way");
        }
        Command::More { worker, id, chunk } => runner.more(worker, id, chunk, out),
        Command::Feed { worker, id, chunk, end } => runner.feed(worker, id, chunk, end, out),
        Command::Cancel { worker, id } => runner.cancel(worker, id, out),
        Command::Change(change) => {
            runner.change(change);
            inbox.changed.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With sleeps that do not end by themselves, one lost wake-up would hang this test.
    #[test]
    fn no_wake_up_is_lost() {
        const ROUNDS: u64 = 20_000;
        let inbox = Arc::new(Inbox::new(1));
        let reader = Arc::clone(&inbox);
        let thread = std::thread::spawn(move || {
            let _ = reader.thread.set(Waker::from(Arc::new(Unpark(std::thread::current()))));
            let mut read = 0;
            while read < ROUNDS {
                match reader.queue.pop() {
                    Some(Command::Cancel { id: JobId(round), .. }) => {
                        assert_eq!(round, read);
                        read += 1;
                    }
                    Some(_) => panic!("nobody sent that"),
                    None => {
                        if reader.falls_asleep(|| false) {
                            std::thread::park_timeout(Duration::from_secs(3600));
                            reader.wakes();
                        }
                    }
                }
            }
        });
        while inbox.thread.get().is_none() {
            std::thread::yield_now();
        }
        for round in 0..ROUNDS {
            let mut command = Command::Cancel { worker: 0, id: JobId(round) };
            while let Err(back) = inbox.queue.push(command) {
                command = back;
                std::thread::yield_now();
            }
            fence(Ordering::SeqCst);
            inbox.rouse();
        }
        thread.join().expect("the reader failed");
    }
}
