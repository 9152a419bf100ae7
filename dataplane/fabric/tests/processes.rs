//! Two processes, and one of them killed. The other process is this executable again, told so by its environment,
//! with the socket as its standard input.

use std::io::{ErrorKind, IoSlice, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;

use arrayvec::ArrayVec;
use keyferry_fabric::{BURST, Completion, Fence, Limits, PostError, QueuePair, State, WrId, shm};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

const PEER: &str = "KEYFERRY_FABRIC_TEST_PEER";
const LIMITS: Limits = Limits {
    message_bytes_max: 512,
    receives: 32,
    posted_max: 64,
    slots_bytes: 1 << 16,
    staging_bytes: 1 << 16,
};
const MESSAGES: u32 = 20_000;

/// Both processes do the same: each passes its memory over the socket and takes the other's.
fn connect(stream: &UnixStream) -> (shm::QueuePair, Arc<dyn Fence>) {
    let (endpoint, ours) = shm::prepare(LIMITS).expect("memory");
    pass(stream, &ours);
    endpoint.connect(take(stream)).expect("connected")
}

fn pass(stream: &UnixStream, fd: &OwnedFd) {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    sendmsg(stream, &[IoSlice::new(&[0])], &mut control, SendFlags::empty()).expect("passed");
}

fn take(stream: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut control, RecvFlags::CMSG_CLOEXEC).expect("taken");
    let Some(RecvAncillaryMessage::ScmRights(mut fds)) = control.drain().next() else {
        panic!("a descriptor")
    };
    fds.next().expect("a descriptor")
}

/// The other process: sends each message back and, before it, WRITEs it into the slots. Ends when the socket does.
#[test]
fn peer_process() {
    if std::env::var_os(PEER).is_none() {
        return;
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("a socket");
    let mut stream = UnixStream::from(socket);
    let mut queue_pair = connect(&stream).0;
    stream.set_nonblocking(true).expect("nonblocking");
    let mut completions = ArrayVec::<_, BURST>::new();
    loop {
        queue_pair.poll(&mut completions);
        if completions.is_empty() {
            match stream.read(&mut [0]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                _ => return,
            }
        }
        for completion in completions.drain(..) {
            if let Completion::Message(received) = completion {
                let message = queue_pair.message(&received).to_vec();
                queue_pair.repost(received);
                queue_pair.staging()[..message.len()].copy_from_slice(&message);
                queue_pair.write(WrId(0), 0..message.len(), 64, None).expect("written");
                queue_pair.send(WrId(1), &message).expect("sent");
            }
        }
    }
}

/// Polls until one message has come.
fn receive(queue_pair: &mut shm::QueuePair) -> Vec<u8> {
    let mut completions = ArrayVec::new();
    loop {
        queue_pair.poll(&mut completions);
        for completion in completions.drain(..) {
            match completion {
                Completion::Message(received) => {
                    let message = queue_pair.message(&received).to_vec();
                    queue_pair.repost(received);
                    return message;
                }
                Completion::Posted(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(queue_pair.state(), State::Ready, "the peer gave up");
        std::thread::yield_now();
    }
}

#[test]
fn two_processes_talk_and_one_survives_the_other() {
    let (mut ours, theirs) = UnixStream::pair().expect("a socket pair");
    let mut peer = Command::new(std::env::current_exe().expect("this executable"))
        .args(["--exact", "peer_process", "--nocapture"])
        .env(PEER, "1")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .expect("the other process starts");
    let (mut queue_pair, fence) = connect(&ours);
    let slots = queue_pair.slots();

    let mut message = [0; 100];
    for i in 0..MESSAGES {
        message.fill(i as u8);
        queue_pair.send(WrId(u64::from(i)), &message).expect("sent");
        assert_eq!(receive(&mut queue_pair), message);
        let mut written = [0; 100];
        slots.read(64, &mut written);
        assert_eq!(written, message);
    }

    peer.kill().expect("killed");
    peer.wait().expect("ended");
    // The control thread learns it from the socket; until it says so the memory still takes messages.
    assert_eq!(ours.read(&mut [0]).expect("the end"), 0);
    assert_eq!(queue_pair.state(), State::Ready);
    let mut taken = 0;
    while queue_pair.state() == State::Ready {
        queue_pair.send(WrId(taken), &message).expect("taken");
        taken += 1;
    }
    assert_eq!(taken, LIMITS.receives as u64 + 1, "as many as were posted, and the one that finds none");
    fence.fail();
    assert_eq!(queue_pair.send(WrId(0), &message), Err(PostError::Broken));
    let mut written = [0; 100];
    slots.read(64, &mut written);
    assert_eq!(written, message);
}
