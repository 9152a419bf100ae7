//! From a choice to a connected queue pair, in two phases, so that offers can cross a control link between them. In: a
//! port and limits; then the peer's offer. Out: an offer; then the two ends' holds. Control thread, at set-up.
//!
//! An end that is connected may send at once. What reaches a peer that is not connected yet is repeated by the
//! adapter for [`TIMEOUT`] times [`RETRIES`], so a link says when both are.

use std::mem::zeroed;
use std::sync::Arc;

use ibverbs_sys as ffi;

use super::choose::{Choice, ChooseError};
use super::error::VerbsError;
use super::host::LinkLayer;
use super::link::{Fencer, Link, Regions};
use super::memory::{self, Layout};
use super::objects::{Context, MemoryRegion, ProtectionDomain, RawQueuePair, call};
use super::offer::{Offer, OfferError};
use super::queue_pair::{INLINE_BYTES, LOAD_POSTED_MAX, QueuePair};
use crate::mapping::Mapping;
use crate::{Fence, LOAD_BYTES, Limits, LimitsError, MEMORY_BYTES_LIMIT};

/// Local acknowledgement time-out: 4.096 us * 2^14 = 67 ms (`ibv_modify_qp(3)`).
const TIMEOUT: u8 = 14;
/// Repeats before a queue pair gives its peer up, after half a second in all; adapters may stretch it. Not 7, the most
/// that fits: Soft-RoCE takes that for ever, as it is with RNR (`rxe_completer`), and would never tell of a dead peer.
const RETRIES: u8 = 6;
/// A peer without a posted receive is an error at once: credits keep it from happening.
const RNR_RETRIES: u8 = 0;
/// Not waited for, as nothing is repeated on RNR; 1 is the shortest, 0 the longest.
const RNR_TIMER: u8 = 1;
/// Hops of a global route: the largest, as the fabric may be routed.
const HOPS: u8 = 255;

/// An opened device and the port chosen on it; all queue pairs of a node share one.
pub struct Device {
    context: Arc<Context>,
    choice: Choice,
}

/// One end that waits for its peer's offer.
pub struct Endpoint {
    link: Link,
    mapping: Arc<Mapping>,
    layout: Layout,
    limits: Limits,
    choice: Choice,
    sequence: u32,
}

impl Device {
    /// Opens the chosen device.
    ///
    /// # Errors
    /// See [`VerbsError`].
    pub fn open(choice: &Choice) -> Result<Device, VerbsError> {
        Ok(Device { context: Arc::new(Context::open(&choice.device)?), choice: choice.clone() })
    }

    /// Whether the port carries traffic now. A system call; adapters differ in when they end queue pairs of a port that
    /// is down, and Soft-RoCE may not at all.
    ///
    /// # Errors
    /// [`ChooseError::Down`], or the call failed.
    pub fn check_port(&self) -> Result<(), VerbsError> {
        let port = self.choice.port;
        match self.context.query_port(port)?.state {
            ffi::ibv_port_state::IBV_PORT_ACTIVE => Ok(()),
            _ => Err(ChooseError::Down { device: self.choice.device.clone(), port }.into()),
        }
    }

    /// Makes one end: a protection domain, memory, a queue pair. The peer of one worker gets one.
    ///
    /// # Errors
    /// See [`VerbsError`].
    pub fn prepare(&self, limits: Limits) -> Result<(Endpoint, Offer), VerbsError> {
        check(&limits)?;
        let layout = Layout::new(&limits);
        let mapping = memory::allocate(&layout)?;
        let domain = Arc::new(ProtectionDomain::new(&self.context)?);
        let register = |part, access| MemoryRegion::new(&domain, &mapping, part, access);
        let local = ffi::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE;
        // The peer may write, and not read: what it wrote is its business, what others wrote is not there.
        let writable = local | ffi::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE;
        let regions = Regions {
            slots: register(layout.slots, writable)?,
            load: register((layout.load.0, LOAD_BYTES), writable)?,
            receives: register(layout.receives, local)?,
            sources: register(layout.sources, ffi::ibv_access_flags(0))?,
        };
        let sends = limits.posted_max + LOAD_POSTED_MAX;
        let queue_pair = RawQueuePair::new(&domain, sends, limits.receives, INLINE_BYTES)?;
        let device = self.context.name().to_owned();
        VerbsError::check_inline(&device, queue_pair.inline_bytes, LOAD_BYTES)?;
        initialize(&queue_pair, self.choice.port)
            .map_err(|error| call("ibv_modify_qp to INIT", &device, error))?;

        let sequence = random_24()?;
        let offer = Offer {
            link_layer: self.choice.link_layer,
            mtu: self.choice.mtu,
            global: self.choice.global,
            lid: self.choice.lid,
            gid: self.choice.gid,
            queue_pair: queue_pair.number(),
            sequence,
            slots: regions.slots.remote(),
            load: regions.load.remote(),
            limits,
        };
        let link = Link::new(queue_pair, regions);
        let choice = self.choice.clone();
        Ok((Endpoint { link, mapping, layout, limits, choice, sequence }, offer))
    }
}

/// Opens the chosen device and makes one end; for more than one, [`Device`] opens it once.
///
/// # Errors
/// See [`VerbsError`].
pub fn prepare(choice: &Choice, limits: Limits) -> Result<(Endpoint, Offer), VerbsError> {
    Device::open(choice)?.prepare(limits)
}

