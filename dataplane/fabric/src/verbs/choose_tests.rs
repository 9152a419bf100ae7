//! Hosts as they are found, and what is chosen on them.

use super::*;

const FIRST: [u8; 4] = [10, 0, 0, 1];

fn host(devices: Vec<Device>) -> Host {
    Host { devices }
}

fn device(name: &str, ports: Vec<Port>) -> Device {
    Device { name: name.to_owned(), transport: Transport::InfiniBand, ports }
}

fn ethernet(number: u8, gids: Vec<Gid>) -> Port {
    Port {
        number,
        state: PortState::Active,
        link_layer: LinkLayer::Ethernet,
        lid: 0,
        grh_required: false,
        mtu: Mtu::B1024,
        gids,
        addresses: Vec::new(),
    }
}

fn infiniband(number: u8, lid: u16) -> Port {
    let address = "fe80::248a:703:9f:1234".parse().unwrap();
    let gid = Gid { index: 0, address, kind: GidKind::InfiniBand, interface: None };
    Port { link_layer: LinkLayer::InfiniBand, lid, mtu: Mtu::B4096, ..ethernet(number, vec![gid]) }
}

fn gid(index: u8, address: &str, kind: GidKind, interface: &str) -> Gid {
    Gid { index, address: address.parse().unwrap(), kind, interface: Some(interface.to_owned()) }
}

/// The table mlx5 makes: each address twice, as v1 and as v2, the one of the adapter's own address first.
fn mlx5(link_local: &str, addresses: &[(&str, &str)]) -> Vec<Gid> {
    let own = [(link_local, "eth0")];
    let all = own.iter().chain(addresses);
    let both = |(address, interface): &(&str, &str)| {
        [GidKind::RoceV1, GidKind::RoceV2].map(|kind| gid(0, address, kind, interface))
    };
    let mut gids: Vec<_> = all.flat_map(both).collect();
    (0..).zip(&mut gids).for_each(|(index, gid)| gid.index = index);
    gids
}

fn pick(host: &Host, address: &str) -> (String, u8, u8) {
    let choice = choose(host, &address.parse().unwrap()).unwrap();
    (choice.device, choice.port, choice.gid_index)
}

fn refusal(host: &Host, address: &str) -> String {
    choose(host, &address.parse().unwrap()).unwrap_err().to_string()
}

#[test]
fn no_device() {
    for address in ["10.0.0.1", "mlx5_0"] {
        assert!(refusal(&Host::default(), address).contains("no RDMA device"));
    }
}

#[test]
fn mlx5_on_ethernet_takes_version_2_of_the_address() {
    let gids = mlx5("fe80::1", &[("::ffff:10.0.0.1", "eth0"), ("fd00::1", "eth0")]);
    let host = host(vec![device("mlx5_0", vec![ethernet(1, gids)])]);
    for (address, index) in [("10.0.0.1", 3), ("fd00::1", 5), ("fe80::1", 1), ("mlx5_0", 3), ("mlx5_0:1", 3)]
    {
        assert_eq!(pick(&host, address), ("mlx5_0".into(), 1, index), "{address}");
    }
    let choice = choose(&host, &Address::Ip(FIRST.into())).unwrap();
    assert_eq!((choice.link_layer, choice.global, choice.lid), (LinkLayer::Ethernet, true, 0));
    assert_eq!((choice.gid.to_ipv4_mapped(), choice.mtu), (Some(FIRST.into()), Mtu::B1024));
    let no_such = refusal(&host, "10.0.0.2");
    assert!(no_such.contains("10.0.0.2") && no_such.contains("mlx5_0 port 1"), "{no_such}");
    assert!(refusal(&host, "mlx5_1").contains("it has mlx5_0"));
    assert!(refusal(&host, "mlx5_0:2").contains("no port 2"));
}

#[test]
fn a_device_without_given_addresses_still_has_its_own() {
    let host = host(vec![device("mlx5_0", vec![ethernet(1, mlx5("fe80::1", &[]))])]);
    assert_eq!(pick(&host, "mlx5_0"), ("mlx5_0".into(), 1, 1));
    let only_v6 = mlx5("fe80::1", &[("fd00::1", "eth0")]);
    let host = self::host(vec![device("mlx5_0", vec![ethernet(1, only_v6)])]);
    assert_eq!(pick(&host, "mlx5_0"), ("mlx5_0".into(), 1, 3), "a given address before its own");
}

#[test]
fn an_adapter_of_version_1_only() {
    let gids =
        vec![gid(0, "fe80::1", GidKind::RoceV1, "eth0"), gid(1, "::ffff:10.0.0.1", GidKind::RoceV1, "eth0")];
    let host = host(vec![device("mlx4_0", vec![ethernet(1, gids)])]);
    assert_eq!(pick(&host, "10.0.0.1"), ("mlx4_0".into(), 1, 1));
    assert_eq!(pick(&host, "mlx4_0"), ("mlx4_0".into(), 1, 1));
}

#[test]
fn a_vlan_and_a_bond_have_entries_of_their_own() {
    let gids = mlx5(
        "fe80::1",
        &[("::ffff:10.0.0.1", "bond0"), ("::ffff:10.1.0.1", "bond0.100"), ("fe80::2", "bond0.100")],
    );
    let host = host(vec![device("mlx5_bond_0", vec![ethernet(1, gids)])]);
    assert_eq!(pick(&host, "10.0.0.1"), ("mlx5_bond_0".into(), 1, 3));
    assert_eq!(pick(&host, "10.1.0.1"), ("mlx5_bond_0".into(), 1, 5));
    assert_eq!(pick(&host, "fe80::2"), ("mlx5_bond_0".into(), 1, 7));
}

