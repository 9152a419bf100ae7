//! An entry of the flow table: a connection, its node, and how much it matters.
//!
//! In: segments of it. Out: what is known, and what gives way when there is no room. Pure.

use std::hash::Hasher;
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
        let mut hasher = SipHasher13::new_with_keys(seed, 0);
        hasher.write(&self.client);
        hasher.write_u32(u32::from(self.port) << 16 | u32::from(self.service));
        hasher.finish()
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

/// What is known of a connection.
#[derive(Clone, Copy)]
pub(crate) struct Known {
    pub(crate) node: NodeId,
    /// In which of the node's lives it began.
    pub(crate) life: u8,
    pub(crate) stage: Stage,
    /// Its segments come here; otherwise another distributor has told of it.
    pub(crate) is_ours: bool,
    pub(crate) seen: Tick,
    /// The client has got all before this.
    pub(crate) acknowledged: u32,
}

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
    /// Takes note of a segment; answers whether the connection has come further.
    pub(crate) fn hear(&mut self, now: Time, segment: &Segment) -> bool {
        let before = self.stage;
        (self.seen, self.is_ours) = (tick(now), true);
        if segment.ack {
            self.acknowledged = segment.acknowledges;
        }
        if segment.fin || segment.rst {
            self.stage = Stage::Closing;
        } else if self.stage < Stage::Closing && segment.ack {
            self.stage = Stage::Answered;
        }
        self.stage != before
    }

    /// Whether a SYN means another connection.
    pub(crate) fn may_begin_again(&self) -> bool {
        matches!(self.stage, Stage::Stray | Stage::Closing)
    }

    /// Whether its segments have come here within so long.
    pub(crate) fn was_heard_within(&self, time: Duration, now: Tick) -> bool {
        self.is_ours && now.wrapping_sub(self.seen) <= ticks(time)
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
