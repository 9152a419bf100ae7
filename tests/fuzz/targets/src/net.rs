//! A worker's receive path without the worker: link, TCP, and an application that reads and writes, beside hosts whose
//! segments are made as wrong as the fuzzer wants them.
//!
//! In: frames and segments. Out: nothing; what the path sends, tells and hands to its application is held against what
//! was sent to it. Virtual time, one thread.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use keyferry_link::{Cidr, Ingress, Link, NextHop, PARKED_MAX, Route, TRANSMIT_BYTES_MAX};
use keyferry_nic::rss::{self, Class};
use keyferry_tcp::{Config, ConnId, Egress, Event, Outbound, RxChecksum, Segment, Stretch, Tcp};
use keyferry_time::Time;
use smoltcp::wire::{IpAddress, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, TcpSeqNumber};

pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const SERVER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub(crate) const PORT: u16 = 443;
/// Hosts that speak to the server: even ones IPv4, odd ones IPv6, the last two behind a gateway.
pub(crate) const PEERS: usize = 6;
const MTU: u16 = 1500;
const CONNECTIONS: u32 = 4;
/// Packets the port takes in one step.
const BURST: usize = 64;
/// Longest wait for anything to end: every time-out of TCP and link there is.
const ROUND: Duration = Duration::from_secs(60);
const ROUNDS_MAX: usize = 64;

/// A byte of a stream: follows from its place, so that a byte out of place is seen.
pub(crate) fn pattern(at: u32) -> u8 {
    (at ^ at >> 8 ^ at >> 16).wrapping_mul(167) as u8
}

/// One host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) usize);

impl Peer {
    pub(crate) fn ip(self) -> IpAddr {
        let last = 9 + self.0 as u8;
        match (self.0 % 2, self.0 < PEERS - 2) {
            (0, true) => Ipv4Addr::new(192, 0, 2, last).into(),
            (0, false) => Ipv4Addr::new(198, 51, 100, last).into(),
            (_, true) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into(),
            (_, false) => Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, last.into()).into(),
        }
    }

    pub(crate) fn address(self) -> SocketAddr {
        SocketAddr::new(self.ip(), 50_000 + self.0 as u16)
    }

    pub(crate) fn mac(self) -> [u8; 6] {
        [2, 0, 0, 0, 1, self.0 as u8]
    }

    /// Its first sequence number, some of them close to where numbers wrap.
    pub(crate) fn isn(self) -> u32 {
        [0x1000, 0xffff_fff0, 0x7fff_ff00, 0, 0xffff_fffe, 0x8000_0000][self.0 % 6]
    }

    fn of(address: SocketAddr) -> Option<Peer> {
        (0..PEERS).map(Peer).find(|peer| peer.address() == address)
    }
}

/// Part of the server's stream.
pub(crate) struct Piece {
    start: u32,
    len: usize,
}

impl Segment for Piece {
    fn len(&self) -> usize {
        self.len
    }

    fn copy_to(&self, at: usize, to: &mut [u8]) {
        assert!(at + to.len() <= self.len, "only what is in the segment is asked for");
        for (place, byte) in to.iter_mut().enumerate() {
            *byte = pattern(self.start.wrapping_add((at + place) as u32));
        }
    }
}

/// What goes out.
struct Out {
    packets: Vec<Vec<u8>>,
}

impl Egress<Piece> for Out {
    fn room(&mut self) -> bool {
        self.packets.len() < BURST
    }

    fn packet(&mut self, outbound: &Outbound<'_, Piece>) {
        let len = outbound.len();
        assert!(
            self.room() && outbound.tso_segment_bytes() == 0 && len <= usize::from(MTU),
            "{len} bytes in one packet"
        );
        let mut packet = vec![0xee; len];
        outbound.write(&mut packet);
        self.packets.push(packet);
    }
}

