//! What two nodes say to each other on their link, and its wire form. In: a message, or a peer's bytes. Out: bytes, or
//! a checked message. Sans-IO; `docs/PROTOCOL.md` has the same byte by byte.
//!
//! Everything is little-endian. First comes a hello, whose first 16 bytes never change, so that any two versions can
//! name each other; then frames of a 4-byte header and the kind's own bytes.

use std::net::{IpAddr, Ipv6Addr};

use keyferry_fabric::Limits;
use keyferry_tls::{TICKET_KEY_BYTES, TICKET_NAME_BYTES, TicketKey};
use zeroize::Zeroizing;

use crate::config::Driver;

/// What both ends must speak.
pub const VERSION: u32 = 3;
/// The first bytes of a link.
pub const MAGIC: [u8; 8] = *b"kf-link\0";
/// Bytes before the hello's body.
pub const PREFIX_BYTES: usize = 16;
/// Longest node name, in bytes: a DNS label or several.
pub const NODE_BYTES_MAX: usize = 63;
/// Most workers of a node.
pub const WORKERS_MAX: u16 = 256;
/// Longest offer of a driver, in bytes.
pub const OFFER_BYTES_MAX: usize = 1024;
/// Bytes before a frame's payload.
pub const HEADER_BYTES: usize = 4;
/// Longest payload of a frame.
pub const PAYLOAD_BYTES_MAX: usize = OFFER_FIXED_BYTES + OFFER_BYTES_MAX;

const HELLO_FIXED_BYTES: usize = 8 + 32 + 1 + 2 + 1 + 5 * 8 + 1;
/// Longest body of a hello.
pub const BODY_BYTES_MAX: usize = HELLO_FIXED_BYTES + NODE_BYTES_MAX;
const OFFER_FIXED_BYTES: usize = 3;

const _: () = assert!(NODE_BYTES_MAX <= u8::MAX as usize);
// A frame goes into one TLS record, so that a descriptor on its first byte comes with all of it.
const _: () = assert!(HEADER_BYTES + PAYLOAD_BYTES_MAX <= 1 << 14);

const OFFER: u8 = 1;
const CONNECTED: u8 = 2;
const HEARTBEAT: u8 = 3;
const BYE: u8 = 4;
const TICKET_KEY: u8 = 16;
const SESSIONS: u8 = 17;
const STATE: u8 = 18;
const STATION: u8 = 19;

/// Bytes of a ticket key on the wire.
const TICKET_KEY_MESSAGE_BYTES: usize = TICKET_NAME_BYTES + TICKET_KEY_BYTES + 3 * 4;

/// Bytes of an announced session on the wire.
const SESSION_BYTES: usize = 16 + 4;
/// Sessions of one announcement, at most.
pub const SESSIONS_MAX: usize = 48;
const _: () = assert!(SESSIONS_MAX * SESSION_BYTES <= PAYLOAD_BYTES_MAX);
/// Addresses of a distributor's port that another one is told, at most.
pub const STATION_ADDRESSES_MAX: usize = 8;
/// Bytes of a node's state on the wire.
const STATE_BYTES: usize = 1 + 4 + 4;

/// What an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It serves clients, and makes queue pairs with other nodes.
    Node,
    /// It stands in front of nodes.
    Distributor,
}

/// A client whose session can be resumed at the node that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Where the client came from.
    pub client: IpAddr,
    /// For how long, in s.
    pub lifetime_s: u32,
}

/// How a node fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct NodeState {
    /// It takes no new connections.
    pub draining: bool,
    /// Connections it has.
    pub connections: u32,
    /// Requests its application has.
    pub requests: u32,
}

/// What one end says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// What it is.
    pub role: Role,
    /// The node's name: 1 to [`NODE_BYTES_MAX`] bytes of printable ASCII.
    pub node: String,
    /// When the node's process started: tells its lives apart.
    pub incarnation: u64,
    /// Fresh random bytes, for the keys of this life of the link.
    pub random: [u8; 32],
    /// Workers of the node, 1 to [`WORKERS_MAX`]; 0 of a distributor, which makes no queue pairs.
    pub workers: u16,
    /// The fabric between the two; both must use the same.
    pub driver: Driver,
    /// What the node offers; the queue pairs get the smaller of each. Checked once agreed.
    pub limits: Limits,
}

