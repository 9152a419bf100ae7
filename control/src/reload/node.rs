//! What of a node's configuration may change while it serves, and who has to hear of it: applications, workers, links, the log.
//!
//! In: that the file is to be read again, or certificates looked at. Out: another configuration in effect. Control thread; what
//! reads files runs on a thread of its own and changes nothing.

use std::cell::{Ref, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use keyferry_app::Change as AppChange;
use keyferry_app::static_files::Static;
use keyferry_tcp::Times;
use keyferry_tls::key_log::KeyLog;
use keyferry_tls::{CertificateFacts, Resumer, Server};
use keyferry_worker::mailbox::Mail;
use keyferry_worker::settings::Settings;
use tokio::sync::{Mutex, Notify};
use tokio::time::sleep;
use tracing::warn;

use super::trust::Ends;
use super::watch::{Files, Wanted, Watch};
use super::{Counts, Outcome, trust};
use crate::applications::{self, live, live::Live};
use crate::config::{self, Change, Changes, Config, Kind};
use crate::counters::Registry;
use crate::links::{Others, Running, Trust};
use crate::request_log::{self, Reopener};
use crate::{log, node};

/// How soon a worker whose mailbox is full is told again, and looked whether threads go by what they were told.
const AGAIN: Duration = Duration::from_millis(5);
/// How long threads are waited for: a turn takes microseconds, a core that is shared lets it begin later.
const TAKEN_MAX: Duration = Duration::from_secs(5);
/// Between looks at replaced certificates, which are erased here: no worker does that in its turn.
const RETIRED_LOOK: Duration = Duration::from_millis(100);

/// What a node goes by.
pub(crate) struct Reload {
    /// The cores this process may use; the control thread has given up all but one.
    cores: BTreeSet<usize>,
    key_log: Option<Arc<KeyLog>>,
    mailboxes: Vec<Arc<ArrayQueue<Mail>>>,
    applications: RefCell<Live>,
    registry: Arc<Registry>,
    counts: Counts,
    config: RefCell<Config>,
    server: RefCell<Server>,
    /// Replaced, and perhaps still in use by handshakes.
    retired: RefCell<Vec<Server>>,
    links: RefCell<Option<Rc<Running>>>,
    request_log: RefCell<Option<Reopener>>,
    /// One change at a time.
    turn: Mutex<()>,
    /// Files to watch may be others, or have changed.
    news: Arc<Notify>,
    /// Other certificates are shown.
    shown: Notify,
}

/// What a reload comes to, if nothing is wrong.
struct Prepared {
    next: Config,
    changes: Changes,
    /// Where they are others.
    server: Option<Server>,
    trust: Option<Trust>,
    files: Option<Static>,
    warnings: Vec<String>,
}

impl Reload {
    /// Of a node that goes by `config`, and serves with `server`.
    pub(crate) fn new(
        config: &Config,
        server: Server,
        key_log: Option<Arc<KeyLog>>,
        cores: BTreeSet<usize>,
        mailboxes: Vec<Arc<ArrayQueue<Mail>>>,
        applications: Live,
        registry: &Arc<Registry>,
    ) -> Reload {
        Reload {
            cores,
            key_log,
            mailboxes,
            applications: RefCell::new(applications),
            registry: Arc::clone(registry),
            counts: Counts::new(registry),
            config: RefCell::new(config.clone()),
            server: RefCell::new(server),
            retired: RefCell::default(),
            links: RefCell::default(),
            request_log: RefCell::default(),
            turn: Mutex::default(),
            news: Arc::default(),
            shown: Notify::new(),
        }
    }

    /// From here on these links hear of changes.
    pub(crate) fn set_links(&self, links: Option<Rc<Running>>) {
        self.links.replace(links);
    }

    /// From here on each reload has these files opened anew.
    pub(crate) fn set_request_log(&self, log: Option<Reopener>) {
        self.request_log.replace(log);
    }

    /// What is in effect.
    pub(crate) fn config(&self) -> Ref<'_, Config> {
        self.config.borrow()
    }

    /// What clients come back by.
    pub(crate) fn resumer(&self) -> Resumer {
        self.server.borrow().resumer()
    }

    /// Every certificate this node shows: to clients, and last the one on links.
    pub(crate) fn certificates(&self) -> Vec<CertificateFacts> {
        let mut all = self.server.borrow().certificates().to_vec();
        all.extend(self.trust().as_ref().and_then(Trust::facts).cloned());
        all
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
        let unopened = self.open_logs_anew().await;
        let (now, server, key_log) =
            (self.config().clone(), self.server.borrow().clone(), self.key_log.clone());
        let (trust, cores) = (self.trust(), self.cores.clone());
        let may_reach_upstreams = self.applications.borrow().may_reach_upstreams();
        let prepare = move || prepare(&now, &server, trust.as_ref(), key_log, &cores, may_reach_upstreams);
        let outcome = match tokio::task::spawn_blocking(prepare).await {
            Err(_) => Outcome::refused("nothing was applied: the file could not be read, try again"),
            Ok(Err(refused)) => refused,
            Ok(Ok(prepared)) => self.apply(prepared).await,
        };
        let outcome = outcome.with_warnings(unopened);
        self.counts.reloaded(&outcome);
        outcome
    }

    /// Whoever has moved the logs of requests asks for a reload; whatever becomes of that.
    async fn open_logs_anew(&self) -> Vec<String> {
        let log = self.request_log.borrow().clone();
        match log {
            Some(log) => log.open_anew().await,
            None => Vec::new(),
        }
    }

    /// Nothing in here can fail.
    async fn apply(&self, prepared: Prepared) -> Outcome {
        let Prepared { next, changes: Changes { applied, needs_restart }, server, trust, files, warnings } =
            prepared;
        if !applied.is_empty() {
            let before = self.config.replace(next);
            log::set(self.config().admin.log);
            self.tell_links(&before, trust);
            let inside = self.tell_applications(&before, files).await;
            self.tell_workers(server, inside).await;
            if self.config().peers != before.peers {
                let members = node::members(&self.config());
                self.send(|| Mail::Members(members.clone().into_boxed_slice())).await;
            }
            self.news.notify_one();
            self.shown.notify_one();
        }
        Outcome::Taken { applied, needs_restart, warnings }
    }

    fn tell_links(&self, before: &Config, trust: Option<Trust>) {
        let config = self.config();
        let links = self.links.borrow();
        let (Some(links), Some(cluster)) = (&*links, &config.cluster) else { return };
        if let Some(trust) = trust {
            links.set_trust(trust);
            self.shown.notify_one();
        }
        links.set_heartbeat_timeout(cluster.heartbeat_timeout);
        let distributors = before.cluster.as_ref().map(|before| &before.distributors);
        // Where etcd lists them the file has none.
        let is_listed = cluster.etcd.is_none();
        if is_listed && (config.peers != before.peers || distributors != Some(&cluster.distributors)) {
            let others = Others::of_node(&config.node.name, &config.peers, &cluster.distributors);
            if let Err(error) = links.set_others(others) {
                // Names are checked where they are read.
                warn!("{error}");
            }
        }
    }

    /// Has applications answer by what is in effect now, if that is anything else. Those inside workers change with the settings that
    /// come next: here is how.
    ///
    /// No request may meet a worker and an application that disagree on whether its body comes as it runs. One that is whole suits
    /// every application; so workers first go by what suits both, then the applications change, then workers hear the rest.
    async fn tell_applications(&self, before: &Config, files: Option<Static>) -> Vec<AppChange> {
        let is_same = {
            let now = self.config();
            (&before.app, &before.routes, &before.upstreams) == (&now.app, &now.routes, &now.upstreams)
        };
        if is_same {
            return Vec::new();
        }
        let changes = self.applications.borrow_mut().changes(&self.config(), files);
        if self.applications.borrow_mut().threads().is_none() {
            return changes;
        }
        let [then, now] = [before, &*self.config()].map(applications::streams);
        if then != now {
            let (of_both, server) = (then.and(&now), self.server.borrow().clone());
            let settings = || Settings { streams: of_both.clone(), ..settings(before, server.clone()) };
            self.settle(settings).await;
        }
        while !self.are_changed() {
            // By a reload before this one.
            sleep(AGAIN).await;
        }
        if let Some(threads) = self.applications.borrow_mut().threads() {
            threads.tell(changes);
        }
        let late =
            "an application thread does not answer by the new routes yet: does an application block it?";
        wait(|| self.are_changed(), late).await;
        Vec::new()
    }

    /// Whether application threads have done all they were told.
    fn are_changed(&self) -> bool {
        self.applications.borrow_mut().threads().is_none_or(|threads| threads.are_taken())
    }

    /// Tells workers what they go by now, with another server if there is one, and what becomes of the applications inside them.
    async fn tell_workers(&self, server: Option<Server>, applications: Vec<AppChange>) {
        if let Some(server) = server {
            let before = self.server.replace(server);
            self.retired.borrow_mut().push(before);
            self.shown.notify_one();
            self.count_retired();
        }
        let mut applications = applications.into_iter();
        let settings = || settings(&self.config(), self.server.borrow().clone());
        self.settle(|| Settings { app: applications.next(), ..settings() }).await;
    }

    /// Gives each worker settings, and waits until all go by them.
    async fn settle(&self, mut settings: impl FnMut() -> Settings) {
        let goal = self.registry.total("settings_taken") + self.mailboxes.len() as u64;
        self.send(|| Mail::Settings(Box::new(settings()))).await;
        let late = "a worker has not taken new settings yet: is its core its own?";
        wait(|| self.registry.total("settings_taken") >= goal, late).await;
    }

    async fn send(&self, mut mail: impl FnMut() -> Mail) {
        for mailbox in &self.mailboxes {
            let mut mail = mail();
            while let Err(back) = mailbox.push(mail) {
                mail = back;
                sleep(AGAIN).await;
            }
        }
    }

    /// Erases replaced keys as soon as no handshake uses them, for ever.
    pub(crate) async fn retire(&self) {
        loop {
            sleep(RETIRED_LOOK).await;
            if !self.retired.borrow().is_empty() {
                self.retired.borrow_mut().retain(|server| !server.is_alone());
                self.count_retired();
            }
        }
    }

    fn count_retired(&self) {
        self.counts.retired(self.retired.borrow().len());
    }

    /// Takes certificates over when their files change, for ever.
    pub(crate) async fn follow_files(&self) {
        let (mut watch, mut files) = (Watch::new(&self.news), Files::default());
        loop {
            let wanted = watched(&self.config());
            // Before it is looked, so that what changes meanwhile is news.
            watch.set(&wanted.folders());
            if !wanted.is_empty() {
                files = self.look(files, wanted).await;
            }
            watch.changed().await;
        }
    }

    /// Looks at files; returns what it has seen.
    async fn look(&self, files: Files, wanted: Wanted) -> Files {
        let _turn = self.turn.lock().await;
        let server = Some(self.server.borrow().clone());
        let Some((files, found)) = files.looked(wanted, server, self.trust()).await else {
            return Files::default();
        };
        self.counts.found(&found);
        if let (Some(trust), Some(links)) = (found.trust, &*self.links.borrow()) {
            links.set_trust(trust);
            self.shown.notify_one();
        }
        if found.server.is_some() {
            self.tell_workers(found.server, Vec::new()).await;
        }
        files
    }
}

