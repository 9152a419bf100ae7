//! What lies between the nodes under test: shared memory, or RDMA devices of this machine. In: the environment, as
//! `tools/vm/test` sets it. Out: lines of configuration, and a wire that can be cut.

use std::process::Command;

/// RDMA devices for nodes A and B.
pub struct Devices {
    addresses: [String; 2],
    interface: String,
}

/// The devices that `KEYFERRY_VERBS_A` and `_B` name by their IP addresses, and A's network interface, which
/// `KEYFERRY_VERBS_INTERFACE_A` names; `None` where the environment names none: then nodes share memory.
pub fn devices() -> Option<Devices> {
    let addresses = [std::env::var("KEYFERRY_VERBS_A").ok()?, std::env::var("KEYFERRY_VERBS_B").ok()?];
    let interface = std::env::var("KEYFERRY_VERBS_INTERFACE_A").expect("A's interface is named too");
    Some(Devices { addresses, interface })
}

/// The `[fabric]` of a node, of which A is the first.
pub fn section(node: usize) -> String {
    match devices() {
        Some(devices) => format!("driver = \"verbs\"\naddress = {:?}", devices.addresses[node]),
        None => "driver = \"shm\"".to_owned(),
    }
}

/// Frames of a node's port, and MiB of its packet memory: to make them is most of a start on an emulated machine.
pub fn memory() -> (u32, u32) {
    if devices().is_some() { (1024, 128) } else { (4096, 256) }
}

impl Devices {
    /// Cuts the wire.
    pub fn cut(&self) {
        self.set("down");
    }

    /// Joins it again.
    pub fn join(&self) {
        self.set("up");
    }

    fn set(&self, state: &str) {
        let status = Command::new("ip").args(["link", "set", &self.interface, state]).status();
        assert!(status.expect("ip starts").success(), "the wire goes {state}");
    }
}
