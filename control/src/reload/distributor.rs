//! What of a distributor's configuration may change while it hands packets on: models of services, nodes and their shares, other
//! distributors, what links rest on, the log.
//!
//! In: that the file is to be read again, or certificates looked at. Out: another configuration in effect. Control thread; what
//! reads files runs on a thread of its own and changes nothing.

use std::cell::{Ref, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use keyferry_tls::CertificateFacts;
use keyferry_worker::distribute::News;
use tokio::sync::{Mutex, Notify};

use super::trust::Ends;
use super::watch::{Files, Wanted, Watch};
use super::{Counts, Outcome, trust};
use crate::config::{self, Changes, Distributor, Kind};
use crate::counters::Registry;
use crate::links::{Nodes, Others, Running, Trust};
use crate::log;
use crate::membership::{Membership, linked};

/// How long before its end the certificate of its links is warned of.
pub(crate) const EXPIRY_WARNING: Duration = Duration::from_secs(21 * 24 * 3600);

/// What a distributor goes by.
pub(crate) struct Reload {
    /// The cores this process may use; the control thread has given up all but one.
    cores: BTreeSet<usize>,
    nodes: Rc<Nodes>,
    membership: Rc<Membership>,
    counts: Counts,
    config: RefCell<Distributor>,
    links: RefCell<Option<Rc<Running>>>,
    /// One change at a time.
    turn: Mutex<()>,
    /// Files to watch may be others, or have changed.
    news: Arc<Notify>,
    /// Other certificates are shown.
    shown: Notify,
}

/// What a reload comes to, if nothing is wrong.
struct Prepared {
    next: Distributor,
    changes: Changes,
    trust: Option<Trust>,
    warnings: Vec<String>,
}

impl Reload {
    /// Of a distributor that goes by `config`.
    pub(crate) fn new(
        config: &Distributor,
        cores: BTreeSet<usize>,
        (nodes, membership): (&Rc<Nodes>, &Rc<Membership>),
        registry: &Registry,
    ) -> Reload {
        Reload {
            cores,
            nodes: Rc::clone(nodes),
            membership: Rc::clone(membership),
            counts: Counts::new(registry),
            config: RefCell::new(config.clone()),
            links: RefCell::default(),
            turn: Mutex::default(),
            news: Arc::default(),
            shown: Notify::new(),
        }
    }

    /// From here on these links hear of changes.
    pub(crate) fn set_links(&self, links: Option<Rc<Running>>) {
        self.links.replace(links);
    }

    /// What is in effect.
    pub(crate) fn config(&self) -> Ref<'_, Distributor> {
        self.config.borrow()
    }

    /// The certificate it shows on links.
    pub(crate) fn certificates(&self) -> Vec<CertificateFacts> {
        self.trust().as_ref().and_then(Trust::facts).cloned().into_iter().collect()
    }

    fn trust(&self) -> Option<Trust> {
        self.links.borrow().as_ref().map(|links| links.trust())
    }

    /// Told when [`certificates`](Reload::certificates) are others.
    pub(crate) fn shown(&self) -> &Notify {
        &self.shown
    }

    /// Reads the file, and all it names, and takes over what can be.
    pub(crate) async fn reload(&self) -> Outcome {
        let _turn = self.turn.lock().await;
        let (now, trust, cores) = (self.config().clone(), self.trust(), self.cores.clone());
        let prepare = move || prepare(&now, trust.as_ref(), &cores);
        let outcome = match tokio::task::spawn_blocking(prepare).await {
            Err(_) => Outcome::refused("nothing was applied: the file could not be read, try again"),
            Ok(Err(refused)) => refused,
            // Whoever is added here has a place from then on: nobody else comes but by etcd, and then the file's stay.
            Ok(Ok(prepared)) => match self.membership.check(&prepared.next).await {
                Err(unfit) => Outcome::refused(unfit.to_string()),
                Ok(()) => self.apply(prepared).await,
            },
        };
        self.counts.reloaded(&outcome);
        outcome
    }

    /// Nothing in here can fail.
    async fn apply(&self, prepared: Prepared) -> Outcome {
        let Prepared { next, changes: Changes { applied, needs_restart }, trust, warnings } = prepared;
        if !applied.is_empty() {
            let before = self.config.replace(next);
            log::set(self.config().admin.log);
            self.tell_links(trust);
            self.tell_worker(&before).await;
            self.news.notify_one();
        }
        Outcome::Taken { applied, needs_restart, warnings }
    }

    fn tell_links(&self, trust: Option<Trust>) {
        let config = self.config();
        let links = self.links.borrow();
        let (Some(links), Some(cluster)) = (&*links, &config.cluster) else { return };
        if let Some(trust) = trust {
            links.set_trust(trust);
            self.shown.notify_one();
        }
        links.set_heartbeat_timeout(cluster.heartbeat_timeout);
    }

    async fn tell_worker(&self, before: &Distributor) {
        let now = self.config().clone();
        for (service, (now, before)) in now.services.iter().zip(&before.services).enumerate() {
            if now.model != before.model {
                self.nodes.tell(News::Model { service, model: now.model }).await;
            }
        }
        let links = self.links.borrow().clone();
        self.membership.take(&now, links.as_deref()).await;
    }

    /// Takes certificates of links over when their files change, for ever.
    pub(crate) async fn follow_files(&self) {
        let (mut watch, mut files) = (Watch::new(&self.news), Files::default());
        loop {
            let wanted = self.watched();
            // Before it is looked, so that what changes meanwhile is news.
            watch.set(&wanted.folders());
            if !wanted.is_empty() {
                files = self.look(files, wanted).await;
            }
            watch.changed().await;
        }
    }

    fn watched(&self) -> Wanted {
        let config = self.config();
        let links = config.cluster.as_ref().map(|cluster| (cluster.clone(), config.name.clone()));
        Wanted { pairs: Vec::new(), links }
    }

    /// Looks at files; returns what it has seen.
    async fn look(&self, files: Files, wanted: Wanted) -> Files {
        let _turn = self.turn.lock().await;
        let Some((files, found)) = files.looked(wanted, None, self.trust()).await else {
            return Files::default();
        };
        self.counts.found(&found);
        if let (Some(trust), Some(links)) = (found.trust, &*self.links.borrow()) {
            links.set_trust(trust);
            self.shown.notify_one();
        }
        files
    }
}

/// Whom it has links with, where the file says so.
pub(crate) fn others(config: &Distributor) -> Others {
    Others::of_distributor(&config.name, linked(config), &config.peers)
}

/// Reads everything, and makes what can fail. Changes nothing.
fn prepare(now: &Distributor, trust: Option<&Trust>, cores: &BTreeSet<usize>) -> Result<Prepared, Outcome> {
    let new = match config::examine(&now.file, cores, &[]).0 {
        Ok(Kind::Distributor(new)) => new,
        Ok(Kind::Node(_)) => {
            return Err(Outcome::refused("nothing was applied: the file is a node's now; correct it"));
        }
        Err(problems) => return Err(Outcome::wrong(&problems)),
    };
    let (next, mut changes) = now.taking_over(&new);
    let mut warnings = Vec::new();
    let ends = Ends { now: (&next.name, next.cluster.as_ref()), new: (&new.name, new.cluster.as_ref()) };
    let trust = trust::renew(&ends, trust, &mut changes, &mut warnings)?;
    Ok(Prepared { next, changes, trust, warnings })
}
