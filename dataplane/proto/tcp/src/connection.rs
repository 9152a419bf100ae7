//! One connection: its socket, its queued segments, its deadlines.
//!
//! In: segments from the caller. Out: bytes into the socket's send buffer. Made when a handshake is complete, its
//! socket and buffers freed as soon as the connection has ended; owned by a worker's TCP.

use arrayvec::ArrayVec;
use keyferry_time::Time;
use smoltcp::iface::{Context, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::wire::TcpSeqNumber;
use std::time::Duration;

use crate::config::{ACK_DELAY, Config, PROBE, SEGMENTS_MAX};
use crate::counters::CloseReason;
use crate::flow::Flow;
use crate::half_open::HalfOpen;
use crate::packet::{Header, Mark, Offer, SynOptions};
use crate::seam::Segment;

/// Where a connection is between the caller and its socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// The handshake's last segment is being taken in; the caller does not know it.
    HalfOpen,
    /// Begun by the caller, and not yet taken by the peer.
    Connecting,
    /// The caller may receive and send.
    Open,
    /// Closed by the caller: what is queued goes out, then FIN; what comes in is discarded.
    Closing,
    /// RST goes out, then it is dead for this reason.
    Aborting(CloseReason),
    /// Only its last event and its segments are left.
    Dead(CloseReason),
}

/// Events of a connection not yet given to the caller, in the order they are given.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Pending(u8);

impl Pending {
    pub(crate) const OPENED: u8 = 1;
    pub(crate) const READABLE: u8 = 2;
    pub(crate) const WRITABLE: u8 = 4;
    pub(crate) const EOF: u8 = 8;
    pub(crate) const CLOSED: u8 = 16;

    pub(crate) fn add(&mut self, event: u8) {
        self.0 |= event;
    }

    pub(crate) fn remove(&mut self, events: u8) {
        self.0 &= !events;
    }

    /// The first one.
    pub(crate) fn first(self) -> Option<u8> {
        (self.0 != 0).then(|| 1 << self.0.trailing_zeros())
    }
}

/// A socket as all connections have it.
fn socket(config: &Config) -> Socket<'static> {
    let mut socket = Socket::new(
        SocketBuffer::new(vec![0; config.receive_bytes]),
        SocketBuffer::new(vec![0; config.send_bytes]),
    );
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(Some(ACK_DELAY.into()));
    socket.set_congestion_control(CongestionControl::Cubic);
    socket
}

/// A segment on its way into the send buffer.
pub(crate) struct Queued<S> {
    pub(crate) segment: S,
    pub(crate) copied: usize,
}

pub(crate) struct Connection<S> {
    pub(crate) flow: Flow,
    pub(crate) hash: u32,
    pub(crate) stage: Stage,
    pub(crate) pending: Pending,
    /// A set with one socket; `None` once dead.
    pub(crate) sockets: Option<SocketSet<'static>>,
    pub(crate) handle: SocketHandle,
    /// In order; the first `done` are copied out whole and wait to be collected.
    pub(crate) segments: ArrayVec<Queued<S>, SEGMENTS_MAX>,
    pub(crate) done: usize,
    /// A segment was refused since the queue was full.
    pub(crate) refused: bool,
    /// Once the peer's FIN was seen: bytes before it that are not consumed yet. smoltcp takes data in CLOSE-WAIT too,
    /// which RFC 9293 section 3.10.7.4 has ignored; such bytes are not of the stream, nor at the right place in it.
    pub(crate) eof: Option<usize>,
    /// The next sequence number expected of the peer (RCV.NXT).
    pub(crate) next: TcpSeqNumber,
    /// `None`: the connection may be idle for ever, as long as none of our data is outstanding.
    pub(crate) idle_timeout: Option<Duration>,
    /// When the handshake began, or when there was progress last.
    pub(crate) active: Time,
    /// The caller sent something since: that counts as progress, at the next visit.
    pub(crate) touched: bool,
    /// The socket probes the peer: see [`Connection::probe`].
    pub(crate) probing: bool,
    /// When the half-closed connection is given up.
    pub(crate) fin_wait: Time,
    /// What its timer is set for.
    pub(crate) armed: Time,
    /// Of the packets sent; `None` before the first.
    pub(crate) mark: Option<Mark>,
    /// What the peer is ready to take.
    pub(crate) offer: Offer,
}

