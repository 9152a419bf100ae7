//! Paths of the Internet in virtual time: every byte arrives, nothing stalls, and loss costs no more than it must.

#[path = "common/path.rs"]
mod path;

use std::time::Duration;

use keyferry_tcp::{Algorithm, Tuning};
use path::{Link, transfer};
use proptest::prelude::*;

fn tuning(congestion: Algorithm) -> Tuning {
    Tuning { congestion, ..Tuning::default() }
}

#[test]
fn a_clean_path_is_filled() {
    for (algorithm, least) in [(Algorithm::Cubic, 0.75), (Algorithm::Bbr, 0.75), (Algorithm::Reno, 0.6)] {
        for rtt_ms in [10, 100] {
            let rtt = Duration::from_millis(rtt_ms);
            let link = Link { rtt, queue: rtt, time: Duration::from_secs(10), ..Link::default() };
            let outcome = transfer(&tuning(algorithm), &link, 1);
            assert!(outcome.megabits > least * 100.0, "{algorithm:?} at {rtt_ms} ms: {outcome:?}");
        }
    }
}

/// A hundredth of the packets lost at 10 ms: Mathis' bound for a window halved at each loss is 12 Mbit/s, CUBIC's a little
/// more, and BBR does not care.
#[test]
fn loss_costs_what_the_algorithm_says_and_no_more() {
    let link = Link { loss_permille: 10, time: Duration::from_secs(20), ..Link::default() };
    for (algorithm, least) in [(Algorithm::Reno, 10.0), (Algorithm::Cubic, 12.0), (Algorithm::Bbr, 85.0)] {
        let outcome = transfer(&tuning(algorithm), &link, 3);
        assert!(outcome.megabits > least, "{algorithm:?}: {outcome:?}");
    }
}

/// What only comes late is not lost: a window that was reduced for it is as it was.
#[test]
fn reordering_is_not_taken_for_loss() {
    for rtt_ms in [10, 100] {
        let rtt = Duration::from_millis(rtt_ms);
        let link = Link { rtt, queue: rtt, reorder_percent: 5, ..Link::default() };
        for seed in 0..3 {
            let outcome = transfer(&tuning(Algorithm::Cubic), &link, seed);
            assert!(outcome.megabits > 60.0, "at {rtt_ms} ms, seed {seed}: {outcome:?}");
        }
    }
}

/// A worker that is busy with other things for 8 ms at a time sends later what was due meanwhile, at once.
#[test]
fn what_a_busy_worker_did_not_send_is_caught_up_with() {
    for algorithm in [Algorithm::Cubic, Algorithm::Bbr] {
        let link = Link { stall: Duration::from_millis(8), time: Duration::from_secs(10), ..Link::default() };
        let outcome = transfer(&tuning(algorithm), &link, 1);
        assert!(outcome.megabits > 86.0, "{algorithm:?}: {outcome:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a path does, all of the stream arrives in order (`transfer` compares) and it does not stall.
    #[test]
    fn a_stream_arrives_over_any_path(
        seed in 0u64..1_000,
        megabits in 1u64..200,
        rtt_us in 200u64..300_000,
        queue_us in 1_000u64..300_000,
        loss_permille in 0u64..150,
        reorder_percent in 0u64..30,
        late_us in 1u64..100_000,
        stall_us in prop_oneof![Just(0u64), 1u64..40_000],
        algorithm in prop_oneof![Just(Algorithm::Cubic), Just(Algorithm::Bbr), Just(Algorithm::Reno)],
        pacing: bool,
    ) {
        let link = Link {
            megabits,
            rtt: Duration::from_micros(rtt_us),
            queue: Duration::from_micros(queue_us),
            loss_permille,
            reorder_percent,
            late: Duration::from_micros(late_us),
            stall: Duration::from_micros(stall_us),
            bytes: 300_000,
            time: Duration::from_secs(600),
        };
        let outcome = transfer(&Tuning { pacing, ..tuning(algorithm) }, &link, seed);
        prop_assert!(outcome.complete, "{:?}", outcome);
    }
}
