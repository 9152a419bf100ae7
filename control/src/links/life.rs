//! One life of a link, from the TLS handshake to its end. In: a connected socket and who the peer has to be. Out: queue
//! pairs in the workers' mailboxes for as long as it lives, and one sentence on why it ended. Control thread.
//!
//! Both ends do the same: shake hands, say hello, exchange one offer for each queue pair in turn (more at a time
//! would fill the socket at both ends and neither would read; a distributor makes none), say connected, then heartbeats
//! and what is in `talk`. Every step has a
//! deadline; the order is fixed, so what comes out of turn ends the link.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use keyferry_fabric::{Limits, verbs};
use keyferry_lease::PairSecret;
use keyferry_tls::Resumer;
use keyferry_worker::mailbox::Mail;
use keyferry_worker::moved::Moved;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::info;
use zeroize::Zeroizing;

use super::decoder::Decoder;
use super::message::{Hello, Message, Offer, Reason, Role};
use super::pairs::{self, Fences, Life};
use super::stream::Stream;
use super::talk::Talk;
use super::tally::Made;
use super::{Announcer, Between, Companions, LinkError, Nodes, Tally, Trust};
use crate::config::Driver;
use crate::request_log::Names;

/// How long a TLS handshake and the hellos may take: until then nobody knows who it is.
pub(super) const GREETING: Duration = Duration::from_secs(5);
/// How long it may take to make every queue pair after that.
const CONNECTING: Duration = Duration::from_secs(10);
/// How often a living link looks at its clock and its queue pairs.
const LOOK: Duration = Duration::from_millis(50);
/// Heartbeats in each time-out: one or two that are late do no harm.
const HEARTBEATS: u32 = 4;
/// Messages taken between two looks, at most: nobody who means well says more.
const MESSAGES_MAX: u32 = 256;
/// Bytes a message's buffer begins with.
const WIRE_BYTES: usize = 128;
/// The exporter's label (RFC 8446 7.5). Labels that are not registered begin like this (RFC 5705 4).
const EXPORTER_LABEL: &[u8] = b"EXPERIMENTAL keyferry lease v1";
/// The same between distributors, for what their workers tell each other.
const FLOWS_LABEL: &[u8] = b"EXPERIMENTAL keyferry flows v1";

/// What every link needs of this process.
pub struct Local {
    /// Its name.
    pub node: String,
    /// When it started, in ns: tells its lives apart.
    pub incarnation: u64,
    /// Silence after which a peer is taken to be gone.
    pub heartbeat_timeout: Cell<Duration>,
    /// Counts of the links.
    pub tally: Tally,
    /// What it is, and what that needs.
    pub duty: Duty,
}

/// What an end of a link is there for.
pub enum Duty {
    /// It serves clients and lends requests.
    Node(Box<Node>),
    /// It stands in front of nodes.
    Distributor(Front),
}

/// What links need of a distributor.
pub struct Front {
    /// Nodes behind it.
    pub nodes: Rc<Nodes>,
    /// Distributors beside it.
    pub companions: Rc<Companions>,
}

/// What links need of a node.
pub struct Node {
    /// The fabric.
    pub driver: Driver,
    /// Where its queue pairs live, if the driver is one of adapters.
    pub address: Option<verbs::Address>,
    /// Sizes of the queue pairs.
    pub limits: Limits,
    /// The workers' mailboxes.
    pub mailboxes: Vec<Arc<ArrayQueue<Mail>>>,
    /// What each queue pair goes through on its way to its worker.
    pub between: Between,
    /// Where ticket keys are, if clients come back by tickets.
    pub tickets: Option<Resumer>,
    /// What distributors are told.
    pub announcer: Rc<Announcer>,
    /// What nodes are called, for logs.
    pub names: Names,
}

/// Limits of an end that makes no queue pairs.
const NO_LIMITS: Limits =
    Limits { message_bytes_max: 0, receives: 0, posted_max: 0, slots_bytes: 0, staging_bytes: 0 };

