//! TCP of this process' own, on a port that is polled: what a node receives by, as a client. A kernel's send and receive
//! paths are then in nobody's figures.
//!
//! In: connections to open, bytes. Out: events, bytes. Between them [`keyferry_tcp`] and the port side of a worker. One
//! load thread has the port to itself.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use keyferry_link::Link;
use keyferry_nic::handover::Handover;
use keyferry_nic::{Caps, Nic};
use keyferry_tcp::{CloseReason, Config, ConnId, ConnectError, Event as TcpEvent, RxChecksum, Segment, Tcp};
use keyferry_worker::Clock;
use keyferry_worker::port::Port;
use keyferry_worker::receive::Receive;
use keyferry_worker::segment::Placed;
use rustix::io::Errno;

use crate::host;
use crate::transport::{Event, Transport, Wait};

/// Bytes handed to TCP at once.
const PIECE_BYTES: usize = 16 * 1024;
/// Pieces kept for the next writes.
const PIECES_MAX: usize = 64;
/// First port connections come from; those below are for services (RFC 6335 section 6).
const FIRST_PORT: u16 = 1024;
/// Distance of the first ports of two addresses; prime, so that they spread.
const PORTS_APART: u64 = 7919;
/// Ports tried for one connection before none is taken to be free.
const TRIES_MAX: usize = 1024;
/// Turns of the port with nothing to do before the thread lets others run.
const TURNS_BEFORE_YIELD: u32 = 64;

/// Sizes of connections.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections of the thread.
    pub connections: usize,
    /// Longest wait for an answer to a SYN.
    pub connect_timeout: Duration,
    /// Makes sequence numbers and ports different from those of the run before.
    pub seed: u64,
}

/// Bytes of receive and send buffer of a connection.
const RECEIVE_BYTES: usize = 64 * 1024;
const SEND_BYTES: usize = 16 * 1024;
/// Connections that are closed and not yet over, besides those that are open.
const CLOSING: usize = 4096;
/// Time at the end of a run for the peers to answer the last FINs.
const LINGER: Duration = Duration::from_secs(1);
/// A connection may be idle for as long as a run lasts.
const IDLE: Duration = Duration::from_secs(1 << 24);

/// Bytes on their way to the peer.
pub struct Piece(Vec<u8>);

/// It is copied.
impl Placed for Piece {}

impl Segment for Piece {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn copy_to(&self, at: usize, to: &mut [u8]) {
        to.copy_from_slice(&self.0[at..at + to.len()]);
    }
}

/// What is known of a connection while somebody holds its stream.
#[derive(Clone, Copy)]
struct Held {
    id: ConnId,
    token: u64,
    is_open: bool,
    is_eof: bool,
    ended: Option<CloseReason>,
}

/// A connection's place among those that are held.
pub struct Stream(usize);

/// TCP of one thread on one queue of a port.
pub struct Stack<N: Nic> {
    port: Port<N>,
    receive: Receive<N::Packet>,
    tcp: Tcp<Piece>,
    clock: Clock,
    addresses: Vec<IpAddr>,
    held: Vec<Option<Held>>,
    vacant: Vec<usize>,
    /// Which of them TCP's connection is; by its index.
    by_connection: Vec<Option<usize>>,
    /// The port tried last, by address.
    ports: HashMap<IpAddr, u16>,
    pieces: Vec<Piece>,
    idle_turns: u32,
    /// Of the thread, in turns with nothing to do.
    idle: Duration,
}

impl<N: Nic> Stack<N> {
    /// A client with these addresses on this queue.
    pub fn new(nic: N, link: Link<N::Packet>, addresses: Vec<IpAddr>, limits: &Limits) -> Stack<N> {
        let caps = nic.caps();
        let tcp = config(&caps, addresses.clone(), limits);
        let connections = tcp.connections as usize;
        // The flow table's hash leaves our address out, so addresses do not begin with the same ports.
        let first = |index: u64| FIRST_PORT + (limits.seed.wrapping_add(index * PORTS_APART) % 60_000) as u16;
        Stack {
            port: Port::new(nic, link),
            receive: Receive::new(Handover::between(1, 1).remove(0)),
            tcp: Tcp::new(tcp),
            clock: Clock::start(),
            ports: (0..).zip(&addresses).map(|(index, address)| (*address, first(index))).collect(),
            addresses,
            held: vec![None; limits.connections],
            vacant: (0..limits.connections).rev().collect(),
            by_connection: vec![None; connections],
            pieces: Vec::with_capacity(PIECES_MAX),
            idle_turns: 0,
            idle: Duration::ZERO,
        }
    }

