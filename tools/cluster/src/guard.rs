//! Removes what a cluster made, however whoever made it ends.
//!
//! A child of its own session waits for the end of its standard input. That end comes when [`Guard`] is dropped,
//! and also when the process is interrupted, aborted or killed; then everything inside the namespaces is
//! killed, and namespaces and files are removed. There is no second way to clean up that could differ.

use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Arguments: the directory, then the namespaces. Signals of the terminal are not for this process.
const SCRIPT: &str = r#"
trap '' INT TERM HUP QUIT
cat >/dev/null
directory=$1
shift
for namespace in "$@"; do
    for pid in $(ip netns pids "$namespace" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null; done
    ip netns del "$namespace" 2>/dev/null
done
rm -rf -- "$directory"
"#;

/// The child, and with it the lifetime of namespaces and files.
pub struct Guard(Child);

impl Guard {
    /// Watches over `directory` and `namespaces`, which may not exist yet.
    pub fn new(directory: &Path, namespaces: &[&str]) -> Guard {
        let child = Command::new("setsid")
            .args(["--wait", "sh", "-c", SCRIPT, "keyferry-cluster-guard"])
            .arg(directory)
            .args(namespaces)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("setsid starts (package util-linux)");
        Guard(child)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
