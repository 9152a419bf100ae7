//! The seam itself: the traits a worker implements, the events it gets, and the calls it makes on connections.
//!
//! In: calls by [`ConnId`]. Out: events, received bytes, released segments. `ingress` and `egress` hold the
//! packet paths. Owned by a worker.

use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use arrayvec::ArrayVec;
use keyferry_time::{Time, Wheel};

use crate::config::{Config, PACING_TICK, Times, Tuning};
use crate::connection::{Connection, Pending, Shared, Stage, nanoseconds};
use crate::cookies::Cookies;
use crate::counters::{CloseReason, Counters};
use crate::flow::FlowTable;
use crate::half_open::HalfOpens;
use crate::list::List;
use crate::outbound::Outbound;
use crate::slab::{MemoryHint, Slab, no_hint};
use crate::time_wait::TimeWait;

/// Bytes to send, owned by TCP from [`Tcp::send`] to [`Tcp::released`]: until the peer has acknowledged them, for what is
/// lost is sent again from the same memory, or from what was [put in its place](Tcp::replace).
pub trait Segment {
    /// Bytes of the segment; must not change.
    fn len(&self) -> usize;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies `to.len()` bytes from offset `at`, which are within the segment.
    fn copy_to(&self, at: usize, to: &mut [u8]);
    /// All its bytes, if nobody else can write them: those of memory where another node can are only ever copied out.
    fn bytes(&self) -> Option<&[u8]> {
        None
    }
}

/// Where packets go.
pub trait Egress<S> {
    /// Whether a packet can be taken now.
    fn room(&mut self) -> bool;
    /// Takes one IP packet; called only after [`room`](Egress::room) said yes. Its payload is copied before the call returns,
    /// or its segments are not given back to whoever fills them again before the port is done with them, even if TCP
    /// has [`released`](Tcp::released) them.
    fn packet(&mut self, packet: &Outbound<'_, S>);
}

/// A connection's name: an index for side tables, and a generation, so that a name never comes to mean another
/// connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnId {
    index: u32,
    generation: u32,
}

impl ConnId {
    /// Its place in a table of [`Config::connections`] entries; used again after its `Closed`.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// How often the index was used before.
    pub fn generation(self) -> u32 {
        self.generation
    }
}

/// What happened to a connection. After [`Tcp::close`] or [`Tcp::abort`] only `Closed` follows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// The handshake is complete. First event of each connection, but of one we began that the peer does not take.
    Opened(ConnId),
    /// Bytes have arrived since this was last said; what is left unread is not mentioned again.
    Readable(ConnId),
    /// [`Tcp::send`] was refused and would be taken now.
    Writable(ConnId),
    /// The peer sends no more; all it sent is readable.
    Eof(ConnId),
    /// Last event: the name is dead, its segments were all collected from [`Tcp::released`].
    Closed(ConnId, CloseReason),
}

pub(crate) struct Slot<S> {
    generation: u32,
    pub(crate) connection: Option<Connection<S>>,
}

impl<S> Default for Slot<S> {
    fn default() -> Slot<S> {
        Slot { generation: 0, connection: None }
    }
}

/// TCP of one worker.
pub struct Tcp<S> {
    pub(crate) shared: Shared<S>,
    pub(crate) slots: Slab<Slot<S>>,
    pub(crate) free: Vec<u32>,
    pub(crate) flows: FlowTable,
    pub(crate) half_open: HalfOpens,
    /// Connections that may have something to send or whose timer may have changed.
    pub(crate) dirty: List,
    /// Connections with pending events.
    pub(crate) ready: List,
    /// Connections with segments to collect.
    pub(crate) releasing: List,
    /// Connections whose buffer holds bytes out of order only.
    pub(crate) holes: List,
    pub(crate) wheel: Wheel,
    pub(crate) due: Vec<u32>,
    /// Told of memory that is going to be read soon.
    pub(crate) ahead: fn(*const u8),
    pub(crate) time_wait: TimeWait,
    pub(crate) cookies: Cookies,
    /// Connections whose handshake is complete and that nobody was told of.
    pub(crate) unnoticed: u32,
}

