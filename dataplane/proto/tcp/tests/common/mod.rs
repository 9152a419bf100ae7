//! A server under test and smoltcp clients, joined by a network that loses, repeats and reorders packets, in
//! virtual time. The same seed gives the same run.

#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use keyferry_tcp::{CloseReason, Config, ConnId, Egress, Event, Outbound, RxChecksum, Segment, Stretch, Tcp};
use keyferry_time::Time;
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant;
use smoltcp::wire::{
    HardwareAddress, IpAddress, IpCidr, IpProtocol, Ipv4Packet, Ipv6Packet, TcpPacket, checksum,
};

pub const SERVER_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
pub const SERVER_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
pub const CLIENT_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9));
pub const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
pub const PORT: u16 = 443;
pub const MTU: usize = 1500;
/// Instants at which something happens, more than any transfer here takes.
const TURNS_MAX: usize = 200_000;
/// A packet, for a failure's message: flags, sequence number, acknowledgement, bytes, window.
type Brief = (u8, u32, u32, usize, u16);
/// Packets on their way at a time that no transfer here needs.
const STORM_PACKETS: usize = 2_000;

pub fn config() -> Config {
    Config {
        addresses: vec![SERVER_V4, SERVER_V6],
        ports: vec![PORT],
        mtu: MTU as u16,
        connections: 16,
        half_open: 8,
        half_open_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(300),
        receive_bytes: 4096,
        send_bytes: 8192,
        rx_checksum: RxChecksum::Verify,
        tx_checksum_offload: false,
        stretch: Stretch::SEGMENT,
        seed: 1,
    }
}

/// xorshift64*: enough to draw faults from.
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound.max(1)
    }
}

pub fn pattern(bytes: usize, salt: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at.wrapping_mul(31) >> 3) as u8 ^ (at >> 11) as u8 ^ salt).collect()
}

/// In percent, and the largest extra delay.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    pub loss: u64,
    pub repeat: u64,
    pub jitter_us: u64,
}

/// The port: takes what the server sends, and does what a port with offloads does.
pub struct Port {
    pub packets: VecDeque<Vec<u8>>,
    /// Packets it takes until it is emptied.
    pub room: usize,
    pub offload: bool,
    pub segmented: usize,
    /// Largest packet of the network behind it.
    pub mtu: usize,
}

impl<S: Segment> Egress<S> for Port {
    fn room(&mut self) -> bool {
        self.packets.len() < self.room
    }

    fn packet(&mut self, outbound: &Outbound<'_, S>) {
        assert!(self.packets.len() < self.room, "a packet without asking for room");
        let mut segments = Vec::new();
        outbound.each_segment(|one| {
            let mut packet = written(one);
            assert!(packet.len() <= self.mtu, "{} bytes in one packet", packet.len());
            if self.offload {
                fill_checksums(&mut packet, true);
            }
            segments.push(packet);
        });
        let tso_segment_bytes = usize::from(outbound.tso_segment_bytes());
        if tso_segment_bytes > 0 {
            self.segmented += 1;
            if self.offload {
                let of_port = segment(&written(outbound), tso_segment_bytes, self.mtu);
                assert!(segments == of_port, "we cut as a port does");
            }
        }
        self.packets.extend(segments);
    }
}

fn written<S: Segment>(outbound: &Outbound<'_, S>) -> Vec<u8> {
    let mut packet = vec![0xee; outbound.len()];
    outbound.write(&mut packet);
    packet
}

fn is_ipv4(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4
}

