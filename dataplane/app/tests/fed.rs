//! Bodies that come while their requests run: what is fed is offered until it is taken, and every chunk comes back.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use arrayvec::ArrayVec;
use common::*;
use keyferry_app::{App, Body, Chunk, FEEDS_PER_JOB, JobId, PARTS, Part, Port};
use keyferry_http::{Limits, Progress, Reader, ReplyHead, Request};
use keyferry_time::Time;

/// Takes as much as the test lets it, and answers with how much that was once it is all, or more than is wanted.
#[derive(Clone, Default)]
struct Eater {
    /// Pieces it may still take.
    appetite: Arc<AtomicUsize>,
    waker: Arc<Mutex<Option<Waker>>>,
}

/// Answered before they are whole.
const LONG: usize = 10_000;

#[derive(Default)]
struct Task {
    eaten: usize,
    is_whole: bool,
}

impl Eater {
    fn eat(&self, pieces: usize) {
        self.appetite.store(pieces, Ordering::SeqCst);
        let waker = self.waker.lock().unwrap();
        waker.as_ref().expect("it has begun").wake_by_ref();
    }
}

impl App for Eater {
    type Task = Task;

    fn begin(&mut self, request: &Request, _: Time) -> Task {
        Task { eaten: request.body().len(), is_whole: request.is_whole() }
    }

    fn wake_by(&mut self, _: &mut Task, waker: &Waker) {
        *self.waker.lock().unwrap() = Some(waker.clone());
    }

    fn input(&mut self, task: &mut Task, _: &Request, bytes: &[u8], end: bool) -> bool {
        let left = self.appetite.load(Ordering::SeqCst);
        if left == 0 {
            return false;
        }
        self.appetite.store(left - 1, Ordering::SeqCst);
        (task.eaten, task.is_whole) = (task.eaten + bytes.len(), end);
        true
    }

    fn head(&mut self, task: &mut Task, _: &Request, _: Time) -> Poll<ReplyHead> {
        match task.is_whole || task.eaten > LONG {
            true => Poll::Ready(ReplyHead::new(200, 8, "text/plain")),
            false => Poll::Pending,
        }
    }

    fn body(&mut self, task: &mut Task, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
        out[..8].copy_from_slice(format!("{:>8}", task.eaten).as_bytes());
        Poll::Ready(Body { bytes: 8, end: true })
    }

    fn deadline(&self, _: &Task) -> Option<Time> {
        Some(Time::NEVER)
    }
}

fn streaming() -> Box<Request> {
    let mut request = Box::new(Request::default());
    let bytes = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst";
    let fed = Reader::new().feed_or_stream(bytes, &mut request, &Limits::default(), |_| true);
    assert_eq!(fed, Ok((bytes.len(), Progress::Streams)));
    request
}

fn piece(bytes: usize) -> Chunk {
    let mut chunk = Chunk::new();
    chunk.fill(|room| {
        room[..bytes].fill(b'x');
        bytes
    });
    chunk
}

fn poll(port: &mut Port<Eater>) -> ArrayVec<Part, PARTS> {
    let mut parts = ArrayVec::new();
    port.poll(&mut parts);
    parts
}

fn is_took(part: &Part) -> bool {
    matches!(part, Part::Took { id: JobId(1), .. })
}

#[test]
fn what_is_not_taken_is_offered_again() {
    let eater = Eater::default();
    let (mut port, _) = inline(eater.clone(), 2);
    assert!(port.submit(job(1, streaming())).is_ok());
    assert!(poll(&mut port).is_empty());
    for bytes in [100, 200] {
        port.feed(JobId(1), piece(bytes), false);
    }
    assert!(poll(&mut port).is_empty(), "it takes nothing");
    eater.eat(1);
    let parts = poll(&mut port);
    assert!(parts.len() == 1 && is_took(&parts[0]));
    port.feed(JobId(1), piece(0), true);
    eater.eat(FEEDS_PER_JOB);
    let parts = poll(&mut port);
    assert!(parts.len() == 3 && parts[..2].iter().all(is_took));
    let Part::Reply { chunk, end: Some(end), .. } = &parts[2] else { panic!("the reply") };
    assert!(chunk.bytes().ends_with(b"\r\n\r\n     305"));
    assert!(end.keep_alive && !end.request.is_whole());
    assert_eq!(port.outstanding(), 0);
}

/// A body that is not read to its end ends its connection.
#[test]
fn who_answers_early_says_that_it_is_the_end() {
    let eater = Eater::default();
    let (mut port, _) = inline(eater.clone(), 1);
    assert!(port.submit(job(1, streaming())).is_ok());
    assert!(poll(&mut port).is_empty());
    port.feed(JobId(1), piece(LONG), false);
    port.feed(JobId(1), piece(1), false);
    eater.eat(1);
    let parts = poll(&mut port);
    let [first, Part::Reply { chunk, end: Some(end), .. }, Part::Spare(_)] = &parts[..] else {
        panic!("one taken, the reply, one not taken")
    };
    assert!(is_took(first) && !end.keep_alive);
    assert!(String::from_utf8_lossy(chunk.bytes()).contains("\r\nConnection: close\r\n"));
    // What comes behind it is nobody's.
    port.feed(JobId(1), piece(1), true);
    assert!(matches!(poll(&mut port)[..], [Part::Spare(_)]));
}

#[test]
fn what_is_not_taken_comes_back_with_a_request_that_is_cancelled() {
    let (mut port, _) = inline(Eater::default(), 1);
    assert!(port.submit(job(1, streaming())).is_ok());
    port.feed(JobId(1), piece(1), false);
    assert!(poll(&mut port).is_empty());
    port.cancel(JobId(1));
    let parts = poll(&mut port);
    assert_eq!(parts.iter().filter(|part| matches!(part, Part::Spare(_))).count(), 2);
    assert!(matches!(parts.last(), Some(Part::Cancelled(_))));
}

#[test]
#[should_panic(expected = "more of a body was fed")]
fn no_more_is_fed_than_may_be_untaken() {
    let (mut port, _) = inline(Eater::default(), 1);
    assert!(port.submit(job(1, streaming())).is_ok());
    (0..=FEEDS_PER_JOB).for_each(|_| port.feed(JobId(1), piece(1), false));
}
