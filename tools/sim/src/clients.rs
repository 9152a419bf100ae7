//! Clients: the session each holds, its ports, its kept connections and what waits for them. Owned by a run.

use std::collections::VecDeque;

/// Ports told apart by a client's bits; more connections of one at once have the port of their request.
const PORTS: u32 = 64;
const PORT_FIRST: u16 = 1024;

/// No node, request or connection.
pub const NONE: u32 = u32::MAX;

/// A session a client holds, or none.
#[derive(Clone, Copy, Debug)]
pub struct Session {
    /// Where it was made, and in which of that node's lives; [`NONE`] before the first.
    pub node: u32,
    /// See `node`.
    pub life: u8,
    /// It cannot be resumed after.
    pub until_ns: u64,
}

/// One client.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its newest session.
    pub session: Session,
    /// Ports in use, a bit each.
    ports: u64,
    /// Kept connections without a request, the longest idle first.
    pub idle: VecDeque<u32>,
    /// Requests that wait for one.
    pub line: VecDeque<u32>,
    /// Connections it has given up to open, until it wants something again.
    pub given_up: Vec<u32>,
}

/// A connection that is kept.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    /// Whose.
    pub client: u32,
    /// Its port there.
    pub port: u16,
    /// Where it is, and in which life; [`NONE`] while it is not.
    pub node: u32,
    /// See `node`.
    pub life: u8,
    /// Worker of the node.
    pub worker: u32,
    /// Requests it has carried.
    pub used: u32,
    /// Times its client has tried to open it.
    pub tries: u8,
}

impl Client {
    /// One that has never been seen.
    pub fn new() -> Client {
        Client {
            session: Session { node: NONE, life: 0, until_ns: 0 },
            ports: 0,
            idle: VecDeque::new(),
            line: VecDeque::new(),
            given_up: Vec::new(),
        }
    }

    /// A port for a connection; `number` tells it from others if the client has many.
    pub fn take_port(&mut self, number: u32) -> u16 {
        let free = self.ports.trailing_ones();
        if free < PORTS {
            self.ports |= 1 << free;
            return PORT_FIRST + free as u16;
        }
        PORT_FIRST + PORTS as u16 + (number % 60_000) as u16
    }

    /// The connection of a port is over.
    pub fn give_port(&mut self, port: u16) {
        let bit = u32::from(port - PORT_FIRST);
        if bit < PORTS {
            self.ports &= !(1 << bit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_of_one_connection_at_a_time() {
        let mut client = Client::new();
        let mut ports: Vec<u16> = (0..100).map(|number| client.take_port(number)).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
        client.give_port(1030);
        client.give_port(PORT_FIRST + 80);
        assert_eq!(client.take_port(7), 1030);
    }
}
