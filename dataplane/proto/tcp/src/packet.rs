//! Headers of IP packets with TCP: read before a connection is known, written where there is no socket.
//!
//! In: an IP packet. Out: its flow and the fields that decide where it goes; or a segment without payload. Pure.

use std::net::{IpAddr, SocketAddr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber,
    checksum,
};

use crate::DropReason;
use crate::flow::Flow;

/// What decides where a received packet goes.
pub(crate) struct Header {
    pub(crate) flow: Flow,
    pub(crate) syn: bool,
    pub(crate) ack: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) seq: TcpSeqNumber,
    /// Means something if `ack` is set.
    pub(crate) acknowledges: TcpSeqNumber,
    /// As it stands in the header, not scaled.
    pub(crate) window: u16,
    /// Bytes of payload.
    pub(crate) payload: usize,
}

impl Header {
    /// Reads a packet's headers, checking lengths and, if asked, checksums.
    pub(crate) fn parse(packet: &[u8], verify: bool) -> Result<Header, DropReason> {
        match packet.first().map(|first| first >> 4) {
            Some(4) => {
                let ip = Ipv4Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
                if ip.header_len() < 20
                    || ip.next_header() != IpProtocol::Tcp
                    || ip.more_frags()
                    || ip.frag_offset() != 0
                {
                    return Err(DropReason::Malformed);
                }
                if verify && !ip.verify_checksum() {
                    return Err(DropReason::Checksum);
                }
                Header::parse_tcp(ip.payload(), IpAddr::V4(ip.src_addr()), IpAddr::V4(ip.dst_addr()), verify)
            }
            Some(6) => {
                let ip = Ipv6Packet::new_checked(packet).map_err(|_| DropReason::Malformed)?;
                if ip.next_header() != IpProtocol::Tcp {
                    return Err(DropReason::Malformed);
                }
                Header::parse_tcp(ip.payload(), IpAddr::V6(ip.src_addr()), IpAddr::V6(ip.dst_addr()), verify)
            }
            _ => Err(DropReason::Malformed),
        }
    }

    fn parse_tcp(segment: &[u8], source: IpAddr, local: IpAddr, verify: bool) -> Result<Header, DropReason> {
        let tcp = TcpPacket::new_checked(segment).map_err(|_| DropReason::Malformed)?;
        let (from, to) = (tcp.src_port(), tcp.dst_port());
        if from == 0 || to == 0 || source.is_unspecified() || source.is_multicast() {
            return Err(DropReason::Malformed);
        }
        if verify && !tcp.verify_checksum(&IpAddress::from(source), &IpAddress::from(local)) {
            return Err(DropReason::Checksum);
        }
        Ok(Header {
            flow: Flow { peer: SocketAddr::new(source, from), local: SocketAddr::new(local, to) },
            syn: tcp.syn(),
            ack: tcp.ack(),
            fin: tcp.fin(),
            rst: tcp.rst(),
            seq: tcp.seq_number(),
            acknowledges: tcp.ack_number(),
            window: tcp.window_len(),
            payload: tcp.payload().len(),
        })
    }

    /// Whether this opens a connection.
    pub(crate) fn is_open_request(&self) -> bool {
        self.syn && !self.ack && !self.rst && !self.fin
    }

    /// Whether any of the segment lies in a window of `window` bytes from `next` on (RFC 9293 section 3.10.7.4).
    pub(crate) fn is_acceptable(&self, next: TcpSeqNumber, window: usize) -> bool {
        let len = self.payload + usize::from(self.syn) + usize::from(self.fin);
        // Sequence numbers are compared by their difference, modulo 2^32.
        let ahead = self.seq.0.wrapping_sub(next.0);
        let end_ahead = ahead.wrapping_add(len as i32);
        match (len, window) {
            (0, 0) => ahead == 0,
            (0, _) => (0..window as i64).contains(&i64::from(ahead)),
            (_, 0) => false,
            _ => i64::from(ahead) < window as i64 && end_ahead > 0,
        }
    }
}

/// What a SYN says besides its header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SynOptions {
    pub(crate) window: u16,
    pub(crate) mss: Option<u16>,
    pub(crate) window_scale: Option<u8>,
    pub(crate) sack: bool,
}