impl Local {
    fn hello(&self) -> Hello {
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).expect("the system has random numbers");
        let (workers, driver, limits) = match &self.duty {
            Duty::Node(node) => (node.mailboxes.len() as u16, node.driver, node.limits),
            Duty::Distributor(_) => (0, Driver::Shm, NO_LIMITS),
        };
        let (node, incarnation) = (self.node.clone(), self.incarnation);
        Hello { role: self.role(), node, incarnation, random, workers, driver, limits }
    }

    /// What it is.
    pub(super) fn role(&self) -> Role {
        match self.duty {
            Duty::Node(_) => Role::Node,
            Duty::Distributor(_) => Role::Distributor,
        }
    }

    /// What the end of a link with such a peer means, for the log.
    pub(super) fn consequence(&self, peer: Role) -> &'static str {
        match (self.role(), peer) {
            (Role::Node, Role::Node) => "; leases end and requests run here",
            (Role::Distributor, Role::Node) => "; the node gets no new connections",
            (_, Role::Distributor) => "",
        }
    }

    /// Where ticket keys are, if this is a node and clients come back by tickets.
    pub(super) fn tickets(&self) -> Option<&Resumer> {
        match &self.duty {
            Duty::Node(node) => node.tickets.as_ref(),
            Duty::Distributor(_) => None,
        }
    }
}

/// A link on which both ends have said who they are.
pub(super) struct Greeted {
    stream: Stream,
    decoder: Decoder,
    ours: Hello,
    theirs: Hello,
}

/// Shakes hands and exchanges hellos. Whether the peer is whom its hello says is for the caller to check.
pub(super) async fn greet(local: &Local, mut stream: Stream) -> Result<Greeted, LinkError> {
    let ours = local.hello();
    let mut decoder = Decoder::default();
    let greeting = async {
        stream.handshake().await?;
        // The peer may send its first offer right behind its hello, as soon as it has this end's.
        if let Duty::Node(node) = &local.duty
            && pairs::passes_memory(node.driver)
        {
            stream.expect_descriptors();
        }
        say(&mut stream, &Message::Hello(ours.clone())).await?;
        match hear(&mut stream, &mut decoder).await? {
            Message::Hello(theirs) => Ok(theirs),
            _ => Err(LinkError::Order),
        }
    };
    match timeout(GREETING, greeting).await.unwrap_or(Err(LinkError::Slow)) {
        Ok(theirs) => Ok(Greeted { stream, decoder, ours, theirs }),
        Err(error) => {
            end(stream, &error).await;
            Err(error)
        }
    }
}

impl Greeted {
    /// What the peer says of itself.
    pub(super) fn peer(&self) -> &Hello {
        &self.theirs
    }

    /// The TLS connection, for the peer's certificate.
    pub(super) fn tls(&self) -> &rustls::Connection {
        self.stream.tls()
    }

    /// Says why this is no link, and closes.
    pub(super) async fn refuse(self, error: LinkError) -> LinkError {
        end(self.stream, &error).await;
        error
    }

    /// Makes the queue pairs, then lives until something ends it: returns whether it came to life, and what did. `stop`
    /// turns true when the node ends, or has the peer no longer among its own; `trust` is whom it believes, which may change.
    pub(super) async fn live(
        mut self,
        local: &Local,
        trust: watch::Receiver<Trust>,
        stop: watch::Receiver<bool>,
    ) -> (bool, LinkError) {
        let mut fences = Fences::default();
        let connected = timeout(CONNECTING, self.connect(local, &mut fences)).await;
        let (lived, error) = match connected.unwrap_or(Err(LinkError::Slow)) {
            Ok(moved) => {
                let (peer, incarnation) = (&self.theirs.node, self.theirs.incarnation);
                info!(peer, incarnation, queue_pairs = fences.len(), "connected");
                let made = local.tally.made(peer, self.theirs.role, moved);
                let secret = || exporter_secret(self.stream.tls(), FLOWS_LABEL);
                match Talk::new(local, &self.ours, &self.theirs, secret).await {
                    Ok(talk) => (true, self.stay(local, talk, &mut fences, &made, (trust, stop)).await),
                    Err(error) => (false, error),
                }
            }
            Err(error) => (false, error),
        };
        drop(fences);
        end(self.stream, &error).await;
        (lived, error)
    }

