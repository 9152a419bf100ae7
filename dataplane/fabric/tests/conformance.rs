//! What every driver must do, run on all of them: the promises of `QueuePair` in the crate's documentation.
//! In: a [`Rig`], one a driver. Out: assertions.

mod rig;

use arrayvec::ArrayVec;
use keyferry_fabric::{
    BURST, Completion, LOAD_BYTES, Limits, PostError, QueuePair, Received, State, WrId, shm, sim,
};
use proptest::prelude::*;
use rig::{LIMITS, Rig};

/// Everything a queue pair has to say now, in order.
fn poll_all(queue_pair: &mut impl QueuePair) -> Vec<Completion> {
    let mut all = Vec::new();
    loop {
        let mut some = ArrayVec::new();
        queue_pair.poll(&mut some);
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

/// The messages that arrived, each buffer reposted; an immediate as its value in decimal.
fn receive_all(queue_pair: &mut impl QueuePair) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    for completion in poll_all(queue_pair) {
        match completion {
            Completion::Message(received) => {
                messages.push(queue_pair.message(&received).to_vec());
                queue_pair.repost(received);
            }
            Completion::Immediate(received, value) => {
                assert_eq!(received.len, 0);
                assert!(queue_pair.message(&received).is_empty());
                messages.push(value.to_string().into_bytes());
                queue_pair.repost(received);
            }
            Completion::Posted(_) | Completion::Flushed(_) => {}
        }
    }
    messages
}

/// The fates of posts among `completions`: name and whether it was done.
fn posts(completions: &[Completion]) -> Vec<(u64, bool)> {
    let fate = |completion: &Completion| match completion {
        Completion::Posted(wr) => Some((wr.0, true)),
        Completion::Flushed(wr) => Some((wr.0, false)),
        _ => None,
    };
    completions.iter().filter_map(fate).collect()
}

fn sends_arrive_once_and_in_order<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    for i in 0..LIMITS.receives as u64 {
        a.send(WrId(i), &vec![i as u8; i as usize]).unwrap();
    }
    rig.settle(&mut [&mut a, &mut b]);
    let expected: Vec<_> = (0..LIMITS.receives).map(|i| vec![i as u8; i]).collect();
    assert_eq!(receive_all(&mut b), expected);
    let expected: Vec<_> = (0..LIMITS.receives as u64).map(|i| (i, true)).collect();
    assert_eq!(posts(&poll_all(&mut a)), expected);
    rig.settle(&mut [&mut a, &mut b]);
    assert!(poll_all(&mut b).is_empty());
}

fn what_arrives_proves_the_writes_before_it<R: Rig>() {
    for by_immediate in [false, true] {
        let (rig, mut a, mut b) = R::connect(LIMITS);
        a.staging()[..1000].fill(7);
        a.staging()[1000..3000].fill(8);
        a.write(WrId(1), 0..1000, 13, None).unwrap();
        let immediate = by_immediate.then_some(0x8000_0001);
        a.write(WrId(2), 1000..3000, 1013, immediate).unwrap();
        if !by_immediate {
            a.send(WrId(3), b"look").unwrap();
        }
        rig.settle(&mut [&mut a, &mut b]);
        let expected = if by_immediate { &b"2147483649"[..] } else { b"look" };
        assert_eq!(receive_all(&mut b), [expected]);
        let mut read = [0; 3002];
        b.slots().read(12, &mut read);
        assert_eq!((read[0], read[3001]), (0, 0));
        assert_eq!(read[1..1001], [7; 1000]);
        assert_eq!(read[1001..3001], [8; 2000]);
        assert!(posts(&poll_all(&mut a)).iter().all(|(_, done)| *done));
    }
}

