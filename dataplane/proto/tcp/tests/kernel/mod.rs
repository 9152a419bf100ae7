//! Linux's TCP as the peer of ours, with a relay of ours in between; see docs/TCP.md.

pub mod app;
pub mod ground;
pub mod line;
pub mod linux;
pub mod patience;
pub mod plan;
pub mod relay;
pub mod segment;
pub mod settings;
pub mod world;
