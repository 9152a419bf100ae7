//! An entry of the flow table: a connection, its node, and how much it matters.
//!
//! In: segments of it. Out: what is known, and what gives way when there is no room. Pure.

use std::hash::{BuildHasher as _, Hasher as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ahash::RandomState;
use keyferry_time::Time;
use siphasher::sip::SipHasher13;

use crate::packet::{Flow, Segment};
use crate::peers::notice::Stage;
use crate::ways::OVER;
use crate::{NODES_MAX, NodeId};

/// A client that does not go on with its handshake: half as long as Linux' servers wait.
const OPENING_TIME: Duration = Duration::from_secs(30);
/// Silence after a FIN or a reset.
const CLOSING_TIME: Duration = Duration::from_secs(60);

/// A connection's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FlowKey {
    pub(crate) client: [u8; 16],
    pub(crate) port: u16,
    pub(crate) service: u16,
}

impl FlowKey {
    pub(crate) fn of(flow: &Flow, service: usize) -> FlowKey {
        FlowKey { client: bytes(flow.client.ip()), port: flow.client.port(), service: service as u16 }
    }

    pub(crate) fn flow(&self, service: SocketAddr) -> Flow {
        Flow { client: SocketAddr::new(address(self.client), self.port), service }
    }

    /// Client's port and service.
    fn ends(&self) -> u32 {
        u32::from(self.port) << 16 | u32::from(self.service)
    }

    /// Which place of all services' the flow has: the same at every distributor with this seed.
    pub(crate) fn place(&self, seed: u64) -> u64 {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.client);
        bytes[16..].copy_from_slice(&self.ends().to_le_bytes());
        SipHasher13::new_with_keys(seed, 0).hash(&bytes)
    }
}

/// Spreads connections and clients over this distributor's tables. Keyed, so that a client cannot tell whose buckets it fills; the
/// secret is not what protects a packet, and so it need not cost what a message authentication code does.
pub(crate) struct Spread(RandomState);

impl Spread {
    pub(crate) fn new(seed: u64) -> Spread {
        let [a, b, c, d] =
            [0u64, 1, 2, 3].map(|part| SipHasher13::new_with_keys(seed, 3).hash(&part.to_le_bytes()));
        Spread(RandomState::with_seeds(a, b, c, d))
    }

    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        let mut hasher = self.0.build_hasher();
        let client = u128::from_le_bytes(key.client);
        if client << 32 == MAPPED << 32 {
            // One multiplication in place of two.
            hasher.write_u64((client >> 64) as u64 & !0xffff_ffff | u64::from(key.ends()));
        } else {
            hasher.write_u128(client);
            hasher.write_u32(key.ends());
        }
        hasher.finish()
    }

    /// The same for clients of a service.
    #[inline]
    pub(crate) fn hash_client(&self, client: &[u8; 16], service: u16) -> u64 {
        let mut hasher = self.0.build_hasher();
        hasher.write_u128(u128::from_le_bytes(*client));
        hasher.write_u16(service);
        hasher.finish()
    }
}

/// Either kind of address; one of IPv4 as IPv6 maps it (RFC 4291 2.5.5.2).
pub(crate) fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => mapped(address.octets()),
        IpAddr::V6(address) => address.octets(),
    }
}

/// The first bytes of an address of IPv4 as IPv6 maps it, as their number.
const MAPPED: u128 = 0xffff << 80;

/// An address of IPv4 as IPv6 maps it. Put together as one number, which stays in registers: bytes that are stored one after
/// the other and then read together wait until they are in the cache.
#[inline]
pub(crate) fn mapped(ipv4: [u8; 4]) -> [u8; 16] {
    (MAPPED | u128::from(u32::from_le_bytes(ipv4)) << 96).to_le_bytes()
}

/// The address again.
pub(crate) fn address(bytes: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(bytes).to_canonical()
}

/// A moment, in 2^24 ns: coarse, so that it is small. It wraps after two years.
pub(crate) type Tick = u32;

pub(crate) fn tick(now: Time) -> Tick {
    (now.0 >> 24) as Tick
}

pub(crate) fn ticks(time: Duration) -> Tick {
    Tick::try_from(time.as_nanos() >> 24).unwrap_or(Tick::MAX / 2).min(Tick::MAX / 2)
}

/// Whether a moment has passed.
pub(crate) fn is_past(until: Tick, now: Tick) -> bool {
    now.wrapping_sub(until) < Tick::MAX / 2
}

/// Set beside the number of a node if another distributor has told of the connection and none of its segments has come
/// here. Together with the next one they are two bytes: an entry of the table has 32 with its key, half a cache line.
const TOLD: u16 = 1 << 15;
/// Set if no other distributor has been told of what is known here.
const ALONE: u16 = 1 << 14;
const _: () = assert!(NODES_MAX <= ALONE as usize);