fn writes_alone_are_silent<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    a.staging()[..4].copy_from_slice(b"data");
    a.write(WrId(1), 0..4, LIMITS.slots_bytes - 4, None).unwrap();
    a.write(WrId(2), 0..0, LIMITS.slots_bytes, None).unwrap();
    rig.settle(&mut [&mut a, &mut b]);
    assert!(poll_all(&mut b).is_empty());
    assert_eq!(poll_all(&mut a), [Completion::Posted(WrId(1)), Completion::Posted(WrId(2))]);
    let mut tail = [0; 5];
    b.slots().read(LIMITS.slots_bytes - 5, &mut tail);
    assert_eq!(&tail, b"\0data");
}

fn slots_are_read_and_cleared<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    a.staging().fill(0xFF);
    a.write(WrId(0), 0..LIMITS.staging_bytes, 0, None).unwrap();
    rig.settle(&mut [&mut a, &mut b]);
    let slots = b.slots();
    assert_eq!(slots.len(), LIMITS.slots_bytes);
    assert!(!slots.is_empty());
    let mut all = vec![0; LIMITS.slots_bytes];
    for (at, bytes) in [(0, 0), (3, 2), (21, 3), (101, 1003), (2000, 8), (LIMITS.slots_bytes, 0)] {
        slots.clear(at, bytes);
        slots.read(0, &mut all);
        assert!(all[at..at + bytes].iter().all(|byte| *byte == 0), "{bytes} at {at}");
    }
    let zeroes = all.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeroes, 2 + 3 + 1003 + 8);
}

fn no_receive_is_an_error<R: Rig>() {
    for immediate in [None, Some(1)] {
        let (rig, mut a, mut b) = R::connect(LIMITS);
        for i in 0..LIMITS.receives as u64 {
            a.send(WrId(i), &[i as u8]).unwrap();
        }
        let one_more = WrId(LIMITS.receives as u64);
        match immediate {
            None => a.send(one_more, &[]).unwrap(),
            Some(_) => a.write(one_more, 0..0, 0, immediate).unwrap(),
        }
        rig.settle(&mut [&mut a, &mut b]);
        assert_eq!((a.state(), b.state()), (State::Error, State::Error));
        let fates = posts(&poll_all(&mut a));
        assert_eq!(fates.len(), LIMITS.receives + 1);
        assert_eq!(fates.last(), Some(&(one_more.0, false)));
        assert_eq!(a.send(WrId(99), &[]), Err(PostError::Broken));
        let arrived = receive_all(&mut b);
        let done = fates.iter().filter(|(_, done)| *done).count();
        assert!((done..=LIMITS.receives).contains(&arrived.len()));
        rig.settle(&mut [&mut a, &mut b]);
        assert!(poll_all(&mut a).is_empty() && poll_all(&mut b).is_empty());
    }
}

fn reposted_receives_are_used_again<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    let mut held: Vec<(u32, Received)> = Vec::new();
    let mut sent = 0u32;
    for round in 0..5 * LIMITS.receives {
        while held.len() < LIMITS.receives {
            let before = held.len();
            a.send(WrId(u64::from(sent)), &sent.to_be_bytes()).unwrap();
            rig.settle(&mut [&mut a, &mut b]);
            poll_all(&mut a);
            for completion in poll_all(&mut b) {
                let Completion::Message(received) = completion else { panic!("{completion:?}") };
                assert_eq!(b.message(&received), sent.to_be_bytes());
                held.push((sent, received));
            }
            assert_eq!(held.len(), before + 1);
            sent += 1;
        }
        // What is held is not disturbed by what arrives; any of them can be given back first.
        for (number, received) in &held {
            assert_eq!(b.message(received), number.to_be_bytes());
        }
        for i in 0..1 + round % LIMITS.receives {
            let (_, received) = held.swap_remove(7 * i % held.len());
            b.repost(received);
        }
    }
    assert_eq!((a.state(), b.state()), (State::Ready, State::Ready));
}

fn a_received_message_is_private<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    a.send(WrId(0), b"sealed").unwrap();
    rig.settle(&mut [&mut a, &mut b]);
    let [Completion::Message(received)] = &poll_all(&mut b)[..] else { panic!("one message") };
    b.message(received).copy_from_slice(b"opened");
    a.send(WrId(1), b"second").unwrap();
    rig.settle(&mut [&mut a, &mut b]);
    assert_eq!(b.message(received), b"opened");
}

