//! Paths of the Internet in virtual time: every byte arrives, nothing stalls, and loss costs no more than it must.

#[path = "common/path.rs"]
mod path;

use std::time::Duration;

use keyferry_tcp::{Algorithm, Tuning};
use path::{Link, transfer};

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
