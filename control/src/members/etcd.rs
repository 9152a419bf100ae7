//! The connection to etcd. In: keys and their changes. Out: the list of members, and this process's own key among them.
//! One task, on the control thread.
//!
//! One endpoint at a time: whatever goes wrong with it, the next is tried, and all is read again there. That also serves
//! when the changes since the last reading are no longer to be had (compaction), when etcd has lost its data, and when
//! this process's registration is over.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, ConnectOptions, Event, EventType, GetOptions, Identity, KeyValue,
    LeaseKeepAliveStream, LeaseKeeper, PutOptions, TlsOptions, WatchOptions, WatchStream,
};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::book::Book;
use super::tally::Tally;
use super::{IsLinked, List, Member, entry};
use crate::backoff::Backoff;
use crate::config::{Etcd, FileError, files};
use crate::links::Said;

/// How long etcd may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// First and longest pause between attempts.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// Between two readings on one connection.
const AGAIN: Duration = Duration::from_millis(100);
/// How often it is looked who is to go.
const LOOK: Duration = Duration::from_millis(250);
/// Times a registration is renewed while it lasts.
const BEATS: u32 = 3;

/// Why etcd is not to be had.
#[derive(Debug, thiserror::Error)]
enum EtcdError {
    #[error("{0}")]
    Client(#[from] etcd_client::Error),
    #[error("it did not answer within {} s: see whether it runs and has a leader", ANSWER.as_secs())]
    Late,
    #[error(
        "it has not renewed this process's registration for {} s: see whether it runs and has a leader",
        .0.as_secs()
    )]
    Silent(Duration),
    #[error("it ended the connection")]
    Ended,
    #[error("it watches no more ({0}): see what [cluster.etcd] user may read there")]
    Cancelled(String),
}

/// How etcd is reached; holds secrets.
pub(super) struct Access {
    endpoints: Vec<String>,
    options: ConnectOptions,
}

impl Access {
    /// Reads the files.
    pub(super) fn load(config: &Etcd) -> Result<Access, FileError> {
        // Without a leader it can tell nothing new, and another endpoint may.
        let mut options = ConnectOptions::new().with_require_leader(true).with_connect_timeout(ANSWER);
        if let Some(tls) = &config.tls {
            let ca = Certificate::from_pem(files::certificate_chain(&tls.ca)?);
            let mut client = TlsOptions::new().ca_certificate(ca);
            if let Some((certificate, key)) = &tls.identity {
                let (chain, key) = (files::certificate_chain(certificate)?, files::private_key(key)?);
                client = client.identity(Identity::from_pem(chain, &key[..]));
            }
            options = options.with_tls(client);
        }
        if let Some((user, password)) = &config.user {
            options = options.with_user(user, files::password(password)?.as_str());
        }
        Ok(Access { endpoints: config.endpoints.clone(), options })
    }
}

/// What a change means for who follows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Nothing more.
    GoOn,
    /// All is to be read again.
    ReadAgain,
}

/// Follows etcd.
pub(super) struct Follower {
    access: Access,
    own: Member,
    /// What this process writes there.
    key: String,
    value: String,
    /// What the keys of all members begin with.
    folder: String,
    ttl: Duration,
    book: Book,
    is_linked: IsLinked,
    out: watch::Sender<List>,
    tally: Tally,
    said: Said,
    /// The etcd lease the own key hangs on.
    registration: Option<i64>,
    client: Option<Client>,
}

impl Follower {
    pub(super) fn new(
        access: Access,
        config: &Etcd,
        own: Member,
        is_linked: IsLinked,
        out: watch::Sender<List>,
        registry: &crate::counters::Registry,
    ) -> Follower {
        let folder = entry::folder(&config.prefix);
        Follower {
            access,
            key: format!("{folder}{}", own.name),
            value: entry::value(&own),
            own,
            folder,
            ttl: config.ttl,
            book: Book::new(config.ttl, config.nodes_max),
            is_linked,
            out,
            tally: Tally::new(registry),
            said: Said::default(),
            registration: None,
            client: None,
        }
    }

    /// Follows until `leaving` turns true, then takes leave.
    pub(super) async fn run(mut self, mut leaving: watch::Receiver<bool>) {
        tokio::select! {
            () = self.follow() => {}
            _ = leaving.wait_for(|leaving| *leaving) => {}
        }
        if let (Some(client), Some(registration)) = (&mut self.client, self.registration) {
            // Where it cannot be told now, it notices when nobody renews the registration.
            let _ = timeout(ANSWER, client.lease_revoke(registration)).await;
        }
    }

