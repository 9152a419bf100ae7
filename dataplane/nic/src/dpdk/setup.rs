//! Opens a port step by step: attach, check the driver's limits, make pools, configure, set up queues, start.
//!
//! In: [`PortOptions`]. Out: a started port and its queues, with the offloads the driver reports, or one sentence.
//! Control thread.

use std::ffi::{CStr, c_int};
use std::sync::Arc;

use dpdk_sys as sys;

use super::device::{Attached, Device, DeviceError};
use super::log;
use super::pool::{Pool, Shape};
use super::port::{Port, PortOptions, Shared};
use super::queue::Pools;
use super::{Eal, Queue};
use crate::{BURST, Caps, PIECES_MAX, TSO_BYTES_MAX, rss};

/// Bytes of headers in front of a TCP payload, at most: Ethernet, VLAN tag, IPv6, TCP with options.
const HEADER_BYTES_MAX: u16 = 14 + 4 + 40 + 60;
/// Bytes around an IP packet: Ethernet, VLAN tag, and the check sequence some ports leave in the buffer.
const FRAME_OVERHEAD_BYTES: u16 = 14 + 4 + 4;
/// Least data room; some ports split frames into smaller pieces otherwise (RTE_MBUF_DEFAULT_DATAROOM).
const DATA_ROOM_MIN: u16 = 2048;
/// Of this many packets one more is a large one, where the port segments: enough for a queue's worth of replies.
const PACKETS_PER_LARGE: u32 = 16;
/// Large packets of a queue, at least: two bursts.
const LARGE_MIN: u32 = 2 * BURST as u32;

/// Drivers that report segmentation and do not do it: net_tap leaves it to librte_gso, which knows IPv4 only and would
/// send IPv6 whole; and it counts the Ethernet header into the MTU, so that it never takes a full segment.
const SEGMENT_NOT: &[&str] = &["net_tap"];

/// Drivers that report packets in several segments and do not sum them as one: net_tap, which makes checksums itself, adds up
/// each segment as if it began at an even byte.
const SCATTER_NOT: &[&str] = &["net_tap"];

/// Why a port was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// There is no such device, or it is not to be had.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// No queue.
    #[error("a port needs at least one queue: give the node a worker")]
    NoQueues,
    /// More queues than the driver has.
    #[error(
        "{device} wants {wanted} queues, one a worker, but its driver {driver} has {max}: use {max} workers{hint}"
    )]
    Queues {
        /// The device.
        device: String,
        /// Queues wanted.
        wanted: u16,
        /// DPDK's driver.
        driver: String,
        /// Queues it has.
        max: u16,
        /// How to get more, if the driver can.
        hint: &'static str,
    },
    /// The MTU is outside the driver's limits.
    #[error("{device} takes an MTU from {min} to {max}, not {mtu}: correct mtu")]
    Mtu {
        /// The device.
        device: String,
        /// MTU wanted.
        mtu: u16,
        /// Least.
        min: u16,
        /// Largest.
        max: u16,
    },
    /// Too few packets to fill the rings.
    #[error("{wanted} packets are too few for {queues} queues: set packets to at least {min}")]
    Packets {
        /// Packets wanted.
        wanted: u32,
        /// Queues to share them.
        queues: u16,
        /// What would do.
        min: u32,
    },
    /// The packets do not fit the memory.
    #[error(
        "{packets} packets of {room} bytes do not fit the packet memory: lower packets or raise memory_mib"
    )]
    Memory {
        /// Packets.
        packets: u32,
        /// Bytes each.
        room: u16,
    },
    /// The driver refused something else.
    #[error(
        "{device}: {step} failed: {reason}: correct the device's arguments, or what DPDK names (DPDK: {said})"
    )]
    Driver {
        /// The device.
        device: String,
        /// What was being done.
        step: &'static str,
        /// The error's name.
        reason: String,
        /// DPDK's log.
        said: String,
    },
}

/// A port being opened.
struct Opening<'a> {
    options: &'a PortOptions,
    port: Shared,
    info: sys::rte_eth_dev_info,
}

/// What the port is asked to do.
struct Plan {
    rx_offloads: u64,
    tx_offloads: u64,
    rss: bool,
    /// Pieces of other memory in a packet.
    pieces_max: u8,
}

