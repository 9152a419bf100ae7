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
        // As few receives as its leases need: what is registered is touched and pinned.
        Some(devices) => {
            format!("driver = \"verbs\"\naddress = {:?}\nreceives = 128", devices.addresses[node])
        }
        None => "driver = \"shm\"".to_owned(),
    }
}

/// How much a node has of what it makes at its start. On an emulated machine a start is mostly that, and tests of faults
/// start nodes all the time: there is as much as a few clients need.
pub struct Sizes {
    /// Frames of its port.
    pub frames: u32,
    /// `[nic]`, without the device.
    pub nic: &'static str,
    /// `[limits]`.
    pub limits: &'static str,
    /// `[lease]`.
    pub lease: &'static str,
}

/// What a node of this machine's has.
pub fn sizes() -> Sizes {
    match devices() {
        Some(_) => Sizes {
            frames: 1024,
            nic: "memory_mib = 32\npackets = 4096",
            limits: "connections = 256\nhalf_open = 256\nrequests_in_app = 64",
            lease: "leases = 64",
        },
        None => Sizes { frames: 4096, nic: "memory_mib = 256", limits: "", lease: "" },
    }
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
