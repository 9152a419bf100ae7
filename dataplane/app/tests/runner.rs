//! The runner over applications that do what their script says: replies are whole, faults are seen, chunks and
//! requests come back, and who computes goes on first.

mod common;

use std::collections::VecDeque;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use arrayvec::ArrayVec;
use common::*;
use keyferry_app::{App, Body, CHUNK_BYTES, Chunk, JobId, PARTS, Part, Runner, Shared};
use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;
use proptest::prelude::*;

/// What an application does when asked.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Writes up to so many bytes of its body.
    Write(usize),
    /// Shares up to so many bytes of its body, if it may.
    Share(usize),
    /// Waits so long.
    Wait(u64),
    /// Wants the processor again.
    Busy,
}

#[derive(Clone, Debug)]
struct Script {
    status: u16,
    length: Option<u64>,
    /// Bytes it really has.
    body: usize,
    /// Steps before the head.
    before: Vec<Step>,
    /// Steps of the body, then all that is left as fast as possible.
    steps: Vec<Step>,
    /// The end is said with the last bytes, or only when asked once more.
    lazy_end: bool,
}

impl Script {
    fn new(length: Option<u64>, body: usize) -> Script {
        Script { status: 200, length, body, before: Vec::new(), steps: Vec::new(), lazy_end: false }
    }
}

/// The script's body.
fn body_of(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[derive(Default)]
struct Scripted {
    scripts: VecDeque<Script>,
    /// Names of requests as they are begun and asked.
    log: Arc<Mutex<Vec<String>>>,
}

struct Task {
    script: Script,
    before: VecDeque<Step>,
    steps: VecDeque<Step>,
    sent: usize,
    until: Option<Time>,
}

impl Scripted {
    fn of(scripts: impl IntoIterator<Item = Script>) -> Scripted {
        Scripted { scripts: scripts.into_iter().collect(), ..Scripted::default() }
    }

    fn note(&self, what: &str, request: &Request) {
        self.log.lock().unwrap().push(format!("{what} {}", String::from_utf8_lossy(request.path())));
    }
}

impl App for Scripted {
    type Task = Task;

    fn begin(&mut self, request: &Request, _: Time) -> Task {
        self.note("begin", request);
        let script = self.scripts.pop_front().expect("a script a request");
        let (before, steps) = (script.before.clone().into(), script.steps.clone().into());
        Task { script, before, steps, sent: 0, until: None }
    }

    fn head(&mut self, task: &mut Task, request: &Request, now: Time) -> Poll<ReplyHead> {
        self.note("head", request);
        match task.before.pop_front() {
            Some(Step::Wait(us)) => task.until = Some(now + Duration::from_micros(us)),
            Some(_) => task.until = None,
            None => {
                let Script { status, length, .. } = task.script;
                return Poll::Ready(match length {
                    Some(length) => ReplyHead::new(status, length, "text/plain"),
                    None => ReplyHead::chunked(status, "text/plain"),
                });
            }
        }
        Poll::Pending
    }

    fn body(&mut self, task: &mut Task, _: &Request, now: Time, out: &mut [u8]) -> Poll<Body> {
        assert!(!out.is_empty());
        let most = match task.steps.pop_front() {
            Some(Step::Write(bytes) | Step::Share(bytes)) => bytes.max(1),
            Some(Step::Wait(us)) => {
                task.until = Some(now + Duration::from_micros(us));
                return Poll::Pending;
            }
            Some(Step::Busy) => {
                task.until = None;
                return Poll::Pending;
            }
            None => usize::MAX,
        };
        let bytes = most.min(out.len()).min(task.script.body - task.sent);
        for (place, byte) in out[..bytes].iter_mut().enumerate() {
            *byte = ((task.sent + place) % 251) as u8;
        }
        task.sent += bytes;
        let all = task.sent == task.script.body;
        Poll::Ready(Body { bytes, end: all && (bytes == 0 || !task.script.lazy_end) })
    }

    fn share(&mut self, task: &mut Task, _: &Request, bytes_max: usize) -> Option<Shared> {
        let Some(Step::Share(bytes)) = task.steps.front() else { return None };
        let end = task.script.body.min(task.sent + (*bytes).min(bytes_max));
        let shared = Shared::new(Arc::new(body_of(task.script.body)), task.sent..end);
        (_, task.sent) = (task.steps.pop_front(), end);
        shared
    }

    fn deadline(&self, task: &Task) -> Option<Time> {
        task.until
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1usize..20_000).prop_map(Step::Write),
        (1usize..20_000).prop_map(Step::Share),
        (0u64..50).prop_map(Step::Wait),
        Just(Step::Busy)
    ]
}

