//! What a packet costs in the drivers and in the software hash: nanoseconds and heap allocations.
//!
//! `cargo bench -p keyferry-nic --bench port`. Ends with one `bench port:` line. The DPDK figures (loop through `net_ring`)
//! are there with the feature "dpdk".

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use arrayvec::ArrayVec;
use keyferry_nic::handover::Handover;
use keyferry_nic::sim::{Net, PortOptions};
use keyferry_nic::{BURST, Nic, Packet, TxOffload, rss};

/// Packets of one measurement.
const PACKETS: u64 = 1 << 20;
/// Measurements, of which the fastest counts: what disturbs one only makes it slower.
const RUNS: usize = 5;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, counting.
struct Counting;

// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A TCP frame with 1,024 bytes of payload and a zero checksum field.
fn frame() -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend(1064_u16.to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 9]);
    frame.extend([0x30, 0x39, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(frame.len() + 1024, 7);
    frame
}

/// Fastest nanoseconds and the allocations of one of `PACKETS` times, a burst a call; the first run warms up.
fn measure(mut burst: impl FnMut()) -> (f64, f64) {
    let mut best = (f64::INFINITY, 0.0);
    for run in 0..=RUNS {
        let allocations = ALLOCATIONS.load(Ordering::Relaxed);
        let start = Instant::now();
        for _ in 0..PACKETS / BURST as u64 {
            burst();
        }
        let ns = start.elapsed().as_nanos() as f64 / PACKETS as f64;
        let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - allocations) as f64 / PACKETS as f64;
        if run > 0 && ns < best.0 {
            best = (ns, allocations);
        }
    }
    best
}

fn sim(offloads: bool) -> (f64, f64) {
    let options =
        PortOptions { rx_checksum: offloads, tx_checksum: offloads, tso: offloads, ..PortOptions::default() };
    let mut net = Net::new();
    let (mut a, mut b) = (net.port(options.clone()).remove(0), net.port(options).remove(0));
    net.connect(a.port(), b.port(), 1_000);
    let frame = frame();
    let tx = TxOffload { checksum: offloads, l2_len: 14, l3_len: 20, l4_len: 20, ..TxOffload::default() };
    let mut burst: ArrayVec<_, BURST> = ArrayVec::new();
    let mut now_ns = 0;
    measure(move || {
        fill(&mut a, &mut burst, &frame, tx);
        a.tx_burst(&mut burst);
        now_ns += 1_000;
        net.advance(now_ns);
        b.rx_burst(&mut burst);
        assert_eq!(burst.len(), BURST);
        burst.clear();
    })
}

fn fill<N: Nic>(nic: &mut N, burst: &mut ArrayVec<N::Packet, BURST>, frame: &[u8], tx: TxOffload) {
    while !burst.is_full() {
        let Some(mut packet) = nic.alloc() else { panic!("the pool is empty") };
        packet.set_len(frame.len());
        packet.bytes_mut().copy_from_slice(frame);
        packet.set_tx(tx);
        burst.push(packet);
    }
}

fn hash() -> (f64, f64) {
    let frame = frame();
    measure(|| {
        for _ in 0..BURST {
            black_box(rss::classify(black_box(&frame)));
        }
    })
}

fn handover() -> (f64, f64) {
    let mut ends = Handover::between(2, 64);
    let mut burst: ArrayVec<u64, BURST> = ArrayVec::new();
    measure(move || {
        for number in 0..BURST as u64 {
            ends[0].send(1, number);
        }
        ends[1].receive(&mut burst);
        black_box(burst.drain(..).sum::<u64>());
    })
}

