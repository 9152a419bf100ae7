//! What a node may still do once it serves: next to nothing, in none of its threads; and it goes on to serve.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::client::{Curl, output_of};
use crate::harness::{Cluster, Decide, Node, Options};
use crate::with_one_and_two_workers;

with_one_and_two_workers!(root_gives_up_what_it_may, root_becomes_another_user);

/// The right to lock memory, which is kept where the limit of locked memory cannot be lifted (capability.h).
const CAP_IPC_LOCK: u64 = 1 << 14;

/// A field of each thread of a node, with its name.
fn threads(node: &Node, field: &str) -> Vec<(String, String)> {
    let of = |status: &str, field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
    };
    let tasks = fs::read_dir(format!("/proc/{}/task", node.pid())).expect("it runs");
    let status = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    status.map(|status| (of(&status, "Name"), of(&status, field))).collect()
}

/// No thread has any right, nor can get one.
fn assert_powerless(node: &Node) {
    for set in ["CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd"] {
        for (thread, value) in threads(node, set) {
            let has = u64::from_str_radix(&value, 16).expect("the kernel writes numbers");
            assert_eq!(
                has & !CAP_IPC_LOCK,
                0,
                "{set} of {thread} in {}: {value}\n{}",
                node.name(),
                node.log()
            );
        }
    }
    for (thread, value) in threads(node, "NoNewPrivs") {
        assert_eq!(value, "1", "{thread} in {}", node.name());
    }
    assert!(node.log().contains("gave up what it needs no more"), "{}", node.log());
    assert!(!node.log().contains("keep capabilities"), "{}", node.log());
}

/// Requests that run at A, and at B.
fn assert_serves(cluster: &Cluster) {
    let fetched = Curl::new(cluster).get("/?bytes=3000&seed=1").get("/?lend=0&bytes=3000&seed=1").run();
    assert!(fetched.iter().all(|fetched| fetched.status == 200));
}

fn reload(cluster: &Cluster) -> Value {
    serde_json::from_str(&cluster.a().ask("reload")).expect("JSON")
}

fn root_gives_up_what_it_may(workers: usize) {
    let cluster = Cluster::start(&Options::new(workers).decide(Decide::Always));
    cluster.nodes().for_each(assert_powerless);
    assert_serves(&cluster);
    assert_eq!(reload(&cluster)["outcome"], "unchanged");
    cluster.expect_replies(1, 1);
    cluster.finish();
}

/// A reload is refused while files are root's alone, with what to do about it.
fn root_becomes_another_user(workers: usize) {
    let options = Options::new(workers).decide(Decide::Always).line("admin", "user = \"nobody\"");
    let cluster = Cluster::start(&options);
    let nobody = output_of(Command::new("id").args(["-u", "nobody"])).trim().to_owned();
    cluster.nodes().for_each(assert_powerless);
    for node in cluster.nodes() {
        for (thread, value) in threads(node, "Uid") {
            assert!(
                value.split_whitespace().all(|uid| uid == nobody),
                "{thread} in {} is {value}",
                node.name()
            );
        }
    }
    assert_serves(&cluster);
    let log = cluster.a().log();
    assert!(log.contains("reload` will be refused: ") && log.contains("let this user read it"), "{log}");
    let refused = reload(&cluster);
    assert_eq!(refused["outcome"], "refused", "{refused}");
    assert!(refused.to_string().contains("Permission denied"), "{refused}");
    give(cluster.directory(), nobody.parse().expect("a number"));
    assert_eq!(reload(&cluster)["outcome"], "unchanged");
    cluster.expect_replies(1, 1);
    cluster.finish();
}

/// Gives all files below a folder to a user.
fn give(folder: &Path, user: u32) {
    for entry in fs::read_dir(folder).expect("it is there").filter_map(Result::ok) {
        let path = entry.path();
        // Files of tests come and go.
        let _ = chown(&path, Some(user), None);
        if path.is_dir() {
            give(&path, user);
        }
    }
}