    /// One look at the port and at TCP. Answers whether there was anything.
    fn turn(&mut self, events: &mut Vec<Event>) -> bool {
        let now = self.clock.now();
        self.port.now = now;
        let received = self.receive.burst(&mut self.port, &mut self.tcp, &());
        let before = events.len();
        while let Some(event) = self.tcp.poll_event() {
            self.take(event, events);
        }
        while let Some((_, piece)) = self.tcp.released() {
            if self.pieces.len() < PIECES_MAX {
                self.pieces.push(piece);
            }
        }
        self.tcp.timers(now, &mut self.port);
        self.port.link_turn();
        let sent = self.port.flush();
        received > 0 || sent > 0 || events.len() > before
    }

    fn take(&mut self, event: TcpEvent, events: &mut Vec<Event>) {
        let (TcpEvent::Opened(id)
        | TcpEvent::Readable(id)
        | TcpEvent::Writable(id)
        | TcpEvent::Eof(id)
        | TcpEvent::Closed(id, _)) = event;
        let place = self.by_connection[id.index()];
        if matches!(event, TcpEvent::Closed(..)) {
            self.by_connection[id.index()] = None;
        }
        // Nobody holds it any more: it only has to come to its end.
        let Some(held) = place.and_then(|place| self.held[place].as_mut()) else { return };
        match event {
            TcpEvent::Opened(_) => held.is_open = true,
            TcpEvent::Eof(_) => held.is_eof = true,
            TcpEvent::Closed(_, reason) => held.ended = Some(reason),
            TcpEvent::Readable(_) | TcpEvent::Writable(_) => {}
        }
        events.push(Event { token: held.token, is_hung_up: held.is_eof || held.ended.is_some() });
    }

    /// The next free port of an address towards a server.
    fn begin(&mut self, from: IpAddr, target: SocketAddr) -> Result<ConnId, String> {
        let now = self.clock.now();
        let port = self.ports.entry(from).or_insert(FIRST_PORT);
        for _ in 0..TRIES_MAX {
            *port = port.checked_add(1).unwrap_or(FIRST_PORT);
            match self.tcp.connect(now, SocketAddr::new(from, *port), target) {
                Ok(id) => return Ok(id),
                Err(ConnectError::InUse) => {}
                Err(ConnectError::ConnectionsFull) => {
                    return Err("too many connections are still closing: open fewer a second".to_owned());
                }
                Err(ConnectError::Unreachable) => return Err(unreachable(target, Some(from))),
            }
        }
        Err(format!("no free port of {from} towards {target}: give more addresses by --source"))
    }
}

/// What a person can do about two ends that cannot be joined.
fn unreachable(target: SocketAddr, from: Option<IpAddr>) -> String {
    let kind = if target.is_ipv4() { "IPv4" } else { "IPv6" };
    match from {
        Some(from) => {
            format!("{from} cannot reach {target}: give an {kind} address of the port by --nic-address")
        }
        None => format!("the port has no {kind} address to reach {target} from: give one by --nic-address"),
    }
}

fn config(caps: &Caps, addresses: Vec<IpAddr>, limits: &Limits) -> Config {
    Config {
        addresses,
        ports: Vec::new(),
        mtu: caps.mtu,
        connections: u32::try_from(limits.connections + CLOSING).unwrap_or(u32::MAX),
        half_open: 1,
        half_open_timeout: limits.connect_timeout,
        idle_timeout: IDLE,
        receive_bytes: RECEIVE_BYTES,
        send_bytes: SEND_BYTES,
        rx_checksum: if caps.rx_checksum { RxChecksum::Trust } else { RxChecksum::Verify },
        tx_checksum_offload: caps.tx_checksum,
        stretch: keyferry_worker::port::stretch(caps),
        seed: limits.seed,
    }
}

impl<N: Nic> Transport for Stack<N> {
    type Stream = Stream;

    fn open(&mut self, target: SocketAddr, source: Option<IpAddr>, token: u64) -> Result<Stream, String> {
        let of_its_kind = |address: &&IpAddr| address.is_ipv4() == target.is_ipv4();
        let own = source.or_else(|| self.addresses.iter().find(of_its_kind).copied());
        let from = own.ok_or_else(|| unreachable(target, None))?;
        let Some(place) = self.vacant.pop() else {
            return Err("more connections than were asked for".to_owned());
        };
        match self.begin(from, target) {
            Ok(id) => {
                self.held[place] = Some(Held { id, token, is_open: false, is_eof: false, ended: None });
                self.by_connection[id.index()] = Some(place);
                Ok(Stream(place))
            }
            Err(what) => {
                self.vacant.push(place);
                Err(what)
            }
        }
    }

    fn is_connected(&mut self, stream: &Stream) -> io::Result<bool> {
        let Some(held) = &self.held[stream.0] else { return Err(ErrorKind::NotConnected.into()) };
        match held.ended {
            None => Ok(held.is_open),
            Some(CloseReason::IdleTimeout) => Err(Errno::TIMEDOUT.into()),
            Some(_) => Err(Errno::CONNREFUSED.into()),
        }
    }