impl SynOptions {
    /// Reads them from an IP packet whose headers [`Header::parse`] has found good.
    pub(crate) fn parse(packet: &[u8]) -> Result<SynOptions, DropReason> {
        let ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
        let segment = if ipv4 {
            Ipv4Packet::new_unchecked(packet).payload()
        } else {
            Ipv6Packet::new_unchecked(packet).payload()
        };
        let tcp = TcpPacket::new_checked(segment).map_err(|_| DropReason::Malformed)?;
        // The addresses serve the checksum alone, which is looked at elsewhere.
        let nobody = IpAddress::v4(0, 0, 0, 0);
        let repr = TcpRepr::parse(&tcp, &nobody, &nobody, &ChecksumCapabilities::ignored())
            .map_err(|_| DropReason::Malformed)?;
        Ok(SynOptions {
            window: repr.window_len,
            mss: repr.max_seg_size,
            window_scale: repr.window_scale,
            sack: repr.sack_permitted,
        })
    }
}

/// How far a connection has come: all TIME-WAIT needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// The highest sequence number sent, and one more (SND.NXT).
    pub(crate) seq: TcpSeqNumber,
    /// What was acknowledged last (RCV.NXT).
    pub(crate) ack: TcpSeqNumber,
}

/// What the peer is ready to take (RFC 9293 section 3.3.1, SND.WND and what told of it).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    /// The first sequence number beyond its window (SND.UNA + SND.WND).
    end: TcpSeqNumber,
    /// Sequence number of the segment that told (SND.WL1).
    seq: TcpSeqNumber,
    /// What that segment acknowledged (SND.WL2).
    acknowledges: TcpSeqNumber,
    /// Bits a window is shifted by (RFC 7323 section 2).
    scale: u8,
}

impl Offer {
    /// Of a peer whose SYN has the number `seq` and is acknowledged from `ours` on; a SYN's window is not scaled.
    pub(crate) fn new(seq: TcpSeqNumber, ours: TcpSeqNumber, options: SynOptions) -> Offer {
        // RFC 7323 section 2.3: a larger shift counts as 14.
        let scale = options.window_scale.unwrap_or(0).min(14);
        Offer { end: ours + usize::from(options.window), seq, acknowledges: ours, scale }
    }

    /// Takes note of a segment, unless it is older than the one that told last: RFC 9293 section 3.10.7.4, but that
    /// a peer which acknowledges more is newer even where it sends something again, be it acceptable or not: that is
    /// what an answer has to fit. What acknowledges more than was sent (RFC 5961 section 5) tells nothing; a window
    /// probe may be beyond `mark`.
    pub(crate) fn hear(&mut self, header: &Header, mark: Mark) {
        let newer = self.acknowledges < header.acknowledges
            || (self.acknowledges == header.acknowledges && self.seq <= header.seq);
        if header.ack && newer && header.acknowledges <= mark.seq + 1 {
            self.end = header.acknowledges + (usize::from(header.window) << self.scale);
            self.seq = header.seq;
            self.acknowledges = header.acknowledges;
        }
    }

    /// The sequence number of a segment without payload, of a connection that sent all before `next`.
    ///
    /// A peer short of memory may take its window back (RFC 9293 section 3.8.6; Linux does) and with it what it was
    /// sent: it then takes no segment beyond the new window, not even for what it acknowledges, and each side would
    /// send again what the other has long had. A reset has to be exact (RFC 5961 section 3): what scaling may have
    /// rounded off the window does not count for it.
    fn bare_seq(&self, next: TcpSeqNumber, rst: bool) -> TcpSeqNumber {
        let rounded = if rst { (1 << self.scale) - 1 } else { 0 };
        if next > self.end + rounded { self.end } else { next }
    }
}

/// Finishes a packet a socket built: the pseudo-header sum where the port fills in checksums.
///
/// DPDK's convention: with segmentation the sum leaves the length out, because each segment has its own
/// (`rte_ipv4_phdr_cksum`).
pub(crate) fn offload_checksum(packet: &mut [u8], segmented: bool) {
    let (at, sum) = match packet.first().map(|first| first >> 4) {
        Some(4) => {
            let ip = Ipv4Packet::new_unchecked(&*packet);
            let at = usize::from(ip.header_len());
            let len = if segmented { 0 } else { (packet.len() - at) as u32 };
            (at, checksum::pseudo_header_v4(&ip.src_addr(), &ip.dst_addr(), IpProtocol::Tcp, len))
        }
        _ => {
            let ip = Ipv6Packet::new_unchecked(&*packet);
            let at = ip.header_len();
            let len = if segmented { 0 } else { (packet.len() - at) as u32 };
            (at, checksum::pseudo_header_v6(&ip.src_addr(), &ip.dst_addr(), IpProtocol::Tcp, len))
        }
    };
    TcpPacket::new_unchecked(&mut packet[at..]).set_checksum(sum);
}

