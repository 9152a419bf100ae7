//! Load words move work: a busy node lends, an idle one keeps what it has.

use crate::harness::{Cluster, Decide, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(busy_lends_and_idle_keeps, what_would_wait_is_lent);

fn busy_lends_and_idle_keeps(workers: usize) {
    // Replies that cost the application's one thread two milliseconds each.
    let options = Options::new(workers).apps(1).burn().decide(Decide::Threshold);
    let options =
        options.line("lease", "threshold_us = 3000").line("app.synthetic", "cost_us = { fixed = 2000 }");
    let cluster = Cluster::start(&options);

    let report = cluster.load(&["-c", "1", "-n", "50", "--bytes-mix", "1000"]);
    assert_eq!((report.requests, report.mismatches), (50, 0), "{report}");
    // One request at a time has nobody to wait for.
    cluster.expect_replies(50, 0);

    let report = cluster.load(&["-c", "32", "-n", "2000", "--bytes-mix", "1000,40000"]);
    assert_eq!((report.requests, report.mismatches), (2000, 0), "{report}");
    assert_eq!(report.first_error, None, "{report}");
    cluster.expect_counts("both nodes are worth about the same, so each has a good part", |a, b| {
        let lent = a.total("replies_lent");
        a.total("requests") == 2050 && lent == b.total("leases_served") && (200..1600).contains(&lent)
    });
    let b = cluster.b().status();
    assert_eq!(
        b.total("leases_granted"),
        0,
        "B has no clients, and what it was lent it does not lend on: {b}"
    );
    cluster.finish();
}

fn what_would_wait_is_lent(workers: usize) {
    // An application with two slots whose requests wait for five milliseconds each.
    let options = Options::new(workers).apps(1).decide(Decide::Estimate);
    let options = options.line("app", "slots = 2").line("app.synthetic", "cost_us = { fixed = 5000 }");
    let cluster = Cluster::start(&options);

    let report = cluster.load(&["-c", "2", "-n", "100", "--bytes-mix", "1000"]);
    assert_eq!((report.requests, report.mismatches), (100, 0), "{report}");
    // Two at a time find a slot each.
    cluster.expect_replies(100, 0);

    let report = cluster.load(&["-c", "16", "-n", "2000", "--bytes-mix", "1000,40000"]);
    assert_eq!((report.requests, report.mismatches), (2000, 0), "{report}");
    assert_eq!(report.first_error, None, "{report}");
    cluster.expect_counts("both nodes have two slots, so each has a good part", |a, b| {
        let (lent, moved) = (a.total("replies_lent"), a.total("moved_sooner"));
        a.total("requests") == 2100
            && lent == b.total("leases_served")
            && (400..1600).contains(&lent)
            && moved >= lent
            && a.total("kept_idle") >= 100
            && a.total("moved_gain_us") > 0
    });
    assert_eq!(cluster.b().status().total("leases_granted"), 0);
    cluster.finish();
}
