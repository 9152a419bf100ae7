//! What a worker's TCP is told at start, and every limit it keeps by itself.
//!
//! In: the validated configuration. Plain values.

use std::net::IpAddr;
use std::time::Duration;

/// Segments of one connection queued by `send` or waiting to be collected from `released`, at most.
pub const SEGMENTS_MAX: usize = 8;

/// Packets one connection sends before the next gets its turn, at most.
pub const EGRESS_PER_VISIT_MAX: usize = 16;

/// How long an acknowledgement waits for data to ride on (RFC 9293 section 3.8.6.3 allows 500 ms).
pub const ACK_DELAY: Duration = Duration::from_millis(10);

/// How long a connection closed by both sides answers retransmissions (2 MSL, RFC 9293 section 3.4.2; we take
/// an MSL of 5 s, as the sockets do).
pub const TIME_WAIT: Duration = Duration::from_secs(10);

/// How long the peer may keep its half open after ours is closed and acknowledged.
pub const FIN_WAIT: Duration = Duration::from_secs(10);

/// Largest IP packet handed over for segmentation: its length field has 16 bits.
pub const TSO_PACKET_BYTES_MAX: u32 = 65_535;

/// When a SYN-ACK that is not acknowledged is sent again the first time (RFC 6298 section 2.1); each later time takes
/// twice as long.
pub(crate) const SYN_ACK_RETRY: Duration = Duration::from_secs(1);

/// Granularity of the time-outs.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Between two probes of a peer that keeps our data waiting while the socket has no timer running for it.
pub(crate) const PROBE: Duration = Duration::from_secs(1);

/// When a socket says it wants to send at once but sends nothing, it is asked again after this, not in a spin.
pub(crate) const STUCK_RETRY: Duration = Duration::from_millis(1);

const _: () = assert!(SEGMENTS_MAX <= u8::MAX as usize);
const _: () = assert!(ACK_DELAY.as_millis() * 100 <= TIME_WAIT.as_millis());

/// Who checks the checksums of received packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RxChecksum {
    /// Software, always.
    Verify,
    /// The port, where it vouches for the packet; software where it does not.
    Trust,
}

/// What a worker's TCP is, fixed at start.
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
    /// Half-open connections at a time, at most, besides; each costs a hundred bytes. A further SYN takes the place
    /// of the oldest.
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
    /// Largest TCP payload of a packet handed over for segmentation; 0: none. Needs `tx_checksum_offload`.
    pub tso_bytes_max: u32,
    /// Makes sequence numbers and the flow table unpredictable: random outside of simulations.
    pub seed: u64,
}
