//! What lending a request adds to its latency: two processes, each with one spinning worker on a core of its own,
//! application inside, queue pairs over shared memory. Lent and local requests alternate on one connection.
//!
//! Timed from the request's packet being on the wire to the reply's packet being on it. The last line is
//! `bench lease: added_us_p50=.. added_us_p99=.. local_us_p50=.. lent_us_p50=..`.

mod harness;

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use core_affinity::CoreId;
use harness::client::{self, Client};
use harness::node::{self, MESSAGE_BYTES, Node};
use keyferry_app::synthetic;
use keyferry_decide::{NodeId, Policy};
use keyferry_fabric::{Limits, QueuePair as _, shm};
use keyferry_lease::{Channel, Incarnation, PairSecret, Role};
use keyferry_nic::{BURST, Nic, Packet as _};
use keyferry_time::Time;
use keyferry_worker::mailbox::{Connect, Mail};
use keyferry_worker::peer::SLOT_BYTES;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

const LENT: &[u8] =
    b"GET /?bytes=1024 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";
const LOCAL: &[u8] =
    b"GET /?bytes=1024&lend=0 HTTP/1.1\r\nHost: bench.test\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n";

/// Requests of each kind; a tenth more warm up.
const REQUESTS: usize = 50_000;

/// A reply takes longer than this only if something is broken.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("--helper") {
        let socket = arguments.next().expect("the socket's path");
        let id = arguments.next().and_then(|core| core.parse().ok()).expect("the core");
        core_affinity::set_for_current(CoreId { id });
        return helper(&UnixStream::connect(socket).expect("the lender listens"));
    }
    // Asked before pinning, which a child inherits: afterwards there is only one.
    let cores = core_affinity::get_core_ids().expect("the cores can be asked for");
    assert!(cores.len() >= 2, "this bench needs two cores");
    core_affinity::set_for_current(cores[0]);
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("lease.sock");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let mut child = spawn(&socket, cores[1]);
    let (stream, _) = listener.accept().expect("the helper connects");
    let (local, lent) = lender(&stream);
    drop(stream);
    let _ = child.wait();
    report(local, lent);
}

fn spawn(socket: &Path, core: CoreId) -> std::process::Child {
    let itself = std::env::current_exe().expect("this program");
    let core = core.id.to_string();
    Command::new(itself).arg("--helper").arg(socket).arg(core).spawn().expect("a second process")
}

/// Exchanges memory and keys with the other process and hands the queue pair to the worker.
fn connect(node: &Node, stream: &UnixStream, role: Role) {
    let limits = Limits {
        message_bytes_max: MESSAGE_BYTES,
        receives: 256,
        posted_max: 512,
        slots_bytes: 64 * SLOT_BYTES,
        staging_bytes: 64 * SLOT_BYTES,
    };
    let (endpoint, ours) = shm::prepare(limits).expect("memory");
    pass(stream, &ours);
    let (queue_pair, _) = endpoint.connect(take(stream)).expect("the other side takes part");
    let life = Incarnation { random: [[1; 32], [2; 32]], incarnation: [1, 2], pair: 0 };
    let receives = queue_pair.limits().receives as u32;
    let channel = Channel::new(&PairSecret::new([7; 32]), &life, role, receives);
    let connect = Connect { queue_pair: Box::new(queue_pair), channel, node: NodeId::of("peer") };
    assert!(node.mailbox.push(Mail::Peer(Box::new(connect))).is_ok(), "an empty mailbox has room");
}

/// Passes memory to the other process.
fn pass(stream: &UnixStream, memory: &OwnedFd) {
    let fds = [memory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).expect("passed");
}

/// Takes what the other process passes.
fn take(stream: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC).expect("taken");
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = control.drain().next() else {
        panic!("no descriptor")
    };
    fds.next().expect("a descriptor")
}

/// The other process: turns its worker until the lender is gone.
fn helper(stream: &UnixStream) {
    let mut node = node::node(16, Policy::Never);
    connect(&node, stream, Role::Second);
    stream.set_nonblocking(true).expect("a socket can be non-blocking");
    let start = Instant::now();
    loop {
        for _ in 0..100_000 {
            node.worker.turn(Time(start.elapsed().as_nanos() as u64));
        }
        if matches!(std::io::Read::read(&mut &*stream, &mut [0]), Ok(0)) {
            return;
        }
    }
}

