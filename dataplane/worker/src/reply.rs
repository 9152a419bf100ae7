//! Replies on a connection here: the decision where a request runs, chunks of the application sealed and sent,
//! and the orderly or sudden end of a connection.

use keyferry_app::{App, Chunk, Job, JobId};
use keyferry_decide::{Facts, Reason, decide};
use keyferry_http::{Ends, Request};
use keyferry_lease::lender::Stage;
use keyferry_nic::Nic;
use keyferry_tcp::Segment;
use keyferry_time::Time;
use keyferry_tls::{Alert, Content, Fragment, RECORD_BYTES_MAX, SealError};

use crate::answer::Why;
use crate::conn::{AHEAD_MAX, BACKLOG_MAX, Conn, Plain, Reply, Tls};
use crate::job::Owner;
use crate::lend::RECORDS_TO_LEND;
use crate::peer::grant_bytes;
use crate::segment::Outgoing;
use crate::turn::Worker;

/// Whether this request could run, and its reply be sealed, elsewhere: `message_bytes` is the largest grant.
fn facts(conn: &Conn, message_bytes: usize) -> Facts {
    let Some(request) = conn.request.as_deref() else { return Facts { lendable: false, pinned: false } };
    let lasting = match &conn.tls {
        Tls::Open(session) => session.sealer.records_left() >= RECORDS_TO_LEND,
        _ => false,
    };
    // An HTTP/1.0 client may need a reply that ends with the connection; a helper cannot write that.
    let framed = request.minor() == 1;
    let (head, body) = request.wire();
    let fits = grant_bytes(head.len(), body.len()) <= message_bytes;
    let lendable = lasting && framed && fits && !request.upgrade() && !conn.eof;
    Facts { lendable, pinned: request.query().windows(6).any(|part| part == b"lend=0") }
}

impl<N: Nic, A: App> Worker<N, A> {
    /// A whole request is here: decides where it runs.
    pub(crate) fn dispatch(&mut self, index: usize) {
        self.begin(index);
        let Some(conn) = self.conns[index].as_ref() else { return };
        if conn.request.as_deref().is_some_and(Request::upgrade) && self.refuses_upgrade(index) {
            return self.answer(index, Why::NoUpgrade);
        }
        if self.drain.is_on() {
            // A helper could not say that its reply is the last one.
            self.counters.kept_draining += 1;
            return self.run_here(index);
        }
        let views = &mut self.views;
        views.clear();
        views.extend(self.peers.iter().map(|peer| match peer {
            Some(peer) => peer.view(self.now),
            None => keyferry_decide::Peer::absent(),
        }));
        self.decisions = self.decisions.wrapping_add(1);
        let own = self.load.own(self.app.crowd());
        let facts = facts(conn, self.config.message_bytes);
        let decision = decide(self.config.policy, facts, &own, views, self.decisions);
        self.count(decision.reason);
        match decision.peer {
            Some(peer) if self.lend(index, peer, decision.expected_us) => {
                self.counters.moved_gain_us += u64::from(decision.gain_us);
            }
            _ => self.run_here(index),
        }
    }

    /// A request is about to run.
    pub(crate) fn begin(&mut self, index: usize) {
        self.read_whole(index);
        let Some(conn) = self.conns[index].as_mut() else { return };
        conn.deadline = Time::NEVER;
        conn.body_since = Time::NEVER;
        conn.head_only = conn.request.as_deref().is_some_and(|request| request.asks_head_only());
        self.tcp.set_idle_timeout(conn.id, None);
        if let Some(request) = conn.request.as_deref() {
            conn.close_after |= !request.keep_alive();
        }
    }

    /// A request is no longer being read.
    fn read_whole(&mut self, index: usize) {
        self.shed.holding.remove(index as u32);
        if let Some(conn) = self.conns[index].as_mut() {
            self.pools.body_bytes -= std::mem::take(&mut conn.body_bytes) as usize;
        }
    }

