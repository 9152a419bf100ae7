//! One thread's loop: events in, turns of connections out, lost connections opened again, counts handed over each
//! second. Owns all it touches.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::connection::{Bounds, Connection, Fault, Next, Shared, Turn};
use crate::host;
use crate::plan::{Plan, Route};
use crate::sessions::{Configs, Resumption};
use crate::tally::{ErrorKind, Tally};
use crate::transport::{Event, Transport, Wait};

/// Between looks at time-outs and at connections to be opened again.
const TICK: Duration = Duration::from_millis(20);
/// Connections a thread opens at once: a server's queue of connections to accept is finite.
const OPENING_MAX: usize = 256;
/// Length of the pieces in which counts are handed over.
pub const SLICE: Duration = Duration::from_secs(1);

/// What one thread is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its number.
    pub index: usize,
    /// Connections kept open.
    pub connections: usize,
    /// Limits of each.
    pub bounds: Bounds,
    /// Start of the run.
    pub started: Instant,
    /// Addresses to connect from; none: the kernel's choice.
    pub sources: Arc<[IpAddr]>,
    /// Share of handshakes that resume.
    pub resume: f64,
    /// TLS 1.2 sessions resume by ID only.
    pub session_ids: bool,
    /// No sessions are kept.
    pub no_resumption: bool,
    /// Core to run on.
    pub core: Option<usize>,
    /// Never sleep.
    pub spin: bool,
    /// How long after the deadline an open loop still sends what was due.
    pub drain: Duration,
}

/// What a thread counted in one second, or in the last part of one.
#[derive(Debug)]
pub struct Slice {
    /// Of which thread.
    pub thread: usize,
    /// Seconds from the start of the run to that of the slice.
    pub second: u64,
    /// Its counts.
    pub tally: Box<Tally>,
    /// Processor time of the thread so far, without what it looked in vain; and when that was.
    pub cpu: Duration,
    /// End of the slice.
    pub at: Instant,
    /// Connections that are open.
    pub open: usize,
    /// The thread's last.
    pub is_last: bool,
}

struct Slot<T: Transport> {
    connection: Option<Connection<T>>,
    /// Tells the slot's connections apart: an event may outlive its connection.
    generation: u32,
    is_idle: bool,
}

/// Connections without a request.
struct Idle {
    slots: VecDeque<usize>,
    /// Since when there is one.
    since: Instant,
}

/// One thread's connections and counts.
pub struct Worker<T: Transport> {
    settings: Settings,
    plan: Plan,
    base: Arc<ClientConfig>,
    /// Sessions by target and client.
    configs: HashMap<Route, Configs>,
    resumption: Resumption,
    stop: Arc<AtomicBool>,
    slices: Sender<Slice>,
    transport: T,
    slots: Vec<Slot<T>>,
    /// Slots without a connection; those that failed wait for the next tick, so that a server that is gone is not
    /// stormed.
    missing: VecDeque<usize>,
    failed: Vec<usize>,
    /// Connections open in any stage, and those of them that are not yet ready for requests.
    live: usize,
    opening: usize,
    /// Connections with more to read.
    again: VecDeque<usize>,
    /// Open loop: connections that may have room for a request, longest idle first, each at most once; by the line they
    /// serve.
    idle: Vec<Idle>,
    /// In all lines.
    idle_slots: usize,
    /// The last connection that was tried was not made.
    is_refused: bool,
    /// Connections that think, by when they go on.
    thinking: BinaryHeap<Reverse<(Instant, usize, u32)>>,
    shared: Shared,
    now: Instant,
    second: u64,
}

