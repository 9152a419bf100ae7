//! TCP as the rest of a worker sees it: connections of clients to our listening ports, or ours to servers.
//!
//! In: IP packets, segments to send, the time. Out: IP packets through an [`Egress`], events, received bytes lent
//! as slices, and each sent segment back once it is no longer needed. Sans-IO; each worker owns one [`Tcp`].
//!
//! Behind this seam is one stock smoltcp socket per connection, each in a socket set of its own so that a packet's
//! cost does not grow with the number of connections. What a listener needs beyond a socket is here: the flow
//! table, limits and time-outs of half-open and idle connections, handshakes and TIME-WAIT without sockets, and the
//! queue of owned segments.

#![forbid(unsafe_code)]

mod active;
mod config;
mod connection;
mod counters;
mod egress;
mod flow;
mod half_open;
mod ingress;
mod list;
mod opening;
mod packet;
mod seam;
mod sequence;
mod time_wait;
mod wire;

pub use active::ConnectError;
pub use config::{
    ACK_DELAY, Config, EGRESS_PER_VISIT_MAX, FIN_WAIT, RxChecksum, SEGMENTS_MAX, TIME_WAIT,
    TSO_PACKET_BYTES_MAX,
};
pub use counters::{CloseReason, Counters, DropReason};
pub use list::List;
pub use seam::{ConnId, Egress, Event, Segment, Tcp};