fn posts_outside_the_limits_do_nothing<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    let (staging, slots) = (LIMITS.staging_bytes, LIMITS.slots_bytes);
    assert_eq!(a.limits(), LIMITS);
    assert_eq!(a.staging().len(), staging);
    assert_eq!(a.send(WrId(0), &vec![0; LIMITS.message_bytes_max + 1]), Err(PostError::Bounds));
    #[allow(clippy::reversed_empty_ranges)]
    let ranges = [
        (0..staging + 1, 0),
        (staging + 1..staging + 1, 0),
        (2..1, 0),
        (0..usize::MAX, 0),
        (usize::MAX..usize::MAX, 0),
        (0..1, slots),
        (0..2, slots - 1),
        (0..0, slots + 1),
        (0..1, usize::MAX),
    ];
    for (from, to) in ranges {
        assert_eq!(a.write(WrId(0), from, to, Some(1)), Err(PostError::Bounds));
    }
    rig.settle(&mut [&mut a, &mut b]);
    assert!(poll_all(&mut a).is_empty() && poll_all(&mut b).is_empty());
    assert_eq!((a.state(), b.state()), (State::Ready, State::Ready));
    a.send(WrId(1), &vec![1; LIMITS.message_bytes_max]).unwrap();
    a.send(WrId(2), &[]).unwrap();
    rig.settle(&mut [&mut a, &mut b]);
    assert_eq!(receive_all(&mut b), [vec![1; LIMITS.message_bytes_max], vec![]]);
}

fn the_send_queue_is_bounded<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    for round in 0..3 {
        for i in 0..LIMITS.posted_max as u64 {
            a.write(WrId(i), 0..1, 0, None).unwrap();
        }
        assert_eq!(a.write(WrId(99), 0..1, 0, None), Err(PostError::Full));
        assert_eq!(a.send(WrId(99), &[]), Err(PostError::Full), "round {round}");
        // Unsignalled, and so not counted.
        a.write_load(&[1; LOAD_BYTES]).unwrap();
        rig.settle(&mut [&mut a, &mut b]);
        assert_eq!(a.send(WrId(99), &[]), Err(PostError::Full), "done is not yet polled");
        assert_eq!(poll_all(&mut a).len(), LIMITS.posted_max);
    }
}

fn failure_flushes_the_rest<R: Rig>() {
    // Who fails first: either end itself, or either end's control thread.
    for who in 0..4 {
        let (rig, mut a, mut b) = R::connect(LIMITS);
        for i in 0..3 {
            a.send(WrId(i), &[i as u8]).unwrap();
        }
        rig.settle(&mut [&mut a, &mut b]);
        for i in 3..6 {
            a.send(WrId(i), &[i as u8]).unwrap();
        }
        assert!(!rig.fence(0).failed() && !rig.fence(1).failed());
        match who {
            0 => a.fail(),
            1 => b.fail(),
            2 => rig.fence(0).fail(),
            _ => rig.fence(1).fail(),
        }
        rig.settle(&mut [&mut a, &mut b]);
        assert_eq!((a.state(), b.state()), (State::Error, State::Error), "{who}");
        assert!(rig.fence(0).failed() && rig.fence(1).failed());
        for end in [&mut a, &mut b] {
            assert_eq!(end.send(WrId(9), &[]), Err(PostError::Broken));
            assert_eq!(end.write(WrId(9), 0..0, 0, None), Err(PostError::Broken));
            assert_eq!(end.write_load(&[0; LOAD_BYTES]), Err(PostError::Broken));
            assert_eq!(end.send(WrId(9), &vec![0; 1 << 20]), Err(PostError::Bounds));
        }
        let fates = posts(&poll_all(&mut a));
        assert_eq!(fates.iter().map(|(wr, _)| *wr).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        assert!(fates.is_sorted_by_key(|(_, done)| !done), "{fates:?}: done after flushed");
        assert!(fates[..3].iter().all(|(_, done)| *done));
        let done = fates.iter().filter(|(_, done)| *done).count();
        let arrived = receive_all(&mut b);
        assert!(arrived.len() >= done);
        assert_eq!(arrived, [[0], [1], [2], [3], [4], [5]][..arrived.len()]);
        a.fail();
        rig.fence(0).fail();
        rig.settle(&mut [&mut a, &mut b]);
        assert!(poll_all(&mut a).is_empty() && poll_all(&mut b).is_empty());
    }
}

fn a_dropped_end_is_noticed<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    let slots = b.slots();
    a.staging()[0] = 5;
    a.write(WrId(0), 0..1, 0, None).unwrap();
    rig.settle(&mut [&mut a, &mut b]);
    drop(b);
    assert!(rig.fence(1).failed(), "gone is failed");
    rig.fence(1).fail();
    rig.settle(&mut [&mut a]);
    assert_eq!(a.state(), State::Error);
    let mut byte = [0];
    slots.read(0, &mut byte);
    assert_eq!(byte, [5], "slots outlive their queue pair");
}