    /// Makes what the two need between them; both are ready at the end. Returns where leases are counted, by queue pair.
    async fn connect(&mut self, local: &Local, fences: &mut Fences) -> Result<Vec<Arc<Moved>>, LinkError> {
        match &local.duty {
            Duty::Node(node) if self.theirs.role == Role::Node => self.pair(node, fences).await,
            _ => {
                self.stream.end_descriptors()?;
                self.meet().await?;
                Ok(Vec::new())
            }
        }
    }

    /// The queue pairs between two nodes.
    async fn pair(&mut self, local: &Node, fences: &mut Fences) -> Result<Vec<Arc<Moved>>, LinkError> {
        let (ours, theirs) = (&self.ours, &self.theirs);
        if ours.driver != theirs.driver {
            return Err(LinkError::Driver { ours: ours.driver, theirs: theirs.driver });
        }
        let limits = ours.limits.agree(theirs.limits);
        limits.check().map_err(LinkError::Limits)?;
        let passes_memory = pairs::passes_memory(local.driver);
        if passes_memory && !self.stream.passes_descriptors() {
            return Err(LinkError::NotLocal);
        }
        let life = Life::new(exporter_secret(self.stream.tls(), EXPORTER_LABEL)?, ours, theirs);

        // Anew in each life: a port that was down may have another GID when it is back.
        let fabric = pairs::Fabric::open(local)?;
        let mut queue_pairs = Vec::new();
        for index in 0..ours.workers.max(theirs.workers) {
            let prepared = fabric.prepare(limits)?;
            let offer =
                Offer { index, with_descriptor: prepared.descriptor.is_some(), bytes: prepared.bytes };
            let mut wire = Vec::new();
            Message::Offer(offer).encode(&mut wire);
            self.stream.send(&wire, prepared.descriptor.as_ref()).await?;
            let offer = match hear(&mut self.stream, &mut self.decoder).await? {
                Message::Offer(offer) if offer.index == index && offer.with_descriptor == passes_memory => {
                    offer
                }
                Message::Bye(reason) => return Err(LinkError::Bye(reason)),
                _ => return Err(LinkError::Order),
            };
            let descriptor = match offer.with_descriptor {
                true => Some(self.stream.take_descriptor()?),
                false => None,
            };
            let (queue_pair, fence) = prepared.endpoint.connect(&offer.bytes, descriptor)?;
            queue_pairs.push(queue_pair);
            fences.add(fence);
        }
        self.stream.end_descriptors()?;
        self.meet().await?;
        fences.watch(fabric);
        pairs::hand_over(local, &life, limits, queue_pairs)
    }

    /// Each end says that it is ready, and hears it of the other.
    async fn meet(&mut self) -> Result<(), LinkError> {
        say(&mut self.stream, &Message::Connected).await?;
        match hear(&mut self.stream, &mut self.decoder).await? {
            Message::Connected => Ok(()),
            Message::Bye(reason) => Err(LinkError::Bye(reason)),
            _ => Err(LinkError::Order),
        }
    }

