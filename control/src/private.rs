//! Files for this user's eyes alone: what somebody reads there tells of clients, or opens their traffic.
//!
//! A path comes in, an open file goes out, or why it is not to be trusted with that. Control thread, at start, and commands.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The permissions it has to have.
const PRIVATE: u32 = 0o600;

/// Bits of a file's mode that are permissions.
const PERMISSIONS: u32 = 0o7777;

/// Why the file is not used; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// It cannot be opened.
    #[error("{0} cannot be opened for writing ({1}): name a file this user can write, no symbolic link")]
    Unwritable(PathBuf, io::Error),
    /// It is a device, a pipe, a directory.
    #[error("{0} is no regular file: name one, or one that does not exist yet")]
    NoFile(PathBuf),
    /// It is somebody else's.
    #[error("{0} belongs to another user: remove it, or name another file")]
    Foreign(PathBuf),
    /// Others may read or write it.
    #[error("others can use {0} (mode {1:o}): chmod 600 {0}, or remove it")]
    Exposed(PathBuf, u32),
}

/// Opens the file to append to; makes it if there is none.
///
/// # Errors
/// Unless it is a regular file of this user's with mode 600: it is no secret else.
pub fn open(path: &Path) -> Result<File, PrivateError> {
    let unwritable = |error| PrivateError::Unwritable(path.to_owned(), error);
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
        return Err(PrivateError::NoFile(path.to_owned()));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(PrivateError::Foreign(path.to_owned()));
    }
    if mode != PRIVATE {
        return Err(PrivateError::Exposed(path.to_owned(), mode));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
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
            assert!(matches!(open(&path), Err(PrivateError::Exposed(_, found)) if found == mode), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(PRIVATE)).unwrap();
        assert!(open(&path).is_ok());
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(open(&link), Err(PrivateError::Unwritable(..))));
        assert!(matches!(open(folder.path()), Err(PrivateError::Unwritable(..))));
        // A device takes lines and shows them to nobody, but it is not the operator's file either.
        assert!(matches!(
            open(Path::new("/dev/null")),
            Err(PrivateError::NoFile(_) | PrivateError::Unwritable(..))
        ));
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
        assert!(matches!(open(&path), Err(PrivateError::Foreign(_))));
    }
}
