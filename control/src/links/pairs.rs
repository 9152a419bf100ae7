//! The queue pairs of one life of a link. In: the agreed limits, then what the peer offers. Out: what this end offers,
//! then queue pairs for the workers, with the keys of their channels, and the hold by which they are fenced.
//!
//! Pair `k`, for `k` from 0 to the larger number of workers, joins worker `k % workers` here with worker `k % workers`
//! there. Both ends agree on the index, so the keys of a pair are its own.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use keyferry_decide::NodeId;
use keyferry_fabric::{Fence, Limits, QueuePair, shm, verbs};
use keyferry_lease::{Channel, Incarnation, PairSecret, Role};
use keyferry_worker::mailbox::{Connect, Mail};
use keyferry_worker::moved::Moved;

use super::LinkError;
use super::life::Node;
use super::message::Hello;
use crate::config::Driver;

/// This end of a queue pair before it is connected.
pub(super) enum Endpoint {
    Shm(shm::Endpoint),
    Verbs(Box<verbs::Endpoint>),
}

/// What one end has for the other.
pub(super) struct Prepared {
    pub(super) endpoint: Endpoint,
    /// The driver's own bytes.
    pub(super) bytes: Vec<u8>,
    /// The driver's memory, where it is passed.
    pub(super) descriptor: Option<OwnedFd>,
}

/// What queue pairs of one life are made on.
pub(super) enum Fabric {
    Shm,
    Verbs(verbs::Device),
}

impl Fabric {
    /// Opens the device, where the driver has one.
    pub(super) fn open(local: &Node) -> Result<Fabric, LinkError> {
        match (local.driver, &local.address) {
            (Driver::Shm, _) => Ok(Fabric::Shm),
            (Driver::Verbs, address) => {
                let address = address.as_ref().expect("required by the configuration");
                let choice = verbs::choose(&verbs::discover(), address).map_err(verbs::VerbsError::from)?;
                Ok(Fabric::Verbs(verbs::Device::open(&choice)?))
            }
        }
    }

    /// Makes this end of a queue pair.
    pub(super) fn prepare(&self, limits: Limits) -> Result<Prepared, LinkError> {
        match self {
            Fabric::Shm => {
                let (endpoint, memory) = shm::prepare(limits)?;
                let endpoint = Endpoint::Shm(endpoint);
                Ok(Prepared { endpoint, bytes: Vec::new(), descriptor: Some(memory) })
            }
            Fabric::Verbs(device) => {
                let (endpoint, offer) = device.prepare(limits)?;
                let endpoint = Endpoint::Verbs(Box::new(endpoint));
                Ok(Prepared { endpoint, bytes: offer.to_bytes().to_vec(), descriptor: None })
            }
        }
    }
}

/// Whether a driver's offers bring a descriptor.
pub(super) fn passes_memory(driver: Driver) -> bool {
    match driver {
        Driver::Shm => true,
        Driver::Verbs => false,
    }
}

/// A connected queue pair.
type Connected = (Box<dyn QueuePair>, Arc<dyn Fence>);

impl Endpoint {
    /// Joins this end with the peer's.
    pub(super) fn connect(self, bytes: &[u8], descriptor: Option<OwnedFd>) -> Result<Connected, LinkError> {
        match (self, descriptor) {
            (Endpoint::Shm(endpoint), Some(memory)) if bytes.is_empty() => {
                let (queue_pair, fence) = endpoint.connect(memory)?;
                Ok((Box::new(queue_pair), fence))
            }
            (Endpoint::Verbs(endpoint), None) => {
                let offer = verbs::Offer::from_bytes(bytes).map_err(verbs::VerbsError::from)?;
                let (queue_pair, fence) = endpoint.connect(&offer)?;
                Ok((Box::new(queue_pair), fence))
            }
            (Endpoint::Shm(_) | Endpoint::Verbs(_), _) => Err(LinkError::Order),
        }
    }
}

