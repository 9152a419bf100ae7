//! The life of a connection on its worker: opened, its bytes taken in as far as they may be, ended.

use keyferry_app::App;
use keyferry_nic::Nic;
use keyferry_tcp::{CloseReason, ConnId};
use keyferry_time::Time;
use keyferry_tls::Alert;

use crate::answer::Why;
use crate::conn::{Conn, Reply, Seek, Service, Tls};
use crate::input::{self, Inputs, Taken};
use crate::segment::Outgoing;
use crate::shed::RECORDS_A_VISIT;
use crate::turn::Worker;

impl<N: Nic, A: App> Worker<N, A> {
    /// A new connection.
    pub(crate) fn open(&mut self, id: ConnId) {
        let index = id.index();
        let port = self.tcp.local(id).port();
        let Some(service) = self.config.service(port) else { return self.tcp.abort(id) };
        self.counters.connections_opened += 1;
        let tls = match service {
            Service::Redirect { .. } => Tls::None,
            Service::Https => Tls::Silent,
        };
        let mut conn = Conn::new(id, service, tls);
        conn.deadline = self.now + self.config.handshake_timeout;
        self.deadlines.set(index as u32, conn.deadline);
        self.conns.grow_to(index);
        self.conns[index] = Some(conn);
        self.shed.unproven.push_back(index as u32);
        self.make_place();
    }

    /// Looks at a connection again later this turn.
    pub(crate) fn pump_again(&mut self, index: usize) {
        if self.conns[index].is_some() {
            self.ready.push_back(index as u32);
        }
    }

    /// Puts a connection aside until a buffer comes back.
    pub(crate) fn starve(&mut self, index: usize) {
        if self.conns[index].is_some() {
            self.starved.push_back(index as u32);
        }
    }

    /// Takes in what the client has sent, as far as the connection may go on now.
    pub(crate) fn pump(&mut self, id: ConnId) {
        let index = id.index();
        if self.conns[index].as_ref().is_none_or(|conn| conn.id != id) {
            return;
        }
        for _ in 0..RECORDS_A_VISIT {
            if self.shed.records == 0 {
                break;
            }
            if self.handshake_waits(index) {
                return;
            }
            self.shed.records -= 1;
            match self.take_in(id) {
                None => return self.maybe_eof(index),
                Some(Taken::Starved) => return self.short_of_buffers(index),
                // A record may go on behind the end of TCP's ring.
                Some(Taken::Wait) if self.tcp.readable(id) > 0 => {}
                Some(Taken::Wait) => {
                    self.watch_request(index);
                    return self.maybe_eof(index);
                }
                Some(taken) => self.taken(index, taken),
            }
        }
        self.pump_again(index);
    }

    /// Takes in one record, or the plaintext that waits. `None`: the connection is gone or may not go on.
    fn take_in(&mut self, id: ConnId) -> Option<Taken> {
        let conn = self.conns[id.index()].as_mut().filter(|conn| conn.id == id)?;
        self.flight.clear();
        if conn.closing {
            // The client may still send; it is read and dropped so that our last words are not lost to a RST.
            while self.tcp.receive(id, |bytes| (bytes.len(), bytes.len()))? > 0 {}
            return None;
        }
        if let Some(taken) = input::go_on(conn, &mut self.flight) {
            self.handshake_took(id.index(), &taken);
            return Some(taken);
        }
        let mut with = Inputs {
            pools: &mut self.pools,
            limits: &self.config.http,
            streams: &self.config.streams,
            flight: &mut self.flight,
            tls: &self.tls,
        };
        if conn.waiting.is_some() {
            let goes_on = match &conn.upload {
                Some(upload) => !upload.is_blocked(),
                None => conn.reply == Reply::None,
            };
            return goes_on.then(|| input::take_waiting(conn, &mut with));
        }
        if !conn.may_open() {
            return None;
        }
        if matches!(conn.tls, Tls::None) && conn.reply != Reply::None {
            return None;
        }
        if conn.body_bytes > 0 && with.pools.body_bytes >= with.pools.body_bytes_max {
            return (self.tcp.readable(id) > 0).then_some(Taken::Starved);
        }
        let handshaking = !matches!(conn.tls, Tls::None | Tls::Open(_));
        let taken = self.tcp.receive(id, |bytes| input::take(conn, bytes, &mut with))?;
        if handshaking {
            self.handshake_took(id.index(), &taken);
        } else {
            self.stir(id.index());
        }
        Some(taken)
    }