/// What one end offers for one queue pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Number of the queue pair, from 0 on and in order.
    pub index: u16,
    /// A descriptor comes with the first byte of this message's record.
    pub with_descriptor: bool,
    /// The driver's own bytes, at most [`OFFER_BYTES_MAX`].
    pub bytes: Vec<u8>,
}

/// Why an end closes the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// The node ends, or has the other one no longer among its peers.
    Leaving = 1,
    /// The other node is no peer of this one, or its certificate is not for the name it says.
    NotPeer = 2,
    /// The two use different fabrics.
    Driver = 3,
    /// The limits agreed are of no use.
    Limits = 4,
    /// What the other end said is malformed, out of order, or nothing to connect to.
    Protocol = 5,
    /// The other end did not say in time what was due.
    Silent = 6,
    /// A queue pair failed: all of them are to be made anew.
    Failed = 7,
    /// This end's worker or fabric cannot take the queue pairs.
    Unable = 8,
    /// The port below this end's queue pairs is down.
    Down = 9,
}

impl Reason {
    const ALL: [Reason; 9] = [
        Reason::Leaving,
        Reason::NotPeer,
        Reason::Driver,
        Reason::Limits,
        Reason::Protocol,
        Reason::Silent,
        Reason::Failed,
        Reason::Unable,
        Reason::Down,
    ];
}

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The first of each end.
    Hello(Hello),
    /// One for each queue pair.
    Offer(Offer),
    /// Every queue pair is ready at this end.
    Connected,
    /// The end is alive.
    Heartbeat,
    /// A key with which the cluster seals and opens tickets.
    TicketKey(TicketKey),
    /// Clients whose sessions the node has, to a distributor; at most [`SESSIONS_MAX`].
    Sessions(Vec<Session>),
    /// How the node fares, to a distributor.
    State(NodeState),
    /// Where a distributor is on the network of its port, to another one; at most [`STATION_ADDRESSES_MAX`] addresses.
    Station(Vec<IpAddr>),
    /// The last.
    Bye(Reason),
}

/// What is wrong with a peer's bytes; nothing after them can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// They do not begin as a link does.
    #[error("it does not begin as a link of keyferry does: check the address")]
    Magic,
    /// Another version; both are named.
    #[error("it speaks link version {theirs}, this node {VERSION}: run the same release on both")]
    Version {
        /// The peer's.
        theirs: u32,
    },
    /// A length that its fields contradict, or beyond the bound.
    #[error("one of its messages has a wrong length")]
    Length,
    /// The name is empty or not printable ASCII.
    #[error("its node name is not 1 to {NODE_BYTES_MAX} bytes of printable ASCII")]
    Node,
    /// No workers, or too many; or those of a distributor.
    #[error("its number of workers is not 1 to {WORKERS_MAX}, or not 0 of a distributor")]
    Workers,
    /// A role this release does not know.
    #[error("it has role number {0}, which this release does not know")]
    Role(u8),
    /// A driver this release does not know.
    #[error("it uses fabric driver number {0}, which this release does not know")]
    Driver(u8),
    /// A kind, reason or flag this version does not know.
    #[error("one of its messages is of a kind that link version {VERSION} does not know")]
    Kind,
}

impl Role {
    /// What it is called.
    pub fn name(self) -> &'static str {
        match self {
            Role::Node => "node",
            Role::Distributor => "distributor",
        }
    }

    fn number(self) -> u8 {
        match self {
            Role::Node => 1,
            Role::Distributor => 2,
        }
    }

    fn from_number(number: u8) -> Option<Role> {
        [Role::Node, Role::Distributor].into_iter().find(|role| role.number() == number)
    }
}

impl Driver {
    /// Its number on the wire.
    fn number(self) -> u8 {
        match self {
            Driver::Shm => 1,
            Driver::Verbs => 2,
        }
    }

    fn from_number(number: u8) -> Option<Driver> {
        [Driver::Shm, Driver::Verbs].into_iter().find(|driver| driver.number() == number)
    }
}

