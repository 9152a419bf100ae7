//! The connections of one app thread to the servers of one upstream: which are free, how many there are, and which servers
//! are left out.
//!
//! In: requests that want a connection, what became of them. Out: a connection, a place for a new one, or a reason to wait. The
//! lock is never contended: all of it runs on one thread, but hyper's tasks have to be able to move.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::client::conn::http1::SendRequest;
use keyferry_http::Ends;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::failure::Failure;
use crate::options::{Address, Options, SERVERS_MAX};
use crate::pipe::Outward;
use crate::tally::{Count, Tally};

/// How requests are given to a connection.
pub(crate) type Sender = SendRequest<Outward>;

/// The servers of an upstream, and the connections to them.
pub(crate) struct Pool {
    pub(crate) options: Options,
    pub(crate) tally: Arc<Tally>,
    /// How each server is called where a client names no host.
    pub(crate) names: Vec<String>,
    state: Mutex<State>,
    /// A connection has become free, or a place for one.
    freed: Arc<Notify>,
    /// A connection is kept though none was before.
    pub(crate) kept: Notify,
}

#[derive(Default)]
struct State {
    servers: Vec<Server>,
    /// Requests that wait.
    waiting: usize,
    /// Where the search begins, so that servers of equal load take turns.
    turn: usize,
    /// No more requests come, and no connection is kept.
    retired: bool,
    /// What goes on beside requests.
    beside: Vec<AbortHandle>,
}

#[derive(Default)]
struct Server {
    /// Connections, those being opened among them.
    open: usize,
    /// Requests under way.
    busy: usize,
    /// The longest kept first.
    idle: Vec<Idle>,
    /// Failures in a row.
    failures: u32,
    /// It is left out until then.
    out_until: Option<Instant>,
    /// Health checks have found it ill.
    ill: bool,
}

struct Idle {
    sender: Sender,
    /// Whose requests it carries, where the server was told.
    ends: Option<Ends>,
    since: Instant,
}

/// What a request gets.
pub(crate) enum Pick {
    /// A connection that was kept.
    Kept(Lease, Sender),
    /// A place for a new one.
    Fresh(Lease, Place),
    /// All are busy.
    Wait,
    /// No server is left.
    Nothing,
}

/// What a request wants.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wish {
    /// Servers that were tried, a bit each.
    pub(crate) tried: u64,
    /// A new connection: a kept one has failed.
    pub(crate) fresh: bool,
    /// It has waited, so that it does not stand back for those who do.
    pub(crate) has_waited: bool,
    /// Whose it is, where servers are told by connection.
    pub(crate) ends: Option<Ends>,
}

/// A request under way at a server.
pub(crate) struct Lease {
    pool: Arc<Pool>,
    pub(crate) server: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.lock().servers[self.server].busy -= 1;
        self.pool.freed.notify_one();
    }
}

/// A connection's place among those a server may have, held until it is closed.
pub(crate) struct Place {
    pool: Arc<Pool>,
    server: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.pool.lock().servers[self.server].open -= 1;
        self.pool.freed.notify_one();
    }
}

/// A request that waits.
pub(crate) struct Waiting(Arc<Pool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.lock().waiting -= 1;
    }
}

