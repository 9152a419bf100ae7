//! The `keyferry` executable: arguments and start only.

use std::process::ExitCode;

fn main() -> ExitCode {
    keyferry_control::cli::run(env!("KEYFERRY_VERSION"))
}
