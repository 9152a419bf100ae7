//! What a node would hear about a host.

use std::collections::BTreeSet;

use keyferry_nic_config::{Hugepages, Severity, Wanted, check};

use super::{assert_has, blocks, host, wanted};
use crate::tree::Tree;

#[test]
fn a_server_that_is_set_up_has_nothing_to_say() {
    let host = host(&Tree::of("connectx"));
    for device in ["3b:00.0", "19:00.0"] {
        let wanted = Wanted { spin: true, hugepages: Hugepages::Require, ..wanted(device) };
        assert_eq!(check(&host, &wanted), [], "{device}");
    }
}

#[test]
fn a_server_says_what_is_far_away_shared_or_not_ours() {
    let host = host(&Tree::of("connectx"));
    let mut far = Wanted { workers: BTreeSet::from([9]), ..wanted("3b:00.0") };
    assert_has(&check(&host, &far), Severity::Slows, "worker cores 9 are on another");
    far.device = Some("0000:d8:00.0".parse().unwrap());
    let findings = check(&host, &far);
    assert_has(&findings, Severity::Slows, "only 64 MiB of free hugepages");
    let fix = &findings.iter().find(|finding| finding.what.contains("only 64 MiB")).unwrap().fix;
    assert!(
        fix.ends_with("echo 160 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages"),
        "{fix}"
    );
    assert_eq!(blocks(&findings), ["ens7np0 has no link"]);

    let kernel = check(&host, &wanted("0000:18:00.0"));
    assert_eq!(blocks(&kernel), ["0000:18:00.0 belongs to the kernel: ice, interface eth0"]);
    assert!(kernel[0].fix.contains("--bind=vfio-pci 0000:18:00.0"));
    let nowhere = check(&host, &wanted("0000:99:00.0"));
    assert!(
        blocks(&nowhere)[0]
            .starts_with("there is no network device at PCI address 0000:99:00.0; there is 0000:01")
    );
    let greedy = Wanted { memory_mib: 4096, hugepages: Hugepages::Require, ..wanted("3b:00.0") };
    let findings = check(&host, &greedy);
    assert_has(&findings, Severity::Blocks, "4096 MiB of packet memory are wanted and 1600 MiB are free");
    assert_eq!(findings[0].fix, "reserve some: sysctl vm.nr_hugepages=2048");
}

#[test]
fn cores_say_what_they_share() {
    let host = host(&Tree::of("connectx"));
    let of = |workers: &[usize], apps: &[usize]| Wanted {
        workers: workers.iter().copied().collect(),
        apps: apps.iter().copied().collect(),
        spin: true,
        ..wanted("3b:00.0")
    };
    assert_has(&check(&host, &of(&[1, 17], &[])), Severity::Slows, "worker cores 1, 17 share");
    assert_has(&check(&host, &of(&[1], &[17])), Severity::Note, "cores 17 of other threads share");
    let first = check(&host, &of(&[0, 1], &[]));
    assert_has(&first, Severity::Note, "other work on spinning cores 0,");
    assert_has(&first, Severity::Note, "core 0 is a spinning thread's");
    let ticking = check(&host, &of(&[1, 9], &[]));
    assert_has(&ticking, Severity::Note, "timer stops spinning cores 9");
    assert_has(&ticking, Severity::Note, "4 interrupts may run on spinning cores 1, 9");
    let yields = Wanted { spin: false, ..of(&[1, 9], &[]) };
    assert_eq!(check(&host, &yields).len(), 1, "only the far core matters: {:?}", check(&host, &yields));
}

#[test]
fn a_server_of_the_shelf_says_what_slows_it() {
    let findings = check(&host(&Tree::of("e810")), &Wanted { spin: true, ..wanted("18:00.0") });
    assert_eq!(blocks(&findings), ["0000:18:00.0 belongs to the kernel: ice, interface enp24s0f0"]);
    assert_has(&findings, Severity::Slows, "cores 1 run at what schedutil thinks is enough");
    assert_has(&findings, Severity::Note, "other work on spinning cores 1");
    assert_has(&findings, Severity::Note, "timer stops spinning cores 1");
    assert_has(&findings, Severity::Note, "4 interrupts may run on spinning cores 1");
    assert_has(&findings, Severity::Note, "transparent hugepages are made at any time");
    assert!(findings.iter().all(|finding| !finding.fix.is_empty()));
}

