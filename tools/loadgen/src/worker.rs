//! One thread's loop: events in, turns of connections out, lost connections opened again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};
use rustls::ClientConfig;

use crate::connection::{Bounds, Connection, Fault, Next, Turn};
use crate::plan::Plan;
use crate::report::{ErrorKind, Tally};
use crate::target::Target;

/// Events taken from the kernel at once.
const EVENTS: usize = 256;
/// Decrypted bytes taken from TLS at once.
const SCRATCH_BYTES: usize = 64 * 1024;
/// Between looks at time-outs and at connections to be opened again.
const TICK: Duration = Duration::from_millis(20);
/// How long before a request's moment the thread polls without waiting: epoll waits in whole milliseconds.
const SPIN: Duration = Duration::from_millis(1);

/// What one thread is to do.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Connections kept open.
    pub connections: usize,
    /// Requests under way on each.
    pub pipeline: usize,
    /// Requests on each before it is closed; 0: no end.
    pub requests_per_connection: u64,
    /// Requests between key updates; 0: none.
    pub key_update_every: u64,
    /// When no more requests are started.
    pub deadline: Option<Instant>,
    /// What was meant to be sent before is not measured.
    pub measured_from: Instant,
    /// Longest wait for one reply.
    pub timeout: Duration,
    /// Core to run on.
    pub core: Option<usize>,
}

/// One thread's connections and counts.
pub struct Worker {
    settings: Settings,
    plan: Plan,
    target: Arc<Target>,
    config: Arc<ClientConfig>,
    stop: Arc<AtomicBool>,
    poll: Poll,
    /// Slot i has token i; an empty slot is opened again at the next tick.
    connections: Vec<Option<Connection>>,
    /// Connections with more to read.
    again: VecDeque<usize>,
    /// Open loop: connections that may have room for a request, longest idle first, each at most once.
    idle: VecDeque<usize>,
    is_idle: Vec<bool>,
    scratch: Vec<u8>,
    tally: Tally,
    now: Instant,
}

impl Worker {
    /// A worker that has not started.
    ///
    /// # Errors
    /// When the kernel has no poll set left.
    pub fn new(
        settings: Settings,
        plan: Plan,
        target: Arc<Target>,
        config: Arc<ClientConfig>,
        stop: Arc<AtomicBool>,
    ) -> io::Result<Worker> {
        Ok(Worker {
            settings,
            plan,
            target,
            config,
            stop,
            poll: Poll::new()?,
            connections: (0..settings.connections).map(|_| None).collect(),
            again: VecDeque::with_capacity(settings.connections),
            idle: VecDeque::with_capacity(settings.connections),
            is_idle: vec![false; settings.connections],
            scratch: vec![0; SCRATCH_BYTES],
            tally: Tally::new(),
            now: Instant::now(),
        })
    }

    /// Runs to the end of the load: no more requests to start, and none under way.
    ///
    /// # Errors
    /// When polling itself fails.
    pub fn run(&mut self) -> io::Result<Tally> {
        if let Some(core) = self.settings.core {
            core_affinity::set_for_current(core_affinity::CoreId { id: core });
        }
        let mut events = Events::with_capacity(EVENTS);
        let mut next_tick = Instant::now();
        loop {
            self.now = Instant::now();
            if self.now >= next_tick {
                self.tick();
                next_tick = self.now + TICK;
            }
            if self.is_ending() && self.connections.iter().all(Option::is_none) {
                self.tally.unsent += self.plan.drop_overdue(self.now);
                return Ok(self.tally.clone());
            }
            self.start_due();
            let wait = if self.again.is_empty() { self.wait(next_tick) } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            for _ in 0..self.again.len() {
                let Some(index) = self.again.pop_front() else { break };
                self.turn(index);
            }
            for event in &events {
                self.turn(event.token().0);
            }
        }
    }

    /// Hands requests that are due to connections that have room.
    fn start_due(&mut self) {
        if !self.plan.is_open_loop() || self.is_ending() {
            return;
        }
        while self.plan.is_due(self.now) {
            let Some(index) = self.idle.pop_front() else { return };
            self.is_idle[index] = false;
            if self.connections[index].as_ref().is_some_and(Connection::has_room) {
                self.turn(index);
            }
        }
    }

    /// How long to wait for events: to the next tick, or to shortly before the next request's moment when there
    /// is a connection to carry it.
    fn wait(&self, next_tick: Instant) -> Duration {
        let wait = next_tick.saturating_duration_since(self.now);
        match self.plan.next_at() {
            Some(next) if !self.idle.is_empty() && !self.is_ending() => {
                let until = next.saturating_duration_since(self.now).saturating_sub(SPIN);
                wait.min(Duration::from_millis(u64::try_from(until.as_millis()).unwrap_or(u64::MAX)))
            }
            _ => wait,
        }
    }

    /// No request is started any more.
    fn is_ending(&self) -> bool {
        self.plan.is_done()
            || self.settings.deadline.is_some_and(|deadline| self.now >= deadline + self.grace())
            || self.stop.load(Ordering::Relaxed)
    }

    /// What was due in an open loop is still sent after the deadline, or the slowest requests would be left out.
    fn grace(&self) -> Duration {
        if self.plan.is_open_loop() { self.settings.timeout } else { Duration::ZERO }
    }

    /// Opens connections that are missing, ends those that take too long and, at the end, those with nothing
    /// under way.
    fn tick(&mut self) {
        for index in 0..self.connections.len() {
            match &self.connections[index] {
                None if !self.is_ending() => self.open(index),
                None => {}
                Some(connection) if connection.is_overdue(self.now) => {
                    self.connections[index] = None;
                    self.tally.error(ErrorKind::Timeout, &"no whole reply in time");
                }
                Some(_) if self.is_ending() => self.turn(index),
                Some(_) => {}
            }
        }
    }

    fn open(&mut self, index: usize) {
        let bounds = Bounds {
            pipeline: self.settings.pipeline,
            requests_max: self.settings.requests_per_connection,
            key_update_every: self.settings.key_update_every,
            timeout: self.settings.timeout,
        };
        self.tally.connections += 1;
        let opened =
            Connection::open(&self.target, &self.config, bounds, self.now).and_then(|mut connection| {
                connection.register(self.poll.registry(), Token(index)).map_err(Fault::connect)?;
                Ok(connection)
            });
        match opened {
            Ok(connection) => self.connections[index] = Some(connection),
            Err(fault) => self.tally.error(fault.kind, &fault),
        }
    }

    fn turn(&mut self, index: usize) {
        let is_ending = self.is_ending();
        let Some(connection) = &mut self.connections[index] else { return };
        let mut turn = Turn {
            plan: &mut self.plan,
            tally: &mut self.tally,
            scratch: &mut self.scratch,
            is_ending,
            measured_from: self.settings.measured_from,
        };
        match connection.turn(&mut turn) {
            Ok(Next::Wait) => {
                if self.plan.is_open_loop() && connection.has_room() && !self.is_idle[index] {
                    self.is_idle[index] = true;
                    self.idle.push_back(index);
                }
            }
            Ok(Next::Again) => self.again.push_back(index),
            Ok(Next::Done) => {
                self.connections[index] = None;
                // A connection that was used up makes room at once; a failed one waits for the next tick, so
                // that a server that is gone is not stormed.
                if !is_ending {
                    self.open(index);
                }
            }
            Err(fault) => {
                self.connections[index] = None;
                self.tally.error(fault.kind, &fault);
            }
        }
    }
}
