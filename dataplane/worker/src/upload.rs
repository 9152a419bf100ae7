//! Bodies that come while their requests run, and what clients send once the protocol is another one: decrypted and decoded
//! here, handed to the application a chunk at a time, and no faster than it takes them. While it is behind nothing more of the
//! connection is opened, so that TCP's window closes.
//!
//! In: what the client sends behind the head of such a request, and what the application has taken. Out: chunks to the
//! application; a client that stalls amid a body is answered 408, one that leaves takes its request along. Owned by the worker.

use keyferry_app::{App, Chunk, FEEDS_PER_JOB, JobId};
use keyferry_http::Limits;
use keyferry_nic::Nic;
use keyferry_time::Time;

use crate::answer::Why;
use crate::conn::Reply;
use crate::input::Taken;
use crate::pool::Pools;
use crate::turn::Worker;

/// A body, or what takes its place, on its way to a job that runs.
pub struct Upload {
    /// Decodes what comes.
    body: keyferry_http::Upload,
    /// It is of another protocol: its application knows what it waits for, and its end is the client's.
    is_raw: bool,
    /// Decoded and not handed on yet.
    pub decoded: Option<Chunk>,
    /// Chunks the application has and has not taken.
    in_app: u8,
    /// Since when the client has been waited for, and how many bytes have come since.
    since: Time,
    bytes: usize,
    /// Bytes of the reply have come: nobody can be told any more why it is not whole.
    pub replied: bool,
    /// The reply has ended: what still comes is nobody's.
    discards: bool,
}

impl Upload {
    /// Of a request that begins to run now, or whose protocol is another one now.
    fn new(body: keyferry_http::Upload, is_raw: bool, now: Time) -> Upload {
        Upload {
            body,
            is_raw,
            decoded: None,
            in_app: 0,
            since: now,
            bytes: 0,
            replied: false,
            discards: false,
        }
    }

    /// Whether the application is so far behind that it takes no more.
    pub fn is_blocked(&self) -> bool {
        usize::from(self.in_app) >= FEEDS_PER_JOB
    }

    /// Whether the client is waited for, and may not take its time.
    pub fn waits(&self) -> bool {
        !self.is_blocked() && !self.discards && !self.is_raw
    }

    /// Whether there is a chunk for what a record may hold: once opened it cannot be opened again. The last ones are for
    /// replies.
    pub fn may_take(&self, pools: &Pools) -> bool {
        self.discards || !pools.chunks.is_low()
    }

    /// Takes in plaintext, of a record at most. Returns how much it used.
    pub fn take(&mut self, data: &[u8], pools: &mut Pools, limits: &Limits) -> (usize, Taken) {
        if self.discards {
            return (data.len(), Taken::More);
        }
        let Some(mut chunk) = pools.chunks.take() else { return (0, Taken::Starved) };
        let mut fed = Ok((0, 0));
        chunk.fill(|room| {
            fed = self.body.feed(data, room, limits);
            fed.map_or(0, |(_, written)| written)
        });
        match fed {
            Ok((used, 0)) if !self.body.is_over() => {
                pools.give_chunk(chunk);
                (used, Taken::More)
            }
            Ok((used, _)) => {
                self.decoded = Some(chunk);
                (used, Taken::Upload)
            }
            Err(refusal) => {
                pools.give_chunk(chunk);
                (data.len(), Taken::Refused(refusal))
            }
        }
    }
}