impl<T: Transport> Worker<T> {
    /// A worker that has not started.
    pub fn new(
        settings: Settings,
        plan: Plan,
        base: Arc<ClientConfig>,
        stop: Arc<AtomicBool>,
        slices: Sender<Slice>,
        transport: T,
    ) -> Worker<T> {
        let (connections, lines) = (settings.connections, plan.lines());
        let slot = || Slot { connection: None, generation: 0, is_idle: false };
        Worker {
            resumption: Resumption::new(if settings.no_resumption { 0.0 } else { settings.resume }),
            plan,
            base,
            configs: HashMap::new(),
            stop,
            slices,
            transport,
            slots: std::iter::repeat_with(slot).take(connections).collect(),
            missing: (0..connections).collect(),
            failed: Vec::with_capacity(connections),
            live: 0,
            opening: 0,
            again: VecDeque::with_capacity(connections),
            idle: (0..lines).map(|_| Idle { slots: VecDeque::new(), since: settings.started }).collect(),
            idle_slots: 0,
            is_refused: false,
            thinking: BinaryHeap::new(),
            shared: Shared::default(),
            now: settings.started,
            second: 0,
            settings,
        }
    }

    /// Runs to the end of the load: no more requests to start, and none under way.
    ///
    /// # Errors
    /// When polling itself fails.
    pub fn run(&mut self) -> io::Result<()> {
        if let Some(core) = self.settings.core {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
        }
        // Requests have moments, and the kernel's usual slack of 50 us would make each of them late.
        let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
        let mut events = Vec::new();
        let mut next_tick = self.settings.started;
        loop {
            self.now = Instant::now();
            if self.now >= next_tick {
                self.tick();
                next_tick = self.now + TICK;
            }
            if self.now >= self.slice_end() {
                self.hand_over(false);
            }
            if self.is_ending() && self.live == 0 {
                self.give_up();
                self.hand_over(true);
                self.transport.finish();
                return Ok(());
            }
            self.end_pauses();
            self.start_due();
            self.open_missing();
            let is_exact = self.plan.is_open_loop() || !self.thinking.is_empty();
            let wait = Wait { time: self.wait(next_tick), is_exact };
            self.transport.wait(wait, &mut events)?;
            for _ in 0..self.again.len() {
                let Some(index) = self.again.pop_front() else { break };
                self.turn(index, true);
            }
            for Event { token, is_hung_up } in events.drain(..) {
                let index = (token & u64::from(u32::MAX)) as usize;
                if self.slots[index].generation == (token >> 32) as u32 {
                    self.turn(index, is_hung_up);
                }
            }
        }
    }

    fn slice_end(&self) -> Instant {
        self.settings.started + SLICE * u32::try_from(self.second + 1).unwrap_or(u32::MAX)
    }

    /// Hands over what was counted since the last time.
    fn hand_over(&mut self, is_last: bool) {
        let slice = Slice {
            thread: self.settings.index,
            second: self.second,
            tally: Box::new(std::mem::take(&mut self.shared.tally)),
            cpu: host::thread_cpu().saturating_sub(self.transport.idle()),
            at: self.now,
            open: self.live,
            is_last,
        };
        // Nobody listens only when the run is given up.
        let _ = self.slices.send(slice);
        let elapsed = self.now.saturating_duration_since(self.settings.started);
        self.second = elapsed.as_secs();
    }

    /// Hands requests that are due to connections that have room.
    fn start_due(&mut self) {
        if !self.plan.is_open_loop() || self.is_ending() {
            return;
        }
        self.plan.arrive(self.now);
        while let Some(line) = self.plan.next_fresh() {
            // Where all are busy, the first to have its reply takes it, and has perhaps done so.
            let Some(moment) = self.plan.oldest_due(line) else { continue };
            let Some(index) = self.take_idle(line) else { continue };
            let late = self.now.saturating_duration_since(moment.max(self.idle[line].since));
            if moment >= self.settings.bounds.measured_from {
                self.shared.tally.lag(late);
            }
            self.proceed(index, |connection, turn| connection.start(turn));
            self.plan.arrive(self.now);
        }
    }

