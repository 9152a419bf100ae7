//! The links between nodes: who connects to whom, who may, and the queue pairs that live as long as a link does.
//!
//! Two control threads hold one TLS 1.3 connection on which both have shown certificates of the cluster's CA. Of two
//! nodes the one whose name sorts first connects, again and again; the other accepts; a distributor connects to every
//! node. Between nodes the link's exporter secret makes
//! the keys of the lease channels, so that each life of a link has its own; its end, or silence on it, fences every
//! queue pair made with it. Everything runs on the control thread's runtime.
//!
//! - [`message`] and [`decoder`]: what is said, and its bytes (`docs/PROTOCOL.md`)
//! - certificates: [`trust`]
//! - `socket`, `stream`: bytes, records and descriptors
//! - `life`: one life of a link; `pairs`: its queue pairs; `talk`: what is told while it lives
//! - `nodes`: what a distributor hears of nodes; `announce`: what nodes tell it
//! - `dial`, `accept`: the two ends' ways to a new life; `said`, `tally`: what is logged and counted of it;
//!   `roster`: what operators see of it
//! - `ticket_keys`: the cluster's keys of tickets

mod accept;
mod announce;
pub mod decoder;
mod dial;
mod life;
pub mod message;
mod nodes;
mod pairs;
mod roster;
mod said;
mod socket;
mod stream;
mod talk;
mod tally;
#[cfg(test)]
mod tests;
mod ticket_keys;
pub mod trust;

use std::rc::Rc;
use std::time::Duration;

use keyferry_fabric::{LimitsError, QueuePair, shm, verbs};
use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

pub use announce::Announcer;
pub use life::{Duty, Local, Node};
pub use nodes::{NodeReport, Nodes};
pub use roster::{Roster, Row};
pub use socket::Address;
pub use tally::Tally;
pub use trust::{Trust, TrustError};

use crate::config::Driver;
use message::{Reason, Role, WireError};
use stream::StreamError;

/// Stands between a worker and a queue pair just made. What tests of failures put there drops, repeats or forges
/// messages; a node puts nothing there.
pub type Between = fn(Box<dyn QueuePair>) -> Box<dyn QueuePair>;

/// Why a link did not come to life, or ended; follows the peer's name.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("one of its messages came out of turn")]
    Order,
    #[error("it did not answer in time")]
    Slow,
    #[error("no sign of life for {} ms", .0.as_millis())]
    Silent(Duration),
    #[error("a queue pair failed")]
    Failed,
    #[error("{}", farewell(*.0))]
    Bye(Reason),
    #[error("it calls itself `{said}`, this node's [[peer]] is `{expected}`: check both configurations")]
    Name { said: String, expected: String },
    #[error(
        "it calls itself `{said}`, a {}, with a certificate for {certified}, and this configuration has none of that name that connects here",
        .role.name()
    )]
    NotPeer { said: String, certified: String, role: Role },
    #[error("it is a {}, and this configuration has it as a {}: check both", .said.name(), .expected.name())]
    Role { said: Role, expected: Role },
    #[error("its [fabric] driver is {theirs:?}, this node's {ours:?}: write the same in both configurations")]
    Driver { ours: Driver, theirs: Driver },
    #[error("the shm driver passes memory: write the peer's address as \"unix:PATH\"")]
    NotLocal,
    #[error("agreed limits: {0}")]
    Limits(LimitsError),
    #[error(transparent)]
    Shm(#[from] shm::ShmError),
    #[error(transparent)]
    Verbs(#[from] verbs::VerbsError),
    #[error("worker {0} does not read its mailbox")]
    Mailbox(usize),
    #[error("this node ends")]
    Stopping,
}

/// What the peer said last.
fn farewell(reason: Reason) -> &'static str {
    match reason {
        Reason::Leaving => "it is ending",
        Reason::NotPeer => {
            "it refused this end: by name, role or certificate it is none of those configured there"
        }
        Reason::Driver => "it refused this node's [fabric] driver, or an address that does not suit it",
        Reason::Limits => "it refused the limits: check [fabric] of both",
        Reason::Protocol => "it refused a message of this node: run the same release on both",
        Reason::Silent => "it waited too long for this node",
        Reason::Failed => "a queue pair failed there",
        Reason::Unable => "it cannot have the queue pairs: its log says why",
        Reason::Down => "its port of the fabric is down",
    }
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Where it is reached.
    pub address: Address,
}