/// Fills checksums in, having checked that the field holds the pseudo-header sum and IPv4's is 0.
fn fill_checksums(packet: &mut [u8], with_len: bool) {
    if is_ipv4(packet) {
        let mut ip = Ipv4Packet::new_unchecked(packet);
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        assert_eq!(ip.checksum(), 0, "IPv4 checksum left to the port");
        ip.fill_checksum();
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        let len = if with_len { tcp.as_ref_len() } else { 0 };
        assert_eq!(tcp.checksum(), checksum::pseudo_header_v4(&from, &to, IpProtocol::Tcp, len as u32));
        tcp.fill_checksum(&from.into(), &to.into());
    } else {
        let mut ip = Ipv6Packet::new_unchecked(packet);
        let (from, to) = (ip.src_addr(), ip.dst_addr());
        let mut tcp = TcpPacket::new_unchecked(ip.payload_mut());
        let len = if with_len { tcp.as_ref_len() } else { 0 };
        assert_eq!(tcp.checksum(), checksum::pseudo_header_v6(&from, &to, IpProtocol::Tcp, len as u32));
        tcp.fill_checksum(&from.into(), &to.into());
    }
}

trait Len {
    fn as_ref_len(&mut self) -> usize;
}

impl Len for TcpPacket<&mut [u8]> {
    fn as_ref_len(&mut self) -> usize {
        usize::from(self.header_len()) + self.payload_mut().len()
    }
}

/// Cuts a packet as a port with segmentation would.
fn segment(packet: &[u8], bytes: usize, mtu: usize) -> Vec<Vec<u8>> {
    let (at, from, to): (usize, IpAddress, IpAddress) = if is_ipv4(packet) {
        let ip = Ipv4Packet::new_checked(packet).expect("a packet of ours");
        (usize::from(ip.header_len()), ip.src_addr().into(), ip.dst_addr().into())
    } else {
        let ip = Ipv6Packet::new_checked(packet).expect("a packet of ours");
        (40, ip.src_addr().into(), ip.dst_addr().into())
    };
    let tcp = TcpPacket::new_checked(&packet[at..]).unwrap();
    let headers = at + usize::from(tcp.header_len());
    assert!(headers + bytes <= mtu, "segments fit the network");
    assert_eq!(tcp.checksum(), checksum::pseudo_header(&from, &to, IpProtocol::Tcp, 0));
    let payload = &packet[headers..];
    assert!(payload.len() > bytes);
    let pieces = payload.chunks(bytes).enumerate();
    pieces
        .map(|(number, piece)| {
            let last = (number * bytes) + piece.len() == payload.len();
            let mut copy = [&packet[..headers], piece].concat();
            let len = copy.len() as u16;
            if is_ipv4(packet) {
                let mut ip = Ipv4Packet::new_unchecked(&mut copy[..]);
                ip.set_total_len(len);
                ip.fill_checksum();
            } else {
                Ipv6Packet::new_unchecked(&mut copy[..]).set_payload_len(len - 40);
            }
            let mut tcp = TcpPacket::new_unchecked(&mut copy[at..]);
            tcp.set_seq_number(tcp.seq_number() + number * bytes);
            tcp.set_psh(tcp.psh() && last);
            tcp.set_fin(tcp.fin() && last);
            tcp.set_cwr(tcp.cwr() && number == 0);
            tcp.fill_checksum(&from, &to);
            copy
        })
        .collect()
}

/// A smoltcp host with any number of sockets.
pub struct Client {
    interface: Interface,
    pub sockets: SocketSet<'static>,
    device: Queues,
    next_port: u16,
}

struct Queues {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
}

