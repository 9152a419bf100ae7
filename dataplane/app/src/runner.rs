//! Drives an [`App`]: many requests at a time on one thread, their replies written as HTTP into chunks.
//!
//! First come, first served: a request that computes keeps the processor until it is done, as a thread of a server
//! would, so that service times mean what they say; sharing the processor among all would make each as slow as the
//! slowest. One that waits lets others pass. A request that has no chunk to write to waits until [`Runner::more`]
//! brings one: that is the back-pressure. Of a request whose body streams the application is offered what has come,
//! [`Runner::feed`], whenever it is asked; what it does not take waits, and nothing more comes.
//!
//! An application may be given a number of requests it works on at a time, as a server has threads: those beyond it
//! wait in line and are not begun. A request keeps its place until its reply has ended, also while its client is
//! waited for.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::num::NonZeroUsize;
use std::task::{Poll, Waker};

use arrayvec::ArrayVec;
use keyferry_http::{ReplyHead, Request, Seen};
use keyferry_time::Time;

use crate::App;
use crate::bells::Bells;
use crate::change::Change;
use crate::chunk::Chunk;
use crate::clock::{Clock, Date};
use crate::job::{ByJob, End, FEEDS_PER_JOB, Job, JobId, Part, by_job};
use crate::reply::{Room, Writer};

/// Requests run in one turn, so that whoever turns it looks after the rest of its work in between.
const RUNS_A_TURN: usize = 32;

/// Reply bytes after which a turn ends, so that they are sealed while they are in the processor's cache.
const BYTES_A_TURN: usize = 64 << 10;

/// Switching Protocols (RFC 9110 15.2.2).
const SWITCHING: u16 = 101;

struct Slot<A: App> {
    worker: u16,
    id: JobId,
    request: Box<Request>,
    /// `None` until it has begun.
    task: Option<A::Task>,
    reply: Writer,
    /// What has come of the body and is not taken yet; `true`: its end.
    fed: ArrayVec<(Chunk, bool), FEEDS_PER_JOB>,
    /// The end of the body is not taken yet.
    is_fed: bool,
    status: u16,
    keep_alive: bool,
    /// When it began; moved forward by what it waited for chunks.
    began_at: Time,
    /// Waits for a chunk since.
    starved_at: Option<Time>,
    /// Reply bytes have been given out.
    started: bool,
    /// It is in one of the queues.
    queued: bool,
    /// It is one of those the application works on.
    admitted: bool,
}

enum Outcome {
    /// It computes.
    Busy,
    /// It waits until then.
    Until(Time),
    /// It waits until it is woken.
    Asleep,
    /// It has no chunk.
    Starved,
    /// It is over.
    Over,
}

/// Drives an application on one thread.
pub struct Runner<A: App> {
    app: A,
    clock: Box<dyn Clock>,
    /// Read last.
    now: Time,
    slots: Box<[Option<Slot<A>>]>,
    vacant: Vec<u32>,
    by_job: ByJob<(u16, JobId), u32>,
    /// Requests the application works on at most, and now.
    admitted_max: usize,
    admitted: usize,
    /// Slots beyond them, first come first.
    line: VecDeque<u32>,
    /// Slots to run, first come first.
    ready: VecDeque<u32>,
    /// Slots that wait for a time: the time, which came first, the slot.
    waiting: BinaryHeap<Reverse<(Time, u64, u32)>>,
    /// Times waited for so far.
    waits: u64,
    /// One for each slot, by which tasks that sleep are woken.
    bells: Bells,
    date: Date,
}

impl<A: App> Runner<A> {
    /// A runner for `jobs` requests at a time. Everything it needs later is allocated here.
    pub fn new(app: A, jobs: usize, clock: Box<dyn Clock>) -> Runner<A> {
        let count = u32::try_from(jobs).expect("jobs are counted in 32 bits");
        Runner {
            app,
            clock,
            now: Time::ZERO,
            slots: (0..jobs).map(|_| None).collect(),
            vacant: (0..count).rev().collect(),
            by_job: by_job(jobs),
            admitted_max: usize::MAX,
            admitted: 0,
            line: VecDeque::with_capacity(jobs),
            ready: VecDeque::with_capacity(jobs),
            waiting: BinaryHeap::with_capacity(jobs),
            waits: 0,
            bells: Bells::new(count),
            date: Date::default(),
        }
    }

    /// At most so many requests are begun and not over; [`None`]: all it was made for.
    #[must_use]
    pub fn with_slots(self, slots: Option<NonZeroUsize>) -> Runner<A> {
        Runner { admitted_max: slots.map_or(usize::MAX, NonZeroUsize::get), ..self }
    }

