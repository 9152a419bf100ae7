//! The end of a process in order: it takes nothing new, lets what is under way finish, and ends when nothing is left or its
//! time is over.
//!
//! In: an operator's word or a signal, and what the workers count. Out: letters to the workers, and the one place that
//! says how far it is ([`Drain::phase`]), for whoever tells others. Control thread.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keyferry_worker::mailbox::{self, Mail};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::counters::Registry;
use crate::service;

/// Longest time a drain may have: an hour.
pub const DRAIN_MAX: Duration = Duration::from_secs(3600);

/// Between looks at the workers' counters, which are published every few milliseconds.
const LOOK: Duration = Duration::from_millis(10);

/// Behind the deadline, for workers to reset what is left and to say so.
const GRACE: Duration = Duration::from_millis(200);

/// How far the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// New work is taken.
    Serving,
    /// Nothing new is taken.
    Draining,
    /// Nothing is left, or the time is over: the process ends.
    Drained,
}

/// How far a drain is, for operators.
#[derive(Clone, Debug, Serialize)]
pub struct Progress {
    /// How far the end is.
    pub phase: Phase,
    /// Until what is left is reset.
    pub deadline_ms: Option<u64>,
    /// Connections there are.
    pub connections: u64,
    /// Requests with the application.
    pub requests: u64,
    /// Leases under way, both ways.
    pub leases: u64,
    /// Connections closed in order because of the drain, so far.
    pub closed: u64,
    /// Connections reset because the time was over.
    pub reset: u64,
}

/// The end of one process.
pub struct Drain {
    phase: watch::Sender<Phase>,
    deadline: Cell<Option<Instant>>,
    /// Between the word and the workers': until then whoever is told of the end may still send new clients.
    notice: Duration,
    tell_at: Cell<Option<Instant>>,
    mailboxes: Vec<Arc<ArrayQueue<Mail>>>,
    /// Workers whose mailbox had no room.
    untold: RefCell<Vec<usize>>,
    registry: Arc<Registry>,
}

impl Drain {
    /// Of a process with these workers, which serves; those who send it clients have to know `notice` before.
    pub fn new(mailboxes: Vec<Arc<ArrayQueue<Mail>>>, registry: Arc<Registry>, notice: Duration) -> Drain {
        let (phase, _) = watch::channel(Phase::Serving);
        Drain {
            phase,
            deadline: Cell::default(),
            notice,
            tell_at: Cell::default(),
            mailboxes,
            untold: RefCell::default(),
            registry,
        }
    }

