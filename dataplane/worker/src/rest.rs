//! Rest: a connection whose client says nothing gives back what can be made again, its AEAD contexts, two kilobytes of
//! the three and a half it has. Its keys stay; the next record makes the contexts anew.
//!
//! In: connections that stir, the time. Out: connections that rest. A connection is looked at when it has been awake for a
//! while, and again as long as it has stirred meanwhile: stirring costs a bit, and who rests costs nothing. Owned by a worker.

use keyferry_app::App;
use keyferry_nic::Nic;
use keyferry_time::Time;

use crate::conn::{Conn, Reply, Tls};
use crate::turn::Worker;

/// Connections looked at in a turn: giving a context back takes some hundred nanoseconds.
const LOOKS_A_TURN: usize = 64;

/// Whether nothing of a connection is under way that is going to need its contexts.
fn is_quiet(conn: &Conn) -> bool {
    conn.reply == Reply::None && conn.parts.is_empty() && conn.waiting.is_none() && conn.partial.is_none()
}

impl<N: Nic, A: App> Worker<N, A> {
    /// Records of a connection are opened or sealed: it has, or is about to have, its contexts.
    #[inline]
    pub(crate) fn stir(&mut self, index: usize) {
        let Some(conn) = self.conns[index].as_mut() else { return };
        conn.stirred = true;
        if !conn.awake && matches!(conn.tls, Tls::Open(_)) {
            conn.awake = true;
            conn.looked_at = self.now;
            self.awake.push_back(index as u32);
        }
    }

    /// When a connection is to be looked at next.
    pub(crate) fn next_rest(&self) -> Option<Time> {
        let conn = self.conns[self.awake.front()? as usize].as_ref()?;
        Some(conn.looked_at + self.config.rest_after)
    }

    /// Looks at the connections whose time has come.
    pub(crate) fn let_rest(&mut self) {
        for _ in 0..LOOKS_A_TURN {
            let Some(index) = self.awake.front() else { return };
            let Some(conn) = self.conns[index as usize].as_mut() else { return };
            if !(conn.looked_at + self.config.rest_after).is_due(self.now) {
                return;
            }
            self.awake.remove(index);
            if std::mem::take(&mut conn.stirred) || !is_quiet(conn) {
                conn.looked_at = self.now;
                self.awake.push_back(index);
                continue;
            }
            conn.awake = false;
            if let Tls::Open(session) = &mut conn.tls {
                session.opener.rest();
                session.sealer.rest();
                self.counters.rested += 1;
            }
        }
    }
}
