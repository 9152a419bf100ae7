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
//! - `nodes`: what a distributor hears of nodes; `announce`: what nodes tell it; `companions`: other distributors
//! - `others`: who else there is, which may change, and who of two connects
//! - `dial`, `accept`: the two ends' ways to a new life; `said`, `tally`: what is logged and counted of it;
//!   `roster`: what operators see of it
//! - `ticket_keys`: the cluster's keys of tickets

mod accept;
mod announce;
mod companions;
pub mod decoder;
mod dial;
mod life;
pub mod message;
mod nodes;
mod others;
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

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use keyferry_fabric::{LimitsError, QueuePair, shm, verbs};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

pub use announce::Announcer;
pub use companions::{CompanionReport, Companions};
pub use life::{Duty, Front, Local, Node};
pub(crate) use nodes::Present;
pub use nodes::{Listed, NodeReport, Nodes, Placed};
pub use others::Others;
pub use roster::{Roster, Row};
pub(crate) use said::Said;
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
    #[error("agreed limits: {0}: check [fabric] of both")]
    Limits(LimitsError),
    #[error(transparent)]
    Shm(#[from] shm::ShmError),
    #[error(transparent)]
    Verbs(#[from] verbs::VerbsError),
    #[error("worker {0} does not read its mailbox")]
    Mailbox(usize),
    #[error("its certificate {0}")]
    Untrusted(String),
    #[error("this node ends")]
    Stopping,
}

/// What the peer said last.
fn farewell(reason: Reason) -> &'static str {
    match reason {
        Reason::Leaving => "it is ending, or has this node no longer among its peers",
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

/// What every task of the links shares.
struct Shared {
    local: Local,
    /// Whom this process believes from now on.
    trust: watch::Sender<Trust>,
    /// Turns true when nobody is to connect any more.
    stop: watch::Receiver<bool>,
}

/// The links of a node or a distributor, listening.
pub struct Links {
    shared: Rc<Shared>,
    stop: watch::Sender<bool>,
    listeners: Vec<socket::Listener>,
    others: others::Named,
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
        let others = others.named()?;
        let shared = Shared { local, trust: watch::Sender::new(trust), stop: stopping };
        Ok(Links { shared: Rc::new(shared), stop, listeners, others })
    }

    /// Starts connecting and accepting. Within a [`tokio::task::LocalSet`].
    pub fn start(self) -> Running {
        let Links { shared, stop, listeners, others } = self;
        let keys = shared.local.tickets().cloned().map(|resumer| {
            let (node, tally) = (shared.local.node.clone(), shared.local.tally.clone());
            tokio::task::spawn_local(ticket_keys::tend(resumer, node, tally)).abort_handle()
        });
        let acceptor = accept::Acceptor::new(Rc::clone(&shared));
        let accept = |listener| tokio::task::spawn_local(Rc::clone(&acceptor).accept(listener));
        let listeners = listeners.into_iter().map(accept).collect();
        let mut kept = others::Kept::new(Rc::clone(&shared), acceptor);
        kept.set(others);
        Running { shared, stop, listeners, kept: RefCell::new(kept), keys }
    }
}

/// Links that are kept up until they are ended.
pub struct Running {
    shared: Rc<Shared>,
    stop: watch::Sender<bool>,
    listeners: Vec<JoinHandle<()>>,
    kept: RefCell<others::Kept>,
    keys: Option<AbortHandle>,
}

impl Running {
    /// From here on these are the others: links to new ones are made, those to who is gone end, the rest are left alone.
    /// Within the [`tokio::task::LocalSet`] they run in.
    ///
    /// # Errors
    /// One has an impossible name; then nothing changes.
    pub fn set_others(&self, others: Others) -> Result<(), TrustError> {
        self.kept.borrow_mut().set(others.named()?);
        Ok(())
    }

    /// From here on new links are made with this certificate and with whom it believes. Links that live go on, but for those
    /// whose peers it does not believe.
    pub fn set_trust(&self, trust: Trust) {
        self.shared.trust.send_replace(trust);
    }

    /// Whom this process believes now, and how it proves who it is.
    pub fn trust(&self) -> Trust {
        self.shared.trust.borrow().clone()
    }

    /// A peer silent for so long is gone, on links that are made from here on.
    pub fn set_heartbeat_timeout(&self, timeout: Duration) {
        self.shared.local.heartbeat_timeout.set(timeout);
    }

    /// Takes leave of every peer; what does not end soon is cut off.
    pub async fn end(self) {
        const PATIENCE: Duration = Duration::from_millis(500);
        let _ = self.stop.send(true);
        if let Some(keys) = self.keys {
            keys.abort();
        }
        let all = async {
            for listener in self.listeners {
                let _ = listener.await;
            }
            self.kept.into_inner().end().await;
        };
        let _ = tokio::time::timeout(PATIENCE, all).await;
    }
}
