//! Unix sockets a node listens on: its admin socket, and the one its peers reach it at.
//!
//! A path comes in, a bound listener goes out; a socket left behind by a node that is gone is replaced, one of a
//! living node is not. Control thread, at start.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why a socket cannot be listened on; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Something answers there.
    #[error("{0} is in use by another process: stop it, or write another path")]
    InUse(PathBuf),
    /// Something else is there.
    #[error("{0} exists and is no socket: remove it, or write another path")]
    Occupied(PathBuf),
    /// The system refused.
    #[error("{0} cannot be listened on ({1}): check that its folder exists and this user may write there")]
    System(PathBuf, io::Error),
}

/// Listens on `path`, which only this user and root may connect to. The folder is made if only it is missing:
/// `/run` is empty after each boot.
pub fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    let system = |error| SocketError::System(path.to_owned(), error);
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        DirBuilder::new().mode(0o755).create(folder).map_err(system)?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => SocketError::InUse(path.to_owned()),
        _ => system(error),
    })?;
    fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(system)?;
    Ok(listener)
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    match fs::symlink_metadata(path) {
        Err(_) => return Ok(()),
        Ok(data) if !data.file_type().is_socket() => return Err(SocketError::Occupied(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        // Nobody holds the other end: its process is gone.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| SocketError::System(path.to_owned(), error))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(SocketError::InUse(path.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_what_a_dead_node_left_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/a.ctl");
        let listener = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = |path: &Path| listen(path).unwrap_err().to_string();
        let in_use = refused(&path);
        assert!(
            in_use.ends_with("a.ctl is in use by another process: stop it, or write another path"),
            "{in_use}"
        );
        drop(listener);
        let _again = listen(&path).unwrap();

        let file = folder.path().join("file");
        fs::write(&file, "kept").unwrap();
        let occupied = refused(&file);
        assert!(
            occupied.ends_with(" exists and is no socket: remove it, or write another path"),
            "{occupied}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        let nowhere = refused(&folder.path().join("no/such/folder"));
        assert!(
            nowhere.contains(" cannot be listened on (")
                && nowhere.contains("): check that its folder exists"),
            "{nowhere}"
        );
    }
}
