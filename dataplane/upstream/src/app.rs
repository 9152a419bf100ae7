//! One request's way to an origin and back.
//!
//! In: a request, and room for its reply. Out: the origin's reply, or one of ours that says why there is none. On the app thread,
//! within its runtime.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::Response;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::TrySendError;
use hyper::upgrade::OnUpgrade;
use keyferry_app::{App, Body};
use keyferry_http::{Ends, Method, ReplyHead, Request, is_bodiless};
use keyferry_time::Time;
use tokio::time::{Instant, Sleep, error::Elapsed, sleep, sleep_until, timeout};

use crate::connect::connect;
use crate::failure::Failure;
use crate::health;
use crate::incoming::{incoming, is_websocket, length_of_head, switched};
use crate::options::Options;
use crate::outgoing::{is_idempotent, outgoing};
use crate::pipe::{Outward, Pipe};
use crate::pool::{Lease, Pick, Place, Pool, Sender, Waiting, Wish};
use crate::tally::{Count, Tally};
use crate::tunnel::{Said, Tunnel};

/// Replies of at most so many bytes go out in one piece with their heads, which wait for the first of them.
const HELD_BYTES_MAX: u64 = 8 * 1024;

const _: () = assert!(HELD_BYTES_MAX < keyferry_app::CHUNK_BYTES as u64);

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What hyper says of a request.
type Answer = Result<Response<Incoming>, TrySendError<http::Request<Outward>>>;

/// A reverse proxy to the servers of one upstream. Clones share their connections; all of them belong on one app thread.
#[derive(Clone)]
pub struct Upstream {
    pub(crate) pool: Arc<Pool>,
}

/// One request under way.
pub struct Task {
    pool: Arc<Pool>,
    waker: Waker,
    stage: Stage,
    /// The request's body, if it streams.
    pipe: Option<Pipe>,
    /// Ends when the origin has been waited for too long, while such a body is sent.
    patience: Option<Pin<Box<Sleep>>>,
    wish: Wish,
    /// Why the last attempt failed.
    failure: Option<Failure>,
    /// It has waited for a connection, and gives up its place in the line once it has one.
    waiting: Option<Waiting>,
}

enum Stage {
    /// It wants a connection.
    Seeking,
    /// All were busy.
    Queued(Pending<Result<(), Elapsed>>),
    /// One is being opened.
    Connecting(usize, Pending<Result<Exchange, Failure>>),
    /// The request has been sent.
    Sent(Exchange, Pending<Result<Answer, Elapsed>>),
    /// Its reply has begun, and waits for the first bytes of its body.
    Held(Box<ReplyHead>, Reply),
    /// Its reply comes.
    Replying(Reply),
    /// The protocol is about to be another one.
    Switching(Box<ReplyHead>, Exchange, OnUpgrade),
    /// It is: bytes go both ways.
    Switched(Box<Tunnel>),
    /// Its reply is one of ours, from there on.
    Failed(String, usize),
    /// Nothing follows.
    Over,
}

/// One request and the connection it has.
struct Exchange {
    lease: Lease,
    sender: Sender,
    /// The connection carried others before.
    reused: bool,
}

struct Reply {
    exchange: Exchange,
    body: Incoming,
    /// What has come and has found no room yet.
    bytes: Bytes,
    /// Runs while the origin is waited for; made when it first is.
    silence: Option<Pin<Box<Sleep>>>,
    /// It has said something since the timer was set.
    heard: bool,
    /// It ended before the first byte of its body.
    is_broken: bool,
}

impl Upstream {
    /// A proxy without connections.
    ///
    /// # Panics
    /// If there is no server, or more than [`SERVERS_MAX`](crate::SERVERS_MAX).
    pub fn new(options: Options, tally: Arc<Tally>) -> Upstream {
        Upstream { pool: Pool::new(options, tally) }
    }

    /// Starts what goes on beside its requests. Within the runtime of its thread.
    pub fn start(&self) {
        health::start(&self.pool);
    }

    /// No more requests come: its servers are not asked how they are any longer, and a connection ends as soon as it has no
    /// request. Those under way go on, whatever upstream of this thread they are asked of.
    pub fn retire(&self) {
        self.pool.retire();
    }
}

impl App for Upstream {
    type Task = Task;