impl<S: Segment> Tcp<S> {
    /// TCP without connections. Memory for tables is taken here; each connection's buffers when bytes come.
    pub fn new(config: Config) -> Tcp<S> {
        Tcp::tuned(config, Tuning::default())
    }

    /// The same, its use of a path set out.
    pub fn tuned(config: Config, tuning: Tuning) -> Tcp<S> {
        let connections = config.connections;
        Tcp {
            slots: Slab::new(connections, no_hint),
            free: (0..connections).rev().collect(),
            flows: FlowTable::new(connections, no_hint),
            half_open: HalfOpens::new(&config),
            dirty: List::new(connections, no_hint),
            ready: List::new(connections, no_hint),
            releasing: List::new(connections, no_hint),
            holes: List::new(connections, no_hint),
            wheel: Wheel::new(connections, PACING_TICK),
            due: Vec::with_capacity(connections.max(config.half_open) as usize),
            ahead: |_| (),
            time_wait: TimeWait::new(tuning.time_wait.unwrap_or(connections)),
            cookies: Cookies::default(),
            unnoticed: 0,
            shared: Shared::new(config, tuning),
        }
    }

    /// Tells `hint` of the memory that connections, and what each packet looks up of them, are going to be in, and from here
    /// on `ahead` of what a timer is about to read. To be called before there is a connection.
    pub fn hint_memory(&mut self, hint: MemoryHint, ahead: fn(*const u8)) {
        self.ahead = ahead;
        let connections = self.shared.config.connections;
        self.slots = Slab::new(connections, hint);
        self.flows = FlowTable::new(connections, hint);
        for list in [&mut self.dirty, &mut self.ready, &mut self.releasing, &mut self.holes] {
            *list = List::new(connections, hint);
        }
        self.wheel = Wheel::hinted(connections, PACING_TICK, hint);
    }

    /// The next event, oldest connection first; one connection's events come in the order of [`Event`].
    pub fn poll_event(&mut self) -> Option<Event> {
        while let Some(index) = self.ready.front() {
            let id = self.id(index);
            let Some(connection) = self.slots[index as usize].connection.as_mut() else {
                self.ready.remove(index);
                continue;
            };
            let Some(event) = connection.pending.first() else {
                self.ready.remove(index);
                continue;
            };
            if event == Pending::CLOSED {
                self.ready.remove(index);
                // Comes back when the last segment has been collected.
                if connection.sending.is_none()
                    && let Stage::Dead(reason) = connection.stage
                {
                    self.release_slot(index);
                    return Some(Event::Closed(id, reason));
                }
                continue;
            }
            connection.pending.remove(event);
            return Some(match event {
                Pending::OPENED => {
                    self.unnoticed -= u32::from(connection.passive);
                    Event::Opened(id)
                }
                // Read in the meantime.
                Pending::READABLE if connection.receive.unread() == 0 => continue,
                Pending::READABLE => Event::Readable(id),
                Pending::WRITABLE => Event::Writable(id),
                _ => Event::Eof(id),
            });
        }
        None
    }

    /// Lends the next contiguous received bytes to `f`, which may change them and answers how many it consumed.
    /// `None`, and no call of `f`, if there are none, or the connection is dead or closed by us. More may follow
    /// behind the end of the buffer: call until `None` or until bytes are left unconsumed.
    pub fn receive<R>(&mut self, id: ConnId, f: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        let (connection, shared) = self.open_mut(id)?;
        let bytes = connection.receive.readable()?;
        let lent = bytes.len();
        let (consumed, result) = f(bytes);
        let consumed = consumed.min(lent);
        if consumed > 0 {
            let rtt_ns = connection.rtt.smoothed_ns();
            connection.receive.consume(shared.now, consumed as u32, rtt_ns, &mut shared.buffers);
            // The window may open.
            self.dirty.push_back(id.index);
        }
        Some(result)
    }

