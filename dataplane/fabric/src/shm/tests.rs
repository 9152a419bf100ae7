//! A hostile process at the other end: memory scribbled over, descriptors of the wrong things.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags};

use super::layout::{DESCRIPTOR_AT, Layout, POSTED_AT, SEQUENCE_AT, STATE_AT};
use super::region::{Region, RegionError};
use super::*;
use crate::{Completion, LOAD_BYTES, Limits, PostError, QueuePair as _, Received, State, WrId};

const LIMITS: Limits =
    Limits { message_bytes_max: 300, receives: 5, posted_max: 8, slots_bytes: 1000, staging_bytes: 1000 };

/// One end, and the region a peer writes as it likes.
fn victim() -> (QueuePair, QueuePair) {
    let ((a, a_fd), (b, b_fd)) = (prepare(LIMITS).unwrap(), prepare(LIMITS).unwrap());
    (a.connect(b_fd).unwrap().0, b.connect(a_fd).unwrap().0)
}

fn inbound(queue_pair: &QueuePair) -> &Region {
    &queue_pair.link.inbound
}

#[test]
fn useless_limits_are_refused() {
    for (bad, what) in [
        (Limits { message_bytes_max: 0, ..LIMITS }, "message_bytes_max is 0, must be 1 to 1048576"),
        (Limits { receives: 0, ..LIMITS }, "receives is 0, must be 1 to 32768"),
    ] {
        let error = prepare(bad).err().expect("refused");
        assert!(matches!(error, ShmError::Limits(_)), "{error}");
        assert_eq!(error.to_string(), format!("agreed limits: {what}: check [fabric] of both nodes"));
    }
}

#[test]
fn huge_offers_cost_nothing() {
    let huge = Limits {
        message_bytes_max: usize::MAX,
        receives: usize::MAX,
        posted_max: usize::MAX,
        slots_bytes: usize::MAX,
        staging_bytes: usize::MAX,
    };
    assert!(huge.check().is_err());
    assert_eq!(huge.agree(LIMITS), LIMITS);
}

/// What an end says to this descriptor of its peer.
fn offered(fd: OwnedFd) -> ShmError {
    prepare(LIMITS).unwrap().0.connect(fd).err().expect("refused")
}

#[test]
fn only_sealed_memory_of_the_right_size_is_taken() {
    let bytes = Layout::new(&LIMITS).bytes as u64;
    let memfd = |flags, seals, bytes| {
        let fd = rustix::fs::memfd_create("test", flags).unwrap();
        rustix::fs::ftruncate(&fd, bytes).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        fd
    };
    let all = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let sealing = MemfdFlags::ALLOW_SEALING;
    for seals in [SealFlags::empty(), all - SealFlags::SHRINK, all - SealFlags::SEAL, all - SealFlags::GROW] {
        let outcome = offered(memfd(sealing, seals, bytes));
        assert!(matches!(outcome, ShmError::Region(RegionError::Seals)), "{seals:?}: {outcome}");
    }
    for length in [0, bytes - 4096, bytes + 4096] {
        let outcome = offered(memfd(sealing, all, length));
        let expected = RegionError::Length { expected: bytes, found: length };
        assert!(matches!(outcome, ShmError::Region(error) if error == expected), "{outcome}");
        assert!(outcome.to_string().contains(&format!("has {length} bytes, not {bytes}: run")), "{outcome}");
    }
    // Sealed against writing, it cannot be mapped to be written.
    let outcome = offered(memfd(sealing, all | SealFlags::WRITE, bytes));
    assert!(matches!(outcome, ShmError::Region(RegionError::System(_))), "{outcome}");
    assert!(outcome.to_string().contains("is there enough memory, and may this process"), "{outcome}");
    // The socket itself stands for any other file.
    let (other, _) = UnixStream::pair().unwrap();
    let outcome = offered(other.into());
    assert!(matches!(outcome, ShmError::Region(RegionError::Seals)), "{outcome}");
}

#[test]
fn memory_of_huge_pages_is_not_taken() {
    let flags = MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB;
    // Kernels without huge pages cannot make the file, and then no peer can.
    let Ok(fd) = rustix::fs::memfd_create("test", flags) else { return };
    rustix::fs::ftruncate(&fd, 2 << 20).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    let error = Region::map(&fd, 2 << 20).err().expect("refused");
    assert_eq!(error, RegionError::Pages);
    assert!(error.to_string().contains("not of ordinary pages: run the same release"), "{error}");
}