    fn begin(&mut self, request: &Request, _: Time) -> Task {
        self.pool.tally.add(Count::Requests);
        let ends = if self.pool.options.proxy_protocol { request.ends() } else { None };
        Task {
            pool: Arc::clone(&self.pool),
            waker: Waker::noop().clone(),
            stage: Stage::Seeking,
            pipe: (!request.is_whole()).then(|| Pipe::new(request.length(), request.body())),
            patience: None,
            wish: Wish { ends, ..Wish::default() },
            failure: None,
            waiting: None,
        }
    }

    fn wake_by(&mut self, task: &mut Task, waker: &Waker) {
        task.waker.clone_from(waker);
        if let Some(pipe) = &task.pipe {
            pipe.wake_by(waker);
        }
    }

    fn input(&mut self, task: &mut Task, _: &Request, bytes: &[u8], end: bool) -> bool {
        match &task.pipe {
            Some(pipe) if !matches!(task.stage, Stage::Failed(..) | Stage::Over) => pipe.add(bytes, end),
            // Nobody wants it any more.
            _ => true,
        }
    }

    fn head(&mut self, task: &mut Task, request: &Request, _: Time) -> Poll<ReplyHead> {
        match ready!(task.poll_head(request)) {
            Ok(head) => Poll::Ready(head),
            Err(failure) => {
                self.pool.tally.add(failure.count());
                let (head, text) = failure.reply();
                task.waiting = None;
                task.stage = Stage::Failed(text, 0);
                task.pipe = None;
                Poll::Ready(head)
            }
        }
    }

    fn body(&mut self, task: &mut Task, _: &Request, _: Time, out: &mut [u8]) -> Poll<Body> {
        match &mut task.stage {
            Stage::Failed(text, sent) => {
                let bytes = out.len().min(text.len() - *sent);
                out[..bytes].copy_from_slice(&text.as_bytes()[*sent..*sent + bytes]);
                *sent += bytes;
                Poll::Ready(Body { bytes, end: *sent == text.len() })
            }
            Stage::Replying(_) => task.poll_body(out),
            Stage::Switched(_) => task.poll_tunnel(out),
            // Asked for more than there is: a mistake of the caller, or a reply that has failed.
            _ => Poll::Ready(Body::FAILED),
        }
    }

    fn deadline(&self, _: &Task) -> Option<Time> {
        Some(Time::NEVER)
    }
}

impl Task {
    fn poll_head(&mut self, request: &Request) -> Poll<Result<ReplyHead, Failure>> {
        let waker = self.waker.clone();
        let cx = &mut Context::from_waker(&waker);
        loop {
            match &mut self.stage {
                Stage::Seeking => {
                    if let Err(failure) = self.seek(request) {
                        return Poll::Ready(Err(failure));
                    }
                }
                Stage::Queued(freed) => match ready!(freed.as_mut().poll(cx)) {
                    Ok(()) => self.stage = Stage::Seeking,
                    Err(_) => return Poll::Ready(Err(Failure::QueueLate)),
                },
                Stage::Connecting(server, connecting) => {
                    let server = *server;
                    match ready!(connecting.as_mut().poll(cx)) {
                        Ok(exchange) => {
                            if let Err(failure) = self.send(exchange, request) {
                                return Poll::Ready(Err(failure));
                            }
                        }
                        Err(failure) => {
                            self.pool.failed(server, failure);
                            self.try_elsewhere(server, failure);
                        }
                    }
                }
                Stage::Sent(exchange, answer) => {
                    let Poll::Ready(answer) = answer.as_mut().poll(cx) else {
                        let server = exchange.lease.server;
                        let Some(failure) = self.is_late(cx) else { return Poll::Pending };
                        self.pool.failed(server, failure);
                        return Poll::Ready(Err(failure));
                    };
                    let Stage::Sent(exchange, _) = std::mem::replace(&mut self.stage, Stage::Over) else {
                        unreachable!("matched above");
                    };
                    match self.answered(exchange, answer, request) {
                        Ok(None) => {}
                        Ok(Some(head)) => {
                            if let Some(head) = self.hold(head, cx) {
                                return Poll::Ready(Ok(head));
                            }
                        }
                        Err(failure) => return Poll::Ready(Err(failure)),
                    }
                }
                Stage::Held(_, reply) => {
                    if let Err(failure) = ready!(reply.poll_begun(cx, &self.pool.options)) {
                        self.pool.failed(reply.exchange.lease.server, failure);
                        return Poll::Ready(Err(failure));
                    }
                    let Stage::Held(head, reply) = std::mem::replace(&mut self.stage, Stage::Over) else {
                        unreachable!("matched above");
                    };
                    self.stage = Stage::Replying(reply);
                    return Poll::Ready(Ok(*head));
                }
                Stage::Switching(_, exchange, upgraded) => {
                    let server = exchange.lease.server;
                    let upgraded = ready!(Pin::new(upgraded).poll(cx));
                    let Stage::Switching(head, exchange, _) = std::mem::replace(&mut self.stage, Stage::Over)
                    else {
                        unreachable!("matched above");
                    };
                    let Ok(upgraded) = upgraded else {
                        self.pool.failed(server, Failure::Broken);
                        return Poll::Ready(Err(Failure::Broken));
                    };
                    self.pool.tally.add(Count::Upgrades);
                    let pipe = Pipe::new(None, &[]);
                    pipe.wake_by(&waker);
                    let tunnel = Tunnel::new(exchange.lease, upgraded, &pipe, &self.pool.options);
                    (self.stage, self.pipe) = (Stage::Switched(Box::new(tunnel)), Some(pipe));
                    return Poll::Ready(Ok(*head));
                }
                Stage::Replying(_) | Stage::Switched(_) | Stage::Failed(..) | Stage::Over => {
                    unreachable!("a head is asked for once")
                }
            }
        }
    }

