//! What is planned for a host, and what is refused.

use std::collections::BTreeSet;

use keyferry_nic_config::{Operation, Plan, Reboot, Wanted, plan, show};

use super::{blocks, host, wanted};
use crate::tree::Tree;

fn whats(plan: &Plan) -> Vec<&str> {
    plan.steps.iter().map(|step| step.what.as_str()).collect()
}

#[track_caller]
fn step<'p>(plan: &'p Plan, what: &str) -> &'p keyferry_nic_config::Step {
    plan.steps
        .iter()
        .find(|step| step.what.starts_with(what))
        .unwrap_or_else(|| panic!("no {what} in {plan:#?}"))
}

fn spinning(device: &str, workers: &[usize]) -> Wanted {
    Wanted { spin: true, workers: workers.iter().copied().collect(), ..wanted(device) }
}

#[test]
fn a_server_that_is_set_up_needs_nothing() {
    let host = host(&Tree::of("connectx"));
    for device in ["3b:00.0", "3b:00.1", "19:00.0", "net_null0"] {
        let plan = plan(&host, &spinning(device, &[1, 2]));
        assert_eq!((whats(&plan), blocks(&plan.refusals)), (vec![], vec![]), "{device}");
    }
}

#[test]
fn a_shared_port_is_left_alone() {
    let plan = plan(&host(&Tree::of("connectx")), &spinning("d8:00.0", &[1]));
    assert!(
        plan.notes
            .iter()
            .any(|note| note.what.contains("is left to mlx5_core, which shares it with DPDK (DPDK 22.11"))
    );
    let pages: Vec<_> = whats(&plan);
    assert_eq!(pages, ["hugepages of NUMA node 1"], "the worker's node has enough");
    assert_eq!(
        plan.steps[0].operations,
        [Operation::Set {
            path: "sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages".to_owned(),
            value: "160".to_owned()
        }]
    );
}

#[test]
fn a_free_port_goes_to_vfio() {
    let tree = Tree::of("connectx");
    let plan_of = |driver: Option<&str>| {
        plan(&host(&tree), &Wanted { driver: driver.map(str::to_owned), ..spinning("18:00.0", &[1]) })
    };
    let plan = plan_of(None);
    assert_eq!(whats(&plan), ["driver of 0000:18:00.0"], "{plan:#?}");
    let driver = step(&plan, "driver");
    assert_eq!((driver.now.as_str(), driver.wanted.as_str(), driver.reboot), ("ice", "vfio-pci", Reboot::No));
    assert_eq!(
        whats(&plan_of(Some("uio_pci_generic"))),
        ["module uio_pci_generic", "driver of 0000:18:00.0"]
    );
}

#[test]
fn a_server_off_the_shelf_is_set_up() {
    let tree = Tree::of("e810");
    let wanted = Wanted { apps: BTreeSet::from([3]), ..spinning("18:00.0", &[1, 2]) };
    let plan = plan(&host(&tree), &wanted);
    assert_eq!(
        whats(&plan),
        [
            "kernel arguments",
            "module vfio-pci",
            "driver of 0000:18:00.0",
            "hugepages of NUMA node 0",
            "governor of cores 1-3",
            "cores of 6 interrupts",
            "transparent hugepages"
        ]
    );
    let kernel = step(&plan, "kernel");
    assert_eq!(
        kernel.wanted,
        "iommu=pt isolcpus=managed_irq,domain,1-3 nohz_full=1-3 rcu_nocbs=1-3 irqaffinity=0,4-15",
        "AMD's IOMMU is on where the firmware lets it"
    );
    assert_eq!((kernel.reboot, kernel.by_hand.as_deref()), (Reboot::After, Some("update-grub; reboot")));
    assert_eq!(step(&plan, "driver").reboot, Reboot::Before);
    assert_eq!(step(&plan, "hugepages").wanted, "128 of 2048 KiB");
    let interrupts: Vec<_> = step(&plan, "cores of").operations.iter().map(ToString::to_string).collect();
    assert_eq!(interrupts[0], "echo 0,4-15 > /proc/irq/30/smp_affinity_list");
    assert_eq!(interrupts[4], "echo 0,4-15 > /proc/irq/40/smp_affinity_list", "it had only core 2");
    assert!(plan.notes.iter().any(|note| note.what.contains("2 queues, one a worker")));
}