#[test]
fn copies_match_at_any_offset_and_length() {
    let (_fd, region) = Region::create(8192).unwrap();
    let source: Vec<_> = (0..2000u32).map(|i| (i * 7 + 1) as u8).collect();
    for at in (0..16).chain(4090..4100) {
        for len in (0..40).chain([255, 256, 257, 1999]) {
            region.clear(0, 8192);
            region.copy_in(at, &source[..len]);
            let mut all = vec![0; 8192];
            region.copy_out(0, &mut all);
            assert_eq!(all[at..at + len], source[..len]);
            assert!(all[..at].iter().chain(&all[at + len..]).all(|byte| *byte == 0));
            let mut back = vec![0; len];
            region.copy_out(at, &mut back);
            assert_eq!(back, source[..len]);
        }
    }
}

#[test]
fn a_descriptor_no_honest_peer_writes_fails_the_pair() {
    let bad = [
        (LIMITS.message_bytes_max as u64 + 1) << 32,
        u64::MAX >> 1,
        u64::MAX,
        1,
        1 << 63 | 1 << 40,
        (5 << 32) | 1,
    ];
    for descriptor in bad {
        let (mut a, _b) = victim();
        let entry = Layout::new(&LIMITS).entry(0);
        inbound(&a).u64(entry + DESCRIPTOR_AT).store(descriptor, Ordering::Relaxed);
        inbound(&a).u64(entry + SEQUENCE_AT).store(1, Ordering::Relaxed);
        let mut completions = ArrayVec::new();
        a.poll(&mut completions);
        assert!(completions.is_empty(), "{descriptor:x}");
        assert_eq!(a.state(), State::Error);
    }
}

#[test]
fn a_failure_cannot_be_undone_by_the_peer() {
    let (mut a, b) = victim();
    a.fail();
    inbound(&a).u32(STATE_AT).store(0, Ordering::Relaxed);
    assert_eq!(a.send(WrId(0), &[]), Err(PostError::Broken));
    // Caused by the peer and taken back: seen once is enough.
    inbound(&b).u32(STATE_AT).store(0x55, Ordering::Relaxed);
    assert_eq!(b.state(), State::Error);
    inbound(&b).u32(STATE_AT).store(0, Ordering::Relaxed);
    assert_eq!(b.state(), State::Error);
}

#[test]
fn nothing_arrives_after_a_failure_was_polled() {
    let (mut a, mut b) = victim();
    b.send(WrId(0), b"before").unwrap();
    a.fail();
    let mut completions = ArrayVec::new();
    a.poll(&mut completions);
    assert_eq!(completions.len(), 1, "what had arrived may still be had");
    // A peer that was fenced and does not care.
    let entry = Layout::new(&LIMITS).entry(1);
    inbound(&a).u64(entry + DESCRIPTOR_AT).store(1 << 32, Ordering::Relaxed);
    inbound(&a).u64(entry + SEQUENCE_AT).store(2, Ordering::Relaxed);
    completions.clear();
    a.poll(&mut completions);
    assert!(completions.is_empty());
}

#[test]
fn a_peer_that_sends_more_than_was_posted_waits() {
    let (mut a, b) = victim();
    // Its view of our posted counter says that everything is free.
    inbound(&a).u64(POSTED_AT).store(u64::MAX, Ordering::Relaxed);
    let mut b = b;
    let mut held = Vec::new();
    let mut completions = ArrayVec::new();
    for i in 0..LIMITS.receives as u8 * 3 {
        b.send(WrId(0), &[i]).unwrap();
        b.poll(&mut completions);
        completions.clear();
        a.poll(&mut completions);
        held.extend(completions.drain(..));
    }
    assert_eq!(held.len(), LIMITS.receives);
    for (i, completion) in held.into_iter().enumerate() {
        let Completion::Message(received) = completion else { panic!("{completion:?}") };
        assert_eq!(*a.message(&received), [i as u8]);
        a.repost(received);
    }
}

/// One step of a victim, or of the process that owns the other end.
#[derive(Clone, Debug)]
enum Step {
    Bytes {
        at: prop::sample::Index,
        bytes: Vec<u8>,
    },
    Word {
        at: prop::sample::Index,
        value: u64,
    },
    Fill {
        byte: u8,
    },
    /// As an honest peer would, so that runs get anywhere.
    Entry {
        number: u64,
        descriptor: u64,
    },
    Send {
        len: usize,
    },
    Write {
        len: usize,
        at: usize,
        immediate: bool,
    },
    Poll,
    Repost,
}

