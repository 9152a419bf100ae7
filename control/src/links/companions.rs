//! The other distributors, as one of them sees them. In: who there should be, lives of links with them, and where each is on the
//! network of its port. Out: news for the distributor's worker, which from there on speaks to theirs itself, and how it stands
//! with each for an operator. Control thread.
//!
//! Each life of a link gives the two workers secrets of its own, and ends their talk with it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use keyferry_distribute::{Ends, PEERS_MAX, PeerId, Secrets};
use keyferry_lease::PairSecret;
use keyferry_link::Cidr;
use keyferry_worker::distribute::News;
use keyferry_worker::told::Told;
use serde::Serialize;
use tracing::warn;

use super::message::{Hello, STATION_ADDRESSES_MAX};
use super::nodes::tell;

/// How it stands with another distributor, for an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CompanionReport {
    /// Its name.
    pub distributor: String,
    /// `down` without a link; `apart` if the two cannot speak for want of a network they share; `copying` until it has told
    /// all connections it knew; then `up`.
    pub state: &'static str,
    /// Since when there is a link, or none, in ms ago; none if there never was one.
    pub since_ms: Option<u64>,
    /// Where the workers reach it.
    pub address: Option<IpAddr>,
    /// Connections it has told of, out of those it knew.
    pub flows_copied: u64,
}

/// What is known of another one.
#[derive(Default)]
struct Seen {
    /// The file names it, or etcd.
    is_listed: bool,
    /// Lives of its link: one that is replaced overlaps with the next.
    lives: usize,
    changed: Option<Instant>,
    /// Its number, and where it is, by the latest of them.
    met: Option<(PeerId, IpAddr)>,
    /// There is no network that both are on, or no number.
    is_apart: bool,
}

/// What a distributor's links with others share.
pub struct Companions {
    others: RefCell<BTreeMap<String, Seen>>,
    told: Arc<Told>,
    news: Arc<ArrayQueue<News>>,
    /// The port's own addresses, with their networks.
    addresses: Vec<Cidr>,
    /// Numbers in use, a bit each.
    used: Cell<u16>,
}

impl Companions {
    /// None of them is known. `addresses` are those of the port that are no services'; `told`: where the worker says how far
    /// each has told what it knew.
    pub fn new(addresses: Vec<Cidr>, news: Arc<ArrayQueue<News>>, told: Arc<Told>) -> Companions {
        Companions { others: RefCell::default(), told, news, addresses, used: Cell::new(0) }
    }

    /// Who there should be; others are forgotten when their links have ended.
    pub fn list<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        let others = &mut *self.others.borrow_mut();
        others.values_mut().for_each(|seen| seen.is_listed = false);
        for name in names {
            others.entry(name.to_owned()).or_default().is_listed = true;
        }
        others.retain(|_, seen| seen.is_listed || seen.lives > 0);
    }

    /// How it stands with each.
    pub fn report(&self) -> Vec<CompanionReport> {
        let report = |(name, seen): (&String, &Seen)| {
            let (flows_copied, is_all) = seen.met.map_or((0, false), |(peer, _)| self.told.by(peer));
            CompanionReport {
                distributor: name.clone(),
                state: match () {
                    () if seen.lives == 0 => "down",
                    () if seen.is_apart => "apart",
                    () if is_all => "up",
                    () => "copying",
                },
                since_ms: seen.changed.map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX)),
                address: seen.met.map(|(_, address)| address),
                flows_copied,
            }
        };
        self.others.borrow().iter().map(report).collect()
    }

    fn note(&self, name: &str, what: impl FnOnce(&mut Seen)) {
        what(self.others.borrow_mut().entry(name.to_owned()).or_default());
    }

    /// A link has come to life.
    fn begin(&self, name: &str) {
        let changed = Some(Instant::now());
        self.note(name, |seen| {
            *seen = Seen { lives: seen.lives + 1, changed, met: None, is_apart: false, ..*seen };
        });
    }

    /// A life has ended, in which it had this number.
    fn end(&self, name: &str, number: Option<PeerId>) {
        self.note(name, |seen| {
            seen.lives -= 1;
            if seen.met.map(|(peer, _)| peer) == number {
                seen.met = None;
            }
            if seen.lives == 0 {
                seen.changed = Some(Instant::now());
            }
        });
        self.others.borrow_mut().retain(|_, seen| seen.is_listed || seen.lives > 0);
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
        companions.begin(&name);
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
            self.companions.note(&self.name, |seen| seen.is_apart = true);
            warn!(
                peer = self.name,
                "this distributor shares no network with it, so neither can go on with the other's connections: \
                 give both [nic] addresses on one network"
            );
            return true;
        };
        let Some(peer) = self.companions.number() else {
            self.companions.note(&self.name, |seen| seen.is_apart = true);
            warn!(
                peer = self.name,
                "there are more than {PEERS_MAX} other distributors: this one is left out"
            );
            return true;
        };
        self.met = Some(peer);
        self.companions.note(&self.name, |seen| seen.met = Some((peer, ends.peer)));
        tell(&self.companions.news, News::Met { peer, ends, secrets }).await;
        true
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.companions.end(&self.name, self.met);
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
            let companions = Rc::new(Companions::new(addresses, Arc::clone(&news), Arc::default()));
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

    #[test]
    fn an_operator_is_told_how_it_stands_with_each() {
        within(async || {
            let news = Arc::new(ArrayQueue::new(4));
            let addresses = vec!["10.0.0.1/24".parse().unwrap()];
            let companions = Rc::new(Companions::new(addresses, Arc::clone(&news), Arc::default()));
            let begin =
                |name| Companion::new(&companions, &PairSecret::new([1; 32]), &hello("d1"), &hello(name));
            let states = || {
                let rows = companions.report().into_iter();
                rows.map(|row| (row.distributor, row.state, row.address.map(|it| it.to_string())))
                    .collect::<Vec<_>>()
            };
            let row = |name: &str, state, address: Option<&str>| {
                (name.to_owned(), state, address.map(str::to_owned))
            };
            companions.list(["d2", "d3"]);
            assert_eq!(states(), [row("d2", "down", None), row("d3", "down", None)]);
            assert_eq!(companions.report()[0].since_ms, None);
            let (mut life, mut stranger) = (begin("d2"), begin("d4"));
            life.heard(&["10.0.0.2".parse().unwrap()]).await;
            stranger.heard(&["192.0.2.1".parse().unwrap()]).await;
            let there = row("d2", "copying", Some("10.0.0.2"));
            let all = [there.clone(), row("d3", "down", None), row("d4", "apart", None)];
            assert_eq!(states(), all);
            // The next life may begin before the end of the one before is known.
            let mut next = begin("d2");
            next.heard(&["10.0.0.2".parse().unwrap()]).await;
            drop((life, stranger));
            assert_eq!(states(), [there, row("d3", "down", None)], "who is not listed is forgotten");
            companions.list([]);
            assert_eq!(states().len(), 1);
            drop(next);
            assert_eq!(states(), []);
        });
    }
}
