//! Clients that go away in every stage, by RST and by FIN, leave nothing behind on either node.

use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use crate::client::{Curl, Tls, assert_is_pattern, output_of, reset, tcp, wire_request};
use crate::harness::{A4, Cluster, Decide, NAME, Options, Status};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(
    resets,
    closes,
    half_closes_are_answered,
    a_slow_reader_is_waited_for,
    who_does_not_read_keeps_no_slots,
    half_open
);

/// Times each stage is left: leaks of one are easily missed.
const TIMES: usize = 5;
/// A reply that no socket buffer holds.
const LONG_BYTES: usize = 32 << 20;
/// A request the application is busy with long enough to be left.
const SLOW: &str = "cost_us=500000";
/// Longest time until a node has noticed what a client did.
const NOTICED: Duration = Duration::from_secs(10);

/// How a client leaves.
type Leave = fn(std::net::TcpStream);

fn resets(workers: usize) {
    leave_in_every_stage(workers, reset);
}

fn closes(workers: usize) {
    leave_in_every_stage(workers, drop);
}

fn leave_in_every_stage(workers: usize, leave: Leave) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for _ in 0..TIMES {
        cluster.clients().enter(|| {
            leave(tcp());
            in_the_handshake(cluster.ca(), leave);
            leave(Tls::connect(cluster.ca()).into_tcp());
            in_a_request(cluster.ca(), leave);
        });
        for lend in ["lend=0", "lend=1"] {
            before_the_reply(&cluster, lend, leave);
            in_the_reply(&cluster, lend, leave);
        }
        cluster.wait_at_rest();
    }
    let report = cluster.load(&["-n", "200", "--rotate", "lend=0,lend=1"]);
    assert_eq!((report.requests, report.first_error), (200, None));
    cluster.finish();
}

fn in_the_handshake(ca: &Path, leave: Leave) {
    let mut hello = Vec::new();
    let mut client = Tls::start(ca);
    client.write_tls(&mut hello).expect("a vector takes bytes");
    // In the middle of ClientHello.
    for bytes in [3, hello.len() / 2] {
        let mut stream = tcp();
        stream.write_all(&hello[..bytes]).expect("the node reads");
        leave(stream);
    }
    // After the server's flight, with the client's Finished outstanding.
    let mut stream = tcp();
    stream.write_all(&hello).expect("the node reads");
    stream.read_exact(&mut [0; 200]).expect("the node answers");
    leave(stream);
    // After the ClientHello, not waiting for anything.
    let mut stream = tcp();
    stream.write_all(&hello).expect("the node reads");
    leave(stream);
}

fn in_a_request(ca: &Path, leave: Leave) {
    for part in [
        "GET /?bytes=1".to_owned(),
        format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 100000\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nabc"),
    ] {
        let mut tls = Tls::connect(ca);
        tls.send(part.as_bytes());
        leave(tls.into_tcp());
    }
}

/// While the application is at work, here or at the other node.
fn before_the_reply(cluster: &Cluster, lend: &str, leave: Leave) {
    let busy = if lend == "lend=1" { "leases_open" } else { "requests_in_app" };
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(cluster.ca());
        tls.send(wire_request(&format!("/?bytes=100000&{SLOW}&{lend}")).as_bytes());
        cluster.a().wait_for(busy, NOTICED, |status| status.total(busy) > 0);
        leave(tls.into_tcp());
    });
    // And with more requests waiting behind.
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(cluster.ca());
        let request = wire_request(&format!("/?bytes=100000&cost_us=50000&{lend}"));
        tls.send(request.repeat(5).as_bytes());
        leave(tls.into_tcp());
    });
}

/// While a reply is being sent that the client has not read.
fn in_the_reply(cluster: &Cluster, lend: &str, leave: Leave) {
    cluster.clients().enter(|| {
        let mut tls = Tls::connect(cluster.ca());
        tls.send(wire_request(&format!("/?bytes={LONG_BYTES}&seed=3&{lend}")).as_bytes());
        tls.head();
        assert_is_pattern(&tls.read(100_000), 3, 100_000, "the reply's beginning");
        let holds = |status: &Status| status.total("flows") > 0;
        cluster.a().wait_for("a reply under way", NOTICED, holds);
        leave(tls.into_tcp());
    });
}

