//! A whole cluster on one machine: nodes, distributors and clients, each in a network namespace of its own, on one switch.
//!
//! [`Description`] says what there is, [`Cluster`] makes it and does to it what happens to clusters: processes are
//! started, killed and frozen, cables are pulled. The demo, end-to-end tests and benches run on it; everything it makes
//! is removed when it is dropped, or by its [`Guard`] if nobody lives to do so. [`models`] measures what it is all about,
//! [`flood`] what is left of it under a flood.

#![forbid(unsafe_code)]

pub mod certificates;
mod cluster;
mod description;
pub mod etcd;
pub mod flood;
mod guard;
pub mod models;
pub mod netns;
pub mod process;
mod status;

pub use cluster::{Cluster, SERVICE4, SERVICE6};
pub use description::{Description, Members, Model};
pub use etcd::Etcd;
pub use guard::Guard;
pub use netns::{Netns, Switch};
pub use process::Process;
pub use status::Status;
