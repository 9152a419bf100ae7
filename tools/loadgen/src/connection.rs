//! One TCP and TLS connection, and the requests under way on it. Owned by its worker thread; never blocks.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion};

use crate::plan::{Exchange, Plan};
use crate::reply::{Event, Reader};
use crate::report::{ErrorKind, Phase, Tally};
use crate::target::Target;

/// Times a ready socket is read before others get their turn.
const READS_PER_TURN: usize = 8;

/// What the worker lends a connection for one turn.
pub struct Turn<'a> {
    /// Where requests come from.
    pub plan: &'a mut Plan,
    /// Where results go.
    pub tally: &'a mut Tally,
    /// Room for decrypted bytes.
    pub scratch: &'a mut [u8],
    /// No new requests: the run is ending.
    pub is_ending: bool,
    /// What was meant to be sent before is not measured.
    pub measured_from: Instant,
}

/// What is left to do after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Wait for the socket.
    Wait,
    /// There is more to read: come back soon.
    Again,
    /// Closed in order, with no request under way.
    Done,
}

/// The connection is of no more use.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Fault {
    /// Its kind in the report.
    pub kind: ErrorKind,
    what: String,
}

impl Fault {
    /// The connection was not made.
    pub fn connect(error: io::Error) -> Fault {
        Fault::new(ErrorKind::Connect, error)
    }

    fn new(kind: ErrorKind, what: impl ToString) -> Fault {
        Fault { kind, what: what.to_string() }
    }
}

/// Limits of one connection.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Requests under way at once.
    pub pipeline: usize,
    /// Requests before it is closed; 0: no end.
    pub requests_max: u64,
    /// Requests between key updates; 0: none.
    pub key_update_every: u64,
    /// Longest wait for the handshake or for one reply.
    pub timeout: Duration,
}

/// A connection in any state between `connect` and its end.
pub struct Connection {
    stream: TcpStream,
    tls: ClientConnection,
    bounds: Bounds,
    reader: Reader,
    under_way: VecDeque<Exchange>,
    /// Requests written so far.
    sent: u64,
    opened: Instant,
    connected: Instant,
    is_connected: bool,
    is_handshake_counted: bool,
    /// The server said it will close after the reply now being read.
    is_last: bool,
    /// Our close_notify is written.
    is_closing: bool,
}

impl Connection {
    /// Starts connecting.
    ///
    /// # Errors
    /// When the kernel refuses at once, or TLS does not take the server's name.
    pub fn open(
        target: &Target,
        config: &Arc<ClientConfig>,
        bounds: Bounds,
        now: Instant,
    ) -> Result<Connection, Fault> {
        let stream =
            TcpStream::connect(target.address).map_err(|error| Fault::new(ErrorKind::Connect, error))?;
        // A request is written whole, so waiting for more to send would only add latency.
        stream.set_nodelay(true).map_err(|error| Fault::new(ErrorKind::Connect, error))?;
        let tls = ClientConnection::new(Arc::clone(config), target.name.clone())
            .map_err(|error| Fault::new(ErrorKind::Tls, error))?;
        Ok(Connection {
            stream,
            tls,
            bounds,
            reader: Reader::default(),
            under_way: VecDeque::with_capacity(bounds.pipeline),
            sent: 0,
            opened: now,
            connected: now,
            is_connected: false,
            is_handshake_counted: false,
            is_last: false,
            is_closing: false,
        })
    }

    /// Asks for events, once, for the connection's whole life.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        registry.register(&mut self.stream, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Whether something took longer than it may.
    pub fn is_overdue(&self, now: Instant) -> bool {
        let since = match self.under_way.front() {
            Some(exchange) => exchange.started,
            None if !self.is_handshake_counted => self.opened,
            None => return false,
        };
        now.duration_since(since) > self.bounds.timeout
    }

