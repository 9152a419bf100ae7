//! What a node tells distributors: whose sessions it has, and how it fares. In: sessions from the workers, the node's
//! counters. Out: messages for each distributor's link. Control thread.
//!
//! Sessions go into a log of fixed size. Each link has its place in it, and one that comes to life begins with the
//! oldest: so a distributor that has restarted learns again what it has forgotten.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keyferry_worker::announce::Announced;
use tokio::sync::watch;

use super::message::{Message, NodeState, SESSIONS_MAX, Session};
use crate::counters::Registry;
use crate::drain::Phase;

/// Sessions remembered for distributors that come later.
const LOG_MAX: usize = 1 << 16;
/// Messages of sessions at one look of a link, at most: well below what an end takes at once.
const MESSAGES_A_LOOK: usize = 64;
/// How often a distributor is told how the node fares, at most.
const STATE_EVERY: Duration = Duration::from_millis(100);

/// What a node's links to distributors share.
pub struct Announcer {
    /// From each worker.
    workers: Vec<Arc<ArrayQueue<Announced>>>,
    registry: Arc<Registry>,
    phase: watch::Receiver<Phase>,
    log: RefCell<Log>,
    state: Cell<(Option<Instant>, NodeState)>,
}

#[derive(Default)]
struct Log {
    entries: VecDeque<Entry>,
    /// How many came before the first of them.
    gone: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    client: IpAddr,
    until: Instant,
}

impl Announcer {
    /// Nothing announced yet.
    pub fn new(
        workers: Vec<Arc<ArrayQueue<Announced>>>,
        registry: Arc<Registry>,
        phase: watch::Receiver<Phase>,
    ) -> Announcer {
        Announcer { workers, registry, phase, log: RefCell::default(), state: Cell::default() }
    }

    /// A client has a session here, besides those that workers announce.
    #[cfg(test)]
    pub(super) fn tell(&self, announced: Announced) {
        self.workers[0].push(announced).expect("there is room");
    }

    /// Moves what workers have announced into the log.
    fn gather(&self, now: Instant) {
        let mut log = self.log.borrow_mut();
        for announced in self.workers.iter().flat_map(|worker| std::iter::from_fn(|| worker.pop())) {
            if log.entries.len() == LOG_MAX {
                log.entries.pop_front();
                log.gone += 1;
            }
            log.entries.push_back(Entry { client: announced.client, until: now + announced.lifetime });
        }
    }

    /// How the node fares now.
    fn state(&self, now: Instant) -> NodeState {
        let (read, mut state) = self.state.get();
        if read.is_none_or(|read| now.duration_since(read) >= STATE_EVERY) {
            let total = self.registry.snapshot().total;
            let count = |name| u32::try_from(total.get(name).copied().unwrap_or(0)).unwrap_or(u32::MAX);
            (state.connections, state.requests) = (count("flows"), count("requests_in_app"));
            self.state.set((Some(now), state));
        }
        NodeState { draining: *self.phase.borrow() != Phase::Serving, ..state }
    }
}

/// What one distributor has been told.
#[derive(Default)]
pub(super) struct Told {
    /// Entries of the log, from its very first on.
    sessions: u64,
    state: Option<NodeState>,
}

impl Told {
    /// What it has not been told yet.
    pub(super) fn news(&mut self, announcer: &Announcer, now: Instant) -> Vec<Message> {
        announcer.gather(now);
        let state = announcer.state(now);
        let mut messages = Vec::new();
        if self.state.replace(state) != Some(state) {
            messages.push(Message::State(state));
        }
        let log = announcer.log.borrow();
        self.sessions = self.sessions.max(log.gone);
        let next = usize::try_from(self.sessions - log.gone).unwrap_or(usize::MAX).min(log.entries.len());
        let entries: Vec<_> =
            log.entries.range(next..).take(MESSAGES_A_LOOK * SESSIONS_MAX).copied().collect();
        self.sessions += entries.len() as u64;
        for part in entries.chunks(SESSIONS_MAX) {
            let session = |entry: &Entry| Session {
                client: entry.client,
                lifetime_s: u32::try_from(entry.until.duration_since(now).as_secs()).unwrap_or(u32::MAX),
            };
            let sessions: Vec<_> =
                part.iter().map(session).filter(|session| session.lifetime_s > 0).collect();
            if !sessions.is_empty() {
                messages.push(Message::Sessions(sessions));
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn announcer() -> (Announcer, watch::Sender<Phase>) {
        let (phase, watched) = watch::channel(Phase::Serving);
        let workers = vec![Arc::new(ArrayQueue::new(200_000))];
        (Announcer::new(workers, Arc::new(Registry::new()), watched), phase)
    }

    fn announce(announcer: &Announcer, clients: std::ops::Range<u32>, lifetime_s: u64) {
        for client in clients {
            let client = IpAddr::V4(Ipv4Addr::from_bits(client));
            let lifetime = Duration::from_secs(lifetime_s);
            announcer.tell(Announced { client, lifetime });
        }
    }

    fn sessions(messages: &[Message]) -> Vec<Session> {
        let of = |message: &Message| match message {
            Message::Sessions(sessions) => sessions.clone(),
            _ => Vec::new(),
        };
        messages.iter().flat_map(of).collect()
    }

    #[test]
    fn each_distributor_hears_all_once_whenever_it_comes() {
        let ((announcer, _phase), now) = (announcer(), Instant::now());
        let (mut early, mut late) = (Told::default(), Told::default());
        assert_eq!(early.news(&announcer, now), [Message::State(NodeState::default())]);
        announce(&announcer, 0..100, 60);
        assert_eq!(sessions(&early.news(&announcer, now)).len(), 100);
        announce(&announcer, 100..101, 60);
        assert_eq!(sessions(&early.news(&announcer, now)).len(), 1);
        assert!(early.news(&announcer, now).is_empty());
        let heard = sessions(&late.news(&announcer, now + Duration::from_secs(50)));
        assert_eq!((heard.len(), heard[0].lifetime_s), (101, 10));
        assert!(sessions(&Told::default().news(&announcer, now + Duration::from_secs(61))).is_empty());
    }

    #[test]
    fn the_log_is_bounded_and_told_in_parts() {
        let ((announcer, _phase), now) = (announcer(), Instant::now());
        announce(&announcer, 0..LOG_MAX as u32 + 5, 60);
        let (mut told, mut heard) = (Told::default(), Vec::new());
        loop {
            let news = told.news(&announcer, now);
            if news.is_empty() {
                break;
            }
            assert!(news.len() <= MESSAGES_A_LOOK + 1);
            heard.extend(sessions(&news));
        }
        assert_eq!((heard.len(), heard[0].client), (LOG_MAX, IpAddr::V4(Ipv4Addr::from_bits(5))));
    }

    #[test]
    fn a_drain_is_told_at_once() {
        let ((announcer, phase), now) = (announcer(), Instant::now());
        let mut told = Told::default();
        told.news(&announcer, now);
        phase.send(Phase::Draining).unwrap();
        let state = NodeState { draining: true, ..NodeState::default() };
        assert_eq!(told.news(&announcer, now), [Message::State(state)]);
    }
}
