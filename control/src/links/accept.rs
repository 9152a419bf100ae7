//! The end that is connected to. In: whoever reaches a listener. Out: lives of links with those peers who are to connect
//! here, and one sentence for each of the others. One task a listener, one a connection.
//!
//! Until its certificate is known a connection is anybody's: there are few of those at a time, each has a deadline, and
//! the oldest goes for the next. A peer that connects while its old link still seems to live has restarted, or the
//! network has lost the end of it: the new one takes its place.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tracing::warn;

use super::life::{self, Greeted};
use super::message::Role;
use super::said::Said;
use super::socket::{Listener, Socket};
use super::stream::{Stream, StreamError};
use super::{LinkError, Shared, trust};

/// Connections nobody has vouched for yet, at most.
const STRANGERS_MAX: usize = 32;
/// Pause after a failed accept: with no descriptor free the next would fail at once as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A peer that may connect.
struct Known {
    role: Role,
    name: ServerName<'static>,
    /// Turns true when it no longer may.
    stop: watch::Sender<bool>,
}

/// What the listeners of a node share.
pub(super) struct Acceptor {
    shared: Rc<Shared>,
    peers: RefCell<HashMap<String, Known>>,
    strangers: RefCell<VecDeque<AbortHandle>>,
    /// The life of each peer's link, or what is left of it.
    lives: RefCell<HashMap<String, JoinHandle<()>>>,
    said: RefCell<Said>,
}

impl Acceptor {
    pub(super) fn new(shared: Rc<Shared>) -> Rc<Acceptor> {
        Rc::new(Acceptor {
            shared,
            peers: RefCell::default(),
            strangers: RefCell::default(),
            lives: RefCell::default(),
            said: RefCell::default(),
        })
    }

    /// From here on these may connect; the links of others end.
    pub(super) fn set_peers(&self, peers: Vec<(Role, String, ServerName<'static>)>) {
        let mut known = self.peers.borrow_mut();
        let mut before = std::mem::take(&mut *known);
        for (role, peer, name) in peers {
            let same = before.remove(&peer).filter(|known| known.role == role);
            let stop = same.map_or_else(|| watch::Sender::new(false), |known| known.stop);
            known.insert(peer, Known { role, name, stop });
        }
        for gone in before.into_values() {
            gone.stop.send_replace(true);
        }
        self.lives.borrow_mut().retain(|_, life| !life.is_finished());
    }

    /// Takes connections until the node ends.
    pub(super) async fn accept(self: Rc<Self>, listener: Listener) {
        let mut stop = self.shared.stop.clone();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((socket, from)) => self.admit(socket, from),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                },
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    /// Every life has ended.
    pub(super) async fn joined(&self) {
        let lives: Vec<_> = self.lives.borrow_mut().drain().collect();
        for (_, life) in lives {
            let _ = life.await;
        }
    }

    fn admit(self: &Rc<Self>, socket: Socket, from: String) {
        let mut strangers = self.strangers.borrow_mut();
        strangers.retain(|stranger| !stranger.is_finished());
        if strangers.len() == STRANGERS_MAX
            && let Some(oldest) = strangers.pop_front()
        {
            oldest.abort();
        }
        let this = Rc::clone(self);
        let task = tokio::task::spawn_local(async move {
            match this.greet(socket).await {
                Ok(greeted) => this.take_up(greeted),
                Err(error) => this.tell_failed(&format!("no link with {from}: {error}")),
            }
        });
        strangers.push_back(task.abort_handle());
    }

    async fn greet(&self, socket: Socket) -> Result<Greeted, LinkError> {
        let tls = self.shared.trust.borrow().accept().map_err(StreamError::Tls)?;
        let greeted = life::greet(&self.shared.local, Stream::new(socket, tls)).await?;
        let (said, role) = (&greeted.peer().node, greeted.peer().role);
        let expected = self.peers.borrow().get(said).and_then(|known| {
            let is_for = trust::is_for(greeted.tls(), &known.name);
            is_for.then_some(known.role)
        });
        let error = match expected {
            Some(expected) if expected == role => return Ok(greeted),
            Some(expected) => LinkError::Role { said: role, expected },
            None => LinkError::NotPeer { said: said.clone(), certified: trust::names(greeted.tls()), role },
        };
        Err(greeted.refuse(error).await)
    }

    /// A new life of the peer's link; one that still goes on ends, and its queue pairs with it, before.
    fn take_up(self: &Rc<Self>, greeted: Greeted) {
        let (peer, role) = (greeted.peer().node.clone(), greeted.peer().role);
        let Some(stop) = self.peers.borrow().get(&peer).map(|known| known.stop.subscribe()) else { return };
        let before = self.lives.borrow_mut().remove(&peer).inspect(JoinHandle::abort);
        let (this, name) = (Rc::clone(self), peer.clone());
        let life = tokio::task::spawn_local(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let (lived, error) = greeted.live(&this.shared.local, this.shared.trust.subscribe(), stop).await;
            this.shared.local.tally.roster().problem(&name, &error.to_string());
            match (lived, error) {
                (_, LinkError::Stopping) => {}
                (true, error) => {
                    warn!(peer = name, "the link is down: {error}{}", this.shared.local.consequence(role));
                }
                (false, error) => this.tell_failed(&format!("no link with {name}: {error}")),
            }
        });
        self.lives.borrow_mut().insert(peer, life);
    }

    fn tell_failed(&self, sentence: &str) {
        self.shared.local.tally.failed();
        if self.said.borrow_mut().is_news(sentence, Instant::now()) {
            warn!("{sentence}");
        }
    }
}
