//! Drives an [`App`]: many requests at a time on one thread, their replies written as HTTP into chunks.
//!
//! First come, first served: a request that computes keeps the processor until it is done, as a thread of a server
//! would, so that service times mean what they say; one that waits lets others pass. A request that has no chunk
//! to write to waits until [`Runner::more`] brings one: that is the back-pressure.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Poll;
use std::time::{Duration, UNIX_EPOCH};

use arrayvec::{ArrayString, ArrayVec};
use keyferry_http::{
    CHUNK_OVERHEAD_BYTES, ChunkWriter, ReplyHead, Request, Seen, reply_head_bytes_max, write_head,
};
use keyferry_time::Time;

use crate::chunk::{CHUNK_BYTES, Chunk};
use crate::clock::Clock;
use crate::{App, Body};

/// Chunks a job may be given at once: one to fill while another is sealed.
pub const CHUNKS_PER_JOB: usize = 2;

/// Room a chunk must have left for another piece of body to be worth it.
const PIECE_MIN: usize = 64;

const _: () = assert!(reply_head_bytes_max() + CHUNK_OVERHEAD_BYTES + PIECE_MIN < CHUNK_BYTES);

/// The submitter's name for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct JobId(pub u64);

/// A request to run, and the chunk its reply starts in.
pub struct Job {
    /// The submitter's name for it.
    pub id: JobId,
    /// The request, given back at the end.
    pub request: Box<Request>,
    /// The first chunk.
    pub chunk: Chunk,
}

/// What comes back.
pub enum Part {
    /// Reply bytes.
    Reply {
        /// The job.
        id: JobId,
        /// The bytes.
        chunk: Chunk,
        /// The reply ends with them.
        end: Option<End>,
    },
    /// The application failed: a body unlike its length, or an error it could not put into a reply.
    Failed {
        /// The job, which is over.
        id: JobId,
        /// Reply bytes have been given out.
        started: bool,
        /// The request.
        request: Box<Request>,
    },
    /// A job that was cancelled is over; its request.
    Cancelled(Box<Request>),
    /// A chunk that was given and is not needed.
    Spare(Chunk),
}

/// How a reply ended.
pub struct End {
    /// Status of the reply.
    pub status: u16,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// From its start on this thread to its end, in ns.
    pub service_ns: u64,
    /// The request.
    pub request: Box<Request>,
}

/// A multiplicative hash (Knuth); job numbers are our own, so nobody can aim at it, and runs replay.
#[derive(Default)]
pub struct JobHasher(u64);

impl Hasher for JobHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// A table by job.
pub(crate) type ByJob<K, V> = HashMap<K, V, BuildHasherDefault<JobHasher>>;

enum Stage {
    /// Not begun.
    New,
    /// The head is awaited.
    Head,
    /// Body bytes are awaited.
    Body { left: Option<u64>, framed: bool, head_only: bool },
}

struct Slot<A: App> {
    worker: u16,
    id: JobId,
    request: Box<Request>,
    task: Option<A::Task>,
    stage: Stage,
    status: u16,
    keep_alive: bool,
    started_at: Time,
    chunks: ArrayVec<Chunk, CHUNKS_PER_JOB>,
    /// Reply bytes have been given out.
    started: bool,
    /// It is in one of the queues.
    queued: bool,
}

enum Outcome {
    /// It computes.
    Busy,
    /// It waits until then.
    Until(Time),
    /// It has no chunk.
    Starved,
    /// It is over.
    Over,
}

/// The text of the Date field, made once a second.
struct Date {
    text: ArrayString<32>,
    until: Time,
}

/// Drives an application on one thread.
pub struct Runner<A: App> {
    app: A,
    clock: Box<dyn Clock>,
    slots: Box<[Option<Slot<A>>]>,
    vacant: Vec<u32>,
    by_job: ByJob<(u16, JobId), u32>,
    /// Slots to run, first come first.
    ready: VecDeque<u32>,
    /// Slots that wait for a time.
    waiting: Vec<(Time, u32)>,
    date: Date,
}

impl<A: App> Runner<A> {
    /// A runner for `jobs` requests at a time.
    pub fn new(app: A, jobs: usize, clock: Box<dyn Clock>) -> Runner<A> {
        Runner {
            app,
            clock,
            slots: (0..jobs).map(|_| None).collect(),
            vacant: (0..jobs as u32).rev().collect(),
            by_job: ByJob::with_capacity_and_hasher(2 * jobs, BuildHasherDefault::default()),
            ready: VecDeque::with_capacity(jobs),
            waiting: Vec::with_capacity(jobs),
            date: Date { text: ArrayString::new(), until: Time::ZERO },
        }
    }