/// Waits until it is so, but not for ever: then `late` is said.
async fn wait(is_so: impl Fn() -> bool, late: &str) {
    let from = Instant::now();
    while !is_so() {
        if from.elapsed() > TAKEN_MAX {
            return warn!("{late}");
        }
        sleep(AGAIN).await;
    }
}

/// What is to be watched of a configuration.
fn watched(config: &Config) -> Wanted {
    match config.tls.watch {
        true => Wanted {
            pairs: config.certificates.iter().map(|it| (it.chain.clone(), it.key.clone())).collect(),
            links: config.cluster.as_ref().map(|cluster| (cluster.clone(), config.node.name.clone())),
        },
        false => Wanted::default(),
    }
}

/// Reads everything, and makes what can fail. Changes nothing.
fn prepare(
    now: &Config,
    server: &Server,
    trust: Option<&Trust>,
    key_log: Option<Arc<KeyLog>>,
    cores: &BTreeSet<usize>,
    may_reach_upstreams: bool,
) -> Result<Prepared, Outcome> {
    let new = match config::examine(&now.file, cores, &now.own).0 {
        Ok(Kind::Node(new)) => new,
        Ok(Kind::Distributor(_)) => {
            return Err(Outcome::refused("nothing was applied: the file is a distributor's now; correct it"));
        }
        Err(problems) => return Err(Outcome::wrong(&problems)),
    };
    // A file that has changed since it was checked: what it is now is as bad as if it had been then.
    let changed = |error: String| Outcome::refused(format!("nothing was applied: {error}"));
    let (next, mut changes) = now.taking_over(&new, may_reach_upstreams);
    let options = node::tls_options(&next, key_log).map_err(|error| changed(error.to_string()))?;
    let renewed = server.renewed(&options).map_err(|error| changed(error.to_string()))?;
    let other_files = note_certificates(server.certificates(), renewed.certificates(), &mut changes);
    let is_other = (next.tls.tls12, next.tls.tls13, next.tls.max_fragment)
        != (now.tls.tls12, now.tls.tls13, now.tls.max_fragment)
        || other_files;
    let mut warnings = Vec::new();
    if is_other {
        renewed.warm_up();
        warnings.extend_from_slice(renewed.warnings());
    }
    let server = is_other.then_some(renewed);
    let other_folder = next.app.files.as_ref().filter(|files| now.app.files.as_ref() != Some(files));
    let files = other_folder.map(live::open).transpose().map_err(|error| changed(format!("{error:#}")))?;
    let ends =
        Ends { now: (&next.node.name, next.cluster.as_ref()), new: (&new.node.name, new.cluster.as_ref()) };
    let trust = trust::renew(&ends, trust, &mut changes, &mut warnings)?;
    Ok(Prepared { next, changes, server, trust, files, warnings })
}

