//! Links to the other nodes of this machine: who connects to whom, the exchange of a queue pair's memory, and the
//! news that a peer is gone.
//!
//! One thread a peer, off the packet path, because the exchange over a Unix socket blocks. Of two nodes the one
//! whose name sorts first connects, the other accepts; the stream then stays open, and its end is how the death of
//! the peer's process is noticed. Each life of a link gets fresh randomness and so fresh keys.

use std::collections::HashMap;
use std::io::Read;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use anyhow::Context;
use crossbeam_queue::ArrayQueue;
use keyferry_decide::NodeId;
use keyferry_fabric::shm::{self, Hello};
use keyferry_fabric::{Fence, Limits, QueuePair};
use keyferry_lease::{Channel, Incarnation, PairSecret, Role};
use keyferry_worker::mailbox::{Connect, Mail};
use tracing::{info, warn};

use crate::config::{Peer, files};

/// What both sides must speak; a peer with another version is refused, and both are named.
const VERSION: u32 = 1;

/// How long an exchange may take.
const EXCHANGE: Duration = Duration::from_secs(2);

/// First and last pause between attempts to reach a peer.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How often a waiting thread looks whether the node stops.
const LOOK: Duration = Duration::from_millis(100);

/// Stands between a worker and a queue pair just made. What tests of failures put there drops, repeats or forges
/// messages; a node puts nothing there.
pub type Between = fn(Box<dyn QueuePair>) -> Box<dyn QueuePair>;

/// What every link needs of this node.
pub struct Local {
    /// This node's name.
    pub node: String,
    /// When this process started, in ns: tells its lives apart.
    pub incarnation: u64,
    /// Sizes of the queue pairs.
    pub limits: Limits,
    /// The workers' mailboxes.
    pub mailboxes: Vec<Arc<ArrayQueue<Mail>>>,
    /// What each queue pair goes through on its way to its worker.
    pub between: Between,
    /// The node ends.
    pub stop: Arc<AtomicBool>,
}

impl Local {
    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn hello(&self) -> anyhow::Result<Hello> {
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).ok().context("the random number generator failed")?;
        Ok(Hello {
            version: VERSION,
            node: self.node.clone(),
            incarnation: self.incarnation,
            random,
            workers: self.mailboxes.len() as u16,
            limits: self.limits,
        })
    }
}

/// One peer as its thread sees it.
struct Link {
    name: String,
    socket: PathBuf,
    secret: PairSecret,
    role: Role,
}

/// Starts listening and one thread for each peer. Returns their handles; they end when `local.stop` is set.
///
/// # Errors
/// The socket cannot be listened on, or a pair key cannot be read; the sentence says what to do.
pub fn start(
    local: Local,
    socket: &Path,
    peers: &[Peer],
) -> anyhow::Result<Vec<std::thread::JoinHandle<()>>> {
    let local = Arc::new(local);
    let mut accepting = HashMap::new();
    let mut threads = Vec::new();
    for peer in peers {
        let role = if local.node < peer.name { Role::First } else { Role::Second };
        let secret = files::pair_key(&peer.key)?;
        let link = Link { name: peer.name.clone(), socket: peer.socket.clone(), secret, role };
        let (sender, receiver) = channel();
        if role == Role::Second {
            accepting.insert(peer.name.clone(), sender);
        }
        let local = Arc::clone(&local);
        let thread =
            std::thread::Builder::new().name(format!("peer {}", peer.name)).spawn(move || match link.role {
                Role::First => connect(&local, &link),
                Role::Second => serve(&local, &link, &receiver),
            });
        threads.push(thread.context("cannot start a thread for a peer")?);
    }
    if !accepting.is_empty() {
        let listener = crate::socket::listen(socket)?;
        listener.set_nonblocking(true)?;
        let thread = std::thread::Builder::new()
            .name("peer listener".into())
            .spawn(move || accept(&local, &listener, &accepting));
        threads.push(thread.context("cannot start the thread that listens for peers")?);
    }
    Ok(threads)
}