fn script() -> impl Strategy<Value = Script> {
    let body = prop_oneof![Just(0usize), 1usize..200, 16_000usize..17_000, 0usize..100_000];
    let steps = || proptest::collection::vec(step(), 0..8);
    (body, any::<bool>(), steps(), steps(), any::<bool>()).prop_map(
        |(body, known, before, steps, lazy_end)| {
            let length = known.then_some(body as u64);
            Script { before, steps, lazy_end, ..Script::new(length, body) }
        },
    )
}

proptest! {
    #[test]
    fn replies_are_whole(script in script(), head_only: bool, minor in 0u8..2, keep: bool, chunks in 1usize..3) {
        let (mut port, clock) = inline(Scripted::of([script.clone()]), 2);
        let method = if head_only { "HEAD" } else { "GET" };
        let connection = if keep { "keep-alive" } else { "close" };
        let head = format!("{method} / HTTP/1.{minor}\r\nHost: x\r\nConnection: {connection}\r\n\r\n");
        let outcome = run(&mut port, &clock, request(head.as_bytes()), chunks);
        let reply = parse(&outcome.bytes, head_only);
        let body = if head_only { Vec::new() } else { body_of(script.body) };
        prop_assert_eq!(&reply.body, &body);
        prop_assert_eq!(reply.field("date"), Some(DATE));
        let until_close = script.length.is_none() && minor == 0;
        let Ended::Whole { status: 200, keep_alive, .. } = outcome.ended else {
            panic!("{:?}", outcome.ended);
        };
        prop_assert_eq!(keep_alive, keep && !until_close);
        prop_assert_eq!(reply.field("connection") == Some("close"), !keep_alive);
        // All but the last chunk are full unless the application made the reply wait, or gave less than a chunk at a time of
        // its own memory, and small replies take one.
        let waits = script.steps.iter().any(|step| matches!(step, Step::Wait(_) | Step::Share(_)));
        if !waits {
            let least = if script.length.is_some() { 63 } else { 63 + 17 };
            for bytes in &outcome.parts[..outcome.parts.len() - 1] {
                prop_assert!(CHUNK_BYTES - bytes <= least, "{:?}", outcome.parts);
            }
            if outcome.bytes.len() + 100 < CHUNK_BYTES {
                prop_assert_eq!(outcome.parts.len(), 1);
            }
        }
        // An empty record could be taken for one that is missing.
        if !until_close {
            prop_assert!(outcome.parts.iter().all(|bytes| *bytes > 0));
        }
    }

    #[test]
    fn a_body_unlike_its_length_fails(
        body in 0usize..40_000,
        length in 1u64..40_000,
        steps in proptest::collection::vec(step(), 0..8),
        lazy_end: bool,
    ) {
        prop_assume!(body as u64 != length);
        let script = Script { steps, lazy_end, ..Script::new(Some(length), body) };
        let (mut port, clock) = inline(Scripted::of([script]), 1);
        let outcome = run(&mut port, &clock, get("/"), 2);
        let started = !outcome.parts.is_empty();
        prop_assert_eq!(outcome.ended, Ended::Failed { started });
        prop_assert!(outcome.bytes.len() < length as usize + 200);
    }
}

