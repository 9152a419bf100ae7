//! What no decision may do, whatever is known.

use std::time::Duration;

use keyferry_decide::{Decision, Facts, Lent, LoadWord, Peer, Policy, Reason, Service, decide};
use proptest::prelude::*;

const FACTS: Facts = Facts { lendable: true, pinned: false };

const MOVE_COST_US: u32 = 100;

/// The part of the time in line here that a move has to save besides its cost.
const MARGIN: u32 = 8;

/// A node with two slots whose requests take a millisecond.
fn word(outstanding: u32) -> LoadWord {
    let waiting_us = outstanding.saturating_mul(500);
    LoadWord {
        sequence: 1,
        waiting_us,
        service_us: 1_000,
        capacity: 2,
        credits: 100,
        outstanding,
        ..LoadWord::default()
    }
}

fn peer(outstanding: u32) -> Peer {
    Peer { ready: true, fresh: true, word: word(outstanding), ..Peer::absent() }
}

fn estimate(outstanding: u32, peers: &[Peer]) -> Decision {
    decide(Policy::Estimate { move_cost_us: MOVE_COST_US }, FACTS, &word(outstanding), peers, 7)
}

#[test]
fn a_request_waits_for_a_slot_in_line() {
    let waits = |outstanding, ahead| word(outstanding).wait_us(ahead);
    assert_eq!((waits(0, 0), waits(1, 0)), (0, 0), "a slot is free");
    assert_eq!((waits(2, 0), waits(3, 0), waits(7, 0)), (500, 1_000, 3_000));
    assert_eq!(waits(1, 1), waits(2, 0), "what was granted stands in front");
    assert_eq!(LoadWord::default().wait_us(5), 0, "nothing was measured yet");
}

#[test]
fn a_free_slot_keeps_and_a_line_lends() {
    assert_eq!(estimate(1, &[peer(0)]).reason, Reason::Idle);
    let moved = estimate(3, &[peer(1)]);
    assert_eq!((moved.peer, moved.reason), (Some(0), Reason::Sooner));
    assert_eq!((moved.expected_us, moved.gain_us), (1_000, 900));
    assert_eq!(estimate(3, &[peer(3)]).reason, Reason::Balanced);
    assert_eq!(estimate(4, &[peer(9), peer(1), peer(8)]).peer, Some(1), "each of a few is looked at");
}

#[test]
fn what_was_granted_since_and_what_was_measured_counts() {
    let granted = |granted| estimate(4, &[Peer { granted, ..peer(0) }]).reason;
    assert_eq!((granted(1), granted(4)), (Reason::Sooner, Reason::Balanced));
    let late = |late_us| estimate(4, &[Peer { late_us, ..peer(0) }]).reason;
    assert_eq!((late(500), late(2_000)), (Reason::Sooner, Reason::Balanced), "a little may be chance");
    let cost = |cost_us| estimate(4, &[Peer { cost_us, ..peer(0) }]).reason;
    assert_eq!((cost(1_000), cost(1_500)), (Reason::Sooner, Reason::Balanced));
}

#[test]
fn who_cannot_be_asked_is_told_apart() {
    let stale = Peer { fresh: false, ..peer(0) };
    let full = Peer { granted: 100, ..peer(0) };
    let draining = Peer { word: LoadWord { draining: true, ..word(0) }, ..peer(0) };
    assert_eq!(estimate(9, &[stale, Peer::absent()]).reason, Reason::Stale);
    for unusable in [Peer { ready: false, ..peer(0) }, full, draining, Peer::absent()] {
        assert_eq!(estimate(9, &[unusable]).reason, Reason::NoPeer, "{unusable:?}");
    }
    assert_eq!(estimate(9, &[]).reason, Reason::Off);
    assert_eq!(estimate(9, &[stale, peer(0), full]).peer, Some(1));
}

#[test]
fn requests_spread_over_the_peers() {
    let peers = [peer(0); 10];
    let mut lent = [0; 10];
    for turn in 0..10_000 {
        let decision = decide(Policy::Estimate { move_cost_us: 0 }, FACTS, &word(9), &peers, turn);
        lent[decision.peer.expect("a line lends")] += 1;
    }
    assert!(lent.iter().all(|count| (850..1_150).contains(count)), "{lent:?}");
}