/// Accepts peers and hands each stream to its thread. A peer says its name in the first line.
fn accept(local: &Local, listener: &UnixListener, peers: &HashMap<String, Sender<UnixStream>>) {
    while !local.stops() {
        match listener.accept() {
            Ok((stream, _)) => match read_name(&stream) {
                Some(name) => match peers.get(&name) {
                    Some(sender) => {
                        let _ = sender.send(stream);
                    }
                    None => warn!(peer = name, "a node that is no [[peer]] of this one tried to connect"),
                },
                None => warn!("a connection to the fabric's socket did not say its name"),
            },
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// Longest node name on the wire.
const NAME_MAX: usize = 64;

fn read_name(mut stream: &UnixStream) -> Option<String> {
    stream.set_nonblocking(false).ok()?;
    stream.set_read_timeout(Some(EXCHANGE)).ok()?;
    let mut len = [0];
    stream.read_exact(&mut len).ok()?;
    let mut name = vec![0; usize::from(len[0]).min(NAME_MAX)];
    stream.read_exact(&mut name).ok()?;
    String::from_utf8(name).ok()
}

fn say_name(mut stream: &UnixStream, name: &str) -> std::io::Result<()> {
    use std::io::Write;
    let name = &name.as_bytes()[..name.len().min(NAME_MAX)];
    stream.write_all(&[name.len() as u8])?;
    stream.write_all(name)
}

/// The first node: connects, again and again.
fn connect(local: &Local, link: &Link) {
    let mut pause = BACKOFF.0;
    while !local.stops() {
        let stream = UnixStream::connect(&link.socket).and_then(|stream| {
            say_name(&stream, &local.node)?;
            Ok(stream)
        });
        if let Ok(stream) = stream
            && run_link(local, link, stream)
        {
            pause = BACKOFF.0;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// The second node: takes the stream the listener accepted last.
fn serve(local: &Local, link: &Link, streams: &Receiver<UnixStream>) {
    while !local.stops() {
        match streams.recv_timeout(LOOK) {
            Ok(stream) => {
                run_link(local, link, stream);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// One life of a link: exchange, hand the queue pairs to their workers, wait for the peer's end. Returns whether
/// the link came to life.
fn run_link(local: &Local, link: &Link, stream: UnixStream) -> bool {
    let fences = match establish(local, link, &stream) {
        Ok(fences) => fences,
        Err(error) => {
            warn!(peer = link.name, "no queue pairs: {error:#}");
            return false;
        }
    };
    info!(peer = link.name, queue_pairs = fences.len(), "connected");
    watch(local, stream, &fences);
    for fence in &fences {
        fence.fail();
    }
    if !local.stops() {
        warn!(peer = link.name, "the peer is gone; its leases end and requests run here");
    }
    true
}

fn establish(local: &Local, link: &Link, stream: &UnixStream) -> anyhow::Result<Vec<Arc<dyn Fence>>> {
    let hello = local.hello()?;
    let exchange = shm::exchange(stream, &hello, EXCHANGE)?;
    anyhow::ensure!(
        exchange.peer.node == link.name,
        "it calls itself `{}`, this node's [[peer]] is `{}`: check both configurations",
        exchange.peer.node,
        link.name
    );
    let ours = (hello.random, hello.incarnation);
    let theirs = (exchange.peer.random, exchange.peer.incarnation);
    let (first, second) = if link.role == Role::First { (ours, theirs) } else { (theirs, ours) };
    let mut fences = Vec::new();
    for pair in exchange.pairs {
        let life =
            Incarnation { random: [first.0, second.0], incarnation: [first.1, second.1], pair: pair.index };
        let receives = pair.queue_pair.limits().receives as u32;
        let channel = Channel::new(&link.secret, &life, link.role, receives);
        let connect = Connect {
            queue_pair: (local.between)(Box::new(pair.queue_pair)),
            channel,
            node: NodeId::of(&link.name),
        };
        let mailbox = &local.mailboxes[usize::from(pair.local_worker)];
        fences.push(pair.fence);
        if mailbox.push(Mail::Peer(Box::new(connect))).is_err() {
            anyhow::bail!("worker {} does not read its mailbox", pair.local_worker);
        }
    }
    Ok(fences)
}

/// Waits until the peer's process ends, a queue pair fails, or the node stops.
fn watch(local: &Local, mut stream: UnixStream, fences: &[Arc<dyn Fence>]) {
    let _ = stream.set_read_timeout(Some(LOOK));
    let mut byte = [0];
    while !local.stops() && !fences.iter().any(|fence| fence.failed()) {
        match stream.read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if is_time_out(&error) => {}
            Err(_) => return,
        }
    }
}

fn is_time_out(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}
