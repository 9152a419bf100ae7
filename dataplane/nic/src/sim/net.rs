//! Ports, the links between them, and virtual time.
//!
//! In: ports and links at the start, then the time. Out: frames moved from transmit rings over wires to receive rings.
//! Owned by whoever drives the simulation.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::packet::{Cache, FRAME_OVERHEAD_BYTES, Packet, Pool};
use super::pending::{Arrivals, Pending};
use super::queue::{Queue, Rings, Sent, count};
use super::{Latency, Wire, offload};
use crate::headers::{self, Content};
use crate::rss::{self, Class};
use crate::{Caps, Checksum, PIECES_MAX, Packet as _, RxMeta, TSO_BYTES_MAX, checksum};

/// Frames under way at once, unless the net is made for more.
const FRAMES_MAX: usize = 16_384;

/// A port of a [`Net`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(usize);

/// What a port is and can do. The default has every offload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Its MAC address; frames to others are received too.
    pub mac: [u8; 6],
    /// Largest IP packet, in bytes.
    pub mtu: u16,
    /// Queues, one a worker.
    pub queues: u16,
    /// Packet buffers, all queues together.
    pub packets: usize,
    /// Descriptors of each ring of a queue.
    pub descriptors: usize,
    /// Checks IP and TCP checksums of received packets.
    pub rx_checksum: bool,
    /// Fills in checksums.
    pub tx_checksum: bool,
    /// Segments.
    pub tso: bool,
    /// Sends packets that go on in pieces of other memory.
    pub scatter: bool,
    /// Spreads flows with [`rss::KEY`]; otherwise in some other way, as the kernel's packet sockets do.
    pub rss: bool,
}

impl Default for PortOptions {
    fn default() -> PortOptions {
        PortOptions {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1500,
            queues: 1,
            packets: 2048,
            descriptors: 512,
            rx_checksum: true,
            tx_checksum: true,
            tso: true,
            scatter: true,
            rss: true,
        }
    }
}

struct Port {
    options: PortOptions,
    queues: Vec<Arc<Rings>>,
    /// What leaves here goes over this wire to that port.
    link: Option<(usize, Box<dyn Wire>)>,
}

/// A network of simulated ports.
pub struct Net {
    ports: Vec<Port>,
    pending: Pending,
    clock: Arc<AtomicU64>,
    scratch: Scratch,
    /// What one queue has to send.
    sent: VecDeque<Sent>,
}

/// Storage of a port that sends.
#[derive(Default)]
struct Scratch {
    /// For a packet that is in pieces.
    whole: Vec<u8>,
    /// For one segment.
    segment: Vec<u8>,
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Net")
            .field("ports", &self.ports.len())
            .field("now_ns", &self.now_ns())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

impl Default for Net {
    fn default() -> Net {
        Net::new()
    }
}

impl Net {
    /// A net without ports, at time 0.
    pub fn new() -> Net {
        Net::with_frames(FRAMES_MAX)
    }

    /// As [`new`](Net::new), with room for `frames_max` frames under way; further ones are lost and counted.
    pub fn with_frames(frames_max: usize) -> Net {
        Net {
            ports: Vec::new(),
            pending: Pending::new(frames_max),
            clock: Arc::default(),
            scratch: Scratch::default(),
            sent: VecDeque::new(),
        }
    }

    /// Adds a port and gives its queues, in order.
    ///
    /// # Panics
    /// If it is to have no queue or no descriptor, or segments without filling in checksums.
    pub fn port(&mut self, options: PortOptions) -> Vec<Queue> {
        assert!(options.queues > 0 && options.descriptors > 0, "a port has queues and descriptors");
        assert!(options.tx_checksum || !options.tso, "a port that segments fills in checksums");
        let id = PortId(self.ports.len());
        let packets = (options.packets / usize::from(options.queues)).max(1);
        let pool = || Arc::new(Pool::new(packets, options.mtu, options.tso));
        let rings = || Rings::new(options.descriptors, pool());
        let rings: Vec<Arc<Rings>> = (0..options.queues).map(|_| Arc::new(rings())).collect();
        let queue = |(number, rings): (u16, &Arc<Rings>)| Queue {
            rings: Arc::clone(rings),
            cache: Cache::default(),
            clock: Arc::clone(&self.clock),
            caps: caps(&options, number),
            port: id,
            rx_packets: 0,
            tx_packets: 0,
        };
        let queues = (0..).zip(&rings).map(queue).collect();
        self.ports.push(Port { options, queues: rings, link: None });
        queues
    }

    /// Connects two ports by perfect wires of this delay; replaces what was there.
    pub fn connect(&mut self, a: PortId, b: PortId, latency_ns: u64) {
        let wire = Latency { ns: latency_ns };
        self.connect_with(a, b, Box::new(wire), Box::new(wire));
    }