struct Rx(Vec<u8>);
struct Tx<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Rx, Tx<'_>)> {
        self.rx.pop_front().map(|packet| (Rx(packet), Tx(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        Some(Tx(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = MTU;
        caps
    }
}

impl Client {
    fn new(seed: u64) -> Client {
        let mut device = Queues { rx: VecDeque::new(), tx: VecDeque::new() };
        let mut config = smoltcp::iface::Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(CLIENT_V4.into(), 24)).unwrap();
            addresses.push(IpCidr::new(CLIENT_V6.into(), 64)).unwrap();
        });
        Client { interface, sockets: SocketSet::new(vec![]), device, next_port: 50_000 }
    }

    pub fn connect(&mut self, to: IpAddr) -> SocketHandle {
        self.next_port += 1;
        self.connect_from(to, self.next_port)
    }

    pub fn connect_from(&mut self, to: IpAddr, port: u16) -> SocketHandle {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; 16_384]), SocketBuffer::new(vec![0; 16_384]));
        socket.set_nagle_enabled(false);
        // Without it smoltcp's sender can stall for ever: see `Connection::probe`.
        socket.set_keep_alive(Some(smoltcp::time::Duration::from_secs(10)));
        socket.connect(self.interface.context(), (to, PORT), port).unwrap();
        self.sockets.add(socket)
    }

    pub fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    pub fn state(&mut self, handle: SocketHandle) -> State {
        self.socket(handle).state()
    }

    /// Everything readable.
    pub fn read(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = vec![];
        while let Ok(true) = self.socket(handle).recv(|bytes| {
            all.extend_from_slice(bytes);
            (bytes.len(), !bytes.is_empty())
        }) {}
        all
    }
}

/// What the server knows of a connection.
#[derive(Default)]
pub struct Side {
    pub received: Vec<u8>,
    pub readable: bool,
    pub writable: usize,
    pub eof: bool,
    pub closed: Option<CloseReason>,
    pub closing: bool,
    pub accepted: usize,
    pub released: usize,
}

struct InFlight {
    at: Time,
    bytes: Vec<u8>,
}

pub struct World {
    pub now: Time,
    pub rng: Rng,
    pub faults: Faults,
    pub tcp: Tcp<Vec<u8>>,
    pub port: Port,
    pub client: Client,
    pub sides: BTreeMap<(usize, u32), (ConnId, Side)>,
    to_server: Vec<InFlight>,
    to_client: Vec<InFlight>,
    /// Packets of the client reach nobody.
    pub cut: bool,
    /// The server reads as soon as it can.
    pub greedy: bool,
    /// A digest of all packets of the server.
    pub trace: u64,
}

impl World {
    pub fn new(config: Config, faults: Faults, seed: u64) -> World {
        let offload = config.tx_checksum_offload;
        World {
            now: Time::from_us(1_000_000),
            rng: Rng::new(seed),
            faults,
            tcp: Tcp::new(config),
            port: Port { packets: VecDeque::new(), room: 32, offload, segmented: 0, mtu: MTU },
            client: Client::new(seed),
            sides: BTreeMap::new(),
            to_server: vec![],
            to_client: vec![],
            cut: false,
            greedy: true,
            trace: 0,
        }
    }

    pub fn side(&mut self, id: ConnId) -> &mut Side {
        &mut self.sides.get_mut(&(id.index(), id.generation())).expect("a connection that opened").1
    }

    pub fn ids(&self) -> Vec<ConnId> {
        self.sides.values().filter(|(_, side)| side.closed.is_none()).map(|(id, _)| *id).collect()
    }

    /// The only live connection.
    pub fn id(&self) -> ConnId {
        let ids = self.ids();
        assert_eq!(ids.len(), 1);
        ids[0]
    }

    pub fn send(&mut self, id: ConnId, bytes: Vec<u8>) -> bool {
        let sent = self.tcp.send(id, bytes).is_ok();
        if sent {
            self.side(id).accepted += 1;
        }
        sent
    }

    pub fn close(&mut self, id: ConnId) {
        self.tcp.close(id);
        self.side(id).closing = true;
    }

    pub fn abort(&mut self, id: ConnId) {
        self.tcp.abort(id);
        self.side(id).closing = true;
    }

    /// Gives the server a packet at once.
    pub fn inject(&mut self, mut packet: Vec<u8>) {
        self.tcp.ingest(self.now, &mut packet, false, &mut self.port);
    }