impl Pool {
    /// No connections yet.
    ///
    /// # Panics
    /// If there is no server, or more than [`SERVERS_MAX`].
    pub(crate) fn new(options: Options, tally: Arc<Tally>) -> Arc<Pool> {
        assert!(
            (1..=SERVERS_MAX).contains(&options.servers.len()),
            "an upstream has 1 to {SERVERS_MAX} servers"
        );
        let name = |address: &Address| match address {
            Address::Tcp(address) => address.to_string(),
            Address::Unix(_) => "localhost".to_owned(),
        };
        Arc::new(Pool {
            names: options.servers.iter().map(name).collect(),
            state: Mutex::new(State {
                servers: options.servers.iter().map(|_| Server::default()).collect(),
                ..State::default()
            }),
            tally,
            options,
            freed: Arc::default(),
            kept: Notify::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection for a request, of the server with the fewest requests under way among those that have one.
    pub(crate) fn pick(self: &Arc<Pool>, wish: Wish) -> Pick {
        let now = Instant::now();
        // Dropped when the lock is not held: each drop takes it.
        let mut ended = Vec::new();
        let mut state = self.lock();
        let untried = |server: usize| wish.tried & 1 << server == 0;
        let count = state.servers.len();
        let mut all = (0..count).filter(|server| untried(*server) && !state.servers[*server].ill).peekable();
        if all.peek().is_none() {
            return Pick::Nothing;
        }
        // Where every server is left out, one of them is better than none.
        let well: u64 =
            all.clone().filter(|it| state.servers[*it].is_in(now)).fold(0, |mask, it| mask | 1 << it);
        let eligible = if well == 0 { all.fold(0, |mask, it| mask | 1 << it) } else { well };
        if state.waiting > 0 && !wish.has_waited {
            return Pick::Wait;
        }
        let turn = state.turn;
        let mut best: Option<usize> = None;
        for server in (0..count).map(|offset| (turn + offset) % count).filter(|it| eligible & 1 << it != 0) {
            let it = &state.servers[server];
            let has_room = it.open < self.options.connections || !it.idle.is_empty();
            if has_room && best.is_none_or(|best| it.busy < state.servers[best].busy) {
                best = Some(server);
            }
        }
        let Some(server) = best else { return Pick::Wait };
        state.turn = (server + 1) % count;
        let it = &mut state.servers[server];
        let found = if wish.fresh { None } else { it.take(wish.ends, now, &self.options, &mut ended) };
        if found.is_none() && it.open >= self.options.connections {
            // One that is of no use here makes room; its place becomes free when it is closed.
            ended.extend((!it.idle.is_empty()).then(|| it.idle.remove(0)));
            drop(state);
            return Pick::Wait;
        }
        it.busy += 1;
        it.open += usize::from(found.is_none());
        drop(state);
        let lease = Lease { pool: Arc::clone(self), server };
        match found {
            Some(sender) => Pick::Kept(lease, sender),
            None => Pick::Fresh(lease, Place { pool: Arc::clone(self), server }),
        }
    }

    /// Waits for a connection to become free; `None`: too many do.
    pub(crate) fn wait(self: &Arc<Pool>) -> Option<Waiting> {
        let mut state = self.lock();
        if state.waiting >= self.options.queue {
            return None;
        }
        state.waiting += 1;
        drop(state);
        self.tally.add(Count::Queued);
        Some(Waiting(Arc::clone(self)))
    }

    /// When one has.
    pub(crate) fn freed(&self) -> OwnedNotified {
        Arc::clone(&self.freed).notified_owned()
    }

    /// Keeps a connection whose reply is over, if it can be used again.
    pub(crate) fn keep(&self, lease: Lease, sender: Sender, ends: Option<Ends>) {
        let mut ended = Vec::new();
        if !sender.is_closed() {
            let mut state = self.lock();
            // Who waits takes it at once.
            let most = match state.waiting {
                _ if state.retired => 0,
                0 => self.options.idle,
                _ => self.options.connections,
            };
            let it = &mut state.servers[lease.server];
            if it.idle.len() >= most {
                let (kept, closed) = it.idle.drain(..).partition(|idle| !idle.sender.is_closed());
                (it.idle, ended) = (kept, closed);
            }
            let was_empty = it.idle.is_empty();
            let idle = Idle { sender, ends, since: Instant::now() };
            if it.idle.len() < most {
                it.idle.push(idle)
            } else {
                ended.push(idle)
            }
            drop(state);
            if was_empty {
                self.kept.notify_one();
            }
        }
        drop(ended);
        drop(lease);
    }

    /// What goes on beside requests, until no more come.
    pub(crate) fn goes_along(&self, beside: Vec<AbortHandle>) {
        self.lock().beside = beside;
    }

    /// No more requests come.
    pub(crate) fn retire(&self) {
        let mut state = self.lock();
        state.retired = true;
        let beside = std::mem::take(&mut state.beside);
        let ended: Vec<Idle> = state.servers.iter_mut().flat_map(|it| std::mem::take(&mut it.idle)).collect();
        drop(state);
        drop(ended);
        beside.iter().for_each(AbortHandle::abort);
    }

    /// Ends connections that were kept for long enough. Returns when the next one will have been.
    pub(crate) fn sweep(&self) -> Option<Instant> {
        let now = Instant::now();
        let mut ended: Vec<Idle> = Vec::new();
        let is_over =
            |idle: &mut Idle| idle.since + self.options.idle_timeout <= now || idle.sender.is_closed();
        let mut state = self.lock();
        for it in &mut state.servers {
            ended.extend(it.idle.extract_if(.., is_over));
        }
        let oldest = state.servers.iter().filter_map(|it| it.idle.first()).map(|idle| idle.since).min();
        drop(state);
        drop(ended);
        oldest.map(|since| since + self.options.idle_timeout)
    }

    /// A server has answered.
    pub(crate) fn succeeded(&self, server: usize) {
        let mut state = self.lock();
        let it = &mut state.servers[server];
        let was_out = it.out_until.take().is_some();
        it.failures = 0;
        drop(state);
        if was_out {
            info!(upstream = self.options.name, server = %self.options.servers[server], "answers again");
        }
    }

    /// A server has not.
    pub(crate) fn failed(&self, server: usize, why: Failure) {
        let bound = self.options.failures;
        let mut state = self.lock();
        let it = &mut state.servers[server];
        it.failures = it.failures.saturating_add(1);
        if bound == 0 || it.failures < bound {
            return;
        }
        // Once its time is over the next failure is enough.
        it.failures = bound - 1;
        let was_in = it.out_until.is_none();
        it.out_until = Some(Instant::now() + self.options.out);
        drop(state);
        self.tally.add(Count::LeftOut);
        if was_in {
            warn!(
                upstream = self.options.name,
                server = %self.options.servers[server],
                "left out for {:?}: {why}",
                self.options.out
            );
        }
    }

    /// A health check takes a server out, or brings it back.
    pub(crate) fn found(&self, server: usize, ill: bool) {
        let mut state = self.lock();
        let it = &mut state.servers[server];
        let changed = std::mem::replace(&mut it.ill, ill) != ill;
        let mut ended = Vec::new();
        if ill {
            ended = std::mem::take(&mut it.idle);
        } else if changed {
            (it.failures, it.out_until) = (0, None);
        }
        drop(state);
        drop(ended);
        if !changed {
            return;
        }
        self.tally.add(if ill { Count::Fell } else { Count::Rose });
        let (upstream, server) = (&self.options.name, &self.options.servers[server]);
        if ill {
            warn!(upstream, %server, "is ill, as health checks find: it gets no requests");
        } else {
            info!(upstream, %server, "is well again, as health checks find");
            self.freed.notify_waiters();
        }
    }
}

impl Server {
    /// Whether it is not left out.
    fn is_in(&self, now: Instant) -> bool {
        self.out_until.is_none_or(|until| until <= now)
    }

    /// The connection that was used last, of this client where servers know whose they are.
    fn take(
        &mut self,
        ends: Option<Ends>,
        now: Instant,
        options: &Options,
        ended: &mut Vec<Idle>,
    ) -> Option<Sender> {
        let mut at = self.idle.len();
        while at > 0 {
            at -= 1;
            let idle = &self.idle[at];
            if idle.sender.is_closed() || idle.since + options.idle_timeout <= now {
                ended.push(self.idle.remove(at));
            } else if idle.ends == ends {
                return Some(self.idle.remove(at).sender);
            }
        }
        None
    }
}
