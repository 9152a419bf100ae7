//! The seam between changes and the kernel: [`Live`] is the machine itself; tests have one that behaves like a kernel and
//! stops where they say.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::host::link_name;

/// A machine whose settings can be changed. Paths are relative to its root folder.
pub trait System {
    /// The text of a file.
    ///
    /// # Errors
    /// As of the file system.
    fn read(&self, path: &str) -> io::Result<String>;

    /// Writes a setting of the kernel's, in one write.
    ///
    /// # Errors
    /// There is no such setting, or the kernel refuses.
    fn write(&mut self, path: &str, value: &str) -> io::Result<()>;

    /// Makes or replaces a file, whole or not at all.
    ///
    /// # Errors
    /// As of the file system.
    fn create(&mut self, path: &str, text: &str) -> io::Result<()>;

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// As of the file system.
    fn remove(&mut self, path: &str) -> io::Result<()>;

    /// Loads a module.
    ///
    /// # Errors
    /// What modprobe says.
    fn load(&mut self, module: &str) -> io::Result<()>;

    /// Takes a module out.
    ///
    /// # Errors
    /// What modprobe says.
    fn unload(&mut self, module: &str) -> io::Result<()>;

    /// Whether a module is loaded, or built in.
    fn is_loaded(&self, module: &str) -> bool;

    /// The driver of a PCI function.
    fn driver(&self, address: &str) -> Option<String>;
}

/// A machine as it is below a root folder.
#[derive(Debug)]
pub struct Live {
    root: PathBuf,
}

impl Live {
    /// The machine below `root`: `/`.
    pub fn new(root: &Path) -> Live {
        Live { root: root.to_owned() }
    }
}

impl System for Live {
    fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.root.join(path))
    }

    fn write(&mut self, path: &str, value: &str) -> io::Result<()> {
        // Never made where it is missing: that would be no setting.
        fs::OpenOptions::new().write(true).open(self.root.join(path))?.write_all(value.as_bytes())
    }

    fn create(&mut self, path: &str, text: &str) -> io::Result<()> {
        replace(&self.root.join(path), text)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        match fs::remove_file(self.root.join(path)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn load(&mut self, module: &str) -> io::Result<()> {
        modprobe(&[module])
    }

    fn unload(&mut self, module: &str) -> io::Result<()> {
        modprobe(&["--remove", module])
    }

    fn is_loaded(&self, module: &str) -> bool {
        self.root.join("sys/module").join(module.replace('-', "_")).exists()
    }

    fn driver(&self, address: &str) -> Option<String> {
        link_name(&self.root.join("sys/bus/pci/devices").join(address).join("driver"))
    }
}

fn modprobe(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("modprobe").args(arguments).output()?;
    match output.status.success() {
        true => Ok(()),
        false => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Writes a file beside, puts it on the disk, and gives it its name, so that a crash leaves the old one or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let beside = path.with_extension("new");
    let mut file = fs::File::create(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    fs::File::open(folder)?.sync_all()
}
