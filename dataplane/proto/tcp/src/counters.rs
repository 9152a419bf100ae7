//! What a worker's TCP counts: connections by how they end, packets by why they are dropped.
//!
//! Plain numbers, written by the worker, exported by the control thread.

/// How a connection ended that was announced by `Event::Opened`, or that we began.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum CloseReason {
    /// Both sides closed, and everything was acknowledged.
    Finished,
    /// The peer reset it.
    Reset,
    /// `Tcp::abort` was called.
    Aborted,
    /// No progress within the idle time-out, or no answer to our SYN.
    IdleTimeout,
    /// Closed by us, the peer kept its half open beyond [`FIN_WAIT`](crate::FIN_WAIT).
    FinWaitTimeout,
}

impl CloseReason {
    /// Every reason, in the order of [`CloseReason::index`].
    pub const ALL: [CloseReason; 5] = [
        CloseReason::Finished,
        CloseReason::Reset,
        CloseReason::Aborted,
        CloseReason::IdleTimeout,
        CloseReason::FinWaitTimeout,
    ];

    /// Its place in [`Counters::closed`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            CloseReason::Finished => "finished",
            CloseReason::Reset => "reset",
            CloseReason::Aborted => "aborted",
            CloseReason::IdleTimeout => "idle_timeout",
            CloseReason::FinWaitTimeout => "fin_wait_timeout",
        }
    }
}

/// Why a received packet was dropped or a handshake given up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum DropReason {
    /// Headers that contradict themselves.
    Malformed,
    /// Wrong IPv4 or TCP checksum.
    Checksum,
    /// Not for one of our addresses.
    OtherAddress,
    /// A SYN, or the last acknowledgement of a handshake, while the number of connections was at its limit.
    ConnectionsFull,
    /// A SYN to a port that is not listened on; answered with RST.
    PortClosed,
    /// Of no known connection; answered with RST, unless it may have overtaken a third segment with a cookie.
    Stray,
    /// A half-open connection that found no room, or made room for a newer one: only its peer remembers it.
    HalfOpenEvicted,
    /// A half-open connection whose handshake was not completed in time.
    HalfOpenTimeout,
    /// A half-open connection reset by the peer.
    HalfOpenReset,
    /// A segment that is not acceptable (RFC 9293 section 3.10.7.4): old, beyond the window, a probe, or with a
    /// flag that has no place there. It is acknowledged, as it must be, and changes nothing.
    Unacceptable,
    /// A segment of a connection in TIME-WAIT that wants no answer.
    TimeWait,
    /// An answer, such as a duplicate acknowledgement or a reset, found no room to be sent.
    NoRoom,
}

impl DropReason {
    /// Every reason, in the order of [`DropReason::index`].
    pub const ALL: [DropReason; 12] = [
        DropReason::Malformed,
        DropReason::Checksum,
        DropReason::OtherAddress,
        DropReason::ConnectionsFull,
        DropReason::PortClosed,
        DropReason::Stray,
        DropReason::HalfOpenEvicted,
        DropReason::HalfOpenTimeout,
        DropReason::HalfOpenReset,
        DropReason::Unacceptable,
        DropReason::TimeWait,
        DropReason::NoRoom,
    ];

    /// Whether it counts received packets; the others count handshakes given up and answers not sent.
    pub const fn is_of_packets(self) -> bool {
        !matches!(
            self,
            DropReason::HalfOpenEvicted
                | DropReason::HalfOpenTimeout
                | DropReason::HalfOpenReset
                | DropReason::NoRoom
        )
    }

    /// Its place in [`Counters::drops`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::Checksum => "checksum",
            DropReason::OtherAddress => "other_address",
            DropReason::ConnectionsFull => "connections_full",
            DropReason::PortClosed => "port_closed",
            DropReason::Stray => "stray",
            DropReason::HalfOpenEvicted => "half_open_evicted",
            DropReason::HalfOpenTimeout => "half_open_timeout",
            DropReason::HalfOpenReset => "half_open_reset",
            DropReason::Unacceptable => "unacceptable",
            DropReason::TimeWait => "time_wait",
            DropReason::NoRoom => "no_room",
        }
    }
}

/// Counters since start, and two present numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// SYNs that got a half-open connection.
    pub accepted: u64,
    /// Connections we began.
    pub begun: u64,
    /// Handshakes completed.
    pub opened: u64,
    /// Connections ended whose handshake was completed, by [`CloseReason::index`].
    pub closed: [u64; CloseReason::ALL.len()],
    /// Packets and handshakes dropped, by [`DropReason::index`].
    pub drops: [u64; DropReason::ALL.len()],
    /// Packets received for TCP: those of handshakes, of flows, answered for TIME-WAIT, and dropped.
    pub packets_in: u64,
    /// Packets that handshakes took: SYNs, repeated ones, resets.
    pub handshake_packets: u64,
    /// Packets that connections took.
    pub flow_packets: u64,
    /// Packets answered for connections in TIME-WAIT.
    pub time_wait_packets: u64,
    /// SYN-ACKs sent again.
    pub syn_acks_again: u64,
    /// Packets handed to the egress.
    pub packets_out: u64,
    /// Half-open connections right now.
    pub half_open: u64,
    /// Connections whose handshake was forgotten and made out from what the peer returned.
    pub cookies: u64,
    /// Connections that had to let go of bytes out of order, for want of memory.
    pub reneged: u64,
    /// Connections whose segments got smaller because a router said so.
    pub path_mtu_told: u64,
    /// Such words that were about nothing under way, or no news.
    pub path_mtu_ignored: u64,
    /// Connections whose segments got smaller because large ones vanished.
    pub path_mtu_suspected: u64,
    /// Segments that were larger than the others and arrived, so that the others became as large.
    pub path_mtu_raised: u64,
    /// Connections in TIME-WAIT right now; they hold neither buffers nor a place among the connections.
    pub time_wait: u64,
}

impl Counters {
    pub(crate) fn drop(&mut self, reason: DropReason) {
        self.drops[reason.index()] += 1;
    }
}
