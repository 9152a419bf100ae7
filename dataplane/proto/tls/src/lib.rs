//! TLS 1.2 and 1.3 on the server's side: handshakes by rustls, records by our own layer, whose write key can be lent.
//!
//! Bytes come in as whole records ([`record_len`] finds their end). A [`Handshake`] takes the first of them, answers
//! into a buffer of the caller's and is gone once done; what stays of a connection is an [`Opener`] and a [`Sealer`].
//! Everything is sans-IO and belongs to the worker that owns the connection; only [`Server`] is shared, and shared
//! state behind it (sessions, ticket keys) is touched by handshakes alone.
//!
//! - [`server`], [`certificates`](CertificatePem): configuration, checked whole before it is used; [`Resumer`]: what outlives it
//! - [`handshake`]: rustls, fed one record at a time
//! - [`seal`], [`open`], [`lend`]: the record layer (RFC 8446 5, RFC 5246 6.2) and the lease of its write key
//! - [`suite`], [`alert`]: what was agreed, what went wrong and whose fault it was
//!
//! No (key, sequence number) seals twice: a [`Sealer`] whose key is lent refuses to seal until it is reclaimed, and a
//! [`LentSealer`] refuses to leave its range.

#![forbid(unsafe_code)]

pub mod alert;
mod certificates;
#[doc(hidden)]
pub mod far_end;
mod fault;
pub mod handshake;
mod hooks;
pub mod key_log;
mod keys;
pub mod lend;
mod messages;
mod offered;
pub mod open;
mod protect;
mod reason;
pub mod record;
mod resumer;
mod schedule;
pub mod seal;
pub mod server;
mod session;
pub mod suite;
mod ticket;

pub use alert::{Alert, Failure, FailureReason, Incompatible, OwnFault, PeerFault};
pub use certificates::{CertificateFacts, CertificatePem};
pub use handshake::{Established, Group, Handshake, Info, Step};
pub use lend::{LentSealer, RecordKey};
pub use offered::{OFFERED_MAX, Offered};
pub use open::{Opened, Opener};
pub use record::{
    Fragment, HEADER_BYTES, PLAINTEXT_BYTES_MAX, RECORD_BYTES_MAX, RECORD13_BYTES_MAX, SEALED_BYTES_MAX,
    record_len,
};
pub use resumer::{Resumer, SESSION_LIFETIME_MAX};
pub use seal::{Content, SealError, Sealer};
pub use server::{ConfigError, Resumption, Server, ServerOptions};
pub use session::{Cursor, IDENTITY_BYTES, SESSION_BYTES_MAX, Session, SessionId, WHOLE_LIFE, Walk};
pub use suite::{Suite, Version};
pub use ticket::{TICKET_KEY_BYTES, TICKET_KEYS_MAX, TICKET_NAME_BYTES, TicketCounts, TicketKey};

#[cfg(test)]
mod tests;