impl<S: Segment> Connection<S> {
    /// A connection whose socket listens for the SYN that is about to be fed to it.
    pub(crate) fn listen(half_open: &HalfOpen, config: &Config) -> Connection<S> {
        let HalfOpen { flow, hash, since, .. } = *half_open;
        let mut socket = socket(config);
        // Fails for port 0 only, which no packet that gets here has.
        let listening = socket.listen((flow.local.ip(), flow.local.port()));
        debug_assert!(listening.is_ok());
        let next = half_open.next();
        Connection::new(socket, flow, hash, Stage::HalfOpen, next, since, half_open.offer(), config)
    }

    /// A connection whose socket is about to send the SYN with the number `ours`, which `context` makes it draw.
    pub(crate) fn connect(
        context: &mut Context,
        flow: Flow,
        hash: u32,
        ours: TcpSeqNumber,
        now: Time,
        config: &Config,
    ) -> Connection<S> {
        let mut socket = socket(config);
        let Flow { local, peer } = flow;
        // Fails for unspecified ends only, which are refused before.
        let connecting = socket.connect(context, (peer.ip(), peer.port()), (local.ip(), local.port()));
        debug_assert!(connecting.is_ok());
        // Nothing is known of the peer before its SYN: see `greet`.
        let (next, unknown) =
            (TcpSeqNumber(0), SynOptions { window: 0, mss: None, window_scale: None, sack: false });
        let offer = Offer::new(next, ours + 1, unknown);
        Connection::new(socket, flow, hash, Stage::Connecting, next, now, offer, config)
    }

    #[allow(clippy::too_many_arguments, reason = "what differs between the two above")]
    fn new(
        socket: Socket<'static>,
        flow: Flow,
        hash: u32,
        stage: Stage,
        next: TcpSeqNumber,
        active: Time,
        offer: Offer,
        config: &Config,
    ) -> Connection<S> {
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Connection {
            flow,
            hash,
            stage,
            pending: Pending::default(),
            sockets: Some(sockets),
            handle,
            segments: ArrayVec::new(),
            done: 0,
            refused: false,
            eof: None,
            next,
            idle_timeout: Some(config.idle_timeout),
            active,
            touched: false,
            probing: false,
            fin_wait: Time::NEVER,
            armed: Time::NEVER,
            mark: None,
            offer,
        }
    }

    /// Takes note of what the peer's SYN says, if it answers ours.
    pub(crate) fn greet(&mut self, header: &Header, packet: &[u8]) {
        let answers = self.mark.is_some_and(|mark| header.ack && header.acknowledges == mark.seq);
        if !(self.stage == Stage::Connecting && header.syn && answers) {
            return;
        }
        if let Ok(options) = SynOptions::parse(packet) {
            self.next = header.seq + 1;
            self.offer = Offer::new(header.seq, header.acknowledges, options);
        }
    }