/// What the server's application knows of a connection.
struct Conn {
    peer: Peer,
    /// The number of the first byte of its host's stream.
    first: u32,
    read: u32,
    sent: u32,
    /// Segments queued and not yet released.
    queued: usize,
    /// Closed or aborted by us: nothing but `Closed` may follow.
    done: bool,
    eof: bool,
}

/// What a host knows of the server: the first number of its stream, how much acknowledges everything seen, and which
/// SYN of the host was answered last: the one a connection begins with, among several that differ.
#[derive(Clone, Copy, Default)]
struct Known {
    isn: u32,
    next: u32,
    mss: Option<u16>,
    answered: u32,
}

/// The receive path and everything around it.
pub(crate) struct Net {
    link: Link<Vec<u8>>,
    tcp: Tcp<Piece>,
    out: Out,
    now: Time,
    conns: HashMap<ConnId, Conn>,
    known: [Known; PEERS],
    /// The segment size each host has offered last with a SYN.
    offered: [Option<u16>; PEERS],
}

/// A segment to be made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tcpish<'a> {
    pub(crate) flags: u8,
    /// Added to the host's first sequence number.
    pub(crate) seq: u32,
    /// Added to what acknowledges everything the server has sent.
    pub(crate) ack: i32,
    pub(crate) window: u16,
    pub(crate) options: &'a [u8],
    pub(crate) payload: usize,
}

/// Bytes of a TCP header that name its flow.
const PORTS_BYTES: usize = 4;

/// Bytes of options at most.
const OPTIONS_MAX: usize = 40;

