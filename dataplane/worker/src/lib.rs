//! One core's turn: packets in, TCP, TLS, HTTP, decide, app or lease, seal, packets out.
//!
//! A [`Worker`] owns its queue of the port, its connections and its queue pairs, shares none of them, and neither
//! blocks, locks nor allocates for a request. Start reading at [`turn`]; the other modules follow the packet:
//! [`receive`], [`conns`] and [`input`] (open, parse), [`reply`] and [`answer`] (decide, seal), [`lend`] and [`serve`] (the two
//! sides of a lease), [`port`] (out). [`access`] is what is told of requests, [`settings`] what may change meanwhile, [`capture`]
//! what an operator sees of it, [`drain`] its end in order. [`distribute`] is the turn of a distributor.

#![forbid(unsafe_code)]

pub mod access;
pub mod announce;
mod answer;
pub mod capture;
pub mod config;
pub mod conn;
mod conns;
pub mod counters;
pub mod distribute;
mod drain;
pub mod homes;
mod hops;
mod input;
mod job;
mod lag;
pub mod latency;
mod lend;
mod load;
pub mod mailbox;
pub mod moved;
mod parts;
pub mod peer;
pub mod pool;
pub mod port;
mod probe;
pub mod receive;
mod reply;
mod rest;
mod run;
pub mod segment;
mod serve;
mod sessions;
pub mod settings;
mod shed;
pub mod slots;
pub mod syns;
pub mod tls_counters;
pub mod told;
mod turn;
mod upload;

pub use config::{Config, Parts};
pub use counters::Counters;
pub use probe::{Probe, Stage};
pub use run::{Clock, Idle, Turning, run};
pub use turn::Worker;
