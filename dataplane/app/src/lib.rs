//! The application seam: what runs a request and makes its reply.
//!
//! An embedder implements [`App`] (docs/EMBEDDING.md); `keyferry` brings `static` and `synthetic`. A worker submits whole requests and
//! gets back reply bytes ready to be sealed, a chunk of at most one TLS record at a time. The application fills
//! only chunks it was given, so back-pressure needs no protocol of its own. For an application that takes bodies as they
//! come a request is submitted before its body is whole, and the rest follows in chunks, of which few may be untaken.
//!
//! - [`Job`], [`Part`], [`Chunk`]: what travels between worker and application
//! - [`runner`]: drives an [`App`], many requests at a time, and writes HTTP around its bodies
//! - [`change`]: what becomes of an application while it runs
//! - [`bells`]: how a task that waits for something other than a time is asked again
//! - [`port`]: what a worker holds: a runner inside the worker, or queues to app threads
//! - [`threads`]: the app threads
//! - [`synthetic`], [`static_files`], [`builtin`]: the applications that come with keyferry
//! - [`routes`]: several applications as one, by host and path

#![forbid(unsafe_code)]

use std::task::{Poll, Waker};

pub use keyferry_http::{Method, ReplyHead, Request};
pub use keyferry_time::Time;

pub mod bells;
pub mod builtin;
pub mod change;
pub mod chunk;
pub mod clock;
mod job;
pub mod port;
mod reply;
pub mod routes;
pub mod runner;
pub mod static_files;
pub mod synthetic;
pub mod threads;

pub use builtin::Builtin;
pub use change::Change;
pub use chunk::{CHUNK_BYTES, Chunk, Memory, Shared};
pub use clock::{Clock, SystemClock};
pub use job::{CHUNKS_PER_JOB, End, FEEDS_PER_JOB, Job, JobId, Part};
pub use port::{PARTS, Port};
pub use runner::Runner;

/// A request handler. One value runs on one app thread (or inside a worker), many requests at a time.
///
/// No method may block for long. What has to wait answers [`Poll::Pending`] and names a time through
/// [`App::deadline`], or [`Time::NEVER`] if a waker will say when ([`App::wake_by`]); others go on meanwhile. What needs more of the processor answers `Pending` without one: it is
/// asked again before any other, so that requests are served first come, first served, as by a core of its own.
pub trait App: Send + 'static {
    /// One request under way.
    type Task: Send + 'static;

    /// Starts a request. It is whole, body included, unless this application takes [input](App::input), and stays readable
    /// until its reply ends.
    fn begin(&mut self, request: &Request, now: Time) -> Self::Task;

    /// Called once, behind [`App::begin`]. Waking `waker`, from any thread, has a task whose deadline is [`Time::NEVER`]
    /// asked again; it may be asked without as well. Where the application runs inside a worker nobody sleeps, so that the
    /// next turn sees it.
    fn wake_by(&mut self, task: &mut Self::Task, waker: &Waker) {
        let _ = (task, waker);
    }

    /// The next bytes of a request's body that is not [whole](Request::is_whole), at `end` the last ones, maybe none. Answers
    /// whether they were taken, all of them; else they are offered again whenever the task is asked, for which it has to be
    /// woken. A reply may begin, and end, before all has come: what is left is then nobody's.
    fn input(&mut self, task: &mut Self::Task, request: &Request, bytes: &[u8], end: bool) -> bool {
        let _ = (task, request, bytes, end);
        true
    }

    /// The reply's status, headers and length, once known. Called until it is ready, then not again. A status
    /// outside 200 to 599 is a fault of the application, but for 101 to a request that
    /// [wants a WebSocket](Request::wants_websocket): then the body is what the client is sent, and [`App::input`] what it sends,
    /// until either ends.
    fn head(&mut self, task: &mut Self::Task, request: &Request, now: Time) -> Poll<ReplyHead>;

    /// Writes body bytes to the start of `out` (never empty). Called until it answers `end`; not for HEAD, nor for a
    /// status or length that leaves no body. A body unlike its length, or a piece with neither bytes nor end, is a
    /// fault of the application.
    fn body(&mut self, task: &mut Self::Task, request: &Request, now: Time, out: &mut [u8]) -> Poll<Body>;

    /// The next bytes of the body, at least one and at most so many, of memory that does not change: they are sealed from
    /// where they lie, which saves a copy. `None`, as here: [`App::body`] is asked. Asked before it where a reply of a known
    /// length has much to come; what it answers is not `body`'s to write, but for the end.
    fn share(&mut self, task: &mut Self::Task, request: &Request, bytes_max: usize) -> Option<Shared> {
        let _ = (task, request, bytes_max);
        None
    }

    /// When a pending task wants to be asked again; `None`: at once, it is computing; [`Time::NEVER`]: when it is woken.
    fn deadline(&self, task: &Self::Task) -> Option<Time> {
        let _ = task;
        None
    }
}

/// Progress of a reply's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Body {
    /// Bytes written to `out`.
    pub bytes: usize,
    /// Nothing follows.
    pub end: bool,
}

impl Body {
    /// The application cannot go on: the reply ends broken, and the client sees that it did.
    pub const FAILED: Body = Body { bytes: usize::MAX, end: true };
}
