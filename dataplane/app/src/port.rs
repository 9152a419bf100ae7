//! What a worker holds of the application: a runner that runs inside it, or the queues to app threads.

use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use keyferry_time::Time;

use crate::App;
use crate::chunk::Chunk;
use crate::runner::{ByJob, CHUNKS_PER_JOB, Job, JobId, Part, Runner};
use crate::threads::{Command, Inbox};

/// Parts delivered by one poll; also the size of the caller's storage.
pub const PARTS: usize = 32;

/// Parts one job may have under way to its worker: its chunks as reply or spare, and its request.
pub(crate) const PARTS_PER_JOB: usize = 2 * CHUNKS_PER_JOB + 1;

/// A worker's way to the application.
pub enum Port<A: App> {
    /// The application runs inside the worker.
    Inline(Box<Inline<A>>),
    /// It runs on threads of its own.
    Threads(Threads),
}

/// An application inside its worker.
pub struct Inline<A: App> {
    runner: Runner<A>,
    /// Parts made by calls that deliver none.
    parts: std::collections::VecDeque<Part>,
}

/// The queues between one worker and the app threads.
pub struct Threads {
    pub(crate) worker: u16,
    pub(crate) inboxes: Vec<Arc<Inbox>>,
    pub(crate) outbox: Arc<ArrayQueue<Part>>,
    /// Which thread runs a job.
    pub(crate) placed: ByJob<JobId, u16>,
    pub(crate) jobs_max: usize,
    /// Jobs submitted and not yet over.
    pub(crate) outstanding: usize,
}

impl<A: App> Port<A> {
    /// The application inside the worker.
    pub fn inline(runner: Runner<A>) -> Port<A> {
        Port::Inline(Box::new(Inline { runner, parts: std::collections::VecDeque::with_capacity(PARTS) }))
    }

    /// Submits a request.
    ///
    /// # Errors
    /// The job, if too many are under way.
    pub fn submit(&mut self, job: Job) -> Result<(), Job> {
        match self {
            Port::Inline(inline) => inline.runner.submit(0, job),
            Port::Threads(threads) => threads.submit(job),
        }
    }

    /// Gives a job another chunk; it comes back with reply bytes or spare.
    pub fn more(&mut self, id: JobId, chunk: Chunk) {
        match self {
            Port::Inline(inline) => {
                let Inline { runner, parts } = &mut **inline;
                runner.more(0, id, chunk, &mut |_, part| parts.push_back(part));
            }
            Port::Threads(threads) => match threads.placed.get(&id).copied() {
                Some(thread) => threads.tell(thread, Command::More { worker: threads.worker, id, chunk }),
                None => {
                    // The job is over: the chunk comes back through the outbox like any spare one.
                    let _ = threads.outbox.push(Part::Spare(chunk));
                }
            },
        }
    }

    /// Ends a job; its request and chunks come back.
    pub fn cancel(&mut self, id: JobId) {
        match self {
            Port::Inline(inline) => {
                let Inline { runner, parts } = &mut **inline;
                runner.cancel(0, id, &mut |_, part| parts.push_back(part));
            }
            Port::Threads(threads) => {
                if let Some(thread) = threads.placed.remove(&id) {
                    threads.tell(thread, Command::Cancel { worker: threads.worker, id });
                }
            }
        }
    }

    /// Appends parts that are ready; runs the application if it is inside.
    pub fn poll(&mut self, parts: &mut ArrayVec<Part, PARTS>) {
        match self {
            Port::Inline(inline) => {
                let Inline { runner, parts: waiting } = &mut **inline;
                runner.turn(&mut |_, part| waiting.push_back(part));
                let count = waiting.len().min(parts.remaining_capacity());
                parts.extend(waiting.drain(..count));
            }
            Port::Threads(threads) => {
                while !parts.is_full() {
                    let Some(part) = threads.outbox.pop() else { break };
                    threads.settle(&part);
                    parts.push(part);
                }
            }
        }
    }

    /// Wakes app threads that sleep and have been told something. Once a turn: an awake thread costs nothing.
    pub fn flush(&mut self) {
        if let Port::Threads(threads) = self {
            for inbox in &threads.inboxes {
                inbox.wake();
            }
        }
    }

    /// Jobs under way.
    pub fn outstanding(&self) -> usize {
        match self {
            Port::Inline(inline) => inline.runner.outstanding(),
            Port::Threads(threads) => threads.outstanding,
        }
    }

    /// When to poll again though nothing is submitted.
    pub fn poll_at(&self) -> Option<Time> {
        match self {
            Port::Inline(inline) if !inline.parts.is_empty() => Some(Time::ZERO),
            Port::Inline(inline) => inline.runner.poll_at(),
            Port::Threads(_) => None,
        }
    }
}

impl Threads {
    pub(crate) fn new(worker: u16, inboxes: Vec<Arc<Inbox>>, jobs_max: usize) -> Threads {
        Threads {
            worker,
            inboxes,
            outbox: Arc::new(ArrayQueue::new(PARTS_PER_JOB * jobs_max)),
            placed: ByJob::with_capacity_and_hasher(2 * jobs_max, BuildHasherDefault::default()),
            jobs_max,
            outstanding: 0,
        }
    }

    /// To the thread with the fewest jobs; ties go to the first.
    fn submit(&mut self, job: Job) -> Result<(), Job> {
        if self.outstanding == self.jobs_max {
            return Err(job);
        }
        let load = |index: &usize| self.inboxes[*index].jobs.load(Ordering::Relaxed);
        let Some(thread) = (0..self.inboxes.len()).min_by_key(load) else { return Err(job) };
        self.inboxes[thread].jobs.fetch_add(1, Ordering::Relaxed);
        self.outstanding += 1;
        self.placed.insert(job.id, thread as u16);
        self.tell(thread as u16, Command::Submit { worker: self.worker, job });
        Ok(())
    }

    fn tell(&self, thread: u16, command: Command) {
        let told = self.inboxes[usize::from(thread)].queue.push(command);
        assert!(told.is_ok(), "an inbox holds every command its jobs can have under way");
    }

    fn settle(&mut self, part: &Part) {
        match part {
            Part::Reply { id, end: Some(_), .. } | Part::Failed { id, .. } => {
                self.placed.remove(id);
                self.outstanding -= 1;
            }
            Part::Cancelled(_) => self.outstanding -= 1,
            Part::Reply { .. } | Part::Spare(_) => {}
        }
    }
}
