//! The executable's other commands, beside a running node.

use crate::harness::{Cluster, Options, Status};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(check_and_status, ready);

fn check_and_status(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers));
    let output = cluster.keyferry("check", |text| text);
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), errors(&output.stderr));

    let output = cluster.keyferry("check", |text| text.replace("hugepages", "hugepage"));
    let said = errors(&output.stderr) + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("hugepage") && said.contains("hugepages"), "the key and the nearest one: {said}");

    let output = cluster.keyferry("check", |text| text.replace("iface=kfe", "iface=kf9"));
    let said = errors(&output.stderr) + &String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("kf9"), "{said}");

    let output = cluster.keyferry("status", |text| text);
    let status = Status::parse(&output.stdout);
    assert_eq!((output.status.success(), status.workers("requests")), (true, vec![0; workers]), "{status}");

    // A node that does not run has no counters.
    let output = cluster.keyferry("status", |text| text.replace("a.ctl", "z.ctl"));
    assert!(
        !output.status.success() && errors(&output.stderr).contains("z.ctl"),
        "{}",
        errors(&output.stderr)
    );
    cluster.finish();
}

/// A node that says it is ready has workers that turn: what they make at their start is made.
fn ready(workers: usize) {
    let mut cluster = Cluster::start(&Options::new(workers));
    cluster.kill_b();
    cluster.start_b();
    let turns = cluster.b().status().workers("turns");
    assert!(turns.len() == workers && turns.iter().all(|turns| *turns > 0), "{turns:?}");
    cluster.finish();
}

fn errors(stderr: &[u8]) -> String {
    String::from_utf8_lossy(stderr).into_owned()
}
