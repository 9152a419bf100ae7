//! Hosts made for the purpose (`*.host`): what is read of each, what a node would hear about it, what is planned, done and
//! undone.

mod apply;
mod check;
mod fake;
mod plan;
mod read;
mod suggest;
mod tree;

use std::collections::BTreeSet;

use keyferry_nic_config::{Device, Finding, Host, Severity, Wanted};
use tree::Tree;

/// What most nodes want: one worker on core 1.
fn wanted(device: &str) -> Wanted {
    Wanted {
        device: Some(device.parse::<Device>().unwrap()),
        control: Some(0),
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

#[track_caller]
fn assert_has(findings: &[Finding], severity: Severity, what: &str) {
    let has = findings.iter().any(|finding| finding.severity == severity && finding.what.contains(what));
    assert!(has, "no {severity} with \"{what}\" in {findings:#?}");
}
