//! Scripted origins on real sockets, and an app thread with a worker reduced to what it does for it.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use keyferry_app::threads::{Changer, Idle, Plan, start_on};
use keyferry_app::{Change, Chunk, FEEDS_PER_JOB, Job, JobId, PARTS, Part, Port};
use keyferry_http::{Ends, Limits, Progress, Reader, Request};
use keyferry_upstream::{Address, Beside, Options, Tally, Upstream, run};
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

/// Longest wait for anything that has to come.
pub const LONG: Duration = Duration::from_secs(30);

/// Jobs a test may have under way.
const JOBS: usize = 64;

/// A stream of either kind.
pub trait Stream: Read + Write + Send {
    fn shut(&self);
    /// Ends it by a reset, where there is such a thing.
    fn reset(self: Box<Self>);
}

impl Stream for TcpStream {
    fn shut(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn reset(self: Box<Self>) {
        rustix::net::sockopt::set_socket_linger(&*self, Some(Duration::ZERO)).expect("it is open");
    }
}

impl Stream for UnixStream {
    fn shut(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }

    fn reset(self: Box<Self>) {
        drop(self);
    }
}

/// One connection at an origin.
pub struct Conn {
    pub stream: Box<dyn Stream>,
    /// How many came before it.
    pub number: usize,
    read: Vec<u8>,
}

/// A request as an origin has read it.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

impl Conn {
    /// So many bytes.
    pub fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.read.len() < count {
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.read.extend_from_slice(&piece[..len]),
            }
        }
        Some(self.read.drain(..count).collect())
    }

    /// The next request; `None`: the connection has ended.
    pub fn request(&mut self) -> Option<Seen> {
        let mut seen = self.head()?;
        let length = seen.field("content-length").map_or(0, |value| value.parse().expect("a length"));
        assert_eq!(seen.field("transfer-encoding"), None, "bodies are sent by their length");
        seen.body = self.bytes(length)?;
        Some(seen)
    }

    /// The body of a request that is chunked.
    pub fn chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = Vec::new();
            while !line.ends_with(b"\r\n") {
                line.extend(self.bytes(1)?);
            }
            let size = std::str::from_utf8(&line).expect("a line of text").trim();
            let size = usize::from_str_radix(size, 16).expect("a size");
            body.extend(self.bytes(size)?);
            assert_eq!(self.bytes(2)?, b"\r\n");
            if size == 0 {
                return Some(body);
            }
        }
    }

    /// The next request, without its body; `None`: the connection has ended.
    pub fn head(&mut self) -> Option<Seen> {
        let end = loop {
            if let Some(end) = self.read.windows(4).position(|it| it == b"\r\n\r\n") {
                break end + 4;
            }
            let mut piece = [0; 4096];
            match self.stream.read(&mut piece) {
                Ok(0) | Err(_) => return None,
                Ok(len) => self.read.extend_from_slice(&piece[..len]),
            }
        };
        let head = String::from_utf8(self.bytes(end)?).expect("a head of text");
        let mut lines = head.lines();
        let line = lines.next().expect("a request line").to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').expect("a field");
            (name.to_owned(), value.trim().to_owned())
        };
        let fields: Vec<_> = lines.filter(|line| !line.is_empty()).map(field).collect();
        Some(Seen { line, fields, body: Vec::new() })
    }

    pub fn say(&mut self, bytes: impl AsRef<[u8]>) {
        // Who has hung up hears nothing.
        let _ = self.stream.write_all(bytes.as_ref());
    }
}