    fn count(&mut self, reason: Reason) {
        let counter = match reason {
            Reason::Off => &mut self.counters.kept_off,
            Reason::NotLendable => &mut self.counters.kept_not_lendable,
            Reason::Pinned => &mut self.counters.kept_pinned,
            Reason::NoPeer => &mut self.counters.kept_no_peer,
            Reason::Stale => &mut self.counters.kept_stale,
            Reason::Idle => &mut self.counters.kept_idle,
            Reason::Light => &mut self.counters.kept_light,
            Reason::Balanced => &mut self.counters.kept_balanced,
            Reason::Forced => &mut self.counters.moved_forced,
            Reason::Lighter => &mut self.counters.moved_lighter,
            Reason::Sooner => &mut self.counters.moved_sooner,
        };
        *counter += 1;
    }

    /// Gives a request to the application here; 503 if it has too many.
    pub(crate) fn run_here(&mut self, index: usize) {
        if self.pools.chunks.is_empty() {
            // Those who do not read their replies hold them.
            self.shed_slowest();
        }
        let Some(conn) = self.conns[index].as_mut() else { return };
        let Some(mut request) = conn.request.take() else { return };
        let Some(chunk) = self.pools.chunks.take() else {
            self.pools.give_request(request);
            return self.answer(index, Why::Busy);
        };
        self.mark_last(index, &mut request);
        self.trace_helper(index, None);
        let Some(conn) = self.conns[index].as_mut() else { return };
        request.came_over(Ends { client: self.tcp.peer(conn.id), local: self.tcp.local(conn.id) });
        let id = Owner::conn(conn.id).job();
        conn.reply = Reply::Local(id);
        (conn.in_app, conn.ahead) = (1, 0);
        if let Err(job) = self.app.submit(Job { id, request, chunk }) {
            self.pools.give_request(job.request);
            self.pools.give_chunk(job.chunk);
            self.shed_slowest();
            self.answer(index, Why::Busy);
        }
    }

    /// The application is done with a reply to a connection here.
    pub(crate) fn local_end(&mut self, job: JobId, index: usize, status: u16, service_ns: u64) {
        if self.conns[index].as_ref().is_some_and(|conn| conn.reply == Reply::Local(job)) {
            self.trace_served(index, status, service_ns);
        }
    }

    /// The application produced part of a reply to a connection here.
    pub(crate) fn local_part(&mut self, job: JobId, index: usize, chunk: Chunk, end: Option<bool>) {
        let conn = self.conns[index].as_mut().filter(|conn| conn.reply == Reply::Local(job));
        let Some(conn) = conn else { return self.pools.give_chunk(chunk) };
        let is_end = end.is_some();
        conn.in_app = conn.in_app.saturating_sub(1);
        if let Some(keep_alive) = end {
            conn.close_after |= !keep_alive;
        }
        if let Err(full) = conn.parts.try_push(Plain::new(chunk, end.is_some())) {
            self.pools.give_chunk(full.element().chunk);
        }
        if end.is_none()
            && conn.has_app_room()
            && let Some(chunk) = self.pools.chunks.take()
        {
            conn.in_app += 1;
            self.app.more(job, chunk);
        }
        if self.conns[index].as_ref().is_some_and(|conn| conn.upload.is_some()) {
            self.replied_early(index, is_end);
        }
        self.trace_reply(index);
        self.flush(index);
    }

    /// The application failed on a request of a connection here: before the first byte the client hears so, after
    /// it only the end of the connection tells that the reply is not whole.
    pub(crate) fn local_failed(&mut self, job: JobId, index: usize, started: bool) {
        if self.conns[index].as_ref().is_none_or(|conn| conn.reply != Reply::Local(job)) {
            return;
        }
        self.counters.closed_app += 1;
        if started { self.reset(index) } else { self.answer(index, Why::Failed) }
    }

