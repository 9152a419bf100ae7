//! What a node answers its operators: how it is, who its peers are, which sessions it keeps, how its end goes on, what
//! became of a reload. In: a command. Out: one JSON document. Control thread.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;

use crate::admin::{Answer, document, refusal};
use crate::capture::Captures;
use crate::config::{Model, Resumption};
use crate::counters::{Registry, Snapshot};
use crate::drain::{Drain, Phase, Progress};
use crate::links::{Roster, Row};
use crate::reload::node::Reload;
use crate::top::sample::{Life, Role, Sample};

/// How long an operator who waits for the end is let wait for a sign of it.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// The commands, for whoever sends another.
const COMMANDS: &str =
    "status, peers, sessions, sample, drain [MILLISECONDS], progress, reload, capture REQUEST";

/// What a node's answers come from.
pub(crate) struct Desk {
    /// The release that runs.
    pub version: &'static str,
    /// What it goes by, and how that changes.
    pub reload: Rc<Reload>,
    /// What its threads count.
    pub registry: Arc<Registry>,
    /// Its links; none without peers.
    pub roster: Option<Roster>,
    /// Its end.
    pub drain: Rc<Drain>,
    /// Since it began to serve.
    pub life: Life,
    /// Packets for operators.
    pub captures: Rc<Captures>,
}

#[derive(Serialize)]
struct Status<'a> {
    node: &'a str,
    version: &'a str,
    model: &'a str,
    phase: Phase,
    uptime_s: u64,
    #[serde(flatten)]
    counters: Snapshot,
}

#[derive(Serialize)]
struct Peers<'a> {
    node: &'a str,
    peers: Vec<Row>,
}

/// Sessions and tickets by which clients come back; what does not apply is null.
#[derive(Serialize)]
struct Sessions<'a> {
    node: &'a str,
    resumption: &'a str,
    /// Sessions kept here, and how many may be.
    kept: Option<u64>,
    capacity: Option<u64>,
    lifetime_s: Option<u64>,
    /// Ticket keys known.
    ticket_keys: Option<u64>,
    tickets_sealed: Option<u64>,
    tickets_opened: Option<u64>,
    tickets_refused: Option<u64>,
    handshakes_full: u64,
    handshakes_resumed: u64,
    /// Sessions asked for at other nodes, and found there.
    takes: u64,
    takes_found: u64,
    /// Sessions of other nodes' clients kept here, and given to other nodes.
    kept_for_others: u64,
    given: u64,
}

impl Desk {
    /// The answer to one command: one JSON document, or packets.
    pub async fn answer(&self, command: &str) -> Answer {
        let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
        let document = match (word, rest.trim()) {
            ("status", "") => self.status(),
            ("peers", "") => self.peers(),
            ("sessions", "") => self.sessions(),
            ("sample", "") => document(&self.sample()),
            ("drain", rest) => self.drain(rest),
            ("progress", "") => document(&self.progress().await),
            ("reload", "") => self.reload().await,
            ("capture", request) => return self.captures.answer(request).await,
            _ => refusal(format!("unknown command: send one of {COMMANDS}")),
        };
        document.into()
    }

    fn node(&self) -> String {
        self.reload.config().node.name.clone()
    }

    fn status(&self) -> String {
        document(&Status {
            node: &self.node(),
            version: self.version,
            model: model(self.reload.config().node.model),
            phase: *self.drain.phase().borrow(),
            uptime_s: self.life.so_far().as_secs(),
            counters: self.registry.snapshot(),
        })
    }

    fn rows(&self) -> Vec<Row> {
        let of = |peer: &crate::links::Peer| (peer.name.clone(), peer.address.to_string());
        let configured: Vec<_> = self.reload.config().peers.iter().map(of).collect();
        self.roster.as_ref().map_or_else(Vec::new, |roster| roster.rows(&configured))
    }

    fn peers(&self) -> String {
        document(&Peers { node: &self.node(), peers: self.rows() })
    }

    /// Everything `keyferry top` and the page show.
    pub fn sample(&self) -> Sample {
        let config = self.reload.config();
        let (node, phase) = (&config.node, *self.drain.phase().borrow());
        let about = self.life.about(Role::Node, &node.name, self.version, Some(model(node.model)), phase);
        let pins: Vec<_> = config.cores.workers.iter().map(|core| core.0).collect();
        let peers = self.rows().into_iter().map(Into::into).collect();
        Sample::new(about, &pins, &self.registry.snapshot(), peers, &self.reload.certificates())
    }

    fn sessions(&self) -> String {
        let (name, capacity, lifetime) = match self.reload.config().tls.resumption {
            Resumption::Table { sessions, lifetime } => ("table", Some(sessions as u64), Some(lifetime)),
            Resumption::Tickets { lifetime } => ("tickets", None, Some(lifetime)),
            Resumption::Off => ("off", None, None),
        };
        let resumer = self.reload.resumer();
        let tickets = resumer.makes_tickets().then(|| resumer.ticket_counts());
        let total = |name| self.registry.total(name);
        document(&Sessions {
            node: &self.node(),
            resumption: name,
            kept: capacity.map(|_| resumer.sessions() as u64),
            capacity,
            lifetime_s: lifetime.map(|lifetime| lifetime.as_secs()),
            ticket_keys: tickets.map(|tickets| tickets.keys),
            tickets_sealed: tickets.map(|tickets| tickets.sealed),
            tickets_opened: tickets.map(|tickets| tickets.opened),
            tickets_refused: tickets.map(|tickets| tickets.refused),
            handshakes_full: total("handshakes_full"),
            handshakes_resumed: total("handshakes_resumed"),
            takes: total("takes"),
            takes_found: total("takes_found"),
            kept_for_others: total("sessions_kept"),
            given: total("sessions_given"),
        })
    }

    /// Begins the end, or hastens it.
    fn drain(&self, rest: &str) -> String {
        let within = match rest {
            "" => self.reload.config().admin.drain_timeout,
            text => match text.parse() {
                Ok(millis) => Duration::from_millis(millis),
                Err(_) => {
                    return refusal(format!("\"{text}\" is no time: send drain and a whole number of ms"));
                }
            },
        };
        tracing::info!(within_ms = within.as_millis() as u64, "an operator ends this node");
        self.drain.begin(within);
        document(&self.drain.progress())
    }

    /// How far the end is, as soon as there is news, or in a while.
    async fn progress(&self) -> Progress {
        let mut phase = self.drain.phase();
        let now = *phase.borrow();
        if now != Phase::Drained {
            let _ = timeout(PROGRESS_EVERY, phase.wait_for(|phase| *phase != now)).await;
        }
        self.drain.progress()
    }

    async fn reload(&self) -> String {
        let outcome = self.reload.reload().await;
        outcome.log("an operator");
        outcome.answer(&self.node())
    }
}

/// A model as the configuration calls it.
pub fn model(model: Model) -> &'static str {
    match model {
        Model::Rr => "rr",
        Model::Session => "session",
        Model::Bf => "bf",
    }
}
