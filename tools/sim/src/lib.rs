//! Clusters of any size in virtual time, by the product's own decisions: `decide` says where a request runs, the distributor
//! where a connection goes. What stages cost comes from a calibration file. docs/CLUSTER_SIM.md says what is assumed.
//!
//! - [`scenario`]: what is simulated; [`costs`]: at which cost; [`draw`], [`wishes`]: what clients want
//! - [`World`](world::World): a run, with [`events`], nodes, peers and the distributor
//! - [`tally`]: what a run measures; [`replicate`]: many runs, and how sure their figures are
//!
//! It depends on no driver, and on nothing of a node but what decides.

#![forbid(unsafe_code)]

mod clients;
pub mod commands;
mod connect;
pub mod costs;
pub mod draw;
pub mod events;
mod faults;
pub mod front;
mod lend;
pub mod node;
pub mod peers;
pub mod plot;
pub mod replicate;
pub mod scenario;
pub mod share;
mod stages;
pub mod tally;
pub mod wishes;
mod work;
pub mod world;
