//! The application of a run. Each reply says who made it and how often that one has been asked, and its body follows
//! from that: so the same request run twice gives two plaintexts, and a key used for both shows.
//!
//! A target is `/CLIENT-REQUEST?bytes=N&cost_us=N&pause_us=N&chunked&fail`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Duration;

use keyferry_app::{App, Body};
use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;

/// The header that says who made a reply.
pub const SERVED_BY: &str = "x-served-by";

/// The header that tells the length and sum of the request's body.
pub const UPLOADED: &str = "x-uploaded";

/// Bytes of a body before a pause.
const BEFORE_PAUSE: u64 = 700;

thread_local! {
    /// How often each unsafe request of the run has been begun, anywhere, by its path.
    static UNSAFE: RefCell<BTreeMap<Vec<u8>, u32>> = const { RefCell::new(BTreeMap::new()) };
}

/// Forgets the runs before.
pub fn forget() {
    UNSAFE.with_borrow_mut(BTreeMap::clear);
}

/// An unsafe request that was begun twice.
pub fn begun_twice() -> Option<String> {
    UNSAFE.with_borrow(|all| {
        let twice = all.iter().find(|(_, count)| **count > 1)?;
        Some(String::from_utf8_lossy(twice.0).into_owned())
    })
}

/// Makes replies that name their maker.
pub struct Echo {
    /// Node, life and worker, in one number.
    maker: u32,
    count: u32,
}

impl Echo {
    /// An application of this node, in this life of it, for this worker.
    pub fn new(node: usize, life: u32, worker: usize) -> Echo {
        Echo { maker: (node as u32) << 16 | life << 4 | worker as u32, count: 0 }
    }
}

/// A request under way.
pub struct Task {
    served: u64,
    bytes: u64,
    written: u64,
    ready_at: Time,
    pause: Duration,
    chunked: bool,
    fail: bool,
}

fn number(query: &[u8], name: &str) -> Option<u64> {
    let text = std::str::from_utf8(query).ok()?;
    let value = text.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    value.parse().ok()
}

fn flag(query: &[u8], name: &str) -> bool {
    query.split(|byte| *byte == b'&').any(|pair| pair == name.as_bytes())
}

/// The body that follows from who served it, from byte `at` on.
pub fn fill(served: u64, at: u64, out: &mut [u8]) {
    let mut word = [0; 8];
    for (index, byte) in (at..).zip(out.iter_mut()) {
        if index == at || index % 8 == 0 {
            let mut mixed = (index / 8).wrapping_add(served).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (mixed ^ (mixed >> 27)).to_le_bytes();
        }
        *byte = word[(index % 8) as usize];
    }
}

/// A sum over a request's body that both ends can tell.
pub fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(bytes.len() as u64, |sum, byte| sum.rotate_left(5).wrapping_add(u64::from(*byte)))
}

impl App for Echo {
    type Task = Task;

    fn begin(&mut self, request: &Request, now: Time) -> Task {
        let query = request.query();
        self.count += 1;
        if !request.is_safe() {
            UNSAFE.with_borrow_mut(|all| *all.entry(request.path().to_vec()).or_default() += 1);
        }
        Task {
            served: u64::from(self.maker) << 32 | u64::from(self.count),
            bytes: number(query, "bytes").unwrap_or(0),
            written: 0,
            ready_at: now + Duration::from_micros(number(query, "cost_us").unwrap_or(0)),
            pause: Duration::from_micros(number(query, "pause_us").unwrap_or(0)),
            chunked: flag(query, "chunked"),
            fail: flag(query, "fail"),
        }
    }

    fn head(&mut self, task: &mut Task, request: &Request, now: Time) -> Poll<ReplyHead> {
        if !task.ready_at.is_due(now) {
            return Poll::Pending;
        }
        let mut head = if task.chunked {
            ReplyHead::chunked(200, "application/octet-stream")
        } else {
            ReplyHead::new(200, task.bytes, "application/octet-stream")
        };
        let body = request.body();
        let uploaded = format!("{}-{:x}", body.len(), sum(body));
        head.header(SERVED_BY, format!("{:x}", task.served).as_bytes()).expect("there is room for a number");
        head.header(UPLOADED, uploaded.as_bytes()).expect("there is room for two numbers");
        Poll::Ready(head)
    }

    fn body(&mut self, task: &mut Task, _: &Request, now: Time, out: &mut [u8]) -> Poll<Body> {
        if !task.ready_at.is_due(now) {
            return Poll::Pending;
        }
        let mut most = task.bytes - task.written;
        if !task.pause.is_zero() && task.written < BEFORE_PAUSE {
            most = most.min(BEFORE_PAUSE - task.written);
        }
        if task.fail {
            let half = task.bytes / 2;
            if task.written >= half {
                return Poll::Ready(Body::FAILED);
            }
            most = most.min(half - task.written);
        }
        let bytes = out.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        fill(task.served, task.written, &mut out[..bytes]);
        task.written += bytes as u64;
        if task.written == BEFORE_PAUSE && !task.pause.is_zero() {
            task.ready_at = now + task.pause;
            task.pause = Duration::ZERO;
        }
        Poll::Ready(Body { bytes, end: task.written == task.bytes })
    }

    fn deadline(&self, task: &Task) -> Option<Time> {
        Some(task.ready_at)
    }
}