    /// Seals and sends what waits, as far as TCP takes it.
    pub(crate) fn flush(&mut self, index: usize) {
        loop {
            let Some(conn) = self.conns[index].as_mut() else { return };
            while let Some(segment) = conn.backlog.pop_front() {
                if let Err(segment) = self.tcp.send(conn.id, segment) {
                    conn.backlog.push_front(segment);
                    return self.note(index);
                }
                if conn.backlog.len() + 1 == BACKLOG_MAX {
                    // Its records may be opened again.
                    self.ready.push_back(index as u32);
                }
            }
            if conn.key_update_due {
                if self.pools.records.is_empty() {
                    return self.starve(index);
                }
                if !self.settle_key_update(index) {
                    return self.reset(index);
                }
                continue;
            }
            if let Some(alert) = conn.farewell {
                if self.pools.records.is_empty() {
                    return self.starve(index);
                }
                conn.farewell = None;
                self.send_alert(index, alert);
                continue;
            }
            if conn.closing {
                return self.tcp.close(conn.id);
            }
            if conn.parts.is_empty() {
                return;
            }
            if self.pools.records.is_empty() {
                return self.short_of_buffers(index);
            }
            // The rest of a long reply that is made when it is asked for is made when it can be sent.
            if conn.ahead == AHEAD_MAX && self.app.is_inline() && !self.tcp.is_hungry(conn.id) {
                return self.note(index);
            }
            // The last records are for those whose TCP takes them at once; the others go on when it does.
            if self.pools.records.is_low() && !self.tcp.has_room(conn.id, RECORD_BYTES_MAX) {
                self.note(index);
                return self.short_of_buffers(index);
            }
            if !self.own_record(index, seal_part) {
                return self.reset(index);
            }
            let Some(conn) = self.conns[index].as_mut() else { return };
            conn.ahead = AHEAD_MAX.min(conn.ahead + 1);
            if conn.parts.first().is_none_or(|part| !part.is_sealed()) {
                continue;
            }
            let Plain { chunk, last, .. } = conn.parts.remove(0);
            self.recycle(index, chunk, last);
            if last {
                if let Some(conn) = self.conns[index].as_mut() {
                    conn.reply = Reply::None;
                    conn.served = true;
                    self.counters.replies_local += 1;
                    if let Some(asked) = conn.take_asked() {
                        self.latency.ended(asked, self.now);
                    }
                }
                self.trace_sealed(index, None);
                self.note(index);
                self.reply_done(index);
            }
        }
    }

    /// An emptied chunk goes back to the application while the reply goes on.
    fn recycle(&mut self, index: usize, chunk: Chunk, last: bool) {
        let Some(conn) = self.conns[index].as_mut() else { return self.pools.give_chunk(chunk) };
        match conn.reply {
            Reply::Local(job) if !last && conn.has_app_room() => {
                conn.in_app += 1;
                self.app.more(job, chunk);
            }
            _ => self.pools.give_chunk(chunk),
        }
    }

    /// Hands a record to TCP, behind what waits already.
    pub(crate) fn enqueue(&mut self, index: usize, segment: Outgoing) {
        self.trace_record(index, segment.len());
        let Some(conn) = self.conns[index].as_mut() else { return self.release(segment) };
        if conn.backlog.is_empty() {
            if let Err(segment) = self.tcp.send(conn.id, segment) {
                conn.backlog.push_back(segment);
            }
        } else {
            conn.backlog.push_back(segment);
        }
    }

    /// A reply ended: the connection closes, or goes on with what the client has sent meanwhile.
    pub(crate) fn reply_done(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        let more = conn.waiting.is_some() || self.tcp.readable(conn.id) > 0;
        if conn.eof && !more {
            return self.close_ended(index);
        }
        if conn.close_after {
            self.counters.closed_draining += u64::from(conn.drained);
            return self.close(index);
        }
        self.tcp.set_idle_timeout(conn.id, Some(self.config.idle_timeout));
        self.rekey(index);
        if more {
            self.pump_again(index);
        }
    }