/// What is shared is not copied: the chunk's bytes are the application's own.
#[test]
fn shared_bytes_are_where_the_application_has_them() {
    struct Own(Arc<Vec<u8>>);
    impl App for Own {
        type Task = usize;

        fn begin(&mut self, _: &Request, _: Time) -> usize {
            0
        }

        fn head(&mut self, _: &mut usize, _: &Request, _: Time) -> Poll<ReplyHead> {
            Poll::Ready(ReplyHead::new(200, self.0.len() as u64, "text/plain"))
        }

        fn body(&mut self, sent: &mut usize, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
            let bytes = out.len().min(self.0.len() - *sent);
            out[..bytes].copy_from_slice(&self.0[*sent..][..bytes]);
            *sent += bytes;
            Poll::Ready(Body { bytes, end: *sent == self.0.len() })
        }

        fn share(&mut self, sent: &mut usize, _: &Request, bytes_max: usize) -> Option<Shared> {
            let end = self.0.len().min(*sent + bytes_max);
            let shared = Shared::new(self.0.clone(), *sent..end);
            *sent = end;
            shared
        }
    }
    let body = Arc::new(body_of(3 * CHUNK_BYTES + 500));
    let (mut port, clock) = inline(Own(body.clone()), 1);
    let outcome = run(&mut port, &clock, get("/"), 2);
    assert_eq!(parse(&outcome.bytes, false).body, *body);
    // The head, and body up to the end of its chunk; chunks of the application's; what is not worth it is copied.
    let (first, rest) = (CHUNK_BYTES, outcome.bytes.len() - 3 * CHUNK_BYTES);
    assert_eq!(outcome.parts, [first, CHUNK_BYTES, CHUNK_BYTES, rest]);
    assert!(port.submit(job(1, get("/"))).is_ok());
    port.more(JobId(1), Chunk::new());
    let (mut parts, own) = (ArrayVec::<Part, PARTS>::new(), body.as_ptr_range());
    port.poll(&mut parts);
    let shared = parts.iter().filter_map(|part| match part {
        Part::Reply { chunk, .. } if own.contains(&chunk.bytes().as_ptr()) => Some(chunk.bytes().len()),
        _ => None,
    });
    assert_eq!(shared.collect::<Vec<_>>(), [CHUNK_BYTES]);
    // The reply under way and its chunks hold on to it, and nobody else.
    port.cancel(JobId(1));
    port.poll(&mut parts);
    drop(parts);
    drop(port);
    assert_eq!(Arc::strong_count(&body), 1);
}

#[test]
fn more_than_was_asked_for_is_not_shared() {
    struct Greedy(usize);
    impl App for Greedy {
        type Task = ();

        fn begin(&mut self, _: &Request, _: Time) {}

        fn head(&mut self, (): &mut (), _: &Request, _: Time) -> Poll<ReplyHead> {
            Poll::Ready(ReplyHead::new(200, 5_000_000, "text/plain"))
        }

        fn body(&mut self, (): &mut (), _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
            Poll::Ready(Body { bytes: out.len(), end: false })
        }

        fn share(&mut self, (): &mut (), _: &Request, bytes_max: usize) -> Option<Shared> {
            let bytes = if self.0 == 0 { 0 } else { bytes_max + self.0 - 1 };
            Shared::new(Arc::new(vec![7; bytes]), 0..bytes)
        }
    }
    for (beyond, fails) in [(0, true), (1, false), (2, true)] {
        let (mut port, clock) = inline(Greedy(beyond), 1);
        let outcome = run(&mut port, &clock, get("/"), 2);
        // One that shares what it may never says that its body has ended, until it is asked for more than its length.
        assert_eq!(outcome.ended, Ended::Failed { started: true }, "{beyond}");
        assert_eq!(outcome.bytes.len() < 2 * CHUNK_BYTES, fails, "{beyond}");
    }
    assert!(Shared::new(Arc::new([1, 2, 3]), 2..4).is_none());
}

