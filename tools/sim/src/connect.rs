//! Connections: those that clients keep, and those of one request. Each goes where the distributor sends it, and shakes hands.
//!
//! In: clients that want something. Out: requests that are whole at a node. Owned by a run.

use std::time::Duration;

use crate::clients::{Connection, NONE, Session};
use crate::draw::splitmix64;
use crate::events::Kind;
use crate::scenario::{Kept, Model};
use crate::share::Then;
use crate::tally::Use;
use crate::world::World;

/// A client's SYN that nobody answers is sent again (RFC 6298 2.1).
const SYN_AGAIN_NS: u64 = 1_000_000_000;

/// After so many it gives up.
const SYNS_MAX: u8 = 6;

impl World {
    /// The core of a node that a connection's packets come to.
    pub(crate) fn worker_of(&self, client: u32, port: u16) -> u32 {
        let hash = splitmix64(u64::from(client) << 16 | u64::from(port));
        (hash % self.scenario.cluster.workers as u64) as u32
    }

    /// Where a client's handshake is, and whether it is a full one; `None`: nobody answers.
    pub(crate) fn shake_hands(&mut self, client: u32, port: u16) -> Option<(u32, bool)> {
        let node = self.front.open(self.now_ns, client, port)?;
        if !self.nodes[node].is_alive {
            self.front.close(self.now_ns, client, port);
            return None;
        }
        let session = self.clients[client as usize].session;
        let is_there = session.node != NONE
            && self.now_ns < session.until_ns
            && self.nodes[session.node as usize].life == session.life;
        let resumes = is_there && (self.scenario.cluster.sessions_shared || session.node as usize == node);
        Some((node as u32, !resumes))
    }

    /// The handshake is over: the client has a session, of which the distributor hears.
    pub(crate) fn know(&mut self, client: u32, node: u32, is_full: bool) {
        let cluster = &self.scenario.cluster;
        let lifetime_ns = cluster.lifetime_ns;
        *(if is_full { &mut self.tally.full } else { &mut self.tally.resumed }) += 1;
        if !is_full && !cluster.lifetime_restarts {
            return;
        }
        let life = self.nodes[node as usize].life;
        self.clients[client as usize].session = Session { node, life, until_ns: self.now_ns + lifetime_ns };
        if self.scenario.model != Model::Rr {
            self.front.announce(self.now_ns, client, node as usize, Duration::from_nanos(lifetime_ns));
        }
    }

    pub(crate) fn handshake(&self, is_full: bool) -> (Use, u64) {
        let core = &self.scenario.costs.core;
        if is_full { (Use::Full, core.full) } else { (Use::Resumed, core.resumed) }
    }

    /// Connections that clients keep are there when a run begins, as if it had been going on: only the load generator's clients make
    /// them then.
    fn is_beginning(&self) -> bool {
        self.now_ns == 0 && !self.wishes.is_drawn_late()
    }

    /// A kept connection is opened.
    pub(crate) fn open(&mut self, index: u32) {
        self.connections[index as usize].tries += 1;
        let connection = self.connections[index as usize];
        let Some((node, is_full)) = self.shake_hands(connection.client, connection.port) else {
            return match connection.tries < SYNS_MAX {
                true => self.events.push(self.now_ns + SYN_AGAIN_NS, Kind::Open, index),
                false => self.give_up(index),
            };
        };
        let worker = self.worker_of(connection.client, connection.port);
        let life = self.nodes[node as usize].life;
        let is_there = self.is_beginning();
        let (tcp, handshake) = ((Use::Tcp, self.scenario.costs.core.tcp), self.handshake(is_full));
        let jobs: &[(Use, u64)] = if is_there { &[] } else { &[tcp, handshake] };
        // Whether it was a full one is known by `used`, which counts from 0 once it is ready.
        let used = u32::from(is_full);
        self.connections[index as usize] = Connection { node, life, worker, used, ..connection };
        self.core(node, worker, jobs, Then { kind: Kind::Ready, index, later_ns: 0 });
    }

    /// It has shaken hands.
    pub(crate) fn is_ready(&mut self, index: u32) {
        let used = match self.scenario.load.kept {
            // Each has been used for a while, or all would be replaced at once.
            Some(Kept { requests, .. }) if self.is_beginning() => {
                splitmix64(self.scenario.seed ^ u64::from(index)) % u64::from(requests.max(1))
            }
            _ => 0,
        };
        let connection = &mut self.connections[index as usize];
        let (client, node, is_full) = (connection.client, connection.node, connection.used == 1);
        (connection.used, connection.tries) = (used as u32, 0);
        if self.nodes[node as usize].life != connection.life {
            return self.open_again(index);
        }
        self.know(client, node, is_full);
        self.send_next(index);
    }

    /// Nobody answers: what waits for its client's connections has waited long enough.
    pub(crate) fn give_up(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        connection.tries = 0;
        let client = connection.client as usize;
        while let Some(waiting) = self.clients[client].line.pop_front() {
            self.fail(waiting);
        }
        self.clients[client].given_up.push(index);
    }

    /// A kept connection is over, and its client opens another one.
    pub(crate) fn open_again(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        connection.node = NONE;
        let (client, port) = (connection.client, connection.port);
        self.front.close(self.now_ns, client, port);
        self.events.push(self.now_ns, Kind::Open, index);
    }

    /// A kept connection takes the next request of its client, or waits for one.
    pub(crate) fn send_next(&mut self, index: u32) {
        let connection = self.connections[index as usize];
        if self.nodes[connection.node as usize].life != connection.life {
            return self.open_again(index);
        }
        let client = &mut self.clients[connection.client as usize];
        let Some(next) = client.line.pop_front() else { return client.idle.push_back(index) };
        self.connections[index as usize].used += 1;
        let late = self.wishes.is_drawn_late().then(|| self.wishes.wish());
        let request = &mut self.requests[next as usize];
        request.wish = late.unwrap_or(request.wish);
        (request.connection, request.node, request.life) = (index, connection.node, connection.life);
        request.worker = connection.worker;
        let read = [(Use::Request, self.scenario.costs.core.request)];
        let whole = Then { kind: Kind::Decide, index: next, later_ns: 0 };
        self.core(connection.node, connection.worker, &read, whole);
    }

    /// A request opens a connection of its own.
    pub(crate) fn connect(&mut self, index: u32) {
        let request = &mut self.requests[index as usize];
        let client = request.client;
        if request.tries == 0 {
            request.port = self.clients[client as usize].take_port(index);
        }
        request.tries += 1;
        let (port, tries) = (request.port, request.tries);
        let Some((node, is_full)) = self.shake_hands(client, port) else {
            return match tries < SYNS_MAX {
                true => self.events.push(self.now_ns + SYN_AGAIN_NS, Kind::Begin, index),
                false => self.fail(index),
            };
        };
        let worker = self.worker_of(client, port);
        let life = self.nodes[node as usize].life;
        let request = &mut self.requests[index as usize];
        (request.node, request.life, request.worker, request.is_full) = (node, life, worker, is_full);
        let core = &self.scenario.costs.core;
        let jobs = [(Use::Tcp, core.tcp), self.handshake(is_full), (Use::Request, core.request)];
        if self.scenario.costs.app_on_core {
            self.nodes[node as usize].begin(self.now_ns);
            let took_ns =
                jobs.iter().map(|(_, ns)| ns).sum::<u64>() as f64 * self.nodes[node as usize].factor;
            self.requests[index as usize].service_ns = took_ns as u64;
        }
        self.core(node, worker, &jobs, Then { kind: Kind::Decide, index, later_ns: 0 });
    }
}
