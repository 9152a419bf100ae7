//! Hosts as folders: what is read of each, and what a node would hear about it.

mod tree;

use std::collections::BTreeSet;

use keyferry_nic_config::{Cores, Device, Finding, Host, Hugepages, Memlock, Severity, Wanted, check};
use tree::{Tree, laptop, server, virtual_machine};

fn wanted(device: &str) -> Wanted {
    Wanted {
        device: Some(device.parse::<Device>().unwrap()),
        workers: BTreeSet::from([1]),
        mtu: 1500,
        memory_mib: 256,
        addresses: vec!["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()],
        ..Wanted::default()
    }
}

fn host(tree: &Tree) -> Host {
    Host::read(tree.root())
}

fn blocks(findings: &[Finding]) -> Vec<&str> {
    let blocks = findings.iter().filter(|finding| finding.severity == Severity::Blocks);
    blocks.map(|finding| finding.what.as_str()).collect()
}

fn has(findings: &[Finding], severity: Severity, what: &str) -> bool {
    findings.iter().any(|finding| finding.severity == severity && finding.what.contains(what))
}

#[test]
fn reads_a_server() {
    let host = host(&server());
    assert_eq!(host.cores.online, (0..8).collect());
    assert_eq!(host.cores.isolated, BTreeSet::from([1, 2, 3, 5]));
    assert_eq!((host.cores.nodes[&3], host.cores.nodes[&5]), (0, 1));
    assert_eq!(host.cores.siblings[&1], BTreeSet::from([3]));
    assert!(host.features.aes && host.features.clmul && host.features.vaes && host.features.avx512);
    assert_eq!(host.memory.huge.len(), 3);
    assert_eq!((host.memory.huge_free_mib(), host.memory.huge_free_mib_of(1)), (512 + 1024 + 64, 64));
    assert_eq!(host.memory.huge_mounts.len(), 1);
    assert_eq!(host.memory.memlock, Some(Memlock::Unlimited));
    assert_eq!(host.network.pci.len(), 3, "the storage controller is no network function");
    assert_eq!(host.network.pci[0].interfaces, ["eth0"]);
    assert_eq!((host.network.pci[1].node, host.network.pci[2].node), (Some(0), Some(1)));
    assert_eq!(host.network.iommu_groups, 2);
    assert_eq!(host.network.rdma, ["mlx5_0"]);
    assert!(host.rights.root && host.rights.net_raw && host.rights.ipc_lock);
    assert_eq!(host.ia32cap, None);
}

#[test]
fn a_server_that_is_set_up_has_nothing_to_say() {
    let wanted = Wanted { spin: true, hugepages: Hugepages::Require, ..wanted("0000:3b:00.0") };
    assert_eq!(check(&host(&server()), &wanted), []);
}

#[test]
fn a_server_says_what_is_far_away_shared_or_not_ours() {
    let host = host(&server());
    let mut far = Wanted { workers: BTreeSet::from([5]), ..wanted("0000:3b:00.0") };
    assert!(has(&check(&host, &far), Severity::Slows, "worker cores 5 are on another"));
    far.device = Some("0000:af:00.0".parse().unwrap());
    let findings = check(&host, &far);
    assert!(has(&findings, Severity::Slows, "only 64 MiB of free hugepages"));
    assert_eq!(blocks(&findings), [] as [&str; 0], "mlx5_core shares its device with user space");

    let twins = Wanted { workers: BTreeSet::from([1, 3]), ..wanted("3b:00.0") };
    assert!(has(&check(&host, &twins), Severity::Slows, "worker cores 1, 3 share"));
    let busy = Wanted { workers: BTreeSet::from([0, 1]), spin: true, ..wanted("3b:00.0") };
    assert!(has(&check(&host, &busy), Severity::Note, "worker cores 0,"));

    let kernel = check(&host, &wanted("0000:18:00.0"));
    assert_eq!(blocks(&kernel), ["0000:18:00.0 belongs to the kernel: ice, interface eth0"]);
    assert!(kernel[0].fix.contains("--bind=vfio-pci 0000:18:00.0"));
    let nowhere = check(&host, &wanted("0000:99:00.0"));
    assert_eq!(
        blocks(&nowhere),
        [
            "there is no network device at PCI address 0000:99:00.0; there is 0000:18:00.0, 0000:3b:00.0, 0000:af:00.0"
        ]
    );
    let greedy = Wanted { memory_mib: 4096, hugepages: Hugepages::Require, ..wanted("3b:00.0") };
    let findings = check(&host, &greedy);
    assert!(has(&findings, Severity::Blocks, "4096 MiB of packet memory are wanted and 1600 MiB are free"));
    assert_eq!(findings[0].fix, "reserve some: sysctl vm.nr_hugepages=2048");
}

#[test]
fn a_laptop_serves_slowly_and_says_why() {
    let host = host(&laptop());
    assert_eq!(host.memory.huge_free_mib(), 0);
    let tap = check(&host, &wanted("net_af_packet0,iface=wlan0"));
    assert_eq!(blocks(&tap), ["net_af_packet needs CAP_NET_RAW, which this process does not have"]);
    assert!(has(&tap, Severity::Slows, "0 MiB of hugepages are free"));
    assert!(has(&tap, Severity::Slows, "only 8192 KiB of memory may be locked"));
    assert!(has(&tap, Severity::Note, "without VAES"));
    let severities: Vec<_> = tap.iter().map(|finding| finding.severity).collect();
    assert!(severities.is_sorted(), "{severities:?}");

    let device = wanted("0000:00:14.3");
    assert!(has(&check(&host, &device), Severity::Blocks, "this process is not root"));
    let never = Wanted { hugepages: Hugepages::Never, ..wanted("net_null0") };
    assert!(!has(&check(&host, &never), Severity::Slows, "hugepages"));
    let large = Wanted { memory_mib: 100_000, ..never };
    assert!(has(&check(&host, &large), Severity::Blocks, "7812 MiB of memory are available"));
}

#[test]
fn a_laptop_names_the_interfaces_it_has() {
    let host = host(&laptop());
    let findings = check(&host, &wanted("net_af_packet0,iface=kf0"));
    assert!(has(&findings, Severity::Blocks, "has no interface kf0; it has lo, eth0, wlan0"));
    let down = check(&host, &wanted("net_af_packet0,iface=eth0"));
    assert!(has(&down, Severity::Blocks, "the interface eth0 is down"));
    let jumbo = Wanted { mtu: 9000, ..wanted("net_af_packet0,iface=wlan0") };
    assert!(has(&check(&host, &jumbo), Severity::Blocks, "carries packets of 1500 bytes"));
}

#[test]
fn an_address_of_the_kernel_is_not_ours() {
    let host = host(&laptop());
    let own = Wanted {
        addresses: vec![
            "198.51.100.7".parse().unwrap(),
            "fe80::1".parse().unwrap(),
            "192.0.2.1".parse().unwrap(),
        ],
        ..wanted("net_null0")
    };
    let findings = check(&host, &own);
    assert_eq!(
        blocks(&findings),
        [
            "the kernel answers for 198.51.100.7 too, and resets the node's connections",
            "the kernel answers for fe80::1 too, and resets the node's connections"
        ]
    );
}

#[test]
fn a_virtual_machine_lacks_an_iommu_and_aes() {
    let tree = virtual_machine();
    let vm = host(&tree);
    let findings = check(&vm, &wanted("0000:00:03.0"));
    assert_eq!(blocks(&findings), ["0000:00:03.0 is bound to vfio-pci, and this machine's IOMMU is off"]);
    assert!(has(&findings, Severity::Slows, "shows no AES instructions"));
    assert!(has(&findings, Severity::Slows, "OPENSSL_ia32cap is set to \"~0x0\""));
    assert!(has(&check(&vm, &wanted("0000:00:04.0")), Severity::Blocks, "bound to no driver"));
    assert!(has(
        &check(&vm, &Wanted { verbs: true, ..wanted("net_null0") }),
        Severity::Blocks,
        "no RDMA device"
    ));

    tree.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    assert_eq!(blocks(&check(&host(&tree), &wanted("0000:00:03.0"))), [] as [&str; 0]);
}

#[test]
fn a_cpuset_is_obeyed() {
    let tree = server();
    tree.file("proc/self/status", "Uid:\t0\t0\t0\t0\nCpus_allowed_list:\t2-3,64\n");
    assert_eq!(host(&tree).cores.usable(), &BTreeSet::from([2, 3]));
}

#[test]
fn a_host_that_shows_nothing_is_read_all_the_same() {
    let tree = Tree::new();
    let host = host(&tree);
    assert_eq!(host.cores, Cores::default());
    // No panic; and it cannot be known that an interface exists, so it does not.
    assert!(!blocks(&check(&host, &wanted("net_af_packet0,iface=kf0"))).is_empty());
}

/// The machine the tests run on has at least a core, and its own procfs.
#[test]
fn reads_this_machine() {
    let host = Host::read("/".as_ref());
    assert!(!host.cores.usable().is_empty());
    assert!(host.network.interface("lo").is_some());
    assert!(host.memory.available_mib.is_some());
}
