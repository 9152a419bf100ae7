//! In steady state a synthetic reply allocates nothing, from the submission to its last chunk.

mod common;

use arrayvec::ArrayVec;
use common::*;
use keyferry_app::synthetic::{Distribution, Options, Synthetic};
use keyferry_app::{App, Builtin, Chunk, Job, JobId, PARTS, Part, Port};
use keyferry_http::Request;

/// One request through a port; its request and chunk are used again.
fn once<A: App>(port: &mut Port<A>, id: u64, request: Box<Request>, chunk: Chunk) -> (Box<Request>, Chunk) {
    let id = JobId(id);
    assert!(port.submit(Job { id, request, chunk }).is_ok());
    let mut parts = ArrayVec::<Part, PARTS>::new();
    let mut spare = None;
    loop {
        port.poll(&mut parts);
        for part in parts.drain(..) {
            match part {
                Part::Reply { chunk, end: Some(end), .. } => return (end.request, spare.unwrap_or(chunk)),
                Part::Reply { chunk, end: None, .. } => port.more(id, chunk),
                Part::Spare(chunk) => spare = Some(chunk),
                Part::Failed { .. } | Part::Cancelled(_) | Part::Took { .. } | Part::Switched { .. } => {
                    panic!("the reply failed")
                }
            }
        }
        port.flush();
    }
}

#[test]
fn a_synthetic_reply_allocates_nothing() {
    let options = Options {
        cost_us: Distribution::Fixed(0.0),
        bytes: Distribution::LogNormal(20_000.0, 1.0),
        burn: true,
        seed: 3,
    };
    let (mut port, _) = inline(Builtin::Synthetic(Synthetic::new(options)), 64);
    let post = b"POST /?chunked=1&cost_us=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    for mut held in
        [(get("/"), Chunk::new()), (get("/?bytes=100&seed=7"), Chunk::new()), (request(post), Chunk::new())]
    {
        let mut id = 0;
        let mut serve = |count: u64, mut held: (Box<Request>, Chunk)| {
            for _ in 0..count {
                // As from a worker: the number changes in its upper half only.
                id += 1 << 32;
                held = once(&mut port, id, held.0, held.1);
            }
            held
        };
        held = serve(1_000, held);
        let mut after = None;
        let counted = allocation_counter::measure(|| after = Some(serve(10_000, held)));
        assert_eq!(counted.count_total, 0);
    }
}
