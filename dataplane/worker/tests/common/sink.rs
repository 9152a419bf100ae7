//! An application that takes bodies as they come, at a pace the test sets, beside the synthetic one.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};

use keyferry_app::routes::{Rule, Rules, Streams};
use keyferry_app::synthetic::{self, Synthetic, fnv1a};
use keyferry_app::{App, Body, Shared};
use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;

/// Requests below this path are the sink's.
pub const SINK: &str = "/sink";

/// Whether sinks take anything now, and what they have taken.
#[derive(Clone, Default)]
pub struct Gate(Arc<State>);

#[derive(Default)]
struct State {
    is_shut: AtomicBool,
    taken: AtomicU64,
    asleep: Mutex<Vec<Waker>>,
}

impl Gate {
    pub fn shut(&self) {
        self.0.is_shut.store(true, Ordering::Relaxed);
    }

    pub fn open(&self) {
        self.0.is_shut.store(false, Ordering::Relaxed);
        for waker in self.0.asleep.lock().expect("one at a time").iter() {
            waker.wake_by_ref();
        }
    }

    fn is_shut(&self) -> bool {
        self.0.is_shut.load(Ordering::Relaxed)
    }

    /// Bytes taken so far by all sinks.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }
}

/// What answers for a node.
pub enum Served {
    Synthetic(Synthetic),
    /// Answers with the length and hash of a body when it is whole; once more than `most=N` has come, with 413 and that of
    /// what has come; with a head at once for `begin=1`. Fails for `fail=1`, amid its reply where the gate was shut. Who wants a
    /// WebSocket gets all it sends back, until so many bytes were sent for `end=N`, or 403 for `deny=1`.
    Sink(Gate),
}

pub enum Task {
    Synthetic(<Synthetic as App>::Task),
    Sink {
        body: Vec<u8>,
        is_whole: bool,
        reply: Vec<u8>,
        /// Bytes of the body that were sent back.
        sent: usize,
    },
}

/// Which is whose.
pub fn rules() -> Rules {
    Rules::new(vec![Rule { host: None, path_prefix: SINK.to_owned(), app: 1 }], 0)
}

pub fn streams() -> Streams {
    Streams::new(rules(), vec![false, true])
}

/// Bytes of an answer.
const ANSWER_BYTES: u64 = 15 + 1 + 16;

/// What a sink answers to this body.
pub fn answer(body: &[u8]) -> String {
    format!("{:>15} {:016x}", body.len(), fnv1a(body))
}

fn has(request: &Request, query: &str) -> Option<usize> {
    let text = std::str::from_utf8(request.query()).unwrap_or_default();
    text.split('&').find_map(|pair| pair.strip_prefix(query)?.parse().ok())
}

impl App for Served {
    type Task = Task;

    fn begin(&mut self, request: &Request, now: Time) -> Task {
        match self {
            Served::Synthetic(app) => Task::Synthetic(app.begin(request, now)),
            Served::Sink(_) => Task::Sink {
                body: request.body().to_vec(),
                is_whole: request.is_whole() && !request.wants_websocket(),
                reply: Vec::new(),
                sent: 0,
            },
        }
    }

    fn wake_by(&mut self, task: &mut Task, waker: &Waker) {
        let _ = task;
        if let Served::Sink(gate) = self {
            gate.0.asleep.lock().expect("one at a time").push(waker.clone());
        }
    }

    fn input(&mut self, task: &mut Task, _: &Request, bytes: &[u8], end: bool) -> bool {
        let (Served::Sink(gate), Task::Sink { body, is_whole, .. }) = (self, task) else { return true };
        if gate.is_shut() {
            return false;
        }
        gate.0.taken.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        assert!(!*is_whole, "bytes behind the end of a body");
        body.extend_from_slice(bytes);
        *is_whole = end;
        true
    }

    fn head(&mut self, task: &mut Task, request: &Request, now: Time) -> Poll<ReplyHead> {
        let (body, is_whole, reply) = match (self, task) {
            (Served::Synthetic(app), Task::Synthetic(task)) => return app.head(task, request, now),
            (_, Task::Sink { body, is_whole, reply, .. }) => (body, *is_whole, reply),
            _ => unreachable!("a task belongs to the application that began it"),
        };
        if request.wants_websocket() {
            return Poll::Ready(match has(request, "deny=") {
                None => ReplyHead::forwarded(101, None),
                Some(_) => ReplyHead::new(403, 0, ""),
            });
        }
        let is_over = has(request, "most=").is_some_and(|most| body.len() > most);
        if has(request, "begin=").is_some() {
            return Poll::Ready(ReplyHead::new(200, ANSWER_BYTES, "text/plain"));
        }
        if !is_over && !is_whole {
            return Poll::Pending;
        }
        *reply = answer(body).into_bytes();
        let status = if is_over { 413 } else { 200 };
        Poll::Ready(ReplyHead::new(status, ANSWER_BYTES, "text/plain"))
    }

    fn body(&mut self, task: &mut Task, request: &Request, now: Time, out: &mut [u8]) -> Poll<Body> {
        match (self, task) {
            (Served::Synthetic(app), Task::Synthetic(task)) => app.body(task, request, now, out),
            (_, Task::Sink { body, is_whole, sent, .. }) if request.wants_websocket() => {
                let most = has(request, "end=").unwrap_or(usize::MAX);
                let bytes = (body.len() - *sent).min(out.len()).min(most - *sent);
                out[..bytes].copy_from_slice(&body[*sent..*sent + bytes]);
                *sent += bytes;
                let end = *sent == most || (*is_whole && *sent == body.len());
                if bytes == 0 && !end { Poll::Pending } else { Poll::Ready(Body { bytes, end }) }
            }
            (Served::Sink(gate), Task::Sink { sent, .. }) if has(request, "fail=").is_some() => {
                if !gate.is_shut() {
                    // Its head promises more.
                    return Poll::Ready(Body { bytes: 0, end: true });
                }
                if *sent > 0 {
                    return Poll::Pending;
                }
                *sent = 1;
                out[0] = b' ';
                Poll::Ready(Body { bytes: 1, end: false })
            }
            (_, Task::Sink { body, is_whole, reply, .. }) => {
                if has(request, "begin=").is_some() {
                    if !*is_whole {
                        return Poll::Pending;
                    }
                    *reply = answer(body).into_bytes();
                }
                out[..reply.len()].copy_from_slice(reply);
                Poll::Ready(Body { bytes: reply.len(), end: true })
            }
            _ => unreachable!("a task belongs to the application that began it"),
        }
    }

    fn share(&mut self, task: &mut Task, request: &Request, bytes_max: usize) -> Option<Shared> {
        match (self, task) {
            (Served::Synthetic(app), Task::Synthetic(task)) => app.share(task, request, bytes_max),
            _ => None,
        }
    }

    fn deadline(&self, task: &Task) -> Option<Time> {
        match (self, task) {
            (Served::Synthetic(app), Task::Synthetic(task)) => app.deadline(task),
            _ => Some(Time::NEVER),
        }
    }
}

/// The synthetic application, and sinks behind this gate.
pub fn applications(options: synthetic::Options, gate: &Gate) -> Vec<Served> {
    vec![Served::Synthetic(Synthetic::new(options)), Served::Sink(gate.clone())]
}
