//! The file of one log: appended to, put aside before it gets too long, opened anew where somebody else has moved it.
//!
//! In: whole lines. Out: how many are in the file, and what was lost. What cannot be written is lost and counted, and tried
//! again with the next lines: nobody waits for a disk. Owned by the thread that writes logs.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::config;

/// Who reads it: its user, and its group. Addresses and paths of clients are nobody else's business.
const MODE: u32 = 0o640;

/// Lines that are to be written together.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) bytes: Vec<u8>,
    /// Where each of them ends.
    pub(super) ends: Vec<usize>,
}

impl Lines {
    /// What was appended to `bytes` is a line.
    pub(super) fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// What became of some lines.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub(super) lines: u64,
    pub(super) lost: u64,
    pub(super) put_aside: u64,
    /// Why some were lost.
    pub(super) error: Option<io::Error>,
}

/// A log's file.
pub(super) struct Output {
    to: config::LogFile,
    file: File,
    bytes: u64,
    /// The last line in it is not whole.
    is_torn: bool,
    /// It was put aside, and there is no new one yet.
    is_aside: bool,
}

impl Output {
    /// Opens the file to append to; makes it if there is none.
    ///
    /// # Errors
    /// It is no regular file, or cannot be written.
    pub(super) fn open(to: &config::LogFile) -> io::Result<Output> {
        let (file, bytes) = open(&to.path)?;
        Ok(Output { to: to.clone(), file, bytes, is_torn: false, is_aside: false })
    }

    pub(super) fn path(&self) -> &Path {
        &self.to.path
    }

    /// Goes on in the file that has its name now; if that cannot be opened, in the one it has.
    ///
    /// # Errors
    /// As [`open`](Output::open).
    pub(super) fn open_anew(&mut self) -> io::Result<()> {
        (self.file, self.bytes) = open(&self.to.path)?;
        (self.is_torn, self.is_aside) = (false, false);
        Ok(())
    }

    /// Writes lines, as many together as the file has room for.
    pub(super) fn write(&mut self, lines: &Lines) -> Written {
        let mut written = Written::default();
        let (mut from, mut first) = (0, 0);
        while first < lines.ends.len() {
            let room = self.to.bytes_max.saturating_sub(self.bytes);
            let fit = lines.ends[first..].partition_point(|end| (end - from) as u64 <= room);
            if fit == 0 && self.bytes > 0 || self.is_aside {
                if let Err(error) = self.put_aside() {
                    written.lost += (lines.ends.len() - first) as u64;
                    written.error = Some(error);
                    break;
                }
                written.put_aside += 1;
                continue;
            }
            // No line is as long as a file may be at least.
            let next = first + fit.max(1);
            let to = lines.ends[next - 1];
            let (done, error) = append(&mut self.file, &lines.bytes[from..to], &mut self.is_torn);
            self.bytes += done as u64;
            let whole = lines.ends[first..next].iter().filter(|end| *end - from <= done).count();
            written.lines += whole as u64;
            written.lost += (next - first - whole) as u64;
            written.error = error.or(written.error);
            (from, first) = (to, next);
        }
        written
    }

    /// Puts the file aside as the first of those that are kept, and begins another one.
    fn put_aside(&mut self) -> io::Result<()> {
        if !self.is_aside {
            let kept = self.to.kept;
            for number in (1..kept).rev() {
                gone_is_fine(fs::rename(
                    numbered(&self.to.path, number),
                    numbered(&self.to.path, number + 1),
                ))?;
            }
            match kept {
                0 => gone_is_fine(fs::remove_file(&self.to.path))?,
                _ => gone_is_fine(fs::rename(&self.to.path, numbered(&self.to.path, 1)))?,
            }
            self.is_aside = true;
        }
        self.open_anew()
    }
}

