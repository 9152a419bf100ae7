//! What goes wrong on real queue pairs, and what the driver makes of it: keys and lengths that are not the peer's, a
//! peer's death, a dead link, a fence. In: two ports, as for the conformance tests (`rig`). Out: assertions.
//!
//! tools/vm/test runs these; without RDMA devices they are ignored.
#![cfg(feature = "verbs")]

mod rig;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use keyferry_fabric::verbs::{self, Endpoint, OFFER_BYTES, Offer, VerbsError};
use keyferry_fabric::{BURST, Completion, Fence, LOAD_BYTES, Limits, PostError, QueuePair, State, WrId};
use rig::{LIMITS, Rig, Verbs};

const A: &str = "KEYFERRY_VERBS_A";
const B: &str = "KEYFERRY_VERBS_B";
/// The program that does to the wire what it is told.
const WIRE: &str = "KEYFERRY_VERBS_WIRE";
/// Where a peer process finds this one.
const SOCKET: &str = "KEYFERRY_VERBS_SOCKET";

/// Sizes of the worker's own kind.
const LARGE: Limits = Limits {
    message_bytes_max: 20_000,
    receives: 64,
    posted_max: 96,
    slots_bytes: 1 << 20,
    staging_bytes: 1 << 20,
};

type End = (verbs::QueuePair, Arc<dyn Fence>);

fn prepare(port: &str, limits: Limits) -> (Endpoint, Offer) {
    Verbs::device(port).prepare(limits).expect("prepared")
}

/// Two connected ends, the first of which was told `change` of the second's offer.
fn connect_with(a_limits: Limits, b_limits: Limits, change: impl FnOnce(&mut Offer)) -> (End, End) {
    let (a, offer_a) = prepare(A, a_limits);
    let (b, mut offer_b) = prepare(B, b_limits);
    let b = b.connect(&offer_a).expect("connected");
    change(&mut offer_b);
    (a.connect(&offer_b).expect("connected"), b)
}

/// Polls into `all` what there is now.
fn poll(end: &mut impl QueuePair, all: &mut Vec<Completion>) {
    let mut some = ArrayVec::<_, BURST>::new();
    end.poll(&mut some);
    all.extend(some);
}

/// Polls until as many completions are there, whatever they are.
fn poll_until(end: &mut impl QueuePair, count: usize) -> Vec<Completion> {
    let mut all = Vec::new();
    Verbs::wait(|| {
        poll(end, &mut all);
        all.len() >= count
    });
    all
}

/// Polls an end in error until everything posted has come back.
fn drain((end, fence): &mut End) -> Vec<Completion> {
    let mut all = Vec::new();
    Verbs::wait(|| {
        poll(end, &mut all);
        fence.failed() && end.is_drained()
    });
    all
}