    async fn follow(&mut self) {
        let mut backoff = Backoff::new(BACKOFF);
        for attempt in 0.. {
            let endpoint = self.access.endpoints[attempt % self.access.endpoints.len()].clone();
            let Err(error) = self.connection(&endpoint, &mut backoff).await;
            self.client = None;
            self.book.cut_off();
            self.tally.count(|counts| {
                counts.connected = 0;
                counts.failures += 1;
            });
            self.tell(format!("etcd at {endpoint}: {error}; the members known last stay"));
            sleep(backoff.pause()).await;
        }
    }

    /// One connection, until it fails.
    async fn connection(&mut self, endpoint: &str, backoff: &mut Backoff) -> Result<Infallible, EtcdError> {
        let options = self.access.options.clone();
        let mut client = within(Client::connect([endpoint], Some(options))).await?;
        self.client = Some(client.clone());
        loop {
            let (keeper, answers) = self.keep_registration(&mut client).await?;
            let revision = self.read(&mut client).await?;
            let options = WatchOptions::new().with_prefix().with_start_revision(revision + 1);
            let events = within(client.watch(self.folder.clone(), Some(options))).await?;
            if self.tally.is_connected_now() {
                self.said.forget();
                info!(etcd = endpoint, members = self.book.members().count(), "members are followed");
            }
            backoff.reset();
            self.watch(keeper, answers, events).await?;
            sleep(AGAIN).await;
        }
    }

    /// The registration goes on, or a new one begins.
    async fn keep_registration(
        &mut self,
        client: &mut Client,
    ) -> Result<(LeaseKeeper, LeaseKeepAliveStream), EtcdError> {
        if let Some(registration) = self.registration {
            match within(client.lease_keep_alive(registration)).await {
                // It is over.
                Err(EtcdError::Client(etcd_client::Error::LeaseKeepAliveError(_))) => {}
                other => return other,
            }
        }
        let ttl_s = i64::try_from(self.ttl.as_secs()).unwrap_or(i64::MAX);
        let registration = within(client.lease_grant(ttl_s, None)).await?.id();
        self.registration = Some(registration);
        within(client.lease_keep_alive(registration)).await
    }

    /// Reads all keys, and registers if that is due. Returns the revision they are of.
    async fn read(&mut self, client: &mut Client) -> Result<i64, EtcdError> {
        let all = within(client.get(self.folder.clone(), Some(GetOptions::new().with_prefix()))).await?;
        let revision = all.header().map_or(0, |header| header.revision());
        let (own, others): (Vec<_>, Vec<_>) =
            all.kvs().iter().partition(|pair| pair.key() == self.key.as_bytes());
        let listed = others.into_iter().filter_map(|pair| self.member(pair)).collect();
        if self.book.read(listed, Instant::now()).is_err() {
            self.tell_full();
        }
        self.settle();
        self.register(client, own.first().copied()).await?;
        Ok(revision)
    }

    /// Writes the own key, unless it is there or belongs to a later life of this name.
    async fn register(&mut self, client: &mut Client, found: Option<&KeyValue>) -> Result<(), EtcdError> {
        let registration = self.registration.unwrap_or(0);
        if let Some(found) = found {
            let is_ours = found.value() == self.value.as_bytes();
            if (is_ours && found.lease() == registration) || (!is_ours && self.is_replaced(found)) {
                return Ok(());
            }
        }
        let options = PutOptions::new().with_lease(registration);
        within(client.put(self.key.clone(), self.value.clone(), Some(options))).await?;
        self.tally.count(|counts| counts.registrations += 1);
        Ok(())
    }

