//! The far end of a node's cable: smoltcp's own sockets, so that the stack under test is not its own judge.

use std::collections::{BTreeSet, VecDeque};
use std::net::Ipv4Addr;

use arrayvec::ArrayVec;
use keyferry_nic::sim::{Net, PortId, PortOptions, Queue};
use keyferry_nic::{BURST, Nic, Packet as _};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::node;

/// Bytes of a client's TCP buffers.
const BUFFER_BYTES: usize = 16 * 1024;

/// A client gives up on a silent node.
const TIMEOUT_MS: u64 = 20_000;

/// Clients of one node.
pub struct Hub {
    queue: Queue,
    cable: Cable,
    interface: Interface,
    /// The sockets.
    pub sockets: SocketSet<'static>,
    /// Ports whose client has vanished: what comes for them is not answered.
    pub silent: BTreeSet<u16>,
    number: usize,
}

fn instant(now_ns: u64) -> Instant {
    Instant::from_micros((now_ns / 1_000) as i64)
}

impl Hub {
    /// The clients' end of a node's cable; not yet plugged in.
    pub fn new(number: usize, seed: u64, net: &mut Net) -> Hub {
        let mac = [2, 0, 0, 0, number as u8, 2];
        let options = PortOptions {
            mac,
            packets: 256,
            descriptors: 128,
            tx_checksum: false,
            rx_checksum: false,
            tso: false,
            ..PortOptions::default()
        };
        let queue = net.port(options).remove(0);
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = seed;
        let mut cable = Cable::default();
        let mut interface = Interface::new(config, &mut cable, instant(0));
        interface.update_ip_addrs(|addresses| {
            let address = IpCidr::new(Ipv4Addr::new(10, 0, number as u8, 2).into(), 24);
            addresses.push(address).expect("room for one address");
        });
        Hub { queue, cable, interface, sockets: SocketSet::new(Vec::new()), silent: BTreeSet::new(), number }
    }

    /// The port of this end.
    pub fn port(&self) -> PortId {
        self.queue.port()
    }

    /// Opens a connection to the node.
    pub fn connect(&mut self, local: u16) -> SocketHandle {
        let buffer = || SocketBuffer::new(vec![0; BUFFER_BYTES]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_timeout(Some(Duration::from_millis(TIMEOUT_MS)));
        socket.set_nagle_enabled(false);
        let to = (node::address(self.number), node::PORT);
        socket.connect(self.interface.context(), to, local).expect("a new socket connects");
        self.sockets.add(socket)
    }

    /// Takes what has arrived and sends what is due. Returns whether there was anything.
    pub fn poll(&mut self, now_ns: u64) -> bool {
        let mut packets = ArrayVec::<_, BURST>::new();
        let mut busy = false;
        loop {
            self.queue.rx_burst(&mut packets);
            if packets.is_empty() {
                break;
            }
            for packet in packets.drain(..) {
                if !self.silent.contains(&destination(packet.bytes())) {
                    self.cable.rx.push_back(packet.bytes().to_vec());
                }
            }
        }
        busy |= !self.cable.rx.is_empty();
        self.interface.poll(instant(now_ns), &mut self.cable, &mut self.sockets);
        busy |= !self.cable.tx.is_empty();
        self.send();
        busy
    }

    fn send(&mut self) {
        let mut burst = ArrayVec::<_, BURST>::new();
        while let Some(frame) = self.cable.tx.pop_front() {
            let Some(mut packet) = self.queue.alloc() else { return };
            packet.set_len(frame.len());
            packet.bytes_mut().copy_from_slice(&frame);
            burst.push(packet);
            // A full ring loses the frame, as a switch would.
            self.queue.tx_burst(&mut burst);
            burst.clear();
        }
    }

    /// When there is something to do though nothing arrives.
    pub fn poll_at(&mut self, now_ns: u64) -> Option<u64> {
        let at = self.interface.poll_at(instant(now_ns), &self.sockets)?;
        Some((at.total_micros() as u64 * 1_000).max(now_ns + 1_000))
    }
}

/// The TCP port an IPv4 frame is for; 0 for anything else.
fn destination(frame: &[u8]) -> u16 {
    let is_tcp = frame.len() >= 38 && frame[12..14] == [8, 0] && frame[23] == 6;
    if is_tcp { u16::from_be_bytes([frame[36], frame[37]]) } else { 0 }
}

#[derive(Default)]
struct Cable {
    rx: VecDeque<Vec<u8>>,
    tx: VecDeque<Vec<u8>>,
}

struct Frame(Vec<u8>);

struct Out<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        let mut frame = vec![0; len];
        let result = fill(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Cable {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Out<'_>)> {
        let frame = self.rx.pop_front()?;
        Some((Frame(frame), Out(&mut self.tx)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Out<'_>> {
        Some(Out(&mut self.tx))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}