impl Endpoint {
    /// Connects to the peer that made `offer`. Sizes are the smaller of both ends'.
    ///
    /// # Errors
    /// See [`VerbsError`]; everything is given back.
    pub fn connect(self, offer: &Offer) -> Result<(QueuePair, Arc<dyn Fence>), VerbsError> {
        VerbsError::check_networks(self.choice.link_layer, offer.link_layer)?;
        let limits = self.limits.agree(offer.limits);
        check(&limits)?;
        let link = Arc::new(self.link);
        let remote = (offer.slots, offer.load);
        // Receives are posted before the peer can send.
        let queue_pair = QueuePair::new(Arc::clone(&link), limits, self.mapping, self.layout, remote);
        let (mut attributes, mask) = ready_to_receive(&self.choice, offer);
        let device = &self.choice.device;
        let modified = link.queue_pair.modify(&mut attributes, mask);
        modified.map_err(|error| call("ibv_modify_qp to RTR", device, error))?;
        let (mut attributes, mask) = ready_to_send(self.sequence);
        let modified = link.queue_pair.modify(&mut attributes, mask);
        modified.map_err(|error| call("ibv_modify_qp to RTS", device, error))?;
        Ok((queue_pair, Fencer::hold(&link)))
    }
}

/// The limits of every driver, and that the send buffers are one piece of memory too.
fn check(limits: &Limits) -> Result<(), LimitsError> {
    limits.check()?;
    let value = limits.posted_max.saturating_mul(limits.message_bytes_max);
    if value > MEMORY_BYTES_LIMIT {
        let field = "posted_max * message_bytes_max";
        return Err(LimitsError { field, value, min: 1, max: MEMORY_BYTES_LIMIT });
    }
    Ok(())
}

fn initialize(queue_pair: &RawQueuePair, port: u8) -> Result<(), std::io::Error> {
    use ffi::ibv_qp_attr_mask as Mask;
    let mut attributes = ffi::ibv_qp_attr {
        qp_state: ffi::ibv_qp_state::IBV_QPS_INIT,
        pkey_index: 0,
        port_num: port,
        qp_access_flags: ffi::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE.0,
        ..Default::default()
    };
    let mask = Mask::IBV_QP_STATE | Mask::IBV_QP_PKEY_INDEX | Mask::IBV_QP_PORT | Mask::IBV_QP_ACCESS_FLAGS;
    queue_pair.modify(&mut attributes, mask)
}

fn ready_to_receive(choice: &Choice, offer: &Offer) -> (ffi::ibv_qp_attr, ffi::ibv_qp_attr_mask) {
    use ffi::ibv_qp_attr_mask as Mask;
    let mut attributes = ffi::ibv_qp_attr {
        qp_state: ffi::ibv_qp_state::IBV_QPS_RTR,
        path_mtu: choice.mtu.min(offer.mtu).code(),
        dest_qp_num: offer.queue_pair,
        rq_psn: offer.sequence,
        // No READs and no atomics.
        max_dest_rd_atomic: 0,
        min_rnr_timer: RNR_TIMER,
        ..Default::default()
    };
    // SAFETY: all-zero bytes are a value of this plain C struct.
    let mut path: ffi::ibv_ah_attr = unsafe { zeroed() };
    path.dlid = offer.lid;
    path.port_num = choice.port;
    // Either end's subnet may ask for the header.
    if choice.link_layer == LinkLayer::Ethernet || choice.global || offer.global {
        path.is_global = 1;
        path.grh.dgid = ffi::ibv_gid { raw: offer.gid.octets() };
        path.grh.sgid_index = choice.gid_index;
        path.grh.hop_limit = HOPS;
    }
    attributes.ah_attr = path;
    let mask = Mask::IBV_QP_STATE
        | Mask::IBV_QP_AV
        | Mask::IBV_QP_PATH_MTU
        | Mask::IBV_QP_DEST_QPN
        | Mask::IBV_QP_RQ_PSN
        | Mask::IBV_QP_MAX_DEST_RD_ATOMIC
        | Mask::IBV_QP_MIN_RNR_TIMER;
    (attributes, mask)
}

fn ready_to_send(sequence: u32) -> (ffi::ibv_qp_attr, ffi::ibv_qp_attr_mask) {
    use ffi::ibv_qp_attr_mask as Mask;
    let attributes = ffi::ibv_qp_attr {
        qp_state: ffi::ibv_qp_state::IBV_QPS_RTS,
        sq_psn: sequence,
        timeout: TIMEOUT,
        retry_cnt: RETRIES,
        rnr_retry: RNR_RETRIES,
        max_rd_atomic: 0,
        ..Default::default()
    };
    let mask = Mask::IBV_QP_STATE
        | Mask::IBV_QP_SQ_PSN
        | Mask::IBV_QP_TIMEOUT
        | Mask::IBV_QP_RETRY_CNT
        | Mask::IBV_QP_RNR_RETRY
        | Mask::IBV_QP_MAX_QP_RD_ATOMIC;
    (attributes, mask)
}

/// A first packet sequence number: random, so that packets of an earlier queue pair with this number are not
/// taken for this one's, and outsiders cannot guess it.
fn random_24() -> Result<u32, VerbsError> {
    let mut bytes = [0; 4];
    let filled = rustix::rand::getrandom(&mut bytes[1..], rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(3) => Ok(u32::from_be_bytes(bytes)),
        // Three bytes come whole (`getrandom(2)`).
        Ok(_) => Err(OfferError::Field("sequence number").into()),
        Err(error) => Err(call("getrandom", "the kernel", error.into())),
    }
}