    /// Moves a TLS 1.3 connection near its record limit to new keys; a TLS 1.2 one ends in order.
    pub(crate) fn rekey(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        let Tls::Open(session) = &mut conn.tls else { return };
        if session.sealer.records_left() < RECORDS_TO_LEND && !self.key_update(index) {
            self.close(index);
        }
    }

    /// Answers a client's KeyUpdate (RFC 8446 4.6.3), as soon as TCP takes it: all that a client asks for while it does
    /// not read are answered by one, so that they take no memory.
    pub(crate) fn answer_key_update(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        conn.key_update_due = true;
        self.flush(index);
    }

    /// Answers the KeyUpdates that are not answered yet: data may only follow the answer, whoever seals it. `false`:
    /// there was no buffer, or it could not be sealed.
    pub(crate) fn settle_key_update(&mut self, index: usize) -> bool {
        if self.conns[index].as_ref().is_none_or(|conn| !conn.key_update_due) {
            return true;
        }
        let answered = self.key_update(index);
        if let Some(conn) = self.conns[index].as_mut() {
            conn.key_update_due = !answered;
        }
        answered
    }

    fn key_update(&mut self, index: usize) -> bool {
        self.own_record(index, |conn, out| match &mut conn.tls {
            Tls::Open(session) => session.sealer.key_update(false, out),
            _ => Err(SealError::Bounds),
        })
    }

    /// Seals a few bytes of our own into the connection; it ends if that cannot be done.
    pub(crate) fn send_own(&mut self, index: usize, bytes: &[u8]) {
        if !self.send_bytes(index, bytes) {
            self.reset(index);
        }
    }

    /// Seals bytes of our own, in as many records as they need. `false`: there was no buffer, or they could not be sealed.
    pub(crate) fn send_bytes(&mut self, index: usize, bytes: &[u8]) -> bool {
        let Some(conn) = self.conns[index].as_ref() else { return false };
        let mut parts = bytes.chunks(fragment(&conn.tls).bytes());
        self.settle_key_update(index)
            && parts.all(|part| self.own_record(index, |conn, out| seal_into(&mut conn.tls, part, out)))
    }

    /// Sends an alert.
    pub(crate) fn send_alert(&mut self, index: usize, alert: Alert) {
        let sent = self.own_record(index, |conn, out| match &mut conn.tls {
            Tls::Open(session) => session.sealer.alert(alert, out),
            _ => Err(SealError::Bounds),
        });
        if sent {
            self.tls_counters.sent(alert);
        }
    }

    /// Makes a record outside of a reply and hands it to TCP. `false`: there was no buffer, or it could not be sealed.
    pub(crate) fn own_record(
        &mut self,
        index: usize,
        make: impl FnOnce(&mut Conn, &mut [u8]) -> Result<usize, SealError>,
    ) -> bool {
        let Some(conn) = self.conns[index].as_mut() else { return false };
        let Some(mut record) = self.pools.records.take() else { return false };
        let Ok(len) = make(conn, record.buffer.bytes_mut()) else {
            self.pools.records.give(record);
            return false;
        };
        record.len = len;
        self.sealed_bytes += len;
        self.stir(index);
        let segment = Outgoing::sealed(record, &mut self.pools);
        self.enqueue(index, segment);
        true
    }

    /// Sends an alert and ends the connection in order: FIN, not RST, which could overtake the alert.
    pub(crate) fn alert(&mut self, index: usize, alert: Alert) {
        if let Some(conn) = self.conns[index].as_mut().filter(|conn| !conn.closing) {
            conn.farewell = Some(alert);
        }
        self.end(index);
    }

    /// Ends a connection in order: close_notify, then FIN behind everything that waits.
    pub(crate) fn close(&mut self, index: usize) {
        self.alert(index, Alert::CLOSE_NOTIFY);
    }