    /// Follows what changes, until all is to be read again.
    async fn watch(
        &mut self,
        mut keeper: LeaseKeeper,
        mut answers: LeaseKeepAliveStream,
        mut events: WatchStream,
    ) -> Result<(), EtcdError> {
        let (mut beat, mut look) = (interval(self.ttl / BEATS), interval(LOOK));
        for interval in [&mut beat, &mut look] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut answered = Instant::now();
        loop {
            tokio::select! {
                // What has come is read before the clock is looked at: this process may have been stopped itself.
                biased;
                message = events.message() => match message? {
                    None => return Err(EtcdError::Ended),
                    Some(message) if message.canceled() && message.compact_revision() > 0 => return Ok(()),
                    Some(message) if message.canceled() => {
                        return Err(EtcdError::Cancelled(message.cancel_reason().to_owned()));
                    }
                    Some(message) => {
                        let mut then = Then::GoOn;
                        for event in message.events() {
                            if self.happened(event) == Then::ReadAgain {
                                then = Then::ReadAgain;
                            }
                        }
                        self.settle();
                        if then == Then::ReadAgain {
                            return Ok(());
                        }
                    }
                },
                answer = answers.message() => match answer? {
                    None => return Err(EtcdError::Ended),
                    // The registration is over.
                    Some(answer) if answer.ttl() <= 0 => return Ok(()),
                    Some(_) => answered = Instant::now(),
                },
                _ = beat.tick() => within(keeper.keep_alive()).await?,
                _ = look.tick() => {
                    if answered.elapsed() > self.ttl {
                        return Err(EtcdError::Silent(self.ttl));
                    }
                    if self.settle() == Then::ReadAgain {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn happened(&mut self, event: &Event) -> Then {
        let Some(pair) = event.kv() else { return Then::GoOn };
        let is_gone = event.event_type() == EventType::Delete;
        if pair.key() == self.key.as_bytes() {
            let is_ours = !is_gone && pair.value() == self.value.as_bytes();
            return if is_ours || (!is_gone && self.is_replaced(pair)) {
                Then::GoOn
            } else {
                Then::ReadAgain
            };
        }
        if is_gone {
            if let Ok(name) = entry::name(&self.folder, pair.key()) {
                self.book.delete(name, Instant::now());
            }
        } else if let Some(member) = self.member(pair)
            && self.book.put(member).is_err()
        {
            self.tell_full();
        }
        Then::GoOn
    }

    /// Lets go who is to go, and gives the list out if it is another one.
    fn settle(&mut self) -> Then {
        let is_linked = &self.is_linked;
        let has_room_again = self.book.settle(Instant::now(), |name| is_linked(name));
        let list: List = self.book.members().cloned().collect();
        self.tally.count(|counts| counts.members = list.len() as u64);
        self.out.send_if_modified(|before| {
            let changed = **before != *list;
            tell_changes(before, &list);
            *before = list;
            changed
        });
        if has_room_again { Then::ReadAgain } else { Then::GoOn }
    }

    /// The member that a key and its value describe, if they do.
    fn member(&mut self, pair: &KeyValue) -> Option<Member> {
        let member = entry::name(&self.folder, pair.key()).and_then(|name| entry::member(name, pair.value()));
        member
            .inspect_err(|error| {
                let key = String::from_utf8_lossy(pair.key()).escape_debug().to_string();
                self.tell(format!("etcd: {key} is no member: {error}"));
            })
            .ok()
    }

    /// Whether the own key is another process's that started later: then it is the one of this name.
    fn is_replaced(&mut self, pair: &KeyValue) -> bool {
        let is_later = entry::member(&self.own.name, pair.value())
            .is_ok_and(|member| member.incarnation > self.own.incarnation);
        if is_later {
            self.tell(format!(
                "etcd: another process is registered as {}, and started later: give each its own [node] name",
                self.own.name
            ));
        }
        is_later
    }

    fn tell_full(&mut self) {
        self.tell(
            "etcd lists more nodes than this process has room for: raise [cluster.etcd] nodes_max".to_owned(),
        );
    }

    fn tell(&mut self, sentence: String) {
        if self.said.is_news(&sentence, Instant::now()) {
            warn!("{sentence}");
        }
    }
}

/// Logs who has come and gone.
fn tell_changes(before: &[Member], now: &[Member]) {
    let before: HashMap<_, _> = before.iter().map(|member| (&member.name, member)).collect();
    let after: HashMap<_, _> = now.iter().map(|member| (&member.name, member)).collect();
    for member in now.iter().filter(|member| before.get(&member.name) != Some(member)) {
        let Member { name, role, incarnation, .. } = member;
        let addresses: Vec<_> = member.addresses.iter().map(ToString::to_string).collect();
        info!(member = name, ?role, incarnation, addresses = addresses.join(", "), "is a member");
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        info!(member = name, "is no member any more");
    }
}

/// A call's result, if it comes in time.
async fn within<T>(call: impl Future<Output = Result<T, etcd_client::Error>>) -> Result<T, EtcdError> {
    Ok(timeout(ANSWER, call).await.map_err(|_| EtcdError::Late)??)
}

#[cfg(test)]
mod tests;
