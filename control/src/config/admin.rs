//! `[admin]`: where an operator asks.

use std::path::PathBuf;

use super::reader::Section;

/// Where an operator asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// The Unix socket `keyferry status` connects to.
    pub socket: PathBuf,
}

pub(super) fn read(mut section: Section<'_, '_>, node: &str) -> Admin {
    let socket = section.file("socket").unwrap_or_else(|| PathBuf::from(format!("/run/keyferry/{node}.ctl")));
    section.finish();
    Admin { socket }
}