    /// Connects two ports, with a wire for each direction; replaces what was there.
    pub fn connect_with(&mut self, a: PortId, b: PortId, there: Box<dyn Wire>, back: Box<dyn Wire>) {
        self.ports[a.0].link = Some((b.0, there));
        self.ports[b.0].link = Some((a.0, back));
    }

    /// Lets time pass up to `now_ns` (never backwards): takes what the ports were given to send since the last call,
    /// as sent then, and delivers what arrives until now.
    pub fn advance(&mut self, now_ns: u64) {
        self.collect();
        let now_ns = now_ns.max(self.now_ns());
        self.clock.store(now_ns, Ordering::Relaxed);
        while let Some(arrival) = self.pending.pop_due(now_ns) {
            deliver(&self.ports[arrival.to], &arrival.frame);
            self.pending.recycle(arrival.frame);
        }
    }

    /// The time.
    pub fn now_ns(&self) -> u64 {
        self.clock.load(Ordering::Relaxed)
    }

    /// When the next frame arrives, among those sent before the last [`advance`](Net::advance).
    pub fn next_arrival_ns(&self) -> Option<u64> {
        self.pending.next_ns()
    }

    /// Frames on wires.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Frames lost because too many were under way.
    pub fn overflowed(&self) -> u64 {
        self.pending.dropped
    }

    fn collect(&mut self) {
        let Net { ports, pending, scratch, sent, .. } = self;
        for port in ports {
            for rings in &port.queues {
                std::mem::swap(&mut *rings.tx(), sent);
                for (sent_ns, packet) in sent.drain(..) {
                    send(&port.options, &mut port.link, pending, scratch, sent_ns, packet, &rings.tx_errors);
                }
            }
        }
    }
}

fn caps(options: &PortOptions, queue: u16) -> Caps {
    Caps {
        mac: options.mac,
        mtu: options.mtu,
        queue,
        queues: options.queues,
        rx_checksum: options.rx_checksum,
        tx_checksum: options.tx_checksum,
        tso_bytes_max: if options.tso { TSO_BYTES_MAX } else { 0 },
        pieces_max: if options.scatter { PIECES_MAX as u8 } else { 0 },
        rss: options.rss || options.queues == 1,
    }
}

fn frame_bytes_max(options: &PortOptions) -> usize {
    usize::from(options.mtu) + FRAME_OVERHEAD_BYTES
}

/// Puts a packet on the wire. What the port cannot send is dropped and counted.
fn send(
    options: &PortOptions,
    link: &mut Option<(usize, Box<dyn Wire>)>,
    pending: &mut Pending,
    Scratch { whole, segment }: &mut Scratch,
    sent_ns: u64,
    mut packet: Packet,
    errors: &AtomicU64,
) {
    let Some((to, wire)) = link else { return count(errors) };
    let mut arrivals = Arrivals { pending, to: *to };
    let tx = packet.tx();
    let frame = if packet.has_pieces() {
        packet.gather(whole);
        &mut whole[..]
    } else {
        packet.bytes_mut()
    };
    let finished = offload::apply(tx, frame, segment, |frame| {
        if frame.len() <= frame_bytes_max(options) {
            wire.carry(sent_ns, frame, &mut arrivals);
        } else {
            count(errors);
        }
    });
    if finished.is_err() {
        count(errors);
    }
}

/// Receives a frame into a buffer of the port's, or drops and counts it.
fn deliver(port: &Port, frame: &[u8]) {
    let class = rss::classify(frame);
    let rings = &port.queues[usize::from(queue_for(&port.options, class))];
    if rings.rx.is_full() || frame.len() > frame_bytes_max(&port.options) {
        return count(&rings.rx_missed);
    }
    let Some(mut packet) = rings.pool.alloc() else { return count(&rings.rx_no_buffer) };
    packet.set_len(frame.len());
    packet.bytes_mut().copy_from_slice(frame);
    packet.set_rx(received(&port.options, class, frame));
    // There is room: only the net pushes.
    let _ = rings.rx.push(packet);
}

/// Without RSS a flow still stays on one queue, but not on the one that [`rss::owner`] names.
fn queue_for(options: &PortOptions, class: Class) -> u16 {
    match class {
        Class::Flow(hash) if options.rss => rss::owner(hash, options.queues),
        Class::Flow(hash) => rss::owner(hash >> 7, options.queues),
        Class::Report(_) | Class::Shared | Class::Other => 0,
    }
}

fn received(options: &PortOptions, class: Class, frame: &[u8]) -> RxMeta {
    let checksum = match headers::parse(frame) {
        Content::Ip(ip) if options.rx_checksum => checksum::verify(&ip, frame),
        _ => Checksum::Unknown,
    };
    let hash = match class {
        Class::Flow(hash) if options.rss => Some(hash),
        _ => None,
    };
    RxMeta { checksum, hash }
}
