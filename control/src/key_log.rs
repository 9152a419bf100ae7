//! Writes the key log: secrets of connections, into a file of this user's alone.
//!
//! In: lines from the workers over a bounded queue. Out: the file `[tls] key_log` names. Owns a thread of its own, so that
//! a slow disk delays nobody; workers never wait for it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context;
use keyferry_tls::key_log::KeyLog;
use tracing::warn;

/// Between looks at the queue.
const LOOK: Duration = Duration::from_millis(20);

/// The permissions it has to have.
const PRIVATE: u32 = 0o600;

/// Bits of a file's mode that are permissions.
const PERMISSIONS: u32 = 0o7777;

/// Why the file is not used; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum KeyLogError {
    /// It cannot be opened.
    #[error(
        "tls.key_log: {0} cannot be opened for writing ({1}): name a file this user can write, no symbolic link"
    )]
    Unwritable(PathBuf, io::Error),
    /// It is a device, a pipe, a directory.
    #[error("tls.key_log: {0} is no regular file: name one, or one that does not exist yet")]
    NoFile(PathBuf),
    /// It is somebody else's.
    #[error("tls.key_log: {0} belongs to another user: remove it, or name another file")]
    Foreign(PathBuf),
    /// Others may read or write it.
    #[error("tls.key_log: others can use {0} (mode {1:o}): chmod 600 {0}, or remove it")]
    Exposed(PathBuf, u32),
}

/// Opens the file to append to; makes it if there is none.
///
/// # Errors
/// Unless it is a regular file of this user's with mode 600: whoever reads it reads all traffic.
pub fn open(path: &Path) -> Result<File, KeyLogError> {
    let unwritable = |error| KeyLogError::Unwritable(path.to_owned(), error);
    // NONBLOCK: opening a pipe would wait for its reader.
    let flags =
        (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC).bits();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(PRIVATE)
        .custom_flags(flags as i32)
        .open(path)
        .map_err(unwritable)?;
    // Of the open file, not of the path: nobody can put another one there in between.
    let found = file.metadata().map_err(unwritable)?;
    let mode = found.mode() & PERMISSIONS;
    if !found.is_file() {
        return Err(KeyLogError::NoFile(path.to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeyLogError::Foreign(path.to_owned()));
    }
    if mode != PRIVATE {
        return Err(KeyLogError::Exposed(path.to_owned(), mode));
    }
    Ok(file)
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
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_made_private_and_appended_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        for _ in 0..2 {
            open(&path).unwrap().write_all(b"x\n").unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), b"x\nx\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & PERMISSIONS, PRIVATE);
    }

    #[test]
    fn files_others_can_use_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        fs::write(&path, "").unwrap();
        for mode in [0o640, 0o604, 0o660, 0o700, 0o4600] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(open(&path), Err(KeyLogError::Exposed(_, found)) if found == mode), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(PRIVATE)).unwrap();
        assert!(open(&path).is_ok());
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(open(&link), Err(KeyLogError::Unwritable(..))));
        assert!(matches!(open(folder.path()), Err(KeyLogError::Unwritable(..))));
        // A device takes lines and shows them to nobody, but it is not the operator's file either.
        assert!(matches!(open(Path::new("/dev/null")), Err(KeyLogError::NoFile(_))));
    }

    #[test]
    fn another_users_file_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        open(&path).unwrap();
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        assert!(matches!(open(&path), Err(KeyLogError::Foreign(_))));
    }
}