    /// One instant: packets that have arrived, both hosts, packets sent.
    pub fn turn(&mut self) {
        for mut packet in arrived(&mut self.to_server, self.now) {
            self.tcp.ingest(self.now, &mut packet, false, &mut self.port);
        }
        self.client.device.rx.extend(arrived(&mut self.to_client, self.now));
        let instant = Instant::from_micros((self.now.0 / 1_000) as i64);
        let Client { interface, sockets, device, .. } = &mut self.client;
        interface.poll(instant, device, sockets);
        self.events();
        self.tcp.emit(self.now, &mut self.port);
        if self.tcp.poll_at().is_some_and(|at| at.is_due(self.now)) {
            self.tcp.timers(self.now, &mut self.port);
        }
        self.collect();
        self.events();
        self.transmit();
    }

    /// Sends what was queued since the turn.
    pub fn emit(&mut self) {
        self.tcp.emit(self.now, &mut self.port);
        self.transmit();
    }

    fn transmit(&mut self) {
        while let Some(packet) = self.client.device.tx.pop_front() {
            if !self.cut {
                put(&mut self.to_server, &mut self.rng, self.faults, self.now, packet);
            }
        }
        while let Some(packet) = self.port.packets.pop_front() {
            for byte in &packet {
                self.trace = self.trace.rotate_left(5).wrapping_mul(0x1000_0000_01b3) ^ u64::from(*byte);
            }
            put(&mut self.to_client, &mut self.rng, self.faults, self.now, packet);
        }
    }

    pub fn events(&mut self) {
        while let Some(event) = self.tcp.poll_event() {
            match event {
                Event::Opened(id) => {
                    let old = self.sides.insert((id.index(), id.generation()), (id, Side::default()));
                    assert!(old.is_none(), "one name, one connection");
                }
                Event::Readable(id) => {
                    assert!(!self.side(id).closing);
                    self.side(id).readable = true;
                    if self.greedy {
                        self.read(id);
                    }
                }
                Event::Writable(id) => {
                    assert!(!self.side(id).closing);
                    self.side(id).writable += 1;
                }
                Event::Eof(id) => {
                    assert!(!self.side(id).closing && !self.side(id).eof);
                    self.side(id).eof = true;
                }
                Event::Closed(id, reason) => {
                    let side = self.side(id);
                    assert_eq!(side.closed.replace(reason), None);
                    assert_eq!(side.accepted, side.released, "released before closed");
                    assert!(self.tcp.send(id, vec![1]).is_err());
                    assert_eq!(self.tcp.receive(id, |bytes| (bytes.len(), ())), None);
                }
            }
        }
    }

    pub fn read(&mut self, id: ConnId) {
        let mut all = vec![];
        while self
            .tcp
            .receive(id, |bytes| {
                assert!(!bytes.is_empty());
                all.extend_from_slice(bytes);
                (bytes.len(), ())
            })
            .is_some()
        {}
        self.side(id).received.append(&mut all);
        self.side(id).readable = false;
    }

    fn collect(&mut self) {
        while let Some((id, _)) = self.tcp.released() {
            let side = self.side(id);
            assert_eq!(side.closed, None, "released after closed");
            side.released += 1;
        }
    }

    /// When something happens next.
    pub fn next(&mut self) -> Option<Time> {
        let instant = Instant::from_micros((self.now.0 / 1_000) as i64);
        let Client { interface, sockets, .. } = &mut self.client;
        let client = interface.poll_at(instant, sockets).map(|at| Time(at.total_micros() as u64 * 1_000));
        let flying = self.to_server.iter().chain(&self.to_client).map(|packet| packet.at).min();
        [client, flying, self.tcp.poll_at()].into_iter().flatten().min()
    }