/// Names files whose certificates are others now. Answers whether the list is another one in any way.
fn note_certificates(now: &[CertificateFacts], new: &[CertificateFacts], changes: &mut Changes) -> bool {
    for facts in new {
        let is_known = now.iter().any(|known| known.source == facts.source);
        if is_known && !now.contains(facts) {
            let key = format!("{}: serial {}", facts.source, facts.serial);
            changes.applied.push(Change { table: "[[certificate]]", key });
        }
    }
    now != new
}

/// What workers go by.
fn settings(config: &Config, tls: Server) -> Settings {
    let of = node::worker_config(config, 0);
    Settings {
        tls,
        handshakes: of.handshakes,
        handshake_timeout: of.handshake_timeout,
        header_timeout: of.header_timeout,
        body_timeout: of.body_timeout,
        body_rate: of.body_rate,
        idle_timeout: of.idle_timeout,
        http: of.http,
        streams: of.streams,
        app: None,
        app_slots: of.app_slots,
        body_bytes: node::bodies_bytes(config),
        policy: of.policy,
        eager: of.eager,
        credits: of.leases.credits,
        claim_timeout: of.leases.claim_timeout,
        silence_timeout: of.leases.silence_timeout,
        slot_patience: of.leases.slot_patience,
        session_wait: of.session_wait,
        tcp: Times {
            half_open_timeout: of.handshake_timeout,
            idle_timeout: of.idle_timeout,
            keep_alive: config.tcp.keep_alive,
            user_timeout: config.tcp.user_timeout,
        },
        access: request_log::rules(config),
    }
}

#[cfg(test)]
mod tests;
