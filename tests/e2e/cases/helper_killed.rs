//! Node B dies by SIGKILL under load and comes back.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::{Cluster, Decide, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(under_load);

/// Longest time until A lends (again).
const LENDS: Duration = Duration::from_secs(20);
/// Rounds of dying and coming back.
const ROUNDS: usize = 2;

fn under_load(workers: usize) {
    let mut cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let load = cluster.loader(&[
        "-c",
        "16",
        "-d",
        "100",
        "--bytes-mix",
        "10,1000,20000,1000000",
        "--timeout",
        "15",
        "--rotate",
        "lend=1,lend=1&cost_us=2000,lend=0",
    ]);
    let stop = load.stop();
    let load = std::thread::spawn(move || load.run());

    let mut lent = 0;
    for _ in 0..ROUNDS {
        let more = |from: u64, by: u64| {
            move |status: &crate::harness::Status| status.total("replies_lent") >= from + by
        };
        lent = cluster.a().wait_for("lending", LENDS, more(lent, 200)).total("replies_lent");
        cluster.kill_b();
        // A goes on alone, requests that cannot be lent any more among them.
        let served = cluster.a().status().total("requests");
        cluster.a().wait_for("serving alone", LENDS, |status| status.total("requests") >= served + 500);
        cluster.start_b();
    }
    cluster.a().wait_for("lending again", LENDS, |status| status.total("replies_lent") >= lent + 400);
    stop.store(true, Ordering::Relaxed);

    let report = load.join().expect("the load ends in order");
    assert_eq!(report.mismatches, 0, "{report}");
    // Where a key was out, the connection ends in RST; nothing else may be seen. Requests whose key was not out
    // are answered by A itself.
    let errors = &report.errors;
    assert_eq!((errors.connect, errors.tls, errors.http, errors.status), (0, 0, 0, 0), "{report}");
    assert_eq!(errors.timeout, 0, "{report}");
    assert!(errors.reset + errors.closed <= (16 * ROUNDS) as u64, "{report}");
    cluster.finish();
}