    /// Turns until `done`, or nothing happens any more, or `limit` has passed. Answers whether it is done.
    pub fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut World) -> bool) -> bool {
        let end = self.now + limit;
        let mut turns = 0;
        loop {
            self.turn();
            if done(self) {
                return true;
            }
            turns += 1;
            assert!(turns < TURNS_MAX, "it never comes to rest: {:?}", self.flying());
            match self.next() {
                Some(at) if at.is_due(end) => self.now = self.now.max(at) + Duration::from_micros(1),
                _ => {
                    self.now = end;
                    self.turn();
                    return done(self);
                }
            }
        }
    }

    /// What is under way to the server and to the client.
    fn flying(&self) -> [Vec<Brief>; 2] {
        [&self.to_server, &self.to_client].map(|flying| {
            let brief = |packet: &InFlight| {
                let at = if is_ipv4(&packet.bytes) { 20 } else { 40 };
                let tcp = TcpPacket::new_unchecked(&packet.bytes[at..]);
                let (seq, ack) = (tcp.seq_number().0 as u32, tcp.ack_number().0 as u32);
                (packet.bytes[at + 13], seq, ack, tcp.payload().len(), tcp.window_len())
            };
            flying.iter().take(12).map(brief).collect()
        })
    }

    /// Lets `limit` pass.
    pub fn pass(&mut self, limit: Duration) {
        self.run(limit, |_| false);
    }

    /// Nothing of any connection is left.
    pub fn assert_empty(&mut self) {
        assert_eq!(self.tcp.connections(), 0);
        for (_, side) in self.sides.values() {
            assert!(side.closed.is_some());
            assert_eq!(side.accepted, side.released);
        }
        let counters = self.tcp.counters();
        assert_eq!(counters.half_open, 0);
        assert_eq!(counters.opened, counters.closed.iter().sum::<u64>());
        assert_eq!(counters.opened, self.sides.len() as u64);
    }
}

fn arrived(flying: &mut Vec<InFlight>, now: Time) -> Vec<Vec<u8>> {
    flying.sort_by_key(|packet| packet.at);
    let later = flying.partition_point(|packet| packet.at.is_due(now));
    flying.drain(..later).map(|packet| packet.bytes).collect()
}

fn put(flying: &mut Vec<InFlight>, rng: &mut Rng, faults: Faults, now: Time, bytes: Vec<u8>) {
    let copies = if rng.below(100) < faults.repeat { 2 } else { 1 };
    for _ in 0..copies {
        if rng.below(100) < faults.loss {
            continue;
        }
        assert!(flying.len() < STORM_PACKETS, "a storm of packets: each side answers the other's answers");
        let at = now + Duration::from_micros(100 + rng.below(faults.jitter_us + 1));
        flying.push(InFlight { at, bytes: bytes.clone() });
    }
}

/// A TCP packet over IPv4 from the client's address, with right checksums.
pub fn packet(port: u16, flags: u8, seq: u32, ack: u32, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (CLIENT_V4, SERVER_V4) else { unreachable!() };
    packet_from(from, port, to, PORT, flags, seq, ack, payload)
}

#[allow(clippy::too_many_arguments, reason = "a packet has this many fields")]
pub fn packet_from(
    from: Ipv4Addr,
    from_port: u16,
    to: Ipv4Addr,
    to_port: u16,
    flags: u8,
    seq: u32,
    ack: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = vec![0; 40 + payload.len()];
    packet[0] = 0x45;
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[20..22].copy_from_slice(&from_port.to_be_bytes());
    packet[22..24].copy_from_slice(&to_port.to_be_bytes());
    packet[24..28].copy_from_slice(&seq.to_be_bytes());
    packet[28..32].copy_from_slice(&ack.to_be_bytes());
    packet[32..36].copy_from_slice(&[0x50, flags, 0xff, 0xff]);
    packet[40..].copy_from_slice(payload);
    let mut ip = Ipv4Packet::new_unchecked(&mut packet[..]);
    ip.fill_checksum();
    TcpPacket::new_unchecked(ip.payload_mut()).fill_checksum(&from.into(), &to.into());
    packet
}

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

