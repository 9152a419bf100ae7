//! Rounds of load with connections that come and go: the hundredth connection costs what the first did.

use crate::harness::{Cluster, Decide, Options};
use crate::{is_full, with_one_and_two_workers};

with_one_and_two_workers!(memory_does_not_grow);

/// What the allocator may keep between rounds without having leaked.
const GROWTH_KIB_MAX: u64 = 8 * 1024;

fn memory_does_not_grow(workers: usize) {
    let rounds = if is_full() { 20 } else { 3 };
    let cluster = Cluster::start(&Options::new(workers).apps(1).decide(Decide::Always));
    let mut after_first = None;
    for round in 0..rounds {
        let shape =
            ["-c", "64", "-t", "2", "-n", "3000", "--requests-per-connection", "3", "--pipeline", "2"];
        let mix = ["--bytes-mix", "0,1000,20000,200000", "--rotate", "lend=0,lend=1"];
        let report = cluster.load(&[shape.as_slice(), &mix].concat());
        assert_eq!((report.requests, report.mismatches), (3000, 0), "{report}");
        assert_eq!(report.first_error, None, "{report}");
        cluster.wait_at_rest();
        let resident = [cluster.a().resident_kib(), cluster.b().resident_kib()];
        let first = *after_first.get_or_insert(resident);
        for (now, first) in resident.into_iter().zip(first) {
            assert!(now <= first + GROWTH_KIB_MAX, "round {round}: {first} KiB grew to {now} KiB");
        }
    }
    cluster.finish();
}