fn the_load_word_arrives<R: Rig>() {
    let (rig, mut a, mut b) = R::connect(LIMITS);
    assert_eq!(b.read_load(), [0; LOAD_BYTES]);
    for i in 1..100 {
        a.write_load(&[i; LOAD_BYTES]).unwrap();
    }
    b.write_load(&[200; LOAD_BYTES]).unwrap();
    rig.settle(&mut [&mut a, &mut b]);
    assert_eq!(b.read_load(), [99; LOAD_BYTES]);
    assert_eq!(a.read_load(), [200; LOAD_BYTES]);
    assert!(poll_all(&mut a).is_empty() && poll_all(&mut b).is_empty());
    let mut slots = vec![1; LIMITS.slots_bytes];
    b.slots().read(0, &mut slots);
    assert!(slots.iter().all(|byte| *byte == 0), "the load word is not in the slots");
}

fn one_poll_is_bounded_and_starves_nothing<R: Rig>() {
    let limits = Limits { receives: 100, posted_max: 100, ..LIMITS };
    let (rig, mut a, mut b) = R::connect(limits);
    for i in 0..100 {
        a.send(WrId(i), &[]).unwrap();
        b.send(WrId(i), &[]).unwrap();
    }
    rig.settle(&mut [&mut a, &mut b]);
    let mut completions = ArrayVec::new();
    a.poll(&mut completions);
    assert_eq!(completions.len(), BURST);
    let messages = completions.iter().filter(|c| matches!(c, Completion::Message(_))).count();
    assert_eq!(messages, BURST / 2);
    a.poll(&mut completions);
    assert_eq!(completions.len(), BURST, "no room is no loss");
    completions.truncate(BURST - 1);
    a.poll(&mut completions);
    assert_eq!(completions.len(), BURST);
}

/// One step of a random run between two ends.
#[derive(Clone, Debug)]
enum Step {
    Send { end: usize, len: usize },
    Write { end: usize, len: usize, at: usize, immediate: bool },
    Load { end: usize },
    Settle,
    Poll { end: usize },
    Repost { end: usize, which: prop::sample::Index },
}

fn step() -> impl Strategy<Value = Step> {
    let slot = LIMITS.slots_bytes / 2;
    prop_oneof![
        4 => (0..2usize, 0..=LIMITS.message_bytes_max).prop_map(|(end, len)| Step::Send { end, len }),
        4 => (0..2usize, 0..=slot, 0..slot, any::<bool>())
            .prop_map(|(end, len, at, immediate)| Step::Write { end, len, at, immediate }),
        1 => (0..2usize).prop_map(|end| Step::Load { end }),
        3 => Just(Step::Settle),
        4 => (0..2usize).prop_map(|end| Step::Poll { end }),
        4 => (0..2usize, any::<prop::sample::Index>())
            .prop_map(|(end, which)| Step::Repost { end, which }),
    ]
}

