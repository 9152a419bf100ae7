//! What the tests of the DPDK driver share: one EAL a process, frames, and the other end of a link.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod raw;

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use keyferry_nic::dpdk::{Eal, EalOptions, Hugepages, Mbuf, PortOptions, Queue};
use keyferry_nic::{BURST, Buffer, Nic, Packet, TxOffload};

/// After this long something is lost, not late.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The process's EAL: without hugepages, so that the tests run anywhere.
pub fn eal() -> &'static Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    EAL.get_or_init(|| {
        let options = EalOptions {
            hugepages: Hugepages::Never,
            memory_mib: 128,
            extra: Vec::new(),
            virtual_only: true,
        };
        Eal::start(&options).unwrap_or_else(|error| panic!("{error}"))
    })
}

/// Options for a small port.
pub fn port(device: &str) -> PortOptions {
    PortOptions {
        device: device.into(),
        queues: 1,
        mtu: 1500,
        packets: 2048,
        rx_descriptors: 256,
        tx_descriptors: 256,
    }
}

/// A broadcast frame of an experimental EtherType with a number and a text in it.
pub fn frame(number: u16, text: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend([0x88, 0xb5]);
    frame.extend(number.to_be_bytes());
    frame.extend(text);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A packet with this frame.
pub fn packet(queue: &mut Queue, frame: &[u8]) -> Mbuf {
    let packet = if frame.len() > 2048 { queue.alloc_large() } else { queue.alloc() };
    let mut packet = packet.expect("the pool is not empty");
    packet.set_len(frame.len());
    packet.bytes_mut().copy_from_slice(frame);
    packet
}

/// Buffers of the port's with these bytes, from offset 100 on.
pub fn buffers<const N: usize>(queue: &mut Queue, parts: [&[u8]; N]) -> [Buffer; N] {
    let mut made = queue.buffers(N, 2048).into_iter();
    parts.map(|part| {
        let mut buffer = made.next().expect("as many as asked for");
        buffer.bytes_mut()[100..100 + part.len()].copy_from_slice(part);
        buffer
    })
}

/// A packet with the first bytes of this frame in it; the others lie in buffers, the last one alone in the second.
pub fn packet_in_pieces(queue: &mut Queue, frame: &[u8], headers: usize) -> (Mbuf, [Buffer; 2]) {
    let (first, last) = frame[headers..].split_at(frame.len() - headers - 1);
    let buffers = buffers(queue, [first, last]);
    let mut packet = packet(queue, &frame[..headers]);
    let pieces = [(&buffers[0], 100..100 + first.len()), (&buffers[1], 100..101)];
    assert!(queue.attach(&mut packet, &pieces), "the port takes pieces");
    (packet, buffers)
}

/// Sends one frame.
pub fn send(queue: &mut Queue, frame: &[u8], tx: TxOffload) {
    let packet = packet(queue, frame);
    send_packet(queue, packet, tx);
}

/// Sends one packet.
pub fn send_packet(queue: &mut Queue, mut packet: Mbuf, tx: TxOffload) {
    packet.set_tx(tx);
    let mut burst = ArrayVec::<_, BURST>::from_iter([packet]);
    let start = Instant::now();
    while !burst.is_empty() {
        queue.tx_burst(&mut burst);
        assert!(start.elapsed() < PATIENCE, "the port takes no packet");
    }
}

/// Polls until `count` frames satisfy `wanted`, and returns them in order; others are dropped.
pub fn receive(queue: &mut Queue, count: usize, wanted: impl Fn(&Mbuf) -> bool) -> Vec<Mbuf> {
    let start = Instant::now();
    let mut all = Vec::new();
    while all.len() < count {
        let mut burst = ArrayVec::<_, BURST>::new();
        if queue.rx_burst(&mut burst) == 0 {
            std::thread::yield_now();
        }
        all.extend(burst.into_iter().filter(&wanted));
        assert!(start.elapsed() < PATIENCE, "{} of {count} frames arrived", all.len());
    }
    all
}
