//! An open port: what the control thread keeps while workers poll its queues.
//!
//! In: [`PortOptions`]. Out: link state and counters, and the end of the port: it closes when the [`Port`] and all its
//! queues are dropped, so no queue is ever polled on a closed port. Control thread.

use std::sync::Arc;

use dpdk_sys as sys;

use super::device::Attached;
use super::setup;
use super::{Eal, OpenError, Queue};
use crate::Stats;

/// What to open and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// A PCI address or a `--vdev` string.
    pub device: String,
    /// Receive and transmit queues, one pair a worker.
    pub queues: u16,
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Packet buffers, all queues together.
    pub packets: u32,
    /// Receive descriptors of a queue; the driver may round.
    pub rx_descriptors: u16,
    /// Transmit descriptors of a queue; the driver may round.
    pub tx_descriptors: u16,
}

/// State of a port's link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Frames can pass.
    pub up: bool,
    /// Speed, if known.
    pub mbit_per_s: Option<u32>,
}

/// A started port.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
    driver: String,
}

impl Port {
    /// Opens and starts the port. Queue `i` of the answer is the port's queue `i`.
    ///
    /// # Errors
    /// Each sentence says what to do; nothing stays open.
    pub fn open(eal: &Eal, options: &PortOptions) -> Result<(Port, Vec<Queue>), OpenError> {
        setup::open(eal, options)
    }

    pub(super) fn new(shared: Arc<Shared>, driver: String) -> Port {
        Port { shared, driver }
    }

    /// Name of DPDK's driver, such as `net_af_packet`.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The link as the driver last saw it.
    pub fn link(&self) -> Link {
        let mut link = sys::rte_eth_link::default();
        // SAFETY: the port is open and `link` a place for the answer.
        if unsafe { sys::rte_eth_link_get_nowait(self.shared.number(), &mut link) } != 0 {
            return Link::default();
        }
        let known = link.link_speed != 0 && link.link_speed != u32::MAX;
        Link { up: link.link_status() == 1, mbit_per_s: known.then_some(link.link_speed) }
    }

    /// Counters of all queues together.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

/// A started device; stopped, closed and taken off when the last queue and the port are gone.
#[derive(Debug)]
pub(super) struct Shared {
    started: bool,
    device: Attached,
}

impl Shared {
    /// An attached device that has not started.
    pub fn new(device: Attached) -> Shared {
        Shared { started: false, device }
    }

    /// From now on the device is to be stopped in the end.
    pub fn mark_started(&mut self) {
        self.started = true;
    }

    /// DPDK's number of the port.
    pub fn number(&self) -> u16 {
        self.device.port
    }

    /// Counters of the driver. Reads registers on a real port: not for every turn.
    pub fn stats(&self) -> Stats {
        let mut stats = sys::rte_eth_stats::default();
        // SAFETY: the port is open and `stats` a place for the answer.
        if unsafe { sys::rte_eth_stats_get(self.number(), &mut stats) } != 0 {
            return Stats::default();
        }
        Stats {
            rx_packets: stats.ipackets,
            tx_packets: stats.opackets,
            rx_missed: stats.imissed + stats.ierrors,
            rx_no_buffer: stats.rx_nombuf,
            tx_errors: stats.oerrors,
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.started {
            // SAFETY: the port was started by us, and no queue is left that could poll it.
            unsafe { sys::rte_eth_dev_stop(self.number()) };
        }
        // Detaching closes the port; `device` does so when it is dropped, next.
    }
}
