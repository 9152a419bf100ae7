//! What is told of requests: an entry for each that is sampled, and for each that was slow.
//!
//! In: the moments a request passes, each at the time its turn has read. Out: entries of fixed size into a bounded queue, which
//! the thread that writes logs empties. Where it is late an entry is dropped and counted, and where every trace is in use a
//! request is not followed. Owned by the worker; while nothing is told it costs a look at each request.
//!
//! A connection has one request traced at a time: where the next one comes before the reply of the last is acknowledged, the
//! last one's entry says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use crossbeam_queue::ArrayQueue;
use fastrand::Rng;
use keyferry_app::App;
use keyferry_decide::NodeId;
use keyferry_http::Request;
use keyferry_nic::Nic;
use keyferry_tcp::ConnId;
use keyferry_time::Time;
use keyferry_tls::Suite;

use crate::conn::{Conn, Tls};
use crate::turn::Worker;

/// Entries of one worker that wait to be written, at most.
pub const ENTRIES_MAX: usize = 4096;

/// Requests of one worker that are followed at a time, at most.
pub const TRACES_MAX: usize = 8192;
const _: () = assert!(TRACES_MAX < u16::MAX as usize - 1, "a connection remembers its trace in 16 bits");

/// Bytes that are told of a path; what is longer is cut.
pub const PATH_BYTES_MAX: usize = 256;

/// Bytes that are told of a method.
pub const METHOD_BYTES_MAX: usize = 16;

/// A part of all requests, in steps of 2^-32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// None of them.
    pub const NONE: Share = Share(0);

    /// This part of them, from 0 to 1; what is above 0 is at least one in 2^32.
    pub fn of(part: f64) -> Share {
        const ALL: f64 = (1u64 << 32) as f64;
        Share((part.clamp(0.0, 1.0) * ALL).ceil() as u64)
    }
}

/// Which requests are told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// So many of all, drawn at random.
    pub sampled: Share,
    /// All that took longer.
    pub slow_over: Option<Duration>,
}

/// What is told of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When it was over.
    pub ended: Time,
    /// The worker's number.
    pub worker: usize,
    /// Its connection's place there, and how many had it before: no other has both.
    pub connection: [u32; 2],
    /// Whose it is.
    pub client: SocketAddr,
    /// The method as it came.
    pub method: ArrayVec<u8, METHOD_BYTES_MAX>,
    /// The path as it came, without the query; of a request that could not be read what stood in its place.
    pub path: ArrayVec<u8, PATH_BYTES_MAX>,
    /// The path was longer.
    pub is_cut: bool,
    /// The status of the reply; `None`: it was not told one.
    pub status: Option<u16>,
    /// The reply was sealed whole.
    pub is_whole: bool,
    /// The client has acknowledged all of it.
    pub is_acknowledged: bool,
    /// Bytes of its records.
    pub bytes: u64,
    /// The suite, and with it the version; `None`: plain HTTP.
    pub suite: Option<Suite>,
    /// The connection's handshake was resumed.
    pub resumed: bool,
    /// The node that made the reply, if that was another.
    pub helper: Option<NodeId>,
    /// What each stage took.
    pub stages: Stages,
    /// What the application worked on it, where it ran here.
    pub service: Option<Duration>,
    /// It was drawn.
    pub is_sampled: bool,
    /// It took too long.
    pub is_slow: bool,
}

/// What each stage took; together they are the whole time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stages {
    /// First byte of the request to its last.
    pub receive: Duration,
    /// Until the first part of its reply was there, here or at the helper: what waited for the application, and what it took.
    pub application: Duration,
    /// Until the last record was sealed: of a long reply the rest of the application's time is in it, and the client's.
    pub seal: Duration,
    /// Until the client had acknowledged the last one.
    pub transmit: Duration,
}

impl Stages {
    /// All of them.
    pub fn total(&self) -> Duration {
        self.receive + self.application + self.seal + self.transmit
    }
}

/// Where a request that is followed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Receive,
    Application,
    Seal,
    Transmit,
}

/// A request that is followed.
struct Trace {
    entry: Entry,
    stage: Stage,
    /// When that stage began.
    since: Time,
}

impl Trace {
    /// Ends the stage it is in.
    fn enter(&mut self, next: Stage, now: Time) {
        let took = now - self.since;
        let stages = &mut self.entry.stages;
        match self.stage {
            Stage::Receive => stages.receive += took,
            Stage::Application => stages.application += took,
            Stage::Seal => stages.seal += took,
            Stage::Transmit => stages.transmit += took,
        }
        (self.stage, self.since) = (next, now);
    }
}

/// A connection's trace: none, or its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceId(u16);

impl TraceId {
    /// That of a request being received that is not followed: it is not drawn again.
    const PASSED: TraceId = TraceId(u16::MAX);

    fn of(place: usize) -> TraceId {
        TraceId(place as u16 + 1)
    }

