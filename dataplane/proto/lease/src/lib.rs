//! The lease: lending one reply, and the key to seal it, to another node.
//!
//! A is the initial node, B the helper. A *grants* a request without any key; B runs it and *claims* when the
//! reply is ready; A answers *go* with the record key and a range of sequence numbers; B seals *records* straight
//! into A's reply slots and *returns* the lease. Everything here is sans-IO: messages come in opened and go out to
//! be sealed and posted, by the one worker that owns both.
//!
//! - [`message`]: what is said, and its wire form
//! - [`channel`]: how it is sealed, ordered and kept within the peer's posted receives
//! - [`lender`]: A's side, with the reply slots
//! - [`helper`]: B's side
//!
//! The invariant all of it serves: over the whole cluster no (key, sequence number) ever seals two different
//! plaintexts. So A decides by its own state alone: before *go* was posted nothing can have been sealed and A may
//! run the request itself; after it the sequence numbers may be spent and only the return frees the connection.

#![forbid(unsafe_code)]

pub mod channel;
pub mod helper;
pub mod lender;
pub mod message;
#[cfg(feature = "planted-bugs")]
pub mod planted;

pub use channel::{Breach, Channel, Incarnation, PairSecret, Role};
pub use helper::Helper;
pub use lender::Lender;
pub use message::{LeaseId, Message, SlotList};

/// Leases under way on one queue pair at most: bounds both tables.
pub const LEASES_MAX: usize = 4096;

/// Reply slots one lease may hold at most.
pub const CREDITS_MAX: usize = 32;

const _: () = assert!(LEASES_MAX <= u16::MAX as usize + 1, "a lease's index is 16 bits on the wire");
