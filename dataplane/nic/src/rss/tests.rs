//! The software hash against published vectors, against the bit-by-bit reference, and in both directions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::{Class, KEY, classify, hash, owner, toeplitz};

/// The key of Microsoft's "Verifying the RSS Hash Calculation", also DPDK's default in test_thash.c.
const VERIFICATION_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

fn input(source: IpAddr, destination: IpAddr, ports: [u16; 2]) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut input = octets(source);
    input.extend(octets(destination));
    input.extend(ports.iter().flat_map(|port| port.to_be_bytes()));
    input
}

/// Destination, source, hash of addresses, hash of addresses and ports; from the page named above.
#[test]
fn published_vectors() {
    let vectors = [
        ("161.142.100.80:1766", "66.9.149.187:2794", 0x323e_8fc2, 0x51cc_c178),
        ("65.69.140.83:4739", "199.92.111.2:14230", 0xd718_262a, 0xc626_b0ea),
        ("12.22.207.184:38024", "24.19.198.95:12898", 0xd2d0_a5de, 0x5c2b_394a),
        ("209.142.163.6:2217", "38.27.205.30:48228", 0x8298_9176, 0xafc7_327f),
        ("202.188.127.2:1303", "153.39.163.191:44251", 0x5d18_09c5, 0x10e8_28a2),
        ("[3ffe:2501:200:3::1]:1766", "[3ffe:2501:200:1fff::7]:2794", 0x2cc1_8cd5, 0x4020_7d3d),
        ("[ff02::1]:4739", "[3ffe:501:8::260:97ff:fe40:efab]:14230", 0x0f0c_461c, 0xdde5_1bbf),
        (
            "[fe80::200:f8ff:fe21:67cf]:38024",
            "[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251",
            0x4b61_e985,
            0x02d1_feef,
        ),
    ];
    for (destination, source, addresses, all) in vectors {
        let destination: std::net::SocketAddr = destination.parse().expect("a test vector");
        let source: std::net::SocketAddr = source.parse().expect("a test vector");
        let input = input(source.ip(), destination.ip(), [source.port(), destination.port()]);
        assert_eq!(toeplitz(&VERIFICATION_KEY, &input[..input.len() - 4]), addresses, "{source}");
        assert_eq!(toeplitz(&VERIFICATION_KEY, &input), all, "{source}");
    }
}

/// A frame with these addresses and ports, behind `tags`.
fn frame(tags: &[u16], source: IpAddr, destination: IpAddr, ports: [u16; 2]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    match source {
        IpAddr::V4(_) => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
        }
        IpAddr::V6(_) => frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]),
    }
    frame.extend(input(source, destination, ports));
    frame.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    frame
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<[u32; 2]>().prop_map(|[a, b]| (Ipv4Addr::from_bits(a).into(), Ipv4Addr::from_bits(b).into())),
        any::<[u128; 2]>().prop_map(|[a, b]| (Ipv6Addr::from_bits(a).into(), Ipv6Addr::from_bits(b).into())),
    ]
}

proptest! {
    #[test]
    fn both_directions_have_one_owner(
        (a, b) in addresses(),
        ports: [u16; 2],
        tagged: bool,
        queues in 1..64_u16,
    ) {
        let tags: &[u16] = if tagged { &[0x8100] } else { &[] };
        let there = classify(&frame(tags, a, b, ports));
        let back = classify(&frame(&[], b, a, [ports[1], ports[0]]));
        prop_assert_eq!(there, back);
        let Class::Flow(hash) = there else { return Err(TestCaseError::fail("no flow")) };
        prop_assert_eq!(hash, toeplitz(&KEY, &input(a, b, ports)));
        prop_assert!(owner(hash, queues) < queues);
    }

    #[test]
    fn folding_equals_the_reference(addresses in prop_oneof![Just(8_usize), Just(32)], bytes: [u8; 36]) {
        let expected = toeplitz(&KEY, &bytes[..addresses + 4]);
        prop_assert_eq!(hash(&bytes[..addresses], &bytes[addresses..addresses + 4]), expected);
    }

    #[test]
    fn any_bytes_are_classified(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        classify(&bytes);
    }

    /// Cutting a good frame anywhere never panics, and is a flow only with its whole IP packet there.
    #[test]
    fn cut_frames_are_no_flow((a, b) in addresses(), ports: [u16; 2], keep in 0.0..1.0_f64) {
        let whole = frame(&[], a, b, ports);
        let cut = &whole[..(whole.len() as f64 * keep) as usize];
        prop_assert_eq!(classify(cut), Class::Other);
    }
}