/// Below this a host's segment size is not believed.
const SEGMENT_SIZE_MIN: u16 = 48;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Net {
    pub(crate) fn new() -> Net {
        let cidr = |address: &str| address.parse::<Cidr>().expect("an address with prefix");
        let route = |to: &str, via: IpAddr| Route { to: cidr(to), via };
        let link = Link::new(keyferry_link::Config {
            mac: MAC,
            addresses: vec![cidr("192.0.2.1/24"), cidr("2001:db8::1/64")],
            routes: vec![route("0.0.0.0/0", Peer(0).ip()), route("::/0", Peer(1).ip())],
            vlan: None,
            mtu: MTU,
        });
        let tcp = Tcp::new(Config {
            addresses: vec![SERVER_V4.into(), SERVER_V6.into()],
            ports: vec![PORT],
            mtu: MTU,
            connections: CONNECTIONS,
            half_open: CONNECTIONS / 2,
            half_open_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(30),
            receive_bytes: 1024,
            send_bytes: 2048,
            rx_checksum: RxChecksum::Verify,
            tx_checksum_offload: false,
            stretch: Stretch::SEGMENT,
            seed: 1,
        });
        Net {
            link,
            tcp,
            out: Out { packets: Vec::new() },
            now: Time::from_us(1_000),
            conns: HashMap::new(),
            known: Default::default(),
            offered: Default::default(),
        }
    }

    /// A frame from the wire, of any content; what claims to be of a host's connection is left out, because its bytes
    /// would not be those of the stream.
    pub(crate) fn frame(&mut self, frame: &mut [u8]) {
        let class = rss::classify(frame);
        let before = frame.to_vec();
        match self.link.ingest(self.now, frame) {
            Ingress::Ip { at, len } => {
                assert!(len >= 20 && at + len <= frame.len(), "the packet is inside its frame");
                assert_eq!(&frame[at..at + len], &before[at..at + len], "it is only looked at");
                assert_eq!(class, rss::classify(&before), "a frame's class is its own");
                let header = if before[at] >> 4 == 4 { usize::from(before[at] & 15) * 4 } else { 40 };
                if len >= header + PORTS_BYTES {
                    assert!(matches!(class, Class::Flow(_)), "TCP that no worker owns: {class:?}");
                }
                if !is_of_a_peer(&frame[at..at + len]) {
                    self.tcp.ingest(self.now, &mut frame[at..at + len], false, &mut self.out);
                }
            }
            Ingress::Reply { len } => {
                assert!((14..=frame.len()).contains(&len), "the answer fits the frame");
                assert_eq!(frame[6..12], MAC, "and comes from us");
                assert_eq!(frame[0] & 1, 0, "to one station");
            }
            Ingress::TooBig { at, len, mtu } => {
                assert!(at + len <= frame.len(), "what is returned is inside its frame");
                self.tcp.too_big(self.now, &frame[at..at + len], mtu);
            }
            Ingress::Consumed | Ingress::Drop(_) => {}
        }
        self.settle();
    }

    /// A segment of a host, as wrong as it was asked for, its checksums right.
    pub(crate) fn segment(&mut self, peer: Peer, what: &Tcpish<'_>) {
        let known = self.known[peer.0];
        let seq = peer.isn().wrapping_add(what.seq);
        let ack = known.next.wrapping_add_signed(what.ack);
        let frame = build(peer, what, seq, ack);
        self.inject(peer, frame, what);
    }

    fn inject(&mut self, peer: Peer, mut frame: Vec<u8>, what: &Tcpish<'_>) {
        assert!(matches!(rss::classify(&frame), Class::Flow(_)), "a segment belongs to a flow");
        if what.flags & SYN != 0 {
            self.offered[peer.0] = segment_size(what.options);
        }
        match self.link.ingest(self.now, &mut frame) {
            Ingress::Ip { at, len } => {
                assert_eq!(at + len, frame.len(), "all of it");
                self.tcp.ingest(self.now, &mut frame[at..at + len], false, &mut self.out);
            }
            other => panic!("a packet for us became {other:?}"),
        }
        self.settle();
    }

    /// Three segments that open a connection, if the server takes it.
    pub(crate) fn open(&mut self, peer: Peer, options: &[u8]) {
        self.segment(peer, &Tcpish { flags: SYN, window: 4096, options, ..Tcpish::default() });
        self.segment(peer, &Tcpish { flags: ACK, seq: 1, window: 4096, ..Tcpish::default() });
    }

    /// Time goes on.
    pub(crate) fn wait(&mut self, by: Duration) {
        self.now += by;
        self.tcp.timers(self.now, &mut self.out);
        self.link.timers(self.now);
        self.settle();
    }

    fn any(&self, pick: u8) -> Option<ConnId> {
        // In the order of their names: a map's own order is another one in each process.
        let mut ids: Vec<ConnId> = self.conns.keys().copied().collect();
        ids.sort_by_key(|id| (id.index(), id.generation()));
        (!ids.is_empty()).then(|| ids[usize::from(pick) % ids.len()])
    }

    /// The application reads up to `most` bytes.
    pub(crate) fn read(&mut self, pick: u8, most: usize) {
        let Some(id) = self.any(pick) else { return };
        let conn = &self.conns[&id];
        let (start, readable) = (conn.first.wrapping_add(conn.read), self.tcp.readable(id));
        let taken = self.tcp.receive(id, |bytes| {
            assert!(bytes.len() <= readable && !bytes.is_empty(), "as much as was said");
            for (place, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, pattern(start.wrapping_add(place as u32)), "a byte out of place");
            }
            let taken = bytes.len().min(most);
            (taken, taken)
        });
        assert!(taken.is_none() || !conn.done, "nothing is read after the end");
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.read = conn.read.wrapping_add(taken.unwrap_or(0) as u32);
        }
        self.settle();
    }

    /// The application writes.
    pub(crate) fn write(&mut self, pick: u8, len: usize) {
        let Some(id) = self.any(pick) else { return };
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if self.tcp.send(id, Piece { start: conn.sent, len }).is_ok() {
            assert!(!conn.done, "nothing is sent after the end");
            conn.sent += len as u32;
            conn.queued += 1;
        }
        self.settle();
    }

    /// The application ends a connection, orderly or not.
    pub(crate) fn end(&mut self, pick: u8, abort: bool) {
        let Some(id) = self.any(pick) else { return };
        if abort {
            self.tcp.abort(id)
        } else {
            self.tcp.close(id)
        }
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.done = true;
        }
        self.settle();
    }

    /// Everything that follows from a step, and whether it is right.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.tcp.emit(self.now, &mut self.out);
            self.sent();
            self.released();
            self.told();
        }
        let mut frame = [0; TRANSMIT_BYTES_MAX];
        while let Some(len) = self.link.poll_transmit(self.now, &mut frame) {
            assert!((14..=TRANSMIT_BYTES_MAX).contains(&len) && frame[6..12] == MAC);
        }
        while let Some((packet, mac)) = self.link.unparked() {
            assert!(!packet.is_empty() && mac[0] & 1 == 0);
        }
        assert!(self.link.parked() <= PARKED_MAX && self.tcp.connections() <= CONNECTIONS as usize);
    }

    /// Packets on their way out: each well-formed, of its stream, within what its host takes.
    fn sent(&mut self) {
        for packet in std::mem::take(&mut self.out.packets) {
            let (to, tcp) = parse(&packet);
            self.judge(to, &tcp);
            match self.link.next_hop(self.now, to.ip()) {
                NextHop::Known(mac) => assert_eq!(mac[0] & 1, 0, "a station's address"),
                NextHop::Unresolved => drop(self.link.park(self.now, to.ip(), packet.clone())),
                NextHop::NoRoute => panic!("there is a route to everywhere"),
            }
        }
    }

    fn judge(&mut self, to: SocketAddr, tcp: &TcpPacket<&[u8]>) {
        let Some(peer) = Peer::of(to) else {
            assert!(tcp.payload().is_empty(), "data for whoever asked");
            return;
        };
        let seq = tcp.seq_number().0 as u32;
        let known = &mut self.known[peer.0];
        if tcp.syn() && seq != known.isn {
            *known = Known { isn: seq, next: seq.wrapping_add(1), mss: self.offered[peer.0], ..*known };
        } else if tcp.syn() && known.mss != self.offered[peer.0] {
            // Sent again, or begun anew in the same tick of the clock: either offer may be the one that counts.
            known.mss = None;
        }
        if tcp.syn() {
            known.answered = tcp.ack_number().0 as u32;
        }
        if tcp.rst() {
            return;
        }
        let payload = tcp.payload();
        let at = seq.wrapping_sub(known.isn).wrapping_sub(1);
        let end = seq.wrapping_add(tcp.segment_len() as u32);
        if end.wrapping_sub(known.next) as i32 > 0 {
            known.next = end;
        }
        if payload.is_empty() {
            return;
        }
        // A host without the option takes 536 or 1,220 bytes (RFC 9293 3.7.1); one that offers less than 48 is not
        // taken at its word by anybody.
        if let Some(mss) = known.mss.filter(|mss| *mss >= SEGMENT_SIZE_MIN) {
            assert!(payload.len() <= usize::from(mss), "{} bytes for a host that takes {mss}", payload.len());
        }
        // A keep-alive's byte is none of the stream's: it stands where one stood that was acknowledged (RFC 9293 3.8.4).
        if *payload == [0] && end.wrapping_sub(known.next) as i32 <= 0 {
            return;
        }
        for (place, byte) in payload.iter().enumerate() {
            assert_eq!(*byte, pattern(at.wrapping_add(place as u32)), "a byte out of place");
        }
        if let Some(conn) = self.conns.values().find(|conn| conn.peer.0 == peer.0 && conn.sent > 0) {
            let end = u64::from(at) + payload.len() as u64;
            assert!(end <= u64::from(conn.sent), "more than the application wrote");
        }
    }

    fn released(&mut self) {
        while let Some((id, _)) = self.tcp.released() {
            let conn = self.conns.get_mut(&id).expect("a segment of a connection there is");
            conn.queued = conn.queued.checked_sub(1).expect("a segment is released once");
        }
    }

    fn told(&mut self) {
        while let Some(event) = self.tcp.poll_event() {
            match event {
                Event::Opened(id) => {
                    let peer = Peer::of(self.tcp.peer(id)).expect("only hosts open connections");
                    let first = self.known[peer.0].answered;
                    let fresh = Conn { peer, first, read: 0, sent: 0, queued: 0, done: false, eof: false };
                    assert!(self.conns.insert(id, fresh).is_none(), "opened twice");
                    assert!(self.conns.len() <= CONNECTIONS as usize);
                }
                Event::Readable(id) => {
                    let readable = self.tcp.readable(id);
                    let conn = self.conn(id);
                    assert!(!conn.done && readable > 0, "nothing is there to read");
                }
                Event::Writable(id) => assert!(!self.conn(id).done),
                Event::Eof(id) => {
                    let conn = self.conn(id);
                    assert!(!conn.done && !conn.eof, "one end a stream");
                    conn.eof = true;
                }
                Event::Closed(id, _) => {
                    let conn = self.conns.remove(&id).expect("closed without having been opened");
                    assert_eq!(conn.queued, 0, "its segments were given back before");
                    assert_eq!(self.tcp.readable(id), 0, "a dead name has no bytes");
                }
            }
        }
    }

    fn conn(&mut self, id: ConnId) -> &mut Conn {
        self.conns.get_mut(&id).expect("an event of a connection that was opened and not closed")
    }

    /// Silence: every connection ends by itself, and nothing of any stays.
    pub(crate) fn wind_up(mut self) {
        for _ in 0..ROUNDS_MAX {
            let counters = self.tcp.counters();
            if self.tcp.connections() == 0 && counters.half_open == 0 && counters.time_wait == 0 {
                break;
            }
            self.wait(ROUND);
        }
        assert_eq!(self.tcp.connections(), 0, "a connection that never ends");
        assert!(self.conns.is_empty(), "the application was not told of the end");
        let counters = self.tcp.counters();
        assert_eq!(counters.closed.iter().sum::<u64>(), counters.opened, "what was opened was closed");
        assert_eq!((counters.half_open, counters.time_wait), (0, 0));
        self.wait(Duration::from_secs(600));
        assert_eq!(self.link.parked(), 0, "a packet that waits for ever");
    }
}

