//! What every end-to-end test stands on: two or three real nodes, and clients in a network namespace.
//!
//! Started by a test on its own thread; everything made is removed when [`Cluster`] is dropped, or by its guard
//! process when the test does not live to do so. Larger clusters, with a distributor: `keyferry_cluster`.

mod cluster;
mod config;
pub mod fabric;

use std::path::PathBuf;

pub use cluster::{A4, A6, B4, C4, Cluster};
pub use config::{Decide, Options};
pub use keyferry_cluster::certificates::{NAME, NAME_OTHER, NAME_RSA};
pub use keyferry_cluster::etcd::TTL_S;
pub use keyferry_cluster::{Netns, Process as Node, Status};

/// The executable under test: cargo's, unless `KEYFERRY_E2E_EXECUTABLE` names another build.
pub fn keyferry() -> PathBuf {
    std::env::var_os("KEYFERRY_E2E_EXECUTABLE").map_or(env!("CARGO_BIN_EXE_keyferry").into(), PathBuf::from)
}
