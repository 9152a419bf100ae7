//! TLS 1.2 and 1.3 for servers: rustls handshakes, and a record layer whose write key can be lent.
//!
//! In: whole records and plaintext. Out: plaintext, records, alerts. Sans-IO; a connection's [`Opener`] and
//! [`Sealer`] belong to one worker, [`Server`] is shared.
//!
//! - [`server`]: certificates, suites, resumption
//! - [`handshake`]: rustls, fed one record at a time; afterwards nothing of it stays
//! - [`open`], [`seal`]: the record layer (RFC 8446 section 5, RFC 5246 section 6) on aws-lc-rs
//! - [`lend`]: a record key with a range of sequence numbers, for another node
//! - [`schedule`]: the traffic secrets of TLS 1.3 and their updates

#![forbid(unsafe_code)]

mod alert;
mod capture;
mod handshake;
mod lend;
mod names;
mod open;
mod record;
mod schedule;
mod seal;
mod server;
mod session;
mod suite;

pub use alert::{Alert, Failure, FailureReason};
pub use handshake::{Established, Handshake, Info, Step};
pub use lend::{LentSealer, RecordKey};
pub use open::{Opened, Opener};
pub use record::{HEADER_BYTES, PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, SEALED_BYTES_MAX, record_len};
pub use seal::{Content, SealError, Sealer};
pub use server::{CertificatePem, ConfigError, Resumption, Server, ServerOptions};
pub use suite::{Suite, Version};