#[test]
fn arguments_follow_the_core_map_and_spare_the_machines_own() {
    let tree = Tree::of("e810");
    let kernel = |tree: &Tree, workers: &[usize]| {
        let plan = plan(&host(tree), &spinning("net_null0", workers));
        plan.steps.into_iter().find(|step| step.what == "kernel arguments")
    };
    let first = kernel(&tree, &[1]).unwrap();
    let [Operation::Write { path, text }] = &first.operations[..] else { panic!("{first:?}") };
    tree.file(path, text);
    let waits = kernel(&tree, &[1]).unwrap();
    assert!(waits.operations.is_empty() && waits.now.contains("started without it"), "{waits:?}");

    // After the reboot, and with another core map.
    let line = text.split('"').nth(1).unwrap().replace("$GRUB_CMDLINE_LINUX_DEFAULT", "ro");
    tree.file("proc/cmdline", &line);
    tree.file("sys/devices/system/cpu/isolated", "1\n");
    tree.file("sys/devices/system/cpu/nohz_full", "1\n");
    assert_eq!(kernel(&tree, &[1]), None);
    let other = kernel(&tree, &[1, 2]).unwrap();
    assert_eq!(
        other.wanted,
        "isolcpus=managed_irq,domain,1-2 nohz_full=1-2 rcu_nocbs=1-2 irqaffinity=0,3-15"
    );

    // What the machine's own settings say is theirs to change.
    tree.remove(path);
    let own = kernel(&tree, &[1, 2]).unwrap();
    let by_hand = own.by_hand.unwrap();
    assert!(own.operations.is_empty(), "{:?}", own.operations);
    assert!(by_hand.contains("say nohz_full=1: change that to nohz_full=1-2"), "{by_hand}");

    tree.remove("etc/default/grub");
    tree.file("proc/cmdline", "ro\n");
    let none = kernel(&tree, &[1]).unwrap();
    assert!(
        none.operations.is_empty()
            && none.by_hand.unwrap().contains("where this machine's boot loader has them")
    );
}

#[test]
fn the_iommu_stays_on() {
    let tree = Tree::of("e810");
    let first = plan(&host(&tree), &spinning("18:00.0", &[1]));
    let [Operation::Write { path, text }] = &step(&first, "kernel").operations[..] else {
        panic!("{first:?}")
    };
    tree.file(path, text);
    tree.file("proc/cmdline", text.split('"').nth(1).unwrap());
    // The firmware has it off: then the port waits, and the plan says for what.
    let off = plan(&host(&tree), &spinning("18:00.0", &[1]));
    assert!(off.notes.iter().any(|note| note.what.contains("finds none")), "{off:#?}");
    assert_eq!(step(&off, "driver").reboot, Reboot::Before);

    std::fs::create_dir_all(tree.path("sys/kernel/iommu_groups/0")).unwrap();
    let other = plan(&host(&tree), &spinning("18:00.0", &[1, 2]));
    assert!(
        step(&other, "kernel").wanted.starts_with("iommu=pt isolcpus=managed_irq,domain,1-2 "),
        "{other:#?}"
    );
}

#[test]
fn a_core_is_left_to_the_kernel() {
    let plan = plan(&host(&Tree::of("virtual")), &spinning("net_null0", &[0, 1]));
    assert_eq!(whats(&plan), [] as [&str; 0]);
    assert!(plan.notes.iter().any(|note| note.what.contains("every core spins")));
}

#[test]
fn a_virtual_machine_does_without_an_iommu() {
    let tree = Tree::of("virtual");
    let of = |device: &str, driver: Option<&str>| {
        plan(&host(&tree), &Wanted { driver: driver.map(str::to_owned), ..wanted(device) })
    };
    assert_eq!(
        whats(&of("00:05.0", None)),
        ["module vfio-pci", "VFIO without an IOMMU", "driver of 0000:00:05.0"]
    );
    assert_eq!(whats(&of("00:03.0", None)), ["VFIO without an IOMMU"], "it has its driver");
    assert_eq!(
        whats(&of("00:05.0", Some("uio_pci_generic"))),
        ["module uio_pci_generic", "driver of 0000:00:05.0"]
    );
}

#[test]
fn the_default_route_is_not_taken() {
    let servers = host(&Tree::of("connectx"));
    let refused = plan(&servers, &wanted("01:00.0")).refusals;
    assert_eq!(
        blocks(&refused),
        ["eno1 carries the default route", "eno1 carries the kernel's network 192.0.2.0/24"]
    );
    assert!(refused[0].fix.contains("ip route delete default dev eno1"), "{}", refused[0].fix);

    let machine = host(&Tree::of("virtual"));
    let refused = plan(&machine, &wanted("00:02.0")).refusals;
    assert_eq!(
        blocks(&refused),
        [
            "eth0 carries the IPv6 default route",
            "eth0 carries the SSH session from 2001:db8::7",
            "eth0 carries the kernel's network fd00::/64"
        ]
    );
}