    /// Takes a request from a worker.
    ///
    /// # Errors
    /// The job, if as many as the runner was made for are under way.
    ///
    /// # Panics
    /// If this worker has a job of that number under way: a mistake of ours.
    pub fn submit(&mut self, worker: u16, job: Job) -> Result<(), Job> {
        let Some(index) = self.vacant.pop() else { return Err(job) };
        let Job { id, request, chunk } = job;
        let admitted = self.admitted < self.admitted_max;
        let before = self.by_job.insert((worker, id), index);
        assert!(before.is_none(), "a job's number is used again before it is over");
        self.slots[index as usize] = Some(Slot {
            worker,
            id,
            keep_alive: request.keep_alive(),
            fed: ArrayVec::new(),
            is_fed: !request.is_whole(),
            request,
            task: None,
            reply: Writer::new(chunk),
            status: 0,
            began_at: Time::ZERO,
            starved_at: None,
            started: false,
            queued: true,
            admitted,
        });
        if admitted {
            self.admitted += 1;
            self.ready.push_back(index);
        } else {
            self.line.push_back(index);
        }
        Ok(())
    }

    /// Gives a job another chunk; one for a job that is over comes back at once.
    pub fn more(&mut self, worker: u16, id: JobId, chunk: Chunk, out: &mut impl FnMut(u16, Part)) {
        let index = self.by_job.get(&(worker, id)).copied();
        let slot = index.and_then(|index| Some((index, self.slots[index as usize].as_mut()?)));
        let Some((index, slot)) = slot else { return out(worker, Part::Spare(chunk)) };
        if let Err(chunk) = slot.reply.more(chunk) {
            return out(worker, Part::Spare(chunk));
        }
        if !slot.queued {
            slot.queued = true;
            // It has had the processor before; what came after it still waits behind it.
            self.ready.push_front(index);
        }
    }

    /// Gives a job the next bytes of its request's body; a chunk for a job that is over comes back at once.
    ///
    /// # Panics
    /// If there are more than [`FEEDS_PER_JOB`]: a mistake of ours.
    pub fn feed(&mut self, worker: u16, id: JobId, chunk: Chunk, end: bool, out: &mut impl FnMut(u16, Part)) {
        let index = self.by_job.get(&(worker, id)).copied();
        let slot = index.and_then(|index| Some((index, self.slots[index as usize].as_mut()?)));
        let Some((index, slot)) = slot else { return out(worker, Part::Spare(chunk)) };
        assert!(slot.fed.try_push((chunk, end)).is_ok(), "more of a body was fed than may be untaken");
        if !slot.queued {
            slot.queued = true;
            self.ready.push_front(index);
        }
    }

    /// Ends a job whose reply nobody wants any more; nothing happens if it is over.
    pub fn cancel(&mut self, worker: u16, id: JobId, out: &mut impl FnMut(u16, Part)) {
        let Some(index) = self.by_job.get(&(worker, id)).copied() else { return };
        let Some(slot) = self.take(index) else { return };
        if !slot.admitted {
            self.line.retain(|waiting| *waiting != index);
        } else if slot.queued {
            self.ready.retain(|ready| *ready != index);
            self.waiting.retain(|Reverse((_, _, waiting))| *waiting != index);
        }
        spare(worker, slot.reply, slot.fed, out);
        out(worker, Part::Cancelled(slot.request));
    }

    /// Has the application be another one in some way. Requests that are under way go on, and those in line begin with what it is
    /// then; but for those whose bodies come as they run, and WebSockets: they were sent here because it takes such as it was, so
    /// they begin with that.
    pub fn change(&mut self, change: Change) {
        self.now = self.clock.now();
        for (index, slot) in (0..).zip(self.slots.iter_mut()) {
            let Some(slot) = slot.as_mut().filter(|slot| slot.task.is_none()) else { continue };
            if !slot.request.is_whole() || slot.request.wants_websocket() {
                slot.began_at = self.now;
                slot.task = Some(begin(&mut self.app, &self.bells, index, &slot.request, self.now));
            }
        }
        change.apply(&mut self.app);
    }

    /// Requests under way.
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    /// Requests it was made for.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Has whoever wakes a sleeping task wake `thread` too. The first one stays.
    pub fn wake_thread_by(&self, thread: Waker) {
        self.bells.wake_thread_by(thread);
    }

    /// When a waiting request is due; [`Time::ZERO`] if one can run now.
    pub fn poll_at(&self) -> Option<Time> {
        if !self.ready.is_empty() || self.bells.have_rung() {
            return Some(Time::ZERO);
        }
        self.waiting.peek().map(|Reverse((at, _, _))| *at)
    }