/// A period in ticks, as a power of two: about two seconds.
const PERIOD_BITS: u32 = 7;

/// What is known of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    node: u16,
    /// In which of the node's lives it began.
    pub(crate) life: u8,
    pub(crate) stage: Stage,
    pub(crate) seen: Tick,
    /// The client has got all before this.
    pub(crate) acknowledged: u32,
}

const _: () = assert!(size_of::<Option<(FlowKey, Known)>>() == 32);

/// Silence after which an entry is over, by its stage.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    opening: Tick,
    closing: Tick,
    open: Tick,
}

impl Times {
    pub(crate) fn new(idle_time: Duration) -> Times {
        Times { opening: ticks(OPENING_TIME), closing: ticks(CLOSING_TIME), open: ticks(idle_time) }
    }
}

impl Known {
    /// A connection of which a segment has come here.
    pub(crate) fn new(now: Time, node: NodeId, life: u8, stage: Stage) -> Known {
        Known { node: node.0, life, stage, seen: tick(now), acknowledged: 0 }
    }

    /// One that another distributor has told of.
    pub(crate) fn told(now: Time, node: NodeId, life: u8, stage: Stage) -> Known {
        Known { node: node.0 | TOLD, ..Known::new(now, node, life, stage) }
    }

    /// The same, and nobody else is told.
    pub(crate) fn alone(self) -> Known {
        Known { node: self.node | ALONE, ..self }
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node & !(TOLD | ALONE))
    }

    /// Whether its segments come here.
    pub(crate) fn is_ours(&self) -> bool {
        self.node & TOLD == 0
    }

    /// Whether nobody else has been told.
    pub(crate) fn is_alone(&self) -> bool {
        self.node & ALONE != 0
    }

    /// Takes note of a segment; answers whether the connection has come further, which others have to be told.
    pub(crate) fn hear(&mut self, now: Time, segment: &Segment) -> bool {
        let before = self.stage;
        if segment.ack && !segment.fin && !segment.rst {
            self.hear_ack(now, segment.acknowledges);
            return self.stage != before;
        }
        (self.seen, self.node) = (tick(now), self.node & !TOLD);
        if segment.ack {
            self.acknowledged = segment.acknowledges;
        }
        if segment.fin || segment.rst {
            self.come_to(Stage::Closing);
        }
        self.stage != before
    }

    /// Takes note of a segment in the midst of a connection.
    #[inline]
    pub(crate) fn hear_ack(&mut self, now: Time, acknowledges: u32) {
        (self.seen, self.acknowledged, self.node) = (tick(now), acknowledges, self.node & !TOLD);
        if self.stage < Stage::Closing {
            self.come_to(Stage::Answered);
        }
    }

    /// Others have it at this node, or will be told.
    pub(crate) fn share(&mut self) {
        self.node &= !ALONE;
    }

    /// Comes further, which others are told.
    fn come_to(&mut self, stage: Stage) {
        self.stage = stage;
        self.share();
    }

    /// Whether its last segment came in an earlier period of about two seconds: what is asked of a connection then need not
    /// be asked for each segment.
    #[inline]
    pub(crate) fn is_first_in_period(&self, now: Time) -> bool {
        self.seen >> PERIOD_BITS != tick(now) >> PERIOD_BITS
    }

    /// Whether the connection is open, and its client to be asked for again: whether a node has a session of it. Not for each
    /// segment, which would look for two entries in place of one.
    #[inline]
    pub(crate) fn is_to_prove(&self, now: Time) -> bool {
        self.stage == Stage::Answered && self.is_first_in_period(now)
    }

    /// Whether it has been silent for longer than one of its stage may be. It is forgotten when somebody comes across it.
    #[inline]
    pub(crate) fn is_over(&self, now: Time, times: Times) -> bool {
        self.matters(tick(now), times) == OVER
    }

    /// Whether a SYN means another connection.
    pub(crate) fn may_begin_again(&self) -> bool {
        matches!(self.stage, Stage::Stray | Stage::Closing)
    }

    /// Whether its segments have come here within so long.
    pub(crate) fn was_heard_within(&self, time: Duration, now: Tick) -> bool {
        self.is_ours() && now.wrapping_sub(self.seen) <= ticks(time)
    }

    /// Those of clients with a session matter most, then other open ones, half-open ones least, and those heard of lately
    /// more than others.
    pub(crate) fn matters(&self, now: Tick, times: Times) -> u64 {
        let silence = now.wrapping_sub(self.seen);
        let (rank, patience) = match self.stage {
            Stage::Stray | Stage::Opening => (1, times.opening),
            Stage::Closing => (2, times.closing),
            Stage::Answered => (3, times.open),
            Stage::Served => (4, times.open),
        };
        if silence > patience { OVER } else { rank << 32 | u64::from(Tick::MAX - silence) }
    }
}
