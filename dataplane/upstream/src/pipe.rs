//! A request's body on its way to an origin: whole, or a piece at a time while its client sends it.
//!
//! In: pieces, from whoever has the request. Out: hyper's frames, as its connection takes them. At most one piece lies between:
//! that is the back-pressure. The lock is never contended: all of it runs on one thread, but hyper's tasks have to be able to
//! move.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use crate::failure::Failure;
use crate::options::Options;

/// What an origin is sent as a request's body.
pub(crate) type Outward = Either<Full<Bytes>, Streamed>;

/// A body that is whole.
pub(crate) fn whole(bytes: Bytes) -> Outward {
    Either::Left(Full::new(bytes))
}

/// A body that comes out of a pipe.
pub(crate) fn streamed(pipe: &Pipe) -> Outward {
    Either::Right(pipe.far_end())
}

/// The client of a request is gone, or given up: its body ends broken, and with it the connection to the origin.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the rest of the request's body does not come")]
pub(crate) struct Cut;

/// The near end of a body that streams: dropped before the body is whole it cuts it.
pub(crate) struct Pipe(Arc<Mutex<State>>);

/// The far end: hyper's. There may be one after another, as long as none has taken anything.
pub(crate) struct Streamed(Arc<Mutex<State>>);

struct State {
    /// The piece that waits to be taken.
    piece: Option<Bytes>,
    /// None follows it.
    is_last: bool,
    /// Bytes not taken yet; `None`: nobody knows.
    left: Option<u64>,
    /// Something was taken: it cannot be sent again.
    is_begun: bool,
    /// The far end is gone, and has taken some.
    is_unwanted: bool,
    /// The near end is.
    is_cut: bool,
    /// When the piece came, or the last one was taken.
    since: Instant,
    /// Some was taken since this was last asked.
    has_moved: bool,
    near: Waker,
    far: Option<Waker>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pipe {
    /// Of a body of so many bytes, if anybody knows, which begins with `first`.
    pub(crate) fn new(length: Option<u64>, first: &[u8]) -> Pipe {
        Pipe(Arc::new(Mutex::new(State {
            piece: (!first.is_empty()).then(|| Bytes::copy_from_slice(first)),
            is_last: false,
            left: length,
            is_begun: false,
            is_unwanted: false,
            is_cut: false,
            since: Instant::now(),
            has_moved: false,
            near: Waker::noop().clone(),
            far: None,
        })))
    }

    /// Whom to wake when a piece was taken.
    pub(crate) fn wake_by(&self, waker: &Waker) {
        lock(&self.0).near.clone_from(waker);
    }

    /// The far end.
    pub(crate) fn far_end(&self) -> Streamed {
        // From now on the origin is waited for.
        lock(&self.0).since = Instant::now();
        Streamed(Arc::clone(&self.0))
    }

    /// Adds a piece, at `end` the last one, maybe empty. Answers whether there was room; also if nobody wants it any more.
    pub(crate) fn add(&self, bytes: &[u8], end: bool) -> bool {
        let mut state = lock(&self.0);
        if state.is_unwanted {
            state.is_last |= end;
            return true;
        }
        if state.piece.is_some() {
            return false;
        }
        // Copied: the worker wants its chunk back.
        state.piece = (!bytes.is_empty()).then(|| Bytes::copy_from_slice(bytes));
        (state.is_last, state.since) = (end, Instant::now());
        let far = state.far.take();
        drop(state);
        far.into_iter().for_each(Waker::wake);
        true
    }

    /// Whether nothing of it was taken.
    pub(crate) fn is_untouched(&self) -> bool {
        !lock(&self.0).is_begun
    }

    /// Whether all of it was.
    pub(crate) fn is_over(&self) -> bool {
        lock(&self.0).is_over()
    }

    /// Whether some was taken since this was last asked.
    pub(crate) fn has_moved(&self) -> bool {
        std::mem::take(&mut lock(&self.0).has_moved)
    }

    /// When the origin will have been waited for too long, and what that is then; `None`: the client is waited for.
    pub(crate) fn due(&self, options: &Options) -> Option<(Instant, Failure)> {
        let state = lock(&self.0);
        match (&state.piece, state.is_last) {
            (Some(_), _) => Some((state.since + options.body_timeout, Failure::BodyLate)),
            (None, true) => Some((state.since + options.reply_timeout, Failure::ReplyLate)),
            (None, false) => None,
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_cut = true;
        let far = state.far.take();
        drop(state);
        far.into_iter().for_each(Waker::wake);
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.is_last && self.piece.is_none()
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let mut state = lock(&self.0);
        if let Some(piece) = state.piece.take() {
            (state.is_begun, state.has_moved, state.since) = (true, true, Instant::now());
            state.left = state.left.map(|left| left.saturating_sub(piece.len() as u64));
            let near = state.near.clone();
            drop(state);
            near.wake();
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if state.is_last {
            return Poll::Ready(None);
        }
        if state.is_cut {
            return Poll::Ready(Some(Err(Cut)));
        }
        state.far = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Not before the first frame was asked for: a chunked body without bytes is one all the same, and is framed.
    fn is_end_stream(&self) -> bool {
        let state = lock(&self.0);
        state.is_begun && state.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        if state.is_begun {
            state.is_unwanted = true;
            state.piece = None;
            let near = state.near.clone();
            drop(state);
            near.wake();
        }
    }
}
