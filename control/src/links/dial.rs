//! The end that connects: again and again, with pauses that grow and are never the same, so that a node that comes back
//! is not met by all at once. One task a peer.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::life::{self, Duty, GREETING};
use super::message::Role;
use super::said::Said;
use super::socket::Socket;
use super::stream::{Stream, StreamError};
use super::{LinkError, Peer, Shared};
use crate::backoff::Backoff;

/// First and longest pause between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Keeps the link to `peer` up until `stop` turns true.
pub(super) async fn dial(
    shared: Rc<Shared>,
    role: Role,
    peer: Peer,
    name: ServerName<'static>,
    mut stop: watch::Receiver<bool>,
) {
    let mut said = Said::default();
    let mut backoff = Backoff::new(BACKOFF);
    while !*stop.borrow() {
        let (lived, error) = attempt(&shared, role, &peer, &name, &mut stop).await;
        // Who was told to stop tells nothing any more: another of that name may have come.
        if matches!(error, LinkError::Stopping) || *stop.borrow() {
            return;
        }
        if let (Duty::Distributor(it), Role::Node) = (&shared.local.duty, role) {
            match lived {
                true => it.nodes.lost(&peer.name, &error).await,
                false => it.nodes.unreachable(&peer.name).await,
            }
        }
        shared.local.tally.roster().problem(&peer.name, &error.to_string());
        if lived {
            said.forget();
            backoff.reset();
            warn!(peer = peer.name, "the link is down: {error}{}", shared.local.consequence(role));
        } else {
            shared.local.tally.failed();
            let sentence = format!("no link to {}: {error}", peer.address);
            if said.is_news(&sentence, Instant::now()) {
                warn!(peer = peer.name, "{sentence}");
            }
        }
        tokio::select! {
            () = sleep(backoff.pause()) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// One life of the link, or none.
async fn attempt(
    shared: &Shared,
    role: Role,
    peer: &Peer,
    name: &ServerName<'static>,
    stop: &mut watch::Receiver<bool>,
) -> (bool, LinkError) {
    let connected = tokio::select! {
        connected = connect(shared, role, peer, name) => connected,
        _ = stop.wait_for(|stop| *stop) => Err(LinkError::Stopping),
    };
    match connected {
        Ok(greeted) => greeted.live(&shared.local, shared.trust.subscribe(), stop.clone()).await,
        Err(error) => (false, error),
    }
}

async fn connect(
    shared: &Shared,
    role: Role,
    peer: &Peer,
    name: &ServerName<'static>,
) -> Result<life::Greeted, LinkError> {
    // A distributor has to know soon whether a node is gone.
    let patience = GREETING.min(shared.local.heartbeat_timeout.get());
    let socket = timeout(patience, Socket::connect(&peer.address)).await.map_err(|_| LinkError::Slow)?;
    let socket = socket.map_err(StreamError::Socket)?;
    let tls = shared.trust.borrow().connect(name).map_err(StreamError::Tls)?;
    let greeted = life::greet(&shared.local, Stream::new(socket, tls)).await?;
    let said = &greeted.peer().node;
    if *said != peer.name {
        let error = LinkError::Name { said: said.clone(), expected: peer.name.clone() };
        return Err(greeted.refuse(error).await);
    }
    if greeted.peer().role != role {
        let error = LinkError::Role { said: greeted.peer().role, expected: role };
        return Err(greeted.refuse(error).await);
    }
    Ok(greeted)
}