/// What one end has done, kept apart from the driver.
#[derive(Default)]
struct Model {
    /// Posts accepted and not yet polled as done.
    posted: std::collections::VecDeque<u64>,
    /// Messages and immediates sent and not yet polled by the peer.
    sent: std::collections::VecDeque<Result<Vec<u8>, u32>>,
    /// Receives the peer is known to have posted.
    credits: usize,
    held: Vec<(Received, Vec<u8>)>,
    numbered: u64,
}

fn random_run<R: Rig>(steps: &[Step]) {
    let (rig, a, b) = R::connect(LIMITS);
    let mut ends = [a, b];
    let mut models = [(); 2].map(|()| Model { credits: LIMITS.receives, ..Model::default() });
    for step in steps {
        match *step {
            Step::Send { end, len } => {
                let model = &mut models[end];
                if model.credits == 0 {
                    continue;
                }
                let message: Vec<_> = (0..len).map(|i| (i as u64 ^ model.numbered) as u8).collect();
                let outcome = ends[end].send(WrId(model.numbered), &message);
                accept(model, outcome, Some(Ok(message)));
            }
            Step::Write { end, len, at, immediate } => {
                let model = &mut models[end];
                // A range of the staging memory is free once everything posted from it is done.
                if immediate && model.credits == 0 || !model.posted.is_empty() {
                    continue;
                }
                let fill = model.numbered as u8;
                ends[end].staging()[at..at + len].fill(fill);
                let value = immediate.then_some(model.numbered as u32);
                let outcome = ends[end].write(WrId(model.numbered), at..at + len, at, value);
                accept(model, outcome, value.map(Err));
                rig.settle(&mut ends.each_mut());
                let mut read = vec![0; len];
                ends[1 - end].slots().read(at, &mut read);
                assert!(read.iter().all(|byte| *byte == fill));
            }
            Step::Load { end } => ends[end].write_load(&[models[end].numbered as u8; LOAD_BYTES]).unwrap(),
            Step::Settle => rig.settle(&mut ends.each_mut()),
            Step::Poll { end } => polled(end, &mut ends, &mut models),
            Step::Repost { end, ref which } => {
                if models[end].held.is_empty() {
                    continue;
                }
                let at = which.index(models[end].held.len());
                let (received, bytes) = models[end].held.swap_remove(at);
                assert_eq!(ends[end].message(&received), bytes);
                ends[end].repost(received);
                models[1 - end].credits += 1;
            }
        }
    }
    rig.settle(&mut ends.each_mut());
    polled(0, &mut ends, &mut models);
    polled(1, &mut ends, &mut models);
    for (end, model) in ends.iter().zip(&models) {
        assert_eq!(end.state(), State::Ready);
        assert!(model.posted.is_empty() && model.sent.is_empty());
    }
}

fn accept(model: &mut Model, outcome: Result<(), PostError>, sent: Option<Result<Vec<u8>, u32>>) {
    if model.posted.len() == LIMITS.posted_max {
        assert_eq!(outcome, Err(PostError::Full));
        return;
    }
    outcome.unwrap();
    model.posted.push_back(model.numbered);
    model.numbered += 1;
    model.credits -= usize::from(sent.is_some());
    model.sent.extend(sent);
}

fn polled<Q: QueuePair>(end: usize, ends: &mut [Q; 2], models: &mut [Model; 2]) {
    for completion in poll_all(&mut ends[end]) {
        match completion {
            Completion::Posted(wr) => assert_eq!(models[end].posted.pop_front(), Some(wr.0)),
            Completion::Message(received) => {
                let message = ends[end].message(&received).to_vec();
                assert_eq!(models[1 - end].sent.pop_front(), Some(Ok(message.clone())));
                models[end].held.push((received, message));
            }
            Completion::Immediate(received, value) => {
                assert_eq!(models[1 - end].sent.pop_front(), Some(Err(value)));
                models[end].held.push((received, Vec::new()));
            }
            Completion::Flushed(wr) => panic!("{wr:?} flushed"),
        }
    }
}