    /// Heartbeats both ways and what the two tell each other, until one end has a reason to part.
    async fn stay(
        &mut self,
        local: &Local,
        mut talk: Talk,
        fences: &mut Fences,
        made: &Made,
        (mut trust, mut stop): (watch::Receiver<Trust>, watch::Receiver<bool>),
    ) -> LinkError {
        // It may have changed while the two shook hands.
        trust.mark_changed();
        let patience = local.heartbeat_timeout.get();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut heard, mut said) = (Instant::now(), Instant::now());
        let mut messages = 0;
        loop {
            // Also what came behind the last message of the exchange.
            loop {
                match self.decoder.next_message() {
                    Ok(None) => break,
                    Ok(Some(Message::Heartbeat)) if messages < MESSAGES_MAX => messages += 1,
                    Ok(Some(Message::Bye(reason))) => return LinkError::Bye(reason),
                    Ok(Some(message)) if messages < MESSAGES_MAX => {
                        messages += 1;
                        if let Err(error) = talk.heard(local, message).await {
                            return error;
                        }
                    }
                    Ok(Some(_)) => return LinkError::Order,
                    Err(error) => return error.into(),
                }
                heard = Instant::now();
                made.heard();
            }
            tokio::select! {
                // What has come is read before the clock is looked at: this process may have been stopped itself.
                biased;
                received = self.stream.receive() => match received {
                    Ok(plaintext) => self.decoder.take(&plaintext),
                    Err(error) => return error.into(),
                },
                _ = look.tick() => {
                    messages = 0;
                    if let Err(error) = fences.look() {
                        return error;
                    }
                    if trust.has_changed().unwrap_or(false)
                        && let Some(complaint) = trust.borrow_and_update().complaint(self.stream.tls())
                    {
                        return LinkError::Untrusted(complaint);
                    }
                    if heard.elapsed() > patience {
                        return LinkError::Silent(patience);
                    }
                    let due = (said.elapsed() >= patience / HEARTBEATS).then_some(Message::Heartbeat);
                    for message in due.into_iter().chain(talk.news(local)) {
                        said = Instant::now();
                        match timeout(patience, say(&mut self.stream, &message)).await {
                            Ok(Ok(())) => {}
                            Ok(Err(error)) => return error,
                            Err(_) => return LinkError::Silent(patience),
                        }
                    }
                }
                _ = stop.wait_for(|stop| *stop) => return LinkError::Stopping,
            }
        }
    }
}

/// The secret both ends of this TLS connection share and nobody else does.
fn exporter_secret(tls: &rustls::Connection, label: &[u8]) -> Result<PairSecret, LinkError> {
    let mut secret = Zeroizing::new([0; 32]);
    tls.export_keying_material(&mut secret[..], label, None).map_err(super::stream::StreamError::Tls)?;
    Ok(secret)
}

async fn say(stream: &mut Stream, message: &Message) -> Result<(), LinkError> {
    // With room for any message that is a secret, so that it does not grow.
    let mut wire = Zeroizing::new(Vec::with_capacity(WIRE_BYTES));
    message.encode(&mut wire);
    Ok(stream.send(&wire, None).await?)
}

async fn hear(stream: &mut Stream, decoder: &mut Decoder) -> Result<Message, LinkError> {
    loop {
        if let Some(message) = decoder.next_message()? {
            return Ok(message);
        }
        decoder.take(&stream.receive().await?);
    }
}

/// Tells the peer why, where it can be told, and closes.
async fn end(mut stream: Stream, error: &LinkError) {
    if let Some(reason) = reason(error)
        && !stream.tls().is_handshaking()
    {
        // A peer that does not read is not waited for: closing has its own bound.
        let _ = timeout(LOOK, say(&mut stream, &Message::Bye(reason))).await;
    }
    stream.close().await;
}

/// What the peer is told; `None` if it knows, or hears no more.
fn reason(error: &LinkError) -> Option<Reason> {
    match error {
        LinkError::Stream(_) | LinkError::Bye(_) => None,
        // Both ends have said their versions; an end of another version may not know this message.
        LinkError::Wire(super::message::WireError::Version { .. }) => None,
        LinkError::Wire(_) | LinkError::Order | LinkError::Shm(_) => Some(Reason::Protocol),
        LinkError::NotPeer { .. }
        | LinkError::Name { .. }
        | LinkError::Role { .. }
        | LinkError::Untrusted(_) => Some(Reason::NotPeer),
        LinkError::Driver { .. } | LinkError::NotLocal => Some(Reason::Driver),
        LinkError::Limits(_) => Some(Reason::Limits),
        LinkError::Verbs(verbs::VerbsError::Offer(_)) => Some(Reason::Protocol),
        LinkError::Verbs(verbs::VerbsError::Limits(_)) => Some(Reason::Limits),
        LinkError::Verbs(verbs::VerbsError::Choose(verbs::ChooseError::Down { .. })) => Some(Reason::Down),
        LinkError::Mailbox(_) | LinkError::Verbs(_) => Some(Reason::Unable),
        LinkError::Slow | LinkError::Silent(_) => Some(Reason::Silent),
        LinkError::Failed => Some(Reason::Failed),
        LinkError::Stopping => Some(Reason::Leaving),
    }
}
