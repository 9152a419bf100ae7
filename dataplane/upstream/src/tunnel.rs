//! A connection to an origin that goes on as a WebSocket: bytes both ways, as fast as whoever reads them.
//!
//! In: what the client says, out of a pipe, and the origin. Out: what the origin says. On the app thread's runtime; the way to the
//! origin is a task of its own, so that neither way waits for the other.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body_util::BodyExt;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};

use crate::options::Options;
use crate::pipe::{Pipe, Streamed};
use crate::pool::Lease;

type Stream = TokioIo<Upgraded>;

/// Such a connection. Dropped, it ends.
pub(crate) struct Tunnel {
    /// The server's: as a request under way.
    _lease: Lease,
    from: ReadHalf<Stream>,
    sending: JoinHandle<()>,
    /// Runs while nothing is said.
    silence: Pin<Box<Sleep>>,
    /// Something was since it was set.
    heard: bool,
}

/// What the origin said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// So many bytes.
    Bytes(usize),
    /// Nothing follows.
    End,
    /// Nobody has said anything for too long.
    Silence,
}

impl Tunnel {
    /// Between the origin and whoever speaks through the pipe.
    pub(crate) fn new(lease: Lease, upgraded: Upgraded, pipe: &Pipe, options: &Options) -> Tunnel {
        let (from, to) = tokio::io::split(TokioIo::new(upgraded));
        Tunnel {
            _lease: lease,
            from,
            sending: tokio::spawn(send(pipe.far_end(), to)),
            silence: Box::pin(sleep(options.upgraded_timeout)),
            heard: false,
        }
    }

    /// What the origin says next, to the start of `out`.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        pipe: Option<&Pipe>,
        options: &Options,
        out: &mut [u8],
    ) -> Poll<io::Result<Said>> {
        let mut room = ReadBuf::new(out);
        if let Poll::Ready(read) = Pin::new(&mut self.from).poll_read(cx, &mut room) {
            self.heard = true;
            return Poll::Ready(read.map(|()| match room.filled().len() {
                0 => Said::End,
                bytes => Said::Bytes(bytes),
            }));
        }
        if std::mem::take(&mut self.heard) | pipe.is_some_and(Pipe::has_moved) {
            self.silence.as_mut().reset(Instant::now() + options.upgraded_timeout);
        }
        ready!(self.silence.as_mut().poll(cx));
        Poll::Ready(Ok(Said::Silence))
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // An origin that reads nothing would keep it for ever.
        self.sending.abort();
    }
}

/// Sends what comes; behind its end the origin hears that there is no more.
async fn send(mut pieces: Streamed, mut to: WriteHalf<Stream>) {
    while let Some(Ok(piece)) = pieces.frame().await {
        let Ok(bytes) = piece.into_data() else { continue };
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