#[cfg(feature = "dpdk")]
fn dpdk() -> String {
    use keyferry_nic::dpdk::{Eal, EalOptions, Hugepages, Port, register_worker_thread};
    let options =
        EalOptions { hugepages: Hugepages::Auto, memory_mib: 128, extra: Vec::new(), virtual_only: true };
    let eal = Eal::start(&options).unwrap_or_else(|error| panic!("{error}"));
    let options = keyferry_nic::dpdk::PortOptions {
        device: "net_ring0".into(),
        queues: 1,
        mtu: 1500,
        packets: 4096,
        rx_descriptors: 256,
        tx_descriptors: 256,
    };
    let (_port, mut queues) = Port::open(&eal, &options).unwrap_or_else(|error| panic!("{error}"));
    let registered = register_worker_thread();
    assert!(registered.is_registered());
    let queue = &mut queues[0];
    let frame = frame();
    let mut burst: ArrayVec<_, BURST> = ArrayVec::new();
    let mut cycle = |bytes: &[u8]| {
        let mut allocs = 0.0;
        let (ns, a) = measure(|| {
            fill(queue, &mut burst, bytes, TxOffload::default());
            queue.tx_burst(&mut burst);
            burst.clear();
            queue.rx_burst(&mut burst);
            black_box(burst.iter().map(|packet| packet.bytes()[0]).max());
            burst.clear();
        });
        allocs += a;
        (ns, allocs)
    };
    let (small, _) = cycle(&frame[..64]);
    let (large, allocations) = cycle(&frame);
    let payloads = [64, 128, 256, 512, 1024, 1460].map(|bytes| {
        let [copied, attached] = payload(queue, bytes);
        format!(" copied_{bytes}_ns={copied:.1} attached_{bytes}_ns={attached:.1}")
    });
    let payloads = payloads.concat();
    format!(" dpdk_ring_64b_ns={small:.1} dpdk_ring_1k_ns={large:.1} dpdk_allocs={allocations}{payloads}")
}

/// Nanoseconds of a packet whose headers are written and whose payload lies in one of many records: copied into it, and
/// attached to it, without what a driver then does with either.
#[cfg(feature = "dpdk")]
fn payload(queue: &mut keyferry_nic::dpdk::Queue, bytes: usize) -> [f64; 2] {
    /// About as many as the records under way of a busy worker that its core's cache holds.
    const RECORDS: usize = 64;
    const RECORD_BYTES: usize = 16_640;
    let headers = &frame()[..54];
    let records = queue.buffers(RECORDS, RECORD_BYTES);
    let mut number = 0;
    [false, true].map(|attaches| {
        let mut burst: ArrayVec<_, BURST> = ArrayVec::new();
        let (ns, _) = measure(|| {
            while !burst.is_full() {
                number += 1;
                let record = &records[number % RECORDS];
                let at = number * 64 % (RECORD_BYTES - bytes);
                let copied = if attaches { 0 } else { bytes };
                let Some(mut packet) = queue.alloc() else { panic!("the pool is empty") };
                packet.set_len(headers.len() + copied);
                packet.bytes_mut()[..headers.len()].copy_from_slice(headers);
                if attaches {
                    assert!(queue.attach(&mut packet, &[(record, at..at + bytes)]));
                } else {
                    packet.bytes_mut()[headers.len()..].copy_from_slice(&record.bytes()[at..at + copied]);
                }
                burst.push(packet);
            }
            burst.clear();
        });
        ns
    })
}

#[cfg(not(feature = "dpdk"))]
fn dpdk() -> String {
    String::new()
}

fn main() {
    let (plain_ns, plain_allocations) = sim(false);
    let (offload_ns, offload_allocations) = sim(true);
    let (hash_ns, _) = hash();
    let (handover_ns, handover_allocations) = handover();
    let allocations = plain_allocations + offload_allocations + handover_allocations;
    let dpdk = dpdk();
    assert_eq!(allocations, 0.0, "the path of a packet allocates");
    println!(
        "bench port: sim_1k_ns={plain_ns:.1} sim_1k_offloads_ns={offload_ns:.1} sim_allocs={allocations} \
         classify_ns={hash_ns:.1} handover_ns={handover_ns:.1}{dpdk}"
    );
}
