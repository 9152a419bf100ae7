//! The `keyferry-nic-config` executable: its start only.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    keyferry_nic_config::cli::run()
}