    /// Runs what can run, until one of them wants the processor for longer. Returns whether anything ran.
    pub fn turn(&mut self, out: &mut impl FnMut(u16, Part)) -> bool {
        if self.ready.is_empty() && self.waiting.is_empty() && !self.bells.have_rung() {
            return false;
        }
        self.now = self.clock.now();
        self.wake();
        let bytes = Cell::new(0);
        let out = &mut |worker, part| {
            if let Part::Reply { chunk, .. } = &part {
                bytes.set(bytes.get() + chunk.bytes().len());
            }
            out(worker, part);
        };
        let runs = self.ready.len().min(RUNS_A_TURN);
        for _ in 0..runs {
            if bytes.get() >= BYTES_A_TURN {
                break;
            }
            let Some(index) = self.ready.pop_front() else { break };
            let outcome = self.run(index, out);
            // What ended has read the clock to say how long it took.
            if !matches!(outcome, Outcome::Over) {
                self.now = self.clock.now();
            }
            match outcome {
                Outcome::Busy => {
                    self.ready.push_front(index);
                    break;
                }
                Outcome::Until(at) => {
                    self.waits += 1;
                    self.waiting.push(Reverse((at, self.waits, index)));
                }
                Outcome::Asleep => {
                    if let Some(slot) = self.slots[index as usize].as_mut() {
                        slot.queued = false;
                    }
                }
                Outcome::Starved => {
                    if let Some(slot) = self.slots[index as usize].as_mut() {
                        slot.queued = false;
                        slot.starved_at.get_or_insert(self.now);
                    }
                }
                Outcome::Over => {}
            }
        }
        runs > 0
    }

    /// Moves what is due from waiting to ready, in the order of their times, and what was woken.
    fn wake(&mut self) {
        for _ in 0..self.slots.len() {
            let Some(index) = self.bells.next() else { break };
            // Nobody may sleep there any more.
            if let Some(slot) = self.slots[index as usize].as_mut().filter(|slot| !slot.queued) {
                slot.queued = true;
                self.ready.push_back(index);
            }
        }
        while let Some(Reverse((at, _, index))) = self.waiting.peek().copied() {
            if !at.is_due(self.now) {
                break;
            }
            self.waiting.pop();
            self.ready.push_back(index);
        }
    }

    /// Begins a request, or asks it for its head.
    fn run(&mut self, index: u32, out: &mut impl FnMut(u16, Part)) -> Outcome {
        let now = self.now;
        let Some(slot) = self.slots[index as usize].as_mut() else { return Outcome::Over };
        let task = slot.task.get_or_insert_with(|| {
            slot.began_at = now;
            begin(&mut self.app, &self.bells, index, &slot.request, now)
        });
        while let Some((chunk, end)) = slot.fed.first()
            && self.app.input(task, &slot.request, chunk.bytes(), *end)
            && let Some((chunk, end)) = slot.fed.pop_at(0)
        {
            slot.is_fed = !end;
            out(slot.worker, Part::Took { id: slot.id, chunk });
        }
        if !slot.reply.has_chunk() {
            return Outcome::Starved;
        }
        if let Some(since) = slot.starved_at.take() {
            slot.began_at += now - since;
        }
        if !slot.reply.has_head() {
            // Looked at where it is, as it is large.
            let answer = self.app.head(task, &slot.request, now);
            let Poll::Ready(head) = &answer else { return wait(self.app.deadline(task)) };
            if head.status == SWITCHING && slot.request.wants_websocket() {
                return self.switch(index, head, out);
            }
            let date = self.date.at(now, &*self.clock);
            let mut seen = Seen::of(&slot.request);
            // What is still to come of the body is not read once the reply has ended (RFC 9112 9.3).
            seen.keep_alive &= !slot.is_fed;
            let Ok(keep_alive) = slot.reply.start(head, seen, date) else {
                return self.fail(index, out);
            };
            (slot.status, slot.keep_alive) = (head.status, keep_alive);
        }
        self.run_body(index, out)
    }

    /// The protocol is another one: its head goes out, then bytes go both ways.
    fn switch(&mut self, index: u32, head: &ReplyHead, out: &mut impl FnMut(u16, Part)) -> Outcome {
        let Some(slot) = self.slots[index as usize].as_mut() else { return Outcome::Over };
        if slot.reply.switch(head).is_err() {
            return self.fail(index, out);
        }
        (slot.status, slot.keep_alive) = (head.status, false);
        slot.request.switch();
        out(slot.worker, Part::Switched { id: slot.id });
        self.run_body(index, out)
    }

