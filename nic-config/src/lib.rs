//! Reads what a host offers the data plane and says what is missing.
//!
//! [`Host::read`] takes one snapshot of sysfs and procfs below a root folder (`/`, or a fixture's). [`check`]
//! compares it with what a node wants and is pure: the same snapshot gives the same findings. Nothing here
//! changes the host. Called before start, on the control thread.

#![forbid(unsafe_code)]

mod check;
mod cpu;
mod device;
mod finding;
mod host;
mod list;
mod memory;
mod network;

pub use check::{Hugepages, Wanted, check};
pub use cpu::{Cores, Features};
pub use device::{Device, DeviceError, PciAddress, Vdev};
pub use finding::{Finding, Severity};
pub use host::{Host, Rights};
pub use memory::{HugePool, Memlock, Memory};
pub use network::{Interface, Network, PciNic};