    /// Moves on as far as the socket allows.
    ///
    /// # Errors
    /// When the connection failed; requests under way are lost.
    pub fn turn(&mut self, turn: &mut Turn<'_>) -> Result<Next, Fault> {
        if !self.is_connected && !self.connected(turn)? {
            return Ok(Next::Wait);
        }
        let mut next = Next::Again;
        for _ in 0..READS_PER_TURN {
            match self.receive(turn)? {
                Next::Again => self.send(turn)?,
                other => {
                    next = other;
                    break;
                }
            }
        }
        self.send(turn)?;
        Ok(if self.is_closing && self.under_way.is_empty() { Next::Done } else { next })
    }

    /// Whether TCP is connected by now.
    fn connected(&mut self, turn: &mut Turn<'_>) -> Result<bool, Fault> {
        if let Some(error) =
            self.stream.take_error().map_err(|error| Fault::new(ErrorKind::Connect, error))?
        {
            return Err(Fault::new(ErrorKind::Connect, error));
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.is_connected = true;
                self.connected = Instant::now();
                if self.connected >= turn.measured_from {
                    turn.tally.phase(Phase::Tcp, self.connected - self.opened);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(error) => return Err(Fault::new(ErrorKind::Connect, error)),
        }
        Ok(self.is_connected)
    }

    /// Reads from the socket once and acts on all that was in it.
    fn receive(&mut self, turn: &mut Turn<'_>) -> Result<Next, Fault> {
        let is_eof = match self.tls.read_tls(&mut self.stream) {
            Ok(bytes) => bytes == 0,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Next::Again),
            Err(error) => return Err(self.lost(error)),
        };
        if let Err(error) = self.tls.process_new_packets() {
            // The alert is worth an attempt; the connection is lost either way.
            let _ = self.tls.write_tls(&mut self.stream);
            return Err(Fault::new(ErrorKind::Tls, error));
        }
        self.count_handshake(turn);
        let is_closed = self.plaintext(turn)?;
        if is_closed || is_eof {
            return self.ended(turn);
        }
        Ok(Next::Again)
    }

    /// Takes decrypted bytes to the reply they belong to; true when the server has closed in order.
    fn plaintext(&mut self, turn: &mut Turn<'_>) -> Result<bool, Fault> {
        loop {
            let bytes = match self.tls.reader().read(turn.scratch) {
                Ok(0) => return Ok(true),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                // The end of TCP without close_notify is for `ended` to judge.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(Fault::new(ErrorKind::Tls, error)),
            };
            self.replies(bytes, turn)?;
        }
    }

    /// Reads `bytes` bytes of scratch as HTTP.
    fn replies(&mut self, bytes: usize, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let mut rest = &turn.scratch[..bytes];
        loop {
            let (used, event) = self.reader.feed(rest).map_err(|error| Fault::new(ErrorKind::Http, error))?;
            rest = &rest[used..];
            if event == Event::More {
                return Ok(());
            }
            let Some(exchange) = self.under_way.front_mut() else {
                return Err(Fault::new(ErrorKind::Http, "a reply nobody asked for"));
            };
            match event {
                Event::More => return Ok(()),
                Event::Head(head) if head.status != 200 => {
                    return Err(Fault::new(ErrorKind::Status, head.status));
                }
                Event::Head(head) => {
                    exchange.first_byte = Some(Instant::now());
                    self.is_last = head.close;
                }
                Event::Body(body) => {
                    turn.tally.bytes += body.len() as u64;
                    if let Err(mismatch) = exchange.check.body(body) {
                        turn.tally.mismatch(mismatch.clone());
                        return Err(Fault::new(ErrorKind::Http, mismatch));
                    }
                }
                Event::End => self.reply_done(turn)?,
            }
        }
    }

