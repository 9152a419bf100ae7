//! Packets that cannot be sent, or find no room, each counted by its reason; and what of them is sent again.

mod common;

use std::net::Ipv4Addr;

use common::World;
use common::client::Habit;
use common::frame::{self, SYN, Segment};
use common::node::{GATEWAY, Options};

/// Steps of a millisecond after which whoever was asked and said nothing is asked again.
const AGAIN: usize = 1_100;
/// Steps after which nobody is asked any more, since every handshake is over.
const GIVEN_UP: usize = 12_000;

/// A SYN of a neighbour that is not there.
fn syn_of_neighbour(number: u32) -> Vec<u8> {
    let from = Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 0).to_bits() + number);
    Segment::new((from, 5), SYN, 7, 0).frame()
}

fn assert_served(world: &mut World) {
    let client = world.join(Habit::Asks);
    world.until(2_000, "a client is served", |world| world.clients[client].answered > 0);
    world.assert_all_gone();
}

#[test]
fn what_waits_for_a_neighbour_is_dropped_when_it_does_not_answer() {
    let mut world = World::new(Options::default(), 1);
    (0..200).for_each(|number| world.inject(&syn_of_neighbour(number)));
    world.steps(20);
    assert_eq!([world.total("solicits"), world.total("parked")], [200, 200]);
    let lost = ["neighbors_lost", "drop_parked_late", "drop_outgoing_full"].map(|name| world.total(name));
    assert_eq!(lost, [0; 3], "they are given time");
    // All at once, which is more than may wait to be sent.
    world.steps(AGAIN);
    assert!(world.total("drop_outgoing_full") > 0, "{:#?}", world.counted());
    world.steps(GIVEN_UP);
    assert!(world.total("neighbors_lost") >= 200, "{:#?}", world.counted());
    assert!(world.total("drop_parked_late") >= 200, "{:#?}", world.counted());
    assert_served(&mut world);
}

#[test]
fn where_no_route_leads_nothing_goes() {
    let mut world = World::new(Options { has_gateway: false, ..Options::default() }, 2);
    world.inject(&Segment::new((Ipv4Addr::new(198, 18, 0, 1), 5), SYN, 7, 0).frame());
    world.steps(5);
    assert_eq!([world.total("drop_no_route"), world.total("rx_handshakes")], [1, 1]);
    world.assert_all_gone();
}

/// Packets that wait for neighbours hold every buffer: nothing else comes in or goes out until they are given up.
#[test]
fn without_packet_buffers_nothing_is_received_nor_asked() {
    let mut world = World::new(Options { packets: 48, ..Options::default() }, 3);
    (0..100).for_each(|number| world.inject(&syn_of_neighbour(number)));
    world.steps(AGAIN);
    for reason in ["drop_missed_no_buffer", "drop_no_buffer"] {
        assert!(world.total(reason) > 0, "{reason}: {:#?}", world.counted());
    }
    world.steps(GIVEN_UP);
    assert_served(&mut world);
}

#[test]
fn what_the_port_does_not_keep_up_with_is_dropped() {
    let mut world = World::new(Options { descriptors: 8, ..Options::default() }, 4);
    for step in 0..16 {
        (0..8).for_each(|number| world.inject(&syn_of_neighbour(8 * step + number)));
        world.step();
    }
    assert_eq!(world.total("drop_tx_full"), 0);
    // Most are asked for again at once: a burst that waits, and as many as the ring holds, are fewer.
    world.steps(AGAIN);
    assert!(world.total("drop_tx_full") > 0, "{:#?}", world.counted());
    world.steps(GIVEN_UP);
    assert_served(&mut world);
}

/// As a network does that loses large packets and says nothing, it is found out: what is sent again is smaller.
#[test]
fn what_the_port_takes_and_does_not_send_is_counted() {
    let mut world = World::new(Options { port_mtu: 1400, ..Options::default() }, 5);
    let client = world.establish(1, Habit::Told)[0];
    assert_eq!(world.total("drop_tx_error"), 0);
    world.clients[client].tell(b"GET /?bytes=5000 HTTP/1.1\r\nHost: flood.test\r\n\r\n");
    world.until(60_000, "an answer", |world| world.clients[client].answered == 1);
    assert!(world.total("drop_tx_error") > 0, "{:#?}", world.counted());
    assert_eq!(world.total("path_mtu_suspected"), 1);
    world.assert_all_gone();
}

/// Each worker learns from ARP; who is behind does without.
#[test]
fn copies_for_a_worker_that_is_behind_are_dropped() {
    let mut world = World::new(Options { workers: 2, handover: 4, ..Options::default() }, 6);
    let before = world.total("rx_link");
    (0..40).for_each(|_| world.inject(&frame::arp_request(GATEWAY)));
    world.step();
    assert_eq!([world.total("drop_handover_copy"), world.total("rx_link") - before], [36, 44]);
    assert_served(&mut world);
}

#[test]
fn a_handshake_that_hears_nothing_is_answered_again() {
    let mut world = World::new(Options::default(), 7);
    world.inject(&Segment::new((Ipv4Addr::new(198, 18, 0, 1), 5), SYN, 7, 0).frame());
    world.steps(AGAIN - 200);
    assert_eq!([world.total("syn_acks_again"), world.total("half_open")], [0, 1]);
    world.steps(AGAIN - 800);
    assert_eq!(world.total("syn_acks_again"), 1);
    world.assert_all_gone();
}

#[test]
fn long_payloads_go_from_where_they_lie() {
    let mut world = World::new(Options::default(), 8);
    let client = world.establish(1, Habit::Told)[0];
    let mut before = world.total("tx_attached");
    for (bytes, is_attached) in [(10, false), (100_000, true)] {
        let get = format!("GET /?bytes={bytes} HTTP/1.1\r\nHost: flood.test\r\n\r\n");
        let answered = world.clients[client].answered;
        world.clients[client].tell(get.as_bytes());
        world.until(500, "an answer", |world| world.clients[client].answered > answered);
        assert_eq!(world.total("tx_attached") > before, is_attached, "{bytes}");
        before = world.total("tx_attached");
    }
    world.assert_all_gone();
}
