//! One TCP and TLS connection, and the requests under way on it. Owned by its worker thread; never blocks. Between
//! requests it holds no buffer.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use crate::plan::{Exchange, Plan, Route};
use crate::record::{RECORD_BYTES_MAX, whole};
use crate::reply::{Event, Head, Reader};
use crate::secure::{Established, Handshake, Opened, Secure, TlsError, WAITING_BYTES_MAX};
use crate::socket;
use crate::tally::{ErrorKind, Phase, Tally};
use crate::target::Target;
use crate::transport::Transport;

/// Times a ready socket is read before others get their turn.
const READS_PER_TURN: usize = 8;
/// Room for what is read at once, behind the part of a record that came before.
pub const SCRATCH_BYTES: usize = 48 * 1024 + RECORD_BYTES_MAX;
// What came behind a handshake is opened in scratch.
const _: () = assert!(SCRATCH_BYTES >= WAITING_BYTES_MAX);

/// Buffers and counts that a thread's connections share.
pub struct Shared {
    /// Where results go.
    pub tally: Tally,
    /// Received bytes, opened in place.
    pub scratch: Vec<u8>,
    /// Sealed records on their way to the socket.
    pub out: Vec<u8>,
    /// Requests before they are sealed.
    pub text: Vec<u8>,
    /// Buffers no connection needs now.
    pub spare: Vec<Vec<u8>>,
}

impl Default for Shared {
    fn default() -> Self {
        Shared {
            tally: Tally::new(),
            scratch: vec![0; SCRATCH_BYTES],
            out: Vec::with_capacity(SCRATCH_BYTES),
            text: Vec::with_capacity(RECORD_BYTES_MAX),
            spare: Vec::new(),
        }
    }
}

/// What the worker lends a connection for one turn.
pub struct Turn<'a, T> {
    /// What carries it.
    pub transport: &'a mut T,
    /// Where requests come from.
    pub plan: &'a mut Plan,
    /// Buffers and counts.
    pub shared: &'a mut Shared,
    /// Limits of every connection.
    pub bounds: &'a Bounds,
    /// No new requests: the run is ending.
    pub is_ending: bool,
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
    /// The connection failed in this way.
    pub fn new(kind: ErrorKind, what: impl ToString) -> Fault {
        Fault { kind, what: what.to_string() }
    }

    fn tls(error: TlsError) -> Fault {
        let remedy = match &error {
            TlsError::Handshake(rustls::Error::InvalidCertificate(_)) => {
                ": name the server's authority by --ca, its name by the URL and --resolve, or use --insecure"
            }
            _ => "",
        };
        Fault::new(ErrorKind::Tls, format_args!("{error}{remedy}"))
    }
}

/// Limits of connections, and of what of them is measured.
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
    /// What was meant to be sent before is not measured.
    pub measured_from: Instant,
    /// When no more requests are started.
    pub deadline: Option<Instant>,
}

enum Stage {
    Connecting(Box<Handshake>),
    Handshaking(Box<Handshake>),
    Open(Box<Secure>),
    /// For the moment in which the stage changes.
    Changing,
}

/// A connection in any state between `connect` and its end.
pub struct Connection<T: Transport> {
    stream: T::Stream,
    stage: Stage,
    route: Route,
    source: Option<IpAddr>,
    reader: Reader,
    under_way: VecDeque<Exchange>,
    /// The start of a record of which not all has come; no memory while there is none.
    partial: Vec<u8>,
    /// Sealed bytes the socket did not take.
    unsent: Vec<u8>,
    /// Requests written so far.
    sent: u64,
    opened: Instant,
    connected: Instant,
    /// Whether the handshake was meant to resume a session, until it is counted.
    resumption: Option<bool>,
    /// Its outcome, until the worker has asked for it.
    outcome: Option<bool>,
    /// Thinking until then.
    ready_at: Option<Instant>,
    is_pause_new: bool,
    /// The server said it will close after the reply now being read.
    is_last: bool,
    /// Our close_notify is sealed.
    is_closing: bool,
}

