//! An entry of the flow table: a connection, its node, and how much it matters.
//!
//! In: segments of it. Out: what is known, and what gives way when there is no room. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use keyferry_time::Time;
use siphasher::sip::SipHasher13;

use crate::NodeId;
use crate::packet::{Flow, Segment};
use crate::peers::notice::Stage;
use crate::ways::OVER;

/// A client that does not go on with its handshake: half as long as Linux' servers wait.
const OPENING_TIME: Duration = Duration::from_secs(30);
/// Silence after a FIN or a reset.
const CLOSING_TIME: Duration = Duration::from_secs(60);

/// A connection's key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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

    pub(crate) fn hash(&self, seed: u64) -> u64 {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.client);
        bytes[16..].copy_from_slice(&(u32::from(self.port) << 16 | u32::from(self.service)).to_le_bytes());
        SipHasher13::new_with_keys(seed, 0).hash(&bytes)
    }
}

/// Either kind of address; one of IPv4 as IPv6 maps it (RFC 4291 2.5.5.2).
pub(crate) fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
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
/// here. Together they are two bytes: an entry of the table has 32 with its key, half a cache line.
const TOLD: u16 = 1 << 15;

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

    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node & !TOLD)
    }

    /// Whether its segments come here.
    pub(crate) fn is_ours(&self) -> bool {
        self.node & TOLD == 0
    }

    /// Takes note of a segment; answers whether the connection has come further.
    pub(crate) fn hear(&mut self, now: Time, segment: &Segment) -> bool {
        let before = self.stage;
        if segment.ack && !segment.fin && !segment.rst {
            self.hear_ack(now, segment.acknowledges);
            return self.stage != before;
        }
        (self.seen, self.node) = (tick(now), self.node().0);
        if segment.ack {
            self.acknowledged = segment.acknowledges;
        }
        if segment.fin || segment.rst {
            self.stage = Stage::Closing;
        }
        self.stage != before
    }

    /// Takes note of a segment in the midst of a connection.
    pub(crate) fn hear_ack(&mut self, now: Time, acknowledges: u32) {
        (self.seen, self.acknowledged, self.node) = (tick(now), acknowledges, self.node().0);
        if self.stage < Stage::Closing {
            self.stage = Stage::Answered;
        }
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
