//! What the simulator alone does: virtual time, faults, and telling on misuse.

use arrayvec::ArrayVec;
use proptest::prelude::*;

use super::{Fate, Kind, Net, QueuePair, Transfer};
use crate::{Completion, Limits, QueuePair as _, State, WrId};

const LIMITS: Limits =
    Limits { message_bytes_max: 16, receives: 64, posted_max: 64, slots_bytes: 64, staging_bytes: 64 };

fn poll(queue_pair: &mut QueuePair) -> Vec<Completion> {
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

/// First bytes of the messages that arrived.
fn arrived(queue_pair: &mut QueuePair) -> Vec<u8> {
    let mut firsts = Vec::new();
    for completion in poll(queue_pair) {
        if let Completion::Message(received) = completion {
            firsts.push(queue_pair.message(&received)[0]);
            queue_pair.repost(received);
        }
    }
    firsts
}

fn run_out(net: &Net) {
    while let Some(next_ns) = net.next_ns() {
        net.advance(next_ns);
    }
}

#[test]
fn a_message_takes_the_latency_and_its_completion_as_long_again() {
    let net = Net::new();
    let (mut a, mut b) = net.pair(LIMITS, 1000);
    net.advance(500);
    a.send(WrId(1), b"x").unwrap();
    assert_eq!(net.next_ns(), Some(1500));
    net.advance(1499);
    assert!(arrived(&mut b).is_empty());
    net.advance(1500);
    assert_eq!(arrived(&mut b), b"x");
    net.advance(2499);
    assert!(poll(&mut a).is_empty());
    net.advance(2500);
    assert_eq!(poll(&mut a), [Completion::Posted(WrId(1))]);
    net.advance(0);
    assert_eq!((net.now_ns(), net.next_ns()), (2500, None), "the clock never goes back");
}

#[test]
fn one_long_step_is_as_good_as_many() {
    let net = Net::new();
    let (mut a, mut b) = net.pair(LIMITS, 10);
    a.send(WrId(1), b"x").unwrap();
    net.advance(1_000_000);
    assert_eq!(arrived(&mut b), b"x");
    assert_eq!(poll(&mut a), [Completion::Posted(WrId(1))]);
}

#[test]
fn nothing_overtakes_what_was_delayed() {
    let net = Net::new();
    let (mut a, mut b) = net.pair(LIMITS, 10);
    let mut first = true;
    net.set_faults(move |_| if std::mem::take(&mut first) { Fate::Delay { ns: 100 } } else { Fate::Deliver });
    a.send(WrId(1), b"1").unwrap();
    a.send(WrId(2), b"2").unwrap();
    net.advance(109);
    assert!(arrived(&mut b).is_empty());
    net.advance(110);
    assert_eq!(arrived(&mut b), b"12");
}

#[test]
fn a_lost_transfer_fails_the_pair_and_hides_what_follows() {
    for (fate, seen) in [(Fate::Drop, &b"1"[..]), (Fate::DropAck, b"12")] {
        let net = Net::new();
        let (mut a, mut b) = net.pair(LIMITS, 10);
        let mut count = 0;
        net.set_faults(move |_| {
            count += 1;
            if count == 2 { fate } else { Fate::Deliver }
        });
        for (wr, message) in [(1, b"1"), (2, b"2"), (3, b"3")] {
            a.send(WrId(wr), message).unwrap();
        }
        run_out(&net);
        assert_eq!(arrived(&mut b), seen);
        let [one, two, three] = [1, 2, 3].map(WrId);
        let fates = [Completion::Posted(one), Completion::Flushed(two), Completion::Flushed(three)];
        assert_eq!(poll(&mut a), fates);
        assert_eq!((a.state(), b.state()), (State::Error, State::Error));
    }
}

#[test]
fn a_fault_function_sees_every_transfer() {
    let net = Net::new();
    let (mut a, mut b) = net.pair(LIMITS, 10);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = seen.clone();
    net.set_faults(move |transfer| {
        let Transfer { pair, backwards, kind, bytes } = *transfer;
        log.lock().unwrap().push((pair, backwards, kind, bytes.to_vec()));
        Fate::Deliver
    });
    a.send(WrId(0), b"ab").unwrap();
    a.write(WrId(0), 0..3, 0, None).unwrap();
    b.write(WrId(0), 0..0, 0, Some(1)).unwrap();
    b.write_load(&[0; 64]).unwrap();
    let expected = [
        (0, false, Kind::Send, b"ab".to_vec()),
        (0, false, Kind::Write, vec![0; 3]),
        (0, true, Kind::WriteImmediate, Vec::new()),
        (0, true, Kind::Load, vec![0; 64]),
    ];
    assert_eq!(seen.lock().unwrap()[..], expected);
}

#[test]
fn pairs_of_one_net_fail_alone() {
    let net = Net::new();
    let (mut a, b) = net.pair(LIMITS, 10);
    let (mut c, mut d) = net.pair(LIMITS, 10);
    a.fail();
    c.send(WrId(0), b"x").unwrap();
    run_out(&net);
    assert_eq!((b.state(), c.state(), d.state()), (State::Error, State::Ready, State::Ready));
    assert_eq!(arrived(&mut d), b"x");
}

#[test]
#[should_panic(expected = "staging 8..12 was changed before the completion of WrId(5)")]
fn a_source_changed_too_early_is_told() {
    let net = Net::new();
    let (mut a, _b) = net.pair(LIMITS, 10);
    a.write(WrId(5), 8..12, 0, None).unwrap();
    a.staging()[9] = 1;
    run_out(&net);
    poll(&mut a);
}

proptest! {
    /// Whatever happens on the way: what is done has arrived, what arrived is a prefix of what was sent, done comes
    /// before flushed, and every post is reported once.
    #[test]
    fn faults_keep_the_promises(fates in prop::collection::vec(0..40u32, 1..40), fail_at in 0..80u64) {
        let net = Net::new();
        let (mut a, mut b) = net.pair(LIMITS, 10);
        let mut next = fates.clone().into_iter();
        net.set_faults(move |_| match next.next() {
            Some(0) => Fate::Drop,
            Some(1) => Fate::DropAck,
            Some(n) if n < 20 => Fate::Delay { ns: u64::from(n) },
            _ => Fate::Deliver,
        });
        for i in 0..fates.len() as u8 {
            a.send(WrId(u64::from(i)), &[i]).unwrap();
        }
        net.advance(fail_at);
        if fail_at % 2 == 0 { a.fail() } else { b.fail() }
        run_out(&net);
        let completions = poll(&mut a);
        prop_assert_eq!(completions.len(), fates.len());
        let done = completions.iter().take_while(|c| matches!(c, Completion::Posted(_))).count();
        for (i, completion) in completions.iter().enumerate() {
            let wr = WrId(i as u64);
            let expected = if i < done { Completion::Posted(wr) } else { Completion::Flushed(wr) };
            prop_assert_eq!(completion, &expected);
        }
        let seen = arrived(&mut b);
        prop_assert!(seen.len() >= done);
        prop_assert!(seen.iter().enumerate().all(|(i, first)| usize::from(*first) == i));
    }
}

#[test]
fn a_completion_may_come_late_or_twice() {
    let net = Net::new();
    let (mut a, _b) = net.pair(LIMITS, 10);
    let mut fates = [Fate::DelayAck { ns: 100 }, Fate::CompleteTwice].into_iter();
    net.set_faults(move |_| fates.next().unwrap_or(Fate::Deliver));
    a.write(WrId(1), 0..3, 0, None).unwrap();
    a.write(WrId(2), 0..3, 0, None).unwrap();
    net.advance(119);
    assert_eq!(poll(&mut a), []);
    net.advance(120);
    let posted = |number| Completion::Posted(WrId(number));
    assert_eq!(poll(&mut a), [posted(1), posted(2), posted(2)]);
}

#[test]
fn a_forger_repeats_and_changes_what_passes() {
    let net = Net::new();
    let (mut a, mut b) = net.pair(LIMITS, 10);
    let mut fates = [Fate::Twice, Fate::Corrupt { bit: 9 }].into_iter();
    net.set_faults(move |_| fates.next().unwrap_or(Fate::Deliver));
    a.send(WrId(0), b"ab").unwrap();
    a.send(WrId(0), b"ab").unwrap();
    net.advance(10);
    let messages = poll(&mut b).into_iter().map(|completion| match completion {
        Completion::Message(received) => b.message(&received).to_vec(),
        other => panic!("{other:?}"),
    });
    assert_eq!(messages.collect::<Vec<_>>(), [b"ab".to_vec(), b"ab".to_vec(), b"a`".to_vec()]);
}

#[test]
fn a_load_word_vanishes_without_a_trace() {
    let net = Net::new();
    let (mut a, b) = net.pair(LIMITS, 10);
    let mut fates = [Fate::Vanish].into_iter();
    net.set_faults(move |_| fates.next().unwrap_or(Fate::Deliver));
    a.write_load(&[1; 64]).unwrap();
    net.advance(10);
    assert_eq!((b.read_load(), b.state()), ([0; 64], State::Ready));
}