impl Message {
    /// Appends the wire form.
    ///
    /// # Panics
    /// If a field of ours is out of its bounds.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::Hello(hello) => hello.encode(out),
            Message::Offer(offer) => {
                assert!(offer.bytes.len() <= OFFER_BYTES_MAX, "a driver's offer is bounded");
                header(out, OFFER, OFFER_FIXED_BYTES + offer.bytes.len());
                out.extend(offer.index.to_le_bytes());
                out.push(offer.with_descriptor.into());
                out.extend(&offer.bytes);
            }
            Message::Connected => header(out, CONNECTED, 0),
            Message::Heartbeat => header(out, HEARTBEAT, 0),
            Message::TicketKey(key) => {
                header(out, TICKET_KEY, TICKET_KEY_MESSAGE_BYTES);
                out.extend(key.name);
                out.extend(&key.key[..]);
                for seconds in [key.seals_in_s, key.seals_until_s, key.opens_until_s] {
                    out.extend(seconds.to_le_bytes());
                }
            }
            Message::Sessions(sessions) => {
                assert!(sessions.len() <= SESSIONS_MAX, "announcements are cut into messages");
                header(out, SESSIONS, SESSION_BYTES * sessions.len());
                for session in sessions {
                    out.extend(mapped(session.client));
                    out.extend(session.lifetime_s.to_le_bytes());
                }
            }
            Message::State(state) => {
                header(out, STATE, STATE_BYTES);
                out.push(state.draining.into());
                out.extend(state.connections.to_le_bytes());
                out.extend(state.requests.to_le_bytes());
            }
            Message::Station(addresses) => {
                assert!(addresses.len() <= STATION_ADDRESSES_MAX, "the caller keeps to the bound");
                header(out, STATION, 16 * addresses.len());
                addresses.iter().for_each(|address| out.extend(mapped(*address)));
            }
            Message::Bye(reason) => {
                header(out, BYE, 1);
                out.push(*reason as u8);
            }
        }
    }

    /// The message of a frame's kind and payload.
    pub(super) fn decode(kind: u8, payload: &[u8]) -> Result<Message, WireError> {
        let mut fields = Fields(payload);
        let message = match kind {
            OFFER => {
                let index = u16::from_le_bytes(fields.take()?);
                let with_descriptor = flag(fields.take()?)?;
                Message::Offer(Offer { index, with_descriptor, bytes: fields.rest().to_vec() })
            }
            CONNECTED => Message::Connected,
            HEARTBEAT => Message::Heartbeat,
            TICKET_KEY => Message::TicketKey(TicketKey {
                name: fields.take()?,
                key: Zeroizing::new(fields.take()?),
                seals_in_s: u32::from_le_bytes(fields.take()?),
                seals_until_s: u32::from_le_bytes(fields.take()?),
                opens_until_s: u32::from_le_bytes(fields.take()?),
            }),
            SESSIONS => {
                let mut sessions = Vec::with_capacity(payload.len() / SESSION_BYTES);
                while !fields.is_empty() {
                    let client = Ipv6Addr::from(fields.take::<16>()?).to_canonical();
                    let lifetime_s = u32::from_le_bytes(fields.take()?);
                    sessions.push(Session { client, lifetime_s });
                }
                Message::Sessions(sessions)
            }
            STATE => Message::State(NodeState {
                draining: flag(fields.take()?)?,
                connections: u32::from_le_bytes(fields.take()?),
                requests: u32::from_le_bytes(fields.take()?),
            }),
            STATION => {
                let mut addresses = Vec::with_capacity(payload.len() / 16);
                while !fields.is_empty() {
                    addresses.push(Ipv6Addr::from(fields.take::<16>()?).to_canonical());
                }
                Message::Station(addresses)
            }
            BYE => {
                let [number] = fields.take()?;
                let reason = Reason::ALL.into_iter().find(|reason| *reason as u8 == number);
                Message::Bye(reason.ok_or(WireError::Kind)?)
            }
            _ => return Err(WireError::Kind),
        };
        fields.end()?;
        Ok(message)
    }

    /// Longest payload of a kind, so that a length is refused before its bytes are waited for.
    pub(super) fn payload_max(kind: u8) -> Result<usize, WireError> {
        match kind {
            OFFER => Ok(PAYLOAD_BYTES_MAX),
            CONNECTED | HEARTBEAT => Ok(0),
            TICKET_KEY => Ok(TICKET_KEY_MESSAGE_BYTES),
            SESSIONS => Ok(SESSIONS_MAX * SESSION_BYTES),
            STATE => Ok(STATE_BYTES),
            STATION => Ok(16 * STATION_ADDRESSES_MAX),
            BYE => Ok(1),
            _ => Err(WireError::Kind),
        }
    }
}