    /// Takes a request from a worker.
    ///
    /// # Errors
    /// The job, if as many as the runner was made for are under way.
    pub fn submit(&mut self, worker: u16, job: Job) -> Result<(), Job> {
        let Some(index) = self.vacant.pop() else { return Err(job) };
        let Job { id, request, mut chunk } = job;
        chunk.clear();
        self.by_job.insert((worker, id), index);
        self.slots[index as usize] = Some(Slot {
            worker,
            id,
            keep_alive: request.keep_alive(),
            request,
            task: None,
            stage: Stage::New,
            status: 0,
            started_at: Time::ZERO,
            chunks: ArrayVec::from_iter([chunk]),
            started: false,
            queued: true,
        });
        self.ready.push_back(index);
        Ok(())
    }

    /// Gives a job another chunk.
    pub fn more(&mut self, worker: u16, id: JobId, mut chunk: Chunk, out: &mut impl FnMut(u16, Part)) {
        chunk.clear();
        let Some(index) = self.by_job.get(&(worker, id)).copied() else {
            return out(worker, Part::Spare(chunk));
        };
        let Some(slot) = self.slots[index as usize].as_mut() else { return out(worker, Part::Spare(chunk)) };
        if let Err(full) = slot.chunks.try_push(chunk) {
            return out(worker, Part::Spare(full.element()));
        }
        if !slot.queued {
            slot.queued = true;
            // It has had the processor before; what came after it still waits behind it.
            self.ready.push_front(index);
        }
    }

    /// Ends a job whose reply nobody wants any more.
    pub fn cancel(&mut self, worker: u16, id: JobId, out: &mut impl FnMut(u16, Part)) {
        let Some(index) = self.by_job.remove(&(worker, id)) else { return };
        let Some(slot) = self.slots[index as usize].take() else { return };
        self.ready.retain(|ready| *ready != index);
        self.waiting.retain(|(_, waiting)| *waiting != index);
        self.vacant.push(index);
        for chunk in slot.chunks {
            out(worker, Part::Spare(chunk));
        }
        out(worker, Part::Cancelled(slot.request));
    }

    /// Requests under way.
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// When a waiting request is due; [`Time::ZERO`] if one computes.
    pub fn poll_at(&self) -> Option<Time> {
        if !self.ready.is_empty() {
            return Some(Time::ZERO);
        }
        self.waiting.iter().map(|(at, _)| *at).min()
    }