    fn read(&mut self, stream: &mut Stream, to: &mut [u8]) -> io::Result<usize> {
        let Some(held) = self.held[stream.0] else { return Err(ErrorKind::NotConnected.into()) };
        let mut read = 0;
        while read < to.len() {
            let got = self.tcp.receive(held.id, |bytes| {
                let bytes_now = bytes.len().min(to.len() - read);
                to[read..read + bytes_now].copy_from_slice(&bytes[..bytes_now]);
                (bytes_now, bytes_now)
            });
            match got {
                Some(bytes) => read += bytes,
                None => break,
            }
        }
        match (read, held.is_eof, held.ended) {
            (1.., ..) => Ok(read),
            (0, _, Some(CloseReason::Finished)) | (0, true, _) => Ok(0),
            (0, _, Some(CloseReason::IdleTimeout)) => Err(ErrorKind::TimedOut.into()),
            (0, _, Some(_)) => Err(ErrorKind::ConnectionReset.into()),
            (0, false, None) => Err(ErrorKind::WouldBlock.into()),
        }
    }

    fn write(&mut self, stream: &mut Stream, bytes: &[u8]) -> io::Result<usize> {
        let Some(held) = self.held[stream.0] else { return Err(ErrorKind::NotConnected.into()) };
        if held.ended.is_some() {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let mut piece = self.pieces.pop().unwrap_or_else(|| Piece(Vec::with_capacity(PIECE_BYTES)));
        piece.0.clear();
        piece.0.extend_from_slice(&bytes[..bytes.len().min(PIECE_BYTES)]);
        let len = piece.0.len();
        match self.tcp.send(held.id, piece) {
            Ok(()) => Ok(len),
            Err(piece) => {
                self.pieces.push(piece);
                Err(ErrorKind::WouldBlock.into())
            }
        }
    }

    fn close(&mut self, stream: Stream) {
        let Some(held) = self.held[stream.0].take() else { return };
        self.vacant.push(stream.0);
        if held.ended.is_some() {
            return;
        }
        self.by_connection[held.id.index()] = None;
        if held.is_open {
            self.tcp.close(held.id);
        } else {
            self.tcp.abort(held.id);
        }
    }

    fn wait(&mut self, wait: Wait, events: &mut Vec<Event>) -> io::Result<()> {
        let mut now = Instant::now();
        let until = now + wait.time;
        loop {
            let before = now;
            let is_busy = self.turn(events);
            now = Instant::now();
            if is_busy {
                self.idle_turns = 0;
            } else {
                self.idle += now - before;
                self.idle_turns = self.idle_turns.saturating_add(1);
            }
            if !events.is_empty() || now >= until {
                return Ok(());
            }
            // A core of its own is not slowed by this; a shared one lets the server run.
            if self.idle_turns > TURNS_BEFORE_YIELD {
                let used = host::thread_clock();
                std::thread::yield_now();
                // Not what the others used.
                self.idle += host::thread_clock().saturating_sub(used);
                now = Instant::now();
            } else {
                std::hint::spin_loop();
            }
        }
    }

    fn idle(&self) -> Duration {
        self.idle
    }

    fn finish(&mut self) {
        let until = Instant::now() + LINGER;
        let mut events = Vec::new();
        while self.tcp.connections() > 0 && Instant::now() < until {
            self.turn(&mut events);
            events.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use keyferry_nic::sim::{Net, PortOptions};

    use super::*;

    /// Nobody answers: each connection keeps its port.
    #[test]
    fn without_a_port_or_a_connection_left_it_says_what_to_do() {
        let from: IpAddr = "192.0.2.1".parse().unwrap();
        let target: SocketAddr = "192.0.2.2:443".parse().unwrap();
        let nic = Net::new().port(PortOptions::default()).remove(0);
        let Caps { mac, mtu, .. } = nic.caps();
        let addresses = vec!["192.0.2.1/24".parse().unwrap()];
        let link = keyferry_link::Config { mac, addresses, routes: Vec::new(), vlan: None, mtu };
        let limits = Limits { connections: TRIES_MAX, connect_timeout: LINGER, seed: 1 };
        let mut stack = Stack::new(nic, Link::new(link), vec![from], &limits);
        let first = stack.ports[&from];
        for _ in 0..TRIES_MAX {
            stack.begin(from, target).unwrap();
        }
        // All that are tried from here are taken.
        stack.ports.insert(from, first);
        let told = stack.begin(from, target).unwrap_err();
        assert_eq!(told, "no free port of 192.0.2.1 towards 192.0.2.2:443: give more addresses by --source");
        for _ in 0..CLOSING {
            stack.begin(from, target).unwrap();
        }
        let told = stack.begin(from, target).unwrap_err();
        assert_eq!(told, "too many connections are still closing: open fewer a second");
    }
}
