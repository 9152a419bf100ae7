//! From nothing to the first reply, by the commands that `keyferry init` prints, with the rights its service has.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use keyferry_cluster::Guard;

use crate::harness::{Netns, Node, keyferry};

/// Nobody, and nobody's group, as whom the node runs.
const NOBODY: u32 = 65_534;
/// The capabilities of its unit (tools/deb/keyferry.service).
const RIGHTS: &str = "+net_raw,+net_admin,+ipc_lock";

/// Owned by root, readable by the group of the service: as the package makes /etc/keyferry.
fn made_by_the_package(folder: &Path) {
    fs::create_dir(folder).expect("the folder can be made");
    chown(folder, None, Some(NOBODY)).expect("root gives it to a group");
    fs::set_permissions(folder, Permissions::from_mode(0o2750)).expect("its mode can be set");
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The line that begins so, without its beginning.
fn line<'a>(text: &'a str, begins: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(begins))
        .unwrap_or_else(|| panic!("{begins} is said: {text}"))
}

#[test]
fn init_check_node_curl() {
    let name = format!("kf-{}-first", std::process::id());
    let directory = std::env::temp_dir().join(&name);
    let guard = Guard::new(&directory, &[&name]);
    fs::create_dir(&directory).expect("the temporary directory is writable");
    let machine = Netns::new(name);
    let etc = directory.join("etc");
    made_by_the_package(&etc);
    let run = |arguments: &[&str]| {
        let folder = etc.to_str().expect("a temporary path is text");
        let arguments = arguments.iter().map(|argument| argument.replace("DIR", folder));
        machine.command(keyferry()).args(arguments).output().expect("ip starts (package iproute2)")
    };

    let init = run(&["init", "--dir", "DIR"]);
    let said_by_init = said(&init);
    assert!(init.status.success(), "{said_by_init}");
    assert_eq!(line(&said_by_init, "next: "), "systemctl enable --now keyferry");
    let again = run(&["init", "--dir", "DIR"]);
    assert!(!again.status.success() && said(&again).contains("exists already"), "{}", said(&again));
    let check = run(&["check", "--config", "DIR/keyferry.toml"]);
    assert!(check.status.success(), "{}", said(&check));

    // What systemd does with the unit: its user, its rights, its folder below /run.
    let executable = directory.join("keyferry");
    fs::copy(keyferry(), &executable).expect("the executable can be copied to where nobody may run it");
    let (config, run_folder) = (etc.join("keyferry.toml"), directory.join("run"));
    fs::create_dir(&run_folder).expect("the folder can be made");
    chown(&run_folder, Some(NOBODY), Some(NOBODY)).expect("root gives it away");
    let socket = run_folder.join("a.ctl");
    let text = fs::read_to_string(&config).expect("init has written it");
    fs::write(&config, format!("{text}[admin]\nsocket = \"{}\"\n", socket.display())).expect("it is root's");
    let mut command = machine.command("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--no-new-privs"])
        .args(["--inh-caps", RIGHTS, "--ambient-caps", RIGHTS])
        .arg(&executable)
        .args(["node", "--config"])
        .arg(&config)
        .stdin(Stdio::null());
    let node = Node::start(command, "node", "a", &socket);

    let curl = line(&said_by_init, "then: ").to_owned() + " --silent --show-error --fail --max-time 30";
    let mut words = curl.split(' ');
    let mut command: Command = machine.command(words.next().expect("a command"));
    let page = command.args(words).output().expect("ip starts");
    assert!(
        page.status.success() && said(&page).contains("came through keyferry"),
        "{}\n{}",
        said(&page),
        node.log()
    );
    node.stop();
    drop(guard);
}
