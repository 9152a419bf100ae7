//! The simulated port allocates nothing from the heap once it is warm, nor does classifying or handing over.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use arrayvec::ArrayVec;
use keyferry_nic::handover::Handover;
use keyferry_nic::rss::{self, Class};
use keyferry_nic::sim::{Net, PortOptions, Queue};
use keyferry_nic::{BURST, Nic, Packet, TxOffload};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, counting by thread, since the test harness allocates on its own.
struct Counting;

// SAFETY: passes everything on to the system's allocator; the counter is a plain cell without a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
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

/// A TCP frame over IPv4, with 2,800 bytes of payload or none.
fn frame(large: bool) -> Vec<u8> {
    let payload = if large { 2800 } else { 0 };
    let mut frame = vec![2; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((40_u16 + payload).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 9]);
    frame.extend([0x30, 0x39, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame.resize(frame.len() + usize::from(payload), 7);
    frame
}

fn turn(
    net: &mut Net,
    a: &mut Queue,
    workers: &mut [Queue],
    handovers: &mut [Handover<keyferry_nic::sim::Packet>],
) {
    let mut burst: ArrayVec<_, BURST> = ArrayVec::new();
    let offload =
        TxOffload { checksum: true, tso_segment_bytes: 0, l2_len: 14, l3_len: 20, l4_len: 20, ipv6: false };
    for (large, frame) in [(false, &FRAMES.0), (true, &FRAMES.1)] {
        let frame = frame.get_or_init(|| self::frame(large));
        let packet = if large { a.alloc_large() } else { a.alloc() };
        let mut packet = packet.expect("the pool is not empty");
        packet.set_len(frame.len());
        packet.bytes_mut().copy_from_slice(frame);
        packet.set_tx(TxOffload { tso_segment_bytes: if large { 1400 } else { 0 }, ..offload });
        burst.push(packet);
    }
    assert_eq!(a.tx_burst(&mut burst), 2);
    net.advance(net.now_ns() + 10);
    net.advance(net.now_ns() + 10);
    let mut seen = 0;
    for (queue, handover) in workers.iter_mut().zip(handovers.iter_mut()) {
        queue.rx_burst(&mut burst);
        for packet in burst.drain(..) {
            handover.share(queue, &packet);
            let Class::Flow(hash) = rss::classify(packet.bytes()) else { panic!("no flow") };
            handover.send(rss::owner(hash, 2), packet);
        }
    }
    for handover in handovers {
        seen += handover.receive(&mut burst);
        burst.clear();
    }
    assert_eq!(seen, 6, "three frames, each once and once as a copy");
}

static FRAMES: (std::sync::OnceLock<Vec<u8>>, std::sync::OnceLock<Vec<u8>>) =
    (std::sync::OnceLock::new(), std::sync::OnceLock::new());

#[test]
fn a_warm_port_allocates_nothing() {
    let mut net = Net::new();
    let mut a = net.port(PortOptions::default()).remove(0);
    let mut workers = net.port(PortOptions { queues: 2, rss: false, ..PortOptions::default() });
    net.connect(a.port(), workers[0].port(), 10);
    let mut handovers = Handover::between(2, 64);
    for _ in 0..10 {
        turn(&mut net, &mut a, &mut workers, &mut handovers);
    }
    let before = ALLOCATIONS.get();
    assert!(before > 0, "the counter counts");
    for _ in 0..1000 {
        turn(&mut net, &mut a, &mut workers, &mut handovers);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
