//! A node whose queue pairs follow a script of faults: the test executable itself, started again as a node.
//!
//! In: the node's configuration, by environment; scripts, a line of standard input each. The shipped executable has none
//! of this; it is the same node, with nothing between its workers and their queue pairs.

mod cutter;
mod queue_pair;
mod script;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyferry_cluster::process::PAUSE;

use crate::harness::{Netns, Node};

/// Names the configuration of a node to be run.
const CONFIG: &str = "KEYFERRY_FAULTY_CONFIG";
/// What the node says once its link, which is up, follows the script of a line it was sent.
pub const ARMED: &str = "faulty: armed";
/// Longest time until it says so.
const ARMED_MAX: Duration = Duration::from_secs(20);

/// This executable as a node in `netns`. It has no script before [`script`] reads one from its standard input.
pub fn command(config: &Path, netns: &Netns) -> Command {
    let itself = std::env::current_exe().expect("a process knows its executable");
    let mut command = netns.command(itself);
    command.args(["--exact", "faulty::node", "--ignored", "--nocapture"]).env(CONFIG, config);
    command.stdin(Stdio::piped());
    command
}

/// Gives a node its next script, and waits until its link, which has to be up, follows it.
pub fn arm(node: &mut Node, script: &str) {
    let armed = |node: &Node| node.log().matches(ARMED).count();
    let before = armed(node);
    node.say(script);
    let deadline = Instant::now() + ARMED_MAX;
    while armed(node) == before {
        assert!(Instant::now() < deadline, "node {} takes no script:\n{}", node.name(), node.log());
        std::thread::sleep(PAUSE);
    }
}

/// The node. Nothing to test: other tests start it.
#[test]
#[ignore = "a process of other tests"]
fn node() {
    let Some(file) = std::env::var_os(CONFIG) else { return };
    let config =
        keyferry_control::config::Config::load(Path::new(&file)).expect("the test's configuration is valid");
    cutter::start();
    std::thread::spawn(|| {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            queue_pair::arm(&line);
        }
    });
    keyferry_control::node::run_between(&config, "faulty", queue_pair::wrap).expect("the node starts");
}
