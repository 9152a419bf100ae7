//! What every end-to-end test stands on: two real nodes in network namespaces, and clients in a third.
//!
//! Started by a test on its own thread; everything made is removed when [`Cluster`] is dropped, or by its guard
//! process when the test does not live to do so.

mod certificates;
mod cluster;
mod config;
pub mod fabric;
mod guard;
mod netns;
mod node;
mod status;

pub use certificates::{NAME, NAME_OTHER, NAME_RSA};
pub use cluster::{A4, A6, B4, Cluster};
pub use config::{Decide, Options};
pub use netns::Netns;
pub use node::Node;
pub use status::Status;