/// Who else there is, and who of two connects.
#[derive(Debug, Default)]
pub struct Others {
    dialled: Vec<(Role, Peer)>,
    accepted: Vec<(Role, String)>,
}

impl Others {
    /// A node's: of two nodes the one whose name sorts first connects, and distributors connect to nodes.
    pub fn of_node(own: &str, peers: &[Peer], distributors: &[String]) -> Others {
        let distributors = distributors.iter().map(|name| (Role::Distributor, name.clone())).collect();
        Others { dialled: Vec::new(), accepted: distributors }.with_equals(own, Role::Node, peers)
    }

    /// A distributor's.
    pub fn of_distributor(own: &str, nodes: Vec<Peer>, peers: &[Peer]) -> Others {
        let nodes = nodes.into_iter().map(|node| (Role::Node, node)).collect();
        Others { dialled: nodes, accepted: Vec::new() }.with_equals(own, Role::Distributor, peers)
    }

    fn with_equals(mut self, own: &str, role: Role, peers: &[Peer]) -> Others {
        for peer in peers {
            match own < peer.name.as_str() {
                true => self.dialled.push((role, peer.clone())),
                false => self.accepted.push((role, peer.name.clone())),
            }
        }
        self
    }
}

/// What every task of the links shares.
struct Shared {
    local: Local,
    trust: Trust,
    stop: watch::Receiver<bool>,
}

/// The links of a node or a distributor, listening.
pub struct Links {
    shared: Rc<Shared>,
    stop: watch::Sender<bool>,
    listeners: Vec<socket::Listener>,
    dialled: Vec<(Role, Peer, ServerName<'static>)>,
    accepted: Vec<(Role, String, ServerName<'static>)>,
}

impl Links {
    /// Listens where `listen` says. Within the control thread's runtime.
    ///
    /// # Errors
    /// An address cannot be listened on, or a peer has an impossible name; the sentence says what to do.
    pub fn new(local: Local, trust: Trust, listen: &[Address], others: Others) -> anyhow::Result<Links> {
        let (stop, stopping) = watch::channel(false);
        // An end that connects to all its peers need not listen, but another's configuration may be wrong.
        let listeners = listen.iter().map(socket::Listener::bind).collect::<anyhow::Result<_>>()?;
        let dialled = others.dialled.into_iter().map(|(role, peer)| {
            let name = trust::dns_name(&peer.name)?;
            Ok((role, peer, name))
        });
        let accepted = others.accepted.into_iter().map(|(role, peer)| {
            let name = trust::dns_name(&peer)?;
            Ok((role, peer, name))
        });
        Ok(Links {
            dialled: dialled.collect::<Result<_, TrustError>>()?,
            accepted: accepted.collect::<Result<_, TrustError>>()?,
            shared: Rc::new(Shared { local, trust, stop: stopping }),
            stop,
            listeners,
        })
    }

    /// Starts connecting and accepting. Within a [`tokio::task::LocalSet`].
    pub fn start(self) -> Running {
        let Links { shared, stop, listeners, dialled, accepted } = self;
        let keys = shared.local.tickets().cloned().map(|server| {
            let (node, tally) = (shared.local.node.clone(), shared.local.tally.clone());
            tokio::task::spawn_local(ticket_keys::tend(server, node, tally)).abort_handle()
        });
        let mut tasks: Vec<_> = dialled
            .into_iter()
            .map(|(role, peer, name)| {
                tokio::task::spawn_local(dial::dial(Rc::clone(&shared), role, peer, name))
            })
            .collect();
        let acceptor = accept::Acceptor::new(shared, accepted);
        for listener in listeners {
            tasks.push(tokio::task::spawn_local(Rc::clone(&acceptor).accept(listener)));
        }
        Running { stop, tasks, acceptor, keys }
    }
}

/// Links that are kept up until they are ended.
pub struct Running {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    acceptor: Rc<accept::Acceptor>,
    keys: Option<AbortHandle>,
}

impl Running {
    /// Takes leave of every peer; what does not end soon is cut off.
    pub async fn end(self) {
        const PATIENCE: Duration = Duration::from_millis(500);
        let _ = self.stop.send(true);
        if let Some(keys) = self.keys {
            keys.abort();
        }
        let all = async {
            for task in self.tasks {
                let _ = task.await;
            }
            self.acceptor.joined().await;
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }
}