/// All cases for one driver; `$skip` says where they do not run.
macro_rules! conformance {
    ($driver:ident, $rig:ty, $runs:literal $(, $skip:literal)?) => {
        mod $driver {
            use super::*;

            conformance!(@cases $rig, ($($skip)?), [
                sends_arrive_once_and_in_order,
                what_arrives_proves_the_writes_before_it,
                writes_alone_are_silent,
                slots_are_read_and_cleared,
                no_receive_is_an_error,
                reposted_receives_are_used_again,
                a_received_message_is_private,
                posts_outside_the_limits_do_nothing,
                the_send_queue_is_bounded,
                failure_flushes_the_rest,
                a_dropped_end_is_noticed,
                the_load_word_arrives,
                one_poll_is_bounded_and_starves_nothing,
            ]);
            // By the driver's own words, or a rig that cannot be made would pass.
            conformance!(@panics $rig, ($($skip)?), "of the slots", [
                reading_past_the_slots_panics,
                clearing_past_the_slots_panics,
            ]);
            conformance!(@panics $rig, ($($skip)?), "is posted", [
                reposting_twice_panics,
                a_posted_buffer_has_no_message,
            ]);
            proptest! {
                #![proptest_config(ProptestConfig::with_cases($runs))]
                #[test]
                $(#[ignore = $skip])?
                fn any_run_delivers_all(steps in prop::collection::vec(step(), 0..200)) {
                    random_run::<$rig>(&steps);
                }
            }
        }
    };
    (@cases $rig:ty, $skip:tt, [$($case:ident),* $(,)?]) => {
        $(conformance!(@case $rig, $skip, $case);)*
    };
    (@case $rig:ty, ($($skip:literal)?), $case:ident) => {
        #[test]
        $(#[ignore = $skip])?
        fn $case() {
            super::$case::<$rig>();
        }
    };
    (@panics $rig:ty, $skip:tt, $words:literal, [$($case:ident),* $(,)?]) => {
        $(conformance!(@panic $rig, $skip, $words, $case);)*
    };
    (@panic $rig:ty, ($($skip:literal)?), $words:literal, $case:ident) => {
        #[test]
        $(#[ignore = $skip])?
        #[should_panic(expected = $words)]
        fn $case() {
            super::$case::<$rig>();
        }
    };
}

fn reading_past_the_slots_panics<R: Rig>() {
    let (_rig, a, _b) = R::connect(LIMITS);
    a.slots().read(LIMITS.slots_bytes - 1, &mut [0; 2]);
}

fn clearing_past_the_slots_panics<R: Rig>() {
    let (_rig, a, _b) = R::connect(LIMITS);
    a.slots().clear(usize::MAX, 2);
}

fn reposting_twice_panics<R: Rig>() {
    let (_rig, mut a, _b) = R::connect(LIMITS);
    a.repost(Received { buffer: 0, len: 0 });
}

fn a_posted_buffer_has_no_message<R: Rig>() {
    let (_rig, mut a, _b) = R::connect(LIMITS);
    a.message(&Received { buffer: 0, len: 0 });
}

conformance!(over_shm, rig::Shm, 64);
conformance!(over_sim, rig::Sim, 64);
// Fewer runs: there it is emulated hardware, and each step goes through two kernels' worth of network.
#[cfg(feature = "verbs")]
conformance!(over_verbs, rig::Verbs, 16, "needs RDMA devices: tools/vm/test runs it on Soft-RoCE");

/// A worker is generic over the driver; both ends of any pair can move to its thread.
#[test]
fn ends_can_be_sent_to_a_worker() {
    fn sendable<T: Send + 'static>() {}
    sendable::<shm::QueuePair>();
    sendable::<sim::QueuePair>();
    sendable::<shm::Endpoint>();
}
