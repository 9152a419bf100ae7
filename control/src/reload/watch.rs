//! Files that change by themselves: certificates, as certbot, cert-manager and Kubernetes renew them. In: files, and what is in
//! effect of them. Out: that something may have changed, once it is quiet again; then what can be taken over, and what not and why.
//!
//! Folders are watched, not files: files are renamed into place, or a link on the way to them is. Every folder counts in which
//! a name on that way is looked up. What the kernel does not tell (of network file systems, say) is seen by looking now and then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyferry_tls::{CertificateFacts, CertificatePem, Server};
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::expiry;
use crate::config::{Cluster, files};
use crate::links::Trust;

/// How long it has to be quiet: chain and key are two files.
const QUIET: Duration = Duration::from_millis(300);
/// How long a folder that is never quiet is waited for.
const QUIET_MAX: Duration = Duration::from_secs(3);
/// Looked again after so long, whatever is told.
const EVERY: Duration = Duration::from_secs(60);
/// Links followed on the way to a file, at most, as the kernel does (path_resolution(7)).
const LINKS_MAX: usize = 40;

/// What is watched.
#[derive(Clone, Default)]
pub(crate) struct Wanted {
    /// Chain and key of each certificate, in the order of the server's.
    pub(crate) pairs: Vec<(PathBuf, PathBuf)>,
    /// Those of links, and the name they are for.
    pub(crate) links: Option<(Cluster, String)>,
}

impl Wanted {
    pub(crate) fn is_empty(&self) -> bool {
        self.pairs.is_empty() && self.links.is_none()
    }

    /// Every folder in which something may change.
    pub(crate) fn folders(&self) -> BTreeSet<PathBuf> {
        let mut all = BTreeSet::new();
        let pairs = self.pairs.iter().flat_map(|(chain, key)| [chain, key]);
        let links = self.links.iter().flat_map(|(it, _)| [&it.ca, &it.certificate, &it.key]);
        pairs.chain(links).for_each(|file| folders_of(file, &mut all));
        all
    }
}

/// Adds the folders in which names on the way to `file` are looked up that may lead elsewhere one day: its own, and that of
/// each symbolic link.
fn folders_of(file: &Path, all: &mut BTreeSet<PathBuf>) {
    let Ok(file) = std::path::absolute(file) else { return };
    let mut rest: VecDeque<OsString> = names(&file);
    let (mut at, mut links) = (PathBuf::from("/"), 0);
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match std::fs::read_link(&next) {
            Ok(target) if links < LINKS_MAX => {
                links += 1;
                all.insert(at.clone());
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    rest.push_front(name);
                }
            }
            _ => {
                if rest.is_empty() {
                    all.insert(at.clone());
                }
                at = next;
            }
        }
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).collect()
}

/// Folders, watched.
pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
    /// Each with its number on its device: one that was made anew has to be watched anew.
    folders: BTreeMap<PathBuf, (u64, u64)>,
    news: Arc<Notify>,
    is_failing: bool,
}

impl Watch {
    /// Of no folder yet. `news` is told of what happens, and may be told by others.
    pub(crate) fn new(news: &Arc<Notify>) -> Watch {
        let told = Arc::clone(news);
        let handler = move |event: notify::Result<notify::Event>| {
            if event.is_ok_and(|event| is_news(&event.kind)) {
                told.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(handler);
        if let Err(error) = &watcher {
            warn!(
                "files cannot be watched ({error}): certificates are looked at every {} s",
                EVERY.as_secs()
            );
        }
        Watch { watcher: watcher.ok(), folders: BTreeMap::new(), news: Arc::clone(news), is_failing: false }
    }

    /// Watches these and no others.
    pub(crate) fn set(&mut self, wanted: &BTreeSet<PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let place = |folder: &PathBuf| folder.metadata().ok().map(|data| (data.dev(), data.ino()));
        self.folders.retain(|folder, known| {
            let stays = wanted.contains(folder) && place(folder) == Some(*known);
            if !stays {
                // Gone by itself where the folder is.
                let _ = watcher.unwatch(folder);
            }
            stays
        });
        let mut failed = None;
        for folder in wanted {
            let Some(place) = place(folder).filter(|_| !self.folders.contains_key(folder)) else { continue };
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.folders.insert(folder.clone(), place);
                }
                Err(error) => failed = Some((folder.display(), error)),
            }
        }
        if let Some((folder, error)) = failed.as_ref().filter(|_| !self.is_failing) {
            warn!(
                "{folder} cannot be watched ({error}): certificates there are looked at every {} s; raise \
                 fs.inotify.max_user_watches, or let this user read it",
                EVERY.as_secs()
            );
        }
        self.is_failing = failed.is_some();
    }

    /// Waits until something may have changed and it is quiet again, or it is time to look.
    pub(crate) async fn changed(&self) {
        if timeout(EVERY, self.news.notified()).await.is_err() {
            return;
        }
        let end = Instant::now() + QUIET_MAX;
        while Instant::now() < end && timeout(QUIET, self.news.notified()).await.is_ok() {}
    }
}

