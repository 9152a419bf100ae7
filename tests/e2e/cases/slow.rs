//! Slow and long requests: 408 for what does not come, patience with what comes slowly but steadily, an answer to who
//! goes on sending.

use std::time::Duration;

use crate::client::{Reply, Tls, assert_is_pattern, fnv1a, pattern};
use crate::harness::{Cluster, Decide, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(drip, steady, expectation, refused_amid_an_upload);

/// Heads and bodies that come a byte now and then: the whole is timed, not the pause.
fn drip(workers: usize) {
    let options = Options::new(workers).decide(Decide::Always);
    let options = options.line("limits", "header_timeout_ms = 1000\nbody_timeout_ms = 1000");
    let cluster = Cluster::start(&options);
    let ca = cluster.ca().to_owned();
    let body = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 1000\r\n\r\n");
    for start in ["GET / HTTP/1.1\r\nX: ", &body] {
        cluster.clients().enter(|| {
            let mut tls = Tls::connect(&ca);
            tls.send(start.as_bytes());
            // Each pause is far below the limit, all together are far above it.
            for _ in 0..20 {
                tls.offer(b"a");
                std::thread::sleep(Duration::from_millis(100));
            }
            let reply = Reply::read(&mut tls, false);
            assert!(reply.status == 408 && reply.closes(), "{reply:?}");
            assert!(tls.rest().is_empty());
        });
    }
    cluster.expect_counts("both are counted", |a, _| {
        a.total("refused_late") == 2 && a.total("closed_timeout") == 2 && a.total("requests") == 0
    });
    cluster.finish();
}

/// A body that takes longer than the limit but comes at the rate asked for is taken.
fn steady(workers: usize) {
    let options = Options::new(workers).decide(Decide::Always);
    let options = options.line("limits", "body_timeout_ms = 1000\nbody_rate = 1000");
    let cluster = Cluster::start(&options);
    let ca = cluster.ca().to_owned();
    let upload = pattern(5, 30_000);
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        tls.send(
            format!("POST /?bytes=9 HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {}\r\n\r\n", upload.len())
                .as_bytes(),
        );
        for piece in upload.chunks(2_000) {
            tls.send(piece);
            std::thread::sleep(Duration::from_millis(200));
        }
        let reply = Reply::read(&mut tls, false);
        assert_eq!(reply.status, 200);
        assert_eq!(reply.field("x-body-hash"), Some(format!("{:016x}", fnv1a(&upload)).as_str()));
    });
    cluster.finish();
}

/// 100 (Continue) comes before the body, and before anything is lent; a body that never comes is a late one.
fn expectation(workers: usize) {
    let options = Options::new(workers).decide(Decide::Always);
    let cluster = Cluster::start(&options.line("limits", "body_timeout_ms = 1000"));
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        let head = |length: usize| {
            format!(
                "POST /?bytes=5&seed=8 HTTP/1.1\r\nHost: {NAME}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
            )
        };
        for _ in 0..3 {
            tls.send(head(4).as_bytes());
            assert_eq!(tls.head(), "HTTP/1.1 100 Continue\r\n\r\n");
            tls.send(b"body");
            let reply = Reply::read(&mut tls, false);
            assert_eq!(reply.status, 200);
            assert_is_pattern(&reply.body, 8, 5, "after 100 (Continue)");
        }
        // Too large: said instead of 100, so the body is never sent.
        let mut large = Tls::connect(&ca);
        large.send(head((1 << 20) + 1).as_bytes());
        let refused = large.head();
        assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
        tls.send(head(4).as_bytes());
        assert_eq!(tls.head(), "HTTP/1.1 100 Continue\r\n\r\n");
        let reply = Reply::read(&mut tls, false);
        assert!(reply.status == 408 && reply.closes(), "{reply:?}");
        assert!(tls.rest().is_empty());
    });
    cluster.expect_replies(0, 3);
    cluster.finish();
}

/// A client that sends on and on hears why it was refused: what it sends is drained, nothing is reset.
fn refused_amid_an_upload(workers: usize) {
    const SENT: usize = 4 << 20;
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        for (framing, status) in [
            (format!("Content-Length: {SENT}"), 413),
            ("Content-Length: 1\r\nTransfer-Encoding: chunked".to_owned(), 400),
        ] {
            let mut tls = Tls::connect(&ca);
            tls.send(format!("POST / HTTP/1.1\r\nHost: {NAME}\r\n{framing}\r\n\r\n").as_bytes());
            // All of it is sent before the answer is read.
            for piece in pattern(1, SENT).chunks(1 << 14) {
                tls.send(piece);
            }
            let reply = Reply::read(&mut tls, false);
            assert!(reply.status == status && reply.closes(), "{reply:?}");
            assert!(tls.rest().is_empty());
        }
    });
    cluster.finish();
}