#[test]
fn several_ports_and_devices() {
    let port =
        |number, link_local: &str, address: &str| ethernet(number, mlx5(link_local, &[(address, "eth0")]));
    let mut host = host(vec![
        device("mlx4_0", vec![port(1, "fe80::1", "::ffff:10.0.0.1"), port(2, "fe80::2", "::ffff:10.0.1.1")]),
        device("mlx5_0", vec![port(1, "fe80::3", "::ffff:10.0.2.1")]),
    ]);
    assert_eq!(pick(&host, "10.0.1.1"), ("mlx4_0".into(), 2, 3));
    assert_eq!(pick(&host, "10.0.2.1"), ("mlx5_0".into(), 1, 3));
    assert_eq!(pick(&host, "mlx4_0:2"), ("mlx4_0".into(), 2, 3));
    assert_eq!(pick(&host, "mlx4_0"), ("mlx4_0".into(), 1, 3));
    host.devices[0].ports[0].state = PortState::Down;
    assert_eq!(pick(&host, "mlx4_0"), ("mlx4_0".into(), 2, 3), "the first that is active");
    assert!(refusal(&host, "mlx4_0:1").contains("down"));
    assert!(refusal(&host, "10.0.0.1").contains("port 1 of mlx4_0 is down"));
    host.devices[0].ports[1].state = PortState::Down;
    assert!(refusal(&host, "mlx4_0").contains("port 1 of mlx4_0 is down"));
}

#[test]
fn of_two_ports_with_one_address_the_one_that_is_up() {
    let port = |number| ethernet(number, mlx5("fe80::1", &[("::ffff:10.0.0.1", "bond0")]));
    let mut host = host(vec![device("mlx5_0", vec![port(1)]), device("mlx5_1", vec![port(1)])]);
    host.devices[0].ports[0].state = PortState::Down;
    assert_eq!(pick(&host, "10.0.0.1"), ("mlx5_1".into(), 1, 3));
}

#[test]
fn soft_roce() {
    let gids =
        vec![gid(0, "fe80::1", GidKind::RoceV2, "eth0"), gid(1, "::ffff:10.0.0.1", GidKind::RoceV2, "eth0")];
    let host = host(vec![device("rxe0", vec![ethernet(1, gids)])]);
    assert_eq!(pick(&host, "10.0.0.1"), ("rxe0".into(), 1, 1));
    assert_eq!(pick(&host, "rxe0"), ("rxe0".into(), 1, 1));
}

#[test]
fn iwarp_is_refused_by_name() {
    let mut siw = device("siw0", vec![ethernet(1, Vec::new())]);
    siw.transport = Transport::Iwarp;
    siw.ports[0].addresses = vec![FIRST.into()];
    let mut host = host(vec![siw]);
    for address in ["siw0", "10.0.0.1"] {
        assert!(refusal(&host, address).contains("siw0 is an iWARP device"), "{address}");
    }
    // Another device with that address is taken.
    let gids = mlx5("fe80::1", &[("::ffff:10.0.0.1", "eth0")]);
    host.devices.push(device("zrxe", vec![ethernet(1, gids)]));
    assert_eq!(pick(&host, "10.0.0.1"), ("zrxe".into(), 1, 3));
    host.devices[0].transport = Transport::Other;
    assert!(refusal(&host, "siw0").contains("no reliable-connected queue pairs"));
}

#[test]
fn infiniband_goes_by_lid() {
    let mut port = infiniband(1, 7);
    port.addresses = vec![FIRST.into()];
    let mut host = host(vec![device("mlx5_0", vec![port, infiniband(2, 8)])]);
    for address in ["10.0.0.1", "mlx5_0", "fe80::248a:703:9f:1234"] {
        let choice = choose(&host, &address.parse().unwrap()).unwrap();
        assert_eq!((choice.port, choice.lid, choice.global, choice.mtu), (1, 7, false, Mtu::B4096));
        assert_eq!(choice.link_layer, LinkLayer::InfiniBand);
    }
    assert_eq!(choose(&host, &"mlx5_0:2".parse().unwrap()).unwrap().lid, 8);
    // A port that a router is behind wants the header on everything.
    host.devices[0].ports[0].grh_required = true;
    let choice = choose(&host, &Address::Ip(FIRST.into())).unwrap();
    assert_eq!((choice.global, choice.gid_index), (true, 0));
    // Such a subnet may do without LIDs.
    host.devices[0].ports[0].lid = 0;
    assert!(choose(&host, &Address::Ip(FIRST.into())).unwrap().global);
}

#[test]
fn infiniband_without_a_subnet_manager() {
    let mut host = host(vec![device("mlx5_0", vec![infiniband(1, 0)])]);
    assert!(refusal(&host, "mlx5_0").contains("opensm"));
    for state in [PortState::Initializing, PortState::Armed] {
        host.devices[0].ports[0] = Port { state, ..infiniband(1, 3) };
        assert!(refusal(&host, "mlx5_0").contains("opensm"));
    }
    // Ethernet knows no subnet manager.
    host.devices[0].ports[0] = Port { state: PortState::Initializing, ..ethernet(1, Vec::new()) };
    assert!(refusal(&host, "mlx5_0").contains("down"));
}

#[test]
fn an_interface_with_the_address_but_no_gid() {
    let mut port = ethernet(1, Vec::new());
    port.addresses = vec![FIRST.into()];
    let host = host(vec![device("mlx5_0", vec![port])]);
    assert!(refusal(&host, "10.0.0.1").contains("no GID"));
    assert!(refusal(&host, "mlx5_0").contains("no GID"));
}

#[test]
fn a_device_without_ports() {
    let host = host(vec![device("mlx5_0", Vec::new())]);
    assert!(refusal(&host, "mlx5_0").contains("no port 1: it has 0"));
}
