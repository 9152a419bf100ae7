//! TCP as the rest of a worker sees it: connections of clients to our listening ports, or ours to servers.
//!
//! In: IP packets, segments to send, the time. Out: IP packets through an [`Egress`], events, received bytes lent
//! as slices, and each sent segment back once it is no longer needed. Sans-IO; each worker owns one [`Tcp`].
//!
//! Behind this seam is a TCP for the open Internet (RFC 9293 and what it names). `ingress` sorts packets; `opening` and
//! `active` shake hands, `half_open` and `time_wait` keep what is no connection yet, or no longer, in fixed tables;
//! `arrive`, `acknowledge`, `timeouts` and `transmit` move a `connection`; `receive` and `sending` hold its bytes while
//! there are any, `flight`, `rack` and `recovery` know what is under way, and `congestion` how much may be.

#![forbid(unsafe_code)]

mod acknowledge;
mod active;
mod arrive;
mod buffers;
mod config;
mod congestion;
mod connection;
mod cookies;
mod counters;
mod draft;
mod egress;
mod flight;
mod flow;
mod half_open;
mod ingress;
mod list;
mod opening;
mod outbound;
mod packet;
mod path_mtu;
mod rack;
mod reassembly;
mod receive;
mod recovery;
mod rtt;
mod seam;
mod sending;
mod sequence;
mod slab;
mod sum;
mod time_wait;
mod timeouts;
mod transmit;

pub use active::ConnectError;
pub use config::{
    ACK_DELAY_MAX, Algorithm, Config, EGRESS_PER_VISIT_MAX, FIN_WAIT, INITIAL_SEGMENTS_MAX, KeepAlive,
    RxChecksum, SEGMENTS_GROWN_MAX, SEGMENTS_MAX, Stretch, TIME_WAIT, TSO_PACKET_BYTES_MAX, Times, Tuning,
};
pub use counters::{CloseReason, Counters, DropReason};
pub use ingress::Arrived;
pub use list::List;
pub use outbound::Outbound;
pub use packet::is_open_request;
pub use seam::{ConnId, Egress, Event, Segment, Tcp};
pub use slab::{MemoryHint, Slab, no_hint};