    /// Bytes received and not consumed yet; 0 for a dead connection.
    pub fn readable(&self, id: ConnId) -> usize {
        self.open(id).map_or(0, |connection| connection.receive.unread() as usize)
    }

    /// Queues a segment behind those queued before.
    ///
    /// # Errors
    /// Gives it back when [`SEGMENTS_MAX`](crate::SEGMENTS_MAX) are queued or wait in [`released`](Tcp::released), or
    /// more than the connection's window has grown to need (`Writable` follows), and when the connection is dead or
    /// closed by us (nothing follows but `Closed`).
    pub fn send(&mut self, id: ConnId, segment: S) -> Result<(), S> {
        let Some((connection, shared)) = self.open_mut(id) else {
            return Err(segment);
        };
        if !connection.takes(shared) {
            connection.refused = true;
            return Err(segment);
        }
        let bytes = segment.len();
        let reordering = connection.reordering;
        let sending = connection.sending.get_or_insert_with(|| shared.take_sending(reordering));
        if connection.una == connection.end {
            connection.waiting = shared.now;
        }
        sending.push(segment, connection.end);
        connection.end += bytes as u32;
        connection.queued += bytes;
        shared.queued += bytes;
        connection.touched = true;
        // One without bytes is done with once all before it is.
        if sending.acknowledge(connection.una) {
            self.releasing.push_back(id.index);
        }
        self.dirty.push_back(id.index);
        Ok(())
    }

    /// Whether all that is queued may go out now, so that what is made next is sent while it is in the processor's cache. If
    /// not, `Writable` follows when it may.
    pub fn is_hungry(&mut self, id: ConnId) -> bool {
        let Some((connection, _)) = self.open_mut(id) else { return true };
        connection.sated = !connection.is_hungry();
        !connection.sated
    }

    /// Bytes of queued segments beyond what may be under way.
    pub fn unsent(&self, id: ConnId) -> usize {
        self.alive(id).map_or(0, |connection| connection.unsent(&self.shared))
    }

    /// Bytes of queued segments that are not acknowledged: the memory of the caller that the peer keeps.
    pub fn unacknowledged(&self, id: ConnId) -> usize {
        self.alive(id).map_or(0, |connection| connection.queued)
    }

    /// Whether the peer has acknowledged everything that was queued: not where the connection ended before.
    pub fn is_acknowledged(&self, id: ConnId) -> bool {
        self.alive(id).is_some_and(|connection| {
            let is_whole = match connection.stage {
                Stage::Dead(reason) => reason == CloseReason::Finished,
                Stage::Aborting(_) => false,
                Stage::Connecting | Stage::Open | Stage::Closing => true,
            };
            is_whole && connection.queued == 0
        })
    }

    /// Whether `bytes` may be under way at once beside what is queued already, or nothing is.
    pub fn has_room(&self, id: ConnId, bytes: usize) -> bool {
        self.alive(id).is_some_and(|connection| {
            connection.queued == 0 || connection.queued + bytes <= self.shared.config.send_bytes
        })
    }

    /// A segment that TCP no longer needs: acknowledged whole, or its connection has ended.
    pub fn released(&mut self) -> Option<(ConnId, S)> {
        while let Some(index) = self.releasing.front() {
            let id = self.id(index);
            let Some(connection) = self.slots[index as usize].connection.as_mut() else {
                self.releasing.remove(index);
                continue;
            };
            let Some(segment) = connection.sending.as_mut().and_then(|sending| sending.collect()) else {
                self.releasing.remove(index);
                continue;
            };
            if connection.done() == 0 {
                self.releasing.remove(index);
            }
            connection.rest(&mut self.shared);
            connection.note_room(&self.shared);
            if connection.pending != Pending::default() {
                self.ready.push_back(index);
            }
            return Some((id, segment));
        }
        None
    }

