//! What is read of a host.

use std::collections::BTreeSet;

use keyferry_nic_config::{Cores, Host, Memlock, check, plan, show, suggest};
use proptest::prelude::*;

use super::{blocks, host, wanted};
use crate::tree::Tree;

#[test]
fn reads_two_sockets() {
    let host = host(&Tree::of("connectx"));
    assert_eq!(host.cores.online, (0..32).collect());
    assert_eq!(host.cores.isolated, (1..=7).collect());
    assert_eq!((host.cores.nodes[&3], host.cores.nodes[&9], host.cores.nodes[&17]), (0, 1, 0));
    assert_eq!(host.cores.siblings[&1], BTreeSet::from([17]));
    assert_eq!((host.cores.first_thread(17), host.cores.first_thread(1)), (1, 1));
    assert_eq!(host.cores.governors[&31], "performance");
    assert!(host.features.aes && host.features.clmul && host.features.vaes && host.features.avx512);
    assert_eq!(host.memory.huge.len(), 3);
    assert_eq!((host.memory.huge_free_mib(), host.memory.huge_free_mib_of(1)), (512 + 1024 + 64, 64));
    assert_eq!(host.memory.huge_mounts.len(), 1);
    assert_eq!(host.memory.memlock, Some(Memlock::Unlimited));
    assert_eq!(host.network.iommu_groups, 2);
    assert!(host.rights.root && host.rights.net_raw && host.rights.ipc_lock);
    assert_eq!(host.ia32cap, None);
    assert_eq!(host.kernel.argument("rcu_nocbs"), Some("1-7"));
    assert_eq!(host.kernel.transparent_hugepages, "madvise");
    assert_eq!(host.interrupts.len(), 4);
}

#[test]
fn reads_ports() {
    let host = host(&Tree::of("connectx"));
    assert_eq!(host.network.pci.len(), 7, "the storage controller is no network function");
    assert_eq!(host.network.pci[3].interfaces, ["ens1f0np0"]);
    assert_eq!((host.network.pci[3].node, host.network.pci[6].node), (Some(0), Some(1)));
    let port = host.network.interface("ens7np0").unwrap();
    assert_eq!((port.carrier, port.rate_mbit, port.up), (Some(false), Some(100_000), Some(true)));

    let rdma = &host.network.rdma[1];
    assert_eq!((rdma.name.as_str(), rdma.driver.as_deref()), ("mlx5_1", Some("mlx5_core")));
    let gids: Vec<_> = rdma.ports[0].gids.iter().map(|gid| (gid.index, gid.is_roce_v2)).collect();
    assert_eq!(gids, [(0, false), (3, true)], "an empty entry is none");
    assert_eq!(rdma.ports[0].interface(), Some("ens1f1np1"));
}

#[test]
fn software_devices_are_told_from_adapters() {
    let tree = Tree::of("e810");
    assert!(host(&tree).network.rdma[0].is_software());
    // Some kernels show the device of the interface as its own.
    std::fs::create_dir(tree.path("sys/class/infiniband/rxe0/device")).unwrap();
    std::os::unix::fs::symlink("../drivers/ice", tree.path("sys/class/infiniband/rxe0/device/driver"))
        .unwrap();
    assert!(host(&tree).network.rdma[0].is_software());
}

#[test]
fn reads_what_is_above_an_interface() {
    let host = host(&Tree::of("e810"));
    assert_eq!(host.network.above("eno1"), BTreeSet::from(["eno1", "bond0", "br0"]));
    assert_eq!(host.network.above("br0"), BTreeSet::from(["br0"]));
}

#[test]
fn an_interface_of_virtio_is_its_functions() {
    let host = host(&Tree::of("virtual"));
    assert_eq!(host.network.pci[0].interfaces, ["eth0"]);
    assert!(host.kernel.is_guest);
    assert_eq!(host.ssh, Some(("fd00::2".parse().unwrap(), "2001:db8::7".parse().unwrap())));
}

#[test]
fn a_cpuset_is_obeyed() {
    let tree = Tree::of("connectx");
    tree.file("proc/self/status", "Uid:\t0\t0\t0\t0\nCpus_allowed_list:\t2-3,64\n");
    assert_eq!(host(&tree).cores.usable(), &BTreeSet::from([2, 3]));
}

#[test]
fn a_host_that_shows_nothing_is_read_all_the_same() {
    let tree = Tree::new();
    let host = host(&tree);
    assert_eq!(host.cores, Cores::default());
    // No panic; and it cannot be known that an interface exists, so it does not.
    let wanted = wanted("net_af_packet0,iface=kf0");
    assert!(!blocks(&check(&host, &wanted)).is_empty());
    plan(&host, &wanted);
    suggest(&host, None);
    let _ = show::Listing::new(&host).to_string();
}

/// The machine the tests run on has at least a core, and its own procfs.
#[test]
fn reads_this_machine() {
    let host = Host::read("/".as_ref());
    assert!(!host.cores.usable().is_empty());
    assert!(host.network.interface("lo").is_some());
    assert!(host.memory.available_mib.is_some());
}

/// Files of the first host, each with what a parser of it might stumble over.
const FILES: &[&str] = &[
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/isolated",
    "sys/devices/system/cpu/cpu1/topology/thread_siblings_list",
    "sys/devices/system/node/node0/cpulist",
    "sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages",
    "sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages",
    "sys/kernel/mm/transparent_hugepage/enabled",
    "sys/bus/pci/devices/0000:3b:00.0/class",
    "sys/bus/pci/devices/0000:3b:00.0/numa_node",
    "sys/class/net/ens1f0np0/flags",
    "sys/class/net/ens1f0np0/speed",
    "sys/class/infiniband/mlx5_0/ports/1/state",
    "sys/class/infiniband/mlx5_0/ports/1/gids/3",
    "proc/irq/24/smp_affinity_list",
    "proc/cmdline",
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/mounts",
    "proc/net/dev",
    "proc/net/route",
    "proc/net/ipv6_route",
    "proc/net/tcp",
    "proc/net/tcp6",
    "proc/net/fib_trie",
    "proc/net/if_inet6",
    "proc/self/status",
    "proc/self/limits",
    "proc/self/environ",
    "etc/default/grub.d/60-keyferry.cfg",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any bytes in any file: everything is read, checked, planned and shown.
    #[test]
    fn survives_any_bytes(
        file in 0..FILES.len(),
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), proptest::sample::select(&b"0123456789abcdef-,:[] \t\n"[..])], 0..200),
        spin: bool,
    ) {
        let tree = Tree::of("connectx");
        tree.file(FILES[file], "");
        std::fs::write(tree.path(FILES[file]), bytes).unwrap();
        let host = host(&tree);
        let wanted = keyferry_nic_config::Wanted { spin, verbs: true, ..wanted("3b:00.0") };
        check(&host, &wanted);
        show::plan(&plan(&host, &wanted));
        let _ = show::Listing::new(&host).to_string();
        suggest(&host, None).toml();
    }

    /// The same, of lines cut somewhere.
    #[test]
    fn survives_cut_files(file in 0..FILES.len(), share in 0.0..1.0) {
        let tree = Tree::of("connectx");
        let path = tree.path(FILES[file]);
        let Ok(text) = std::fs::read(&path) else { return Ok(()) };
        std::fs::write(&path, &text[..(text.len() as f64 * share) as usize]).unwrap();
        let host = host(&tree);
        let wanted = wanted("18:00.0");
        check(&host, &wanted);
        plan(&host, &wanted);
    }
}