pub fn syn(port: u16, seq: u32) -> Vec<u8> {
    packet(port, SYN, seq, 0, &[])
}

/// Flags, sequence number and acknowledgement of an IPv4 packet.
pub fn fields(packet: &[u8]) -> (u8, u32, u32) {
    let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    (packet[33], word(24), word(28))
}

/// A peer written packet by packet, for what no well-behaved peer does. Its own sequence numbers start at 1,000.
pub struct Raw {
    pub world: World,
    pub port: u16,
    /// What it sends next, and what it expects next.
    pub seq: u32,
    pub ack: u32,
}

impl Raw {
    /// Sends a SYN and takes the SYN-ACK.
    pub fn half_open(config: Config) -> Raw {
        let mut raw =
            Raw { world: World::new(config, Faults::default(), 1), port: 40_000, seq: 1_000, ack: 0 };
        raw.syn();
        raw
    }

    pub fn syn(&mut self) {
        // Option MSS 1,460, so that segments are as large as the network takes.
        let mut syn = packet(self.port, SYN, self.seq, 0, &[2, 4, 5, 0xb4]);
        syn[32] = 0x60;
        refill(&mut syn);
        let answers = self.give(syn);
        assert_eq!(answers.len(), 1);
        let (flags, seq, ack) = fields(&answers[0]);
        assert_eq!((flags, ack), (SYN | ACK, self.seq.wrapping_add(1)));
        self.seq = ack;
        self.ack = seq.wrapping_add(1);
    }

    pub fn open(config: Config) -> (Raw, ConnId) {
        let mut raw = Raw::half_open(config);
        raw.say(ACK, &[]);
        let id = raw.world.id();
        (raw, id)
    }

    /// Gives the server a packet; returns what it sends at once.
    pub fn give(&mut self, packet: Vec<u8>) -> Vec<Vec<u8>> {
        self.world.inject(packet);
        self.take()
    }

    /// Sends the next segment.
    pub fn say(&mut self, flags: u8, payload: &[u8]) -> Vec<Vec<u8>> {
        let packet = packet(self.port, flags, self.seq, self.ack, payload);
        self.seq = self.seq.wrapping_add(payload.len() as u32 + u32::from(flags & (SYN | FIN) != 0));
        self.give(packet)
    }

    /// Acknowledges everything in `packets`.
    pub fn hear(&mut self, packets: &[Vec<u8>]) {
        for packet in packets {
            let (flags, seq, _) = fields(packet);
            let header = usize::from(packet[32] >> 4) * 4;
            let len = (packet.len() - 20 - header) as u32 + u32::from(flags & FIN != 0);
            if seq == self.ack {
                self.ack = self.ack.wrapping_add(len);
            }
        }
    }

    /// What the server sends now.
    pub fn take(&mut self) -> Vec<Vec<u8>> {
        let world = &mut self.world;
        world.events();
        world.tcp.timers(world.now, &mut world.port);
        world.collect();
        world.events();
        world.port.packets.drain(..).collect()
    }

    /// What the server sends within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Vec<Vec<u8>> {
        let end = self.world.now + limit;
        let mut all = self.take();
        while let Some(at) = self.world.tcp.poll_at().filter(|at| at.is_due(end)) {
            self.world.now = self.world.now.max(at);
            all.extend(self.take());
        }
        self.world.now = end;
        all.extend(self.take());
        all
    }
}

/// Computes a changed IPv4 packet's checksums anew.
pub fn refill(packet: &mut [u8]) {
    let mut ip = Ipv4Packet::new_unchecked(packet);
    let (from, to) = (ip.src_addr(), ip.dst_addr());
    ip.fill_checksum();
    TcpPacket::new_unchecked(ip.payload_mut()).fill_checksum(&from.into(), &to.into());
}

pub fn payload(packet: &[u8]) -> &[u8] {
    &packet[20 + usize::from(packet[32] >> 4) * 4..]
}
