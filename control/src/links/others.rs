//! Who else there is, which may change while links run, and who of two connects. In: the whole list, again whenever it is
//! another. Out: a task that connects for each to whom this process does, leave to connect for each of the others. Control
//! thread.
//!
//! Who is on both lists keeps its link. One that is gone from the list is taken leave of, which fences its queue pairs.
//! Another address means another dial, once the link to the old one has ended. Where a peer that connects by itself is
//! reached does not matter.

use std::collections::BTreeMap;
use std::rc::Rc;

use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_local};

use super::accept::Acceptor;
use super::message::Role;
use super::trust::{TrustError, dns_name};
use super::{Address, Peer, Shared, dial};

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

/// Others with their names as certificates carry them.
pub(super) struct Named {
    dialled: Vec<(Role, Peer, ServerName<'static>)>,
    accepted: Vec<(Role, String, ServerName<'static>)>,
}

impl Others {
    pub(super) fn named(self) -> Result<Named, TrustError> {
        let dialled = self.dialled.into_iter().map(|(role, peer)| {
            let name = dns_name(&peer.name)?;
            Ok((role, peer, name))
        });
        let accepted = self.accepted.into_iter().map(|(role, peer)| {
            let name = dns_name(&peer)?;
            Ok((role, peer, name))
        });
        Ok(Named {
            dialled: dialled.collect::<Result<_, TrustError>>()?,
            accepted: accepted.collect::<Result<_, TrustError>>()?,
        })
    }
}

/// One to whom this process connects.
struct Dialled {
    role: Role,
    address: Address,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// The links with all others, kept up.
pub(super) struct Kept {
    shared: Rc<Shared>,
    acceptor: Rc<Acceptor>,
    dialled: BTreeMap<String, Dialled>,
    /// Dials of those that are gone, which take leave.
    leaving: Vec<JoinHandle<()>>,
}

impl Kept {
    pub(super) fn new(shared: Rc<Shared>, acceptor: Rc<Acceptor>) -> Kept {
        Kept { shared, acceptor, dialled: BTreeMap::new(), leaving: Vec::new() }
    }

    /// From here on these are the others, and nobody else.
    pub(super) fn set(&mut self, others: Named) {
        self.acceptor.set_peers(others.accepted);
        self.leaving.retain(|task| !task.is_finished());
        let mut before = std::mem::take(&mut self.dialled);
        for (role, peer, name) in others.dialled {
            let kept = match before.remove(&peer.name) {
                Some(old) if old.address == peer.address && old.role == role => old,
                old => self.dial(role, peer.clone(), name, old),
            };
            self.dialled.insert(peer.name, kept);
        }
        for gone in before.into_values() {
            gone.stop.send_replace(true);
            self.leaving.push(gone.task);
        }
    }

    /// Connects, after the link to where it was before has ended.
    fn dial(&self, role: Role, peer: Peer, name: ServerName<'static>, old: Option<Dialled>) -> Dialled {
        let (stop, stopping) = watch::channel(false);
        let (shared, address) = (Rc::clone(&self.shared), peer.address.clone());
        let old = old.map(|old| {
            old.stop.send_replace(true);
            old.task
        });
        let task = spawn_local(async move {
            if let Some(old) = old {
                let _ = old.await;
            }
            dial::dial(shared, role, peer, name, stopping).await;
        });
        Dialled { role, address, stop, task }
    }

    /// Takes leave of everybody, and waits until that is done.
    pub(super) async fn end(mut self) {
        self.set(Named { dialled: Vec::new(), accepted: Vec::new() });
        for task in self.leaving {
            let _ = task.await;
        }
        self.acceptor.joined().await;
    }
}
