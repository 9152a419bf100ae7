//! HTTP/1.1 as clients use it: HEAD, chunked replies, the redirect listener, refusals.

use crate::client::{Curl, Tls, assert_is_pattern, output_of, wire_request};
use crate::harness::{A4, Cluster, Decide, NAME, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(
    head_has_no_body,
    chunked_replies,
    pipelined_in_one_write,
    redirect,
    refusals,
    old_clients
);

fn head_has_no_body(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for lend in ["lend=0", "lend=1"] {
        let ca = cluster.ca().to_owned();
        cluster.clients().enter(|| {
            let mut tls = Tls::connect(&ca);
            for _ in 0..3 {
                tls.send(format!("HEAD /?bytes=70000&{lend} HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes());
                let head = tls.head().to_ascii_lowercase();
                assert!(
                    head.starts_with("http/1.1 200 ") && head.contains("content-length: 70000\r\n"),
                    "{head}"
                );
                // If a body followed, this head would not parse.
                tls.send(wire_request(&format!("/?bytes=3&seed=5&{lend}")).as_bytes());
                assert!(tls.head().starts_with("HTTP/1.1 200 "));
                assert_is_pattern(&tls.read(3), 5, 3, "after HEAD");
            }
        });
    }
    cluster.finish();
}

fn chunked_replies(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let sizes = [0, 1, 1_000, 16_384, 100_000, 3_000_000];
    let mut curl = Curl::new(&cluster);
    for bytes in sizes {
        for lend in ["lend=0", "lend=1"] {
            curl = curl.get(&format!("/?bytes={bytes}&seed={bytes}&chunked=1&{lend}"));
        }
    }
    let fetched = curl.run();
    assert_eq!(fetched.iter().map(|one| one.connects).sum::<u32>(), 1, "one connection for all");
    for (pair, bytes) in fetched.chunks(2).zip(sizes) {
        for one in pair {
            assert_is_pattern(&one.body, bytes as u64, bytes, "chunked");
        }
    }
    let head = output_of(cluster.client("curl").args([
        "--silent",
        "--insecure",
        "--include",
        &format!("https://{A4}/?bytes=5&chunked=1"),
    ]));
    assert!(head.to_ascii_lowercase().contains("transfer-encoding: chunked"), "{head}");
    cluster.finish();
}

/// Twenty requests leave in one record; replies come in order, whoever sealed them.
fn pipelined_in_one_write(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let ca = cluster.ca().to_owned();
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(&ca);
        let size = |seed: u64| (seed as usize * 977) % 9_000;
        let lend = |seed: u64| u64::from(!seed.is_multiple_of(3));
        let burst: String = (0..20)
            .map(|seed| wire_request(&format!("/?bytes={}&seed={seed}&lend={}", size(seed), lend(seed))))
            .collect();
        tls.send(burst.as_bytes());
        for seed in 0..20 {
            assert!(tls.head().starts_with("HTTP/1.1 200 "));
            assert_is_pattern(&tls.read(size(seed)), seed, size(seed), "pipelined");
        }
    });
    cluster.expect_replies(7, 13);
    cluster.finish();
}

fn redirect(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers));
    let fetched = Curl::new(&cluster).option("--include").url(&format!("http://{NAME}/x/y?z=1")).run();
    let reply = String::from_utf8_lossy(&fetched[0].body).to_ascii_lowercase();
    assert_eq!(fetched[0].status, 308, "{reply}");
    assert!(reply.contains(&format!("location: https://{NAME}/x/y?z=1\r\n")), "{reply}");
    // And a client that follows it arrives.
    let fetched =
        Curl::new(&cluster).option("--location").url(&format!("http://{NAME}/?bytes=1000&seed=3")).run();
    assert_eq!(fetched[0].status, 200);
    assert_is_pattern(&fetched[0].body, 3, 1000, "redirected");
    cluster.finish();
}

fn refusals(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    let ca = cluster.ca().to_owned();
    let long = "a".repeat(20_000);
    for (request, status) in [
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n".to_owned(), 505),
        ("\x01\x02\x03\r\n\r\n".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
                .to_owned(),
            400,
        ),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {long}\r\n\r\n"), 431),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), 405),
    ] {
        cluster.clients().enter(|| {
            let mut tls = Tls::connect(&ca);
            tls.send(request.as_bytes());
            let head = tls.head();
            let found = head.split(' ').nth(1).and_then(|status| status.parse().ok());
            let accepted: &[u16] = if status == 405 { &[400, 405, 501] } else { &[status] };
            assert!(found.is_some_and(|found| accepted.contains(&found)), "{request:.60?}: {head}");
            assert!(head.to_ascii_lowercase().contains("connection: close"), "{head}");
        });
    }
    cluster.finish();
}

/// HTTP/1.0 closes after each reply unless asked not to, and has no chunked coding.
fn old_clients(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for query in ["", "&chunked=1", "&lend=0", "&lend=0&chunked=1"] {
        let mut command = cluster.client("curl");
        command
            // curl would offer the protocol http/1.0 alone, which a server of http/1.1 has to refuse (RFC 7301).
            .args(["--silent", "--show-error", "--insecure", "--http1.0", "--no-alpn"])
            .arg(format!("https://{A4}/?bytes=50000&seed=1{query}"));
        let output = command.output().expect("curl starts");
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        assert_is_pattern(&output.stdout, 1, 50_000, "HTTP/1.0");
    }
    cluster.finish();
}
