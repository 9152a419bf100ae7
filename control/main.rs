//! The `keyferry` executable: arguments and start only.
fn main() {}