pub(super) fn open(_eal: &Eal, options: &PortOptions) -> Result<(Port, Vec<Queue>), OpenError> {
    if options.queues == 0 {
        return Err(OpenError::NoQueues);
    }
    let device: Device = options.device.parse()?;
    let port = Shared::new(Attached::attach(&device)?);
    let mut opening = Opening { options, port, info: sys::rte_eth_dev_info::default() };
    // SAFETY: the port is attached and `info` a place for the answer.
    opening.step("reading its limits", |it| unsafe {
        sys::rte_eth_dev_info_get(it.port.number(), &mut it.info)
    })?;
    opening.check()?;
    let plan = opening.plan();
    let pools = opening.pools(&plan)?;
    opening.configure(&plan)?;
    opening.queues(&pools)?;
    // SAFETY: the port is configured and its queues are set up.
    opening.step("starting", |it| unsafe { sys::rte_eth_dev_start(it.port.number()) })?;
    opening.port.mark_started();
    opening.receive_multicast();
    let rss = plan.rss && opening.spread();
    let caps = opening.caps(&plan, rss)?;
    let driver = opening.driver();
    let fill_ipv4 = plan.tx_offloads & sys::KF_TX_OFFLOAD_IPV4_CKSUM == 0;
    let shared = Arc::new(opening.port);
    let queue = |(number, pools)| {
        let caps = Caps { queue: number, ..caps };
        Queue::new(caps, fill_ipv4, pools, Arc::clone(&shared))
    };
    let queues = (0..).zip(pools).map(queue).collect();
    Ok((Port::new(shared, driver), queues))
}

