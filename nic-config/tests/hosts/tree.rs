//! Hosts as text, and as the folders that are made of it: the few files of sysfs and procfs a snapshot reads.
//!
//! A host's file has a line for each of them: `PATH = TEXT`, `PATH -> TARGET` for a symbolic link, `PATH/` for a folder, and
//! `PATH <<` for a file of the indented lines that follow. `{0-3}` in a path stands for four of them; `{}` is the number
//! then, behind it and in the text, `{+8}` and `{-8}` that much more or less. `\0` is a NUL.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A host's root folder.
pub struct Tree(tempfile::TempDir);

impl Tree {
    pub fn new() -> Tree {
        Tree(folder())
    }

    /// Makes what `NAME.host` says.
    pub fn of(name: &str) -> Tree {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts").join(format!("{name}.host"));
        let text = fs::read_to_string(file).unwrap();
        let tree = Tree::new();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(path) = line.strip_suffix(" <<") {
                let mut block = String::new();
                while let Some(row) = lines.next_if(|row| row.starts_with("    ")) {
                    block += &row[4..];
                    block.push('\n');
                }
                tree.file(path, &block);
                continue;
            }
            expand(line, |line| tree.line(line));
        }
        tree
    }

    fn line(&self, line: &str) {
        if let Some((path, target)) = line.split_once(" -> ") {
            symlink(target, self.made(path)).unwrap();
        } else if let Some(path) = line.strip_suffix('/') {
            fs::create_dir_all(self.path(path)).unwrap();
        } else {
            let (path, text) = line.split_once(" =").unwrap_or_else(|| panic!("{line}"));
            self.file(path, &(text.trim_start().replace("\\0", "\0") + "\n"));
        }
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub fn file(&self, path: &str, text: &str) {
        fs::write(self.made(path), text).unwrap();
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.path(path)).unwrap();
    }

    /// The path, in a folder that is there.
    fn made(&self, path: &str) -> PathBuf {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}

/// A folder for a test, in memory: they are written, and put on the disk, by the thousand.
pub fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Calls for each number of the line's `{A-B}`, or once without one.
fn expand(line: &str, mut each: impl FnMut(&str)) {
    let range = line.split_once('{').and_then(|(before, rest)| {
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once('-').filter(|(first, _)| !first.is_empty())?;
        Some((before, first.parse::<i32>().ok()?..=last.parse::<i32>().ok()?, after))
    });
    let Some((before, range, after)) = range else { return each(line) };
    for number in range {
        let mut line = format!("{before}{number}{after}").replace("{}", &number.to_string());
        while let Some((before, rest)) = line.split_once('{') {
            let (by, after) = rest.split_once('}').unwrap();
            line = format!("{before}{}{after}", number + by.parse::<i32>().unwrap());
        }
        each(&line);
    }
}