/// This process: alternates local and lent requests. Returns their latencies in us.
fn lender(stream: &UnixStream) -> (Vec<f64>, Vec<f64>) {
    let mut node = node::node(16, Policy::Always);
    connect(&node, stream, Role::First);
    let start = Instant::now();
    let mut client = open(&mut node, start);
    let (mut local, mut lent) = (Vec::new(), Vec::new());
    for number in 0..REQUESTS + REQUESTS / 10 {
        let (here, there) = (round_trip(&mut node, &mut client, LOCAL, start), {
            round_trip(&mut node, &mut client, LENT, start)
        });
        if number >= REQUESTS / 10 {
            local.push(here);
            lent.push(there);
        }
    }
    let counters = node.worker.snapshot();
    assert!(counters.replies_lent >= REQUESTS as u64, "the helper sealed: {counters:?}");
    assert_eq!(counters.leases_broken + counters.leases_failed, 0, "no lease went wrong");
    (local, lent)
}

/// One connection, its handshake done.
fn open(node: &mut Node, start: Instant) -> Client {
    let (mut client, syn) = Client::new(0, &client::config());
    node::inject(&mut node.wire, &client::arp(0));
    node::inject(&mut node.wire, &syn);
    let mut out = Vec::new();
    while !client.is_ready() || node.worker.snapshot().peers_ready == 0 {
        turn(node, start);
        deliver(node, &mut client, &mut out, &mut Vec::new());
    }
    for _ in 0..1_000 {
        turn(node, start);
        deliver(node, &mut client, &mut out, &mut Vec::new());
    }
    client
}

fn turn(node: &mut Node, start: Instant) {
    let now = Time(start.elapsed().as_nanos() as u64);
    node.net.advance(now.0);
    node.worker.turn(now);
    node.net.advance(now.0);
}

fn deliver(node: &mut Node, client: &mut Client, out: &mut Vec<Vec<u8>>, plaintext: &mut Vec<u8>) -> bool {
    let mut packets = ArrayVec::<_, BURST>::new();
    node.wire.rx_burst(&mut packets);
    for packet in packets {
        out.extend(client::arp_reply(packet.bytes()));
        if packet.bytes()[12..14] == [8, 0] {
            client.take(packet.bytes(), out, plaintext);
        }
    }
    for frame in out.drain(..) {
        node::inject(&mut node.wire, &frame);
    }
    !plaintext.is_empty()
}

fn round_trip(node: &mut Node, client: &mut Client, request: &[u8], start: Instant) -> f64 {
    let frame = client.request(request);
    node::inject(&mut node.wire, &frame);
    let mut packets = ArrayVec::<_, BURST>::new();
    let began = Instant::now();
    while node.wire.rx_burst(&mut packets) == 0 {
        turn(node, start);
        assert!(began.elapsed() < PATIENCE, "a reply: {:?}", node.worker.snapshot());
    }
    let took = began.elapsed();
    let (mut out, mut plaintext) = (Vec::new(), Vec::new());
    for packet in packets {
        out.extend(client::arp_reply(packet.bytes()));
        if packet.bytes()[12..14] == [8, 0] {
            client.take(packet.bytes(), &mut out, &mut plaintext);
        }
    }
    while plaintext.is_empty() {
        turn(node, start);
        deliver(node, client, &mut out, &mut plaintext);
    }
    let mut body = [0; 1024];
    synthetic::fill(0, 0, &mut body);
    assert!(plaintext.ends_with(&body), "the body is the pattern, whoever sealed it");
    took.as_nanos() as f64 / 1_000.0
}

fn report(mut local: Vec<f64>, mut lent: Vec<f64>) {
    local.sort_by(f64::total_cmp);
    lent.sort_by(f64::total_cmp);
    let at = |samples: &[f64], share: f64| samples[(samples.len() as f64 * share) as usize];
    println!(
        "bench lease: added_us_p50={:.2} added_us_p99={:.2} local_us_p50={:.2} lent_us_p50={:.2} local_us_p99={:.2} \
         lent_us_p99={:.2}",
        at(&lent, 0.5) - at(&local, 0.5),
        at(&lent, 0.99) - at(&local, 0.99),
        at(&local, 0.5),
        at(&lent, 0.5),
        at(&local, 0.99),
        at(&lent, 0.99),
    );
}