    fn place(self) -> Option<usize> {
        usize::from(self.0).checked_sub(1)
    }
}

/// The traces of a worker, and where entries go.
pub struct Access {
    rules: Rules,
    queue: Option<Arc<ArrayQueue<Entry>>>,
    traces: Vec<Option<Trace>>,
    free: Vec<u16>,
    draws: Rng,
}

impl Access {
    /// Tells nothing.
    pub(crate) fn off() -> Access {
        Access {
            rules: Rules::default(),
            queue: None,
            traces: Vec::new(),
            free: Vec::new(),
            draws: Rng::with_seed(0),
        }
    }

    /// Tells `queue` of what `rules` pick of at most so many connections. The same `seed` draws the same.
    pub fn new(queue: Arc<ArrayQueue<Entry>>, rules: Rules, connections: u32, seed: u64) -> Access {
        let traces = TRACES_MAX.min(connections as usize);
        Access {
            rules,
            queue: Some(queue),
            traces: (0..traces).map(|_| None).collect(),
            free: (0..traces as u16).rev().collect(),
            draws: Rng::with_seed(seed),
        }
    }

    /// Goes by other rules from the next request on; what tells nothing goes on to.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        if self.queue.is_some() {
            self.rules = rules;
        }
    }

    /// Nothing is told, whatever the rules say.
    fn is_off(&self) -> bool {
        self.queue.is_none()
    }

    /// Whether this request is drawn.
    fn draw(&mut self) -> bool {
        self.rules.sampled != Share::NONE && u64::from(self.draws.u32(..)) < self.rules.sampled.0
    }

    fn get(&mut self, id: TraceId) -> Option<&mut Trace> {
        self.traces.get_mut(id.place()?)?.as_mut()
    }

    fn begin(&mut self, trace: Trace) -> Option<TraceId> {
        let place = usize::from(self.free.pop()?);
        self.traces[place] = Some(trace);
        Some(TraceId::of(place))
    }

    /// Ends a trace. `Err`: its entry was to be told, and the queue is full; `Ok`: whether it was told.
    fn end(&mut self, id: TraceId, now: Time, is_acknowledged: bool) -> Result<bool, ()> {
        let Some(place) = id.place() else { return Ok(false) };
        let Some(mut trace) = self.traces.get_mut(place).and_then(Option::take) else { return Ok(false) };
        self.free.push(place as u16);
        if trace.stage == Stage::Receive {
            // It never came to be a request.
            return Ok(false);
        }
        trace.enter(trace.stage, now);
        let mut entry = trace.entry;
        (entry.ended, entry.is_acknowledged) = (now, is_acknowledged);
        entry.is_slow = self.rules.slow_over.is_some_and(|over| entry.stages.total() > over);
        match &self.queue {
            Some(queue) if entry.is_sampled || entry.is_slow => {
                queue.push(entry).map(|()| true).map_err(|_| ())
            }
            _ => Ok(false),
        }
    }
}

/// As much as fits; whether that is less than all.
fn cut<const N: usize>(bytes: &[u8]) -> (ArrayVec<u8, N>, bool) {
    let fits = &bytes[..bytes.len().min(N)];
    (fits.iter().copied().collect(), fits.len() < bytes.len())
}

impl<N: Nic, A: App> Worker<N, A> {
    /// The first byte of a request has come: it is followed from here on if it is drawn, or if it may come to be slow.
    pub(crate) fn trace_first(&mut self, index: usize) {
        if self.access.is_off() {
            return;
        }
        // The client has gone on before it acknowledged the last reply.
        self.tell(index, false);
        let is_sampled = self.access.draw();
        let Some(conn) = self.conns[index].as_mut() else { return };
        conn.trace = TraceId::PASSED;
        if !is_sampled && self.access.rules.slow_over.is_none() {
            return;
        }
        let suite = match &conn.tls {
            Tls::Open(session) => Some(session.sealer.suite()),
            Tls::None | Tls::Silent | Tls::Handshake(_) | Tls::Over => None,
        };
        let entry = Entry {
            ended: self.now,
            worker: self.config.place.number,
            connection: [index as u32, conn.id.generation()],
            client: self.tcp.peer(conn.id),
            method: ArrayVec::new(),
            path: ArrayVec::new(),
            is_cut: false,
            status: None,
            is_whole: false,
            is_acknowledged: false,
            bytes: 0,
            suite,
            resumed: conn.resumed,
            helper: None,
            stages: Stages::default(),
            service: None,
            is_sampled,
            is_slow: false,
        };
        match self.access.begin(Trace { entry, stage: Stage::Receive, since: self.now }) {
            Some(id) => conn.trace = id,
            None => self.counters.log_untraced += 1,
        }
    }

