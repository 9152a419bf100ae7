//! What a worker's TCP is told at start, and every limit it keeps by itself.
//!
//! In: the validated configuration. Plain values.

use std::net::IpAddr;
use std::time::Duration;

pub use crate::congestion::Algorithm;

/// Segments of one connection queued by `send` or waiting to be collected from `released`, at most, while its path has
/// not shown that it needs more.
pub const SEGMENTS_MAX: usize = 8;

/// The same for a connection whose window has grown beyond what these hold.
pub const SEGMENTS_GROWN_MAX: usize = 1 << 16;

/// Packets one connection sends before the next gets its turn, at most.
pub const EGRESS_PER_VISIT_MAX: usize = 16;

/// How long an acknowledgement may be made to wait at most (RFC 9293 section 3.8.6.3).
pub const ACK_DELAY_MAX: Duration = Duration::from_millis(500);

/// Segments of a first window, at most: BBR and CUBIC find more by themselves within a few round trips.
pub const INITIAL_SEGMENTS_MAX: u8 = 100;

/// How long a connection closed by both sides answers retransmissions (2 MSL, RFC 9293 section 3.4.2; we take
/// an MSL of 5 s).
pub const TIME_WAIT: Duration = Duration::from_secs(10);

/// How long the peer may keep its half open after ours is closed and acknowledged.
pub const FIN_WAIT: Duration = Duration::from_secs(10);

/// Largest IP packet handed over for segmentation: its length field has 16 bits.
pub const TSO_PACKET_BYTES_MAX: u32 = 65_535;

/// When a SYN-ACK that is not acknowledged is sent again the first time (RFC 6298 section 2.1); each later time takes
/// twice as long.
pub(crate) const SYN_ACK_RETRY: Duration = Duration::from_secs(1);

/// Granularity of handshakes' time-outs.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Granularity of connections' timers: what is paced goes out in steps of this.
pub(crate) const PACING_TICK: Duration = Duration::from_micros(100);

/// Between two answers to segments of one connection that are not acceptable and carry nothing (RFC 5961 section 7): two
/// peers that disagree must not answer each other for ever.
pub(crate) const CHALLENGE_INTERVAL: Duration = Duration::from_millis(100);

const _: () = assert!(SEGMENTS_MAX <= SEGMENTS_GROWN_MAX);

/// Who checks the checksums of received packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RxChecksum {
    /// Software, always.
    Verify,
    /// The port, where it vouches for the packet; software where it does not.
    Trust,
}

/// How much of a connection's stream may be handed out as one packet, which is cut into segments behind TCP: by the port
/// (TSO), or by the [`Egress`](crate::Egress) as it takes it. What a segment costs TCP is then paid once for many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// Bytes of payload, at most.
    pub bytes_max: u32,
    /// Segments, at most.
    pub segments_max: u16,
}

impl Stretch {
    /// Each packet is one segment.
    pub const SEGMENT: Stretch = Stretch { bytes_max: 0, segments_max: 1 };

    /// For a port that cuts up to so many bytes, of any number of segments.
    pub const fn of_port(bytes_max: u32) -> Stretch {
        Stretch { bytes_max, segments_max: u16::MAX }
    }

    /// For an egress that cuts into so many segments.
    pub const fn of_egress(segments_max: u16) -> Stretch {
        Stretch { bytes_max: TSO_PACKET_BYTES_MAX, segments_max }
    }
}