/// Moves a connection's mark past a packet its socket built, and mends the packet's sequence number.
///
/// After a retransmission time-out smoltcp sends everything again from the oldest byte, and meanwhile gives bare
/// acknowledgements and resets a sequence number its peer has left behind. Such segments are not acceptable
/// (RFC 9293 section 3.10.7.4): the peer ignores what they acknowledge, and two such peers wait for each other
/// for ever. They must carry SND.NXT, the highest sequence number sent, or the end of a window taken back: see
/// [`Offer::bare_seq`]. Answers whether the packet was changed.
pub(crate) fn advance(mark: &mut Option<Mark>, offer: Option<Offer>, packet: &mut [u8]) -> bool {
    let at = if packet.first().is_some_and(|first| first >> 4 == 4) { 20 } else { 40 };
    let mut tcp = TcpPacket::new_unchecked(&mut packet[at..]);
    let (seq, len) = (tcp.seq_number(), tcp.segment_len());
    let Some(mark) = mark else {
        *mark = Some(Mark { seq: seq + len, ack: tcp.ack_number() });
        return false;
    };
    if tcp.ack() {
        mark.ack = tcp.ack_number();
    }
    if len == 0 && tcp.ack() && seq <= mark.seq {
        let right = offer.map_or(mark.seq, |offer| offer.bare_seq(mark.seq, tcp.rst()));
        tcp.set_seq_number(right);
        return right != seq;
    }
    // A single byte may be a window probe, which a peer without window does not take.
    if len != 1 || tcp.fin() || tcp.syn() {
        mark.seq = mark.seq.max(seq + len);
    }
    false
}

/// Fills the TCP checksum of a packet in anew.
pub(crate) fn fill_checksum(packet: &mut [u8]) {
    if packet.first().is_some_and(|first| first >> 4 == 4) {
        let mut ip = Ipv4Packet::new_unchecked(packet);
        let (from, to) = (IpAddress::Ipv4(ip.src_addr()), IpAddress::Ipv4(ip.dst_addr()));
        TcpPacket::new_unchecked(ip.payload_mut()).fill_checksum(&from, &to);
    } else {
        let mut ip = Ipv6Packet::new_unchecked(packet);
        let (from, to) = (IpAddress::Ipv6(ip.src_addr()), IpAddress::Ipv6(ip.dst_addr()));
        TcpPacket::new_unchecked(ip.payload_mut()).fill_checksum(&from, &to);
    }
}

/// A segment without payload, for a flow without a socket.
pub(crate) struct Bare {
    ip: IpRepr,
    tcp: TcpRepr<'static>,
}

impl Bare {
    /// An acknowledgement from us.
    pub(crate) fn acknowledgement(flow: &Flow, mark: Mark) -> Bare {
        Bare::new(flow.local, flow.peer, TcpControl::None, mark.seq, Some(mark.ack))
    }

    /// A segment with no window and no options.
    pub(crate) fn new(
        from: SocketAddr,
        to: SocketAddr,
        control: TcpControl,
        seq: TcpSeqNumber,
        acknowledges: Option<TcpSeqNumber>,
    ) -> Bare {
        let tcp = TcpRepr {
            src_port: from.port(),
            dst_port: to.port(),
            control,
            seq_number: seq,
            ack_number: acknowledges,
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None, None, None],
            timestamp: None,
            payload: &[],
        };
        let (from, to) = (IpAddress::from(from.ip()), IpAddress::from(to.ip()));
        Bare { ip: IpRepr::new(from, to, IpProtocol::Tcp, tcp.buffer_len(), 64), tcp }
    }

    /// The same with a window, and the options of a SYN.
    pub(crate) fn with(
        mut self,
        window: u16,
        mss: Option<u16>,
        window_scale: Option<u8>,
        sack: bool,
    ) -> Bare {
        self.tcp.window_len = window;
        self.tcp.max_seg_size = mss;
        self.tcp.window_scale = window_scale;
        self.tcp.sack_permitted = sack;
        let (from, to) = (self.ip.src_addr(), self.ip.dst_addr());
        self.ip = IpRepr::new(from, to, IpProtocol::Tcp, self.tcp.buffer_len(), 64);
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.ip.buffer_len()
    }

    pub(crate) fn emit(&self, packet: &mut [u8], checksums: &ChecksumCapabilities) {
        self.ip.emit(&mut *packet, checksums);
        let segment = &mut packet[self.ip.header_len()..];
        let mut segment = TcpPacket::new_unchecked(segment);
        self.tcp.emit(&mut segment, &self.ip.src_addr(), &self.ip.dst_addr(), checksums);
    }
}