fn v4(host: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, host).into()
}

fn v6(host: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host).into()
}

#[test]
fn fragments_are_nobodys() {
    for (high, low) in [(0x20, 0), (0, 1), (0x20, 9)] {
        let mut fragment = frame(&[], v4(1), v4(2), [443, 1]);
        fragment[20] = high;
        fragment[21] = low;
        assert_eq!(classify(&fragment), Class::Other);
    }
    let mut fragment = frame(&[], v6(1), v6(2), [443, 1]);
    fragment[20] = 44;
    assert_eq!(classify(&fragment), Class::Other);
}

#[test]
fn extension_headers_do_not_change_the_owner() {
    let plain = frame(&[], v6(1), v6(2), [443, 50_000]);
    let mut extended = plain.clone();
    extended[19] += 8;
    extended[20] = 0;
    extended.splice(54..54, [6, 0, 1, 4, 0, 0, 0, 0]);
    assert!(matches!(classify(&plain), Class::Flow(_)));
    assert_eq!(classify(&plain), classify(&extended));
    // An endless chain ends.
    let mut chain = plain;
    chain[20] = 60;
    chain[18..20].copy_from_slice(&(20 + 80_u16).to_be_bytes());
    chain.splice(54..54, [60, 0, 1, 4, 0, 0, 0, 0].repeat(10));
    assert_eq!(classify(&chain), Class::Other);
}

#[test]
fn address_resolution_is_shared() {
    let mut arp = vec![0xff; 12];
    arp.extend([0x08, 0x06]);
    arp.resize(60, 0);
    assert_eq!(classify(&arp), Class::Shared);
    for (kind, class) in [
        (135, Class::Shared),
        (136, Class::Shared),
        (134, Class::Shared),
        (128, Class::Other),
        (1, Class::Other),
    ] {
        let mut nd = frame(&[0x8100], v6(1), v6(2), [0, 0]);
        nd[24] = 58;
        nd[58] = kind;
        assert_eq!(classify(&nd), class, "ICMPv6 type {kind}");
    }
}

/// A router's report, from anywhere, goes to the owner of the flow whose packet it returns.
#[test]
fn reports_go_to_the_owner_of_the_flow() {
    for (ours, peer, router, kind) in [(v4(1), v4(2), v4(9), [3, 4]), (v6(1), v6(2), v6(9), [2, 0])] {
        let sent = &frame(&[], ours, peer, [443, 50_000])[14..];
        let Class::Flow(hash) = classify(&frame(&[], peer, ours, [50_000, 443])) else { panic!("no flow") };
        let header = if ours.is_ipv4() { 20 } else { 40 };
        // Eight bytes of TCP are enough, seven hold no sequence number but both ports.
        for (quoted, class) in [
            (sent.len(), Class::Report(hash)),
            (header + 8, Class::Report(hash)),
            (header + 3, Class::Other),
            (0, Class::Other),
        ] {
            let mut report = frame(&[0x8100], router, ours, [0, 0]);
            report.truncate(18 + header);
            report.extend([&kind[..], &[0; 6], &sent[..quoted]].concat());
            let len = report.len() - 18;
            match ours {
                IpAddr::V4(_) => {
                    report[27] = 1;
                    report[20..22].copy_from_slice(&(len as u16).to_be_bytes());
                }
                IpAddr::V6(_) => {
                    report[24] = 58;
                    report[22..24].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                }
            }
            assert_eq!(classify(&report), class, "{quoted} bytes of {ours}");
        }
    }
}

#[test]
fn packets_without_ports_are_nobodys() {
    let mut udp = frame(&[], v4(1), v4(2), [443, 1]);
    udp[23] = 17;
    assert_eq!(classify(&udp), Class::Other);
    let mut short = frame(&[], v4(1), v4(2), [443, 1]);
    short[17] = 23;
    assert_eq!(classify(&short), Class::Other);
    assert_eq!(
        classify(&frame(&[0x88a8, 0x8100], v4(1), v4(2), [443, 1])),
        classify(&frame(&[], v4(1), v4(2), [443, 1]))
    );
}