    /// The oldest request under way has its whole reply.
    fn reply_done(&mut self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        let Some(exchange) = self.under_way.pop_front() else { return Ok(()) };
        match exchange.check.end() {
            Ok(()) if exchange.intended < turn.measured_from => turn.tally.warm_up_requests += 1,
            Ok(()) => {
                let now = Instant::now();
                turn.tally.reply(now - exchange.intended, now - exchange.started);
                let first_byte = exchange.first_byte.unwrap_or(now);
                turn.tally.phase(Phase::FirstByte, first_byte - exchange.started);
                turn.tally.phase(Phase::LastByte, now - first_byte);
            }
            Err(mismatch) => {
                turn.tally.mismatch(mismatch.clone());
                return Err(Fault::new(ErrorKind::Http, mismatch));
            }
        }
        Ok(())
    }

    /// The server has closed: in order, or with replies outstanding.
    fn ended(&mut self, turn: &mut Turn<'_>) -> Result<Next, Fault> {
        if self.tls.is_handshaking() {
            return Err(Fault::new(ErrorKind::Closed, "closed during the handshake"));
        }
        if self.reader.is_ended_by_close() {
            self.reader = Reader::default();
            self.reply_done(turn)?;
        }
        // Requests behind the reply that announced the close were never going to be answered.
        if self.under_way.is_empty() || (self.is_last && self.reader.is_idle()) {
            return Ok(Next::Done);
        }
        Err(Fault::new(ErrorKind::Closed, "closed before the reply was whole"))
    }

    /// Starts the requests there is room for and writes what TLS has to send.
    fn send(&mut self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        if !self.tls.is_handshaking() && !self.is_closing {
            self.requests(turn)?;
        }
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
        Ok(())
    }

    fn requests(&mut self, turn: &mut Turn<'_>) -> Result<(), Fault> {
        while self.under_way.len() < self.bounds.pipeline {
            if turn.is_ending || self.is_used_up() || self.is_last || turn.plan.is_done() {
                break;
            }
            let Some((exchange, text)) = turn.plan.draw(Instant::now()) else { break };
            // rustls buffers plaintext without a limit here only while handshaking; a request is below 2 KiB.
            self.tls
                .writer()
                .write_all(text.as_bytes())
                .map_err(|error| Fault::new(ErrorKind::Tls, error))?;
            self.under_way.push_back(exchange);
            self.sent += 1;
            let every = self.bounds.key_update_every;
            if every != 0
                && self.sent.is_multiple_of(every)
                && self.tls.protocol_version() == Some(ProtocolVersion::TLSv1_3)
            {
                self.tls.refresh_traffic_keys().map_err(|error| Fault::new(ErrorKind::Tls, error))?;
            }
        }
        // An idle connection of an open loop waits for the next request's moment.
        let is_over = turn.is_ending || self.is_used_up() || self.is_last || turn.plan.is_done();
        if self.under_way.is_empty() && is_over {
            self.tls.send_close_notify();
            self.is_closing = true;
        }
        Ok(())
    }

    /// Whether it has carried as many requests as it may.
    fn is_used_up(&self) -> bool {
        self.bounds.requests_max != 0 && self.sent >= self.bounds.requests_max
    }

    /// Whether a request given to it now would be sent now.
    pub fn has_room(&self) -> bool {
        self.is_handshake_counted
            && !self.is_closing
            && !self.is_last
            && !self.is_used_up()
            && self.under_way.len() < self.bounds.pipeline
    }

    fn count_handshake(&mut self, turn: &mut Turn<'_>) {
        if self.is_handshake_counted || self.tls.is_handshaking() {
            return;
        }
        self.is_handshake_counted = true;
        let now = Instant::now();
        if now >= turn.measured_from {
            turn.tally.phase(Phase::Tls, now - self.connected);
        }
        match self.tls.handshake_kind() {
            Some(HandshakeKind::Resumed) => turn.tally.handshakes_resumed += 1,
            _ => turn.tally.handshakes_full += 1,
        }
    }

    /// Sorts an error of the socket.
    fn lost(&self, error: io::Error) -> Fault {
        let kind = match error.kind() {
            io::ErrorKind::ConnectionRefused => ErrorKind::Connect,
            io::ErrorKind::TimedOut => ErrorKind::Timeout,
            _ => ErrorKind::Reset,
        };
        Fault::new(kind, error)
    }
}