    /// FIN behind everything that waits; what the client still sends is discarded.
    pub(crate) fn end(&mut self, index: usize) {
        self.drop_request(index);
        let Some(conn) = self.conns[index].as_mut() else { return };
        conn.closing = true;
        conn.deadline = Time::NEVER;
        self.tcp.set_idle_timeout(conn.id, Some(self.config.idle_timeout));
        self.flush(index);
        self.note(index);
        self.pump_again(index);
    }

    /// RST: the client must not take what it has for a whole reply.
    pub(crate) fn reset(&mut self, index: usize) {
        self.tell(index, false);
        self.drop_request(index);
        let Some(conn) = self.conns[index].as_mut() else { return };
        conn.closing = true;
        conn.farewell = None;
        conn.tls = Tls::Over;
        let id = conn.id;
        while let Some(segment) = self.conns[index].as_mut().and_then(|conn| conn.backlog.pop_front()) {
            self.release(segment);
        }
        self.tcp.abort(id);
    }

    /// Forgets the request and reply of a connection: its job is cancelled, its lease taken back.
    pub(crate) fn drop_request(&mut self, index: usize) {
        self.read_whole(index);
        let Some(conn) = self.conns[index].as_mut() else { return };
        let reply = std::mem::replace(&mut conn.reply, Reply::None);
        self.counters.requests_dropped += u64::from(conn.take_asked().is_some());
        if let Some(request) = conn.request.take() {
            self.pools.give_request(request);
        }
        for part in conn.parts.drain(..) {
            self.pools.give_chunk(part.chunk);
        }
        if let Some(chunk) = conn.upload.take().and_then(|upload| upload.decoded) {
            self.pools.give_chunk(chunk);
        }
        for gather in conn.partial.take().into_iter().chain(conn.waiting.take()) {
            self.pools.give_gather(gather);
        }
        match reply {
            Reply::None => {}
            Reply::Local(job) => self.app.cancel(job),
            Reply::Lent { peer, lease, .. } => {
                let index = usize::from(peer.index);
                let same = self.peers[index].as_ref().filter(|live| live.id == peer);
                if same.is_some_and(|peer| {
                    peer.lender.stage(lease).is_some_and(|stage| stage != Stage::Orphaned)
                }) {
                    self.counters.leases_dropped += 1;
                    self.take_back(index, lease);
                }
            }
        }
    }

    /// TCP is done with a segment.
    pub(crate) fn release(&mut self, segment: Outgoing) {
        match segment {
            Outgoing::Short(_) => {}
            Outgoing::Sealed(record) => self.pools.give_record(record),
            Outgoing::Slot(record) => self.slot_released(record.peer, record.slot),
        }
    }
}

/// Most plaintext of one record.
fn fragment(tls: &Tls) -> Fragment {
    match tls {
        Tls::Open(session) => session.sealer.fragment(),
        Tls::None | Tls::Silent | Tls::Handshake(_) | Tls::Over => Fragment::MAX,
    }
}

/// Seals the next record of the first waiting chunk.
fn seal_part(conn: &mut Conn, out: &mut [u8]) -> Result<usize, SealError> {
    let fragment = fragment(&conn.tls);
    let part = conn.parts.first_mut().ok_or(SealError::Bounds)?;
    let bytes = part.next(fragment);
    let (sealed, count) = (seal_into(&mut conn.tls, bytes, out)?, bytes.len());
    part.advance(count);
    Ok(sealed)
}

/// Seals application data; on a plain listener the bytes go as they are.
fn seal_into(tls: &mut Tls, bytes: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
    match tls {
        Tls::Open(session) => session.sealer.seal(Content::Data, bytes, out),
        Tls::None => {
            out.get_mut(..bytes.len()).ok_or(SealError::Bounds)?.copy_from_slice(bytes);
            Ok(bytes.len())
        }
        Tls::Silent | Tls::Handshake(_) | Tls::Over => Err(SealError::Bounds),
    }
}