    /// Looks for a connection.
    fn seek(&mut self, request: &Request) -> Result<(), Failure> {
        match self.pool.pick(self.wish) {
            Pick::Kept(lease, sender) => {
                self.pool.tally.add(Count::Reused);
                self.send(Exchange { lease, sender, reused: true }, request)
            }
            Pick::Fresh(lease, place) => {
                let server = lease.server;
                let connecting = open(Arc::clone(&self.pool), lease, place, self.wish.ends);
                self.stage = Stage::Connecting(server, Box::pin(connecting));
                Ok(())
            }
            Pick::Wait => {
                if self.waiting.is_none() {
                    self.waiting = Some(self.pool.wait().ok_or(Failure::QueueFull)?);
                    self.wish.has_waited = true;
                }
                let freed = self.pool.freed();
                let waiting = timeout(self.pool.options.queue_timeout, freed);
                self.stage = Stage::Queued(Box::pin(waiting));
                Ok(())
            }
            Pick::Nothing => Err(self.failure.unwrap_or(Failure::NoServer)),
        }
    }

    /// Sends the request over a connection.
    fn send(&mut self, mut exchange: Exchange, request: &Request) -> Result<(), Failure> {
        self.waiting = None;
        let name = &self.pool.names[exchange.lease.server];
        let sent = outgoing(request, &self.pool.options, name, self.pipe.as_ref())?;
        let answer = exchange.sender.try_send_request(sent);
        let answer: Pending<Result<Answer, Elapsed>> = match &self.pipe {
            None => Box::pin(timeout(self.pool.options.reply_timeout, answer)),
            // How long that may take depends on the client as well.
            Some(_) => Box::pin(async move { Ok(answer.await) }),
        };
        self.stage = Stage::Sent(exchange, answer);
        Ok(())
    }

    /// Whether the origin has not taken more of a body that streams for too long, or has all of it and does not answer.
    fn is_late(&mut self, cx: &mut Context<'_>) -> Option<Failure> {
        let options = &self.pool.options;
        while let Some((due, failure)) = self.pipe.as_ref()?.due(options) {
            if due <= Instant::now() {
                return Some(failure);
            }
            let patience = self.patience.get_or_insert_with(|| Box::pin(sleep_until(due)));
            patience.as_mut().reset(due);
            if patience.as_mut().poll(cx).is_pending() {
                break;
            }
        }
        None
    }

    /// Another server may take what this one did not even begin.
    fn try_elsewhere(&mut self, server: usize, failure: Failure) {
        self.wish.tried |= 1 << server;
        self.failure = Some(failure);
        let rest = self.wish.tried.count_ones() as usize;
        if rest < self.pool.options.servers.len() {
            self.pool.tally.add(Count::Elsewhere);
        }
        self.stage = Stage::Seeking;
    }