    /// Shows each queued segment that the peer has not acknowledged whole to `f`, in the order they were sent, until it breaks
    /// off. `f` may put another segment with the same bytes in its place, and has the old one back as from
    /// [`released`](Tcp::released): what is sent again is then read from the new one. Nothing of a connection that has ended.
    ///
    /// # Panics
    /// If one is of another length: a mistake of the caller.
    pub fn replace(&mut self, id: ConnId, f: impl FnMut(&mut S) -> ControlFlow<()>) {
        let slot = self.slots.get_mut(id.index()).filter(|slot| slot.generation == id.generation);
        if let Some(sending) = slot.and_then(|slot| slot.connection.as_mut()?.sending.as_mut()) {
            sending.replace(f);
        }
    }

    /// Closes: FIN follows once everything queued is out; what the peer still sends is discarded.
    pub fn close(&mut self, id: ConnId) {
        let Some((connection, shared)) = self.open_mut(id) else {
            return;
        };
        connection.stage = Stage::Closing;
        connection.pending.remove(Pending::READABLE | Pending::WRITABLE | Pending::EOF);
        connection.touched = true;
        // The FIN is sent and acknowledged as data is.
        let reordering = connection.reordering;
        connection.sending.get_or_insert_with(|| shared.take_sending(reordering));
        let unread = connection.receive.unread();
        connection.receive.consume(shared.now, unread, u64::MAX, &mut shared.buffers);
        self.dirty.push_back(id.index);
    }

    /// Takes no new connections: a SYN is answered with RST. Handshakes under way go on.
    pub fn stop_listening(&mut self) {
        self.shared.config.ports.clear();
    }

    /// Whether everything sent is acknowledged, the FIN of [`close`](Tcp::close) included; so is that of a dead
    /// connection.
    pub fn is_sent(&self, id: ConnId) -> bool {
        self.alive(id).is_none_or(|connection| {
            matches!(connection.stage, Stage::Dead(_)) || connection.is_fin_acknowledged()
        })
    }

    /// Resets: queued segments are released at once, RST goes out with the next [`emit`](Tcp::emit). One that is not
    /// open yet is forgotten: its peer hears of it when it answers.
    pub fn abort(&mut self, id: ConnId) {
        match self.alive(id).map(|connection| connection.stage) {
            Some(Stage::Connecting) => self.die(id.index, CloseReason::Aborted),
            Some(Stage::Open | Stage::Closing) => self.abort_for(id.index, CloseReason::Aborted),
            _ => {}
        }
    }

    /// Replaces the idle time-out of one connection; `None` while a request is with the application, so that a
    /// silent client is not taken for a lost one. Data of ours that the peer does not acknowledge still counts
    /// against [`Config::idle_timeout`].
    pub fn set_idle_timeout(&mut self, id: ConnId, timeout: Option<Duration>) {
        if let Some((connection, _)) = self.open_mut(id) {
            connection.idle_ns = timeout.map_or(u64::MAX, nanoseconds);
            connection.touched = true;
            self.dirty.push_back(id.index);
        }
    }

    /// Other time-outs from now on: for connections that open, and for the others when something happens to them next. One set
    /// by [`set_idle_timeout`](Tcp::set_idle_timeout) stays.
    pub fn set_times(&mut self, times: Times) {
        let Times { half_open_timeout, idle_timeout, keep_alive, user_timeout } = times;
        self.half_open.set_timeout(half_open_timeout);
        let shared = &mut self.shared;
        (shared.config.half_open_timeout, shared.config.idle_timeout) = (half_open_timeout, idle_timeout);
        (shared.tuning.keep_alive, shared.tuning.user_timeout) = (keep_alive, user_timeout);
    }

    /// Our end.
    ///
    /// # Panics
    /// If the connection's `Closed` was given: a mistake of the caller.
    pub fn local(&self, id: ConnId) -> SocketAddr {
        self.alive(id).expect("a connection not closed yet").flow.local.into()
    }