/// The keys' inputs of one life: both ends work them out alike.
pub(super) struct Life {
    pub(super) secret: PairSecret,
    pub(super) role: Role,
    pub(super) random: [[u8; 32]; 2],
    pub(super) incarnation: [u64; 2],
    pub(super) peer: NodeId,
    pub(super) peer_name: String,
}

impl Life {
    /// `secret` is the TLS exporter's; the end whose name sorts first is the first.
    pub(super) fn new(secret: PairSecret, ours: &Hello, theirs: &Hello) -> Life {
        let (role, first, second) = match ours.node < theirs.node {
            true => (Role::First, ours, theirs),
            false => (Role::Second, theirs, ours),
        };
        Life {
            secret,
            role,
            random: [first.random, second.random],
            incarnation: [first.incarnation, second.incarnation],
            peer: NodeId::of(&theirs.node),
            peer_name: theirs.node.clone(),
        }
    }

    fn channel(&self, pair: u16, limits: Limits) -> Channel {
        let life = Incarnation { random: self.random, incarnation: self.incarnation, pair };
        Channel::new(&self.secret, &life, self.role, limits.receives as u32)
    }
}

/// How often the port below the queue pairs is looked at.
const PORT_LOOK: Duration = Duration::from_millis(250);
/// How long it may be down: as long as adapters repeat what is not acknowledged.
const PORT_PATIENCE: Duration = Duration::from_millis(500);

/// The hold on all queue pairs of a link: dropped, which is how a link ends, none of them takes work any more.
#[derive(Default)]
pub(super) struct Fences {
    fences: Vec<Arc<dyn Fence>>,
    port: Option<Port>,
}

/// What the queue pairs are on.
struct Port {
    fabric: Fabric,
    looked: Instant,
    down_since: Option<Instant>,
}

impl Fences {
    pub(super) fn add(&mut self, fence: Arc<dyn Fence>) {
        self.fences.push(fence);
    }

    /// From here on the port below is looked at as well.
    pub(super) fn watch(&mut self, fabric: Fabric) {
        self.port = Some(Port { fabric, looked: Instant::now(), down_since: None });
    }

    pub(super) fn len(&self) -> usize {
        self.fences.len()
    }

    /// Whether all is well below the link.
    pub(super) fn look(&mut self) -> Result<(), LinkError> {
        if self.fences.iter().any(|fence| fence.failed()) {
            return Err(LinkError::Failed);
        }
        self.port.as_mut().map_or(Ok(()), Port::look)
    }
}

impl Port {
    fn look(&mut self) -> Result<(), LinkError> {
        let Fabric::Verbs(device) = &self.fabric else { return Ok(()) };
        let now = Instant::now();
        if now.duration_since(self.looked) < PORT_LOOK {
            return Ok(());
        }
        self.looked = now;
        match device.check_port() {
            Ok(()) => self.down_since = None,
            Err(error) => {
                let since = *self.down_since.get_or_insert(now);
                if now.duration_since(since) >= PORT_PATIENCE {
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}

impl Drop for Fences {
    fn drop(&mut self) {
        self.fences.iter().for_each(|fence| fence.fail());
    }
}

/// Hands the queue pairs to their workers, all at once and only when both ends have all of them. Returns where the leases of
/// each are counted.
pub(super) fn hand_over(
    local: &Node,
    life: &Life,
    limits: Limits,
    pairs: Vec<Box<dyn QueuePair>>,
) -> Result<Vec<Arc<Moved>>, LinkError> {
    local.names.learn(&life.peer_name);
    let mut counted = Vec::new();
    for (index, queue_pair) in pairs.into_iter().enumerate() {
        let worker = index % local.mailboxes.len();
        let channel = life.channel(index as u16, limits);
        let moved = Arc::new(Moved::default());
        counted.push(Arc::clone(&moved));
        let queue_pair = (local.between)(queue_pair);
        let connect = Connect { queue_pair, channel, node: life.peer, moved };
        if local.mailboxes[worker].push(Mail::Peer(Box::new(connect))).is_err() {
            return Err(LinkError::Mailbox(worker));
        }
    }
    Ok(counted)
}