    /// What came of a request that was sent; `None`: it is sent again, or something else is to come before the head.
    fn answered(
        &mut self,
        exchange: Exchange,
        answer: Result<Answer, Elapsed>,
        request: &Request,
    ) -> Result<Option<ReplyHead>, Failure> {
        let server = exchange.lease.server;
        let failure = match answer {
            Ok(Ok(response)) => {
                self.pool.succeeded(server);
                return self.reply(exchange, response, request);
            }
            Ok(Err(mut error)) => {
                let is_unsent = error.take_message().is_some();
                let error = error.into_error();
                // A connection that was kept may have ended while the request was on its way: no fault of the server's. Sent
                // again is what was not sent at all, or may be sent twice (RFC 9110 9.2.2); once, and over a new connection.
                // Of a body that streams what was taken is gone.
                let is_here = self.pipe.as_ref().is_none_or(Pipe::is_untouched);
                let is_unsent = is_unsent && is_here;
                let may_repeat =
                    is_unsent || (is_here && is_idempotent(request.method()) && !error.is_parse());
                if exchange.reused && may_repeat && !self.wish.fresh {
                    self.wish.fresh = true;
                    self.pool.tally.add(Count::Repeated);
                    self.stage = Stage::Seeking;
                    return Ok(None);
                }
                if is_unsent {
                    // As if there had been no connection.
                    self.pool.failed(server, Failure::Broken);
                    self.try_elsewhere(server, Failure::Broken);
                    return Ok(None);
                }
                match error {
                    error if error.is_parse_too_large() => Failure::HeadTooLarge,
                    error if error.is_parse() => Failure::Garbled,
                    _ => Failure::Broken,
                }
            }
            Err(_) => Failure::ReplyLate,
        };
        self.pool.failed(server, failure);
        Err(failure)
    }

    /// An origin's reply has begun; `None`: the protocol is going to be another one.
    fn reply(
        &mut self,
        exchange: Exchange,
        response: Response<Incoming>,
        request: &Request,
    ) -> Result<Option<ReplyHead>, Failure> {
        if request.wants_websocket() && is_websocket(response.status(), response.headers()) {
            let head = switched(response.headers(), self.pool.options.via)?;
            self.stage = Stage::Switching(Box::new(head), exchange, hyper::upgrade::on(response));
            return Ok(None);
        }
        let (parts, body) = response.into_parts();
        let head_only = request.method() == Method::Head;
        let length = match head_only {
            true => length_of_head(&parts.headers),
            false => body.size_hint().exact(),
        };
        let head = incoming(&parts, length, self.pool.options.via)?;
        let reply =
            Reply { exchange, body, bytes: Bytes::new(), silence: None, heard: true, is_broken: false };
        if head_only || is_bodiless(parts.status.as_u16()) || reply.body.is_end_stream() {
            // Nobody will ask for the body.
            self.end(reply);
        } else {
            self.stage = Stage::Replying(reply);
        }
        Ok(Some(head))
    }

    /// Keeps back the head of a short reply whose body has not begun to come; else gives it back.
    fn hold(&mut self, head: ReplyHead, cx: &mut Context<'_>) -> Option<ReplyHead> {
        let is_short = head.length.is_some_and(|bytes| bytes <= HELD_BYTES_MAX);
        let Stage::Replying(reply) = &mut self.stage else { return Some(head) };
        if !is_short || reply.poll_begun(cx, &self.pool.options) == Poll::Ready(Ok(())) {
            return Some(head);
        }
        // Also where it has failed, which is then found anew.
        if let Stage::Replying(reply) = std::mem::replace(&mut self.stage, Stage::Over) {
            self.stage = Stage::Held(Box::new(head), reply);
        }
        None
    }

