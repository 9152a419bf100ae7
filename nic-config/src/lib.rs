//! Reads what a host offers the data plane and says what is missing.
#![forbid(unsafe_code)]