fn any_word() -> impl Strategy<Value = LoadWord> {
    let few = || prop_oneof![0u32..20, any::<u32>()];
    (few(), few(), few(), few(), few(), any::<bool>()).prop_map(
        |(waiting_us, service_us, capacity, credits, outstanding, draining)| LoadWord {
            sequence: 1,
            waiting_us,
            service_us: service_us.saturating_mul(100),
            capacity,
            credits,
            outstanding,
            draining,
            taken: 0,
        },
    )
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let few = || prop_oneof![Just(0u32), 0u32..1_000, any::<u32>()];
    (any::<[bool; 2]>(), any_word(), few(), few(), few()).prop_map(
        |([ready, fresh], word, granted, late_us, cost_us)| Peer {
            ready,
            fresh,
            word,
            granted,
            late_us,
            cost_us,
        },
    )
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let us = || prop_oneof![0u32..5_000, any::<u32>()];
    prop_oneof![
        Just(Policy::Never),
        Just(Policy::Always),
        us().prop_map(|us| Policy::Threshold { us }),
        us().prop_map(|move_cost_us| Policy::Estimate { move_cost_us }),
    ]
}

proptest! {
    #[test]
    fn nothing_goes_where_it_may_not(
        policy in any_policy(),
        own in any_word(),
        peers in proptest::collection::vec(any_peer(), 0..8),
        turn: usize,
    ) {
        let decision = decide(policy, FACTS, &own, &peers, turn);
        let moved = matches!(decision.reason, Reason::Forced | Reason::Lighter | Reason::Sooner);
        prop_assert_eq!(decision.peer.is_some(), moved);
        if let Some(index) = decision.peer {
            let Peer { ready, fresh, word, granted, .. } = peers[index];
            prop_assert!(ready && !word.draining);
            prop_assert!(policy == Policy::Always || fresh && word.credits > granted);
            if let Policy::Threshold { us } = policy {
                prop_assert!(u64::from(word.waiting_us) + u64::from(us) < u64::from(own.waiting_us));
            }
        }
        prop_assert_eq!(decision, decide(policy, FACTS, &own, &peers, turn), "it replays");
        for facts in [Facts { lendable: false, ..FACTS }, Facts { pinned: true, ..FACTS }] {
            prop_assert_eq!(decide(policy, facts, &own, &peers, turn).peer, None);
        }
    }

    #[test]
    fn a_move_gains_more_than_cost_and_margin(
        move_cost_us in prop_oneof![0u32..5_000, any::<u32>()],
        own in any_word(),
        peers in proptest::collection::vec(any_peer(), 0..8),
        turn: usize,
    ) {
        let decision = decide(Policy::Estimate { move_cost_us }, FACTS, &own, &peers, turn);
        if own.outstanding < own.capacity {
            prop_assert_eq!(decision.peer, None, "a slot is free here");
        }
        if let Some(index) = decision.peer {
            let here_us = own.wait_us(0);
            let Peer { word, granted, cost_us, .. } = peers[index];
            let there_us = u64::from(word.wait_us(granted)) + u64::from(move_cost_us.max(cost_us));
            prop_assert!(there_us + u64::from(here_us / MARGIN) < u64::from(here_us));
            prop_assert!(u64::from(decision.gain_us) <= u64::from(here_us) - there_us);
        }
    }
}

const US: Duration = Duration::from_micros(1);

#[test]
fn late_replies_are_remembered_bounded_and_forgotten() {
    let mut lent = Lent::default();
    for _ in 0..300 {
        lent.ready(1_000, 900 * US);
    }
    assert_eq!(lent.late_us(), 0, "early ones buy nothing");
    lent.ready(1_000, Duration::MAX);
    assert!(lent.late_us() < 100, "one of a heavy tail says little: {}", lent.late_us());
    for _ in 0..300 {
        lent.ready(1_000, 2_500 * US);
    }
    assert!((1_400..=1_500).contains(&lent.late_us()), "{}", lent.late_us());
    // One word each 200 us: half of it in two seconds, all in the end.
    (0..11_400).for_each(|_| lent.fade());
    assert!((700..=750).contains(&lent.late_us()), "{}", lent.late_us());
    (0..400_000).for_each(|_| lent.fade());
    assert_eq!(lent.late_us(), 0);
}

#[test]
fn the_cost_of_a_move_is_twice_the_exchange() {
    let mut lent = Lent::default();
    for _ in 0..300 {
        lent.exchanged(200 * US);
    }
    assert!((390..=400).contains(&lent.cost_us()), "{}", lent.cost_us());
    (0..300).for_each(|_| lent.exchanged(Duration::MAX));
    assert!(lent.cost_us() <= 1_000_000);
    (0..800_000).for_each(|_| lent.fade());
    assert_eq!(lent.cost_us(), 0);
}

#[test]
fn the_first_service_times_count_evenly_and_later_ones_little() {
    let mut service = Service::default();
    assert_eq!(service.mean_us(), 0);
    (1..=9).for_each(|ms| service.served(ms * 1_000_000));
    assert!((4_990..=5_000).contains(&service.mean_us()), "{}", service.mean_us());
    (0..1_000).for_each(|_| service.served(1_000_000));
    service.served(100_000_000);
    assert!((2_000..3_000).contains(&service.mean_us()), "{}", service.mean_us());
    service.served(u64::MAX);
    assert!(service.mean_us() > 0);
}