    /// A record of a handshake was taken in, or part of one.
    pub(crate) fn handshake_took(&mut self, index: usize, taken: &Taken) {
        if matches!(taken, Taken::Flight | Taken::Established { .. } | Taken::Failed(_)) {
            self.shed.handshake_records = self.shed.handshake_records.saturating_sub(1);
        }
        let Some(conn) = self.conns[index].as_mut() else { return };
        if !conn.handshaking && !matches!(conn.tls, Tls::Silent) {
            conn.handshaking = true;
            self.handshake_began(index);
        }
    }

    pub(crate) fn taken(&mut self, index: usize, taken: Taken) {
        match taken {
            Taken::Wait | Taken::Starved => {}
            Taken::More => self.watch_request(index),
            Taken::Flight => self.send_flight(index),
            Taken::Absent(offered) => self.seek_session(index, *offered),
            Taken::Established { resumed, made } => {
                self.established(index, resumed);
                self.place_sessions(made);
            }
            Taken::Request => self.request(index),
            Taken::Streams => self.request_streams(index),
            Taken::Upload => self.feed_app(index),
            Taken::Expects100 => {
                self.send_own(index, b"HTTP/1.1 100 Continue\r\n\r\n");
                self.watch_request(index);
            }
            Taken::Refused(refusal) => {
                self.counters.closed_refused += 1;
                self.give_up_upload(index, Why::Refused(refusal));
            }
            Taken::KeyUpdate { reply } => {
                self.counters.key_updates += 1;
                if reply {
                    self.answer_key_update(index);
                }
            }
            Taken::CloseNotify => {
                self.counters.ended_by_close_notify += 1;
                self.tls_counters.received(Alert::CLOSE_NOTIFY);
                if let Some(conn) = self.conns[index].as_mut() {
                    conn.eof = true;
                    conn.notified = true;
                }
                self.maybe_eof(index);
            }
            Taken::NoRenegotiation => self.send_alert(index, Alert::NO_RENEGOTIATION),
            Taken::Failed(failure) => {
                self.counters.closed_tls += 1;
                self.tls_counters.failed(&failure);
                self.fail_tls(index, failure.alert);
            }
        }
    }

    /// The first byte of a request, or of a record that may hold it, starts the clock of its head; the end of its
    /// head that of its body, which what has come of it prolongs.
    fn watch_request(&mut self, index: usize) {
        self.note(index);
        let Some(conn) = self.conns[index].as_mut() else { return };
        if conn.closing || !conn.is_amid_request() {
            return;
        }
        let is_first = conn.deadline == Time::NEVER;
        if conn.reader.body_started() {
            if conn.body_since == Time::NEVER {
                conn.body_since = self.now;
            }
            let began = conn.body_since;
            let bytes = conn.request.as_deref().map_or(0, |request| request.body().len());
            let due = began + self.config.body_timeout + self.config.body_rate.time_for(bytes);
            // One that moves away is set anew when it comes.
            if due < conn.deadline {
                self.deadlines.set(index as u32, due);
            }
            conn.deadline = due;
        } else if conn.deadline == Time::NEVER {
            conn.deadline = self.now + self.config.header_timeout;
            self.deadlines.set(index as u32, conn.deadline);
        }
        if is_first {
            self.trace_first(index);
        }
    }

    fn established(&mut self, index: usize, resumed: bool) {
        self.counters.handshakes_open -= 1;
        self.shed.proven(index);
        if resumed {
            self.counters.handshakes_resumed += 1;
        } else {
            self.counters.handshakes_full += 1;
        }
        if let Some(conn) = self.conns[index].as_mut() {
            conn.handshaking = false;
            conn.resumed = resumed;
            conn.deadline = Time::NEVER;
            if let Some(announcements) = &self.announcements {
                let told = announcements.tell(self.tcp.peer(conn.id).ip());
                self.counters.sessions_unannounced += u64::from(!told);
            }
        }
        self.send_flight(index);
    }