fn is_of_a_peer(packet: &[u8]) -> bool {
    let (source, at): (IpAddr, usize) = if packet[0] >> 4 == 4 {
        let octets: [u8; 4] = packet[12..16].try_into().expect("four bytes");
        (octets.into(), usize::from(packet[0] & 15) * 4)
    } else {
        let octets: [u8; 16] = packet[8..24].try_into().expect("sixteen bytes");
        (octets.into(), 40)
    };
    let Some(port) = packet.get(at..at + 2) else { return false };
    Peer::of(SocketAddr::new(source, u16::from_be_bytes([port[0], port[1]]))).is_some()
}

/// A packet of ours, its checksums verified.
fn parse(packet: &[u8]) -> (SocketAddr, TcpPacket<&[u8]>) {
    let (from, to, segment): (IpAddress, IpAddress, &[u8]) = if packet[0] >> 4 == 4 {
        let ip = Ipv4Packet::new_checked(packet).expect("well-formed");
        assert!(ip.verify_checksum() && usize::from(ip.total_len()) == packet.len());
        (ip.src_addr().into(), ip.dst_addr().into(), &packet[usize::from(ip.header_len())..])
    } else {
        let ip = Ipv6Packet::new_checked(packet).expect("well-formed");
        assert_eq!(ip.total_len(), packet.len());
        (ip.src_addr().into(), ip.dst_addr().into(), &packet[ip.header_len()..])
    };
    let tcp = TcpPacket::new_checked(segment).expect("well-formed");
    assert!(tcp.verify_checksum(&from, &to), "its checksum is right");
    let own = [IpAddr::V4(SERVER_V4), IpAddr::V6(SERVER_V6)];
    assert!(own.contains(&IpAddr::from(from)), "it comes from one of our addresses");
    (SocketAddr::new(to.into(), tcp.dst_port()), tcp)
}

