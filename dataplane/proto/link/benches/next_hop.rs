//! What one next-hop look-up costs: an on-path peer behind a gateway, and neighbours of our own network.
//! `cargo bench -p keyferry-link` prints `bench next_hop: gateway_ns=... neighbors_ns=...`.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use keyferry_link::{Config, Link, NextHop, Route};
use keyferry_time::Time;

const LOOKUPS: u32 = 10_000_000;
const NEIGHBORS: u32 = 512;

fn main() {
    let mut link = Link::<()>::new(Config {
        mac: [2, 0, 0, 0, 0, 1],
        addresses: vec!["10.0.0.1/16".parse().unwrap(), "2001:db8::1/64".parse().unwrap()],
        routes: vec![Route { to: "0.0.0.0/0".parse().unwrap(), via: neighbor(0) }],
        vlan: None,
        mtu: 1500,
    });
    for host in 0..NEIGHBORS {
        let IpAddr::V4(address) = neighbor(host) else { unreachable!() };
        link.ingest(Time::ZERO, &mut arp_request(address));
        assert!(matches!(link.next_hop(Time::ZERO, neighbor(host)), NextHop::Known(_)));
    }
    let gateway = measure(|at| IpAddr::V4(Ipv4Addr::from(0xc633_6400 + at % 4096)), &mut link);
    let neighbors = measure(|at| neighbor(at % NEIGHBORS), &mut link);
    println!("bench next_hop: gateway_ns={gateway:.1} neighbors_ns={neighbors:.1}");
}

fn measure(destination: impl Fn(u32) -> IpAddr, link: &mut Link<()>) -> f64 {
    let start = Instant::now();
    for at in 0..LOOKUPS {
        black_box(link.next_hop(Time::ZERO, black_box(destination(at))));
    }
    start.elapsed().as_nanos() as f64 / f64::from(LOOKUPS)
}

fn neighbor(host: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0a00_0100 + host))
}

/// A neighbour asks for us, and so makes itself known.
fn arp_request(sender: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].copy_from_slice(&[0xff; 6]);
    frame[6..12].copy_from_slice(&[2, 0, 0, 0, 1, 1]);
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&[2, 0, 0, 0, 1, 1]);
    frame[28..32].copy_from_slice(&sender.octets());
    frame[38..42].copy_from_slice(&[10, 0, 0, 1]);
    frame
}
