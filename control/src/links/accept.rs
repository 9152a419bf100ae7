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

/// What the listeners of a node share.
pub(super) struct Acceptor {
    shared: Rc<Shared>,
    peers: HashMap<String, (Role, ServerName<'static>)>,
    strangers: RefCell<VecDeque<AbortHandle>>,
    /// The life of each peer's link, or what is left of it.
    lives: RefCell<HashMap<String, JoinHandle<()>>>,
    said: RefCell<Said>,
}

impl Acceptor {
    pub(super) fn new(
        shared: Rc<Shared>,
        peers: impl IntoIterator<Item = (Role, String, ServerName<'static>)>,
    ) -> Rc<Acceptor> {
        let peers = peers.into_iter().map(|(role, peer, name)| (peer, (role, name))).collect();
        Rc::new(Acceptor {
            shared,
            peers,
            strangers: RefCell::default(),
            lives: RefCell::default(),
            said: RefCell::default(),
        })
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
        let tls = self.shared.trust.accept().map_err(StreamError::Tls)?;
        let greeted = life::greet(&self.shared.local, Stream::new(socket, tls)).await?;
        let (said, role) = (&greeted.peer().node, greeted.peer().role);
        let error = match self.peers.get(said) {
            Some((expected, name)) if trust::is_for(greeted.tls(), name) => {
                if *expected == role {
                    return Ok(greeted);
                }
                LinkError::Role { said: role, expected: *expected }
            }
            _ => LinkError::NotPeer { said: said.clone(), certified: trust::names(greeted.tls()), role },
        };
        Err(greeted.refuse(error).await)
    }

    /// A new life of the peer's link; one that still goes on ends, and its queue pairs with it, before.
    fn take_up(self: &Rc<Self>, greeted: Greeted) {
        let (peer, role) = (greeted.peer().node.clone(), greeted.peer().role);
        let before = self.lives.borrow_mut().remove(&peer).inspect(JoinHandle::abort);
        let (this, name) = (Rc::clone(self), peer.clone());
        let life = tokio::task::spawn_local(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let (lived, error) = greeted.live(&this.shared.local, this.shared.stop.clone()).await;
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