/// An origin that deals with each connection as a script has it.
pub struct Origin {
    pub address: Address,
    pub connections: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Origin {
    /// Over TCP.
    pub fn tcp(script: impl Fn(Conn) + Send + Sync + 'static) -> Origin {
        Origin::on(TcpListener::bind("127.0.0.1:0").expect("a port is free"), script)
    }

    /// Over a port that was there before.
    pub fn on(listener: TcpListener, script: impl Fn(Conn) + Send + Sync + 'static) -> Origin {
        let address = Address::Tcp(listener.local_addr().expect("it listens"));
        Origin::start(address, script, move || Box::new(listener.accept().expect("a connection").0))
    }

    /// Over a Unix socket.
    pub fn unix(path: &Path, script: impl Fn(Conn) + Send + Sync + 'static) -> Origin {
        let listener = UnixListener::bind(path).expect("the folder is writable");
        let address = Address::Unix(path.to_owned());
        Origin::start(address, script, move || Box::new(listener.accept().expect("a connection").0))
    }

    fn start(
        address: Address,
        script: impl Fn(Conn) + Send + Sync + 'static,
        accept: impl Fn() -> Box<dyn Stream> + Send + 'static,
    ) -> Origin {
        let (over, connections) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count, script) = (Arc::clone(&over), Arc::clone(&connections), Arc::new(script));
        let acceptor = std::thread::spawn(move || {
            loop {
                let stream = accept();
                if until.load(Ordering::SeqCst) {
                    return;
                }
                let number = count.fetch_add(1, Ordering::SeqCst);
                let script = Arc::clone(&script);
                std::thread::spawn(move || script(Conn { stream, number, read: Vec::new() }));
            }
        });
        Origin { address, connections, over, acceptor: Some(acceptor) }
    }

    pub fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = match &self.address {
            Address::Tcp(address) => TcpStream::connect(address).map(drop),
            Address::Unix(path) => UnixStream::connect(path).map(drop),
        };
        let _ = self.acceptor.take().map(JoinHandle::join);
    }
}

/// A port nobody listens on: bound, so that nobody else gets it while this lives.
pub struct ClosedPort(OwnedFd);

impl ClosedPort {
    pub fn new() -> ClosedPort {
        let held = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&held, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port is free");
        ClosedPort(held)
    }

    pub fn address(&self) -> Address {
        let address = getsockname(&self.0).expect("it is bound");
        Address::Tcp(address.try_into().expect("an address of IP"))
    }

    pub fn listen(self) -> TcpListener {
        self.listen_for(16)
    }

    /// One connection more than `backlog` may wait to be accepted.
    pub fn listen_for(self, backlog: i32) -> TcpListener {
        listen(&self.0, backlog).expect("the port is its own");
        self.0.into()
    }
}

/// How a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Whole { keep_alive: bool },
    Failed { started: bool },
    Cancelled,
}

/// A reply as it came.
#[derive(Debug)]
pub struct Came {
    pub bytes: Vec<u8>,
    pub ended: Ended,
}

impl Came {
    pub fn status(&self) -> u16 {
        let text = std::str::from_utf8(self.bytes.get(9..12).unwrap_or_default()).unwrap_or_default();
        text.parse().unwrap_or_else(|_| panic!("no reply: {}", String::from_utf8_lossy(&self.bytes)))
    }

    fn head_bytes(&self) -> usize {
        self.bytes.windows(4).position(|it| it == b"\r\n\r\n").expect("a head") + 4
    }

    pub fn head(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.head_bytes()]).expect("a head of text")
    }

    pub fn field(&self, name: &str) -> Option<&str> {
        let fields = self.head().lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.clone().find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The body, out of its chunks; panics if it is not whole.
    pub fn body(&self) -> Vec<u8> {
        assert!(matches!(self.ended, Ended::Whole { .. }), "{:?} {}", self.ended, self.head());
        let body = &self.bytes[self.head_bytes()..];
        match (self.field("content-length"), self.field("transfer-encoding")) {
            (Some(length), None) => {
                assert_eq!(length.parse(), Ok(body.len()));
                body.to_vec()
            }
            (None, Some("chunked")) => dechunk(body),
            (None, None) => body.to_vec(),
            framing => panic!("{framing:?}"),
        }
    }
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((used, size))) = httparse::parse_chunk_size(body) else {
            panic!("half a chunk")
        };
        let size = size as usize;
        body = &body[used..];
        out.extend_from_slice(&body[..size]);
        assert_eq!(&body[size..size + 2], b"\r\n");
        body = &body[size + 2..];
        if size == 0 {
            assert!(body.is_empty(), "bytes behind the last chunk");
            return out;
        }
    }
}

/// An app thread with one upstream, and its one worker.
pub struct Proxy {
    port: Port<Upstream>,
    changer: Changer,
    pub tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    next: u64,
    /// What has come of jobs nobody has asked for yet.
    came: HashMap<u64, Came>,
    open: HashMap<u64, Vec<u8>>,
    /// Chunks given, and back.
    chunks: (usize, usize),
    /// Of them, those of bodies that are not taken.
    untaken: usize,
}

