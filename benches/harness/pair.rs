//! Two processes, each with one spinning worker on a core of its own, and a queue pair over shared memory between them.
//! The first one drives clients and measures; the second one only turns its worker.

use std::io::{IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Instant;

use core_affinity::CoreId;
use crossbeam_queue::ArrayQueue;
use keyferry_decide::NodeId;
use keyferry_fabric::{Limits, QueuePair as _, shm};
use keyferry_lease::{Channel, Incarnation, PairSecret, Role};
use keyferry_worker::mailbox::{Connect, Mail};
use keyferry_worker::peer::SLOT_BYTES;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};

use super::node::{MESSAGE_BYTES, Node};

/// What the nodes call each other.
pub const FIRST: &str = "first";
/// What the nodes call each other.
pub const SECOND: &str = "second";

/// The argument that makes a process the second one.
const SECOND_PROCESS: &str = "--second";

/// Turns of the second worker between looks at whether the first is still there.
const TURNS: usize = 100_000;

/// The second process, as the first one holds it.
pub struct Pair {
    stream: UnixStream,
    child: Child,
}

impl Pair {
    /// Starts this program a second time. There this turns the worker of `node` until the first process is gone, and does
    /// not return.
    pub fn begin(node: fn() -> Node) -> Pair {
        let mut arguments = std::env::args().skip(1);
        if arguments.next().as_deref() == Some(SECOND_PROCESS) {
            // It may be standing still when the first one ends.
            set_parent_process_death_signal(Some(Signal::KILL)).expect("a signal");
            let socket = arguments.next().expect("the socket's path");
            let id = arguments.next().and_then(|core| core.parse().ok()).expect("the core");
            core_affinity::set_for_current(CoreId { id });
            second(&UnixStream::connect(socket).expect("the first process listens"), node());
            std::process::exit(0);
        }
        // Asked before pinning, which a child inherits: afterwards there is only one.
        let cores = core_affinity::get_core_ids().expect("the cores can be asked for");
        assert!(cores.len() >= 2, "this bench needs two cores");
        core_affinity::set_for_current(cores[0]);
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("pair.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        let itself = std::env::current_exe().expect("this program");
        let core = cores[1].id.to_string();
        let mut second = Command::new(itself);
        let child = second.arg(SECOND_PROCESS).arg(socket).arg(core).spawn().expect("a second process");
        let (stream, _) = listener.accept().expect("the second process connects");
        Pair { stream, child }
    }

    /// Connects this process' node to the other's.
    pub fn connect(&self, node: &Node) {
        connect(&node.mailbox, &self.stream, Role::First);
    }

    /// The second process stands still from now on.
    pub fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("a child can be stopped");
    }

    /// And goes on.
    pub fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("a child can be continued");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // It goes once it sees this; nothing is left to do about one that does not.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.thaw();
        let _ = self.child.wait();
    }
}

/// Connects two nodes of this process.
pub fn connect_both(first: &Node, second: &Node) {
    let (near, far) = UnixStream::pair().expect("two sockets");
    let mailbox = &second.mailbox;
    // Each waits for what the other passes.
    std::thread::scope(|scope| {
        scope.spawn(move || connect(mailbox, &far, Role::Second));
        connect(&first.mailbox, &near, Role::First);
    });
}

fn second(stream: &UnixStream, mut node: Node) {
    connect(&node.mailbox, stream, Role::Second);
    stream.set_nonblocking(true).expect("a socket can be non-blocking");
    let start = Instant::now();
    loop {
        for _ in 0..TURNS {
            node.turn(start);
        }
        if matches!(Read::read(&mut &*stream, &mut [0]), Ok(0)) {
            return;
        }
    }
}

/// Exchanges memory with the other side and hands the queue pair to the worker.
fn connect(mailbox: &ArrayQueue<Mail>, stream: &UnixStream, role: Role) {
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
    let peer = NodeId::of(if role == Role::First { SECOND } else { FIRST });
    let connect = Connect { queue_pair: Box::new(queue_pair), channel, node: peer, moved: Arc::default() };
    assert!(mailbox.push(Mail::Peer(Box::new(connect))).is_ok(), "an empty mailbox has room");
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
