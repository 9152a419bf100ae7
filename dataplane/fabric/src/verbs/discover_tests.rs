//! sysfs of other hosts, as their kernels write it.

use std::path::PathBuf;

use super::*;

/// A folder that is removed at the end.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str) -> Tree {
        let path = std::env::temp_dir().join(format!("keyferry-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Tree(path)
    }

    fn file(&self, path: &str, text: &str) -> &Tree {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    fn link(&self, path: &str, to: &str) -> &Tree {
        let (path, to) = (self.0.join(path), self.0.join(to));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::create_dir_all(&to).unwrap();
        std::os::unix::fs::symlink(to, path).unwrap();
        self
    }

    fn port(&self, port: &str, state: &str, link_layer: &str, lid: &str) -> &Tree {
        let port = format!("class/infiniband/{port}");
        self.file(&format!("{port}/state"), state);
        self.file(&format!("{port}/link_layer"), link_layer);
        self.file(&format!("{port}/lid"), lid)
    }

    fn gid(&self, port: &str, index: u8, gid: &str, kind: Option<&str>, interface: Option<&str>) -> &Tree {
        let port = format!("class/infiniband/{port}");
        self.file(&format!("{port}/gids/{index}"), &format!("{gid}\n"));
        if let Some(kind) = kind {
            self.file(&format!("{port}/gid_attrs/types/{index}"), &format!("{kind}\n"));
        }
        if let Some(interface) = interface {
            self.file(&format!("{port}/gid_attrs/ndevs/{index}"), &format!("{interface}\n"));
        }
        self
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const NO_GID: &str = "0000:0000:0000:0000:0000:0000:0000:0000";

fn addresses(interface: &str) -> Vec<IpAddr> {
    match interface {
        "eth0" => vec![[10, 0, 0, 1].into()],
        "ib1" => vec![[10, 0, 1, 1].into()],
        _ => Vec::new(),
    }
}

#[test]
fn a_host_without_rdma() {
    let tree = Tree::new("none");
    assert_eq!(read_sysfs(&tree.0, &addresses), Host::default());
}

#[test]
fn roce() {
    let tree = Tree::new("roce");
    let port = "mlx5_0/ports/1";
    tree.file("class/infiniband/mlx5_0/node_type", "1: CA\n")
        .port(port, "4: ACTIVE\n", "Ethernet\n", "0x0\n")
        .gid(port, 0, "fe80:0000:0000:0000:0a0b:0cff:fe0d:0e0f", Some("IB/RoCE v1"), Some("eth0"))
        .gid(port, 1, "0000:0000:0000:0000:0000:ffff:0a00:0001", Some("RoCE v2"), Some("eth0"))
        .gid(port, 2, NO_GID, None, None)
        .gid(port, 3, "0000:0000:0000:0000:0000:ffff:0a01:0001", Some("RoCE v2"), Some("eth0.100"));
    let host = read_sysfs(&tree.0, &addresses);
    let device = &host.devices[0];
    assert_eq!((device.name.as_str(), device.transport), ("mlx5_0", Transport::InfiniBand));
    let port = &device.ports[0];
    assert_eq!((port.number, port.state, port.link_layer), (1, PortState::Active, LinkLayer::Ethernet));
    let gids: Vec<_> = port.gids.iter().map(|gid| (gid.index, gid.kind, gid.interface.as_deref())).collect();
    let expected = [
        (0, GidKind::RoceV1, Some("eth0")),
        (1, GidKind::RoceV2, Some("eth0")),
        (3, GidKind::RoceV2, Some("eth0.100")),
    ];
    assert_eq!(gids, expected);
    assert_eq!(port.gids[1].address, std::net::Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
    assert_eq!(port.addresses, [IpAddr::from([10, 0, 0, 1])]);
}

#[test]
fn infiniband_with_ipoib_on_its_second_port() {
    let tree = Tree::new("ib");
    tree.file("class/infiniband/mlx4_0/node_type", "1: CA\n");
    for (port, state, lid) in [(1, "1: DOWN", "0x0"), (2, "4: ACTIVE", "0x1f")] {
        let port = format!("mlx4_0/ports/{port}");
        tree.port(&port, state, "InfiniBand", lid);
        tree.gid(&port, 0, "fe80:0000:0000:0000:0002:c903:0001:0002", Some("IB/RoCE v1"), None);
    }
    tree.link("class/infiniband/mlx4_0/device", "devices/pci0")
        .link("class/net/ib0/device", "devices/pci0")
        .file("class/net/ib0/dev_port", "0\n")
        .link("class/net/ib1/device", "devices/pci0")
        .file("class/net/ib1/dev_port", "1\n")
        .link("class/net/eth0/device", "devices/pci1")
        .file("class/net/eth0/dev_port", "1\n");
    let host = read_sysfs(&tree.0, &addresses);
    let [down, active] = &host.devices[0].ports[..] else { panic!("two ports") };
    assert_eq!((down.state, down.lid, active.state, active.lid), (PortState::Down, 0, PortState::Active, 31));
    assert_eq!(active.gids[0].kind, GidKind::InfiniBand);
    assert_eq!((down.addresses.len(), &active.addresses[..]), (0, &[IpAddr::from([10, 0, 1, 1])][..]));
}

#[test]
fn others_and_oddities() {
    let tree = Tree::new("odd");
    tree.file("class/infiniband/siw0/node_type", "4: RNIC\n")
        .port("siw0/ports/1", "4: ACTIVE", "Ethernet", "0x0")
        .file("class/infiniband/usnic_0/node_type", "6: usNIC UDP\n")
        .file("class/infiniband/empty/other", "")
        .file("class/infiniband/rxe0/node_type", "1: CA\n")
        .port("rxe0/ports/1", "2: INIT", "Ethernet", "junk")
        .port("rxe0/ports/300", "4: ACTIVE", "Ethernet", "0x0");
    let host = read_sysfs(&tree.0, &addresses);
    let found: Vec<_> = host.devices.iter().map(|d| (d.name.as_str(), d.transport, d.ports.len())).collect();
    let expected = [
        ("empty", Transport::Other, 0),
        ("rxe0", Transport::InfiniBand, 1),
        ("siw0", Transport::Iwarp, 1),
        ("usnic_0", Transport::Other, 0),
    ];
    assert_eq!(found, expected);
    assert_eq!((host.devices[1].ports[0].state, host.devices[1].ports[0].lid), (PortState::Initializing, 0));
}

/// Tables of 1,024 entries exist (Soft-RoCE), and a queue pair names one with 8 bits.
#[test]
fn a_long_gid_table_is_read_by_index() {
    let tree = Tree::new("long");
    tree.file("class/infiniband/rxe0/node_type", "1: CA\n").port(
        "rxe0/ports/1",
        "4: ACTIVE",
        "Ethernet",
        "0x0",
    );
    for index in 0..=255 {
        let gid = if index == 200 { "0000:0000:0000:0000:0000:ffff:0a00:0001" } else { NO_GID };
        tree.gid("rxe0/ports/1", index, gid, Some("RoCE v2"), Some("eth0"));
    }
    let host = read_sysfs(&tree.0, &addresses);
    assert_eq!(host.devices[0].ports[0].gids.len(), 1);
    assert_eq!(host.devices[0].ports[0].gids[0].index, 200);
}