    /// The peer's end.
    ///
    /// # Panics
    /// As [`local`](Tcp::local).
    pub fn peer(&self, id: ConnId) -> SocketAddr {
        self.alive(id).expect("a connection not closed yet").flow.peer.into()
    }

    /// Connections, those whose `Closed` is not collected included; half-open ones are none yet.
    pub fn connections(&self) -> usize {
        self.shared.config.connections as usize - self.free.len()
    }

    /// Counters since start.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// When [`emit`](Tcp::emit) or [`timers`](Tcp::timers) has something to do at the earliest;
    /// [`Time::ZERO`] for now.
    pub fn poll_at(&self) -> Option<Time> {
        if self.dirty.front().is_some() {
            return Some(Time::ZERO);
        }
        [self.wheel.next(), self.half_open.next_deadline()].into_iter().flatten().min()
    }

    pub(crate) fn id(&self, index: u32) -> ConnId {
        ConnId { index, generation: self.slots[index as usize].generation }
    }

    fn alive(&self, id: ConnId) -> Option<&Connection<S>> {
        let slot = self.slots.get(id.index())?;
        slot.connection.as_ref().filter(|_| slot.generation == id.generation)
    }

    fn open(&self, id: ConnId) -> Option<&Connection<S>> {
        self.alive(id).filter(|connection| connection.stage == Stage::Open)
    }

    fn open_mut(&mut self, id: ConnId) -> Option<(&mut Connection<S>, &mut Shared<S>)> {
        let slot = self.slots.get_mut(id.index())?;
        let connection = slot.connection.as_mut()?;
        let open = slot.generation == id.generation && connection.stage == Stage::Open;
        open.then_some((connection, &mut self.shared))
    }

    pub(crate) fn tell(&mut self, index: u32, event: u8) {
        if let Some(connection) = self.slots[index as usize].connection.as_mut() {
            connection.pending.add(event);
            self.ready.push_back(index);
        }
    }

    pub(crate) fn abort_for(&mut self, index: u32, reason: CloseReason) {
        self.let_go(index);
        if let Some(connection) = self.slots[index as usize].connection.as_mut() {
            connection.stage = Stage::Aborting(reason);
            self.dirty.push_back(index);
        }
    }

    /// Gives back all that a connection holds: nothing is read from it and nothing sent but a reset.
    fn let_go(&mut self, index: u32) {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        connection.pending.remove(Pending::READABLE | Pending::WRITABLE | Pending::EOF);
        connection.receive.discard(&mut self.shared.buffers);
        self.shared.queued -= std::mem::take(&mut connection.queued);
        if let Some(sending) = &mut connection.sending {
            sending.give_up();
        }
        if connection.done() > 0 {
            self.releasing.push_back(index);
        }
        connection.put_away(&mut self.shared);
        self.holes.remove(index);
    }

    /// Ends a connection: frees its flow and its memory, lets go of its segments.
    pub(crate) fn die(&mut self, index: u32, reason: CloseReason) {
        self.let_go(index);
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        self.flows.remove(connection.hash, index);
        self.wheel.cancel(index);
        self.dirty.remove(index);
        connection.armed = Time::NEVER;
        let was_open = connection.stage != Stage::Connecting;
        connection.stage = Stage::Dead(reason);
        self.shared.counters.closed[reason.index()] += u64::from(was_open);
        self.tell(index, Pending::CLOSED);
    }

    fn release_slot(&mut self, index: u32) {
        self.ready.remove(index);
        self.releasing.remove(index);
        let slot = &mut self.slots[index as usize];
        slot.connection = None;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
    }
}

/// Bytes of one's own, for tests and for callers without a pool.
impl Segment for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn copy_to(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self[at..at + to.len()]);
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
}

/// Short replies without the heap.
impl<const N: usize> Segment for ArrayVec<u8, N> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn copy_to(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self[at..at + to.len()]);
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }
}
