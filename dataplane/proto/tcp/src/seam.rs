//! The seam itself: the traits a worker implements, the events it gets, and the calls it makes on connections.
//!
//! In: calls by [`ConnId`]. Out: events, received bytes, released segments. `ingress` and `egress` hold the
//! packet paths. Owned by a worker.

use std::net::SocketAddr;
use std::time::Duration;

use arrayvec::ArrayVec;
use keyferry_time::{Time, Wheel};
use smoltcp::iface::Interface;
use smoltcp::phy::DeviceCapabilities;

use crate::config::{Config, TICK};
use crate::connection::{Connection, Pending, Queued, Stage};
use crate::counters::{CloseReason, Counters};
use crate::flow::{FlowTable, Secret};
use crate::half_open::HalfOpens;
use crate::list::List;
use crate::time_wait::TimeWait;
use crate::wire;

/// Bytes to send, owned by TCP from [`Tcp::send`] to [`Tcp::released`]. They may live where another node can
/// still write, so they are only ever copied out.
pub trait Segment {
    /// Bytes of the segment; must not change.
    fn len(&self) -> usize;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Copies `to.len()` bytes from offset `at`, which are within the segment.
    fn copy_to(&self, at: usize, to: &mut [u8]);
}

/// Where packets go.
pub trait Egress {
    /// Whether a packet can be taken now.
    fn room(&mut self) -> bool;
    /// Takes one IP packet of `len` bytes, written by `fill` into exactly that many; called only after
    /// [`room`](Egress::room) said yes. `tso_segment_bytes` is the payload of each segment the port is to cut
    /// it into, 0 if none. The caller frames and routes it by the bytes written.
    fn packet<R>(&mut self, len: usize, tso_segment_bytes: u16, fill: impl FnOnce(&mut [u8]) -> R) -> R;
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
    pub(crate) connection: Option<Box<Connection<S>>>,
}

/// TCP of one worker.
pub struct Tcp<S> {
    pub(crate) config: Config,
    pub(crate) caps: DeviceCapabilities,
    pub(crate) interface: Interface,
    pub(crate) secret: Secret,
    pub(crate) slots: Box<[Slot<S>]>,
    pub(crate) free: Vec<u32>,
    pub(crate) flows: FlowTable,
    pub(crate) half_open: HalfOpens,
    /// Connections that may have something to send or whose timer may have changed.
    pub(crate) dirty: List,
    /// Connections with pending events.
    ready: List,
    /// Connections with segments to collect.
    releasing: List,
    pub(crate) wheel: Wheel,
    pub(crate) due: Vec<u32>,
    pub(crate) time_wait: TimeWait,
    pub(crate) counters: Counters,
}

