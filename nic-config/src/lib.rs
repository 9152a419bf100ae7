//! Reads what a host offers the data plane, says what is missing, and sets it up.
//!
//! [`Host::read`] takes one snapshot of sysfs and procfs below a root folder (`/`, or a fixture's). [`check`] compares it
//! with what a node wants, [`plan`] says what is to be done, [`suggest`] writes a core map; all three are pure: the same
//! snapshot gives the same answer. Only [`apply`] and [`undo`] change anything, through a [`System`]. Called before a
//! node starts, by `keyferry check` and by the executable of this crate; one thread.

#![forbid(unsafe_code)]

mod apply;
mod check;
pub mod cli;
mod cpu;
mod device;
mod drivers;
mod finding;
mod guard;
mod host;
mod interrupts;
mod kernel;
mod list;
mod memory;
mod network;
mod operation;
mod plan;
mod rdma;
mod routes;
pub mod show;
mod suggest;
mod system;
mod wanted;

pub use apply::{ApplyError, BOOT, State, apply, undo};
pub use check::check;
pub use cpu::{Cores, Features};
pub use device::{Device, DeviceError, PciAddress, Vdev};
pub use finding::{Finding, Severity};
pub use host::{Host, Rights};
pub use interrupts::Interrupt;
pub use kernel::{ARGUMENTS_FILE, Kernel};
pub use memory::{HugePool, Memlock, Memory};
pub use network::{Interface, Network, PciNic};
pub use operation::{Before, Operation, OperationError};
pub use plan::{Plan, Reboot, Step, plan};
pub use rdma::{Gid, RdmaDevice, RdmaPort};
pub use routes::{Connection, Route, Routes};
pub use suggest::{Suggestion, suggest};
pub use system::{Live, System};
pub use wanted::{Hugepages, Wanted, WantedError, is_carried};
