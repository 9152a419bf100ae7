//! Packets in: to the socket they belong to, to a handshake, or to none.
//!
//! In: IP packets for our addresses. Out: events, and answers such as RST through the [`Egress`]. Part of a
//! worker's TCP.

use keyferry_time::Time;
use smoltcp::iface::{Interface, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, RxToken, TxToken};
use smoltcp::socket::tcp::State;
use smoltcp::time::Instant;
use smoltcp::wire::HardwareAddress;

use crate::config::RxChecksum;
use crate::connection::{Pending, Stage};
use crate::counters::{CloseReason, DropReason};
use crate::flow::Flow;
use crate::packet::{Bare, Header};
use crate::seam::{Egress, Segment, Tcp};
use crate::time_wait::Verdict;
use crate::wire::Wire;

/// smoltcp counts microseconds.
pub(crate) fn instant(now: Time) -> Instant {
    Instant::from_micros(i64::try_from(now.0 / 1_000).unwrap_or(i64::MAX))
}

/// The interface sockets are driven through. It has no addresses: packets for others do not get here.
pub(crate) fn interface(caps: &DeviceCapabilities, seed: u64) -> Interface {
    let mut config = smoltcp::iface::Config::new(HardwareAddress::Ip);
    config.random_seed = seed;
    let mut interface = Interface::new(config, &mut Nowhere(caps), Instant::ZERO);
    interface.set_any_ip(true);
    interface
}

impl<S: Segment> Tcp<S> {
    /// Takes an IP packet with TCP. `checksum_good`: the port vouches for its IP and TCP checksums.
    pub fn ingest(&mut self, now: Time, packet: &mut [u8], checksum_good: bool, out: &mut impl Egress) {
        self.counters.packets_in += 1;
        let verify = self.config.rx_checksum == RxChecksum::Verify || !checksum_good;
        if let Err(reason) = self.sort(now, packet, verify, out) {
            self.counters.drop(reason);
        }
    }

    fn sort(
        &mut self,
        now: Time,
        packet: &[u8],
        verify: bool,
        out: &mut impl Egress,
    ) -> Result<(), DropReason> {
        let header = Header::parse(packet, verify)?;
        let hash = self.secret.hash(&header.flow);
        if let Some(index) = self.find(hash, &header.flow) {
            return match self.feed(now, index, &header, packet, out) {
                true => {
                    self.counters.flow_packets += 1;
                    Ok(())
                }
                false => Err(DropReason::Unacceptable),
            };
        }
        if !self.config.addresses.contains(&header.flow.local.ip()) {
            return Err(DropReason::OtherAddress);
        }
        if let Some(at) = self.half_open.find(hash, &header.flow) {
            return self.handshake(now, at, &header, packet, out);
        }
        match self.time_wait.ingest(now, &header, hash) {
            Verdict::Ignore => return Err(DropReason::TimeWait),
            Verdict::Acknowledge(mark) => {
                self.counters.time_wait_packets += 1;
                self.send_bare(&Bare::acknowledgement(&header.flow, mark), out);
                return Ok(());
            }
            Verdict::Unknown => {}
        }
        if !header.is_open_request() {
            self.refuse(now, packet, out);
            return Err(DropReason::Stray);
        }
        if !self.config.ports.contains(&header.flow.local.port()) {
            self.refuse(now, packet, out);
            return Err(DropReason::PortClosed);
        }
        self.offer(now, &header, hash, packet, out)
    }

    pub(crate) fn find(&self, hash: u32, flow: &Flow) -> Option<u32> {
        let same = |index: u32| {
            self.slots[index as usize].connection.as_ref().is_some_and(|connection| connection.flow == *flow)
        };
        self.flows.find(hash, same)
    }

