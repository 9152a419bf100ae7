//! Whole clusters of real workers in virtual time, with everything going wrong that can: frames lost, repeated,
//! damaged; nodes killed, frozen, cut off; transfers between nodes late, lost, repeated, forged; clients slow, rude
//! and silent; pools too small. Checkers read the wire and the fabric, not the product's own state.
//!
//! A run follows from its seed and can be played again, and a plan that fails is cut down to what it takes.
//! Start at [`plan`], what may happen, and [`world`], what does; then [`judge`], [`streams`], [`seals`] and
//! [`resumptions`], what must be true.

#![forbid(unsafe_code)]

pub mod app;
pub mod client;
pub mod crypto;
pub mod faults;
pub mod hub;
pub mod judge;
pub mod node;
pub mod plan;
pub mod replies;
pub mod resumptions;
pub mod seals;
pub mod shrink;
pub mod streams;
pub mod wallet;
pub mod world;
