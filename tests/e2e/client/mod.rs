//! The peers of the tests: other people's programs, and rustls over the kernel's TCP where a test has to
//! misbehave in ways no program offers.

mod body;
mod curl;
mod reply;
mod s_client;
pub mod secrets;
mod tls;

pub use body::{assert_is_pattern, fnv1a, pattern, wire_request};
pub use curl::Curl;
pub use reply::Reply;
pub use s_client::SClient;
pub use tls::{Tls, reset, tcp};

use std::process::Command;

/// Runs `command` to its end; returns standard output, fails with both outputs.
pub fn output_of(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}
