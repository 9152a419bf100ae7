//! The application seam: what runs a request and makes its reply.
//!
//! An embedder implements [`App`]; `keyferry` brings `static` and `synthetic`. A worker submits whole requests and
//! gets back reply bytes ready to be sealed, a chunk of at most one TLS record at a time. The application fills
//! only chunks it was given, so back-pressure needs no protocol of its own.

#![forbid(unsafe_code)]

use std::task::Poll;

use keyferry_http::{ReplyHead, Request};
use keyferry_time::Time;

/// A request handler. One value runs on one app thread (or inside a worker), many requests at a time.
///
/// No method may block for long: what has to wait answers [`Poll::Pending`] and is asked again, at the latest at
/// the deadline it names through [`App::deadline`].
pub trait App: Send + 'static {
    /// One request under way.
    type Task: Send + 'static;

    /// Starts a request. It is whole, body included, and stays readable until its reply ends.
    fn begin(&mut self, request: &Request, now: Time) -> Self::Task;

    /// The reply's status, headers and length, once known. Called until it is ready, then not again.
    fn head(&mut self, task: &mut Self::Task, request: &Request, now: Time) -> Poll<ReplyHead>;

    /// Appends body bytes to `out` (never empty). Called until it answers `end`.
    fn body(&mut self, task: &mut Self::Task, request: &Request, now: Time, out: &mut [u8]) -> Poll<Body>;

    /// When a pending task wants to be asked again; `None`: at every turn.
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