/// The segment size among the options, read as RFC 9293 3.1 writes them. Said twice, either may count, so the largest; but
/// one that nobody takes at its word makes all of it mean nothing.
fn segment_size(options: &[u8]) -> Option<u16> {
    // As on the wire: filled up to a whole word.
    let padded = [&options[..options.len().min(OPTIONS_MAX)], &[0; 3]].concat();
    let mut rest = &padded[..padded.len() / 4 * 4];
    let mut sizes = Vec::new();
    while let [kind, behind @ ..] = rest {
        rest = match (kind, behind) {
            (0, _) => break,
            (1, _) => behind,
            (_, [len, ..]) if *len >= 2 => rest.get(usize::from(*len)..).unwrap_or_default(),
            _ => break,
        };
        if let (2, [4, high, low, ..]) = (kind, behind) {
            sizes.push(u16::from_be_bytes([*high, *low]));
        }
    }
    let least = sizes.iter().copied().min()?;
    if least < SEGMENT_SIZE_MIN { Some(least) } else { sizes.into_iter().max() }
}

fn build(peer: Peer, what: &Tcpish<'_>, seq: u32, ack: u32) -> Vec<u8> {
    let options = &what.options[..what.options.len().min(OPTIONS_MAX)];
    let header = 20 + options.len().div_ceil(4) * 4;
    let payload = what.payload.min(1400);
    let ipv4 = peer.ip().is_ipv4();
    let at = 14 + if ipv4 { 20 } else { 40 };
    let mut frame = vec![0; at + header + payload];
    frame[..6].copy_from_slice(&MAC);
    frame[6..12].copy_from_slice(&peer.mac());
    frame[12..14].copy_from_slice(if ipv4 { &[8, 0] } else { &[0x86, 0xdd] });
    let (from, to) = match peer.ip() {
        IpAddr::V4(from) => {
            let mut ip = Ipv4Packet::new_unchecked(&mut frame[14..]);
            ip.set_version(4);
            ip.set_header_len(20);
            ip.set_total_len((20 + header + payload) as u16);
            ip.set_hop_limit(64);
            ip.set_next_header(IpProtocol::Tcp);
            ip.set_src_addr(from);
            ip.set_dst_addr(SERVER_V4);
            ip.fill_checksum();
            (IpAddress::from(from), IpAddress::from(SERVER_V4))
        }
        IpAddr::V6(from) => {
            let mut ip = Ipv6Packet::new_unchecked(&mut frame[14..]);
            ip.set_version(6);
            ip.set_payload_len((header + payload) as u16);
            ip.set_hop_limit(64);
            ip.set_next_header(IpProtocol::Tcp);
            ip.set_src_addr(from);
            ip.set_dst_addr(SERVER_V6);
            (IpAddress::from(from), IpAddress::from(SERVER_V6))
        }
    };
    let segment = &mut frame[at..];
    segment[20..20 + options.len()].copy_from_slice(options);
    let first = seq.wrapping_add(u32::from(what.flags & SYN != 0));
    for (place, byte) in segment[header..].iter_mut().enumerate() {
        *byte = pattern(first.wrapping_add(place as u32));
    }
    segment[13] = what.flags;
    let mut tcp = TcpPacket::new_unchecked(&mut *segment);
    tcp.set_src_port(peer.address().port());
    tcp.set_dst_port(PORT);
    tcp.set_seq_number(TcpSeqNumber(seq as i32));
    tcp.set_ack_number(TcpSeqNumber(ack as i32));
    tcp.set_window_len(what.window);
    // Written last: the setter above leaves the flags alone, and the length shares their word.
    segment[12] = (header as u8 / 4) << 4;
    TcpPacket::new_unchecked(segment).fill_checksum(&from, &to);
    frame
}
