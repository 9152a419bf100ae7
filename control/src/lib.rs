//! Everything off the packet path: configuration, start-up, peers, admin.
//!
//! - [`cli`]: what the executable's arguments do
//! - [`config`]: one file, one validated tree
//! - [`check`]: what would fail at start
//! - [`counters`], [`admin`]: what the workers count, and who asks for it
//! - [`socket`]: Unix sockets a node listens on
//! - [`key_log`]: writes secrets of connections, where the operator asked for that
//! - [`node`]: starts everything and ends it
//! - [`peers`]: links to the other nodes

#![forbid(unsafe_code)]

pub mod admin;
pub mod check;
pub mod cli;
pub mod config;
pub mod counters;
pub mod key_log;
pub mod memory;
pub mod node;
pub mod peers;
pub mod socket;
