//! A clock under the test's control, requests, and a worker reduced to what it does for the application: it gives
//! chunks, takes parts, and counts that everything comes back.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;
use keyferry_app::{App, CHUNKS_PER_JOB, Chunk, Clock, Job, JobId, PARTS, Part, Port, Runner};
use keyferry_http::{Limits, Progress, Reader, Request};
use keyferry_time::Time;

#[derive(Clone, Default)]
pub struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub fn set(&self, now: Time) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    pub fn advance_us(&self, us: u64) {
        self.0.fetch_add(us * 1_000, Ordering::Relaxed);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Time {
        Time(self.0.load(Ordering::Relaxed))
    }

    /// Of RFC 9110's example date.
    fn unix_seconds(&self) -> u64 {
        784_111_777
    }
}

pub const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

pub fn inline<A: App>(app: A, jobs: usize) -> (Port<A>, TestClock) {
    let clock = TestClock::default();
    (Port::inline(Runner::new(app, jobs, Box::new(clock.clone()))), clock)
}

pub fn request(bytes: &[u8]) -> Box<Request> {
    let mut request = Box::new(Request::default());
    let fed = Reader::new().feed(bytes, &mut request, &Limits::default());
    assert_eq!(fed, Ok((bytes.len(), Progress::Complete)), "{}", String::from_utf8_lossy(bytes));
    request
}

pub fn get(target: &str) -> Box<Request> {
    request(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes())
}

pub fn job(id: u64, request: Box<Request>) -> Job {
    Job { id: JobId(id), request, chunk: Chunk::new() }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Whole { status: u16, keep_alive: bool, service_ns: u64 },
    Failed { started: bool },
}

/// What came back of one job.
#[derive(Debug)]
pub struct Outcome {
    pub bytes: Vec<u8>,
    /// Bytes of each part.
    pub parts: Vec<usize>,
    pub ended: Ended,
    pub chunks: usize,
}

/// Runs one request to its end with up to `chunks` chunks at a time, and sees that they all come back.
pub fn run<A: App>(port: &mut Port<A>, clock: &TestClock, request: Box<Request>, chunks: usize) -> Outcome {
    let id = JobId(7);
    assert!(port.submit(Job { id, request, chunk: Chunk::new() }).is_ok());
    let (mut bytes, mut sizes, mut ended) = (Vec::new(), Vec::new(), None);
    let (mut given, mut back) = (1, 0);
    while ended.is_none() || back < given {
        let mut parts = ArrayVec::<Part, PARTS>::new();
        port.poll(&mut parts);
        if parts.is_empty() {
            clock.set(port.poll_at().expect("something is under way").max(clock.now()));
        }
        for part in parts {
            match part {
                Part::Spare(_) => back += 1,
                Part::Reply { chunk, end, .. } => {
                    assert!(ended.is_none(), "bytes behind the end");
                    bytes.extend_from_slice(chunk.bytes());
                    sizes.push(chunk.bytes().len());
                    back += 1;
                    match end {
                        Some(end) => {
                            let (status, keep_alive) = (end.status, end.keep_alive);
                            ended = Some(Ended::Whole { status, keep_alive, service_ns: end.service_ns });
                        }
                        None => {
                            while given - back < chunks {
                                given += 1;
                                port.more(id, Chunk::new());
                            }
                        }
                    }
                }
                Part::Failed { started, .. } => ended = Some(Ended::Failed { started }),
                Part::Cancelled(_) => panic!("nobody cancelled"),
                Part::Took { .. } | Part::Switched { .. } => panic!("nothing was fed"),
            }
        }
    }
    assert_eq!((port.outstanding(), back), (0, given));
    assert!(chunks <= CHUNKS_PER_JOB);
    Outcome { bytes, parts: sizes, ended: ended.expect("it ended"), chunks: given }
}

/// Head fields (lower-case names) and the decoded body of a reply.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

/// Parses a whole reply; panics at bytes too few or too many.
pub fn parse(bytes: &[u8], head_only: bool) -> Reply {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut fields);
    let used = head.parse(bytes).expect("a reply").unwrap();
    let fields: Vec<(String, String)> = head
        .headers
        .iter()
        .map(|field| (field.name.to_ascii_lowercase(), String::from_utf8_lossy(field.value).into_owned()))
        .collect();
    let mut reply = Reply { status: head.code.expect("a status"), fields, body: Vec::new() };
    let body = &bytes[used..];
    reply.body = match (reply.field("content-length"), reply.field("transfer-encoding")) {
        _ if head_only => body.to_vec(),
        (Some(length), None) => {
            assert_eq!(length.parse(), Ok(body.len()), "content-length");
            body.to_vec()
        }
        (None, Some("chunked")) => dechunk(body),
        (None, None) => body.to_vec(),
        framing => panic!("{framing:?}"),
    };
    reply
}

fn dechunk(mut body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let httparse::Status::Complete((used, size)) = httparse::parse_chunk_size(body).expect("a chunk")
        else {
            panic!("half a chunk");
        };
        let size = size as usize;
        body = &body[used..];
        out.extend_from_slice(&body[..size]);
        assert_eq!(&body[size..size + 2], b"\r\n");
        body = &body[size + 2..];
        if size == 0 {
            assert!(body.is_empty(), "bytes behind the last chunk");
            return out;
        }
    }
}