#[test]
fn rdma_says_what_its_port_lacks() {
    let tree = Tree::of("connectx");
    let verbs = |fabric: &str| Wanted { verbs: true, fabric: Some(fabric.to_owned()), ..wanted("3b:00.0") };
    assert_eq!(check(&host(&tree), &verbs("10.0.0.1")), []);
    assert_eq!(check(&host(&tree), &verbs("mlx5_1:1")), []);
    let nobody = check(&host(&tree), &verbs("10.9.9.9"));
    assert_eq!(blocks(&nobody), ["no RDMA port has [fabric] address 10.9.9.9; devices are mlx5_0, mlx5_1"]);

    tree.file("sys/class/infiniband/mlx5_1/ports/1/state", "1: DOWN\n");
    tree.file("sys/class/infiniband/mlx5_1/ports/1/gid_attrs/types/3", "IB/RoCE v1\n");
    tree.file("sys/class/net/ens1f1np1/mtu", "1500\n");
    let findings = check(&host(&tree), &verbs("10.0.0.1"));
    assert_eq!(blocks(&findings), ["port 1 of mlx5_1 is down"]);
    assert_has(&findings, Severity::Slows, "no GID of RoCE v2");
    assert_has(
        &findings,
        Severity::Note,
        "RoCE of mlx5_1 sends small packets, as the MTU of ens1f1np1 is 1500",
    );
    let other = check(&host(&tree), &verbs("mlx5_0"));
    assert_eq!(other, [], "it is another port");
}

#[test]
fn a_laptop_serves_slowly_and_says_why() {
    let host = host(&Tree::of("laptop"));
    assert_eq!(host.memory.huge_free_mib(), 0);
    let tap = check(&host, &wanted("net_af_packet0,iface=wlan0"));
    assert_eq!(blocks(&tap), ["net_af_packet needs CAP_NET_RAW, which this process does not have"]);
    assert_has(&tap, Severity::Slows, "0 MiB of hugepages are free");
    assert_has(&tap, Severity::Slows, "only 8192 KiB of memory may be locked");
    assert_has(&tap, Severity::Note, "without VAES");
    let severities: Vec<_> = tap.iter().map(|finding| finding.severity).collect();
    assert!(severities.is_sorted(), "{severities:?}");

    let device = check(&host, &wanted("0000:00:14.3"));
    assert_has(&device, Severity::Blocks, "this process is not root");
    assert_has(&device, Severity::Blocks, "0000:00:14.3 is no Ethernet controller");
    let never = Wanted { hugepages: Hugepages::Never, ..wanted("net_null0") };
    assert!(check(&host, &never).iter().all(|finding| !finding.what.contains("hugepages")));
    let large = Wanted { memory_mib: 100_000, ..never };
    assert_has(&check(&host, &large), Severity::Blocks, "7812 MiB of memory are available");
}

#[test]
fn a_laptop_names_the_interfaces_it_has() {
    let host = host(&Tree::of("laptop"));
    let findings = check(&host, &wanted("net_af_packet0,iface=kf0"));
    assert_has(&findings, Severity::Blocks, "has no interface kf0; it has lo, eth0, wlan0");
    let down = check(&host, &wanted("net_af_packet0,iface=eth0"));
    assert_has(&down, Severity::Blocks, "the interface eth0 is down");
    let jumbo = Wanted { mtu: 9000, ..wanted("net_af_packet0,iface=wlan0") };
    assert_has(&check(&host, &jumbo), Severity::Blocks, "carries packets of 1500 bytes");
}

#[test]
fn an_address_of_the_kernel_is_not_ours() {
    let host = host(&Tree::of("laptop"));
    let own = Wanted {
        addresses: vec![
            "198.51.100.7".parse().unwrap(),
            "fe80::1".parse().unwrap(),
            "192.0.2.1".parse().unwrap(),
        ],
        ..wanted("net_null0")
    };
    assert_eq!(
        blocks(&check(&host, &own)),
        [
            "the kernel answers for 198.51.100.7 too, and resets the node's connections",
            "the kernel answers for fe80::1 too, and resets the node's connections"
        ]
    );
}

#[test]
fn a_virtual_machine_lacks_an_iommu_and_aes() {
    let tree = Tree::of("virtual");
    let vm = host(&tree);
    let findings = check(&vm, &wanted("0000:00:03.0"));
    assert_eq!(blocks(&findings), ["0000:00:03.0 is bound to vfio-pci, and this machine's IOMMU is off"]);
    assert_has(&findings, Severity::Slows, "shows no AES instructions");
    assert_has(&findings, Severity::Slows, "OPENSSL_ia32cap is set to \"~0x0\"");
    assert_has(&check(&vm, &wanted("0000:00:04.0")), Severity::Blocks, "bound to no driver");
    let verbs = check(&vm, &Wanted { verbs: true, ..wanted("net_null0") });
    assert_has(&verbs, Severity::Blocks, "no RDMA device");

    tree.file("sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    assert_eq!(blocks(&check(&host(&tree), &wanted("0000:00:03.0"))), [] as [&str; 0]);
}

#[test]
fn xdp_wants_a_queue_a_worker() {
    let tree = Tree::of("e810");
    for queue in 0..8 {
        std::fs::create_dir_all(tree.path(&format!("sys/class/net/enp24s0f0/queues/rx-{queue}"))).unwrap();
    }
    let findings = check(&host(&tree), &wanted("net_af_xdp0,iface=enp24s0f0"));
    assert_eq!(
        blocks(&findings),
        ["enp24s0f0 has 8 queues and 1 of them have workers: what comes by the others is lost"]
    );
    let two = Wanted { workers: (1..=8).collect(), ..wanted("net_af_xdp0,iface=enp24s0f0") };
    assert_eq!(blocks(&check(&host(&tree), &two)), [] as [&str; 0]);
}
