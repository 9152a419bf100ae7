//! What a worker holds of the application: a runner that runs inside it, or the queues to app threads.
//!
//! In: jobs, chunks, bodies as they come, cancellations. Out: parts. Owned by one worker; the far ends of the queues
//! by the app threads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use keyferry_time::Time;

use crate::App;
use crate::change::Change;
use crate::chunk::Chunk;
use crate::job::{ByJob, CHUNKS_PER_JOB, FEEDS_PER_JOB, Job, JobId, Part, by_job};
use crate::runner::Runner;
use crate::threads::{Changer, Command, Inbox};

/// Parts delivered by one poll; also the size of the caller's storage.
pub const PARTS: usize = 32;

/// Parts one job may have under way to its worker: its chunks as reply, taken or spare, those that came too late for a
/// job before it, its request, and that it has switched.
const PARTS_PER_JOB: usize = 2 * (CHUNKS_PER_JOB + FEEDS_PER_JOB) + 2;

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
    /// Parts on their way to the next polls.
    parts: VecDeque<Part>,
}

/// The queues between one worker and the app threads.
pub struct Threads {
    worker: u16,
    inboxes: Vec<Arc<Inbox>>,
    pub(crate) outbox: Arc<ArrayQueue<Part>>,
    /// Which thread runs a job.
    placed: ByJob<JobId, u16>,
    jobs_max: usize,
    /// Jobs submitted and not yet over.
    outstanding: usize,
    /// A thread has been told something since the last flush.
    told: bool,
}

impl<A: App> Port<A> {
    /// The application inside the worker.
    pub fn inline(runner: Runner<A>) -> Port<A> {
        let parts = VecDeque::with_capacity(PARTS_PER_JOB * runner.capacity());
        Port::Inline(Box::new(Inline { runner, parts }))
    }

    /// Submits a request. Its number may be one used before if that job is over; not if it was cancelled, since its
    /// last parts may still be on their way.
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
            Port::Threads(threads) => threads.more(id, chunk),
        }
    }

    /// Gives a job the next bytes of its request's body, at `end` the last ones; the chunk comes back taken or spare. No more
    /// than [`FEEDS_PER_JOB`] at a time.
    pub fn feed(&mut self, id: JobId, chunk: Chunk, end: bool) {
        match self {
            Port::Inline(inline) => {
                let Inline { runner, parts } = &mut **inline;
                runner.feed(0, id, chunk, end, &mut |_, part| parts.push_back(part));
            }
            Port::Threads(threads) => threads.feed(id, chunk, end),
        }
    }

    /// Ends a job; its request and chunks come back. Nothing happens if it is over.
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

    /// Has the application be another one in some way, behind what was submitted so far.
    ///
    /// # Panics
    /// If it is on threads, which a [`Changer`] tells: a mistake of the caller.
    pub fn change(&mut self, change: Change) {
        match self {
            Port::Inline(inline) => inline.runner.change(change),
            Port::Threads(_) => unreachable!("app threads are told by control"),
        }
    }

    /// How to change the applications of the app threads, if there are any.
    pub fn changer(&self) -> Option<Changer> {
        match self {
            Port::Inline(_) => None,
            Port::Threads(threads) => Some(Changer::new(threads.inboxes.clone())),
        }
    }

    /// Appends parts that are ready; runs the application if it is inside.
    pub fn poll(&mut self, parts: &mut ArrayVec<Part, PARTS>) {
        match self {
            Port::Inline(inline) => {
                let Inline { runner, parts: waiting } = &mut **inline;
                // Parts nobody has room for are no reason to make more.
                if waiting.len() < parts.remaining_capacity() {
                    runner.turn(&mut |_, part| waiting.push_back(part));
                }
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
        if let Port::Threads(threads) = self
            && std::mem::take(&mut threads.told)
        {
            // Between what was told and the look at the flags; see `Inbox::sleep`.
            fence(Ordering::SeqCst);
            for inbox in &threads.inboxes {
                inbox.rouse();
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

    /// Jobs under way at the application, also those of other workers that share its threads: what a job submitted now
    /// comes behind.
    pub fn crowd(&self) -> usize {
        match self {
            Port::Inline(inline) => inline.runner.outstanding(),
            Port::Threads(threads) => {
                threads.inboxes.iter().map(|inbox| inbox.jobs.load(Ordering::Relaxed)).sum()
            }
        }
    }

    /// Whether the application runs inside the worker: what it makes, it makes when it is asked.
    pub fn is_inline(&self) -> bool {
        matches!(self, Port::Inline(_))
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
            placed: by_job(jobs_max),
            jobs_max,
            outstanding: 0,
            told: false,
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
        let before = self.placed.insert(job.id, thread as u16);
        assert!(before.is_none(), "a job's number is used again before it is over");
        self.tell(thread as u16, Command::Submit { worker: self.worker, job });
        Ok(())
    }

    fn more(&mut self, id: JobId, chunk: Chunk) {
        match self.placed.get(&id).copied() {
            Some(thread) => self.tell(thread, Command::More { worker: self.worker, id, chunk }),
            None => self.spare(chunk),
        }
    }

    fn feed(&mut self, id: JobId, chunk: Chunk, end: bool) {
        match self.placed.get(&id).copied() {
            Some(thread) => self.tell(thread, Command::Feed { worker: self.worker, id, chunk, end }),
            None => self.spare(chunk),
        }
    }

    /// A chunk of a job that is over comes back through the outbox like any spare one.
    fn spare(&mut self, chunk: Chunk) {
        let back = self.outbox.push(Part::Spare(chunk));
        assert!(back.is_ok(), "an outbox holds every chunk its jobs can have");
    }

    fn tell(&mut self, thread: u16, command: Command) {
        self.told = true;
        let told = self.inboxes[usize::from(thread)].queue.push(command);
        assert!(told.is_ok(), "an inbox holds every command its jobs can have under way");
    }

    fn settle(&mut self, part: &Part) {
        if let Part::Reply { id, end: Some(_), .. } | Part::Failed { id, .. } = part {
            self.placed.remove(id);
        }
        self.outstanding -= usize::from(part.is_last());
    }
}
