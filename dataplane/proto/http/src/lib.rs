//! placeholder
#![forbid(unsafe_code)]
/// placeholder
pub struct Request;
/// placeholder
pub struct ReplyHead;
