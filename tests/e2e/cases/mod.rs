//! The tests, by what they are about.

mod bodies;
mod commands;
mod deciding;
mod distributor;
mod floods;
mod helper_killed;
mod http;
mod key_update;
mod lease_faults;
mod links;
mod memory;
mod network;
mod operations;
mod peers;
mod port_of_its_own;
mod rdma;
mod resumption;
mod sessions;
mod slow;
mod smuggling;
mod soak;
mod static_files;
mod suites;
mod tls_corners;
mod uploads;
mod vanishing;
