//! Folders of files that targets read. In: what makes one. Out: its path. Every process of this machine shares them, and
//! they are left for the next.

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of that name among temporary files. It is made under another name and renamed when it is whole, so that
/// nobody sees a part of it, and never changed again: what `make` makes belongs to its name.
pub(crate) fn made_once(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let folder = std::env::temp_dir().join(name);
    if !folder.exists() {
        let fresh = std::env::temp_dir().join(format!("{name}.{}", std::process::id()));
        let _ = fs::remove_dir_all(&fresh);
        fs::create_dir(&fresh).expect("the folder for temporary files is writable");
        make(&fresh);
        // Another process may have been first.
        if fs::rename(&fresh, &folder).is_err() {
            let _ = fs::remove_dir_all(&fresh);
        }
    }
    folder
}