    /// Asks for body bytes until there is no room for them.
    fn run_body(&mut self, index: u32, out: &mut impl FnMut(u16, Part)) -> Outcome {
        let now = self.now;
        loop {
            let Some(slot) = self.slots[index as usize].as_mut() else { return Outcome::Over };
            let Some(task) = slot.task.as_mut() else { return Outcome::Over };
            if let Some(bytes_max) = slot.reply.room_to_share()
                && let Some(shared) = self.app.share(task, &slot.request, bytes_max)
            {
                if slot.reply.took_shared(shared).is_err() {
                    return self.fail(index, out);
                }
                continue;
            }
            let answer = match slot.reply.room() {
                Room::Whole => return self.end(index, out),
                Room::Starved => return Outcome::Starved,
                Room::Full => {
                    let chunk = slot.reply.give();
                    give(slot, chunk, out);
                    continue;
                }
                Room::Here(room) => self.app.body(task, &slot.request, now, room),
            };
            match answer {
                Poll::Ready(body) => {
                    if slot.reply.took(body).is_err() {
                        return self.fail(index, out);
                    }
                }
                Poll::Pending => {
                    let next = wait(self.app.deadline(task));
                    // What is there goes out while the rest is awaited, not while it is computed.
                    if matches!(next, Outcome::Until(_) | Outcome::Asleep) {
                        let chunk = slot.reply.give_early();
                        give(slot, chunk, out);
                    }
                    return next;
                }
            }
        }
    }

    /// Gives out the last bytes and the end.
    fn end(&mut self, index: u32, out: &mut impl FnMut(u16, Part)) -> Outcome {
        self.now = self.clock.now();
        let Some(mut slot) = self.take(index) else { return Outcome::Over };
        let Some(chunk) = slot.reply.give() else { unreachable!("a reply ends in a chunk") };
        let end = End {
            status: slot.status,
            keep_alive: slot.keep_alive,
            service_ns: self.now.ns_since(slot.began_at),
            request: slot.request,
        };
        out(slot.worker, Part::Reply { id: slot.id, chunk, end: Some(end) });
        spare(slot.worker, slot.reply, slot.fed, out);
        Outcome::Over
    }

    fn fail(&mut self, index: u32, out: &mut impl FnMut(u16, Part)) -> Outcome {
        self.now = self.clock.now();
        let Some(slot) = self.take(index) else { return Outcome::Over };
        spare(slot.worker, slot.reply, slot.fed, out);
        out(slot.worker, Part::Failed { id: slot.id, started: slot.started, request: slot.request });
        Outcome::Over
    }

    fn take(&mut self, index: u32) -> Option<Slot<A>> {
        let slot = self.slots[index as usize].take()?;
        self.by_job.remove(&(slot.worker, slot.id));
        self.vacant.push(index);
        if slot.admitted {
            self.admitted -= 1;
            self.admit();
        }
        Some(slot)
    }

    /// The place of one that is over goes to the first in line.
    fn admit(&mut self) {
        let Some(index) = self.line.pop_front() else { return };
        if let Some(slot) = self.slots[index as usize].as_mut() {
            slot.admitted = true;
            // It may have begun in line.
            slot.began_at = self.now;
            self.admitted += 1;
            self.ready.push_back(index);
        }
    }
}

fn begin<A: App>(app: &mut A, bells: &Bells, index: u32, request: &Request, now: Time) -> A::Task {
    let mut task = app.begin(request, now);
    app.wake_by(&mut task, bells.waker(index));
    task
}

fn wait(deadline: Option<Time>) -> Outcome {
    match deadline {
        None => Outcome::Busy,
        Some(Time::NEVER) => Outcome::Asleep,
        Some(at) => Outcome::Until(at),
    }
}

/// Gives out reply bytes.
fn give<A: App>(slot: &mut Slot<A>, chunk: Option<Chunk>, out: &mut impl FnMut(u16, Part)) {
    if let Some(chunk) = chunk {
        slot.started = true;
        out(slot.worker, Part::Reply { id: slot.id, chunk, end: None });
    }
}

/// Gives back the chunks of a job that is over.
fn spare(
    worker: u16,
    reply: Writer,
    fed: ArrayVec<(Chunk, bool), FEEDS_PER_JOB>,
    out: &mut impl FnMut(u16, Part),
) {
    for chunk in reply.into_chunks().into_iter().chain(fed.into_iter().map(|(chunk, _)| chunk)) {
        out(worker, Part::Spare(chunk));
    }
}
