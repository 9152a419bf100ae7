//! What lies between the nodes under test: shared memory, or RDMA devices of this machine. In: the environment, as
//! `tools/vm/test` sets it. Out: lines of configuration, and a wire that can be cut.

use std::process::Command;

/// RDMA devices for nodes A and B.
pub struct Devices {
    addresses: [String; 2],
    wire: String,
}

/// The devices that `KEYFERRY_VERBS_A` and `_B` name by their IP addresses, and the program that `KEYFERRY_VERBS_WIRE`
/// names, which does to the wire between them what it is told; `None` where the environment names none: then nodes
/// share memory.
pub fn devices() -> Option<Devices> {
    let addresses = [std::env::var("KEYFERRY_VERBS_A").ok()?, std::env::var("KEYFERRY_VERBS_B").ok()?];
    let wire = std::env::var("KEYFERRY_VERBS_WIRE").expect("a program for the wire is named too");
    Some(Devices { addresses, wire })
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
    /// Does to the wire what `order` says: `cut` loses every packet until `join`, `unplug` takes A's carrier away until
    /// `plug`, `slow` lets little to A until `hasten`.
    pub fn wire(&self, order: &str) {
        let status = Command::new(&self.wire).arg(order).status();
        let status = status.unwrap_or_else(|error| panic!("{}: {error}", self.wire));
        assert!(status.success(), "{} {order}: {status}", self.wire);
    }
}