fn refused_write(b_limits: Limits, at: usize, change: impl FnOnce(&mut Offer)) {
    let (mut a, mut b) = connect_with(LARGE, b_limits, change);
    a.0.staging()[..64].fill(0xEE);
    a.0.write(WrId(1), 0..64, at, None).expect("posted");
    assert_eq!(poll_until(&mut a.0, 1), [Completion::Flushed(WrId(1))]);
    assert_eq!(a.0.state(), State::Error);
    assert_eq!(a.0.send(WrId(2), b"more"), Err(PostError::Broken));
    assert!(drain(&mut a).is_empty());
    let mut all = vec![0; b_limits.slots_bytes];
    b.0.slots().read(0, &mut all);
    assert!(all.iter().all(|byte| *byte == 0), "nothing was written");
    assert_eq!(b.0.read_load(), [0; LOAD_BYTES]);
    b.1.fail();
    assert!(drain(&mut b).is_empty());
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn a_wrong_remote_key_writes_nothing_and_ends_the_pair() {
    refused_write(LARGE, 0, |offer| offer.slots.key ^= 0x55);
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn another_pairs_key_opens_nothing() {
    // The same port, memory that exists, a key that is valid: of another protection domain.
    let (_endpoint, other) = prepare(B, LARGE);
    refused_write(LARGE, 0, |offer| offer.slots = other.slots);
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn a_write_past_the_slots_ends_the_pair() {
    let small = Limits { slots_bytes: 8192, ..LARGE };
    refused_write(small, 8192 - 32, |offer| offer.limits.slots_bytes = LARGE.slots_bytes);
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn a_message_longer_than_the_receive_ends_the_pair() {
    let (mut a, mut b) =
        connect_with(LARGE, LIMITS, |offer| offer.limits.message_bytes_max = LARGE.message_bytes_max);
    a.0.send(WrId(1), &vec![7; LIMITS.message_bytes_max]).expect("posted");
    a.0.send(WrId(2), &vec![8; LIMITS.message_bytes_max + 1]).expect("posted");
    let fates = poll_until(&mut a.0, 2);
    assert_eq!(fates, [Completion::Posted(WrId(1)), Completion::Flushed(WrId(2))]);
    let arrived = drain(&mut b);
    let [Completion::Message(message)] = &arrived[..] else { panic!("{arrived:?}") };
    assert_eq!(b.0.message(message), vec![7; LIMITS.message_bytes_max]);
    drain(&mut a);
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn a_fence_of_another_thread_stops_a_pair_that_works() {
    for _ in 0..5 {
        let (rig, mut a, mut b) = Verbs::connect(LARGE);
        let fenced = AtomicBool::new(false);
        let (mut posted, mut back) = (0, Vec::new());
        std::thread::scope(|scope| {
            let (rig, fenced) = (&rig, &fenced);
            scope.spawn(move || {
                // Some way into the run, which has no fixed place in it.
                (0..1000).for_each(|_| std::thread::yield_now());
                rig.fence(0).fail();
                fenced.store(true, Ordering::Release);
            });
            Verbs::wait(|| {
                match a.write(WrId(posted), 0..4096, 0, None) {
                    Ok(()) => posted += 1,
                    Err(PostError::Full) => {}
                    Err(error) => assert_eq!(error, PostError::Broken),
                }
                poll(&mut a, &mut back);
                fenced.load(Ordering::Acquire)
            });
        });
        // Each is back exactly once, in order, and done before flushed.
        Verbs::wait(|| {
            poll(&mut a, &mut back);
            a.is_drained()
        });
        let expected: Vec<_> = (0..posted).collect();
        let names = back.iter().map(|completion| match completion {
            Completion::Posted(wr) | Completion::Flushed(wr) => wr.0,
            other => panic!("{other:?}"),
        });
        assert_eq!(names.collect::<Vec<_>>(), expected);
        assert!(back.is_sorted_by_key(|completion| matches!(completion, Completion::Flushed(_))));
        rig.fence(1).fail();
        let mut rest = Vec::new();
        Verbs::wait(|| {
            poll(&mut b, &mut rest);
            b.is_drained()
        });
        assert!(rest.is_empty());
    }
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn nothing_is_allocated_by_posts_and_polls() {
    let (_rig, mut a, mut b) = Verbs::connect(LARGE);
    let mut completions = ArrayVec::new();
    let mut turn = || {
        a.send(WrId(1), &[1; 700]).expect("sent");
        a.send(WrId(2), &[1; 60]).expect("sent");
        a.staging()[..16_000].fill(2);
        a.write(WrId(3), 0..16_000, 100, Some(3)).expect("written");
        a.write_load(&[4; LOAD_BYTES]).expect("written");
        let (mut posted, mut arrived) = (0, 0);
        Verbs::wait(|| {
            for end in [&mut a, &mut b] {
                end.poll(&mut completions);
                for completion in completions.drain(..) {
                    match completion {
                        Completion::Message(received) | Completion::Immediate(received, _) => {
                            end.message(&received);
                            end.repost(received);
                            arrived += 1;
                        }
                        Completion::Posted(_) => posted += 1,
                        Completion::Flushed(wr) => panic!("{wr:?} was flushed"),
                    }
                }
            }
            (posted, arrived) == (3, 3)
        });
        b.read_load()
    };
    turn();
    let allocations =
        allocation_counter::measure(|| (0..200).for_each(|_| assert_eq!(turn(), [4; LOAD_BYTES])));
    assert_eq!((allocations.count_total, allocations.bytes_total), (0, 0));
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn the_newest_load_word_wins_when_there_are_too_many() {
    let (rig, mut a, mut b) = Verbs::connect(LARGE);
    for round in 0..50u8 {
        for word in 0..=255 {
            a.write_load(&[word ^ round; LOAD_BYTES]).expect("written");
        }
        let last = [255 ^ round; LOAD_BYTES];
        Verbs::wait(|| {
            poll(&mut a, &mut Vec::new());
            b.read_load() == last
        });
    }
    rig.settle(&mut [&mut a, &mut b]);
    assert_eq!(a.state(), State::Ready);
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn a_dead_link_ends_the_pair_and_a_new_one_works_after_it() {
    let program = std::env::var(WIRE).expect("the variable names a program");
    let wire = |order| {
        let done = Command::new(&program).arg(order).status();
        assert!(done.expect("it runs").success());
    };
    let (mut a, mut b) = connect_with(LARGE, LARGE, |_| {});
    a.0.send(WrId(1), b"before").expect("sent");
    assert_eq!(poll_until(&mut a.0, 1), [Completion::Posted(WrId(1))]);
    wire("unplug");
    for wr in 2..8 {
        // The failure may be known before the last is posted.
        match a.0.send(WrId(wr), b"into the dark") {
            Ok(()) | Err(PostError::Broken) => {}
            Err(error) => panic!("{error}"),
        }
    }
    Verbs::wait(|| {
        a.0.is_settled();
        a.0.state() == State::Error
    });
    let lost = drain(&mut a);
    assert!(!lost.is_empty() && lost.iter().all(|fate| matches!(fate, Completion::Flushed(_))), "{lost:?}");
    let address: verbs::Address = std::env::var(A).expect("named").parse().expect("an address");
    let refused = verbs::choose(&verbs::discover(), &address);
    assert!(refused.is_err(), "a port that is down is not chosen: {refused:?}");
    // What waits in the kernel's queues goes out as soon as the wire is back: this end is over before.
    b.1.fail();
    wire("plug");
    let arrived = drain(&mut b);
    assert!(matches!(&arrived[..], [Completion::Message(_)]), "{arrived:?}");
    drop((a, b));
    // The port and its addresses come back in the kernel's own time.
    Verbs::wait(|| verbs::choose(&verbs::discover(), &address).is_ok());
    let (_rig, mut a, mut b) = Verbs::connect(LARGE);
    a.send(WrId(1), b"after").expect("sent");
    let arrived = poll_until(&mut b, 1);
    assert!(matches!(arrived[..], [Completion::Message(_)]), "{arrived:?}");
}

/// Another process, killed at the end.
struct Process(Child);

impl Process {
    fn run(test: &str, socket: &std::path::Path) -> Process {
        let program = std::env::current_exe().expect("this executable");
        let mut command = Command::new(program);
        command.args(["--exact", test, "--ignored"]).env(SOCKET, socket).stdout(Stdio::null());
        Process(command.spawn().expect("it starts"))
    }

    fn kill(&mut self) {
        self.0.kill().expect("it is ours");
        self.0.wait().expect("it ends");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exchange(mut stream: &UnixStream, port: &str) -> End {
    let (endpoint, offer) = prepare(port, LARGE);
    stream.write_all(&offer.to_bytes()).expect("sent");
    let mut theirs = [0; OFFER_BYTES];
    stream.read_exact(&mut theirs).expect("received");
    let end = endpoint.connect(&Offer::from_bytes(&theirs).expect("an offer")).expect("connected");
    // Both are connected before either sends.
    stream.write_all(&[1]).expect("sent");
    stream.read_exact(&mut [0]).expect("received");
    end
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn a_killed_peer_ends_the_pair() {
    let folder = std::env::temp_dir().join(format!("keyferry-verbs-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let socket = folder.join("socket");
    let listener = UnixListener::bind(&socket).expect("it listens");
    let mut process = Process::run("peer_process", &socket);
    let (stream, _) = listener.accept().expect("the peer connects");
    let mut a = exchange(&stream, A);
    a.0.staging()[..5].copy_from_slice(b"hello");
    a.0.write(WrId(1), 0..5, 0, Some(7)).expect("posted");
    let answered = poll_until(&mut a.0, 2);
    assert!(answered.contains(&Completion::Posted(WrId(1))));
    assert!(answered.iter().any(|completion| matches!(completion, Completion::Message(_))), "{answered:?}");
    process.kill();
    a.0.send(WrId(2), b"anybody?").expect("posted");
    a.0.write(WrId(3), 0..5, 0, None).expect("posted");
    // The first is given up by the adapter; those behind it are back at the latest when the control thread has asked.
    let mut fates = poll_until(&mut a.0, 1);
    assert_eq!(a.0.state(), State::Error);
    assert!(a.1.failed());
    fates.extend(drain(&mut a));
    assert_eq!(fates, [Completion::Flushed(WrId(2)), Completion::Flushed(WrId(3))]);
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// The other process of [`a_killed_peer_ends_the_pair`]: answers what arrives, until it is killed.
#[test]
#[ignore = "the other process of a test"]
fn peer_process() {
    let Ok(socket) = std::env::var(SOCKET) else { return };
    let stream = UnixStream::connect(socket).expect("connected");
    let (mut end, _fence) = exchange(&stream, B);
    loop {
        let mut some = Vec::new();
        poll(&mut end, &mut some);
        for completion in some {
            if let Completion::Immediate(received, 7) = completion {
                let mut hello = [0; 5];
                end.slots().read(0, &mut hello);
                assert_eq!(&hello, b"hello");
                end.repost(received);
                end.send(WrId(1), b"here").expect("posted");
            }
        }
        std::thread::yield_now();
    }
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn memory_past_the_limit_is_refused_with_what_to_do() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

    let device = Verbs::device(A);
    let before = getrlimit(Resource::Memlock);
    setrlimit(Resource::Memlock, Rlimit { current: Some(65_536), ..before }).expect("lowered");
    // The right to lock anyway is this thread's own, so only it gives it up.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut mine = capabilities(None).expect("known");
            mine.effective.remove(CapabilitySet::IPC_LOCK);
            set_capabilities(None, mine).expect("given up");
            let error = device.prepare(LARGE).err().expect("refused");
            assert!(matches!(error, VerbsError::LockedMemory { .. }), "{error}");
            assert!(
                error.to_string().contains("65536 bytes") && error.to_string().contains("ulimit -l"),
                "{error}"
            );
        });
    });
    setrlimit(Resource::Memlock, before).expect("raised");
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn limits_past_the_device_are_refused_with_what_to_do() {
    let limits = Limits { message_bytes_max: 64, posted_max: keyferry_fabric::POSTED_LIMIT, ..LIMITS };
    // Soft-RoCE takes 2^20 work requests: more than the limits of every driver allow. A real adapter takes fewer.
    match Verbs::device(A).prepare(limits) {
        Ok(_) | Err(VerbsError::QueueDepth { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let limits = Limits { message_bytes_max: 1 << 20, posted_max: 2000, ..LIMITS };
    let error = Verbs::device(A).prepare(limits).err().expect("refused");
    assert!(matches!(error, VerbsError::Limits(_)), "{error}");
    assert!(error.to_string().ends_with("check [fabric] of both nodes"), "{error}");
}

#[test]
#[ignore = "needs RDMA devices: tools/vm/test runs it on Soft-RoCE"]
fn a_device_that_has_gone_says_what_to_do() {
    let choice = verbs::Choice { device: "gone0".to_owned(), ..Verbs::choice(A) };
    let error = verbs::Device::open(&choice).err().expect("nothing is called so");
    assert!(matches!(error, VerbsError::NoDriver { .. }), "{error}");
    assert!(error.to_string().starts_with("gone0 cannot be used from this process"), "{error}");
}