/// Somebody else moves and removes them, too.
fn gone_is_fine(outcome: io::Result<()>) -> io::Result<()> {
    match outcome {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// `access.log` becomes `access.log.1`.
fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    // NONBLOCK: opening a pipe would wait for its reader.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    let file =
        OpenOptions::new().append(true).create(true).mode(MODE).custom_flags(flags as i32).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok((file, found.len()))
}

/// Appends as much as can be. Answers how much of `bytes` that is, and what went wrong. A line that was torn before is ended
/// first, so that it takes no other with it.
fn append(file: &mut impl Write, bytes: &[u8], is_torn: &mut bool) -> (usize, Option<io::Error>) {
    if *is_torn {
        match file.write_all(b"\n") {
            Ok(()) => *is_torn = false,
            Err(error) => return (0, Some(error)),
        }
    }
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                *is_torn = done > 0 && bytes[done - 1] != b'\n';
                return (done, Some(error));
            }
        }
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(of: &[&str]) -> Lines {
        let mut lines = Lines::default();
        for line in of {
            lines.bytes.extend_from_slice(line.as_bytes());
            lines.bytes.push(b'\n');
            lines.end();
        }
        lines
    }

    fn output(folder: &Path, bytes_max: u64, kept: u32) -> Output {
        Output::open(&config::LogFile { path: folder.join("log"), bytes_max, kept }).unwrap()
    }

    #[test]
    fn a_file_that_is_full_is_put_aside_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = output(folder.path(), 10, 2);
        let written = output.write(&lines(&["aaaa", "bbbb", "cccc", "dddd", "eeee", "ffff", "gggg"]));
        assert_eq!((written.lines, written.lost, written.put_aside), (7, 0, 3));
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        assert_eq!(
            [read("log"), read("log.1"), read("log.2"), read("log.3")].concat(),
            "gggg\neeee\nffff\ncccc\ndddd\n"
        );
        assert_eq!(read("log.3"), "");
        // What is there is counted after a restart.
        let mut again = self::output(folder.path(), 10, 2);
        again.write(&lines(&["hhhh", "iiii"]));
        assert_eq!([read("log"), read("log.1")], ["iiii\n", "gggg\nhhhh\n"]);
    }

    #[test]
    fn none_need_be_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = output(folder.path(), 10, 0);
        output.write(&lines(&["aaaa", "bbbb", "cccc"]));
        assert_eq!(fs::read_to_string(folder.path().join("log")).unwrap(), "cccc\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_was_moved_is_written_until_it_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = output(folder.path(), 1000, 2);
        output.write(&lines(&["before"]));
        fs::rename(folder.path().join("log"), folder.path().join("moved")).unwrap();
        output.write(&lines(&["between"]));
        output.open_anew().unwrap();
        output.write(&lines(&["after"]));
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!([read("moved"), read("log")], ["before\nbetween\n", "after\n"]);
    }

    #[test]
    fn what_cannot_be_put_aside_is_lost_and_counted_and_goes_on_when_it_can() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = output(folder.path(), 10, 1);
        // A folder that is not empty is in its way.
        fs::create_dir_all(folder.path().join("log.1/x")).unwrap();
        let written = output.write(&lines(&["aaaa", "bbbb", "cccc", "dddd"]));
        assert_eq!((written.lines, written.lost), (2, 2));
        assert!(written.error.is_some());
        fs::remove_dir_all(folder.path().join("log.1")).unwrap();
        let written = output.write(&lines(&["eeee"]));
        assert_eq!((written.lines, written.lost, written.put_aside), (1, 0, 1));
        assert_eq!(fs::read_to_string(folder.path().join("log")).unwrap(), "eeee\n");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let at =
            |path: &Path| Output::open(&config::LogFile { path: path.to_owned(), bytes_max: 10, kept: 1 });
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("log"), &link).unwrap();
        for path in [folder.path(), Path::new("/dev/null"), link.as_path()] {
            assert!(at(path).is_err(), "{}", path.display());
        }
    }

    /// A disk with so much room.
    struct Disk {
        room: usize,
        bytes: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.bytes.len()).min(3);
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.bytes.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_torn_by_a_full_disk_takes_no_other_with_it() {
        let mut disk = Disk { room: 8, bytes: Vec::new() };
        let mut is_torn = false;
        let (done, error) = append(&mut disk, b"aaaa\nbbbb\n", &mut is_torn);
        assert_eq!(
            (done, is_torn, error.map(|error| error.kind())),
            (8, true, Some(io::ErrorKind::StorageFull))
        );
        assert_eq!(append(&mut disk, b"cccc\n", &mut is_torn).0, 0);
        disk.room = 100;
        assert_eq!(append(&mut disk, b"dddd\n", &mut is_torn).0, 5);
        assert_eq!((disk.bytes.as_slice(), is_torn), (&b"aaaa\nbbb\ndddd\n"[..], false));
    }
}