    /// How far it is, and every change of that.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Takes nothing new from now on, and ends within this time. Said again, it can only end sooner.
    pub fn begin(&self, within: Duration) {
        let new = Instant::now() + within.min(DRAIN_MAX);
        if self.deadline.get().is_some_and(|deadline| deadline <= new) {
            return;
        }
        self.deadline.set(Some(new));
        if self.tell_at.get().is_none() {
            self.tell_at.set(Some(Instant::now() + self.notice));
        }
        self.untold.replace((0..self.mailboxes.len()).collect());
        self.tell();
        if self.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Draining) == Phase::Serving) {
            service::stopping();
        }
    }

    /// Tells the workers that have not been told, when it is time.
    fn tell(&self) {
        if self.tell_at.get().is_none_or(|at| Instant::now() < at) {
            return;
        }
        let deadline = self.left();
        // Most clients use an idle connection again soon; a reply that ends it costs nothing, a close may meet a request.
        let letter = mailbox::Drain { idle: deadline / 2, deadline };
        self.untold.borrow_mut().retain(|worker| self.mailboxes[*worker].push(Mail::Drain(letter)).is_err());
    }

    fn left(&self) -> Duration {
        let left = |deadline: Instant| deadline.saturating_duration_since(Instant::now());
        self.deadline.get().map_or(Duration::ZERO, left)
    }

    /// Waits for the end of a drain, and for its begin before.
    pub async fn drained(&self) {
        let mut phase = self.phase();
        // The sender lives as long as this does.
        let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
        while !self.is_drained() && self.left_with_grace() > Duration::ZERO {
            sleep(LOOK).await;
            self.tell();
        }
        self.phase.send_replace(Phase::Drained);
    }

    fn left_with_grace(&self) -> Duration {
        let end = self.deadline.get().map(|deadline| deadline + GRACE);
        end.map_or(Duration::ZERO, |end| end.saturating_duration_since(Instant::now()))
    }

    /// Whether every worker says that nothing is left.
    fn is_drained(&self) -> bool {
        self.registry.total("drained") >= self.mailboxes.len() as u64
    }

    /// How far it is, in numbers.
    pub fn progress(&self) -> Progress {
        let total = |name| self.registry.total(name);
        let phase = *self.phase.borrow();
        Progress {
            phase,
            deadline_ms: (phase == Phase::Draining).then(|| self.left().as_millis() as u64),
            connections: total("flows"),
            requests: total("requests_in_app"),
            leases: total("leases_open") + total("leases_serving"),
            closed: total("closed_draining"),
            reset: total("closed_deadline"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[&str] = &["drained", "flows", "closed_deadline"];

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    fn mailboxes(count: usize) -> Vec<Arc<ArrayQueue<Mail>>> {
        (0..count).map(|_| Arc::new(ArrayQueue::new(1))).collect()
    }

    fn letter(mailbox: &ArrayQueue<Mail>) -> Option<mailbox::Drain> {
        match mailbox.pop() {
            Some(Mail::Drain(letter)) => Some(letter),
            _ => None,
        }
    }

    #[test]
    fn ends_when_every_worker_is_done_and_not_before() {
        run(async {
            let registry = Arc::new(Registry::new());
            let blocks = [0, 1].map(|worker| registry.block(NAMES, format!("worker {worker}")));
            let mailboxes = mailboxes(2);
            let drain = Drain::new(mailboxes.clone(), registry, Duration::ZERO);
            assert_eq!(*drain.phase().borrow(), Phase::Serving);
            // One mailbox is full: its worker is told later.
            assert!(mailboxes[1].push(Mail::Drain(mailbox::Drain { idle: LOOK, deadline: LOOK })).is_ok());
            drain.begin(Duration::from_secs(60));
            let told = letter(&mailboxes[0]).unwrap();
            assert!(told.deadline > Duration::from_secs(50) && told.idle == told.deadline / 2);
            blocks[0].publish(&[1, 0, 0]);
            blocks[1].publish(&[0, 3, 0]);
            assert!(tokio::time::timeout(3 * LOOK, drain.drained()).await.is_err(), "one worker is not done");
            assert_eq!(drain.progress().connections, 3);
            assert_eq!(letter(&mailboxes[1]).unwrap().deadline, LOOK);
            blocks[1].publish(&[1, 0, 0]);
            assert!(tokio::time::timeout(3 * LOOK, drain.drained()).await.is_ok());
            assert_eq!(*drain.phase().borrow(), Phase::Drained);
        });
    }

    #[test]
    fn whoever_sends_clients_knows_before_the_workers() {
        run(async {
            let mailboxes = mailboxes(1);
            let drain = Drain::new(mailboxes.clone(), Arc::default(), 5 * LOOK);
            drain.begin(Duration::from_secs(60));
            assert_eq!(*drain.phase().borrow(), Phase::Draining);
            assert!(letter(&mailboxes[0]).is_none());
            assert!(tokio::time::timeout(9 * LOOK, drain.drained()).await.is_err());
            assert!(letter(&mailboxes[0]).is_some());
        });
    }

    #[test]
    fn a_second_word_can_only_end_it_sooner_and_time_ends_it_anyway() {
        run(async {
            let mailboxes = mailboxes(1);
            let drain = Drain::new(mailboxes.clone(), Arc::default(), Duration::ZERO);
            drain.begin(Duration::from_secs(60));
            assert!(letter(&mailboxes[0]).is_some());
            drain.begin(Duration::from_secs(120));
            assert!(letter(&mailboxes[0]).is_none(), "later is no news");
            drain.begin(Duration::from_millis(20));
            assert!(letter(&mailboxes[0]).unwrap().deadline <= Duration::from_millis(20));
            let from = Instant::now();
            drain.drained().await;
            assert!(from.elapsed() >= GRACE && from.elapsed() < Duration::from_secs(30));
        });
    }
}
