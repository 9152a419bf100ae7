//! The end of a worker in order: no new connections, those there are end behind their next reply, those that stay idle for
//! too long with close_notify, and what is left at the deadline with RST.
//!
//! In: control's word, and the time. Out: connections closed or reset, each counted; whether anything is left, which control
//! reads in the counters. Looks at a few connections a turn, so that those still served do not wait. Owned by a worker.

use std::time::Duration;

use keyferry_app::App;
use keyferry_http::Request;
use keyferry_nic::Nic;
use keyferry_time::Time;

use crate::conn::{Conn, Reply, Tls};
use crate::mailbox::Drain as Wanted;
use crate::turn::Worker;

/// Connections looked at in a turn.
const CONNECTIONS_A_TURN: usize = 256;

/// From the begin of one pass over all connections to that of the next.
const PASS_EVERY: Duration = Duration::from_millis(10);

/// How far the end of a worker is.
#[derive(Default)]
pub(crate) struct Drain {
    until: Option<Until>,
    /// The connection to look at next; 0: no pass is under way.
    cursor: usize,
    /// Connections found open in the pass under way.
    open: usize,
    /// The last whole pass found none.
    is_empty: bool,
    pass_at: Time,
}

/// The two times of a drain.
#[derive(Clone, Copy)]
struct Until {
    idle: Time,
    deadline: Time,
}

impl Drain {
    /// Whether new work is refused.
    pub(crate) fn is_on(&self) -> bool {
        self.until.is_some()
    }

    /// When it has something to look at.
    pub(crate) fn next(&self) -> Option<Time> {
        self.until.map(|_| if self.cursor > 0 { Time::ZERO } else { self.pass_at })
    }
}

/// Whether a connection waits for its client, who has sent nothing of a request.
fn is_idle(conn: &Conn) -> bool {
    let speaks = matches!(conn.tls, Tls::Silent | Tls::Open(_) | Tls::None);
    speaks && !conn.closing && conn.reply == Reply::None && !conn.is_amid_request() && conn.waiting.is_none()
}

impl<N: Nic, A: App> Worker<N, A> {
    /// Takes no new work from now on. Said again, it can only end sooner.
    pub(crate) fn begin_drain(&mut self, wanted: Wanted) {
        let new = Until { idle: self.now + wanted.idle, deadline: self.now + wanted.deadline };
        self.drain.until = Some(match self.drain.until {
            None => new,
            Some(old) => Until { idle: old.idle.min(new.idle), deadline: old.deadline.min(new.deadline) },
        });
        self.tcp.stop_listening();
        self.find_homes();
    }

    /// Looks at the next few connections.
    pub(crate) fn go_on_draining(&mut self) {
        let Some(until) = self.drain.until else { return };
        if self.drain.cursor == 0 {
            if !self.drain.pass_at.is_due(self.now) {
                return;
            }
            self.drain.pass_at = self.now + PASS_EVERY;
            // Handshakes that began before end by themselves; what is left of them later is a flood's.
            let handshakes = if until.idle.is_due(self.now) { 0 } else { self.tcp.counters().half_open };
            self.drain.open = handshakes as usize;
        }
        let end = (self.drain.cursor + CONNECTIONS_A_TURN).min(self.conns.len());
        for index in self.drain.cursor..end {
            self.drain_connection(index, until);
        }
        self.drain.cursor = end;
        if end == self.conns.len() {
            self.drain.cursor = 0;
            self.drain.is_empty = self.drain.open == 0;
        }
    }

    fn drain_connection(&mut self, index: usize, until: Until) {
        let Some(conn) = self.conns[index].as_ref() else { return };
        let id = conn.id;
        if conn.closing && self.tcp.is_sent(id) {
            return;
        }
        self.drain.open += 1;
        if until.deadline.is_due(self.now) {
            if !matches!(conn.tls, Tls::Over) {
                self.counters.closed_deadline += 1;
                self.reset(index);
            }
        } else if until.idle.is_due(self.now) && is_idle(conn) && self.tcp.readable(id) == 0 {
            self.counters.closed_draining += 1;
            self.close(index);
        }
    }

    /// A request is about to run: while draining, its reply says that it is the last one, unless the client has sent more
    /// already, which is answered as well.
    pub(crate) fn mark_last(&mut self, index: usize, request: &mut Request) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        if self.drain.is_on()
            && request.keep_alive()
            && (conn.upload.is_some() || conn.waiting.is_none() && self.tcp.readable(conn.id) == 0)
        {
            request.ends_connection();
            conn.drained = true;
        }
    }

    /// Whether nothing is left of clients and peers, nor sessions that peers are to have.
    pub(crate) fn is_drained(&self) -> bool {
        let leases = |peer: &crate::peer::Peer| peer.lender.open() + peer.helper.open();
        self.drain.is_on()
            && self.drain.is_empty
            && self.app.outstanding() == 0
            && !self.homes.is_moving()
            && self.peers.iter().flatten().all(|peer| leases(peer) == 0)
    }
}