/// FIN says that the client sends no more, not that it has stopped reading.
fn half_closes_are_answered(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for lend in ["lend=0", "lend=1"] {
        for (bytes, cost_us) in [(100, 0), (100, 200_000), (4 << 20, 0), (4 << 20, 200_000)] {
            cluster.clients().enter(|| {
                let mut tls = Tls::connect(cluster.ca());
                tls.send(
                    wire_request(&format!("/?bytes={bytes}&seed=8&cost_us={cost_us}&{lend}")).as_bytes(),
                );
                tls.half_close();
                assert!(tls.head().starts_with("HTTP/1.1 200 "));
                assert_is_pattern(&tls.read(bytes), 8, bytes, "after a half-close");
                tls.expect_close();
            });
        }
    }
    cluster.finish();
}

/// A reader that pauses for longer than a helper may be silent keeps its reply: waiting for a client is no fault
/// of the helper.
fn a_slow_reader_is_waited_for(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    for lend in ["lend=0", "lend=1"] {
        cluster.clients().enter(|| {
            let mut tls = Tls::connect(cluster.ca());
            tls.send(wire_request(&format!("/?bytes={LONG_BYTES}&seed=6&{lend}")).as_bytes());
            assert!(tls.head().starts_with("HTTP/1.1 200 "));
            let mut body = tls.read(1000);
            std::thread::sleep(Duration::from_secs(3));
            body.extend(tls.read(LONG_BYTES - 1000));
            assert_is_pattern(&body, 6, LONG_BYTES, "slowly read");
        });
    }
    cluster.finish();
}

/// Clients that read nothing of their lent replies, which together fill all reply slots more than once: others' requests are
/// lent meanwhile, and those replies arrive when they are read.
fn who_does_not_read_keeps_no_slots(workers: usize) {
    /// Seven records: fewer than TCP takes of a client that reads nothing.
    const BYTES: usize = 100_000;
    const READERS: usize = 12;
    const SLOTS: u64 = 32;
    let options = Options::new(workers).decide(Decide::Always).line("fabric", format!("slots = {SLOTS}"));
    let cluster = Cluster::start(&options);
    let readers: Vec<Tls> = cluster.clients().enter(|| {
        let ask = |_| {
            let mut reader = Tls::connect(cluster.ca());
            reader.narrow();
            reader.send(wire_request(&format!("/?bytes={BYTES}&seed=3&lend=1")).as_bytes());
            reader
        };
        (0..READERS).map(ask).collect()
    });
    let readers_lent = |status: &Status| READERS as u64 - status.total("replies_local");
    let freed = cluster.a().wait_for("slots that are free again", NOTICED, |status| {
        // Who asked while all slots were taken has its reply from here.
        status.total("replies_lent") == readers_lent(status)
            && status.total("slots_copied_out") > 6 * readers_lent(status)
            && status.total("slots_out") == 0
    });
    assert!(readers_lent(&freed) * 7 > SLOTS, "they fill the slots more than once: {freed}");
    let fetched = Curl::new(&cluster).get("/?bytes=30000&seed=2&lend=1").run();
    assert_is_pattern(&fetched[0].body, 2, 30_000, "beside them");
    cluster.expect_replies(freed.total("replies_local"), readers_lent(&freed) + 1);
    for mut reader in readers {
        assert!(reader.head().starts_with("HTTP/1.1 200 "));
        assert_is_pattern(&reader.read(BYTES), 3, BYTES, "out of the copies");
    }
    cluster.finish();
}

/// SYNs from addresses that nobody has: they are bounded, forgotten, and meanwhile others are served.
fn half_open(workers: usize) {
    let options =
        Options::new(workers).line("limits", "half_open = 32").line("limits", "handshake_timeout_ms = 3000");
    let cluster = Cluster::start(&options);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/client/syn_flood.py");
    output_of(cluster.client("python3").arg(script).args([A4, "10.77.1", "500"]));
    let status =
        cluster.a().wait_for("half-open connections", NOTICED, |status| status.total("half_open") > 0);
    assert!(status.total("half_open") <= 32 * workers as u64, "{status}");
    assert_eq!(status.total("flows"), 0, "no memory of a connection for a SYN: {status}");
    cluster.a().wait_for("room again", NOTICED, |status| status.total("half_open") == 0);
    let fetched = Curl::new(&cluster).get("/?bytes=1000&seed=2").run();
    assert_is_pattern(&fetched[0].body, 2, 1000, "after the flood");
    cluster.finish();
}