#[test]
fn statuses_that_are_none_fail() {
    for status in [0, 100, 101, 199, 600, u16::MAX] {
        let (mut port, clock) = inline(Scripted::of([Script { status, ..Script::new(Some(3), 3) }]), 1);
        assert_eq!(run(&mut port, &clock, get("/"), 1).ended, Ended::Failed { started: false }, "{status}");
    }
    for status in [204, 304] {
        let (mut port, clock) = inline(Scripted::of([Script { status, ..Script::new(None, 3) }]), 1);
        let outcome = run(&mut port, &clock, get("/"), 1);
        let reply = parse(&outcome.bytes, false);
        assert_eq!(
            (reply.status, reply.body, reply.fields.iter().any(|(name, _)| name == "transfer-encoding")),
            (status, Vec::new(), false)
        );
    }
}

/// Takes all parts that are there without moving the clock; counts of chunks and requests that came back.
fn drain<A: App>(port: &mut keyferry_app::Port<A>) -> (usize, usize) {
    let (mut chunks, mut requests) = (0, 0);
    loop {
        let mut parts = ArrayVec::<Part, PARTS>::new();
        port.poll(&mut parts);
        if parts.is_empty() {
            return (chunks, requests);
        }
        for part in parts {
            match part {
                Part::Reply { end, .. } => {
                    chunks += 1;
                    requests += usize::from(end.is_some());
                }
                Part::Failed { .. } | Part::Cancelled(_) => requests += 1,
                Part::Took { .. } | Part::Spare(_) => chunks += 1,
                Part::Switched { .. } => {}
            }
        }
    }
}

#[test]
fn a_cancelled_job_gives_everything_back_at_every_stage() {
    let long = Script { before: vec![Step::Wait(10), Step::Busy], ..Script::new(None, 100_000) };
    for polls in 0..12 {
        let (mut port, clock) = inline(Scripted::of([long.clone()]), 1);
        assert!(port.submit(job(1, get("/"))).is_ok());
        let (mut given, mut chunks, mut requests) = (1, 0, 0);
        for _ in 0..polls {
            let (some_chunks, some_requests) = drain(&mut port);
            (chunks, requests) = (chunks + some_chunks, requests + some_requests);
            if requests == 0 && given - chunks < 2 {
                given += 1;
                port.more(JobId(1), Chunk::new());
            }
            clock.advance_us(5);
        }
        port.cancel(JobId(1));
        port.cancel(JobId(1));
        port.more(JobId(1), Chunk::new());
        let (last_chunks, last_requests) = drain(&mut port);
        assert_eq!((chunks + last_chunks, requests + last_requests), (given + 1, 1), "after {polls} polls");
        assert_eq!((port.outstanding(), port.poll_at()), (0, None));
    }
}

#[test]
fn who_computes_goes_on_first_and_who_waits_lets_others_pass() {
    let computes = Script { before: vec![Step::Busy, Step::Busy], ..Script::new(Some(1), 1) };
    let waits = Script { before: vec![Step::Wait(100)], ..Script::new(Some(1), 1) };
    let app = Scripted::of([waits, computes, Script::new(Some(1), 1)]);
    let log = Arc::clone(&app.log);
    let (mut port, clock) = inline(app, 3);
    for (id, target) in ["/waits", "/computes", "/short"].iter().enumerate() {
        assert!(port.submit(job(id as u64, get(target))).is_ok());
    }
    assert!(port.submit(job(9, get("/one-too-many"))).is_err());
    drain(&mut port);
    drain(&mut port);
    drain(&mut port);
    assert_eq!(port.poll_at(), Some(Time::from_us(100)));
    clock.advance_us(100);
    drain(&mut port);
    let expected = [
        "begin /waits",
        "head /waits",
        "begin /computes",
        "head /computes",
        "head /computes",
        "head /computes",
        "begin /short",
        "head /short",
        "head /waits",
    ];
    assert_eq!(*log.lock().unwrap(), expected);
    assert_eq!(port.outstanding(), 0);
}