    /// A request is whole, or is answered though it is not. One that has come in one turn begins here.
    pub(crate) fn trace_whole(&mut self, index: usize) {
        if self.access.is_off() {
            return;
        }
        let is_passed = self.conns[index].as_ref().is_some_and(|conn| conn.trace == TraceId::PASSED);
        if !is_passed && self.trace_of(index).is_none_or(|trace| trace.stage != Stage::Receive) {
            self.trace_first(index);
        }
        let Some(conn) = self.conns[index].as_mut() else { return };
        if conn.trace == TraceId::PASSED {
            conn.trace = TraceId::default();
            return;
        }
        let Some(trace) = self.access.get(conn.trace) else { return };
        trace.enter(Stage::Application, self.now);
        if let Some((method, path)) = conn.request.as_deref().map(Request::request_line) {
            (trace.entry.method, _) = cut(method);
            (trace.entry.path, trace.entry.is_cut) = cut(path);
        }
    }

    /// The trace of a connection's request, if it has one.
    fn trace_of(&mut self, index: usize) -> Option<&mut Trace> {
        if self.access.is_off() {
            return None;
        }
        let id = self.conns[index].as_ref()?.trace;
        self.access.get(id)
    }

    /// The first part of a reply is there.
    pub(crate) fn trace_reply(&mut self, index: usize) {
        let now = self.now;
        if let Some(trace) = self.trace_of(index).filter(|trace| trace.stage == Stage::Application) {
            trace.enter(Stage::Seal, now);
        }
    }

    /// The application here is done with it.
    pub(crate) fn trace_served(&mut self, index: usize, status: u16, service_ns: u64) {
        if let Some(trace) = self.trace_of(index) {
            trace.entry.status = Some(status);
            trace.entry.service = Some(Duration::from_nanos(service_ns));
        }
    }

    /// It runs there, or here after all.
    pub(crate) fn trace_helper(&mut self, index: usize, helper: Option<NodeId>) {
        let now = self.now;
        if let Some(trace) = self.trace_of(index) {
            trace.enter(Stage::Application, now);
            trace.entry.helper = helper;
        }
    }

    /// A record goes out to its client.
    pub(crate) fn trace_record(&mut self, index: usize, bytes: usize) {
        if let Some(trace) = self.trace_of(index).filter(|trace| trace.stage != Stage::Transmit) {
            trace.entry.bytes += bytes as u64;
        }
    }

    /// The last record of its reply is sealed. `status`: where nobody has said before.
    pub(crate) fn trace_sealed(&mut self, index: usize, status: Option<u16>) {
        let now = self.now;
        if let Some(trace) = self.trace_of(index) {
            if trace.stage == Stage::Application {
                trace.enter(Stage::Seal, now);
            }
            trace.enter(Stage::Transmit, now);
            trace.entry.status = status.or(trace.entry.status);
            trace.entry.is_whole = true;
        }
    }

    /// The client has acknowledged something: perhaps the end of its reply.
    pub(crate) fn trace_acknowledged(&mut self, id: ConnId) {
        let index = id.index();
        if self.trace_of(index).is_none_or(|trace| trace.stage != Stage::Transmit) {
            return;
        }
        let is_sent = |conn: &Conn| conn.id == id && conn.backlog.is_empty();
        if self.conns[index].as_ref().is_some_and(is_sent) && self.tcp.is_acknowledged(id) {
            self.tell(index, true);
        }
    }

    /// Ends the trace of a connection, if it has one, and tells what is to be told of it.
    pub(crate) fn tell(&mut self, index: usize, is_acknowledged: bool) {
        if self.access.is_off() {
            return;
        }
        let Some(conn) = self.conns[index].as_mut() else { return };
        let id = std::mem::take(&mut conn.trace);
        match self.access.end(id, self.now, is_acknowledged) {
            Ok(told) => self.counters.log_entries += u64::from(told),
            Err(()) => self.counters.log_dropped += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_drawn_as_often_as_it_says() {
        for (part, least, most) in
            [(0.0, 0, 0), (0.01, 900, 1100), (0.5, 49_500, 50_500), (1.0, 100_000, 100_000)]
        {
            let rules = Rules { sampled: Share::of(part), slow_over: None };
            let mut access = Access::new(Arc::new(ArrayQueue::new(1)), rules, 8, 7);
            let drawn = (0..100_000).filter(|_| access.draw()).count();
            assert!((least..=most).contains(&drawn), "{part}: {drawn}");
        }
        assert_ne!(Share::of(f64::MIN_POSITIVE), Share::NONE, "little is not none");
    }

    #[test]
    fn what_is_longer_is_cut() {
        let fits = ArrayVec::from(*b"abcd");
        assert_eq!(cut::<4>(b"abcd"), (fits.clone(), false));
        assert_eq!(cut::<4>(b"abcde"), (fits, true));
        assert_eq!(cut::<4>(b""), (ArrayVec::new(), false));
    }
}
