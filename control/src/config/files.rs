//! Files the configuration names that hold certificates and keys: read here, by check and by start alike.
//!
//! Key bytes leave in types that zeroize; no error carries them.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Largest file read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Permission of everybody to read.
const OTHERS_READ: u32 = 0o004;

/// Why a file cannot be used; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{0} cannot be read ({1}): create it, or let this user read it")]
    Unreadable(PathBuf, io::Error),
    /// It is larger than any such file is.
    #[error("{0} is larger than {FILE_BYTES_MAX} bytes: name the right file")]
    Large(PathBuf),
    /// It holds no certificate in PEM.
    #[error("{0} holds no certificate: it must be PEM with BEGIN CERTIFICATE, leaf first")]
    NoCertificate(PathBuf),
    /// It holds no private key in PEM.
    #[error("{0} holds no private key: it must be PEM with BEGIN PRIVATE KEY, not encrypted")]
    NoKey(PathBuf),
    /// It holds no password.
    #[error("{0} holds no password: it must be one line of text")]
    NoPassword(PathBuf),
    /// Everybody can read it.
    #[error("{0} can be read by everybody on this machine: chmod 600 {0}")]
    Exposed(PathBuf),
}

impl FileError {
    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            FileError::Unreadable(path, _)
            | FileError::Large(path)
            | FileError::NoCertificate(path)
            | FileError::NoKey(path)
            | FileError::NoPassword(path)
            | FileError::Exposed(path) => path,
        }
    }
}

/// A certificate chain in PEM.
pub fn certificate_chain(path: &Path) -> Result<Vec<u8>, FileError> {
    let text = read(path)?;
    let mut any = false;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        certificate.map_err(|_| FileError::NoCertificate(path.to_owned()))?;
        any = true;
    }
    // Certificates are public: the zeroizing copy ends here.
    if any { Ok(text.to_vec()) } else { Err(FileError::NoCertificate(path.to_owned())) }
}

/// A private key in PEM.
pub fn private_key(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let text = read(path)?;
    match PrivateKeyDer::from_pem_slice(&text) {
        Ok(mut key) => zeroize::Zeroize::zeroize(&mut key),
        Err(_) => return Err(FileError::NoKey(path.to_owned())),
    }
    Ok(text)
}

/// The password in a file that nobody else may read: its one line.
pub fn password(path: &Path) -> Result<Zeroizing<String>, FileError> {
    let text = read(path)?;
    if is_exposed(path) {
        return Err(FileError::Exposed(path.to_owned()));
    }
    let line = str::from_utf8(&text).ok().map(str::trim_end).filter(|line| !line.is_empty());
    let line = line.filter(|line| !line.contains(['\n', '\0']));
    line.map(|line| Zeroizing::new(line.to_owned())).ok_or_else(|| FileError::NoPassword(path.to_owned()))
}

/// Whether a file can be read, whatever is in it.
pub fn read_any(path: &Path) -> Result<(), FileError> {
    read(path).map(drop)
}

/// Whether everybody on this machine can read a file.
pub fn is_exposed(path: &Path) -> bool {
    path.metadata().is_ok_and(|data| data.mode() & OTHERS_READ != 0)
}

/// A file's bytes. The buffer is as large as the file from the start: one that grew would leave
/// copies of a key behind.
fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    let unreadable = |error| FileError::Unreadable(path.to_owned(), error);
    let file = File::open(path).map_err(unreadable)?;
    let data = file.metadata().map_err(unreadable)?;
    if !data.is_file() {
        return Err(unreadable(io::Error::other("not a file")));
    }
    if data.len() > FILE_BYTES_MAX {
        return Err(FileError::Large(path.to_owned()));
    }
    let mut bytes = Zeroizing::new(vec![0; data.len() as usize]);
    (&file).read_exact(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn each_file_that_is_of_no_use_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let with = |name: &str, bytes: &[u8], mode: u32| {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        let damaged = b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
        let large = vec![b' '; FILE_BYTES_MAX as usize + 1];
        let chain = |path: &Path| certificate_chain(path).err();
        let key = |path: &Path| private_key(path).err();
        let password = |path: &Path| password(path).err();
        type Refusal<'a> = &'a dyn Fn(&Path) -> Option<FileError>;
        let cases: [(Refusal<'_>, PathBuf, &str); 12] = [
            (&chain, folder.path().join("none"), "cannot be read (No such file or directory"),
            (
                &key,
                folder.path().to_owned(),
                "cannot be read (not a file): create it, or let this user read it",
            ),
            (&chain, with("large", &large, 0o600), "is larger than 1048576 bytes: name the right file"),
            (&chain, with("empty", b"", 0o600), "holds no certificate: it must be PEM"),
            (&chain, with("damaged", damaged, 0o600), "holds no certificate: it must be PEM"),
            (&key, with("key", b"", 0o600), "holds no private key: it must be PEM"),
            (
                &password,
                with("open", b"secret\n", 0o604),
                "can be read by everybody on this machine: chmod 600",
            ),
            (&password, with("blank", b" \n", 0o600), "holds no password: it must be one line of text"),
            (&password, with("two", b"one\ntwo\n", 0o600), "holds no password"),
            (&password, with("nul", b"a\0b\n", 0o600), "holds no password"),
            (&password, with("binary", b"\xff\n", 0o600), "holds no password"),
            (&password, folder.path().join("none"), "cannot be read"),
        ];
        for (refusal, path, sentence) in cases {
            let error = refusal(&path).unwrap_or_else(|| panic!("{} is taken", path.display()));
            assert_eq!(error.path(), path);
            assert!(error.to_string().starts_with(&format!("{} {sentence}", path.display())), "{error}");
        }
    }
}