fn step() -> impl Strategy<Value = Step> {
    let number = prop_oneof![0..20u64, any::<u64>()];
    let descriptor = prop_oneof![(0..600u64).prop_map(|len| len << 32), any::<u64>()];
    let value = prop_oneof![0..20u64, any::<u64>()];
    prop_oneof![
        2 => (any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(at, bytes)| Step::Bytes { at, bytes }),
        2 => (any::<prop::sample::Index>(), value).prop_map(|(at, value)| Step::Word { at, value }),
        1 => any::<u8>().prop_map(|byte| Step::Fill { byte }),
        8 => (number, descriptor).prop_map(|(number, descriptor)| Step::Entry { number, descriptor }),
        3 => (0..400usize).prop_map(|len| Step::Send { len }),
        3 => (0..1100usize, 0..1100usize, any::<bool>())
            .prop_map(|(len, at, immediate)| Step::Write { len, at, immediate }),
        8 => Just(Step::Poll),
        4 => Just(Step::Repost),
    ]
}

/// The victim's own steps; what they promise holds whatever lies in the memory.
fn act(victim: &mut QueuePair, held: &mut Vec<Received>, step: &Step) {
    match *step {
        Step::Send { len } => {
            let outcome = victim.send(WrId(0), &vec![1; len]);
            assert_eq!(outcome == Err(PostError::Bounds), len > LIMITS.message_bytes_max);
        }
        Step::Write { len, at, immediate } => {
            let outcome = victim.write(WrId(0), 0..len, at, immediate.then_some(1));
            assert_eq!(outcome == Err(PostError::Bounds), len > 1000 || at + len > 1000);
        }
        Step::Poll => {
            let mut completions = ArrayVec::new();
            victim.poll(&mut completions);
            for completion in completions {
                if let Completion::Message(received) | Completion::Immediate(received, _) = completion {
                    assert_eq!(victim.message(&received).len(), received.len as usize);
                    assert!(held.iter().all(|other| other.buffer != received.buffer));
                    held.push(received);
                }
            }
            assert!(held.len() <= LIMITS.receives);
        }
        Step::Repost => held.pop().into_iter().for_each(|received| victim.repost(received)),
        _ => unreachable!("a step of the peer"),
    }
    let _: [u8; LOAD_BYTES] = victim.read_load();
    victim.slots().read(990, &mut [0; 10]);
    let _ = victim.write_load(&[1; LOAD_BYTES]);
}

proptest! {
    /// Both regions scribbled over between the victim's steps: no panic, nothing beyond the limits.
    #[test]
    fn scribbling_hurts_nobody(steps in prop::collection::vec(step(), 0..100)) {
        let (mut victim, peer) = victim();
        let layout = Layout::new(&LIMITS);
        let mut held = Vec::new();
        for step in &steps {
            // The peer has both regions mapped: the one it reads is written here as well.
            for region in [&*peer.link.inbound, &*victim.link.inbound.clone()] {
                match step {
                    Step::Bytes { at, bytes } => region.copy_in(at.index(layout.bytes - bytes.len()), bytes),
                    Step::Word { at, value } => {
                        region.u64(at.index(layout.bytes / 8) * 8).store(*value, Ordering::Relaxed);
                    }
                    Step::Fill { byte } => region.copy_in(0, &vec![*byte; layout.bytes]),
                    Step::Entry { number, descriptor } => {
                        let entry = layout.entry(*number as usize % LIMITS.receives);
                        region.u64(entry + DESCRIPTOR_AT).store(*descriptor, Ordering::Relaxed);
                        region.u64(entry + SEQUENCE_AT).store(number + 1, Ordering::Relaxed);
                    }
                    _ => {
                        act(&mut victim, &mut held, step);
                        break;
                    }
                }
            }
        }
    }
}

/// The same from another thread, in the middle of the victim's steps, the state word left alone so that the pair
/// stays in use for as long as it can.
#[test]
fn scribbling_meanwhile_hurts_nobody() {
    let layout = Layout::new(&LIMITS);
    for round in 0..20u64 {
        let (mut victim, peer) = victim();
        let (stop, region) = (AtomicBool::new(false), victim.link.inbound.clone());
        let mut held = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
                while !stop.load(Ordering::Relaxed) {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let entry = layout.entry((random >> 33) as usize % LIMITS.receives);
                    region.u64(entry + DESCRIPTOR_AT).store((random >> 20 & 0xFF) << 32, Ordering::Relaxed);
                    region.u64(entry + SEQUENCE_AT).store(random >> 40 & 0x3F, Ordering::Relaxed);
                    region.copy_in(entry + 16, &[random as u8; 300]);
                }
            });
            for i in 0..20_000 {
                let step = [Step::Poll, Step::Repost, Step::Send { len: i % 301 }][i % 3].clone();
                act(&mut victim, &mut held, &step);
            }
            stop.store(true, Ordering::Relaxed);
        });
        drop(peer);
        assert_eq!(victim.state(), State::Error);
    }
}