impl<S: Segment> Tcp<S> {
    /// TCP without connections. Memory for tables is taken here; each connection's buffers when it comes.
    pub fn new(config: Config) -> Tcp<S> {
        let connections = config.connections;
        let caps = wire::capabilities(&config);
        let slot = || Slot { generation: 0, connection: None };
        Tcp {
            interface: crate::ingress::interface(&caps, config.seed),
            secret: Secret::new(config.seed),
            slots: std::iter::repeat_with(slot).take(connections as usize).collect(),
            free: (0..connections).rev().collect(),
            flows: FlowTable::new(connections),
            half_open: HalfOpens::new(&config),
            dirty: List::new(connections),
            ready: List::new(connections),
            releasing: List::new(connections),
            wheel: Wheel::new(connections, TICK),
            due: Vec::with_capacity(connections.max(config.half_open) as usize),
            time_wait: TimeWait::new(connections),
            counters: Counters::default(),
            caps,
            config,
        }
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
                if connection.segments.is_empty()
                    && let Stage::Dead(reason) = connection.stage
                {
                    self.release_slot(index);
                    return Some(Event::Closed(id, reason));
                }
                continue;
            }
            connection.pending.remove(event);
            return Some(match event {
                Pending::OPENED => Event::Opened(id),
                // Read in the meantime.
                Pending::READABLE if connection.queues().0 == 0 => continue,
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
        let connection = self.open_mut(id)?;
        let (readable, _) = connection.queues();
        if readable == 0 {
            return None;
        }
        let socket = connection.socket_mut()?;
        let received = socket
            .recv(|bytes| {
                let lent = bytes.len().min(readable);
                let (consumed, result) = f(&mut bytes[..lent]);
                let consumed = consumed.min(lent);
                (consumed, (consumed, result))
            })
            .ok();
        let (consumed, result) = received.unzip();
        if let Some(left) = &mut connection.eof {
            *left -= consumed.unwrap_or(0);
        }
        // The window opens.
        self.dirty.push_back(id.index);
        result
    }

    /// Bytes received and not consumed yet; 0 for a dead connection.
    pub fn readable(&self, id: ConnId) -> usize {
        self.open(id).map_or(0, |connection| connection.queues().0)
    }

    /// Queues a segment behind those queued before.
    ///
    /// # Errors
    /// Gives it back when [`SEGMENTS_MAX`](crate::SEGMENTS_MAX) are queued or wait in
    /// [`released`](Tcp::released) (`Writable` follows), and when the connection is dead or closed by us
    /// (nothing follows but `Closed`).
    pub fn send(&mut self, id: ConnId, segment: S) -> Result<(), S> {
        let Some(connection) = self.open_mut(id) else {
            return Err(segment);
        };
        if connection.segments.is_full() {
            connection.refused = true;
            return Err(segment);
        }
        connection.segments.push(Queued { segment, copied: 0 });
        connection.touched = true;
        if connection.pump() {
            self.releasing.push_back(id.index);
        }
        self.dirty.push_back(id.index);
        Ok(())
    }

    /// Bytes of queued segments that are not in the send buffer yet.
    pub fn unsent(&self, id: ConnId) -> usize {
        self.alive(id).map_or(0, Connection::unsent)
    }

    /// Whether the send buffer takes `bytes` at once: nothing waits before them, and there is room for them, or the
    /// buffer is empty.
    pub fn has_room(&self, id: ConnId, bytes: usize) -> bool {
        self.alive(id).is_some_and(|connection| {
            let queued = connection.queues().1;
            connection.unsent() == 0 && (queued == 0 || queued + bytes <= self.config.send_bytes)
        })
    }

    /// A segment that TCP no longer needs: copied out whole, or its connection has ended.
    pub fn released(&mut self) -> Option<(ConnId, S)> {
        while let Some(index) = self.releasing.front() {
            let id = self.id(index);
            let Some(connection) =
                self.slots[index as usize].connection.as_mut().filter(|connection| connection.done > 0)
            else {
                self.releasing.remove(index);
                continue;
            };
            connection.done -= 1;
            let Queued { segment, .. } = connection.segments.remove(0);
            if connection.done == 0 {
                self.releasing.remove(index);
            }
            if std::mem::take(&mut connection.refused) && connection.stage == Stage::Open {
                connection.pending.add(Pending::WRITABLE);
            }
            if connection.pending != Pending::default() {
                self.ready.push_back(index);
            }
            return Some((id, segment));
        }
        None
    }

    /// Closes: FIN follows once everything queued is out; what the peer still sends is discarded.
    pub fn close(&mut self, id: ConnId) {
        let Some(connection) = self.open_mut(id) else {
            return;
        };
        connection.stage = Stage::Closing;
        connection.pending.remove(Pending::READABLE | Pending::WRITABLE | Pending::EOF);
        connection.touched = true;
        connection.drain();
        if connection.pump() {
            self.releasing.push_back(id.index);
        }
        self.dirty.push_back(id.index);
    }

    /// Takes no new connections: a SYN is answered with RST. Handshakes under way go on.
    pub fn stop_listening(&mut self) {
        self.config.ports.clear();
    }

    /// Whether everything sent is acknowledged, the FIN of [`close`](Tcp::close) included; so is that of a dead
    /// connection.
    pub fn is_sent(&self, id: ConnId) -> bool {
        let sent = |connection: &Connection<S>| connection.fin_wait != Time::NEVER;
        self.alive(id).is_none_or(|connection| matches!(connection.stage, Stage::Dead(_)) || sent(connection))
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
        if let Some(connection) = self.open_mut(id) {
            connection.idle_timeout = timeout;
            connection.touched = true;
            self.dirty.push_back(id.index);
        }
    }

    /// Our end.
    ///
    /// # Panics
    /// If the connection's `Closed` was given: a mistake of the caller.
    pub fn local(&self, id: ConnId) -> SocketAddr {
        self.alive(id).expect("a connection not closed yet").flow.local
    }

    /// The peer's end.
    ///
    /// # Panics
    /// As [`local`](Tcp::local).
    pub fn peer(&self, id: ConnId) -> SocketAddr {
        self.alive(id).expect("a connection not closed yet").flow.peer
    }

    /// Connections that hold sockets and buffers, those whose `Closed` is not collected included; half-open ones hold
    /// neither.
    pub fn connections(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Counters since start.
    pub fn counters(&self) -> &Counters {
        &self.counters
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
        slot.connection.as_deref().filter(|_| slot.generation == id.generation)
    }

    fn open(&self, id: ConnId) -> Option<&Connection<S>> {
        self.alive(id).filter(|connection| connection.stage == Stage::Open)
    }

    fn open_mut(&mut self, id: ConnId) -> Option<&mut Connection<S>> {
        let slot = self.slots.get_mut(id.index())?;
        let connection = slot.connection.as_deref_mut()?;
        (slot.generation == id.generation && connection.stage == Stage::Open).then_some(connection)
    }

    pub(crate) fn tell(&mut self, index: u32, event: u8) {
        if let Some(connection) = self.slots[index as usize].connection.as_mut() {
            connection.pending.add(event);
            self.ready.push_back(index);
        }
    }

    /// Copies segments on and tells of those that are done.
    pub(crate) fn pump(&mut self, index: u32) {
        if let Some(connection) = self.slots[index as usize].connection.as_mut()
            && connection.pump()
        {
            self.releasing.push_back(index);
        }
    }

    pub(crate) fn abort_for(&mut self, index: u32, reason: CloseReason) {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        connection.stage = Stage::Aborting(reason);
        connection.pending.remove(Pending::READABLE | Pending::WRITABLE | Pending::EOF);
        if let Some(socket) = connection.socket_mut() {
            socket.abort();
        }
        connection.done = connection.segments.len();
        if connection.done > 0 {
            self.releasing.push_back(index);
        }
        self.dirty.push_back(index);
    }

    /// Ends a connection: frees its socket and its flow, lets go of its segments. One not announced is forgotten.
    pub(crate) fn die(&mut self, index: u32, reason: CloseReason) {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        self.flows.remove(connection.hash, index);
        self.wheel.cancel(index);
        self.dirty.remove(index);
        connection.armed = Time::NEVER;
        if connection.stage == Stage::HalfOpen {
            self.release_slot(index);
            return;
        }
        let was_open = connection.stage != Stage::Connecting;
        connection.stage = Stage::Dead(reason);
        connection.sockets = None;
        connection.pending.remove(Pending::READABLE | Pending::WRITABLE | Pending::EOF);
        connection.done = connection.segments.len();
        if connection.done > 0 {
            self.releasing.push_back(index);
        }
        self.counters.closed[reason.index()] += u64::from(was_open);
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
}

/// Short replies without the heap.
impl<const N: usize> Segment for ArrayVec<u8, N> {
    fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn copy_to(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self[at..at + to.len()]);
    }
}