/// An address as IPv6; one of IPv4 as IPv6 maps it (RFC 4291 2.5.5.2).
fn mapped(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

fn flag([byte]: [u8; 1]) -> Result<bool, WireError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireError::Kind),
    }
}

fn header(out: &mut Vec<u8>, kind: u8, len: usize) {
    out.extend([kind, 0]);
    out.extend((len as u16).to_le_bytes());
}

impl Hello {
    fn encode(&self, out: &mut Vec<u8>) {
        let name = self.node.as_bytes();
        assert!(is_name(name), "a node's name is checked when it is configured");
        out.extend(MAGIC);
        out.extend(VERSION.to_le_bytes());
        out.extend(((HELLO_FIXED_BYTES + name.len()) as u32).to_le_bytes());
        out.extend(self.incarnation.to_le_bytes());
        out.extend(self.random);
        out.push(self.role.number());
        out.extend(self.workers.to_le_bytes());
        out.push(self.driver.number());
        let limits = &self.limits;
        for value in [
            limits.message_bytes_max,
            limits.receives,
            limits.posted_max,
            limits.slots_bytes,
            limits.staging_bytes,
        ] {
            out.extend((value as u64).to_le_bytes());
        }
        out.push(name.len() as u8);
        out.extend(name);
    }

    /// The body's length from a hello's first bytes.
    pub(super) fn decode_prefix(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, WireError> {
        let mut fields = Fields(prefix);
        if fields.take()? != MAGIC {
            return Err(WireError::Magic);
        }
        let theirs = u32::from_le_bytes(fields.take()?);
        if theirs != VERSION {
            return Err(WireError::Version { theirs });
        }
        let len = u32::from_le_bytes(fields.take()?) as usize;
        if (HELLO_FIXED_BYTES + 1..=BODY_BYTES_MAX).contains(&len) { Ok(len) } else { Err(WireError::Length) }
    }

    pub(super) fn decode_body(body: &[u8]) -> Result<Hello, WireError> {
        let mut fields = Fields(body);
        let incarnation = u64::from_le_bytes(fields.take()?);
        let random = fields.take()?;
        let [role] = fields.take()?;
        let role = Role::from_number(role).ok_or(WireError::Role(role))?;
        let workers = u16::from_le_bytes(fields.take()?);
        let fits = match role {
            Role::Node => 1..=WORKERS_MAX,
            Role::Distributor => 0..=0,
        };
        if !fits.contains(&workers) {
            return Err(WireError::Workers);
        }
        let [driver] = fields.take()?;
        let driver = Driver::from_number(driver).ok_or(WireError::Driver(driver))?;
        let limits = Limits {
            message_bytes_max: fields.size()?,
            receives: fields.size()?,
            posted_max: fields.size()?,
            slots_bytes: fields.size()?,
            staging_bytes: fields.size()?,
        };
        let [len] = fields.take()?;
        let name = fields.rest();
        if name.len() != usize::from(len) {
            return Err(WireError::Length);
        }
        if !is_name(name) {
            return Err(WireError::Node);
        }
        let node = String::from_utf8(name.to_vec()).map_err(|_| WireError::Node)?;
        Ok(Hello { role, node, incarnation, random, workers, driver, limits })
    }
}

fn is_name(name: &[u8]) -> bool {
    (1..=NODE_BYTES_MAX).contains(&name.len()) && name.iter().all(u8::is_ascii_graphic)
}

/// Fields of a message, in order.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(WireError::Length)?;
        self.0 = rest;
        Ok(*head)
    }

    /// A size, which this machine may be too small for: then the bounds of [`Limits`] refuse it all the same.
    fn size(&mut self) -> Result<usize, WireError> {
        Ok(usize::try_from(u64::from_le_bytes(self.take()?)).unwrap_or(usize::MAX))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Length) }
    }
}