    /// Gives a packet to its connection's socket and takes note of what changed. Answers whether the segment was
    /// acceptable; the socket acknowledges one that is not (RFC 9293 section 3.10.7.4).
    pub(crate) fn feed(
        &mut self,
        now: Time,
        index: u32,
        header: &Header,
        packet: &[u8],
        out: &mut impl Egress,
    ) -> bool {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return false;
        };
        let (unread, unacked) = connection.queues();
        let window = self.config.receive_bytes.saturating_sub(unread);
        // A SYN that answers ours is where the peer's numbers begin.
        let connecting = connection.stage == Stage::Connecting;
        connection.greet(header, packet);
        let acceptable = connecting || header.is_acceptable(connection.next, window);
        if let Some(mark) = connection.mark {
            connection.offer.hear(header, mark);
        }
        let Some(sockets) = connection.sockets.as_mut() else {
            return false;
        };
        let mut wire = Wire {
            packet: Some(packet),
            out,
            caps: &self.caps,
            counters: &mut self.counters,
            mark: &mut connection.mark,
            offer: Some(connection.offer),
        };
        self.interface.poll_ingress_single(instant(now), &mut wire, sockets);
        let (unread_now, unacked_now) = connection.queues();
        if unread_now > unread || unacked_now < unacked {
            connection.active = now;
        }
        connection.next += unread_now.saturating_sub(unread);
        if unacked_now < unacked {
            connection.stop_probing();
        }
        if self.review(now, index, header.rst) {
            if unread_now > unread {
                self.arrived(index);
            }
            self.pump(index);
            self.dirty.push_back(index);
        }
        acceptable
    }

    fn arrived(&mut self, index: u32) {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        match connection.stage {
            Stage::Open => self.tell(index, Pending::READABLE),
            Stage::Closing => connection.drain(),
            Stage::HalfOpen | Stage::Connecting | Stage::Aborting(_) | Stage::Dead(_) => {}
        }
    }

    /// Follows the socket's state after it was fed or asked to send. Answers whether it lives on.
    pub(crate) fn review(&mut self, now: Time, index: u32, rst: bool) -> bool {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return false;
        };
        let Some(socket) = connection.socket() else {
            return false;
        };
        let (state, gone) = (socket.state(), socket.remote_endpoint().is_none());
        match (connection.stage, state) {
            // RST in SYN-RECEIVED puts a listening socket back to LISTEN; ours serves one handshake only. A SYN
            // it did not take leaves it there as well.
            (Stage::HalfOpen, State::Listen | State::Closed) => {
                self.die(index, CloseReason::Reset);
                self.counters.drop(DropReason::HalfOpenReset);
                false
            }
            (Stage::HalfOpen, State::SynReceived) => true,
            (Stage::Connecting, State::SynSent | State::SynReceived) => true,
            (Stage::Aborting(reason), State::Closed) if gone => {
                self.die(index, reason);
                false
            }
            (Stage::Aborting(_), _) => true,
            (_, State::Closed) => {
                // The other way to CLOSED is the acknowledgement of our FIN in LAST-ACK.
                self.die(index, if rst { CloseReason::Reset } else { CloseReason::Finished });
                false
            }
            (stage, state) => {
                self.advance(now, index, stage, state);
                true
            }
        }
    }

    /// Follows a live connection: handshake complete, peer's FIN, our FIN acknowledged.
    fn advance(&mut self, now: Time, index: u32, stage: Stage, state: State) {
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        if matches!(stage, Stage::HalfOpen | Stage::Connecting) {
            connection.stage = Stage::Open;
            connection.active = now;
            self.counters.opened += 1;
            self.tell(index, Pending::OPENED);
        }
        let Some(connection) = self.slots[index as usize].connection.as_mut() else {
            return;
        };
        if state == State::FinWait2 && connection.fin_wait == Time::NEVER {
            connection.fin_wait = now + crate::config::FIN_WAIT;
        }
        if connection.eof.is_none() && connection.is_eof() {
            connection.eof = Some(connection.queues().0);
            connection.next += 1;
            if connection.stage == Stage::Open {
                self.tell(index, Pending::EOF);
            }
        }
    }

    /// Answers a packet of no connection with RST (RFC 9293 section 3.10.7.1), which smoltcp does for a set
    /// without sockets.
    pub(crate) fn refuse(&mut self, now: Time, packet: &[u8], out: &mut impl Egress) {
        let (caps, counters) = (&self.caps, &mut self.counters);
        let mut wire = Wire { packet: Some(packet), out, caps, counters, mark: &mut None, offer: None };
        self.interface.poll_ingress_single(instant(now), &mut wire, &mut SocketSet::new(&mut [][..]));
    }
}

/// A device to make an interface with; nothing is sent or received through it.
struct Nowhere<'a>(&'a DeviceCapabilities);

impl Device for Nowhere<'_> {
    type RxToken<'t>
        = Nothing
    where
        Self: 't;
    type TxToken<'t>
        = Nothing
    where
        Self: 't;

    fn receive(&mut self, _: Instant) -> Option<(Nothing, Nothing)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Nothing> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.0.clone()
    }
}

/// A token there is none of.
enum Nothing {}

impl RxToken for Nothing {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _: F) -> R {
        match self {}
    }
}

impl TxToken for Nothing {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, _: usize, _: F) -> R {
        match self {}
    }
}