impl<T: Transport> Connection<T> {
    /// Starts connecting; events come with `token`. `resumes`: the handshake is meant to resume a session.
    ///
    /// # Errors
    /// When the transport refuses at once, or TLS does not take the settings.
    pub fn open(
        transport: &mut T,
        token: u64,
        target: &Target,
        route: Route,
        source: Option<IpAddr>,
        config: Arc<ClientConfig>,
        resumes: bool,
    ) -> Result<Connection<T>, Fault> {
        let opened = Instant::now();
        let stream = transport
            .open(target.address, source, token)
            .map_err(|what| Fault::new(ErrorKind::Connect, what))?;
        // Made while the first packets travel, so that its keys do not cost time in the TLS phase.
        let handshake = Handshake::new(config, target.name.clone()).map_err(Fault::tls)?;
        Ok(Connection {
            stream,
            stage: Stage::Connecting(Box::new(handshake)),
            route,
            source,
            reader: Reader::default(),
            under_way: VecDeque::new(),
            partial: Vec::new(),
            unsent: Vec::new(),
            sent: 0,
            opened,
            connected: opened,
            resumption: Some(resumes),
            outcome: None,
            ready_at: None,
            is_pause_new: false,
            is_last: false,
            is_closing: false,
        })
    }

    /// Whether something took longer than it may.
    pub fn is_overdue(&self, bounds: &Bounds, now: Instant) -> bool {
        let since = match self.under_way.front() {
            Some(exchange) => exchange.started,
            None if !self.is_open() => self.opened,
            None => return false,
        };
        now.saturating_duration_since(since) > bounds.timeout
    }

    /// Whose it is, and to whom.
    pub fn route(&self) -> Route {
        self.route
    }

    /// The handshake is over.
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Whether the handshake was meant to resume, once, and how it ended; `None`: not at all, or not yet.
    pub fn take_handshake(&mut self) -> Option<(bool, Option<bool>)> {
        self.resumption.take().map(|meant| (meant, self.outcome))
    }

    /// When it goes on after thinking, told once for each pause.
    pub fn take_pause(&mut self) -> Option<Instant> {
        std::mem::take(&mut self.is_pause_new).then_some(self.ready_at).flatten()
    }

    /// Whether a request given to it now would be sent now.
    pub fn has_room(&self, bounds: &Bounds) -> bool {
        self.is_open()
            && !self.is_closing
            && !self.is_last
            && !self.is_used_up(bounds)
            && self.under_way.len() < bounds.pipeline
    }

    /// Ends it, and gives its buffers back.
    pub fn close(mut self, transport: &mut T, shared: &mut Shared) {
        for buffer in [&mut self.partial, &mut self.unsent] {
            give_back(buffer, &mut shared.spare);
        }
        transport.close(self.stream);
    }

    /// Moves on as far as the socket allows, after an event; `is_hung_up`: the server will send no more, so that a
    /// short read is not the end.
    ///
    /// # Errors
    /// When the connection failed; requests under way are lost.
    pub fn turn(&mut self, is_hung_up: bool, turn: &mut Turn<'_, T>) -> Result<Next, Fault> {
        if matches!(self.stage, Stage::Connecting(_)) {
            return if self.connected(turn)? { self.start(turn) } else { Ok(Next::Wait) };
        }
        let mut next = Next::Again;
        for _ in 0..READS_PER_TURN {
            next = self.receive(is_hung_up, turn)?;
            if next != Next::Again {
                break;
            }
            self.send(turn)?;
        }
        if next == Next::Done {
            return Ok(next);
        }
        self.send(turn)?;
        Ok(if self.is_over() { Next::Done } else { next })
    }

    /// Sends what there is to send, without a look at what was received.
    ///
    /// # Errors
    /// When the connection failed.
    pub fn start(&mut self, turn: &mut Turn<'_, T>) -> Result<Next, Fault> {
        self.send(turn)?;
        Ok(if self.is_over() { Next::Done } else { Next::Wait })
    }

    fn is_over(&self) -> bool {
        self.is_closing && self.under_way.is_empty() && self.unsent.is_empty()
    }