#[test]
fn waiting_for_chunks_is_the_clients_time() {
    let script = Script { before: vec![Step::Wait(30)], ..Script::new(None, 3 * CHUNK_BYTES) };
    let (mut port, clock) = inline(Scripted::of([script]), 1);
    assert!(port.submit(job(1, get("/"))).is_ok());
    drain(&mut port);
    clock.advance_us(30);
    for _ in 0..3 {
        assert_eq!(drain(&mut port), (1, 0));
        clock.advance_us(1_000_000);
        port.more(JobId(1), Chunk::new());
    }
    let mut parts = ArrayVec::<Part, PARTS>::new();
    port.poll(&mut parts);
    let Some(Part::Reply { end: Some(end), .. }) = parts.pop() else { panic!("no end") };
    assert_eq!(end.service_ns, 30_000);
}

/// A runner with slots, and requests that each wait 100 us.
fn slotted(
    slots: usize,
    requests: u64,
) -> (keyferry_app::Port<Scripted>, TestClock, Arc<Mutex<Vec<String>>>) {
    let waits = || Script { before: vec![Step::Wait(100)], ..Script::new(Some(1), 1) };
    let app = Scripted::of((0..requests).map(|_| waits()));
    let (log, clock) = (Arc::clone(&app.log), TestClock::default());
    let runner =
        Runner::new(app, requests as usize, Box::new(clock.clone())).with_slots(NonZeroUsize::new(slots));
    let mut port = keyferry_app::Port::inline(runner);
    for id in 0..requests {
        assert!(port.submit(job(id, get(&format!("/{id}")))).is_ok());
    }
    (port, clock, log)
}

fn begun(log: &Mutex<Vec<String>>) -> Vec<String> {
    log.lock().unwrap().iter().filter_map(|line| Some(line.strip_prefix("begin /")?.to_owned())).collect()
}

#[test]
fn requests_beyond_the_slots_wait_in_line() {
    let (mut port, clock, log) = slotted(2, 5);
    let mut ends = Vec::new();
    for round in 0..4 {
        loop {
            let mut parts = ArrayVec::<Part, PARTS>::new();
            port.poll(&mut parts);
            if parts.is_empty() {
                break;
            }
            for part in parts {
                if let Part::Reply { id, end: Some(end), .. } = part {
                    ends.push((round, id.0, end.service_ns));
                }
            }
        }
        assert_eq!(begun(&log).len(), (2 * round as usize + 2).min(5));
        clock.advance_us(100);
    }
    // Two at a time, first come first served; the line is no part of the service.
    let expected = [(1, 0, 100_000), (1, 1, 100_000), (2, 2, 100_000), (2, 3, 100_000), (3, 4, 100_000)];
    assert_eq!(ends, expected);
    assert_eq!((port.outstanding(), port.poll_at()), (0, None));
}

#[test]
fn without_slots_all_are_begun() {
    let (mut port, _, log) = slotted(0, 5);
    drain(&mut port);
    assert_eq!(begun(&log).len(), 5);
}

#[test]
fn who_is_cancelled_leaves_the_slot_or_the_line() {
    let (mut port, clock, log) = slotted(2, 6);
    drain(&mut port);
    // One of the line, and one that is worked on.
    port.cancel(JobId(3));
    port.cancel(JobId(0));
    drain(&mut port);
    assert_eq!(begun(&log), ["0", "1", "2"]);
    assert_eq!(port.outstanding(), 4);
    clock.advance_us(100);
    drain(&mut port);
    assert_eq!(begun(&log), ["0", "1", "2", "4", "5"]);
    clock.advance_us(100);
    drain(&mut port);
    assert_eq!((port.outstanding(), port.poll_at()), (0, None));
}

#[test]
fn a_failed_request_leaves_its_slot() {
    let app = Scripted::of([Script { status: 0, ..Script::new(Some(1), 1) }, Script::new(Some(1), 1)]);
    let (log, clock) = (Arc::clone(&app.log), TestClock::default());
    let runner = Runner::new(app, 2, Box::new(clock)).with_slots(NonZeroUsize::new(1));
    let mut port = keyferry_app::Port::inline(runner);
    for id in 0..2 {
        assert!(port.submit(job(id, get(&format!("/{id}")))).is_ok());
    }
    drain(&mut port);
    drain(&mut port);
    assert_eq!((begun(&log).len(), port.outstanding()), (2, 0));
}