impl Opening<'_> {
    /// Calls into DPDK and turns an error number into a sentence with the log.
    fn step(&mut self, step: &'static str, call: impl FnOnce(&mut Self) -> c_int) -> Result<(), OpenError> {
        let (result, said) = log::captured(|| call(self));
        if result >= 0 {
            return Ok(());
        }
        let reason = rustix::io::Errno::from_raw_os_error(result.saturating_neg()).to_string();
        Err(OpenError::Driver { device: self.options.device.clone(), step, reason, said })
    }

    fn driver(&self) -> String {
        if self.info.driver_name.is_null() {
            return "unknown".into();
        }
        // SAFETY: a C string of the driver's, which lives as long as its shared object.
        unsafe { CStr::from_ptr(self.info.driver_name) }.to_string_lossy().into_owned()
    }

    /// Refuses what the driver would refuse in worse words.
    fn check(&self) -> Result<(), OpenError> {
        let PortOptions { queues, mtu, packets, .. } = *self.options;
        let device = self.options.device.clone();
        let max = self.info.max_rx_queues.min(self.info.max_tx_queues);
        if queues > max {
            let driver = self.driver();
            let hint = if driver.contains("af_packet") { ", or add qpairs=N to the device" } else { "" };
            return Err(OpenError::Queues { device, wanted: queues, driver, max, hint });
        }
        let (min, max) = (self.info.min_mtu, self.mtu_max());
        if !(min..=max).contains(&mtu) {
            return Err(OpenError::Mtu { device, mtu, min, max });
        }
        let rings = u32::from(self.options.rx_descriptors) + u32::from(self.options.tx_descriptors);
        let min = u32::from(queues) * rings.max(2 * BURST as u32);
        if packets < min {
            return Err(OpenError::Packets { wanted: packets, queues, min });
        }
        Ok(())
    }

    /// Drivers that name no largest MTU still name a largest frame, from which DPDK takes off the header and the check
    /// sequence.
    fn mtu_max(&self) -> u16 {
        const AROUND_BYTES: u32 = 14 + 4;
        let frame = u16::try_from(self.info.max_rx_pktlen.saturating_sub(AROUND_BYTES)).unwrap_or(u16::MAX);
        if self.info.max_mtu < u16::MAX || frame == 0 { self.info.max_mtu } else { frame }
    }

    /// Chooses among what the driver reports.
    fn plan(&self) -> Plan {
        let (rx, tx) = (self.info.rx_offload_capa, self.info.tx_offload_capa);
        let flows = sys::KF_RSS_IPV4_TCP | sys::KF_RSS_IPV6_TCP;
        let rss = self.options.queues > 1
            && self.info.flow_type_rss_offloads & flows == flows
            && reta_fits(self.info.reta_size, self.options.queues)
            && matches!(usize::from(self.info.hash_key_size), 0 | 40..=rss::KEY_BYTES);
        let hash = if rss { sys::KF_RX_OFFLOAD_RSS_HASH } else { 0 };
        let rx_wanted = sys::KF_RX_OFFLOAD_IPV4_CKSUM | sys::KF_RX_OFFLOAD_TCP_CKSUM | hash;
        // IPv4 header sums alone are no use: the packet is read anyway. Segmentation needs TCP's.
        let tcp = tx & sys::KF_TX_OFFLOAD_TCP_CKSUM != 0;
        let driver = self.driver();
        let segments = !SEGMENT_NOT.contains(&driver.as_str());
        let tso = if segments { sys::KF_TX_OFFLOAD_TCP_TSO } else { 0 };
        let sums = sys::KF_TX_OFFLOAD_TCP_CKSUM | sys::KF_TX_OFFLOAD_IPV4_CKSUM | tso;
        let scatter = if SCATTER_NOT.contains(&driver.as_str()) { 0 } else { sys::KF_TX_OFFLOAD_MULTI_SEGS };
        let tx_wanted = scatter | if tcp { sums } else { 0 };
        let tx_offloads = tx & tx_wanted;
        Plan { rx_offloads: rx & rx_wanted, tx_offloads, rss, pieces_max: self.pieces_max(tx_offloads) }
    }

    /// Segments of a packet behind the first one. Drivers limit those of packets that are cut and of others by themselves.
    fn pieces_max(&self, tx_offloads: u64) -> u8 {
        if tx_offloads & sys::KF_TX_OFFLOAD_MULTI_SEGS == 0 {
            return 0;
        }
        let limits = &self.info.tx_desc_lim;
        let segments =
            [limits.nb_seg_max, limits.nb_mtu_seg_max].map(|max| if max == 0 { u16::MAX } else { max });
        segments[0].min(segments[1]).saturating_sub(1).min(PIECES_MAX as u16) as u8
    }

    fn pools(&self, plan: &Plan) -> Result<Vec<Pools>, OpenError> {
        let options = self.options;
        // SAFETY: the port is attached.
        let socket = unsafe { sys::rte_eth_dev_socket_id(self.port.number()) };
        let packets = options.packets / u32::from(options.queues);
        let headroom = sys::RTE_PKTMBUF_HEADROOM as u16;
        let room = headroom + DATA_ROOM_MIN.max(options.mtu.saturating_add(FRAME_OVERHEAD_BYTES));
        let make = |packets, room| {
            Pool::new(Shape { packets, room, socket }).ok_or(OpenError::Memory { packets, room })
        };
        let segments = plan.tx_offloads & sys::KF_TX_OFFLOAD_TCP_TSO != 0;
        let large_packets = (packets / PACKETS_PER_LARGE).max(LARGE_MIN);
        let large_room = headroom + HEADER_BYTES_MAX + TSO_BYTES_MAX as u16;
        (0..options.queues)
            .map(|_| {
                let large = if segments { Some(make(large_packets, large_room)?) } else { None };
                // A packet that goes on in pieces takes a descriptor for each, so the ring holds no more of them.
                let pieces = if plan.pieces_max > 0 { Some(make(packets, 0)?) } else { None };
                Ok(Pools { pool: make(packets, room)?, large, pieces })
            })
            .collect()
    }

    fn configure(&mut self, plan: &Plan) -> Result<(), OpenError> {
        let mut conf = sys::rte_eth_conf::default();
        let mut key = rss::KEY;
        conf.rxmode.mtu = u32::from(self.options.mtu);
        conf.rxmode.offloads = plan.rx_offloads;
        conf.txmode.offloads = plan.tx_offloads;
        if plan.rss {
            conf.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
            conf.rx_adv_conf.rss_conf.rss_key = key.as_mut_ptr();
            conf.rx_adv_conf.rss_conf.rss_key_len = match self.info.hash_key_size {
                0 => 40,
                bytes => bytes,
            };
            conf.rx_adv_conf.rss_conf.rss_hf = sys::KF_RSS_IPV4_TCP | sys::KF_RSS_IPV6_TCP;
        }
        let queues = self.options.queues;
        // SAFETY: the port is attached and stopped; the configuration and the key outlive the call, which copies.
        self.step("configuring", |it| unsafe {
            sys::rte_eth_dev_configure(it.port.number(), queues, queues, &conf)
        })
    }

    fn queues(&mut self, pools: &[Pools]) -> Result<(), OpenError> {
        let (mut rx, mut tx) = (self.options.rx_descriptors, self.options.tx_descriptors);
        // SAFETY: the port is attached, and both numbers are places for the answer.
        self.step("rounding descriptors", |it| unsafe {
            sys::rte_eth_dev_adjust_nb_rx_tx_desc(it.port.number(), &mut rx, &mut tx)
        })?;
        // SAFETY: the port is attached.
        let socket = unsafe { sys::rte_eth_dev_socket_id(self.port.number()) } as u32;
        for (number, Pools { pool, .. }) in (0..).zip(pools) {
            let conf = sys::rte_eth_rxconf { offloads: 0, ..self.info.default_rxconf };
            // SAFETY: the port is configured and stopped, the pool is never freed, the configuration is copied.
            self.step("setting up a receive queue", |it| unsafe {
                sys::rte_eth_rx_queue_setup(it.port.number(), number, rx, socket, &conf, pool.as_ptr())
            })?;
            let conf = sys::rte_eth_txconf { offloads: 0, ..self.info.default_txconf };
            // SAFETY: as above.
            self.step("setting up a transmit queue", |it| unsafe {
                sys::rte_eth_tx_queue_setup(it.port.number(), number, tx, socket, &conf)
            })?;
        }
        Ok(())
    }

    /// Neighbour discovery is multicast. Virtual devices that know no filter deliver everything anyway, so it is
    /// no fault if neither call exists.
    fn receive_multicast(&self) {
        log::captured(|| {
            // SAFETY: the port has started.
            let all = unsafe { sys::rte_eth_allmulticast_enable(self.port.number()) };
            if all != 0 {
                // SAFETY: as above.
                unsafe { sys::rte_eth_promiscuous_enable(self.port.number()) };
            }
        });
    }

    /// Fills the port's redirection table as [`rss::owner`] reads it; false if it cannot be.
    fn spread(&self) -> bool {
        let group = sys::RTE_ETH_RETA_GROUP_SIZE as u16;
        let entry = |index: u16| rss::owner(u32::from(index), self.options.queues);
        let mut table: Vec<sys::rte_eth_rss_reta_entry64> = (0..self.info.reta_size.div_ceil(group))
            .map(|part| sys::rte_eth_rss_reta_entry64 {
                mask: u64::MAX,
                reta: std::array::from_fn(|at| entry(part * group + at as u16)),
            })
            .collect();
        let size = self.info.reta_size;
        // SAFETY: the port has started and the table has an entry for each of `size`.
        let update =
            || unsafe { sys::rte_eth_dev_rss_reta_update(self.port.number(), table.as_mut_ptr(), size) };
        log::captured(update).0 == 0
    }

    fn caps(&mut self, plan: &Plan, rss: bool) -> Result<Caps, OpenError> {
        let mut mac = sys::rte_ether_addr::default();
        // SAFETY: the port is open and `mac` a place for the answer.
        self.step("reading its MAC address", |it| unsafe {
            sys::rte_eth_macaddr_get(it.port.number(), &mut mac)
        })?;
        let tso = plan.tx_offloads & sys::KF_TX_OFFLOAD_TCP_TSO != 0;
        Ok(Caps {
            mac: mac.addr_bytes,
            mtu: self.options.mtu,
            queue: 0,
            queues: self.options.queues,
            rx_checksum: plan.rx_offloads & sys::KF_RX_OFFLOAD_TCP_CKSUM != 0,
            tx_checksum: plan.tx_offloads & sys::KF_TX_OFFLOAD_TCP_CKSUM != 0,
            tso_bytes_max: if tso { TSO_BYTES_MAX } else { 0 },
            pieces_max: plan.pieces_max,
            // With one queue there is nobody else to own a packet.
            rss: rss || self.options.queues == 1,
        })
    }
}

/// Whether a table of `size` entries can say what [`rss::owner`] says: larger ones repeat its 128 entries, smaller ones
/// do if the pattern repeats inside them.
fn reta_fits(size: u16, queues: u16) -> bool {
    let whole = size > 0 && size.is_multiple_of(rss::RETA_SIZE);
    whole || (size > 0 && size.is_power_of_two() && queues.is_power_of_two() && queues <= size)
}

#[cfg(test)]
mod tests {
    use super::reta_fits;
    use crate::rss;

    #[test]
    fn tables_that_fit_say_what_the_software_says() {
        for size in [0, 16, 64, 100, 128, 256, 512, 2048] {
            for queues in 1..=16 {
                if !reta_fits(size, queues) {
                    continue;
                }
                for hash in (0..100_000_u32).map(|it| it.wrapping_mul(0x9e37_79b9)) {
                    let entry = hash % u32::from(size);
                    assert_eq!(rss::owner(entry, queues), rss::owner(hash, queues), "{size} {queues} {hash}");
                }
            }
        }
        assert!(reta_fits(512, 3) && !reta_fits(64, 3) && reta_fits(64, 4) && !reta_fits(0, 1));
    }
}