/// Whether something changed: to read a file is an event, too.
fn is_news(kind: &EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

/// What tells one state of a file from another without reading it.
type Stamp = (u64, u64, i64, i64, u64);

fn stamp(file: &Path) -> Option<Stamp> {
    let of = |data: Metadata| (data.dev(), data.ino(), data.mtime(), data.mtime_nsec(), data.size());
    file.metadata().ok().map(of)
}

/// Files as they were when they were last looked at, taken over or not.
#[derive(Default)]
pub(crate) struct Files {
    seen: BTreeMap<Vec<PathBuf>, Vec<Option<Stamp>>>,
    /// Chains that may be of use later as they are: they are not valid yet.
    early: BTreeSet<PathBuf>,
}

/// What was found.
#[derive(Default)]
pub(crate) struct Found {
    /// The server with what has changed.
    pub(crate) server: Option<Server>,
    /// Whom links believe now, and how this end proves who it is.
    pub(crate) trust: Option<Trust>,
    /// What is new in the two.
    pub(crate) taken: Vec<CertificateFacts>,
    /// Why something is not; a sentence each.
    pub(crate) refused: Vec<String>,
}

impl Files {
    /// Whether any of them is another one than when this was last asked.
    fn have_changed(&mut self, files: &[&Path]) -> bool {
        let now: Vec<_> = files.iter().map(|file| stamp(file)).collect();
        let key = files.iter().map(|file| file.to_path_buf()).collect();
        self.seen.insert(key, now.clone()).is_none_or(|before| before != now)
    }

    /// As [`look`](Files::look), on a thread that may block; with itself. `None`: that thread is gone.
    pub(crate) async fn looked(
        mut self,
        wanted: Wanted,
        server: Option<Server>,
        trust: Option<Trust>,
    ) -> Option<(Files, Found)> {
        let look = move || {
            let found = self.look(&wanted, server.as_ref(), trust.as_ref());
            (self, found)
        };
        tokio::task::spawn_blocking(look).await.ok()
    }

    /// Reads what has changed since it was last looked at. A pair that is no use keeps others from nothing.
    fn look(&mut self, wanted: &Wanted, server: Option<&Server>, trust: Option<&Trust>) -> Found {
        let mut found = Found::default();
        if let Some(server) = server {
            self.look_at_pairs(&wanted.pairs, server, &mut found);
        }
        if let (Some(links), Some(trust)) = (&wanted.links, trust) {
            self.look_at_links(links, trust, &mut found);
        }
        found
    }

    fn look_at_pairs(&mut self, pairs: &[(PathBuf, PathBuf)], server: &Server, found: &mut Found) {
        let mut others = Vec::new();
        for (index, (chain, key)) in pairs.iter().enumerate() {
            let Some(now) = server.certificates().get(index) else { break };
            let has_changed = self.have_changed(&[chain, key]);
            if !self.early.remove(chain) && !has_changed {
                continue;
            }
            match read(chain, key) {
                Ok((_, facts)) if facts == *now => {}
                Ok((pem, facts)) => match fault(&facts, now) {
                    None => {
                        others.push((index, pem));
                        found.taken.push(facts);
                    }
                    Some(sentence) => {
                        self.early.insert(chain.clone());
                        found.refused.extend(has_changed.then_some(sentence));
                    }
                },
                Err(sentence) => found.refused.push(sentence),
            }
        }
        if !others.is_empty() {
            match server.with_certificates(&others) {
                Ok(renewed) => {
                    renewed.warm_up();
                    found.server = Some(renewed);
                }
                Err(error) => {
                    found.taken.clear();
                    found.refused.push(error.to_string());
                }
            }
        }
    }

    fn look_at_links(&mut self, (cluster, name): &(Cluster, String), now: &Trust, found: &mut Found) {
        if !self.have_changed(&[&cluster.ca, &cluster.certificate, &cluster.key]) {
            return;
        }
        match cluster.trust(name) {
            Ok(new) if now.has_same_authority(&new) && now.has_same_certificate(&new) => {}
            Ok(new) => {
                found.taken.extend(new.facts().cloned());
                found.trust = Some(new);
            }
            Err(error) => found.refused.push(error.to_string()),
        }
    }
}

/// Why a certificate is no use in the place of the one of now, though it could be served: clients would refuse it.
fn fault(new: &CertificateFacts, now: &CertificateFacts) -> Option<String> {
    let at = expiry::now();
    let is_better = now.fault(at).is_none();
    new.fault(at).filter(|_| is_better).map(|what| format!("{}: {what}", new.source))
}

fn read(chain: &Path, key: &Path) -> Result<(CertificatePem, CertificateFacts), String> {
    let source = chain.display().to_string();
    let read = || Ok((files::certificate_chain(chain)?, files::private_key(key)?));
    let (chain, key) = read().map_err(|error: files::FileError| error.to_string())?;
    let pem = CertificatePem { chain, key, source };
    let facts = pem.check().map_err(|error| error.to_string())?;
    Ok((pem, facts))
}

#[cfg(test)]
mod tests;
