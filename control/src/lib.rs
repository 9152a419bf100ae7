//! Everything off the packet path: configuration, start-up, peers, admin.
//!
//! - [`cli`]: what the executable's arguments do
//! - [`config`]: one file, one validated tree
//! - [`check`]: what would fail at start
//! - [`counters`], [`admin`], `desk`: what the workers count, who asks, and what a node answers
//! - [`drain`]: the end of a node in order; `reload`: change without loss
//! - [`ctl`]: the operator's side; [`top`]: the same as a terminal that is looked at; [`capture`]: packets for an operator, both sides
//! - [`metrics`]: the counters for Prometheus; `web`: where they are asked for, and the page
//! - `log`: what goes to standard error
//! - [`socket`]: Unix sockets a node listens on; `private`: files for one user alone
//! - [`applications`]: what answers requests, and how an executable brings its own
//! - [`key_log`]: writes secrets of connections, where the operator asked for that
//! - [`node`], [`distributor`]: start everything and end it; [`port`]: the port of either
//! - [`runtime`]: the control thread's runtime and the signals that end it
//! - [`links`]: links to the other nodes, and the queue pairs made with them
//! - [`members`]: who is in the cluster, as etcd has it; `peers`, `membership`: what a node and a
//!   distributor do about it
//! - `places`: keeps a distributor's tables of places up to date
//! - `privileges`: what is given up once all is open
//! - [`request_log`]: the access log and the slow-request log
//! - `service`: what systemd is told
//! - [`ca`]: certificates for those links; [`init`]: the first configuration of a machine

#![forbid(unsafe_code)]

pub mod admin;
pub mod applications;
mod backoff;
pub mod ca;
pub mod capture;
pub mod check;
pub mod cli;
pub mod config;
pub mod counters;
pub mod ctl;
mod desk;
pub mod distributor;
pub mod drain;
pub mod init;
pub mod key_log;
pub mod links;
mod log;
pub mod members;
mod membership;
pub mod memory;
pub mod metrics;
pub mod node;
mod peers;
mod places;
pub mod port;
mod private;
mod privileges;
mod reload;
pub mod request_log;
pub mod runtime;
mod service;
pub mod socket;
pub mod top;
mod web;
