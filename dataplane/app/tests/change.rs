//! An application that becomes another one while it runs: who has begun goes on, who has not finds what is new.

mod common;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use arrayvec::ArrayVec;
use common::*;
use keyferry_app::synthetic::Synthetic;
use keyferry_app::threads::{Changer, Idle, Plan, start};
use keyferry_app::{App, Body, Change, Chunk, JobId, PARTS, Part, Port, Runner};
use keyferry_http::{Limits, Progress, Reader, ReplyHead, Request};
use keyferry_time::Time;

/// When `/wait` is answered.
const DUE: Time = Time(1_000_000);

/// Answers with the number it had when a request began.
struct Numbered(u64);

struct Task {
    number: u64,
    is_whole: bool,
    waits: bool,
}

impl App for Numbered {
    type Task = Task;

    fn begin(&mut self, request: &Request, _: Time) -> Task {
        Task { number: self.0, is_whole: request.is_whole(), waits: request.path() == b"/wait" }
    }

    fn input(&mut self, task: &mut Task, _: &Request, _: &[u8], end: bool) -> bool {
        task.is_whole = end;
        true
    }

    fn head(&mut self, task: &mut Task, _: &Request, now: Time) -> Poll<ReplyHead> {
        match task.is_whole && (!task.waits || DUE.is_due(now)) {
            true => Poll::Ready(ReplyHead::new(200, 8, "text/plain")),
            false => Poll::Pending,
        }
    }

    fn body(&mut self, task: &mut Task, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
        out[..8].copy_from_slice(format!("{:>8}", task.number).as_bytes());
        Poll::Ready(Body { bytes: 8, end: true })
    }

    fn deadline(&self, _: &Task) -> Option<Time> {
        Some(DUE)
    }
}

fn become_number(number: u64) -> Change {
    Change::of(move |app: &mut Numbered| app.0 = number)
}

fn streaming() -> Box<Request> {
    let mut request = Box::new(Request::default());
    let bytes = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst";
    let fed = Reader::new().feed_or_stream(bytes, &mut request, &Limits::default(), |_| true);
    assert_eq!(fed, Ok((bytes.len(), Progress::Streams)));
    request
}

fn websocket() -> Box<Request> {
    let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    request(format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n").as_bytes())
}

/// Takes replies until none is outstanding: the number in each, by job.
fn numbers(port: &mut Port<Numbered>) -> BTreeMap<u64, u64> {
    let mut numbers = BTreeMap::new();
    while port.outstanding() > 0 {
        let mut parts = ArrayVec::<Part, PARTS>::new();
        port.poll(&mut parts);
        if parts.is_empty() {
            std::thread::yield_now();
        }
        for part in parts {
            let Part::Reply { id: JobId(id), chunk, end: Some(_) } = part else { continue };
            let text = String::from_utf8(parse(chunk.bytes(), false).body).expect("text");
            numbers.insert(id, text.trim().parse().expect("a number"));
        }
    }
    numbers
}

/// With one slot: the first is under way, the others are in line.
#[test]
fn who_has_begun_goes_on_and_who_has_not_finds_what_is_new() {
    let clock = TestClock::default();
    let runner = Runner::new(Numbered(1), 4, Box::new(clock.clone())).with_slots(NonZeroUsize::new(1));
    let mut port = Port::inline(runner);
    assert!(port.submit(job(1, get("/wait"))).is_ok());
    let mut parts = ArrayVec::new();
    port.poll(&mut parts);
    assert!(parts.is_empty(), "it waits");
    assert!(port.submit(job(2, get("/"))).is_ok());
    assert!(port.submit(job(3, streaming())).is_ok());
    assert!(port.submit(job(4, websocket())).is_ok());
    port.change(become_number(2));
    port.change(become_number(3));
    port.feed(JobId(3), Chunk::new(), true);
    clock.set(DUE);
    // Those whose bodies come as they run, and WebSockets, were submitted for what was there then.
    assert_eq!(numbers(&mut port), BTreeMap::from([(1, 1), (2, 3), (3, 1), (4, 1)]));
}

#[test]
fn what_is_submitted_behind_a_change_finds_it_done() {
    const THREADS: usize = 2;
    for idle in [Idle::Sleep, Idle::Yield] {
        let (stop, plan) = (
            Arc::new(AtomicBool::new(false)),
            Plan { cores: vec![None; THREADS], workers: 1, jobs_per_worker: 4, slots: None, idle },
        );
        let (mut ports, threads) = start(&plan, || Numbered(0), &stop).expect("threads start");
        let mut port = ports.pop().expect("one worker");
        let mut changer: Changer = port.changer().expect("it is on threads");
        for number in 1..=200 {
            changer.tell((0..THREADS).map(|_| become_number(number)).collect());
            while !changer.are_taken() {
                std::thread::yield_now();
            }
            // One for each thread.
            for id in [1, 2] {
                assert!(port.submit(job(id, get("/"))).is_ok());
            }
            port.flush();
            assert_eq!(numbers(&mut port), BTreeMap::from([(1, number), (2, number)]));
        }
        stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().expect("a thread ends in order");
        }
    }
}

#[test]
#[should_panic(expected = "for applications of its type")]
fn a_change_is_for_one_type() {
    let (mut port, _) = inline(Numbered(0), 1);
    port.change(Change::of(|_: &mut Synthetic| ()));
}