    /// Whether TCP is connected by now; if so, the handshake starts.
    fn connected(&mut self, turn: &mut Turn<'_, T>) -> Result<bool, Fault> {
        match turn.transport.is_connected(&self.stream) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(error) => {
                let target = turn.plan.target(self.route).address;
                return Err(Fault::new(ErrorKind::Connect, socket::explain(error, target, self.source)));
            }
        }
        self.connected = Instant::now();
        if self.connected >= turn.bounds.measured_from {
            turn.shared.tally.phase(Phase::Tcp, self.connected - self.opened);
        }
        if let Stage::Connecting(handshake) = std::mem::replace(&mut self.stage, Stage::Changing) {
            self.stage = Stage::Handshaking(handshake);
        }
        turn.shared.out.clear();
        self.shake(0..0, turn)?;
        Ok(true)
    }

    /// Reads from the socket once and acts on all that was in it.
    fn receive(&mut self, is_hung_up: bool, turn: &mut Turn<'_, T>) -> Result<Next, Fault> {
        let had = self.partial.len();
        let scratch = &mut turn.shared.scratch;
        // A record that came in parts is opened in one piece.
        scratch[..had].copy_from_slice(&self.partial);
        let got = match turn.transport.read(&mut self.stream, &mut scratch[had..]) {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Wait),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Next::Again),
            Err(error) => return Err(lost(error)),
        };
        if got == 0 {
            return self.ended(turn);
        }
        let is_drained = got < scratch.len() - had && !is_hung_up;
        let now = Instant::now();
        turn.shared.out.clear();
        let is_closed = match self.stage {
            Stage::Open(_) => self.records(had + got, now, turn)?,
            _ => self.shake(0..got, turn)?,
        };
        self.flush(turn)?;
        if is_closed {
            return self.ended(turn);
        }
        Ok(if is_drained { Next::Wait } else { Next::Again })
    }

    /// Goes on with the handshake, with this part of scratch; true: the server closed the connection behind it.
    fn shake(&mut self, received: std::ops::Range<usize>, turn: &mut Turn<'_, T>) -> Result<bool, Fault> {
        let Stage::Handshaking(handshake) = &mut self.stage else { return Ok(false) };
        let shared = &mut *turn.shared;
        match handshake.advance(&shared.scratch[received], &mut shared.out) {
            Ok(false) => return self.flush(turn).map(|()| false),
            Ok(true) => {}
            Err(error) => {
                // The alert is worth an attempt; the connection is lost either way.
                let _ = turn.transport.write(&mut self.stream, &shared.out);
                return Err(Fault::tls(error));
            }
        }
        let Stage::Handshaking(handshake) = std::mem::replace(&mut self.stage, Stage::Changing) else {
            return Ok(false);
        };
        let Established { secure, is_resumed, rest } = handshake.finish().map_err(Fault::tls)?;
        self.stage = Stage::Open(Box::new(secure));
        self.outcome = Some(is_resumed);
        let now = Instant::now();
        let tally = &mut turn.shared.tally;
        if now < turn.bounds.measured_from {
            tally.warm_up_handshakes += 1;
        } else {
            tally.phase(Phase::Tls, now - self.connected);
            tally.handshakes_resumed += u64::from(is_resumed);
            tally.handshakes_full += u64::from(!is_resumed);
        }
        turn.shared.scratch[..rest.len()].copy_from_slice(&rest);
        self.records(rest.len(), now, turn)
    }

    /// Opens the records in the first `length` bytes of scratch; true when the server has closed in order.
    fn records(&mut self, length: usize, now: Instant, turn: &mut Turn<'_, T>) -> Result<bool, Fault> {
        // Lent out for the loop, so that replies can use the rest of what is shared.
        let mut scratch = std::mem::take(&mut turn.shared.scratch);
        let outcome = self.records_in(&mut scratch[..length], now, turn);
        if let Ok((_, used)) = outcome {
            self.keep(&scratch[used..length], &mut turn.shared.spare);
        }
        turn.shared.scratch = scratch;
        outcome.map(|(is_closed, _)| is_closed)
    }

    /// The records at the front of `bytes`; returns whether they end the connection, and their length.
    fn records_in(
        &mut self,
        bytes: &mut [u8],
        now: Instant,
        turn: &mut Turn<'_, T>,
    ) -> Result<(bool, usize), Fault> {
        let mut used = 0;
        while let Some(length) = whole(&bytes[used..]).map_err(|error| Fault::new(ErrorKind::Tls, error))? {
            let record = &mut bytes[used..used + length];
            used += length;
            let Stage::Open(secure) = &mut self.stage else { break };
            match secure.open(record, &mut turn.shared.out).map_err(Fault::tls)? {
                Opened::Data(plain) => self.replies(plain, now, turn)?,
                Opened::Nothing => {}
                Opened::Closed => return Ok((true, used)),
            }
        }
        Ok((false, used))
    }

    /// Keeps the start of a record until the rest comes.
    fn keep(&mut self, rest: &[u8], spare: &mut Vec<Vec<u8>>) {
        if rest.is_empty() {
            give_back(&mut self.partial, spare);
        } else {
            if self.partial.capacity() == 0 {
                self.partial = spare.pop().unwrap_or_default();
            }
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
    }

    /// Reads plaintext as HTTP.
    fn replies(&mut self, mut rest: &[u8], now: Instant, turn: &mut Turn<'_, T>) -> Result<(), Fault> {
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
                Event::Head(Head { status, close }) => {
                    exchange.first_byte = Some(now);
                    self.is_last = close;
                    exchange.is_refused = !turn.plan.is_welcome(status);
                    if exchange.is_refused {
                        turn.shared.tally.error(ErrorKind::Status, &status);
                    }
                }
                Event::Body(_) if exchange.is_refused => {}
                Event::Body(body) => {
                    if exchange.intended >= turn.bounds.measured_from {
                        turn.shared.tally.bytes += body.len() as u64;
                    }
                    if let Err(mismatch) = exchange.expected.body(body) {
                        turn.shared.tally.mismatch(mismatch.clone());
                        return Err(Fault::new(ErrorKind::Http, mismatch));
                    }
                }
                Event::End => self.reply_done(now, turn)?,
            }
        }
    }

    /// The oldest request under way has its whole reply.
    fn reply_done(&mut self, now: Instant, turn: &mut Turn<'_, T>) -> Result<(), Fault> {
        let Some(exchange) = self.under_way.pop_front() else { return Ok(()) };
        let tally = &mut turn.shared.tally;
        if !exchange.is_refused {
            if let Err(mismatch) = exchange.expected.end() {
                tally.mismatch(mismatch.clone());
                return Err(Fault::new(ErrorKind::Http, mismatch));
            }
            if exchange.intended < turn.bounds.measured_from {
                tally.warm_up_requests += 1;
            } else {
                tally.reply(now - exchange.intended, now - exchange.started);
                tally.requests_in_time +=
                    u64::from(turn.bounds.deadline.is_none_or(|deadline| now <= deadline));
                let first_byte = exchange.first_byte.unwrap_or(now);
                tally.phase(Phase::FirstByte, first_byte - exchange.started);
                tally.phase(Phase::LastByte, now - first_byte);
            }
            tally.last_reply = Some(now);
        }
        if self.under_way.is_empty()
            && let Some(pause) = turn.plan.draw_pause()
        {
            self.ready_at = Some(now + pause);
            self.is_pause_new = true;
        }
        Ok(())
    }

    /// The server has closed: in order, or with replies outstanding.
    fn ended(&mut self, turn: &mut Turn<'_, T>) -> Result<Next, Fault> {
        if !self.is_open() {
            return Err(Fault::new(ErrorKind::Closed, "closed during the handshake"));
        }
        if self.reader.is_ended_by_close() {
            self.reader = Reader::default();
            self.reply_done(Instant::now(), turn)?;
        }
        // Requests behind the reply that announced the close were never going to be answered.
        if self.under_way.is_empty() || (self.is_last && self.reader.is_idle()) {
            turn.shared.tally.unsent += self.under_way.len() as u64;
            return Ok(Next::Done);
        }
        Err(Fault::new(ErrorKind::Closed, "closed before the reply was whole"))
    }

    /// Starts the requests there is room for and writes what there is to write.
    fn send(&mut self, turn: &mut Turn<'_, T>) -> Result<(), Fault> {
        turn.shared.out.clear();
        // What is left over goes first: records have an order.
        self.flush(turn)?;
        if self.unsent.is_empty() && self.is_open() && !self.is_closing {
            self.requests(turn)?;
            self.flush(turn)?;
        }
        Ok(())
    }

    fn requests(&mut self, turn: &mut Turn<'_, T>) -> Result<(), Fault> {
        let Stage::Open(secure) = &mut self.stage else { return Ok(()) };
        let bounds = turn.bounds;
        let is_thinking = self.ready_at.is_some_and(|at| at > Instant::now());
        let used_up = |sent| bounds.requests_max != 0 && sent >= bounds.requests_max;
        let is_ending = turn.is_ending || self.is_last;
        let Shared { text, out, .. } = &mut *turn.shared;
        while self.under_way.len() < bounds.pipeline && !is_ending && !used_up(self.sent) && !is_thinking {
            text.clear();
            let Some(exchange) = turn.plan.draw(self.route, Instant::now(), text) else { break };
            secure.seal(text, out).map_err(Fault::tls)?;
            self.under_way.push_back(exchange);
            self.sent += 1;
            let is_update_due =
                bounds.key_update_every != 0 && self.sent.is_multiple_of(bounds.key_update_every);
            if secure.is_13() && (is_update_due || secure.is_worn()) {
                secure.update_key(true, out).map_err(Fault::tls)?;
            }
        }
        // An idle connection of an open loop waits for the next request's moment.
        let is_worn_out = secure.is_worn() && !secure.is_13();
        let is_over = is_ending || used_up(self.sent) || is_worn_out;
        if self.under_way.is_empty() && is_over {
            secure.close(out).map_err(Fault::tls)?;
            self.is_closing = true;
        }
        Ok(())
    }

    /// Writes what was left over, then what is new.
    fn flush(&mut self, turn: &mut Turn<'_, T>) -> Result<(), Fault> {
        let Shared { out, spare, .. } = &mut *turn.shared;
        if !self.unsent.is_empty() {
            self.unsent.append(out);
            let written = write(turn.transport, &mut self.stream, &self.unsent)?;
            self.unsent.drain(..written);
            if self.unsent.is_empty() {
                give_back(&mut self.unsent, spare);
            }
        } else if !out.is_empty() {
            let written = write(turn.transport, &mut self.stream, out)?;
            if written < out.len() {
                self.unsent = spare.pop().unwrap_or_default();
                self.unsent.extend_from_slice(&out[written..]);
            }
            out.clear();
        }
        Ok(())
    }

    /// Whether it has carried as many requests as it may.
    fn is_used_up(&self, bounds: &Bounds) -> bool {
        bounds.requests_max != 0 && self.sent >= bounds.requests_max
    }
}

/// Writes as much as the connection takes.
fn write<T: Transport>(transport: &mut T, stream: &mut T::Stream, bytes: &[u8]) -> Result<usize, Fault> {
    let mut written = 0;
    while written < bytes.len() {
        match transport.write(stream, &bytes[written..]) {
            Ok(some) => written += some,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(lost(error)),
        }
    }
    Ok(written)
}

fn give_back(buffer: &mut Vec<u8>, spare: &mut Vec<Vec<u8>>) {
    if buffer.capacity() > 0 {
        let mut buffer = std::mem::take(buffer);
        buffer.clear();
        spare.push(buffer);
    }
}

/// Sorts an error of a socket that was connected.
fn lost(error: io::Error) -> Fault {
    let kind = match error.kind() {
        io::ErrorKind::ConnectionRefused => ErrorKind::Connect,
        io::ErrorKind::TimedOut => ErrorKind::Timeout,
        _ => ErrorKind::Reset,
    };
    Fault::new(kind, error)
}