    /// The connection of a line that has been idle for longest and still has room.
    fn take_idle(&mut self, line: usize) -> Option<usize> {
        loop {
            let index = self.idle[line].slots.pop_front()?;
            self.idle_slots -= 1;
            let slot = &mut self.slots[index];
            slot.is_idle = false;
            if slot.connection.as_ref().is_some_and(|connection| connection.has_room(&self.settings.bounds)) {
                return Some(index);
            }
        }
    }

    /// Lets connections go on that have thought long enough.
    fn end_pauses(&mut self) {
        while let Some(&Reverse((at, index, generation))) = self.thinking.peek() {
            if at > self.now {
                break;
            }
            self.thinking.pop();
            if self.slots[index].generation == generation {
                self.proceed(index, |connection, turn| connection.start(turn));
            }
        }
    }

    /// Whether connections are opened only when a request is due, as their opening is part of what is measured. A
    /// client whose requests wait for its own connections opens the next one when one has ended, as browsers do.
    fn opens_on_demand(&self) -> bool {
        self.plan.is_open_loop() && self.settings.bounds.requests_max != 0 && !self.plan.is_by_client()
    }

    /// Opens connections that are missing.
    fn open_missing(&mut self) {
        if self.is_ending() {
            return;
        }
        let wanted = match self.settings.bounds.requests_max {
            0 => usize::MAX,
            _ if self.plan.is_by_client() => usize::MAX,
            _ if self.plan.is_open_loop() => self.plan.arrive(self.now),
            // Connections come and go with their requests: none is opened for which no request is left.
            _ => self.plan.left(),
        };
        while self.opening < wanted.min(OPENING_MAX) {
            let Some(index) = self.missing.pop_front() else { return };
            self.open(index);
        }
    }

    /// How long to wait for events.
    fn wait(&self, next_tick: Instant) -> Duration {
        if self.settings.spin || !self.again.is_empty() {
            return Duration::ZERO;
        }
        let mut until = next_tick.min(self.slice_end());
        if let Some(Reverse((at, ..))) = self.thinking.peek() {
            until = until.min(*at);
        }
        let can_start = self.idle_slots > 0 || (self.opens_on_demand() && !self.missing.is_empty());
        if let (Some(next), true, false) = (self.plan.next_at(), can_start, self.is_ending()) {
            until = until.min(next);
        }
        // Never longer than a tick.
        until.saturating_duration_since(Instant::now())
    }

    /// Counts what was due and will not be sent.
    fn give_up(&mut self) {
        let (now, from, tally) = (self.now, self.settings.bounds.measured_from, &mut self.shared.tally);
        self.plan.drop_overdue(now, |moment| {
            if moment >= from {
                tally.never_sent(now - moment);
            }
        });
    }

    /// No request is started any more.
    fn is_ending(&self) -> bool {
        // A timed run lasts its time, also when its last request comes before the end.
        let is_over = self.settings.bounds.deadline.is_none_or(|deadline| self.now >= deadline);
        (self.plan.is_done() && (is_over || self.plan.left() == 0))
            || self.settings.bounds.deadline.is_some_and(|deadline| self.now >= deadline + self.grace())
            || self.stop.load(Ordering::Relaxed)
    }

    /// What was due in an open loop is still sent after the deadline, or the slowest requests would be left out; but
    /// not when there is nobody to send it to.
    fn grace(&self) -> Duration {
        let is_of_use = self.plan.is_open_loop() && !self.is_refused;
        if is_of_use { self.settings.drain } else { Duration::ZERO }
    }

    /// Ends connections that take too long and, at the end, those with nothing under way.
    fn tick(&mut self) {
        self.missing.extend(self.failed.drain(..));
        let is_ending = self.is_ending();
        for index in 0..self.slots.len() {
            let Some(connection) = &self.slots[index].connection else { continue };
            if connection.is_overdue(&self.settings.bounds, self.now) {
                self.drop(index);
                self.failed.push(index);
                self.fault(&Fault::new(ErrorKind::Timeout, "no whole reply within --timeout"));
            } else if is_ending && !connection.is_open() {
                self.drop(index);
            } else if is_ending {
                self.proceed(index, |connection, turn| connection.start(turn));
            }
        }
    }

