//! The links between nodes: who connects to whom, who may, and the queue pairs that live as long as a link does.
//!
//! Two control threads hold one TLS 1.3 connection on which both have shown certificates of the cluster's CA. Of two
//! nodes the one whose name sorts first connects, again and again; the other accepts. The link's exporter secret makes
//! the keys of the lease channels, so that each life of a link has its own; its end, or silence on it, fences every
//! queue pair made with it. Everything runs on the control thread's runtime.
//!
//! - [`message`] and [`decoder`]: what is said, and its bytes (`docs/PROTOCOL.md`)
//! - certificates: [`trust`]
//! - `socket`, `stream`: bytes, records and descriptors
//! - `life`: one life of a link; `pairs`: its queue pairs
//! - `dial`, `accept`: the two ends' ways to a new life; `said`, `tally`: what is logged and counted of it
//! - `ticket_keys`: the cluster's keys of tickets

mod accept;
pub mod decoder;
mod dial;
mod life;
pub mod message;
mod pairs;
mod said;
mod socket;
mod stream;
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

pub use life::Local;
pub use socket::Address;
pub use tally::Tally;
pub use trust::{Trust, TrustError};

use crate::config::Driver;
use message::{Reason, WireError};
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
        "it calls itself `{said}` with a certificate for {certified}, and no [[peer]] of this node that connects to it is called so"
    )]
    NotPeer { said: String, certified: String },
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
        Reason::NotPeer => "it refused this node: by name or certificate it is none of the [[peer]] there",
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

/// What every task of the links shares.
struct Shared {
    local: Local,
    trust: Trust,
    stop: watch::Receiver<bool>,
}

/// The links of a node, listening.
pub struct Links {
    shared: Rc<Shared>,
    stop: watch::Sender<bool>,
    listeners: Vec<socket::Listener>,
    peers: Vec<(Peer, ServerName<'static>)>,
}

impl Links {
    /// Listens where `listen` says. Within the control thread's runtime.
    ///
    /// # Errors
    /// An address cannot be listened on, or a peer has an impossible name; the sentence says what to do.
    pub fn new(local: Local, trust: Trust, listen: &[Address], peers: &[Peer]) -> anyhow::Result<Links> {
        let (stop, stopping) = watch::channel(false);
        // A node all of whose peers are connected to by it need not listen, but another's [[peer]] may be wrong.
        let listeners = listen.iter().map(socket::Listener::bind).collect::<anyhow::Result<_>>()?;
        let named = |peer: &Peer| Ok((peer.clone(), trust::dns_name(&peer.name)?));
        let peers = peers.iter().map(named).collect::<Result<_, TrustError>>()?;
        Ok(Links { shared: Rc::new(Shared { local, trust, stop: stopping }), stop, listeners, peers })
    }

    /// Starts connecting and accepting. Within a [`tokio::task::LocalSet`].
    pub fn start(self) -> Running {
        let Links { shared, stop, listeners, peers } = self;
        let (dialled, accepted): (Vec<_>, Vec<_>) =
            peers.into_iter().partition(|(peer, _)| shared.local.node < peer.name);
        let keys = shared.local.tickets.clone().map(|server| {
            let (node, tally) = (shared.local.node.clone(), shared.local.tally.clone());
            tokio::task::spawn_local(ticket_keys::tend(server, node, tally)).abort_handle()
        });
        let mut tasks: Vec<_> = dialled
            .into_iter()
            .map(|(peer, name)| tokio::task::spawn_local(dial::dial(Rc::clone(&shared), peer, name)))
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