    /// Runs what can run, until one of them wants the processor for longer. Returns whether anything ran.
    pub fn turn(&mut self, out: &mut impl FnMut(u16, Part)) -> bool {
        let mut now = self.clock.now();
        self.wake(now);
        let mut ran = false;
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { break };
            ran = true;
            match self.run(index, now, out) {
                Outcome::Busy => {
                    self.ready.push_front(index);
                    break;
                }
                Outcome::Until(at) => self.waiting.push((at, index)),
                Outcome::Starved => {
                    if let Some(slot) = self.slots[index as usize].as_mut() {
                        slot.queued = false;
                    }
                }
                Outcome::Over => {}
            }
            if !self.ready.is_empty() {
                now = self.clock.now();
            }
        }
        ran
    }

    fn wake(&mut self, now: Time) {
        let mut at = 0;
        while at < self.waiting.len() {
            if self.waiting[at].0.is_due(now) {
                let (_, index) = self.waiting.swap_remove(at);
                self.ready.push_back(index);
            } else {
                at += 1;
            }
        }
    }

    fn run(&mut self, index: u32, now: Time, out: &mut impl FnMut(u16, Part)) -> Outcome {
        let Some(slot) = self.slots[index as usize].as_mut() else { return Outcome::Over };
        if slot.chunks.is_empty() {
            return Outcome::Starved;
        }
        if matches!(slot.stage, Stage::New) {
            slot.started_at = now;
            slot.task = Some(self.app.begin(&slot.request, now));
            slot.stage = Stage::Head;
        }
        let Some(task) = slot.task.as_mut() else { return Outcome::Over };
        if matches!(slot.stage, Stage::Head) {
            match self.app.head(task, &slot.request, now) {
                Poll::Ready(head) => {
                    if !start(slot, &head, self.date.at(now, &*self.clock)) {
                        return self.fail(index, out);
                    }
                }
                Poll::Pending => return wait(self.app.deadline(task)),
            }
        }
        self.run_body(index, now, out)
    }

    fn run_body(&mut self, index: u32, now: Time, out: &mut impl FnMut(u16, Part)) -> Outcome {
        loop {
            let Some(slot) = self.slots[index as usize].as_mut() else { return Outcome::Over };
            let (Some(task), Stage::Body { left, framed, head_only }) = (slot.task.as_mut(), &mut slot.stage)
            else {
                return Outcome::Over;
            };
            if *head_only || *left == Some(0) {
                return self.end(index, out);
            }
            let Some(chunk) = slot.chunks.first_mut() else { return Outcome::Starved };
            let overhead = if *framed { CHUNK_OVERHEAD_BYTES + ChunkWriter::END.len() } else { 0 };
            if chunk.left() < overhead + PIECE_MIN {
                give(slot, out);
                continue;
            }
            let room = chunk.left() - overhead;
            let want = left.map_or(room, |left| room.min(usize::try_from(left).unwrap_or(room)));
            let body = if *framed { &mut chunk.room()[10..10 + want] } else { &mut chunk.room()[..want] };
            match self.app.body(task, &slot.request, now, body) {
                Poll::Pending => {
                    let next = wait(self.app.deadline(task));
                    // What is there goes out while the rest is awaited.
                    if !chunk.bytes().is_empty() {
                        give(slot, out);
                    }
                    return next;
                }
                Poll::Ready(Body { bytes, end }) => {
                    let short = end && left.is_some_and(|left| left != bytes as u64);
                    if bytes > want || short || (bytes == 0 && !end) {
                        return self.fail(index, out);
                    }
                    if *framed && bytes > 0 {
                        let framed_len = ChunkWriter::finish(chunk.room(), bytes);
                        chunk.grow(framed_len);
                    } else {
                        chunk.grow(bytes);
                    }
                    if let Some(left) = left {
                        *left -= bytes as u64;
                    }
                    if end {
                        if *framed {
                            chunk.room()[..ChunkWriter::END.len()].copy_from_slice(ChunkWriter::END);
                            chunk.grow(ChunkWriter::END.len());
                        }
                        return self.end(index, out);
                    }
                }
            }
        }
    }

    /// Gives out the last bytes and the end.
    fn end(&mut self, index: u32, out: &mut impl FnMut(u16, Part)) -> Outcome {
        let now = self.clock.now();
        let Some(mut slot) = self.take(index) else { return Outcome::Over };
        let chunk = slot.chunks.remove(0);
        let end = End {
            status: slot.status,
            keep_alive: slot.keep_alive,
            service_ns: now.ns_since(slot.started_at),
            request: slot.request,
        };
        out(slot.worker, Part::Reply { id: slot.id, chunk, end: Some(end) });
        for chunk in slot.chunks {
            out(slot.worker, Part::Spare(chunk));
        }
        Outcome::Over
    }

    fn fail(&mut self, index: u32, out: &mut impl FnMut(u16, Part)) -> Outcome {
        let Some(slot) = self.take(index) else { return Outcome::Over };
        for chunk in slot.chunks {
            out(slot.worker, Part::Spare(chunk));
        }
        out(slot.worker, Part::Failed { id: slot.id, started: slot.started, request: slot.request });
        Outcome::Over
    }

    fn take(&mut self, index: u32) -> Option<Slot<A>> {
        let slot = self.slots[index as usize].take()?;
        self.by_job.remove(&(slot.worker, slot.id));
        self.vacant.push(index);
        Some(slot)
    }
}

fn wait(deadline: Option<Time>) -> Outcome {
    deadline.map_or(Outcome::Busy, Outcome::Until)
}

/// Writes the head into the first chunk.
fn start<A: App>(slot: &mut Slot<A>, head: &ReplyHead, date: &str) -> bool {
    let seen = Seen::of(&slot.request);
    let Some(chunk) = slot.chunks.first_mut() else { return false };
    let Ok(len) = write_head(head, seen, date, chunk.room()) else { return false };
    chunk.grow(len);
    slot.status = head.status;
    slot.keep_alive = seen.keep_alive && !head.close && !seen.needs_close(head);
    slot.stage = Stage::Body {
        left: head.length,
        framed: head.length.is_none() && seen.minor == 1,
        head_only: seen.head_only || head.status == 204 || head.status == 304,
    };
    true
}

/// Gives out the filled chunk.
fn give<A: App>(slot: &mut Slot<A>, out: &mut impl FnMut(u16, Part)) {
    slot.started = true;
    let chunk = slot.chunks.remove(0);
    out(slot.worker, Part::Reply { id: slot.id, chunk, end: None });
}

impl Date {
    fn at(&mut self, now: Time, clock: &dyn Clock) -> &str {
        if self.until.is_due(now) {
            self.until = now + Duration::from_secs(1);
            self.text.clear();
            let date = httpdate::HttpDate::from(UNIX_EPOCH + Duration::from_secs(clock.unix_seconds()));
            let _ = write!(self.text, "{date}");
        }
        &self.text
    }
}
