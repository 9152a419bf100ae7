//! The corpus of requests against real nodes over TLS: the same answers whoever seals, and nothing behind a refused
//! request is ever answered.

use std::path::Path;

use crate::client::{Reply, Tls, assert_is_pattern, wire_request};
use crate::corpus::{After, Case, cases};
use crate::harness::{Cluster, Decide, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(corpus);

/// A request that is not whole in this time is answered 408; a good one is whole in it on a busy machine.
const PATIENCE: &str = "3000";
/// Cases longer than this are not sent byte by byte: records of one byte each would make the test long.
const BYTEWISE_MAX: usize = 1_000;
/// Bodies of the good requests behind a case.
const BEHIND_BYTES: usize = 77;

fn corpus(workers: usize) {
    let here = transcripts(workers, Decide::Never);
    let there = transcripts(workers, Decide::Always);
    for ((case, here), there) in cases().iter().zip(&here).zip(&there) {
        assert_eq!(here, there, "{}: sealed here, and by another node", case.name);
    }
}

/// What every case is answered, with counters that tell the same.
fn transcripts(workers: usize, decide: Decide) -> Vec<Vec<Reply>> {
    let patience = ["header_timeout_ms", "body_timeout_ms"].map(|key| format!("{key} = {PATIENCE}"));
    let [head, body] = patience;
    let options = Options::new(workers).decide(decide).line("limits", head).line("limits", body);
    let cluster = Cluster::start(&options);
    let ca = cluster.ca().to_owned();
    let cases = cases();
    let ask = |case: &Case| {
        let whole = cluster.clients().enter(|| converse(&ca, case, Pace::Whole));
        let mut runs = vec![whole];
        if case.bytes.len() <= BYTEWISE_MAX && !case.is_partial() {
            runs.push(cluster.clients().enter(|| converse(&ca, case, Pace::ByteByByte)));
        }
        runs
    };
    let mut all = Vec::new();
    let (mut served, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        // Those that are never whole wait for a time-out each: all of them for the same one.
        let waiting: Vec<_> =
            cases.iter().map(|case| case.is_partial().then(|| scope.spawn(|| ask(case)))).collect();
        for (case, waiting) in cases.iter().zip(waiting) {
            let mut runs = waiting.map_or_else(|| ask(case), |runs| runs.join().expect("it is answered"));
            for run in &runs {
                assert_eq!(run, &runs[0], "{}: whole, and byte by byte", case.name);
                served += run.iter().filter(|reply| reply.status == 200).count() as u64;
                refused += run.iter().filter(|reply| reply.status != 200).count() as u64;
            }
            all.push(runs.remove(0));
        }
    });
    cluster.expect_counts("each reply a client saw is counted once", |a, b| {
        let reasons = a.sum_of("refused_");
        let (local, lent) = (a.total("replies_local"), a.total("replies_lent"));
        let told = [local + lent, a.total("requests"), reasons, a.total("replies_own")];
        told == [served, served, refused, refused]
            && lent == b.total("leases_served")
            && (lent > 0) == (decide == Decide::Always)
    });
    cluster.finish();
    all
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// The case and the first request behind it in one record, the second in another.
    Whole,
    /// Every byte in a record of its own.
    ByteByByte,
}

/// Sends a case and two good requests behind it; checks what comes back, to the end of the connection.
fn converse(ca: &Path, case: &Case, pace: Pace) -> Vec<Reply> {
    let mut tls = Tls::connect(ca);
    let behind = |seed: u64| wire_request(&format!("/?bytes={BEHIND_BYTES}&seed={seed}"));
    let mut first = case.bytes.clone();
    let second = if case.is_partial() { String::new() } else { behind(2) };
    if !case.is_partial() {
        first.extend(behind(1).bytes());
    }
    // A server that refuses may close before it has all of it.
    match pace {
        Pace::Whole => tls.offer(&first),
        Pace::ByteByByte => first.chunks(1).for_each(|byte| tls.offer(byte)),
    }
    tls.offer(second.as_bytes());
    let head_only = case.bytes.starts_with(b"HEAD ");
    let mut replies: Vec<Reply> =
        case.statuses.iter().map(|_| Reply::read(&mut tls, head_only).timeless()).collect();
    let about = format!("{} ({}): {replies:?}", case.name, case.why);
    let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(statuses, case.statuses, "{about}");
    let last = replies.last().expect("a case has a status");
    assert_eq!(last.closes(), case.after == After::Close, "{about}");
    if case.after == After::Open {
        for seed in [1, 2, 3] {
            if seed == 3 {
                tls.send(behind(3).as_bytes());
            }
            let reply = Reply::read(&mut tls, false).timeless();
            assert_is_pattern(&reply.body, seed, BEHIND_BYTES, &case.name);
            replies.push(reply);
        }
        drop(tls);
    } else {
        let rest = tls.rest();
        assert!(rest.is_empty(), "{about}, then {:?}", String::from_utf8_lossy(&rest));
    }
    replies
}