    fn open(&mut self, index: usize) {
        let route = self.plan.draw_route(index);
        let settings = &self.settings;
        let resumes = self.resumption.start();
        let config = if settings.no_resumption {
            Arc::clone(&self.base)
        } else {
            let new = || Configs::new(&self.base, settings.session_ids);
            self.configs.entry(route).or_insert_with(new).choose(resumes)
        };
        self.shared.tally.connections += 1;
        let source = settings.sources.get(route.client).copied();
        let slot = &mut self.slots[index];
        slot.generation = slot.generation.wrapping_add(1);
        let token = u64::from(slot.generation) << 32 | index as u64;
        let opened = Connection::open(
            &mut self.transport,
            token,
            self.plan.target(route),
            route,
            source,
            config,
            resumes,
        );
        match opened {
            Ok(connection) => {
                slot.connection = Some(connection);
                self.live += 1;
                self.opening += 1;
            }
            Err(fault) => {
                self.resumption.end(resumes, None);
                self.is_refused = true;
                self.failed.push(index);
                self.fault(&fault);
            }
        }
    }

    fn turn(&mut self, index: usize, is_hung_up: bool) {
        self.proceed(index, |connection, turn| connection.turn(is_hung_up, turn));
    }

    /// Lets a connection go on, and takes note of what became of it.
    fn proceed(
        &mut self,
        index: usize,
        go: impl FnOnce(&mut Connection<T>, &mut Turn<'_, T>) -> Result<Next, Fault>,
    ) {
        let is_ending = self.is_ending();
        let slot = &mut self.slots[index];
        let Some(connection) = &mut slot.connection else { return };
        let was_open = connection.is_open();
        let bounds = &self.settings.bounds;
        let (transport, plan, shared) = (&mut self.transport, &mut self.plan, &mut self.shared);
        let mut turn = Turn { transport, plan, shared, bounds, is_ending };
        let outcome = go(connection, &mut turn);
        if !was_open
            && connection.is_open()
            && let Some((meant, outcome)) = connection.take_handshake()
        {
            self.resumption.end(meant, outcome);
            self.opening -= 1;
            self.is_refused = false;
        }
        match outcome {
            Ok(Next::Wait) => {
                if let Some(at) = connection.take_pause() {
                    self.thinking.push(Reverse((at, index, slot.generation)));
                }
                if self.plan.is_open_loop() && !slot.is_idle && connection.has_room(bounds) {
                    slot.is_idle = true;
                    let idle = &mut self.idle[self.plan.line(connection.route())];
                    if idle.slots.is_empty() {
                        idle.since = Instant::now();
                    }
                    idle.slots.push_back(index);
                    self.idle_slots += 1;
                }
            }
            Ok(Next::Again) => self.again.push_back(index),
            Ok(Next::Done) => {
                self.drop(index);
                self.missing.push_back(index);
            }
            Err(fault) => {
                self.drop(index);
                self.failed.push(index);
                self.fault(&fault);
            }
        }
    }

    /// Closes a connection; the slot is the caller's to put where it belongs.
    fn drop(&mut self, index: usize) {
        let Some(mut connection) = self.slots[index].connection.take() else { return };
        if let Some((meant, _)) = connection.take_handshake() {
            self.resumption.end(meant, None);
            self.opening -= 1;
            self.is_refused = true;
        }
        connection.close(&mut self.transport, &mut self.shared);
        self.live -= 1;
    }

    fn fault(&mut self, fault: &Fault) {
        // What fails in the warm-up is not measured, but the first fault is told.
        if self.now >= self.settings.bounds.measured_from {
            self.shared.tally.error(fault.kind, fault);
        } else {
            self.shared.tally.first_error.get_or_insert_with(|| format!("in the warm-up: {fault}"));
        }
    }
}
