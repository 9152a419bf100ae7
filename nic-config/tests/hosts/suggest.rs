//! Core maps that are suggested for a host, and what a check says of them.

use std::collections::BTreeSet;

use keyferry_nic_config::{Severity, Suggestion, Wanted, check, plan, suggest};

use super::{blocks, host};
use crate::tree::Tree;

fn suggested(name: &str, workers: Option<usize>) -> (Suggestion, Wanted) {
    let suggestion = suggest(&host(&Tree::of(name)), workers);
    let wanted = Wanted::read(&suggestion.toml()).unwrap();
    (suggestion, wanted)
}

#[test]
fn two_sockets_give_the_cores_of_the_ports_own() {
    let tree = Tree::of("connectx");
    let (suggestion, wanted) = suggested("connectx", None);
    assert_eq!(suggestion.device, "0000:19:00.0", "somebody gave it to user space");
    assert_eq!((suggestion.control, suggestion.spin), (0, true));
    assert_eq!(suggestion.workers, (1..=7).collect());
    assert_eq!(suggestion.idle, (17..=23).collect());
    assert_eq!(wanted.workers, suggestion.workers);
    let findings = check(&host(&tree), &wanted);
    let bad: Vec<_> = findings.iter().filter(|finding| finding.severity != Severity::Note).collect();
    assert_eq!(bad.iter().map(|finding| &finding.what).collect::<Vec<_>>(), [] as [&String; 0]);

    std::fs::remove_dir_all(tree.path("sys/bus/pci/devices/0000:19:00.0")).unwrap();
    assert_eq!(suggest(&host(&tree), Some(2)).device, "0000:3b:00.0", "the fastest");
    assert_eq!(suggest(&host(&tree), Some(2)).workers, BTreeSet::from([1, 2]));
    for port in ["3b:00.0", "3b:00.1", "19:00.0"] {
        let _ = std::fs::remove_dir_all(tree.path(&format!("sys/bus/pci/devices/0000:{port}")));
    }
    let other = suggest(&host(&tree), None);
    assert_eq!((other.device.as_str(), other.node), ("0000:d8:00.0", Some(1)));
    assert_eq!((other.control, other.workers), (0, (8..=15).collect()));
}

#[test]
fn a_port_in_use_is_not_suggested() {
    let (suggestion, wanted) = suggested("e810", None);
    assert_eq!(suggestion.device, "0000:18:00.0", "the other carries a network, the rest everything");
    assert_eq!((suggestion.workers.len(), suggestion.memory_mib()), (7, 448));
    assert_eq!(plan(&host(&Tree::of("e810")), &wanted).refusals, []);
}

#[test]
fn a_small_machine_shares_its_cores() {
    let (suggestion, wanted) = suggested("virtual", None);
    assert_eq!((suggestion.control, suggestion.spin), (0, false));
    assert_eq!(suggestion.workers, BTreeSet::from([1]));
    assert_eq!(suggestion.device, "0000:00:03.0");
    assert!(!wanted.spin);
}

#[test]
fn a_laptop_gets_a_virtual_port() {
    let (suggestion, wanted) = suggested("laptop", None);
    assert_eq!(suggestion.device, "net_af_packet0,iface=kf0,qpairs=3");
    assert_eq!(wanted.workers, BTreeSet::from([1, 2, 3]));
    assert!(suggestion.why.contains("ip link add kf0 type veth"));
    let findings = check(&host(&Tree::of("laptop")), &wanted);
    assert_eq!(blocks(&findings).iter().filter(|what| what.contains("queues")).count(), 0);
}
