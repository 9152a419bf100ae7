//! Writes the key log: secrets of connections, into a file of this user's alone.
//!
//! In: lines from the workers over a bounded queue. Out: the file `[tls] key_log` names. Owns a thread of its own, so that
//! a slow disk delays nobody; workers never wait for it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use keyferry_tls::key_log::KeyLog;
use tracing::warn;

use crate::private::{self, PrivateError};

/// Between looks at the queue.
const LOOK: Duration = Duration::from_millis(20);

/// Why the file is not used, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("tls.key_log: {0}")]
pub struct KeyLogError(PrivateError);

/// Opens the file to append to; makes it if there is none.
///
/// # Errors
/// Unless it is a regular file of this user's with mode 600: whoever reads it reads all traffic.
pub fn open(path: &Path) -> Result<File, KeyLogError> {
    private::open(path).map_err(KeyLogError)
}

/// Starts the thread that writes; it ends with `stop`, after the last line.
///
/// # Errors
/// The system has no thread left.
pub fn start(log: Arc<KeyLog>, file: File, stop: &Arc<AtomicBool>) -> anyhow::Result<JoinHandle<()>> {
    let stop = Arc::clone(stop);
    let write = move || {
        let mut writer = Writer { log, file, lost_told: 0, is_failing: false };
        while !stop.load(Ordering::Relaxed) {
            writer.write();
            std::thread::sleep(LOOK);
        }
        writer.write();
    };
    std::thread::Builder::new()
        .name("key log".into())
        .spawn(write)
        .context("cannot start the key log's thread")
}

struct Writer {
    log: Arc<KeyLog>,
    file: File,
    /// Lost lines the operator has been told of.
    lost_told: u64,
    /// The last write failed; told once.
    is_failing: bool,
}

impl Writer {
    /// Writes what waits. A full disk loses lines, not connections.
    fn write(&mut self) {
        while let Some(line) = self.log.take() {
            match self.file.write_all(line.as_bytes()) {
                Ok(()) => self.is_failing = false,
                Err(_) if self.is_failing => {}
                Err(error) => {
                    self.is_failing = true;
                    warn!("the key log cannot be written: {error}");
                }
            }
        }
        let lost = self.log.lost();
        if lost > self.lost_told {
            warn!("the key log lost {} lines: more handshakes than it can write", lost - self.lost_told);
            self.lost_told = lost;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_private_names_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        drop(open(&path).unwrap());
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        let said = open(&path).unwrap_err().to_string();
        let path = path.display();
        assert_eq!(
            said,
            format!("tls.key_log: others can use {path} (mode 644): chmod 600 {path}, or remove it")
        );
    }
}
