//! Which packets a capture wants.
//!
//! In: an operator's words (`tcp port 443 and not net 10.0.0.0/8`), then frames. Out: whether a frame is wanted. The words
//! are tcpdump's, as far as they go; where its reading would surprise (`and` beside `or`), parentheses are asked for instead.
//! Pure: a filter is made once and asked by workers, without an allocation. Frames are bytes of anybody: every length in them
//! is checked, what is cut short has no addresses, or no ports.
//!
//! - [`Filter`]: a filter, its text, and what it says of a frame
//! - [`Frame`]: what filters look at
//! - `parse`: from words to a filter, and what is said of words that are none

#![forbid(unsafe_code)]

mod filter;
mod frame;
mod parse;

pub use filter::Filter;
pub use frame::{Frame, Network};
pub use parse::FilterError;

/// Longest text of a filter, in bytes.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Parentheses and `not`s inside each other, at most.
pub const DEPTH_MAX: usize = 16;
