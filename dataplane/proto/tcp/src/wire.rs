//! The device a socket talks to: one received packet in, packets out through the caller's [`Egress`].
//!
//! In: smoltcp's `Device` calls. Out: finished IP packets, their checksums and segment size as the port wants
//! them. Made anew for each call into smoltcp; owns nothing.

use std::num::NonZeroUsize;

use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::config::{Config, TSO_PACKET_BYTES_MAX};
use crate::packet::{self, Mark, Offer};
use crate::{Counters, DropReason, Egress};

/// Room for the largest answer made without looking for room: headers with every option.
const ANSWER_BYTES_MAX: usize = 40 + 60;

/// What the port does for us, in smoltcp's words.
pub(crate) fn capabilities(config: &Config) -> DeviceCapabilities {
    let mut caps = DeviceCapabilities::default();
    caps.medium = Medium::Ip;
    caps.max_transmission_unit = usize::from(config.mtu);
    // Received checksums are checked before the connection is known, so that a bad packet costs little.
    let checksum = if config.tx_checksum_offload { Checksum::None } else { Checksum::Tx };
    caps.checksum.ipv4 = checksum;
    caps.checksum.tcp = checksum;
    if config.tso_bytes_max > 0 && config.tx_checksum_offload {
        // smoltcp takes the headers off again. IPv4 only: it drops IPv6 packets larger than the MTU.
        let headers = 20 + 20;
        let packet = config.tso_bytes_max.saturating_add(headers).min(TSO_PACKET_BYTES_MAX);
        // Less than one segment of payload is no use.
        let packet = packet.max(u32::from(config.mtu));
        caps.segmentation.tcpv4 = NonZeroUsize::new(packet as usize);
    }
    caps
}

pub(crate) struct Wire<'a, E> {
    /// The packet to receive, once.
    pub(crate) packet: Option<&'a [u8]>,
    pub(crate) out: &'a mut E,
    pub(crate) caps: &'a DeviceCapabilities,
    pub(crate) counters: &'a mut Counters,
    /// The connection's, moved on by each packet sent; `None` where there is no connection yet.
    pub(crate) mark: &'a mut Option<Mark>,
    /// What its peer is ready to take.
    pub(crate) offer: Option<Offer>,
}

impl<E: Egress> Device for Wire<'_, E> {
    type RxToken<'t>
        = Rx<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Tx<'t, E>
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_, E>)> {
        let packet = self.packet.take()?;
        let room = self.out.room();
        Some((Rx(packet), self.tx(room)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_, E>> {
        self.out.room().then(|| self.tx(true))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.caps.clone()
    }
}

impl<E: Egress> Wire<'_, E> {
    fn tx(&mut self, room: bool) -> Tx<'_, E> {
        Tx {
            out: &mut *self.out,
            counters: &mut *self.counters,
            mark: &mut *self.mark,
            offer: self.offer,
            offload: !self.caps.checksum.tcp.tx(),
            room,
            segment_bytes: 0,
        }
    }
}

pub(crate) struct Rx<'t>(&'t [u8]);

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

pub(crate) struct Tx<'t, E> {
    out: &'t mut E,
    counters: &'t mut Counters,
    mark: &'t mut Option<Mark>,
    offer: Option<Offer>,
    offload: bool,
    room: bool,
    segment_bytes: u16,
}

impl<E: Egress> TxToken for Tx<'_, E> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        if !self.room {
            // An answer made while receiving; the peer's retransmission asks for it again.
            self.counters.drop(DropReason::NoRoom);
            return f(&mut [0; ANSWER_BYTES_MAX][..len]);
        }
        self.counters.packets_out += 1;
        let (segment_bytes, offload, mark, offer) = (self.segment_bytes, self.offload, self.mark, self.offer);
        self.out.packet(len, segment_bytes, |packet| {
            let result = f(packet);
            let mended = packet::advance(mark, offer, packet);
            if offload {
                packet::offload_checksum(packet, segment_bytes > 0);
            } else if mended {
                packet::fill_checksum(packet);
            }
            result
        })
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment_bytes = meta.segmentation_offload_size.map_or(0, |bytes| bytes.get());
    }
}
