//! Connections we begin (RFC 9293 section 3.10.1, active OPEN): for clients such as the load generator, never for a
//! server.
//!
//! In: the two ends. Out: a connection whose SYN goes out with the next [`emit`](Tcp::emit), and again until it is
//! answered. Part of a worker's TCP.

use std::net::SocketAddr;

use keyferry_time::Time;

use crate::connection::Connection;
use crate::flow::Flow;
use crate::seam::{ConnId, Segment, Tcp};
use crate::sequence;

/// Why a connection is not begun.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConnectError {
    /// As many connections as there may be.
    ConnectionsFull,
    /// There is a connection between these two ends.
    InUse,
    /// Ends that cannot be joined: an address that is not ours, of different families, unspecified, or a port of 0.
    Unreachable,
}

impl<S: Segment> Tcp<S> {
    /// Begins a connection. `Opened` follows once the peer has taken it; `Closed` instead, with
    /// [`Reset`](crate::CloseReason::Reset) if it refused and [`IdleTimeout`](crate::CloseReason::IdleTimeout) if it did
    /// not answer within [`Config::half_open_timeout`](crate::Config::half_open_timeout).
    ///
    /// Two ends may be joined again as soon as their last connection has ended: sequence numbers go on behind it, and a
    /// peer that still waits out TIME-WAIT takes it for a new one by that (RFC 1122 section 4.2.2.13).
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub fn connect(
        &mut self,
        now: Time,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> Result<ConnId, ConnectError> {
        let unreachable = !self.shared.config.addresses.contains(&local.ip())
            || local.is_ipv4() != peer.is_ipv4()
            || peer.ip().is_unspecified()
            || peer.ip().is_multicast()
            || local.port() == 0
            || peer.port() == 0;
        if unreachable {
            return Err(ConnectError::Unreachable);
        }
        let flow = Flow { peer: peer.into(), local: local.into() };
        let hash = self.shared.secret.hash(&flow);
        if self.find(hash, &flow).is_some() || self.half_open.find(hash, &flow).is_some() {
            return Err(ConnectError::InUse);
        }
        let index = self.free.pop().ok_or(ConnectError::ConnectionsFull)?;
        self.time_wait.forget(hash, &flow);
        self.shared.counters.time_wait = self.time_wait.live();
        let ours = sequence::initial(self.shared.secret, &flow, now);
        let connection = Connection::new(flow, hash, ours, now, &self.shared);
        self.flows.insert(hash, index);
        self.slots.grow_to(index as usize);
        self.slots[index as usize].connection = Some(connection);
        self.shared.counters.begun += 1;
        self.dirty.push_back(index);
        Ok(self.id(index))
    }
}
