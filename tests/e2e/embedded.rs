//! A node with an application of its own: the example of docs/EMBEDDING.md in this test executable, started again as a node.
//!
//! In: the node's configuration, by environment. Its library is the one the shipped executable is made of.

#[path = "../../control/examples/own_application.rs"]
#[allow(dead_code, reason = "its main is this executable's `node`, which libtest gives no arguments")]
mod own_application;

use std::path::Path;
use std::process::{Command, Stdio};

use keyferry_control::config::Config;

use crate::harness::Netns;

/// Names the configuration of a node to be run.
const CONFIG: &str = "KEYFERRY_EMBEDDED_CONFIG";

/// This executable as a node in `netns`.
pub fn command(config: &Path, netns: &Netns) -> Command {
    let itself = std::env::current_exe().expect("a process knows its executable");
    let mut command = netns.command(itself);
    command.args(["--exact", "embedded::node", "--ignored", "--nocapture"]).env(CONFIG, config);
    command.stdin(Stdio::null());
    command
}

/// The node. Nothing to test: other tests start it.
#[test]
#[ignore = "a process of other tests"]
fn node() {
    let Some(file) = std::env::var_os(CONFIG) else { return };
    let own = own_application::own();
    let config = Config::load_with(Path::new(&file), own.names()).expect("the test's configuration is valid");
    keyferry_control::node::run_with(&config, "embedded", own).expect("the node starts");
}