impl<N: Nic, A: App> Worker<N, A> {
    /// The head of a request is here whose application takes its body as it comes: it runs, and here.
    pub(crate) fn request_streams(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        let Some(request) = conn.request.as_deref() else { return };
        conn.asked_at = self.now;
        conn.upload = Some(Box::new(Upload::new(request.upload(), false, self.now)));
        let waits_to_go_on = request.waits_to_go_on();
        self.counters.requests += 1;
        self.counters.uploads += 1;
        self.trace_whole(index);
        self.begin(index);
        *if self.drain.is_on() {
            &mut self.counters.kept_draining
        } else {
            &mut self.counters.kept_not_lendable
        } += 1;
        if waits_to_go_on {
            self.send_own(index, b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.run_here(index);
        self.watch_upload(index);
    }

    /// Hands on what has been decoded.
    pub(crate) fn feed_app(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        let (Some(upload), Reply::Local(job)) = (conn.upload.as_deref_mut(), conn.reply) else { return };
        let Some(chunk) = upload.decoded.take() else { return };
        let end = upload.body.is_over();
        upload.in_app += 1;
        upload.bytes += chunk.bytes().len();
        let counter = match upload.is_raw {
            true => &mut self.counters.upgraded_bytes,
            false => &mut self.counters.upload_bytes,
        };
        *counter += chunk.bytes().len() as u64;
        if end {
            conn.upload = None;
            conn.deadline = Time::NEVER;
        }
        self.app.feed(job, chunk, end);
        self.shed.holding.remove(index as u32);
        self.watch_upload(index);
    }

    /// The protocol of a connection is another one: what the client sends is for the application, from behind the request on.
    pub(crate) fn switched(&mut self, job: JobId, index: usize) {
        let conn = self.conns[index].as_mut().filter(|conn| conn.reply == Reply::Local(job));
        let Some(conn) = conn else { return };
        conn.upload = Some(Box::new(Upload::new(keyferry_http::Upload::raw(), true, self.now)));
        conn.close_after = true;
        self.counters.upgrades += 1;
        self.pump_again(index);
    }

    /// Whether a request asks for another protocol of an application that has no other.
    pub(crate) fn refuses_upgrade(&self, index: usize) -> bool {
        let request = self.conns[index].as_ref().and_then(|conn| conn.request.as_deref());
        request.is_some_and(|request| request.wants_websocket() && !self.config.streams.takes(request))
    }

    /// The application has taken a chunk of a body.
    pub(crate) fn took(&mut self, job: JobId, index: usize, chunk: Chunk) {
        self.pools.give_chunk(chunk);
        let conn = self.conns[index].as_mut().filter(|conn| conn.reply == Reply::Local(job));
        let Some(upload) = conn.and_then(|conn| conn.upload.as_deref_mut()) else { return };
        let was_blocked = upload.is_blocked();
        upload.in_app = upload.in_app.saturating_sub(1);
        if was_blocked {
            // The client's time begins anew: it could not send.
            (upload.since, upload.bytes) = (self.now, 0);
            self.watch_upload(index);
            self.pump_again(index);
        }
    }

    /// Sets the time by which more of a body has to come: the body as a whole comes at a rate and is never silent for longer
    /// than the time-out. While the application is behind there is none.
    fn watch_upload(&mut self, index: usize) {
        self.note(index);
        let Some(conn) = self.conns[index].as_mut() else { return };
        let Some(upload) = conn.upload.as_deref() else { return };
        if !upload.waits() {
            conn.deadline = Time::NEVER;
            return;
        }
        let in_all = upload.since + self.config.body_rate.time_for(upload.bytes);
        let due = in_all.min(self.now) + self.config.body_timeout;
        if due < conn.deadline {
            self.deadlines.set(index as u32, due);
        }
        conn.deadline = due;
    }

    /// The client has not sent more of a body in time: it is told, or the connection breaks if it has been answered already.
    pub(crate) fn upload_late(&mut self, index: usize) {
        self.counters.uploads_late += 1;
        self.give_up_upload(index, Why::Late);
    }

    /// A body that cannot become whole: why is the answer, if there is none yet.
    pub(crate) fn give_up_upload(&mut self, index: usize, why: Why) {
        let upload = self.conns[index].as_ref().and_then(|conn| conn.upload.as_deref());
        if upload.is_some_and(|upload| upload.replied) {
            self.reset(index);
        } else {
            self.answer(index, why);
        }
    }

    /// The client has ended its side: a body that is not whole never will be.
    pub(crate) fn upload_eof(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_ref() else { return };
        let Some(upload) = conn.upload.as_deref() else { return };
        if upload.discards || self.tcp.readable(conn.id) > 0 && !conn.notified {
            return;
        }
        if upload.is_raw {
            return self.end_raw(index);
        }
        self.counters.uploads_cut += 1;
        if upload.replied { self.reset(index) } else { self.close_ended(index) }
    }

    /// The client has said all it has to say in another protocol: the application hears so behind all of it.
    fn end_raw(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        let (Some(upload), Reply::Local(job)) = (conn.upload.as_deref(), conn.reply) else { return };
        if upload.is_blocked() || conn.waiting.is_some() {
            return;
        }
        let Some(mut chunk) = self.pools.chunks.take() else { return self.starve(index) };
        conn.upload = None;
        chunk.clear();
        self.app.feed(job, chunk, true);
    }

    /// Part of the reply has come though the body is not whole, or all of it.
    pub(crate) fn replied_early(&mut self, index: usize, ended: bool) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        let Some(upload) = conn.upload.as_deref_mut() else { return };
        upload.replied = true;
        if ended {
            self.counters.uploads_unread += u64::from(!upload.is_raw);
            upload.discards = true;
            conn.deadline = Time::NEVER;
            // What follows is not a request (RFC 9112 9.6).
            conn.close_after = true;
            self.pump_again(index);
        } else if upload.is_raw {
            // It may go on for longer than one key may.
            self.rekey(index);
        }
    }
}