pub fn request(bytes: &[u8]) -> Box<Request> {
    let mut request = Box::new(Request::default());
    let fed = Reader::new().feed(bytes, &mut request, &Limits::default());
    assert_eq!(fed, Ok((bytes.len(), Progress::Complete)), "{}", String::from_utf8_lossy(bytes));
    request
}

/// One whose body is still to come.
pub fn streaming(head: &str) -> Box<Request> {
    let mut request = Box::new(Request::default());
    let bytes = format!("{head}\r\n\r\n").into_bytes();
    let fed = Reader::new().feed_or_stream(&bytes, &mut request, &Limits::default(), |_| true);
    assert_eq!(fed, Ok((bytes.len(), Progress::Streams)), "{head}");
    request
}

pub fn get(target: &str) -> Box<Request> {
    request(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

/// Of a client of this port.
pub fn from(mut request: Box<Request>, port: u16) -> Box<Request> {
    let (client, local) =
        (SocketAddr::from(([192, 0, 2, 7], port)), SocketAddr::from(([198, 51, 100, 1], 443)));
    request.came_over(Ends { client, local });
    request
}

/// The options of an upstream of these servers whose time-outs never come.
pub fn patient(servers: &[&Origin]) -> Options {
    of(servers.iter().map(|origin| origin.address.clone()).collect())
}

pub fn of(servers: Vec<Address>) -> Options {
    Options {
        idle_timeout: LONG,
        queue_timeout: LONG,
        connect_timeout: LONG,
        reply_timeout: LONG,
        body_timeout: LONG,
        out: LONG,
        ..Options::new("test", servers)
    }
}

impl Proxy {
    pub fn start(options: Options) -> Proxy {
        let stop = Arc::new(AtomicBool::new(false));
        let plan =
            Plan { cores: vec![None], workers: 1, jobs_per_worker: JOBS, slots: None, idle: Idle::Sleep };
        let tally = Arc::new(Tally::default());
        let make = || {
            let upstream = Upstream::new(options.clone(), Arc::clone(&tally));
            let beside = Beside::new(std::slice::from_ref(&upstream), Arc::clone(&tally));
            (upstream, move |turns| run(turns, beside, |_| ()))
        };
        let (mut ports, threads) = start_on(&plan, make, &stop).expect("threads start");
        let port = ports.pop().expect("one worker");
        let (came, open) = (HashMap::new(), HashMap::new());
        Proxy {
            changer: port.changer().expect("it is on a thread"),
            port,
            tally: Arc::clone(&tally),
            stop,
            threads,
            next: 0,
            came,
            open,
            chunks: (0, 0),
            untaken: 0,
        }
    }

    /// Puts another upstream in the place of the one there is, and waits until it is there.
    pub fn change_to(&mut self, options: Options) {
        let tally = Arc::clone(&self.tally);
        let change = Change::of(move |upstream: &mut Upstream| {
            upstream.retire();
            *upstream = Upstream::new(options, tally);
            upstream.start();
        });
        self.changer.tell(vec![change]);
        let deadline = Instant::now() + LONG;
        while !self.changer.are_taken() {
            assert!(Instant::now() < deadline, "the thread takes no change");
            std::thread::yield_now();
        }
    }

    /// Submits a request.
    pub fn submit(&mut self, request: Box<Request>) -> u64 {
        self.next += 1;
        let id = self.next;
        self.chunks.0 += 1;
        assert!(self.port.submit(Job { id: JobId(id), request, chunk: Chunk::new() }).is_ok());
        self.port.flush();
        self.open.insert(id, Vec::new());
        id
    }

    /// Gives a job the next bytes of its request's body, as soon as those before are taken.
    pub fn feed(&mut self, id: u64, bytes: &[u8], end: bool) {
        let deadline = Instant::now() + LONG;
        while !self.may_feed() {
            assert!(Instant::now() < deadline, "the body is not taken");
            self.look(true);
        }
        (self.chunks.0, self.untaken) = (self.chunks.0 + 1, self.untaken + 1);
        let mut chunk = Chunk::new();
        chunk.fill(|room| {
            room[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        });
        self.port.feed(JobId(id), chunk, end);
        self.port.flush();
    }

    /// Whether more of a body may be given.
    pub fn may_feed(&self) -> bool {
        self.untaken < FEEDS_PER_JOB
    }

    /// A client goes away.
    pub fn cancel(&mut self, id: u64) {
        self.port.cancel(JobId(id));
        self.port.flush();
        let bytes = self.open.remove(&id).unwrap_or_default();
        self.came.insert(id, Came { bytes, ended: Ended::Cancelled });
    }

    /// Takes what has come; a chunk is given back at once if `reads`.
    pub fn look(&mut self, reads: bool) {
        let mut parts = ArrayVec::<Part, PARTS>::new();
        self.port.poll(&mut parts);
        if parts.is_empty() {
            std::thread::sleep(Duration::from_micros(200));
        }
        for part in parts {
            match part {
                Part::Spare(_) => self.chunks.1 += 1,
                Part::Switched { .. } => {}
                Part::Took { .. } => {
                    (self.chunks.1, self.untaken) = (self.chunks.1 + 1, self.untaken - 1);
                }
                Part::Cancelled(_) => {}
                Part::Failed { id: JobId(id), started, .. } => {
                    // Of a client that is gone nobody asks.
                    let Some(bytes) = self.open.remove(&id) else { continue };
                    self.came.insert(id, Came { bytes, ended: Ended::Failed { started } });
                }
                Part::Reply { id: JobId(id), chunk, end } => {
                    self.chunks.1 += 1;
                    let Some(bytes) = self.open.get_mut(&id) else { continue };
                    bytes.extend_from_slice(chunk.bytes());
                    if let Some(end) = end {
                        let bytes = self.open.remove(&id).expect("it is open");
                        let keep_alive = end.keep_alive;
                        self.came.insert(id, Came { bytes, ended: Ended::Whole { keep_alive } });
                    } else if reads {
                        self.chunks.0 += 1;
                        self.port.more(JobId(id), chunk);
                        self.port.flush();
                    }
                }
            }
        }
    }

    /// Bytes that have come of a reply.
    pub fn so_far(&self, id: u64) -> usize {
        self.open.get(&id).map_or(0, Vec::len)
    }

    /// Waits for so many bytes of a reply; returns all that have come.
    pub fn wait_for(&mut self, id: u64, bytes: usize) -> Vec<u8> {
        let deadline = Instant::now() + LONG;
        while self.so_far(id) < bytes {
            assert!(Instant::now() < deadline, "no more comes: {:?}", self.open.get(&id));
            self.look(true);
        }
        self.open[&id].clone()
    }

    /// Gives a job another chunk.
    pub fn more(&mut self, id: u64) {
        self.chunks.0 += 1;
        self.port.more(JobId(id), Chunk::new());
        self.port.flush();
    }

    /// The whole of a reply.
    pub fn wait(&mut self, id: u64) -> Came {
        let deadline = Instant::now() + LONG;
        loop {
            if let Some(came) = self.came.remove(&id) {
                return came;
            }
            assert!(Instant::now() < deadline, "no reply: {:?}", self.open.get(&id));
            self.look(true);
        }
    }

    /// Submits a request and waits for its reply.
    pub fn ask(&mut self, request: Box<Request>) -> Came {
        let id = self.submit(request);
        self.wait(id)
    }

    /// Waits until it is so.
    pub fn until(&mut self, what: &str, is_so: impl Fn(&Tally) -> bool) {
        let deadline = Instant::now() + LONG;
        while !is_so(&self.tally) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.tally);
            self.look(true);
        }
    }

    pub fn count(&self, name: &str) -> u64 {
        self.tally.value(&format!("upstream_{name}"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Every chunk comes back.
            let deadline = Instant::now() + LONG;
            while self.chunks.0 > self.chunks.1 && self.open.is_empty() {
                assert!(Instant::now() < deadline, "chunks are missing");
                self.look(false);
            }
        }
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the app thread failed");
        }
    }
}

/// A queue of requests an origin has seen, for the test to look at.
pub struct Log(mpsc::Receiver<Seen>);

/// A log and who writes it.
pub fn log() -> (Arc<Mutex<mpsc::Sender<Seen>>>, Log) {
    let (sender, receiver) = mpsc::channel();
    (Arc::new(Mutex::new(sender)), Log(receiver))
}

impl Log {
    pub fn next(&self) -> Seen {
        self.0.recv_timeout(LONG).expect("the origin has seen a request")
    }
}
