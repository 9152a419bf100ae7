//! A node whose queue pairs follow a script of faults: the test executable itself, started again as a node.
//!
//! In: the node's configuration and the script, both by environment. The shipped executable has none of this; it is
//! the same node, with nothing between its workers and their queue pairs.

mod queue_pair;
mod script;

use std::path::Path;
use std::process::Command;

use crate::harness::Netns;

/// Names the configuration of a node to be run.
const CONFIG: &str = "KEYFERRY_FAULTY_CONFIG";
/// Its script.
const SCRIPT: &str = "KEYFERRY_FAULTY_SCRIPT";

/// This executable as a node in `netns`, with `script` as [`script`] reads it.
pub fn command(config: &Path, script: &str, netns: &Netns) -> Command {
    let itself = std::env::current_exe().expect("a process knows its executable");
    let mut command = netns.command(itself);
    command
        .args(["--exact", "faulty::node", "--ignored", "--nocapture"])
        .env(CONFIG, config)
        .env(SCRIPT, script);
    command
}

/// The node. Nothing to test: other tests start it.
#[test]
#[ignore = "a process of other tests"]
fn node() {
    let Some(file) = std::env::var_os(CONFIG) else { return };
    let config =
        keyferry_control::config::Config::load(Path::new(&file)).expect("the test's configuration is valid");
    keyferry_control::node::run_between(&config, queue_pair::wrap).expect("the node starts");
}