    fn poll_body(&mut self, out: &mut [u8]) -> Poll<Body> {
        let Stage::Replying(reply) = &mut self.stage else { return Poll::Ready(Body::FAILED) };
        let cx = &mut Context::from_waker(&self.waker);
        while reply.bytes.is_empty() {
            match Pin::new(&mut reply.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    reply.heard = true;
                    // Trailers end here: a recipient may drop them (RFC 9110 6.5.1).
                    reply.bytes = frame.into_data().unwrap_or_default();
                }
                Poll::Ready(Some(Err(_))) => return self.cut(Count::Cut),
                Poll::Ready(None) => {
                    self.end_reply();
                    return Poll::Ready(Body { bytes: 0, end: true });
                }
                Poll::Pending => {
                    // Who takes is not silent.
                    reply.heard |= self.pipe.as_ref().is_some_and(Pipe::has_moved);
                    if reply.is_silent(cx, &self.pool.options) {
                        return self.cut(Count::Stalled);
                    }
                    return Poll::Pending;
                }
            }
        }
        let bytes = out.len().min(reply.bytes.len());
        // Copied: what hyper has read lies among other bytes, and its memory is used again.
        reply.bytes.copy_to_slice(&mut out[..bytes]);
        let end = reply.bytes.is_empty() && reply.body.is_end_stream();
        if end {
            self.end_reply();
        }
        Poll::Ready(Body { bytes, end })
    }

    fn poll_tunnel(&mut self, out: &mut [u8]) -> Poll<Body> {
        let Stage::Switched(tunnel) = &mut self.stage else { return Poll::Ready(Body::FAILED) };
        let cx = &mut Context::from_waker(&self.waker);
        match ready!(tunnel.poll(cx, self.pipe.as_ref(), &self.pool.options, out)) {
            Ok(Said::Bytes(bytes)) => return Poll::Ready(Body { bytes, end: false }),
            Ok(Said::End) => {}
            Ok(Said::Silence) => self.pool.tally.add(Count::UpgradesIdle),
            Err(_) => return self.cut(Count::Cut),
        }
        self.pool.tally.add(Count::Replies);
        self.stage = Stage::Over;
        Poll::Ready(Body { bytes: 0, end: true })
    }

    /// The reply ends broken: the client must not take what it has for the whole.
    fn cut(&mut self, why: Count) -> Poll<Body> {
        self.pool.tally.add(why);
        self.stage = Stage::Over;
        Poll::Ready(Body::FAILED)
    }

    fn end_reply(&mut self) {
        if let Stage::Replying(reply) = std::mem::replace(&mut self.stage, Stage::Over) {
            self.end(reply);
        }
    }

    /// The reply is whole; its connection may carry another.
    fn end(&mut self, reply: Reply) {
        self.pool.tally.add(Count::Replies);
        self.stage = Stage::Over;
        let Exchange { lease, sender, .. } = reply.exchange;
        // What an origin has not taken of a body it would take for its next request.
        if self.pipe.take().is_none_or(|pipe| pipe.is_over()) {
            self.pool.keep(lease, sender, self.wish.ends);
        }
    }
}

impl Reply {
    /// Waits for the first bytes of a body that has some.
    fn poll_begun(&mut self, cx: &mut Context<'_>, options: &Options) -> Poll<Result<(), Failure>> {
        while self.bytes.is_empty() && !self.is_broken {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.bytes = frame.into_data().unwrap_or_default(),
                Poll::Ready(_) => self.is_broken = true,
                Poll::Pending if self.is_silent(cx, options) => return Poll::Ready(Err(Failure::ReplyLate)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.heard = true;
        Poll::Ready(if self.is_broken { Err(Failure::Broken) } else { Ok(()) })
    }

    /// Whether the origin has said nothing for too long.
    fn is_silent(&mut self, cx: &mut Context<'_>, options: &Options) -> bool {
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(options.body_timeout)));
        if std::mem::take(&mut self.heard) {
            silence.as_mut().reset(Instant::now() + options.body_timeout);
        }
        silence.as_mut().poll(cx).is_ready()
    }
}

/// Opens a connection.
async fn open(pool: Arc<Pool>, lease: Lease, place: Place, ends: Option<Ends>) -> Result<Exchange, Failure> {
    let address = &pool.options.servers[lease.server];
    match timeout(pool.options.connect_timeout, connect(&pool.options, address, ends, place)).await {
        Ok(Ok(sender)) => {
            pool.tally.add(Count::Connections);
            Ok(Exchange { lease, sender, reused: false })
        }
        Ok(Err(_)) => Err(Failure::Connect),
        Err(_) => Err(Failure::ConnectLate),
    }
}
