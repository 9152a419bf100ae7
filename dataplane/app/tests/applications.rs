//! The synthetic application, through a port.

mod common;

use common::*;
use keyferry_app::synthetic::{Distribution, Options, Synthetic, fill, fnv1a};
use keyferry_app::{Builtin, CHUNK_BYTES};
use keyferry_time::Time;

fn synthetic(burn: bool) -> Builtin {
    let (cost_us, bytes) = (Distribution::Fixed(20.0), Distribution::Fixed(1000.0));
    Builtin::Synthetic(Synthetic::new(Options { cost_us, bytes, burn, seed: 1 }))
}

#[test]
fn synthetic_replies_are_the_published_pattern() {
    for burn in [false, true] {
        let (mut port, clock) = inline(synthetic(burn), 1);
        for (query, seed, bytes) in [
            ("", 0, 1000),
            ("?bytes=0", 0, 0),
            ("?bytes=100000&seed=9", 9, 100_000),
            ("?seed=18446744073709551615&bytes=70001&chunked=1", u64::MAX, 70_001),
            ("?lend=0&bytes=5&cost_us=300", 0, 5),
            ("?bytes=x&seed=-1", 0, 1000),
        ] {
            let before = clock_of(&clock);
            let outcome = run(&mut port, &clock, get(&format!("/{query}")), 2);
            let reply = parse(&outcome.bytes, false);
            let mut expected = vec![0; bytes];
            fill(seed, 0, &mut expected);
            assert!(reply.body == expected && reply.status == 200, "{query}");
            assert_eq!(reply.field("transfer-encoding").is_some(), query.contains("chunked"));
            let waited_us = (clock_of(&clock) - before).as_micros();
            assert_eq!(
                waited_us,
                if burn {
                    0
                } else if query.contains("300") {
                    300
                } else {
                    20
                },
                "{query}"
            );
            assert_eq!(outcome.chunks > 2, bytes > CHUNK_BYTES);
        }
        let reply = parse(&run(&mut port, &clock, get("/?status=404&bytes=3"), 1).bytes, false);
        assert_eq!((reply.status, reply.body.len()), (404, 3));
        let head = request(b"HEAD /?bytes=70000 HTTP/1.1\r\nHost: x\r\n\r\n");
        let reply = parse(&run(&mut port, &clock, head, 1).bytes, true);
        assert_eq!((reply.field("content-length"), reply.body.len()), (Some("70000"), 0));
    }
}

fn clock_of(clock: &TestClock) -> Time {
    keyferry_app::Clock::now(clock)
}

#[test]
fn uploads_are_acknowledged_by_length_and_hash() {
    let (mut port, clock) = inline(synthetic(false), 1);
    for body in [&b""[..], b"a", b"foobar"] {
        let mut post =
            format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
        post.extend(body);
        let reply = parse(&run(&mut port, &clock, request(&post), 1).bytes, false);
        assert_eq!(reply.field("x-body-bytes"), Some(body.len().to_string().as_str()));
        assert_eq!(reply.field("x-body-hash"), Some(format!("{:016x}", fnv1a(body)).as_str()));
    }
    // From the reference vectors of FNV's authors.
    assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
}