    pub(crate) fn socket(&self) -> Option<&Socket<'static>> {
        self.sockets.as_ref().map(|sockets| sockets.get::<Socket>(self.handle))
    }

    pub(crate) fn socket_mut(&mut self) -> Option<&mut Socket<'static>> {
        let handle = self.handle;
        self.sockets.as_mut().map(|sockets| sockets.get_mut::<Socket>(handle))
    }

    /// Bytes received and not yet consumed, bytes sent and not yet acknowledged.
    pub(crate) fn queues(&self) -> (usize, usize) {
        let readable_max = self.eof.unwrap_or(usize::MAX);
        self.socket().map_or((0, 0), |socket| (socket.recv_queue().min(readable_max), socket.send_queue()))
    }

    pub(crate) fn unsent(&self) -> usize {
        let queued = &self.segments[self.done..];
        queued.iter().map(|queued| queued.segment.len() - queued.copied).sum()
    }

    /// Copies queued segments into the send buffer as far as it has room, and closes the socket behind the last
    /// one if the caller closed. Answers whether a segment was finished.
    pub(crate) fn pump(&mut self) -> bool {
        let before = self.done;
        let Some(sockets) = self.sockets.as_mut() else {
            return false;
        };
        let socket = sockets.get_mut::<Socket>(self.handle);
        while let Some(Queued { segment, copied }) = self.segments.get_mut(self.done) {
            // The one copy smoltcp forces: its sockets send from a ring of their own, and retransmit from it.
            while *copied < segment.len() {
                let sent = socket.send(|room| {
                    let bytes = room.len().min(segment.len() - *copied);
                    segment.copy_to(*copied, &mut room[..bytes]);
                    (bytes, bytes)
                });
                match sent {
                    Ok(bytes) if bytes > 0 => *copied += bytes,
                    // Full, or no longer open: then the segment waits for the connection's end.
                    Ok(_) | Err(_) => return self.done > before,
                }
            }
            self.done += 1;
        }
        if self.stage == Stage::Closing {
            socket.close();
        }
        self.done > before
    }

    /// Discards what the peer sent after the caller closed.
    pub(crate) fn drain(&mut self) {
        if let Some(socket) = self.socket_mut() {
            while socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|bytes| bytes > 0) {}
        }
    }

    /// Starts probing if data waits and no timer runs for it. Answers whether it does.
    ///
    /// smoltcp takes the window of every acceptable segment, a reordered old one too (RFC 9293 section 3.10.7.4
    /// would compare SND.WL1). If that window is zero when the retransmission timer fires, it stops the timer,
    /// sends nothing, and waits for a window update that was given long ago. A keep-alive segment makes the peer
    /// tell its window again.
    pub(crate) fn probe(&mut self) -> bool {
        if self.probing {
            return false;
        }
        let waits = self.socket().is_some_and(|socket| socket.send_queue() > 0 && socket.is_active());
        if waits && let Some(socket) = self.socket_mut() {
            socket.set_keep_alive(Some(PROBE.into()));
            self.probing = true;
        }
        waits
    }

    /// Stops probing: the peer took data.
    pub(crate) fn stop_probing(&mut self) {
        if std::mem::take(&mut self.probing)
            && let Some(socket) = self.socket_mut()
        {
            socket.set_keep_alive(None);
        }
    }

    /// Whether the socket saw the peer's FIN, with all data before it.
    pub(crate) fn is_eof(&self) -> bool {
        self.socket().is_some_and(|socket| {
            matches!(socket.state(), State::CloseWait | State::LastAck | State::Closing | State::TimeWait)
        })
    }

    /// When the connection ends by itself unless something happens, and how.
    pub(crate) fn deadline(
        &self,
        half_open_timeout: Duration,
        idle_timeout: Duration,
    ) -> Option<(Time, CloseReason)> {
        match self.stage {
            Stage::HalfOpen | Stage::Connecting => {
                Some((self.active + half_open_timeout, CloseReason::IdleTimeout))
            }
            Stage::Open | Stage::Closing => {
                let outstanding = self.queues().1 > 0 || self.unsent() > 0 || self.stage == Stage::Closing;
                let idle = match self.idle_timeout {
                    // A peer that takes nothing is given up all the same.
                    None if outstanding => Some(idle_timeout),
                    idle => idle,
                };
                let idle = idle.map(|idle| (self.active + idle, CloseReason::IdleTimeout));
                let fin_wait = (self.fin_wait, CloseReason::FinWaitTimeout);
                Some(idle.map_or(fin_wait, |idle| if idle.0 <= fin_wait.0 { idle } else { fin_wait }))
            }
            Stage::Aborting(_) | Stage::Dead(_) => None,
        }
    }
}
