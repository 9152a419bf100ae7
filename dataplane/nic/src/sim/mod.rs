//! Ports in memory, on links in virtual time: for tests, simulations and benches, without DPDK.
//!
//! In: frames sent into [`Queue`]s, and a [`Net`] that is told how far time has come. Out: the same frames at the other
//! end of the link, as its [`Wire`] says: late, twice, damaged or not at all. A port does what its options say and
//! no more, so both the offloads and their software counterparts run. The order of events follows from the calls
//! alone: the same calls give the same run. After a warm-up nothing is allocated.
//!
//! A queue belongs to its worker, the net to whoever drives time; they may be different threads, but then the run is
//! no longer the same each time.

mod net;
mod offload;
mod packet;
mod pending;
mod queue;

pub use net::{Net, PortId, PortOptions};
pub use packet::Packet;
pub use pending::Arrivals;
pub use queue::Queue;

/// One direction of a link: decides when a frame arrives, in which shape, and whether at all.
pub trait Wire: Send {
    /// Takes a frame sent at `sent_ns` and says through `arrivals` what comes of it. `frame` may be changed.
    fn carry(&mut self, sent_ns: u64, frame: &mut [u8], arrivals: &mut Arrivals<'_>);
}

/// A perfect wire with a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// Nanoseconds from one end to the other.
    pub ns: u64,
}

impl Wire for Latency {
    fn carry(&mut self, sent_ns: u64, frame: &mut [u8], arrivals: &mut Arrivals<'_>) {
        arrivals.at(sent_ns.saturating_add(self.ns), frame);
    }
}

#[cfg(test)]
mod tests;
