//! Ports driven by DPDK: any poll-mode driver, by PCI address or `--vdev` string.
//!
//! In: [`EalOptions`] once a process, [`PortOptions`] a port. Out: a [`Port`] for the control thread and one [`Queue`]
//! for each worker. Starting and opening belong to the control thread; a queue to the worker it is given to.

mod device;
mod eal;
mod log;
mod packet;
mod pool;
mod port;
mod queue;
mod setup;
mod store;
mod thread;

pub use device::{Device, DeviceError};
pub use eal::{Eal, EalOptions, Hugepages, StartError};
pub use packet::Mbuf;
pub use port::{Link, Port, PortOptions};
pub use queue::Queue;
pub use setup::OpenError;
pub(crate) use store::Store;
pub use thread::{WorkerThread, on_interrupt_thread, register_worker_thread};