    /// Sends what the handshake wants sent.
    fn send_flight(&mut self, index: usize) {
        let flight = std::mem::take(&mut self.flight);
        for part in flight.chunks(keyferry_tls::RECORD_BYTES_MAX) {
            let Some(mut record) = self.pools.records.take() else {
                // A handshake that lost bytes cannot go on.
                self.reset(index);
                break;
            };
            record.buffer.bytes_mut()[..part.len()].copy_from_slice(part);
            record.len = part.len();
            self.enqueue(index, Outgoing::Sealed(record));
        }
        self.flight = flight;
    }

    /// A whole request: redirected, or on to the decision.
    fn request(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        if matches!(conn.tls, Tls::None) {
            self.shed.unproven.remove(index as u32);
        }
        conn.asked_at = self.now;
        let service = conn.service;
        self.counters.requests += 1;
        self.trace_whole(index);
        match service {
            Service::Redirect { https_port } => self.redirect(index, https_port),
            Service::Https => self.dispatch(index),
        }
    }

    /// The client's FIN: everything before it was readable.
    pub(crate) fn eof(&mut self, id: ConnId) {
        let index = id.index();
        if let Some(conn) = self.conns[index].as_mut().filter(|conn| conn.id == id) {
            conn.eof = true;
            self.pump(id);
        }
    }

    /// After the client's last byte: a connection without a reply under way has nothing more to do. A reply goes on
    /// to its end: a half-closed client still reads.
    fn maybe_eof(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_ref() else { return };
        if conn.eof && !conn.closing && conn.reply == Reply::None && conn.waiting.is_none() {
            return self.close_ended(index);
        }
        if conn.eof && conn.upload.is_some() {
            self.upload_eof(index);
        }
    }

    /// Ends a connection whose client has ended its side and got every reply. A FIN without close_notify before it may
    /// be an attacker's (RFC 8446 6.1): nothing that was cut short has been served, but it is counted apart.
    pub(crate) fn close_ended(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_ref() else { return };
        let truncated = matches!(conn.tls, Tls::Open(_)) && !conn.notified;
        self.counters.ended_truncated += u64::from(truncated);
        self.close(index);
    }

    /// A TLS fault: during the handshake rustls has written the alert, after it the sealer does.
    fn fail_tls(&mut self, index: usize, alert: Alert) {
        match self.conns[index].as_ref().map(|conn| matches!(conn.tls, Tls::Handshake(_))) {
            Some(true) => {
                self.counters.handshakes_failed += 1;
                if !self.flight.is_empty() {
                    self.tls_counters.sent(alert);
                }
                self.send_flight(index);
                self.end(index);
            }
            Some(false) => self.alert(index, alert),
            None => {}
        }
    }

    /// A deadline came: the handshake, or a request being read, is too late.
    pub(crate) fn too_late(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_ref() else { return };
        if conn.deadline == Time::NEVER {
            return;
        }
        if !conn.deadline.is_due(self.now) {
            return self.deadlines.set(index as u32, conn.deadline);
        }
        let handshaking = matches!(conn.tls, Tls::Silent | Tls::Handshake(_));
        let (amid, uploads) = (conn.is_amid_request(), conn.upload.is_some());
        if let Some(conn) = self.conns[index].as_mut() {
            conn.deadline = Time::NEVER;
        }
        self.counters.closed_timeout += u64::from(handshaking || amid || uploads);
        if handshaking {
            self.reset(index);
        } else if amid {
            self.answer(index, Why::Late);
        } else if uploads {
            self.upload_late(index);
        }
    }

    /// TCP is done with a connection: so is everything else.
    pub(crate) fn forget(&mut self, id: ConnId, reason: CloseReason) {
        let index = id.index();
        if self.conns[index].as_ref().is_none_or(|conn| conn.id != id) {
            return;
        }
        self.tell(index, false);
        self.counters.connections_closed += 1;
        self.counters.closed_reset += u64::from(reason == CloseReason::Reset);
        self.drop_request(index);
        self.deadlines.cancel(index as u32);
        self.forget_claims(index);
        let Some(mut conn) = self.conns[index].take() else { return };
        self.counters.handshakes_open -= u64::from(conn.handshaking);
        if let Seek::Waits(token) = conn.seek {
            self.forget_seek(token);
        }
        while let Some(segment) = conn.backlog.pop_front() {
            self.release(segment);
        }
    }
}
