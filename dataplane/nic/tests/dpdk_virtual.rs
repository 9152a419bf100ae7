//! The DPDK driver on virtual devices that need nothing from the machine: buffers, bursts, limits, errors, threads.

#![cfg(feature = "dpdk")]

mod common;

use std::sync::Mutex;

use arrayvec::ArrayVec;
use common::{eal, frame, packet, packet_in_pieces, port, receive, send, send_packet};
use keyferry_nic::dpdk::{
    DeviceError, Eal, EalOptions, Hugepages, Mbuf, OpenError, Port, PortOptions, Queue, StartError,
    on_interrupt_thread, register_worker_thread,
};
use keyferry_nic::handover::Handover;
use keyferry_nic::{BURST, Nic, Packet, TxOffload};

/// Opening and closing ports belongs to one thread at a time.
static CONTROL: Mutex<()> = Mutex::new(());

fn control() -> impl Drop {
    CONTROL.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Opens a port that must not open, and says why not.
fn refusal(options: &PortOptions) -> OpenError {
    match Port::open(eal(), options) {
        Ok(_) => panic!("{} opened", options.device),
        Err(error) => {
            println!("{error}");
            error
        }
    }
}

#[test]
fn a_ring_gives_back_what_it_got() {
    let _control = control();
    let (opened, mut queues) =
        Port::open(eal(), &port("net_ring0")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(opened.driver(), "net_ring");
    let queue = &mut queues[0];
    let idle = queue.in_use();
    for number in 0..100 {
        send(queue, &frame(number, b"round"), TxOffload::default());
    }
    assert_eq!(queue.in_use(), idle + 100, "the ring holds what was sent");
    let got = receive(queue, 100, |_| true);
    for (number, packet) in (0..).zip(&got) {
        assert_eq!(packet.bytes(), frame(number, b"round"));
    }
    drop(got);
    let stats = queue.stats();
    assert_eq!((stats.tx_packets, stats.rx_packets, queue.in_use()), (100, 100, idle));
}

#[test]
fn a_buffer_is_its_owners_again_when_the_last_packet_is_gone() {
    let _control = control();
    let (_port, mut queues) = Port::open(eal(), &port("net_ring6")).unwrap_or_else(|error| panic!("{error}"));
    let queue = &mut queues[0];
    let (packet, mut buffers) = packet_in_pieces(queue, &frame(1, b"the first of two"), 16);
    send_packet(queue, packet, TxOffload::default());
    // The same memory again, while the ring still has it.
    let mut again = common::packet(queue, &frame(2, b"")[..16]);
    assert!(queue.attach(&mut again, &[(&buffers[0], 100..110)]));
    send_packet(queue, again, TxOffload::default());
    assert!(buffers.iter().all(|it| it.is_shared()));
    // What is received in pieces is dropped: the first packet, and with it all of the second buffer.
    let mut got = ArrayVec::<_, BURST>::new();
    queue.rx_burst(&mut got);
    assert!(got.is_empty() && queue.stats().rx_missed == 2);
    for buffer in &mut buffers {
        assert!(!buffer.is_shared());
        buffer.bytes_mut().fill(0xee);
    }
    assert_eq!(queue.in_use(), 0);
}

#[test]
fn a_packet_is_copied_with_its_pieces() {
    let _control = control();
    let (_port, mut queues) = Port::open(eal(), &port("net_ring4")).unwrap_or_else(|error| panic!("{error}"));
    let queue = &mut queues[0];
    let whole = frame(1, b"the first of two pieces, and the last");
    let (pieces, _buffers) = packet_in_pieces(queue, &whole, 16);
    for packet in [packet(queue, &whole), pieces] {
        for room in [0, 10, 16, 17, whole.len() - 1, whole.len(), 100] {
            let mut out = vec![0xee; room];
            assert_eq!(packet.copy_to(&mut out), whole.len());
            let kept = room.min(whole.len());
            assert!(out[..kept] == whole[..kept] && out[kept..].iter().all(|byte| *byte == 0xee), "{room}");
        }
    }
}

#[test]
#[should_panic(expected = "no packet refers to a buffer that is written")]
fn a_buffer_in_the_ring_is_not_written() {
    let _control = control();
    let (_port, mut queues) = Port::open(eal(), &port("net_ring8")).unwrap_or_else(|error| panic!("{error}"));
    let (packet, mut buffers) = packet_in_pieces(&mut queues[0], &frame(1, b"waits"), 16);
    send_packet(&mut queues[0], packet, TxOffload::default());
    buffers[0].bytes_mut().fill(0);
}

#[test]
fn a_partial_burst_keeps_the_rest_in_order() {
    let _control = control();
    let (_port, mut queues) = Port::open(eal(), &port("net_ring1")).unwrap_or_else(|error| panic!("{error}"));
    let queue = &mut queues[0];
    let mut number = 0;
    // The ring fills up, since nobody receives.
    let rest = loop {
        let mut burst: ArrayVec<_, BURST> = ArrayVec::new();
        while !burst.is_full() {
            burst.push(packet(queue, &frame(number, b"fill")));
            number += 1;
        }
        queue.tx_burst(&mut burst);
        if !burst.is_empty() {
            break burst;
        }
    };
    let first = number - rest.len() as u16;
    for (at, packet) in (first..).zip(&rest) {
        assert_eq!(packet.bytes(), frame(at, b"fill"));
    }
    let taken = receive(queue, usize::from(first), |_| true);
    for (at, packet) in (0..).zip(&taken) {
        assert_eq!(packet.bytes(), frame(at, b"fill"));
    }
    drop((taken, rest));
    assert_eq!(queue.in_use(), 0);
}

#[test]
fn the_pool_is_bounded_and_buffers_come_back() {
    let _control = control();
    let options = PortOptions { packets: 600, mtu: 9000, ..port("net_null0") };
    let (_port, mut queues) = Port::open(eal(), &options).unwrap_or_else(|error| panic!("{error}"));
    let queue = &mut queues[0];
    assert!(queue.alloc_large().is_none(), "net_null does not segment");
    let all: Vec<_> = std::iter::from_fn(|| queue.alloc()).collect();
    assert_eq!((all.len(), queue.in_use()), (600, 600));
    assert!(all.iter().all(|packet| packet.capacity() >= 9018 && packet.bytes().is_empty()));
    drop(all);
    assert_eq!(queue.in_use(), 0);
}

#[test]
#[should_panic(expected = "does not fit")]
fn a_frame_larger_than_its_buffer_is_a_mistake() {
    let _control = control();
    let (_port, mut queues) = Port::open(eal(), &port("net_null1")).unwrap_or_else(|error| panic!("{error}"));
    let mut packet = queues[0].alloc().unwrap_or_else(|| panic!("the pool is empty"));
    packet.set_len(packet.capacity() + 1);
}

#[test]
fn packets_outlive_their_port() {
    let _control = control();
    let (port, mut queues) = Port::open(eal(), &port("net_null2")).unwrap_or_else(|error| panic!("{error}"));
    let kept = packet(&mut queues[0], &frame(7, b"kept"));
    drop((port, queues));
    assert_eq!(kept.bytes(), frame(7, b"kept"));
}

#[test]
fn a_closed_port_opens_again() {
    let _control = control();
    for _ in 0..3 {
        let opened = Port::open(eal(), &port("net_ring2")).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(refusal(&port("net_ring2")), OpenError::Device(DeviceError::Busy { .. })));
        drop(opened);
    }
}

#[test]
fn workers_hand_packets_over() {
    let _control = control();
    let options = PortOptions { queues: 2, packets: 4096, ..port("net_ring3") };
    let (_port, queues) = Port::open(eal(), &options).unwrap_or_else(|error| panic!("{error}"));
    let handovers = Handover::between(2, 64);
    let sent = std::sync::Barrier::new(2);
    let workers: Vec<_> = std::thread::scope(|scope| {
        let worker = |(mut queue, mut handover): (Queue, Handover<Mbuf>)| {
            let sent = &sent;
            scope.spawn(move || {
                let registered = register_worker_thread();
                let me = handover.worker();
                let (mut all, mut wrong) = (ArrayVec::new(), 0);
                let mut check = |all: &mut ArrayVec<Mbuf, BURST>| {
                    wrong += all.drain(..).filter(|it| it.bytes()[16] != 1 - me as u8).count();
                };
                for number in 0..1000 {
                    let packet = packet(&mut queue, &frame(number, &[me as u8]));
                    handover.send(1 - me, packet);
                    handover.receive(&mut all);
                    check(&mut all);
                }
                sent.wait();
                while handover.receive(&mut all) > 0 {
                    check(&mut all);
                }
                (registered.is_registered(), wrong, handover.received(), handover.dropped(), queue)
            })
        };
        let threads: Vec<_> = queues.into_iter().zip(handovers).map(worker).collect();
        threads.into_iter().map(|it| it.join().unwrap_or_else(|_| panic!("a worker failed"))).collect()
    });
    for (at, (registered, wrong, received, _, queue)) in workers.iter().enumerate() {
        let dropped = workers[1 - at].3;
        assert_eq!((*registered, *wrong, received + dropped), (true, 0, 1000));
        assert_eq!(queue.in_use(), 0, "every packet went back to the pool it came from");
    }
}

#[test]
fn each_refusal_says_what_to_do() {
    let _control = control();
    let named = |device: &str| refusal(&port(device));
    assert!(matches!(named("eth0"), OpenError::Device(DeviceError::Name(_))));
    assert!(matches!(named("net_nonsense0"), OpenError::Device(DeviceError::Vdev { .. })));
    assert!(matches!(named("net_null9,nonsense=1"), OpenError::Device(DeviceError::Vdev { .. })));
    assert!(matches!(named("net_af_packet0"), OpenError::Device(DeviceError::InterfaceMissing(_))));
    let missing = named("net_af_packet0,iface=kf-none");
    assert!(matches!(missing, OpenError::Device(DeviceError::NoInterface { .. })));
    assert!(missing.to_string().contains("kf-none"), "{missing}");
    assert!(matches!(named("0000:ff:1f.7"), OpenError::Device(DeviceError::NoPciDevice(_))));

    let options = port("net_ring5");
    let many = PortOptions { queues: 999, packets: 1 << 20, ..options.clone() };
    assert!(matches!(refusal(&many), OpenError::Queues { wanted: 999, max: 16, .. }));
    assert!(matches!(refusal(&PortOptions { queues: 0, ..options.clone() }), OpenError::NoQueues));
    assert!(matches!(
        refusal(&PortOptions { packets: 100, ..options.clone() }),
        OpenError::Packets { min: 512, .. }
    ));
    assert!(matches!(
        refusal(&PortOptions { packets: 1 << 24, ..options.clone() }),
        OpenError::Memory { .. }
    ));
    let small = refusal(&PortOptions { mtu: 20, ..options.clone() });
    assert!(matches!(small, OpenError::Mtu { .. }), "{small}");
    assert!(small.to_string().ends_with("not 20: correct mtu"), "{small}");
    // A template of each packet, for which there is no memory.
    let large = named("net_null8,size=1073741824");
    assert!(matches!(large, OpenError::Driver { .. }), "{large}");
    let told = large.to_string();
    assert!(told.starts_with("net_null8,size=1073741824: setting up a receive queue failed: "), "{told}");
    assert!(told.contains("correct the device's arguments, or what DPDK names"), "{told}");
    // None of them left anything open.
    drop(Port::open(eal(), &options).unwrap_or_else(|error| panic!("{error}")));
}

#[test]
fn the_eal_starts_once() {
    let _control = control();
    eal();
    let again =
        EalOptions { hugepages: Hugepages::Never, memory_mib: 64, extra: Vec::new(), virtual_only: true };
    assert!(matches!(Eal::start(&again), Err(StartError::Again)));
}

#[test]
fn dpdks_own_thread_does_what_it_is_told() {
    let _control = control();
    eal();
    let (say, heard) = std::sync::mpsc::channel();
    let told = move || say.send(std::thread::current().id()).expect("it is heard");
    assert!(on_interrupt_thread(told));
    let all: Vec<_> = heard.iter().collect();
    assert!(all.len() == 1 && all[0] != std::thread::current().id(), "{all:?}");
}
