//! Everything off the packet path: configuration, start-up, peers, admin.
#![forbid(unsafe_code)]