/// What a worker's TCP is, fixed at start but for its [`Times`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Our addresses; packets to others are dropped.
    pub addresses: Vec<IpAddr>,
    /// Ports that are listened on; others answer RST.
    pub ports: Vec<u16>,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Connections at a time, at most. Further SYNs are dropped.
    pub connections: u32,
    /// Half-open connections at a time, at most, besides; each costs a hundred bytes. Of a further SYN
    /// only its peer may remember what was agreed.
    pub half_open: u32,
    /// How long a handshake may take.
    pub half_open_timeout: Duration,
    /// How long a connection may make no progress: no new data from the peer, none of ours acknowledged.
    pub idle_timeout: Duration,
    /// Receive buffer of each connection, in bytes; the window offered.
    pub receive_bytes: usize,
    /// Send buffer of each connection, in bytes.
    pub send_bytes: usize,
    /// Who checks received checksums.
    pub rx_checksum: RxChecksum,
    /// The port fills in checksums: the TCP field then holds the pseudo-header sum, IPv4's is 0.
    pub tx_checksum_offload: bool,
    /// How much of a stream is handed out as one packet.
    pub stretch: Stretch,
    /// Makes sequence numbers and the flow table unpredictable: random outside of simulations.
    pub seed: u64,
}

/// Time-outs that may change while connections live ([`Tcp::set_times`](crate::Tcp::set_times)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Times {
    /// As [`Config::half_open_timeout`].
    pub half_open_timeout: Duration,
    /// As [`Config::idle_timeout`].
    pub idle_timeout: Duration,
    /// As [`Tuning::keep_alive`].
    pub keep_alive: Option<KeepAlive>,
    /// As [`Tuning::user_timeout`].
    pub user_timeout: Option<Duration>,
}

/// Probes of a peer that has been silent for long (RFC 9293 section 3.8.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepAlive {
    /// Silence before the first.
    pub after: Duration,
    /// Between two.
    pub every: Duration,
    /// Unanswered ones after which the connection is given up.
    pub probes: u8,
}

/// How TCP makes use of a path, fixed at start. The defaults suit the open Internet.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// How much may be under way.
    pub congestion: Algorithm,
    /// Whether sending is spread over a round trip.
    pub pacing: bool,
    /// Largest window offered: what [`Config::receive_bytes`] grows to while a caller reads fast.
    pub receive_bytes_max: usize,
    /// Memory of all receive buffers. `None`: what all connections have at [`Config::receive_bytes`], and 64 MiB to grow.
    pub receive_budget_bytes: Option<usize>,
    /// Bytes queued beyond which no connection may queue more than [`Config::send_bytes`] asks for.
    pub send_budget_bytes: usize,
    /// Probes of silent peers; `None`: none, the idle time-out ends connections.
    pub keep_alive: Option<KeepAlive>,
    /// How long data of ours may go unacknowledged; `None`: as long as the idle time-out
    /// (RFC 9293 section 3.8.3).
    pub user_timeout: Option<Duration>,
    /// How long an acknowledgement waits for data to ride on, up to [`ACK_DELAY_MAX`].
    pub ack_delay: Duration,
    /// Segments of the first window, at least 1, at most [`INITIAL_SEGMENTS_MAX`] (RFC 6928: 10).
    pub initial_segments: u8,
    /// How long after a path was found to take smaller packets only, larger ones are tried again (RFC 1191 section 6.3: ten
    /// minutes); `None`: never.
    pub mtu_raise_after: Option<Duration>,
    /// Connections whose handshake is complete and that `poll_event` has not told of, at most.
    pub accept_queue: u32,
    /// Flows kept in TIME-WAIT at a time; a further one ends that of the oldest. `None`: [`Config::connections`].
    pub time_wait: Option<u32>,
    /// Explicit congestion notification (RFC 3168) with peers that ask for it; we ask where we begin a connection.
    pub ecn: bool,
}

impl Default for Tuning {
    fn default() -> Tuning {
        Tuning {
            congestion: Algorithm::default(),
            pacing: true,
            receive_bytes_max: 4 << 20,
            receive_budget_bytes: None,
            send_budget_bytes: 256 << 20,
            keep_alive: None,
            user_timeout: None,
            ack_delay: Duration::from_millis(10),
            initial_segments: 10,
            mtu_raise_after: Some(Duration::from_secs(600)),
            accept_queue: 4096,
            time_wait: None,
            ecn: true,
        }
    }
}
