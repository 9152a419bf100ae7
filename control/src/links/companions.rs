//! The other distributors, as one of them sees them. In: lives of links with them, and where each is on the network of its
//! port. Out: news for the distributor's worker, which from there on speaks to theirs itself. Control thread.
//!
//! Each life of a link gives the two workers secrets of its own, and ends their talk with it.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{Ends, PEERS_MAX, PeerId, Secrets};
use keyferry_lease::PairSecret;
use keyferry_link::Cidr;
use keyferry_worker::distribute::News;
use tracing::warn;

use super::message::{Hello, STATION_ADDRESSES_MAX};
use super::nodes::tell;

/// What a distributor's links with others share.
pub struct Companions {
    news: Arc<ArrayQueue<News>>,
    /// The port's own addresses, with their networks.
    addresses: Vec<Cidr>,
    /// Numbers in use, a bit each.
    used: Cell<u16>,
}

impl Companions {
    /// None of them is known. `addresses` are those of the port that are no services'.
    pub fn new(addresses: Vec<Cidr>, news: Arc<ArrayQueue<News>>) -> Companions {
        Companions { news, addresses, used: Cell::new(0) }
    }

    /// Where this one is, for the others.
    pub(super) fn station(&self) -> Vec<IpAddr> {
        self.addresses.iter().map(|cidr| cidr.address()).take(STATION_ADDRESSES_MAX).collect()
    }

    /// Addresses of a network that both are on.
    fn ends(&self, theirs: &[IpAddr]) -> Option<Ends> {
        theirs.iter().find_map(|peer| {
            let own = self.addresses.iter().find(|cidr| cidr.contains(*peer))?;
            Some(Ends { own: own.address(), peer: *peer })
        })
    }

    fn number(&self) -> Option<PeerId> {
        let id = (0..PEERS_MAX as u8).find(|id| self.used.get() & 1 << id == 0)?;
        self.used.set(self.used.get() | 1 << id);
        Some(PeerId(id))
    }
}

/// One life of a link with one of them.
pub(super) struct Companion {
    companions: Rc<Companions>,
    name: String,
    secrets: Option<Secrets>,
    has_told: bool,
    met: Option<PeerId>,
}

impl Companion {
    /// A link has come to life; `secret` is its own.
    pub(super) fn new(
        companions: &Rc<Companions>,
        secret: &PairSecret,
        ours: &Hello,
        theirs: &Hello,
    ) -> Companion {
        let is_first = ours.node < theirs.node;
        let (first, second) = if is_first { (ours, theirs) } else { (theirs, ours) };
        let secrets = Secrets::new(secret, &[first.random, second.random].concat(), is_first);
        let (companions, name) = (Rc::clone(companions), theirs.node.clone());
        Companion { companions, name, secrets: Some(secrets), has_told: false, met: None }
    }

    /// Where this distributor is, once.
    pub(super) fn station(&mut self) -> Option<Vec<IpAddr>> {
        (!std::mem::replace(&mut self.has_told, true)).then(|| self.companions.station())
    }

    /// The other says where it is; answers whether it was its turn to.
    pub(super) async fn heard(&mut self, addresses: &[IpAddr]) -> bool {
        let Some(secrets) = self.secrets.take() else { return false };
        let Some(ends) = self.companions.ends(addresses) else {
            warn!(
                peer = self.name,
                "this distributor shares no network with it, so neither can go on with the other's connections: \
                 give both [nic] addresses on one network"
            );
            return true;
        };
        let Some(peer) = self.companions.number() else {
            warn!(
                peer = self.name,
                "there are more than {PEERS_MAX} other distributors: this one is left out"
            );
            return true;
        };
        self.met = Some(peer);
        tell(&self.companions.news, News::Met { peer, ends, secrets }).await;
        true
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        let Some(peer) = self.met else { return };
        let companions = Rc::clone(&self.companions);
        let part = async move {
            tell(&companions.news, News::Parted(peer)).await;
            // Not before: who comes next under this number must not be parted from.
            companions.used.set(companions.used.get() & !(1 << peer.0));
        };
        tokio::task::spawn_local(part);
    }
}

#[cfg(test)]
mod tests {
    use keyferry_fabric::Limits;

    use super::super::message::Role;
    use super::*;
    use crate::config::Driver;

    fn hello(name: &str) -> Hello {
        let limits =
            Limits { message_bytes_max: 0, receives: 0, posted_max: 0, slots_bytes: 0, staging_bytes: 0 };
        let (role, node, random) = (Role::Distributor, name.to_owned(), [name.as_bytes()[0]; 32]);
        Hello { role, node, incarnation: 1, random, workers: 0, driver: Driver::Shm, limits }
    }

    fn within(test: impl AsyncFnOnce()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test());
    }

    #[test]
    fn the_worker_is_told_of_each_life_and_its_end() {
        within(async || {
            let news = Arc::new(ArrayQueue::new(4));
            let addresses = ["10.0.0.1/24", "fd00::1/64"].map(|cidr| cidr.parse().unwrap()).to_vec();
            let companions = Rc::new(Companions::new(addresses, Arc::clone(&news)));
            let begin = || Companion::new(&companions, &PairSecret::new([1; 32]), &hello("d1"), &hello("d2"));
            let mut life = begin();
            assert_eq!(life.station().unwrap().len(), 2);
            assert_eq!(life.station(), None);
            assert!(life.heard(&["192.0.2.1".parse().unwrap(), "fd00::9".parse().unwrap()]).await);
            assert!(!life.heard(&[]).await, "it was said");
            let Some(News::Met { peer, ends, .. }) = news.pop() else { panic!("it has met another") };
            assert_eq!((ends.own.to_string(), ends.peer.to_string()), ("fd00::1".into(), "fd00::9".into()));
            // The next life may begin before the worker has heard of the end of the one before.
            drop(life);
            let mut next = begin();
            next.heard(&["10.0.0.2".parse().unwrap()]).await;
            tokio::task::yield_now().await;
            let Some(News::Met { peer: other, .. }) = news.pop() else { panic!("it has met it again") };
            assert_ne!(peer, other);
            assert!(matches!(news.pop(), Some(News::Parted(parted)) if parted == peer));
            assert!(news.is_empty());
            let mut stranger = begin();
            assert!(stranger.heard(&["192.0.2.1".parse().unwrap()]).await);
            drop(stranger);
            tokio::task::yield_now().await;
            assert!(news.is_empty(), "where there is no network there is no talk");
        });
    }
}