#[test]
fn parts_of_a_bond_or_bridge_are_not_taken() {
    let refused = plan(&host(&Tree::of("e810")), &wanted("02:00.1")).refusals;
    assert_eq!(
        blocks(&refused),
        [
            "eno1 is part of br0, which carries the default route",
            "eno1 is part of br0, which carries the SSH session from 198.51.100.7",
            "eno1 is part of br0, which carries the kernel's network 192.0.2.0/24"
        ]
    );
}

#[test]
fn control_links_keep_their_port() {
    let host = host(&Tree::of("connectx"));
    let linked = |device: &str, address: &str| Wanted {
        links: BTreeSet::from([address.parse().unwrap()]),
        ..wanted(device)
    };
    // Its own end, or a peer's: both say where packets go.
    for address in ["10.0.0.2", "10.0.0.9"] {
        let refused = plan(&host, &linked("3b:00.1", address)).refusals;
        assert_eq!(blocks(&refused), [format!("ens1f1np1 carries the control link to or at {address}")]);
        assert_eq!(plan(&host, &linked("3b:00.0", address)).refusals, [], "another port may be shared");
    }
}

#[test]
fn a_network_of_the_kernels_is_not_taken_but_may_be_shared() {
    let plan_of = |name: &str, device: &str| plan(&host(&Tree::of(name)), &wanted(device)).refusals;
    let refused = plan_of("e810", "18:00.1");
    assert_eq!(blocks(&refused), ["enp24s0f1 carries the kernel's network 10.0.0.0/24"]);
    assert_eq!(
        refused[0].fix,
        "if nothing needs it: ip address flush dev enp24s0f1; else choose another port"
    );
    assert_eq!(plan_of("connectx", "3b:00.1"), []);
}

#[test]
fn what_cannot_be_driven_is_refused() {
    let of = |name: &str, device: &str| {
        let refused = plan(&host(&Tree::of(name)), &wanted(device)).refusals;
        blocks(&refused).join("; ")
    };
    assert!(of("laptop", "00:14.3").contains("no Ethernet controller"));
    assert!(of("connectx", "af:00.0").contains("no Ethernet controller"));
    assert!(of("connectx", "99:00.0").contains("there is no network device"));
    assert!(of("virtual", "00:06.0").contains("it may be in another network namespace"));
    assert_eq!(of("virtual", "00:04.0"), "", "nobody's function has no interface");
}

#[test]
fn xdp_takes_from_the_kernel_and_af_packet_only_looks() {
    let host = host(&Tree::of("connectx"));
    let refused = |device: &str| plan(&host, &wanted(device)).refusals.len();
    assert_eq!(refused("net_af_xdp0,iface=eno1"), 1);
    assert_eq!(refused("net_af_packet0,iface=eno1"), 0);
}

#[test]
fn roce_says_what_adapters_want() {
    let of = |name: &str, fabric: &str| {
        let wanted = Wanted { verbs: true, fabric: Some(fabric.to_owned()), ..wanted("net_null0") };
        let plan = plan(&host(&Tree::of(name)), &wanted);
        let note = plan.notes.into_iter().find(|note| note.what.contains("RoCE")).unwrap();
        (note.what, note.fix)
    };
    let (what, fix) = of("connectx", "10.0.0.1");
    assert!(what.contains("RoCE of mlx5_1") && what.contains("priority 3 (DSCP 26)"), "{what}");
    assert!(
        fix.starts_with(
            "mlnx_qos -i ens1f1np1 --trust dscp --pfc 0,0,0,1,0,0,0,0; cma_roce_tos -d mlx5_1 -t 106"
        ),
        "{fix}"
    );
    assert!(of("e810", "rxe0").0.contains("rxe0 is Soft-RoCE"));
}

#[test]
fn a_plan_is_shown_as_a_table_and_as_json() {
    let plan = plan(&host(&Tree::of("e810")), &spinning("18:00.0", &[1]));
    let text = show::plan(&plan);
    assert!(text.contains("\nmodule vfio-pci           not loaded"), "{text}");
    assert!(
        text.contains(
            "apply    echo 128 > /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
        ),
        "{text}"
    );
    let json = serde_json::to_value(&plan).unwrap();
    assert_eq!(json["steps"][1]["operations"][0]["load"]["module"], "vfio-pci");
    assert_eq!((&json["steps"][0]["reboot"], &json["refusals"]), (&"after".into(), &serde_json::json!([])));
}
