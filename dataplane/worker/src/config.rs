//! What a worker is made of: its validated configuration and its parts.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use keyferry_app::routes::Streams;
use keyferry_decide::{NodeId, Policy};
use keyferry_link::Link;
use keyferry_nic::Nic;
use keyferry_tcp::Tcp;
use keyferry_tls::Server;

use crate::conn::Service;
use crate::mailbox::Mail;
use crate::peer::LeaseLimits;
use crate::pool::PoolSizes;
use crate::receive::Receive;
use crate::segment::Outgoing;

/// Grain of handshake and request deadlines.
pub const DEADLINE_TICK: Duration = Duration::from_millis(8);

/// A usual time after which a connection rests: what it gives back costs less than half a microsecond to make again, which
/// is nothing beside a second.
pub const REST_AFTER: Duration = Duration::from_secs(1);

/// A rate in bytes a second, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(u32);

impl Rate {
    /// So many bytes a second, at least one.
    pub const fn bytes_per_second(bytes: u32) -> Rate {
        Rate(if bytes == 0 { 1 } else { bytes })
    }

    /// The time so many bytes may take.
    pub fn time_for(self, bytes: usize) -> Duration {
        Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / u64::from(self.0))
    }
}

/// A worker among those of its node, which share what none of them owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number, from 0.
    pub number: usize,
    /// How many there are.
    pub of: usize,
}

/// A worker's configuration. Sizes are per worker.
#[derive(Clone, Debug)]
pub struct Config {
    /// What each listening port does.
    pub services: Vec<(u16, Service)>,
    /// Connections at most.
    pub connections: u32,
    /// Handshakes under way at most.
    pub handshakes: u64,
    /// SYN to the end of the handshake.
    pub handshake_timeout: Duration,
    /// First byte of a request's head to its last.
    pub header_timeout: Duration,
    /// First byte of a request's body to its last, besides the time its bytes may take at `body_rate`.
    pub body_timeout: Duration,
    /// The slowest a long body may come.
    pub body_rate: Rate,
    /// Longest pause without progress between requests. While one is being answered only data that the client does
    /// not acknowledge is timed.
    pub idle_timeout: Duration,
    /// Bounds of a request.
    pub http: keyferry_http::Limits,
    /// Whose requests run before their bodies are whole.
    pub streams: Streams,
    /// Requests the application works on at a time, for all workers that share its threads: the slots of all threads, or
    /// the threads where each works on all it has.
    pub app_slots: u32,
    /// When requests are lent.
    pub policy: Policy,
    /// The key goes with the grant: one round trip less, and no safe retry.
    pub eager: bool,
    /// Bounds and times of leases.
    pub leases: LeaseLimits,
    /// Largest lease message, in bytes.
    pub message_bytes: usize,
    /// Which of the node's workers it is.
    pub place: Place,
    /// This node.
    pub node: NodeId,
    /// The nodes that keep sessions at first, this one among them; all nodes have the same list, which control changes by
    /// [`Mail::Members`].
    pub members: Vec<NodeId>,
    /// How long a handshake waits for a session that another node keeps.
    pub session_wait: Duration,
    /// How long a connection keeps its AEAD contexts after its client has last spoken, at least; at most twice as long.
    pub rest_after: Duration,
}

impl Config {
    /// What a listening port does.
    pub fn service(&self, port: u16) -> Option<Service> {
        self.services.iter().find(|(listening, _)| *listening == port).map(|(_, service)| *service)
    }
}

/// Everything a worker owns from the start.
pub struct Parts<N: Nic, A: keyferry_app::App> {
    /// Its configuration.
    pub config: Config,
    /// Its queue of the port.
    pub nic: N,
    /// The link layer, with this node's addresses and routes.
    pub link: Link<N::Packet>,
    /// TCP.
    pub tcp: Tcp<Outgoing>,
    /// Certificates and sessions.
    pub tls: Server,
    /// The way to the application.
    pub app: keyferry_app::Port<A>,
    /// Receive side: which packets are ours.
    pub receive: Receive<N::Packet>,
    /// How many buffers of each kind.
    pub pools: PoolSizes,
    /// Letters from control.
    pub mailbox: Arc<ArrayQueue<Mail>>,
}
