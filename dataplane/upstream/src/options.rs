//! What an upstream is: its servers, and how they are dealt with. All bounds are here.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Servers of an upstream at most: those that were tried are a mask of bits.
pub const SERVERS_MAX: usize = 64;

/// Bytes of an origin's reply head at most.
pub const HEAD_BYTES_MAX: usize = 12 * 1024;

/// Bytes that are read ahead of a client, for each connection to an origin.
pub const READ_BYTES_MAX: usize = 64 * 1024;

const _: () =
    assert!(HEAD_BYTES_MAX <= keyferry_http::FORWARDED_BYTES_MAX && HEAD_BYTES_MAX < READ_BYTES_MAX);

/// Where an origin server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `IP:PORT`.
    Tcp(SocketAddr),
    /// `unix:PATH`.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How an origin is told whose request it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarded {
    /// X-Forwarded-For, X-Forwarded-Proto and X-Forwarded-Host.
    pub legacy: bool,
    /// Forwarded (RFC 7239).
    pub standard: bool,
    /// What the client says of it is true: it stands behind a proxy of ours. Else it is left out.
    pub trusted: bool,
}

/// Active health checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked for; a status of 200 to 399 is health.
    pub path: String,
    /// The host it is asked of; `None`: the server's address.
    pub host: Option<String>,
    /// From the end of one check to the next.
    pub interval: Duration,
    /// Longest time until the head of the answer.
    pub timeout: Duration,
    /// Good checks in a row that bring a server back.
    pub rise: u32,
    /// Bad checks in a row that take it out.
    pub fall: u32,
}

/// One upstream. Numbers of connections and of waiting requests count for each app thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// What it is called in logs.
    pub name: String,
    /// Its servers; at least one, at most [`SERVERS_MAX`].
    pub servers: Vec<Address>,
    /// Connections to each server.
    pub connections: usize,
    /// Of them, connections without a request that are kept.
    pub idle: usize,
    /// How long they are. Shorter than the servers keep theirs: a request that crosses a server's end of a connection is
    /// lost if it must not be sent twice.
    pub idle_timeout: Duration,
    /// Requests that wait while all connections are busy.
    pub queue: usize,
    /// How long they do.
    pub queue_timeout: Duration,
    /// Until a connection is open.
    pub connect_timeout: Duration,
    /// From the request, all of it, to the head of its reply.
    pub reply_timeout: Duration,
    /// Between two pieces of a body, of a reply or one that streams to a server.
    pub body_timeout: Duration,
    /// For which a WebSocket may be silent.
    pub upgraded_timeout: Duration,
    /// Failures in a row after which a server is left out; 0: never.
    pub failures: u32,
    /// For how long.
    pub out: Duration,
    /// Whose request it is.
    pub forwarded: Forwarded,
    /// Messages say that they came this way (RFC 9110 7.6.3).
    pub via: bool,
    /// Connections begin with the client's address (PROXY protocol, version 2), and carry requests of that client's
    /// connection only.
    pub proxy_protocol: bool,
    /// Whether servers are asked how they are.
    pub health: Option<Health>,
}

impl Options {
    /// Servers with the defaults of everything else.
    pub fn new(name: &str, servers: Vec<Address>) -> Options {
        Options {
            name: name.to_owned(),
            servers,
            connections: 256,
            idle: 64,
            idle_timeout: Duration::from_millis(4_000),
            queue: 1024,
            queue_timeout: Duration::from_millis(1_000),
            connect_timeout: Duration::from_millis(2_000),
            reply_timeout: Duration::from_millis(60_000),
            body_timeout: Duration::from_millis(60_000),
            upgraded_timeout: Duration::from_millis(300_000),
            failures: 3,
            out: Duration::from_millis(10_000),
            forwarded: Forwarded { legacy: true, standard: true, trusted: false },
            via: false,
            proxy_protocol: false,
            health: None,
        }
    }
}
